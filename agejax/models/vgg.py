"""VGG-16: with batch normalisation and a compression rate, ThinAgeNet (0.5) and TinyAgeNet (0.25); and as published.

Gao et al., "Age Estimation Using Expectation of Label Distribution Learning" (IJCAI 2018), §3.4: VGG-16 with its
channels scaled, batch normalisation after each convolution, and hybrid pooling in place of the fully connected stack.
Simonyan & Zisserman, "Very Deep Convolutional Networks" (ICLR 2015), configuration D, is `pooling="fc", norm=False`.
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from agejax.models.inputs import FACES, IMAGENET, Inputs
from agejax.models.layers import Compute, ConvNorm, dropped, max_pool, mean_pool, torch_linear

CHANNELS = (64, 128, 256, 512, 512)  # of the stages at compression 1
HIDDEN = 4096  # units of fc6 and fc7


@dataclasses.dataclass(frozen=True)
class VGG:
    """Options of the family. Features: 512 · compression (256 Thin, 128 Tiny); 4096 with pooling="fc"."""

    compression: float = 0.5
    """Factor on every channel count."""
    pooling: Literal["hybrid", "gap", "fc"] = "hybrid"
    """hybrid: fifth max-pool, then mean; gap: mean over the last convolution's map; fc: fifth max-pool, mean over a 7×7
    grid of cells (nothing at 224 px), and the dense layers fc6 and fc7."""
    convolutions: tuple[int, ...] = (2, 2, 3, 3, 3)
    """In each of the five stages."""
    norm: bool = True
    bias: bool = False
    """Of the convolutions."""
    dropout: float = 0.5
    """After fc6 and fc7."""
    inputs: Inputs | None = None

    def __post_init__(self):
        if not 0 < self.compression <= 4:
            raise ValueError(f"compression must be in (0, 4], got {self.compression}")
        if len(self.convolutions) != len(CHANNELS) or min(self.convolutions) < 1:
            raise ValueError(f"convolutions must be five counts of 1 or more, got {self.convolutions}")

    @property
    def usual_inputs(self) -> Inputs:
        return IMAGENET if self.pooling == "fc" else FACES

    @property
    def min_image_size(self) -> int:
        """Pixels: below this the last pooling would have nothing left to pool."""
        return 16 if self.pooling == "gap" else 32

    def trunk(self, compute: Compute) -> nn.Module:
        return VGGTrunk(self, compute)


class VGGTrunk(nn.Module):
    """Normalised images (B, H, W, 3) → features (B, C), float32, and the last convolution's map (B, H/16, W/16, C)."""

    options: VGG
    compute: Compute

    @nn.compact
    def __call__(self, image_BxHxWx3: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        options, x = self.options, image_BxHxWx3
        for stage, (channels, convolutions) in enumerate(zip(CHANNELS, options.convolutions), 1):
            x = max_pool(x) if stage > 1 else x
            width = max(1, round(channels * options.compression))
            for i in range(convolutions):
                block = ConvNorm(
                    width, self.compute, norm=options.norm, bias=options.bias, name=f"block{stage}_{i + 1}"
                )
                x = block(x, train)
        pooled = x if options.pooling == "gap" else max_pool(x)
        if options.pooling == "fc":
            return self.stack(pooled, train), x
        return mean_pool(pooled), x

    def stack(self, map_BxHxWxC: jax.Array, train: bool) -> jax.Array:
        """fc6 and fc7. The flattened order is H, W, C; Caffe's and torch's is C, H, W."""
        x = cells(map_BxHxWxC, 7).reshape(map_BxHxWxC.shape[0], -1)
        for name in ("fc6", "fc7"):
            layer = nn.Dense(HIDDEN, kernel_init=torch_linear, dtype=self.compute.dtype, name=name)
            active = train and self.compute.trains(self, name, "kernel")
            x = dropped(self, nn.relu(layer(x)), self.options.dropout, active)
        return x.astype(jnp.float32)


def cells(x_BxHxWxC: jax.Array, n: int) -> jax.Array:
    """(B, n, n, C): means over n × n cells, from floor(i·H/n) to ceil((i+1)·H/n), which overlap where n does not divide
    H: torch's AdaptiveAvgPool2d. The map itself where it is n × n already."""
    for axis in (1, 2):
        size = x_BxHxWxC.shape[axis]
        if size != n:
            edges = [(i * size // n, -(-(i + 1) * size // n)) for i in range(n)]
            part = [jax.lax.slice_in_dim(x_BxHxWxC, a, b, axis=axis).mean(axis, keepdims=True) for a, b in edges]
            x_BxHxWxC = jnp.concatenate(part, axis)
    return x_BxHxWxC
