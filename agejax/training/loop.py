"""The host loop of one stage."""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import jax

from agejax.training.checkpoint import StageCheckpoints
from agejax.training.cluster import say, stop_signals
from agejax.training.progress import Progress
from agejax.training.state import TrainState
from agejax.training.step import TrainSteps

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
    dispatch: int = 1
    """Steps that go to the device at once, where so many are left until the next look."""

    def at_once(self, step: int) -> int:
        """How many steps follow on `step` in one dispatch."""
        looks = [every - step % every for every in (self.checkpoint_every, self.validate_every)]
        return self.dispatch if self.dispatch <= min(self.steps - step, *looks) else 1


def train(
    plan: Plan,
    state: TrainState,
    train_steps: TrainSteps,
    batches: Callable[[int], AbstractContextManager],
    validate: Callable[[dict], dict[str, float]] | None,
    measure: str | None,
    checkpoints: StageCheckpoints,
    open_progress: Callable[[int], Progress],
    parts: Mapping[str, Callable[[int, dict], None]] | None = None,
) -> tuple[TrainState, dict[str, Any]]:
    """Trains to the end of the plan, from the newest checkpoint where there is one.

    batches(step) opens the training batches from that step on: the data position is the step number. The variables
    where `measure` was smallest are saved as the best. parts: where the state is several trained as one, {measure of
    one of them: what saves its best, given the step and the variables of all}.

    Returns the last state and {"steps", "epochs", "images_per_second", "wall_seconds", "best": {...}, "validation":
    {...}}; "validation" is that of the last state. With parts also "parts": {measure: the best of that part}. Raises
    Diverged, Interrupted.
    """
    tally = {"seconds": 0.0, "best": None, "parts": {}, "validation": None}
    if restored := checkpoints.restore(state):
        state, tally = restored[0], tally | restored[1]
        say(f"{plan.name}: goes on at step {state.steps_made} of {plan.steps}")
    begun, start = time.monotonic(), state.steps_made
    spent_before = tally["seconds"]
    speed = Speedometer(plan.batch_size)

    def save(step, state):
        tally["seconds"] = spent_before + time.monotonic() - begun
        tally["next_example"] = step * plan.batch_size
        tally.update(speed.measured())
        progress.keep()
        checkpoints.save(step, state, dict(tally))  # a copy, as it is written while training goes on

    def look(step, state):
        numbers = validate(state.variables)
        progress.write("val", step, numbers)
        tally["validation"] = numbers
        if _improves(measure, numbers, tally["best"]):
            tally["best"] = {"step": step, measure: numbers[measure]}
            checkpoints.save_best(step, state.variables)
        for name, save_best in (parts or {}).items():
            if _improves(name, numbers, tally["parts"].get(name)):
                tally["parts"] = tally["parts"] | {name: {"step": step, name: numbers[name]}}
                save_best(step, state.variables)

    with stop_signals() as stop, open_progress(start) as progress, batches(start) as stream:
        lines, waiting, step = Lines(plan, start, checkpoints, progress, speed), None, start
        while step < plan.steps:
            state, metrics = train_steps(state, list(itertools.islice(stream, plan.at_once(step))))
            if waiting is not None:  # the numbers of the steps before are ready while these run
                lines.add(waiting)
            waiting, step = metrics, step + len(metrics["loss"])
            last, stopping = step == plan.steps, stop.agreed()
            validates = validate is not None and (last or step % plan.validate_every == 0)
            saves = last or step % plan.checkpoint_every == 0 or stopping
            if saves or validates:
                lines.add(waiting)
                lines.close()
                waiting = None
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
    } | ({"parts": tally["parts"]} if parts else {})


def _improves(measure: str | None, numbers: dict[str, float], best: dict | None) -> bool:
    """Of equal ones the first stays the best."""
    return measure in numbers and (best is None or numbers[measure] < best[measure])


class Lines:
    """Writes means of the metrics, a line for so many steps; refuses numbers that are not finite."""

    def __init__(self, plan: Plan, start: int, checkpoints: StageCheckpoints, progress: Progress, speed: "Speedometer"):
        self.plan, self.checkpoints, self.progress, self.speed = plan, checkpoints, progress, speed
        self.start, self.step, self.rows = start, start, []

    def add(self, metrics: dict[str, jax.Array]) -> None:
        """Waits for the metrics (N,) of the next N steps."""
        columns = jax.device_get(metrics)
        count = len(columns["loss"])
        self.speed.lap(self.step + count)
        for i in range(count):
            self.step += 1
            self.rows.append(self._finite({name: float(column[i]) for name, column in columns.items()}))
            if self.step % LOG_STEPS == 0 or self.step == self.start + 1:
                self.close()

    def close(self) -> None:
        """The line of what was added since the last one."""
        if not self.rows:
            return
        means = {name: sum(row[name] for row in self.rows) / len(self.rows) for name in self.rows[0]}
        if "absolute_error" in means:
            means["mae"] = means.pop("absolute_error")
        self.rows = []
        self.progress.write("train", self.step, means | self.speed.measured())
        self.progress.show(self.step, means, self.speed.images_per_second)

    def _finite(self, row: dict[str, float]) -> dict[str, float]:
        for name in ("loss", "grad_norm"):
            if not math.isfinite(row[name]):
                self.checkpoints.latest.wait_until_finished()
                good = self.checkpoints.latest.latest_step()
                where = self.checkpoints.latest.directory
                kept = f"step {good} is kept in {where}" if good else "nothing was saved before it"
                raise Diverged(
                    f"{self.plan.name}: {name} is {row[name]} at step {self.step} of {self.plan.steps}; {kept}. "
                    "Lower the learning rate, or look at the batch of that step"
                )
        return row


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
