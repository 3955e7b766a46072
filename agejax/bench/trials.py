"""Many few-shot trainings as one program, beside a process for each: wall time from start to the last step.

In both a process imports, reads its pictures, compiles and trains; what is measured is the whole of it. Of the single
ones only some are run: they differ in nothing but their seed.
"""

import dataclasses
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from agejax.bench import device
from agejax.bench.loader import DRAWN_PIXELS
from agejax.bench.rounds import MODELS, OURS, Row, Settings, beside
from data_pipelines import builders

TRIALS, SHOTS = 32, 12  # examples of each trial, which are its batch
SINGLES = 3  # processes of one trial that are run
DRAWN = 64  # faces to choose from, where no data set is named
STEPS, STEPS_ELSEWHERE = {"cpu": 10}, 60
SIZES, SIZES_ELSEWHERE = {"cpu": 64}, 224
WAYS = {"gpu": ("map", "loop")}  # that are tried beside what the backend chooses
WITH_TORCH, ALONE = "0.4", "0.2"  # of the device's memory, of which this process holds its own part


@dataclasses.dataclass(frozen=True)
class Job:
    """What one process does."""

    data: str
    data_dir: str
    model: str
    dtype: str
    size: int
    steps: int
    trials: int
    way: str = "auto"
    """Of training/trials.py."""


def measure(settings: Settings) -> Iterator[Row | str]:
    """Rows, or remarks for the reader. Of the models the first, of the precisions the last."""
    where = device.platform()
    with TemporaryDirectory(prefix="agejax-bench-") as scratch:
        data, data_dir = settings.data, settings.data_dir
        if not data:
            builders.prepare("synthetic", Path(scratch), faces=DRAWN, pixels=DRAWN_PIXELS)
            data, data_dir = "synthetic", Path(scratch)
        model, dtype = (settings.models or MODELS)[0], device.dtypes(settings.dtypes)[-1]
        size, steps = SIZES.get(where, SIZES_ELSEWHERE), STEPS.get(where, STEPS_ELSEWHERE)
        job = Job(data, str(data_dir), model, dtype, size, steps, TRIALS)
        jobs = {OURS: job} | {f"way={way}": dataclasses.replace(job, way=way) for way in WAYS.get(where, ())}
        jobs |= {f"alone {i}": dataclasses.replace(job, trials=1) for i in range(SINGLES)}
        done = {name: device.attempt(seconds_of, one) for name, one in jobs.items()}
    yield from (f"trials: {name}: {wrong}" for name, (_, wrong, _) in done.items() if wrong)
    took = {name: seconds for name, (seconds, _, _) in done.items() if seconds}
    singles = [seconds for name, seconds in took.items() if name.startswith("alone")]
    if OURS in took and singles:
        values = {name: seconds for name, seconds in took.items() if not name.startswith("alone")}
        what = f"{TRIALS} trials, {SHOTS} examples, {steps} steps, {size} px"
        values[f"{TRIALS} processes"] = TRIALS * median(singles)
        yield from beside(f"{model}, {dtype}", what, "s", values)


def seconds_of(job: Job) -> float:
    """Wall time of a process that does the job. Raises RuntimeError with its last words."""
    program = f"from agejax.bench.trials import Job, work; work({job!r})"
    limits = {name: WITH_TORCH for name in device.FRACTIONS if name in os.environ} or {device.FRACTIONS[0]: ALONE}
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | limits, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["the process died"])[-1])
    return time.perf_counter() - began


def work(job: Job) -> list[float]:
    """Trains the trials, one alone as run.py does a stage; the (mean) loss of every step."""
    import jax
    import numpy as np

    from agejax.bench.ours import OBJECTIVE, OPTIMIZER, Case
    from agejax.training import trials
    from agejax.training.feeds import Examples, open_feed
    from agejax.training.sharding import replicated
    from agejax.training.stages import Stage
    from agejax.training.state import new_state
    from agejax.training.step import make_train_steps, make_update
    from data_pipelines.align import Alignment
    from data_pipelines.loaders import Loader
    from data_pipelines.samplers import NShot, Shuffle

    source = builders.open_split(job.data, Path(job.data_dir), "all")
    stage = Stage("finetune", OBJECTIVE, optimizer=OPTIMIZER, batch_size=SHOTS)
    chosen = [NShot(SHOTS, trial=t).choose(source, 0, builders.open_split)[0] for t in range(job.trials)]
    group = [trials.Trial(stage, subset, t) for t, subset in enumerate(chosen)]
    examples = [
        Examples(one.source, SHOTS, job.size, one.seed, stage.augmentation, Alignment(), "age", Shuffle(), Loader())
        for one in group
    ]
    case = Case(job.model, job.dtype, job.size)
    optimizer = stage.make_optimizer(case.variables["params"], job.steps, 1.0)
    way, mesh = trials.choose("auto", job.trials)
    state = new_state(case.variables, optimizer)
    if job.trials == 1:
        feed, state = open_feed("auto", examples[0], mesh, _silent), jax.device_put(state, replicated(mesh))
        train_steps = make_train_steps(make_update(case.network, OBJECTIVE, optimizer), feed, mesh)
    else:
        way, mesh = trials.choose(job.way, job.trials)
        feed = trials.make_feed(group, examples, mesh, _silent)
        state = trials.place(trials.stack([jax.device_get(state)] * job.trials), mesh)
        train_steps = trials.make_trials_steps(group, case.network, job.steps, 1.0, feed, mesh, way)
    losses, at_once = [], min(feed.dispatch, job.steps)
    with feed.open(0) as stream:
        while len(losses) < job.steps:
            state, metrics = train_steps(state, list(itertools.islice(stream, at_once)))
            losses += np.asarray(metrics["loss"]).tolist()
    return losses


def _silent(text: str) -> None:
    pass
