"""The host loop of one stage."""

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import jax
from jax.sharding import Mesh

from agejax.training.checkpoint import StageCheckpoints
from agejax.training.progress import Progress
from agejax.training.sharding import to_devices
from agejax.training.state import TrainState

LOG_STEPS = 20  # a line of metrics.jsonl averages so many steps


class Diverged(RuntimeError):
    """The loss or the gradient is not finite; the message names the step and the last good checkpoint."""


class Interrupted(RuntimeError):
    """A signal asked to stop; everything is saved. `signal` is its number."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.signal = number


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long a stage runs and when it stops to look around, in steps."""

    name: str
    batch_size: int
    steps: int
    steps_per_epoch: float
    checkpoint_every: int
    validate_every: int


def train(
    plan: Plan,
    state: TrainState,
    train_step: Callable,
    batches: Callable[[int], AbstractContextManager],
    validate: Callable[[dict], dict[str, float]] | None,
    measure: str | None,
    checkpoints: StageCheckpoints,
    open_progress: Callable[[int], Progress],
    mesh: Mesh,
) -> tuple[TrainState, dict[str, Any]]:
    """Trains to the end of the plan, from the newest checkpoint where there is one.

    batches(step) opens the training batches from that step on: the data position is the step number. Returns the last
    state and {"steps", "epochs", "images_per_second", "wall_seconds", "best": {...}, "validation": {...}}; "validation"
    is that of the last state. Raises Diverged, Interrupted.
    """
    tally = {"seconds": 0.0, "best": None, "validation": None}
    if restored := checkpoints.restore(state):
        state, tally = restored[0], tally | restored[1]
        print(f"{plan.name}: goes on at step {int(state.step)} of {plan.steps}", flush=True)
    begun, start = time.monotonic(), int(state.step)
    spent_before = tally["seconds"]
    speed = Speedometer(plan.batch_size)

    def save(step, state):
        tally["seconds"] = spent_before + time.monotonic() - begun
        tally["next_example"] = step * plan.batch_size
        tally.update(speed.measured())
        checkpoints.save(step, state, tally)

    def look(step, state):
        numbers = validate(state.variables)
        progress.write("val", step, numbers)
        tally["validation"], best = numbers, tally["best"]
        if measure in numbers and (best is None or numbers[measure] < best[measure]):
            tally["best"] = {"step": step, measure: numbers[measure]}
            checkpoints.save_best(step, state.variables)

    with stop_signals() as stop, open_progress(start) as progress, batches(start) as stream:
        window, waiting = Window(plan, checkpoints), None
        for step in range(start + 1, plan.steps + 1):
            batch = to_devices(next(stream), mesh)
            state, metrics = train_step(state, batch)
            if waiting:  # the step before: its numbers are ready while this one runs
                window.add(*waiting)
            waiting = (step, metrics)
            last, stopping = step == plan.steps, stop.number  # read once: it may change between the lines below
            validates = validate is not None and (last or step % plan.validate_every == 0)
            saves = last or step % plan.checkpoint_every == 0 or stopping
            if saves or validates or step % LOG_STEPS == 0 or step == start + 1:
                window.add(*waiting)
                waiting = None
                speed.lap(step)
                numbers = window.close()
                progress.write("train", step, numbers | speed.measured())
                progress.show(step, numbers, speed.images_per_second)
            if validates:
                look(step, state)
                speed.pause()
            if saves:
                save(step, state)
            if stopping:
                checkpoints.latest.wait_until_finished()
                raise Interrupted(f"{plan.name}: stopped by a signal, saved at step {step} of {plan.steps}", stopping)
    return state, {
        "steps": plan.steps,
        "epochs": plan.steps / plan.steps_per_epoch,
        "images_per_second": (tally | speed.measured()).get("images_per_second"),
        "wall_seconds": round(spent_before + time.monotonic() - begun, 1),
        "best": tally["best"],
        "validation": tally["validation"],
    }


class Window:
    """Means of the metrics since the last line; refuses numbers that are not finite."""

    def __init__(self, plan: Plan, checkpoints: StageCheckpoints):
        self.plan, self.checkpoints, self.rows = plan, checkpoints, []

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        row = {name: float(value) for name, value in jax.device_get(metrics).items()}
        for name in ("loss", "grad_norm"):
            if not math.isfinite(row[name]):
                self.checkpoints.latest.wait_until_finished()
                good = self.checkpoints.latest.latest_step()
                kept = (
                    f"step {good} is kept in {self.checkpoints.latest.directory}"
                    if good
                    else "nothing was saved before it"
                )
                raise Diverged(
                    f"{self.plan.name}: {name} is {row[name]} at step {step} of {self.plan.steps}; {kept}. "
                    "Lower the learning rate, or look at the batch of that step"
                )
        self.rows.append(row)

    def close(self) -> dict[str, float]:
        means = {name: sum(row[name] for row in self.rows) / len(self.rows) for name in self.rows[0]}
        self.rows = []
        if "absolute_error" in means:
            means["mae"] = means.pop("absolute_error")
        return means


class Speedometer:
    """Images per second of training alone: compilation, validation and what came before a restart are left out."""

    def __init__(self, batch_size: int):
        self.batch_size, self.images, self.seconds = batch_size, 0, 0.0
        self.mark: tuple[int, float] | None = None

    def lap(self, step: int) -> None:
        now = time.monotonic()
        if self.mark:
            self.images += (step - self.mark[0]) * self.batch_size
            self.seconds += now - self.mark[1]
        self.mark = (step, now)

    def pause(self) -> None:
        """Time until now does not count."""
        self.mark = (self.mark[0], time.monotonic())

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds if self.seconds else 0.0

    def measured(self) -> dict[str, float]:
        """Empty until there is something to measure."""
        return {"images_per_second": round(self.images_per_second, 1)} if self.seconds else {}


class Stop:
    number = 0


@contextmanager
def stop_signals():
    """SIGTERM and SIGINT set `.number` for the loop to see after the step; a second one stops at once."""
    stop, numbers = Stop(), (signal.SIGTERM, signal.SIGINT)

    def note(number, _frame):
        if stop.number:
            raise KeyboardInterrupt
        stop.number = number

    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may listen to signals
        return
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
