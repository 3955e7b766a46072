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
from agejax.metrics import interval_over_trials
from agejax.models.network import BACKBONES, init_variables, make_network
from agejax.objectives import JointLabelDistribution
from agejax.parameters import count
from agejax.training import checkpoint, evaluate
from agejax.training.evaluate import Predictions
from agejax.training.sharding import make_mesh
from agejax.training.stages import start_variables
from data_pipelines import builders
from data_pipelines.errors import UserError
from experiments import feeding
from experiments.check import describe
from experiments.configs.protocols import parts_of
from experiments.handover import load_before, take_over
from experiments.results import RESULTS
from experiments.saved import read_json, read_predictions
from experiments.tables.kinds import Before, Conformal, Fused, Network, OfGroup, Tested, Trained, TwoStage
from experiments.tables.measures import Answers, Measured, measured, spread_over
from experiments.tables.runs import Missing, Planned, Setting, carry_out, check_prepared, plan

FORWARD_IMAGES, FORWARD_PASSES = 32, 20  # as the authors of DLDL-v2 time it; they give the mean, this the median
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
    return _filled(_some(answers(folder, fill.values), folder), planned, folder)


def fused(fill: Fused, data: str, setting: Setting) -> Filled:
    """The mean over all trials of all runs; of a run without a sweep of its own the first: as many as the list says."""
    every, found = [plan(run, data, setting) for run in fill.runs], []
    for run, planned in zip(fill.runs, every):
        own = any(word.startswith("--sweep.") for word in run.words)
        first = () if own or not planned.experiment.sweep else (("seed", planned.experiment.seed),)
        folder = carry_out(planned)
        found.append(_some(answers(folder, first), folder))
    predicted = np.concatenate([one.predicted for one in found])
    notes = tuple(dict.fromkeys(note for planned in every for note in planned.notes))
    together = found[0]._replace(predicted=mixtures.mean(predicted)[None], lost=sum(one.lost for one in found))
    return Filled(partial(measured, together), None, (f"{len(predicted)} networks", *_lost(together), *notes))


def before(fill: Before, data: str, setting: Setting) -> Filled:
    """What the last stage starts from, tested; a head that is new to it is random."""
    planned = plan(fill.run, data, setting)
    folder = planned.folder(planned.last)
    path = folder / BEFORE
    if not path.exists():
        source = carry_out(planned, planned.last - 1)
        description, variables = _start(planned, source)
        _predict(planned, description, variables, data, path, planned.experiment.test_split)
    return _filled(_answers([path], _target(planned)), planned, folder)


def tested(fill: Tested, data: str, setting: Setting) -> Filled:
    """Every trial's weights on the test split of another set."""
    check_prepared(fill.data, setting)
    planned = plan(fill.run, data, setting)
    folder, split = carry_out(planned), parts_of(fill.data).test
    found = _answers(_predicted(planned, folder, fill.data, split), _target(planned))
    return _filled(_some(found, folder), planned, folder)


def conformal(fill: Conformal, data: str, setting: Setting) -> Filled:
    """How many labels of the test split the intervals hold, in %, and their mean width; over trials the mean.

    Raises Missing where the set has no part to fit them on.
    """
    planned = plan(fill.run, data, setting)
    splits = held_out_and_test(planned, data)
    folder, objective = carry_out(planned), planned.experiment.stages[-1].objective
    inside, widths = [], []
    for paths in zip(*(_predicted(planned, folder, data, split) for split in splits)):
        held_out, test = (saved(path, objective.target) for path in paths)
        calibration = calibrate.fit(held_out, (fill.coverage,), **of_intervals(objective))
        (coverage,) = calibration.quantiles
        low, high = calibration.interval(test.value, test.spread, coverage)
        inside.append((low <= test.label) & (test.label <= high))
        widths.append(high - low)
    if not inside:
        raise UserError(f"all trials of {folder} diverged")
    each_TxN = {"coverage": 100.0 * np.array(inside), "width": np.array(widths)}
    return Filled(lambda metric: _mean(each_TxN[metric]), folder, planned.notes, planned.command)


def held_out_and_test(planned: Planned, data: str) -> tuple[str, str]:
    """The splits that intervals are fitted and tested on. Raises Missing where they are not two."""
    held_out, test = planned.experiment.stages[-1].validation_split, planned.experiment.test_split
    if not held_out or calibrate.in_common((data, held_out), (data, test)):
        raise Missing(f"{data} has no part beside training and test that intervals could be fitted on")
    return held_out, test


def of_intervals(objective) -> dict:
    """Options of calibrate.fit that the label gives."""
    return {"width": calibrate.usual_width(objective), "grid": objective.grid, "target": objective.target}


def _mean(each_TxN: np.ndarray) -> Measured:
    """Over examples, and over trials."""
    means = each_TxN.mean(axis=1)
    interval = interval_over_trials(lambda label, one, sigma: one.mean(), np.zeros(each_TxN.shape[1]), each_TxN)
    return Measured(float(means.mean()), interval, spread_over(means), len(means))


def of_group(fill: OfGroup, data: str, setting: Setting) -> Filled:
    """Raises Missing where the set does not say who belongs to the group."""
    planned = plan(fill.run, data, setting)
    examples = builders.open_split(data, setting.data_dir, planned.experiment.test_split)
    members = np.asarray(examples.column(fill.column), str) == fill.group
    if not members.any():
        raise Missing(f"{data} names nobody {fill.group} in its {planned.experiment.test_split} split")
    folder = carry_out(planned)
    every = _some(answers(folder), folder)
    some = every._replace(label=every.label[members], sigma=every.sigma[members], predicted=every.predicted[:, members])
    return _filled(some, planned, folder)


def of_two_stages(fill: TwoStage, data: str, setting: Setting) -> Filled:
    """Features of the trunk before the last stage, or BIF, and a linear learner; nothing hangs on a seed."""
    planned = plan(fill.run, data, setting)
    folder = planned.folder(planned.last)
    path = folder / f"{fill.features}-{fill.learner}.csv"
    if not path.exists():
        trunk = _trunk(planned) if fill.features == "cnn" else None
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


def _trunk(planned: Planned) -> tuple[checkpoint.Description, dict]:
    """What the last stage would start from. Raises Missing where that is nothing."""
    source = carry_out(planned, planned.last - 1)
    if source is None:
        raise Missing("; ".join(("features of a network that knows nothing", *planned.notes)))
    return _start(planned, source)


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
    folder = planned.folder(planned.last)
    if isinstance(fill, Before):
        return _answers([folder / BEFORE], _target(planned)) if (folder / BEFORE).exists() else None
    return answers(folder, fill.values) if (folder / RESULTS).exists() else None


def _answers(paths: list[Path], target: str) -> Answers:
    read = [read_predictions(path, target) for path in paths]
    if not read:
        return Answers(np.zeros(0), np.zeros(0), np.zeros((0, 0)))
    return Answers(read[0]["label"], read[0]["sigma"], np.stack([one["predicted"] for one in read]))


def _some(found: Answers, folder: Path) -> Answers:
    """Checked: raises UserError where all trainings diverged."""
    if not len(found.predicted):
        raise UserError(f"all {found.lost} trials of {folder} diverged" if found.lost else f"no such trial in {folder}")
    return found


def _lost(found: Answers) -> list[str]:
    return [f"{found.lost} trials diverged"] if found.lost else []


def _filled(found: Answers, planned: Planned, folder: Path) -> Filled:
    return Filled(partial(measured, found), folder, (*planned.notes, *_lost(found)), planned.command)


def _start(planned: Planned, source: Path | None) -> tuple[checkpoint.Description, dict]:
    """The last stage's network with the weights that it starts from."""
    experiment, number = planned.experiment, planned.last
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
