"""Objectives whose head is a distribution over the labels, and whose answer is its expectation.

    x outputs, p̂ their distribution (`link`)      y label, σ its spread, p its encoding
    ŷ = Σ_k p̂_k l_k, expectation (Eq. 10)         v = Σ_k p̂_k (l_k - ŷ)², variance

Equations are those of DLDL-v2 (Gao et al., IJCAI 2018, and its journal version) where no other paper is named. All
losses are per example; the mean over the batch is taken by the training step.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from agejax import losses
from agejax.labels import encode_distribution, encode_soft_labels, nearest_index, require_one_per_example
from agejax.objectives.base import Expectation, masked
from data_pipelines.errors import UserError

KL_SCALES = {"batch_mean": lambda grid: 1.0, "mean_elements": lambda grid: 1 / grid.size}
DEX_FORMS = {"cross_entropy": losses.cross_entropy, "official": losses.negative_probability}


@dataclasses.dataclass(frozen=True)
class JointLabelDistribution(Expectation):
    """DLDL-v2: KL(p ‖ p̂) + λ |ŷ - y|, Eq. 12, with p a Gaussian (y, σ).

    The gradient for the outputs is (p̂ - p) + λ sign(ŷ - y) p̂ ∘ (l - ŷ), Eq. 16, for Σp = 1; else p̂ Σp stands for
    the first p̂.

    kl_reduction="mean_elements" is what the authors' code minimises: KL / K + λ L1, since it averages the KL
    over all B·K elements and the L1 over B. At λ = 1 the L1 term then weighs K times (101 for age) what is
    printed. distance="l2" and "smooth_l1" are losses of that code alone (ldklexpl2, ldklexpsmoothl1): (ŷ - y)², and
    half of it up to an error of 1 and |ŷ - y| - ½ beyond. What that code has as +1 for sign(0) is 0 here, as printed.
    """

    lambda_: float = 1.0
    default_sigma: float = 2.0  # in the grid's units, where the data has no σ; Morph's value
    sigma_of: Literal["data", "default"] = "data"  # default: default_sigma for all, whatever the data has
    kl_reduction: Literal["batch_mean", "mean_elements"] = "batch_mean"
    normalise: bool = True  # False: Eq. 1 as printed, a density that need not sum to 1
    distance: Literal["l1", "l2", "smooth_l1"] = "l1"

    def loss(self, logits_BxK, batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        scores_BxK, label_B, mask_B = self.rows(logits_BxK, batch)
        kl_B = _kl(scores_BxK, label_B, batch["sigma"], mask_B, self)
        difference_B = losses.expectation_error(scores_BxK, label_B, self.grid)
        error_B = losses.DISTANCES[self.distance](difference_B)
        loss_B = KL_SCALES[self.kl_reduction](self.grid) * kl_B + self.lambda_ * error_B
        return masked(mask_B, loss_B, kl=kl_B, absolute_error=jnp.abs(difference_B))


@dataclasses.dataclass(frozen=True)
class LabelDistribution(Expectation):
    """DLDL: KL(p ‖ p̂) alone, Eq. 9, which is DLDL-v2 with λ = 0; the first stage of the authors' code.

    kl_reduction="mean_elements" divides it by K, as that code does: its Adam compares gradients with an eps.
    """

    default_sigma: float = 2.0  # in the grid's units, where the data has no σ
    sigma_of: Literal["data", "default"] = "data"  # default: default_sigma for all
    kl_reduction: Literal["batch_mean", "mean_elements"] = "batch_mean"
    normalise: bool = True  # False: Eq. 1 as printed

    def loss(self, logits_BxK, batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        scores_BxK, label_B, mask_B = self.rows(logits_BxK, batch)
        kl_B = _kl(scores_BxK, label_B, batch["sigma"], mask_B, self)
        error_B = losses.absolute_error(scores_BxK, label_B, self.grid)
        loss_B = KL_SCALES[self.kl_reduction](self.grid) * kl_B
        return masked(mask_B, loss_B, kl=kl_B, absolute_error=error_B)


@dataclasses.dataclass(frozen=True)
class ExpectationRegression(Expectation):
    """ER (l1) of the DLDL-v2 journal paper: |ŷ - y| alone, Eq. 11.

    distance="l2" is (ŷ - y)² without ½, as in the authors' code (expl2).
    """

    distance: Literal["l1", "l2", "smooth_l1"] = "l1"

    def loss(self, logits_BxK, batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        scores_BxK, label_B, mask_B = self.rows(logits_BxK, batch)
        difference_B = losses.expectation_error(scores_BxK, label_B, self.grid)
        loss_B = losses.DISTANCES[self.distance](difference_B)
        return masked(mask_B, loss_B, absolute_error=jnp.abs(difference_B))


@dataclasses.dataclass(frozen=True)
class DEX(Expectation):
    """Deep EXpectation: -ln p̂_c with c the label nearest to y; the answer is ŷ all the same.

    Rothe et al., IJCV 2018, as the DLDL-v2 journal paper runs it (§4.5.4). form="official" is what that paper's code
    minimises: -p̂_c, as it passes probabilities where their logarithms are expected. Of two equally near labels c is
    the lower.
    """

    form: Literal["cross_entropy", "official"] = "cross_entropy"

    def loss(self, logits_BxK, batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        scores_BxK, label_B, mask_B = self.rows(logits_BxK, batch)
        loss_B = DEX_FORMS[self.form](scores_BxK, nearest_index(self.grid, label_B))
        error_B = losses.absolute_error(scores_BxK, label_B, self.grid)
        return masked(mask_B, loss_B, absolute_error=error_B)


@dataclasses.dataclass(frozen=True)
class MeanVariance(Expectation):
    """Mean-variance loss: -ln p̂_c + λ_mean ½ (ŷ - y)² + λ_variance v, with c the label nearest to y.

    Pan et al., CVPR 2018, whose labels are whole years; the weights are theirs. ŷ and v are in the grid's units.
    """

    lambda_mean: float = 0.2
    lambda_variance: float = 0.05

    def loss(self, logits_BxK, batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        scores_BxK, label_B, mask_B = self.rows(logits_BxK, batch)
        entropy_B = losses.cross_entropy(scores_BxK, nearest_index(self.grid, label_B))
        difference_B = losses.expectation_error(scores_BxK, label_B, self.grid)
        variance_B = losses.predicted_variance(scores_BxK, self.grid)
        loss_B = entropy_B + self.lambda_mean / 2 * jnp.square(difference_B) + self.lambda_variance * variance_B
        terms = {"cross_entropy": entropy_B, "variance": variance_B}
        return masked(mask_B, loss_B, **terms, absolute_error=jnp.abs(difference_B))


@dataclasses.dataclass(frozen=True)
class SoftLabels(Expectation):
    """SORD: KL(p ‖ p̂) to soft labels p_k ∝ exp(-φ(y, l_k) / τ); see labels.encode_soft_labels for φ and τ.

    Díaz & Marathe, CVPR 2019, who print the cross-entropy, which is the KL plus a constant: the same gradient. Their
    answer is the likeliest label; here it is ŷ, as for the other distributions. The σ of the data is not used.
    """

    penalty: Literal["absolute", "squared", "squared_log"] = "absolute"
    temperature: float = 1.0  # τ in the unit of φ; the paper has 1

    def __post_init__(self):
        if not self.temperature > 0:
            raise UserError(f"temperature of the soft labels must be above 0, got {self.temperature:g}")

    def loss(self, logits_BxK, batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        scores_BxK, label_B, mask_B = self.rows(logits_BxK, batch)
        target_BxK = encode_soft_labels(self.grid, label_B, self.penalty, self.temperature)
        kl_B = losses.kl_divergence(scores_BxK, target_BxK)
        error_B = losses.absolute_error(scores_BxK, label_B, self.grid)
        return masked(mask_B, kl_B, kl=kl_B, absolute_error=error_B)


@dataclasses.dataclass(frozen=True)
class UnimodalConcentrated(Expectation):
    """Unimodal-concentrated loss: ½ ln v + (ŷ - y)² / 2v + λ Σ_k max(0, margin - s_k (p̂_k - p̂_k+1)).

    Li et al., CVPR 2022: a Gaussian likelihood of y under p̂'s own mean and variance, and a hinge on each step of p̂
    that falls before y or rises after it (s_k = -1 before y, +1 after). The authors' code is not public; λ = 1000 and
    the 1e-10 beside v, which the paper does not print, are those of the Facial-Age-Estimation-Benchmark. That code
    takes whole years only and adds 1e-10 to 2v in the second term, to v in the first. For labels off the grid see
    losses.unimodality.
    """

    lambda_unimodal: float = 1000.0
    lambda_concentrated: float = 1.0
    margin: float = 0.0  # of each step, in probability
    smallest_variance: float = 1e-10  # added to v, in the square of the grid's units

    def loss(self, logits_BxK, batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        scores_BxK, label_B, mask_B = self.rows(logits_BxK, batch)
        unimodal_B = losses.unimodality(scores_BxK, label_B, self.grid, self.margin)
        concentrated_B = losses.concentration(scores_BxK, label_B, self.grid, self.smallest_variance)
        loss_B = self.lambda_concentrated * concentrated_B + self.lambda_unimodal * unimodal_B
        error_B = losses.absolute_error(scores_BxK, label_B, self.grid)
        return masked(mask_B, loss_B, unimodal=unimodal_B, concentrated=concentrated_B, absolute_error=error_B)


def _kl(scores_BxK, label_B, sigma_B, mask_B, objective):
    require_one_per_example(label_B.shape[0], sigma=sigma_B)
    unknown_B = jnp.isnan(sigma_B) | ~mask_B | (objective.sigma_of == "default")
    sigma_B = jnp.where(unknown_B, objective.default_sigma, sigma_B)
    target_BxK = encode_distribution(objective.grid, label_B, sigma_B, objective.normalise)
    return losses.kl_divergence(scores_BxK, target_BxK)
