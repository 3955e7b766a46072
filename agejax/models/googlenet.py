"""GoogLeNet, 22 layers, with batch normalisation: the network of AgeNet, and torchvision's.

Szegedy et al., "Going Deeper with Convolutions" (CVPR 2015), Table 1; Ioffe & Szegedy, "Batch Normalization" (ICML
2015). The local response normalisation of the former and the auxiliary classifiers are left out.
"""

import dataclasses
from typing import ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from agejax.models.inputs import IMAGENET, Inputs
from agejax.models.layers import Compute, ConvNorm, dropped, max_pool, max_pool3, mean_pool
from data_pipelines.errors import UserError

# channels of the units one, three_reduce, three, five_reduce, five, pool
BLOCKS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


@dataclasses.dataclass(frozen=True)
class GoogLeNet:
    """Options of the family. Features: 1024. Raises UserError for values that are not offered.

    torchvision's network is branch=3, pool4=2. Its published weights expect the input recipe HALF: what it calls
    `transform_input` turns ImageNet's recipe into that one.
    """

    branch: Literal[5, 3] = 5
    """Kernel of the wide branch: the paper's 5, or torchvision's 3."""
    pool4: Literal[3, 2] = 3
    """Size of the pooling between 4e and 5a: the paper's 3, or torchvision's 2."""
    norm: bool = True
    """False: convolutions with bias, and nothing normalised."""
    dropout: float = 0.0
    """Of the features; the paper has 0.4, torchvision 0.2."""
    inputs: Inputs | None = None

    usual_inputs: ClassVar[Inputs] = IMAGENET

    def __post_init__(self):
        for name, offered in (("branch", (5, 3)), ("pool4", tuple(POOLS))):
            if getattr(self, name) not in offered:
                raise UserError(f"GoogLeNet: {name} must be one of {offered}, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"GoogLeNet: dropout must be in [0, 1), got {self.dropout}")

    @property
    def min_image_size(self) -> int:
        """Pixels: below this a 3×3 pooling would have a single pixel to pool, which it drops."""
        return {3: 31, 2: 15}[self.pool4]

    def trunk(self, compute: Compute) -> nn.Module:
        return GoogLeNetTrunk(self, compute)


class GoogLeNetTrunk(nn.Module):
    """Normalised images (B, H, W, 3) → features (B, 1024), float32, and the last block's map (B, H/32, W/32, 1024)."""

    options: GoogLeNet
    compute: Compute

    @nn.compact
    def __call__(self, image_BxHxWx3: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        x = unit(self.options, self.compute, "conv1", 64, 7, stride=2)(image_BxHxWx3, train)
        x = ceil_pool3(x)
        x = unit(self.options, self.compute, "conv2", 64, 1)(x, train)
        x = unit(self.options, self.compute, "conv3", 192, 3)(x, train)
        pools = {"3a": ceil_pool3, "4a": ceil_pool3, "5a": POOLS[self.options.pool4]}  # each before its block
        for block, channels in BLOCKS.items():
            x = pools[block](x) if block in pools else x
            x = Inception(self.options, channels, self.compute, name=f"inception{block}")(x, train)
        active = train and self.compute.trains(self, "inception5b", "one", "conv", "kernel")
        return dropped(self, mean_pool(x), self.options.dropout, active), x


class Inception(nn.Module):
    """(B, H, W, C) → (B, H, W, one + three + five + pool): the four branches' channels in this order."""

    options: GoogLeNet
    channels: tuple[int, ...]
    compute: Compute

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array, train: bool) -> jax.Array:
        one, three_reduce, three, five_reduce, five, pool = self.channels

        def branch(x, *units):
            for name, channels, kernel in units:
                x = unit(self.options, self.compute, name, channels, kernel)(x, train)
            return x

        x = x_BxHxWxC
        branches = (
            branch(x, ("one", one, 1)),
            branch(x, ("three_reduce", three_reduce, 1), ("three", three, 3)),
            branch(x, ("five_reduce", five_reduce, 1), ("five", five, self.options.branch)),
            branch(max_pool3(x, stride=1, padding=((1, 1), (1, 1))), ("pool", pool, 1)),
        )
        return jnp.concatenate(branches, -1)


def unit(options: GoogLeNet, compute: Compute, name: str, channels: int, kernel: int, stride: int = 1) -> ConvNorm:
    norm = options.norm
    return ConvNorm(channels, compute, kernel, stride, bias=not norm, norm=norm, epsilon=1e-3, name=name)


def ceil_pool3(x_BxHxWxC: jax.Array) -> jax.Array:
    """3×3 max-pooling with stride 2 → (B, H // 2, W // 2, C): torch's with ceil_mode. The last window of an even size
    reaches one pixel beyond the map."""
    H, W = x_BxHxWxC.shape[1:3]
    return max_pool3(x_BxHxWxC, stride=2, padding=((0, 1 - H % 2), (0, 1 - W % 2)))


def ceil_pool2(x_BxHxWxC: jax.Array) -> jax.Array:
    """2×2 max-pooling with stride 2; an odd last row or column is pooled alone."""
    H, W = x_BxHxWxC.shape[1:3]
    return max_pool(jnp.pad(x_BxHxWxC, ((0, 0), (0, H % 2), (0, W % 2), (0, 0)), constant_values=-jnp.inf))


POOLS = {3: ceil_pool3, 2: ceil_pool2}
