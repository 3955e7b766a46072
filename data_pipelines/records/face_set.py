"""What a data set must say about itself. A new one is a file with a FaceSet that has rows(), and a row in BUILDERS."""

import abc
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines import schema
from data_pipelines.errors import DataError
from data_pipelines.folders import fingerprint, key
from data_pipelines.splits import hash_split


class Row(NamedTuple):
    """One example before its image is read."""

    id: str  # unique in the set: the path of its file as the set writes it
    split: str  # of the set's first protocol: train, val or test
    file: Path | None = None  # None: the builder's own load() knows
    labels: dict = {}  # keyword arguments of schema.record  # noqa: RUF012
    box: tuple[float, float, float, float] | None = None  # x1, y1, x2, y2 px of the upright image: whose face it is
    at: int | None = None  # where its bytes begin, where the file holds many images


class Skipped(NamedTuple):
    """A file that is left out, and why."""

    file: str
    reason: str
    bad: bool = False  # an image that cannot be used: what max_bad_share counts


class FaceSet(tfds.core.ShardBasedBuilder, abc.ABC):
    """A data set of faces. A subclass gives VERSION, NEEDS, HOMEPAGE, CITATION, LICENCE and rows().

    raw: what the user downloaded (a folder or a file), None where NEEDS is empty.
    options: the set's own, with the defaults of OPTIONS.
    """

    NEEDS: ClassVar[str] = ""  # what --raw must name, for the error that asks for it
    FOLDER: ClassVar[bool] = True  # raw is a folder, else a file
    OPTIONS: ClassVar[dict] = {}
    MANY: ClassVar[bool] = False  # whether NAME/ANYTHING may be prepared too, several side by side
    TRAINS: ClassVar[str] = "age"  # or "attractiveness", or "identity": subjects are then in all splits on purpose
    MAX_BAD_SHARE: ClassVar[float] = 0.5  # published sets have bad files, but half of one is a wrong folder
    EXPECTED: ClassVar[dict[str, int]] = {}  # images of the published set by split, "all", or protocol:split
    HOMEPAGE: ClassVar[str] = ""
    CITATION: ClassVar[str] = ""
    LICENCE: ClassVar[str] = ""

    def __init__(self, *, raw: Path | None = None, options: dict | None = None, **kwargs):
        self.raw = None if raw is None else Path(raw)
        self.options = self.options_taken() | (options or {})
        self.skipped: list[Skipped] = []
        self.warnings: list[str] = []
        self.finished: dict[str, list[tuple[Path, int]]] = {}  # split → its files and how many records each holds
        self._arguments = {"raw": self.raw, "options": options, **kwargs}
        super().__init__(**kwargs)

    def __reduce__(self):
        return _rebuild, (type(self), self._arguments)

    @classmethod
    def options_taken(cls) -> dict:
        """Every option and its default; a set that is downloaded also takes published split files."""
        return cls.OPTIONS | ({"splits": ""} if cls.NEEDS else {})

    @abc.abstractmethod
    def rows(self) -> list[Row]:
        """All examples, in a fixed order. The user's mistakes raise DataError; files to leave out: self.skip()."""

    def protocols(self, rows: list[Row]) -> dict[str, list[str]]:
        """Further ways to split the same rows: name → a split per row, "" = in none."""
        return {}

    def split_key(self, name: str) -> str:
        """What a published split file and a row agree on: by default the file's name without folder and ending."""
        return key(Path(name).stem)

    def source(self) -> dict:
        """What a prepared set was made from, in short: another answer means that it is out of date."""
        return dict(self.options)

    def made_from(self) -> dict:
        """source(), and the content of the split files that were given."""
        files = self.options.get("splits", "")
        return self.source() | ({"splits": fingerprint(files)} if files else {})

    def load(self, row: Row) -> dict:
        """The row's record, validated. Uses raw, options and the row alone: it may run on another machine."""
        return schema.record(row.id, row.file.read_bytes(), **row.labels)

    def skip(self, file: str, reason: str, bad: bool = False) -> None:
        """Notes a file that is left out. bad: an image that should have been usable."""
        self.skipped.append(Skipped(file, reason, bad))

    def warn(self, text: str) -> None:
        """Notes, once, something about the set that its user should know."""
        if text not in self.warnings:
            self.warnings.append(text)

    def _info(self) -> tfds.core.DatasetInfo:
        return _LocalInfo(
            builder=self,
            description=self.__doc__,
            homepage=self.HOMEPAGE or None,
            citation=self.CITATION or None,
            license=self.LICENCE or None,
            features=features(),
        )

    def _download_and_prepare(self, dl_manager, download_config=None) -> None:
        """Takes the finished files in; build.py has written them, as TFDS' own writer can neither resume nor skip."""
        infos = []
        for split, files in self.finished.items():
            template = self._get_filename_template(split_name=split)
            for number, (file, _) in enumerate(files):
                _link(file, Path(template.sharded_filepath(shard_index=number, num_shards=len(files))))
            lengths, size = [length for _, length in files], sum(file.stat().st_size for file, _ in files)
            infos.append(tfds.core.SplitInfo(split, lengths, size, template))
        self.info.set_splits(tfds.core.splits.SplitDict(infos))

    def _shard_iterators_per_split(self, dl_manager):
        raise NotImplementedError("build.py writes the files")


class _LocalInfo(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Nothing of ours is in tfds' bucket; its own method leaves an empty temporary folder behind each time."""


def _link(file: Path, new: Path) -> None:
    """A second name for it, so that a build that is killed now finds it again; some file systems only rename."""
    try:
        os.link(file, new)
    except OSError:
        file.rename(new)


def _rebuild(builder_class: type[FaceSet], arguments: dict) -> FaceSet:
    return builder_class(**arguments)


def features() -> tfds.features.FeaturesDict:
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
            "gender": tfds.features.Text(),
            "ethnicity": tfds.features.Text(),
            "landmarks": tfds.features.Tensor(shape=(5, 2), dtype=np.float32),
        }
    )


def number_identities(names: Iterable) -> dict:
    """Identity (a number or a text) → 0 … n-1 in sorted order."""
    return {name: i for i, name in enumerate(sorted(set(names)))}


def split_by_hash(rows: Iterable[Row], groups: Iterable[str], shares: dict[str, float]) -> list[Row]:
    """The rows with a split by the hash of their group: a subject's name, or the row's own id."""
    rows, groups = list(rows), list(groups)
    split = hash_split(groups, shares)
    return [row._replace(split=split[group]) for row, group in zip(rows, groups)]


def distinct(rows: Iterable[Row], builder: FaceSet) -> Iterator[tuple[Row, str]]:
    """Rows with the hash of their file's bytes; one whose file equals an earlier one's is skipped instead."""
    seen = {}
    for row in rows:
        try:
            digest = hashlib.sha256(row.file.read_bytes()).hexdigest()
        except OSError:
            digest = row.id  # kept: load() will say what is wrong with it
        if first := seen.get(digest):
            builder.skip(row.id, f"duplicate of {first}")
        else:
            seen[digest] = row.id
            yield row, digest


__all__ = ["DataError", "FaceSet", "Row", "Skipped", "distinct", "number_identities", "split_by_hash", "tfds"]
