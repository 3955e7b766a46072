"""The training step and inference of a network alone, beside torch's, and beside what the device can do at best."""

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Protocol

from agejax.bench import device, floor
from agejax.bench.rounds import MODELS, OURS, Contestant, Row, Settings, beside, compare, race

BURST = 0.1  # seconds that a contestant works, at least, between two looks at the clock
BETTER = 1.03  # by how much a doubled batch must be faster for the search to go on
TRAINED = {"cpu": 16}  # batch
TRAINED_ELSEWHERE = 256
ASKED = {"cpu": ("1", "32", "best")}  # batches of inference
ASKED_ELSEWHERE = ("1", "32", "256", "best")
SEARCH = {"cpu": (8, 64)}  # batches from, to
SEARCH_ELSEWHERE = (256, 4096)


class Work(Protocol):
    """What is measured: compiled, warm, its data on the device."""

    batch: int
    steps: int
    """In one start, each of a batch."""
    memory: int | None
    """Bytes at its peak, where they are known."""
    seconds_to_compile: float

    def start(self) -> None: ...

    def wait(self) -> None: ...


Makers = dict[str, Callable[[int], Work]]  # contestant → what makes its work for a batch


def measure_training(settings: Settings) -> Iterator[Row | str]:
    """Rows, or remarks for the reader."""
    from agejax.bench import ours

    torch_device, remark = device.torch_device()
    if remark:
        yield remark
    yield _floors(settings)
    batch = settings.batch or TRAINED.get(device.platform(), TRAINED_ELSEWHERE)
    for case in _cases(settings):
        makers = {OURS: partial(ours.Training, case)}
        if device.platform() != "cpu":
            makers = {
                OURS: partial(ours.Training, case, at_once=ours.AT_ONCE),
                "ours, 1 step a dispatch": partial(ours.Training, case),
            }
        makers |= _torch(case, settings.peers, torch_device, "training")
        yield from training(case, makers, batch, settings.seconds)


def measure_inference(settings: Settings) -> Iterator[Row | str]:
    """Rows, or remarks for the reader."""
    from agejax.bench import ours

    torch_device, remark = device.torch_device()
    if remark:
        yield remark
    yield _floors(settings)
    asked = settings.inference or ASKED.get(device.platform(), ASKED_ELSEWHERE)
    for case in _cases(settings):
        makers = {OURS: partial(ours.Inference, case)} | _torch(case, settings.peers, torch_device, "inference")
        for word in asked:
            if word == "best":
                searched = _torch(case, ("eager",), torch_device, "inference")
                yield from best(case, makers, searched, settings.seconds)
            else:
                yield from inference(case, makers, dict.fromkeys(makers, int(word)), word, settings.seconds)


def _floors(settings: Settings) -> str:
    """Measured before the device is full."""
    peaks = [f"{floor.peak(dtype) / 1e12:.3g} TFLOP/s in {dtype}" for dtype in device.dtypes(settings.dtypes)]
    device.release()
    return f"held against: {floor.bandwidth() / 1e9:.3g} GB/s copied, {', '.join(peaks)}"


def _cases(settings: Settings) -> Iterator:
    from agejax.bench.ours import Case

    for model in settings.models or MODELS:
        for dtype in device.dtypes(settings.dtypes):
            yield Case(model, dtype, settings.size)


def _torch(case, ways: tuple[str, ...], torch_device: str, kind: str) -> Makers:
    if not torch_device:
        return {}
    from agejax.bench import torch_networks, torch_steps

    if case.model not in torch_networks.NETWORKS:
        return {}
    make = {"training": torch_steps.training, "inference": torch_steps.inference}[kind]
    return {f"torch {way}": partial(make, case, way, torch_device) for way in ways}


def training(case, makers: Makers, batch: int, seconds: float) -> Iterator[Row | str]:
    """At the batch, or at half of it and so on, where memory is short."""
    while True:
        speeds, works, remarks, short = _race(makers, dict.fromkeys(makers, batch), seconds, waits=False)
        what = f"training, batch {batch}"
        yield from (f"{case.name}, {what}: {remark}" for remark in remarks)
        if speeds or not short or batch == 1:
            break
        batch //= 2
        device.release()
    if speeds:
        yield from _rows(case.name, what, speeds, works, case.bytes_in_training, 3 * 2 * case.macs, case.dtype)
    del works
    device.release()


def inference(case, makers: Makers, batches: dict[str, int], word: str, seconds: float) -> Iterator[Row | str]:
    """At a batch; each waits for its answer before it begins anew, but for the best batch."""
    what = f"inference, batch {word}"
    speeds, works, remarks, _ = _race(makers, batches, seconds, waits=word != "best")
    yield from (f"{case.name}, {what}: {remark}" for remark in remarks)
    if speeds:
        yield from _rows(case.name, what, speeds, works, case.bytes_in_inference, 2 * case.macs, case.dtype)
        if word == "best":
            sizes = {name: works[name].batch for name in speeds}
            yield from beside(case.name, what, "a batch", sizes)
    del works
    device.release()


def best(case, makers: Makers, searched: Makers, seconds: float) -> Iterator[Row | str]:
    """Each at its own best batch; compiled torch at that of eager torch, as compiling for every batch takes minutes."""
    ours = best_batch(makers[OURS])
    theirs = next((best_batch(make) for make in searched.values()), ours)
    if not ours:
        yield f"{case.name}, inference, batch best: ours does not run at any batch"
        return
    batches = {name: ours if name == OURS else theirs or ours for name in makers}
    yield from inference(case, makers, batches, "best", seconds)


def best_batch(make: Callable[[int], Work]) -> int:
    """The batch with most images a second, by doubling as long as that is faster and memory lasts; 0: none runs."""
    batch, most = SEARCH.get(device.platform(), SEARCH_ELSEWHERE)
    found, fastest = 0, 0.0
    while 1 <= batch <= most:
        speed, _, short = device.attempt(lambda: _quick(make(batch)))  # noqa: B023
        device.release()
        if speed is None and short and not found:
            most = batch = batch // 2
            continue
        if speed is None or speed < BETTER * fastest:
            break
        found, fastest, batch = batch, speed, 2 * batch
    return found


def _quick(work: Work) -> float:
    burst = _burst(work, waits=False)
    speeds = []
    for _ in range(3):
        began = time.perf_counter()
        images = burst()
        speeds.append(images / (time.perf_counter() - began))
    return median(speeds)


def _race(
    makers: Makers, batches: dict[str, int], seconds: float, waits: bool
) -> tuple[dict[str, list[float]], dict[str, Work], list[str], bool]:
    """(images/s of every round, works, remarks, whether ours was short of memory); no speeds where ours fails.

    A peer that fails is left out.
    """
    works, remarks = {}, []
    for name, make in makers.items():
        work, wrong, short = device.attempt(make, batches[name])
        if work is None:
            remarks.append(f"{name}: {wrong}")
            if name == OURS:
                return {}, {}, remarks, short
            device.release()
        else:
            works[name] = work
    compiled = ", ".join(f"{name} {work.seconds_to_compile:.1f} s" for name, work in works.items())
    remarks.append(f"compiled and warm, not counted: {compiled}")
    contestants = {name: Contestant(_burst(work, waits)) for name, work in works.items()}
    speeds, failures = race(contestants, seconds)
    return speeds, works, [*remarks, *(f"{name}: {wrong}" for name, wrong in failures.items())], False


def _burst(work: Work, waits: bool) -> Callable[[], int]:
    """Starts as often as fills a while, and waits: each time, or at the end. Gives the number of images."""

    def run(times: int) -> int:
        for _ in range(times):
            work.start()
            if waits:
                work.wait()
        work.wait()
        return times * work.batch * work.steps

    times = []

    def burst() -> int:
        if not times:
            began = time.perf_counter()
            run(1)
            times.append(math.ceil(BURST / max(time.perf_counter() - began, 1e-6)))
        return run(times[0])

    return burst


def _rows(
    model: str,
    what: str,
    speeds: dict[str, list[float]],
    works: dict[str, Work],
    moved: tuple[int, int],
    operations: int,
    dtype: str,
) -> Iterator[Row]:
    """Speed, time, memory; shares of what bytes (moved: of an image, of the parameters) and operations allow."""
    medians = {name: median(those) for name, those in speeds.items()}
    batch, speed = works[OURS].batch, medians[OURS]
    yield from compare(model, what, speeds)
    yield from beside(model, what, "ms", {name: 1000 * works[name].batch / those for name, those in medians.items()})
    memory = {name: works[name].memory and works[name].memory / 1e9 for name in speeds}
    if memory[OURS]:
        yield from beside(model, what, "GB", memory)
    share = speed * (moved[0] + moved[1] / batch) / floor.bandwidth()
    yield Row(model, what, share, "of byte floor")
    yield Row(model, what, speed * operations / floor.peak(dtype), "of peak FLOP/s")
    yield from beside(model, what, "s to compile", {name: works[name].seconds_to_compile for name in speeds})
