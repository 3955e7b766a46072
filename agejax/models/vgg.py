"""VGG-16 with batch normalisation and a compression rate: ThinAgeNet (0.5) and TinyAgeNet (0.25).

Gao et al., "Age Estimation Using Expectation of Label Distribution Learning" (IJCAI 2018), §3.4: VGG-16 with its
channels scaled, batch normalisation after each convolution, and hybrid pooling in place of the fully connected stack.
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from agejax.models.layers import ConvBlock, max_pool

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels at compression 1, convolutions


@dataclasses.dataclass(frozen=True)
class VGG:
    """Options of the family. Features: 512 · compression (256 Thin, 128 Tiny)."""

    compression: float = 0.5
    """Factor on every channel count."""
    pooling: Literal["hybrid", "gap"] = "hybrid"
    """hybrid: fifth max-pool, then mean; gap: mean over the last convolution's map."""

    def __post_init__(self):
        if not 0 < self.compression <= 4:
            raise ValueError(f"compression must be in (0, 4], got {self.compression}")

    @property
    def min_image_size(self) -> int:
        """Pixels: below this the last pooling would have nothing left to pool."""
        return 32 if self.pooling == "hybrid" else 16

    def trunk(self, dtype: jnp.dtype, trainable: str) -> nn.Module:
        return VGGTrunk(self.compression, self.pooling, dtype, trainable)


class VGGTrunk(nn.Module):
    """Normalised images (B, H, W, 3) → features (B, C), float32, and the last convolution's map (B, H/16, W/16, C)."""

    compression: float
    pooling: str
    dtype: jnp.dtype
    trainable: str

    @nn.compact
    def __call__(self, image_BxHxWx3: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        x = image_BxHxWx3
        for stage, (channels, convolutions) in enumerate(BLOCKS, 1):
            x = max_pool(x) if stage > 1 else x
            for i in range(convolutions):
                width = max(1, round(channels * self.compression))
                x = ConvBlock(width, self.dtype, self.trainable, name=f"block{stage}_{i + 1}")(x, train)
        pooled = max_pool(x) if self.pooling == "hybrid" else x
        return pooled.astype(jnp.float32).mean((1, 2)), x
