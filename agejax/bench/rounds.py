"""Who is faster: contestants work in turn, so that whatever slows the machine down slows them all alike."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROUNDS = 5
OURS = "ours"


@dataclass(frozen=True)
class Settings:
    """What the benches work on, and for how long."""

    data: str = ""
    """A prepared data set, as aaf; empty = faces drawn for the bench."""
    data_dir: Path = Path("data")
    seconds: float = 10.0
    """For which each contestant is measured, all rounds together."""


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
    value, spread = median(ours), (min(ours), max(ours))
    peers = {name: median(those) for name, those in speeds.items() if name != OURS}
    if not peers:
        return [Row(model, what, value, unit, spread=spread)]
    return [Row(model, what, value, unit, name, speed, value / speed, spread) for name, speed in peers.items()]


@dataclass(frozen=True)
class Contestant:
    """What makes some images and says how many, and how many calls' work it may do while nobody asks."""

    step: Callable[[], int]
    ahead: int = 0


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
            images, calls, began = 0, 0, time.perf_counter()
            while not calls or time.perf_counter() - began < seconds / ROUNDS:
                images, calls = images + contestant.step(), calls + 1
            took = time.perf_counter() - began
            speeds[name].append(images / took)
            time.sleep(contestant.ahead * took / calls)
    return speeds
