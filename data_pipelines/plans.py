"""An augmentation PLAN per example: plain numbers, sampled on the host, executed on the host or on a device.

Order of the DLDL-v2 code (gaobb/DLDL-v2, chalearn15.lua): flip, grey, degradation, rotation, colour jitter.
Deviations, all from warping ONCE: alignment, flip, zoom, rotation and shift are one matrix, so the
degradation comes after the rotation and not before; and where a rotated crop reaches outside itself but not
outside the photograph, it shows the photograph and not black.

The stronger augmentation of LAE comes around these: a random patch is one more factor of the matrix, the hue one more
colour jitter, and RandAugment's operations follow on all else.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Literal, NamedTuple

import numpy as np

from data_pipelines import randaugment

BRIGHTNESS, CONTRAST, SATURATION = range(3)
ORDERS = np.array(list(permutations((BRIGHTNESS, CONTRAST, SATURATION))), np.int32)  # row = Plan.order
TRIES = 10  # of a random patch, as in torchvision


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
    area: float = 1.0
    """Smallest share of the crop's area that a random patch of it has, which is enlarged to the whole; 1 = off."""
    aspect: float = 1.0
    """Largest ratio of that patch's sides; 1 = always square. LAE: 4/3, with an area of 0.08 and a hue of 0.1."""
    hue: float = 0.0
    """±, share of the colour circle. The four jitters come in any order."""
    randaugment: int = 0
    """Operations of RandAugment at the end; 0 = off. LAE: 2."""
    magnitude: int = 9
    """Of them."""
    flavour: Literal["torchvision", "tf"] = "torchvision"
    """Whose operations, and what their magnitudes mean: see randaugment.py."""
    versions: int = 0
    """0: every time another one. n: each example has n versions, the same in every epoch, of which one is drawn each
    time."""

    def __post_init__(self):
        for name in ("flip", "gray", "shift", "brightness", "contrast", "saturation"):
            _check(0 <= getattr(self, name) <= 1, name, getattr(self, name), "0 to 1")
        _check(0 < self.degrade <= 1, "degrade", self.degrade, "above 0, at most 1 (1 = off)")
        _check(0 <= self.rotation <= 180, "rotation", self.rotation, "0 to 180 degrees")
        _check(0 <= self.zoom < 1, "zoom", self.zoom, "0 to less than 1")
        _check(self.resize in ("antialias", "torch7"), "resize", self.resize, "'antialias' or 'torch7'")
        _check(0 < self.area <= 1, "area", self.area, "above 0, at most 1 (1 = off)")
        _check(1 <= self.aspect < math.inf, "aspect", self.aspect, "1 or more (1 = off)")
        _check(0 <= self.hue <= 0.5, "hue", self.hue, "0 to 0.5")
        _check(self.randaugment >= 0, "randaugment", self.randaugment, "0 or more (0 = off)")
        _check(self.versions >= 0, "versions", self.versions, "0 or more (0: every time another one)")
        _check(self.flavour in randaugment.LARGEST, "flavour", self.flavour, " or ".join(randaugment.LARGEST))
        largest = randaugment.LARGEST[self.flavour]
        _check(0 <= self.magnitude <= largest, "magnitude", self.magnitude, f"0 to {largest} for {self.flavour}")

    def smallest(self, size: int) -> int:
        """To how many px an image of `size` px is shrunk at most."""
        return min(size, max(2, round(self.degrade * size)))

    @property
    def patches(self) -> bool:
        """Whether a patch is cut out."""
        return self.area < 1 or self.aspect > 1

    @property
    def host_only(self) -> str:
        """What of it the host alone can do, in words; "" for nothing."""
        found = {"hue": self.hue, "randaugment": self.randaugment}
        return ", ".join(f"{name} is {value:g}" for name, value in found.items() if value)


def _check(good: bool, name: str, value, allowed: str) -> None:
    if not good:
        raise ValueError(f"augmentation: {name} is {value!r}, allowed: {allowed}")


IDENTITY = np.eye(2, 3)
NO_AUGMENTATION = Augmentation(
    flip=0.0, gray=0.0, degrade=1.0, rotation=0.0, brightness=0.0, contrast=0.0, saturation=0.0
)
DEX = replace(NO_AUGMENTATION, rotation=10.0, zoom=0.1, shift=0.1)
"""Of the ten versions of an image in DEX and Early Adaptation: rotation ±10°, shift ±10 %, scale 0.9 to 1.1."""


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
    hue: np.ndarray  # float32 (), share of the colour circle; 0 = off
    hue_after: np.ndarray  # int32 (), how many of the three factors come before the hue
    operation: np.ndarray  # int32 (N,), rows of randaugment.OPERATIONS
    level: np.ndarray  # int32 (N,), their magnitudes with a sign
    place: np.ndarray  # float32 (N, 2), where an operation has a place: shares of width and height


OFF = {  # the last five
    "hue": np.float32(0),
    "hue_after": np.int32(0),
    "operation": np.zeros(0, np.int32),
    "level": np.zeros(0, np.int32),
    "place": np.zeros((0, 2), np.float32),
}


def plain_plan(matrix: np.ndarray, size: int) -> Plan:
    """The plan that only crops; matrix (2, 3) is source → crop, as align.crop_matrix gives it."""
    return Plan(
        matrix=_as_array(_inverse(matrix)),
        gray=np.False_,
        degrade=np.int32(size),
        colour=np.ones(3, np.float32),
        order=np.int32(0),
        **OFF,
    )


def sample_plan(rng: np.random.Generator, matrix: np.ndarray, size: int, augmentation: Augmentation) -> Plan:
    """A plan for a crop of `size` px whose matrix source → crop is (2, 3).

    Always draws eleven uniform numbers, and others after them for patches, hue and RandAugment, so that switching one
    augmentation off leaves the others as they are.
    """
    a, u = augmentation, rng.random(11).tolist()
    signed = [2 * x - 1 for x in u]  # uniform in ±1
    smallest = a.smallest(size)
    shift = (a.shift * size * signed[5], a.shift * size * signed[6])
    to_crop = _turn_back((size - 1) / 2, math.radians(a.rotation * signed[3]), 1 + a.zoom * signed[4], shift)
    if u[0] < a.flip:
        to_crop = _chain((-1.0, 0.0, size - 1.0, 0.0, 1.0, 0.0), to_crop)
    patch, more = _draw_more(rng, size, a) if a.patches or a.hue or a.randaugment else (None, OFF)
    to_crop = _chain(to_crop, patch) if patch else to_crop
    return Plan(
        matrix=_as_array(_chain(_inverse(matrix), to_crop)),
        gray=np.bool_(u[1] < a.gray),
        degrade=np.int32(smallest + int(u[2] * (size - smallest + 1))),
        colour=np.array(
            [1 + a.brightness * signed[7], 1 + a.contrast * signed[8], 1 + a.saturation * signed[9]], np.float32
        ),
        order=np.int32(u[10] * len(ORDERS)),
        **more,
    )


def _draw_more(rng: np.random.Generator, size: int, a: Augmentation) -> tuple["Affine | None", dict]:
    """Output → crop where it shows a patch, and the plan's fields from `hue` on."""
    numbers = rng.random(4 * TRIES + 2 + 4 * a.randaugment)
    tries, (turn, place), chances = np.split(numbers, (4 * TRIES, 4 * TRIES + 2))
    patch = _enlarge(patch_box(tries.reshape(TRIES, 4), size, a), size) if a.patches else None
    more = {"hue": np.float32(a.hue * (2 * turn - 1)), "hue_after": np.int32(4 * place)} if a.hue else {}
    drawn = randaugment.draw(chances.reshape(-1, 4), a.magnitude, a.flavour) if a.randaugment else {}
    return patch, OFF | more | drawn


def sample_version(seed: int, row: int, version: int, size: int, augmentation: Augmentation) -> Plan:
    """The plan (with IDENTITY) of one of the fixed versions of an example, always the same."""
    return sample_plan(np.random.default_rng((seed, row, version)), IDENTITY, size, augmentation)


def patch_box(chances: np.ndarray, size: int, augmentation: Augmentation) -> tuple[int, int, int, int]:
    """(left, top, width, height) in px of a random patch of a square of `size` px, from uniform numbers (TRIES, 4).

    As torchvision's RandomResizedCrop: share of the area and logarithm of width / height are uniform, what does not fit
    is tried again, and at last it is the whole.
    """
    a, widest = augmentation, math.log(augmentation.aspect)
    for share, ratio, x, y in chances.tolist():
        side, stretch = math.sqrt(a.area + (1 - a.area) * share) * size, math.exp(widest * (ratio - 0.5))
        width, height = round(side * stretch), round(side / stretch)
        if 0 < width <= size and 0 < height <= size:
            left, top = (min(int(at * (room + 1)), room) for at, room in ((x, size - width), (y, size - height)))
            return left, top, width, height
    return 0, 0, size, size


def placed(plan: Plan, matrix: np.ndarray) -> Plan:
    """The plan that was made for a crop (with IDENTITY), for an image whose matrix source → crop is (2, 3)."""
    to_crop = plan.matrix.ravel().tolist()
    return plan._replace(matrix=_as_array(_chain(_inverse(matrix), to_crop)))


def stack(plans: Sequence[Plan]) -> Plan:
    """A Plan of arrays with a leading axis B."""
    fields, shapes = Plan(*zip(*plans)), [np.shape(value) for value in plans[0]]
    columns = [  # numpy.stack takes 5 times as long
        np.concatenate(values).reshape(len(plans), *shape) if shape else np.array(values)
        for values, shape in zip(fields, shapes)
    ]
    return Plan(*columns)


def canvas_size(size: int, augmentation: Augmentation) -> int:
    """The side in px of the smallest canvas that holds all that a plan for a crop of `size` px can reach.

    A canvas is the crop with the same margin on all sides: canvas pixel = crop pixel + (canvas - size) / 2, a whole
    number. 276 for 224 px turned by up to 15°; size · √2, about, for 45° and more; the size itself where nothing moves.
    A patch's outermost pixels show up to half a pixel around it.
    """
    a, centre = augmentation, (size - 1) / 2
    turn = math.radians(min(a.rotation, 45.0))
    reach = (math.cos(turn) + math.sin(turn)) * (centre + a.shift * size + 0.5 * a.patches) / (1 - a.zoom)
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


def _enlarge(box: tuple[int, int, int, int], size: int) -> Affine:
    """Output → the crop of which the box (left, top, width, height) in px is shown; half-pixel centres."""
    left, top, width, height = box
    across, down = width / size, height / size
    return across, 0.0, left + (across - 1) / 2, 0.0, down, top + (down - 1) / 2


def _as_array(affine: Affine) -> np.ndarray:
    return np.array(affine, np.float32).reshape(2, 3)
