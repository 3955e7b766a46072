"""FG-NET: 1,002 pictures of 82 people from birth to 69 years, from family albums."""

import re
from pathlib import Path

import numpy as np

from data_pipelines.folders import by_name, entries, entry, find_root, key, pictures, read_text
from data_pipelines.records.face_set import FaceSet, Row, number_identities, split_by_hash, tfds

NAME = re.compile(r"(\d{3})A(\d{2})[a-z]?\.jpe?g", re.IGNORECASE)
PUPILS, NOSE_TIP, MOUTH_CORNERS = (31, 36), 67, (48, 54)
NAMED = 5  # pictures without points that a warning names


class FgNet(FaceSet):
    """FG-NET: real age and person from the name, five points out of the set's 68, no σ.

    Splits: train 80 %, val 10 %, test 10 % of the people, by a hash. Protocols `lopo_001` … `lopo_082` leave one person
    out: that person is test, all others train; the published error is that of all 82 tests pooled.

    The 68 points are those of the older appearance models (XM2VTS, MUCT), not of iBUG: temples 0 and 14, chin 7, pupils
    31 and 36, mouth corners 48 and 54, nose tip 67. Points that are not in the order of an upright face are not taken.
    """

    name = "fgnet"
    VERSION = tfds.core.Version("1.0.0")
    NEEDS = "the FGNET folder (with `images` and `points` inside)"
    EXPECTED = {"all": 1_002}  # noqa: RUF012
    HOMEPAGE = "https://yanweifu.github.io/FG_NET_data/"
    CITATION = "Lanitis, Taylor, Cootes: Toward automatic simulation of aging effects on face images, TPAMI 2002"
    LICENCE = "research use"

    def rows(self) -> list[Row]:
        folder, rows = entry(self._root(), "points"), []
        points = by_name(entries(folder)) if folder else {}
        for file in pictures(entry(self._root(), "images")):
            if match := NAME.fullmatch(file.name):
                given = points.get(key(f"{file.stem}.pts"))
                labels = {"age": int(match[2]), "landmarks": given and five_points(given)}
                rows.append(Row(file.name, "", file, labels))
            else:
                self.skip(file.name, "the name is not <person>A<age>.jpg")
        if folder and (without := [row.id for row in rows if row.labels["landmarks"] is None]):
            self.warn(f"{len(without)} pictures have no usable points: {', '.join(without[:NAMED])}")
        identities = number_identities(map(_person, rows))
        rows = [row._replace(labels=row.labels | {"identity": identities[_person(row)]}) for row in rows]
        return split_by_hash(rows, map(_person, rows), {"train": 0.80, "val": 0.10, "test": 0.10})

    def protocols(self, rows: list[Row]) -> dict[str, list[str]]:
        people = [_person(row) for row in rows]
        return {
            f"lopo_{out}": ["test" if person == out else "train" for person in people] for out in sorted(set(people))
        }

    def _root(self) -> Path:
        return find_root(self.raw, self.NEEDS, "images")


def _person(row: Row) -> str:
    return row.id[:3]


def five_points(file: Path) -> np.ndarray | None:
    """(5, 2) pixels: pupils, nose tip, mouth corners, image-left first; None unless there are 68 points of a face."""
    values = read_text(file).partition("{")[2].partition("}")[0].split()
    try:
        points = np.array(values, np.float32).reshape(68, 2)[[*PUPILS, NOSE_TIP, *MOUTH_CORNERS]]
    except ValueError:
        return None
    x, y = points.T
    upright = x[0] < x[1] and x[3] < x[4] and y[:2].mean() < y[2] < y[3:].mean()
    return points if upright and np.isfinite(points).all() else None
