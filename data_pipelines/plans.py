"""An augmentation PLAN per example: plain numbers, sampled on the host, executed on the host or on a device.

Order of the DLDL-v2 code (gaobb/DLDL-v2, chalearn15.lua): flip, grey, degradation, rotation, colour jitter.
Deviations, all from warping ONCE: alignment, flip, zoom, rotation and shift are one matrix, so the
degradation comes after the rotation and not before; and where a rotated crop reaches outside itself but not
outside the photograph, it shows the photograph and not black.
"""

import math
from collections.abc import Sequence
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

    def smallest(self, size: int) -> int:
        """To how many px an image of `size` px is shrunk at most."""
        return min(size, max(2, round(self.degrade * size)))


def _check(good: bool, name: str, value, allowed: str) -> None:
    if not good:
        raise ValueError(f"augmentation: {name} is {value!r}, allowed: {allowed}")


IDENTITY = np.eye(2, 3)
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
    return Plan(
        matrix=_as_array(_inverse(matrix)),
        gray=np.False_,
        degrade=np.int32(size),
        colour=np.ones(3, np.float32),
        order=np.int32(0),
    )


def sample_plan(rng: np.random.Generator, matrix: np.ndarray, size: int, augmentation: Augmentation) -> Plan:
    """A plan for a crop of `size` px whose matrix source → crop is (2, 3).

    Always draws eleven uniform numbers, so that switching one augmentation off leaves the others as they are.
    """
    a, u = augmentation, rng.random(11).tolist()
    signed = [2 * x - 1 for x in u]  # uniform in ±1
    smallest = a.smallest(size)
    shift = (a.shift * size * signed[5], a.shift * size * signed[6])
    to_crop = _turn_back((size - 1) / 2, math.radians(a.rotation * signed[3]), 1 + a.zoom * signed[4], shift)
    if u[0] < a.flip:
        to_crop = _chain((-1.0, 0.0, size - 1.0, 0.0, 1.0, 0.0), to_crop)
    return Plan(
        matrix=_as_array(_chain(_inverse(matrix), to_crop)),
        gray=np.bool_(u[1] < a.gray),
        degrade=np.int32(smallest + int(u[2] * (size - smallest + 1))),
        colour=np.array(
            [1 + a.brightness * signed[7], 1 + a.contrast * signed[8], 1 + a.saturation * signed[9]], np.float32
        ),
        order=np.int32(u[10] * len(ORDERS)),
    )


def placed(plan: Plan, matrix: np.ndarray) -> Plan:
    """The plan that was made for a crop (with IDENTITY), for an image whose matrix source → crop is (2, 3)."""
    to_crop = plan.matrix.ravel().tolist()
    return plan._replace(matrix=_as_array(_chain(_inverse(matrix), to_crop)))


def stack(plans: Sequence[Plan]) -> Plan:
    """A Plan of arrays with a leading axis B."""
    matrix, gray, degrade, colour, order = zip(*plans)
    return Plan(
        matrix=np.concatenate(matrix).reshape(-1, 2, 3),  # numpy.stack takes 5 times as long
        gray=np.array(gray),
        degrade=np.array(degrade),
        colour=np.concatenate(colour).reshape(-1, 3),
        order=np.array(order),
    )


def canvas_size(size: int, augmentation: Augmentation) -> int:
    """The side in px of the smallest canvas that holds all that a plan for a crop of `size` px can reach.

    A canvas is the crop with the same margin on all sides: canvas pixel = crop pixel + (canvas - size) / 2, a whole
    number. 276 for 224 px turned by up to 15°; size · √2, about, for 45° and more; the size itself where nothing moves.
    """
    a, centre = augmentation, (size - 1) / 2
    turn = math.radians(min(a.rotation, 45.0))
    reach = (math.cos(turn) + math.sin(turn)) * (centre + a.shift * size) / (1 - a.zoom)
    return size + 2 * math.ceil(reach - centre - 1e-6)


def on_canvas(plan: Plan, size: int, canvas: int) -> Plan:
    """Plans for a crop of `size` px (with IDENTITY) as plans for its canvas: arrays with a leading axis B."""
    matrix = plan.matrix.copy()
    matrix[:, :, 2] += (canvas - size) // 2
    return plan._replace(matrix=matrix)


Affine = tuple[float, float, float, float, float, float]  # (2, 3) by rows, in Python's numbers: numpy's cost 10 x more


def _chain(outer: Affine, inner: Affine) -> Affine:
    """The product: inner first."""
    a, b, c, d, e, f = outer
    u, v, w, x, y, z = inner
    return a * u + b * x, a * v + b * y, a * w + b * z + c, d * u + e * x, d * v + e * y, d * w + e * z + f


def _inverse(matrix: np.ndarray) -> Affine:
    (a, b, c), (d, e, f) = matrix.tolist()
    area = a * e - b * d
    return e / area, -b / area, (b * f - c * e) / area, -d / area, a / area, (c * d - a * f) / area


def _turn_back(centre: float, angle: float, zoom: float, shift: tuple[float, float]) -> Affine:
    """Output → crop: undoes zoom and rotation (radians) about the centre, then the shift in px."""
    c, s = math.cos(angle) / zoom, math.sin(angle) / zoom
    x, y = centre + shift[0], centre + shift[1]
    return c, s, centre - c * x - s * y, -s, c, centre + s * x - c * y


def _as_array(affine: Affine) -> np.ndarray:
    return np.array(affine, np.float32).reshape(2, 3)
