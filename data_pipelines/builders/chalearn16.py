"""ChaLearn LAP 2016, apparent age: 7,591 photographs from the web, each guessed by a crowd."""

from data_pipelines.builders.chalearn15 import ChaLearn15
from data_pipelines.records.face_set import tfds


class ChaLearn16(ChaLearn15):
    """Apparent age: the mean of the votes (real) and their σ, which is 0 for 29 of the photographs.

    Splits as released; papers train on train+val (5,613) and report test. The pictures are likely those of APPA-REAL,
    with equal splits: do not train on one and test on the other's test. They are whole: a detector is needed.
    """

    name = "chalearn16"
    VERSION = tfds.core.Version("1.0.0")
    NEEDS = "the folder that holds `train`, `valid` and `test` (or `train_1`, `train_2`, …) and their `*_gt.csv` lists"
    EXPECTED = {"train": 4_113, "val": 1_500, "test": 1_978}  # noqa: RUF012
    HOMEPAGE = "https://chalearnlap.cvc.uab.cat/dataset/19/description/"
    CITATION = (
        "Escalera, Torres Torres, Martínez, Baró, Escalante, Guyon, Tzimiropoulos, Corneanu, Oliu, Bagheri, Valstar: "
        "ChaLearn Looking at People and Faces of the World: Face analysis workshop and challenge 2016, "
        "CVPR Workshops 2016"
    )
    LICENCE = "likely research only; access by registration, the lists of val and test with a password"

    NAMES = "[0-9][0-9][0-9][0-9][0-9][0-9].*"
    FOLDERS = {  # noqa: RUF012
        "train": ("train", "train_[12]"),
        "val": ("valid", "validation", "val"),
        "test": ("test", "test_[12]"),
    }
    LISTS = {  # noqa: RUF012
        "train": ("train_gt.csv", "train16_gt.csv", "train*.csv"),
        "val": ("valid_gt.csv", "valid16_gt.csv", "val*.csv"),
        "test": ("test_gt.csv", "test16_gt.csv", "*reference*.csv", "test*.csv"),
    }
