"""The configs: what they are made of, and attractiveness from the command line to the page."""

import json
import math
import re

import numpy as np
import pytest
import tiny

from agejax.__main__ import main as agejax_main
from agejax.labels import AGE, CFD, SCUT
from agejax.models.googlenet import GoogLeNet
from agejax.objectives import DEX, AMSoftmax, EuclideanRegression, Identity, LAEClassification, LAERepresentation
from agejax.training.optim import SGD, OneCycle
from data_pipelines import builders
from data_pipelines.align import template
from data_pipelines.errors import UserError
from data_pipelines.samplers import ClassBalanced
from data_pipelines.schema import is_drawn
from experiments.check import describe
from experiments.command_line import parse
from experiments.configs import CONFIGS, early_adaptation
from experiments.configs.agenet import ENSEMBLE, VIEWS
from experiments.configs.protocols import Parts, parts_of
from experiments.configs.toy import TOY
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


# every config

QUICK = ("lae_baseline",)  # one stage


@pytest.fixture(scope="session")
def domains(drawn_data):
    """The shared drawn faces, and as many of the target domain."""
    builders.prepare("synthetic/mugshot", drawn_data, faces=tiny.FACES)
    return drawn_data


def train_a_toy(name, data_dir, workdir, *more) -> dict:
    """results.json of the config as a toy; of another network, where more words begin with its name."""
    data = CONFIGS[name]().data
    data = data if is_drawn(data) else "synthetic"
    words = [f"--config={name}", f"--data={data}", f"--data_dir={data_dir}", f"--workdir={workdir}"]
    toy = [word for word in TOY[name] if not (more and word.startswith("--model"))]
    assert main([*words, *toy, *more]) == 0
    return json.loads((workdir / "results.json").read_text())


def test_every_config_has_a_toy():
    assert list(TOY) == list(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_is_parsed_and_shows_its_options(name, capsys):
    toy, whole = parse([f"--config={name}", *TOY[name]]), CONFIGS[name]()
    assert toy.image_size == 32 and [stage.objective for stage in toy.stages] == [s.objective for s in whole.stages]
    with pytest.raises(SystemExit) as stop:
        main([f"--config={name}", "--help"])
    assert not stop.value.code
    shown = capsys.readouterr().out
    assert all(f"--{stage.name}.epochs FLOAT" in shown for stage in whole.stages)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CONFIGS]
)
def test_a_config_trains_as_a_toy(name, domains, tmp_path):
    results = train_a_toy(name, domains, tmp_path / "run")
    assert math.isfinite(results["test"]["mae"]) and results["test"]["n"] > 0
    experiment = CONFIGS[name]()
    assert list(results["stages"]) == [stage.name for stage in experiment.stages] and not results["left_out"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, stage, model", [("agenet", "apparent", "googlenet"), ("lae_strong", "representation", "efficientnet_v2_s")]
)
def test_a_deep_network_trains_in_its_config(name, stage, model, domains, tmp_path):
    results = train_a_toy(name, domains, tmp_path / "run", f"--model={model}", f"--stages={stage}")
    assert math.isfinite(results["test"]["mae"]) and list(results["stages"]) == [stage]
    assert type(CONFIGS[name](data="mivia").model).__name__ == results["config"]["model"]["type"]


# what the papers say, where they are not drawn faces


@pytest.mark.parametrize(
    "data, parts",
    [
        ("chalearn15", Parts("train", "val", "val")),
        ("chalearn16", Parts("train+val", "", "test")),
        ("morph", Parts("train", "val", "test")),
        ("morph@rs_0", Parts("train", "", "test")),
        ("fgnet@lopo_001", Parts("train", "", "test")),
        ("scut_fbp5500@p60_40", Parts("train", "", "test")),
        ("imdb_wiki@by_image", Parts("train", "val", "test")),
        ("mivia", Parts("train", "val", "val")),
    ],
)
@pytest.mark.parametrize("name", ["dldl_v2_thin", "lae", "early_adaptation_dex", "benchmark", "agenet"])
def test_a_run_uses_the_parts_of_its_data_set(name, data, parts):
    experiment = CONFIGS[name](data=data)
    last = experiment.stages[-1]
    assert (last.train_split, last.validation_split, experiment.test_split) == parts == parts_of(data)


@pytest.mark.parametrize(
    "data, grid", [("scut_fbp@rs_0", SCUT), ("scut_fbp5500@cv_1", SCUT), ("cfd/main@rs_0", CFD), ("cfd/india", CFD)]
)
@pytest.mark.parametrize("name, parameters", [("att_thin", 0.5), ("att_tiny", 0.25)])
def test_the_data_set_chooses_the_grid_of_points(name, parameters, data, grid):
    experiment = CONFIGS[name](data=data)
    assert experiment.stages[-1].objective.grid == grid and experiment.model.compression == parameters


def test_agenet_goes_from_identities_to_real_to_apparent_ages():
    for name, objective in (("agenet", "LabelDistribution"), ("agenet_euclidean", "EuclideanRegression")):
        experiment = CONFIGS[name](data="chalearn15")
        assert [stage.name for stage in experiment.stages] == ["pretrain", "real", "apparent"]
        assert [stage.data for stage in experiment.stages] == ["casia_webface", "cacd2000", ""]
        kinds = [type(stage.objective).__name__ for stage in experiment.stages]
        assert kinds == ["Identity", objective, objective] and experiment.model == GoogLeNet()
        assert [stage.take for stage in experiment.stages] == ["trunk", "trunk", "all"]
        assert all(
            (stage.optimizer.momentum, stage.optimizer.weight_decay) == (0.9, 5e-4) for stage in experiment.stages
        )
    assert experiment.stages[-1].objective == EuclideanRegression(scale=100)


def test_the_ensemble_is_ten_networks_of_four_pretrained_ones():
    networks = [parse([f"--config={run.config}", "--data=chalearn15", *run.words]) for run in ENSEMBLE]
    assert sum(math.prod(len(values) for _, values in network.sweep) for network in networks) == 10
    shown = {(network.image_size, network.alignment, network.stages[0]) for network in networks}
    assert len(shown) == 4 and {size for size, *_ in shown} == {227, 248}
    assert networks[0] == parse(["--config=agenet", "--data=chalearn15", "--sweep.seed=0,1"])


@pytest.mark.parametrize("view", VIEWS)
def test_a_crop_of_the_ensemble_is_the_middle_of_one_canvas(view):
    experiment = parse(["--config=agenet", "--data=chalearn15", *VIEWS[view]])
    size, shift = experiment.image_size, experiment.stages[-1].augmentation.shift
    whole = template(256, type(experiment.alignment)({"exterior": 0.7, "interior": 1.0}[view.split(",")[0]]))
    np.testing.assert_allclose(template(size, experiment.alignment), whole - (256 - size) / 2, atol=0.1)
    assert shift * size == pytest.approx((256 - size) / 2, abs=0.02)


def test_lae_is_the_schedule_of_the_paper():
    pretrain, representation, classification = CONFIGS["lae"](data="mivia").stages
    assert pretrain.objective == AMSoftmax(scale=30, margin=0.35)
    assert representation.objective == LAERepresentation() and classification.objective == LAEClassification()
    epochs = [stage.epochs for stage in (pretrain, representation, classification)]
    assert epochs == [18, 24, 8] and pretrain.schedule.milestones == (7, 14, 16)
    assert representation.schedule == classification.schedule == OneCycle()
    rates = [stage.learning_rate for stage in (representation, classification)]
    assert rates == [0.005, 0.001] and representation.optimizer == SGD(0.005, weight_decay=5e-4)
    assert classification.order == ClassBalanced() and classification.trainable == "head"
    assert classification.augmentation == representation.augmentation and representation.augmentation.randaugment == 2
    (baseline,) = CONFIGS["lae_baseline"](data="mivia").stages
    assert baseline.epochs == 75 and baseline.schedule.milestones == (20, 40, 60)


def test_each_trick_of_lae_is_one_change():
    made = {name: CONFIGS[f"lae_{name}"](data="mivia") for name in ("baseline", "architecture", "augmentation")}
    pretraining, strong = CONFIGS["lae_pretraining"](data="mivia"), CONFIGS["lae_strong"](data="mivia")
    baseline = made["baseline"]
    assert made["architecture"].stages == baseline.stages and made["architecture"].model == strong.model
    assert pretraining.stages[1:] == baseline.stages and pretraining.stages[0] == strong.stages[0]
    assert made["augmentation"].model == pretraining.model == baseline.model != strong.model
    (augmented,) = made["augmentation"].stages
    assert augmented.augmentation == strong.stages[1].augmentation != baseline.stages[0].augmentation


@pytest.mark.parametrize(
    "data, n, iterations",
    [
        ("chalearn15", 12, 12), ("chalearn15", 99, 100), ("chalearn15", 198, 200), ("chalearn15", 396, 400),
        ("chalearn15", 990, 999), ("chalearn15", 1981, 2000), ("morph@caucasian_0", 3, 1),
        ("morph@caucasian_0", 4380, 2000),
    ],
)  # fmt: skip
def test_few_examples_have_five_steps_of_fewer_iterations(data, n, iterations):
    words = ["--config=early_adaptation_dex", f"--data={data}", *early_adaptation.few(n, data)]
    stage = parse(words).stages[-1]
    assert stage.examples.n == n and stage.steps(n) == 5 * iterations
    rates = [float(stage.schedule(step, 5 * iterations, n / stage.batch_size)) for step in range(5 * iterations)]
    np.testing.assert_allclose(rates, np.repeat(0.1 ** np.arange(5), iterations), rtol=1e-5)


def test_early_adaptation_imposes_what_it_says():
    made = {name: CONFIGS[f"early_adaptation_{name}"](data="chalearn15") for name in ("uniform", "imdb", "matched")}
    imposed = {name: experiment.stages[1] for name, experiment in made.items()}
    told = {name: (stage.examples.distribution, stage.examples.like) for name, stage in imposed.items()}
    assert told == {"uniform": ("uniform", ""), "imdb": ("original", ""), "matched": ("matched", "chalearn15")}
    learnt = [(stage.epochs, stage.optimizer.learning_rate, stage.take) for stage in imposed.values()]
    assert learnt == [(1, 1e-5, "all"), (10, 1e-4, "all"), (10, 1e-4, "all")]
    assert all(stage.data == "imdb_wiki" and stage.objective == DEX() for stage in imposed.values())
    takes = {name: CONFIGS[f"early_adaptation_{name}"]().stages[-1].take for name in ("dex", "vgg_face", "vgg16")}
    assert takes == {"dex": "all", "vgg_face": "trunk", "vgg16": "trunk"}
