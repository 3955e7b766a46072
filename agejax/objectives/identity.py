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

    def loss(self, logits_BxK, batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        require_one_per_example(logits_BxK.shape[0], identity=batch["identity"], mask=batch["mask"])
        mask_B = batch["mask"] > 0
        logits_BxK = jnp.where(mask_B[:, None], logits_BxK, 0)
        identity_B = jnp.where(mask_B, batch["identity"], 0)
        loss_B = losses.cross_entropy(logits_BxK, identity_B)
        correct_B = at_least_float32(jnp.argmax(logits_BxK, axis=1) == identity_B)
        return masked(mask_B, loss_B, accuracy=correct_B)

    def distribution(self, logits_BxK) -> None:
        """None: classes are no grid."""
        return None

    def predict(self, logits_BxK) -> tuple[jax.Array, jax.Array]:
        """The likeliest identity as float32 (exact below 2^24), and the entropy in nats."""
        log_p_BxK = jax.nn.log_softmax(at_least_float32(logits_BxK))
        entropy_B = -jnp.sum(jnp.exp(log_p_BxK) * log_p_BxK, axis=1)
        return at_least_float32(jnp.argmax(logits_BxK, axis=1)), entropy_B
