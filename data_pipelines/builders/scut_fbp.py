"""SCUT-FBP: 500 portraits of Asian women with attractiveness scores from 1 to 5."""

import itertools
import re
import statistics
from pathlib import Path

from data_pipelines.folders import entry, find_root, pictures
from data_pipelines.formats.sheets import number, read_records, readable_sheets
from data_pipelines.records.face_set import DataError, FaceSet, Row, split_by_hash, tfds
from data_pipelines.splits import random_split

NAME = re.compile(r"SCUT-FBP-(\d+)\.\w+", re.IGNORECASE)
PICTURES, RATINGS = "Data_Collection", "Rating_Collection"
LABELS = ("Attractiveness*label.xlsx", "Attractiveness*label.csv")
MEAN = "attractivenesslabel"
SIGMA = re.compile(r"(standard|std|st)?dev(iation)?|std|sd|sigma")  # headers of σ, as sheets.word() has them
VOTES, AGREED, TYPOS = range(1, 6), 0.05, 0.02  # the mean of all but 2 % of the pictures' votes must be their score


class ScutFbp(FaceSet):
    """SCUT-FBP: mean score and, where the label file has it or a workbook of votes lies beside it, σ of the votes.

    The votes' σ (ddof = 1) is taken only where their means are the given scores. Splits: train 80 %, val 10 %, test
    10 % by a hash of the name. Protocols `rs_0` … `rs_4`: random 400/100.
    """

    VERSION = tfds.core.Version("1.0.0")
    NEEDS = f"the SCUT-FBP folder (with `{PICTURES}` and `{RATINGS}` inside)"
    TRAINS = "attractiveness"
    EXPECTED = {"all": 500, "rs_0:train": 400, "rs_0:test": 100}  # noqa: RUF012
    HOMEPAGE = "http://www.hcii-lab.net/data/SCUT-FBP/EN/introduce.html"
    CITATION = "Xie, Liang, Jin, Xu, Li: SCUT-FBP: a benchmark dataset for facial beauty perception, SMC 2015"
    LICENCE = "non-commercial research only"

    def rows(self) -> list[Row]:
        root = find_root(self.raw, self.NEEDS, (PICTURES, "SCUT-FBP-*"), (RATINGS, *LABELS))
        ratings = entry(root, RATINGS) or root
        scores, rows = self._scores(ratings), {}
        for file in pictures(entry(root, PICTURES) or root, recursive=True):
            match = NAME.fullmatch(file.name)
            if not match:
                self.skip(file.name, "the name is not SCUT-FBP-<number>.jpg")
            elif (picture := int(match[1])) not in scores:
                self.skip(file.name, "no score from 1 to 5 in the label file")
            elif picture in rows:
                self.skip(file.name, f"picture {picture} is there already: {rows[picture].id}")
            else:
                rows[picture] = Row(file.name, "", file, scores[picture])
        for absent in sorted(scores.keys() - rows.keys()):
            self.skip(f"SCUT-FBP-{absent}.jpg", "file not found, though it has a score")
        rows = [rows[picture] for picture in sorted(rows)]
        return split_by_hash(rows, [row.id for row in rows], {"train": 0.80, "val": 0.10, "test": 0.10})

    def protocols(self, rows: list[Row]) -> dict[str, list[str]]:
        ids = [row.id for row in rows]
        return {f"rs_{i}": random_split(ids, {"train": 0.8, "test": 0.2}, seed=i) for i in range(5)}

    def _scores(self, folder: Path) -> dict[int, dict]:
        """Picture → its labels."""
        file = entry(folder, *LABELS)
        if file is None:
            raise DataError(f"no `Attractiveness label.xlsx` in {folder}; it holds the scores of SCUT-FBP")
        records = read_records(file, "Image", "Attractiveness label", sheets=("Sheet1", "*"))
        table = {_picture(cells["image"]): cells for _, cells in records}
        table.pop(-1, None)  # an average below the list
        means = {picture: mean for picture, cells in table.items() if 1 <= (mean := number(cells[MEAN])) <= 5}
        named = next((name for name in next(iter(table.values()), {}) if SIGMA.fullmatch(name)), None)
        sigmas = {picture: number(table[picture][named]) for picture in means} if named else self._votes(file, means)
        if not sigmas:
            self.warn(f"no σ: {file.name} has no column of it, and no workbook beside it holds the votes of its scores")
        same = {"gender": "female", "ethnicity": "Asian"}
        return {
            picture: same | {"attractiveness": mean, "attractiveness_sigma": sigmas.get(picture, float("nan"))}
            for picture, mean in means.items()
        }

    def _votes(self, labels: Path, means: dict[int, float]) -> dict[int, float]:
        """Picture → σ of its votes, from a table of pictures by raters, or raters by pictures, beside the labels."""
        for file, table in readable_sheets(labels.parent, labels):
            for rows in (table, itertools.zip_longest(*table, fillvalue="")):
                votes = {_picture(first): [v for v in map(number, cells) if v in VOTES] for first, *cells in rows}
                votes = {picture: given for picture, given in votes.items() if picture in means and len(given) > 1}
                far = [abs(statistics.fmean(given) - means[picture]) > AGREED for picture, given in votes.items()]
                if len(votes) > len(means) / 2 and sum(far) <= TYPOS * len(votes):
                    self.warn(f"σ is that of the votes in {file.name}")
                    return {picture: statistics.stdev(given) for picture, given in votes.items()}
        return {}


def _picture(cell) -> int:
    """The number in `1`, `1.0` or `SCUT-FBP-1.jpg`; -1 where there is none."""
    value = number(cell)
    digits = re.search(r"\d+", str(cell))
    return int(value) if value.is_integer() else int(digits[0]) if digits else -1
