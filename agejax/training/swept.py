"""Options in which trials of one program differ: as numbers of a stage, and as arrays inside jit."""

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from agejax.objectives.base import Expectation
from agejax.training.stages import Stage

STEP = "objective.grid.step"
FAR = 1e6  # the label of an output that a narrower grid does not have: no Gaussian reaches it
NEVER = -1e9  # its score


def values(stage: Stage) -> dict[str, float]:
    """Dotted names of the float options that trials of one program may differ in."""
    objective = {name: value for name, value in _floats(stage.objective) if name not in stage.objective.wants}
    parts = {"objective": objective, "optimizer": dict(_floats(stage.optimizer))}
    return {f"{part}.{name}": value for part, options in parts.items() for name, value in options.items()}


def _floats(options: Any) -> Iterator[tuple[str, float]]:
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name == "grid" and isinstance(options, Expectation):
            yield "grid.step", value.step
        elif type(value) is float:
            yield field.name, value


def without_values(stage: Stage) -> Stage:
    """What stages must have in common for their trials to be one program."""
    for name in values(stage):
        stage = with_value(stage, name, 0.0)
    return dataclasses.replace(stage, examples=None, name="")


def with_value(options: Any, path: str, value: Any) -> Any:
    """A copy with the option of that dotted name set, unchecked: the value may be a tracer."""
    name, _, rest = path.partition(".")
    changed = copy.copy(options)
    object.__setattr__(changed, name, with_value(getattr(options, name), rest, value) if rest else value)
    return changed


@dataclasses.dataclass(frozen=True)
class WideGrid:
    """A label grid with a traced step, in arrays as wide as the widest grid of the trials.

    Labels beyond its own lie far away, and their scores are such that they get no probability and no gradient.
    """

    low: float
    high: float
    step: jax.Array
    widest: int

    @property
    def size(self) -> jax.Array:
        """K of the trial's own grid."""
        return jnp.round((self.high - self.low) / self.step) + 1

    def as_array(self, dtype) -> jax.Array:
        k_K = jnp.arange(self.widest)
        return jnp.where(k_K < self.size, self.low + self.step * k_K, FAR).astype(dtype)

    def scored(self, scores_BxK: jax.Array) -> jax.Array:
        return jnp.where(jnp.arange(self.widest)[None, :] < self.size, scores_BxK, NEVER)


def with_values(stage: Stage, changed: dict[str, Any], widest: int) -> Stage:
    """The stage with traced values; `widest` is the number of labels in the widest grid."""
    for name, value in changed.items():
        if name == STEP:
            grid = stage.objective.grid
            stage = with_value(stage, "objective.grid", WideGrid(grid.low, grid.high, value, widest))
        else:
            stage = with_value(stage, name, value)
    return stage
