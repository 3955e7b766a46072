"""Networks without their norms give what they gave with them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import SEVEN_BLOCKS, filled

from agejax import parameters
from agejax.models import efficientnet_v2
from agejax.models.efficientnet_v2 import EfficientNetV2
from agejax.models.folding import fold, fold_variables
from agejax.models.googlenet import GoogLeNet
from agejax.models.heads import linear
from agejax.models.network import BACKBONES, make_network, variable_shapes
from agejax.models.vgg import VGG

QUICKLY = {"xla_backend_optimization_level": 0}  # much is compiled here, and little of it is run for long
# of every family, with each thing that differs: epsilon, groups, bias beside a norm, no norm at all
SMALL = {
    "vgg": VGG(0.125),
    "bias beside the norm": VGG(0.125, bias=True),
    "no norms": VGG(0.125, norm=False, bias=True),
    "googlenet": GoogLeNet(),
    "googlenet without norms": GoogLeNet(norm=False),
    "resnet18": BACKBONES["resnet18"],
    "efficientnet": EfficientNetV2("s"),
    "another epsilon": EfficientNetV2("s", epsilon=1e-5),
    "uneven padding": EfficientNetV2("s", padding="same"),
}


@pytest.fixture(autouse=True)
def small_efficientnet(monkeypatch):
    monkeypatch.setitem(efficientnet_v2.SIZES, "s", SEVEN_BLOCKS)


def filled_network(backbone, dtype="float32"):
    """With maps so small before the norms that another epsilon is seen."""
    network = make_network(backbone, linear(5), dtype)
    variables = filled(variable_shapes(network, 32))
    factors = {"mean": 0.03, "var": 0.01, "kernel": 0.2 if variables["batch_stats"] else 1.4, "bias": 0.03}

    def shrink(path, x):
        return x * factors.get(path[-1].key, 1)

    return network, jax.tree_util.tree_map_with_path(shrink, variables)


def outputs(network, variables):
    """For two images of patches: noise would be the same grey to the deeper layers."""
    patches = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 3), np.uint8)
    image = patches.repeat(11, 1).repeat(11, 2)
    return jax.jit(network.apply, compiler_options=QUICKLY)(variables, image)


def largest_difference(a, b):
    """Relative to the largest value of an output."""
    return max(float(jnp.abs(a[name] - b[name]).max() / jnp.abs(a[name]).max()) for name in a)


@pytest.mark.parametrize("name", SMALL)
def test_outputs_are_those_of_the_network_with_norms(name):
    network, variables = filled_network(SMALL[name])
    before = outputs(network, variables)
    assert np.abs(before["logits"][0] - before["logits"][1]).max() > 1e-2 * np.abs(before["logits"]).max()
    folded, fewer = fold(network, variables)
    assert not fewer["batch_stats"] and not any("norm" in path for path in parameters.flatten(fewer))
    assert largest_difference(before, outputs(folded, fewer)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_every_network_can_be_folded(name, monkeypatch, x64):
    """In float64: through a hundred layers float32 alone errs by more than 1e-5."""
    monkeypatch.undo()
    network, variables = filled_network(BACKBONES[name])
    variables = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
    compute = dataclasses.replace(network.trunk.compute, dtype=jnp.float64)
    network = network.clone(trunk=network.trunk.clone(compute=compute))
    assert largest_difference(outputs(network, variables), outputs(*fold(network, variables))) < 1e-12


def test_bfloat16_keeps_the_head_and_errs_as_bfloat16_does():
    exact = outputs(*filled_network(SMALL["vgg"]))
    network, variables = filled_network(SMALL["vgg"], "bfloat16")
    folded, fewer = fold(network, variables)
    assert {x.dtype for x in jax.tree.leaves(fewer["params"]["trunk"])} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in jax.tree.leaves(fewer["params"]["head"])} == {jnp.dtype("float32")}
    error = largest_difference(exact, outputs(network, variables))
    assert 1e-3 < largest_difference(exact, outputs(folded, fewer)) < 4 * error


def test_folding_again_and_inside_jit_is_the_same():
    network, variables = filled_network(SMALL["vgg"])
    first, again = (fold(network, variables)[1] for _ in range(2))
    inside = jax.jit(lambda variables: fold_variables(network, variables))(variables)
    for other in (again, inside):
        jax.tree.map(np.testing.assert_array_equal, first, other)
