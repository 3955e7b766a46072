"""SCUT-FBP5500: 5,500 portraits with the attractiveness votes, 1 to 5, of 60 people."""

import collections
import re
from pathlib import Path

import numpy as np

from data_pipelines.folders import entry, find_root, pictures, read_text
from data_pipelines.formats.sheets import number, read_records
from data_pipelines.records.face_set import FaceSet, Row, split_by_hash, tfds

NAME = re.compile(r"(AF|AM|CF|CM|fty|mty|ftw|mtw)(\d+)", re.IGNORECASE)
GROUPS = {"fty": "AF", "mty": "AM", "ftw": "CF", "mtw": "CM"}  # of older files: female or male, yellow or white
GENDERS, ETHNICITIES = {"F": "female", "M": "male"}, {"A": "Asian", "C": "Caucasian"}
FOLDS, HALVES = "5_folders_cross_validations_files", "split_of_60*"
RATINGS = "All_Ratings.xlsx"
AGREED = 0.01  # how far a list's score may be from the mean of the votes


class ScutFbp5500(FaceSet):
    """SCUT-FBP5500: mean and σ (ddof = 1) of the 60 votes, gender and ethnicity from the name.

    Splits: train 80 %, val 10 %, test 10 % by a hash of the name. Protocols, from the set's own lists: `cv_1` … `cv_5`
    (4,400/1,100) and `p60_40` (3,300/2,200), by image. The 86 landmarks are not used: the set does not say what each
    is, and people who looked disagree on whether the nose tip is among them; the five points are a detector's.
    """

    VERSION = tfds.core.Version("1.0.0")
    NEEDS = f"the SCUT-FBP5500_v2 folder (with `Images` and `{RATINGS}` inside)"
    TRAINS = "attractiveness"
    EXPECTED = {"all": 5_500, "p60_40:train": 3_300, "p60_40:test": 2_200} | {
        f"cv_{i}:{split}": count for i in range(1, 6) for split, count in (("train", 4_400), ("test", 1_100))
    }
    HOMEPAGE = "https://github.com/HCIILAB/SCUT-FBP5500-Database-Release"
    CITATION = "Liang, Lin, Jin, Xie, Li: SCUT-FBP5500: a diverse benchmark dataset for facial beauty, ICPR 2018"
    LICENCE = "non-commercial research only"

    def rows(self) -> list[Row]:
        scores, rows = self._scores(entry(self._root(), RATINGS)), []
        for file in pictures(entry(self._root(), "Images")):
            stem = self.split_key(file.name)
            if not NAME.fullmatch(stem):
                self.skip(file.name, "the name is not AF, AM, CF or CM and a number")
            elif stem not in scores:
                self.skip(file.name, f"no vote for it in {RATINGS}")
            else:
                labels = scores.pop(stem) | {"gender": GENDERS[stem[1]], "ethnicity": ETHNICITIES[stem[0]]}
                rows.append(Row(file.name, "", file, labels))
        for absent in scores:
            self.skip(f"{absent}.jpg", "file not found, though there are votes for it")
        return split_by_hash(rows, [row.id for row in rows], {"train": 0.80, "val": 0.10, "test": 0.10})

    def protocols(self, rows: list[Row]) -> dict[str, list[str]]:
        means = {self.split_key(row.id): row.labels["attractiveness"] for row in rows}
        result = {}
        for protocol, listed in self._lists().items():
            if far := sum(abs(score - means.get(stem, score)) > AGREED for stem, (_, score) in listed.items()):
                self.warn(f"{protocol}: {far} listed scores are not the means of the votes: are the names other faces?")
            if absent := len(listed.keys() - means.keys()):
                self.warn(f"{protocol}: {absent} listed pictures are not there")
            result[protocol] = [listed.get(stem, ("", 0))[0] for stem in means]
        return result

    def split_key(self, name: str) -> str:
        """`AF12` for AF12.jpg, af12.JPG and the older fty12.jpg."""
        stem = Path(name).stem
        match = NAME.fullmatch(stem)
        return f"{GROUPS.get(match[1].lower(), match[1].upper())}{int(match[2])}" if match else stem

    def _root(self) -> Path:
        return find_root(self.raw, self.NEEDS, "Images", RATINGS)

    def _scores(self, file: Path) -> dict[str, dict]:
        """split_key → mean and σ of the votes."""
        votes, wrong = collections.defaultdict(list), 0
        for _, cells in read_records(file, "Filename", "Rating", sheets=("ALL", "*")):
            vote = number(cells["rating"])
            if 1 <= vote <= 5:
                votes[self.split_key(str(cells["filename"]))].append(vote)
            wrong += not 1 <= vote <= 5
        if wrong:
            self.warn(f"{wrong} rows of {file.name} have no Rating from 1 to 5 and do not count")
        means = {stem: {"attractiveness": float(np.mean(given))} for stem, given in votes.items()}
        sigmas = {stem: float(np.std(given, ddof=1)) for stem, given in votes.items() if len(given) > 1}
        return {stem: mean | {"attractiveness_sigma": sigmas.get(stem, np.nan)} for stem, mean in means.items()}

    def _lists(self) -> dict[str, dict[str, tuple[str, float]]]:
        """Protocol → split_key → split and score."""
        top, lists = entry(self._root(), "train_test_files") or self._root(), {}
        folds = entry(top, FOLDS)
        folders = {f"cv_{i}": folds and entry(folds, f"cross_validation_{i}") for i in range(1, 6)}
        for protocol, folder in (folders | {"p60_40": entry(top, HALVES)}).items():
            for split in ("train", "test") if folder else ():
                if file := entry(folder, f"{split}.txt", f"{split}_?.txt"):
                    lines = (line.split() for line in read_text(file).splitlines())
                    stems = {self.split_key(cells[0]): (split, number(cells[-1])) for cells in lines if cells}
                    lists[protocol] = lists.get(protocol, {}) | stems
        return lists
