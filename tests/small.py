"""Numbers for the variables of a network without its slow initialisation, and a small EfficientNetV2."""

import math
import zlib

import jax
import numpy as np

from agejax.models.efficientnet_v2 import FusedMBConv, MBConv, Size, Stage

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
