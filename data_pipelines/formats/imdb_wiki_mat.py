"""What `imdb.mat` and `wiki.mat` say of each photograph."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.formats.matlab import read_struct, text
from data_pipelines.formats.sheets import number

FIELDS = ("full_path", "gender", "face_score", "second_face_score", "face_location", "name", "dob", "photo_taken")
GENDERS = {0: "female", 1: "male"}
LAST_DAY = 3_652_059  # of the year 9999, counted from 1 January of the year 1, which is day 1
UNIX_DAY = 719_163  # 1 January 1970


class Photo(NamedTuple):
    """One entry."""

    path: str  # below the part's folder; "" = none
    age: float  # whole years
    gender: str  # as schema.py
    score: float  # of the face; -inf where none was found
    second: float  # of a second face; NaN = there is none
    box: tuple[float, ...]  # x1, y1, x2, y2 in pixels of the whole photograph, from 0
    celebrity: int  # number, from 1; -1 = not known
    person: str  # name; "" = not known


def read_photos(meta: Path, part: str) -> list[Photo]:
    """Every entry of the file, in its order. Raises DataError."""
    table = read_struct(meta, part, *FIELDS)
    ages, people = ages_of(table["dob"], table["photo_taken"]), _people(table)
    entries = zip(*(table[field] for field in FIELDS[:5]), ages.tolist(), people)
    return [
        Photo(
            text(path),
            age,
            GENDERS.get(number(gender), ""),
            -abs(number(score)) if math.isinf(number(score)) else number(score),  # the set's page says Inf for no face
            number(second),
            tuple((np.ravel(box) - 1.0).tolist()),
            *person,
        )
        for path, gender, score, second, box, age, person in entries
    ]


def ages_of(births: np.ndarray, years: np.ndarray) -> np.ndarray:
    """Whole years in the middle of `years`; births are MATLAB's days, from the year 0, or nonsense: then of year 1."""
    days = np.clip(np.nan_to_num(births.astype(np.float64)) - 366, 1, LAST_DAY).astype(np.int64)
    birth = (days - UNIX_DAY).astype("datetime64[D]")
    month = birth.astype("datetime64[M]").astype(np.int64) % 12  # from 0
    return years.astype(np.float64) - (birth.astype("datetime64[Y]").astype(np.int64) + 1970) - (month >= 6)


def _people(table: dict) -> list[tuple[int, str]]:
    """(celebrity's number, person's name) of each entry; `celeb_id` counts `celeb_names` from 1."""
    named = dict(enumerate(map(text, table.get("celeb_names", ())), start=1))
    numbers = [number(value) for value in table.get("celeb_id", np.full(len(table["name"]), math.nan))]
    known = [int(value) if value >= 1 else -1 for value in numbers]
    return [
        (celebrity, text(name) if celebrity < 0 else named.get(celebrity, f"celebrity {celebrity}"))
        for celebrity, name in zip(known, table["name"])
    ]
