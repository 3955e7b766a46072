"""Which face, and five points → the matrix that brings it upright into the crop.

Coordinates are x, y in pixels with the CENTRE of the top-left pixel at (0, 0), as OpenCV has them, so the
centre of an image of width W is at (W-1)/2. The template is ArcFace's for 112 px (the 96x112 one of
SphereFace moved by 8 px), multiplied by size/112, which is what public code does for other sizes.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from data_pipelines.detectors import Faces

ARCFACE_112 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)  # eyes, nose tip, mouth corners, image-left first


@dataclass(frozen=True)
class Alignment:
    """How tightly a face is cropped: face_scale < 1 shows more around the face, > 1 less."""

    face_scale: float = 1.0

    def __post_init__(self):
        if not 0 < self.face_scale <= 4:
            raise ValueError(f"face_scale {self.face_scale:g} must be above 0 and at most 4")


def choose(faces: Faces, height: int, width: int, box: tuple[float, float, float, float] | None = None) -> int | None:
    """Which of the faces found in an image is the one meant; None where none was found.

    With a box (x1, y1, x2, y2 px) the one that overlaps it most (intersection over union), or where none does, the
    one whose centre is nearest to its centre. Without: large and near the centre of the image, by area - 2 d² with d
    the distance of the centres in pixels.
    """
    if not len(faces.boxes):
        return None
    boxes = faces.boxes.astype(np.float64)
    sides = boxes[:, 2:] - boxes[:, :2]
    middles = (boxes[:, 2:] + boxes[:, :2]) / 2
    if box is None:
        aside = middles - np.array([(width - 1) / 2, (height - 1) / 2])
        return int(np.argmax(sides.prod(axis=1) - 2 * (aside**2).sum(axis=1)))
    given = np.asarray(box, np.float64)
    shared = np.minimum(boxes[:, 2:], given[2:]) - np.maximum(boxes[:, :2], given[:2])
    overlap = shared.clip(0).prod(axis=1)
    union = sides.prod(axis=1) + (given[2:] - given[:2]).prod() - overlap
    if overlap.any():
        return int(np.argmax(overlap / union))
    return int(np.argmin(((middles - (given[2:] + given[:2]) / 2) ** 2).sum(axis=1)))


@lru_cache
def template(size: int, alignment: Alignment) -> np.ndarray:
    """The five points in a crop of `size` px: float64 (5, 2), scaled about its centre by face_scale."""
    centre = (size - 1) / 2
    return centre + alignment.face_scale * (ARCFACE_112 * (size / 112) - centre)


def similarity(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The least-squares similarity without reflection (Umeyama 1991) that takes points to target.

    Both are (n, 2), the matrix is float64 (2, 3). As complex numbers: a = Σ conj(z)w / Σ|z|² of the centred
    points is scale and rotation at once. Raises ValueError where all points coincide.
    """
    z = [complex(x, y) for x, y in np.asarray(points, np.float64).tolist()]  # too few for numpy to be quicker
    w = [complex(x, y) for x, y in np.asarray(target, np.float64).tolist()]
    z_mean, w_mean = sum(z) / len(z), sum(w) / len(w)
    spread = sum(abs(p - z_mean) ** 2 for p in z)
    if not spread > 0:
        raise ValueError("the landmarks are all at one point")
    a = sum((p - z_mean).conjugate() * (q - w_mean) for p, q in zip(z, w)) / spread
    t = w_mean - a * z_mean
    return np.array([[a.real, -a.imag, t.real], [a.imag, a.real, t.imag]])


def whole_image_matrix(height: int, width: int, size: int) -> np.ndarray:
    """The shorter side to `size`, the centre to the centre: float64 (2, 3), source → crop."""
    scale = size / min(height, width)
    centre = (size - 1) / 2
    return np.array([[scale, 0, centre - scale * (width - 1) / 2], [0, scale, centre - scale * (height - 1) / 2]])


def unlike(recipe: dict, other: dict) -> str:
    """Where the recipes of two data sets (summary["recipe"]) differ, as `detector mtcnn, not given`; "" where they do
    not. A network that has seen faces cropped in one way is not at its best on those of another."""
    return ", ".join(
        _difference(key, recipe.get(key), other.get(key)) for key in recipe | other if recipe.get(key) != other.get(key)
    )


def _difference(key: str, ours, theirs) -> str:
    ours, theirs = (value["name"] if isinstance(value, dict) else value for value in (ours, theirs))
    return f"{key} {ours}, not {theirs}" if ours != theirs else f"the settings of {key} {ours}"


def moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points (n, 2) under a (2, 3) matrix: float32 (n, 2)."""
    return (points.astype(np.float64) @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


def crop_matrix(landmarks: np.ndarray, height: int, width: int, size: int, alignment: Alignment) -> np.ndarray:
    """The matrix source → crop, float64 (2, 3), of an image whose five points are `landmarks` (5, 2).

    NaN landmarks: the whole image is the face. height and width matter only then.
    """
    if np.isnan(landmarks).any():
        return whole_image_matrix(height, width, size)
    return similarity(landmarks, template(size, alignment))
