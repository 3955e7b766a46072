"""CASIA-WebFace: 494,414 photographs of 10,575 actors."""

import re
from collections.abc import Iterator
from typing import ClassVar

from data_pipelines.builders.identification import Face, IdentitySet
from data_pipelines.folders import entry, find_root
from data_pipelines.records.face_set import tfds

PERSON = re.compile(r"\d{5,}")


class CasiaWebFace(IdentitySet):
    """CASIA-WebFace: identity alone.

    Read from its folders `0000045/001.jpg` (numbers may be missing in both series), checked against a `train.lst`
    beside them, or from a record file. A train.lst may be the `clean_list`, too: whose an image is its folder says. The
    set has no splits; ours: train 98 %, val 1 %, test 1 % by a hash of the image's name, with the same people in all.
    """

    name = "casia_webface"
    VERSION = tfds.core.Version("1.0.0")
    NEEDS = "the folder of folders as 0000045, or of train.rec and train.idx"
    EXPECTED: ClassVar[dict] = {"all": 494_414}
    HOMEPAGE = "http://www.cbsr.ia.ac.cn/english/CASIA-WebFace-Database.html"
    CITATION = "Yi, Lei, Liao, Li: Learning face representation from scratch, arXiv:1411.7923, 2014"
    LICENCE = "by a signed request to CASIA, for research; its own site is closed, only copies by others are left"

    def faces(self) -> Iterator[Face]:
        root = find_root(self.raw, self.NEEDS, ("train.rec", "[0-9][0-9][0-9][0-9][0-9]*"))
        if rec := entry(root, "train.rec"):
            return self.records(rec)
        return self.checked(self.folders(root, PERSON), entry(root, "train.lst"))
