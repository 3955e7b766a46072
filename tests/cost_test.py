"""Bytes that a network moves: elements counted by hand, touches as cost.py accounts for them."""

import flax.linen as nn
import pytest

from agejax import parameters
from agejax.models.cost import bytes_per_image, bytes_per_step, elements
from agejax.models.heads import linear
from agejax.models.inputs import IMAGENET
from agejax.models.network import Network, make_network, variable_shapes
from agejax.models.resnet import ResNet
from agejax.models.vgg import CHANNELS, VGG

THIN, VGG16 = VGG(0.5), VGG(1.0, "fc", norm=False, bias=True)


def network_of(backbone):
    return make_network(backbone, linear(101))


def written_by_vgg(backbone, size):
    """Outputs of the thirteen convolutions, whose maps are halved between stages."""
    sides = [size // 2**stage for stage in range(5)]
    widths = [round(channels * backbone.compression) for channels in CHANNELS]
    return sum(side**2 * width * count for side, width, count in zip(sides, widths, backbone.convolutions))


@pytest.mark.parametrize("size", [64, 100, 224])
def test_elements_of_vgg(size):
    assert elements(network_of(THIN), size) == written_by_vgg(THIN, size) + 101
    assert elements(network_of(VGG16), size) == written_by_vgg(VGG16, size) + 2 * 4096 + 101


def test_elements_of_resnet18():
    """Stem; stages of four convolutions, and a shortcut's where the map shrinks."""
    stages = 4 * 56**2 * 64 + 5 * 28**2 * 128 + 5 * 14**2 * 256 + 5 * 7**2 * 512
    assert elements(network_of(ResNet(18)), 224) == 112**2 * 64 + stages + 101


class Two(nn.Module):
    """A strided depthwise convolution and a dense layer."""

    @nn.compact
    def __call__(self, image_BxHxWx3, train):
        x = nn.Conv(6, (3, 3), (2, 2), feature_group_count=3)(image_BxHxWx3)
        return nn.Dense(5)(x.mean((1, 2))), x


def test_strides_groups_and_dense_layers_count_as_what_they_write():
    assert elements(Network(Two(), linear(7), IMAGENET), 10) == 5 * 5 * 6 + 5 + 7


@pytest.mark.parametrize(
    "training, fused, with_norm, without", [(1, 0, 14, 11), (1, 1, 9, 7), (0, 0, 4, 4), (0, 1, 2, 2)]
)
def test_touches_of_an_element(training, fused, with_norm, without):
    for backbone, touches in ((THIN, with_norm), (VGG16, without)):
        network = network_of(backbone)
        for dtype, width in (("float32", 4), ("bfloat16", 2)):
            found = bytes_per_image(network, 64, dtype, bool(training), bool(fused))
            assert found == touches * width * elements(network, 64)


def test_thin_has_the_floors_that_the_documents_name():
    network = network_of(THIN)
    assert round(elements(network, 224) / 1e6, 1) == 6.8
    assert round(bytes_per_image(network, 224, "bfloat16", training=True) / 1e6) == 190
    assert round(bytes_per_image(network, 224, "bfloat16", training=True, fused=True) / 1e6) == 122
    assert round(bytes_per_image(network, 224, "bfloat16", training=False, fused=True) / 1e6) == 27


def test_parameters_are_moved_once_a_batch():
    network = network_of(THIN)
    count = parameters.count(variable_shapes(network, 64)["params"])
    assert bytes_per_step(network, 64, "bfloat16", training=True) == 40 * count  # in float32, whatever the dtype
    assert bytes_per_step(network, 64, "bfloat16", training=False) == 2 * count
    assert bytes_per_step(network, 64, "float32", training=False) == 4 * count
