"""What the sets for training who is who have in common: folders of people, record files, cleaned lists, thresholds.

They have up to 8 million images, so what the images of a person share is kept once.
"""

import abc
import collections
import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from data_pipelines import align, schema
from data_pipelines.folders import PICTURES, entries, entry, fingerprint, read_text
from data_pipelines.formats import recordio
from data_pipelines.formats.clean_lists import image_key, list_files, read_list
from data_pipelines.records.face_set import DataError, FaceSet, Row, number_identities
from data_pipelines.splits import place

ALIGNED = {("112", "112"): {"landmarks": align.ARCFACE_112.astype(np.float32)}}  # height, width → what is then known


class Face(NamedTuple):
    """An image as it was downloaded, and whose it is."""

    id: str
    person: object  # anything that sorts: its order is that of the identities
    file: Path
    at: int | None = None  # offset in bytes, where file holds many images
    split: str = "train"  # which goes to all SHARES, by hash
    labels: dict = {}  # what else is known of the person  # noqa: RUF012


class IdentitySet(FaceSet):
    """A set of which only the identity is known. People are classes, so the same ones are in all splits.

    clean_list: files, or folders of them, separated by commas, that name the images to keep and whose they are.
    min_images: people with fewer images, after that, are left out. Then identities are numbered. Splits go by the hash
    of `person/image`, and are thus the same in whatever form the set was downloaded.
    """

    OPTIONS: ClassVar[dict] = {"clean_list": "", "min_images": 0}
    TRAINS = "identity"
    SHARES: ClassVar[dict[str, float]] = {"train": 0.98, "val": 0.01, "test": 0.01}

    @abc.abstractmethod
    def faces(self) -> Iterator[Face]:
        """All images, in a fixed order. As rows(), otherwise."""

    def source(self) -> dict:
        files = ",".join(map(str, list_files(self.options["clean_list"]))) if self.options.get("clean_list") else ""
        return super().source() | ({"clean_list": fingerprint(files)} if files else {})

    def split_key(self, name: str) -> str:
        return image_key(name)

    def rows(self) -> list[Row]:
        rows, counts, people = [], collections.Counter(), {}
        for face in self._cleaned(self.faces()):
            counts[face.person] += 1
            labels = people.setdefault(face.person, dict(face.labels))  # one for all images of a person
            rows.append(Row(face.id, face.split, face.file, labels, None, face.at))
        kept = number_identities(person for person, count in counts.items() if count >= self.options["min_images"])
        for person, number in kept.items():
            people[person]["identity"] = number
        if len(kept) < len(people):
            rows = self._of_known(rows, len(people) - len(kept))
        share_out(rows, self.SHARES)
        return rows

    def load(self, row: Row) -> dict:
        if row.at is None:
            return super().load(row)
        return schema.record(row.id, recordio.read_record(row.file, row.at)[1], **row.labels)

    def folders(self, root: Path, person: re.Pattern) -> Iterator[Face]:
        """Every picture in the folders of root that are named as a person is."""
        for folder in entries(root):
            if not folder.is_dir():
                continue
            if not person.fullmatch(folder.name):
                self.skip(folder.name, "the folder is not named as a person's")
                continue
            for file in entries(folder):
                if file.suffix.lower() in PICTURES:
                    yield Face(f"{folder.name}/{file.name}", folder.name, file)
                else:
                    self.skip(f"{folder.name}/{file.name}", "not a picture by its ending")

    def records(self, rec: Path) -> Iterator[Face]:
        """Every image of a record file. `property` says of what size: of 112 px they lie on ArcFace's five points."""
        if self.options.get("clean_list"):
            raise DataError(
                f"{self.name}: the images in {rec} have no names that a clean_list could name; leave it out"
            )
        images, file = recordio.read_images(rec), entry(rec.parent, "property")
        size = re.findall(r"\d+", read_text(file))[1:3] if file else []
        if tuple(size) not in ALIGNED:
            self.warn(f"`property` gives {' x '.join(size) or 'no size'}, not 112 x 112: five points are not known")
        for number, reason in images.faults:
            self.skip(f"{rec.name}:{number}", reason, bad=True)
        self.EXPECTED = {} if images.expected is None else {"all": images.expected}
        for number, offset, person in zip(*(column.tolist() for column in images[:3])):
            yield Face(f"{rec.name}:{number}", person, rec, offset, labels=ALIGNED.get(tuple(size), {}))

    def checked(self, faces: Iterator[Face], file: Path | None) -> Iterator[Face]:
        """The faces; what the set's own list of them names and is not there is listed as left out."""
        if file is None:
            yield from faces
            return
        listed, extra = read_list(str(file), self.warn), 0
        total = len(listed)
        for face in faces:
            extra += listed.pop(image_key(face.id), None) is None
            yield face
        if 2 * len(listed) > total:
            self.warn(f"{file.name} is of another copy of the set: {len(listed):,} of {total:,} images are not there")
            return
        for name in listed:
            self.skip(name, f"in {file.name}, but not there", bad=True)
        if extra:
            self.warn(f"{extra:,} images are not in {file.name}, and kept")

    def _cleaned(self, faces: Iterator[Face]) -> Iterator[Face]:
        """The images that the cleaned list names, and whose they are there."""
        if not self.options.get("clean_list"):
            yield from faces
            return
        listed = read_list(self.options["clean_list"], self.warn)
        if not listed:
            raise DataError(
                f"clean_list: {self.options['clean_list']} names no picture, as `m.0107_f/1-FaceId-0.jpg 0`"
            )
        wanted, seen = len(listed), 0
        for face in faces:
            seen += 1
            if (person := listed.pop(image_key(face.id), None)) is not None:
                yield face._replace(person=person)
        if len(listed) == wanted:
            raise DataError(f"{self.name}: clean_list names none of the {seen:,} images; it has {next(iter(listed))}")
        self.EXPECTED, left = {"all": wanted}, seen - wanted + len(listed)
        self.warn(f"clean_list: {left:,} images are not in it, left out; {len(listed):,} of its images are not there")

    def _of_known(self, rows: list[Row], people: int) -> list[Row]:
        known = [row for row in rows if "identity" in row.labels]
        self.EXPECTED = {}
        self.warn(f"min_images leaves out {people:,} people with {len(rows) - len(known):,} images")
        return known


def share_out(rows: list[Row], shares: dict[str, float]) -> None:
    """Gives away what is in train, in place: what splits.hash_split gives the images' keys, in 8 bytes a row."""
    places = np.fromiter((place(0, image_key(row.id)) for row in rows if row.split == "train"), float)
    numbers, names = iter(_cut(places, shares)), list(shares)
    for i, row in enumerate(rows):
        if row.split == "train" and (name := names[next(numbers)]) != "train":
            rows[i] = row._replace(split=name)


def _cut(places: np.ndarray, shares: dict[str, float]) -> np.ndarray:
    """For each place the number of its share; none stays empty while there are as many places as shares."""
    line, count, start, edges = np.sort(places), len(places), 0, []
    for i, total in enumerate(np.cumsum(list(shares.values()))[:-1]):
        end = min(int(np.searchsorted(line, total)), count - (len(shares) - 1 - i))
        start = max(end, start + 1) if start < count else start
        edges.append(line[start] if start < count else np.inf)
    return np.searchsorted(edges, places, side="right")
