"""Weights of the loss by how rare a label is: inverse frequency, and label-distribution smoothing.

Yang, Zha, Chen, Wang, Katabi: Delving into Deep Imbalanced Regression, ICML 2021, section 3.1 (LDS), and its code
(YyzHarry/imbalanced-regression, agedb-dir/datasets.py, _prepare_weights). Examples are counted in bins of labels: n_b.

    m_b = clip(n_b, 5, 1000) where power is 1, else n_b^power      the order of the code: first the root, then smoothing
    s_b = Σ_k kernel(k) · m_(b+k), kernel(0) = 1                   s_b = m_b without smoothing
    w_i = c / s_(bin of i), c such that the mean of w over the training set is 1

Deviations from the code: a label belongs to the nearest bin (the code cuts it off to whole years), bins go on beyond
120 years, and the smoothed counts are not cut off to whole numbers where power is 1 (in the code the counts are
integers then, and so is what scipy makes of them).
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.samplers import nearest

CLIPPED = (5, 1000)


class Table(NamedTuple):
    """Weights of labels, as arrays: what a step is given."""

    first_C: jax.Array
    """float32, ascending: the smallest label of each bin that has examples."""
    weight_C: jax.Array
    """float32."""


def weight_of(table: Table, label_B: jax.Array) -> jax.Array:
    """float32 (B,); inside jit."""
    bin_B = jnp.searchsorted(jnp.asarray(table.first_C), label_B, side="right") - 1
    return jnp.asarray(table.weight_C)[bin_B.clip(0)]


def padded(tables: list[Table]) -> Table:
    """Tables of several trials as one with a leading axis T; no label reaches the bins that some lack."""
    size = max(len(table.first_C) for table in tables)

    def wide(name, value):
        rows = [np.pad(x := getattr(t, name), (0, size - len(x)), constant_values=value) for t in tables]
        return np.stack(rows)

    return Table(wide("first_C", np.inf), wide("weight_C", 1))


@dataclass(frozen=True)
class Even:
    """All examples count alike."""

    def table(self, labels: np.ndarray) -> Table | None:
        """The weights for a training set with these labels; None: all 1."""
        return None


@dataclass(frozen=True)
class InverseFrequency:
    """The rarer a label, the more its examples count: weights 1 / n_b^power, with n_b cut to 5 … 1000 for power 1."""

    power: float = 1.0
    """1, or 0.5 for the square root."""
    bin: float = 1.0
    """Width of a bin in the label's unit; bins as those of the order ClassBalanced."""

    def __post_init__(self):
        _check(0 < self.power <= 1, self, "power", "above 0, at most 1")
        _check(0 < self.bin < math.inf, self, "bin", "above 0")

    def table(self, labels: np.ndarray) -> Table:
        return _table(labels, self.bin, self.power, np.ones(1))


@dataclass(frozen=True)
class SmoothedFrequency:
    """InverseFrequency of counts smoothed over neighbouring labels: LDS of Yang et al., ICML 2021."""

    kernel: Literal["gaussian", "triangular", "laplace"] = "gaussian"
    width: int = 5
    """Of the kernel: an odd number of bins."""
    sigma: float = 2.0
    """Of the kernel, in bins; a triangular one has none."""
    power: float = 1.0
    """1, or 0.5 for the square root."""
    bin: float = 1.0
    """Width of a bin in the label's unit; bins as those of the order ClassBalanced."""

    def __post_init__(self):
        _check(self.kernel in KERNELS, self, "kernel", " or ".join(KERNELS))
        _check(self.width > 0 and self.width % 2 == 1, self, "width", "an odd number above 0")
        _check(0 < self.sigma < math.inf, self, "sigma", "above 0")
        _check(0 < self.power <= 1, self, "power", "above 0, at most 1")
        _check(0 < self.bin < math.inf, self, "bin", "above 0")

    def table(self, labels: np.ndarray) -> Table:
        window = KERNELS[self.kernel](self.width, self.sigma)
        return _table(labels, self.bin, self.power, window / window.max())


def _check(good: bool, options, name: str, allowed: str) -> None:
    if not good:
        kind = type(options).__name__
        raise UserError(f"weighting {kind}: {name} is {getattr(options, name)!r}, allowed: {allowed}")


def _table(labels: np.ndarray, width: float, power: float, window: np.ndarray) -> Table:
    """Of the labels (n,); window: the kernel, odd in length, 1 in its middle."""
    labels, margin = np.asarray(labels, np.float32), len(window) // 2
    bins = nearest(labels, width)
    known, inverse, count = np.unique(bins, return_inverse=True, return_counts=True)
    low = min(0, int(known[0]))  # no label is below 0; above, empty bins count, too, where counts are clipped
    counts_K = np.bincount(bins - low, minlength=int(known[-1]) - low + 1 + margin).astype(np.float64)
    level_K = counts_K.clip(*CLIPPED) if power == 1 else counts_K**power
    smooth_K = np.convolve(level_K, window)[margin:]
    weight_C = 1 / smooth_K[known - low]
    first_C = np.full(len(known), np.inf, np.float32)
    np.minimum.at(first_C, inverse, labels)
    return Table(first_C, (weight_C * len(labels) / (weight_C @ count)).astype(np.float32))


def gaussian(width: int, sigma: float) -> np.ndarray:
    """(width,): a 1 among zeros after the code's scipy.ndimage.gaussian_filter1d, which reflects it at both ends."""
    radius = int(4 * sigma + 0.5)
    density = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    delta = np.pad(np.eye(1, width, width // 2)[0], radius, mode="symmetric")
    return np.convolve(delta, density / density.sum(), mode="valid")


def triangular(width: int, sigma: float) -> np.ndarray:
    """(width,): 1, 2, …, (width + 1) / 2, …, 2, 1; sigma does not count."""
    half = width // 2
    return half + 1.0 - np.abs(np.arange(-half, half + 1))


def laplace(width: int, sigma: float) -> np.ndarray:
    """(width,): exp(-|k| / sigma)."""
    half = width // 2
    return np.exp(-np.abs(np.arange(-half, half + 1)) / sigma)


KERNELS = {"gaussian": gaussian, "triangular": triangular, "laplace": laplace}
WEIGHTINGS = {"Even": Even, "InverseFrequency": InverseFrequency, "SmoothedFrequency": SmoothedFrequency}
