"""The record form, against a writer made from the format's description alone."""

import struct

import numpy as np
import pytest

from data_pipelines.errors import DataError
from data_pipelines.formats.recordio import read_images, read_record
from data_pipelines.schema import RecordError

MAGIC = struct.pack("<I", 0xCED7230A)


def content(label, image: bytes, key: int = 0) -> bytes:
    """A number is a scalar label (flag 0), a list is a vector (flag = its length)."""
    values = label if isinstance(label, (list, tuple)) else []
    head = struct.pack("<IfQQ", len(values), 0.0 if values else label, key, 0)
    return head + b"".join(struct.pack("<f", value) for value in values) + image


def framed(data: bytes) -> bytes:
    """Cut wherever an aligned word of the data is the magic word, which is left out."""
    pieces, start = [], 0
    for at in range(0, len(data) - len(data) % 4, 4):
        if data[at : at + 4] == MAGIC:
            pieces.append(data[start:at])
            start = at + 4
    pieces.append(data[start:])
    out = b""
    for i, piece in enumerate(pieces):
        kind = 0 if len(pieces) == 1 else 1 if i == 0 else 3 if i == len(pieces) - 1 else 2
        out += MAGIC + struct.pack("<I", (kind << 29) | len(piece)) + piece + b"\0" * (-len(piece) % 4)
    return out


def write_records(folder, records: list[tuple[int, bytes]], property_: str | None = "2,112,112", order=None):
    """train.rec and train.idx of (key, content); returns the .rec file and {key: offset}."""
    folder.mkdir(parents=True, exist_ok=True)
    data, offsets = b"", {}
    for key, record in records:
        offsets[key] = len(data)
        data += framed(record)
    (folder / "train.rec").write_bytes(data)
    lines = [f"{key}\t{offset}\n" for key, offset in offsets.items()]
    (folder / "train.idx").write_text("".join(lines if order is None else [lines[i] for i in order]))
    if property_ is not None:
        (folder / "property").write_text(property_ + "\n")
    return folder / "train.rec", offsets


def insightface(images: list[tuple[object, bytes]], people: int = 2) -> list[tuple[int, bytes]]:
    """Header, images from key 1 on, then a record per person with the range of its keys."""
    last = len(images) + 1
    records = [(0, content([last, last + people], b""))]
    records += [(key, content(label, image, key)) for key, (label, image) in enumerate(images, 1)]
    return records + [(last + i, content([1 + i, 2 + i], b"")) for i in range(people)]


IMAGES = [(0, b"\xff\xd8one"), ([1.0, 7.5], b"\xff\xd8other"), (1, b"\xff\xd8three!"), (0, b"\xff\xd8four__")]


def test_insightface_form(tmp_path):
    rec, _ = write_records(tmp_path, insightface(IMAGES))
    found = read_images(rec)
    assert found.keys.tolist() == [1, 2, 3, 4] and found.labels.tolist() == [0, 1, 1, 0]
    assert found.faults == [] and found.expected == 4
    read = [read_record(rec, int(offset)) for offset in found.offsets]
    assert [image for _, image in read] == [image for _, image in IMAGES]
    assert [labels.tolist() for labels, _ in read] == [[0], [1, 7.5], [1], [0]]
    assert all(labels.dtype == np.float32 for labels, _ in read)


@pytest.mark.parametrize("first", [3, [3.0, 4.0]])
def test_im2rec_form_has_no_header(tmp_path, first):
    rec, _ = write_records(tmp_path, [(0, content(first, b"image")), (1, content(5, b"more"))], None)
    found = read_images(rec)
    assert (found.keys.tolist(), found.labels.tolist(), found.expected) == ([0, 1], [3, 5], None)


def test_keys_come_in_their_order_whatever_the_index_has(tmp_path):
    records = [(key, content(key, b"image%d" % key)) for key in (2, 5, 11)]
    rec, offsets = write_records(tmp_path, records, order=[2, 0, 1, 0])
    found = read_images(rec)
    assert found.keys.tolist() == found.labels.tolist() == [2, 5, 11]
    assert found.offsets.tolist() == [offsets[2], offsets[5], offsets[11]]


@pytest.mark.parametrize(
    "image",
    [
        MAGIC,
        b"abcd" + MAGIC,
        MAGIC + b"abcd",
        b"abcd" + MAGIC + MAGIC + b"e",
        b"ab" + MAGIC + b"cd",  # not aligned: stays
        MAGIC * 5,
        b"",
    ],
)
def test_the_magic_word_inside_an_image(tmp_path, image):
    tail = (2, content(1, b"next"))
    rec, offsets = write_records(tmp_path, [(0, content(9, b"first")), (1, content(0, image)), tail])
    assert read_record(rec, offsets[1])[1] == image
    assert read_record(rec, offsets[2])[1] == b"next"


def test_every_part_is_filled_up_to_4_bytes(tmp_path):
    data = content(1, b"\xff\xd8\xff")  # 27 bytes
    first = MAGIC + struct.pack("<I", (1 << 29) | 27) + data + b"\0"
    (tmp_path / "train.rec").write_bytes(first + MAGIC + struct.pack("<I", (3 << 29) | 1) + b"e\0\0\0")
    assert read_record(tmp_path / "train.rec", 0)[1] == b"\xff\xd8\xff" + MAGIC + b"e"


def test_any_content_comes_back(tmp_path):
    rng = np.random.default_rng(0)
    words = [MAGIC, b"\0\0\0\0", b"\xff\xd8\xff\xe0", b"abcd"]
    records = []
    for key in range(200):
        body = b"".join(words[i] for i in rng.integers(0, len(words), rng.integers(0, 12)))
        label = key if rng.random() < 0.5 else [float(key)] * int(rng.integers(1, 4))
        records.append((key, content(label, b"\xff" + body + b"x" * int(rng.integers(0, 4)))))
    rec, offsets = write_records(tmp_path, records)
    found = read_images(rec)
    assert found.labels.tolist() == list(range(200))
    for key, record in records:
        labels, image = read_record(rec, offsets[key])
        assert labels[0] == key and record.endswith(image) and len(image) == len(record) - 24 - 4 * _flag(record)


def _flag(record: bytes) -> int:
    return struct.unpack_from("<I", record)[0]


@pytest.mark.parametrize("label", [float("nan"), float("inf"), -1.0, 0.5, 2.0**24, [float("nan"), 1.0]])
def test_a_label_that_is_no_identity(tmp_path, label):
    rec, _ = write_records(tmp_path, [(0, content(4, b"image")), (1, content(label, b"image"))])
    found = read_images(rec)
    assert found.keys.tolist() == [0]
    assert [(key, "no identity" in reason) for key, reason in found.faults] == [(1, True)]


def test_identities_of_large_sets_are_exact(tmp_path):
    rec, _ = write_records(tmp_path, [(0, content(2.0**24 - 1, b"image")), (1, content([5_822_652.0], b"image"))])
    assert read_images(rec).labels.tolist() == [2**24 - 1, 5_822_652]


def test_damaged_records_are_told_one_by_one(tmp_path):
    rec, offsets = write_records(tmp_path, insightface(IMAGES))
    data = bytearray(rec.read_bytes())
    data[offsets[2]] ^= 1
    rec.write_bytes(data)
    found = read_images(rec)
    assert found.keys.tolist() == [1, 3, 4] and found.expected == 4
    assert found.faults == [(2, f"no record begins there (byte {offsets[2]})")]
    with pytest.raises(RecordError, match=f"no record begins at byte {offsets[2]}"):
        read_record(rec, offsets[2])


def test_a_file_that_was_cut_short(tmp_path):
    rec, offsets = write_records(tmp_path, insightface(IMAGES))
    rec.write_bytes(rec.read_bytes()[: offsets[4] + 36])
    assert read_images(rec).keys.tolist() == [1, 2, 3, 4]  # its label is there, its image is not
    with pytest.raises(RecordError, match="ends at byte"):
        read_record(rec, offsets[4])
    rec.write_bytes(rec.read_bytes()[: offsets[3] + 6])
    found = read_images(rec)
    assert found.keys.tolist() == [1, 2]
    assert [key for key, _ in found.faults] == [3, 4] and "outside the file" in found.faults[0][1]
    for key in (3, 4):
        with pytest.raises(RecordError, match="ends at byte"):
            read_record(rec, offsets[key])


def test_an_index_that_does_not_fit(tmp_path):
    rec, offsets = write_records(tmp_path, insightface([(0, b"\xff" + MAGIC * 3 + b"\xd8" * 40), *IMAGES]))
    text = f"0\t0\n1\t{offsets[1]}\n2\t{offsets[2] + 4}\n3\t{offsets[3] + 1}\n4\t-8\n5\t99999999\n"
    (tmp_path / "train.idx").write_text(text)
    found = read_images(rec)
    assert found.keys.tolist() == [1] and [key for key, _ in found.faults] == [2, 3, 4, 5]
    outside = [reason.startswith("outside the file") for _, reason in found.faults]
    assert outside == [False, True, True, True]


def test_the_middle_of_a_record_is_none(tmp_path):
    image = b"\xff" * 8 + MAGIC + b"\xd8" * 40
    rec, offsets = write_records(tmp_path, [(0, content(1, b"image")), (1, content(1, image))])
    second = rec.read_bytes().index(MAGIC, offsets[1] + 4)
    assert read_record(rec, offsets[1])[1] == image
    with pytest.raises(RecordError, match="no record begins"):
        read_record(rec, second)
    (tmp_path / "train.idx").write_text(f"0\t0\n1\t{second}\n")
    assert read_images(rec).faults == [(1, f"no record begins there (byte {second})")]


def test_short_contents(tmp_path):
    rec, offsets = write_records(tmp_path, [(0, b"12345678"), (1, struct.pack("<IfQQ", 1000, 0, 0, 0) + b"few")])
    with pytest.raises(RecordError, match="too short"):
        read_record(rec, offsets[0])
    with pytest.raises(RecordError, match="fewer labels"):
        read_record(rec, offsets[1])


@pytest.mark.parametrize(
    "file, data, part",
    [
        ("train.idx", None, "not there or empty"),
        ("train.idx", b"", "not there or empty"),
        ("train.idx", b"zero\tone\n", "key, TAB, offset"),
        ("train.idx", b"12\n", "key, TAB, offset"),
        ("train.rec", b"", "no record file"),
        ("train.rec", b"PK\3\4" * 20, "no record file"),
        ("train.rec", MAGIC, "no record file"),
        ("train.rec", framed(content([float("nan"), 1], b"")), "no record file"),
    ],
)
def test_files_that_are_something_else(tmp_path, file, data, part):
    rec, _ = write_records(tmp_path, insightface(IMAGES))
    (tmp_path / file).unlink()
    if data is not None:
        (tmp_path / file).write_bytes(data)
    with pytest.raises(DataError, match=part) as caught:
        read_images(rec)
    assert str(tmp_path / file) in str(caught.value) and "\n" not in str(caught.value)
