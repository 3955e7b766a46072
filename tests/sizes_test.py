"""Sizes of the networks: parameters, weights of convolutions, running statistics and multiply-adds.

PINS were counted by another program, from the layer tables of the papers and of torchvision. DLDL-v2 prints some of
them, rounded: 3.7 M (Thin), 0.9 M (Tiny), 134.6 M (VGG-16 with 101 outputs) and 138.34 M (with 1,000).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agejax.models.cost import macs
from agejax.models.efficientnet_v2 import EfficientNetV2
from agejax.models.googlenet import GoogLeNet
from agejax.models.heads import linear
from agejax.models.inputs import IMAGENET
from agejax.models.layers import Compute
from agejax.models.network import BACKBONES, Network, make_network, variable_shapes
from agejax.models.resnet import ResNet
from agejax.models.vgg import VGG
from agejax.parameters import count, flatten

THIN, TINY, VGG16, GOOGLENET = VGG(0.5), VGG(0.25), VGG(1.0, "fc", norm=False, bias=True), GoogLeNet()
NO_NORM, TORCHVISIONS = GoogLeNet(norm=False), GoogLeNet(branch=3, pool4=2)
V2_M = EfficientNetV2("m")

# backbone, outputs (None: trunk alone), parameters, weights of convolutions, running statistics, multiply-adds (224 px)
PINS = [
    (THIN, 101, 3_708_229, 3_678_048, 4_224, 3_858_359_552),
    (THIN, 41, 3_692_809, 3_678_048, 4_224, 3_858_344_192),
    (THIN, 61, 3_697_949, 3_678_048, 4_224, 3_858_349_312),
    (THIN, None, 3_682_272, 3_678_048, 4_224, 3_858_333_696),
    (THIN, 100, 3_707_972, 3_678_048, 4_224, 3_858_359_296),
    (THIN, 1, 3_682_529, 3_678_048, 4_224, 3_858_333_952),
    (THIN, 54_073, 17_579_033, 3_678_048, 4_224, 3_872_176_384),
    (VGG(0.5, bias=True), 101, 3_708_229 + 2_112, 3_678_048, 4_224, 3_858_359_552),
    (VGG(0.5, "gap"), 101, 3_708_229, 3_678_048, 4_224, 3_858_359_552),
    (TINY, 101, 934_869, 919_728, 2_112, 975_434_368),
    (TINY, 41, 927_129, 919_728, 2_112, 975_426_688),
    (TINY, 61, 929_709, 919_728, 2_112, 975_429_248),
    (TINY, None, 921_840, 919_728, 2_112, 975_421_440),
    (TINY, 54_073, 7_897_257, 919_728, 2_112, 982_342_784),
    (VGG(1.0), 101, 14_770_725, 14_710_464, 8_448, 15_346_682_368),
    (VGG(0.125), 101, 237_661, 230_040, 1_056, 249_280_832),
    (VGG16, 101, 134_674_341, 14_710_464, 0, 15_466_582_016),
    (VGG16, 1_000, 138_357_544, 14_710_464, 0, 15_470_264_320),
    (VGG16, 2_622, 145_002_878, 14_710_464, 0, 15_476_908_032),
    (ResNet(18), 101, 11_228_325, 11_166_912, 9_600, 1_813_613_056),
    (ResNet(18), 1_000, 11_689_512, 11_166_912, 9_600, 1_814_073_344),
    (V2_M, 101, 52_987_737, 52_498_504, 292_032, 5_361_056_480),
    (V2_M, 1_000, 54_139_356, 52_498_504, 292_032, 5_362_207_200),
    (GOOGLENET, 101, 6_084_357, 5_966_272, 14_560, 1_581_751_296),
    (GOOGLENET, 1, 5_981_857, 5_966_272, 14_560, 1_581_648_896),
    (GOOGLENET, 85, 6_067_957, 5_966_272, 14_560, 1_581_734_912),
    (GOOGLENET, 1_000, 7_005_832, 5_966_272, 14_560, 1_582_671_872),
    (GOOGLENET, 10_575, 16_820_207, 5_966_272, 14_560, 1_592_476_672),
    (NO_NORM, 1_000, 6_998_552, 5_966_272, 0, 1_582_671_872),
    (TORCHVISIONS, 1_000, 6_624_904, 5_585_344, 14_560, 1_498_376_192),
]

# torchvision 0.28's description of its published weights: num_params, size of the image, _ops (10⁹ multiply-adds)
TORCHVISION = {
    "vgg16": (138_357_544, 224, 15.47),
    "vgg16_bn": (138_365_992, 224, 15.47),
    "googlenet_tv": (6_624_904, 224, 1.498),
    "resnet18": (11_689_512, 224, 1.814),
    "resnet34": (21_797_672, 224, 3.664),
    "resnet50": (25_557_032, 224, 4.089),
    "efficientnet_v2_s": (21_458_488, 384, 8.366),
    "efficientnet_v2_m": (54_139_356, 480, 24.582),
}


class Nothing(nn.Module):
    """The head of a trunk alone."""

    def __call__(self, features_BxC):
        return features_BxC


def network_of(backbone, outputs):
    return make_network(backbone, Nothing() if outputs is None else linear(outputs))


@pytest.mark.parametrize("pin", PINS, ids=lambda pin: f"{type(pin[0]).__name__}-{pin[1]}")
def test_pins(pin):
    backbone, outputs, parameters, weights, statistics, multiply_adds = pin
    network = network_of(backbone, outputs)
    shapes = variable_shapes(network, 224)
    convolutions = [x for x in jax.tree.leaves(shapes["params"]) if x.ndim == 4]
    counted = [count(shapes["params"]), count(convolutions), count(shapes["batch_stats"]), macs(network, 224)]
    assert counted == [parameters, weights, statistics, multiply_adds]


@pytest.mark.parametrize(
    "backbone, size, expected", [(GOOGLENET, 227, 1_598_963_456), (V2_M, 384, 15_735_624_960)], ids=["227", "384"]
)
def test_pins_at_other_sizes(backbone, size, expected):
    assert macs(network_of(backbone, 101), size) == expected


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_own_numbers(name):
    parameters, size, billions = TORCHVISION[name]
    network = network_of(BACKBONES[name], 1_000)
    assert count(variable_shapes(network, size)["params"]) == parameters
    np.testing.assert_allclose(macs(network, size) / 1e9, billions, atol=6e-4)


def test_dense_layers_of_vgg16_have_the_same_size_at_every_image_size():
    shapes = [flatten(variable_shapes(network_of(VGG16, 101), size)["params"]) for size in (64, 224, 300)]
    assert shapes[0] == shapes[1] == shapes[2]


class Odd(nn.Module):
    """A trunk of layers whose counts are known: grouped, strided and depthwise convolutions, one with channels first,
    dense layers in a loop, in a jitted function and in one whose values are recomputed."""

    @nn.compact
    def __call__(self, image_BxHxWx3, train):
        x = nn.Conv(6, (3, 5), (2, 1), padding="VALID", feature_group_count=3, name="grouped")(image_BxHxWx3)
        x = nn.silu(nn.Conv(12, (1, 1), name="point")(x))
        x = nn.relu(nn.Conv(12, (3, 3), feature_group_count=12, name="depthwise")(x))
        first = self.param("first", nn.initializers.zeros, (5, 12, 2, 2))
        first = jax.lax.conv(x.transpose(0, 3, 1, 2), first, (1, 1), "VALID")
        square = self.param("square", nn.initializers.zeros, (12, 12))
        features = x.mean((1, 2))
        features, _ = jax.lax.scan(lambda carry, _: (carry @ square, None), features, length=5)
        features = jax.jit(lambda x: jax.checkpoint(lambda x: jnp.einsum("bi,ij->bj", x, square))(x))(features)
        return features, first


def test_multiply_adds_of_every_kind_of_layer_are_counted():
    rows, columns = 4, 6  # of the map: (10 - 3) // 2 + 1, 10 - 5 + 1
    per_pixel = 6 * 3 * 5 * 1 + 12 * 6 + 12 * 3 * 3
    expected = rows * columns * per_pixel + (rows - 1) * (columns - 1) * 5 * 12 * 2 * 2 + (5 + 1) * 12 * 12 + 12 * 7
    assert macs(Network(Odd(), linear(7), IMAGENET), 10) == expected


def test_counting_computes_nothing():
    network = Network(VGG(0.125).trunk(Compute()), linear(3), IMAGENET)
    found = macs(network, 4_096)  # whose activations would take gigabytes
    assert isinstance(found, int)
    assert found == macs(network, 32) * 128**2 - 64 * 3 * (128**2 - 1)
