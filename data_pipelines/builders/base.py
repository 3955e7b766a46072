"""What every builder shares: schema.py as features, the checks of each image, the summary. A set adds rows()."""

import abc
import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import writer
from tensorflow_datasets.proto import tf_example_pb2

from data_pipelines import schema
from data_pipelines.builders.progress import faces_progress
from data_pipelines.builders.tally import Tally
from data_pipelines.errors import UserError

SPLITS = ("train", "val", "test")
SUMMARY = "summary.json"
CHUNK = 256  # images read ahead by the threads
NAMED = 5  # unusable images that an error names


class DataError(UserError):
    """A user's mistake about data: one line that says what was wrong, where, and what to do."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One example before its image is read."""

    id: str
    split: str
    file: Path | None = None  # None: the builder's own load() knows
    labels: dict = dataclasses.field(default_factory=dict)  # keyword arguments of schema.record


class FaceSet(tfds.core.GeneratorBasedBuilder, abc.ABC):
    """A data set of faces. A subclass gives VERSION, NEEDS, HOMEPAGE, CITATION and rows().

    raw: what the user downloaded (a folder or a file), None where NEEDS is empty.
    max_bad_share: of all rows, how many images may be missing or unreadable before the build stops; at least one may
        be, in a set however small, unless it is 0.
    options: the set's own, with the defaults of OPTIONS.
    """

    NEEDS: ClassVar[str] = ""  # what --raw must name, for the error that asks for it
    FOLDER: ClassVar[bool] = True  # raw is a folder, else a file
    OPTIONS: ClassVar[dict] = {}
    MANY: ClassVar[bool] = False  # whether NAME/ANYTHING may be prepared too, several side by side
    HOMEPAGE: ClassVar[str] = ""
    CITATION: ClassVar[str] = ""

    def __init__(self, *, raw: Path | None = None, max_bad_share: float = 0.01, options: dict | None = None, **kwargs):
        self.raw = None if raw is None else Path(raw)
        self.max_bad_share = max_bad_share
        self.options = self.OPTIONS | (options or {})
        self.tally = Tally()
        super().__init__(**kwargs)

    @abc.abstractmethod
    def rows(self) -> list[Row]:
        """All examples, in a fixed order. The user's mistakes raise DataError; files to leave out: self.tally.skip."""

    def source(self) -> dict:
        """What a prepared set was made from, in short: another answer means that it is out of date."""
        return dict(self.options)

    def load(self, row: Row) -> dict:
        """The row's record, validated."""
        return schema.record(row.id, row.file.read_bytes(), **row.labels)

    def _info(self) -> tfds.core.DatasetInfo:
        return _LocalInfo(
            builder=self,
            description=self.__doc__,
            homepage=self.HOMEPAGE or None,
            citation=self.CITATION or None,
            features=_features(),
        )

    def _split_generators(self, dl_manager) -> dict:
        rows = self.rows()
        if not rows:
            raise DataError(f"{self.name}: nothing to read in {self.raw}: {self.NEEDS} was expected")
        allowed = max(int(self.max_bad_share * len(rows)), 1) if self.max_bad_share > 0 else 0
        return {
            split: self._generate_examples(split, [row for row in rows if row.split == split], len(rows), allowed)
            for split in SPLITS
            if any(row.split == split for row in rows)
        }

    def _generate_examples(self, split: str, rows: list[Row], total: int, allowed: int) -> Iterator[tuple[str, dict]]:
        with faces_progress(f"{self.name} {split}", len(rows)) as advance:
            for row, record, reason in self._loaded(rows):
                advance()
                if record is None:
                    self._leave_out(row, reason, total, allowed)
                else:
                    self.tally.keep(split, record)
                    yield row.id, record
        if split not in self.tally.kept:
            raise DataError(f"{self.name}: no usable image is left in split {split}: {self._first_bad()}")

    def _loaded(self, rows: list[Row]) -> Iterator[tuple[Row, dict | None, str]]:
        """Rows in order with their records; the decoding check runs in threads (OpenCV lets go of the GIL)."""
        remaining = iter(rows)
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            while chunk := list(itertools.islice(remaining, CHUNK)):
                for row, (record, reason) in zip(chunk, pool.map(self._checked, chunk)):
                    yield row, record, reason

    def _checked(self, row: Row) -> tuple[dict | None, str]:
        try:
            record = self.load(row)
        except FileNotFoundError:
            return None, f"file not found: {row.file}"
        except OSError as error:
            return None, f"cannot be read: {error.strerror or error}"
        except schema.RecordError as error:
            return None, str(error).removeprefix(f"{row.id}: ")
        return (record, "") if _decodes(record["image"]) else (None, "not a readable image (damaged or cut short)")

    def _leave_out(self, row: Row, reason: str, total: int, allowed: int) -> None:
        self.tally.skip(row.id, reason, bad=True)
        if len(self.tally.bad) > allowed:
            raise DataError(
                f"{self.name}: more than {allowed} of {total} images cannot be used: {self._first_bad()}; "
                f"mend them, or allow more with --max_bad_share (now {self.max_bad_share:g})"
            )

    def _first_bad(self) -> str:
        named = [f"{skipped['id']} ({skipped['reason']})" for skipped in self.tally.bad]
        return ", ".join(named[:NAMED]) + (", …" if len(named) > NAMED else "")

    def write_summary(self, name: str) -> None:
        """summary.json beside the records; call after download_and_prepare()."""
        summary = self.tally.summary(name, str(self.version), self.source())
        text = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
        Path(self.data_dir, SUMMARY).write_text(text, encoding="utf-8")

    def _example_writer(self) -> writer.ExampleWriter:
        return _StableWriter(file_format=self.info.file_format)


class _LocalInfo(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Nothing of ours is in tfds' bucket; its own method leaves an empty temporary folder behind each time."""


class _StableWriter(writer.ExampleWriter):
    """Equal input gives equal files: a protobuf map is otherwise written in an order that differs between processes."""

    def write(self, path, examples):
        stable = (
            (key, tf_example_pb2.Example.FromString(example).SerializeToString(deterministic=True))
            for key, example in examples
        )
        return super().write(path, stable)


def distinct(rows: Iterable[Row], tally: Tally) -> Iterator[tuple[Row, str]]:
    """Rows with the hash of their file's bytes; a row whose file equals an earlier one's goes to the tally instead."""
    seen = {}
    for row in rows:
        try:
            digest = hashlib.sha256(row.file.read_bytes()).hexdigest()
        except OSError:
            digest = row.id  # kept: load() will say what is wrong with it
        if first := seen.get(digest):
            tally.skip(row.id, f"duplicate of {first}")
        else:
            seen[digest] = row.id
            yield row, digest


def _features() -> tfds.features.FeaturesDict:
    """schema.py's record. Images are stored byte for byte as found; whoever reads with plain tfds gets them decoded."""
    number = tfds.features.Scalar(np.float32)
    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3)),
            "age": number,
            "sigma": number,
            "attractiveness": number,
            "attractiveness_sigma": number,
            "identity": tfds.features.Scalar(np.int32),
            "landmarks": tfds.features.Tensor(shape=(5, 2), dtype=np.float32),
        }
    )


def _decodes(image: bytes) -> bool:
    try:
        return cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR) is not None
    except cv2.error:  # larger than OpenCV's limit, or a header that it refuses
        return False
