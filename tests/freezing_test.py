"""What `trainable` does not name is frozen, in every family: norms use stored statistics, and nothing is dropped."""

import functools

import jax
import numpy as np
import pytest
from small import SEVEN_BLOCKS, filled

from agejax import parameters
from agejax.models.efficientnet_v2 import SIZES, EfficientNetV2
from agejax.models.googlenet import GoogLeNet
from agejax.models.heads import linear
from agejax.models.network import FAMILIES, make_network, variable_shapes
from agejax.models.resnet import ResNet
from agejax.models.vgg import VGG

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)

# what makes the backbone; what is trained → whether some of it is dropped, so that another key gives other features
CASES = {
    "VGG": (lambda: VGG(1 / 16), {"": False, "head": False, "block3": False, "norm/scale": False, "norm/bias": False}),
    "VGG with its dense stack": (
        lambda: VGG(1 / 32, "fc", (1, 1, 1, 1, 1), norm=False, bias=True),
        {"": True, "head": False, "block5": False, "fc6": True, "fc7": True},
    ),
    "ResNet": (lambda: ResNet(18), {"": False, "head": False, "stage2": False}),
    "GoogLeNet": (
        lambda: GoogLeNet(dropout=0.4),
        {"": True, "head": False, "inception4b": False, "inception5b": True},
    ),
    "EfficientNetV2": (
        lambda: EfficientNetV2("seven blocks", stochastic_depth=0.9),
        {"": True, "head": False, "stage1_1": False, "stage2_2": True, "last": True},
    ),
}


@pytest.fixture(scope="module", autouse=True)
def seven_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "seven blocks", SEVEN_BLOCKS)
        yield


@functools.cache
def variables_of(name):
    network = make_network(CASES[name][0](), linear(3))
    return filled(variable_shapes(network, 32))


@functools.cache
def forward(name, trainable, train):
    """seed → features (4, C) and flat batch statistics after it."""
    network = make_network(CASES[name][0](), linear(3), trainable=trainable)

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(variables, key):
        out, updates = network.apply(variables, IMAGES, train=train, mutable=["batch_stats"], rngs={"dropout": key})
        return out["features"], parameters.flatten(updates.get("batch_stats", {}))

    return lambda seed: jax.device_get(run(variables_of(name), jax.random.key(seed)))


@functools.cache
def evaluated(name):
    return forward(name, "", train=False)(1)


def changed(before, after):
    """Paths of what differs anywhere."""
    assert before.keys() == after.keys()
    return {path for path in before if not np.array_equal(before[path], after[path])}


def test_every_family_is_here():
    assert {type(make()) for make, _ in CASES.values()} == set(FAMILIES.values())


@pytest.mark.parametrize("name", CASES)
def test_evaluation_changes_nothing_and_drops_nothing(name):
    features, statistics = evaluated(name)
    assert np.isfinite(features).all()
    assert changed(parameters.flatten(variables_of(name)["batch_stats"]), statistics) == set()
    np.testing.assert_array_equal(forward(name, "", train=False)(2)[0], features)


@pytest.mark.parametrize("name, trainable", [(name, pattern) for name in CASES for pattern in CASES[name][1]])
def test_training_moves_and_drops_what_is_trained_alone(name, trainable):
    """A norm is trained where its scale is."""
    run = forward(name, trainable, train=True)
    (features, statistics), (others, _) = run(1), run(2)
    before = parameters.flatten(variables_of(name)["batch_stats"])
    trained = {path for path in before if parameters.is_trainable(trainable, path.rpartition("/")[0] + "/scale")}
    assert changed(before, statistics) == trained
    is_random = CASES[name][1][trainable]
    assert (features != others).any() == is_random
    assert (features != evaluated(name)[0]).any() == (is_random or bool(trained))
