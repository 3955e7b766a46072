"""Executes plans on the host: decode, ONE warp, at most one degradation, colour.

Bytes are rounded twice, after the warp and at the end; in between nothing is clipped, as in the DLDL-v2 code.
"""

from functools import lru_cache
from typing import Literal

import cv2
import numpy as np

from data_pipelines.plans import BRIGHTNESS, CONTRAST, ORDERS, Plan

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, of RGB
BLOCK = 8  # rows per matrix product: so small that OpenBLAS starts no threads of its own inside a worker
# As OpenCV writes them, REDUCED flags contain IMREAD_COLOR_BGR (1), which excludes IMREAD_COLOR_RGB.
DECODE_FLAGS = {
    reduction: (flag & ~cv2.IMREAD_COLOR_BGR) | cv2.IMREAD_COLOR_RGB
    for reduction, flag in (
        (1, cv2.IMREAD_COLOR_RGB),
        (2, cv2.IMREAD_REDUCED_COLOR_2),
        (4, cv2.IMREAD_REDUCED_COLOR_4),
        (8, cv2.IMREAD_REDUCED_COLOR_8),
    )
}


def decode(data: bytes, reduction: int = 1) -> np.ndarray:
    """JPEG or PNG bytes → uint8 (H, W, 3) RGB, upright (EXIF applied), grey and CMYK too, alpha dropped.

    reduction 2, 4 or 8 gives ceil(H / reduction) rows, each the mean of that many. Raises ValueError.
    """
    if reduction > 1 and not _is_reducible(data):
        return _shrink(decode(data), reduction)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), DECODE_FLAGS[reduction])
    except cv2.error as error:  # an empty buffer, or more pixels than OpenCV allows
        raise ValueError(f"the image cannot be decoded ({error.err or 'OpenCV refused it'})") from None
    if image is None:
        raise ValueError("the image cannot be decoded (truncated, or neither JPEG nor PNG)")
    return image


def execute(
    image: bytes | np.ndarray, plan: Plan, size: int, resize: Literal["antialias", "torch7"] = "antialias"
) -> np.ndarray:
    """The crop that the plan describes: uint8 (size, size, 3) RGB, rounded and clipped at the end.

    image is encoded bytes or decoded RGB; black outside of it. Where the source has twice or more the
    resolution of the crop it is first reduced by 2, 4 or 8: a bilinear warp alone would alias. Raises ValueError.
    """
    pixels, matrix = _at_scale(image, plan.matrix.astype(np.float64))
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    crop = cv2.warpAffine(pixels, matrix, (size, size), flags=flags)  # border: constant 0
    if plan.degrade == size:
        return _recolour(crop, plan)
    band = _degradation(size, int(plan.degrade), resize)
    transposed = _apply(band, cv2.transpose(_apply(band, crop)))
    return cv2.transpose(_recolour(transposed, plan))  # back only now: bytes are cheaper to turn than floats


def colour_matrix(plan: Plan, mean: np.ndarray) -> np.ndarray:
    """Grey, brightness, contrast and saturation in one affine map: float64 (3, 4), out = M @ (r, g, b, 1).

    mean (3,) are the channel means of the image. Each jitter is factor·image + (1 - factor)·ref with ref 0
    (brightness), the mean luma of the image at that moment (contrast), the luma of the pixel (saturation);
    the mean luma follows from `mean`, because every earlier step was affine too.
    """
    m = np.zeros((3, 4))
    m[:, :3] = LUMA if plan.gray else np.eye(3)
    for operation in ORDERS[plan.order]:
        factor = float(plan.colour[operation])
        luma = LUMA @ m
        m *= factor
        if operation == CONTRAST:
            m[:, 3] += (1 - factor) * (luma[:3] @ mean + luma[3])
        elif operation != BRIGHTNESS:
            m += (1 - factor) * luma
    return m


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


@lru_cache(maxsize=1024)
def _degradation(size: int, degrade: int, resize: str) -> np.ndarray:
    """Down to `degrade` and up again as one banded matrix: float32 (blocks, BLOCK, BLOCK + 2·margin).

    Block b holds rows b·BLOCK …, columns b·BLOCK - margin …; all other columns are zero.
    """
    full = resample_matrix(degrade, size, resize) @ resample_matrix(size, degrade, resize)
    rows, columns = np.nonzero(full)
    margin = int(np.abs(rows - columns).max())
    blocks = -(-size // BLOCK)
    padded = np.zeros((blocks * BLOCK, blocks * BLOCK + 2 * margin), np.float32)
    padded[:size, margin : margin + size] = full
    width = BLOCK + 2 * margin
    return np.stack([padded[b : b + BLOCK, b : b + width] for b in range(0, blocks * BLOCK, BLOCK)])


def _apply(band: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The matrix of _degradation times the columns of an image: (S, S, 3) → float32 (S, S, 3)."""
    size = len(image)
    blocks, _, width = band.shape
    margin = (width - BLOCK) // 2
    rows = np.zeros((blocks * BLOCK + 2 * margin, size * 3), np.float32)
    rows[margin : margin + size] = image.reshape(size, size * 3)
    step, item = rows.strides
    windows = np.lib.stride_tricks.as_strided(rows, (blocks, width, size * 3), (BLOCK * step, step, item))
    return (band @ windows).reshape(-1, size, 3)[:size]


def _recolour(image: np.ndarray, plan: Plan) -> np.ndarray:
    """uint8 or float32 (S, S, 3) → uint8, rounded and clipped."""
    if plan.gray or (plan.colour != 1).any():
        image = cv2.transform(image, colour_matrix(plan, np.array(cv2.mean(image)[:3])))
    return image if image.dtype == np.uint8 else cv2.add(image, 0.0, dtype=cv2.CV_8U)


def _at_scale(image: bytes | np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The decoded image, reduced where it has too many pixels per output pixel, and the matrix to it."""
    scale = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    reduction = next((n for n in (8, 4, 2) if scale >= n), 1)
    if isinstance(image, np.ndarray):
        return _shrink(image, reduction), _reduced(matrix, reduction)
    return decode(image, reduction), _reduced(matrix, reduction)


def _reduced(matrix: np.ndarray, reduction: int) -> np.ndarray:
    """Pixel k of a reduced image covers reduction·k … reduction·(k+1): x_r = (x + 0.5) / reduction - 0.5."""
    half = np.array([0, 0, 0.5])
    return (matrix + half) / reduction - half


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
