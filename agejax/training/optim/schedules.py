"""Schedules: a factor on the learning rate at every step, and what becomes of the momentum.

`step` counts from 0, `steps` are those of the whole stage. Epochs need not be whole numbers of steps.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from data_pipelines.errors import UserError

ROUNDING = 1e-6  # a step that lies on an epoch's end in exact numbers lies on it in floating point, too


@dataclasses.dataclass(frozen=True)
class Schedule:
    """What schedules share: a momentum that stays as the optimiser has it."""

    def momentum(self, own: float, step: jax.Array, steps: int) -> jax.Array | float:
        """SGD's momentum or Adam's b1 at the step; `own` is the optimiser's."""
        return own


@dataclasses.dataclass(frozen=True)
class StepDecay(Schedule):
    """lr · factor^floor(epoch / every). DLDL-v2: 0.1 every 30 epochs."""

    factor: float = 0.1
    every: float = 30.0
    """Epochs."""

    def __call__(self, step: jax.Array, steps: int, steps_per_epoch: float) -> jax.Array:
        return self.factor ** jnp.floor(step / (self.every * steps_per_epoch) + ROUNDING)


@dataclasses.dataclass(frozen=True)
class MultiStep(Schedule):
    """lr · factor^(milestones passed), as torch's MultiStepLR. LAE: 0.1 after 20, 40, 60 of 75 epochs."""

    milestones: tuple[float, ...] = (20.0, 40.0, 60.0)
    """Epochs."""
    factor: float = 0.1

    def __post_init__(self):
        if not all(milestone > 0 for milestone in self.milestones):
            raise UserError(f"milestones must be above 0 epochs, got {', '.join(map(str, self.milestones))}")

    def __call__(self, step: jax.Array, steps: int, steps_per_epoch: float) -> jax.Array:
        first = [math.ceil(milestone * steps_per_epoch - ROUNDING) for milestone in self.milestones]
        return self.factor ** sum((step >= number for number in first), start=jnp.zeros([], jnp.int32))


@dataclasses.dataclass(frozen=True)
class OneCycle(Schedule):
    """torch's OneCycleLR: cosine up to the peak at step warmup·T − 1, cosine down to peak / start / end at step T − 1.

    The momentum runs against it, from max_momentum down to base_momentum at the peak and up again; SGD's momentum, or
    Adam's b1, is then not read. optax.cosine_onecycle_schedule peaks one step later, ends at T and keeps the momentum.
    """

    warmup: float = 0.3
    """Share of the steps until the peak."""
    start: float = 25.0
    """The first step runs at peak / start."""
    end: float = 1e4
    """The last step runs at peak / start / end."""
    cycle_momentum: bool = True
    base_momentum: float = 0.85
    max_momentum: float = 0.95

    def __call__(self, step: jax.Array, steps: int, steps_per_epoch: float) -> jax.Array:
        return self._up_and_down(1 / self.start, 1.0, 1 / self.start / self.end, step, steps)

    def momentum(self, own: float, step: jax.Array, steps: int) -> jax.Array | float:
        if not self.cycle_momentum:
            return own
        return self._up_and_down(self.max_momentum, self.base_momentum, self.max_momentum, step, steps)

    def _up_and_down(self, begin: float, peak: float, end: float, step: jax.Array, steps: int) -> jax.Array:
        top = max(self.warmup * steps - 1, 1e-6)
        rise = _cosine(begin, peak, step / top)
        fall = _cosine(peak, end, (step - top) / max(steps - 1 - top, 1e-6))
        return jnp.where(step <= top, rise, fall)


def _cosine(begin: float, end: float, share: jax.Array) -> jax.Array:
    return end + (begin - end) / 2 * (1 + jnp.cos(jnp.pi * jnp.clip(share, 0, 1)))
