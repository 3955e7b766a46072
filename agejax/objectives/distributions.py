"""Objectives whose head is a distribution over the labels, and whose answer is its expectation."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from agejax import losses
from agejax.labels import encode_distribution, require_one_per_example
from agejax.objectives.base import Expectation, masked, unpadded

KL_SCALES = {"batch_mean": lambda grid: 1.0, "mean_elements": lambda grid: 1 / grid.size}


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
        logits_BxK, label_B, mask_B = unpadded(logits_BxK, batch, self.grid)
        kl_B = _kl(logits_BxK, label_B, batch["sigma"], mask_B, self)
        error_B = losses.absolute_error(logits_BxK, label_B, self.grid)
        loss_B = KL_SCALES[self.kl_reduction](self.grid) * kl_B + self.lambda_ * error_B
        return masked(mask_B, loss_B, kl=kl_B, absolute_error=error_B)


@dataclasses.dataclass(frozen=True)
class LabelDistribution(Expectation):
    """KL to the label distribution alone: DLDL, which is DLDL-v2 with λ = 0; the first stage of the authors' code.

    kl_reduction="mean_elements" divides it by K, as that code does: its Adam compares gradients with an eps.
    """

    default_sigma: float = 2.0  # in the grid's units, where the data has no σ
    kl_reduction: Literal["batch_mean", "mean_elements"] = "batch_mean"
    normalise: bool = True  # False: Eq. 1 as printed

    def loss(self, logits_BxK, batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits_BxK, label_B, mask_B = unpadded(logits_BxK, batch, self.grid)
        kl_B = _kl(logits_BxK, label_B, batch["sigma"], mask_B, self)
        error_B = losses.absolute_error(logits_BxK, label_B, self.grid)
        loss_B = KL_SCALES[self.kl_reduction](self.grid) * kl_B
        return masked(mask_B, loss_B, kl=kl_B, absolute_error=error_B)


@dataclasses.dataclass(frozen=True)
class ExpectationRegression(Expectation):
    """L1 error of the expectation alone: ER (l1) of the DLDL-v2 journal paper, Eq. 11."""

    def loss(self, logits_BxK, batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits_BxK, label_B, mask_B = unpadded(logits_BxK, batch, self.grid)
        error_B = losses.absolute_error(logits_BxK, label_B, self.grid)
        return masked(mask_B, error_B, absolute_error=error_B)


def _kl(logits_BxK, label_B, sigma_B, mask_B, objective):
    require_one_per_example(label_B.shape[0], sigma=sigma_B)
    sigma_B = jnp.where(jnp.isnan(sigma_B) | ~mask_B, objective.default_sigma, sigma_B)
    target_BxK = encode_distribution(objective.grid, label_B, sigma_B, objective.normalise)
    return losses.kl_divergence(logits_BxK, target_BxK)
