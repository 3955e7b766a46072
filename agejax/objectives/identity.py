"""Identity objectives: who is on the photograph. A trunk learns faces from it."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from agejax import losses
from agejax.labels import at_least_float32, require_one_per_example
from agejax.models import heads
from agejax.objectives.base import masked
from data_pipelines.errors import UserError


@dataclasses.dataclass(frozen=True)
class Identity:
    """Softmax over subjects, the pretraining of DLDL-v2. num_identities=0: to be set from the data."""

    num_identities: int = 0
    target: ClassVar[str] = "identity"
    measures: ClassVar[str | None] = None
    wants: ClassVar[tuple[str, ...]] = ("num_identities",)

    @property
    def head_size(self) -> int:
        if self.num_identities < 1:
            raise UserError("num_identities is 0: set it to the number of identities in the data")
        return self.num_identities

    @property
    def head(self) -> nn.Module:
        return heads.linear(self.head_size)

    def scores(self, logits_BxK) -> jax.Array:
        """(B, K) float32: what the softmax is taken of."""
        return at_least_float32(logits_BxK)

    def handicap(self, identity_B) -> jax.Array | float:
        """What training takes off the scores, to ask for more than the right answer."""
        return 0.0

    def loss(self, logits_BxK, batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        require_one_per_example(logits_BxK.shape[0], identity=batch["identity"], mask=batch["mask"])
        mask_B = batch["mask"] > 0
        score_BxK = self.scores(jnp.where(mask_B[:, None], logits_BxK, 0))
        identity_B = jnp.where(mask_B, batch["identity"], 0)
        loss_B = losses.cross_entropy(score_BxK - self.handicap(identity_B), identity_B)
        correct_B = at_least_float32(jnp.argmax(score_BxK, axis=1) == identity_B)
        return masked(mask_B, loss_B, accuracy=correct_B)

    def distribution(self, logits_BxK) -> None:
        """None: classes are no grid."""
        return None

    def predict(self, logits_BxK) -> tuple[jax.Array, jax.Array]:
        """The likeliest identity as float32 (exact below 2^24), and the entropy in nats."""
        score_BxK = self.scores(logits_BxK)
        log_p_BxK = jax.nn.log_softmax(score_BxK)
        entropy_B = -jnp.sum(jnp.exp(log_p_BxK) * log_p_BxK, axis=1)
        # where one identity is certain, rounding may leave less than 0
        return at_least_float32(jnp.argmax(score_BxK, axis=1)), jnp.maximum(entropy_B, 0)


@dataclasses.dataclass(frozen=True)
class AMSoftmax(Identity):
    """Softmax of s (cos - m) for a face's own identity and s cos for all others: the pretraining of LAE.

    Additive margin softmax (Wang, Cheng, Liu, Liu, Signal Processing Letters 2018), which is CosFace (Wang et al., CVPR
    2018, Eq. 4): features and weights have length 1, there is no bias, and the outputs are the cosines. Accuracy and
    prediction are without the margin. LAE names neither s nor m; 30 is of the former paper, 64 of the latter.
    """

    scale: float = 30.0  # s
    margin: float = 0.35  # m, of a cosine

    @property
    def head(self) -> nn.Module:
        return heads.Cosine(self.head_size)

    def scores(self, logits_BxK) -> jax.Array:
        return self.scale * at_least_float32(logits_BxK)

    def handicap(self, identity_B) -> jax.Array:
        return self.scale * self.margin * jax.nn.one_hot(identity_B, self.head_size)
