"""Who finds the faces. A detector is a value with `name`, `settings` and detect(); agejax.faces has another, MTCNN."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from data_pipelines.errors import DataError


class Faces(NamedTuple):
    """What was found in one image, best first; n may be 0."""

    boxes: np.ndarray  # float32 (n, 4): x1, y1, x2, y2 in pixels of the upright image
    scores: np.ndarray  # float32 (n,)
    points: np.ndarray  # float32 (n, 5, 2): x, y; eyes, nose tip, mouth corners, image-left first


class Detector(Protocol):
    """Finds faces in pictures."""

    name: str

    @property
    def settings(self) -> dict:
        """Everything that changes what it finds, as JSON: it becomes part of the data set's recipe."""

    def detect(self, images: Sequence[np.ndarray]) -> list[Faces]:
        """The faces of each uint8 (H, W, 3) RGB image."""


NO_FACES = Faces(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2), np.float32))


@dataclass(frozen=True)
class WholeImage:
    """Finds nothing, and takes away the points that a set gives: each whole picture is the face."""

    name: str = field(default="none", init=False)

    @property
    def settings(self) -> dict:
        return {}

    def detect(self, images: Sequence[np.ndarray]) -> list[Faces]:
        return [NO_FACES for _ in images]


@dataclass(frozen=True)
class YuNet:
    """OpenCV's FaceDetectorYN (Wu et al., YuNet: A Tiny Millisecond-level Face Detector, 2023) with the user's model.

    model: the .onnx file, as face_detection_yunet_2023mar.onnx of the OpenCV zoo. Pictures whose longer side is above
    max_side px are looked at in that size: the network is made for faces of about 10 to 300 px.
    """

    model: Path
    threshold: float = 0.7
    nms: float = 0.3
    max_side: int = 640
    name: str = field(default="yunet", init=False)

    def __post_init__(self):
        if not Path(self.model).is_file():
            raise DataError(f"detector yunet: {self.model} is not a file; give the .onnx model of the OpenCV zoo")

    @property
    def settings(self) -> dict:
        digest = hashlib.sha256(Path(self.model).read_bytes()).hexdigest()
        return {"model": digest, "threshold": self.threshold, "nms": self.nms, "max_side": self.max_side}

    def detect(self, images: Sequence[np.ndarray]) -> list[Faces]:
        network = _open_yunet(self)
        return [self._one(network, image) for image in images]

    def _one(self, network, image: np.ndarray) -> Faces:
        height, width = image.shape[:2]
        scale = min(1.0, self.max_side / max(height, width))
        size = max(1, round(scale * width)), max(1, round(scale * height))
        network.setInputSize(size)
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
        _, found = network.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        if found is None:
            return NO_FACES
        found = found[np.argsort(-found[:, 14], kind="stable")].astype(np.float32)
        back = np.array([width / size[0], height / size[1]], np.float32)
        corners = found[:, :4].reshape(-1, 2, 2)
        corners[:, 1] += corners[:, 0]  # x, y, width, height → two corners
        # its right eye comes first, which is the one on the left of the picture
        return Faces((corners * back).reshape(-1, 4), found[:, 14], found[:, 4:14].reshape(-1, 5, 2) * back)


@lru_cache(maxsize=1)
def _open_yunet(settings: YuNet):
    try:
        return cv2.FaceDetectorYN.create(str(settings.model), "", (320, 320), settings.threshold, settings.nms)
    except cv2.error as error:
        raise DataError(f"detector yunet: OpenCV cannot read {settings.model} ({error.err})") from None
