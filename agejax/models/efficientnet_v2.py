"""EfficientNetV2-S and -M: Tan & Le, "EfficientNetV2: Smaller Models and Faster Training" (ICML 2021).

Stages, initial values and rates are those of torchvision, as the paper tabulates S alone. float32 in a bfloat16
network, besides what layers.py names: the mean over the map in squeeze-excitation.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax

from agejax.models.inputs import HALF, IMAGENET, Inputs
from agejax.models.layers import Compute, ConvNorm, dropped, he_fan_out, mean_pool
from data_pipelines.errors import UserError

STEM, LAST = 24, 1280  # channels
PADDING = {"symmetric": None, "same": "SAME"}  # ours → ConvNorm's
USUAL_INPUTS = {"symmetric": IMAGENET, "same": HALF}


@dataclasses.dataclass(frozen=True)
class EfficientNetV2:
    """Options of the family. Features: 1280. Raises UserError for values that are not offered."""

    size: Literal["s", "m"] = "m"
    dropout: float | None = None
    """Of the features, before the head. None: as published, 0.2 (s) or 0.3 (m)."""
    stochastic_depth: float = 0.2
    """Block i of n leaves its branch out with probability stochastic_depth · i / n, i from 0, where there is a branch
    to leave out: a block that changes the shape has none."""
    padding: Literal["symmetric", "same"] = "symmetric"
    """same: TensorFlow's, uneven where the stride is 2; timm's tf_efficientnetv2_* need it."""
    epsilon: float = 1e-3
    """Of batch normalisation. timm's efficientnetv2_*, which it publishes no weights for, have 1e-5."""
    inputs: Inputs | None = None
    min_image_size: ClassVar[int] = 1
    """Pixels: every layer pads, so a map never vanishes. Below 33 the last one is a single pixel."""

    def __post_init__(self):
        for name, table in (("size", SIZES), ("padding", PADDING)):
            if getattr(self, name) not in table:
                raise UserError(f"EfficientNetV2: {name} must be one of {', '.join(table)}, got {getattr(self, name)}")
        for name in ("dropout", "stochastic_depth"):
            if not 0 <= (getattr(self, name) or 0) < 1:
                raise UserError(f"EfficientNetV2: {name} must be in [0, 1), got {getattr(self, name)}")

    @property
    def usual_inputs(self) -> Inputs:
        return USUAL_INPUTS[self.padding]

    def trunk(self, compute: Compute) -> nn.Module:
        return EfficientNetV2Trunk(self, compute)


class EfficientNetV2Trunk(nn.Module):
    """Normalised images (B, H, W, 3) → features (B, 1280), float32, and the last map (B, H/32, W/32, 1280), rounded
    up."""

    options: EfficientNetV2
    compute: Compute

    @nn.compact
    def __call__(self, image_BxHxWx3: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        options, size = self.options, SIZES[self.options.size]
        padding, epsilon = PADDING[options.padding], options.epsilon
        unit = functools.partial(ConvNorm, compute=self.compute, padding=padding, epsilon=epsilon, activation=nn.silu)
        x = unit(STEM, stride=2, name="stem")(image_BxHxWx3, train)
        total = sum(stage.blocks for stage in size.stages)
        rates = (options.stochastic_depth * i / total for i in range(total))
        for number, stage in enumerate(size.stages, 1):
            for i in range(stage.blocks):
                kind = (stage.channels, stage.expand, 1 if i else stage.stride, next(rates))
                x = stage.block(*kind, self.compute, unit, name=f"stage{number}_{i + 1}")(x, train)
        x = unit(LAST, kernel=1, name="last")(x, train)
        rate = size.dropout if options.dropout is None else options.dropout
        active = train and self.compute.trains(self, "last", "norm", "scale")
        return dropped(self, mean_pool(x), rate, active), x


class Block(nn.Module):
    """x + branch(x) where the branch keeps the shape, otherwise branch(x)."""

    channels: int
    expand: int
    """Channels inside the branch, as a factor on those of x."""
    stride: int
    rate: float
    """Of stochastic depth."""
    compute: Compute
    unit: Callable[..., ConvNorm]
    """The family's ConvNorm."""

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array, train: bool) -> jax.Array:
        branch, last = self.branch(x_BxHxWxC, train)
        if self.stride > 1 or x_BxHxWxC.shape[-1] != self.channels:
            return branch
        active = train and self.compute.trains(self, last, "norm", "scale")
        return x_BxHxWxC + dropped(self, branch, self.rate, active, whole_rows=True)


class FusedMBConv(Block):
    """A 3×3 convolution that expands and a 1×1 that projects; with expand=1 a single 3×3 convolution."""

    def branch(self, x: jax.Array, train: bool) -> tuple[jax.Array, str]:
        """The branch, and the name of its last unit."""
        if self.expand == 1:
            return self.unit(self.channels, stride=self.stride, name="conv")(x, train), "conv"
        x = self.unit(x.shape[-1] * self.expand, stride=self.stride, name="expand")(x, train)
        return self.unit(self.channels, kernel=1, activation=None, name="project")(x, train), "project"


class MBConv(Block):
    """1×1 that expands, 3×3 depthwise, squeeze-excitation, 1×1 that projects."""

    def branch(self, x: jax.Array, train: bool) -> tuple[jax.Array, str]:
        """The branch, and the name of its last unit."""
        channels, inside = x.shape[-1], x.shape[-1] * self.expand
        x = self.unit(inside, kernel=1, name="expand")(x, train)
        x = self.unit(inside, stride=self.stride, groups=inside, name="depthwise")(x, train)
        x = SqueezeExcitation(channels // 4, self.compute, name="squeeze")(x)
        return self.unit(self.channels, kernel=1, activation=None, name="project")(x, train), "project"


class SqueezeExcitation(nn.Module):
    """x times a factor in (0, 1) for each example and channel, made of the means over the map (Hu et al. 2018)."""

    squeezed: int
    """Channels between the two convolutions."""
    compute: Compute

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array) -> jax.Array:
        def pointwise(channels: int, name: str) -> nn.Conv:
            return nn.Conv(channels, (1, 1), kernel_init=he_fan_out, dtype=self.compute.dtype, name=name)

        squeezed_Bx1x1xS = nn.silu(pointwise(self.squeezed, "reduce")(mean_pool(x_BxHxWxC)[:, None, None, :]))
        return x_BxHxWxC * nn.sigmoid(pointwise(x_BxHxWxC.shape[-1], "restore")(squeezed_Bx1x1xS))


class Stage(NamedTuple):
    """Blocks of one kind; only the first of them has the stride."""

    block: type[Block]
    expand: int
    stride: int
    channels: int
    blocks: int


class Size(NamedTuple):
    """Of a published network: what its name stands for."""

    dropout: float
    stages: tuple[Stage, ...]


SIZES = {
    "s": Size(
        0.2,
        (
            Stage(FusedMBConv, 1, 1, 24, 2),
            Stage(FusedMBConv, 4, 2, 48, 4),
            Stage(FusedMBConv, 4, 2, 64, 4),
            Stage(MBConv, 4, 2, 128, 6),
            Stage(MBConv, 6, 1, 160, 9),
            Stage(MBConv, 6, 2, 256, 15),
        ),
    ),
    "m": Size(
        0.3,
        (
            Stage(FusedMBConv, 1, 1, 24, 3),
            Stage(FusedMBConv, 4, 2, 48, 5),
            Stage(FusedMBConv, 4, 2, 80, 5),
            Stage(MBConv, 4, 2, 160, 7),
            Stage(MBConv, 6, 1, 176, 14),
            Stage(MBConv, 6, 2, 304, 18),
            Stage(MBConv, 6, 1, 512, 5),
        ),
    ),
}
