"""Measures of saved predictions: numpy, float64, one number per example in. Does not import jax.

    label, predicted   (n,) in years, or in points of the set's own scale of attractiveness; finite
    sigma              (n,) std of the votes in the same units; NaN = not known; 0 is legal

DLDL-v2 is Gao et al., IJCAI 2018 and its journal version; AAR is the measure of the GTA contest (LAE).
"""

import math
from collections.abc import Callable

import numpy as np

UNITS = {"age": "years", "attractiveness": "points"}
DECIMALS = {"age": 2, "attractiveness": 3}  # of an error, as the papers print them
SMALLEST_SIGMA = 1e-10  # takes the place of σ = 0, as in the authors' evaluation.lua
CUMULATIVE_SCORE_YEARS = range(1, 11)
AGE_GROUPS = ("0-10", "11-20", "21-30", "31-40", "41-50", "51-60", "61-70", "71+")
BOOTSTRAP_BLOCK = 1 << 21  # counts held at once: 16 MiB as float64


def mae(label, predicted) -> float:
    """Mean absolute error (1/n) Σ |ŷ - y|."""
    return float(np.mean(np.abs(_error(label, predicted))))


def rmse(label, predicted) -> float:
    """√((1/n) Σ (ŷ - y)²): DLDL-v2 journal, Eq. 21."""
    return float(np.sqrt(np.mean(np.square(_error(label, predicted)))))


def pearson(label, predicted) -> float | None:
    """Pearson correlation: DLDL-v2 journal, Eq. 22. None where either side is constant."""
    label, predicted = _pair(label, predicted)
    if np.ptp(label) == 0 or np.ptp(predicted) == 0:
        return None
    x, y = label - label.mean(), predicted - predicted.mean()
    return float(x @ y / math.sqrt((x @ x) * (y @ y)))


def epsilon_error(label, predicted, sigma) -> float | None:
    """Mean of 1 - exp(-(ŷ - y)² / 2σ²) over examples whose σ is known, None where none is: DLDL-v2, Eq. 20.

    As in the authors' code σ = 0 is 1e-10: such an example counts 1 unless its prediction is exact.
    """
    epsilon, known = _epsilon(label, predicted, sigma)
    return float(epsilon[known].mean()) if known.any() else None


def cumulative_score(label, predicted, years: float) -> float:
    """Share in [0, 1] of examples with |ŷ - y| <= years: CS@k, the bound included."""
    return float(np.mean(np.abs(_error(label, predicted)) <= years))


def age_group(label) -> np.ndarray:
    """int (n,): index into AGE_GROUPS, clip(⌈y / 10⌉, 1, 8) - 1; 10 is in the first, 10.5 in the second."""
    return np.clip(np.ceil(np.asarray(label, np.float64) / 10), 1, len(AGE_GROUPS)).astype(int) - 1


def mae_by_age_group(label, predicted) -> dict[str, dict]:
    """{group: {"mae": float or None, "n": int}} for every group of AGE_GROUPS, the empty ones included."""
    error, group = np.abs(_error(label, predicted)), age_group(label)
    members = {name: error[group == g] for g, name in enumerate(AGE_GROUPS)}
    return {name: {"mae": float(e.mean()) if len(e) else None, "n": len(e)} for name, e in members.items()}


def median_baseline_mae(label, train_median: float | None = None) -> float:
    """MAE of answering every example with the median of the training labels; without one, of these labels."""
    label = np.asarray(label, np.float64)
    return mae(label, np.full_like(label, np.median(label) if train_median is None else train_median))


def aar(label, predicted) -> float:
    """AAR = max(0, 7 - MAE) + max(0, 3 - σ), in [0, 10]; σ over the age groups that occur in the labels."""
    return aar_from_groups(mae(label, predicted), _maes_of_groups(label, predicted))


def aar_from_groups(overall_mae: float, group_maes) -> float:
    """AAR with σ as sigma_of_groups has it."""
    return max(0.0, 7.0 - overall_mae) + max(0.0, 3.0 - _sigma_about(overall_mae, group_maes))


def sigma_of_groups(label, predicted) -> float:
    """σ = √mean_j (MAE_j - MAE)² over the age groups that occur, about the OVERALL MAE, not their mean: LAE."""
    return _sigma_about(mae(label, predicted), _maes_of_groups(label, predicted))


def summarise(label, predicted, sigma=None, *, ages: bool = True, resamples: int = 1000, seed: int = 0) -> dict:
    """All measures with 95 % intervals, ready for json: Python floats, and None where a measure is not defined.

    Returns:
      {"n", "mae", "rmse", "pearson", "epsilon_error", "cs": {"1": …, "10": …}, "mae_by_age_group": {name: {"mae",
      "n"}}, "intervals": {"mae": [low, high], …, "cs": {"1": …}, "mae_by_age_group": {name: …}}}. The intervals are
      percentiles 2.5 and 97.5 of a seeded bootstrap over examples: they show the spread of the test set, not that of
      training. With ages=False, as for attractiveness, "cs" and "mae_by_age_group", which count in years, are left out.

    Raises ValueError for no examples, unequal lengths, or a label or prediction that is not finite.
    """
    label, predicted = _pair(label, predicted)
    sigma = np.full(len(label), np.nan) if sigma is None else sigma
    measured = {
        "mae": mae(label, predicted),
        "rmse": rmse(label, predicted),
        "pearson": pearson(label, predicted),
        "epsilon_error": epsilon_error(label, predicted, sigma),
    }
    terms = _terms(label, predicted, sigma) | (_age_terms(label, predicted) if ages else {})
    bounds = _intervals(terms, resamples, np.random.default_rng(seed))
    intervals = {name: bounds[name] for name in measured}
    if ages:
        measured["cs"] = {str(k): cumulative_score(label, predicted, k) for k in CUMULATIVE_SCORE_YEARS}
        measured["mae_by_age_group"] = mae_by_age_group(label, predicted)
        intervals["cs"] = {str(k): bounds[f"cs{k}"] for k in CUMULATIVE_SCORE_YEARS}
        intervals["mae_by_age_group"] = {name: bounds[name] for name in AGE_GROUPS}
    return {"n": len(label)} | measured | {"intervals": intervals}


def interval_over_trials(
    measure: Callable, labels, predictions, sigmas=None, resamples: int = 1000, seed: int = 0
) -> list[float] | None:
    """95 % percentile interval of a measure's mean over trials, by drawing trials and examples anew; None where in no
    resample it is defined.

    Every resample draws T of the T trials and, for all of them alike, n of the n examples; with one trial it is the
    plain bootstrap. Of few trials it is too narrow: drawing again shows (T - 1) / T of the variance between them.

    Args:
      measure: of (label, predicted, sigma), each (n,), as epsilon_error; a float or None.
      labels: (n,).
      predictions: (T, n), one row a trial.
      sigmas: (n,); None: not known.
    """
    labels, predictions = np.asarray(labels, np.float64), np.asarray(predictions, np.float64)
    if predictions.ndim != 2 or not len(predictions) or predictions.shape[1:] != labels.shape or not labels.size:
        raise ValueError(f"predictions have shape {predictions.shape}, expected (T, n) for labels {labels.shape}")
    sigmas = np.full(labels.shape, np.nan) if sigmas is None else np.asarray(sigmas, np.float64)
    (trials, n), rng, means = predictions.shape, np.random.default_rng(seed), []
    for _ in range(resamples):
        chosen = rng.integers(n, size=n)
        drawn, times = np.unique(rng.integers(trials, size=trials), return_counts=True)
        values = [measure(labels[chosen], predictions[trial][chosen], sigmas[chosen]) for trial in drawn]
        if None not in values:
            means.append(np.average(values, weights=times))
    return _percentiles(np.array(means, np.float64))


def _maes_of_groups(label, predicted) -> list[float]:
    return [group["mae"] for group in mae_by_age_group(label, predicted).values() if group["n"]]


def _sigma_about(overall_mae: float, group_maes) -> float:
    return math.sqrt(np.mean(np.square(np.asarray(group_maes, np.float64) - overall_mae)))


def _pair(label, predicted) -> tuple[np.ndarray, np.ndarray]:
    label, predicted = np.asarray(label, np.float64), np.asarray(predicted, np.float64)
    if label.ndim != 1 or label.shape != predicted.shape or not label.size:
        raise ValueError(f"label has shape {label.shape}, predicted {predicted.shape}: expected (n,), n > 0")
    for name, values in (("label", label), ("predicted", predicted)):
        if broken := int((~np.isfinite(values)).sum()):
            raise ValueError(f"{name} is not finite in {broken} of {len(values)} examples")
    return label, predicted


def _error(label, predicted) -> np.ndarray:
    label, predicted = _pair(label, predicted)
    return predicted - label


def _epsilon(label, predicted, sigma) -> tuple[np.ndarray, np.ndarray]:
    """The ε-error of every example, 0 where its σ is not known; and which are known."""
    error, sigma = _error(label, predicted), np.asarray(sigma, np.float64)
    if sigma.shape != error.shape:
        raise ValueError(f"sigma has shape {sigma.shape}, expected {error.shape} as the labels")
    known = ~np.isnan(sigma)
    z = error / np.where(known, np.maximum(sigma, SMALLEST_SIGMA), 1.0)
    return np.where(known, -np.expm1(-0.5 * np.square(z)), 0.0), known


def _terms(label, predicted, sigma) -> dict[str, np.ndarray]:
    """{name: (n,)}: what a measure of any resample needs the sums of."""
    error = predicted - label
    # centred, as the second moments of ages about 0 would lose half of the digits
    x, y = label - label.mean(), predicted - predicted.mean()
    epsilon, known = _epsilon(label, predicted, sigma)
    terms = {"n": np.ones_like(x), "absolute": np.abs(error), "square": error**2, "epsilon": epsilon, "known": known}
    return terms | {"x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y}


def _age_terms(label, predicted) -> dict[str, np.ndarray]:
    """What CS@k and the age groups need beside them."""
    error, group = np.abs(predicted - label), age_group(label)
    terms = {f"cs{k}": error <= k for k in CUMULATIVE_SCORE_YEARS}
    for number, name in enumerate(AGE_GROUPS):
        inside = group == number
        terms |= {f"n of {name}": inside, f"absolute of {name}": error * inside}
    return terms


def _measures(sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{measure: (R,)} from the (R,) sums of each term over R resamples; NaN where not defined."""
    n = sums["n"]
    x_square, y_square = (sums[a + a] - sums[a] ** 2 / n for a in "xy")
    # else what is left of it is rounding
    varied = (x_square > 1e-12 * sums["xx"]) & (y_square > 1e-12 * sums["yy"])
    return {
        "mae": sums["absolute"] / n,
        "rmse": np.sqrt(sums["square"] / n),
        "pearson": _ratio(sums["xy"] - sums["x"] * sums["y"] / n, np.sqrt(np.abs(x_square * y_square)), varied),
        "epsilon_error": _ratio(sums["epsilon"], sums["known"], sums["known"] > 0),
    }


def _age_measures(sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same for CS@k and the age groups; empty without their terms."""
    if "cs1" not in sums:
        return {}
    measures = {f"cs{k}": sums[f"cs{k}"] / sums["n"] for k in CUMULATIVE_SCORE_YEARS}
    for name in AGE_GROUPS:
        count = sums[f"n of {name}"]
        measures[name] = _ratio(sums[f"absolute of {name}"], count, count > 0)
    return measures


def _ratio(above: np.ndarray, below: np.ndarray, defined: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(len(above), np.nan), where=defined)


def _intervals(terms: dict[str, np.ndarray], resamples: int, rng: np.random.Generator) -> dict[str, list[float] | None]:
    """Percentiles 2.5 and 97.5 of every measure over resamples of the examples, drawn in blocks of bounded size."""
    columns = np.stack(list(terms.values()), axis=1).astype(np.float64)
    n = len(columns)
    rows = max(1, BOOTSTRAP_BLOCK // n)
    sums = np.concatenate(
        [_draw_counts(rng, min(rows, resamples - done), n) @ columns for done in range(0, resamples, rows)]
    )
    sums_by_name = dict(zip(terms, sums.T))
    measures = _measures(sums_by_name) | _age_measures(sums_by_name)
    return {name: _percentiles(values) for name, values in measures.items()}


def _draw_counts(rng: np.random.Generator, rows: int, n: int) -> np.ndarray:
    """float64 (rows, n): how often each of n examples is in each resample of n examples."""
    chosen = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
    return np.bincount(chosen.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def _percentiles(values: np.ndarray) -> list[float] | None:
    values = values[~np.isnan(values)]
    return [float(v) for v in np.percentile(values, (2.5, 97.5))] if len(values) else None
