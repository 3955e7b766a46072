"""Training end to end, from records to updated weights, and the share of it that is not the step itself.

Ours by each of its feeds; torch compiled, fed by its DataLoader, or from canvases in device memory, augmented there.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from agejax.bench import device, step
from agejax.bench.loader import PREFETCHED, open_examples
from agejax.bench.rounds import MODELS, OURS, Contestant, Row, Settings, compare, race
from data_pipelines.align import Alignment
from data_pipelines.loaders import Loader, cores, train_batches
from data_pipelines.plans import Augmentation
from data_pipelines.samplers import Shuffle, Source

PHOTOGRAPHS = 4000  # at most
BURST = 0.5  # seconds between two looks at the clock, at least: the device is idle for the last part of a step
FEEDS = ("resident", "device", "host")
AT_ONCE = {"cpu": 1}  # steps in a dispatch, at most
AT_ONCE_ELSEWHERE = 16
ALONE = "the step alone"
IN_HAND = ", batches in hand"
CPU_BATCHES = 4  # by which the loader's speed on a core is measured
AUGMENTATION = Augmentation()


def measure(settings: Settings) -> Iterator[Row | str]:
    """Rows, or remarks for the reader. Of the models, the first."""
    import jax

    from agejax.bench.ours import Case

    torch_device, remark = device.torch_device()
    if remark:
        yield remark
    if device.platform() != "cpu" and jax.device_count() > 1:
        yield f"feeds train on all {jax.device_count()} devices, the step alone and torch on one of them"
    batch = settings.batch or step.TRAINED.get(device.platform(), step.TRAINED_ELSEWHERE)
    with TemporaryDirectory(prefix="agejax-bench-") as scratch:
        source = open_examples(settings, Path(scratch), PHOTOGRAPHS)
        for dtype in device.dtypes(settings.dtypes):
            case = Case((settings.models or MODELS)[0], dtype, settings.size)
            where = torch_device if settings.peers else ""
            yield from _case(case, source, batch, where, Path(scratch), settings.seconds)
            device.release()


def _case(case, source: Source, batch: int, where: str, scratch: Path, seconds: float) -> Iterator[Row | str]:
    what, per_core = f"end to end, batch {batch}", _loader_speed(source, batch, case.size)
    with ExitStack() as stack:
        makers = {feed: partial(_ours, case, feed, source, batch, stack) for feed in FEEDS}
        makers[ALONE] = partial(_alone, case, batch)
        if where:
            makers |= _torch(case, source, batch, where, scratch, stack)
        contestants = {}
        for name, make in makers.items():
            made, wrong, _ = device.attempt(make)
            if made is None:
                yield f"{case.name}, {what}: {name}: {wrong}"
                continue
            contestants[name] = made
            if name in FEEDS:
                hand, wrong, _ = device.attempt(made.in_hand)
                contestants |= {f"{name}{IN_HAND}": hand} if hand else {}
        speeds, failures = race({name: made.contestant() for name, made in contestants.items()}, seconds)
        yield from (f"{case.name}, {what}: {name}: {wrong}" for name, wrong in failures.items())
        if ALONE in speeds:
            yield from _rows(case.name, what, speeds, contestants, per_core)


def _rows(
    model: str, what: str, speeds: dict[str, list[float]], contestants: dict[str, "Streamed"], per_core: float
) -> Iterator[Row | str]:
    """Of each feed its speed beside the peers', and its losses; the cores it needs.

    stalled: against batches in hand, which are transferred and augmented too. beyond the step: against the step alone.
    """
    peers = {name: those for name, those in speeds.items() if name.startswith("torch")}
    alone = median(speeds[ALONE])
    yield from compare(model, f"{what}: {ALONE}", {OURS: speeds[ALONE]})
    for feed in filter(speeds.get, FEEDS):
        named = f"{what}, feed={feed}"
        yield from compare(model, named, {OURS: speeds[feed]} | peers)
        if in_hand := speeds.get(f"{feed}{IN_HAND}"):
            yield Row(model, named, 1 - median(speeds[feed]) / median(in_hand), "of time stalled")
        yield Row(model, named, 1 - median(speeds[feed]) / alone, "of time beyond step")
        yield Row(model, named, contestants[feed].waiting(), "of time awaiting data")
    yield Row(model, f"{what}: loader, feed=host", per_core, "images/s a core")
    yield Row(model, f"{what}: loader, feed=host", alone / per_core, "cores to keep up")


class Streamed:
    """Training from a stream of batches; the host waits for the dispatch before the last, as training/loop.py does."""

    def __init__(self, fetch: Callable, run: Callable, wait: Callable, images: int, ahead: int = 0):
        """run(fetched) starts a dispatch and gives what `wait` waits for; `ahead` dispatches' batches may lie ready."""
        self.fetch, self.run, self.wait, self.images, self.ahead = fetch, run, wait, images, ahead
        self.calls, self.marks = [], []  # (waited, took) of each call; the number of them when the clock started
        wait(run(fetch()))  # compiles
        began = time.perf_counter()
        wait(run(fetch()))
        self.dispatches = math.ceil(BURST / max(time.perf_counter() - began, 1e-6))

    def contestant(self) -> Contestant:
        return Contestant(self._step, math.ceil(self.ahead / self.dispatches), starts=self._mark)

    def in_hand(self) -> "Streamed":
        """The same with one batch, or one dispatch's, that is there again and again."""
        kept = self.fetch()
        return Streamed(lambda: kept, self.run, self.wait, self.images)

    def waiting(self) -> float:
        """Share of the time on the clock for which the host waited for batches, while the device worked or not."""
        warm = max(1, self.contestant().ahead)
        ends = [mark - warm for mark in self.marks[1:]] + [len(self.calls)]
        on_the_clock = [call for first, end in zip(self.marks, ends) for call in self.calls[first:end]]
        return sum(waited for waited, _ in on_the_clock) / sum(took for _, took in on_the_clock)

    def _mark(self) -> None:
        self.marks.append(len(self.calls))

    def _step(self) -> int:
        waited, before, began = 0.0, None, time.perf_counter()
        for _ in range(self.dispatches):
            asked = time.perf_counter()
            fetched = self.fetch()
            waited += time.perf_counter() - asked
            running = self.run(fetched)
            if before is not None:
                self.wait(before)
            before = running
        self.wait(before)
        self.calls.append((waited, time.perf_counter() - began))
        return self.dispatches * self.images


def workers() -> int:
    """Loader processes: one core is left to the program that trains."""
    return max(1, cores() - 1)


def _ours(case, name: str, source: Source, batch: int, stack: ExitStack) -> Streamed:
    """From a feed, by the functions that run.py uses."""
    import jax

    from agejax.bench.ours import OBJECTIVE, new_training
    from agejax.training import feeds
    from agejax.training.sharding import make_mesh, replicated
    from agejax.training.step import make_train_steps

    mesh, loader = make_mesh(), Loader(workers=workers())
    examples = feeds.Examples(
        source, batch, case.size, 0, AUGMENTATION, Alignment(), OBJECTIVE.target, Shuffle(), loader
    )
    feed = feeds.open_feed(name, examples, mesh, lambda text: None)
    if feed.name != name:
        raise MemoryError("the pictures do not fit into device memory")
    update, state = new_training(case)
    train_steps = make_train_steps(update, feed, mesh)
    stream = stack.enter_context(feed.open(0))
    at_once = min(feed.dispatch, AT_ONCE.get(device.platform(), AT_ONCE_ELSEWHERE))
    held = [jax.device_put(state, replicated(mesh))]

    def run(batches: list[dict]):
        held[0], metrics = train_steps(held[0], batches)
        return metrics

    ahead = 0 if name == "resident" else math.ceil((3 * loader.buffer + 1) * loader.workers / at_once)
    fetch = lambda: list(itertools.islice(stream, at_once))  # noqa: E731
    return Streamed(fetch, run, jax.block_until_ready, at_once * batch, ahead)


def _alone(case, batch: int) -> Streamed:
    """The step on pixels that lie on the device, augmented before."""
    from agejax.bench.ours import Training

    work = Training(case, batch, AT_ONCE.get(device.platform(), AT_ONCE_ELSEWHERE))
    return Streamed(lambda: None, lambda _: work.start(), lambda _: work.wait(), work.steps * batch)


def _torch(case, source: Source, batch: int, where: str, scratch: Path, stack: ExitStack) -> dict[str, Callable]:
    from agejax.bench import torch_networks

    if case.model not in torch_networks.NETWORKS:
        return {}
    return {
        "torch, DataLoader": partial(_torch_loaded, case, source, batch, where, scratch, stack),
        "torch, resident": partial(_torch_resident, case, source, batch, where),
    }


def _torch_loaded(case, source: Source, batch: int, where: str, scratch: Path, stack: ExitStack) -> Streamed:
    """DataLoader around our own warp, the fastest of torch_loader.py, in as many processes as ours has."""
    import torch

    from agejax.bench import torch_loader, torch_steps

    files = torch_loader.write_files(source, scratch / f"files-{case.dtype}")
    opened = torch_loader.batches(
        torch_loader.OneWarp, files, case.size, batch, AUGMENTATION, workers(), pin=where == "cuda"
    )
    stream, update = stack.enter_context(opened), torch_steps.training_step(case, "compile", where)
    torch.set_num_threads(cores())  # torch_loader takes one
    sigma = torch.full((batch,), 2.0, device=where)

    def run(fetched):
        image, age = (x.to(where, non_blocking=True) for x in fetched)
        torch_steps.mark(where)
        return update(image, age.float(), sigma)

    return Streamed(lambda: next(stream), run, torch_steps.waiter(where), batch, PREFETCHED * workers())


def _torch_resident(case, source: Source, batch: int, where: str) -> Streamed:
    """Canvases in device memory, shuffled and augmented there."""
    import torch

    from agejax.bench import torch_augment, torch_steps

    canvases, ages = _canvases(case, source)
    canvases, ages = torch.from_numpy(canvases).to(where), torch.from_numpy(ages).to(where)
    update, sigma = torch_steps.training_step(case, "compile", where), torch.full((batch,), 2.0, device=where)
    augment = torch_augment.augmenter(case.size, AUGMENTATION, partial(torch.compile, dynamic=False))
    order = _endless_rows(len(canvases), batch, where)

    def run(rows):
        with torch.no_grad():
            image = augment(canvases[rows])
        torch_steps.mark(where)
        return update(image, ages[rows], sigma)

    return Streamed(lambda: next(order), run, torch_steps.waiter(where), batch)


def _canvases(case, source: Source):
    """uint8 (N, T, T, 3) and float32 ages (N,), as our resident feed has them."""
    import jax
    import numpy as np

    from agejax.training import resident
    from agejax.training.sharding import make_mesh
    from data_pipelines.plans import canvas_size

    side, threads = canvas_size(case.size, AUGMENTATION), cores()
    store = resident.load(
        source, case.size, AUGMENTATION, Alignment(), "age", make_mesh(), threads=threads, report=lambda text: None
    )
    canvas, label = (np.array(jax.device_get(store[key]))[: len(source)] for key in ("canvas", "label"))
    return canvas.reshape(-1, side, side, 3), label


def _endless_rows(count: int, batch: int, where: str) -> Iterator:
    """Rows in an order drawn anew for every epoch, on the device; batches run across epochs."""
    import torch

    rows = torch.empty(0, dtype=torch.int64, device=where)
    while True:
        while len(rows) < batch:
            rows = torch.cat([rows, torch.randperm(count, device=where)])
        yield rows[:batch]
        rows = rows[batch:]


def _loader_speed(source: Source, batch: int, size: int) -> float:
    """Images a second of one core's time."""
    options = {"batch_size": batch, "image_size": size, "seed": 0, "augmentation": AUGMENTATION}
    with train_batches(source, **options, alignment=Alignment(), loader=Loader(threads=1)) as batches:
        next(batches)
        began = time.process_time()
        for _ in range(CPU_BATCHES):
            next(batches)
        return CPU_BATCHES * batch / (time.process_time() - began)
