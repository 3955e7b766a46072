"""experiments/run.py as a person meets it: words in; files, sentences and exit codes out."""

import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import typing
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from drawn import Squares, prepare_squares

from agejax import specs
from agejax.__main__ import main as agejax_main
from agejax.labels import SCUT
from agejax.models.inputs import HALF, IMAGENET, Inputs
from agejax.models.network import BACKBONES
from agejax.models.vgg import VGG
from agejax.objectives import OBJECTIVES, ExpectationRegression
from agejax.training.feeds import open_feed
from agejax.training.optim import OPTIMIZERS, SCHEDULES, Rate
from agejax.training.sharding import make_mesh
from agejax.training.weighting import WEIGHTINGS
from data_pipelines import builders
from data_pipelines.errors import UserError
from data_pipelines.samplers import ORDERS, SELECTIONS, ClassBalanced, Imposed, NShot
from experiments.check import check_claim, chosen, claim, describe
from experiments.command_line import parse
from experiments.feeding import fed
from experiments.run import main

KINDS = {
    "objective": OBJECTIVES,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "examples": SELECTIONS,
    "order": ORDERS,
    "weighting": WEIGHTINGS,
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Not in the checkout, where a demo may have left its data and its run."""
    monkeypatch.chdir(tmp_path)


def read_json(path: Path):
    return json.loads(path.read_text())


def read_csv(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def refused(capsys, *words) -> str:
    """The one line that a mistake is answered with."""
    capsys.readouterr()
    assert main(list(words)) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1, told
    return told


# what a finished run leaves


def test_run_ends_well_and_tells_what_was_taken_over(tiny_run):
    assert tiny_run.code == 0
    assert "pretrain: 48 examples, 3 steps of 16; starts from random weights" in tiny_run.printed
    assert re.search(
        r"finetune: 48 examples, 6 steps of 16; takes trunk \(14,682 parameters, and its statistics; "
        r"leaves head/bias 8, head/kernel 16×8\) from \S*/pretrain\n",
        tiny_run.printed,
    )
    assert re.search(r"MAE \d+\.\d\d years \[.*\], n = 8 .* report: \S*/report\.html$", tiny_run.printed.strip())


def test_results_hold_the_numbers_and_what_was_run(tiny_run, drawn_data):
    results = read_json(tiny_run.folder / "results.json")
    assert [(name, stage["steps"]) for name, stage in results["stages"].items()] == [("pretrain", 3), ("finetune", 6)]
    for stage in results["stages"].values():
        assert stage["images_per_second"] > 0 and stage["wall_seconds"] > 0
    ages = {
        split: np.array([record["age"] for record in builders.open_split("synthetic", drawn_data, split)])
        for split in ("train", "test")
    }
    median = np.median(ages["train"])
    assert results["median_baseline_mae"] == pytest.approx(np.abs(ages["test"] - median).mean(), rel=1e-6)
    assert read_json(tiny_run.folder / "finetune/stage.json")["description"]["median_label"] == pytest.approx(median)
    assert results["test"]["n"] == len(ages["test"]) == 8
    assert results["versions"]["jax"] == jax.__version__
    assert (results["device"], results["devices"]) == (jax.devices()[0].device_kind, jax.device_count())
    assert results["command"].startswith("python experiments/run.py --config=dldl_v2_thin --model.compression=0.03125")
    config = read_json(tiny_run.folder / "config.json")
    assert config == results["config"]
    assert config["model"]["compression"] == 0.03125 and config["stages"][1]["epochs"] == 2


def test_predictions_are_one_row_a_test_face_and_give_the_mae(tiny_run, drawn_data):
    rows = read_csv(tiny_run.folder / "predictions.csv")
    faces = list(builders.open_split("synthetic", drawn_data, "test"))
    assert [row["id"] for row in rows] == [face["id"] for face in faces]
    for column in ("age", "sigma"):
        np.testing.assert_allclose([float(row[column]) for row in rows], [face[column] for face in faces], rtol=1e-6)
    error = np.array([float(row["predicted"]) - float(row["age"]) for row in rows])
    test = read_json(tiny_run.folder / "results.json")["test"]
    assert test["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-6)
    assert test["rmse"] == pytest.approx(np.sqrt(np.square(error).mean()), rel=1e-6)


def test_report_is_one_file_and_shows_the_result(tiny_run):
    page = (tiny_run.folder / "report.html").read_text()
    assert f"MAE {read_json(tiny_run.folder / 'results.json')['test']['mae']:.2f} years" in page
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert links and all(link.startswith(("data:", "#")) for link in links)
    assert not re.search(r"<script|<link|@import|url\((?!#)", page)


@pytest.mark.parametrize("stage, steps, measure", [("pretrain", 3, "accuracy"), ("finetune", 6, "mae")])
def test_every_stage_leaves_its_curves(tiny_run, stage, steps, measure):
    lines = [json.loads(line) for line in (tiny_run.folder / stage / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == steps
    assert all(measure in line for line in lines)
    assert {line["split"] for line in lines} == ({"train"} if stage == "pretrain" else {"train", "val"})
    (curves,) = (tiny_run.folder / stage / "tensorboard").glob("events.out.tfevents.*")
    assert curves.stat().st_size > 100


def test_the_same_command_again_says_finished_and_touches_nothing(tiny_run, capsys):
    def touched():
        return {path: path.stat().st_mtime_ns for path in tiny_run.folder.rglob("*")}

    before = touched()
    assert main(tiny_run.words) == 0
    assert "Finished before" in capsys.readouterr().out
    assert touched() == before


def copy_without(tiny_run, tmp_path, *names) -> list[str]:
    """The words that go on with a copy of the finished run that lacks these files or folders."""
    folder = shutil.copytree(tiny_run.folder, tmp_path / "copy")
    for name in names:
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
    return [*tiny_run.words, f"--workdir={folder}"]


def test_a_run_that_was_killed_before_its_report_writes_the_same_one(tiny_run, tmp_path, capsys):
    assert main(copy_without(tiny_run, tmp_path, "results.json", "predictions.csv", "report.html")) == 0
    assert "finetune: finished before, skipped" in capsys.readouterr().out
    assert read_csv(tmp_path / "copy/predictions.csv") == read_csv(tiny_run.folder / "predictions.csv")
    results = [read_json(folder / "results.json") for folder in (tiny_run.folder, tmp_path / "copy")]
    assert results[0]["stages"] == results[1]["stages"]
    assert results[0]["test"]["mae"] == results[1]["test"]["mae"]


def test_one_stage_alone_ends_before_the_result_and_lets_the_rest_follow(tiny_run, tmp_path, capsys):
    words = copy_without(tiny_run, tmp_path, "results.json", "finetune")
    assert main([*words, "--stages=pretrain"]) == 0
    assert "the same command without --stages goes on" in capsys.readouterr().out
    assert not (tmp_path / "copy/results.json").exists()
    check_claim(tmp_path / "copy", parse(words))  # the whole command is let in


# mistakes


def test_a_stage_that_has_not_begun_may_still_change(tmp_path):
    words = ["--config=dldl_v2_thin", "--stages=pretrain"]

    def begin(stage):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "metrics.jsonl").touch()

    claim(tmp_path, parse(words))
    begin("pretrain")
    for more in ("--finetune.objective.lambda_=3", "--sweep.seed=0,1", "--test_versions=2"):
        check_claim(tmp_path, parse([*words, more]))
    for more in ("--pretrain.epochs=9", "--image_size=64", "--seed=1", "--data=synthetic/mugshot"):
        with pytest.raises(UserError, match="another"):
            check_claim(tmp_path, parse([*words, more]))
    begin("finetune")
    with pytest.raises(UserError, match=r"another finetune\.objective\.lambda_"):
        check_claim(tmp_path, parse([*words, "--finetune.objective.lambda_=3"]))


@pytest.mark.parametrize(
    "words, told",
    [
        ([], "give --config=NAME; --list shows the names"),
        (["--config=dldl_v2_thim"], "unknown config 'dldl_v2_thim'; did you mean dldl_v2_thin or"),
        ([tiny.CONFIG, "--finetune.epoch=5"], "--finetune.epochs"),
        ([tiny.CONFIG, "--finetune.epochs=five"], "--finetune.epochs: could not convert string to float: 'five'"),
        ([tiny.CONFIG, "--finetune.epochs=0"], "stage finetune: epochs must be above 0"),
        ([tiny.CONFIG, "--dtype=float16"], "'float16' for argument '--dtype'. Expected one of ('float32', 'bfloat16')"),
        ([tiny.CONFIG, "--stages=finetun"], "unknown stage 'finetun'; this config has pretrain, finetune"),
        ([tiny.CONFIG, "--recipe=offical"], "--recipe: invalid choice: 'offical'"),
        (["--config=aaf_tiny", "--recipe=official"], "aaf_tiny offers no choice of recipe"),
        ([tiny.CONFIG, "--data=syntetic"], "no data set 'syntetic': did you mean synthetic"),
        ([tiny.CONFIG, "--image_size=16"], "image_size 16 is too small for the network: give 32 or more"),
        ([tiny.CONFIG, "--finetune.objective=ExpectationRegresion"], "did you mean ExpectationRegression or"),
        ([tiny.CONFIG, "--model=resnet19"], "unknown model 'resnet19'; did you mean resnet18 or"),
        ([tiny.CONFIG, "--model"], "unknown model ''; there are thin, tiny,"),
        ([tiny.CONFIG, "--model=resnet18", "--model.depth=19"], "invalid choice '19' for argument '--model.depth'"),
        ([tiny.CONFIG, "--model.convolutions=2,2"], "convolutions must be five counts of 1 or more, got (2, 2)"),
        ([tiny.CONFIG, "--model.inputs=imagnet"], "unknown recipe 'imagnet'; there are faces, imagenet,"),
        ([tiny.CONFIG, "--finetune.rates=head:10,trunk"], "'trunk' is not PATTERN:FACTOR, as in head:10"),
        ([tiny.CONFIG, "--finetune.rates=head:0"], "the factor of 'head' must be above 0, got 0.0"),
        ([tiny.CONFIG, "--finetune.reference_batch=-1"], "stage finetune: reference_batch must be 0 or more, got -1"),
        (
            [tiny.CONFIG, "--finetune.schedule=MultiStep", "--finetune.schedule.milestones=0,3"],
            "milestones must be above 0 epochs, got 0.0, 3.0",
        ),
        ([tiny.CONFIG, "--finetune.examples=Nshot"], "unknown examples 'Nshot'; did you mean NShot?"),
        ([tiny.CONFIG, "--finetune.order=ClassBalanced", "--finetune.order.width=0"], "width must be above 0, got 0"),
        ([tiny.CONFIG, "--finetune.objective.grid.step=0.3"], "is not a whole number of steps"),
        ([tiny.CONFIG, "--alignment.face_scale=9"], "face_scale 9 must be above 0 and at most 4"),
        ([tiny.CONFIG, "--finetune.augmentation.flip=2"], "flip is 2.0, allowed: 0 to 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_the_words_is_one_line(capsys, words, told):
    answer = refused(capsys, *words)
    assert told in answer and "helptext" not in answer


def test_data_that_is_not_prepared_is_answered_with_the_command(capsys, tmp_path):
    told = refused(capsys, tiny.CONFIG, "--data=aaf", f"--data_dir={tmp_path}")
    assert f"run `python experiments/prepare.py --data=aaf --raw=RAW --data_dir={tmp_path}`" in told


@pytest.mark.parametrize(
    "words, changed",
    [
        (["--config=dldl_v2_tiny"], "name"),
        (["--seed=1"], "seed"),
        (["--finetune.epochs=3"], "finetune.epochs"),
        (["--finetune.objective=ExpectationRegression"], "finetune.objective"),
        (["--init=elsewhere"], "init"),
    ],
)
def test_a_workdir_is_not_shared_by_two_settings(capsys, tiny_run, words, changed):
    told = refused(capsys, *tiny_run.words, *words)
    assert re.search(rf"{tiny_run.folder} holds a run with another {re.escape(changed)}: choose another --work", told)


def test_a_checkpoint_that_is_not_there_or_of_another_shape_is_refused_by_name(capsys, tiny_run, drawn_data, tmp_path):
    words = [*tiny_run.words, f"--workdir={tmp_path / 'run'}"]
    wider = [*words, "--model.compression=0.0625", f"--init={tiny_run.folder / 'pretrain'}"]
    assert re.search(
        r"/pretrain has another network: trunk/block1_1/\S+ is .* in this run; "
        r"it was trained with --model=thin --model.compression=0.03125$",
        refused(capsys, *wider).strip(),
    )
    # the refused words have not claimed the workdir
    assert f"checkpoint {tmp_path}/none does not exist" in refused(capsys, *words, f"--init={tmp_path}/none")


def test_what_the_later_stages_cannot_do_is_told_before_the_first_trains(capsys, tiny_run, drawn_data, tmp_path):
    words = tiny.words(drawn_data, tmp_path / "run", *tiny.PRETRAIN)
    told = refused(capsys, *words, "--finetune.batch_size=6")
    assert f"batch_size 6 cannot be split over {jax.device_count()} devices" in told
    assert "synthetic has no split 'valid': it has" in refused(capsys, *words, "--finetune.validation_split=valid")
    assert "trainable='hed' matches no parameter" in refused(capsys, *words, "--finetune.trainable=hed")
    assert "trainable='(' is not a regular expression: missing )" in refused(capsys, *words, "--finetune.trainable=(")
    assert "rates='hed' matches no parameter" in refused(capsys, *words, "--finetune.rates=head:2,hed:2")
    assert "decays='hed' matches no parameter" in refused(capsys, *words, "--finetune.optimizer.decays=hed")
    other_head = [*words, "--finetune.take=all"]
    assert re.search(
        r"/pretrain has another head: head/bias is \(8,\) there and \(101,\) in this run; take the trunk alone: "
        r"--finetune.take=trunk", refused(capsys, *other_head)
    )  # fmt: skip
    assert "synthetic has no split 'tests': it has" in refused(capsys, *words, "--test_split=tests")
    assert not (tmp_path / "run").exists()


def test_a_workdir_that_cannot_be_made_is_refused(capsys, tiny_run, tmp_path):
    (tmp_path / "file").touch()
    told = refused(capsys, *tiny_run.words, f"--workdir={tmp_path / 'file'}")
    assert f"cannot write in {tmp_path / 'file'}" in told


# other data, and trainings that fail


def test_a_list_of_pictures_without_identities_trains_and_pretraining_is_left_out_aloud(capsys, tmp_path):
    squares = Squares(30)
    data_dir = prepare_squares(tmp_path, squares, "age", lambda row: f"{squares[row]['age']:.1f}")
    more = ("--data=manifest", "--finetune.validation_split=")
    words = tiny.words(data_dir, tmp_path / "run", *tiny.FINETUNE, *more)
    assert "stage pretrain trains on identity, which 100% of manifest lack" in refused(
        capsys, *words, "--stages=pretrain"
    )
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "pretrain: left out, as manifest has no identities; --pretrain.data=NAME pretrains on another set" in printed
    assert "starts from random weights" in printed
    results = read_json(tmp_path / "run/results.json")
    assert list(results["stages"]) == ["finetune"]
    assert results["left_out"] == {"pretrain": "manifest has no identities"}
    again = tmp_path / "again.csv"
    assert agejax_main(
        ["evaluate", f"--checkpoint={tmp_path / 'run'}", "--data=manifest", f"--data_dir={tmp_path / 'data'}",
         f"--predictions={again}"]
    ) == 0  # fmt: skip
    assert again.read_text() == (tmp_path / "run/predictions.csv").read_text()


def test_a_stage_trains_on_the_examples_that_it_chooses(capsys, drawn_data, tmp_path):
    choice = ("--pretrain.examples=NShot", "--pretrain.examples.n=12", "--pretrain.order=ClassBalanced")
    more = ("--pretrain.batch_size=4", "--pretrain.epochs=2", "--pretrain.trainable=head", "--stages=pretrain")
    assert main(tiny.words(drawn_data, tmp_path / "run", *choice, *more)) == 0
    assert "pretrain: 12 examples (drawn from 48, trial 0), 6 steps of 4; starts" in capsys.readouterr().out
    card = read_json(tmp_path / "run/pretrain/stage.json")
    assert (card["examples"], card["epochs"]) == (12, 2)


def test_the_blind_guess_is_the_median_of_the_chosen_examples(drawn_data):
    words = [tiny.CONFIG, f"--data_dir={drawn_data}", "--finetune.examples=NShot", "--finetune.examples.n=5"]
    drawn, _ = NShot(5).choose(builders.open_split("synthetic", drawn_data, "train"), 0, builders.open_split)
    experiment = parse(words)
    assert describe(experiment, experiment.stages[1]).median_label == np.median(drawn.column("age"))


@pytest.mark.parametrize("number, target", [(0, "identity"), (1, "age")])
def test_a_stage_trains_in_the_order_that_it_names(drawn_data, number, target):
    order = ("--pretrain.order=ClassBalanced", "--finetune.order=ClassBalanced", "--loader.workers=0")
    experiment = parse(
        tiny.words(drawn_data, Path("unused"), *tiny.PRETRAIN, *tiny.FINETUNE, *order, "--loader.workers=0")
    )
    faces = builders.open_split("synthetic", drawn_data, "train")
    feed = open_feed("host", fed(experiment, experiment.stages[number], faces, 7), make_mesh())
    with feed.open(2) as batches:
        rows = next(batches)["index"].tolist()
    stream = ClassBalanced().stream(faces, target, 7)
    assert rows == [stream[position] for position in range(32, 48)]


def test_a_head_for_chosen_identities_has_no_others(drawn_data):
    words = [tiny.CONFIG, f"--data_dir={drawn_data}"]
    every, few = parse(words), parse([*words, "--pretrain.examples=MinPerIdentity", "--pretrain.examples.count=8"])
    heads = [describe(experiment, experiment.stages[0]).objective.num_identities for experiment in (every, few)]
    assert heads == [8, 6]  # two are in val or test alone


def test_a_stage_can_be_given_the_ages_of_another_set(drawn_data):
    words = [tiny.CONFIG, f"--data_dir={drawn_data}", "--seed=5", "--finetune.train_split=all"]
    like = ["--finetune.examples.distribution=matched", "--finetune.examples.like=synthetic:test"]
    experiment = parse([*words, "--finetune.examples=Imposed", "--finetune.examples.budget=80", *like])
    examples, told = chosen(experiment, experiment.stages[1])
    faces = [builders.open_split("synthetic", drawn_data, split) for split in ("all", "test")]
    expected, _ = Imposed("matched", "test", 80).choose(faces[0], 5, lambda *_: faces[1])
    assert len(examples) == 80 and (examples.rows == expected.rows).all()
    assert "different ones, ages matched synthetic:test" in told


def test_examples_that_cannot_be_chosen_are_refused_before_the_first_stage_trains(capsys, drawn_data, tmp_path):
    words = tiny.words(drawn_data, tmp_path / "run", *tiny.PRETRAIN, "--finetune.examples=NShot")
    assert "error: stage finetune, examples: n is 0: give 1 to 48" in refused(capsys, *words)
    words = [*words, "--finetune.examples=Imposed", "--finetune.examples.distribution=matched"]
    assert "stage finetune, examples: the matched distribution needs a set" in refused(capsys, *words)
    told = refused(capsys, *words, "--finetune.examples.like=aaf")
    assert "prepare.py --data=aaf" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", [*SELECTIONS.values(), *ORDERS.values(), *WEIGHTINGS.values()])
def test_examples_and_order_are_written_and_read_back(kind):
    assert specs.decode(json.loads(json.dumps(specs.encode(kind()))), "here") == kind()
    assert specs.decode(specs.encode(NShot(12, 3)), "here") == NShot(12, 3) != NShot(12)


def test_a_training_that_diverges_names_the_step(capsys, drawn_data, tmp_path):
    cheap = ("--stages=finetune", "--finetune.trainable=head", "--finetune.optimizer.learning_rate=1e38")
    assert main(tiny.words(drawn_data, tmp_path / "run", *tiny.FINETUNE, *cheap)) == 1
    told = capsys.readouterr().err
    assert re.fullmatch(r"error: finetune: (loss|grad_norm) is (inf|nan) at step [2-6] of 6; .*\n", told)
    assert not (tmp_path / "run/finetune/stage.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("send, number, workers", [(os.kill, signal.SIGTERM, 0), (os.killpg, signal.SIGINT, 2)])
def test_a_signal_saves_says_so_and_the_same_command_goes_on(drawn_data, tmp_path, send, number, workers):
    """SIGTERM as a scheduler sends it, Ctrl-C as a terminal does, to the workers too."""
    stage, length = tmp_path / "run/finetune", ("--finetune.epochs=20", "--validate_epochs=20")  # 120 steps
    more = ("--stages=finetune", "--finetune.batch_size=8", *length, f"--loader.workers={workers}")
    words = tiny.words(drawn_data, tmp_path / "run", *more)
    with tiny.started(words, tmp_path / "log") as process:
        tiny.wait_for_step(process, stage, 20)
        send(process.pid, number)
        assert process.wait(60) == 128 + number
    stopped = re.search(
        r"stopped by a signal, saved at step (\d+) of 120; the same command", (tmp_path / "log").read_text()
    )
    assert stopped and 20 <= int(stopped[1]) < 120
    with tiny.started(words, tmp_path / "log") as process:
        assert process.wait(240) == 0
    log = (tmp_path / "log").read_text()
    assert f"finetune: goes on at step {stopped[1]} of 120" in log and "Traceback" not in log
    assert read_json(stage / "stage.json")["steps"] == 120


# the words


def test_help_does_not_import_jax():
    code = "from experiments.run import main; import sys; code = main(['--help']); assert 'jax' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", f"{code}; sys.exit(code)"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--finetune.objective=Expect" in done.stdout and "--model=BACKBONE" in done.stdout


def test_list_shows_what_can_be_chosen(capsys):
    assert main(["--list"]) == 0
    shown = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
    assert {"dldl_v2_thin", "synthetic", *OBJECTIVES, *BACKBONES} <= shown


def test_help_of_a_config_shows_its_fields(capsys):
    with pytest.raises(SystemExit) as stop:
        main([tiny.CONFIG, "--help"])
    assert not stop.value.code
    shown = capsys.readouterr().out
    assert "--finetune.objective.lambda_ FLOAT" in shown and "--pretrain.epochs FLOAT" in shown


def test_official_recipe_is_the_authors_code():
    """DLDL-v2's released code: KL alone for 60 epochs, then both losses for 60, each at a fresh 1e-3."""
    experiment = parse([tiny.CONFIG, "--recipe=official", "--data=aaf"])
    pretrain, kl, joint = experiment.stages
    assert [stage.name for stage in experiment.stages] == ["pretrain", "kl", "joint"]
    assert type(pretrain.objective).__name__ == "Identity" and type(kl.objective).__name__ == "LabelDistribution"
    assert type(joint.objective).__name__ == "JointLabelDistribution"
    assert (joint.objective.kl_reduction, joint.objective.lambda_) == ("mean_elements", 1)
    assert kl.objective.kl_reduction == "mean_elements"
    assert kl.objective.normalise and joint.objective.normalise
    assert (pretrain.take, kl.take, joint.take) == ("trunk", "trunk", "all")
    assert (kl.reset_head_bias, joint.reset_head_bias) == (False, True)
    for stage in experiment.stages:
        adam = stage.optimizer
        assert (adam.learning_rate, adam.eps, adam.form, adam.weight_decay) == (1e-3, 1e-7, "torch7", 0)
        assert (stage.schedule.factor, stage.schedule.every) == (0.1, 30)
        assert (stage.batch_size, stage.augmentation.resize) == (128, "torch7")
    assert kl.epochs == joint.epochs == 60
    assert (experiment.image_size, experiment.select) == (224, "last")
    paper = parse([tiny.CONFIG, "--data=aaf"])
    assert [stage.name for stage in paper.stages] == ["pretrain", "finetune"]
    assert (paper.stages[1].optimizer.eps, paper.stages[1].objective.kl_reduction) == (1e-8, "batch_mean")


def test_data_chooses_the_schedule():
    drawn, real = parse([tiny.CONFIG]), parse([tiny.CONFIG, "--data=aaf"])
    assert drawn.image_size < real.image_size == 224
    assert drawn.stages[1].epochs < real.stages[1].epochs == 60


def test_objective_is_chosen_by_class_and_then_set_by_field():
    chosen = [tiny.CONFIG, "--finetune.objective=ExpectationRegression"]
    expected = changed(parse([tiny.CONFIG]), "finetune.objective", ExpectationRegression())
    assert parse(chosen) == parse([tiny.CONFIG, "--finetune.objective", "ExpectationRegression"]) == expected
    finer = parse([*chosen, "--finetune.objective.grid.step=0.5"])
    assert finer == changed(expected, "finetune.objective.grid.step", 0.5)


def test_another_objective_keeps_the_label_and_the_grid_of_the_config():
    stage = parse(["--config=att_thin", "--finetune.objective=ExpectationRegression"]).stages[-1]
    assert stage.objective == ExpectationRegression(grid=SCUT, target="attractiveness")


def test_optional_fields_take_none_and_stages_a_list():
    assert parse([tiny.CONFIG, "--init=None", "--workdir=None"]) == parse([tiny.CONFIG])
    assert parse([tiny.CONFIG, "--init", "somewhere"]).init == Path("somewhere")
    assert parse([tiny.CONFIG]).only == ()
    assert parse([tiny.CONFIG, "--stages=pretrain,finetune"]).only == ("pretrain", "finetune")


# every option can be set

SET_OTHERWISE = {"name", "recipe", "only", "pretrain.name", "finetune.name", "sweep"}  # the config; --recipe; --stages
LEGAL = {  # where any other value will not do
    "data": ("synthetic/mugshot", "synthetic/mugshot"),
    "finetune.objective.grid.low": (10.0, "10"),
    **{f"{owner}augmentation.aspect": (1.5, "1.5") for owner in ("test_", "pretrain.", "finetune.")},
    "finetune.objective.importance": ((0.5,) * 80, ",".join(["0.5"] * 80)),  # one for each label but the last
}
BY_TYPE = {  # (another value than this one, the word for it)
    bool: lambda value: (not value, str(not value)),
    int: lambda value: (value + 8, str(value + 8)),
    float: lambda value: (value / 2 or 0.25, str(value / 2 or 0.25)),
    float | None: lambda value: (0.125, "0.125"),
    str: lambda value: ("other", "other"),
    Path | None: lambda value: (Path("elsewhere"), "elsewhere"),
    Path: lambda value: (Path("elsewhere"), "elsewhere"),
    tuple[int, ...]: lambda value: ((3, 1, 2, 2, 1), "3,1,2,2,1"),
    tuple[float, ...]: lambda value: ((7.5, 14.0), "7.5,14"),
    tuple[Rate, ...]: lambda value: ((Rate("head", 10.0), Rate("block1_(1|2):?", 0.1)), "head:10,block1_(1|2):?:1e-1"),
    Inputs | None: lambda value: (HALF, "half"),
}


def leaves(options, prefix=""):
    """(dotted name, field, value) of every option; a stage goes by its name."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name == "stages":
            for stage in value:
                yield from leaves(stage, f"{stage.name}.")
        elif dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        elif prefix + field.name not in SET_OTHERWISE:
            yield prefix + field.name, field, value


def another(name, field, value):
    """A legal value that is not the present one, and the word for it."""
    if name in LEGAL:
        return LEGAL[name]
    if typing.get_origin(field.type) is typing.Literal:
        choice = next(choice for choice in typing.get_args(field.type) if choice != value)
        return choice, str(choice)
    return BY_TYPE[field.type](value)


def changed(options, name, value):
    """The options with the one leaf of that name set."""
    head, _, rest = name.partition(".")
    stages = getattr(options, "stages", ())
    if head in [stage.name for stage in stages]:
        new = tuple(changed(stage, rest, value) if stage.name == head else stage for stage in stages)
        return dataclasses.replace(options, stages=new)
    return dataclasses.replace(options, **{head: changed(getattr(options, head), rest, value) if rest else value})


def test_every_leaf_can_be_set_from_the_command_line_and_sets_nothing_else():
    plain = parse([tiny.CONFIG])
    every = list(leaves(plain))
    assert len(every) == len({name for name, _, _ in every}) > 60
    for first in range(20):  # a few leaves, far from each other, in one parse: parsing takes its time
        words, expected = [tiny.CONFIG], plain
        for name, field, value in every[first::20]:
            new, word = another(name, field, value)
            words.append(f"--{name}={word}")
            assert (expected := changed(before := expected, name, new)) != before
        assert parse(words) == expected, words


@pytest.mark.parametrize("field, kind", [(field, kind) for field in KINDS for kind in KINDS[field]])
def test_every_leaf_of_every_kind_can_be_set(field, kind):
    words = [tiny.CONFIG, f"--finetune.{field}={kind}"]
    expected = parse(words)
    options = getattr(expected.stages[1], field)
    assert type(options) is KINDS[field][kind]
    for name, leaf, value in leaves(options, f"finetune.{field}."):
        new, word = another(name, leaf, value)
        words.append(f"--{name}={word}")
        expected = changed(expected, name, new)
    assert parse(words) == expected


@pytest.mark.parametrize("row", BACKBONES)
def test_every_backbone_can_be_chosen_and_every_leaf_of_it_set(row):
    words = [tiny.CONFIG, f"--model={row}", "--image_size=64"]
    expected = parse(words)
    assert expected == dataclasses.replace(parse([tiny.CONFIG]), model=BACKBONES[row], image_size=64)
    for name, leaf, value in leaves(expected.model, "model."):
        new, word = another(name, leaf, value)
        words.append(f"--{name}={word}")
        expected = changed(expected, name, new)
    assert parse(words) == expected


def test_a_backbone_is_chosen_before_its_fields_are_set_wherever_it_stands():
    words = [tiny.CONFIG, "--model.compression=0.25", "--model", "vgg16", "--model.convolutions", "2,2,2,3,3"]
    assert parse(words).model == VGG(0.25, "fc", (2, 2, 2, 3, 3), norm=False, bias=True)


@pytest.mark.parametrize("word", ["usual", "null", "None"])
def test_an_input_recipe_can_be_left_to_the_weights(word):
    assert parse([tiny.CONFIG, "--model.inputs=imagenet"]).model.inputs == IMAGENET
    assert parse([tiny.CONFIG, "--model.inputs=imagenet", f"--model.inputs={word}"]).model.inputs is None


def test_rates_are_saved_so_that_they_can_be_read():
    (rates,) = (stage.rates for stage in parse([tiny.CONFIG, "--pretrain.rates=head:10,.*:1"]).stages if stage.rates)
    assert rates == (Rate("head", 10.0), Rate(".*", 1.0))
    saved = specs.encode(rates)
    assert saved == [
        {"type": "Rate", "pattern": "head", "factor": 10.0},
        {"type": "Rate", "pattern": ".*", "factor": 1.0},
    ]
    assert parse([tiny.CONFIG, "--pretrain.rates="]) == parse([tiny.CONFIG])
