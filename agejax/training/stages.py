"""A run is a list of stages; a stage takes weights from the one before it, by name."""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from agejax.models.network import BACKBONES, init_variables, variable_shapes
from agejax.parameters import Tree, count, difference, flatten, transfer
from agejax.training.checkpoint import Description
from agejax.training.optim import SGD, Adam, MultiStep, OneCycle, Rate, StepDecay, make_optimizer
from agejax.training.weighting import Even, InverseFrequency, SmoothedFrequency, Table
from data_pipelines.errors import UserError
from data_pipelines.plans import Augmentation
from data_pipelines.samplers import ClassBalanced, Everything, Imposed, MinPerIdentity, NShot, Shuffle, Source

PARTS = {"trunk": "trunk/", "all": ""}  # what is taken, and what the paths of its parameters begin with


@dataclasses.dataclass(frozen=True)
class Stage:
    """What one stage trains, on what, and how."""

    name: str
    objective: Any
    """A row of agejax.objectives.OBJECTIVES."""
    epochs: float = 60.0
    batch_size: int = 128
    """Examples a step, over all devices."""
    optimizer: Adam | SGD = Adam()
    schedule: StepDecay | MultiStep | OneCycle = StepDecay()
    reference_batch: int = 0
    """Batch size that the learning rate is given for: it is scaled by batch_size / reference_batch; 0: it is not."""
    rates: tuple[Rate, ...] = ()
    """Factors on the learning rate of some parameters, as `head:10,trunk/block1:0.1`; the first match counts."""
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
    weighting: Even | InverseFrequency | SmoothedFrequency = Even()
    """How much each counts in the loss, by how rare its label is among them; 1 in the mean."""
    validation_split: str = "val"
    """Empty: no validation."""
    take: Literal["trunk", "all", "nothing"] = "trunk"
    """What is taken from the stage before, or from --init; the rest is initialised anew."""
    reset_head_bias: bool = False
    """Set the head's bias to 0 after taking it, as the authors' second stage does."""
    accumulate: int = 1
    """Parts of a batch that pass one after the other, where the whole would not fit; one update of their mean gradient.
    With batch norm it is not the same as one pass: each part is normalised by its own statistics."""

    def __post_init__(self):
        for name in ("epochs", "batch_size", "accumulate"):
            if not getattr(self, name) > 0:
                raise UserError(f"stage {self.name}: {name} must be above 0, got {getattr(self, name)}")
        if self.reference_batch < 0:
            raise UserError(f"stage {self.name}: reference_batch must be 0 or more, got {self.reference_batch}")
        if self.objective.target == "identity" and self.weighting != Even():
            raise UserError(f"stage {self.name} trains on identities, which have no order: weighting must be Even")

    def weights(self, examples: Source) -> Table | None:
        """Of the labels of what the stage trains on; None: all count alike."""
        return None if self.weighting == Even() else self.weighting.table(examples.column(self.objective.target))

    def steps(self, examples: int) -> int:
        return max(1, math.ceil(self.epochs * examples / self.batch_size))

    @property
    def learning_rate(self) -> float:
        """The optimiser's, for this batch size."""
        return self.optimizer.learning_rate * (self.batch_size / self.reference_batch if self.reference_batch else 1)

    def make_optimizer(self, params: Tree, steps: int, steps_per_epoch: float) -> optax.GradientTransformation:
        """The stage's update rule. Raises UserError where an expression matches none of the parameters."""
        spec = dataclasses.replace(self.optimizer, learning_rate=self.learning_rate)
        return make_optimizer(spec, self.schedule, params, self.trainable, steps, steps_per_epoch, self.rates)


def start_variables(
    stage: Stage, description: Description, seed: int, source: tuple[Description, dict] | None, origin: str
) -> tuple[dict, str]:
    """Initial variables of a stage, and a sentence that says what was taken from `source` and what was left.

    `source` is what load_trained gives, `origin` its name. Raises UserError where the two networks differ.
    """
    fresh = init_variables(jax.random.key(seed), description.network(stage.trainable), description.image_size)
    if source is None or stage.take == "nothing":
        return fresh, "starts from random weights"
    theirs, given = source
    _refuse_differences(stage, description, fresh, theirs, given, origin)
    part = PARTS[stage.take]
    variables = {name: transfer(fresh[name], given.get(name, {}), part) for name in fresh}
    if stage.reset_head_bias:
        head = variables["params"]["head"]
        variables["params"]["head"] = head | {"bias": jnp.zeros_like(head["bias"])}
    return variables, f"takes {_inventory(given['params'], part)} from {origin}"


def check_start(stage: Stage, description: Description, theirs: Description, origin: str) -> None:
    """Raises UserError where the stage could not start from weights of `theirs`; computes nothing."""
    if stage.take == "nothing" or (
        stage.take == "trunk" and _options(description.backbone) == _options(theirs.backbone)
    ):
        return
    mine, given = (variable_shapes(one.network(), one.image_size) for one in (description, theirs))
    _refuse_differences(stage, description, mine, theirs, given, origin)


def check_parameters(stage: Stage, description: Description) -> None:
    """Raises UserError where the stage names parameters that its network does not have."""
    if stage.trainable or stage.rates or stage.optimizer.decays or stage.reset_head_bias:
        params = variable_shapes(description.network(), description.image_size)["params"]
        stage.make_optimizer(params, 1, 1.0)
        if stage.reset_head_bias and "bias" not in params["head"]:
            raise UserError(f"stage {stage.name}: reset_head_bias=True, and the head of its objective has no bias")


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


def _refuse_differences(stage, description: Description, mine: dict, theirs: Description, given: dict, origin: str):
    family, other = (type(one.backbone).__name__ for one in (description, theirs))
    if family != other:
        raise UserError(f"{origin} was trained with {other}, this run has {family}: give {_words(theirs.backbone)}")
    for name in ("params", "batch_stats"):
        trees = mine[name], given.get(name, {})
        if found := difference(*trees, PARTS["trunk"]):
            raise UserError(f"{origin} has another network: {found}; it was trained with {_words(theirs.backbone)}")
        if found := difference(*trees, PARTS[stage.take]):
            raise UserError(f"{origin} has another head: {found}; take the trunk alone: --{stage.name}.take=trunk")


def _words(backbone) -> str:
    """What chooses a backbone on the command line: the row that is most like it, and the options that differ."""
    like = {name: row for name, row in BACKBONES.items() if type(row) is type(backbone)}
    if not like:
        return f"the network it has, {backbone}"
    mine = _options(backbone)
    unlike = {name: [f for f, value in _options(row).items() if value != mine[f]] for name, row in like.items()}
    name = min(unlike, key=lambda row: len(unlike[row]))
    values = {f: ",".join(map(str, mine[f])) if isinstance(mine[f], tuple) else mine[f] for f in unlike[name]}
    return " ".join([f"--model={name}", *(f"--model.{f}={value}" for f, value in values.items())])


def _options(backbone) -> dict:
    """All that shapes the parameters: the input recipe does not."""
    return {f.name: getattr(backbone, f.name) for f in dataclasses.fields(backbone) if f.name != "inputs"}


def _inventory(params: dict, part: str) -> str:
    taken = {path: x for path, x in flatten(params).items() if path.startswith(part)}
    left = {path: x.shape for path, x in flatten(params).items() if path not in taken}
    if not left:
        return f"all {count(params):,} parameters"
    leaves = ", ".join(f"{path} {'×'.join(map(str, shape))}" for path, shape in left.items())
    return f"{part.strip('/')} ({count(taken):,} parameters, and its statistics; leaves {leaves})"
