"""Chicago Face Database (CFD): studio portraits with norming data, releases 2.x and 3.0."""

import re
from pathlib import Path

from data_pipelines.folders import entry, find_root, pictures
from data_pipelines.formats.sheets import number, read_records
from data_pipelines.records.face_set import FaceSet, Row, split_by_hash, tfds
from data_pipelines.splits import random_split

NAME = re.compile(r"CFD-([ABLWMI][FM])-(\d+)-(\d+)(?:-(\d+))?-(N|A|F|HC|HO)\.jpe?g", re.IGNORECASE)
MODEL = re.compile(r"([A-Z][FM])-?(\d+)(?:-(\d+))?")  # of the workbook: AF-200, and IF601-519 for India
WORKBOOKS = ("CFD*Norming*.xlsx", "*Norming*.xlsx")
SHEETS = {
    "main": ("CFD U.S. Norming Data", "CFD [0-9]* Norming Data"),
    "mr": ("CFD-MR U.S. Norming Data",),
    "india": ("CFD-I U.S. Norming Data",),
}
MODELS = {"main": "ABLW", "mr": "M", "india": "I"}  # first letters of their names
GENDERS = {"F": "female", "M": "male"}
RACES = {"A": "Asian", "B": "Black", "L": "Latino", "W": "White", "M": "Multiracial", "I": "Indian"}


class Cfd(FaceSet):
    """Chicago Face Database: mean attractiveness (1 to 7) and mean guessed age of each model's neutral portrait.

    Configs: `main` (default, 597 models), `mr` (multiracial, 88), `india` (142, the ratings by Americans). They are
    never mixed: the question differs. In 3.0 the main set's column Attractive is R013, relative to people of the same
    race and gender; R013B asks about the person alone. σ is taken where a column without a name follows (3.0), else
    it is not known. Other expressions than neutral are left out: nobody rated them. Splits: train 80 %, val 10 %, test
    10 % by a hash of the model. Protocols `rs_0` … `rs_4`: random 80/20.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in MODELS]  # noqa: RUF012
    NEEDS = "the `CFD Version …` folder (with the pictures and `CFD … Norming Data and Codebook.xlsx` inside)"
    TRAINS = "attractiveness"
    HOMEPAGE = "https://www.chicagofaces.org"
    CITATION = (
        "Ma, Correll, Wittenbrink: The Chicago face database, Behavior Research Methods 2015 (MR 2020, India 2020)"
    )
    LICENCE = "free for research after registration, not to be passed on"

    @property
    def EXPECTED(self) -> dict[str, int]:
        return {"all": {"main": 597, "mr": 88, "india": 142}[self.builder_config.name]}

    def rows(self) -> list[Row]:
        root, name = find_root(self.raw, self.NEEDS, WORKBOOKS), self.builder_config.name
        mine = []
        for file in pictures(root, recursive=True):
            if not (match := NAME.fullmatch(file.name)):
                self.skip(file.name, "the name is not CFD-<model>-<picture>-<expression>.jpg")
            elif match[1][0].upper() in MODELS[name]:
                mine.append((file, match))
        neutral = [(file, match) for file, match in mine if match[5].upper() == "N"]
        if len(neutral) < len(mine):
            self.warn(f"{len(mine) - len(neutral)} pictures that are not neutral are left out: nobody rated them")
        norms, found = self._norms(entry(root, *WORKBOOKS)), {}
        for file, match in sorted(neutral, key=lambda pair: (pair[1][4] or "", pair[0].name)):  # replicates last
            letters, model, picture, replicate, _ = match.groups()
            parts = (picture if name == "india" else replicate, 0)
            keys = [(letters.upper(), int(model), int(part or 0)) for part in parts]
            known = next((key for key in keys if key in norms), None)
            if known is None:
                self.skip(file.name, "no rating from 1 to 7 for it in the norming data")
            elif known in found:
                self.skip(file.name, f"another neutral picture of the model in {found[known].id}")
            else:
                found[known] = Row(file.name, "", file, norms[known])
        for letters, model, part in sorted(norms.keys() - found.keys()):
            self.skip(f"CFD-{letters}-{model:03d}" + f"-{part}" * (part > 0), "rated, but there is no neutral picture")
        rows = sorted(found.values(), key=lambda row: row.id)
        return split_by_hash(rows, [row.id for row in rows], {"train": 0.80, "val": 0.10, "test": 0.10})

    def protocols(self, rows: list[Row]) -> dict[str, list[str]]:
        ids = [row.id for row in rows]
        return {f"rs_{i}": random_split(ids, {"train": 0.8, "test": 0.2}, seed=i) for i in range(5)}

    def _norms(self, file: Path) -> dict[tuple[str, int, int], dict]:
        """Model (letters, number, its second number or 0) → labels."""
        norms = {}
        for _, cells in read_records(file, "Attractive", sheets=SHEETS[self.builder_config.name]):
            match = MODEL.fullmatch(str(cells.get("model") or cells.get("target")).upper())
            if not match or not 1 <= number(cells["attractive"]) <= 7:
                continue
            gender = str(cells.get("genderself") or cells.get("gender") or match[1][1]).upper()
            race = str(cells.get("ethnicityself") or cells.get("race") or match[1][0])
            norms[match[1], int(match[2]), int(match[3] or 0)] = {
                "attractiveness": number(cells["attractive"]),
                "attractiveness_sigma": number(cells.get("attractive_")),  # the blank column beside it
                "age": number(cells.get("agerated", cells.get("age"))),
                "sigma": number(cells.get("agerated_")),
                "gender": GENDERS.get(gender[:1], ""),
                "ethnicity": RACES.get(race.upper(), race),
            }
        return norms
