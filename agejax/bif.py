"""Biologically inspired features: what simple and complex cells of the visual cortex tell of a face, for age.

Guo, Mu, Fu & Huang, "Human Age Estimation Using Bio-inspired Features", CVPR 2009. A band is a pair of neighbouring
scales: S1 are the responses to Gabor filters of several orientations, C1 their maximum over the two scales and then
the standard deviation over cells that overlap by half. Sizes and cells are those of OpenCV's `face.BIF`, whose numbers
these are; the length that papers print, 4616 for 6 bands and 8 orientations, no grid gives.

Array names: B images, H and W pixels, R orientations, I × J cells, F features.
"""

from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.errors import UserError

SIZE = 60  # pixels a side, in the code of the label distribution papers
ASPECT = 0.3  # γ of the Gabor filters


class Band(NamedTuple):
    """Two scales and the cells that they are pooled over."""

    sizes: tuple[int, int]
    """Of the filters, pixels."""
    sigmas: tuple[float, float]
    wavelengths: tuple[float, float]
    cell: int
    """Pixels a side; half of it to the next cell."""


BANDS = (
    Band((5, 7), (2.0, 2.8), (2.5, 3.5), 6),
    Band((9, 11), (3.6, 4.5), (4.6, 5.6), 8),
    Band((13, 15), (5.4, 6.3), (6.8, 7.9), 10),
    Band((17, 19), (7.3, 8.2), (9.1, 10.3), 12),
    Band((21, 23), (9.2, 10.2), (11.5, 12.7), 14),
    Band((25, 27), (11.3, 12.3), (14.1, 15.4), 16),
    Band((29, 31), (13.4, 14.6), (16.8, 18.2), 18),
    Band((33, 35), (15.8, 17.0), (19.7, 21.2), 20),
)


def gabor(size: int, sigma: float, wavelength: float, angle: float) -> np.ndarray:
    """exp(-(X² + γ²Y²) / 2σ²) cos(2πX / λ), float64 (size, size), with X = x cos θ + y sin θ, Y = y cos θ - x sin θ.

    `angle` is θ in radians; x goes right, y down, from the centre.
    """
    half = np.arange(size) - size // 2
    x, y = half[None, :], half[:, None]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    envelope = np.exp(-(along**2 + ASPECT**2 * across**2) / (2 * sigma**2))
    return envelope * np.cos(2 * np.pi * along / wavelength)


def dimension(height: int = SIZE, width: int = SIZE, bands: int = 6, orientations: int = 8) -> int:
    """F."""
    halves = [band.cell // 2 for band in BANDS[:bands]]
    return orientations * sum(-(-height // half) * -(-width // half) for half in halves)


def features(image_BxHxW, bands: int = 6, orientations: int = 8) -> jax.Array:
    """float32 (B, F) of grey images, of any range; by orientation, then band, then cell, row by row.

    A filter sees the image mirrored beyond its border, without the border pixel again. Responses keep their sign, as in
    OpenCV; HMAX takes their absolute values. Raises UserError for bands or orientations that there are not.
    """
    if not (1 <= bands <= len(BANDS) and orientations >= 1):
        raise UserError(f"BIF has 1 to {len(BANDS)} bands and 1 or more orientations, got {bands} and {orientations}")
    return _features(jnp.asarray(image_BxHxW, jnp.float32), bands, orientations)


@partial(jax.jit, static_argnums=(1, 2))
def _features(image_BxHxW: jax.Array, bands: int, orientations: int) -> jax.Array:
    found = []
    for band in BANDS[:bands]:
        c1_BxHxWxR = jnp.maximum(*(_respond(image_BxHxW, band, scale, orientations) for scale in (0, 1)))
        std_BxIxJxR = _stds_of_cells(c1_BxHxWxR, band.cell // 2)
        found.append(jnp.moveaxis(std_BxIxJxR, 3, 1).reshape(len(image_BxHxW), orientations, -1))
    return jnp.concatenate(found, axis=2).reshape(len(image_BxHxW), -1)


def _respond(image_BxHxW: jax.Array, band: Band, scale: int, orientations: int) -> jax.Array:
    """S1: (B, H, W, R)."""
    bank = _bank(band.sizes[scale], band.sigmas[scale], band.wavelengths[scale], orientations)
    half = band.sizes[scale] // 2
    padded = jnp.pad(image_BxHxW, ((0, 0), (half, half), (half, half)), mode="reflect")[..., None]
    axes = ("NHWC", "HWIO", "NHWC")
    exact = jax.lax.Precision.HIGHEST
    return jax.lax.conv_general_dilated(padded, bank, (1, 1), "VALID", dimension_numbers=axes, precision=exact)


@lru_cache(maxsize=2 * len(BANDS))
def _bank(size: int, sigma: float, wavelength: float, orientations: int) -> np.ndarray:
    """float32 (size, size, 1, R), with the factor γ / 2σ² of OpenCV."""
    every = [gabor(size, sigma, wavelength, np.pi * r / orientations) for r in range(orientations)]
    return (np.stack(every, axis=-1)[:, :, None, :] * ASPECT / (2 * sigma**2)).astype(np.float32)


def _stds_of_cells(map_BxHxWxR: jax.Array, half: int) -> jax.Array:
    """Population standard deviations (B, I, J, R) of cells of 2·half px around the pixels 0, half, 2·half, … of both
    axes, cut off at the border.

    A cell is four blocks of half × half px: their moments are merged (Chan et al. 1979), as Σx² - (Σx)² / n would lose
    all digits where a picture is flat.
    """
    count, mean, squares = _blocks(map_BxHxWxR, half)

    def four(x):  # cell (i, j) is blocks i - 1 and i, j - 1 and j
        x = jnp.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0)))
        return x[:, :-1, :-1], x[:, 1:, :-1], x[:, :-1, 1:], x[:, 1:, 1:]

    total = sum(four(count))
    mean_of_cell = sum(four(count * mean)) / total
    between = sum(n * jnp.square(m - mean_of_cell) for n, m in zip(four(count), four(mean)))
    return jnp.sqrt((sum(four(squares)) + between) / total)


def _blocks(map_BxHxWxR: jax.Array, half: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(pixels, mean, sum of squared distances from the mean) of blocks of half × half px; the last may be smaller."""
    height, width = map_BxHxWxR.shape[1:3]
    rows, columns = -(-height // half), -(-width // half)

    def cut(x):
        x = jnp.pad(x, ((0, 0), (0, rows * half - height), (0, columns * half - width), (0, 0)))
        return x.reshape(len(x), rows, half, columns, half, -1)

    mask, x = cut(jnp.ones((1, height, width, 1))), cut(map_BxHxWxR)
    count = mask.sum((2, 4))
    mean = x.sum((2, 4)) / count
    squares = (mask * jnp.square(x - mean[:, :, None, :, None])).sum((2, 4))
    return count, mean, squares
