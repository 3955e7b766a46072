"""A trunk (images → features) and a head (features → outputs), named so that a trunk moves between objectives.

A backbone is a frozen dataclass of a family's options, and gives

    inputs                     the input recipe; None: usual_inputs, those the family was published with
    min_image_size             pixels
    trunk(compute)             a module: (normalised images (B, H, W, 3), train) → (features (B, C) float32, last map)

A new family is one file, and a new network one row of BACKBONES.
"""

from collections.abc import Callable
from functools import lru_cache

import flax.linen as nn
import jax
import jax.numpy as jnp

from agejax.models.efficientnet_v2 import EfficientNetV2
from agejax.models.googlenet import GoogLeNet
from agejax.models.inputs import Inputs
from agejax.models.layers import Compute
from agejax.models.resnet import ResNet
from agejax.models.vgg import VGG

BACKBONES = {
    "thin": VGG(0.5),
    "tiny": VGG(0.25),
    "tiny_12": VGG(0.25, convolutions=(2, 2, 2, 3, 3)),  # as in a published PyTorch TinyAgeNet
    "vgg_1_8": VGG(0.125),
    "vgg_1": VGG(1.0),
    "vgg16": VGG(1.0, "fc", norm=False, bias=True),
    "vgg16_bn": VGG(1.0, "fc", bias=True),
    "googlenet": GoogLeNet(),
    "googlenet_tv": GoogLeNet(branch=3, pool4=2),
    "resnet18": ResNet(18),
    "resnet34": ResNet(34),
    "resnet50": ResNet(50),
    "efficientnet_v2_s": EfficientNetV2("s"),
    "efficientnet_v2_m": EfficientNetV2("m"),
}
FAMILIES = {type(backbone).__name__: type(backbone) for backbone in BACKBONES.values()}
CPU_PARTS = 4
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Network(nn.Module):
    """Raw RGB images (B, H, W, 3) in [0, 255] → {"logits": (B, K), "features": (B, C), "map": (B, h, w, C)}.

    The trunk runs in its dtype; input normalisation, parameters, statistics, features and the head are float32.
    With train=True dropout and stochastic depth need rngs={"dropout": key}; without a key they are off.
    """

    trunk: nn.Module
    head: nn.Module
    inputs: Inputs

    def __call__(self, image_BxHxWx3: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        features, last_map = self.trunk(self.inputs.normalise(image_BxHxWx3), train)
        return {"logits": self.head(features), "features": features, "map": last_map}


def make_network(backbone, head: nn.Module, dtype: str = "float32", trainable: str = "") -> Network:
    compute = Compute(DTYPES[dtype], trainable)
    return Network(backbone.trunk(compute), head, backbone.inputs or backbone.usual_inputs)


def init_variables(key: jax.Array, network: Network, image_size: int) -> dict:
    """Fresh {"params", "batch_stats"}."""
    image = jnp.zeros((1, image_size, image_size, 3), jnp.uint8)
    return {"batch_stats": {}} | _compiled_init(network)(key, image)


@lru_cache(maxsize=8)
def _compiled_init(network: Network) -> Callable:
    # it runs once, or once a trial: optimising the random number generator for every kernel's shape would take most of
    # the start-up
    return jax.jit(network.init, compiler_options={"xla_backend_optimization_level": 0})


def variable_shapes(network: Network, image_size: int) -> dict:
    """The same tree as init_variables, of jax.ShapeDtypeStruct; nothing is computed."""
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.uint8)
    return {"batch_stats": {}} | jax.eval_shape(network.init, jax.random.key(0), image)


def apply_in_parts(network: Network, variables: dict, image_BxHxWx3: jax.Array, parts: int = CPU_PARTS) -> dict:
    """The network's outputs for inference, the batch cut into so many parts where it can be cut evenly.

    On a CPU that is a third faster: a part's maps fit the caches, and the parts run side by side. Elsewhere it is not.
    """
    parts = parts if len(image_BxHxWx3) % parts == 0 else 1
    outputs = [network.apply(variables, part) for part in jnp.split(image_BxHxWx3, parts)]
    return jax.tree.map(lambda *rows: jnp.concatenate(rows), *outputs)
