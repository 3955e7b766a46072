"""One stage trained many times from the command line: as the single runs, resumed, tested, shown."""

import csv
import itertools
import json
import shutil
import types

import numpy as np
import pytest
import tiny

from agejax import metrics
from agejax.training import checkpoint
from agejax.training.sharding import make_mesh
from experiments.command_line import parse
from experiments.results import summarise, sweep_sentence
from experiments.run import main
from experiments.sweeps.vectorised import experiments, grouped, members

STAGE = ("--pretrain.batch_size=16", "--pretrain.epochs=0.1", "--finetune.batch_size=8", "--finetune.epochs=2")
FEW = ("--finetune.examples=NShot", "--finetune.examples.n=12", "--finetune.augmentation.degrade=1")
FEED = "--feed=resident"  # as the trials have it
SWEEP = ("--sweep.objective.lambda_=0,2", "--sweep.seed=3,4")
BEST = ("--select=best", "--validate_epochs=0.67", "--stages=finetune")  # looks at every step of 1.5 an epoch


@pytest.fixture(scope="module")
def swept(drawn_data, tmp_path_factory):
    """(words, workdir) of a finished sweep of four trials."""
    folder = tmp_path_factory.mktemp("sweep") / "run"
    words = tiny.words(drawn_data, folder, *STAGE, *FEW)
    assert main([*words, *SWEEP]) == 0
    return words, folder


def read(folder):
    return json.loads((folder / "results.json").read_text())


def test_every_combination_is_trained_and_tested(swept, capsys):
    words, folder = swept
    results = read(folder)
    combinations = [(0.0, 3), (0.0, 4), (2.0, 3), (2.0, 4)]
    assert [tuple(row["values"].values()) for row in results["trials"]] == combinations
    assert all(row["examples"] == 12 and row["test"]["n"] == 8 for row in results["trials"])
    assert len({row["test"]["mae"] for row in results["trials"]}) == 4
    for row in results["trials"]:
        with (folder / row["folder"] / "predictions.csv").open() as file:
            errors = [abs(float(line["age"]) - float(line["predicted"])) for line in csv.DictReader(file)]
        assert np.mean(errors) == pytest.approx(row["test"]["mae"], abs=1e-4)
    assert [row["trials"] for row in results["sweep"]] == [2, 2]
    page = (folder / "report.html").read_text()
    assert sweep_sentence(results) in page and page.count("finetune/trials/") == 4
    assert main([*words, *SWEEP]) == 0
    assert "Finished before" in capsys.readouterr().out


def test_a_trial_is_the_run_of_its_own_options(swept, tmp_path):
    words, folder = swept
    shutil.copytree(folder / "pretrain", tmp_path / "alone" / "pretrain")
    own = ("--seed=4", "--finetune.objective.lambda_=2", FEED, f"--workdir={tmp_path / 'alone'}")
    assert main([*words, *own]) == 0
    mine, alone = read(folder)["trials"][3], read(tmp_path / "alone")
    assert mine["test"]["mae"] == pytest.approx(alone["test"]["mae"], rel=1e-4)
    (_, one), (_, other) = (
        checkpoint.load_trained(path) for path in (folder / mine["folder"], tmp_path / "alone" / "finetune")
    )
    np.testing.assert_allclose(
        one["params"]["head"]["kernel"], other["params"]["head"]["kernel"], atol=1e-5, err_msg="kernel"
    )


def test_a_sweep_that_was_stopped_goes_on(swept, tmp_path, capsys):
    words, folder = swept
    shutil.copytree(folder, tmp_path / "again")
    for name in ("results.json", "report.html", "finetune/trials/001/stage.json"):
        (tmp_path / "again" / name).unlink()
    assert main([*words, *SWEEP, f"--workdir={tmp_path / 'again'}"]) == 0
    assert "goes on at step 3 of 3" in capsys.readouterr().out
    assert read(tmp_path / "again")["trials"] == read(folder)["trials"]


def test_a_trial_hands_on_the_best_as_the_run_of_its_own_options_even_if_killed_between(drawn_data, tmp_path):
    words = (*STAGE, *FEW, *BEST, "--finetune.epochs=6", "--finetune.optimizer.learning_rate=0.03")  # 9 steps
    together = tiny.words(drawn_data, tmp_path / "sweep", *words, "--sweep.seed=3,6")
    calls = itertools.count(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.sweeps.vectorised.LOOKS", 3)  # every third step, were it for the last one alone
        killed = types.SimpleNamespace(mae=lambda *pair: metrics.mae(*pair) / (next(calls) != 16))
        patch.setattr("experiments.sweeps.vectorised.metrics", killed)
        with pytest.raises(ZeroDivisionError):  # at the look of step 8; step 6 is saved
            main(together)
        assert main(together) == 0
    bests = []
    for number, seed in enumerate((3, 6)):
        alone = tmp_path / str(number)
        assert main(tiny.words(drawn_data, alone, *words, FEED, f"--seed={seed}")) == 0
        folder = tmp_path / "sweep/finetune/trials" / f"{number:03d}"
        mine, other = (checkpoint.read_card(path) for path in (folder, alone / "finetune"))
        assert mine["selected"] == other["selected"] == "best"
        assert mine["best"] == pytest.approx(other["best"]) and mine["validation"] == pytest.approx(other["validation"])
        np.testing.assert_allclose(*(predicted(path) for path in (folder, alone)), rtol=1e-4)
        bests.append(mine["best"]["step"])
    assert bests == [9, 2], "one after the kill, and one before the save, where the last alone would not be looked at"


def predicted(folder):
    with (folder / "predictions.csv").open() as file:
        return [float(line["predicted"]) for line in csv.DictReader(file)]


def test_a_workdir_with_another_sweep_is_left_alone(swept, tmp_path, capsys):
    words, folder = swept
    shutil.copytree(folder, tmp_path / "again", ignore=shutil.ignore_patterns("results.json", "pretrain"))
    assert main([*words, "--sweep.seed=3,4", f"--workdir={tmp_path / 'again'}"]) == 2
    assert "holds a run with another sweep" in capsys.readouterr().err


def test_trials_of_other_shapes_are_other_programs(drawn_data, tmp_path):
    sweep = ("--sweep.examples.n=6,12", "--sweep.optimizer.learning_rate=0.001,0.01", "--sweep.epochs=1,2")
    experiment = parse(tiny.words(drawn_data, tmp_path, *STAGE, *FEW, *sweep))
    every = members(experiment, 1, None)
    groups = grouped(every, 1)
    assert [len(group) for group in groups] == [2, 2, 2, 2] and len(every) == 8
    for group in groups:
        assert len({(m.values["examples.n"], m.values["epochs"]) for m in group}) == 1
    assert [len(group) for group in grouped(every * 65, 1)] == [128, 2] * 4  # 1,024 images of 8


def test_values_are_read_in_the_option_s_own_type(drawn_data, tmp_path):
    words = ("--sweep.seed=0..2,7", "--sweep.objective.grid.step=0.5,1", "--sweep.objective.normalise=True,False")
    experiment = parse(tiny.words(drawn_data, tmp_path, *words))
    steps, normalise = ("objective.grid.step", (0.5, 1.0)), ("objective.normalise", (True, False))
    assert experiment.sweep == (("seed", (0, 1, 2, 7)), steps, normalise)
    own, one = experiments(experiment)[-1]
    assert own == {"seed": 7, "objective.grid.step": 1.0, "objective.normalise": False}
    assert (one.seed, one.stages[-1].objective.grid.step, one.stages[-1].objective.normalise) == (7, 1.0, False)
    assert one.sweep == () and len(experiments(experiment)) == 16


@pytest.mark.parametrize(
    "word, told",
    [
        ("--sweep.objective.lamda=1,2", "unknown option to sweep 'objective.lamda'; did you mean objective.lambda_"),
        ("--sweep.seed=a", "--sweep.seed=a: give ints, as 1,2,5, or whole numbers as 0..31"),
        ("--sweep.seed=1,1", "--sweep.seed=1,1 names a value twice"),
        ("--sweep.epochs=1,-1", "epochs must be above 0, got -1"),
    ],
)
def test_a_mistake_is_one_line(drawn_data, tmp_path, capsys, word, told):
    assert main(tiny.words(drawn_data, tmp_path / "run", *STAGE, word)) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run" / "pretrain").exists()


@pytest.mark.parametrize(
    "validation, told",
    [
        ((7.0, 6.0), "4 trials; best in validation epochs 2: MAE 8.00 ± 2.83 years (mean and SD over 2 trials; "),
        ((None, None), "4 trials of 2 settings, mean MAE 4.00 to 8.00 years ("),
    ],
)
def test_means_are_over_trials_that_differ_in_chance_alone(validation, told):
    test = {"target": "age", "data": "d", "split": "test", "n": 9}
    rows = [
        {
            "values": {"seed": seed, "epochs": epochs},
            "test": test | {"mae": mae},
            "validation": validation[epochs - 1] and {"mae": validation[epochs - 1]},
        }
        for epochs in (1, 2)
        for seed, mae in enumerate((3.0 * epochs, 5.0 * epochs))
    ]
    means = summarise(rows)
    assert [row["values"] for row in means] == [{"epochs": 1}, {"epochs": 2}]
    assert [(row["mae"], row["trials"], row["validation"]) for row in means] == [
        (4.0, 2, validation[0]),
        (8.0, 2, validation[1]),
    ]
    assert [row["sd"] for row in means] == pytest.approx([2**0.5, 8**0.5])
    assert sweep_sentence({"trials": rows, "sweep": means}) == f"{told}d test, n = 9)"


def test_trials_that_diverge_are_counted_shown_and_left_out(drawn_data, tmp_path, capsys):
    sweep = ("--sweep.optimizer.learning_rate=0.001,1e30", "--finetune.optimizer=SGD", "--stages=finetune")
    assert main(tiny.words(drawn_data, tmp_path / "run", *STAGE, *FEW, *sweep)) == 0
    assert "2 trials, 1 diverged, MAE " in capsys.readouterr().out
    good, lost = read(tmp_path / "run")["trials"]
    assert good["test"]["mae"] > 0 and lost["test"]["mae"] is None and lost["validation"] is None
    assert "<b>diverged</b>" in (tmp_path / "run" / "report.html").read_text()
    assert "NaN" not in (tmp_path / "run" / "results.json").read_text()


def test_a_trial_that_was_good_before_it_diverged_has_diverged(drawn_data, tmp_path, monkeypatch):
    """A run of it alone would have stopped without a result."""
    calls = itertools.count(1)  # two trials at each of three steps, then the tests of both
    monkeypatch.setattr("experiments.sweeps.vectorised.is_whole", lambda _: next(calls) not in (6, 8))
    assert main(tiny.words(drawn_data, tmp_path / "run", *STAGE, *FEW, *BEST, "--sweep.seed=3,4")) == 0
    good, lost = read(tmp_path / "run")["trials"]
    assert (good["status"], lost["status"], lost["validation"]) == ("finished", "diverged", None)
    cards = [checkpoint.read_card(tmp_path / "run" / trial["folder"]) for trial in (good, lost)]
    assert [card["selected"] for card in cards] == ["best", "latest"]


def test_checkpoint_of_a_trial_is_a_checkpoint(swept):
    folder = swept[1] / "finetune/trials/002"
    description, variables = checkpoint.load_trained(folder, make_mesh())
    assert checkpoint.read_card(folder)["selected"] == "latest"
    assert description.objective.lambda_ == 2.0 and "head" in variables["params"]
