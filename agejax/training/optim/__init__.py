"""Optimisers and schedules, and how a stage's choices of them, of what decays and of what is frozen come together.

Parameters are named by regular expressions over their paths (agejax/parameters.py): one rule for freezing, weight
decay and learning rates. A new optimiser or schedule is a class in rules.py or schedules.py and a row here.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from agejax.parameters import Tree, first_match, flatten, mask
from agejax.training.optim.rules import SGD, Adam
from agejax.training.optim.schedules import MultiStep, OneCycle, StepDecay
from data_pipelines.errors import UserError

OPTIMIZERS = {cls.__name__: cls for cls in (Adam, SGD)}
SCHEDULES = {cls.__name__: cls for cls in (StepDecay, MultiStep, OneCycle)}


@dataclasses.dataclass(frozen=True)
class Rate:
    """A factor on the learning rate of the parameters whose path the pattern is found in."""

    pattern: str
    factor: float

    def __post_init__(self):
        if not self.factor > 0:
            raise UserError(f"the factor of {self.pattern!r} must be above 0, got {self.factor}; `trainable` freezes")


def make_optimizer(
    spec: Adam | SGD,
    schedule: StepDecay | MultiStep | OneCycle,
    params: Tree,
    trainable: str,
    steps: int,
    steps_per_epoch: float,
    rates: tuple[Rate, ...] = (),
) -> optax.GradientTransformation:
    """The update rule of a stage; parameters that `trainable` does not name keep no moments and do not move.

    Weight decay goes by the learning rate, and so by the schedule and by `rates`, of which the first match counts.
    Raises UserError for an expression that matches no parameter.
    """
    decaying = mask(params, spec.decays, "decays")
    rule = optax.chain(
        spec.rule(
            lambda own, step: schedule.momentum(own, step, steps),
            optax.add_decayed_weights(spec.weight_decay, decaying),
        ),
        optax.scale_by_schedule(lambda step: -spec.learning_rate * schedule(step, steps, steps_per_epoch)),
    )
    if not all(flatten(trained := mask(params, trainable, "trainable")).values()):
        labels = jax.tree.map(lambda yes: "train" if yes else "freeze", trained)
        rule = optax.multi_transform({"train": rule, "freeze": optax.set_to_zero()}, labels)
    return optax.chain(rule, scale_by_rates(params, rates)) if rates else rule


def scale_by_rates(params: Tree, rates: tuple[Rate, ...]) -> optax.GradientTransformation:
    """Updates times the factor of the first rate that names the parameter; 1 where none does."""
    factors = first_match(params, [(rate.pattern, rate.factor) for rate in rates], 1.0, "rates")
    return optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, factors))
