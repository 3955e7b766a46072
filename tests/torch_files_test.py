"""Broken files of torch.save, and files of something else: one line, whatever they claim."""

import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pickled import BOTH, Call, Name, Persistent, TorchFile, refused, rewritten, small_network, write

from agejax.convert.formats.pytorch import read_pickle
from data_pipelines.errors import UserError


def small_file(tmp_path: Path, legacy: bool) -> Path:
    file = TorchFile(legacy)
    return file.save(tmp_path / f"{'legacy' if legacy else 'zip'}.pt", small_network(file)[0])


@BOTH
def test_cut_anywhere(tmp_path, legacy):
    path = small_file(tmp_path, legacy)
    data, cut = path.read_bytes(), tmp_path / "cut.pt"
    cuts = np.random.default_rng(0).integers(0, len(data), 200)
    start = time.monotonic()
    for size in {*cuts.tolist(), *range(40), *range(len(data) - 40, len(data))}:
        cut.write_bytes(data[:size])
        refused(cut)
    assert time.monotonic() - start < 30


@BOTH
def test_bits_that_fell_over(tmp_path, legacy):
    """One line, or the same names; in the older format, which has no checksums, a name itself may be hit."""
    path = small_file(tmp_path, legacy)
    names, data, rng = list(read_pickle(path).tensors), path.read_bytes(), np.random.default_rng(1)
    start, read = time.monotonic(), 0
    for _ in range(200):
        hurt = bytearray(data)
        hurt[rng.integers(len(data))] ^= 1 << rng.integers(8)
        (broken := tmp_path / "broken.pt").write_bytes(hurt)
        try:
            found = read_pickle(broken).tensors
        except UserError as error:
            assert str(error).isprintable() and len(str(error)) < 1000
        else:
            read += 1
            assert list(found) == names or legacy
            assert all(len(array.tobytes()) == array.nbytes for array in found.values())
    assert 0 < read < 200 and time.monotonic() - start < 30


@BOTH
@pytest.mark.parametrize(
    ("offset", "shape", "strides", "told"),
    [
        (0, (5,), (1,), "reaches to number 5 of a storage of 4"),
        (4, (1,), (1,), "reaches to number 5 of a storage of 4"),
        (1, (2, 2), (2, 1), "reaches to number 5 of a storage of 4"),
        (0, (2, 2), (2, 2), "reaches to number 5 of a storage of 4"),
        (0, (2,), (2**62,), "reaches to number"),
        (0, (2**40, 2**40), (1, 1), "reaches to number"),
        (-1, (1,), (1,), "impossible shape, offset or stride"),
        (0, (-1,), (1,), "impossible shape, offset or stride"),
        (3, (2,), (-1,), "impossible shape, offset or stride"),
        (0, (2**64,), (0,), "impossible shape, offset or stride"),
        (0, (1.0,), (1,), "impossible shape, offset or stride"),
        (True, (1,), (1,), "impossible shape, offset or stride"),
        (0, ("1",), (1,), "impossible shape, offset or stride"),
        (0, (1, 1), (1,), "2 axes and 1 strides"),
        (0, (1,) * 33, (1,) * 33, "33 axes"),
        (0, (2**21,), (0,), "2097152 elements that shows 4 numbers again and again"),
        (0, [1], (1,), "without storage, shape or strides"),
        (0, (1,), [1], "without storage, shape or strides"),
    ],
    ids=range(18),
)
def test_views_outside_their_storage(tmp_path, legacy, offset, shape, strides, told):
    file = TorchFile(legacy)
    storage = file.storage(np.zeros(4, np.float32))
    behind = file.tensor(np.ones(4, np.float32))
    path = file.save(tmp_path / "a.pth", {"weight": file.view(storage, offset, shape, strides), "behind": behind})
    assert told in refused(path)


@BOTH
@pytest.mark.parametrize("count", [3, 5, 2**50, 2**70, -1, 4.0, "4", True])
def test_claims_of_size_are_checked_before_memory_is_asked_for(tmp_path, legacy, count):
    file = TorchFile(legacy)
    storage = file.storage(np.zeros(4, np.float32), count)
    path = file.save(tmp_path / "a.pth", {"weight": file.view(storage, 0, (1,), (1,))})
    tracemalloc.start()
    told = refused(path)
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()
    assert "another size" in told or "impossible key or size" in told


def test_claims_inside_a_legacy_file(tmp_path):
    file = TorchFile(legacy=True)
    path = file.save(tmp_path / "a.pth", {"weight": file.tensor(np.zeros(4, np.float32))})
    data = path.read_bytes()
    for count in (3, 5, 2**40, -1, -(2**63)):
        path.write_bytes(data[:-24] + struct.pack("<q", count) + data[-16:])
        assert "another size" in refused(path)
    path.write_bytes(data[:-1])
    assert refused(path) == "is cut short: it ends inside the numbers of a tensor"
    path.write_bytes(data[: -len(write(["0"])) - 24] + write([]))
    assert refused(path) == "is damaged: it names numbers that it does not hold"
    bytes_ = TorchFile(legacy=True)
    storage = bytes_.storage(np.zeros(4, np.uint8), -1)
    minus = bytes_.save(tmp_path / "b.pth", {"weight": bytes_.view(storage, 0, (1,), (1,))})
    minus.write_bytes(minus.read_bytes()[:-12] + struct.pack("<q", -1) + bytes(4))
    assert refused(minus) == "is damaged: a storage has an impossible key or size"
    path.write_bytes(data[: -len(write(["0"])) - 24] + write(["0", "0"]) + 2 * data[-24:])
    assert "another size" in refused(path)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("storage", Name("torch QInt8Storage"), "0", "cpu", 4), "numbers of an unknown type: torch.QInt8Storage"),
        (("storage", Name("os FloatStorage"), "0", "cpu", 4), "numbers of an unknown type: os.FloatStorage"),
        (("storage", "torch.FloatStorage", "0", "cpu", 4), "numbers of an unknown type: str"),
        (("storage", Name("torch FloatStorage"), "1", "cpu", 4), "archive/data/1 is missing"),
        (("storage", Name("torch FloatStorage"), "../data.pkl", "cpu", 4), "archive/data/../data.pkl is missing"),
        (("storage", Name("torch FloatStorage"), 0, "cpu", 4), "impossible key or size"),
        (("storage", Name("torch FloatStorage"), "0", "cpu"), "not described as torch.save does it"),
        (("memory", Name("torch FloatStorage"), "0", "cpu", 4), "not described as torch.save does it"),
        (("module", Name("torch FloatStorage"), "0", "cpu"), "not described as torch.save does it"),
        ("0", "not described as torch.save does it"),
    ],
)
def test_storages_that_are_none(tmp_path, words, told):
    file = TorchFile()
    file.storage(np.zeros(4, np.float32))
    path = file.save(tmp_path / "a.pth", {"weight": file.view(Persistent(words), 0, (1,), (1,))})
    assert told in refused(path)


@pytest.mark.parametrize("words", [("storage", 3), ("memory", Name("torch FloatStorage"), "0", "cpu", 4, None), "0"])
def test_storages_that_are_none_in_older_files(tmp_path, words):
    file = TorchFile(legacy=True)
    file.storage(np.zeros(4, np.float32))
    path = file.save(tmp_path / "a.pth", {"weight": file.view(Persistent(words), 0, (1,), (1,))})
    assert refused(path) == "is damaged: a storage is not described as torch.save does it"


def test_dtypes_that_are_none(tmp_path):
    file = TorchFile()
    tensor = file.tensor(np.zeros(4, np.float32))
    root = Call("torch._utils _rebuild_tensor_v3", (*tensor.args, Name("torch qint8")))
    assert refused(file.save(tmp_path / "a.pth", {"a": root})) == "has numbers of an unknown type: qint8"


@BOTH
def test_one_storage_of_two_types(tmp_path, legacy):
    file = TorchFile(legacy)
    storage = file.storage(np.zeros(4, np.float32))
    other = Persistent((storage.id[0], Name("torch IntStorage"), *storage.id[2:]))
    root = {"a": file.view(storage, 0, (1,), (1,)), "b": file.view(other, 0, (1,), (1,))}
    assert refused(file.save(tmp_path / "a.pth", root)) == "is damaged: storage 0 has two types or sizes"


def test_parts_of_storages_outside_them(tmp_path):
    file = TorchFile(legacy=True)
    storage = file.storage(np.zeros(4, np.float32))
    for start, count in ((0, 5), (4, 1), (-1, 2), (1, -1), (0.0, 1)):
        part = Persistent((*storage.id[:5], ("1", start, count)))
        path = file.save(tmp_path / "a.pth", {"weight": file.view(part, 0, (1,), (1,))})
        assert refused(path) == "is damaged: a part of a storage lies outside it"


def test_tensors_with_marks(tmp_path):
    file = TorchFile()
    tensor = file.tensor(np.zeros(2))
    negative = Call(tensor.name, (*tensor.args, {"neg": True}))
    assert "marks (neg)" in refused(file.save(tmp_path / "a.pth", {"weight": negative}))


# --- archives ---


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"archive/data.pkl": None}, "is a zip archive, but not of torch.save"),
        ({"archive/data/1": None}, "archive/data/1 is missing in the archive"),
        ({"archive/data/1": b""}, "storage 1 has another size"),
        ({"archive/byteorder": b"middle"}, "its byte order is middle"),
        ({"archive/constants.pkl": b""}, "is a TorchScript archive"),
        ({"other/data.pkl": b""}, "is a zip archive, but not of torch.save"),
    ],
)
def test_archives_of_something_else(tmp_path, members, told):
    path = rewritten(small_file(tmp_path, legacy=False), tmp_path / "b.pt", members)
    assert told in refused(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_archives(tmp_path, method):
    """Zeros that a file of some kilobytes would blow up to 8 megabytes are not asked for."""
    file = TorchFile()
    path = file.save(tmp_path / "a.pth", {"weight": file.tensor(np.zeros(2**20))})
    squeezed = rewritten(path, tmp_path / "b.pth", {}, compression=method)
    assert squeezed.stat().st_size < 50_000
    tracemalloc.start()
    assert "has compressed members (byteorder)" in refused(squeezed)
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("at", "value", "told"),
    [
        (8, 1, "has encrypted members (byteorder)"),
        (10, 8, "has compressed members (byteorder)"),
        (20, 9, "has compressed members (byteorder)"),
    ],
)
def test_what_an_archive_says_of_its_members(tmp_path, at, value, told):
    """At 8, 10 and 20 of each entry of its directory: flags, method, size when compressed."""
    path = small_file(tmp_path, legacy=False)
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\1\2")
    while (start := data.find(b"PK\1\2", start)) >= 0:
        data[start + at] = value
        start += 1
    path.write_bytes(data)
    assert told in refused(path)


def test_further_pickles_in_an_archive(tmp_path):
    path = rewritten(
        small_file(tmp_path, legacy=False), tmp_path / "b.pt", {"archive/more/data.pkl": b"", "data.pkl": b""}
    )
    assert "trunk.0.weight" in read_pickle(path).tensors


def test_checksums(tmp_path):
    path = small_file(tmp_path, legacy=False)
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("archive/data/1")
    numbers = member.header_offset + 30 + len(member.filename)
    hurt = tmp_path / "b.pt"
    hurt.write_bytes(data[:numbers] + bytes([data[numbers] ^ 1]) + data[numbers + 1 :])
    assert refused(hurt) == "is damaged: data/1 differs from its checksum"
    without = data.replace(struct.pack("<I", member.CRC), bytes(4))  # as torch leaves them out on request
    hurt.write_bytes(without)
    assert list(read_pickle(hurt).tensors) == list(read_pickle(path).tensors)


def test_members_over_each_other(tmp_path):
    """Many members that are the same bytes would be read for ever."""
    file = TorchFile()
    storages = [file.storage(np.zeros(100_000, np.uint8)) for _ in range(5)]
    root = {str(number): file.view(storage, 0, (1,), (1,)) for number, storage in enumerate(storages)}
    path = file.save(tmp_path / "a.pth", root)
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        first = archive.getinfo("archive/data/0")
        ends = archive.getinfo("archive/data/1").header_offset, archive.getinfo("archive/version").header_offset
        offsets = {name: archive.getinfo(f"archive/data/{name}").header_offset for name in "1234"}
    name, there = b"archive/data", struct.pack("<I", first.header_offset)
    for offset in offsets.values():
        data = data.replace(struct.pack("<I", offset) + name, there + name)
    shorter = data[: ends[0]] + data[ends[1] :]
    path.write_bytes(shorter[:-6] + struct.pack("<I", shorter.index(b"PK\1\2")) + shorter[-2:])
    assert "does not stand where the archive says" in refused(path)


def test_two_members_of_one_name(tmp_path):
    path = small_file(tmp_path, legacy=False)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("archive/data/0", b"")
    assert refused(path) == "is damaged: two members of the archive have one name"


# --- files of something else ---


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is cut short or damaged"),
        (b"<html>not found</html>", "is not a file of torch.save, or was cut short: it starts with b'<html>"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is not a file of torch.save"),
        (write({"a": 1}), "is not a file of torch.save"),
        (write(0x1950A86A20F9469CFC6C) + write(1000), "version of torch.save's older format"),
        (bytes(257) + b"ustar\0" + bytes(300), "is of PyTorch's oldest format"),
        (b"PK\x03\x04" + bytes(100), "is cut short or damaged"),
        (bytes(1000), "is not a file of torch.save"),
    ],
    ids=range(8),
)
def test_files_of_something_else(tmp_path, data, told):
    (path := tmp_path / "a.pth").write_bytes(data)
    assert told in refused(path)


def test_no_file(tmp_path):
    assert refused(tmp_path / "none.pth") == "cannot be read: No such file or directory"
    assert refused(tmp_path) == "cannot be read: Is a directory"
