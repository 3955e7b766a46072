"""Loading: photographs → batches of augmented 224 px crops, beside torch's DataLoader on the same photographs.

Ours reads records, as in training; torch reads the same encoded bytes from one file per photograph, as its users do.
All of them lie in the page cache.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from agejax.bench.rounds import OURS, Contestant, Row, Settings, compare, take_turns
from data_pipelines import builders, samplers
from data_pipelines.align import Alignment
from data_pipelines.loaders import Loader, train_batches
from data_pipelines.plans import NO_AUGMENTATION, Augmentation

SIZE, BATCH = 224, 64
PHOTOGRAPHS = 4000  # at most
DRAWN_PIXELS = 256
PREFETCHED = 3  # batches that torch has ready, or begun, in each worker
INSTALL = "torch not installed: pip install 'agejax[bench]'"


@dataclass(frozen=True)
class Case:
    """One line of work, the same for every contestant."""

    what: str
    augmentation: Augmentation
    workers: int


GEOMETRY = Augmentation(gray=0.0, degrade=1.0, zoom=0.1, shift=0.05)
CASES = (
    Case("decode and align, 1 core", NO_AUGMENTATION, 0),
    Case("augment as DLDL-v2, 1 core", Augmentation(), 0),
    Case("augment as DLDL-v2, 2 workers", Augmentation(), 2),
    Case("rotate, scale, crop, flip, jitter, 2 workers", GEOMETRY, 2),
)


def measure(settings: Settings) -> Iterator[Row | str]:
    """Rows, or remarks for the reader."""
    with TemporaryDirectory(prefix="agejax-bench-") as scratch:
        examples = open_examples(settings, Path(scratch), PHOTOGRAPHS)
        with_torch = importlib.util.find_spec("torch") is not None
        if not with_torch:
            yield INSTALL
        peers = _torch_loaders(examples, Path(scratch)) if with_torch else {}
        for case in CASES:
            yield from compare(f"loader, {SIZE} px", case.what, _speeds(case, examples, peers, settings.seconds))


def open_examples(settings: Settings, scratch: Path, most: int) -> samplers.Source:
    """At most so many examples of the prepared set; drawn faces where none is named. Raises DataError."""
    if not settings.data:
        builders.prepare("synthetic", scratch, faces=most, pixels=DRAWN_PIXELS)
        return builders.open_split("synthetic", scratch, "all")
    examples = builders.open_split(settings.data, settings.data_dir, "all")
    return samplers.Subset(examples, np.arange(min(len(examples), most)))


def _torch_loaders(examples: samplers.Source, scratch: Path) -> dict[str, partial]:
    """Peer → what opens its loader of (batch_size, augmentation, workers)."""
    from agejax.bench import torch_loader

    files = torch_loader.write_files(examples, scratch / "files")
    return {
        f"torch, {name}": partial(torch_loader.batches, dataset, files, SIZE)
        for name, dataset in torch_loader.DATASETS.items()
    }


def _speeds(case: Case, examples: samplers.Source, peers: dict, seconds: float) -> dict[str, list[float]]:
    def contestant(batches, ahead: int) -> Contestant:
        return Contestant(partial(_step, iter(stack.enter_context(batches))), ahead)

    loader = Loader(workers=case.workers) if case.workers else Loader(threads=1)
    with ExitStack() as stack:
        ours = train_batches(
            examples,
            batch_size=BATCH,
            image_size=SIZE,
            seed=0,
            augmentation=case.augmentation,
            alignment=Alignment(),
            loader=loader,
        )
        ahead = (3 * loader.buffer + 1) * case.workers or loader.buffer + 1  # threads, queue and hand of each worker
        contestants = {OURS: contestant(ours, ahead)}
        for name, open_peer in peers.items():
            batches = open_peer(BATCH, case.augmentation, case.workers)
            contestants[name] = contestant(batches, PREFETCHED * case.workers)
        return take_turns(contestants, seconds)


def _step(batches: Iterator) -> int:
    next(batches)
    return BATCH
