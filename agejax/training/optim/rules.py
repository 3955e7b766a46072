"""Optimisers: options with their formulas. g is the gradient, p the parameter, t the number of the step from 1."""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from agejax.parameters import Tree
from data_pipelines.errors import UserError

Momentum = Callable[[jax.Array], jax.Array | float]  # step from 0 → momentum
Cycle = Callable[[float, jax.Array], jax.Array | float]  # the optimiser's own momentum, step from 0 → momentum


@dataclasses.dataclass(frozen=True)
class Adam:
    """Adam; without `coupled`, its weight decay is AdamW's: lr · weight_decay · p, beside Adam's own step.

    form="standard" is Kingma & Ba. form="torch7" is the authors' optimiser: the bias correction sits in the step size,
    so that eps meets the uncorrected sqrt(v) and is effectively eps / sqrt(1 − b2^t): the first steps are shorter.
    """

    learning_rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    form: Literal["standard", "torch7"] = "standard"
    weight_decay: float = 0.0
    coupled: bool = False
    """weight_decay · p joins the gradient before the moments, as in torch.optim.Adam and Torch7."""
    decays: str = ""
    """Regular expression over the paths of the parameters that decay, as `kernel$`; empty: all, as in torch."""

    def rule(self, momentum: Cycle, decay: optax.GradientTransformation) -> optax.GradientTransformation:
        """The update, without the learning rate; `decay` adds weight_decay · p where it is wanted."""
        scale = scale_by_adam(lambda step: momentum(self.b1, step), self.b2, self.eps, ADAM_STEPS[self.form])
        return optax.chain(decay, scale) if self.coupled else optax.chain(scale, decay)


@dataclasses.dataclass(frozen=True)
class SGD:
    """torch.optim.SGD without dampening: g += weight_decay · p; buffer = momentum · buffer + g; p -= lr · buffer."""

    learning_rate: float = 0.01
    momentum: float = 0.9
    nesterov: bool = False
    """p -= lr · (g + momentum · buffer) instead."""
    weight_decay: float = 0.0
    decays: str = ""
    """Regular expression over the paths of the parameters that decay, as `kernel$`; empty: all, as in torch."""

    def __post_init__(self):
        if self.nesterov and not self.momentum > 0:
            raise UserError(f"nesterov needs a momentum above 0, got {self.momentum}")

    def rule(self, momentum: Cycle, decay: optax.GradientTransformation) -> optax.GradientTransformation:
        """The update, without the learning rate; `decay` adds weight_decay · p where it is wanted."""
        return optax.chain(decay, scale_by_momentum(lambda step: momentum(self.momentum, step), self.nesterov))


class Buffers(NamedTuple):
    """Momentum buffers, and how many updates were made."""

    count: jax.Array
    buffer: Tree


def scale_by_momentum(momentum: Momentum, nesterov: bool) -> optax.GradientTransformation:
    """buffer = m · buffer + g from a buffer of 0, with m that of the step; optax.trace keeps one m."""

    def init(params):
        return Buffers(jnp.zeros([], jnp.int32), optax.tree.zeros_like(params))

    def update(updates, state, params=None):
        del params
        m = momentum(state.count)
        buffer = jax.tree.map(lambda g, b: m * b + g, updates, state.buffer)
        moved = jax.tree.map(lambda g, b: g + m * b, updates, buffer) if nesterov else buffer
        return moved, Buffers(optax.safe_increment(state.count), buffer)

    return optax.GradientTransformation(init, update)


def scale_by_adam(b1: Momentum, b2: float, eps: float, step_of: Callable) -> optax.GradientTransformation:
    """optax.scale_by_adam with a b1 of the step; as in torch the bias correction is 1 − b1^t with the b1 of now."""

    def init(params):
        mu, nu = (optax.tree.zeros_like(params) for _ in range(2))  # not one: the step donates every buffer once
        return optax.ScaleByAdamState(jnp.zeros([], jnp.int32), mu, nu)

    def update(updates, state, params=None):
        del params
        now, count = b1(state.count), optax.safe_increment(state.count)
        mu = optax.tree.update_moment(updates, state.mu, now, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
        return step_of(mu, nu, now, b2, eps, count), optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def _standard(mu: Tree, nu: Tree, b1, b2: float, eps: float, count: jax.Array) -> Tree:
    """m / (1 − b1^t) / (sqrt(v / (1 − b2^t)) + eps)."""
    mu, nu = optax.tree.bias_correction(mu, b1, count), optax.tree.bias_correction(nu, b2, count)
    return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)


def _torch7(mu: Tree, nu: Tree, b1, b2: float, eps: float, count: jax.Array) -> Tree:
    """m / (sqrt(v) + eps) · sqrt(1 − b2^t) / (1 − b1^t): torch7 optim/adam.lua."""
    size = jnp.sqrt(1 - b2**count) / (1 - b1**count)
    return jax.tree.map(lambda m, v: size * m / (jnp.sqrt(v) + eps), mu, nu)


ADAM_STEPS = {"standard": _standard, "torch7": _torch7}
