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
from dataclasses import dataclass
from functools import partial

import cv2
import grain
import numpy as np
from absl import flags

from data_pipelines import align, host, parcels, plans
from data_pipelines.samplers import ClassBalanced, Shuffle, Source
from data_pipelines.schema import LABELS

KEYS = LABELS | {"identity": LABELS["age"]}  # target → what a batch's label and sigma hold; identities are in all
COLUMNS = {  # of an example, after its image
    "label": np.float32,
    "sigma": np.float32,
    "identity": np.int32,
    "mask": np.float32,
    "index": np.int64,
}


@dataclass(frozen=True)
class Loader:
    """`workers` spawned processes (0 = this one does the work), with `threads` and `buffer` batches in each."""

    workers: int = 0
    threads: int = 2
    buffer: int = 2

    def __post_init__(self):
        if self.workers < 0 or self.threads < 1 or self.buffer < 1:
            raise ValueError(f"loader: workers must be 0 or more, threads and buffer 1 or more, got {self}")


class Batches:
    """An iterator for `with`, so that worker processes and shared memory end. After an error it is over."""

    def __init__(self, dataset: grain.IterDataset):
        self._iterator = iter(dataset)
        self._receiver = parcels.Receiver()

    def __iter__(self) -> Iterator[dict]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
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
    if not len(source):
        raise ValueError("there are no examples to train on")
    load = partial(_load, source, alignment, _label_keys(target), augmentation.resize)
    stream = order.stream(source, target, seed).random_map(partial(_draw, image_size, augmentation))
    return _batches(stream, load, image_size, batch_size, start_step, loader, process_index, process_count)


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    image_size: int,
    alignment: align.Alignment,
    target: str = "age",
    loader: Loader = Loader(),
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Every example once and in order, not augmented; the last batch is filled up with mask 0 and index -1.

    Every process gets the same number of batches. Errors as in train_batches.
    """
    load = partial(_load, source, alignment, _label_keys(target), "antialias")
    padded = -(-len(source) // batch_size) * batch_size
    plan = plans.plain_plan(plans.IDENTITY, image_size)
    stream = grain.MapDataset.range(padded).map(lambda row: (row, plan))
    return _batches(stream, load, image_size, batch_size, 0, loader, process_index, process_count)


def _batches(stream, load, image_size, batch_size, start_step, loader, process_index, process_count) -> Batches:
    if batch_size % process_count:
        raise ValueError(f"batch_size {batch_size} cannot be divided among {process_count} processes")
    cv2.setNumThreads(0)
    mine = stream.batch(batch_size // process_count, drop_remainder=True, batch_fn=list)
    mine = mine[start_step * process_count + process_index :: process_count]
    mine = mine.map(partial(parcels.pack if loader.workers else _keep, load, image_size))
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


def _label_keys(target: str) -> tuple[str, str]:
    if target not in KEYS:
        raise ValueError(f"target {target!r} is not one of {', '.join(KEYS)}")
    return KEYS[target]


def _draw(size: int, augmentation: plans.Augmentation, row: int, rng: np.random.Generator) -> tuple[int, plans.Plan]:
    """A row and what happens to its crop; so small a step that a batch of them runs before the first image is read."""
    return row, plans.sample_plan(rng, plans.IDENTITY, size, augmentation)


def _keep(load, size: int, examples: list) -> dict[str, np.ndarray]:
    images = np.empty((len(examples), size, size, 3), np.uint8)
    return {"image": images} | load(examples, images)


def _load(source, alignment, keys, resize, examples: list[tuple[int, plans.Plan]], images: np.ndarray) -> dict:
    """Fills the images; returns the other columns. Rows beyond the source are padding."""
    rows = [
        _fill(image, source, alignment, keys, resize, row, plan) if row < len(source) else _pad(image)
        for image, (row, plan) in zip(images, examples)
    ]
    return {name: np.array(values, dtype) for (name, dtype), values in zip(COLUMNS.items(), zip(*rows))}


def _fill(image, source, alignment, keys, resize, row, plan) -> tuple:
    """Writes the crop; returns the other columns."""
    record = source[row]
    try:
        _crop(image, record, alignment, plan, resize)
    except ValueError as error:  # only a plain ValueError survives the way from a worker
        raise ValueError(f"{record['id']}: {error}") from None
    return record[keys[0]], record[keys[1]], record["identity"], 1, row


def _pad(image) -> tuple:
    image[:] = 0
    return 0, 0, -1, 0, -1


def _crop(out, record, alignment, plan, resize) -> None:
    image, landmarks = record["image"], record["landmarks"]
    height = width = 0
    if np.isnan(landmarks[0, 0]):  # none; only then the size of the image decides, and it must be decoded first
        image = host.decode(image)
        height, width = image.shape[:2]
    matrix = align.crop_matrix(landmarks, height, width, len(out), alignment)
    host.execute(image, plans.placed(plan, matrix), len(out), resize, out=out)
