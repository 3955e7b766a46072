"""The runs that a sweep takes: each is the command of the sweep with one word more for each option of its own."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agejax.training.sharding import make_mesh
from data_pipelines import builders
from data_pipelines.errors import UserError
from experiments.check import check_stages, describe
from experiments.command_line import SWEEP, parse
from experiments.config import Experiment
from experiments.sweeps import names
from experiments.sweeps.grids import grid, title, titles, words
from experiments.sweeps.vectorised import check_sweep


@dataclass(frozen=True)
class Job:
    """One run of the queue."""

    title: str
    """Its folder's name."""
    values: dict[str, Any]
    """Those that take a run of their own."""
    words: list[str]
    """Its command."""
    experiment: Experiment
    before: str = ""
    """Title of the job that trains the stages before the last one; empty: this one does."""

    @property
    def folder(self) -> Path:
        return self.experiment.folder


def plan(experiment: Experiment, argv: list[str], apart: list[str]) -> list[Job]:
    """A job for each combination of the options `apart`; the others are swept inside of each. Raises UserError, naming
    the job, for its words."""
    sweep, base, inside = dict(experiment.sweep), _without_sweep(argv), []
    for word in argv:
        if word.startswith(SWEEP):
            name = names.word_of(experiment, word.removeprefix(SWEEP).partition("=")[0])
            inside += [word] if names.short(experiment, name) not in apart else []
    combinations = list(grid({name: sweep[name] for name in apart}))
    return [
        _job(one, values, [*base, *words(_by_word(experiment, values)), *inside], experiment)
        for one, values in zip(titles(combinations), combinations)
    ]


def _without_sweep(argv: list[str]) -> list[str]:
    return [word for word in argv if not word.startswith(SWEEP)]


def _by_word(experiment: Experiment, values: dict[str, Any]) -> dict[str, Any]:
    return {names.word_of(experiment, name): value for name, value in values.items()}


def _job(name: str, values: dict[str, Any], own: list[str], experiment: Experiment) -> Job:
    own = [*own, f"--workdir={experiment.folder / 'runs' / name}"]
    try:
        return Job(name, values, own, parse(own))
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def check(experiment: Experiment) -> None:
    """Raises UserError, before anything is trained, for what the last stage of a job would refuse."""
    last = experiment.stages[-1]
    if last.objective.measures is None:
        raise UserError(f"a sweep compares errors, and stage {last.name} trains on identities")
    if experiment.only and last.name not in experiment.only:
        raise UserError(f"--stages leaves out {last.name}, which the sweep trains")
    check_stages(experiment, [last], make_mesh())
    check_sweep(experiment)
    describe(experiment, last)


def with_shared_stages(experiment: Experiment, argv: list[str], jobs: list[Job]) -> tuple[dict[str, Job], list[Job]]:
    """(title → job of the stages before the last one, jobs of the last one): what jobs agree on is trained once.

    The seed is the last stage's. Jobs without such stages stay as they are. Data sets must be prepared.
    """
    befores, shared = {}, []
    for job in jobs:
        last, early = job.experiment.stages[-1].name, _early_stages(job.experiment)
        if not early:
            shared.append(job)
            continue
        own = _by_word(experiment, job.values)
        own = {word: value for word, value in own.items() if word != "seed" and word.split(".")[0] != last}
        name = ",".join(["before", *([title(own)] if own else [])])
        if name not in befores:
            others = [*_without_sweep(argv), *words(own), f"--stages={','.join(early)}"]
            befores[name] = _job(name, own, others, experiment)
        init = befores[name].folder
        only = replace(job.experiment, only=(last,), init=init)
        start = [f"--stages={last}", f"--init={init}"]
        shared.append(replace(job, words=[*job.words, *start], experiment=only, before=name))
    return befores, shared


def _early_stages(experiment: Experiment) -> list[str]:
    """The stages before the last that are trained: their data has labels for them."""
    *others, last = experiment.stages
    if experiment.only or last.take == "nothing":
        return []
    return [stage.name for stage in others if _labelled(experiment, stage)]


def _labelled(experiment: Experiment, stage) -> float:
    """Share of the stage's examples that have its label."""
    return builders.summary(stage.data or experiment.data, experiment.data_dir)["labels"][stage.objective.target]
