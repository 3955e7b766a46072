"""Numbers of a table, from saved predictions."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from agejax import metrics
from agejax.metrics import AGE_GROUPS


class Answers(NamedTuple):
    """What T trained networks said of the same n examples; in the label's unit."""

    label: np.ndarray
    """float64 (n,)"""
    sigma: np.ndarray
    """float64 (n,); NaN = not known."""
    predicted: np.ndarray
    """float64 (T, n)"""
    lost: int = 0
    """Trainings that diverged, and are not among the T."""


class Measured(NamedTuple):
    """A number of a table; over trials their mean."""

    value: float
    interval: tuple[float, float] | None
    """95 %, over examples and trials; None: a count, or a time."""
    sd: float | None
    """Over trials; None: there is one."""
    trials: int


Measure = Callable[[np.ndarray, np.ndarray, np.ndarray], float | None]  # (label, predicted, sigma) → number


def _of_group(name: str) -> Measure:
    return lambda label, predicted, sigma: metrics.mae_by_age_group(label, predicted)[name]["mae"]


def _within(years: int) -> Measure:
    return lambda label, predicted, sigma: 100 * metrics.cumulative_score(label, predicted, years)


MEASURES: dict[str, Measure] = {
    "mae": lambda label, predicted, sigma: metrics.mae(label, predicted),
    "rmse": lambda label, predicted, sigma: metrics.rmse(label, predicted),
    "pearson": lambda label, predicted, sigma: metrics.pearson(label, predicted),
    "epsilon_error": metrics.epsilon_error,
    "aar": lambda label, predicted, sigma: metrics.aar(label, predicted),
    "sigma": lambda label, predicted, sigma: metrics.sigma_of_groups(label, predicted),
    **{f"cs{years}": _within(years) for years in (3, 5, 8)},
    **{f"mae {name}": _of_group(name) for name in AGE_GROUPS},
}
COSTS = {"parameters": "million", "forward": "ms"}  # of kinds.Network: nothing is predicted
INTERVALS = {"coverage": "%", "width": "years"}  # of kinds.Conformal


def measured(answers: Answers, metric: str) -> Measured | None:
    """The metric's mean over the trials, with its interval; None where it is not defined, as an ε-error without σ."""
    measure = MEASURES[metric]
    values = [measure(answers.label, one, answers.sigma) for one in answers.predicted]
    if not values or any(value is None or not math.isfinite(value) for value in values):
        return None
    interval = metrics.interval_over_trials(measure, answers.label, answers.predicted, answers.sigma)
    return Measured(float(np.mean(values)), interval, spread_over(values), len(values))


def spread_over(values) -> float | None:
    """Standard deviation of the sample; None of a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
