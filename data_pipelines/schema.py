"""The record on disk and the batch in memory: keys, dtypes, ranges, units.

A record keeps what a data set knows and nothing that an experiment decides: the encoded image as found, the labels,
the five points. A label that the set does not have is NaN (identity: -1); a recipe's constant σ is its objective's.

| record key            | dtype, shape    | meaning                                                                   |
|-----------------------|-----------------|----------------------------------------------------------------------------|
| id                    | str             | unique within the data set; what predictions.csv and errors name          |
| image                 | bytes           | encoded as found (JPEG, PNG, …), upright once its EXIF turn is applied    |
| age                   | float32         | years, mean of the votes where apparent; NaN = not labelled               |
| sigma                 | float32         | years, std of the votes; 0 is legal; NaN = not known                      |
| attractiveness        | float32         | mean score on the set's own scale; NaN = not labelled                     |
| attractiveness_sigma  | float32         | std of the scores; NaN = not known                                        |
| identity              | int32           | subject, 0 … n-1 within the data set; -1 = not known                      |
| gender                | str             | "female", "male"; "" = not known                                          |
| ethnicity             | str             | the set's own word, as "Asian"; "" = not known                            |
| landmarks             | float32 (5, 2)  | x, y in pixels of the upright image: eyes, nose tip, mouth corners,       |
|                       |                 | image-left first; NaN = none, the whole image is the face                 |

| batch key  | dtype, shape            | meaning                                                                       |
|------------|-------------------------|--------------------------------------------------------------------------------|
| image      | uint8 [B, S, S, 3]      | aligned, augmented RGB                                                        |
| label      | float32 [B]             | the labelled score that the stage asks for: age in years, or attractiveness   |
| sigma      | float32 [B]             | its σ, NaN = not known                                                        |
| identity   | int32 [B]               | -1 = not known                                                                |
| mask       | float32 [B]             | 1 for an example, 0 for padding                                               |
| index      | int64 [B]               | row in the split; -1 for padding (host side only: names the example)          |
"""

import math

import numpy as np

LABELS = {"age": ("age", "sigma"), "attractiveness": ("attractiveness", "attractiveness_sigma")}
SPLITS = ("train", "val", "test")  # the order in which a set is stored; 0, 1, 2 in columns of splits
AGE_RANGE = (0.0, 100.0)  # years; the label grid of every age recipe
GENDERS = ("", "female", "male")
NO_LANDMARKS = np.full((5, 2), np.nan, np.float32)


class RecordError(ValueError):
    """A record that cannot be used; the message names the record, the field and the value."""


def record(
    id,
    image,
    *,
    age=math.nan,
    sigma=math.nan,
    attractiveness=math.nan,
    attractiveness_sigma=math.nan,
    identity=-1,
    gender="",
    ethnicity="",
    landmarks=None,
) -> dict:
    """A validated record; what is left out is marked as not known. Raises RecordError."""
    points = NO_LANDMARKS if landmarks is None else np.asarray(landmarks, np.float32)
    row = {
        "id": str(id),
        "image": image,
        "age": np.float32(age),
        "sigma": np.float32(sigma),
        "attractiveness": np.float32(attractiveness),
        "attractiveness_sigma": np.float32(attractiveness_sigma),
        "identity": np.int32(identity),
        "gender": gender,
        "ethnicity": ethnicity,
        "landmarks": points,
    }
    validate(row)
    return row


def validate(row: dict) -> None:
    """Raises RecordError where a field is out of its range: `<id>: age 130 is outside 0 to 100 years`."""
    low, high = AGE_RANGE
    if np.isnan(row["age"]) and np.isnan(row["attractiveness"]) and row["identity"] < 0:
        raise RecordError(f"{row['id']}: age is missing (NaN), and there is no other label")
    if not np.isnan(row["age"]) and not low <= row["age"] <= high:
        raise RecordError(f"{row['id']}: age {row['age']:g} is outside {low:g} to {high:g} years")
    for key in ("sigma", "attractiveness_sigma"):
        if row[key] < 0 or np.isinf(row[key]):
            raise RecordError(f"{row['id']}: {key} {row[key]:g} must be 0 or more")
    if row["gender"] not in GENDERS:
        raise RecordError(f"{row['id']}: gender {row['gender']!r} is not one of {', '.join(GENDERS[1:])}, or empty")
    points = row["landmarks"]
    if points.shape != (5, 2):
        raise RecordError(f"{row['id']}: landmarks have shape {points.shape}, expected (5, 2)")
    missing = np.isnan(points)
    if np.isinf(points).any() or (missing.any() and not missing.all()):
        raise RecordError(f"{row['id']}: landmarks must be five finite points, or none at all")
    if not row["image"]:
        raise RecordError(f"{row['id']}: image is empty")


def is_drawn(data: str) -> bool:
    """Whether the data set of that name, as `synthetic/mugshot@by_image`, holds drawn faces and not photographs."""
    return data.partition("@")[0].partition("/")[0] == "synthetic"
