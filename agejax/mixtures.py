"""The mixture of several answers to one question: its mean, and its standard deviation. Numpy."""

from collections.abc import Sequence

import numpy as np

from data_pipelines.errors import UserError


def mean(values_MxN, weights: Sequence[float] | None = None) -> np.ndarray:
    """float64 (N,): the weighted mean of M answers."""
    weights_M = shares(len(values_MxN), weights)
    return weights_M @ np.asarray(values_MxN, np.float64)


def spread(values_MxN, spreads_MxN, weights: Sequence[float] | None = None) -> np.ndarray:
    """float64 (N,): standard deviation of the mixture of M distributions with these means and deviations."""
    weights_M = shares(len(values_MxN), weights)
    values_MxN, spreads_MxN = np.asarray(values_MxN, np.float64), np.asarray(spreads_MxN, np.float64)
    offset_MxN = values_MxN - (weights_M @ values_MxN)[None]
    return np.sqrt(weights_M @ (np.square(spreads_MxN) + np.square(offset_MxN)))


def shares(count: int, weights: Sequence[float] | None) -> np.ndarray:
    """float64 (M,), sum 1; all alike without weights. Raises UserError."""
    weights_M = np.ones(count) if weights is None else np.asarray(weights, np.float64)
    if len(weights_M) != count:
        raise UserError(f"{len(weights_M)} weights for {count} networks: give one each, or none")
    if not (np.isfinite(weights_M).all() and (weights_M >= 0).all() and weights_M.sum() > 0):
        raise UserError(f"weights must be 0 or more and not all 0, got {', '.join(f'{w:g}' for w in weights_M)}")
    return weights_M / weights_M.sum()
