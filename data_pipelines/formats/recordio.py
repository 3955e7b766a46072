"""The record form of face sets, `train.rec` and `train.idx`: MXNet RecordIO as InsightFace fills it.

A record begins at a multiple of 4 bytes with a magic word and a word of which the upper 3 bits say whether it is whole
(0) or the first, a middle or the last part (1, 2, 3) and the other 29 its length in bytes. Parts are joined by the
magic word, which is where the writer cut. Inside: flag u32, label f32, id u64, id2 u64, `flag` more labels f32 (which
then count instead), the encoded image. All little-endian. `train.idx` has a line per record: key, TAB, offset.

InsightFace's record 0 has no image: its first label is the key after the last image's, and records from there on hold
ranges of keys per person. Files of MXNet's own im2rec have no such record: all keys are images.
"""

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.schema import RecordError

MAGIC = 0xCED7230A
WHOLE, FIRST, MIDDLE, LAST = range(4)
HEADER = struct.Struct("<IfQQ")  # of the content: flag, label, id, id2
LABEL, LABELS = 3, 8  # where label and labels are, in words from the start of the record
FAULTS = ("", "outside the file", "no record begins there", "its label is no identity")


class Images(NamedTuple):
    """The records that hold images, in the order of their keys, without the images."""

    keys: np.ndarray  # int64 (n,)
    offsets: np.ndarray  # int64 (n,): bytes
    labels: np.ndarray  # int64 (n,): the first label of each
    faults: list[tuple[int, str]]  # key and reason of each record that cannot be used
    expected: int | None  # how many images record 0 promises


def read_images(rec: Path) -> Images:
    """All images of a .rec file, by its .idx file: reads labels alone. Raises DataError where a file is not that."""
    keys, offsets = _read_index(rec.with_suffix(".idx"))
    end = _end_of_images(rec, int(offsets[0]))
    if end is not None:
        images = (keys >= 1) & (keys < end)
        keys, offsets = keys[images], offsets[images]
    labels, faults = _labels(rec, offsets)
    told = [(int(keys[i]), f"{FAULTS[faults[i]]} (byte {offsets[i]})") for i in np.flatnonzero(faults)]
    sound = faults == 0
    return Images(keys[sound], offsets[sound], labels[sound], told, None if end is None else end - 1)


def read_record(rec: Path, offset: int) -> tuple[np.ndarray, bytes]:
    """The labels, float32 (n,), and the encoded image of the record that begins there. Raises RecordError, OSError."""
    with open(rec, "rb") as file:
        file.seek(offset)
        flag, content = _part(file, rec)
        if flag not in (WHOLE, FIRST):
            raise RecordError(f"{rec.name}: no record begins at byte {offset}")
        while flag not in (WHOLE, LAST):
            flag, part = _part(file, rec)
            content += struct.pack("<I", MAGIC) + part
    if len(content) < HEADER.size:
        raise RecordError(f"{rec.name}: the record at byte {offset} is too short")
    count, label, _, _ = HEADER.unpack_from(content)
    end = HEADER.size + 4 * count
    if end > len(content):
        raise RecordError(f"{rec.name}: the record at byte {offset} has fewer labels than it says")
    labels = np.frombuffer(content[HEADER.size : end], "<f4") if count else np.array([label], np.float32)
    return labels, content[end:]


def _part(file, rec: Path) -> tuple[int, bytes]:
    place, head = file.tell(), file.read(8)
    if len(head) < 8:
        raise RecordError(f"{rec.name} ends at byte {place + len(head)}, before this record does")
    magic, word = struct.unpack("<II", head)
    if magic != MAGIC:
        raise RecordError(f"{rec.name}: no record begins at byte {place}")
    data = file.read(word & 0x1FFFFFFF)
    if len(data) < word & 0x1FFFFFFF:
        raise RecordError(f"{rec.name} ends at byte {place + 8 + len(data)}, before this record does")
    file.seek(-len(data) % 4, 1)
    return word >> 29, data


def _read_index(idx: Path) -> tuple[np.ndarray, np.ndarray]:
    """Keys in rising order, and the offset of each."""
    if not idx.is_file() or not idx.stat().st_size:
        raise DataError(f"{idx}: it is not there or empty, and the records are found by it; get it again")
    try:
        table = np.loadtxt(idx, np.int64, ndmin=2, usecols=(0, 1))
    except ValueError as error:
        raise DataError(f"{idx}: lines must be key, TAB, offset ({str(error).splitlines()[0]})") from None
    keys, first = np.unique(table[:, 0], return_index=True)
    return keys, table[first, 1]


def _end_of_images(rec: Path, offset: int) -> int | None:
    """The key after the last image's, where the first record is a header and not an image."""
    try:
        labels, image = read_record(rec, offset)
        return None if image else int(labels[0])
    except (OSError, ValueError, OverflowError) as error:
        raise DataError(f"{rec}: no record file as its index says ({error}); get both again") from None


def _labels(rec: Path, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first label of each record, int64, and its number in FAULTS (0: it has none)."""
    words = np.memmap(rec, "<u4", mode="r", shape=rec.stat().st_size // 4)
    inside = (offsets >= 0) & (offsets % 4 == 0) & (offsets // 4 + LABELS < len(words))
    at = np.where(inside, offsets // 4, 0)
    begins = (words[at] == MAGIC) & (words[at + 1] >> 29 <= FIRST)
    several = words[at + 2] > 0
    values = words[np.where(several, at + LABELS, at + LABEL)].view(np.float32)
    named = (values >= 0) & (values < 2**24) & (values == np.floor(values))
    return np.where(named, values, -1).astype(np.int64), np.select([~inside, ~begins, ~named], [1, 2, 3], 0)
