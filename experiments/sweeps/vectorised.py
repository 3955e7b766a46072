"""Sweeps: one stage trained many times, `--sweep.seed=0..31 --sweep.objective.lambda_=0.1,1,10`, as few programs.

A trial is an Experiment of its own, the one that `--seed=3 --finetune.objective.lambda_=1` gives; all combinations are
trained. Those of one shape are one program (agejax/training/trials.py). What a trial leaves is what a run leaves:

    <stage>/trials/007/    stage.json, checkpoints/best or, without moments, checkpoints/latest, predictions.csv
    <stage>/groups/0/      checkpoints/latest, metrics.jsonl, tensorboard: of trials trained together
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from agejax import metrics
from agejax.models.network import variable_shapes
from agejax.parameters import count
from agejax.training import checkpoint, evaluate, loop, trials
from agejax.training.checkpoint import Description
from agejax.training.cluster import is_leader, together
from agejax.training.progress import make_progress
from agejax.training.stages import start_variables
from agejax.training.state import new_state
from agejax.training.trials import Trial
from data_pipelines import builders
from data_pipelines.errors import UserError
from experiments.check import chosen, describe
from experiments.config import Experiment
from experiments.feeding import fed, looked, stage_seed, tested, told
from experiments.handover import Before, take_over
from experiments.results import sd
from experiments.sweeps.grids import grid
from experiments.sweeps.table import row, status

IMAGES_AT_ONCE = 1024  # a device and step, over all trials: more would not be faster, and would not fit
LOOKS = 10  # at most, where they decide nothing: an epoch of a few examples is short, and every look tests all trials


class Member(NamedTuple):
    """One trial with all that is needed to run it."""

    number: int
    values: dict[str, Any]
    """What it has of its own, by the names of the sweep."""
    experiment: Experiment
    description: Description
    trial: Trial
    before: Before | None

    @property
    def folder(self) -> Path:
        return self.experiment.folder / self.trial.stage.name / "trials" / f"{self.number:03d}"

    @property
    def measure(self) -> str:
        """What the validation of its group calls the trial's own error."""
        return f"mae_{self.number:03d}"


def experiments(experiment: Experiment) -> list[tuple[dict[str, Any], Experiment]]:
    """Every combination of the sweep's values, with the experiment that has them and no sweep."""
    return [(own, with_values(experiment, own)) for own in grid(dict(experiment.sweep))]


def check_sweep(experiment: Experiment) -> None:
    """Raises UserError, before anything is trained, for a value that an option refuses or examples that are not
    there."""
    for _, one in experiments(experiment):
        chosen(one, one.stages[-1])
    if experiment.sweep and experiment.stages[-1].objective.measures is None:
        raise UserError(f"a sweep compares errors, and stage {experiment.stages[-1].name} trains on identities")


def with_values(experiment: Experiment, own: dict[str, Any]) -> Experiment:
    """The values belong to the last stage, but for the seed."""
    *others, stage = experiment.stages
    for name, value in own.items():
        if name != "seed":
            stage = replaced(stage, name, value)
    seed = own.get("seed", experiment.seed)
    return dataclasses.replace(experiment, stages=(*others, stage), seed=seed, sweep=())


def replaced(options: Any, path: str, value: Any) -> Any:
    """A copy, checked as a new one is, with the option of that dotted name set."""
    name, _, rest = path.partition(".")
    return dataclasses.replace(options, **{name: replaced(getattr(options, name), rest, value) if rest else value})


def members(experiment: Experiment, number: int, before: Before | None) -> list[Member]:
    """The trials of the last stage. Raises UserError as a run of any of them would."""
    found = []
    for i, (own, one) in enumerate(experiments(experiment)):
        stage = one.stages[-1]
        description = take_over(stage, describe(one, stage, before), before, tell=i == 0)
        stage = dataclasses.replace(stage, objective=description.objective)
        examples, _ = chosen(one, stage)
        found.append(Member(i, own, one, description, Trial(stage, examples, stage_seed(one, number)), before))
    return found


def grouped(every: list[Member], devices: int) -> list[list[Member]]:
    """Trials that are one program, no more of them than IMAGES_AT_ONCE allows."""
    of_shape: dict[tuple, list[Member]] = {}
    for member in every:
        of_shape.setdefault(trials.shape(member.trial), []).append(member)
    groups = []
    for alike in of_shape.values():
        at_once = max(1, IMAGES_AT_ONCE * devices // alike[0].trial.stage.batch_size)
        groups += [alike[i : i + at_once] for i in range(0, len(alike), at_once)]
    return groups


def run_sweep(experiment: Experiment, number: int, before: Before | None) -> list[dict]:
    """Trains, tests and writes every trial that is not finished yet; what results.json says of each."""
    every = members(experiment, number, before)
    groups = grouped(every, jax.device_count())
    folder = experiment.folder / experiment.stages[-1].name
    programs = f" in {len(groups)} groups of one shape" if len(groups) > 1 else ""
    told(folder.name, f"{len(every)} trials{programs}")
    for i, group in enumerate(groups):
        if not all(checkpoint.read_card(member.folder) for member in group):
            train_group(group, folder / "groups" / str(i), f"{folder.name} {i + 1}/{len(groups)}")
    return [row_of(member) for member in every]


def train_group(group: list[Member], folder: Path, name: str) -> None:
    """From the start or from its newest checkpoint to the finished trials."""
    folder.mkdir(parents=True, exist_ok=True)
    way, mesh = trials.choose(group[0].experiment.sweep_way, len(group))
    first, experiment, every = group[0].trial, group[0].experiment, [member.trial for member in group]
    steps, per_epoch = first.stage.steps(len(first.source)), len(first.source) / first.stage.batch_size
    widest = max(group, key=lambda member: member.description.objective.head_size)
    network = widest.description.network(first.stage.trainable)

    feed = trials.make_feed(every, [fed(m.experiment, *m.trial) for m in group], mesh, partial(told, name))
    best, wanted = experiment.select == "best", (experiment.checkpoint_epochs, experiment.validate_epochs)
    apart = (steps // LOOKS, 0 if best else steps // LOOKS)  # the best is chosen where a run of the trial alone looks
    looks = [max(1, round(every * per_epoch), least) for every, least in zip(wanted, apart)]
    images = len(group) * first.stage.batch_size
    plan = loop.Plan(name, images, steps, per_epoch, *looks, dispatch=min(feed.dispatch, *looks))
    states = trials.place(trials.stack([start(member, steps, per_epoch) for member in group]), mesh)
    cut = make_cut(group, mesh)
    with checkpoint.StageCheckpoints(folder) as checkpoints:
        states, summary = loop.train(
            plan,
            states,
            trials.make_trials_steps(every, network, steps, per_epoch, feed, mesh, way),
            feed.open,
            make_validation(group, cut, mesh),
            None,
            checkpoints,
            partial(make_progress, folder, name, steps, per_epoch),
            make_savers(group, cut, checkpoints) if best else None,
        )
    finish(group, cut, states.variables, summary, mesh)


def start(member: Member, steps: int, per_epoch: float):
    """The trial's first state."""
    stage, before = member.trial.stage, member.before
    source, origin = ((before.description, before.variables), before.origin) if before else (None, "")
    variables, _ = start_variables(stage, member.description, member.trial.seed, source, origin)
    return new_state(variables, stage.make_optimizer(variables["params"], steps, per_epoch))


def make_cut(group: list[Member], mesh: Mesh):
    """(member, stacked variables) → its own, as a run of it alone has them."""
    shapes = {}

    def cut(i: int, variables) -> dict:
        description = group[i].description
        width = description.objective.head_size
        if width not in shapes:
            shapes[width] = variable_shapes(description.network(), description.image_size)
        return trials.take_one(variables, i, shapes[width], mesh)

    return cut


def make_predictors(group: list[Member], data: str, split: str, mesh: Mesh, options: dict):
    """(member, its own variables) → Predictions on a split; one program and one reading for each width of head.

    options: further ones of evaluate.predictor.
    """
    made = {}

    def predict(i: int, own: dict) -> evaluate.Predictions:
        experiment, description = group[i].experiment, group[i].description
        width = description.objective.head_size
        if width not in made:
            examples = builders.open_split(data, experiment.data_dir, split)
            made[width] = evaluate.predictor(description, examples, mesh, keep=True, **options)
        return made[width](own)

    return predict


def make_validation(group: list[Member], cut, mesh: Mesh):
    """Stacked variables → MAE on the validation split: of each trial, their mean and standard deviation."""
    stage = group[0].trial.stage
    if not stage.validation_split:
        return None
    validated = looked(group[0].experiment)
    predict = make_predictors(group, group[0].description.data, stage.validation_split, mesh, validated)

    def validate(variables):
        every = [predict(i, cut(i, variables)) for i in range(len(group))]
        mae = {member.measure: metrics.mae(one.label, one.value) for member, one in zip(group, every) if is_whole(one)}
        known = list(mae.values())
        summary = {"mae": float(np.mean(known)), "mae_sd": sd(known)} if known else {}
        return summary | mae

    return validate


def make_savers(group: list[Member], cut, of_group: checkpoint.StageCheckpoints):
    """{measure of a trial: (step, stacked variables) → its part of them saved as its best, when that returns}."""

    def save_best(i: int, step: int, variables) -> None:
        of_group.latest.wait_until_finished()  # two saves at once of several processes would meet at one barrier
        group[i].folder.mkdir(parents=True, exist_ok=True)
        with checkpoint.StageCheckpoints(group[i].folder) as checkpoints:
            checkpoints.save_best(step, cut(i, variables))

    return {member.measure: partial(save_best, i) for i, member in enumerate(group)}


def is_whole(predictions: evaluate.Predictions) -> bool:
    """Whether the trial has not diverged."""
    return bool(np.isfinite(predictions.value).all())


def finish(group: list[Member], cut, variables, summary: dict, mesh: Mesh) -> None:
    """Tests each trial and writes its folder; the card last, as it marks the trial as finished."""
    experiment = group[0].experiment
    predict = make_predictors(group, experiment.data, experiment.test_split, mesh, tested(experiment))
    for i, member in enumerate(group):
        own, selection = selected(member, cut(i, variables), summary, mesh)
        predictions = predict(i, own)
        card = selection | {
            "parameters": count(own["params"]),
            "examples": len(member.trial.source),
            "trained_on": {"data": member.description.data, "split": member.trial.stage.train_split},
            "images_per_second": summary["images_per_second"],
            "seconds": round(summary["wall_seconds"] / len(group), 1),  # its share
        }
        with together():
            if is_leader():
                write_trial(member, predictions, card)


def selected(member: Member, last: dict, summary: dict, mesh: Mesh) -> tuple[dict, dict]:
    """The trial's best variables where those were saved, else the last ones, which are saved here; with what the card
    says of them.

    One that has diverged by the end has no best, as a run of it alone would have stopped.
    """
    measures = member.description.objective.measures
    mae, best = (summary["validation"] or {}).get(member.measure), summary.get("parts", {}).get(member.measure)
    if mae is not None and best:
        own = checkpoint.load_variables(member.folder, member.description, "best", mesh)
        mae = best[member.measure]
        return own, {"validation": {measures: mae}, "best": {"step": best["step"], measures: mae}, "selected": "best"}
    member.folder.mkdir(parents=True, exist_ok=True)
    with checkpoint.StageCheckpoints(member.folder) as checkpoints:
        checkpoints.save(summary["steps"], last, {})
    return last, {"validation": None if mae is None else {measures: mae}, "selected": "latest"}


def write_trial(member: Member, predictions: evaluate.Predictions, card: dict) -> None:
    """predictions.csv of a trial and its card, with the test."""
    experiment, description = member.experiment, member.description
    if is_whole(predictions):
        test = evaluate.measure(predictions, description)
    else:
        test = {"target": description.objective.target, "n": len(predictions.value), "mae": None}
    examples = builders.open_split(experiment.data, experiment.data_dir, experiment.test_split)
    evaluate.write_predictions(member.folder / "predictions.csv", examples, predictions, test["target"])
    test |= {"data": experiment.data, "split": experiment.test_split}
    checkpoint.write_card(member.folder, description, card | {"test": test})


def row_of(member: Member) -> dict:
    """A finished trial, as results.json has it."""
    card = checkpoint.read_card(member.folder)
    folder = str(member.folder.relative_to(member.experiment.folder))
    return {"trial": member.number} | row(member.values, folder, card, status(card["test"]))
