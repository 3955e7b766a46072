"""AgeDB: 16,488 photographs from the web of 567 known people of 1 to 101 years."""

import re
from collections import defaultdict
from pathlib import Path

from data_pipelines.folders import entries, find_root, key
from data_pipelines.records.face_set import FaceSet, Row, number_identities, split_by_hash, tfds

NAME = re.compile(r"(\d+)_([^_]+)_(\d+)_([mf])\.jpe?g", re.IGNORECASE)
SHARES = {"train": 0.80, "val": 0.10, "test": 0.10}
GENDERS = {"m": "male", "f": "female"}


class AgeDb(FaceSet):
    """Real age, gender and name from the file name; no points, no σ. The name is the identity.

    Our splits: 80/10/10 by a hash of the name, so that nobody is in two. Published lists (option `splits`) join on the
    number that a file name starts with: accented names come out of the archive in whatever way it was unpacked.
    """

    name = "agedb"
    VERSION = tfds.core.Version("1.0.0")
    NEEDS = "the folder `AgeDB` with <number>_<Name>_<age>_<m|f>.jpg"
    EXPECTED = {"all": 16_488}  # noqa: RUF012
    HOMEPAGE = "https://ibug.doc.ic.ac.uk/resources/agedb/"
    CITATION = (
        "Moschoglou, Papaioannou, Sagonas, Deng, Kotsia, Zafeiriou: AgeDB: The first manually collected, in-the-wild "
        "age database, CVPR Workshops 2017"
    )
    LICENCE = "research only; archive and password on request"

    def source(self) -> dict:
        return super().source() | {"photographs": len(entries(self._root()))}

    def rows(self) -> list[Row]:
        found, genders = [], defaultdict(set)
        for file in entries(self._root()):
            if match := NAME.fullmatch(file.name):
                found.append((int(match[1]), key(match[2]), file, int(match[3]), GENDERS[match[4].lower()]))
                genders[key(match[2])].add(found[-1][-1])
            else:
                self.skip(file.name, "the name is not <number>_<Name>_<age>_<m|f>.jpg")
        if both := [name for name, known in genders.items() if len(known) > 1]:
            self.warn(f"{len(both)} names are listed as female and as male, as {', '.join(both[:4])}")
        found.sort()
        identities = number_identities(genders)
        rows = [
            Row(file.name, "", file, {"age": age, "gender": gender, "identity": identities[name]})
            for _, name, file, age, gender in found
        ]
        return split_by_hash(rows, (name for _, name, *_ in found), SHARES)

    def split_key(self, name: str) -> str:
        """The number, without zeros in front."""
        match = NAME.fullmatch(Path(name).name)
        return str(int(match[1])) if match else super().split_key(name)

    def _root(self) -> Path:
        return find_root(self.raw, self.NEEDS, "[0-9]*_*_*_[fm].jp*g")
