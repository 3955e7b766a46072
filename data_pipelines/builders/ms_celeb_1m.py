"""MS-Celeb-1M: some 8.5 million images of 100,000 people in the public eye, found on the web by their names."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from data_pipelines import schema
from data_pipelines.builders.identification import Face, IdentitySet
from data_pipelines.folders import entries, entry, find_root, key
from data_pipelines.formats.celeb_tables import Layout, find_layout, read_image, read_places
from data_pipelines.records.face_set import Row, tfds

MID = re.compile(r"[mg]\.\w+")
TABLES = ("withalignment", "aligned", "face", "thumbnail", "traindata", "devset")  # in a table's file name; best first


class MsCeleb1M(IdentitySet):
    """MS-Celeb-1M: identity alone, and often a wrong one: a `clean_list` helps.

    Read from its tables (aligned faces before cropped ones before thumbnails), from folders `<MID>/<rank>-<FaceID>.jpg`
    or from a record file. It has no splits; ours: train 98 %, val 1 %, test 1 % by a hash of the image's name, with the
    same people in all three.
    """

    name = "ms_celeb_1m"
    VERSION = tfds.core.Version("1.0.0")
    NEEDS = "the folder of FaceImageCroppedWithAlignment.tsv, of folders as m.0107_f, or of train.rec and train.idx"
    EXPECTED: ClassVar[dict] = {"all": 8_456_240}
    HOMEPAGE = "https://www.microsoft.com/en-us/research/project/ms-celeb-1m-challenge-recognizing-one-million-celebrities-real-world/"
    CITATION = "Guo, Zhang, Hu, He, Gao: MS-Celeb-1M: A dataset and benchmark for large-scale face recognition, 2016"
    LICENCE = "was for non-commercial research; withdrawn by its publisher in 2019, only copies by others are left"

    def faces(self) -> Iterator[Face]:
        root = find_root(self.raw, self.NEEDS, ("train.rec", *(f"*{kind}*.tsv*" for kind in TABLES), "[mg].*"))
        if rec := entry(root, "train.rec"):
            return self.records(rec)
        tables = self._tables([file for file in entries(root) if ".tsv" in key(file.name) and file.is_file()])
        return self._lines(tables) if tables else self.folders(root, MID)

    def load(self, row: Row) -> dict:
        if row.at is None or row.file.suffix.lower() == ".rec":
            return super().load(row)
        return schema.record(row.id, read_image(row.file, row.at), **row.labels)

    def _tables(self, files: list[Path]) -> dict[Path, Layout]:
        """The best kind of table that is there, one file or its parts, and its columns."""
        layouts = {file: layout for file in files if (layout := find_layout(file))}
        for kind in TABLES:
            if taken := [file for file in layouts if kind in key(file.name)]:
                break
        else:
            taken = list(layouts)
        for file in files:
            if file not in taken:
                what = f"{taken[0].name} is read in its place" if file in layouts else "it is no table of images"
                self.skip(file.name, what)
        return {file: layouts[file] for file in taken}

    def _lines(self, tables: dict[Path, Layout]) -> Iterator[Face]:
        seen = set()
        for file, layout in tables.items():
            self.EXPECTED = {"all": layout.published} if layout.published else {}
            for line, id, at in read_places(file, layout):
                if not id:
                    why = f"not {layout.columns} cells with a MID, a name and an image"
                    self.skip(f"{file.name}:{line}", why, bad=True)
                elif id in seen:
                    self.skip(f"{file.name}:{line}", f"{id} is there already")
                else:
                    seen.add(id)
                    yield Face(id, id.partition("/")[0], file, at)
