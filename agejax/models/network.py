"""A trunk (images → features) and a head (features → logits), named so that a trunk moves between objectives."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from agejax.models.layers import torch_linear
from agejax.models.vgg import VGG

BACKBONES = {cls.__name__: cls for cls in (VGG,)}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

# RGB in [0, 1]; the authors' code uses these for every data set, faces in general included.
MEAN = (0.5958, 0.4637, 0.4065)
STD = (0.2693, 0.2409, 0.2352)


def normalise(image_BxHxWx3: jax.Array) -> jax.Array:
    """uint8 RGB → float32, zero mean and unit variance a channel over face photographs."""
    mean, std = (jnp.array(values).reshape(1, 1, 1, 3) for values in (MEAN, STD))
    return (image_BxHxWx3.astype(jnp.float32) / 255.0 - mean) / std


class Network(nn.Module):
    """Raw uint8 images (B, H, W, 3) → {"logits": (B, K) float32, "features": (B, C), "map": (B, h, w, C)}.

    Convolutions run in the trunk's dtype; parameters, statistics, features and the head are float32.
    """

    trunk: nn.Module
    head_size: int

    @nn.compact
    def __call__(self, image_BxHxWx3: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        features, last_map = self.trunk(normalise(image_BxHxWx3), train)
        head = nn.Dense(self.head_size, kernel_init=torch_linear, name="head")
        return {"logits": head(features), "features": features, "map": last_map}


def make_network(backbone: VGG, head_size: int, dtype: str = "float32", trainable: str = "") -> Network:
    return Network(backbone.trunk(DTYPES[dtype], trainable), head_size)


def init_variables(key: jax.Array, network: Network, image_size: int) -> dict:
    """Fresh {"params", "batch_stats"}."""
    # it runs once: optimising the random number generator for every kernel's shape would take most of the start-up
    quickly = {"xla_backend_optimization_level": 0}
    return jax.jit(network.init, compiler_options=quickly)(key, jnp.zeros((1, image_size, image_size, 3), jnp.uint8))


def variable_shapes(network: Network, image_size: int) -> dict:
    """The same tree as init_variables, of jax.ShapeDtypeStruct; nothing is computed."""
    return jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, image_size, image_size, 3), jnp.uint8))
