"""What changes during training, arrays only; everything static is closed over by the step."""

import jax
import jax.numpy as jnp
import optax
from flax import struct

from agejax.parameters import Tree


class TrainState(struct.PyTreeNode):
    """What a checkpoint holds, and what a step takes and returns."""

    step: jax.Array
    """int32, updates made."""
    params: Tree
    batch_stats: Tree
    opt_state: optax.OptState

    @property
    def steps_made(self) -> int:
        """`step` on the host; trials stacked along a leading axis are in step."""
        return int(self.step.addressable_data(0).max())

    @property
    def variables(self) -> dict:
        return {"params": self.params, "batch_stats": self.batch_stats}


def new_state(variables: dict, optimizer: optax.GradientTransformation) -> TrainState:
    params = variables["params"]
    return TrainState(jnp.zeros([], jnp.int32), params, variables["batch_stats"], optimizer.init(params))
