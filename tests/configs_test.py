"""The configs: what they are made of, and attractiveness from the command line to the page."""

import json
import re

import numpy as np
import pytest
import tiny

from agejax.__main__ import main as agejax_main
from agejax.labels import AGE, SCUT
from agejax.objectives import Identity
from data_pipelines import builders
from data_pipelines.errors import UserError
from experiments.check import describe
from experiments.command_line import parse
from experiments.configs import CONFIGS
from experiments.run import main

POINTS = "--config=att_thin"  # the last --config counts


@pytest.mark.parametrize("recipe", ["paper", "official"])
def test_attractiveness_is_the_age_recipe_with_another_label(recipe):
    ages, points = (CONFIGS[name](data="manifest", recipe=recipe) for name in ("dldl_v2_thin", "att_thin"))
    assert (points.model, points.image_size) == (ages.model, ages.image_size)
    assert len(points.stages) == len(ages.stages) == {"paper": 2, "official": 3}[recipe]
    for mine, theirs in zip(points.stages, ages.stages):
        assert mine.optimizer == theirs.optimizer and mine.schedule == theirs.schedule and mine.epochs == theirs.epochs
        if not isinstance(mine.objective, Identity):
            assert type(mine.objective) is type(theirs.objective)
            labels = [(o.target, o.grid, o.default_sigma) for o in (mine.objective, theirs.objective)]
            assert labels == [("attractiveness", SCUT, 0.5), ("age", AGE, 2.0)]


def test_drawn_faces_are_its_default_and_its_head_has_41_labels():
    experiment = parse([POINTS])
    assert experiment.data == "synthetic" and experiment.name == "att_thin"
    assert experiment.stages[-1].objective.head_size == 41


@pytest.mark.parametrize(
    "name, data", [("aaf_tiny", "aaf"), ("dldl_v2_thin", "synthetic"), ("dldl_v2_thin", "manifest")]
)
def test_momentum_stays_as_it_was_when_the_numbers_of_the_docstrings_were_measured(name, data):
    for stage in CONFIGS[name](data=data).stages:
        assert stage.schedule.momentum(0.9, 7, 100) == stage.optimizer.b1 == 0.9


def test_docstrings_give_the_command():
    for name, config in CONFIGS.items():
        assert f"python experiments/run.py --config={name}\n" in config.__doc__


@pytest.mark.slow
def test_attractiveness_is_named_from_the_command_to_the_page(drawn_data, tmp_path, capsys):
    cheap = ("--stages=finetune", "--finetune.batch_size=16", "--finetune.epochs=1")
    assert main(tiny.words(drawn_data, tmp_path / "run", POINTS, *cheap)) == 0
    assert re.search(r"MAE \d\.\d{3} points \[", capsys.readouterr().out)
    test = json.loads((tmp_path / "run/results.json").read_text())["test"]
    assert test["target"] == "attractiveness" and "cs" not in test and "mae_by_age_group" not in test
    table = np.genfromtxt(tmp_path / "run/predictions.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
    faces = builders.open_split("synthetic", drawn_data, "test")
    np.testing.assert_allclose(table["attractiveness"], [face["attractiveness"] for face in faces], rtol=1e-6)
    assert (np.abs(table["predicted"] - 3) <= 2).all() and "age" not in table.dtype.names
    page = (tmp_path / "run/report.html").read_text()
    assert "true attractiveness (points)" in page and "absolute error (points)" in page
    assert not re.search(r"\byears\b|CS@", page.split("<details>")[0])
    words = [f"--checkpoint={tmp_path / 'run'}", "--data=synthetic", f"--data_dir={drawn_data}"]
    assert agejax_main(["evaluate", *words, f"--json={tmp_path / 'numbers.json'}"]) == 0
    assert "points [" in capsys.readouterr().out
    again = json.loads((tmp_path / "numbers.json").read_text())
    assert (again["target"], again["mae"]) == ("attractiveness", test["mae"])


def test_labels_outside_the_grid_stop_a_run_before_it_begins(drawn_data, tmp_path, capsys):
    words = tiny.words(drawn_data, tmp_path / "run", *tiny.FINETUNE, "--finetune.objective.grid.high=30")
    ages = [(face["id"], face["age"]) for face in builders.open_split("synthetic", drawn_data, "train")]
    first, age = next((name, age) for name, age in ages if age > 30)
    assert main(words) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {first}: age {age:g} is outside the label grid of stage finetune, 0 to 30 (")
    assert told.count("\n") == 1 and not (tmp_path / "run").exists()


def test_description_reads_labels_and_no_record_but_the_one_it_names(monkeypatch):
    class Scored(list):
        def column(self, name):
            return np.array([record[name] for record in self])

        def __getitem__(self, row):
            assert row == 4
            return super().__getitem__(row)

    examples = Scored({"id": f"face-{score}", "attractiveness": np.float32(score)} for score in (2, 5, 1, 4.5))
    monkeypatch.setattr(builders, "open_split", lambda *_: examples)
    monkeypatch.setattr(builders, "summary", lambda *_: {"recipe": {"detector": {"name": "given"}}})
    experiment = CONFIGS["att_thin"]()
    assert describe(experiment, experiment.stages[-1]).median_label == 3.25
    examples.append({"id": "face-7", "attractiveness": np.float32(7)})
    with pytest.raises(UserError, match=r"face-7: attractiveness 7 is outside .* 1 to 5 \(1 of 5 examples are\)"):
        describe(experiment, experiment.stages[-1])
