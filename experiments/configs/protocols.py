"""Which parts of a data set are trained, validated and tested on, where that is not train, val and test."""

import re
from typing import NamedTuple


class Parts(NamedTuple):
    """Names of splits."""

    train: str = "train"
    validation: str = "val"
    """Empty: none."""
    test: str = "test"


OWN = {  # data set → as its papers have it
    "chalearn15": Parts(test="val"),  # the truth of test came later
    "chalearn16": Parts("train+val", "", "test"),
    "mivia": Parts(test="val"),  # the truth of test is not public
    "mivia@stratified": Parts(test="val"),
}
TRAIN_AND_TEST = re.compile(r"@((rs|se|caucasian|three_sets|lopo|cv)_\d+|rs80_20|p60_40|train_on_val)$")


def parts_of(data: str) -> Parts:
    """Of a data set or protocol, as "chalearn16" or "morph@rs_0"."""
    return OWN.get(data, Parts(validation="") if TRAIN_AND_TEST.search(data) else Parts())
