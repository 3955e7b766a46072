"""Executes plans on the host: decode, ONE warp, at most one degradation, colour, RandAugment.

Bytes are rounded twice, after the warp and at the end; in between nothing is clipped, as in the DLDL-v2 code. A turn of
the hue rounds and clips them before and after itself, and so does each operation of RandAugment.
A plan in grey is executed on one channel: the luma of the source, which a JPEG holds as it is.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np

from data_pipelines import randaugment
from data_pipelines.plans import CONTRAST, ORDERS, SATURATION, Plan

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, of RGB
BLOCK = 8  # rows per matrix product: so small that OpenBLAS starts no threads of its own inside a worker
GRAY_FLAGS = {
    1: cv2.IMREAD_GRAYSCALE,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
RGB_FLAGS = {reduction: flag | cv2.IMREAD_COLOR_RGB for reduction, flag in GRAY_FLAGS.items()}


def decode(data: bytes, reduction: int = 1, gray: bool = False) -> np.ndarray:
    """JPEG or PNG bytes → uint8 (H, W, 3) RGB, upright (EXIF applied), grey and CMYK too, alpha dropped.

    reduction 2, 4 or 8 gives ceil(H / reduction) rows, each the mean of that many; gray gives the luma, (H, W).
    Raises ValueError.
    """
    if reduction > 1 and not _is_reducible(data):
        return _shrink(decode(data, gray=gray), reduction)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), (GRAY_FLAGS if gray else RGB_FLAGS)[reduction])
    except cv2.error as error:  # an empty buffer, or more pixels than OpenCV allows
        raise ValueError(f"the image cannot be decoded ({error.err or 'OpenCV refused it'})") from None
    if image is None:
        raise ValueError("the image cannot be decoded (truncated, or neither JPEG nor PNG)")
    return image


def execute(
    image: bytes | np.ndarray,
    plan: Plan,
    size: int,
    resize: Literal["antialias", "torch7"] = "antialias",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The crop that the plan describes: uint8 (size, size, 3) RGB, rounded and clipped at the end.

    image is encoded bytes or decoded RGB; black outside of it. Where the source has twice or more the
    resolution of the crop it is first reduced by 2, 4 or 8: a bilinear warp alone would alias. `out` takes the crop
    where it is to lie in a batch. Raises ValueError.
    """
    pixels, matrix = _at_scale(image, plan.matrix.astype(np.float64), bool(plan.gray))
    if plan.degrade == size:
        crop = _warp(pixels, matrix, size)
    else:
        transposed = _warp(pixels, matrix[:, [1, 0, 2]], size)
        crop = _degrade(transposed, _degradation(size, int(plan.degrade), resize))
    crop = _rehue(crop, plan, out) if plan.hue and not plan.gray else _recolour(crop, plan, out)
    if not len(plan.operation):
        return crop
    return _placed(randaugment.execute(crop, plan.operation, plan.level, plan.place), out)


def _warp(pixels: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Black outside. OpenCV warps four channels in half the time of three, to the same bytes."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    if pixels.ndim == 2:
        return cv2.warpAffine(pixels, matrix, (size, size), flags=flags)  # border: constant 0
    pixels, matrix = _needed(pixels, matrix, size)
    four = cv2.warpAffine(cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA), matrix, (size, size), flags=flags)
    return cv2.cvtColor(four, cv2.COLOR_RGBA2RGB)


def _needed(pixels: np.ndarray, matrix: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of the source that the crop shows (at least one pixel), and the matrix to it."""
    matrix = matrix.copy()
    spans = []
    for (across, down, start), length in zip(matrix.tolist(), (pixels.shape[1], pixels.shape[0])):
        first = math.floor(start + min(0.0, across * size) + min(0.0, down * size))
        last = math.ceil(start + max(0.0, across * size) + max(0.0, down * size))
        first = min(max(first, 0), length - 1)
        spans.append(slice(first, min(max(last, first) + 1, length)))
    matrix[:, 2] -= (spans[0].start, spans[1].start)
    return pixels[spans[1], spans[0]], matrix


def colour_matrix(plan: Plan, mean: Sequence[float]) -> np.ndarray:
    """Grey, brightness, contrast and saturation in one affine map: float64 (3, 4), out = M @ (r, g, b, 1).

    mean (3,) are the channel means of the image. Each jitter is factor·image + (1 - factor)·ref with ref 0
    (brightness), the mean luma of the image at that moment (contrast), the luma of the pixel (saturation).
    """
    (red, green, blue), (r, g, b) = LUMA, mean
    own, luma, offset = _colour_factors(plan, red * r + green * g + blue * b)
    red, green, blue = (luma - own) * red, (luma - own) * green, (luma - own) * blue
    return np.array(
        [(own + red, green, blue, offset), (red, own + green, blue, offset), (red, green, own + blue, offset)]
    )


def _colour_factors(plan: Plan, mean_luma: float) -> tuple[float, float, float]:
    """(o, l, c): a channel x of a pixel of luma y becomes o·(x - y) + l·y + c.

    Every jitter keeps that form, and makes l·y + c of the luma y: so the mean luma is known at any moment.
    """
    own, luma, offset = 0.0 if plan.gray else 1.0, 1.0, 0.0
    factors = plan.colour.tolist()
    for operation in ORDERS[plan.order].tolist():
        factor = factors[operation]
        own *= factor
        if operation == SATURATION:
            continue
        reference = luma * mean_luma + offset if operation == CONTRAST else 0.0
        luma, offset = luma * factor, offset * factor + (1 - factor) * reference
    return own, luma, offset


def resample_matrix(source: int, target: int, resize: Literal["antialias", "torch7"]) -> np.ndarray:
    """Bicubic resampling (Catmull-Rom, a = -0.5) of a row of `source` samples: float64 (target, source).

    antialias: half-pixel centres, the kernel widened when shrinking, as PIL and tf.image have it. torch7:
    aligned corners, never widened, the row extended by one sample linearly, as torch/image has it; target ≥ 2.
    """
    if resize == "torch7":
        at = np.arange(target) * (source - 1) / (target - 1)
        weights = _cubic(at[:, None] - np.arange(-1, source + 1))
        inner = weights[:, 1:-1].copy()
        inner[:, :2] += weights[:, :1] * (2, -1)
        inner[:, -2:] += weights[:, -1:] * (-1, 2)
        return inner
    width = max(1.0, source / target)
    at = (np.arange(target) + 0.5) * source / target - 0.5
    weights = _cubic((at[:, None] - np.arange(source)) / width)
    return weights / weights.sum(axis=1, keepdims=True)


def _cubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def degradation_matrix(size: int, degrade: int, resize: Literal["antialias", "torch7"]) -> np.ndarray:
    """A row of `size` samples down to `degrade` and up again: float64 (size, size), zero far from the diagonal."""
    return resample_matrix(degrade, size, resize) @ resample_matrix(size, degrade, resize)


def reach(matrix: np.ndarray) -> int:
    """How far from the diagonal there is anything but zeros."""
    rows, columns = np.nonzero(matrix)
    return int(np.abs(rows - columns).max())


@lru_cache(maxsize=1024)
def _degradation(size: int, degrade: int, resize: str) -> np.ndarray:
    """degradation_matrix as a band: float32 (blocks, BLOCK, BLOCK + 2·margin).

    Block b holds rows b·BLOCK …, columns b·BLOCK - margin …; all other columns are zero.
    """
    full = degradation_matrix(size, degrade, resize)
    margin = reach(full)
    blocks = -(-size // BLOCK)
    padded = np.zeros((blocks * BLOCK, blocks * BLOCK + 2 * margin), np.float32)
    padded[:size, margin : margin + size] = full
    width = BLOCK + 2 * margin
    return np.stack([padded[b : b + BLOCK, b : b + width] for b in range(0, blocks * BLOCK, BLOCK)])


def _degrade(transposed: np.ndarray, band: np.ndarray) -> np.ndarray:
    """The matrix of _degradation along both axes: (S, S) or (S, S, 3) → float32 of that shape, turned upright."""
    shape, size, row = transposed.shape, len(transposed), transposed[0].size
    margin = (band.shape[2] - BLOCK) // 2
    padded = np.zeros((len(band) * BLOCK + 2 * margin, row), np.float32)
    inner = padded[margin : margin + size].reshape(shape)
    inner[:] = transposed
    cv2.transpose(_multiply(band, padded)[:size].reshape(shape), dst=inner)
    return _multiply(band, padded)[:size].reshape(shape)


def _multiply(band: np.ndarray, padded: np.ndarray) -> np.ndarray:
    """The banded matrix times (rows + 2·margin, columns), whose first and last `margin` rows are 0."""
    blocks, _, width = band.shape
    step, item = padded.strides
    windows = np.lib.stride_tricks.as_strided(padded, (blocks, width, padded.shape[1]), (BLOCK * step, step, item))
    return (band @ windows).reshape(blocks * BLOCK, -1)


def _recolour(image: np.ndarray, plan: Plan, out: np.ndarray | None) -> np.ndarray:
    """uint8 or float32, (S, S, 3) or the luma alone → uint8 (S, S, 3), rounded and clipped, in `out` if given."""
    gray = image.ndim == 2
    last = None if gray else out
    if plan.colour.tolist() != [1, 1, 1]:
        mean = cv2.mean(image)
        matrix = np.array([_colour_factors(plan, mean[0])[1:]]) if gray else colour_matrix(plan, mean[:3])
        image = cv2.transform(image, matrix, dst=last if image.dtype == np.uint8 else None)
    if image.dtype != np.uint8:  # cv2.add(image, 0, dtype=cv2.CV_8U) is one step, but takes twice the time
        image = cv2.convertScaleAbs(cv2.threshold(image, 0, 0, cv2.THRESH_TOZERO, dst=image)[1], dst=last)
    if gray:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB, dst=out)
    return _placed(image, out)


def _rehue(image: np.ndarray, plan: Plan, out: np.ndarray | None) -> np.ndarray:
    """_recolour with the hue among the jitters."""
    sooner = np.argsort(ORDERS[plan.order]) < plan.hue_after  # of brightness, contrast, saturation
    one = np.float32(1)
    image = _recolour(image, plan._replace(colour=np.where(sooner, plan.colour, one)), None)
    return _recolour(turn_hue(image, float(plan.hue)), plan._replace(colour=np.where(sooner, one, plan.colour)), out)


def turn_hue(image: np.ndarray, share: float) -> np.ndarray:
    """uint8 RGB with its hue (of HSV) turned by a share of the circle, rounded: as torchvision's adjust_hue."""
    hsv = cv2.cvtColor(image.astype(np.float32) * np.float32(1 / 255), cv2.COLOR_RGB2HSV)  # degrees, 0 to 1, 0 to 1
    hsv[..., 0] = (hsv[..., 0] + np.float32(360 * share)) % np.float32(360)
    return cv2.convertScaleAbs(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), alpha=255)


def _placed(image: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """The image, in `out` if given."""
    if out is None or image is out:
        return image
    np.copyto(out, image)
    return out


def _at_scale(image: bytes | np.ndarray, matrix: np.ndarray, gray: bool) -> tuple[np.ndarray, np.ndarray]:
    """The decoded image, reduced where it has too many pixels per output pixel, and the matrix to it."""
    (a, b, _), (c, d, _) = matrix.tolist()
    scale = math.sqrt(abs(a * d - b * c))
    reduction = next((n for n in (8, 4, 2) if scale >= n), 1)
    if isinstance(image, bytes):
        return decode(image, reduction, gray), _reduced(matrix, reduction)
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if gray else image
    return _shrink(pixels, reduction), _reduced(matrix, reduction)


def _reduced(matrix: np.ndarray, reduction: int) -> np.ndarray:
    """Pixel k of a reduced image covers reduction·k … reduction·(k+1): x_r = (x + 0.5) / reduction - 0.5."""
    half = np.array([0, 0, 0.5])
    return (matrix + half) / reduction - half if reduction > 1 else matrix


def _shrink(image: np.ndarray, reduction: int) -> np.ndarray:
    """Means of reduction x reduction pixels; the last row and column are repeated to fill the last mean."""
    if reduction == 1:
        return image
    height, width = image.shape[:2]
    below, right = -height % reduction, -width % reduction
    if below or right:
        image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE)
    return cv2.resize(image, None, fx=1 / reduction, fy=1 / reduction, interpolation=cv2.INTER_AREA)


def _is_reducible(data: bytes) -> bool:
    """Whether the decoder itself can reduce, which takes the mean of whole pixels only for JPEG.

    Not where EXIF turns the image: the partly filled blocks of the right and lower edge would shift it.
    """
    at = 2
    while data[:2] == b"\xff\xd8" and data[at : at + 1] == b"\xff":
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:  # start of scan: no EXIF found
            return True
        if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            return _exif_orientation(data[at + 10 : end]) == 1
        at = end
    return False


def _exif_orientation(tiff: bytes) -> int:
    """Tag 0x0112 of the first directory; 1 = upright, also where there is no such tag."""
    order = "little" if tiff[:2] == b"II" else "big"
    start = int.from_bytes(tiff[4:8], order)
    count = int.from_bytes(tiff[start : start + 2], order)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        if int.from_bytes(tiff[at : at + 2], order) == 0x0112:
            return int.from_bytes(tiff[at + 8 : at + 10], order)
    return 1
