"""From weights to saved predictions, and from those to numbers. Every example counts once, padding never."""

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from agejax import groups, metrics, mixtures
from agejax.files import write_whole
from agejax.models.folding import fold_variables, without_norms
from agejax.training.checkpoint import Description
from agejax.training.sharding import part_of_rows, to_devices
from agejax.training.step import make_predict_step
from data_pipelines.errors import UserError
from data_pipelines.loaders import Loader, eval_batches
from data_pipelines.plans import DEX, NO_AUGMENTATION, Augmentation


class Predictions(NamedTuple):
    """One row an example, in the split's order; float32 in the label's unit."""

    index: np.ndarray
    label: np.ndarray
    sigma: np.ndarray
    """NaN = not known."""
    value: np.ndarray
    spread: np.ndarray


def predict_split(
    description: Description,
    variables: dict,
    examples,
    mesh: Mesh,
    *,
    batch_size: int = 256,
    loader: Loader = Loader(),
    versions: int = 1,
    augmentation: Augmentation = DEX,
) -> Predictions:
    """Predictions for every example of a split, cropped as the training images were; nothing is dropped."""
    options = {"batch_size": batch_size, "loader": loader, "versions": versions, "augmentation": augmentation}
    return predictor(description, examples, mesh, **options)(variables)


def predictor(
    description: Description,
    examples,
    mesh: Mesh,
    *,
    batch_size: int = 256,
    loader: Loader = Loader(),
    keep: bool = False,
    versions: int = 1,
    augmentation: Augmentation = DEX,
) -> Callable[[dict], Predictions]:
    """variables → Predictions on one split; compiled once, for validation epoch after epoch.

    Batch norms are folded once a call. keep=True holds the decoded batches, uint8, in device memory after the first
    call, and later ones read nothing: image_size² · 3 bytes an example and version, split over the devices.

    versions: 1, each image as it is and its mirror image; n, each in n augmented versions, always the same ones, and
    no mirror images, as in DEX. The value is the mean over them, the spread that of the even mixture. Raises UserError.
    """
    if versions < 1:
        raise UserError(f"versions of a test image: give 1 or more, got {versions}")
    augmentation = augmentation if versions > 1 else NO_AUGMENTATION
    network = description.network()
    fold = jax.jit(partial(fold_variables, network))
    predict_step = make_predict_step(without_norms(network), description.objective, mesh, mirrored=versions == 1)
    devices = mesh.shape["data"]
    batch_size = math.ceil(min(batch_size, len(examples)) / devices) * devices
    part, parts = part_of_rows(mesh)
    # threads, not processes: a validation split is read in less time than processes take to start, epoch after epoch
    loader = dataclasses.replace(loader, workers=0, threads=max(loader.threads, loader.workers))
    kept: dict[int, list] = {}

    def read(version):
        if version in kept:
            yield from kept[version]
            return
        passed = []
        with eval_batches(
            examples, batch_size=batch_size, image_size=description.image_size, alignment=description.alignment,
            target=description.objective.target, augmentation=augmentation, version=version, loader=loader,
            process_index=part, process_count=parts,
        ) as batches:  # fmt: skip
            for batch in batches:
                batch = to_devices(batch, mesh)
                passed += [batch] if keep else []
                yield batch
        if keep:
            kept[version] = passed  # only whole passes are

    def predict(variables):
        folded = fold(variables)
        return mixture(
            [collect(_fetched(predict_step(folded, batch) for batch in read(version))) for version in range(versions)]
        )

    return predict


def mixture(each: list[Predictions]) -> Predictions:
    """Several predictions for the same examples as one: the mean, and the standard deviation of the even mixture."""
    if len(each) == 1:
        return each[0]
    value, spread = ([getattr(one, name) for one in each] for name in ("value", "spread"))
    mean, deviation = mixtures.mean(value), mixtures.spread(value, spread)
    return each[0]._replace(value=mean.astype(np.float32), spread=deviation.astype(np.float32))


def _fetched(results: Iterable[dict[str, jax.Array]]) -> Iterator[dict[str, np.ndarray]]:
    """Each is fetched when the next one is under way."""
    waiting = None
    for result in results:
        if waiting:
            yield jax.device_get(waiting)
        waiting = result
    yield jax.device_get(waiting)


def collect(batches: Iterable[dict[str, np.ndarray]]) -> Predictions:
    """Joins batches of rows, leaves padding out, and puts the rest in the split's order."""
    pieces = []
    for rows in batches:
        real = rows["mask"] > 0
        pieces.append(Predictions(*(rows[name][real] for name in Predictions._fields)))
    together = Predictions(*(np.concatenate(column) for column in zip(*pieces)))
    order = np.argsort(together.index, kind="stable")
    return Predictions(*(column[order] for column in together))


def check_labels(label: np.ndarray, target: str, verb: str = "evaluate") -> None:
    """Raises UserError where an example lacks the label."""
    if missing := int((~np.isfinite(label)).sum()):
        raise UserError(f"{missing} of {len(label)} examples have no {target}: {verb} on data that has it")


def check_finite(predictions: Predictions, name: str = "", columns: tuple[str, ...] = ("value",)) -> None:
    """Raises UserError where a row of these columns holds no number. name: of the checkpoint or file, to be told."""
    finite = np.all([np.isfinite(getattr(predictions, column)) for column in columns], axis=0)
    if broken := int((~finite).sum()):
        raise UserError(
            f"{name and name + ': '}{broken} of {len(finite)} predictions are not finite: the network has diverged; "
            "leave it out, or train it again with a smaller learning rate"
        )


def measure(predictions: Predictions, description: Description, examples=None) -> dict:
    """`summarise` for predictions of one stage."""
    return summarise(predictions, description.objective.target, description.median_label, examples)


def summarise(predictions: Predictions, target: str, median_label: float | None, examples=None) -> dict:
    """The target, metrics.summarise, and the MAE of always answering the training median; None where that is not known.

    With `examples`, the split that was predicted, also "by_group": groups.errors_by_group. Raises UserError where an
    example lacks the label, or a number for it.
    """
    label = predictions.label
    check_labels(label, target)
    check_finite(predictions)
    summary = metrics.summarise(label, predictions.value, predictions.sigma, ages=target == "age")
    blind = None if median_label is None else metrics.median_baseline_mae(label, median_label)
    found = {"target": target} | summary | {"median_baseline_mae": blind}
    if examples is None:
        return found
    columns = {name: column[predictions.index] for name, column in groups.known_columns(examples).items()}
    return found | {"by_group": groups.errors_by_group(label, predictions.value, columns)}


def sentence(numbers: dict) -> str:
    """`MAE 4.31 years [4.22, 4.40], n = 384 (synthetic test); always answering the training median: 20.30`."""
    unit, digits = metrics.UNITS[numbers["target"]], metrics.DECIMALS[numbers["target"]]
    low, high = numbers["intervals"]["mae"]
    where, blind = f"{numbers['data']} {numbers['split']}", numbers["median_baseline_mae"]
    beside = "" if blind is None else f"; always answering the training median: {blind:.{digits}f}"
    return (
        f"MAE {numbers['mae']:.{digits}f} {unit} [{low:.{digits}f}, {high:.{digits}f}], n = {numbers['n']:,} "
        f"({where}){beside}"
    )


def write_predictions(path: Path, examples, predictions: Predictions, target: str, more: dict | None = None) -> None:
    """CSV id,age,sigma,predicted,predicted_std, or attractiveness for age; an unknown σ is left empty.

    `examples` is the split that was predicted: it names the rows. more: further columns by name. Written whole or not
    at all.
    """
    write_rows(path, (examples[int(index)]["id"] for index in predictions.index), predictions, target, more)


def write_rows(path: Path, ids: Iterable[str], predictions: Predictions, target: str, more: dict | None = None) -> None:
    """The same with the rows' names given."""
    more, file = more or {}, io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(("id", target, "sigma", "predicted", "predicted_std", *more))
    for name, *numbers in zip(ids, *predictions[1:], *more.values()):
        writer.writerow((name, *("" if np.isnan(number) else f"{number:.9g}" for number in numbers)))
    write_whole(path, file.getvalue())
