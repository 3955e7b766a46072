"""Errors by group: against a loop over the rows, and through a prepared set."""

import json

import numpy as np
import pytest
from drawn import Squares, prepare_squares

from agejax import groups, metrics
from data_pipelines import builders

GENDERS = np.array(["female", "male", "", "male", "female", "male"])
LABEL, PREDICTED = np.array([20, 30, 40, 50, 60, 70.0]), np.array([21, 27, 90, 50, 64, 75.0])


def test_errors_and_biases_of_a_hand_written_set():
    found = groups.errors_by_group(LABEL, PREDICTED, {"gender": GENDERS})
    assert list(found) == ["gender"] and list(found["gender"]) == ["female", "male"]
    female, male = found["gender"].values()
    assert (female["mae"], female["n"], female["bias"]) == (2.5, 2, 2.5)
    assert (male["mae"], male["n"], male["bias"]) == pytest.approx((8 / 3, 3, 2 / 3))
    assert female["interval"] == [1, 4] and male["interval"] == [0, 5]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_intervals_are_those_of_the_group_alone():
    rng = np.random.default_rng(0)
    label, predicted, column = rng.uniform(0, 90, 400), rng.uniform(0, 90, 400), rng.choice(["a", "b"], 400)
    alone = metrics.summarise(label[column == "b"], predicted[column == "b"], ages=False)
    found = groups.errors_by_group(label, predicted, {"ethnicity": column})["ethnicity"]["b"]
    assert found["interval"] == alone["intervals"]["mae"] and found["n"] == alone["n"]


class Labelled(Squares):
    """Rows with a gender, and an age that may be missing."""

    def __getitem__(self, row):
        age = np.float32(np.nan if row == 2 else 10 * row + 5)
        return super().__getitem__(row) | {"gender": ["female", "male", ""][row % 3], "age": age}


def test_columns_of_which_nothing_is_known_are_left_out():
    columns = groups.known_columns(Labelled(5))
    assert list(columns) == ["gender", "age"]
    assert columns["gender"].tolist() == ["female", "male", "", "female", "male"]
    assert columns["age"].tolist() == ["0-10", "11-20", "", "31-40", "41-50"]


def test_age_groups_stand_in_order_and_are_those_of_the_metrics():
    rng = np.random.default_rng(0)
    label = rng.uniform(0, 100, 300)
    predicted = label + rng.normal(0, 5, 300)
    names = np.array(metrics.AGE_GROUPS)[metrics.age_group(label)]
    found = groups.errors_by_group(label, predicted, {"age": names})["age"]
    assert tuple(found) == metrics.AGE_GROUPS
    assert {name: {"mae": row["mae"], "n": row["n"]} for name, row in found.items()} == metrics.mae_by_age_group(
        label, predicted
    )


def test_a_prepared_set_gives_its_columns_without_its_images(tmp_path, monkeypatch):
    data_dir = prepare_squares(tmp_path, Squares(6), "age,gender", lambda row: f"{10 + row},{GENDERS[row]}")
    examples = builders.open_split("manifest", data_dir, "all")
    monkeypatch.setattr(builders.Split, "__getitem__", lambda *_: pytest.fail("an image is read"))
    column = dict(zip(examples.column("age").tolist(), groups.known_columns(examples)["gender"].tolist()))
    assert [column[age] for age in sorted(column)] == GENDERS.tolist()
