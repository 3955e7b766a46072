"""MTCNN: boxes and five points of the faces in a batch of photographs, on any accelerator.

The cascade of Zhang, Zhang, Li, Qiao (Joint Face Detection and Alignment using Multi-task Cascaded Convolutional
Networks, 2016) with the weights, and in its details the results, of the package ipazc/mtcnn 1.0 (MIT); see networks,
pyramid, boxes. Photographs of all sizes share three compiled networks: P-Net sees their pyramids packed on canvases,
R- and O-Net see crops, cut on the device, in batches of one size.

Shapes: N candidates or faces of several images, owner_N their images.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import ClassVar, NamedTuple

import cv2
import jax
import numpy as np

from agejax.faces import networks, pyramid
from agejax.faces.boxes import best, moved, sides, square
from data_pipelines.detectors import Faces
from data_pipelines.errors import UserError


class Load(NamedTuple):
    """How many canvases, crops for R-Net, crops for O-Net a call takes, and how many pixels of photographs a batch."""

    canvases: int
    refine: int
    output: int
    pixels: int


CPU = Load(1, 32, 8, 1 << 21)  # what stays in the cache
LARGE = Load(64, 1024, 256, 1 << 24)
NOBODY = Faces(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2), np.float32))
SMALLEST_STORE = 1 << 18  # pixels; a larger one has 4, 16, … times as many, so there are few shapes


class Store(NamedTuple):
    """Images for the device, one after the other: uint32 (P,) RGBX; first pixel, height and width of each, int32."""

    pixels: jax.Array
    start: np.ndarray
    height: np.ndarray
    width: np.ndarray


@dataclass(frozen=True)
class MTCNN:
    """A data_pipelines.detectors.Detector. Its weights come with `pip install 'agejax[faces]'`, else UserError.

    thresholds are the probabilities that a face must exceed in P-, R- and O-Net, min_face the smallest face in pixels,
    factor the step of the pyramid; the defaults are the package's. A photograph whose shorter side is above `shrink`
    px is first reduced to that. retry: where nothing is found, look again with twice as many levels and a grey margin
    of half the shorter side, which helps faces that fill the photograph; without it the result is the package's.
    """

    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.8)
    min_face: float = 20
    factor: float = 0.709
    shrink: int = 1500
    retry: bool = True

    name: ClassVar[str] = "mtcnn"

    def __post_init__(self):
        if not self.min_face >= pyramid.CELL:
            raise UserError(f"mtcnn: min_face {self.min_face:g} must be at least {pyramid.CELL}, the cell of P-Net")
        if not 0 < self.factor < 1:
            raise UserError(f"mtcnn: factor {self.factor:g} must be above 0 and below 1")

    @property
    def settings(self) -> dict:
        """Everything that changes what it finds, as JSON."""
        fields = {"thresholds": list(self.thresholds), "min_face": self.min_face, "factor": self.factor}
        return {**fields, "shrink": self.shrink, "retry": self.retry, "weights": dict(networks.WEIGHTS)}

    def detect(self, images: Sequence[np.ndarray]) -> list[Faces]:
        """The faces of each uint8 (H, W, 3) RGB image, of any sizes; none depends on the others given with it."""
        small = [_shrunk(np.ascontiguousarray(image), self.shrink) for image in images]
        found = self._detect(small)
        missed = [i for i, faces in enumerate(found) if self.retry and not len(faces.boxes)]
        finer = replace(self, factor=self.factor**0.5)
        for i, faces in zip(missed, finer._detect([_framed(small[i]) for i in missed])):
            found[i] = _unframed(faces, small[i])
        return [_enlarged(*one) for one in zip(found, small, images)]

    def _detect(self, images: list[np.ndarray]) -> list[Faces]:
        batches = _in_step(self._cascade(batch) for batch in _batches(images, _load().pixels))
        return [faces for batch in batches for faces in batch]

    def _cascade(self, images: list[np.ndarray]) -> Generator[None, None, list[Faces]]:
        """Yields where it waits for what it has sent to the device."""
        pnet, rnet, onet = networks.load_weights()
        load, nobody = _load(), [NOBODY] * len(images)
        pyramids = pyramid.lay_out([image.shape[:2] for image in images], self.min_face, self.factor)
        if not pyramids.pieces:
            return nobody
        sent = _send_pyramids(pnet, pyramid.paint(images, pyramids), load.canvases)
        store = _stored(images)
        yield
        owner_N, boxes_Nx4 = self._propose(pyramids, sent)
        if not len(owner_N):
            return nobody
        sent = _send_crops(networks.rnet, rnet, 24, store, owner_N, boxes_Nx4, load.refine)
        yield
        owner_N, boxes_Nx4 = self._refine(owner_N, boxes_Nx4, sent)
        if not len(owner_N):
            return nobody
        sent = _send_crops(networks.onet, onet, 48, store, owner_N, boxes_Nx4, load.output)
        yield
        return self._finish(images, owner_N, boxes_Nx4, sent)

    def _propose(self, pyramids: pyramid.Pyramids, sent: list[tuple]) -> tuple[np.ndarray, np.ndarray]:
        """Squares about the cells that P-Net takes for faces: owner_N, boxes_Nx4."""
        offsets, scores = _read(sent)
        owner_N, level_N, boxes_Nx4, scores_N = pyramid.find_cells(pyramids, offsets, scores, self.thresholds[0])
        once = best((owner_N, level_N), boxes_Nx4, scores_N, 0.5)
        keep = once[best((owner_N[once],), boxes_Nx4[once], scores_N[once], 0.7)]
        return owner_N[keep], square(boxes_Nx4[keep])

    def _refine(self, owner_N: np.ndarray, boxes_Nx4: np.ndarray, sent: list[tuple]) -> tuple[np.ndarray, np.ndarray]:
        """The candidates that R-Net takes for faces, moved by what it says, as squares: owner_N, boxes_Nx4."""
        offsets_Nx4, scores_N = _read(sent, len(owner_N))
        boxes_Nx4 = moved(boxes_Nx4, offsets_Nx4)
        likely = np.flatnonzero(scores_N > self.thresholds[1])
        keep = likely[best((owner_N[likely],), boxes_Nx4[likely], scores_N[likely], 0.7)]
        return owner_N[keep], square(boxes_Nx4[keep])

    def _finish(self, images: list, owner_N: np.ndarray, boxes_Nx4: np.ndarray, sent: list[tuple]) -> list[Faces]:
        """What O-Net takes for faces; the boxes clipped to their images, the points not, as in the package."""
        offsets_Nx4, points_Nx5x2, scores_N = _read(sent, len(owner_N))
        points_Nx5x2 = points_Nx5x2 * sides(boxes_Nx4)[:, None] + boxes_Nx4[:, None, :2] - 1
        boxes_Nx4 = moved(boxes_Nx4, offsets_Nx4)
        likely = np.flatnonzero(scores_N > self.thresholds[2])
        keep = likely[best((owner_N[likely],), boxes_Nx4[likely], scores_N[likely], 0.7, over_smaller=True)]
        mine = [keep[owner_N[keep] == i] for i in range(len(images))]
        found = [Faces(boxes_Nx4[at], scores_N[at], points_Nx5x2[at]) for at in mine]
        return [_clipped(*one) for one in zip(found, images)]


def _load() -> Load:
    return CPU if jax.default_backend() == "cpu" else LARGE


def _shrunk(image: np.ndarray, most: int) -> np.ndarray:
    scale = most / min(image.shape[:2])
    if scale >= 1:
        return image
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _clipped(faces: Faces, image: np.ndarray) -> Faces:
    last = np.tile(image.shape[1::-1], 2) - 1
    return Faces(*(part.astype(np.float32) for part in faces._replace(boxes=np.clip(faces.boxes, 0, last))))


def _margin(image: np.ndarray) -> int:
    return min(image.shape[:2]) // 2


def _framed(image: np.ndarray) -> np.ndarray:
    grey = (127,) * 3  # next to what the networks take for 0
    return cv2.copyMakeBorder(image, *(_margin(image),) * 4, cv2.BORDER_CONSTANT, value=grey)


def _unframed(faces: Faces, image: np.ndarray) -> Faces:
    """From pixels of the framed image to those of the image."""
    return _clipped(Faces(faces.boxes - _margin(image), faces.scores, faces.points - _margin(image)), image)


def _enlarged(faces: Faces, small: np.ndarray, image: np.ndarray) -> Faces:
    """From pixels of the reduced image to those of the image; the centre of the first pixel is at 0, 0."""
    if small.shape == image.shape:
        return faces
    scale = np.array(image.shape[1::-1], np.float32) / small.shape[1::-1]
    boxes, points = ((at.reshape(len(at), -1, 2) + 0.5) * scale - 0.5 for at in (faces.boxes, faces.points))
    return Faces(boxes.reshape(-1, 4), faces.scores, points)


def _batches(images: list[np.ndarray], pixels: int) -> Iterator[list[np.ndarray]]:
    """Consecutive images of together at most so many pixels; a larger one alone."""
    batch, total = [], 0
    for image in images:
        size = image.shape[0] * image.shape[1]
        if batch and total + size > pixels:
            yield batch
            batch, total = [], 0
        batch.append(image)
        total += size
    if batch:
        yield batch


def _stored(images: list[np.ndarray]) -> Store:
    height, width = np.array([image.shape[:2] for image in images], np.int32).T
    end = np.cumsum(height * width, dtype=np.int32)
    start, total = end - height * width, SMALLEST_STORE
    while total < end[-1]:
        total *= 4
    rgbx = np.empty((total, 4), np.uint8)
    for image, first, last in zip(images, start, end):
        cv2.cvtColor(image, cv2.COLOR_RGB2RGBA, dst=rgbx[first:last].reshape(*image.shape[:2], 4))
    return Store(jax.device_put(rgbx.view(np.uint32)[:, 0]), start, height, width)


def _send_pyramids(weights: list, canvases: np.ndarray, per_call: int) -> list[tuple]:
    """P-Net's outputs for each so many canvases; the last call is filled up with empty ones."""
    missing = -len(canvases) % per_call
    canvases = np.pad(canvases, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else canvases
    return [networks.propose(weights, canvases[i : i + per_call]) for i in range(0, len(canvases), per_call)]


def _send_crops(network, weights: list, size: int, store: Store, owner_N, boxes_Nx4, per_call: int) -> list[tuple]:
    """The network's outputs for each so many boxes; the last call is filled up with the last box."""
    calls = []
    for first in range(0, len(owner_N), per_call):
        take = np.minimum(np.arange(first, first + per_call), len(owner_N) - 1)
        places = (part[owner_N[take]] for part in store[1:])
        calls.append(
            network(weights, networks.crop_boxes(store.pixels, boxes_Nx4[take].astype(np.float32), *places, size))
        )
    return calls


def _read(calls: list[tuple], count: int | None = None) -> list[np.ndarray]:
    """The first `count` rows of what several calls gave, together."""
    return [np.concatenate([np.asarray(part) for part in parts])[:count] for parts in zip(*calls)]


def _in_step(runs: Iterable[Generator]) -> list:
    """What each generator returns, in order. The next one starts before an older one waits for the device."""
    numbered, active, results = enumerate(runs), {}, {}
    while True:
        active.update(islice(numbered, 1))
        if not active:
            return [results[number] for number in sorted(results)]
        for number in sorted(active, reverse=True):
            try:
                next(active[number])
            except StopIteration as end:
                results[number] = end.value
                del active[number]
