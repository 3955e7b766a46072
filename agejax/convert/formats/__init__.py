"""Which reader a file is for, told from its first bytes."""

from collections.abc import Callable
from pathlib import Path

from agejax.convert.formats.caffe import read_caffemodel
from agejax.convert.formats.pytorch import read_pickle
from agejax.convert.formats.safetensors_file import read_safetensors
from agejax.convert.formats.torch7 import read_t7
from agejax.convert.source import Source
from data_pipelines.errors import DataError, UserError

HEAD = 512  # bytes that are looked at; a tar archive says so at 257

# (whether the first bytes are such a file's, its reader); the first that fits
FORMATS: tuple[tuple[Callable[[bytes], bool], Callable[[Path], Source]], ...] = (
    (lambda head: head[:4] == b"PK\x03\x04", read_pickle),  # torch.save since 1.6
    (lambda head: head[:1] == b"\x80" and head[1:2] <= b"\x05", read_pickle),  # torch.save before
    (lambda head: head[257:262] == b"ustar", read_pickle),  # before 0.1.10
    (lambda head: head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32, read_safetensors),
    (lambda head: head[:4] in (b"\3\0\0\0", b"\4\0\0\0"), read_t7),  # a table or an object
    (lambda head: head[:2] in (b"3\n", b"4\n"), read_t7),  # the same in words
    (lambda head: head[:1] in (b"\x0a", b"\x12", b"\x1a", b"\x20") or head[:2] == b"\xa2\x06", read_caffemodel),
)


def read_file(path: Path) -> Source:
    """The file's arrays. Raises UserError where it is missing or of no known format, DataError where it is broken."""
    if not path.is_file():
        raise UserError(f"{path} is not a file: give a .pth, .safetensors, .caffemodel or .t7 file")
    with path.open("rb") as file:
        head = file.read(HEAD)
    for fits, read in FORMATS:
        if fits(head):
            return read(path)
    raise DataError(f"{path} is neither a .pth, .safetensors, .caffemodel nor .t7 file: it begins with {head[:8]!r}")
