"""Objectives of LAE, for ages of which many have few examples: learn a representation, then balance the classifier.

Bao et al., LAE: Long-Tailed Age Estimation, CAIP 2021 (data of the Guess The Age contest). The second stage freezes
the trunk and draws all ages equally often: see samplers.ClassBalanced.
"""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from agejax import losses
from agejax.labels import encode_distribution
from agejax.objectives.base import Expectation, masked
from data_pipelines.errors import UserError


def _batch_mean(error_B, mask_B):
    return jnp.sum(jnp.where(mask_B, error_B, 0)) / jnp.maximum(jnp.sum(mask_B), 1)


REDUCTIONS = {"example": lambda error_B, mask_B: error_B, "batch": _batch_mean}


@dataclasses.dataclass(frozen=True)
class LAERepresentation(Expectation):
    """LAE's first stage, L_fe = KL(z ‖ ẑ) + λ |ŷ - y|: DLDL-v2 with one σ for all examples, whatever the data has.

    z is the Gaussian (y, σ) over the ages 0 … 100. The text leaves z unnormalised and sums from k = 1 on; here z sums
    to 1 (normalise=False: as printed) and the sums run over the whole grid.
    """

    sigma: float = 1.0  # in the grid's units
    lambda_: float = 1.0
    normalise: bool = True

    def loss(self, logits_BxK, batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        scores_BxK, label_B, mask_B = self.rows(logits_BxK, batch)
        kl_B = _kl(scores_BxK, label_B, self)
        error_B = losses.absolute_error(scores_BxK, label_B, self.grid)
        return masked(mask_B, kl_B + self.lambda_ * error_B, kl=kl_B, absolute_error=error_B)


@dataclasses.dataclass(frozen=True)
class LAEClassification(Expectation):
    """LAE's second stage, L_cl = KL(z ‖ ẑ) + (|ŷ - y| - mae)²: the error of every age is drawn to one and the same.

    mae is the validation MAE of the first stage's model, a constant; errors smaller than it are drawn UP to it, as the
    authors intend. mae=0: to be taken from the stage before. reduction="batch" has the mean error of the batch in the
    square in place of each example's own, which the paper leaves open; an example without label is then noticed in
    every row.
    """

    sigma: float = 1.0  # in the grid's units
    mae: float = 0.0  # in the grid's units
    reduction: Literal["example", "batch"] = "example"
    normalise: bool = True  # False: z as printed
    wants: ClassVar[tuple[str, ...]] = ("mae",)

    def loss(self, logits_BxK, batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        if not self.mae > 0:
            raise UserError(f"mae is {self.mae:g}: set it to the validation MAE of the stage before")
        scores_BxK, label_B, mask_B = self.rows(logits_BxK, batch)
        kl_B = _kl(scores_BxK, label_B, self)
        error_B = losses.absolute_error(scores_BxK, label_B, self.grid)
        loss_B = kl_B + jnp.square(REDUCTIONS[self.reduction](error_B, mask_B) - self.mae)
        return masked(mask_B, loss_B, kl=kl_B, absolute_error=error_B)


def _kl(scores_BxK, label_B, objective):
    sigma_B = jnp.full(label_B.shape, objective.sigma)
    return losses.kl_divergence(scores_BxK, encode_distribution(objective.grid, label_B, sigma_B, objective.normalise))
