"""GoogLeNet: names, shapes and pooling from shapes alone; a small one and single blocks by their numbers.

Outputs of blocks and pooling are from torch 2.13 and torchvision 0.28 (Inception, MaxPool2d with ceil_mode), in
float64, with the numbers of waves.py; the wide branch of the former with a 5×5 convolution put in.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import filled
from waves import run_block

from agejax.models import googlenet
from agejax.models.googlenet import GoogLeNet, Inception, ceil_pool2, ceil_pool3
from agejax.models.heads import linear
from agejax.models.inputs import IMAGENET
from agejax.models.network import BACKBONES, make_network, variable_shapes
from agejax.parameters import flatten
from data_pipelines.errors import UserError

NAMES = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
UNITS = ("one", "three_reduce", "three", "five_reduce", "five", "pool")
EVERY_UNIT = {"conv1", "conv2", "conv3"} | {f"inception{name}/{unit}" for name in NAMES for unit in UNITS}
SMALL = {name: (2, 3, 4, 2, 3, 2) for name in ("3a", "4a", "5a", "5b")}  # with every pooling


@functools.cache
def network_of(options=GoogLeNet(), dtype="float32", trainable=""):
    """A network with three outputs, and the shapes of its variables."""
    network = make_network(options, linear(3), dtype, trainable)
    return network, variable_shapes(network, 64)


def image_of(H, W):
    return jax.ShapeDtypeStruct((2, H, W, 3), jnp.uint8)


def kernels(options):
    """Unit's path below the trunk → shape of its kernel."""
    leaves = flatten(network_of(options)[1]["params"]["trunk"])
    ours = "/conv/kernel"
    return {path.removesuffix(ours): x.shape for path, x in leaves.items() if path.endswith(ours)}


def test_units_have_the_names_that_conversion_and_freezing_rely_on():
    for options, leaves in ((GoogLeNet(), ("conv/kernel", "norm/scale", "norm/bias")), (GoogLeNet(norm=False), ())):
        parameters = {f"trunk/{unit}/{leaf}" for unit in EVERY_UNIT for leaf in leaves or ("conv/kernel", "conv/bias")}
        statistics = {f"trunk/{unit}/norm/{leaf}" for unit in EVERY_UNIT for leaf in ("mean", "var") if leaves}
        _, shapes = network_of(options)
        assert set(flatten(shapes["params"])) == parameters | {"head/kernel", "head/bias"}
        assert set(flatten(shapes["batch_stats"])) == statistics


def test_kernels_are_the_papers_and_torchvisions():
    papers, torchvisions = kernels(GoogLeNet()), kernels(BACKBONES["googlenet_tv"])
    assert papers["conv1"] == (7, 7, 3, 64)
    assert papers["conv2"] == (1, 1, 64, 64)
    assert papers["conv3"] == (3, 3, 64, 192)
    of_4a = [papers[f"inception4a/{unit}"] for unit in UNITS]
    assert of_4a == [
        (1, 1, 480, 192),
        (1, 1, 480, 96),
        (3, 3, 96, 208),
        (1, 1, 480, 16),
        (5, 5, 16, 48),
        (1, 1, 480, 64),
    ]
    wide = {f"inception{name}/five" for name in NAMES}
    assert {name for name in EVERY_UNIT if papers[name] != torchvisions[name]} == wide
    assert {torchvisions[name][:2] for name in wide} == {(3, 3)}


# height and width of torchvision's inception5b with a last pooling of 3 and of 2
@pytest.mark.parametrize(
    "H, W, paper, torchvision",
    [
        (31, 32, (1, 1), (1, 1)),
        (65, 64, (2, 2), (2, 2)),
        (97, 81, (3, 2), (3, 3)),
        (227, 224, (7, 7), (7, 7)),
        (248, 248, (7, 7), (8, 8)),
    ],
)
def test_any_size_of_image_is_taken(H, W, paper, torchvision):
    for name, dtype, expected in (("googlenet", "float32", paper), ("googlenet_tv", "bfloat16", torchvision)):
        network, variables = network_of(BACKBONES[name], dtype)
        out = jax.eval_shape(network.apply, variables, image_of(H, W))
        assert (out["map"].shape, out["map"].dtype) == ((2, *expected, 1024), dtype)
        assert (out["features"].shape, out["features"].dtype) == ((2, 1024), jnp.float32)
        assert (out["logits"].shape, out["logits"].dtype) == ((2, 3), jnp.float32)


@pytest.mark.parametrize("pool4, smallest", [(3, 31), (2, 15)])
def test_the_smallest_image_is_torchs(pool4, smallest):
    options = GoogLeNet(pool4=pool4)
    network, variables = network_of(options)
    assert options.min_image_size == smallest
    assert jax.eval_shape(network.apply, variables, image_of(smallest, smallest))["map"].shape == (2, 1, 1, 1024)
    with pytest.raises(TypeError):
        jax.eval_shape(network.apply, variables, image_of(smallest - 1, smallest))


def test_the_map_is_pooled_before_the_second_convolution_and_before_3a_4a_5a():
    network, variables = network_of()
    apply = functools.partial(network.apply, capture_intermediates=True, mutable=["intermediates"])
    found = flatten(jax.eval_shape(apply, variables, image_of(224, 224))[1]["intermediates"]["trunk"])
    sizes = {path.split("/")[0]: x[0].shape[1] for path, x in found.items() if path.count("/") == 1}
    blocks = {f"inception{name}": {"3": 28, "4": 14, "5": 7}[name[0]] for name in NAMES}
    assert sizes == {"conv1": 112, "conv2": 56, "conv3": 56} | blocks


X = {
    (5, 6): [[4, 3, 13, 17, 19, -1], [15, -6, -4, 11, 1, 2], [8, 12, 10, 16, -10, 0], [6, -3, 5, -8, 9, -2],
             [7, 14, -7, -9, -5, 18]],
    (6, 7): [[8, 17, 4, -5, -10, 15, 29], [14, -9, 22, 0, 19, 5, 26], [9, -7, -2, 2, 27, -4, 31],
             [24, 21, 3, -6, 11, 16, 25], [-1, -8, 10, 13, 28, 23, 12], [7, 18, 30, 6, 20, -3, 1]],
}  # fmt: skip


@pytest.mark.parametrize(
    "pool, size, expected",
    [
        (ceil_pool3, (5, 6), [[15, 19, 19], [14, 16, 18]]),
        (ceil_pool3, (6, 7), [[22, 27, 31], [24, 28, 31], [30, 30, 28]]),
        (ceil_pool2, (5, 6), [[15, 17, 19], [12, 16, 9], [14, -7, 18]]),
        (ceil_pool2, (6, 7), [[17, 22, 19, 29], [24, 3, 27, 31], [18, 30, 28, 12]]),
    ],
)
def test_pooling_golden(pool, size, expected):
    x = jnp.array(X[size], jnp.float32)[None, :, :, None]
    np.testing.assert_array_equal(pool(x)[0, :, :, 0], expected)


@pytest.mark.parametrize("pool, kernel, smallest", [(ceil_pool3, 3, 2), (ceil_pool2, 2, 1)])
def test_pooling_takes_every_window_that_starts_inside_the_map_and_reaches_its_end(pool, kernel, smallest):
    for H in range(smallest, 9):
        x_HxW = -1 - np.random.default_rng(H).permutation(H * 7).reshape(H, 7).astype(np.float32)
        # torch's ceil_mode: as many windows as it takes for the last to reach the end of the map
        rows, columns = (range(0, -(-(size - kernel) // 2) * 2 + 1, 2) for size in (H, 7))
        expected = [[x_HxW[i : i + kernel, j : j + kernel].max() for j in columns] for i in rows]
        assert all(start < H for start in rows)
        np.testing.assert_array_equal(pool(jnp.asarray(x_HxW)[None, :, :, None])[0, :, :, 0], expected)


# first image, second row of the map: channels of the branches one, three (2), five, pool
ROWS = {
    (5, False): [[0.30063637, 0.27801992, 1.34940807, 0, 0], [2.50557843, 1.70823266, 0.86329374, 0.13902569, 0],
                 [2.68181814, 4.19446201, 0.97404414, 1.32286502, 0], [0.22099988, 0, 1.42840927, 0, 0]],
    (5, True): [[0.19635957, 0.73574239, 1.06089196, 0.66092475, 0.59543792],
                [1.7979667, 1.74946872, 0.77485886, 1.28613898, 0],
                [1.92598221, 3.05171042, 0.89131512, 1.83310468, 0], [0.13851389, 0, 1.1284816, 1.0099907, 0]],
    (3, False): [[0.30063637, 0.27801992, 1.34940807, 0.62432564, 0], [2.50557843, 1.70823266, 0.86329374, 0, 0],
                 [2.68181814, 4.19446201, 0.97404414, 3.10509949, 0], [0.22099988, 0, 1.42840927, 2.75149671, 0]],
    (3, True): [[0.19635957, 0.73574239, 1.06089196, 1.0243086, 0.59543792],
                [1.7979667, 1.74946872, 0.77485886, 0, 0], [1.92598221, 3.05171042, 0.89131512, 2.21715902, 0],
                [0.13851389, 0, 1.1284816, 2.05779007, 0]],
}  # fmt: skip


def block_of(branch):
    return functools.partial(Inception, GoogLeNet(branch=branch), (1, 1, 2, 1, 1, 1))


@pytest.mark.parametrize("branch, train", ROWS)
def test_an_inception_block_computes_what_torchvisions_does(branch, train):
    actual = run_block(block_of(branch), (2, 5, 4, 3), train)
    np.testing.assert_allclose(actual[0, 1], ROWS[branch, train], rtol=1e-5, atol=1e-5)


def test_an_inception_block_in_bfloat16_is_close():
    actual = run_block(block_of(5), (2, 5, 4, 3), True, jnp.bfloat16)
    assert actual.dtype == jnp.bfloat16
    np.testing.assert_allclose(actual[0, 1].astype(jnp.float32), ROWS[5, True], rtol=0.05, atol=0.05)


def test_gradients_reach_every_parameter_and_features_are_the_mean_of_the_map(monkeypatch):
    monkeypatch.setattr(googlenet, "BLOCKS", SMALL)
    network = make_network(GoogLeNet(), linear(3))
    variables = filled(variable_shapes(network, 64))
    image = jax.random.randint(jax.random.key(1), (4, 64, 70, 3), 0, 256).astype(jnp.uint8)

    def loss(params):
        out, updates = network.apply(variables | {"params": params}, image, train=True, mutable=["batch_stats"])
        return jnp.sum(jnp.square(out["logits"])), (out, updates)

    quickly = {"xla_backend_optimization_level": 0}
    gradients, (out, updates) = jax.jit(jax.grad(loss, has_aux=True), compiler_options=quickly)(variables["params"])
    assert not [path for path, x in flatten(gradients).items() if not float(jnp.abs(x).max()) > 0]
    np.testing.assert_allclose(out["features"], out["map"].mean((1, 2)), rtol=1e-5, atol=1e-6)
    assert {x.dtype for x in jax.tree.leaves((gradients, updates))} == {jnp.dtype("float32")}


def test_bfloat16_keeps_gradients_and_statistics_in_float32(monkeypatch):
    monkeypatch.setattr(googlenet, "BLOCKS", SMALL)
    network = make_network(GoogLeNet(), linear(3), "bfloat16")

    def loss(params, statistics):
        variables = {"params": params, "batch_stats": statistics}
        out, updates = network.apply(variables, jnp.zeros((2, 64, 64, 3), jnp.uint8), train=True, mutable="batch_stats")
        return jnp.sum(out["logits"]), updates

    shapes = variable_shapes(network, 64)
    kept = jax.eval_shape(jax.grad(loss, has_aux=True), shapes["params"], shapes["batch_stats"])
    assert {x.dtype for x in jax.tree.leaves((shapes, kept))} == {jnp.dtype("float32")}


def traced(options, trainable, train, key=True):
    """The program of a network of four small blocks, as text."""
    network = make_network(options, linear(3), trainable=trainable)
    rngs = {"dropout": jax.random.key(0)} if key else {}
    apply = functools.partial(network.apply, train=train, mutable=["batch_stats"], rngs=rngs)
    return str(jax.make_jaxpr(apply)(variable_shapes(network, 64), image_of(64, 64)))


def test_a_frozen_trunk_in_training_is_the_program_of_evaluation(monkeypatch):
    monkeypatch.setattr(googlenet, "BLOCKS", SMALL)
    options = GoogLeNet(dropout=0.4)
    evaluation = traced(options, "", False)
    assert traced(options, "head", True) == evaluation
    assert traced(options, "", True) != evaluation


def test_features_are_dropped_in_training_with_a_key_unless_the_last_block_is_frozen(monkeypatch):
    monkeypatch.setattr(googlenet, "BLOCKS", SMALL)
    options = GoogLeNet(dropout=0.4)
    draws = {
        "training": traced(options, "", True),
        "no key": traced(options, "", True, key=False),
        "evaluation": traced(options, "", False),
        "as published with batch normalisation": traced(GoogLeNet(), "", True),
        "head alone": traced(options, "head", True),
        "last block and head": traced(options, "inception5b/.*/kernel|head", True),
        "without norms": traced(GoogLeNet(norm=False, dropout=0.4), "", True),
    }
    dropping = {name for name, program in draws.items() if "random_bits" in program}
    assert dropping == {"training", "last block and head", "without norms"}


def test_options():
    assert network_of()[0].inputs == IMAGENET
    assert BACKBONES["googlenet"] == GoogLeNet()
    assert BACKBONES["googlenet_tv"] == GoogLeNet(branch=3, pool4=2)
    for wrong in ({"branch": 7}, {"pool4": 1}, {"dropout": 1.0}, {"dropout": -0.1}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            GoogLeNet(**wrong)
