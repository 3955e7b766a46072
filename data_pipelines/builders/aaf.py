"""All-Age-Faces (AAF): 13,322 photographs, mostly of East Asian people, of 2 to 80 years."""

import re
from pathlib import Path

import numpy as np

from data_pipelines.folders import by_name, entries, entry, find_root, key, read_text
from data_pipelines.records.face_set import FaceSet, Row, distinct, tfds
from data_pipelines.splits import hash_split

NAME = re.compile(r"(\d{5})A(\d{2,3})\.jpe?g", re.IGNORECASE)
SHARES = {"train": 0.90, "val": 0.05, "test": 0.05}
PHOTOS, KEY_POINTS, LISTS = "original images", "key points", "image sets"
FIRST_MALE = 7381  # serial number: women come first
GENDERS = {"0": "female", "1": "male"}  # of the lists


class Aaf(FaceSet):
    """All-Age-Faces: real age and gender, five points out of the set's 49, no σ, one photograph per person.

    Our splits: train 90 %, val 5 %, test 5 % by a hash of the photograph's bytes, byte-identical files left out first;
    a photograph keeps its split when more of the set is there. Protocol `official`: the set's own halves, `image
    sets/train.txt` and `val.txt` (its numbers are reported on val). They were made with the duplicates in, some across
    the halves; here they lack those too. Gender is what the lists say, else what the serial number says.
    """

    VERSION = tfds.core.Version("1.0.0")
    NEEDS = f"the All-Age-Faces folder (with `{PHOTOS}` and `{KEY_POINTS}` inside)"
    EXPECTED = {"all": 13_322, "official:train": 6_637, "official:val": 6_685}  # noqa: RUF012
    HOMEPAGE = "https://github.com/JingchunCheng/All-Age-Faces-Dataset"
    CITATION = "Cheng, Li, Wang, Yu, Wang: Exploiting effective facial patches for robust gender recognition, 2019"
    LICENCE = "research use, with the paper cited"

    def source(self) -> dict:
        return {"photographs": len(entries(entry(self._root(), PHOTOS)))}

    def rows(self) -> list[Row]:
        folder, listed = entry(self._root(), KEY_POINTS), self._lists()
        points = by_name(entries(folder)) if folder else {}
        found = [self._row(file, points, listed) for file in entries(entry(self._root(), PHOTOS))]
        kept = list(distinct((row for row in found if row), self))
        split = hash_split((digest for _, digest in kept), SHARES)
        return [row._replace(split=split[digest]) for row, digest in kept]

    def protocols(self, rows: list[Row]) -> dict[str, list[str]]:
        listed = self._lists()
        if absent := len(listed.keys() - {key(row.id) for row in rows}):
            self.warn(f"{absent} photographs of `{LISTS}` are duplicates or not there: `official` lacks them")
        return {"official": [listed.get(key(row.id), ("", ""))[0] for row in rows]} if listed else {}

    def _root(self) -> Path:
        return find_root(self.raw, self.NEEDS, PHOTOS)

    def _lists(self) -> dict[str, tuple[str, str]]:
        """key of the name → the half it is in, its gender."""
        folder, listed = entry(self._root(), LISTS), {}
        for split in ("train", "val"):
            if file := folder and entry(folder, f"{split}.txt"):
                lines = (line.split() for line in read_text(file).splitlines())
                listed |= {key(cells[0]): (split, GENDERS.get(cells[-1], "")) for cells in lines if cells}
        return listed

    def _row(self, file: Path, points: dict[str, Path], listed: dict) -> Row | None:
        match = NAME.fullmatch(file.name)
        if not match:
            self.skip(file.name, "the name is not <serial>A<age>.jpg")
            return None
        gender = listed.get(key(file.name), ("", ""))[1] or GENDERS["1" if int(match[1]) >= FIRST_MALE else "0"]
        given = points.get(key(f"{file.stem}.txt"))
        labels = {"age": int(match[2]), "gender": gender, "landmarks": given and five_points(given)}
        return Row(file.name, "", file, labels)


def five_points(file: Path) -> np.ndarray | None:
    """(5, 2) pixels: eyes (mean of their six points), nose tip, mouth corners; None unless there are 49 points."""
    try:
        points = np.array(read_text(file).split(), np.float32).reshape(49, 2)
    except ValueError:
        return None
    return np.stack([points[19:25].mean(0), points[25:31].mean(0), points[13], points[31], points[37]])
