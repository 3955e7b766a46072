"""Numbers for the variables of a network without its slow initialisation, and small networks."""

import dataclasses
import math
import zlib
from typing import ClassVar

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType

from agejax.models.efficientnet_v2 import FusedMBConv, MBConv, Size, Stage
from agejax.models.inputs import FACES, Inputs
from agejax.models.layers import ConvNorm, dropped, mean_pool

# a row for efficientnet_v2.SIZES: seven blocks of every kind
SEVEN_BLOCKS = Size(0.4, (Stage(FusedMBConv, 1, 1, 24, 2), Stage(FusedMBConv, 2, 2, 8, 2), Stage(MBConv, 3, 2, 12, 3)))


def filled(shapes):
    """A tree of shapes → float32 arrays that depend on their path alone: scales and variances around 1, all else
    around 0; statistics that no batch would give."""

    def draw(path, x):
        rng = np.random.default_rng(zlib.crc32(jax.tree_util.keystr(path).encode()))
        noise = rng.standard_normal(x.shape, dtype=np.float32)
        return np.exp(noise / 4) if path[-1].key in ("scale", "var") else noise / math.sqrt(math.prod(x.shape[:-1]))

    return jax.tree_util.tree_map_with_path(draw, shapes)


@dataclasses.dataclass(frozen=True)
class Small:
    """A family of one convolution; cheap to compile."""

    channels: int = 4
    norm: bool = True
    dropout: float = 0.5
    inputs: Inputs | None = None
    usual_inputs: ClassVar[Inputs] = FACES
    min_image_size: ClassVar[int] = 1

    def trunk(self, compute):
        return SmallTrunk(self, compute)


class SmallTrunk(nn.Module):
    options: Small
    compute: object

    @nn.compact
    def __call__(self, image_BxHxWx3, train):
        block = ConvNorm(self.options.channels, self.compute, stride=4, norm=self.options.norm, name="block1")
        x = block(image_BxHxWx3, train)
        active = train and self.compute.trains(self, "block1", "conv", "kernel")
        return dropped(self, mean_pool(x), self.options.dropout, active), x


def mesh_of(devices: int, groups: int = 1):
    """So many of the virtual devices, in so many groups along "trial"."""
    axes = (AxisType.Auto,) * 2
    return jax.make_mesh((groups, devices // groups), ("trial", "data"), axes, devices=jax.devices()[:devices])
