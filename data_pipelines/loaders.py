"""grain pipelines. A batch is a pure function of (seed, step): no state but the step, for any worker count.

Position i of the endless stream is a row of the split (samplers.py: each epoch shuffled anew, or classes balanced) and
a random generator, both from (seed, i) alone. Batch b is positions b·B … (b+1)·B, across epochs, so no example is
dropped; process p of n takes the p-th of n equal parts of every batch.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cv2
import grain
import numpy as np
from absl import flags

from data_pipelines import align, crops, parcels, plans
from data_pipelines.samplers import ClassBalanced, Shuffle, Source

COLUMNS = {  # of an example, after its image
    "label": np.float32,
    "sigma": np.float32,
    "identity": np.int32,
    "mask": np.float32,
    "index": np.int64,
}
MOST_WORKERS = 32
PADDING = (0, 0, -1, 0, -1)


@dataclass(frozen=True)
class Loader:
    """`workers` spawned processes (0 = this one does the work), with `threads` and `buffer` batches in each."""

    workers: int = 0
    """-1: to be settled by the machine."""
    threads: int = 2
    buffer: int = 2

    def __post_init__(self):
        if self.workers < -1 or self.threads < 1 or self.buffer < 1:
            raise ValueError(f"loader: workers must be 0 or more (-1: open), threads and buffer 1 or more, got {self}")

    def settled(self, accelerated: bool) -> "Loader":
        """With as many workers as the machine can spare, where that is left open: none where its cores train."""
        if self.workers >= 0:
            return self
        return replace(self, workers=min(MOST_WORKERS, max(0, cores() - 2)) if accelerated else 0)


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Batches:
    """An iterator for `with`, so that worker processes and shared memory end. After an error it is over."""

    def __init__(self, dataset: grain.IterDataset):
        self._iterator = iter(dataset)
        self._receiver = parcels.Receiver()

    def __iter__(self) -> Iterator[dict]:
        return self

    def __next__(self) -> dict[str, Any]:
        if self._iterator is None:
            raise StopIteration
        try:
            batch = next(self._iterator)
            return self._receiver.unpack(batch) if isinstance(batch, parcels.Parcel) else batch
        except BaseException:
            self.close()  # grain would go on after an error and skip the batch
            raise

    def close(self) -> None:
        if self._iterator is not None:
            self._iterator.close()
            self._receiver.close()
        self._iterator = None

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def train_batches(
    source: Source,
    *,
    batch_size: int,
    image_size: int,
    seed: int,
    start_step: int = 0,
    augmentation: plans.Augmentation,
    alignment: align.Alignment,
    target: str = "age",
    order: Shuffle | ClassBalanced = Shuffle(),
    loader: Loader = Loader(),
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Endless batches as in schema.py's table, from batch start_step on; batch_size is that of all processes.

    target: age, attractiveness or identity; `order` makes its classes of it. The union over the processes of batch b
    is the one-process batch b. Raises ValueError, from next() with the record's id. Workers are spawned: the calling
    script then needs `if __name__ == "__main__"`.
    """
    stream = _drawn(source, image_size, seed, augmentation, target, order)
    load = partial(_load, source, image_size, alignment, crops.label_keys(target), augmentation.resize)
    make = _make(load, "image", image_size, loader)
    return _batches(stream, make, batch_size, start_step, loader, process_index, process_count)


def canvas_batches(
    source: Source,
    *,
    batch_size: int,
    image_size: int,
    seed: int,
    start_step: int = 0,
    augmentation: plans.Augmentation,
    alignment: align.Alignment,
    target: str = "age",
    order: Shuffle | ClassBalanced = Shuffle(),
    loader: Loader = Loader(),
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """train_batches before the augmentation: for `image`, `canvas` uint8 (B, C, C, 3) with C of plans.canvas_size, and
    `plan`, a Plan of arrays (B, …) whose matrices lead to the canvas."""
    canvas = plans.canvas_size(image_size, augmentation)
    stream = _drawn(source, image_size, seed, augmentation, target, order)
    load = partial(_load_canvases, source, image_size, canvas, alignment, crops.label_keys(target))
    make = _make(load, "canvas", canvas, loader)
    return _batches(stream, make, batch_size, start_step, loader, process_index, process_count)


def plan_batches(
    source: Source,
    *,
    batch_size: int,
    image_size: int,
    seed: int,
    start_step: int = 0,
    augmentation: plans.Augmentation,
    target: str = "age",
    order: Shuffle | ClassBalanced = Shuffle(),
    loader: Loader = Loader(threads=1),
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """canvas_batches without pictures, for canvases that lie on a device: `row` int32 (B,) of the source, `plan`, and
    `mask`. Of the source only its length is read, and its labels where the order needs them."""
    canvas = plans.canvas_size(image_size, augmentation)
    stream = _drawn(source, image_size, seed, augmentation, target, order)
    make = partial(_stack, image_size, canvas)
    return _batches(stream, make, batch_size, start_step, loader, process_index, process_count)


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    image_size: int,
    alignment: align.Alignment,
    target: str = "age",
    augmentation: plans.Augmentation = plans.NO_AUGMENTATION,
    version: int = 0,
    loader: Loader = Loader(),
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Every example once and in order; the last batch is filled up with mask 0 and index -1.

    Not augmented, or in the version of that number, which is the same in every run. Every process gets the same number
    of batches. Errors as in train_batches.
    """
    load = partial(_load, source, image_size, alignment, crops.label_keys(target), augmentation.resize)
    padded = -(-len(source) // batch_size) * batch_size
    plain = plans.plain_plan(plans.IDENTITY, image_size)

    def planned(row):
        if augmentation == plans.NO_AUGMENTATION:
            return row, plain
        return row, plans.sample_version(0, row, version, image_size, augmentation)

    stream = grain.MapDataset.range(padded).map(planned)
    make = _make(load, "image", image_size, loader)
    return _batches(stream, make, batch_size, 0, loader, process_index, process_count)


def _drawn(source, size, seed, augmentation, target, order) -> grain.MapDataset:
    """The endless stream of (row, plan): the same for every kind of training batch."""
    if not len(source):
        raise ValueError("there are no examples to train on")
    return order.stream(source, target, seed).random_map(partial(_draw, size, seed, augmentation))


def _make(load, name: str, side: int, loader: Loader):
    """What makes a batch of its (row, plan)s: load(examples, images) fills the column `name` of `side` px."""
    return partial(parcels.pack if loader.workers else _keep, load, name, side)


def _batches(stream, make, batch_size, start_step, loader, process_index, process_count) -> Batches:
    if batch_size % process_count:
        raise ValueError(f"batch_size {batch_size} cannot be divided among {process_count} processes")
    cv2.setNumThreads(0)
    mine = stream.batch(batch_size // process_count, drop_remainder=True, batch_fn=list)
    mine = mine[start_step * process_count + process_index :: process_count]
    mine = mine.map(make)
    buffer = max(loader.threads, loader.buffer)
    dataset = mine.to_iter_dataset(grain.ReadOptions(num_threads=loader.threads, prefetch_buffer_size=buffer))
    if not loader.workers:
        return Batches(dataset)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain reads an absl flag, which fails outside absl's app.run
    workers = grain.MultiprocessingOptions(loader.workers, per_worker_buffer_size=loader.buffer)
    return Batches(dataset.mp_prefetch(workers, worker_init_fn=_start_worker))


def _start_worker(worker_index: int, worker_count: int) -> None:
    cv2.setNumThreads(0)
    parcels.give_back_at_exit()
    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C goes to the workers too, but the parent saves first
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed cannot stop its workers, and they would wait for it for ever."""
    multiprocessing.parent_process().join()
    try:
        parcels.give_back()
    finally:
        os._exit(1)


def _draw(
    size: int, seed: int, augmentation: plans.Augmentation, row: int, rng: np.random.Generator
) -> tuple[int, plans.Plan]:
    """A row and what happens to its crop; so small a step that a batch of them runs before the first image is read."""
    if versions := augmentation.versions:
        return row, plans.sample_version(seed, row, int(rng.integers(versions)), size, augmentation)
    return row, plans.sample_plan(rng, plans.IDENTITY, size, augmentation)


def _keep(load, name: str, side: int, examples: list) -> dict[str, Any]:
    images = np.empty((len(examples), side, side, 3), np.uint8)
    return {name: images} | load(examples, images)


def _load(source, size, alignment, keys, resize, examples: list[tuple[int, plans.Plan]], images: np.ndarray) -> dict:
    """Fills the images; returns the other columns. Rows beyond the source are padding."""
    rows = []
    for image, (row, plan) in zip(images, examples):
        if row < len(source):
            record = source[row]
            crops.fill(image, record, size, alignment, plan, resize)
            rows.append((record[keys[0]], record[keys[1]], record["identity"], 1, row))
        else:
            image[:] = 0
            rows.append(PADDING)
    return {name: np.array(values, dtype) for (name, dtype), values in zip(COLUMNS.items(), zip(*rows))}


def _load_canvases(source, size, canvas, alignment, keys, examples: list, images: np.ndarray) -> dict:
    """Fills the canvases, each as if its plan were plain; returns the other columns and the plans."""
    plain = plans.plain_plan(plans.IDENTITY, canvas)
    rows = [(row, plain) for row, _ in examples]
    columns = _load(source, size, alignment, keys, "antialias", rows, images)
    return columns | {"plan": _stacked(size, canvas, examples)}


def _stack(size: int, canvas: int, examples: list) -> dict[str, Any]:
    rows = np.array([row for row, _ in examples], np.int32)
    return {"row": rows, "plan": _stacked(size, canvas, examples), "mask": np.ones(len(rows), np.float32)}


def _stacked(size: int, canvas: int, examples: list) -> plans.Plan:
    return plans.on_canvas(plans.stack([plan for _, plan in examples]), size, canvas)
