"""Carries a row's run out, stage by stage. A stage is trained once: its folder is named by all that it hangs on, so
rows, tables and papers share what they have in common, and what has run before is not run again.

    <folder>/pretrain-3f0c1a2b4d/    a run of run.py with one stage
    <folder>/finetune-91b2…/         one that starts from it; predictions.csv, or trials/NNN/predictions.csv
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import jax

from agejax import specs
from agejax.training import checkpoint
from agejax.training.stages import Stage
from data_pipelines import builders
from data_pipelines.errors import DataError, UserError
from data_pipelines.schema import is_drawn
from experiments.build import run as train
from experiments.command_line import parse
from experiments.config import FREE_TO_CHANGE, Experiment
from experiments.configs import CONFIGS
from experiments.configs.toy import TOY
from experiments.results import REPEATS, RESULTS
from experiments.tables.kinds import Run
from experiments.tables.rows import on_drawn

NOT_YET = (  # what decides nothing before the last stage
    *("name", "data", "stages", "init", "sweep", "validate_epochs", "eval_batch_size"),
    *("test_split", "test_versions", "test_augmentation"),
)
TOY_FACES = {"synthetic": 960, "synthetic/mugshot": 960}


class Missing(UserError):
    """What a row needs is not at hand; the message says how to get it."""


class Stopped(Exception):
    """By a signal; its number plus 128 is the exit code."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What holds for all rows of a call."""

    folder: Path = Path("runs/papers")
    """Where runs are kept."""
    data_dir: Path = Path("data")
    data: tuple[str, ...] = ()
    """In place of the papers' data sets; empty: theirs."""
    toy: bool = False
    seeds: int = 1
    """How often the last stage is trained; in --toy also at most how many trials of a few-shot row."""
    weights: Path = Path("weights")
    """Folder of converted weights: dex, vgg_face, vgg16, resnet18, …"""
    init: Path | None = None
    """In place of all stages that train on other data or on identities."""
    words: tuple[str, ...] = ()
    """Further ones for every run."""


class Planned(NamedTuple):
    """A run with its stages as folders."""

    experiment: Experiment
    numbers: tuple[int, ...]
    """Of the stages that are trained here."""
    init: Path | None
    notes: tuple[str, ...]
    """In what it differs from the row's run."""
    setting: Setting
    words: tuple[str, ...]
    """What run.py would be given."""

    def folder(self, number: int) -> Path:
        """Of the stage: its name, and a digest of what decides its weights (of the last: its test, too)."""
        digest = hashlib.sha256(json.dumps(self._decides(number), sort_keys=True).encode()).hexdigest()
        return self.setting.folder / f"{self.experiment.stages[number].name}-{digest[:10]}"

    def _decides(self, number: int) -> dict:
        known, last = specs.encode(self.experiment), len(self.experiment.stages) - 1
        left_out = {*FREE_TO_CHANGE, *(("name", "stages") if number == last else NOT_YET)}
        stages = [self._stage(i) for i in self.numbers if i <= number]
        start = str(self.init.resolve()) if self.init else ""
        return {k: v for k, v in known.items() if k not in left_out} | {"start": start, "trained": stages}

    def _stage(self, number: int) -> list:
        stage = self.experiment.stages[number]
        return [number, specs.encode(stage) | {"data": stage.data or self.experiment.data}]


def plan(run: Run, data: str, setting: Setting) -> Planned:
    """Who trains on what, from which weights. Raises Missing, and UserError for words that do not fit."""
    if not is_drawn(data):
        _check_prepared(data, setting)
    extra = (*(TOY[run.config] if setting.toy else ()), *fitting(setting.words, run))
    words = (f"--config={run.config}", f"--data={data}", *run.words, *extra)
    experiment = with_repeats(on_drawn(parse(list(words))), setting)
    experiment = dataclasses.replace(experiment, data_dir=setting.data_dir, compile_cache=setting.folder / "compiled")
    init, notes, given = start(run, setting)
    numbers = [i for i, stage in enumerate(experiment.stages) if not _replaced(stage, run, given)]
    at_hand = [i for i in numbers if not (why := _lacking(experiment, i, setting)) or notes.append(why)]
    return Planned(experiment, tuple(at_hand), init, tuple(notes), setting, words)


def fitting(words: tuple[str, ...], run: Run) -> tuple[str, ...]:
    """Without those for stages that other configs have and this one has not: --classification.epochs=4 is LAE's."""
    own = {stage.name for stage in CONFIGS[run.config]().stages}
    others = {stage.name for config in CONFIGS.values() for stage in config().stages} - own
    return tuple(word for word in words if word.removeprefix("--").partition(".")[0] not in others)


def _check_prepared(data: str, setting: Setting) -> None:
    try:
        builders.splits(data, setting.data_dir)
    except DataError as error:
        raise Missing(str(error)) from None


def with_repeats(experiment: Experiment, setting: Setting) -> Experiment:
    """Seeds of the last stage, where the row does not repeat itself; fewer of the row's own trials in --toy."""
    sweep = experiment.sweep
    if setting.toy:
        sweep = tuple((name, values[: setting.seeds] if name in REPEATS else values) for name, values in sweep)
    if setting.seeds > 1 and not any(name in REPEATS for name, _ in sweep):
        sweep = (*sweep, ("seed", tuple(range(setting.seeds))))
    return dataclasses.replace(experiment, sweep=sweep)


def start(run: Run, setting: Setting) -> tuple[Path | None, list[str], bool]:
    """(weights that the first stage starts from, notes, whether a stage's work is given with them). Raises Missing."""
    if setting.init:
        return setting.init, [f"starts from {setting.init}"], True
    if not run.weights:
        return None, [], False
    place = setting.weights / run.weights
    if place.exists() and not setting.toy:  # they do not fit a toy
        return place, [], True
    if run.instead_of:
        return None, [f"{run.weights}: trained here" + ("" if setting.toy else f", as {place} is not there")], False
    if setting.toy or setting.data:
        return None, ["starts from random weights" + ("" if setting.toy else f", as {place} is not there")], False
    raise Missing(f"weights {run.weights} are not there: python -m agejax convert FILE {place}")


def _replaced(stage: Stage, run: Run, given: bool) -> bool:
    """Whether the weights that are given stand for the stage."""
    return given and (stage.name == run.instead_of or stage.objective.target == "identity")


def _lacking(experiment: Experiment, number: int, setting: Setting) -> str:
    """Why a stage before the last cannot be trained, "" where it can. Raises Missing where it must be."""
    stage = experiment.stages[number]
    name = stage.data or experiment.data
    if is_drawn(name):
        return ""
    try:
        labelled = builders.summary(name, setting.data_dir)["labels"][stage.objective.target]
    except DataError as error:
        if setting.data and number < len(experiment.stages) - 1:
            return f"without {stage.name}: {name} is not prepared"
        raise Missing(str(error)) from None
    if labelled < 1 and stage.objective.target == "identity":
        return f"without {stage.name}: {name} has no identities"
    return ""


FAILED: dict[Path, str] = {}  # in this process: what failed for one row is not tried for the next


def carry_out(planned: Planned, number: int | None = None) -> Path | None:
    """Trains the stages up to that number (None: all, and tests) that are not finished yet.

    The folder of the last of them; None where there is none to train. Raises UserError where one fails, Stopped.
    """
    last, before = len(planned.experiment.stages) - 1, planned.init
    upto = last if number is None else number
    for i in (i for i in planned.numbers if i <= upto):
        folder = planned.folder(i)
        finished = folder / RESULTS if i == last else folder / planned.experiment.stages[i].name / checkpoint.CARD
        if not finished.exists():
            _train(planned, i, folder, before)
        before = folder
    return before


def _train(planned: Planned, number: int, folder: Path, init: Path | None) -> None:
    if folder in FAILED:
        raise UserError(FAILED[folder])
    stage, last = planned.experiment.stages[number].name, len(planned.experiment.stages) - 1
    one = dataclasses.replace(
        planned.experiment, only=(stage,), init=init, workdir=folder,
        sweep=planned.experiment.sweep if number == last else (),
    )  # fmt: skip
    words = [*planned.words, f"--stages={stage}", *([f"--init={init}"] if init else []), f"--workdir={folder}"]
    try:
        code = train(one, words)
    except UserError as error:
        FAILED[folder] = str(error)
        raise UserError(FAILED[folder]) from None
    finally:
        jax.clear_caches()  # hundreds of runs in one process; compiled programs are kept on disk
    if code >= 128:
        raise Stopped(code)
    if code:
        FAILED[folder] = f"{stage} ended with exit code {code}; see {folder}"
        raise UserError(FAILED[folder])


def prepare_toys(setting: Setting) -> None:
    """A few drawn faces of each domain."""
    for name, faces in TOY_FACES.items():
        builders.prepare(name, setting.data_dir, faces=faces)
