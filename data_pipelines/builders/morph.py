"""MORPH II, Album 2: 55,134 mug shots of 13,617 people of 16 to 77 years."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.builders.morph_protocols import morph_protocols
from data_pipelines.folders import by_name, entries, entry, find_root, key, read_columns, read_rows
from data_pipelines.records.face_set import FaceSet, Row, number_identities, split_by_hash, tfds

NAME = re.compile(r"(?P<id_num>\d+)_(?P<number>\d+)(?P<gender>[MF])(?P<age>\d+)\.jpe?g", re.IGNORECASE)
ALBUM, LIST = "Album2", "morph_2008_nonCommercial.csv"
GENDERS = {"M": "male", "F": "female"}
RACES = {"B": "Black", "W": "White", "H": "Hispanic", "A": "Asian", "I": "American Indian", "O": "Other"}


class Morph(FaceSet):
    """Real age, gender, race and identity; no points, no σ. One person's photographs in the order of their numbers.

    Our splits: 80/10/10 by a hash of the person, so that nobody is in two. The papers' protocols, drawn anew, train and
    test only: `rs_0` … `rs_4` photographs in five folds, the same people on both sides; `caucasian_0` … `_4` so with
    5,475 photographs of White people (4,380 / 1,095); `se_0` … `_4` people in five folds; `three_sets_1`, `_2` (Guo &
    Mu): S1 and S2, Black:White 1:1 and male:female 3:1, as large as can be: train on one, test on all the rest.
    """

    VERSION = tfds.core.Version("1.0.0")
    NEEDS = f"the folder that holds `{ALBUM}` and {LIST}"
    EXPECTED = {"all": 55_134, "rs_0:test": 11_027, "caucasian_0:train": 4_380, "caucasian_0:test": 1_095}  # noqa: RUF012
    HOMEPAGE = "https://uncw.edu/oic/tech/morph.html"
    CITATION = "Ricanek, Tesafaye: MORPH: A longitudinal image database of normal adult age-progression, FG 2006"
    LICENCE = "likely research only, under a paid or signed licence; no redistribution"

    def source(self) -> dict:
        album, listed = self._album_and_list()
        digest = hashlib.sha256(listed.read_bytes()).hexdigest() if listed else ""
        return super().source() | {"list": digest, "photographs": len(entries(album))}

    def rows(self) -> list[Row]:
        album, listed = self._album_and_list()
        files = by_name(entries(album))
        for file in sorted(set(entries(album)) - set(files.values())):
            self.skip(f"{ALBUM}/{file.name}", "another file differs in case only")
        pairs = self._listed(listed, files) if listed else [(file, {}) for file in files.values()]
        found = sorted(filter(None, (self._labelled(*pair) for pair in pairs)), key=lambda each: each[:3])
        self._warn(found, listed)
        identities = number_identities(person for person, *_ in found)
        for person, _, _, labels, _ in found:
            labels["identity"] = identities[person]
        rows = [Row(f"{ALBUM}/{file.name}", "", file, labels) for _, _, file, labels, _ in found]
        return split_by_hash(rows, (person for person, *_ in found), {"train": 0.80, "val": 0.10, "test": 0.10})

    def protocols(self, rows: list[Row]) -> dict[str, list[str]]:
        return morph_protocols(rows)

    def _album_and_list(self) -> tuple[Path, Path | None]:
        root = find_root(self.raw, self.NEEDS, ALBUM)
        return entry(root, ALBUM), entry(root, LIST, "*noncommercial*.csv")

    def _listed(self, listed: Path, files: dict[str, Path]) -> Iterator[tuple[Path, dict]]:
        """A file and its cells for each line of the CSV, whose column `photo` decides the file."""
        lines, seen = read_rows(listed)[1:], set()
        for (line, cells), (_, values) in zip(lines, read_columns(listed, "id_num", "age", "photo")):
            where = f"{listed.name} line {line}"
            photo = values.get("photo") or next((cell for cell in cells if NAME.search(cell)), where)
            name = key(photo.replace("\\", "/").rpartition("/")[2])
            file = files.pop(name, None)
            if file and values:
                yield file, values
            elif values:
                self.skip(photo, f"{where}: " + ("listed before" if name in seen else "listed, but not there"))
            else:
                self.skip(photo, f"{where}: {len(cells)} cells, unlike the header")
            seen.add(name)
        for file in files.values():
            self.skip(f"{ALBUM}/{file.name}", f"not in {listed.name}")

    def _labelled(self, file: Path, cells: dict) -> tuple | None:
        """(person, number of the photograph, file, labels, age in the name); the name fills in what the cells lack."""
        match = NAME.fullmatch(file.name)
        named = match.groupdict() if match else {}
        values = named | {name: cell for name, cell in cells.items() if cell and (name != "age" or cell.isdecimal())}
        if not {"id_num", "age"} <= values.keys():
            self.skip(f"{ALBUM}/{file.name}", "no age: the name is not <person>_<number><M|F><age>.JPG")
            return None
        age, gender, race = int(values["age"]), values.get("gender", "").upper(), values.get("race", "").upper()
        labels = {"age": age, "gender": GENDERS.get(gender, ""), "ethnicity": RACES.get(race, race)}
        person, number = values["id_num"].lstrip("0").zfill(6), int(named.get("number", 0))
        return person, number, file, labels, int(named.get("age", age))

    def _warn(self, found: list[tuple], listed: Path | None) -> None:
        known = Counter(person for person, gender in {(each[0], each[3]["gender"]) for each in found} if gender)
        if both := [person for person, genders in sorted(known.items()) if genders > 1]:
            self.warn(f"{len(both)} people are listed as female and as male, as {', '.join(both[:4])}")
        if other := [file.name for _, _, file, labels, age in found if labels["age"] != age]:
            self.warn(f"{len(other)} ages are not those in the names, as {other[0]}: {listed.name} is taken")
        if listed is None:
            self.warn(f"no {LIST}: race is not known, and `caucasian` and `three_sets` are left out")
