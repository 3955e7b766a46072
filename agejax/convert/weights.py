"""Weights that were read, and the two ways to write them."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from agejax import specs
from agejax.convert.fit import units_of
from agejax.convert.layout import ROLES, to_theirs
from agejax.convert.names import CONVENTIONS
from agejax.convert.source import Source
from agejax.models.inputs import Inputs
from agejax.models.network import Network, make_network
from agejax.parameters import count, flatten
from agejax.training.checkpoint import Description, StageCheckpoints, write_card
from data_pipelines.align import Alignment
from data_pipelines.errors import UserError

OURS = "agejax"  # in a .safetensors file's metadata: which network and objective its arrays are of


@dataclasses.dataclass(frozen=True)
class Weights:
    """A network with its arrays and where they come from."""

    backbone: object
    """Options of a family; `backbone.inputs` is the input recipe that the weights were trained with."""
    objective: object
    """What its outputs mean: objective.predict(logits) gives years, or a class."""
    variables: dict
    """{"params", "batch_stats"}, float32."""
    provenance: dict
    """Source file, its SHA-256 and format, the naming, what was left out."""
    image_size: int = 224
    """Pixels that the network is meant for; it takes others."""

    @property
    def model(self) -> Network:
        return make_network(self.backbone, self.objective.head)

    @property
    def inputs(self) -> Inputs:
        return self.backbone.inputs


def sentence(weights: Weights) -> str:
    """Two lines: what was read, and how the network wants its images."""
    inputs, origin = weights.inputs, weights.provenance
    left = f", left out {len(origin['left_out'])} that it has no use for" if origin.get("left_out") else ""
    return (
        f"{origin['file']} ({origin['format']}): {briefly(weights.backbone)}, "
        f"{count(weights.variables['params']):,} parameters{left}; outputs: {weights.objective.head_size}, "
        f"read as {type(weights.objective).__name__}\n"
        f"input: {inputs.order.upper()}, white is {inputs.maximum:g}, mean {inputs.mean}, std {inputs.std}"
    )


def briefly(backbone) -> str:
    """`ResNet(depth=34)`: the options that differ from the defaults, the input recipe aside."""
    fields = {field.name: (getattr(backbone, field.name), field.default) for field in dataclasses.fields(backbone)}
    told = (f"{name}={value!r}" for name, (value, usual) in fields.items() if value != usual and name != "inputs")
    return f"{type(backbone).__name__}({', '.join(told)})"


def write(weights: Weights, folder: Path) -> None:
    """A folder like a finished stage's, for --init and `python -m agejax evaluate`: there whole or not at all."""
    if folder.exists():
        raise UserError(f"{folder} exists: give another name, or remove it")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    description = Description(
        weights.backbone,
        weights.objective,
        weights.image_size,
        "float32",
        Alignment(),
        weights.provenance["file"],
        None,
    )
    with StageCheckpoints(partial) as checkpoints:
        checkpoints.save_best(0, weights.variables)
    write_card(partial, description, {"selected": "best", "converted": weights.provenance})
    partial.rename(folder)


def export(weights: Weights, path: Path) -> None:
    """A .safetensors file with PyTorch's axes and torchvision's names; options, input recipe, origin in its header.

    Raises UserError where torchvision's network of that family would compute something else, or `path` exists.
    """
    if path.exists():
        raise UserError(f"{path} exists: give another name, or remove it")
    backbone, leaves = weights.backbone, flatten(weights.variables)
    if getattr(backbone, "padding", "symmetric") == "same":
        raise UserError("torchvision has no EfficientNetV2 with TensorFlow's padding: it would give other numbers")
    units = units_of(leaves)
    names = CONVENTIONS[type(backbone)]["torchvision"].names(backbone, list(units), Source("", {}))
    tensors = {
        f"{names[unit]}.{ROLES[leaf]}": to_theirs(np.asarray(leaves[place]), unit, leaf)
        for unit in units
        for leaf, place in units[unit].items()
    }
    told = {"backbone": specs.encode(backbone), "objective": specs.encode(weights.objective)}
    header = {OURS: json.dumps(told | {"provenance": weights.provenance})}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(save(tensors, header))
    partial.replace(path)
