"""One part of a set → one ArrayRecord file, and beside it what was kept, what was left out and why.

A part is finished when both files are there, whole; it is then not made again unless its rows, or the sizes and times
of their files, have changed. Equal input gives equal files, whoever writes them and in whatever order.
"""

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tensorflow_datasets.core import file_adapters
from tensorflow_datasets.proto import tf_example_pb2

from data_pipelines import align, host, plans, schema
from data_pipelines.detectors import Detector
from data_pipelines.duplicates import perceptual_hash
from data_pipelines.records.face_set import FaceSet, Row

PART = 4096  # rows of a part: about 80 MB of faces
CHUNK = 64  # images decoded ahead, and detected together
LABELS = ("age", "sigma", "attractiveness", "attractiveness_sigma", "identity", "gender", "ethnicity")
QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]


@dataclass(frozen=True)
class Crop:
    """What is stored of an image: itself, byte for byte (size 0), or the aligned face in `size` px as a JPEG."""

    size: int = 0
    face_scale: float = 1.0
    """As align.Alignment's: below 1 the crop keeps more around the face."""


@dataclass(frozen=True)
class Job:
    """What all parts of a build have in common; it can be sent to another machine."""

    builder: FaceSet
    folder: Path
    """Where finished parts lie: one file system for all who work on them."""
    detector: Detector | None
    """None: only the points that the set gives."""
    keep_points: bool
    """Where the set gives points, they stay, and the detector is not asked."""
    crop: Crop

    def looks(self, record: dict) -> bool:
        """Whether the detector is asked for this record."""
        return self.detector is not None and not (self.keep_points and _has_points(record))


class Part(NamedTuple):
    """Rows of one split in the order in which they are stored."""

    split: str
    number: int
    count: int
    first: int  # of all rows of the split
    rows: list[Row]

    def file(self, name: str) -> str:
        return f"{name}-{self.split}.array_record-{self.number:05d}-of-{self.count:05d}"


class Example(NamedTuple):
    """A row that was read: its record, or why there is none."""

    record: dict | None
    reason: str = ""
    pixels: np.ndarray | None = None  # only where a face is still to be found in them
    sha256: int = 0
    phash: np.ndarray | None = None
    faces: int = -1


def write_part(job: Job, part: Part, advance: Callable[[], None] = lambda: None) -> None:
    """Makes the part's two files, unless they are there already."""
    records = job.folder / part.file(job.builder.name)
    digest = _digest(part)
    if finished(records, digest):
        for _ in part.rows:
            advance()
        return
    kept, skipped = [], []

    def serialized() -> Iterator[tuple[str, bytes]]:
        for position, (row, example) in enumerate(zip(part.rows, _examples(job, part.rows))):
            advance()
            if example.record is None:
                skipped.append((row.id, example.reason))
                continue
            kept.append((part.first + position, example._replace(pixels=None)))
            yield row.id, _serialize(job.builder, example.record)
            example.record["image"] = b""

    unfinished = records.with_name(f"{records.name}.{os.getpid()}.part")
    file_adapters.ArrayRecordFileAdapter.write_examples(unfinished, serialized())
    unfinished.rename(records)
    _write_sidecar(sidecar(records), digest, kept, skipped)


def sidecar(records: Path) -> Path:
    return records.with_name(records.name + ".npz")


def finished(records: Path, digest: str) -> bool:
    """Whether both files are there, made from what is still there."""
    if not records.exists() or not sidecar(records).exists():
        return False
    with contextlib.suppress(Exception), np.load(sidecar(records)) as columns:  # a broken one is made again
        return str(columns["digest"]) == digest
    return False


def _examples(job: Job, rows: list[Row]) -> Iterator[Example]:
    """Rows in order; reading, decoding and hashing run in threads, one chunk ahead (OpenCV lets go of the GIL)."""
    chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ahead = [pool.submit(_read, job, row) for row in chunks[0]] if chunks else []
        for number, chunk in enumerate(chunks):
            now = ahead
            following = chunks[number + 1] if number + 1 < len(chunks) else []
            ahead = [pool.submit(_read, job, row) for row in following]
            examples = _with_faces(job, chunk, [future.result() for future in now])
            yield from pool.map(lambda example: _stored(job, example), examples) if job.crop.size else examples


def _read(job: Job, row: Row) -> Example:
    try:
        record = job.builder.load(row)
    except FileNotFoundError:
        return Example(None, f"file not found: {row.file}")
    except OSError as error:
        return Example(None, f"cannot be read: {error.strerror or error}")
    except schema.RecordError as error:
        return Example(None, str(error).removeprefix(f"{row.id}: "))
    try:
        pixels = host.decode(record["image"])
    except ValueError:
        return Example(None, "not a readable image (damaged or cut short)")
    sha256 = int.from_bytes(hashlib.sha256(record["image"]).digest()[:8], "big")
    needed = job.looks(record) or job.crop.size
    return Example(record, "", pixels if needed else None, sha256, perceptual_hash(pixels))


def _with_faces(job: Job, rows: list[Row], examples: list[Example]) -> list[Example]:
    """The detector's points, where it is asked."""
    asked = [i for i, example in enumerate(examples) if example.record and job.looks(example.record)]
    found = job.detector.detect([examples[i].pixels for i in asked]) if asked else []
    for i, faces in zip(asked, found):
        height, width = examples[i].pixels.shape[:2]
        chosen = align.choose(faces, height, width, rows[i].box)
        points = schema.NO_LANDMARKS if chosen is None else faces.points[chosen].astype(np.float32)
        examples[i] = examples[i]._replace(
            record=examples[i].record | {"landmarks": points}, faces=min(len(faces.boxes), 32767)
        )
    return examples


def _stored(job: Job, example: Example) -> Example:
    """With the aligned crop in place of the image."""
    if example.record is None:
        return example
    size, landmarks = job.crop.size, example.record["landmarks"]
    height, width = example.pixels.shape[:2]
    matrix = align.crop_matrix(landmarks, height, width, size, align.Alignment(job.crop.face_scale))
    crop = host.execute(example.pixels, plans.plain_plan(matrix, size), size)
    encoded = cv2.imencode(".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), QUALITY)[1].tobytes()
    points = align.moved(landmarks, matrix) if _has_points(example.record) else landmarks
    return example._replace(record=example.record | {"image": encoded, "landmarks": points})


def _has_points(record: dict) -> bool:
    return not np.isnan(record["landmarks"]).any()


def _serialize(builder: FaceSet, record: dict) -> bytes:
    """A protobuf map is otherwise written in an order that differs between processes."""
    features = builder.info.features
    example = features.serialize_example(features.encode_example(record))
    return tf_example_pb2.Example.FromString(example).SerializeToString(deterministic=True)


def _digest(part: Part) -> str:
    """Of the rows, and of the size and time of their files."""
    digest = hashlib.sha256()
    for row in part.rows:
        try:
            stat = row.file and row.file.stat()
        except OSError:
            stat = None
        labels = [(name, np.asarray(value).tolist()) for name, value in row.labels.items()]
        known = row.id, labels, row.box, row.at, stat and (stat.st_size, stat.st_mtime_ns)
        digest.update(repr(known).encode())
    return digest.hexdigest()


def _write_sidecar(file: Path, digest: str, kept: list, skipped: list) -> None:
    examples = [example for _, example in kept]
    columns = {label: np.array([example.record[label] for example in examples]) for label in LABELS}
    columns |= {
        "digest": np.array(digest),
        "row": np.array([row for row, _ in kept], np.int64),
        "points": np.array([_has_points(example.record) for example in examples], bool),
        "faces": np.array([example.faces for example in examples], np.int16),
        "sha256": np.array([example.sha256 for example in examples], np.uint64),
        "phash": np.array([example.phash for example in examples], np.uint64),
        "skipped": np.array(json.dumps(skipped)),
    }
    buffer = io.BytesIO()
    np.savez(buffer, **columns)
    unfinished = file.with_name(f"{file.name}.{os.getpid()}.part")
    unfinished.write_bytes(buffer.getvalue())
    unfinished.rename(file)
