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
from agejax.bench.rounds import MODELS, Row, Settings
from data_pipelines import builders

TRIALS, SHOTS = 32, 12  # examples of each trial, which are its batch
SINGLES = 3  # processes of one trial that are run
DRAWN = 64  # faces to choose from, where no data set is named
STEPS, STEPS_ELSEWHERE = {"cpu": 10}, 60
SIZES, SIZES_ELSEWHERE = {"cpu": 64}, 224
FRACTION = "0.4"  # of the device's memory: this process holds its own part


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
        together, wrong, _ = device.attempt(seconds_of, job)
        one = dataclasses.replace(job, trials=1)
        singles = [device.attempt(seconds_of, one) for _ in range(SINGLES if together else 0)]
    yield from (f"trials: {text}" for text in (wrong, *(text for _, text, _ in singles)) if text)
    known = [seconds for seconds, _, _ in singles if seconds]
    if known:
        what = f"{TRIALS} trials, {SHOTS} examples, {steps} steps, {size} px"
        theirs = TRIALS * median(known)
        yield Row(f"{model}, {dtype}", what, together, "s", f"{TRIALS} processes", theirs, together / theirs)


def seconds_of(job: Job) -> float:
    """Wall time of a process that does the job. Raises RuntimeError with its last words."""
    program = f"from agejax.bench.trials import Job, work; work({job!r})"
    environment = os.environ | {name: FRACTION for name in device.FRACTIONS if name in os.environ}
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
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
