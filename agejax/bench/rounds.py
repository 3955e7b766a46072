"""Who is faster: contestants work in turn, so that whatever slows the machine down slows them all alike."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from agejax.bench import device

ROUNDS = 5
OURS = "ours"
MODELS = ("thin", "tiny", "vgg16", "resnet18", "efficientnet_v2_m")
WAYS = ("eager", "compile", "max-autotune")  # of torch


@dataclass(frozen=True)
class Settings:
    """What the benches work on, and for how long."""

    data: str = ""
    """A prepared data set, as aaf; empty = faces drawn for the bench."""
    data_dir: Path = Path("data")
    seconds: float = 10.0
    """For which each contestant is measured, all rounds together."""
    models: tuple[str, ...] = ()
    """Empty: MODELS."""
    dtypes: tuple[str, ...] = ()
    """Empty: float32, and on an accelerator bfloat16 too."""
    size: int = 224
    """Pixels."""
    batch: int = 0
    """Of training; 0: 256 on an accelerator, 16 on a CPU."""
    inference: tuple[str, ...] = ()
    """Batch sizes, and best: the one with most images a second, found by doubling. Empty: 1, 32, 256, best; on a CPU
    without 256."""
    peers: tuple[str, ...] = ("eager", "compile")
    """Of WAYS: how torch is used."""


@dataclass(frozen=True)
class Row:
    """One figure, beside that of a peer where there was one; ratio = value / peer_value."""

    model: str
    what: str
    value: float
    unit: str
    peer: str = ""
    peer_value: float | None = None
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    """`value` in the slowest and the fastest round."""


def compare(model: str, what: str, speeds: dict[str, list[float]], unit: str = "images/s") -> list[Row]:
    """A row for each peer, of the medians; one row without peer where OURS is alone."""
    ours = speeds[OURS]
    medians = {name: median(those) for name, those in speeds.items()}
    return beside(model, what, unit, medians, (min(ours), max(ours)))


def beside(
    model: str, what: str, unit: str, values: dict[str, float | None], spread: tuple[float, float] | None = None
) -> list[Row]:
    """A row for each peer whose value is known; one row without peer where there is none."""
    value = values[OURS]
    peers = {name: other for name, other in values.items() if name != OURS and other is not None}
    if not peers:
        return [Row(model, what, value, unit, spread=spread)]
    return [Row(model, what, value, unit, name, other, value / other, spread) for name, other in peers.items()]


@dataclass(frozen=True)
class Contestant:
    """What makes some images and says how many, and how many calls' work it may do while nobody asks."""

    step: Callable[[], int]
    ahead: int = 0
    starts: Callable[[], None] = lambda: None
    """Called whenever its clock starts."""


class Failed(Exception):
    """A contestant that does not work any more, and why, in one line."""

    def __init__(self, name: str, error: Exception):
        super().__init__(device.in_one_line(error))
        self.name = name


def race(contestants: dict[str, Contestant], seconds: float) -> tuple[dict[str, list[float]], dict[str, str]]:
    """What take_turns gives of those that last, and why the others do not; no speeds where OURS does not."""
    failures, left = {}, {name: replace(it, step=_named(name, it.step)) for name, it in contestants.items()}
    while OURS not in failures and left:
        try:
            return take_turns(left, seconds), failures
        except Failed as failed:
            failures[failed.name] = str(failed)
            del left[failed.name]
    return {}, failures


def _named(name: str, step: Callable[[], int]) -> Callable[[], int]:
    def named() -> int:
        try:
            return step()
        except Exception as error:
            raise Failed(name, error) from None

    return named


def take_turns(contestants: dict[str, Contestant], seconds: float) -> dict[str, list[float]]:
    """Contestant → its images a second in each round.

    Before its clock runs, each uses up what it has done ahead, or at least one step, which also warms it up; and
    after its turn it is given the time to do it anew, before the next one is measured.
    """
    speeds = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, contestant in contestants.items():
            for _ in range(max(1, contestant.ahead)):
                contestant.step()
            contestant.starts()
            images, calls, began = 0, 0, time.perf_counter()
            while not calls or time.perf_counter() - began < seconds / ROUNDS:
                images, calls = images + contestant.step(), calls + 1
            took = time.perf_counter() - began
            speeds[name].append(images / took)
            time.sleep(contestant.ahead * took / calls)
    return speeds
