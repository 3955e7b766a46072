"""Objectives that ask of every label l_j but the last whether y is above it: J = K - 1 questions for K labels.

An answer is q_j = P(y > l_j), which for a label distribution p is 1 - T p (labels.survival): docs/ranking.md.
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from agejax import losses
from agejax.labels import LabelGrid, at_least_float32, decode_ranking, encode_ranking, expectation, spread
from agejax.models import heads
from agejax.objectives.base import OnGrid, masked, unpadded, within
from data_pipelines.errors import UserError


def distribution_of_answers(q_BxJ) -> jax.Array:
    """(B, K) probabilities p_k = q_{k-1} - q_k with q_{-1} = 1 and q_{K-1} = 0, the inverse of labels.survival.

    q is replaced by its running minimum first: answers of questions asked apart may contradict each other, as in
    P(y > 30) < P(y > 31), and p would be negative there. Answers that fall from label to label stay as they are.
    """
    q_BxJ = jax.lax.cummin(at_least_float32(q_BxJ), axis=1)
    ends_BxL = jnp.pad(q_BxJ, ((0, 0), (1, 1)), constant_values=((0, 0), (1, 0)))
    return ends_BxL[:, :-1] - ends_BxL[:, 1:]


def cross_entropy_of_each(answer_BxJ, target_BxJ) -> jax.Array:
    """(B, J) binary cross-entropies in nats, of logits and targets."""
    one_question = jax.vmap(losses.ranking_cross_entropy, in_axes=1, out_axes=1)  # so that each can be weighed
    return one_question(answer_BxJ[:, :, None], target_BxJ[:, :, None])


def squared_error_of_each(answer_BxJ, target_BxJ) -> jax.Array:
    return jnp.square(jax.nn.sigmoid(answer_BxJ) - target_BxJ)


QUESTION_LOSSES = {"cross_entropy": cross_entropy_of_each, "squared": squared_error_of_each}
QUESTION_REDUCTIONS = {"sum": jnp.sum, "mean": jnp.mean}
ABOVE_HALF = {"below": jnp.greater, "above": jnp.greater_equal}
DECODERS = {
    "count": lambda q_BxJ, objective: decode_ranking(objective.grid, ABOVE_HALF[objective.ties](q_BxJ, 0.5)),
    "expectation": lambda q_BxJ, objective: expectation(distribution_of_answers(q_BxJ), objective.grid),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Questions(OnGrid):
    """What objectives share that answer J = K - 1 questions. A subclass has `loss_of_answers`, and may have `answers`.

    decode="count" is the papers' rule, the label at the number of q_j above ½. Its answers are labels, so that a y
    between two of them can at best become the upper one. decode="expectation" is the mean of `distribution`.
    """

    decode: Literal["count", "expectation"] = "count"
    ties: Literal["below", "above"] = "below"  # q_j = ½ counts as not above, or, as in the DLDL-v2 authors' code, above

    @property
    def head_size(self) -> int:
        return self.grid.size - 1

    def answers(self, logits_BxK) -> jax.Array:
        """(B, J) float32: the logits of q."""
        return at_least_float32(logits_BxK)

    def loss(self, logits_BxK, batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits_BxK, label_B, mask_B = unpadded(logits_BxK, batch, self.grid)
        loss_B = self.loss_of_answers(self.answers(logits_BxK), encode_ranking(self.grid, label_B))
        error_B = jnp.abs(self.predict(logits_BxK)[0] - label_B)
        return masked(mask_B, loss_B, absolute_error=error_B)

    def distribution(self, logits_BxK) -> jax.Array:
        """(B, K) float32, from differences of q after it was made to fall: see distribution_of_answers."""
        return distribution_of_answers(jax.nn.sigmoid(self.answers(logits_BxK)))

    def predict(self, logits_BxK) -> tuple[jax.Array, jax.Array]:
        """(B,) the decoded label, and (B,) the standard deviation of the distribution, in the grid's units."""
        q_BxJ = jax.nn.sigmoid(self.answers(logits_BxK))
        value_B = within(self.grid, DECODERS[self.decode](q_BxJ, self))
        value_B = jnp.where(jnp.isnan(q_BxJ).any(axis=1), jnp.nan, value_B)  # else NaN would count as below ½
        return value_B, spread(distribution_of_answers(q_BxJ), self.grid)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranking(Questions):
    """K - 1 sigmoid outputs, each with a binary cross-entropy against y > l_j: DLDL-v2's journal paper, §4.5.4.

    The paper leaves the reduction over j open, and counts q > ½. The authors' code averages over j as well as over the
    batch (question_reduction="mean"), counts q >= ½ (ties="above"), and has a variant with squared errors of the
    probabilities, rankmse (question_loss="squared"). The 1e-12 that it adds inside the logarithms is left out.
    """

    question_loss: Literal["cross_entropy", "squared"] = "cross_entropy"
    question_reduction: Literal["sum", "mean"] = "sum"  # over the J questions

    def loss_of_answers(self, answer_BxJ, target_BxJ) -> jax.Array:
        each_BxJ = QUESTION_LOSSES[self.question_loss](answer_BxJ, target_BxJ)
        return QUESTION_REDUCTIONS[self.question_reduction](each_BxJ, axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeighedQuestions(Questions):
    """What CORAL and OR-CNN share: Σ_j importance_j times the cross-entropy of question j."""

    importance: tuple[float, ...] = ()  # a weight for each label but the last, as by task_importance; none: all 1

    def __post_init__(self):
        asked, given = self.grid.size - 1, len(self.importance)
        if given not in (0, asked):
            raise UserError(f"importance has {given} weights: give {asked}, one for each label but the last, or none")
        for weight in self.importance:
            if not 0 <= weight < float("inf"):
                raise UserError(f"importance must be finite and 0 or more, got {weight:g}")

    def loss_of_answers(self, answer_BxJ, target_BxJ) -> jax.Array:
        each_BxJ = cross_entropy_of_each(answer_BxJ, target_BxJ)
        importance_1xJ = jnp.asarray([self.importance or (1.0,) * (self.grid.size - 1)], each_BxJ.dtype)
        return jnp.sum(importance_1xJ * each_BxJ, axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CORAL(WeighedQuestions):
    """K - 1 sigmoids with one weight vector in common: Cao, Mirjalili, Raschka, Pattern Recognition Letters 2020.

    The outputs for one face differ by their biases alone, and at the optimum these fall from label to label (its
    Theorem 1); then so do the answers, and none contradicts another. As in the paper's code, coral-cnn, the biases
    start at 0 and q > ½ is counted; the later coral-pytorch starts them at (J - j) / J, j = 0 … J-1. Both know whole
    labels only.
    """

    @property
    def head(self) -> nn.Module:
        return heads.SharedWeight(self.head_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ORCNN(WeighedQuestions):
    """K - 1 softmaxes of two outputs each, (not above, above): Niu, Zhou, Wang, Gao, Hua, CVPR 2016.

    A softmax of two is a sigmoid of their difference. The outputs stand in pairs, as in coral-cnn's version, whose
    importance is task_importance; the paper's own is √N_j / Σ_i √N_i, with N_j the number of examples of label l_j.
    """

    @property
    def head_size(self) -> int:
        return 2 * (self.grid.size - 1)

    def answers(self, logits_BxK) -> jax.Array:
        pair_BxJx2 = at_least_float32(logits_BxK).reshape(-1, self.grid.size - 1, 2)
        return pair_BxJx2[:, :, 1] - pair_BxJx2[:, :, 0]


def task_importance(grid: LabelGrid, label_N) -> tuple[float, ...]:
    """J weights √max(n_j, N - n_j), divided by the largest of them; n_j of N labels are above l_j. NaN is left out.

    What coral-cnn takes with --imp_weight=1. Its questions go from the lowest label that occurs to the highest; here
    they are the grid's, and one that lies outside the labels, with all examples on one side, weighs 1.
    """
    known_N = np.sort(np.asarray(label_N, np.float32))
    known_N = known_N[~np.isnan(known_N)]
    if not len(known_N):
        raise UserError("importance by task needs labels, and none is known")
    below_J = np.searchsorted(known_N, grid.values[:-1], side="right")
    weight_J = np.sqrt(np.maximum(below_J, len(known_N) - below_J))
    return tuple((weight_J / weight_J.max()).tolist())


def ohrank_targets(grid: LabelGrid, label_B) -> tuple[jax.Array, jax.Array]:
    """Signs (B, J), +1 where y > l_j and else -1, and what a wrong sign costs (B, J), in the grid's units.

    Absolute costs of OHRank (Chang, Chen, Hung, CVPR 2011): y - l_j where the sign is +, l_{j+1} - y where it is -, the
    least error that a wrong answer brings. With labels 1, 2, 3, … these are y - k and k - y + 1. It predicts l at the
    number of questions answered with +.
    """
    label_B, label_K = at_least_float32(label_B), grid.values
    above_BxJ = encode_ranking(grid, label_B)
    cost_BxJ = jnp.where(above_BxJ > 0, label_B[:, None] - label_K[None, :-1], label_K[None, 1:] - label_B[:, None])
    return 2 * above_BxJ - 1, cost_BxJ
