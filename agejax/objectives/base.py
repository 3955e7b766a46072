"""What objectives are made of: the protocol's common parts, and the handling of padding and missing labels."""

import dataclasses
from typing import ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from agejax.labels import AGE, LabelGrid, at_least_float32, expectation, require_one_per_example, spread
from agejax.models import heads

LINKS = {"softmax": lambda logits: logits, "sigmoid": jax.nn.log_sigmoid}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnGrid:
    """What objectives share whose label lies on a grid: years or points."""

    grid: LabelGrid = AGE
    target: Literal["age", "attractiveness"] = "age"
    measures: ClassVar[str | None] = "mae"
    wants: ClassVar[tuple[str, ...]] = ()

    @property
    def head(self) -> nn.Module:
        return heads.linear(self.head_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expectation(OnGrid):
    """What objectives share whose head is a distribution over a grid, and whose answer is its expectation.

    link="softmax": p = softmax(x) of the outputs x. link="sigmoid": p = sigmoid(x) / Σ sigmoid(x), as some published
    networks have it; in it a constant added to x does change p.
    """

    link: Literal["softmax", "sigmoid"] = "softmax"

    @property
    def head_size(self) -> int:
        return self.grid.size

    def scores(self, logits_BxK) -> jax.Array:
        """(B, K) numbers whose softmax is the distribution: what every loss is given in place of the outputs."""
        return self.grid.scored(LINKS[self.link](at_least_float32(logits_BxK)))

    def rows(self, logits_BxK, batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Scores, labels, bool mask, with padding replaced."""
        logits_BxK, label_B, mask_B = unpadded(logits_BxK, batch, self.grid)
        return self.scores(logits_BxK), label_B, mask_B

    def distribution(self, logits_BxK) -> jax.Array:
        return jax.nn.softmax(self.scores(logits_BxK))

    def predict(self, logits_BxK) -> tuple[jax.Array, jax.Array]:
        """(B,) expectation and (B,) standard deviation in the grid's units. DLDL-v2, Eq. 10."""
        p_BxK = self.distribution(logits_BxK)
        return within(self.grid, expectation(p_BxK, self.grid)), spread(p_BxK, self.grid)


def within(grid: LabelGrid, value_B) -> jax.Array:
    """(B,): clipped to the grid; of an expectation that is its last rounding."""
    return jnp.clip(value_B, grid.low, grid.high)


def unpadded(logits_BxK, batch, grid: LabelGrid):
    """Logits, labels, bool mask; padding is replaced BEFORE the maths, as 0 · NaN is NaN in a gradient."""
    require_one_per_example(logits_BxK.shape[0], label=batch["label"], mask=batch["mask"])
    mask_B = batch["mask"] > 0
    return jnp.where(mask_B[:, None], logits_BxK, 0), jnp.where(mask_B, batch["label"], grid.low), mask_B


def masked(mask_B, loss_B, **metrics_B):
    return jnp.where(mask_B, loss_B, 0), {name: jnp.where(mask_B, m_B, 0) for name, m_B in metrics_B.items()}
