"""Objectives whose head is one number, the label itself: no distribution over the grid, and no spread of its own."""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from agejax import losses
from agejax.labels import at_least_float32, decode_minus_one_to_one, encode_minus_one_to_one
from agejax.objectives.base import OnGrid, masked, unpadded, within
from data_pipelines.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regression(OnGrid):
    """What regressions share. A subclass says what stands for a label: `encode`, `decode`, and the loss between.

    Answers are clipped to the grid, as no face is -3 years old. Their spread is 0: where a spread is shown it is what
    the prediction for the mirror image adds in evaluation.
    """

    head_size: ClassVar[int] = 1

    def distribution(self, logits_Bx1) -> None:
        """None: the head is a number."""
        return None

    def predict(self, logits_Bx1) -> tuple[jax.Array, jax.Array]:
        """(B,) values in the grid's units, inside the grid, and (B,) zeros."""
        value_B = within(self.grid, self.decode(self.code(logits_Bx1)))
        return value_B, jnp.zeros_like(value_B)

    def loss(self, logits_Bx1, batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits_Bx1, label_B, mask_B = unpadded(logits_Bx1, batch, self.grid)
        loss_B = self.distance_of(self.code(logits_Bx1) - self.encode(label_B))
        value_B, _ = self.predict(logits_Bx1)
        return masked(mask_B, loss_B, absolute_error=jnp.abs(value_B - label_B))


@dataclasses.dataclass(frozen=True)
class MetricRegression(Regression):
    """MR of the DLDL-v2 journal paper (§4.5.4): distance of tanh(x) from y mapped linearly from [low, high] to [-1, 1].

    distance="l1" is MR (l1), |d|; "l2" MR (l2), d² without ½ as in the authors' code. d is in the mapped unit: on the
    age grid d = 0.02 is a year. "smooth_l1" of a d below 1 is half of "l2".
    """

    distance: Literal["l1", "l2", "smooth_l1"] = "l1"

    def code(self, logits_Bx1) -> jax.Array:
        return jnp.tanh(_only_column(logits_Bx1))

    def encode(self, label_B) -> jax.Array:
        return encode_minus_one_to_one(self.grid, label_B)

    def decode(self, code_B) -> jax.Array:
        return decode_minus_one_to_one(self.grid, code_B)

    def distance_of(self, difference_B) -> jax.Array:
        return losses.DISTANCES[self.distance](difference_B)


@dataclasses.dataclass(frozen=True)
class EuclideanRegression(Regression):
    """AgeNet's regressor: ½ (x - y / scale)² of a linear output x; the answer is scale · x.

    Liu et al., ICCV workshops 2015 (ChaLearn). The loss is Caffe's EuclideanLoss, (1 / 2N) Σ; the paper does not print
    the code of the age: scale = 100 is a choice that brings ages to [0, 1], scale = 1 regresses years.
    """

    scale: float = 100.0  # in the grid's units

    def __post_init__(self):
        if not self.scale > 0:
            raise UserError(f"scale of EuclideanRegression must be above 0, got {self.scale:g}")

    def code(self, logits_Bx1) -> jax.Array:
        return _only_column(logits_Bx1)

    def encode(self, label_B) -> jax.Array:
        return at_least_float32(label_B) / self.scale

    def decode(self, code_B) -> jax.Array:
        return code_B * self.scale

    def distance_of(self, difference_B) -> jax.Array:
        return 0.5 * jnp.square(difference_B)


def _only_column(logits_Bx1) -> jax.Array:
    if logits_Bx1.ndim != 2 or logits_Bx1.shape[1] != 1:
        raise ValueError(f"outputs have shape {logits_Bx1.shape}, expected (B, 1)")
    return at_least_float32(logits_Bx1)[:, 0]
