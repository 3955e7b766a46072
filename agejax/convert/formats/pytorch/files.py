"""The containers of torch.save: a zip archive of a pickle and storages; before that, pickles with storages behind."""

import dataclasses
import io
import mmap
import struct
import sys
import zipfile
import zlib
from typing import BinaryIO

import numpy as np

from agejax.convert.formats.pytorch.harmless import CALLS
from agejax.convert.formats.pytorch.storages import Storage, storage_dtype
from agejax.convert.formats.pytorch.unpickler import BROKEN, Global, load
from agejax.convert.words import shown
from data_pipelines.errors import DataError

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # the first two pickles of the older format
TAR = slice(257, 262)  # where the oldest format, a tar archive, has the word ustar
ENCRYPTED = 1  # a bit of a zip member's flags
COUNT = struct.Struct("<q")
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of name and of extra field


@dataclasses.dataclass(frozen=True)
class Content:
    """What a file holds, before anybody has looked for weights in it."""

    format: str
    root: object
    notes: tuple[str, ...] = ()


def read_content(file: BinaryIO) -> Content:
    """Raises DataError and what unpickler.load raises; an empty file is a ValueError."""
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if data[:4] == b"PK\x03\x04":
        return _Archive(file, data).content()
    if data[TAR] == b"ustar":
        raise DataError("is of PyTorch's oldest format, a tar archive: load and save it again with PyTorch")
    return _Legacy(data).content()


class _Storages(dict[str, Storage]):
    """By key."""

    def of(self, kind: object, name: object, count: object) -> Storage:
        if not isinstance(name, str) or type(count) is not int or count < 0:
            raise DataError("is damaged: a storage has an impossible key or size")
        storage = self.setdefault(name, Storage(storage_dtype(kind), count))
        if (storage.dtype, storage.count) != (storage_dtype(kind), count):
            raise DataError(f"is damaged: storage {shown(name)} has two types or sizes")
        return storage


class _Archive:
    """A zip archive whose members are stored as they are; `<any name>/data.pkl` and `<any name>/data/<key>` in it."""

    def __init__(self, file: BinaryIO, data: mmap.mmap):
        self.data, self.storages, self.unread = data, _Storages(), len(data)
        with zipfile.ZipFile(file) as archive:
            self.members = {member.filename: member for member in archive.infolist()}
            if len(self.members) < len(archive.infolist()):
                raise DataError("is damaged: two members of the archive have one name")
        self.folder = self._folder()

    def _folder(self) -> str:
        pickles = [name for name in self.members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise DataError("is a zip archive, but not of torch.save: it has no data.pkl")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}constants.pkl" in self.members:
            raise DataError("is a TorchScript archive: load it with PyTorch and save the network's state_dict()")
        return folder

    def content(self) -> Content:
        order = bytes(self._member("byteorder")).decode() if f"{self.folder}byteorder" in self.members else "little"
        if order not in ("little", "big"):
            raise DataError(f"is damaged: its byte order is {shown(order)}")
        self.swapped = order != sys.byteorder
        root = load(io.BytesIO(bytes(self._member("data.pkl"))), CALLS, self._storage)
        return Content("pytorch zip", root, ("its numbers are big-endian",) if order == "big" else ())

    def _storage(self, words: object) -> Storage:
        """Of a persistent id: ("storage", its class, key, device, count)."""
        if not isinstance(words, tuple) or len(words) != 5 or words[0] != "storage":
            raise DataError("is damaged: a storage is not described as torch.save does it")
        storage = self.storages.of(words[1], words[2], words[4])
        if storage.data is None:
            storage.data, storage.swapped = self._member(f"data/{words[2]}"), self.swapped
            if len(storage.data) != storage.count * storage.dtype.itemsize:
                raise DataError(f"is damaged: storage {shown(words[2])} has another size than its tensors say")
        return storage

    def _member(self, name: str) -> np.ndarray:
        """Its bytes, uint8, a view of the file; checked against the checksum, which is 0 where PyTorch left it out."""
        member = self.members.get(self.folder + name)
        if member is None:
            raise DataError(f"is damaged: {shown(self.folder + name)} is missing in the archive")
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise DataError(f"has compressed members ({shown(name)}): torch.save writes none")
        if member.flag_bits & ENCRYPTED:
            raise DataError(f"has encrypted members ({shown(name)}): torch.save writes none")
        signature, name_length, extra_length = LOCAL_HEADER.unpack_from(self.data, member.header_offset)
        start = member.header_offset + LOCAL_HEADER.size + name_length + extra_length
        self.unread -= member.file_size
        if signature != b"PK\x03\x04" or start + member.file_size > len(self.data) or self.unread < 0:
            raise DataError(f"is damaged: {shown(name)} does not stand where the archive says")
        found = np.frombuffer(self.data, np.uint8, member.file_size, start)
        if member.CRC and zlib.crc32(found) != member.CRC:
            raise DataError(f"is damaged: {shown(name)} differs from its checksum")
        return found


class _Legacy:
    """Pickles one after another (magic number, version, system, object, keys), then each storage: a count, the numbers.

    The numbers are little-endian whatever the machine: so torch writes them here.
    """

    def __init__(self, data: mmap.mmap):
        self.data, self.storages = data, _Storages()

    def content(self) -> Content:
        self._check_magic()
        system, root = (load(self.data, CALLS, self._named) for _ in range(2))
        for key in load(self.data, CALLS, self._named):
            self._fill(self.storages[key])
        if any(storage.data is None for storage in self.storages.values()):
            raise DataError("is damaged: it names numbers that it does not hold")
        big = isinstance(system, dict) and system.get("little_endian") is False
        notes = ("saved on a big-endian machine: the numbers of this format are little-endian there too",)
        return Content("pytorch legacy pickle", root, notes if big else ())

    def _check_magic(self) -> None:
        start = self.data[:20]
        try:
            magic = load(self.data, CALLS, self._named)
        except DataError:
            raise
        except BROKEN:
            magic = None
        if magic != MAGIC:
            raise DataError(f"is not a file of torch.save, or was cut short: it starts with {start}")
        if load(self.data, CALLS, self._named) != PROTOCOL:
            raise DataError("is of a version of torch.save's older format that is not known")

    def _named(self, words: object) -> object:
        """Of a persistent id: a network's class and source; or a storage as in an archive, and what part of it."""
        if isinstance(words, tuple) and len(words) == 4 and words[0] == "module" and isinstance(words[1], Global):
            return words[1]
        if not isinstance(words, tuple) or len(words) != 6 or words[0] != "storage":
            raise DataError("is damaged: a storage is not described as torch.save does it")
        storage = self.storages.of(words[1], words[2], words[4])
        return storage if words[5] is None else storage.part(*words[5][1:])

    def _fill(self, storage: Storage) -> None:
        (count,) = COUNT.unpack(self.data.read(COUNT.size))
        if count != storage.count or storage.data is not None:
            raise DataError("is damaged: a storage has another size than its tensors say")
        start, size = self.data.tell(), count * storage.dtype.itemsize
        if size > len(self.data) - start:
            raise DataError("is cut short: it ends inside the numbers of a tensor")
        storage.data, storage.swapped = np.frombuffer(self.data, np.uint8, size, start), sys.byteorder == "big"
        self.data.seek(start + size)
