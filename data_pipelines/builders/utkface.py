"""UTKFace: about 24,100 photographs from the web, or their 23,708 aligned crops, of people of 1 to 116 years."""

import contextlib
import functools
import re
from fnmatch import fnmatch
from pathlib import Path

from data_pipelines.folders import entries, entry, find_root, key
from data_pipelines.formats.landmark_lists import fits, read_points
from data_pipelines.records.face_set import DataError, FaceSet, Row, split_by_hash, tfds
from data_pipelines.splits import random_split

NAME = re.compile(r"(\d{1,3})_([01])_([0-4])_\d+")
CROPS, PARTS = "*.chip.jpg", ("part1", "part2", "part3")
SHARES = {"train": 0.80, "val": 0.10, "test": 0.10}
GENDERS, RACES = ("male", "female"), ("White", "Black", "Asian", "Indian", "Other")
CORRECTED = {  # names that lack a field, with the labels that Paplham & Franc give them
    "61_1_20170109142408075": (61, "female", "Black"),
    "61_3_20170109150557335": (61, "female", "Indian"),
    "39_1_20170116174525125": (39, "male", "Black"),
    "53__0_20170116184028385": (53, "female", "White"),
}
ALIASES = {"61_1_20170109150557335": "61_3_20170109150557335"}  # the name of its crop


class UtkFace(FaceSet):
    """Age, gender and ethnicity from the file name; no identity, though some are there several times; no σ.

    Either the photographs as found (part1 … part3: a detector is needed), or the aligned crops; where both are there,
    raw must be the crops' own folder for these. The lines of `landmark_list_part*.txt` have the photographs' names, and
    in the published lists pixels of the crops: they are used with the pictures that they fit. Our splits: 80/10/10 by a
    hash of the name. Protocol `rs80_20`: random, train 80 %, test 20 %. Ages above 100 are left out by the build.
    """

    name = "utkface"
    VERSION = tfds.core.Version("1.0.0")
    NEEDS = "the folder with part1, part2, part3, or the folder `UTKFace` of the aligned crops (*.jpg.chip.jpg)"
    HOMEPAGE = "https://susanqq.github.io/UTKFace"
    CITATION = "Zhang, Song, Qi: Age progression/regression by conditional adversarial autoencoder, CVPR 2017"
    LICENCE = "non-commercial research only; the photographs belong to their owners"

    @property
    def EXPECTED(self) -> dict[str, int]:
        return {"all": 23_708} if self.cropped else {}

    @property
    def cropped(self) -> bool:
        """Whether the pictures are the crops."""
        return key(self._folders[0].name) not in PARTS

    def source(self) -> dict:
        return super().source() | {"pictures": sum(len(entries(folder)) for folder in self._folders)}

    def rows(self) -> list[Row]:
        points, rows = read_points(self._lists(), self.split_key, self.warn), []
        if points and not fits(list(points.values()), self.cropped):
            self.warn("the points of landmark_list_part*.txt are not in pixels of these pictures: not used")
            points = {}
        for file in (file for folder in self._folders for file in entries(folder)):
            id_ = file.name if self.cropped else f"{key(file.parent.name)}/{file.name}"
            name = self.split_key(file.name)
            if match := NAME.fullmatch(name):
                known = int(match[1]), GENDERS[int(match[2])], RACES[int(match[3])]
            elif not (known := CORRECTED.get(name)):
                self.skip(id_, "the name is not <age>_<gender 0-1>_<race 0-4>_<date>.jpg")
                continue
            labels = dict(zip(("age", "gender", "ethnicity"), known)) | {"landmarks": points.get(name)}
            rows.append(Row(id_, "", file, labels))
        return split_by_hash(rows, (self.split_key(row.id) for row in rows), SHARES)

    def protocols(self, rows: list[Row]) -> dict[str, list[str]]:
        return {"rs80_20": random_split([row.id for row in rows], {"train": 0.8, "test": 0.2})}

    def split_key(self, name: str) -> str:
        """The photograph's name, as its crop has it too, without `.jpg` and `.chip.jpg`."""
        stem = key(Path(name).name.partition(".")[0])
        return ALIASES.get(stem, stem)

    @functools.cached_property
    def _folders(self) -> list[Path]:
        """The parts, or the one folder of the crops."""
        if entry(self.raw, CROPS):
            return [self.raw]
        with contextlib.suppress(DataError):
            root = find_root(self.raw, self.NEEDS, PARTS)
            return [folder for part in PARTS if (folder := entry(root, part))]
        root = find_root(self.raw, self.NEEDS, CROPS)
        return [(entry(root.parent, "UTKFace") if key(root.name) == "crop_part1" else None) or root]

    def _lists(self) -> list[Path]:
        """landmark_list_part*.txt beside the pictures' folder, in it, or in a folder of their own."""
        beside = self._folders[0].parent
        places = [beside, self._folders[0], *(path for path in entries(beside) if "landmark" in key(path.name))]
        files = (file for place in places if place.is_dir() for file in entries(place))
        return [file for file in files if fnmatch(key(file.name), "landmark_list_part?.txt")]
