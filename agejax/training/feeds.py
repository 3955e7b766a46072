"""Feeds: three ways for an example to reach the step.

host        the loader makes the augmented crop; uint8 crops go to the device
device      the loader decodes and aligns; a larger crop, a canvas, and its plan go to the device, which augments
resident    all canvases lie in device memory; rows and plans go to the device

Rows and plans are the same for one seed and position in all three. device and resident give the same pixels; host warps
once, from the photograph, where they warp the canvas, so its pixels are a little sharper.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from jax.sharding import Mesh

from agejax import augment
from agejax.parameters import Tree
from agejax.training import resident
from agejax.training.sharding import part_of_rows, platform
from data_pipelines import loaders
from data_pipelines.align import Alignment
from data_pipelines.loaders import Loader
from data_pipelines.plans import Augmentation, canvas_size
from data_pipelines.samplers import ClassBalanced, Shuffle, Source

STEPS_AT_ONCE = 512  # of resident data, at most: a few seconds, after which a signal is heard
BYTES_AT_ONCE = 1 << 26  # of streamed batches that wait to go to the device together


@dataclass(frozen=True)
class Examples:
    """What a stage trains on, and how its batches are made."""

    source: Source
    batch_size: int
    image_size: int
    seed: int
    augmentation: Augmentation
    alignment: Alignment
    target: str
    order: Shuffle | ClassBalanced
    loader: Loader

    def batches(self, make: Callable, mesh: Mesh, start_step: int, **more):
        """loaders.train_batches, canvas_batches or plan_batches of them, this process's part."""
        index, count = part_of_rows(mesh)
        return make(
            self.source, batch_size=self.batch_size, image_size=self.image_size, seed=self.seed,
            start_step=start_step, augmentation=self.augmentation, order=self.order, target=self.target,
            process_index=index, process_count=count, **more,
        )  # fmt: skip


@dataclass(frozen=True)
class Feed:
    """Opens batches on the host from a step on, and makes of one, inside jit, what the update takes."""

    name: str
    open: Callable[[int], AbstractContextManager[Iterator[dict[str, Any]]]]
    prepare: Callable[[Tree, dict], dict] = lambda store, batch: batch
    store: Any = ()
    """What stays on the devices: prepare's first argument."""
    dispatch: int = 1
    """How many steps may go to the device at once."""


def open_feed(name: str, examples: Examples, mesh: Mesh, report: Callable[[str], None] = print) -> Feed:
    """The feed of that name; auto: host on a CPU and for what only the host can do, resident elsewhere.

    Where memory is too short for resident it is device, and `report` is told.
    """
    if name == "auto":
        on_host = platform(mesh) == "cpu" or augment.refused(examples.augmentation)
        name = "host" if on_host else "resident"
    if name == "resident":
        needed = resident.needed_bytes(len(examples.source), examples.image_size, examples.augmentation, mesh)
        free = resident.free_bytes(mesh)
        if needed > free:
            report(f"{needed / 1e9:.3g} GB of pictures, {free / 1e9:.3g} GB free on each device: they are streamed")
            name = "device"
    return FEEDS[name](examples, mesh, report)


def host(examples: Examples, mesh: Mesh, report: Callable[[str], None]) -> Feed:
    """Augmented by the loader."""
    make = partial(loaders.train_batches, alignment=examples.alignment, loader=examples.loader)
    return Feed("host", partial(examples.batches, make, mesh), dispatch=_at_once(examples, examples.image_size, mesh))


def device(examples: Examples, mesh: Mesh, report: Callable[[str], None]) -> Feed:
    """Canvases from the loader, augmented on the device."""
    augment.check(examples.augmentation)
    make = partial(loaders.canvas_batches, alignment=examples.alignment, loader=examples.loader)
    side = canvas_size(examples.image_size, examples.augmentation)

    def prepare(store, batch):
        return augmented(batch, examples)

    return Feed("device", partial(examples.batches, make, mesh), prepare, dispatch=_at_once(examples, side, mesh))


def in_memory(examples: Examples, mesh: Mesh, report: Callable[[str], None]) -> Feed:
    """Canvases from device memory, augmented there."""
    augment.check(examples.augmentation)
    store = resident.load(
        examples.source, examples.image_size, examples.augmentation, examples.alignment, examples.target, mesh,
        threads=loaders.cores(), report=report,
    )  # fmt: skip
    dispatch = 1 if platform(mesh) == "cpu" else STEPS_AT_ONCE
    ahead = Loader(threads=1, buffer=2 * dispatch)  # plans of the next dispatch are drawn while this one runs

    def prepare(store, batch):
        return augmented(batch | resident.take(store, batch["row"], mesh), examples)

    make = partial(loaders.plan_batches, loader=ahead)
    return Feed("resident", partial(examples.batches, make, mesh), prepare, store, dispatch)


def augmented(batch: dict, examples: Examples) -> dict:
    """Canvas and plan become the image; inside jit."""
    image = augment.execute(batch["canvas"], batch["plan"], examples.image_size, examples.augmentation)
    return {name: value for name, value in batch.items() if name not in ("canvas", "plan", "row")} | {"image": image}


FEEDS = {"host": host, "device": device, "resident": in_memory}


def _at_once(examples: Examples, side: int, mesh: Mesh) -> int:
    """A scan over convolutions is ten times slower than a Python loop on CPU."""
    if platform(mesh) == "cpu":
        return 1
    return max(1, BYTES_AT_ONCE // (examples.batch_size * side * side * 3))
