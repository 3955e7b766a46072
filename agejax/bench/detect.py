"""Detection: photographs → boxes, points and aligned crops, beside the `mtcnn` package, whose weights ours uses."""

import importlib.util
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from agejax.bench.loader import SIZE, open_examples
from agejax.bench.rounds import OURS, Contestant, Row, Settings, compare, take_turns
from data_pipelines import align, host, plans
from data_pipelines.detectors import Detector, Faces
from data_pipelines.errors import UserError

PHOTOGRAPHS = 256  # at most; they come again and again
BATCH, PACKAGE_BATCH = 64, 16  # at more the package is not faster
POINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")  # as the package calls them
INSTALL = "no figures of the mtcnn package, which needs TensorFlow: pip install 'agejax[faces]' tensorflow"


def measure(settings: Settings) -> Iterator[Row | str]:
    """Rows, or remarks for the reader."""
    import jax

    try:
        detectors = {OURS: (_ours(), BATCH)}
    except UserError as error:
        yield str(error)
        return
    if importlib.util.find_spec("tensorflow") and importlib.util.find_spec("mtcnn"):
        detectors["mtcnn package"] = (Package(at_once=False), PACKAGE_BATCH // 4)
        detectors[f"mtcnn package, {PACKAGE_BATCH} at once"] = (Package(at_once=True), PACKAGE_BATCH)
    else:
        yield INSTALL
    with TemporaryDirectory(prefix="agejax-bench-") as scratch:
        examples = open_examples(settings, Path(scratch), PHOTOGRAPHS)
        encoded = [examples[row]["image"] for row in range(len(examples))]
    model = f"MTCNN on {jax.default_backend()}"
    for what, work in (("detect", detect), ("decode, detect, align", decode_detect_align)):
        given = encoded if work is decode_detect_align else [host.decode(data) for data in encoded]
        contestants = {
            name: Contestant(partial(_step, work, detector, _chunks(given, size)))
            for name, (detector, size) in detectors.items()
        }
        yield from compare(model, what, take_turns(contestants, settings.seconds))


def detect(detector: Detector, images: list[np.ndarray]) -> list[Faces]:
    """Decoded photographs → faces."""
    return detector.detect(images)


def decode_detect_align(detector: Detector, encoded: list[bytes]) -> list[np.ndarray]:
    """Encoded photographs → the aligned crop of one face in each; the whole image where there is none."""
    images = [host.decode(data) for data in encoded]
    return [_aligned(image, faces) for image, faces in zip(images, detector.detect(images))]


def _aligned(image: np.ndarray, faces: Faces) -> np.ndarray:
    height, width = image.shape[:2]
    chosen = align.choose(faces, height, width)
    points = np.full((5, 2), np.nan) if chosen is None else faces.points[chosen]
    matrix = align.crop_matrix(points, height, width, SIZE, align.Alignment())
    return host.execute(image, plans.plain_plan(matrix, SIZE), SIZE)


def _chunks(items: list, size: int) -> Iterator[list]:
    """Endless lists of `size` items, round and round."""
    endless = itertools.cycle(items)
    while True:
        yield list(itertools.islice(endless, size))


def _step(work: Callable, detector: Detector, chunks: Iterator[list]) -> int:
    return len(work(detector, next(chunks)))


def _ours() -> Detector:
    """Raises UserError where its weights are not installed."""
    from agejax.faces import MTCNN, networks

    cv2.setNumThreads(0)
    networks.load_weights()
    return MTCNN()


class Package:
    """The package's own detector, given one photograph at a time, or several at once.

    That is faster, but where sizes differ it fills the smaller ones up, and its points are then some pixels off.
    """

    name, settings = "mtcnn package", {}

    def __init__(self, at_once: bool):
        from mtcnn import MTCNN

        self.detector, self.at_once = MTCNN(), at_once

    def detect(self, images: list[np.ndarray]) -> list[Faces]:
        """The faces of each uint8 (H, W, 3) RGB image."""
        batches = [list(images)] if self.at_once else [[image] for image in images]
        return [as_faces(found) for batch in batches for found in self.detector.detect_faces(batch, box_format="xyxy")]


def as_faces(found: list[dict]) -> Faces:
    """What the package says of one photograph."""
    boxes = np.array([face["box"] for face in found], np.float32).reshape(-1, 4)
    scores = np.array([face["confidence"] for face in found], np.float32)
    points = [[face["keypoints"][point] for point in POINTS] for face in found]
    return Faces(boxes, scores, np.array(points, np.float32).reshape(-1, 5, 2))
