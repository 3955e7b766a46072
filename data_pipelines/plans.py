"""An augmentation PLAN per example: plain numbers, sampled on the host, executed on the host or on a device.

Order of the DLDL-v2 code (gaobb/DLDL-v2, chalearn15.lua): flip, grey, degradation, rotation, colour jitter.
Deviations, all from warping ONCE: alignment, flip, zoom, rotation and shift are one matrix, so the
degradation comes after the rotation and not before; and where a rotated crop reaches outside itself but not
outside the photograph, it shows the photograph and not black.
"""

from dataclasses import dataclass
from itertools import permutations
from typing import Literal, NamedTuple

import numpy as np

BRIGHTNESS, CONTRAST, SATURATION = range(3)
ORDERS = np.array(list(permutations((BRIGHTNESS, CONTRAST, SATURATION))), np.int32)  # row = Plan.order


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training image; the defaults are those of the DLDL-v2 code.

    degrade is the smallest share of the size that an image is shrunk to and enlarged again from; 1 = off.
    `resize` is the kernel of that: 'antialias' (as PIL and tf), or 'torch7' (as the DLDL-v2 code: see
    host.resample_matrix).
    """

    flip: float = 0.5  # probability
    gray: float = 0.5  # probability
    degrade: float = 0.5
    rotation: float = 15.0  # ± degrees
    zoom: float = 0.0  # ± share of the size
    shift: float = 0.0  # ± share of the size
    brightness: float = 0.4  # ±, factor 1 ± this
    contrast: float = 0.4
    saturation: float = 0.4
    resize: Literal["antialias", "torch7"] = "antialias"

    def __post_init__(self):
        for name in ("flip", "gray", "shift", "brightness", "contrast", "saturation"):
            _check(0 <= getattr(self, name) <= 1, name, getattr(self, name), "0 to 1")
        _check(0 < self.degrade <= 1, "degrade", self.degrade, "above 0, at most 1 (1 = off)")
        _check(0 <= self.rotation <= 180, "rotation", self.rotation, "0 to 180 degrees")
        _check(0 <= self.zoom < 1, "zoom", self.zoom, "0 to less than 1")
        _check(self.resize in ("antialias", "torch7"), "resize", self.resize, "'antialias' or 'torch7'")


def _check(good: bool, name: str, value, allowed: str) -> None:
    if not good:
        raise ValueError(f"augmentation: {name} is {value!r}, allowed: {allowed}")


NO_AUGMENTATION = Augmentation(
    flip=0.0, gray=0.0, degrade=1.0, rotation=0.0, brightness=0.0, contrast=0.0, saturation=0.0
)


class Plan(NamedTuple):
    """Numbers of fixed shape and dtype, so that plans stack into a batch.

    matrix takes the centre of an OUTPUT pixel to SOURCE pixel coordinates (the centre of the top-left pixel
    is (0, 0) in both; it is what cv2.warpAffine wants with WARP_INVERSE_MAP).
    """

    matrix: np.ndarray  # float32 (2, 3), output → source
    gray: np.ndarray  # bool ()
    degrade: np.ndarray  # int32 (), px; the size itself = off
    colour: np.ndarray  # float32 (3,), factors of brightness, contrast, saturation; 1 = off
    order: np.ndarray  # int32 (), row of ORDERS


def plain_plan(matrix: np.ndarray, size: int) -> Plan:
    """The plan that only crops; matrix (2, 3) is source → crop, as align.crop_matrix gives it."""
    to_source = np.linalg.inv(_square(matrix))[:2]
    return Plan(
        matrix=to_source.astype(np.float32),
        gray=np.False_,
        degrade=np.int32(size),
        colour=np.ones(3, np.float32),
        order=np.int32(0),
    )


def sample_plan(rng: np.random.Generator, matrix: np.ndarray, size: int, augmentation: Augmentation) -> Plan:
    """A plan for a crop of `size` px whose matrix source → crop is (2, 3).

    Always draws eleven uniform numbers, so that switching one augmentation off leaves the others as they are.
    """
    a, u = augmentation, rng.random(11)
    signed = 2 * u - 1  # uniform in ±1
    smallest = min(size, max(2, round(a.degrade * size)))
    centre = (size - 1) / 2
    jitter = np.array([a.brightness, a.contrast, a.saturation])
    to_source = (
        np.linalg.inv(_square(matrix))
        @ _mirror(size, flip=u[0] < a.flip)
        @ _turn_back(centre, a.rotation * signed[3], 1 + a.zoom * signed[4], a.shift * size * signed[5:7])
    )
    return Plan(
        matrix=to_source[:2].astype(np.float32),
        gray=np.bool_(u[1] < a.gray),
        degrade=np.int32(smallest + int(u[2] * (size - smallest + 1))),
        colour=(1 + jitter * signed[7:10]).astype(np.float32),
        order=np.int32(u[10] * len(ORDERS)),
    )


def _square(matrix: np.ndarray) -> np.ndarray:
    return np.vstack([matrix, (0, 0, 1)])


def _mirror(size: int, flip: bool) -> np.ndarray:
    return np.array([[-1.0, 0, size - 1], [0, 1, 0], [0, 0, 1]]) if flip else np.eye(3)


def _turn_back(centre: float, degrees: float, zoom: float, shift: np.ndarray) -> np.ndarray:
    """(3, 3), output → crop: undoes zoom and rotation about the centre, then the shift in px."""
    c, s = np.cos(np.deg2rad(degrees)) / zoom, np.sin(np.deg2rad(degrees)) / zoom
    x, y = centre + shift
    return np.array([[c, s, centre - c * x - s * y], [-s, c, centre + s * x - c * y], [0, 0, 1]])
