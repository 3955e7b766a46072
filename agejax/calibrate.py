"""Intervals that hold the label as often as they say: split conformal prediction, from predictions of a held-out split.

A label's nonconformity is |y - ŷ| / u, with u the predicted spread, or 1 for intervals of one width. Of n such numbers
the ⌈(n + 1) · coverage⌉-th smallest, q, gives the interval ŷ ± q · u: for examples that are exchangeable with the held
out ones it holds the label with at least that probability, whatever the network (Vovk et al., "Algorithmic Learning in
a Random World", 2005; Lei et al., JASA 2018). Intervals are cut off where the label grid ends. They are those of the
mean over people: for a group of them alone see the coverage by age group.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Literal

import jax.numpy as jnp
import numpy as np

from agejax.files import absolute, as_path, write_whole, writing
from agejax.labels import LabelGrid
from agejax.metrics import AGE_GROUPS, DECIMALS, UNITS, age_group
from agejax.training.checkpoint import CARD, find_stage
from agejax.training.evaluate import Predictions, check_finite, check_labels
from data_pipelines.errors import UserError

CALIBRATION = "calibration.json"
Z = NormalDist().inv_cdf(0.975)
SLACK = 1e-9  # 0.7 · 10 is above 7 in floats


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Half widths of intervals, in the label's unit or in predicted spreads."""

    data: str
    split: str
    n: int
    target: str
    low: float
    """End of the label grid."""
    high: float
    width: Literal["constant", "spread"]
    floor: float
    """The least spread: a network may be wholly sure of itself. One step of the label grid."""
    edges: tuple[float, ...]
    """Of predicted labels: between bands that are calibrated each for itself; none: all together."""
    quantiles: dict[str, tuple[float, ...]]
    """Coverage, as "0.9" → q of each band."""
    versions: int = 1
    """Of each image, whose answers were averaged: evaluate.predictor."""

    def half_width(self, value_N, spread_N, coverage: str) -> np.ndarray:
        """float64 (N,), in the label's unit."""
        band_N = np.searchsorted(self.edges, np.asarray(value_N, np.float64), side="right")
        return np.asarray(self.quantiles[coverage])[band_N] * _unit(self.width, spread_N, self.floor)

    def interval(self, value_N, spread_N, coverage: str) -> tuple[np.ndarray, np.ndarray]:
        """float64 (N,) lower and upper ends, inside the label grid."""
        value_N, half_N = np.asarray(value_N, np.float64), self.half_width(value_N, spread_N, coverage)
        return tuple(np.clip(end, self.low, self.high) for end in (value_N - half_N, value_N + half_N))


def conformal_quantile(scores_N, coverage: float) -> float:
    """The ⌈(n + 1) · coverage⌉-th smallest of n numbers. Raises UserError where there is none."""
    rank, n = _rank(len(scores_N), coverage), len(scores_N)
    if rank > n:
        least = math.ceil((coverage - SLACK) / (1 - coverage))  # of n, for _rank(n) ≤ n
        raise UserError(f"coverage {coverage:g} needs {least:,} examples or more in each band, and there are {n:,}")
    return float(np.sort(np.asarray(scores_N, np.float64))[rank - 1])


def fit(
    predictions: Predictions, coverages: Sequence[float], *, width: Literal["constant", "spread"], grid: LabelGrid,
    target: str, bands: int = 1, data: str = "", split: str = "", versions: int = 1,
) -> Calibration:  # fmt: skip
    """Of a split that the network was not trained on. bands: so many, of equal counts, by the predicted label."""
    label, value = (np.asarray(column, np.float64) for column in (predictions.label, predictions.value))
    check_asked(coverages, bands)
    check_labels(label, target, "calibrate")
    check_finite(predictions, columns=("value", "spread"))
    scores = np.abs(label - value) / _unit(width, predictions.spread, grid.step)
    edges = tuple(np.quantile(value, np.arange(1, bands) / bands).tolist())
    band = np.searchsorted(edges, value, side="right")
    quantiles = {
        f"{coverage:g}": tuple(conformal_quantile(scores[band == b], coverage) for b in range(bands))
        for coverage in coverages
    }
    return Calibration(
        data, split, len(label), target, grid.low, grid.high, width, grid.step, edges, quantiles, versions
    )


def measure(calibration: Calibration, predictions: Predictions) -> dict[str, dict]:
    """{coverage: {"n", "share", "interval", "mean_width", "mean_width_interval", "by_age_group"}}, ready for json.

    share: of labels that lie in their intervals; its 95 % interval is Wilson's, that of the mean width the normal one.
    by_age_group, for ages, has the same numbers of each group that occurs.
    """
    label = np.asarray(predictions.label, np.float64)
    found = {}
    for coverage in calibration.quantiles:
        low, high = calibration.interval(predictions.value, predictions.spread, coverage)
        inside, width = (low <= label) & (label <= high), high - low
        found[coverage] = _of(inside, width)
        if calibration.target == "age":
            groups = age_group(label)
            every = {name: groups == g for g, name in enumerate(AGE_GROUPS) if (groups == g).any()}
            found[coverage]["by_age_group"] = {name: _of(inside[some], width[some]) for name, some in every.items()}
    return found


def sentence(calibration: Calibration, coverage: str, measured: dict) -> str:
    """`90 % intervals hold 90.4 % [88.7, 92.0] of 562 labels, mean width 14.2 years`."""
    unit, digits = UNITS[calibration.target], DECIMALS[calibration.target] - 1
    low, high = (100 * bound for bound in measured["interval"])
    share = f"{100 * measured['share']:.1f} % [{low:.1f}, {high:.1f}] of {measured['n']:,} labels"
    return f"{_percent(coverage)} intervals hold {share}, mean width {measured['mean_width']:.{digits}f} {unit}"


def told(calibration: Calibration, coverage: str) -> str:
    """`90 % intervals: predicted ± 1.62 predicted std`; of several bands the least and the most."""
    unit = f" {UNITS[calibration.target]}" if calibration.width == "constant" else " predicted std"
    found = sorted({f"{q:.2f}" for q in calibration.quantiles[coverage]}, key=float)
    reach = found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"
    return f"{_percent(coverage)} intervals: predicted ± {reach}{unit}"


def columns(calibration: Calibration, predictions: Predictions) -> dict[str, np.ndarray]:
    """{"low_90": (N,), "high_90": (N,), …} for predictions.csv."""
    found = {}
    for coverage in calibration.quantiles:
        ends = calibration.interval(predictions.value, predictions.spread, coverage)
        found |= {f"{name}_{100 * float(coverage):g}": end for name, end in zip(("low", "high"), ends)}
    return found


def usual_width(objective) -> Literal["constant", "spread"]:
    """By the spread where the objective has a distribution, else one width: what mirror images change is no spread."""
    has_distribution = objective.distribution(jnp.zeros((1, objective.head_size))) is not None
    return "spread" if has_distribution else "constant"


def in_common(one: tuple[str, str], other: tuple[str, str]) -> bool | None:
    """Whether two (data set, split) hold the same images; None: not known, of two protocols of one set."""
    (data, split), (other_data, other_split) = one, other
    if data != other_data:
        return None if data.partition("@")[0] == other_data.partition("@")[0] else False
    parts, other_parts = set(split.split("+")), set(other_split.split("+"))
    return "all" in parts | other_parts or bool(parts & other_parts)


def place(checkpoint: str | Path) -> Path:
    """calibration.json beside the card of the stage."""
    return absolute(find_stage(as_path(checkpoint))) / CALIBRATION


def write(checkpoint: str | Path, calibration: Calibration) -> Path:
    """Puts it in its place, instead of an older one."""
    path = place(checkpoint)
    saved = dataclasses.asdict(calibration) | {"card": _digest(path.parent)}
    with writing(path):
        write_whole(path, json.dumps(saved, indent=2) + "\n")
    return path


def read(checkpoint: str | Path, versions: int = 1) -> Calibration | None:
    """The stage's; None where it has none. Raises UserError where it is one of other weights, or of other versions."""
    path = place(checkpoint)
    if not path.exists():
        return None
    try:
        saved = json.loads(path.read_text())
        card, edges = saved.pop("card"), tuple(saved.pop("edges"))
        quantiles = {coverage: tuple(of_bands) for coverage, of_bands in saved.pop("quantiles").items()}
        calibration = Calibration(**saved, edges=edges, quantiles=quantiles)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} is not a calibration ({reason}): run `python -m agejax calibrate` again") from None
    if card != _digest(path.parent):
        raise UserError(f"{path} is of other weights than {path.parent / CARD}: calibrate again, or remove it")
    if calibration.versions != versions:
        raise UserError(
            f"{path} is of {calibration.versions} versions of each image: give --versions, or calibrate again"
        )
    return calibration


def check_asked(coverages: Sequence[float], bands: int) -> None:
    """Raises UserError for coverages that are none, or have more digits than their names, and for no bands."""
    if not coverages or not all(0 < coverage < 1 for coverage in coverages):
        raise UserError(f"coverage must lie between 0 and 1, got {', '.join(f'{c:g}' for c in coverages) or 'none'}")
    for coverage in map(float, coverages):
        if float(f"{coverage:g}") != coverage:
            raise UserError(f"coverage {coverage!r} has more than 6 digits: give fewer")
    if bands < 1:
        raise UserError(f"bands must be 1 or more, got {bands}")


def _unit(width: str, spread_N, floor: float) -> np.ndarray:
    """u: what intervals are measured in."""
    spread_N = np.asarray(spread_N, np.float64)
    return {"constant": np.ones_like(spread_N), "spread": np.maximum(spread_N, floor)}[width]


def _rank(n: int, coverage: float) -> int:
    return max(1, math.ceil((n + 1) * coverage - SLACK))


def _of(inside: np.ndarray, width: np.ndarray) -> dict:
    n, share, mean = len(inside), float(inside.mean()), float(width.mean())
    half = Z * float(width.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    return {
        "n": n,
        "share": share,
        "interval": list(wilson(share, n)),
        "mean_width": mean,
        "mean_width_interval": [mean - half, mean + half],
    }


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n: inside [0, 1], and of use for shares of 0 and 1 too."""
    middle, scale = share + Z**2 / (2 * n), 1 + Z**2 / n
    half = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def _percent(coverage: str) -> str:
    return f"{100 * float(coverage):g} %"


def _digest(stage_dir: Path) -> str:
    return hashlib.sha256((stage_dir / CARD).read_bytes()).hexdigest()[:16]
