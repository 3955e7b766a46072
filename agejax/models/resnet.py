"""ResNet-18, -34 and -50, layer for layer those of torchvision, so that its weights fit.

He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), Table 1. As in torchvision, a bottleneck's stride
is on its 3×3 convolution ("v1.5"); the paper has it on the 1×1 before.
"""

import dataclasses
from typing import ClassVar, Literal

import flax.linen as nn
import jax

from agejax.models.inputs import IMAGENET, Inputs
from agejax.models.layers import Compute, ConvNorm, max_pool3, mean_pool
from data_pipelines.errors import UserError

CHANNELS = (64, 128, 256, 512)  # of the 3×3 convolutions, by stage
EXPANSION = 4  # a bottleneck's output has this many times the channels of its 3×3 convolution


@dataclasses.dataclass(frozen=True)
class ResNet:
    """Options of the family. Features: 512, and 2048 at depth 50. Raises UserError for another depth."""

    depth: Literal[18, 34, 50] = 18
    inputs: Inputs | None = None

    usual_inputs: ClassVar[Inputs] = IMAGENET
    min_image_size: ClassVar[int] = 1
    """Pixels: every layer pads, so a map never vanishes. Below 33 the last one is a single pixel."""

    def __post_init__(self):
        if self.depth not in DEPTHS:
            raise UserError(f"ResNet: depth must be one of {', '.join(map(str, DEPTHS))}, got {self.depth}")

    def trunk(self, compute: Compute) -> nn.Module:
        return ResNetTrunk(self, compute)


class ResNetTrunk(nn.Module):
    """Normalised images (B, H, W, 3) → features (B, C), float32, and the last stage's map (B, H/32, W/32, C), rounded
    up."""

    options: ResNet
    compute: Compute

    @nn.compact
    def __call__(self, image_BxHxWx3: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        block, counts = DEPTHS[self.options.depth]
        x = ConvNorm(CHANNELS[0], self.compute, kernel=7, stride=2, name="stem")(image_BxHxWx3, train)
        x = max_pool3(x, stride=2, padding=((1, 1), (1, 1)))
        for stage, (channels, count) in enumerate(zip(CHANNELS, counts), 1):
            for i in range(count):
                stride = 2 if stage > 1 and i == 0 else 1
                x = block(channels, stride, self.compute, name=f"stage{stage}_{i + 1}")(x, train)
        return mean_pool(x), x


class Basic(nn.Module):
    """(B, H, W, C) → (B, H/stride, W/stride, channels), rounded up: two 3×3 convolutions beside the shortcut."""

    channels: int
    stride: int
    compute: Compute

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array, train: bool) -> jax.Array:
        y = ConvNorm(self.channels, self.compute, stride=self.stride, name="conv1")(x_BxHxWxC, train)
        y = ConvNorm(self.channels, self.compute, activation=None, name="conv2")(y, train)
        return nn.relu(y + shortcut(x_BxHxWxC, self.channels, self.stride, self.compute, train))


class Bottleneck(nn.Module):
    """(B, H, W, C) → (B, H/stride, W/stride, 4 · channels), rounded up: 1×1, 3×3 and 1×1 convolutions beside the
    shortcut."""

    channels: int
    stride: int
    compute: Compute

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array, train: bool) -> jax.Array:
        wide = EXPANSION * self.channels
        y = ConvNorm(self.channels, self.compute, kernel=1, name="conv1")(x_BxHxWxC, train)
        y = ConvNorm(self.channels, self.compute, stride=self.stride, name="conv2")(y, train)
        y = ConvNorm(wide, self.compute, kernel=1, activation=None, name="conv3")(y, train)
        return nn.relu(y + shortcut(x_BxHxWxC, wide, self.stride, self.compute, train))


def shortcut(x_BxHxWxC: jax.Array, channels: int, stride: int, compute: Compute, train: bool) -> jax.Array:
    """The map itself where its shape is the block's output's; else a 1×1 convolution and its norm ("shortcut")."""
    if stride == 1 and x_BxHxWxC.shape[-1] == channels:
        return x_BxHxWxC
    project = ConvNorm(channels, compute, kernel=1, stride=stride, activation=None, name="shortcut")
    return project(x_BxHxWxC, train)


DEPTHS = {18: (Basic, (2, 2, 2, 2)), 34: (Basic, (3, 4, 6, 3)), 50: (Bottleneck, (3, 4, 6, 3))}  # blocks of each stage
