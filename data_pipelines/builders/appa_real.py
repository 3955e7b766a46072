"""APPA-REAL: 7,591 photographs with the real age of the person and the ages that a crowd guessed."""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.folders import by_name, entry, find_root, key, pictures, read_columns, read_rows
from data_pipelines.formats.sheets import number
from data_pipelines.records.face_set import DataError, FaceSet, Row, tfds
from data_pipelines.schema import GENDERS, SPLITS

FOLDERS = dict(zip(SPLITS, ("train", "valid", "test")))
LIST, PEOPLE = "gt_avg_{}.csv", "allcategories_{}.csv"
COLUMNS = {"apparent": ("apparent_age_avg", "apparent_age_std"), "real": ("real_age",)}  # age and σ
ENDINGS = {"original": "", "face": "_face.jpg"}  # of a picture's file, after the name that lists have


class AppaReal(FaceSet):
    """The age is the mean of about 38 guesses, with their σ (`apparent`, the default), or the real one (`real`, no σ).

    Splits as released; papers report MAE on val or test against either age, so say which. `picture`: the photograph
    (`original`, for which a detector is needed) or the set's own upright crop with a margin of 40 % (`face`; some show
    another person, or no face). `ignore`: a list of bad pictures of train to leave out; those of val and test stay, so
    that numbers compare. The pictures are likely those of ChaLearn 2016: do not train on one and test on the other.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=age) for age in COLUMNS]  # noqa: RUF012
    NEEDS = "the folder `appa-real-release` (with `gt_avg_train.csv` and `train` inside)"
    OPTIONS = {"picture": "original", "ignore": ""}  # noqa: RUF012
    EXPECTED = {"train": 4_113, "val": 1_500, "test": 1_978}  # noqa: RUF012
    HOMEPAGE = "https://chalearnlap.cvc.uab.cat/dataset/26/description/"
    CITATION = (
        "Agustsson, Timofte, Escalera, Baró, Guyon, Rothe: Apparent and real age estimation in still images with deep "
        "residual regressors on APPA-REAL database, FG 2017"
    )
    LICENCE = "research use; open download"

    def source(self) -> dict:
        lists = [self._there(name.format(folder)) for name in (LIST, PEOPLE) for folder in FOLDERS.values()]
        read = [file.read_bytes() for file in (*lists, Path(self.options["ignore"])) if file and file.is_file()]
        return super().source() | {"lists": hashlib.sha256(b"".join(read)).hexdigest()}

    def rows(self) -> list[Row]:
        if self.options["picture"] not in ENDINGS:
            raise DataError(f"appa_real: picture is {self.options['picture']!r}; give {' or '.join(ENDINGS)}")
        return [row for split in SPLITS for row in self._rows(split, FOLDERS[split])]

    def split_key(self, name: str) -> str:
        return key(Path(name).name).partition(".")[0]  # 000000.jpg_face.jpg: 000000

    def _rows(self, split: str, folder: str) -> Iterator[Row]:
        place, listed = self._there(folder), self._there(LIST.format(folder))
        if listed is None and place:
            raise DataError(f"no `{LIST.format(folder)}` beside {place}; --raw must name {self.NEEDS}")
        if listed is None:
            self.warn(f"neither pictures nor a list of {split}: the split is left out")
            return
        files, people, seen = by_name(pictures(place)) if place else {}, self._people(folder), {}
        ignored, columns = self._ignored() if split == "train" else set(), COLUMNS[self.builder_config.name]
        for line, cells in read_columns(listed, "file_name", *columns):
            if not cells:
                self.skip(f"{listed.name} line {line}", "not as many cells as the header", bad=True)
                continue
            name, values = cells["file_name"], [number(cells[column]) for column in columns]
            picture, id = self.split_key(name), f"{folder}/{name}{ENDINGS[self.options['picture']]}"
            if seen.setdefault(picture, line) != line or math.isnan(values[0]):
                again = f"listed in line {seen[picture]} already" if seen[picture] != line else f"no {columns[0]}"
                self.skip(id, f"{listed.name} line {line}: {again}", bad=True)
            elif picture in ignored:
                self.skip(id, f"is in the list {self.options['ignore']}")
            else:
                labels = dict(zip(("age", "sigma"), values)) | people.get(picture, {})
                yield Row(id, split, files.get(key(Path(id).name), listed.parent / id), labels)
        for file in files.values():
            if self.split_key(file.name) not in seen:
                self.skip(f"{folder}/{file.name}", f"not in {listed.name}")
        if absent := ignored - seen.keys():
            self.warn(f"{len(absent)} names in {self.options['ignore']} are not in train, as {min(absent)}")

    def _there(self, name: str) -> Path | None:
        return entry(find_root(self.raw, self.NEEDS, LIST.format("train")), name)

    def _ignored(self) -> set[str]:
        rows = read_rows(Path(self.options["ignore"])) if self.options["ignore"] else []
        return {self.split_key(cells[0]) for _, cells in rows if key(cells[0]) != "img_name"}

    def _people(self, folder: str) -> dict[str, dict]:
        """Number of a picture → gender and ethnicity, where the set's file of them is there."""
        listed = self._there(PEOPLE.format(folder))
        table = read_columns(listed, "file", "gender") if listed else []
        known = {self.split_key(cells["file"]): cells for _, cells in table if cells}
        genders = {picture: key(cells["gender"]) for picture, cells in known.items()}
        return {
            picture: {"gender": genders[picture] * (genders[picture] in GENDERS), "ethnicity": cells.get("race", "")}
            for picture, cells in known.items()
        }
