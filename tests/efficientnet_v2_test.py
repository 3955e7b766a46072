"""EfficientNetV2: the structure from shapes alone, the numbers of single blocks against numpy, and what is dropped."""

import functools
import types
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import SEVEN_BLOCKS, filled

from agejax import parameters
from agejax.models import efficientnet_v2
from agejax.models.efficientnet_v2 import SIZES, EfficientNetV2, FusedMBConv, MBConv, SqueezeExcitation
from agejax.models.heads import linear
from agejax.models.inputs import HALF, IMAGENET
from agejax.models.layers import Compute, ConvNorm, he_fan_out
from agejax.models.network import BACKBONES, make_network, variable_shapes
from agejax.models.norms import BatchNorm
from data_pipelines.errors import UserError

KEY = jax.random.key(0)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
RESIDUAL = {"stage1_1": 0, "stage1_2": 1, "stage2_2": 3, "stage3_2": 5, "stage3_3": 6}  # of 7 small blocks: place

# torchvision's blocks: class, expand, channels, rows of the map at 64 px
STAGES = {
    "s": [
        *[(FusedMBConv, 1, 24, 32)] * 2,
        *[(FusedMBConv, 4, 48, 16)] * 4,
        *[(FusedMBConv, 4, 64, 8)] * 4,
        *[(MBConv, 4, 128, 4)] * 6,
        *[(MBConv, 6, 160, 4)] * 9,
        *[(MBConv, 6, 256, 2)] * 15,
    ],
    "m": [
        *[(FusedMBConv, 1, 24, 32)] * 3,
        *[(FusedMBConv, 4, 48, 16)] * 5,
        *[(FusedMBConv, 4, 80, 8)] * 5,
        *[(MBConv, 4, 160, 4)] * 7,
        *[(MBConv, 6, 176, 4)] * 14,
        *[(MBConv, 6, 304, 2)] * 18,
        *[(MBConv, 6, 512, 2)] * 5,
    ],
}


@pytest.fixture
def tiny(monkeypatch):
    """Makes an EfficientNetV2 of seven blocks."""
    monkeypatch.setitem(SIZES, "tiny", SEVEN_BLOCKS)
    return functools.partial(EfficientNetV2, "tiny")


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def block_of(cls, channels, expand, stride=1, rate=0.0, padding=None):
    unit = functools.partial(ConvNorm, compute=Compute(), padding=padding, epsilon=1e-3, activation=nn.silu)
    return cls(channels, expand, stride, rate, Compute(), unit)


def with_numbers(module, x, *options):
    """Variables for a module alone."""
    return filled(jax.eval_shape(lambda x: module.init(KEY, x, *options), x))


@functools.cache
def traced(backbone, trainable="", train=True, dtype="float32"):
    """What a pass over two images of 64 px would do, without doing it: .tree and .out, shapes; .modules, pairs of
    a module and the shape of what it returned, in order; .drops, {part: (rate, whole rows)}."""
    network, modules, drops = make_network(backbone, linear(101), dtype, trainable), [], {}

    def watch(call, args, kwargs, context):
        result = call(*args, **kwargs)
        if context.method_name == "__call__":
            modules.append((context.module, getattr(result, "shape", None)))
        return result

    def dropped(module, x, rate, active, whole_rows=False):
        if active:
            drops["/".join(module.path).removeprefix("trunk/")] = rate, whole_rows
        return x

    image = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.uint8)
    with nn.intercept_methods(watch), mock.patch.object(efficientnet_v2, "dropped", dropped):
        out, tree = jax.eval_shape(lambda x: network.init_with_output(KEY, x, train), image)
    return types.SimpleNamespace(tree=tree, out=out, modules=modules, drops=drops)


# what the published network is


@pytest.mark.parametrize("size, count, statistics", [("m", 52_987_737, 292_032), ("s", 20_306_869, 153_872)])
def test_parameter_counts_are_torchvisions(size, count, statistics):
    """Its 54,139,356 and 21,458,488 with 1000 outputs in place of 101."""
    tree = traced(BACKBONES[f"efficientnet_v2_{size}"]).tree
    assert parameters.count(tree["params"]) == count
    assert parameters.count(tree["batch_stats"]) == statistics


@pytest.mark.parametrize("size", STAGES)
def test_blocks_are_torchvisions(size):
    seen = [
        (type(module), module.expand, shape[3], shape[1])
        for module, shape in traced(EfficientNetV2(size)).modules
        if isinstance(module, (FusedMBConv, MBConv)) and shape[1] == shape[2]
    ]
    assert seen == STAGES[size]


def test_squeeze_is_a_quarter_of_what_enters_the_block():
    params = parameters.flatten(traced(EfficientNetV2("m")).tree["params"])
    reduce = {path: x.shape for path, x in params.items() if path.endswith("squeeze/reduce/kernel")}
    assert len(reduce) == 44
    assert reduce["trunk/stage4_1/squeeze/reduce/kernel"] == (1, 1, 320, 20)
    assert reduce["trunk/stage5_1/squeeze/reduce/kernel"] == (1, 1, 960, 40)
    assert reduce["trunk/stage7_5/squeeze/reduce/kernel"] == (1, 1, 3072, 128)


def test_names(tiny):
    """Conversion and freezing know the parts by them."""
    tree = traced(tiny()).tree
    params = [path.removeprefix("trunk/") for path in parameters.flatten(tree["params"])]
    unit = ("conv/kernel", "norm/bias", "norm/scale")
    fused, mb = ("expand", "project"), ("depthwise", "expand", "project")
    children = {"stage1_1": ("conv",), "stage2_1": fused, "stage2_2": fused, "stage3_1": mb, "stage3_3": mb}
    for block, names in children.items():
        expected = {f"{block}/{name}/{leaf}" for name in names for leaf in unit}
        if block.startswith("stage3"):
            expected |= {f"{block}/squeeze/{name}" for name in ("reduce/kernel", "reduce/bias")}
            expected |= {f"{block}/squeeze/{name}" for name in ("restore/kernel", "restore/bias")}
        assert {path for path in params if path.startswith(block)} == expected
    assert {path.split("/")[0] for path in params} == {"stem", "last", "head", "stage1_2", "stage3_2", *children}
    assert "trunk/stage3_1/depthwise/norm/mean" in parameters.flatten(tree["batch_stats"])


def test_any_image_size_gives_1280_features(tiny):
    for size, rows in ((33, 5), (64, 8), (1, 1)):
        network = make_network(tiny(), linear(3))
        image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.uint8)
        out = jax.eval_shape(lambda x: network.init_with_output(KEY, x)[0], image)  # noqa: B023
        assert out["features"].shape == (2, 1280)
        assert out["map"].shape == (2, rows, rows, 1280)


# what its blocks compute


def convolve(x, kernel, stride=1, pads=(1, 1)):
    """numpy; depthwise where the kernel has one input channel."""
    rows = np.pad(x, ((0, 0), pads, pads, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(rows, kernel.shape[:2], (1, 2))[:, ::stride, ::stride]
    if kernel.shape[2] == 1:
        return np.einsum("bhwcij,ijc->bhwc", windows, kernel[:, :, 0])
    return np.einsum("bhwcij,ijco->bhwo", windows, kernel)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def unit(name, variables, x, activate=True, **options):
    """numpy: convolution, stored statistics, SiLU."""
    kernel = variables["params"][name]["conv"]["kernel"]
    if kernel.shape[0] == 1:
        options = {"pads": (0, 0)}
    norm, stats = variables["params"][name]["norm"], variables["batch_stats"][name]["norm"]
    x = (convolve(x, kernel, **options) - stats["mean"]) / np.sqrt(stats["var"] + 1e-3) * norm["scale"] + norm["bias"]
    return x * sigmoid(x) if activate else x


def squeeze(params, x):
    """numpy: squeeze-excitation."""
    mean = x.mean((1, 2))
    reduced = mean @ params["reduce"]["kernel"][0, 0] + params["reduce"]["bias"]
    gate = sigmoid((reduced * sigmoid(reduced)) @ params["restore"]["kernel"][0, 0] + params["restore"]["bias"])
    return x * gate[:, None, None, :]


def test_squeeze_excitation_is_numpys():
    x = normal(1, 3, 5, 4, 6)
    module = SqueezeExcitation(2, Compute())
    variables = with_numbers(module, x)
    assert variables["params"]["reduce"]["kernel"].shape == (1, 1, 6, 2)
    np.testing.assert_allclose(module.apply(variables, x), squeeze(variables["params"], x), **CLOSE)


@pytest.mark.parametrize("stride, channels, residual", [(1, 8, True), (1, 12, False), (2, 8, False)])
@pytest.mark.parametrize("expand", [1, 4])
def test_fused_block_is_numpys(expand, stride, channels, residual):
    block, x = block_of(FusedMBConv, channels, expand, stride), normal(1, 2, 6, 5, 8)
    v = with_numbers(block, x, False)
    if expand == 1:
        expected = unit("conv", v, x, stride=stride)
    else:
        expected = unit("project", v, unit("expand", v, x, stride=stride), activate=False)
    expected = expected + x if residual else expected
    np.testing.assert_allclose(block.apply(v, x, False), expected, **CLOSE)


@pytest.mark.parametrize("stride, channels, residual", [(1, 8, True), (1, 12, False), (2, 8, False)])
def test_depthwise_block_is_numpys(stride, channels, residual):
    block, x = block_of(MBConv, channels, 4, stride), normal(1, 2, 6, 5, 8)
    v = with_numbers(block, x, False)
    assert v["params"]["depthwise"]["conv"]["kernel"].shape == (3, 3, 1, 32)
    inside = unit("depthwise", v, unit("expand", v, x), stride=stride)
    expected = unit("project", v, squeeze(v["params"]["squeeze"], inside), activate=False)
    expected = expected + x if residual else expected
    np.testing.assert_allclose(block.apply(v, x, False), expected, **CLOSE)


def test_same_padding_is_tensorflows():
    """It puts ceil(H / 2) windows of stride 2 over the map, the odd pixel of padding below and to the right."""
    ones = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    for padding, corner in ((None, 0 + 1 + 4 + 5), ("SAME", 0 + 1 + 2 + 4 + 5 + 6 + 8 + 9 + 10)):
        sums = ConvNorm(1, Compute(), stride=2, padding=padding, norm=False, activation=None)
        assert sums.apply({"params": {"conv": {"kernel": np.ones((3, 3, 1, 1))}}}, ones, False)[0, 0, 0, 0] == corner
    x = normal(1, 2, 6, 6, 8)
    block = block_of(FusedMBConv, 8, 4, 2, padding="SAME")
    v = with_numbers(block, x, False)
    expected = unit("project", v, unit("expand", v, x, stride=2, pads=(0, 1)), activate=False)
    np.testing.assert_allclose(block.apply(v, x, False), expected, **CLOSE)


@pytest.mark.parametrize("padding, given, inputs", [("symmetric", None, IMAGENET), ("same", "SAME", HALF)])
def test_padding_reaches_every_convolution_and_brings_its_input_recipe(tiny, padding, given, inputs):
    units = [module for module, _ in traced(tiny(padding=padding)).modules if isinstance(module, ConvNorm)]
    assert len(units) == 1 + 2 + 4 + 9 + 1
    assert {module.padding for module in units} == {given}
    assert make_network(tiny(padding=padding), linear(3)).inputs == inputs
    assert make_network(tiny(padding=padding, inputs=HALF), linear(3)).inputs == HALF


def test_every_unit_but_the_projections_ends_in_silu(tiny):
    units = [module for module, _ in traced(tiny()).modules if isinstance(module, ConvNorm)]
    linear_ends = [module.name for module in units if module.activation is None]
    assert linear_ends == ["project"] * 5
    assert {module.activation for module in units} == {None, nn.silu}


def test_every_convolution_starts_as_torchvisions(tiny):
    convolutions = [module for module, _ in traced(tiny()).modules if isinstance(module, nn.Conv)]
    assert len(convolutions) == 17 + 6
    assert {module.kernel_init for module in convolutions} == {he_fan_out}


@pytest.mark.parametrize("options, epsilon", [({}, 1e-3), ({"epsilon": 1e-5}, 1e-5)])
def test_epsilon_reaches_every_norm(tiny, options, epsilon):
    norms = [module for module, _ in traced(tiny(**options)).modules if isinstance(module, BatchNorm)]
    assert len(norms) == 17
    assert {module.epsilon for module in norms} == {epsilon}


def test_bfloat16_keeps_features_statistics_and_the_mean_float32(tiny, monkeypatch):
    means, mean_pool = [], efficientnet_v2.mean_pool

    def watched(x):
        means.append((x.dtype, mean_pool(x).dtype))
        return mean_pool(x)

    monkeypatch.setattr(efficientnet_v2, "mean_pool", watched)
    seen = traced(tiny(), dtype="bfloat16")
    kept = jax.tree.leaves((seen.tree, seen.out["features"], seen.out["logits"]))
    assert {x.dtype for x in kept} == {jnp.dtype("float32")}
    assert seen.out["map"].dtype == jnp.bfloat16
    computing = [module for module, _ in seen.modules if isinstance(module, (nn.Conv, nn.BatchNorm))]
    assert {module.dtype for module in computing} == {jnp.bfloat16}
    assert means == [(jnp.bfloat16, jnp.float32)] * 4  # three squeezes, and the features


# what it drops


def test_rates_are_linear_in_the_block_over_all_blocks(tiny):
    seen = dict(traced(tiny(stochastic_depth=0.7)).drops)
    assert seen.pop("trunk") == (0.4, False)  # the features'
    assert seen == {name: (pytest.approx(0.1 * place), True) for name, place in RESIDUAL.items()}


@pytest.mark.parametrize("size, dropout, last, blocks", [("s", 0.2, "stage6_15", 40), ("m", 0.3, "stage7_5", 57)])
def test_published_rates(size, dropout, last, blocks):
    seen = traced(BACKBONES[f"efficientnet_v2_{size}"]).drops
    assert seen["trunk"] == (dropout, False)
    assert seen[last] == (pytest.approx(0.2 * (blocks - 1) / blocks), True)


def test_only_trained_parts_drop(tiny):
    assert traced(tiny(), train=False).drops == {}
    assert traced(tiny(dropout=0.0)).drops["trunk"] == (0.0, False)
    for trainable, parts in (
        ("head", set()),
        ("stage2_2", {"stage2_2"}),
        ("stage2_2/expand", set()),  # its last norm is frozen, and so is its branch's share
        ("stage1_2/conv/norm/scale", {"stage1_2"}),
        ("project/norm/scale", set(RESIDUAL) - {"stage1_1", "stage1_2"}),
        ("last", {"trunk"}),
    ):
        assert set(traced(tiny(), trainable).drops) == parts, trainable


def test_stochastic_depth_drops_whole_branches_and_keeps_the_expectation():
    x = normal(1, 3, 2, 2, 4)
    block, calm = (block_of(FusedMBConv, 4, 1, rate=rate) for rate in (0.3, 0.0))
    v = with_numbers(block, x, False)

    def branch(block, key):
        rngs = {"dropout": key}
        return block.apply(v, x, True, mutable=["batch_stats"], rngs=rngs)[0] - x

    keys = jax.random.split(KEY, 4000)
    branches = np.asarray(jax.jit(jax.vmap(functools.partial(branch, block)))(keys))  # (key, row, H, W, C)
    whole = np.asarray(branch(calm, KEY))
    gone = (branches == 0).all((2, 3, 4))
    np.testing.assert_allclose(branches[~gone], np.broadcast_to(whole[None] / 0.7, branches.shape)[~gone], **CLOSE)
    share = gone.mean(0)  # standard error 0.007
    np.testing.assert_allclose(share, 0.3, atol=0.03)
    assert abs(np.corrcoef(gone.T)[0, 1]) < 0.08  # rows are drawn one by one; standard error 0.016
    np.testing.assert_allclose(branches.mean(0), whole, atol=0.05 * np.abs(whole).max())


def test_dropping_needs_training_and_a_key(tiny):
    network = make_network(tiny(stochastic_depth=0.6), linear(3))
    v = filled(variable_shapes(network, 32))
    image = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)

    @functools.partial(jax.jit, static_argnames="train", compiler_options={"xla_backend_optimization_level": 0})
    def features(train, key=None):
        rngs = {} if key is None else {"dropout": key}
        return network.apply(v, image, train=train, mutable=["batch_stats"], rngs=rngs)[0]["features"]

    one, other = (features(True, jax.random.key(seed)) for seed in (1, 2))
    assert (one != other).any()
    np.testing.assert_array_equal(one, features(True, jax.random.key(1)))
    np.testing.assert_array_equal(features(False, jax.random.key(1)), features(False))
    assert 0.35 < (one == 0).mean() < 0.45  # 10,240 features at 0.4
    assert not (features(True) == 0).any()


def test_wrong_options_are_refused():
    for options, told in (
        ({"size": "xl"}, "EfficientNetV2: size must be one of s, m, got xl"),
        ({"padding": "valid"}, "EfficientNetV2: padding must be one of symmetric, same, got valid"),
        ({"dropout": 1.0}, r"EfficientNetV2: dropout must be in \[0, 1\), got 1.0"),
        ({"stochastic_depth": -0.1}, r"EfficientNetV2: stochastic_depth must be in \[0, 1\), got -0.1"),
    ):
        with pytest.raises(UserError, match=told):
            EfficientNetV2(**options)
