"""A drawn face as data: who it is, what the years have done, how it was taken, and where things then lie.

Points are in face units: half a face's width is 1, x to the image's right, y down, the origin in the middle
of the head. Colours are RGB, 0 … 255. `shapes` makes shapes of it and `painting` makes pixels of them.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

HAIR_STYLES = ("short", "fringe", "long", "bob", "curly", "bun")
BEARDS = ("none", "stubble", "moustache", "full")

_TURN = np.linspace(0, 2 * np.pi, 20, endpoint=False)
CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], 1)
ALMOND = np.stack([np.cos(_TURN), np.sin(_TURN) * np.abs(np.sin(_TURN)) ** 0.35], 1)
_T = np.linspace(0, 1, 9)[:, None]
ARC = np.concatenate([(1 - _T) ** 2, 2 * _T * (1 - _T), _T**2], 1)  # quadratic Bézier: ARC @ three points
CLOSED_CIRCLE, CLOSED_ALMOND = (np.concatenate([unit, unit[:1]]) for unit in (CIRCLE, ALMOND))
MIRROR = np.array([-1.0, 1.0])
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


@dataclass(frozen=True)
class Person:
    """What stays the same for life. Numbers are deviations from the mean, 0 ± 1, where no range is named."""

    skin: tuple
    hair: tuple
    iris: tuple
    masculine: bool
    hair_style: str
    beard: str
    round_glasses: bool
    lipstick: float  # 0 … 1
    face_width: float
    jaw_width: float
    face_length: float
    eye_size: float
    eye_spacing: float
    brow_weight: float
    brow_tilt: float
    nose_width: float
    nose_length: float
    mouth_width: float
    lip_fullness: float
    asymmetry: float
    ears: float
    mole: tuple  # x, y in face units, from between the eyes


@dataclass(frozen=True)
class Ageing:
    """What the years have done: each 0 (not begun) … 1 (complete)."""

    child: float  # 1 = newborn proportions, 0 = grown
    forehead: float
    crows_feet: float
    nasolabial: float
    grey: float
    receding: float
    thinning: float
    spots: float
    pallor: float
    sag: float
    bags: float
    droop: float
    thin_lips: float
    nose: float
    brows: float
    beard: float
    glasses: bool


@dataclass(frozen=True)
class Scene:
    """How the picture was taken."""

    scale: float  # one face unit, as a share of the size
    shift: tuple  # of the head's middle from the image's, as a share of the size
    rotation: float  # degrees, in the plane
    yaw: float  # degrees
    smile: float  # -0.5 … 1
    mouth_open: float  # 0 … 1
    gaze: float  # -1 … 1
    light: tuple  # direction x, y: the brightness gained across half the image
    tint: tuple  # RGB gains
    side_shadow: float  # -1 (left) … 1 (right)
    background: np.ndarray  # (n, n, 3) uint8, enlarged to the image
    shirt: tuple
    clutter: int  # number of things behind the head
    occluder: str  # a key of shapes.OCCLUDERS, or ''
    blur: float  # σ as a share of the size
    noise: int  # half width of the uniform noise, grey levels


class Shape(NamedTuple):
    parts: list  # of (n, 2) points; parts of one shape do not overlap
    colour: tuple
    width: float = 0.0  # face units; 0 = filled


class Layout(NamedTuple):
    """Where things are."""

    length: float  # of the face below the eyes, 1 = grown
    eyes_y: float
    eyes_x: float
    eye_rx: float
    eye_ry: float
    nose_y: float
    nose_w: float
    mouth_y: float
    mouth_w: float
    hairline: float
    crown: float


def mix(a: tuple, b: tuple, share: float) -> tuple:
    return tuple(x + (y - x) * share for x, y in zip(a, b))


def ellipse(x, y, rx, ry=None, unit=CIRCLE) -> np.ndarray:
    return unit * (rx, rx if ry is None else ry) + (x, y)


def arc(*points) -> np.ndarray:
    return ARC @ np.array(points, float)


def both(points: np.ndarray) -> list:
    return [points, points * MIRROR]


def whole(half: np.ndarray) -> np.ndarray:
    """The closed outline whose right half, top to bottom, is given."""
    return np.concatenate([half, half[::-1] * MIRROR])


def lay_out(person: Person, ageing: Ageing) -> Layout:
    """Where things stand in face units: a child's eyes are larger and lower, its nose and chin small."""
    c = ageing.child
    length = (1 - 0.27 * c) * (1 + 0.05 * person.face_length)
    eyes_y = 0.24 * c
    return Layout(
        length=length,
        eyes_y=eyes_y,
        eyes_x=0.42 * (1 + 0.06 * person.eye_spacing),
        eye_rx=(0.185 + 0.05 * c) * (1 + 0.1 * person.eye_size),
        eye_ry=(0.100 + 0.075 * c) * (1 + 0.16 * person.eye_size) * (1 - 0.38 * ageing.droop),
        nose_y=eyes_y + (0.52 + 0.05 * person.nose_length + 0.07 * ageing.nose - 0.10 * c) * length,
        nose_w=(0.17 - 0.05 * c + 0.05 * ageing.nose) * (1 + 0.16 * person.nose_width),
        mouth_y=eyes_y + (0.86 + 0.02 * ageing.nose) * length,
        mouth_w=(0.34 - 0.10 * c) * (1 + 0.1 * person.mouth_width),
        hairline=-0.80 + 0.12 * c - 0.50 * ageing.receding,
        crown=-1.42,
    )


def landmarks(layout: Layout, scene: Scene) -> np.ndarray:
    """Image-left eye, image-right eye, nose tip, image-left and image-right mouth corners: (5, 2)."""
    corner = layout.mouth_y - 0.07 * scene.smile
    return np.array(
        [
            [-layout.eyes_x, layout.eyes_y],
            [layout.eyes_x, layout.eyes_y],
            [0, layout.nose_y],
            [-layout.mouth_w, corner],
            [layout.mouth_w, corner],
        ]
    )


def _closed_spline(controls: int, per_segment: int = 4) -> np.ndarray:
    """The matrix that takes control points of a closed Catmull-Rom spline to points on it."""
    t = np.arange(per_segment) / per_segment
    s, c = t**2, t**3
    weights = np.stack([-t + 2 * s - c, 2 - 5 * s + 3 * c, t + 4 * s - 3 * c, c - s], 1)
    rows = np.zeros((controls, per_segment, controls))
    for i in range(controls):
        rows[i][:, [(i + k) % controls for k in (-1, 0, 1, 2)]] = weights
    return rows.reshape(-1, controls) / 2


HEAD_SPLINE = _closed_spline(14)


def head_outline(person: Person, ageing: Ageing, layout: Layout) -> np.ndarray:
    """The closed curve of head and jaw: rounder in children, sagging with age."""
    c, sag, e, n = ageing.child, ageing.sag, layout.eyes_y, layout.length
    wide = 1 + 0.05 * person.face_width
    jaw = (0.72 + 0.06 * person.masculine + 0.05 * person.jaw_width) * wide
    right = np.array(
        [
            (0, layout.crown),
            (0.62 * wide, layout.crown + 0.2),
            (0.95 * wide, -0.62),
            (wide, e - 0.05),
            (0.92 * wide + 0.08 * c - 0.04 * sag, e + 0.5 * n),
            (jaw + 0.10 * c + 0.09 * sag, e + 0.92 * n),
            (0.55 * jaw + 0.07 * c + 0.10 * sag, e + (1.21 + 0.04 * sag) * n),
            (0, e + (1.30 + 0.02 * sag) * n),
        ]
    )
    return HEAD_SPLINE @ np.concatenate([right, right[6:0:-1] * MIRROR])
