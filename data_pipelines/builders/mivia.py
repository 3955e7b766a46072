"""MIVIA Age, the data of the contest Guess The Age 2021: 575,073 face crops, mostly of celebrities."""

import hashlib
import math
from pathlib import Path

from data_pipelines.folders import PICTURES, by_name, entry, find_root, key, pictures, read_rows
from data_pipelines.formats.sheets import number
from data_pipelines.records.face_set import FaceSet, Row, tfds
from data_pipelines.splits import random_split

NAME = "training_caip_contest"  # of the list and of the folder
SHARES = {"train": 0.80, "val": 0.20}


class Mivia(FaceSet):
    """MIVIA Age: age in whole years (half up), from real numbers that networks gave, not people. No identity, no σ.

    The truth of its test set is not public. Our splits: a seeded random 4:1 by image, as papers use, train and val;
    protocol `stratified`: 4:1 within each year of age. The more than 9,000 people (of VGGFace2) are not named: they are
    on both sides. `rounded=false`: ages as they are written.
    """

    VERSION = tfds.core.Version("1.0.0")
    NEEDS = f"the folder that holds `{NAME}.csv` and the folder `{NAME}`"
    OPTIONS = {"rounded": True}  # noqa: RUF012
    EXPECTED = {"all": 575_073, "train": 460_058, "val": 115_015}  # noqa: RUF012
    HOMEPAGE = "https://gta2021.unisa.it"
    CITATION = (
        "Greco, Saggese, Vento, Vigilante: Effective training of convolutional neural networks for age estimation "
        "based on knowledge distillation, Neural Computing and Applications 2021"
    )
    LICENCE = "likely research only; on request after registration"

    def source(self) -> dict:
        return super().source() | {"list": hashlib.sha256(self._list().read_bytes()).hexdigest()}

    def rows(self) -> list[Row]:
        listed, rows = self._list(), {}
        folder = entry(listed.parent, NAME) or listed.parent
        files = by_name(pictures(folder, recursive=folder != listed.parent))
        for line, cells in read_rows(listed):
            name, age = cells[0], number(cells[1]) if len(cells) == 2 else math.nan
            if not rows and math.isnan(age) and not key(name).endswith(PICTURES):
                continue  # a header, which the set's own file lacks
            file = files.pop(key(Path(name).name), folder / name)
            if name in rows or not math.isfinite(age):
                why = "lists the picture again" if name in rows else f"is not `file name,age`: {','.join(cells)}"
                self.skip(name, f"{listed.name} line {line} {why}", bad=True)
            else:
                age = math.floor(age + 0.5) if self.options["rounded"] else age
                rows[name] = Row(name, "", file, {"age": age})
        for file in files.values():
            self.skip(file.name, f"not in {listed.name}")
        splits = random_split(list(rows), SHARES)
        return [row._replace(split=split) for row, split in zip(rows.values(), splits)]

    def protocols(self, rows: list[Row]) -> dict[str, list[str]]:
        years = [math.floor(row.labels["age"] + 0.5) for row in rows]
        return {"stratified": random_split([row.id for row in rows], SHARES, strata=years)}

    def _list(self) -> Path:
        return entry(find_root(self.raw, self.NEEDS, f"{NAME}.csv"), f"{NAME}.csv")
