"""RandAugment (Cubuk et al., 2019) on bytes: N operations by chance, one after the other, all of one magnitude.

Two flavours, of which one table OPERATIONS holds all rows, so that a row's number says which flavour it is of:

torchvision   14 operations, magnitude 0 … 30 (torchvision.transforms.RandAugment with its 31 bins), black outside
tf            16 operations, magnitude 0 … 10 (tensorflow/tpu, official/efficientnet/autoaugment.py), grey outside

Pixels are those of torchvision's functions for uint8 tensors, and of the tf code: nearest neighbours, blends cut off to
whole levels. Deviations: a nearest neighbour may be the other one of two where the place lies between them to 1/1024
px; luma weights are OpenCV's, rounded; tf cuts the smoothed image of Sharpness off where torchvision rounds it, which
is rounded here in both. Contrast of tf pulls towards (pixels / 256), as its code has it, and not towards the mean.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

BLACK, GREY = (0, 0, 0), (128, 128, 128)
LARGEST = {"torchvision": 30, "tf": 10}  # magnitudes
SMOOTH = np.array([(1, 1, 1), (1, 5, 1), (1, 1, 1)], np.float32) / 13
LEVELS = np.arange(256, dtype=np.float32)


class Draw(NamedTuple):
    """One operation on one image."""

    m: float
    """Share of the largest magnitude, 0 to 1."""
    sign: int
    """1 or -1, for those that go both ways."""
    place: tuple[float, float]
    """Shares of width and height, 0 to 1."""


# geometry: `matrix` takes continuous coordinates of the output, (0, 0) its corner, to those of the input


def warped(image: np.ndarray, matrix: tuple, fill: tuple[int, int, int]) -> np.ndarray:
    """The nearest neighbour, `fill` outside."""
    matrix = np.array(matrix, np.float64)
    matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, matrix, image.shape[1::-1], flags=flags, borderValue=fill)


def turned(image: np.ndarray, degrees: float, fill: tuple[int, int, int]) -> np.ndarray:
    """About the centre, anticlockwise."""
    (height, width), angle = image.shape[:2], math.radians(degrees)
    c, s, x, y = math.cos(angle), math.sin(angle), width / 2, height / 2
    return warped(image, ((c, -s, x - c * x + s * y), (s, c, y - s * x - c * y)), fill)


# tone curves: every level of a channel has its new one


def curved(image: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """levels: (256,) or (256, 3), one column a channel; clipped, and cut off to whole ones."""
    table = np.clip(levels, 0, 255).astype(np.uint8)
    return cv2.LUT(image, table if table.ndim == 1 else table[:, None])


def brightened(image: np.ndarray, factor: float) -> np.ndarray:
    return curved(image, LEVELS * np.float32(factor))


def contrasted(image: np.ndarray, factor: float, middle: float) -> np.ndarray:
    """Away from `middle`, or towards it."""
    return curved(image, np.float32(factor) * LEVELS + np.float32((1 - factor) * middle))


def luma(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def posterized(image: np.ndarray, bits: int) -> np.ndarray:
    """The first bits of a level, the others 0."""
    step = 1 << 8 - bits
    return curved(image, LEVELS // step * step)


def solarized(image: np.ndarray, threshold: float) -> np.ndarray:
    return curved(image, np.where(threshold > LEVELS, LEVELS, 255 - LEVELS))


def inverted(image: np.ndarray) -> np.ndarray:
    return cv2.bitwise_not(image)


def added(image: np.ndarray, amount: int) -> np.ndarray:
    """To the darker half: SolarizeAdd."""
    return curved(image, np.where(LEVELS < 128, LEVELS + amount, LEVELS))


def stretched(image: np.ndarray) -> np.ndarray:
    """AutoContrast: the darkest level of a channel becomes 0, its lightest 255."""
    low, high = (extreme(image.reshape(-1, 3), axis=0).astype(np.float32) for extreme in (np.min, np.max))
    flat = low == high
    scale = 1 / np.where(flat, 1, high - low) * 255  # in two steps, as torch divides
    return curved(image, (LEVELS[:, None] - np.where(flat, 0, low)) * np.where(flat, 1, scale))


def equalized(image: np.ndarray) -> np.ndarray:
    """As PIL has it: about as many pixels of each level of a channel."""
    return curved(image, np.stack([_equal(image[:, :, channel]) for channel in range(3)], axis=1))


def _equal(channel: np.ndarray) -> np.ndarray:
    """int64 (256,)."""
    counts = np.bincount(channel.ravel(), minlength=256)
    step = (channel.size - counts[channel.max()]) // 255
    return (np.cumsum(counts) - counts + step // 2) // step if step else np.arange(256)


# blends: away from another image, or towards it


def blended(image: np.ndarray, other: np.ndarray, factor: float) -> np.ndarray:
    """factor · image + (1 - factor) · other, cut off to whole levels."""
    return cv2.addWeighted(image, factor, other, 1 - factor, 1e-3 - 0.5)  # which rounds


def saturated(image: np.ndarray, factor: float) -> np.ndarray:
    return blended(image, cv2.cvtColor(luma(image), cv2.COLOR_GRAY2RGB), factor)


def sharpened(image: np.ndarray, factor: float) -> np.ndarray:
    """All but the outermost pixels."""
    smooth = image.copy()
    smooth[1:-1, 1:-1] = cv2.filter2D(image, -1, SMOOTH)[1:-1, 1:-1]
    return blended(image, smooth, factor)


def cut_out(image: np.ndarray, pad: int, place: tuple[float, float]) -> np.ndarray:
    """A grey square of 2 · pad px about a place, as far as it lies inside."""
    image, (x, y) = image.copy(), (int(min(p, 1 - 1e-6) * n) for p, n in zip(place, image.shape[1::-1]))
    image[max(0, y - pad) : y + pad, max(0, x - pad) : x + pad] = GREY
    return image


TORCHVISION = {
    "Identity": lambda image, d: image,
    "ShearX": lambda image, d: warped(image, ((1, 0.3 * d.m * d.sign, 0), (0, 1, 0)), BLACK),
    "ShearY": lambda image, d: warped(image, ((1, 0, 0), (0.3 * d.m * d.sign, 1, 0)), BLACK),
    "TranslateX": lambda image, d: warped(image, ((1, 0, -d.sign * _share(image, d)), (0, 1, 0)), BLACK),
    "TranslateY": lambda image, d: warped(image, ((1, 0, 0), (0, 1, -d.sign * _share(image, d))), BLACK),
    "Rotate": lambda image, d: turned(image, 30 * d.m * d.sign, BLACK),
    "Brightness": lambda image, d: brightened(image, 1 + 0.9 * d.m * d.sign),
    "Color": lambda image, d: saturated(image, 1 + 0.9 * d.m * d.sign),
    "Contrast": lambda image, d: contrasted(image, 1 + 0.9 * d.m * d.sign, cv2.mean(luma(image))[0]),
    "Sharpness": lambda image, d: sharpened(image, 1 + 0.9 * d.m * d.sign),
    "Posterize": lambda image, d: posterized(image, 8 - round(4 * d.m)),
    "Solarize": lambda image, d: solarized(image, 255 - 255 * d.m),
    "AutoContrast": lambda image, d: stretched(image),
    "Equalize": lambda image, d: equalized(image),
}
TF = {
    "AutoContrast": lambda image, d: stretched(image),
    "Equalize": lambda image, d: equalized(image),
    "Invert": lambda image, d: inverted(image),
    "Rotate": lambda image, d: turned(image, 30 * d.m * d.sign, GREY),
    "Posterize": lambda image, d: posterized(image, int(4 * d.m)),
    "Solarize": lambda image, d: solarized(image, int(256 * d.m)),
    "Color": lambda image, d: saturated(image, 1.8 * d.m + 0.1),
    "Contrast": lambda image, d: contrasted(image, 1.8 * d.m + 0.1, min(255, image[:, :, 0].size // 256)),
    "Brightness": lambda image, d: brightened(image, 1.8 * d.m + 0.1),
    "Sharpness": lambda image, d: sharpened(image, 1.8 * d.m + 0.1),
    "ShearX": lambda image, d: warped(image, _at_centre(1, 0.3 * d.m * d.sign, 0, 1), GREY),
    "ShearY": lambda image, d: warped(image, _at_centre(1, 0, 0.3 * d.m * d.sign, 1), GREY),
    "TranslateX": lambda image, d: warped(image, ((1, 0, 100 * d.m * d.sign), (0, 1, 0)), GREY),
    "TranslateY": lambda image, d: warped(image, ((1, 0, 0), (0, 1, 100 * d.m * d.sign)), GREY),
    "Cutout": lambda image, d: cut_out(image, int(40 * d.m), d.place),
    "SolarizeAdd": lambda image, d: added(image, int(110 * d.m)),
}
FLAVOURS = {"torchvision": TORCHVISION, "tf": TF}
OPERATIONS: tuple[tuple[str, str, Callable], ...] = tuple(
    (flavour, name, operation) for flavour, table in FLAVOURS.items() for name, operation in table.items()
)


def _share(image: np.ndarray, d: Draw) -> int:
    """torchvision's px of a translation."""
    return int(150 / 331 * image.shape[1] * d.m)


def _at_centre(a: float, b: float, c: float, d: float) -> tuple:
    """A matrix about the centre of the first pixel: tf's coordinates are those of centres."""
    return (a, b, (1 - a - b) / 2), (c, d, (1 - c - d) / 2)


def draw(chances: np.ndarray, magnitude: int, flavour: str) -> dict[str, np.ndarray]:
    """A plan's fields `operation`, `level`, `place` from uniform numbers (N, 4): any operation, any number of times."""
    start, count = [row[0] for row in OPERATIONS].index(flavour), len(FLAVOURS[flavour])
    return {
        "operation": (start + chances[:, 0] * count).astype(np.int32),
        "level": np.where(chances[:, 1] < 0.5, -magnitude, magnitude).astype(np.int32),
        "place": chances[:, 2:].astype(np.float32),
    }


def execute(image: np.ndarray, operation: np.ndarray, level: np.ndarray, place: np.ndarray) -> np.ndarray:
    """uint8 (S, S, 3) after a plan's operations; the image itself is left as it is."""
    for number, magnitude, where in zip(operation.tolist(), level.tolist(), place.tolist()):
        flavour, _, apply = OPERATIONS[number]
        image = apply(image, Draw(abs(magnitude) / LARGEST[flavour], -1 if magnitude < 0 else 1, tuple(where)))
    return image
