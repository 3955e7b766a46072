"""Parameter counts, pooling, what bfloat16 and freezing leave alone."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agejax import parameters
from agejax.models.heads import linear
from agejax.models.inputs import FACES
from agejax.models.layers import max_pool
from agejax.models.network import init_variables, make_network, variable_shapes
from agejax.models.vgg import VGG


def variables_of(backbone, head_size=101, size=32, **kwargs):
    network = make_network(backbone, linear(head_size), **kwargs)
    return network, init_variables(jax.random.key(0), network, size)


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        (VGG(0.5), 3_708_229),
        (VGG(0.25), 934_869),
        (VGG(0.5, "gap"), 3_708_229),  # pooling has no parameters
    ],
)
def test_parameter_counts_are_the_papers(backbone, expected):
    """DLDL-v2 rounds them to 3.7 M and 0.9 M; the exact ones follow from its layer table at K = 101."""
    network = make_network(backbone, linear(101))
    assert parameters.count(variable_shapes(network, 32)["params"]) == expected


def test_hybrid_pooling_is_max_then_mean():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(max_pool(x)[0, :, :, 0], [[5, 7], [13, 15]])
    assert max_pool(x).mean() == 10
    assert x.mean() == 7.5


def test_max_pool_drops_an_odd_edge_and_gives_the_gradient_to_the_first_of_equals():
    x = jnp.ones((1, 3, 5, 2))
    assert max_pool(x).shape == (1, 1, 2, 2)
    gradient = jax.grad(lambda x: max_pool(x).sum())(x)
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[1, 0, 1, 0, 0], [0] * 5, [0] * 5])
    window = jnp.array([[0.0, 3.0], [3.0, 1.0]])[None, :, :, None]  # torch takes the first, row by row
    np.testing.assert_array_equal(jax.grad(lambda x: max_pool(x).sum())(window)[0, :, :, 0], [[0, 1], [0, 0]])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_max_pool_and_its_gradient_are_those_of_reduce_window(dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.permutation(2 * 7 * 9 * 2).reshape(2, 7, 9, 2) % 251, dtype)  # no equals within a window
    gradient = jnp.asarray(rng.standard_normal((2, 3, 4, 2)), dtype)
    ours, theirs = (jax.vjp(pool, x) for pool in (max_pool, lambda x: nn.max_pool(x, (2, 2), (2, 2))))
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_array_equal(ours[1](gradient)[0], theirs[1](gradient)[0])
    assert ours[1](gradient)[0].dtype == dtype


@pytest.mark.parametrize("place", range(4))
def test_max_pool_passes_a_nan_on(place):
    x = jnp.arange(4.0).at[place].set(jnp.nan).reshape(1, 2, 2, 1)
    assert jnp.isnan(max_pool(x)).all()


def test_features_are_the_mean_of_the_pooled_map():
    for pooling, pool in (("hybrid", max_pool), ("gap", lambda x: x)):
        network, variables = variables_of(VGG(0.125, pooling), size=64)
        image = jax.random.randint(jax.random.key(1), (2, 64, 64, 3), 0, 256).astype(jnp.uint8)
        out = network.apply(variables, image)
        assert out["map"].shape == (2, 4, 4, 64)
        np.testing.assert_allclose(out["features"], pool(out["map"]).mean((1, 2)), rtol=1e-6)
        head = variables["params"]["head"]
        expected = out["features"] @ head["kernel"] + head["bias"][None]
        np.testing.assert_allclose(out["logits"], expected, rtol=1e-4, atol=1e-5)


def test_normalise_is_per_channel_over_unit_range():
    image = np.array([0, 128, 255], np.uint8).reshape(1, 1, 1, 3)
    expected = [(0 - 0.5958) / 0.2693, (128 / 255 - 0.4637) / 0.2409, (1 - 0.4065) / 0.2352]
    np.testing.assert_allclose(FACES.normalise(image)[0, 0, 0], expected, rtol=1e-6)


def test_bfloat16_computes_in_bfloat16_and_keeps_the_rest_float32():
    network, variables = variables_of(VGG(0.125), dtype="bfloat16")
    out, updates = network.apply(variables, jnp.zeros((2, 32, 32, 3), jnp.uint8), train=True, mutable=["batch_stats"])
    assert out["map"].dtype == jnp.bfloat16
    kept = jax.tree.leaves((variables, updates, out["features"], out["logits"]))
    assert {x.dtype for x in kept} == {jnp.dtype("float32")}


def test_frozen_batch_norms_use_their_stored_statistics():
    image = jax.random.randint(jax.random.key(1), (4, 32, 32, 3), 0, 256).astype(jnp.uint8)
    for trainable, moves in (("", True), ("head", False)):
        network, variables = variables_of(VGG(0.125), trainable=trainable)
        _, updates = network.apply(variables, image, train=True, mutable=["batch_stats"])
        before = variables["batch_stats"]["trunk"]["block1_1"]["norm"]["mean"]
        after = updates["batch_stats"]["trunk"]["block1_1"]["norm"]["mean"]
        assert bool((before != after).any()) == moves
