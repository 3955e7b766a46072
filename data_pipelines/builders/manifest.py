"""Any set of face pictures that a CSV file lists."""

import hashlib

from data_pipelines.formats.table import read_table
from data_pipelines.records.face_set import FaceSet, Row, number_identities, tfds
from data_pipelines.splits import hash_split

SHARES = {"train": 0.80, "val": 0.10, "test": 0.10}


class Manifest(FaceSet):
    """Columns `path,age` and, where known, `sigma,identity,split,x1,y1,…,x5,y5,attractiveness,attractiveness_sigma,
    gender,ethnicity,box_x1,box_y1,box_x2,box_y2`.

    Paths are relative to the file's folder, or absolute. An empty cell means not known. Delimiter comma, semicolon or
    tab; UTF-8. Identities are any text, numbered in sorted order. Points are pixels of the upright picture (after its
    EXIF orientation): eyes, nose tip, mouth corners, left as seen in the picture first; a detector looks only where
    they are not given. The box, in the same pixels, says which of several faces is meant. Without `split`: train 80 %,
    val 10 %, test 10 % by a hash of the identity where it is given (nobody is in two splits), else of the path.
    """

    VERSION = tfds.core.Version("1.0.0")
    NEEDS = "a CSV file with at least the columns path and age"
    FOLDER = False
    MANY = True  # manifest/NAME: several files side by side
    MAX_BAD_SHARE = 0.01

    def source(self) -> dict:
        return {"file": self.raw.name, "sha256": hashlib.sha256(self.raw.read_bytes()).hexdigest()}

    def rows(self) -> list[Row]:
        table = [values for _, values in read_table(self.raw)]
        identities = number_identities({values["identity"] for values in table} - {""})
        groups = [values["identity"] or f"\0{values['path']}" for values in table]  # \0: a name is never a path
        drawn = hash_split(groups, SHARES)
        return [
            Row(
                values["path"],
                values["split"] or drawn[group],
                self.raw.parent / values["path"],
                values["labels"] | {"identity": identities.get(values["identity"], -1)},
                values["box"],
            )
            for values, group in zip(table, groups)
        ]
