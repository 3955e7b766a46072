"""AFAD, the Asian Face Age Dataset: 164,432 small faces of 15 to 40 years and more; AFAD-Lite: 59,344 of 18 to 39."""

import re
from pathlib import Path

from data_pipelines.folders import entries, entry, find_root, key, read_text
from data_pipelines.records.face_set import DataError, FaceSet, Row, number_identities, split_by_hash, tfds
from data_pipelines.splits import random_split

NAME = re.compile(r"(\d+)-(\d+)\.jpe?g", re.IGNORECASE)
PLACE = re.compile(r"(\d{1,3}/11[12])/[^/]+\.jpe?g", re.IGNORECASE)
AGE = "[0-9][0-9]"
GENDERS = {"111": "male", "112": "female"}
SHARES = {"train": 0.80, "val": 0.10, "test": 0.10}


class Afad(FaceSet):
    """Real age and gender from the folders; no points, no σ. Many faces are below 100 px, and ages are noisy.

    The identity is the number before the hyphen, as others take it; it may also be the number of a profile or a
    photograph with several people. Our splits: 80/10/10 by its hash, so that no number is in two. Protocol
    `rs80_20`: random faces, train 80 %, test 20 %. AFAD-Lite can be prepared beside the full set, as `afad/lite`.
    """

    VERSION = tfds.core.Version("1.0.0")
    NEEDS = "the folder `AFAD-Full` or `AFAD-Lite`, with <age>/<111 or 112>/<number>-<number>.jpg"
    MANY = True
    HOMEPAGE = "https://afad-dataset.github.io"
    CITATION = "Niu, Zhou, Wang, Gao, Hua: Ordinal regression with multiple output CNN for age estimation, CVPR 2016"
    LICENCE = "academic use only"

    @property
    def EXPECTED(self) -> dict[str, int]:
        return {"all": 59_344 if "lite" in key(self._root().resolve().name) else 164_432}

    def source(self) -> dict:
        folders = [folder for age in entries(self._root()) if age.is_dir() for folder in entries(age)]
        return super().source() | {"faces": sum(len(entries(folder)) for folder in folders if folder.is_dir())}

    def rows(self) -> list[Row]:
        root, found = self._root(), []
        for age in (folder for folder in entries(root) if folder.is_dir()):
            for gender in entries(age):
                if age.name.isdecimal() and gender.name in GENDERS and gender.is_dir():
                    found += [(file, f"{age.name}/{gender.name}/{file.name}") for file in entries(gender)]
                else:
                    self.skip(f"{age.name}/{gender.name}", "not a folder <age>/<111 or 112>")
        self._skip_absent(root, {key(id_) for _, id_ in found})
        numbers, rows = [], []
        for file, id_ in found:
            if match := NAME.fullmatch(file.name):
                numbers.append(int(match[1]))
                age, gender = id_.split("/")[:2]
                rows.append(Row(id_, "", file, {"age": int(age), "gender": GENDERS[gender]}))
            else:
                self.skip(id_, "the name is not <number>-<number>.jpg")
        identities = number_identities(numbers)
        for number, row in zip(numbers, rows):
            row.labels["identity"] = identities[number]
        return split_by_hash(rows, map(str, numbers), SHARES)

    def protocols(self, rows: list[Row]) -> dict[str, list[str]]:
        return {"rs80_20": random_split([row.id for row in rows], {"train": 0.8, "test": 0.2})}

    def split_key(self, name: str) -> str:
        """Age, gender and name: `15/111/638660-1`."""
        return key("/".join(Path(name).with_suffix("").parts[-3:]))

    def _root(self) -> Path:
        folders = [self.raw, *(folder for folder in entries(self.raw) if folder.is_dir())]
        try:
            return find_root(self.raw, self.NEEDS, AGE)
        except DataError:
            if piece := next((piece for folder in folders if (piece := entry(folder, "*.tar.xz*"))), None):
                whole = piece.name.partition(".tar.xz")[0] + ".tar.xz"
                join = "" if key(piece.name) == key(whole) else f"cat {whole}?? > {whole} && "
                raise DataError(f"{self.name}: {piece} is still packed: `{join}tar xf {whole}` there") from None
            raise

    def _skip_absent(self, root: Path, there: set[str]) -> None:
        """Lists what AFAD-Full.txt has, in lines as ./15/111/1-0.jpg, and the folder lacks."""
        listed = entry(root, "AFAD*.txt")
        for line in read_text(listed).splitlines() if listed else ():
            name = line.strip().removeprefix("./")
            if PLACE.fullmatch(name) and key(name) not in there:
                self.skip(name, f"in {listed.name}, but not there")
