"""MegaAge-Asian: 43,945 photographs of Asian people."""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.folders import by_name, entry, find_root, key, pictures, read_text
from data_pipelines.formats.sheets import number
from data_pipelines.records.face_set import DataError, FaceSet, Row, tfds
from data_pipelines.splits import random_split

SPLITS = ("train", "test")
VAL10 = {"train": 0.90, "val": 0.10}


class MegaAgeAsian(FaceSet):
    """MegaAge-Asian: age in whole years, about 0 to 70. No identity, gender or σ.

    Splits: the official train and test. Protocol `val10` takes a seeded random tenth of train as val, for settings must
    not be chosen on test; test is the same. Papers report the share of errors up to 3, 5 and 7 years.
    """

    name = "megaage_asian"
    VERSION = tfds.core.Version("1.0.0")
    NEEDS = "the folder `megaage_asian` (with `train`, `test` and `list` inside)"
    EXPECTED = {"train": 40_000, "test": 3_945}  # noqa: RUF012
    HOMEPAGE = "http://mmlab.ie.cuhk.edu.hk/projects/MegaAge/"
    CITATION = "Zhang, Liu, Li, Loy: Quantifying facial age by posterior of age comparisons, BMVC 2017"
    LICENCE = "research use"

    def source(self) -> dict:
        lists = [self._list(split, what).read_bytes() for split in SPLITS for what in ("name", "age")]
        return super().source() | {"lists": hashlib.sha256(b"".join(lists)).hexdigest()}

    def rows(self) -> list[Row]:
        return [row for split in SPLITS for row in self._rows(split)]

    def protocols(self, rows: list[Row]) -> dict[str, list[str]]:
        train = [row.id for row in rows if row.split == "train"]
        drawn = dict(zip(train, random_split(train, VAL10)))
        return {"val10": [drawn.get(row.id, "test") for row in rows]}

    def split_key(self, name: str) -> str:
        return key(f"{Path(name).parent.name}/{Path(name).stem}")  # train/1 is not test/1

    def _rows(self, split: str) -> Iterator[Row]:
        """Line k of the one list belongs to line k of the other: the names are not in order."""
        names, ages = (read_text(self._list(split, what)).rstrip().splitlines() for what in ("name", "age"))
        if len(names) != len(ages):
            lines = f"{len(names)} lines and `{split}_age.txt` {len(ages)}"
            raise DataError(f"{self._list(split, 'name')} has {lines}: they must belong together; unpack both again")
        folder = entry(self._root(), split) or self._root() / split
        files, seen = by_name(pictures(folder)) if folder.is_dir() else {}, set()
        for line, (name, age) in enumerate(zip(map(str.strip, names), ages), start=1):
            id, file = f"{split}/{Path(name).name}", files.pop(key(Path(name).name), folder / name)
            if not name:
                self.skip(id, f"{split}_name.txt line {line} is empty", bad=True)
                continue
            if id in seen or not math.isfinite(number(age)):
                why = "has no number" if id not in seen else "belongs to a picture that was listed before"
                self.skip(id, f"{split}_age.txt line {line} {why}: {age!r}", bad=True)
                continue
            seen.add(id)
            yield Row(id, split, file, {"age": number(age)})
        for file in files.values():
            self.skip(f"{split}/{file.name}", f"not in {split}_name.txt")

    def _root(self) -> Path:
        nested = entry(self.raw, "megaage_asian")  # archives hold the folder in one of its own name
        return find_root(nested if nested and nested.is_dir() else self.raw, self.NEEDS, "list", "train", "test")

    def _list(self, split: str, what: str) -> Path:
        folder = entry(self._root(), "list")
        if file := entry(folder, f"{split}_{what}.txt"):
            return file
        raise DataError(f"no `{split}_{what}.txt` in {folder}; --raw must name {self.NEEDS}")
