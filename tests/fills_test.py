"""How each kind of row is measured, each against the files that its run left."""

import csv
import json
import math

import numpy as np
import pytest

from data_pipelines.errors import UserError
from experiments.tables import fills, kinds, runs
from experiments.tables.kinds import Before, Conformal, Fused, Network, OfGroup, Run, Trained, TwoStage

pytestmark = pytest.mark.slow
WORDS = ("--model.compression=0.03125", "--image_size=32", "--pretrain.batch_size=16", "--pretrain.epochs=1")
TUNED = Run("dldl_v2_thin", ("--finetune.batch_size=16", "--finetune.epochs=2"))
OTHER = Run("dldl_v2_thin", (*TUNED.words, "--finetune.objective=DEX"))


@pytest.fixture(scope="module")
def setting(tmp_path_factory, drawn_data):
    return runs.Setting(tmp_path_factory.mktemp("runs"), drawn_data, ("synthetic",), seeds=2, words=WORDS)


def filled(fill, setting):
    return fills.FILLS[type(fill)](fill, "synthetic", setting)


def columns(path) -> dict[str, np.ndarray]:
    rows = list(csv.DictReader(path.open()))
    return {name: np.array([float(row[name]) for row in rows]) for name in ("age", "predicted", "predicted_std")}


def trials(folder) -> list:
    results = json.loads((folder / "results.json").read_text())
    return [folder / trial["folder"] for trial in results["trials"]]


def test_trained_is_the_mean_over_seeds(setting):
    found = filled(Trained(TUNED), setting)
    each = [columns(trial / "predictions.csv") for trial in trials(found.folder)]
    maes = [np.abs(one["predicted"] - one["age"]).mean() for one in each]
    number = found.number("mae")
    assert number.value == pytest.approx(np.mean(maes)) and number.sd == pytest.approx(np.std(maes, ddof=1))
    assert number.trials == len(maes) == 2


def test_one_trial_of_a_sweep_can_be_a_row(setting):
    run = Run("dldl_v2_thin", (*TUNED.words, "--sweep.objective.lambda_=0.1,1"))
    one = filled(Trained(run, (("objective.lambda_", 1.0),)), setting).number("mae")
    assert one.trials == 2 and one.value == pytest.approx(filled(Trained(TUNED), setting).number("mae").value, abs=1e-3)
    assert filled(Trained(run), setting).number("mae").trials == 4
    with pytest.raises(UserError, match="no such trial"):
        filled(Trained(run, (("objective.lambda_", 5.0),)), setting)


def test_tested_on_its_own_set_is_trained(setting):
    mine, other = filled(Trained(TUNED), setting), filled(kinds.Tested(TUNED, "synthetic"), setting)
    assert other.number("mae").value == pytest.approx(mine.number("mae").value, abs=1e-5)


def test_fused_is_the_mean_of_as_many_networks_as_are_listed(setting):
    seeds = Run("dldl_v2_thin", (*TUNED.words, "--sweep.seed=0,1"))
    found = filled(Fused((seeds, OTHER)), setting)
    folders = [filled(Trained(run), setting).folder for run in (seeds, OTHER)]
    each = [columns(trial / "predictions.csv") for folder in folders for trial in trials(folder)][:3]
    mean = np.mean([one["predicted"] for one in each], axis=0)
    assert found.number("mae").value == pytest.approx(np.abs(mean - each[0]["age"]).mean())
    assert found.notes[0] == "3 networks"


def test_before_is_the_start_of_the_last_stage(setting):
    found = filled(Before(TUNED), setting)
    said = columns(found.folder / "before.csv")["predicted"]
    assert np.abs(said - 50).max() < 15  # a random head over 0 … 100 is undecided
    assert found.number("mae").trials == 1


def test_intervals_hold_what_they_are_fitted_to_hold(setting):
    found = filled(Conformal(TUNED, 0.8), setting)
    shares, widths = [], []
    for trial in trials(found.folder):
        held_out, test = (columns(trial / f"synthetic-{split}.csv") for split in ("val", "test"))
        spread = np.maximum(held_out["predicted_std"], 1)
        scores = np.sort(np.abs(held_out["age"] - held_out["predicted"]) / spread)
        reach = scores[math.ceil(0.8 * (len(scores) + 1)) - 1] * np.maximum(test["predicted_std"], 1)
        shares.append(100 * np.mean(np.abs(test["age"] - test["predicted"]) <= reach))
        ends = [np.clip(test["predicted"] + sign * reach, 0, 100) for sign in (-1, 1)]
        widths.append(np.mean(ends[1] - ends[0]))
    assert found.number("coverage").value == pytest.approx(np.mean(shares))
    assert found.number("width").value == pytest.approx(np.mean(widths), rel=1e-4)


@pytest.mark.parametrize("features", ["bif", "cnn"])
def test_two_stages_answer_on_the_test_split(setting, features):
    found = filled(TwoStage(TUNED, features, "ldl"), setting)
    said = columns(found.folder / f"{features}-ldl.csv")
    assert found.number("mae").value == pytest.approx(np.abs(said["predicted"] - said["age"]).mean())
    assert found.number("mae").sd is None and np.ptp(said["predicted"]) > 1


def test_a_group_that_the_set_does_not_name_is_missing(setting):
    with pytest.raises(runs.Missing, match="synthetic names nobody female"):
        filled(OfGroup(TUNED, "gender", "female"), setting)


def test_a_group_is_measured_by_itself(setting, monkeypatch):
    class Known:
        def __init__(self, split):
            self.split = split

        def column(self, name):
            return np.array(["female", "male"])[np.arange(len(self.split)) % 2]

    opened = fills.builders.open_split
    monkeypatch.setattr(fills.builders, "open_split", lambda *names: Known(opened(*names)))
    found = filled(OfGroup(TUNED, "gender", "male"), setting)
    each = [columns(trial / "predictions.csv") for trial in trials(found.folder)]
    maes = [np.abs(one["predicted"] - one["age"])[1::2].mean() for one in each]
    assert found.number("mae").value == pytest.approx(np.mean(maes))


def test_a_network_costs_what_it_costs(setting):
    number = fills.network(Network("vgg_1_8"), "any", runs.Setting(toy=True)).number
    assert number("parameters").value == pytest.approx(0.237661) and number("forward").value > 0
