"""torch's DataLoader as a careful user writes it: worker processes that stay, one thread in each, uint8 out.

Three ways to the same crops: with our single warp; with the usual separate steps in OpenCV; with torchvision's.
"""

import contextlib
import importlib.util
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler

from data_pipelines import align, host, plans

ENDLESS = 1 << 40  # examples


class Files(NamedTuple):
    """One photograph per file, and what is known of it."""

    paths: list[str]
    points: np.ndarray  # float32 (n, 5, 2), NaN = none
    ages: np.ndarray  # float32 (n,)


def write_files(examples, folder: Path) -> Files:
    """The records' encoded images as files."""
    folder.mkdir()
    records = [examples[row] | {"path": str(folder / f"{row:06d}.jpg")} for row in range(len(examples))]
    for record in records:
        Path(record["path"]).write_bytes(record["image"])
    points = np.stack([record["landmarks"] for record in records])
    return Files([record["path"] for record in records], points, np.array([record["age"] for record in records]))


@contextlib.contextmanager
def batches(
    dataset: type, files: Files, size: int, batch_size: int, augmentation, workers: int, pin: bool = False
) -> Iterator[Iterator]:
    """Endless batches, shuffled anew in every epoch, without a pause between epochs; `pin` for a GPU."""
    _one_thread()
    photographs = dataset(files, size, augmentation)
    loader = DataLoader(
        photographs,
        batch_size,
        sampler=RandomSampler(photographs, num_samples=ENDLESS),
        num_workers=workers,
        worker_init_fn=_one_thread if workers else None,
        multiprocessing_context="spawn" if workers else None,  # to fork a process that has threads may hang
        persistent_workers=workers > 0,
        pin_memory=pin,
    )
    yield iter(loader)


def _one_thread(_: int = 0) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


class OneWarp(Dataset):
    """Our plan, executed by our host.execute."""

    def __init__(self, files: Files, size: int, augmentation: plans.Augmentation):
        self.files, self.size, self.augmentation = files, size, augmentation
        self.rng = None

    def __len__(self) -> int:
        return len(self.files.paths)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, float]:
        if self.rng is None:
            self.rng = np.random.default_rng(torch.initial_seed())  # another one in every worker
        image, points = Path(self.files.paths[row]).read_bytes(), self.files.points[row]
        shape = (0, 0)
        if np.isnan(points[0, 0]):
            image = host.decode(image)
            shape = image.shape[:2]
        matrix = align.crop_matrix(points, *shape, self.size, align.Alignment())
        plan = plans.sample_plan(self.rng, matrix, self.size, self.augmentation)
        return torch.from_numpy(host.execute(image, plan, self.size)), self.files.ages[row]


class SeparateSteps(Dataset):
    """Decode, align, rotate, scale and crop, flip, grey, degrade, jitter: one OpenCV call or two for each."""

    def __init__(self, files: Files, size: int, augmentation: plans.Augmentation):
        self.files, self.size, self.augmentation = files, size, augmentation

    def __len__(self) -> int:
        return len(self.files.paths)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, float]:
        return torch.from_numpy(self.augment(self.aligned(row))), self.files.ages[row]

    def aligned(self, row: int) -> np.ndarray:
        """uint8 (size, size, 3) RGB."""
        image = cv2.imread(self.files.paths[row], cv2.IMREAD_COLOR_RGB)
        matrix = align.crop_matrix(self.files.points[row], *image.shape[:2], self.size, align.Alignment())
        return cv2.warpAffine(image, matrix, (self.size, self.size))

    def augment(self, image: np.ndarray) -> np.ndarray:
        """The steps in the order of the DLDL-v2 code; those that are switched off cost nothing."""
        a, size = self.augmentation, self.size
        if random.random() < a.flip:
            image = cv2.flip(image, 1)
        if random.random() < a.gray:
            image = _gray(image)
        if a.degrade < 1:
            smaller = random.randint(round(a.degrade * size), size)
            image = cv2.resize(image, (smaller, smaller), interpolation=cv2.INTER_AREA)  # INTER_CUBIC would alias
            image = cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)
        if a.rotation:
            centre = ((size - 1) / 2, (size - 1) / 2)
            turn = cv2.getRotationMatrix2D(centre, random.uniform(-a.rotation, a.rotation), 1.0)
            image = cv2.warpAffine(image, turn, (size, size))
        if a.zoom or a.shift:
            image = _scale_and_crop(
                image, 1 + _signed(a.zoom), round(_signed(a.shift) * size), round(_signed(a.shift) * size)
            )
        jitters = [(_brighten, a.brightness), (_contrast, a.contrast), (_saturate, a.saturation)]
        random.shuffle(jitters)
        for jitter, width in jitters:
            image = jitter(image, 1 + _signed(width)) if width else image
        return image


def _signed(width: float) -> float:
    return random.uniform(-width, width)


def _scale_and_crop(image: np.ndarray, scale: float, right: int, down: int) -> np.ndarray:
    size = len(image)
    side = round(scale * size)
    scaled = cv2.resize(image, (side, side))
    margin = max(0, -(-(size - side) // 2)) + max(abs(right), abs(down))
    padded = cv2.copyMakeBorder(scaled, margin, margin, margin, margin, cv2.BORDER_CONSTANT)
    start = (len(padded) - size) // 2
    return np.ascontiguousarray(padded[start - down : start - down + size, start - right : start - right + size])


def _gray(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def _brighten(image: np.ndarray, factor: float) -> np.ndarray:
    return cv2.convertScaleAbs(image, alpha=factor)


def _contrast(image: np.ndarray, factor: float) -> np.ndarray:
    mean = cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0]
    table = np.clip(np.arange(256) * factor + (1 - factor) * mean, 0, 255)
    return cv2.LUT(image, table.astype(np.uint8))


def _saturate(image: np.ndarray, factor: float) -> np.ndarray:
    return cv2.addWeighted(image, factor, _gray(image), 1 - factor, 0)


class Torchvision(SeparateSteps):
    """Decoded and aligned by OpenCV, the rest by torchvision.transforms.v2 on a uint8 tensor."""

    def __init__(self, files: Files, size: int, augmentation: plans.Augmentation):
        from torchvision.transforms import v2

        super().__init__(files, size, augmentation)
        a = augmentation
        steps = [
            v2.RandomHorizontalFlip(a.flip) if a.flip else None,
            v2.RandomGrayscale(a.gray) if a.gray else None,
            v2.Lambda(self.degrade) if a.degrade < 1 else None,
            v2.RandomAffine(
                a.rotation, (a.shift, a.shift), (1 - a.zoom, 1 + a.zoom), interpolation=v2.InterpolationMode.BILINEAR
            )
            if a.rotation or a.shift or a.zoom
            else None,
            v2.ColorJitter(a.brightness, a.contrast, a.saturation),
        ]
        self.transform = v2.Compose([step for step in steps if step])

    def augment(self, image: np.ndarray) -> np.ndarray:
        return self.transform(torch.from_numpy(image).permute(2, 0, 1)).permute(1, 2, 0).numpy()

    def degrade(self, image: torch.Tensor) -> torch.Tensor:
        """Down and up again, as torchvision has it: bicubic, antialiased."""
        from torchvision.transforms.v2 import InterpolationMode, functional

        smaller = random.randint(round(self.augmentation.degrade * self.size), self.size)
        image = functional.resize(image, [smaller, smaller], InterpolationMode.BICUBIC)
        return functional.resize(image, [self.size, self.size], InterpolationMode.BICUBIC)


DATASETS = {"our single warp": OneWarp, "separate steps (OpenCV)": SeparateSteps}
if importlib.util.find_spec("torchvision"):
    DATASETS["separate steps (torchvision)"] = Torchvision
