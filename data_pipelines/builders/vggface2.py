"""VGGFace2: 3.3 million photographs of 9,131 people, loosely cropped."""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np

from data_pipelines.builders.identification import Face, IdentitySet
from data_pipelines.folders import entry, find_root
from data_pipelines.formats.vggface2_lists import corners, read_genders, read_numbers, usable
from data_pipelines.records.face_set import DataError, Row, tfds

PERSON = re.compile(r"n\d{6}")
PARTS = ("train", "test")  # the set's own; identities are numbered in this order
PLACES = (
    ".",
    "bb_landmark",
    "meta",
    "meta/bb_landmark",
    "data",
)  # of lists, below the photographs' folder or beside it


class VggFace2(IdentitySet):
    """VGGFace2: identity, gender, and five points and a box of each face.

    The set's own train and test hold different people (protocol `official`); those of train are numbered first. Our
    test is that; our val is 1 % of the images of its train, by a hash of their names, with the same people. Points that
    lie far off the box, or on one spot, are left out.
    """

    name = "vggface2"
    VERSION = tfds.core.Version("1.0.0")
    NEEDS = "the folder of VGGFace2, unpacked (with `train` and `test` inside), or of train.rec and train.idx"
    OPTIONS: ClassVar[dict] = {"min_images": 0}
    SHARES: ClassVar[dict] = {"train": 0.99, "val": 0.01}
    EXPECTED: ClassVar[dict] = {"all": 3_311_286, "test": 169_396, "official:train": 3_141_890}
    HOMEPAGE = "https://www.robots.ox.ac.uk/~vgg/data/vgg_face2/"
    CITATION = "Cao, Shen, Xie, Parkhi, Zisserman: VGGFace2: A dataset for recognising faces across pose and age, 2018"
    LICENCE = "copies say CC BY-NC or alike; its publisher no longer offers it"

    def faces(self) -> Iterator[Face]:
        root, meta = self._root, self._find("identity_meta.csv")
        if rec := entry(root, "train.rec"):
            return (yield from self.records(rec))
        genders = read_genders(meta) if meta else {}
        for part in PARTS:
            if folder := entry(root, part, f"vggface2_{part}"):
                faces = self.folders(entry(folder, part) or folder, PERSON)
                for face in self.checked(faces, self._find(f"{part}_list.txt")):
                    person, labels = (part == "test", face.person), {"gender": genders.get(face.person, "")}
                    yield Face(f"{part}/{face.id}", person, face.file, None, part, labels)

    def rows(self) -> list[Row]:
        rows = super().rows()
        index = {row.id.partition("/")[2].rpartition(".")[0]: i for i, row in enumerate(rows) if row.at is None}
        if index:
            boxes = self._measured("bb", index, (len(rows), 4))
            points = self._measured("landmark", index, (len(rows), 5, 2))
            near = usable(points, boxes)
            if off := int((~near & np.isfinite(points).all((1, 2))).sum()):
                self.warn(f"five points of {off:,} images lie far off their box, or on one spot: left out")
            for i, row in enumerate(rows):
                labels = row.labels | {"landmarks": points[i]} if near[i] else row.labels
                rows[i] = row._replace(labels=labels, box=corners(boxes[i]))
        return rows

    def protocols(self, rows: list[Row]) -> dict[str, list[str]]:
        own = ["test" if row.split == "test" else "train" for row in rows]
        return {"official": own} if "test" in own else {}  # a record file holds train alone

    @functools.cached_property
    def _root(self) -> Path:
        try:
            return find_root(self.raw, self.NEEDS, ("train.rec", *PARTS, *(f"vggface2_{part}" for part in PARTS)))
        except DataError:
            if packed := entry(self.raw, "*.tar.gz", "*.tgz", "*.tar"):
                raise DataError(f"{packed}: unpack it first, `tar -xf {packed.name}`, beside it") from None
            raise

    def _find(self, name: str) -> Path | None:
        folders = [above / place for above in (self._root, self._root.resolve().parent) for place in PLACES]
        return next((file for folder in folders if folder.is_dir() and (file := entry(folder, name))), None)

    def _measured(self, kind: str, index: dict[str, int], shape: tuple[int, ...]) -> np.ndarray:
        """Numbers of each row, float32 of that shape; NaN where the set has none."""
        table, bad = np.full(shape, np.nan, np.float32), 0
        for name in (f"loose_{kind}_{part}.csv" for part in PARTS if entry(self._root, part, f"vggface2_{part}")):
            if file := self._find(name):
                bad += read_numbers(file, index, table)
            else:
                self.warn(f"{name} is not there")
        if bad:
            self.warn(f"{bad:,} lines of loose_{kind}_*.csv do not hold {table[0].size} numbers")
        return table
