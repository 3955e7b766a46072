"""ChaLearn LAP 2015, apparent age: 4,691 photographs from the web, each guessed by a crowd."""

import hashlib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from data_pipelines.folders import by_name, entries, entry, find_root, key, pictures
from data_pipelines.formats.votes import read_votes
from data_pipelines.records.face_set import DataError, FaceSet, Row, tfds
from data_pipelines.schema import SPLITS


class ChaLearn15(FaceSet):
    """Apparent age: the mean of the votes (whole years) and their σ. No identity, gender or points are given.

    Splits as released. Two protocols are in use: (a) train on train, report val; (b) train on train+val, report test.
    The truth of test came later; without it test is left out. `total_2015.xlsx` (of MWR) does for a list that is not
    there. The photographs are whole: a detector is needed.
    """

    name = "chalearn15"
    VERSION = tfds.core.Version("1.0.0")
    NEEDS = "the folder that holds `Train`, `Validation` (or `Valid`), `Test` and their CSV lists"
    EXPECTED = {"train": 2_476, "val": 1_136, "test": 1_079}  # noqa: RUF012
    HOMEPAGE = "https://chalearnlap.cvc.uab.cat/dataset/18/description/"
    CITATION = (
        "Escalera, Fabian, Pardo, Baró, Gonzàlez, Escalante, Misevic, Steiner, Guyon: ChaLearn Looking at People 2015: "
        "Apparent age and cultural event recognition datasets and results, ICCV Workshops 2015"
    )
    LICENCE = "likely research only; access by registration"

    NAMES = "image_*"  # another set's lists look alike
    FOLDERS = {"train": ("Train",), "val": ("Validation", "Valid", "val"), "test": ("Test",)}  # noqa: RUF012
    LISTS = {  # noqa: RUF012
        "train": ("Train.csv", "Train15_gt.csv", "train*.csv", "total_2015.*"),
        "val": ("Validation.csv", "Valid.csv", "valid15_gt.csv", "val*.csv", "total_2015.*"),
        "test": ("Reference.csv", "Test.csv", "test15_gt.csv", "*reference*.csv", "test*.csv", "total_2015.*"),
    }

    def source(self) -> dict:
        lists = [file.read_bytes() for split in SPLITS if (file := self._list(split))]
        return super().source() | {"lists": hashlib.sha256(b"".join(lists)).hexdigest()}

    def rows(self) -> list[Row]:
        root = self._root()
        there = [(file, [key(part) for part in file.relative_to(root).parts[:-1]]) for file in pictures(root, True)]
        rows = []
        for split, names in self.FOLDERS.items():
            mine = [file for file, parts in there if any(fnmatchcase(part, key(n)) for part in parts for n in names)]
            rows += self._rows(split, sorted(mine, key=lambda file: len(file.parts)), root / names[0])
        return rows

    def _rows(self, split: str, there: list[Path], folder: Path) -> Iterator[Row]:
        name, files, listed = self.FOLDERS[split][0], by_name(there), self._list(split)
        if listed is None and files and split != "test":
            raise DataError(f"{self.name}: no list of the pictures in {folder}; expected {self.LISTS[split][0]}")
        if listed is None:
            self.warn(f"no list of {split} (as {self.LISTS[split][0]}): the split is left out")
        for file, labels, reason in read_votes(listed, split, self) if listed else ():
            found = files.pop(key(file), there[0].parent / file if there else folder / file)
            if reason:
                self.skip(f"{name}/{file}", reason, bad=True)
                continue
            if not fnmatchcase(key(file), self.NAMES):
                self.warn(f"{listed.name} names pictures that are not {self.NAMES}: is it another set's?")
            yield Row(f"{name}/{file}", split, found, labels)
        for file in files.values():
            self.skip(f"{name}/{file.name}", f"not in {listed.name}" if listed else f"no list of {split}")
        for file in set(there) - set(by_name(there).values()):
            self.skip(str(file), "another picture of that name is there")

    def _root(self) -> Path:
        return find_root(self.raw, self.NEEDS, self.FOLDERS["train"])

    def _list(self, split: str) -> Path | None:
        """Beside the folders, or in one: archives unpack into folders of their own name. Else one level up."""
        root = self._root()
        folders = [root, *(path for path in entries(root) if path.is_dir()), self.raw]
        return next((file for folder in folders if (file := entry(folder, *self.LISTS[split]))), None)
