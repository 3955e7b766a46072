"""The label grid l, and the ways from a label to a training target and back.

Array names carry their shape, here and wherever maths is done:

    B  examples in the batch        K  labels of the grid (or classes)
    H  image rows                   W  image columns
    C  channels                     N  faces or boxes

so `logits_BxK` is (B, K), and `label_B` is (B,) and never (B, 1). Functions of this module take and return at
least float32: bfloat16 is widened, float64 (with x64 on) is kept.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.errors import UserError

SMALLEST_SIGMA = 1e-10  # takes the place of σ = 0, as in the authors' code (train_net.lua, evaluation.lua)


@dataclasses.dataclass(frozen=True)
class LabelGrid:
    """Labels l_k = low + k·step for k = 0 … K-1, both ends included.

    Raises UserError where high - low is not a whole number of steps.
    """

    low: float = 0.0
    high: float = 100.0
    step: float = 1.0

    def __post_init__(self):
        steps = (self.high - self.low) / self.step if self.step > 0 else 0.0
        if round(steps) < 1 or abs(steps - round(steps)) > 1e-6 * steps:
            raise UserError(
                f"label grid {self.low:g} to {self.high:g} by {self.step:g} is not a whole number of steps: "
                "choose a positive step that divides high - low"
            )

    @property
    def size(self) -> int:
        """K."""
        return round((self.high - self.low) / self.step) + 1

    @property
    def values(self) -> np.ndarray:
        """float32 (K,)."""
        return self.as_array(np.float32)

    def as_array(self, dtype) -> np.ndarray:
        """(K,) in the given dtype, each label rounded once."""
        # counted, not np.arange(low, high, step), which may give one label too many or too few
        return (self.low + self.step * np.arange(self.size)).astype(dtype)

    def scored(self, scores_BxK: jax.Array) -> jax.Array:
        """The scores of outputs that are labels: all are. Grids of several trials are laid over each other
        (training/trials.py)."""
        return scores_BxK


AGE = LabelGrid(0.0, 100.0, 1.0)
SCUT = LabelGrid(1.0, 5.0, 0.1)
CFD = LabelGrid(1.0, 7.0, 0.1)
GRIDS = {"age": AGE, "scut": SCUT, "cfd": CFD}


def at_least_float32(x) -> jax.Array:
    """x in float32, or in float64 where it is float64 already."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def require_one_per_example(batch_size: int, **arrays_B) -> None:
    """Raises ValueError for a shape other than (B,): (B, 1) against (B,) broadcasts to (B, B) unnoticed."""
    for name, array in arrays_B.items():
        shape = jnp.shape(array)
        if shape != (batch_size,):
            raise ValueError(f"{name} has shape {shape}, expected ({batch_size},): one number per example")


def encode_distribution(grid: LabelGrid, label_B, sigma_B, normalise: bool = True) -> jax.Array:
    """Gaussian label distribution p_k ∝ exp(-(l_k - y)² / 2σ²).

    DLDL-v2 (Gao et al., IJCAI 2018), Eq. 1. As printed it is a density, p_k = exp(…) / (√(2π) σ), which sums
    to about 1/step and to less near the ends of the grid; the authors' code divides by the sum, and so does
    this function unless normalise=False. With σ = 0 off the grid the code gives 0/0; here it is the limit:
    all on the nearest label, and halves for a label exactly between two.

    Args:
      grid: K labels.
      label_B: (B,) y in the grid's units.
      sigma_B: (B,) σ in the same units, 0 or more.
      normalise: divide by the sum over the grid.

    Returns:
      (B, K) float32.
    """
    require_one_per_example(np.size(label_B), label=label_B, sigma=sigma_B)
    label_B = at_least_float32(label_B)
    sigma_B = jnp.maximum(at_least_float32(sigma_B), SMALLEST_SIGMA)
    z_BxK = (grid.as_array(label_B.dtype)[None, :] - label_B[:, None]) / sigma_B[:, None]
    log_p_BxK = -0.5 * jnp.square(z_BxK)
    if normalise:
        return jax.nn.softmax(log_p_BxK)  # in logs: the sum cannot underflow to 0
    return jnp.exp(log_p_BxK) / (math.sqrt(2 * math.pi) * sigma_B[:, None])


PENALTIES = {
    "absolute": lambda y, l: jnp.abs(y - l),
    "squared": lambda y, l: jnp.square(y - l),
    "squared_log": lambda y, l: jnp.square(jnp.log(y) - jnp.log(l)),
}


def encode_soft_labels(
    grid: LabelGrid,
    label_B,
    penalty: Literal["absolute", "squared", "squared_log"] = "absolute",
    temperature: float = 1.0,
) -> jax.Array:
    """Soft labels p_k ∝ exp(-φ(y, l_k) / τ), with φ = |y - l|, (y - l)² or (ln y - ln l)².

    For the logarithms labels are counted from 1 at the low end of the grid, as age 0 has none: 1 + y - low. The paper
    has no τ, which is 1 there. With φ = (y - l)² this is `encode_distribution` at σ = √(τ / 2).

    Args:
      grid: K labels.
      label_B: (B,) y in the grid's units.
      penalty: φ, a key of PENALTIES.
      temperature: τ, above 0, in the unit of φ.

    Returns:
      (B, K) float32, each row of sum 1.

    Reference: Díaz & Marathe, Soft Labels for Ordinal Regression (SORD), CVPR 2019.
    """
    require_one_per_example(np.size(label_B), label=label_B)
    y_B = at_least_float32(label_B) + (1 - grid.low)
    l_K = grid.as_array(y_B.dtype) + (1 - grid.low)
    return jax.nn.softmax(-PENALTIES[penalty](y_B[:, None], l_K[None, :]) / temperature)


def encode_minus_one_to_one(grid: LabelGrid, label_B) -> jax.Array:
    """(B,): the linear map of [low, high] to [-1, 1], the targets of metric regression (DLDL-v2 journal, §4.5.4)."""
    return 2 * (at_least_float32(label_B) - grid.low) / (grid.high - grid.low) - 1


def decode_minus_one_to_one(grid: LabelGrid, code_B) -> jax.Array:
    """(B,): the inverse of `encode_minus_one_to_one`, in the grid's units."""
    return grid.low + (grid.high - grid.low) * (at_least_float32(code_B) + 1) / 2


def nearest_index(grid: LabelGrid, label_B) -> jax.Array:
    """int32 (B,): argmin_k |y - l_k|, the lower of two equally near; -1 for NaN."""
    require_one_per_example(np.size(label_B), label=label_B)
    label_B = at_least_float32(label_B)
    distance_BxK = jnp.abs(label_B[:, None] - grid.as_array(label_B.dtype)[None, :])
    return jnp.where(jnp.isnan(label_B), -1, jnp.argmin(distance_BxK, axis=1)).astype(jnp.int32)


def encode_ranking(grid: LabelGrid, label_B) -> jax.Array:
    """(B, K-1) float32: 1 where y > l_k (strictly), for the first K-1 labels (DLDL-v2); NaN for NaN."""
    require_one_per_example(np.size(label_B), label=label_B)
    label_B = at_least_float32(label_B)
    above_BxJ = at_least_float32(label_B[:, None] > grid.as_array(label_B.dtype)[None, :-1])
    return jnp.where(jnp.isnan(label_B)[:, None], jnp.nan, above_BxJ)


def decode_ranking(grid: LabelGrid, probability_BxJ) -> jax.Array:
    """(B,) float32 labels from J = K-1 probabilities of y > l_k: l at the number of them above 0.5.

    The paper's rule; the authors' code counts >= 0.5, which differs for ties only.
    """
    shape = jnp.shape(probability_BxJ)
    if len(shape) != 2 or shape[1] != grid.size - 1:
        raise ValueError(f"ranking output has shape {shape}, expected (B, {grid.size - 1})")
    count_B = jnp.sum(jnp.asarray(probability_BxJ) > 0.5, axis=1)
    return jnp.asarray(grid.values)[count_B]


def survival(p_BxK) -> jax.Array:
    """(B, K-1): probability that the label is above l_k, 1 - T p, for the first K-1 labels.

    DLDL-v2, Eqs. 2-6 (ranking is label distribution learning). Both papers misprint T: T_ij = 1 for i <= j
    would sum from k on. A distribution function needs the LOWER triangle, j <= i: the inclusive cumsum.
    """
    return 1.0 - jnp.cumsum(at_least_float32(p_BxK), axis=1)[:, :-1]


def survival_of_gaussian(grid: LabelGrid, label_B, sigma_B) -> jax.Array:
    """(B, K): probability 1 - c_k that a Gaussian (y, σ) lies above l_k, c_k = ½ [1 + erf((l_k - y) / (√2 σ))], σ > 0.

    DLDL-v2, Eq. 2. At l_k = y it is ½ for every σ, where `encode_ranking` has 0; `survival` is about p_k / 2 less.
    """
    require_one_per_example(np.size(label_B), label=label_B, sigma=sigma_B)
    label_B, sigma_B = at_least_float32(label_B), at_least_float32(sigma_B)
    z_BxK = (grid.as_array(label_B.dtype)[None, :] - label_B[:, None]) / sigma_B[:, None]
    return jax.scipy.stats.norm.sf(z_BxK)


def expectation(p_BxK, grid: LabelGrid) -> jax.Array:
    """(B,): Σ_k p_k l_k in the grid's units. DLDL-v2, Eq. 10."""
    p_BxK = at_least_float32(p_BxK)
    # a product and a sum, not p @ l: accelerators multiply float32 matrices in fewer bits by default
    return jnp.sum(p_BxK * grid.as_array(p_BxK.dtype)[None, :], axis=1)


def variance(p_BxK, grid: LabelGrid) -> jax.Array:
    """(B,): Σ_k p_k (l_k - ŷ)² about the expectation ŷ, in the square of the grid's units."""
    p_BxK = at_least_float32(p_BxK)
    offset_BxK = grid.as_array(p_BxK.dtype)[None, :] - expectation(p_BxK, grid)[:, None]
    return jnp.sum(p_BxK * jnp.square(offset_BxK), axis=1)


def spread(p_BxK, grid: LabelGrid) -> jax.Array:
    """(B,): standard deviation √Σ_k p_k (l_k - ŷ)² of the distribution in the grid's units."""
    return jnp.sqrt(variance(p_BxK, grid))
