"""Sweeps over options that one run cannot hold: a queue of runs, `--sweep.model=tiny,thin --sweep.data=aaf,morph`.

What one run can hold is swept inside of each, vectorised. Stages before the last are trained once for all runs that
agree on them. A run that fails does not stop the others, and the same command tries it again.

    runs/before/                    the stages before the last one
    runs/model=tiny,image_size=32/  a run, with its own results.json
"""

import sys
import time
import traceback
from dataclasses import replace
from functools import partial
from typing import Any

import jax

from agejax.training import cluster
from agejax.training.checkpoint import CARD
from agejax.training.cluster import is_leader, say, together
from data_pipelines import builders
from data_pipelines.errors import UserError
from data_pipelines.schema import is_drawn
from experiments import build
from experiments.check import SHARED_SECONDS, check_shared, claim, ensure_data, ran_before
from experiments.config import Experiment
from experiments.results import RESULTS, new_results, sentence, summarise, write_results
from experiments.saved import read_json
from experiments.sweeps import names
from experiments.sweeps.grids import grid
from experiments.sweeps.jobs import Job, check, plan, with_shared_stages
from experiments.sweeps.page import write_page
from experiments.sweeps.table import DIVERGED, FAILED, WAITING, has_run, row, status, write_table


def run(experiment: Experiment, argv: list[str]) -> int:
    """One run, or as many as its sweep takes. The exit code."""
    apart = names.apart(experiment)
    return run_queue(experiment, argv, apart) if apart else build.run(experiment, argv)


def run_queue(experiment: Experiment, argv: list[str], apart: list[str]) -> int:
    """Runs what is not finished yet, one run for each combination of the options `apart`; 1 where a run has failed."""
    workdir = experiment.folder
    if ran_before(experiment):
        return 0
    jobs = plan(experiment, argv, apart)
    for one in {job.experiment.data: job.experiment for job in jobs}.values():
        cluster.in_turn(partial(ensure_data, one))
    with together():
        for job in jobs:
            check(job.experiment)
        befores, jobs = with_shared_stages(experiment, argv, jobs)
        done = [job.title for job in jobs if (job.folder / RESULTS).exists()]
        claim(workdir, experiment)
    with together():
        check_shared(workdir)
    cluster.check_same(done, f"other files in {workdir}")
    ended, code = work(experiment, befores, jobs, done)
    return code or finish(experiment, argv, jobs, ended)


def work(experiment: Experiment, befores: dict[str, Job], jobs: list[Job], done: list[str]) -> tuple[dict, int]:
    """({title: status} of runs that have no result, 0 or the exit code of a signal that stopped the queue)."""
    ended: dict[str, str] = {}
    for number, job in enumerate(jobs, 1):
        say(f"run {number} of {len(jobs)}: {job.title}" + (", finished before, skipped" if job.title in done else ""))
        if job.title in done:
            continue
        needed = [befores.pop(job.before)] if job.before in befores else []
        for one in [*needed, job]:
            code = attempt(one, ended)
            if code >= 128:
                return ended, code
        with together():
            if is_leader():
                write_table(experiment.folder, trials_of(experiment, jobs, ended))
    return ended, 0


def attempt(job: Job, ended: dict[str, str]) -> int:
    """The run's exit code; how it ended without a result is told and kept, so that the others go on."""
    if job.before in ended:
        ended[job.title] = f"{FAILED}{job.before}: {ended[job.before].removeprefix(FAILED)}"
        return 1
    try:
        code = build.run(prepared(job), job.words)
        if code == 1:
            ended[job.title] = DIVERGED
    except UserError as error:
        code, ended[job.title] = 2, f"{FAILED}{error}"
    except Exception as error:
        if jax.process_count() > 1:  # the others may be waiting for this one
            raise
        traceback.print_exc()
        reason = str(error).strip().partition("\n")[0]
        code, ended[job.title] = 1, f"{FAILED}{type(error).__name__}: {reason}"
    if job.title in ended and is_leader():
        print(f"error: {job.title}: {ended[job.title]}", file=sys.stderr, flush=True)
    return code


def prepared(job: Job) -> Experiment:
    """With the compiled programs where the other runs find them, and the weights it starts from at hand."""
    deadline, init = time.monotonic() + SHARED_SECONDS, job.experiment.init
    while job.before and jax.process_count() > 1 and not list(init.glob(f"*/{CARD}")) and time.monotonic() < deadline:
        time.sleep(1)  # network disks show late what the leader has written
    if jax.default_backend() == "cpu" or job.experiment.compile_cache:
        return job.experiment
    return replace(job.experiment, compile_cache=job.folder.parent.parent / "compiled")


def trials_of(experiment: Experiment, jobs: list[Job], ended: dict[str, str]) -> list[dict]:
    """The rows of all runs, numbered in the order of the sweep."""
    of_values = {}
    for job in jobs:
        for one in rows_of(job, ended):
            own = {name: one["values"][name] for name, _ in experiment.sweep}
            of_values[repr(own)] = one | {"values": own}
    in_order = (repr(values) for values in grid(dict(experiment.sweep)))
    return [{"trial": i} | of_values[values] | {"trial": i} for i, values in enumerate(in_order)]


def rows_of(job: Job, ended: dict[str, str]) -> list[dict]:
    """A run's trials; one where it has no sweep of its own."""
    results, folder = read_json(job.folder / RESULTS), f"runs/{job.title}"
    if results is None:
        inside = grid(dict(job.experiment.sweep))
        return [without_result(job, values, folder, ended.get(job.title, WAITING)) for values in inside]
    if "trials" in results:
        of_run = ((one, job.values | one["values"]) for one in results["trials"])
        return [one | {"values": values, "folder": f"{folder}/{one['folder']}"} for one, values in of_run]
    card = results["stages"][job.experiment.stages[-1].name]
    test = results["test"] | {"median_baseline_mae": results["median_baseline_mae"]}
    return [row(job.values, folder, card | {"test": test}, status(test))]


def without_result(job: Job, inside: dict[str, Any], folder: str, why: str) -> dict:
    experiment = job.experiment
    examples = builders.open_split(experiment.data, experiment.data_dir, experiment.test_split)
    where = {"target": experiment.stages[-1].objective.target, "data": experiment.data, "split": experiment.test_split}
    return row(job.values | inside, folder, {"test": where | {"n": len(examples), "mae": None}}, why)


def finish(experiment: Experiment, argv: list[str], jobs: list[Job], ended: dict[str, str]) -> int:
    """sweep.csv and report.html; results.json, too, where no run has failed: it marks the sweep as finished."""
    lost = [job.title for job in jobs if ended.get(job.title, "").startswith(FAILED)]
    with together():
        if is_leader():
            trials = trials_of(experiment, jobs, ended)
            results = new_results(experiment, argv) | {"drawn": all(is_drawn(job.experiment.data) for job in jobs)}
            results |= {"stages": {}, "trials": trials, "sweep": summarise([one for one in trials if has_run(one)])}
            write_page(experiment.folder, results)
            if not lost:
                write_results(experiment.folder, results)
                say(sentence(experiment.folder))
            else:
                say(f"{len(lost)} of {len(jobs)} runs failed: {', '.join(lost)}; the same command tries them again")
    return 1 if lost else 0
