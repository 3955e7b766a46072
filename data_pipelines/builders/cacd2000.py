"""CACD2000, the Cross-Age Celebrity Dataset: 163,446 photographs of 2,000 celebrities."""

import hashlib
import unicodedata
from pathlib import Path

from data_pipelines.folders import entry, find_root, key, pictures
from data_pipelines.formats.matlab import read_struct, text
from data_pipelines.formats.sheets import number
from data_pipelines.records.face_set import FaceSet, Row, number_identities, tfds

META = ("celebrity2000_meta.mat", "celebrity2000.mat")
FOLDER = "CACD2000"
FIELDS = ("name", "age", "identity", "rank")


class Cacd2000(FaceSet):
    """CACD2000: age is the year of the search minus the year of birth, 14 to 62; identity is the celebrity. No σ.

    Splits by the celebrity's rank, as papers have them: above 5 train (1,800 people; noisy: wrong people and years are
    in it), 1 and 2 val (80), 3 to 5 test (120); only ranks 1 to 5 were checked by hand. Protocol `train_on_val`: the
    small clean val is the training set, test is the same; train is not used.
    """

    VERSION = tfds.core.Version("1.0.0")
    NEEDS = f"the folder that holds `{FOLDER}` and `{META[0]}`"
    EXPECTED = {"all": 163_446, "train": 145_275, "val": 7_600, "test": 10_571}  # noqa: RUF012
    HOMEPAGE = "https://bcsiriuschen.github.io/CARC/"
    CITATION = "Chen, Chen, Hsu: Cross-age reference coding for age-invariant face recognition and retrieval, ECCV 2014"
    LICENCE = "research only; direct download"

    def source(self) -> dict:
        return super().source() | {"meta": hashlib.sha256(self._meta().read_bytes()).hexdigest()}

    def rows(self) -> list[Row]:
        meta = self._meta()
        table = read_struct(meta, "celebrityImageData", *FIELDS)
        folder = entry(meta.parent, FOLDER) or meta.parent
        files, rows, unlisted = {}, {}, set()
        for file in pictures(folder, recursive=folder != meta.parent):
            unlisted.add(file)
            for spelling in _spellings(file.name):
                files.setdefault(spelling, file)
        for place, (name, *numbers) in enumerate(zip(*(table[field] for field in FIELDS)), start=1):
            name, (age, identity, rank) = unicodedata.normalize("NFC", text(name)), map(number, numbers)
            file = next((files[spelling] for spelling in _spellings(name) if spelling in files), folder / name)
            unlisted.discard(file)
            if not name or name in rows or not (rank >= 1 and identity >= 1 and age >= 0):
                why = "is there twice" if name in rows else f"has age {age:g}, rank {rank:g}, identity {identity:g}"
                self.skip(name or f"{meta.name} entry {place}", f"entry {place} of {meta.name} {why}", bad=True)
                continue
            if not name.startswith(f"{age:g}_"):
                self.warn(f"names and {meta.name} differ in age: that of {meta.name} is taken")
            split = "train" if rank > 5 else "test" if rank >= 3 else "val"
            rows[name] = Row(name, split, file, {"age": age, "identity": identity})
        for file in sorted(unlisted):
            self.skip(file.name, f"not in {meta.name}")
        order = number_identities(row.labels["identity"] for row in rows.values())
        return [row._replace(labels=row.labels | {"identity": order[row.labels["identity"]]}) for row in rows.values()]

    def protocols(self, rows: list[Row]) -> dict[str, list[str]]:
        return {"train_on_val": [{"train": "", "val": "train", "test": "test"}[row.split] for row in rows]}

    def split_key(self, name: str) -> str:
        return _ascii(unicodedata.normalize("NFKD", key(Path(name).stem)))  # lists have lost the accents

    def _meta(self) -> Path:
        root = find_root(self.raw, self.NEEDS, META)
        return entry(root, *META)


def _spellings(name: str) -> list[str]:
    """What is left of a name on its way: composed Unicode; accents taken off; letters that came out as others lost."""
    whole = key(name)
    return [whole] if whole.isascii() else [whole, _ascii(unicodedata.normalize("NFKD", whole)), _ascii(whole)]


def _ascii(name: str) -> str:
    return name.encode("ascii", "ignore").decode()
