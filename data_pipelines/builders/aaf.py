"""All-Age-Faces (AAF): 13,322 photographs, mostly of East Asian people, of 2 to 80 years."""

import re
from pathlib import Path

import numpy as np

from data_pipelines.builders.base import DataError, FaceSet, Row, distinct, tfds
from data_pipelines.builders.splits import hash_split

NAME = re.compile(r"\d{5}A(\d{2,3})\.jpe?g", re.IGNORECASE)
SHARES = {"train": 0.90, "val": 0.05, "test": 0.05}
PHOTOS, POINTS = "original images", "key points"


class Aaf(FaceSet):
    """All-Age-Faces: real age from the file name, five points out of the set's 49, no σ, one photograph per person.

    Our splits: train 90 %, val 5 %, test 5 % by a hash of the photograph's bytes, byte-identical files left out first;
    a photograph keeps its split when more of the set is there. The set's own `image sets/train.txt` and `val.txt` are a
    different protocol (halves, made with the duplicates in), and its numbers are not comparable with ours.
    """

    VERSION = tfds.core.Version("1.0.0")
    NEEDS = f"the All-Age-Faces folder (with `{PHOTOS}` and `{POINTS}` inside)"
    HOMEPAGE = "https://github.com/JingchunCheng/All-Age-Faces-Dataset"
    CITATION = "Cheng, Li, Wang, Yu, Wang: Exploiting effective facial patches for robust gender recognition, 2019"

    def source(self) -> dict:
        return {"photographs": len(list(_folder(_find_root(self.raw), PHOTOS).iterdir()))}

    def rows(self) -> list[Row]:
        root = _find_root(self.raw)
        points = {file.stem.lower(): file for file in _folder(root, POINTS).iterdir()} if _folder(root, POINTS) else {}
        found = [self._row(file, points.get(file.stem.lower())) for file in sorted(_folder(root, PHOTOS).iterdir())]
        kept = list(distinct((row for row in found if row), self.tally))
        split = hash_split((digest for _, digest in kept), SHARES)
        return [Row(row.id, split[digest], row.file, row.labels) for row, digest in kept]

    def _row(self, file: Path, points: Path | None) -> Row | None:
        match = NAME.fullmatch(file.name)
        if not match:
            self.tally.skip(file.name, "the name is not <serial>A<age>.jpg")
            return None
        return Row(file.name, "", file, {"age": int(match[1]), "landmarks": points and five_points(points)})


def five_points(file: Path) -> np.ndarray | None:
    """(5, 2) pixels: eyes (mean of their six points), nose tip, mouth corners; None unless there are 49 points."""
    values = file.read_text(encoding="utf-8", errors="replace").split()
    try:
        points = np.array(values, np.float32).reshape(49, 2)
    except ValueError:
        return None
    return np.stack([points[19:25].mean(0), points[25:31].mean(0), points[13], points[31], points[37]])


def _folder(root: Path, name: str) -> Path | None:
    """A sub-folder whatever its case."""
    return next((path for path in sorted(root.iterdir()) if path.is_dir() and path.name.lower() == name), None)


def _find_root(raw: Path) -> Path:
    """The folder that holds the photographs' folder: raw, one below it or one above it."""
    below = sorted(path for path in raw.iterdir() if path.is_dir())
    for root in (raw, *below, raw.resolve().parent):
        if _folder(root, PHOTOS):
            return root
    raise DataError(f"aaf: no folder `{PHOTOS}` in {raw}, one level below or above; --raw must name {Aaf.NEEDS}")
