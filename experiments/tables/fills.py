"""How each kind of row is measured: one function a kind of kinds.py, (the row's fill, data set, setting) → Filled."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from agejax import calibrate, mixtures, two_stage
from agejax.models.network import BACKBONES, init_variables, make_network
from agejax.objectives import JointLabelDistribution
from agejax.parameters import count
from agejax.training import checkpoint, evaluate
from agejax.training.evaluate import Predictions
from agejax.training.sharding import make_mesh
from agejax.training.stages import start_variables
from data_pipelines import builders
from experiments import feeding
from experiments.check import describe
from experiments.handover import load_before, take_over
from experiments.results import RESULTS
from experiments.saved import read_json, read_predictions
from experiments.tables.kinds import Before, Conformal, Fused, Network, OfGroup, Tested, Trained, TwoStage
from experiments.tables.measures import Answers, Measured, measured, spread_over
from experiments.tables.runs import Missing, Planned, Setting, carry_out, plan

FORWARD_IMAGES, FORWARD_PASSES = 32, 20  # as the authors of DLDL-v2 time it
FORWARD_PIXELS, TOY_PIXELS = 224, 64
SAVED, BEFORE = "predictions.csv", "before.csv"


class Filled(NamedTuple):
    """What was found for one row and data set."""

    number: Callable[[str], Measured | None]
    """Metric → number; None where it is not defined."""
    folder: Path | None = None
    notes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    """What run.py would be given; empty where it is not one run."""


def trained(fill: Trained, data: str, setting: Setting) -> Filled:
    planned = plan(fill.run, data, setting)
    folder = carry_out(planned)
    return _filled(answers(folder, fill.values), planned, folder)


def fused(fill: Fused, data: str, setting: Setting) -> Filled:
    """The mean over all trials of all runs: an ensemble as large as the list says."""
    every = [plan(run, data, setting) for run in fill.runs]
    found = [answers(carry_out(planned)) for planned in every]
    predicted = np.concatenate([one.predicted for one in found])
    notes = tuple(dict.fromkeys(note for planned in every for note in planned.notes))
    together = found[0]._replace(predicted=mixtures.mean(predicted)[None], lost=sum(one.lost for one in found))
    return Filled(partial(measured, together), None, (f"{len(predicted)} networks", *notes))


def before(fill: Before, data: str, setting: Setting) -> Filled:
    """What the last stage starts from, tested; a head that is new to it is random."""
    planned = plan(fill.run, data, setting)
    folder = planned.folder(len(planned.experiment.stages) - 1)
    path = folder / BEFORE
    if not path.exists():
        source = carry_out(planned, len(planned.experiment.stages) - 2)
        description, variables = _start(planned, source)
        _predict(planned, description, variables, data, path, planned.experiment.test_split)
    return _filled(_answers([path], _target(planned)), planned, folder)


def tested(fill: Tested, data: str, setting: Setting) -> Filled:
    """Every trial's weights on the test split of another set."""
    planned = plan(fill.run, data, setting)
    folder = carry_out(planned)
    return _filled(_answers(_predicted(planned, folder, fill.data, "test"), _target(planned)), planned, folder)


def conformal(fill: Conformal, data: str, setting: Setting) -> Filled:
    """How many labels of the test split the intervals hold, in %, and their mean width; over trials the mean."""
    planned = plan(fill.run, data, setting)
    folder, objective = carry_out(planned), planned.experiment.stages[-1].objective
    validation, test = planned.experiment.stages[-1].validation_split, planned.experiment.test_split
    found = []
    for paths in zip(*(_predicted(planned, folder, data, split) for split in (validation, test))):
        held_out, tested_on = (saved(path, objective.target) for path in paths)
        known = {"width": calibrate.usual_width(objective), "grid": objective.grid, "target": objective.target}
        calibration = calibrate.fit(held_out, (fill.coverage,), **known)
        found += calibrate.measure(calibration, tested_on).values()
    return Filled(partial(_of_intervals, found), folder, planned.notes, planned.words)


def _of_intervals(found: list[dict], metric: str) -> Measured:
    share, width = (np.array([one[name] for one in found]) for name in ("share", "mean_width"))
    values, bounds = {
        "coverage": (100 * share, [100 * bound for bound in calibrate.wilson(share.mean(), found[0]["n"])]),
        "width": (width, np.mean([one["mean_width_interval"] for one in found], axis=0)),
    }[metric]
    return Measured(float(values.mean()), tuple(map(float, bounds)), spread_over(values), len(found))


def of_group(fill: OfGroup, data: str, setting: Setting) -> Filled:
    """Raises Missing where the set does not say who belongs to the group."""
    planned = plan(fill.run, data, setting)
    examples = builders.open_split(data, setting.data_dir, planned.experiment.test_split)
    members = np.asarray(examples.column(fill.column), str) == fill.group
    if not members.any():
        raise Missing(f"{data} names nobody {fill.group} in its {planned.experiment.test_split} split")
    folder = carry_out(planned)
    every = answers(folder)
    some = every._replace(label=every.label[members], sigma=every.sigma[members], predicted=every.predicted[:, members])
    return _filled(some, planned, folder)


def of_two_stages(fill: TwoStage, data: str, setting: Setting) -> Filled:
    """Features of the trunk before the last stage, or BIF, and a linear learner; nothing hangs on a seed."""
    planned = plan(fill.run, data, setting)
    folder = planned.folder(len(planned.experiment.stages) - 1)
    path = folder / f"{fill.features}-{fill.learner}.csv"
    if not path.exists():
        trunk = (
            _start(planned, carry_out(planned, len(planned.experiment.stages) - 2)) if fill.features == "cnn" else None
        )
        experiment, stage = planned.experiment, planned.experiment.stages[-1]
        train, test = (
            builders.open_split(experiment.data, experiment.data_dir, split)
            for split in (stage.train_split, experiment.test_split)
        )
        found = two_stage.measure(
            fill.features, fill.learner, train, test, trunk, experiment.alignment, stage.objective
        )
        _write(path, test, found, stage.objective.target)
    return _filled(_answers([path], _target(planned)), planned, folder)


def network(fill: Network, data: str, setting: Setting) -> Filled:
    """Millions of parameters; ms for one forward pass of 32 images, the median of 20."""
    made = make_network(BACKBONES[fill.model], JointLabelDistribution().head, "float32")
    pixels = TOY_PIXELS if setting.toy else FORWARD_PIXELS
    variables = init_variables(jax.random.key(0), made, pixels)
    images = jnp.zeros((FORWARD_IMAGES, pixels, pixels, 3), jnp.uint8)
    forward = jax.jit(lambda variables, images: made.apply(variables, images, train=False)["logits"])
    seconds = [_seconds(forward, variables, images) for _ in range(FORWARD_PASSES + 1)][1:]  # the first compiles
    costs = {"parameters": count(variables["params"]) / 1e6, "forward": 1000 * statistics.median(seconds)}
    known = {name: Measured(value, None, None, 1) for name, value in costs.items()}
    return Filled(known.get, None, (f"{jax.devices()[0].device_kind}, {pixels} px",))


FILLS = {
    Trained: trained, Before: before, Fused: fused, TwoStage: of_two_stages, Network: network, Tested: tested,
    OfGroup: of_group, Conformal: conformal,
}  # fmt: skip


def answers(folder: Path, values: tuple[tuple[str, float], ...] = ()) -> Answers:
    """Of a finished run: its test predictions, or those of all its trials that have the values."""
    results = read_json(folder / RESULTS)
    tests = results.get("trials") or [{"folder": ".", "values": {}, "test": results["test"]}]
    target = tests[0]["test"]["target"]
    tests = [trial for trial in tests if all(trial["values"].get(name) == value for name, value in values)]
    whole = [folder / trial["folder"] / SAVED for trial in tests if trial["test"]["mae"] is not None]
    return _answers(whole, target)._replace(lost=len(tests) - len(whole))


def at_hand(fill: Trained | Before, data: str, setting: Setting) -> Answers | None:
    """Those of a row that has run; None where it has not."""
    planned = plan(fill.run, data, setting)
    folder = planned.folder(len(planned.experiment.stages) - 1)
    if isinstance(fill, Before):
        return _answers([folder / BEFORE], _target(planned)) if (folder / BEFORE).exists() else None
    return answers(folder, fill.values) if (folder / RESULTS).exists() else None


def _answers(paths: list[Path], target: str) -> Answers:
    read = [read_predictions(path, target) for path in paths]
    if not read:
        return Answers(np.zeros(0), np.zeros(0), np.zeros((0, 0)))
    return Answers(read[0]["label"], read[0]["sigma"], np.stack([one["predicted"] for one in read]))


def _filled(found: Answers, planned: Planned, folder: Path) -> Filled:
    notes = (*planned.notes, *([f"{found.lost} trials diverged"] if found.lost else []))
    return Filled(partial(measured, found), folder, notes, planned.words)


def _start(planned: Planned, source: Path | None) -> tuple[checkpoint.Description, dict]:
    """The last stage's network with the weights that it starts from."""
    experiment, number = planned.experiment, len(planned.experiment.stages) - 1
    stage, taken = experiment.stages[number], load_before(source, make_mesh()) if source else None
    description = take_over(stage, describe(experiment, stage, taken), taken, tell=False)
    given = (taken.description, taken.variables) if taken else None
    variables, _ = start_variables(stage, description, feeding.stage_seed(experiment, number), given, "")
    return description, variables


def _predicted(planned: Planned, folder: Path, data: str, split: str) -> list[Path]:
    """Predictions of every trial's weights on a split, made once."""
    paths = []
    for trial in trials_of(folder, planned.experiment.stages[-1].name):
        paths.append(trial / named(data, split))
        if not paths[-1].exists():
            _predict(planned, *checkpoint.load_trained(trial), data, paths[-1], split)
    return paths


def named(data: str, split: str) -> str:
    """The file that predictions on another split lie in, beside the checkpoint."""
    return f"{data.replace('/', '-')}-{split}.csv"


def saved(path: Path, target: str) -> Predictions:
    """What such a file holds."""
    read = read_predictions(path, target)
    return Predictions(
        np.arange(len(read["id"])), read["label"], read["sigma"], read["predicted"], read["predicted_std"]
    )


def _predict(planned: Planned, description, variables, data: str, path: Path, split: str) -> None:
    experiment = planned.experiment
    examples = builders.open_split(data, experiment.data_dir, split)
    experiment = dataclasses.replace(experiment, loader=experiment.loader.settled(jax.default_backend() != "cpu"))
    found = evaluate.predict_split(description, variables, examples, make_mesh(), **feeding.tested(experiment))
    _write(path, examples, found, description.objective.target)


def _write(path: Path, examples, found: Predictions, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    evaluate.write_predictions(path, examples, found, target)


def trials_of(folder: Path, stage: str) -> list[Path]:
    """The stage, or each of its trials that did not diverge."""
    trials = read_json(folder / RESULTS).get("trials")
    if not trials:
        return [folder / stage]
    return [folder / trial["folder"] for trial in trials if trial["test"]["mae"] is not None]


def _target(planned: Planned) -> str:
    return planned.experiment.stages[-1].objective.target


def _seconds(forward, variables, images) -> float:
    began = time.perf_counter()
    jax.block_until_ready(forward(variables, images))
    return time.perf_counter() - began
