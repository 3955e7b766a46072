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
from experiments.check import chosen_on_test
from experiments.command_line import parse
from experiments.config import FREE_TO_CHANGE, NOT_YET, Experiment
from experiments.configs import CONFIGS
from experiments.configs.toy import TOY
from experiments.results import REPEATS, RESULTS, TRIAL
from experiments.tables.kinds import Run
from experiments.tables.rows import words_on

TOLD = {"identity": "identities", "age": "ages"}
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
    """What run.py would be given for all stages."""

    @property
    def last(self) -> int:
        """Number of the stage that is tested."""
        return len(self.experiment.stages) - 1

    def folder(self, number: int) -> Path:
        """Of the stage: its name, and a digest of what decides its weights (of the last: its test, too)."""
        digest = hashlib.sha256(json.dumps(self._decides(number), sort_keys=True).encode()).hexdigest()
        return self.setting.folder / f"{self.experiment.stages[number].name}-{digest[:10]}"

    @property
    def command(self) -> tuple[str, ...]:
        """What run.py would be given for the same, without what is left out here."""
        stages = [self.experiment.stages[number].name for number in self.numbers]
        fewer = [f"--stages={','.join(stages)}"] if len(stages) < len(self.experiment.stages) else []
        return (*self.words, *fewer, *([f"--init={self.init}"] if self.init else []))

    def _decides(self, number: int) -> dict:
        known = specs.encode(self.experiment)
        early = () if number == self.last else NOT_YET
        if self.experiment.select == "best":  # by validation
            early = tuple(name for name in early if name != "validate_epochs")
        left_out = {*FREE_TO_CHANGE, "stages", "init", *early}
        stages = [self._stage(i) for i in self.numbers if i <= number]
        return {k: v for k, v in known.items() if k not in left_out} | {"start": _card(self.init), "trained": stages}

    def _stage(self, number: int) -> list:
        stage = self.experiment.stages[number]
        name = stage.data or self.experiment.data
        prepared = {} if is_drawn(name) else builders.summary(name, self.setting.data_dir) | {"versions": {}}
        return [number, specs.encode(stage) | {"data": name, "prepared": prepared}]


def _card(init: Path | None) -> str:
    """Which weights these are: where they lie, and what is known of them."""
    if init is None:
        return ""
    folder = checkpoint.find_stage(init)
    return f"{folder.resolve()} {json.dumps(checkpoint.read_card(folder), sort_keys=True)}"


def plan(run: Run, data: str, setting: Setting) -> Planned:
    """Who trains on what, from which weights. Raises Missing, and UserError for words that do not fit."""
    if not is_drawn(data):
        check_prepared(data, setting)
    words = words_of(run, data, setting)
    experiment = with_repeats(parse(list(words)), setting)
    experiment = dataclasses.replace(experiment, data_dir=setting.data_dir, compile_cache=setting.folder / "compiled")
    init, notes, given = start(run, setting)
    numbers = [i for i, stage in enumerate(experiment.stages) if not _replaced(stage, run, given)]
    at_hand = [i for i in numbers if not (why := _lacking(experiment, i, run, setting)) or notes.append(why)]
    if why := chosen_on_test(experiment):
        notes.append(why)
    swept = (f"--sweep.{name}={','.join(map(str, values))}" for name, values in experiment.sweep)
    words = (*(word for word in words if not word.startswith("--sweep.")), *swept, f"--data_dir={setting.data_dir}")
    return Planned(experiment, tuple(at_hand), init, tuple(notes), setting, words)


def words_of(run: Run, data: str, setting: Setting) -> tuple[str, ...]:
    """The row's, the toy's, the user's."""
    toy = TOY[run.config] if setting.toy else ()
    return (f"--config={run.config}", f"--data={data}", *words_on(run, data), *toy, *fitting(setting.words, run))


def check_words(every: list[Run], setting: Setting) -> None:
    """Raises UserError where the user's words fit no row at all."""
    errors = []
    for run in {run.config: run for run in every}.values():
        try:
            parse(list(words_of(run, "synthetic", setting)))
        except UserError as error:
            errors.append(error)
        else:
            return
    if errors:
        raise errors[0]


def fitting(words: tuple[str, ...], run: Run) -> tuple[str, ...]:
    """Without those for stages that other configs have and this one has not: --classification.epochs=4 is LAE's."""
    own = {stage.name for stage in CONFIGS[run.config]().stages}
    others = {stage.name for config in CONFIGS.values() for stage in config().stages} - own
    return tuple(word for word in words if word.removeprefix("--").partition(".")[0] not in others)


def check_prepared(data: str, setting: Setting) -> None:
    try:
        builders.splits(data, setting.data_dir)
    except DataError as error:
        raise Missing(str(error)) from None


def with_repeats(experiment: Experiment, setting: Setting) -> Experiment:
    """Seeds of the last stage, where the row does not repeat itself; fewer of the row's own trials in --toy."""
    sweep = experiment.sweep
    if setting.toy:
        sweep = tuple((name, values[: setting.seeds] if name == TRIAL else values) for name, values in sweep)
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
    if setting.toy or (setting.data and "weights" not in run.needs):
        return None, ["starts from random weights" + ("" if setting.toy else f", as {place} is not there")], False
    raise Missing(f"weights {run.weights} are not there: python -m agejax convert FILE {place}")


def _replaced(stage: Stage, run: Run, given: bool) -> bool:
    """Whether the weights that are given stand for the stage."""
    return given and (stage.name == run.instead_of or stage.objective.target == "identity")


def _lacking(experiment: Experiment, number: int, run: Run, setting: Setting) -> str:
    """Why a stage before the last cannot be trained, "" where it can. Raises Missing where it must be.

    On sets of the user's own, stages that do not make the row what it is may be left out.
    """
    stage = experiment.stages[number]
    name, target = stage.data or experiment.data, stage.objective.target
    if is_drawn(name):
        return ""
    try:
        labelled = builders.summary(name, setting.data_dir)["labels"][target]
        why = short = f"{name} has no {TOLD.get(target, target)}"
    except DataError as error:
        labelled, why, short = 0, str(error), f"{name} is not prepared"
    if labelled:
        return ""
    if setting.data and number < len(experiment.stages) - 1 and stage.name not in run.needs:
        return f"without {stage.name}: {short}"
    raise Missing(why)


FAILED: dict[Path, str] = {}  # in this process: what failed for one row is not tried for the next


def carry_out(planned: Planned, number: int | None = None) -> Path | None:
    """Trains the stages up to that number (None: all, and tests) that are not finished yet.

    The folder of the last of them; None where there is none to train. Raises UserError where one fails, Stopped.
    """
    before, upto = planned.init, planned.last if number is None else number
    for i in (i for i in planned.numbers if i <= upto):
        folder = planned.folder(i)
        stage = planned.experiment.stages[i].name
        finished = folder / RESULTS if i == planned.last else folder / stage / checkpoint.CARD
        if not finished.exists():
            _train(planned, i, folder, before)
        before = folder
    return before


def _train(planned: Planned, number: int, folder: Path, init: Path | None) -> None:
    if folder in FAILED:
        raise UserError(FAILED[folder])
    stage = planned.experiment.stages[number].name
    one = dataclasses.replace(
        planned.experiment, only=(stage,), init=init, workdir=folder,
        sweep=planned.experiment.sweep if number == planned.last else (),
    )  # fmt: skip
    words = [*planned.words, f"--stages={stage}", *([f"--init={init}"] if init else []), f"--workdir={folder}"]
    try:
        code = train(one, words)
    except Exception as error:
        FAILED[folder] = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        raise
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
