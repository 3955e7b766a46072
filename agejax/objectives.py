"""Objectives: the only place where years become targets and outputs become years again.

A training step needs of an objective:

    head_size                      width K of the last layer
    target                         the label it reads: "age", "attractiveness" or "identity"
    measures                       the validation measure, lower is better; None: there is none
    loss(logits_BxK, batch)        (loss_B, metrics): unreduced float32 (B,), metrics a dict of float32 (B,)
    predict(logits_BxK)            (value_B, spread_B): float32

`batch` holds label, sigma, identity and mask as data_pipelines/schema.py describes. A padded row (mask 0)
has loss, metrics and gradient exactly 0, whatever stands in it. An example without the label that is asked
for (NaN, or identity -1) has loss NaN, so that it is noticed: keeping such examples out is the loader's part.

A new recipe is a new class here and a new row in OBJECTIVES.
"""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from agejax import losses
from agejax.labels import (
    AGE,
    LabelGrid,
    at_least_float32,
    encode_distribution,
    expectation,
    require_one_per_example,
    spread,
)
from data_pipelines.errors import UserError

KL_SCALES = {"batch_mean": lambda grid: 1.0, "mean_elements": lambda grid: 1 / grid.size}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expectation:
    """What objectives share whose head is a distribution over a grid, and whose answer is its expectation."""

    grid: LabelGrid = AGE
    target: Literal["age", "attractiveness"] = "age"
    measures: ClassVar[str | None] = "mae"

    @property
    def head_size(self) -> int:
        return self.grid.size

    def predict(self, logits_BxK) -> tuple[jax.Array, jax.Array]:
        """(B,) expectation and (B,) standard deviation in the grid's units. DLDL-v2, Eq. 10."""
        p_BxK = jax.nn.softmax(at_least_float32(logits_BxK))
        return expectation(p_BxK, self.grid), spread(p_BxK, self.grid)


@dataclasses.dataclass(frozen=True)
class JointLabelDistribution(Expectation):
    """KL to the label distribution plus λ times the L1 error of its expectation: DLDL-v2, Eq. 12.

    kl_reduction="mean_elements" is what the authors' code minimises: KL / K + λ L1, since it averages the KL
    over all B·K elements and the L1 over B. At λ = 1 the L1 term then weighs K times (101 for age) what is
    printed.
    """

    lambda_: float = 1.0
    default_sigma: float = 2.0  # in the grid's units, where the data has no σ; Morph's value
    kl_reduction: Literal["batch_mean", "mean_elements"] = "batch_mean"
    normalise: bool = True  # False: Eq. 1 as printed, a density that need not sum to 1

    def loss(self, logits_BxK, batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits_BxK, label_B, mask_B = _unpadded(logits_BxK, batch, self.grid)
        kl_B = _kl(logits_BxK, label_B, batch["sigma"], mask_B, self)
        error_B = losses.absolute_error(logits_BxK, label_B, self.grid)
        loss_B = KL_SCALES[self.kl_reduction](self.grid) * kl_B + self.lambda_ * error_B
        return _masked(mask_B, loss_B, kl=kl_B, absolute_error=error_B)


@dataclasses.dataclass(frozen=True)
class LabelDistribution(Expectation):
    """KL to the label distribution alone: DLDL, which is DLDL-v2 with λ = 0; the first stage of the authors' code.

    kl_reduction="mean_elements" divides it by K, as that code does: its Adam compares gradients with an eps.
    """

    default_sigma: float = 2.0  # in the grid's units, where the data has no σ
    kl_reduction: Literal["batch_mean", "mean_elements"] = "batch_mean"
    normalise: bool = True  # False: Eq. 1 as printed

    def loss(self, logits_BxK, batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits_BxK, label_B, mask_B = _unpadded(logits_BxK, batch, self.grid)
        kl_B = _kl(logits_BxK, label_B, batch["sigma"], mask_B, self)
        error_B = losses.absolute_error(logits_BxK, label_B, self.grid)
        loss_B = KL_SCALES[self.kl_reduction](self.grid) * kl_B
        return _masked(mask_B, loss_B, kl=kl_B, absolute_error=error_B)


@dataclasses.dataclass(frozen=True)
class ExpectationRegression(Expectation):
    """L1 error of the expectation alone: ER (l1) of the DLDL-v2 journal paper, Eq. 11."""

    def loss(self, logits_BxK, batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits_BxK, label_B, mask_B = _unpadded(logits_BxK, batch, self.grid)
        error_B = losses.absolute_error(logits_BxK, label_B, self.grid)
        return _masked(mask_B, error_B, absolute_error=error_B)


@dataclasses.dataclass(frozen=True)
class Identity:
    """Softmax over subjects, the pretraining of DLDL-v2. num_identities=0: to be set from the data."""

    num_identities: int = 0
    target: ClassVar[str] = "identity"
    measures: ClassVar[str | None] = None

    @property
    def head_size(self) -> int:
        if self.num_identities < 1:
            raise UserError("num_identities is 0: set it to the number of identities in the data")
        return self.num_identities

    def loss(self, logits_BxK, batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        require_one_per_example(logits_BxK.shape[0], identity=batch["identity"], mask=batch["mask"])
        mask_B = batch["mask"] > 0
        logits_BxK = jnp.where(mask_B[:, None], logits_BxK, 0)
        identity_B = jnp.where(mask_B, batch["identity"], 0)
        loss_B = losses.cross_entropy(logits_BxK, identity_B)
        correct_B = at_least_float32(jnp.argmax(logits_BxK, axis=1) == identity_B)
        return _masked(mask_B, loss_B, accuracy=correct_B)

    def predict(self, logits_BxK) -> tuple[jax.Array, jax.Array]:
        """The likeliest identity as float32 (exact below 2^24), and the entropy in nats."""
        log_p_BxK = jax.nn.log_softmax(at_least_float32(logits_BxK))
        entropy_B = -jnp.sum(jnp.exp(log_p_BxK) * log_p_BxK, axis=1)
        return at_least_float32(jnp.argmax(logits_BxK, axis=1)), entropy_B


OBJECTIVES = {
    "JointLabelDistribution": JointLabelDistribution,
    "LabelDistribution": LabelDistribution,
    "ExpectationRegression": ExpectationRegression,
    "Identity": Identity,
}


def _unpadded(logits_BxK, batch, grid: LabelGrid):
    """Logits, labels, bool mask; padding is replaced BEFORE the maths, as 0 · NaN is NaN in a gradient."""
    require_one_per_example(logits_BxK.shape[0], label=batch["label"], mask=batch["mask"])
    mask_B = batch["mask"] > 0
    return jnp.where(mask_B[:, None], logits_BxK, 0), jnp.where(mask_B, batch["label"], grid.low), mask_B


def _kl(logits_BxK, label_B, sigma_B, mask_B, objective):
    require_one_per_example(label_B.shape[0], sigma=sigma_B)
    sigma_B = jnp.where(jnp.isnan(sigma_B) | ~mask_B, objective.default_sigma, sigma_B)
    target_BxK = encode_distribution(objective.grid, label_B, sigma_B, objective.normalise)
    return losses.kl_divergence(logits_BxK, target_BxK)


def _masked(mask_B, loss_B, **metrics_B):
    return jnp.where(mask_B, loss_B, 0), {name: jnp.where(mask_B, m_B, 0) for name, m_B in metrics_B.items()}
