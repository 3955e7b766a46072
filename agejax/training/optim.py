"""Optimisers and schedules: options with their formulas. A schedule maps a step to a factor on the learning rate."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from agejax.parameters import Tree, flatten, trainable_mask


@dataclasses.dataclass(frozen=True)
class StepDecay:
    """lr · factor^floor(epoch / every). DLDL-v2: 0.1 every 30 epochs."""

    factor: float = 0.1
    every: float = 30.0
    """Epochs."""

    def __call__(self, step: jax.Array, steps: int, steps_per_epoch: float) -> jax.Array:
        return self.factor ** jnp.floor(step / (self.every * steps_per_epoch) + 1e-6)


@dataclasses.dataclass(frozen=True)
class OneCycle:
    """torch's OneCycleLR: cosine up to the peak at step warmup·T − 1, cosine down to peak / start / end at step T − 1.

    optax.cosine_onecycle_schedule peaks one step later and ends at T.
    """

    warmup: float = 0.3
    """Share of the steps until the peak."""
    start: float = 25.0
    """The first step runs at peak / start."""
    end: float = 1e4
    """The last step runs at peak / start / end."""

    def __call__(self, step: jax.Array, steps: int, steps_per_epoch: float) -> jax.Array:
        peak = max(self.warmup * steps - 1, 1e-6)
        rise = _cosine(1 / self.start, 1.0, step / peak)
        fall = _cosine(1.0, 1 / self.start / self.end, (step - peak) / max(steps - 1 - peak, 1e-6))
        return jnp.where(step <= peak, rise, fall)


def _cosine(begin: float, end: float, share: jax.Array) -> jax.Array:
    return end + (begin - end) / 2 * (1 + jnp.cos(jnp.pi * jnp.clip(share, 0, 1)))


SCHEDULES = {cls.__name__: cls for cls in (StepDecay, OneCycle)}


@dataclasses.dataclass(frozen=True)
class Adam:
    """Adam with decoupled weight decay on kernels.

    form="standard" is Kingma & Ba. form="torch7" is the authors' optimiser: the bias correction sits in the step size,
    so that eps meets the uncorrected sqrt(v) and is effectively eps / sqrt(1 − b2^t): the first steps are shorter.
    """

    learning_rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    form: Literal["standard", "torch7"] = "standard"
    weight_decay: float = 0.0

    def scale(self) -> optax.GradientTransformation:
        if self.form == "torch7":
            return scale_by_adam_torch7(self.b1, self.b2, self.eps)
        return optax.scale_by_adam(self.b1, self.b2, self.eps)


OPTIMIZERS = {cls.__name__: cls for cls in (Adam,)}


def scale_by_adam_torch7(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """m / (sqrt(v) + eps) · sqrt(1 − b2^t) / (1 − b1^t), with m and v uncorrected (torch7 optim/adam.lua)."""

    def init(params):
        zeros = optax.tree.zeros_like(params)
        return optax.ScaleByAdamState(jnp.zeros([], jnp.int32), zeros, zeros)

    def update(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment(updates, state.nu, b2, 2)
        size = jnp.sqrt(1 - b2**count) / (1 - b1**count)
        scaled = jax.tree.map(lambda m, v: size * m / (jnp.sqrt(v) + eps), mu, nu)
        return scaled, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def make_optimizer(
    spec: Adam, schedule: StepDecay | OneCycle, params: Tree, trainable: str, steps: int, steps_per_epoch: float
) -> optax.GradientTransformation:
    """The update rule of a stage; parameters that `trainable` does not name keep no moments and do not move."""

    def rate(step):
        return -spec.learning_rate * schedule(step, steps, steps_per_epoch)

    kernels = jax.tree.map(lambda x: x.ndim > 1, params)
    rule = optax.chain(
        spec.scale(), optax.add_decayed_weights(spec.weight_decay, kernels), optax.scale_by_schedule(rate)
    )
    if all(flatten(mask := trainable_mask(params, trainable)).values()):
        return rule
    labels = jax.tree.map(lambda trained: "train" if trained else "freeze", mask)
    return optax.multi_transform({"train": rule, "freeze": optax.set_to_zero()}, labels)
