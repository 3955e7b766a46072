"""From a file to a network with its arrays."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from agejax import specs
from agejax.convert.fit import Fit, arrays_of, best_fit, shapes_of
from agejax.convert.formats import read_file
from agejax.convert.layout import to_ours
from agejax.convert.names import CONVENTIONS
from agejax.convert.source import Source
from agejax.convert.weights import OURS, Weights, briefly
from agejax.labels import AGE, CFD, SCUT, LabelGrid
from agejax.models.inputs import INPUTS, Inputs
from agejax.models.network import BACKBONES
from agejax.objectives import (
    DEX,
    OBJECTIVES,
    Identity,
    JointLabelDistribution,
    LabelDistribution,
    MetricRegression,
    Ranking,
)
from agejax.training.checkpoint import load_trained
from data_pipelines.errors import DataError, UserError

POINTS = {"target": "attractiveness"}
# (last function, or format, or neither; outputs) → what the network was trained for. Others: as many identities.
GUESSES = {
    ("Sigmoid", 101): LabelDistribution(link="sigmoid"),
    ("Sigmoid", 100): Ranking(),
    ("Tanh", 1): MetricRegression(),
    ("caffemodel", 101): DEX(),
    ("", 101): JointLabelDistribution(),
    ("", 41): JointLabelDistribution(grid=SCUT, **POINTS),
    ("", 61): JointLabelDistribution(grid=CFD, **POINTS),
}


def read(source: str | os.PathLike, backbone=None, objective=None, inputs: str | Inputs | None = None) -> Weights:
    """Weights from a .pth, .safetensors, .caffemodel or .t7 file; or from a finished run or stage of ours.

    Args:
      source: the file. A folder of ours says all else itself.
      backbone: a row of agejax.models.network.BACKBONES, or options of a family; None: the row that the file fits.
      objective: what the outputs mean, or a row of agejax.objectives.OBJECTIVES; None: guessed from their number,
        identities where nothing else is known.
      inputs: the input recipe, or a row of agejax.models.inputs.INPUTS; None: the one that such files go with.

    Raises:
      UserError: the file's arrays are not those of the network; they are listed.
      DataError: the file is broken, or asks for something to be executed.
    """
    path = Path(source)
    if path.is_dir():
        return _ours(path)
    found = _dotted(read_file(path))
    told = _told(path, found)
    backbone, objective = backbone or told.get("backbone"), objective or told.get("objective")
    if turned := [module.name for module in found.modules if module.options.get("transpose")]:
        raise DataError(f"{path}: {turned[0]} has its weights transposed: save it without Caffe's `transpose`")
    fit = _the_fit(path, found, backbone, settle="backbone" not in told)
    convention = CONVENTIONS[type(fit.backbone)][fit.convention]
    inputs = (
        _row(inputs, INPUTS, "input recipe")
        or fit.backbone.inputs
        or convention.inputs(fit.outputs, found)
        or fit.backbone.usual_inputs
    )
    settled = dataclasses.replace(fit.backbone, inputs=inputs)
    objective = _objective(path, found, fit.outputs, objective)
    provenance = {
        "file": path.name,
        "sha256": _sha256(path),
        "bytes": path.stat().st_size,
        "format": found.format,
        "names": fit.convention,
        "arrays": len(fit.places),
        "left_out": list(fit.left_out),
        "notes": list(found.notes),
    }
    return Weights(settled, objective, _variables(path, found, fit), provenance)


def _ours(folder: Path) -> Weights:
    description, variables = load_trained(folder)
    backbone = dataclasses.replace(
        description.backbone, inputs=description.backbone.inputs or description.backbone.usual_inputs
    )
    origin = {"file": folder.name, "format": "agejax"}
    return Weights(backbone, description.objective, variables, origin, description.image_size)


def _told(path: Path, source: Source) -> dict:
    """The network and the objective that a file of ours names; {} for others."""
    if OURS not in source.metadata:
        return {}
    try:
        words = json.loads(source.metadata[OURS])
        return {name: specs.decode(words[name], str(path)) for name in ("backbone", "objective")}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: what it says of its network cannot be read ({type(error).__name__}: {error})"
        ) from None


def _row(name, table: dict, what: str):
    """The row of that name; what is no name is given back."""
    if isinstance(name, str) and name not in table:
        raise UserError(f"unknown {what} {name!r}; there are {', '.join(table)}")
    return table[name] if isinstance(name, str) else name


def _dotted(source: Source) -> Source:
    """Names with dots between their parts, whatever the format has, and without a part that all begin with: `model.`"""
    modules = tuple(dataclasses.replace(m, name=m.name.replace("/", ".")) for m in source.modules)
    tensors = {name.replace("/", "."): array for name, array in source.tensors.items()}
    prefix, _, rest = next(iter(tensors), "").partition(".")
    notes = source.notes
    if "." in rest and all(name.startswith(f"{prefix}.") for name in tensors):
        tensors = {name[len(prefix) + 1 :]: array for name, array in tensors.items()}
        notes = (*notes, f"all names begin with {prefix}., which was taken off")
    return dataclasses.replace(source, tensors=tensors, modules=modules, notes=notes)


def _the_fit(path: Path, source: Source, backbone, settle: bool) -> Fit:
    """The fit without a fault. Raises UserError that lists the faults, and names a network that would fit."""
    asked = BACKBONES.values() if backbone is None else [_row(backbone, BACKBONES, "backbone")]
    fits = []
    for one in asked:
        fits.append(best_fit(source, one, settle))
        if not fits[-1].faults:
            return fits[-1]
    best = min(fits, key=lambda fit: fit.faults)
    others = [] if backbone is None else [name for name, row in BACKBONES.items() if not best_fit(source, row).faults]
    hint = f"; it fits {others[0]}" if others else ""
    nearest = f"is no network of {', '.join(BACKBONES)}; the nearest is" if backbone is None else "does not fit"
    raise UserError(f"{path} {nearest} {briefly(best.backbone)}: {best.reproach()}{hint}")


def _objective(path: Path, source: Source, outputs: int, objective):
    """The one that was asked for, or a guess. Raises UserError for another number of outputs."""
    tail = next((module.kind for module in reversed(source.modules)), "")
    guesses = (GUESSES.get((word, outputs)) for word in (tail, source.format, ""))
    guess = _on_labels(source) or next((guess for guess in guesses if guess), None) or Identity(outputs)
    objective = _row(objective, OBJECTIVES, "objective") or guess
    if isinstance(objective, type):
        objective = objective(**({"num_identities": outputs} if objective.target == "identity" else {}))
    if objective.head_size != outputs:
        raise UserError(
            f"{path} has {outputs} outputs, {type(objective).__name__} {objective.head_size}: give another objective"
        )
    return objective


def _on_labels(source: Source) -> JointLabelDistribution | None:
    """The authors' joint nets hold their label vector; None for others."""
    labels = next((x for name, x in source.tensors.items() if name.endswith("constant_vector")), None)
    if labels is None or labels.ndim != 1 or len(labels) < 2:
        return None
    low, high = (round(float(end), 6) for end in (labels[0], labels[-1]))
    grid = LabelGrid(low, high, round((high - low) / (len(labels) - 1), 6))
    return JointLabelDistribution(grid=grid, target="age" if grid == AGE else "attractiveness")


def _variables(path: Path, source: Source, fit: Fit) -> dict:
    arrays, shapes = arrays_of(source, fit.convention), shapes_of(fit.backbone, fit.outputs)
    leaves = {}
    for place, (theirs, unit) in fit.places.items():
        array = to_ours(arrays[theirs], unit, place.rpartition("/")[2], shapes[place])
        if not np.isfinite(array).all():
            raise DataError(f"{path}: {theirs} holds values that are not finite")
        leaves[place] = jnp.asarray(array)
    return {"batch_stats": {}} | traverse_util.unflatten_dict(leaves, sep="/")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
