"""Sweeps over options that take a run for each value: queued, resumed, and the same rows as in one run."""

import csv
import json
import re
import shutil

import pytest
import tiny

from data_pipelines.errors import UserError
from experiments import build
from experiments.command_line import parse
from experiments.run import main
from experiments.sweeps import names, queued
from experiments.sweeps.grids import crossed, grid, repeats, title, titles, words

STAGE = ("--pretrain.batch_size=16", "--pretrain.epochs=0.1", "--finetune.batch_size=8", "--finetune.epochs=1")
FEW = ("--finetune.examples=NShot", "--finetune.examples.n=6", "--finetune.augmentation.degrade=1", "--feed=resident")
QUEUE = ("--sweep.finetune.objective=DEX,Ranking", "--sweep.seed=3,4")
CHANCE = ("seconds", "folder")  # what need not be the same


def read(folder):
    return json.loads((folder / "results.json").read_text())


def table(folder):
    with (folder / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def queue(drawn_data, tmp_path_factory):
    """(words, workdir) of a finished sweep of two objectives, two seeds in each run."""
    folder = tmp_path_factory.mktemp("queue") / "run"
    given = [*tiny.words(drawn_data, folder, *STAGE, *FEW), *QUEUE]
    assert main(given) == 0
    return given, folder


# grids


def test_a_grid_is_every_combination_in_order():
    values = {"model": ["tiny", "thin"], "seed": range(2)}
    assert list(grid(values)) == [{"model": m, "seed": s} for m in ("tiny", "thin") for s in (0, 1)]
    assert list(grid({})) == [{}] and list(repeats(2, first=5)) == [{"seed": 5}, {"seed": 6}]
    picked = [{"model": "tiny"}, {"model": "thin", "image_size": 32}]
    assert list(crossed(picked, repeats(1))) == [one | {"seed": 0} for one in picked]


def test_values_are_words_of_the_command_line_and_names_of_folders():
    assert words({"model": "tiny", "finetune.epochs": 2.0}) == ["--model=tiny", "--finetune.epochs=2.0"]
    assert title({"data": "synthetic/mugshot", "rate": 1e-05}) == "data=synthetic-mugshot,rate=1e-05"
    assert titles([{"a": "x|y"}, {"a": "x/y"}, {"a": "X y"}, {"a": "z"}]) == ["a=x-y", "a=x-y-2", "a=X-y-3", "a=z"]
    assert len(title({"rates": "head:10," * 99})) <= 120


# words


@pytest.mark.parametrize(
    "word, found",
    [
        ("model=tiny,thin", ("model", ("tiny", "thin"))),
        ("finetune.objective=DEX,Ranking", ("objective", ("DEX", "Ranking"))),
        ("objective=DEX", ("objective", ("DEX",))),
        ("finetune.objective.lambda_=0.1,1", ("objective.lambda_", (0.1, 1.0))),
        ("data=synthetic,synthetic/mugshot", ("data", ("synthetic", "synthetic/mugshot"))),
        ("finetune.data=a,b", ("finetune.data", ("a", "b"))),
        ("image_size=32,48", ("image_size", (32, 48))),
        ("pretrain.epochs=0.5,2", ("pretrain.epochs", (0.5, 2.0))),
        ("finetune.rates=head:1;head:10,trunk:0.1", ("rates", ("head:1", "head:10,trunk:0.1"))),
        ("model.convolutions=2,2,2,3,3;1,1,1,1,1", ("model.convolutions", ("2,2,2,3,3", "1,1,1,1,1"))),
        ("model.inputs=imagenet,usual", ("model.inputs", ("imagenet", "usual"))),
        ("dtype=float32,bfloat16", ("dtype", ("float32", "bfloat16"))),
        ("recipe=paper,official", ("recipe", ("paper", "official"))),
        ("init=a,b", ("init", ("a", "b"))),
        ("seed=0..2", ("seed", (0, 1, 2))),
    ],
)
def test_any_option_can_be_swept(word, found):
    assert parse([tiny.CONFIG, f"--sweep.{word}"]).sweep == (found,)


def test_options_of_the_last_stage_are_swept_in_one_run_and_others_apart():
    inside = ("seed=0,1", "epochs=1,2", "examples.n=1,2", "take=all,trunk", "objective.normalise=True,False")
    apart = ("objective=DEX,Ranking", "rates=;head:2", "train_split=train,val", "select=last,best", "pretrain.take=all")
    sweep = [f"--sweep.{word}" for word in (*inside, *apart)]
    experiment = parse([tiny.CONFIG, "--finetune.examples=NShot", *sweep])
    assert names.apart(experiment) == [word.partition("=")[0] for word in apart]


@pytest.mark.parametrize(
    "sweep, told",
    [
        (["modle=tiny,thin"], "unknown option to sweep 'modle'; did you mean model"),
        (["workdir=a,b"], "unknown option to sweep 'workdir'"),
        (["model=tiny,thinn"], "model=thinn: unknown model 'thinn'; did you mean thin"),
        (["objective=DEX,Ranks"], "objective=Ranks: unknown objective 'Ranks'; did you mean Ranking"),
        (["image_size=32,4"], "image_size 4 is too small for the network"),
        (["pretrain.epochs=1,x"], "--sweep.pretrain.epochs=1,x: give floats, as 1,2,5"),
        (["rates=head:1,nose"], "rates=nose: "),
        (["take=all,everything"], "invalid choice 'everything'"),
        (["model=tiny,tiny"], "--sweep.model=tiny,tiny names a value twice"),
        (["epochs=1,2", "finetune.epochs=3"], "--sweep.epochs is given twice"),
        (["objective=DEX", "objective.lambda_=1,2"], "objective=DEX: unknown option to sweep 'objective.lambda_'"),
        (["data=synthetic,aaf"], "aaf is not prepared in"),
        (["rates=head:1,nose:2"], "nose"),
        (["model=tiny", "examples.n=1,2"], "unknown option to sweep 'examples.n'"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_trained(drawn_data, tmp_path, capsys, sweep, told):
    assert main(tiny.words(drawn_data, tmp_path / "run", *STAGE, *(f"--sweep.{word}" for word in sweep))) == 2
    error = capsys.readouterr().err.strip()
    assert told in error and "\n" not in error and error.startswith("error: ")
    assert not (tmp_path / "run").exists()


# runs


def test_every_run_is_trained_and_all_stand_in_one_table(queue, capsys):
    given, folder = queue
    results, rows = read(folder), table(folder)
    combinations = [("DEX", 3), ("DEX", 4), ("Ranking", 3), ("Ranking", 4)]
    assert [tuple(trial["values"].values()) for trial in results["trials"]] == combinations
    assert [trial["trial"] for trial in results["trials"]] == [0, 1, 2, 3]
    assert [(row["objective"], int(row["seed"])) for row in rows] == combinations
    for row, trial in zip(rows, results["trials"]):
        assert float(row["mae"]) == trial["test"]["mae"] and (folder / row["folder"] / "predictions.csv").exists()
        assert row["status"] == "finished" and float(row["seconds"]) > 0
        assert (int(row["parameters"]) == 16_399) == (row["objective"] == "DEX") and row["examples"] == "6"
    assert [(row["values"], row["trials"]) for row in results["sweep"]] == [
        ({"objective": "DEX"}, 2),
        ({"objective": "Ranking"}, 2),
    ]
    page = (folder / "report.html").read_text()
    assert page.count("runs/objective=") >= 4 and "4 trials; best in validation objective" in page
    for name in ("DEX", "Ranking"):
        own = read(folder / f"runs/objective={name}")
        assert own["config"]["stages"][1]["objective"]["type"] == name and list(own["stages"]) == []
    assert [path.name for path in (folder / "runs/before").iterdir() if path.is_dir()] == ["pretrain"]
    assert main(given) == 0
    assert "Finished before" in capsys.readouterr().out


@pytest.mark.slow
def test_the_same_rows_in_one_run_and_queued(drawn_data, tmp_path):
    sweep = ("--sweep.objective.lambda_=0,2", "--sweep.seed=3,4")
    both = {}
    for way in ("vectorised", "queued"):
        given = [*tiny.words(drawn_data, tmp_path / way, *STAGE, *FEW), *sweep]
        experiment = parse(given)
        apart = ["objective.lambda_", "seed"] if way == "queued" else []
        code = queued.run_queue(experiment, given, apart) if apart else queued.run(experiment, given)
        assert code == 0
        both[way] = table(tmp_path / way)
    for one, other in zip(*both.values(), strict=True):
        assert one.keys() == other.keys() and one["folder"] != other["folder"]
        for name in one.keys() - set(CHANCE):
            if name.startswith(("mae", "validation")):
                assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-6), name
            else:
                assert one[name] == other[name], name
    assert len({row["mae"] for row in both["queued"]}) == 4


def test_finished_runs_are_skipped_and_a_stopped_queue_goes_on(queue, tmp_path, capsys, monkeypatch):
    given, folder = queue
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    for name in ("results.json", "sweep.csv", "runs/objective=Ranking/results.json"):
        (again / name).unlink()
    given = [word for word in given if not word.startswith("--workdir")] + [f"--workdir={again}"]
    text = (again / "runs/objective=Ranking/config.json").read_text()  # the copy starts from its own first stage
    (again / "runs/objective=Ranking/config.json").write_text(text.replace(str(folder), str(again)))
    ran = []
    real = build.run
    monkeypatch.setattr(build, "run", lambda one, own: ran.append(one.folder.name) or real(one, own))
    assert main(given) == 0
    assert "run 1 of 2: objective=DEX, finished before, skipped" in capsys.readouterr().out
    assert ran == ["before", "objective=Ranking"]
    rows = [table(one) for one in (folder, again)]
    assert [row["mae"] for row in rows[0]] == [row["mae"] for row in rows[1]]


def test_a_signal_stops_the_queue(drawn_data, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "run", lambda one, own: 143)
    given = [*tiny.words(drawn_data, tmp_path / "run", *STAGE, *FEW), *QUEUE]
    assert main(given) == 143
    assert not (tmp_path / "run/results.json").exists()


def failing(where, how):
    def run(one, own):
        if where in one.folder.name:
            raise how
        return real(one, own)

    real = build.run
    return run


@pytest.mark.parametrize(
    "how, told",
    [(UserError("no pictures left"), "failed: no pictures left"), (MemoryError("16 GB"), "failed: MemoryError: 16 GB")],
)
def test_a_run_that_fails_is_recorded_and_does_not_stop_the_others(queue, tmp_path, capsys, monkeypatch, how, told):
    given, folder = queue
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    for name in ("results.json", "runs/objective=DEX/results.json"):
        (again / name).unlink()
    given = [word for word in given if not word.startswith("--workdir")] + [f"--workdir={again}"]
    monkeypatch.setattr(build, "run", failing("DEX", how))
    assert main(given) == 1
    screen = capsys.readouterr()
    assert f"error: objective=DEX: {told}" in screen.err
    assert "1 of 2 runs failed: objective=DEX; the same command tries them again" in screen.out
    rows = table(again)
    assert [row["status"] for row in rows] == [told, told, "finished", "finished"]
    assert [row["mae"] == "" for row in rows] == [True, True, False, False]
    page = (again / "report.html").read_text()
    assert f"runs/objective=DEX {told}" in page and "2 trials, MAE" in page and "; 2 failed" in page
    assert not (again / "results.json").exists()


def test_what_waits_for_a_stage_that_failed_fails_with_its_reason(drawn_data, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "run", failing("before", UserError("no identities")))
    given = [*tiny.words(drawn_data, tmp_path / "run", *STAGE, *FEW), *QUEUE]
    assert main(given) == 1
    assert {row["status"] for row in table(tmp_path / "run")} == {"failed: before: no identities"}


@pytest.mark.slow
def test_a_run_that_diverges_is_counted_as_in_one_run(drawn_data, tmp_path, capsys):
    sweep = ("--sweep.rates=head:1;head:1e30", "--finetune.optimizer=SGD", "--stages=finetune", "--finetune.epochs=4")
    assert main(tiny.words(drawn_data, tmp_path / "run", *STAGE, *FEW, *sweep)) == 0
    assert "2 trials, 1 diverged, MAE " in capsys.readouterr().out
    assert [row["status"] for row in table(tmp_path / "run")] == ["finished", "diverged"]


def test_stages_before_the_last_are_shared_by_runs_that_agree_on_them(drawn_data, tmp_path):
    sweep = ("--sweep.model.compression=0.03125,0.0625", "--sweep.objective=DEX,Ranking", "--sweep.seed=1,2")
    given = [*tiny.words(drawn_data, tmp_path / "run", *STAGE, *FEW), *sweep]
    experiment = parse(given)
    apart = [*names.apart(experiment), "seed"]
    befores, jobs = queued.with_shared_stages(experiment, given, queued.plan(experiment, given, apart))
    assert list(befores) == ["before,model.compression=0.03125", "before,model.compression=0.0625"]
    assert [one.experiment.model.compression for one in befores.values()] == [0.03125, 0.0625]
    assert all(one.experiment.only == ("pretrain",) and one.experiment.seed == 0 for one in befores.values())
    assert len(jobs) == 8 and [job.experiment.seed for job in jobs] == [1, 2] * 4
    for job in jobs:
        assert job.before == f"before,model.compression={job.values['model.compression']}"
        assert job.experiment.init == befores[job.before].folder and job.experiment.only == ("finetune",)
        assert parse(job.words) == job.experiment


def test_another_run_or_sweep_is_kept_out_of_the_workdir(queue, capsys):
    other = [word for word in queue[0] if not word.startswith("--sweep.seed")]
    assert main(other) == 2
    assert re.search(r"holds a run with another sweep", capsys.readouterr().err)


@pytest.mark.slow
def test_two_processes_queue_as_one(queue, drawn_data, tmp_path):
    given = [*tiny.words(drawn_data, tmp_path / "run", *STAGE, *FEW), *QUEUE]
    for _ in range(2):  # the second time nothing is left to do
        with tiny.started_twice(given, tmp_path / "log") as processes:
            assert [process.wait(300) for process in processes] == [0, 0], (tmp_path / "log.1").read_text()
    said, heard = ((tmp_path / name).read_text() for name in ("log", "log.1"))
    assert said.count("run 2 of 2: objective=Ranking") == said.count("Finished before") == 1 and "run 1" not in heard
    for one, other in zip(table(tmp_path / "run"), table(queue[1]), strict=True):
        assert float(one["mae"]) == pytest.approx(float(other["mae"]), abs=0.05)
        assert [one[name] for name in ("seed", "objective", "status")] == [
            other["seed"],
            other["objective"],
            "finished",
        ]
