"""AT&T faces (ORL): ten grey photographs each of 40 people, without ages."""

import collections
import re

from data_pipelines.folders import entries, find_root, pictures
from data_pipelines.records.face_set import FaceSet, Row, number_identities, tfds
from data_pipelines.splits import place

PERSON, PICTURE = re.compile(r"s(\d+)", re.IGNORECASE), re.compile(r"\d+")


class AttFaces(FaceSet):
    """AT&T faces: identities only.

    Splits: of each person's pictures one is val and one is test, by a hash of the name, and the others are train (8/1/1
    of ten): everybody is in every split, as identification needs it. Who has fewer than three pictures is in train.
    """

    VERSION = tfds.core.Version("1.0.0")
    NEEDS = "the att_faces folder (with `s1` … `s40` inside)"
    TRAINS = "identity"
    EXPECTED = {"all": 400, "train": 320, "val": 40, "test": 40}  # noqa: RUF012
    HOMEPAGE = "https://cam-orl.co.uk/facedatabase.html"
    CITATION = "Samaria, Harter: Parameterisation of a stochastic model for human face identification, WACV 1994"
    LICENCE = "free use, with credit to Olivetti Research Laboratory (now AT&T Laboratories Cambridge)"

    def rows(self) -> list[Row]:
        people = collections.defaultdict(list)
        for folder in entries(find_root(self.raw, self.NEEDS, "s1")):
            match = PERSON.fullmatch(folder.name)
            for file in pictures(folder) if match and folder.is_dir() else ():
                name = f"{folder.name}/{file.name}"
                if PICTURE.fullmatch(file.stem):
                    people[int(match[1])].append(Row(name, "train", file))
                else:
                    self.skip(name, "the name is not <number>.pgm")
        identities = number_identities(people)
        return [
            row._replace(labels={"identity": identities[person]})
            for person in sorted(people)
            for row in _split(people[person])
        ]


def _split(rows: list[Row]) -> list[Row]:
    """One person's rows, in the order of their numbers."""
    drawn = sorted(rows, key=lambda row: place(0, row.id))
    held_out = {drawn[0].id: "val", drawn[1].id: "test"} if len(rows) > 2 else {}
    ordered = sorted(rows, key=lambda row: int(row.file.stem))
    return [row._replace(split=held_out.get(row.id, "train")) for row in ordered]
