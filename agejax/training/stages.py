"""A run is a list of stages; a stage takes weights from the one before it, by name."""

import dataclasses
import math
from typing import Any, Literal

import jax
import numpy as np

from agejax.models.network import Network, init_variables
from agejax.parameters import count, flatten, transfer
from agejax.training.optim import Adam, OneCycle, StepDecay
from data_pipelines.errors import UserError
from data_pipelines.plans import Augmentation
from data_pipelines.samplers import ClassBalanced, Everything, Imposed, MinPerIdentity, NShot, Shuffle


@dataclasses.dataclass(frozen=True)
class Stage:
    """What one stage trains, on what, and how."""

    name: str
    objective: Any
    """A row of agejax.objectives.OBJECTIVES."""
    epochs: float = 60.0
    batch_size: int = 128
    """Examples a step, over all devices."""
    optimizer: Adam = Adam()
    schedule: StepDecay | OneCycle = StepDecay()
    augmentation: Augmentation = Augmentation()
    trainable: str = ""
    """Regular expression over parameter paths, as `head|block5`; empty: all. Frozen norms use stored statistics."""
    data: str = ""
    """Data set of this stage; empty: the run's."""
    train_split: str = "train"
    examples: Everything | NShot | Imposed | MinPerIdentity = Everything()
    """Which examples of it; so many are an epoch."""
    order: Shuffle | ClassBalanced = Shuffle()
    """In what order, and how often, they come."""
    validation_split: str = "val"
    """Empty: no validation."""
    take: Literal["trunk", "all"] = "trunk"
    """What is taken from the stage before, or from --init."""
    reset_head_bias: bool = False
    """Set the head's bias to 0 after taking it, as the authors' second stage does."""

    def __post_init__(self):
        for name in ("epochs", "batch_size"):
            if not getattr(self, name) > 0:
                raise UserError(f"stage {self.name}: {name} must be above 0, got {getattr(self, name)}")

    def steps(self, examples: int) -> int:
        return max(1, math.ceil(self.epochs * examples / self.batch_size))


def start_variables(
    network: Network, image_size: int, seed: int, stage: Stage, source: dict | None, origin: str
) -> tuple[dict, str]:
    """Initial variables of a stage, and a sentence that says what was taken from `source` and what was left."""
    fresh = init_variables(jax.random.key(seed), network, image_size)
    if source is None:
        return fresh, "starts from random weights"
    part = {"trunk": "trunk", "all": ""}[stage.take]
    variables = {name: transfer(fresh[name], source[name], part, origin) for name in fresh}
    if stage.reset_head_bias:
        variables["params"]["head"]["bias"] *= 0
    return variables, f"takes {_inventory(source['params'], part)} from {origin}"


def check_labels(stage: Stage, labels: np.ndarray, examples) -> None:
    """Raises UserError, naming the first example, where float32 (n,) labels lie outside the stage's label grid."""
    target, grid = stage.objective.target, stage.objective.grid
    outside = np.flatnonzero((labels < np.float32(grid.low)) | (labels > np.float32(grid.high)))
    if len(outside):
        row = int(outside[0])
        raise UserError(
            f"{examples[row]['id']}: {target} {labels[row]:g} is outside the label grid of stage {stage.name}, "
            f"{grid.low:g} to {grid.high:g} ({len(outside):,} of {len(labels):,} examples are): "
            f"set --{stage.name}.objective.grid.low and .high, or mend the labels"
        )


def _inventory(params: dict, part: str) -> str:
    left = {path: x.shape for path, x in flatten(params).items() if not path.startswith(part)}
    if not left:
        return f"all {count(params):,} parameters"
    leaves = ", ".join(f"{path} {'×'.join(map(str, shape))}" for path, shape in left.items())
    return f"{part} ({count(params[part]):,} parameters, and its statistics; leaves {leaves})"
