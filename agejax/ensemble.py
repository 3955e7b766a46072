"""Several networks as one: the mean of their answers, live or from saved predictions. AgeNet's last step."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agejax import mixtures
from agejax.metrics import UNITS
from agejax.training.checkpoint import Description
from agejax.training.evaluate import Predictions, write_rows
from data_pipelines.errors import UserError


class Saved(NamedTuple):
    """A predictions.csv."""

    ids: tuple[str, ...]
    target: str
    predictions: Predictions
    """index: the row in the file."""


def fuse(every: Sequence[Predictions], weights: Sequence[float] | None = None) -> Predictions:
    """The mixture of several networks' answers to the same examples, in the order of the first.

    value is the weighted mean, spread the standard deviation of the mixture: √(mean of variances + variance of means).
    Rows are matched by their index. weights: one a network, above 0 in sum; None: all alike. Raises UserError where the
    examples or their labels differ.
    """
    first = every[0]
    every = [_in_order(one, first.index, number) for number, one in enumerate(every, 1)]
    for number, one in enumerate(every, 1):
        if not np.array_equal(one.label, first.label, equal_nan=True):
            raise UserError(f"predictions {number} have other labels than the first: fuse those of one split")
    value = mixtures.mean([one.value for one in every], weights)
    spread = mixtures.spread([one.value for one in every], [one.spread for one in every], weights)
    return first._replace(value=value.astype(np.float32), spread=spread.astype(np.float32))


def check(places: Sequence[str], descriptions: Sequence[Description], weights: Sequence[float] | None) -> None:
    """Raises UserError where the networks of these checkpoints cannot be fused."""
    if not places:
        raise UserError("no checkpoint is named: give the workdir of a run, or several with commas between")
    mixtures.shares(len(places), weights)
    for place, description in zip(places, descriptions):
        if description.objective.measures is None:
            raise UserError(f"{place} was trained on identities: it gives no age; name a stage that does")
        mine, first = description.objective.target, descriptions[0].objective.target
        if mine != first:
            raise UserError(f"{place} answers {mine}, {places[0]} {first}: fuse networks of one label")


def label_of(descriptions: Sequence[Description]) -> tuple[str, float | None]:
    """The target, and the training median that all share; None where they were trained on different labels."""
    medians = {description.median_label for description in descriptions}
    return descriptions[0].objective.target, medians.pop() if len(medians) == 1 else None


def read(path: Path) -> Saved:
    """A predictions.csv as evaluate.write_predictions has it; further columns are not read. Raises UserError."""
    if not path.is_file():
        raise UserError(f"{path} is not there: give the predictions.csv of finished runs, or what evaluate wrote")
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
        target = next(name for name in UNITS if name in rows[0])
        names = target, "sigma", "predicted", "predicted_std"
        columns = [np.array([float(row[name] or "nan") for row in rows], np.float32) for name in names]
        ids = tuple(row["id"] for row in rows)
    except (csv.Error, IndexError, KeyError, OSError, StopIteration, TypeError, ValueError) as error:
        heads = f"id,{'|'.join(UNITS)},sigma,predicted,predicted_std"
        reason = f"{type(error).__name__}: {error}"  # repr would show all of a file that is not text
        raise UserError(f"{path}: not {heads} with a row or more ({reason})") from None
    return Saved(ids, target, Predictions(np.arange(len(rows)), *columns))


def fuse_saved(every: Sequence[Saved], weights: Sequence[float] | None = None) -> Saved:
    """`fuse` of predictions that were saved; rows are matched by their id."""
    first = every[0]
    place = {name: row for row, name in enumerate(first.ids)}
    if len(place) < len(first.ids):
        raise UserError("predictions 1 name an example twice: rows cannot be told apart")
    indexed = []
    for number, one in enumerate(every, 1):
        if one.target != first.target:
            raise UserError(f"predictions {number} are of {one.target}, the first of {first.target}: fuse one label")
        if unknown := next((name for name in one.ids if name not in place), None):
            raise UserError(f"predictions {number} have {unknown}, which the first lack: fuse those of one split")
        indexed.append(one.predictions._replace(index=np.array([place[name] for name in one.ids])))
    return first._replace(predictions=fuse(indexed, weights))


def write(path: Path, saved: Saved) -> None:
    """A predictions.csv."""
    write_rows(path, saved.ids, saved.predictions, saved.target)


def _in_order(predictions: Predictions, index: np.ndarray, number: int) -> Predictions:
    if not np.array_equal(np.sort(predictions.index), np.sort(index)):
        counts = f"{len(predictions.index):,} and {len(index):,} rows"
        raise UserError(
            f"predictions {number} are of other examples than the first ({counts}): fuse those of one split"
        )
    order = np.argsort(predictions.index, kind="stable")[np.argsort(np.argsort(index, kind="stable"), kind="stable")]
    return Predictions(*(column[order] for column in predictions))
