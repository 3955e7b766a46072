"""ResNet: names, shapes and strides from shapes alone; single blocks against torchvision's.

Outputs of blocks and pooling are from torch 2.13 and torchvision 0.28 (BasicBlock, Bottleneck, MaxPool2d), in float64,
with the numbers of waves.py.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import filled
from waves import run_block, wave

from agejax.models.heads import linear
from agejax.models.inputs import IMAGENET
from agejax.models.layers import Compute, max_pool3
from agejax.models.network import BACKBONES, make_network, variable_shapes
from agejax.models.resnet import Basic, Bottleneck, ResNet
from agejax.parameters import flatten
from data_pipelines.errors import UserError

PLANS = {
    18: ((2, 2, 2, 2), 2),
    34: ((3, 4, 6, 3), 2),
    50: ((3, 4, 6, 3), 3),
}  # blocks of each stage, convolutions of one
PROJECTED = {
    18: ("stage2_1", "stage3_1", "stage4_1"),
    34: ("stage2_1", "stage3_1", "stage4_1"),
    50: ("stage1_1", "stage2_1", "stage3_1", "stage4_1"),
}


@functools.cache
def network_of(depth, dtype="float32", trainable=""):
    """A network with three outputs, and the shapes of its variables."""
    network = make_network(ResNet(depth), linear(3), dtype, trainable)
    return network, variable_shapes(network, 32)


def shapes_of(network, variables, H, W, **kwargs):
    """Shapes of what the network gives for two images, and of whatever else `kwargs` make it give."""
    image = jax.ShapeDtypeStruct((2, H, W, 3), jnp.uint8)
    return jax.eval_shape(functools.partial(network.apply, **kwargs), variables, image)


def maps_at(depth, size):
    """Unit's path below the trunk → height of its output."""
    kept = {"capture_intermediates": True, "mutable": ["intermediates"]}
    leaves = flatten(shapes_of(*network_of(depth), size, size, **kept)[1]["intermediates"]["trunk"])
    return {path.removesuffix("/__call__"): x[0].shape[1] for path, x in leaves.items() if "/" in path}


@pytest.mark.parametrize("depth", PLANS)
def test_units_have_the_names_that_conversion_and_freezing_rely_on(depth):
    counts, convolutions = PLANS[depth]
    blocks = [f"stage{stage}_{i}" for stage, count in enumerate(counts, 1) for i in range(1, count + 1)]
    units = {"stem"} | {f"{block}/conv{i}" for block in blocks for i in range(1, convolutions + 1)}
    units |= {f"{block}/shortcut" for block in PROJECTED[depth]}
    _, shapes = network_of(depth)
    parameters = {f"trunk/{unit}/{leaf}" for unit in units for leaf in ("conv/kernel", "norm/scale", "norm/bias")}
    assert set(flatten(shapes["params"])) == parameters | {"head/kernel", "head/bias"}
    statistics = {f"trunk/{unit}/norm/{leaf}" for unit in units for leaf in ("mean", "var")}
    assert set(flatten(shapes["batch_stats"])) == statistics


# the map's size as torchvision's layer4 gives it
@pytest.mark.parametrize(
    "H, W, h, w", [(1, 1, 1, 1), (32, 32, 1, 1), (33, 64, 2, 2), (65, 97, 3, 4), (97, 81, 4, 3), (224, 224, 7, 7)]
)
def test_any_size_of_image_is_taken(H, W, h, w):
    assert ResNet().min_image_size == 1
    for depth, channels, dtype in ((18, 512, "float32"), (50, 2048, "bfloat16")):
        out = shapes_of(*network_of(depth, dtype), H, W)
        assert (out["map"].shape, out["map"].dtype) == ((2, h, w, channels), dtype)
        assert (out["features"].shape, out["features"].dtype) == ((2, channels), jnp.float32)
        assert (out["logits"].shape, out["logits"].dtype) == ((2, 3), jnp.float32)


def test_the_stride_of_a_bottleneck_is_on_its_3x3_convolution():
    """torchvision's form, "v1.5"."""
    maps = maps_at(50, 64)
    assert maps["stem"] == 32
    assert {maps[name] for name in maps if name.startswith("stage1")} == {16}
    for stage, before in ((2, 16), (3, 8), (4, 4)):
        first = [maps[f"stage{stage}_1/{unit}"] for unit in ("conv1", "conv2", "conv3", "shortcut")]
        assert first == [before, before // 2, before // 2, before // 2]
        assert {maps[name] for name in maps if name.startswith(f"stage{stage}_2")} == {before // 2}


def test_kernels_are_torchvisions():
    kernels = {
        path.removeprefix("trunk/").removesuffix("/conv/kernel"): x.shape
        for path, x in flatten(network_of(50)[1]["params"]).items()
    }
    assert kernels["stem"] == (7, 7, 3, 64)
    assert kernels["stage1_1/shortcut"] == (1, 1, 64, 256)
    assert [kernels[f"stage2_1/conv{i}"] for i in (1, 2, 3)] == [(1, 1, 256, 128), (3, 3, 128, 128), (1, 1, 128, 512)]
    assert kernels["stage4_3/conv2"] == (3, 3, 512, 512)


# block, shape of x, training → first image, second row of the map
BLOCKS = {
    "basic, stride 2": (
        functools.partial(Basic, 2, 2),
        (2, 5, 4, 3),
        [[1.77768332, 0], [0, 0.40753799]],
        [[2.7079228, 0], [0.0866439, 1.53672858]],
    ),
    "basic": (
        functools.partial(Basic, 3, 1),
        (2, 5, 4, 3),
        [[0, 14.53648249, 13.49557777], [10.08403015, 13.68488237, 0], [4.77024002, 1.2061877, 0], [0, 0, 7.50538926]],
        [
            [0, 4.10983291, 4.34022178],
            [2.06247936, 1.64513232, 0],
            [0.67829742, 0.4121768, 1.45785001],
            [0, 0, 4.0480334],
        ],
    ),
    "bottleneck, stride 2": (
        functools.partial(Bottleneck, 1, 2),
        (2, 5, 4, 3),
        [[3.28768006, 1.38120059, 3.19633813, 0], [2.17247609, 3.02143122, 2.91682109, 1.38428481]],
        [[1.01797756, 1.27167051, 3.15155921, 2.06913493], [0.83112539, 3.08877431, 3.6037441, 3.16232809]],
    ),
    "bottleneck": (
        functools.partial(Bottleneck, 1, 1),
        (2, 5, 4, 4),
        [
            [1.46872186, 0.55060552, 0.34896128, 0.57021416],
            [1.17205719, 0, 0.31408782, 1.70578776],
            [1.92984382, 0.82656239, 0.02513057, 0.67487589],
            [4.18656412, 2.77105176, 0, 0],
        ],
        [
            [0.57948756, 0, 0.86277271, 1.99051105],
            [0.67120129, 0, 0.6200535, 2.84305916],
            [1.42898792, 0.27767865, 0.33109625, 1.81214729],
            [2.26351969, 1.76429525, 0.11483728, 0],
        ],
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_computes_what_torchvisions_does(name):
    make, shape, stored, batch = BLOCKS[name]
    for train, expected in ((False, stored), (True, batch)):
        np.testing.assert_allclose(run_block(make, shape, train)[0, 1], expected, rtol=1e-5, atol=1e-5)


def test_a_strided_block_projects_even_where_the_channels_stay():
    block = Basic(3, 2, Compute())
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), jnp.zeros((2, 4, 4, 3)), False))
    assert set(shapes["params"]) == {"conv1", "conv2", "shortcut"}


def test_a_block_in_bfloat16_is_close():
    make, shape, expected, _ = BLOCKS["bottleneck"]
    actual = run_block(make, shape, False, jnp.bfloat16)
    assert actual.dtype == jnp.bfloat16
    np.testing.assert_allclose(actual[0, 1].astype(jnp.float32), expected, rtol=0.05, atol=0.05)


def test_max_pool3_is_torchs_with_padding_1():
    """MaxPool2d(3, 2, 1) and MaxPool2d(3, 1, 1) of integers of either sign."""
    x = jnp.array(
        [[4, 3, 13, 17, 19, -1], [15, -6, -4, 11, 1, 2], [8, 12, 10, 16, -10, 0], [6, -3, 5, -8, 9, -2],
         [7, 14, -7, -9, -5, 18]], jnp.float32,
    )[None, :, :, None]  # fmt: skip
    stem = max_pool3(x, stride=2, padding=((1, 1), (1, 1)))[0, :, :, 0]
    np.testing.assert_array_equal(stem, [[15, 17, 19], [15, 16, 16], [14, 14, 18]])
    branch = max_pool3(x, stride=1, padding=((1, 1), (1, 1)))[0, :, :, 0]
    np.testing.assert_array_equal(
        branch,
        [[15, 15, 17, 19, 19, 19], [15, 15, 17, 19, 19, 19], [15, 15, 16, 16, 16, 9], [14, 14, 16, 16, 18, 18],
         [14, 14, 14, 9, 18, 18]],
    )  # fmt: skip


def test_max_pool3_is_reduce_window_and_so_is_its_gradient():
    x = jax.random.permutation(jax.random.key(0), jnp.arange(2 * 8 * 7 * 3.0)).reshape(2, 8, 7, 3) - 100
    weights = jnp.asarray(wave((2, 4, 3, 3), 0))

    def both(pool):
        return jax.jit(jax.value_and_grad(lambda x: ((y := pool(x)) * weights).sum() + y.max()))(x)

    actual = both(lambda x: max_pool3(x, 2, ((0, 1), (0, 0))))
    expected = both(lambda x: nn.max_pool(x, (3, 3), strides=(2, 2), padding=((0, 1), (0, 0))))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-5), actual, expected)


@pytest.mark.parametrize("value", [-1.0, 0.0])
def test_max_pool3_divides_the_gradient_among_ties_and_gives_the_padding_none(value):
    x = jnp.full((1, 5, 4, 2), value)
    gradient = jax.jit(jax.grad(lambda x: max_pool3(x, 2, ((1, 1), (1, 1))).sum()))(x)
    np.testing.assert_allclose(gradient.sum(), 3 * 2 * 2, rtol=1e-6)


def moved(trainable):
    """Paths of the statistics that a step of training would change."""
    network, variables = network_of(18, trainable=trainable)

    def apply(variables, image):
        return network.apply(variables, image, train=True, mutable=["batch_stats"])[1]["batch_stats"]

    image = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.uint8)
    traced, updates = jax.make_jaxpr(apply, return_shape=True)(variables, image)
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(updates)]
    untouched = set(traced.jaxpr.invars)
    return {path for path, x in zip(paths, traced.jaxpr.outvars) if x not in untouched}


def test_frozen_norms_keep_their_statistics():
    every = set(flatten(network_of(18)[1]["batch_stats"]))
    assert moved("") == every
    assert moved("head") == set()
    assert moved("stage4_|head") == {path for path in every if path.startswith("trunk/stage4_")}


def test_a_frozen_trunk_in_training_is_the_program_of_evaluation():
    network, variables = network_of(50, trainable="head")
    image = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.uint8)
    programs = [jax.make_jaxpr(functools.partial(network.apply, train=train))(variables, image) for train in (0, 1)]
    assert str(programs[0]) == str(programs[1])


def test_gradients_reach_every_parameter_and_features_are_the_mean_of_the_map():
    network, shapes = network_of(18)
    variables = filled(shapes)
    image = jax.random.randint(jax.random.key(1), (4, 48, 40, 3), 0, 256).astype(jnp.uint8)

    def loss(params):
        variables_ = variables | {"params": params}
        out, updates = network.apply(variables_, image, train=True, mutable=["batch_stats"])
        return jnp.sum(jnp.square(out["logits"])), (out, updates)

    quickly = {"xla_backend_optimization_level": 0}
    gradients, (out, updates) = jax.jit(jax.grad(loss, has_aux=True), compiler_options=quickly)(variables["params"])
    assert not [path for path, x in flatten(gradients).items() if not float(jnp.abs(x).max()) > 0]
    np.testing.assert_allclose(out["features"], out["map"].mean((1, 2)), rtol=1e-5, atol=1e-6)
    assert {x.dtype for x in jax.tree.leaves((gradients, updates))} == {jnp.dtype("float32")}


def test_bfloat16_keeps_gradients_and_statistics_in_float32():
    network, shapes = network_of(18, "bfloat16")

    def loss(params, statistics, image):
        variables = {"params": params, "batch_stats": statistics}
        out, updates = network.apply(variables, image, train=True, mutable=["batch_stats"])
        return jnp.sum(out["logits"]), updates

    image = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.uint8)
    kept = jax.eval_shape(jax.grad(loss, has_aux=True), shapes["params"], shapes["batch_stats"], image)
    assert {x.dtype for x in jax.tree.leaves((shapes, kept))} == {jnp.dtype("float32")}


def test_options():
    assert network_of(18)[0].inputs == IMAGENET
    assert [BACKBONES[f"resnet{depth}"] for depth in PLANS] == [ResNet(depth) for depth in PLANS]
    with pytest.raises(UserError, match="depth must be one of 18, 34, 50, got 101"):
        ResNet(101)
