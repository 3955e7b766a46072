"""Executes augmentation plans on the device, inside jit: the same steps as data_pipelines.host, for a whole batch.

Bytes are rounded where the host rounds them: the luma of a grey plan, the warp, and the end. From canvas to crop a
pixel travels as one uint32, so that the warp reads four words a pixel and writes one. Array names: B images, T rows or
columns of a canvas, S of a crop, C channels, I rows and J columns of a 2×3 matrix, W width of a band.

Against host.execute on the same canvas and plan a value differs by at most one grey level, or two where the image is
degraded and jittered; with the default augmentation fewer than 1 in 500 differ. Each has its reason:

- Warp: both are bilinear in float32 (OpenCV 5), and a rounding falls the other way in 1 of 10,000 values.
- Jitter of an image that is not degraded: OpenCV rounds the factors to 1/1024, which moves 1 value in 20.
- Degradation: float32 sums in another order; 1 of 50,000. A jitter then makes two levels of one.
"""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import host
from data_pipelines.errors import UserError
from data_pipelines.plans import CONTRAST, ORDERS, SATURATION, Augmentation, Plan

LUMA_15 = (9798, 19235, 3735)  # OpenCV's cvtColor: host.LUMA in units of 2^-15
LARGEST_ZOOM = 0.5  # the host takes means of 2×2 pixels before it shrinks by 2 or more


def execute(canvas_BxTxTxC: jax.Array, plan: Plan, size: int, augmentation: Augmentation) -> jax.Array:
    """The crops that the plans describe: uint8 (B, size, size, 3) RGB from uint8 canvases (B, T, T, 3).

    plan: arrays (B, …) whose matrices lead to the canvas (plans.on_canvas); black outside of it. Steps that the
    augmentation never takes are not in the program. Raises UserError for what the host alone can do.
    """
    a = augmentation
    check(a)
    gray_B = plan.gray if a.gray else None
    word_BxSxS = _warp(_pack(canvas_BxTxTxC, gray_B), plan.matrix, size)
    word_BxSxS = jax.lax.optimization_barrier(word_BxSxS)  # not warped again for every channel
    level_BxSxCxS = jnp.stack([_channel(word_BxSxS, c) for c in range(3)], axis=2).astype(jnp.float32)
    if a.degrade < 1:
        level_BxSxCxS = _degrade(level_BxSxCxS, plan.degrade, size, a)
    if a.brightness or a.contrast or a.saturation:
        level_BxSxCxS = _recolour(level_BxSxCxS, plan)
    return jnp.round(level_BxSxCxS).clip(0, 255).astype(jnp.uint8).swapaxes(2, 3)


def refused(augmentation: Augmentation) -> str:
    """What of it the host alone can do, in words; "" where a device can do all."""
    if augmentation.zoom >= LARGEST_ZOOM:
        return f"zoom is {augmentation.zoom:g}; on a device it must be below {LARGEST_ZOOM}"
    return f"{what}, which only the host does" if (what := augmentation.host_only) else ""


def check(augmentation: Augmentation) -> None:
    """Raises UserError for what the host alone can do."""
    if what := refused(augmentation):
        raise UserError(f"augmentation: {what}: feed=host")


def _pack(canvas_BxTxTxC: jax.Array, gray_B: jax.Array | None) -> jax.Array:
    """uint32 (B, T + 2, T + 2): the bytes of a pixel in one word, grey where asked for, in a black frame."""
    channels = [canvas_BxTxTxC[..., c].astype(jnp.uint32) for c in range(3)]
    if gray_B is not None:
        luma = (sum(weight * x for weight, x in zip(LUMA_15, channels)) + (1 << 14)) >> 15
        channels = [jnp.where(gray_B[:, None, None], luma, x) for x in channels]
    red, green, blue = channels
    return jnp.pad(red | green << 8 | blue << 16, ((0, 0), (1, 1), (1, 1)))


def _channel(word: jax.Array, channel: int) -> jax.Array:
    return word >> (8 * channel) & 255


def _warp(word_BxTxT: jax.Array, matrix_BxIxJ: jax.Array, size: int) -> jax.Array:
    """Bilinear, in float32 and rounded to bytes, as cv2.warpAffine: uint32 (B, S, S)."""
    last = word_BxTxT.shape[1] - 1
    x_BxSxS, y_BxSxS = _source_pixels(matrix_BxIxJ, size)
    left, top = jnp.floor(x_BxSxS), jnp.floor(y_BxSxS)
    across, down = x_BxSxS - left, y_BxSxS - top
    column, row = left.astype(jnp.int32) + 1, top.astype(jnp.int32) + 1  # of the frame
    look = jax.vmap(lambda word, row, column: word.at[row, column].get(mode="promise_in_bounds"))

    def at(row, column):
        return look(word_BxTxT, row.clip(0, last), column.clip(0, last))

    corners = at(row, column), at(row, column + 1), at(row + 1, column), at(row + 1, column + 1)

    def blend(channel):
        a, b, c, d = (_channel(word, channel).astype(jnp.float32) for word in corners)
        upper, lower = a + across * (b - a), c + across * (d - c)
        return jnp.round(upper + down * (lower - upper)).astype(jnp.uint32)

    return blend(0) | blend(1) << 8 | blend(2) << 16


def _source_pixels(matrix_BxIxJ: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """x and y on the canvas of every output pixel: float32 (B, S, S)."""
    along = jnp.arange(size, dtype=jnp.float32)
    (a, b, c), (d, e, f) = (matrix_BxIxJ[:, i, :, None, None].swapaxes(0, 1) for i in range(2))
    x, y = along[None, None, :], along[None, :, None]
    return a * x + (b * y + c), d * x + (e * y + f)


def _degrade(level_BxSxCxS: jax.Array, degrade_B: jax.Array, size: int, augmentation: Augmentation) -> jax.Array:
    """Down to degrade_B px and up again, along both axes, unclipped."""
    down_BxSxS = _matrices(degrade_B, size, augmentation)
    product = partial(jnp.einsum, precision=_precision(jax.devices()[0]))
    return product("bicx,bkx->bick", product("bij,bjcx->bicx", down_BxSxS, level_BxSxCxS), down_BxSxS)


def _precision(device: jax.Device) -> jax.lax.Precision | jax.lax.DotAlgorithmPreset:
    """Of the degradation: never wrong by more than 0.005 of a grey level.

    Its 135 MFLOP an image of 224 px are on an H100 3 µs in float32, and 1 µs as three products of bfloat16 halves (from
    peak rates, not measured), which older GPUs do not have. TF32 alone is wrong by 0.2 of a level, bfloat16 by 1.6.
    """
    old = device.platform == "gpu" and device.compute_capability.startswith(("5.", "6.", "7."))
    if device.platform == "cpu" or old:
        return jax.lax.Precision.HIGHEST
    return jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X3


def _matrices(degrade_B: jax.Array, size: int, augmentation: Augmentation) -> jax.Array:
    """host.degradation_matrix of each: float32 (B, S, S), gathered as bands and skewed to whole matrices."""
    smallest = augmentation.smallest(size)
    bands = _bands(size, smallest, augmentation.resize)
    band_BxSxW, width = jnp.asarray(bands)[degrade_B - smallest], bands.shape[2]
    skewed = jnp.pad(band_BxSxW, ((0, 0), (0, 0), (0, size)))  # rows of W + S, read again as rows of W + S - 1
    skewed = skewed.reshape(len(skewed), -1)[:, : size * (width + size - 1)].reshape(len(skewed), size, -1)
    return skewed[:, :, width // 2 : width // 2 + size]


@lru_cache(maxsize=8)
def _bands(size: int, smallest: int, resize: str) -> np.ndarray:
    """host.degradation_matrix for smallest … size px, what is near its diagonal: float32 (targets, S, W), W odd.

    Entry (t, i, k) is row i, column i + k - W // 2. The matrices themselves would be 23 MB at 224 px, these are 1.5.
    """
    full = [host.degradation_matrix(size, target, resize) for target in range(smallest, size + 1)]
    margin = max(host.reach(matrix) for matrix in full)
    padded = np.pad(np.array(full, np.float32), ((0, 0), (0, 0), (margin, margin)))
    return np.stack([padded[:, i, i : i + 2 * margin + 1] for i in range(size)], axis=1)


def _recolour(level_BxSxCxS: jax.Array, plan: Plan) -> jax.Array:
    """host.colour_matrix, with the luma of a pixel taken once for its three channels."""
    luma_BxSxS = sum(weight * level_BxSxCxS[:, :, c] for c, weight in enumerate(host.LUMA))
    factors = _colour_factors(plan, luma_BxSxS.mean((1, 2)))
    own, luma, offset = (x_B[:, None, None, None] for x_B in factors)
    luma_BxSx1xS = luma_BxSxS[:, :, None]
    return own * (level_BxSxCxS - luma_BxSx1xS) + luma * luma_BxSx1xS + offset


def _colour_factors(plan: Plan, mean_B: jax.Array) -> tuple[jax.Array, ...]:
    """As host._colour_factors, for each image: own, luma, offset (B,)."""
    own, luma, offset = jnp.ones_like(mean_B), jnp.ones_like(mean_B), jnp.zeros_like(mean_B)
    operation_Bx3 = jnp.asarray(ORDERS)[plan.order]
    factor_Bx3 = jnp.take_along_axis(plan.colour, operation_Bx3, axis=1)
    for step in range(3):
        operation, factor = operation_Bx3[:, step], factor_Bx3[:, step]
        own, tone = own * factor, operation != SATURATION
        reference = jnp.where(operation == CONTRAST, luma * mean_B + offset, 0)
        offset = jnp.where(tone, offset * factor + (1 - factor) * reference, offset)
        luma = jnp.where(tone, luma * factor, luma)
    return own, luma, offset
