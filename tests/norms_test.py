"""Batch normalisation against flax's, against numpy in float64, and on four devices."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agejax.models.norms import BatchNorm, normalise
from agejax.training.sharding import make_mesh, split

rng = np.random.default_rng(0)
SHAPE = (8, 5, 6, 3)
X = rng.standard_normal(SHAPE) * [1, 3, 0.1] + [5, -2, 0.3]
SCALE, BIAS = np.array([0.5, -1.5, 2]), np.array([0.1, 0, -1])
G = rng.standard_normal(SHAPE)


def exact(x, scale, bias, g, epsilon):
    """(y, mean, var, dx, dscale, dbias) in float64, the gradient by the Jacobian's definition."""
    axes, count = (0, 1, 2), x.size // x.shape[-1]
    mean, var = x.mean(axes), x.var(axes)
    normal = (x - mean) / np.sqrt(var + epsilon)
    own = g * scale
    projected = own - own.mean(axes) - normal * (own * normal).sum(axes) / count
    return normal * scale + bias, mean, var, projected / np.sqrt(var + epsilon), (g * normal).sum(axes), g.sum(axes)


@pytest.mark.parametrize("epsilon", [1e-5, 1e-1])
def test_values_and_gradients_are_those_of_float64(epsilon):
    (y, mean, var), pull = jax.vjp(lambda *given: normalise(*given, epsilon), *map(jnp.float32, (X, SCALE, BIAS)))
    found = (y, mean, var, *pull((jnp.float32(G), jnp.zeros(3), jnp.zeros(3))))
    for name, one, other in zip(
        ("y", "mean", "var", "dx", "dscale", "dbias"), found, exact(X, SCALE, BIAS, G, epsilon)
    ):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("stored", [False, True])
def test_it_is_flax_s_with_its_names(dtype, stored):
    ours, theirs = BatchNorm(stored, 1e-3), nn.BatchNorm(stored, momentum=0.9, epsilon=1e-3, dtype=dtype)
    x, g = jnp.asarray(X, dtype), jnp.asarray(G, dtype)
    variables = {
        "params": {"scale": jnp.float32(SCALE), "bias": jnp.float32(BIAS)},
        "batch_stats": {"mean": jnp.float32([4, -1, 0]), "var": jnp.float32([2, 3, 0.5])},
    }
    for one, other in zip(*(jax.tree.leaves_with_path(one.init(jax.random.key(0), x)) for one in (ours, theirs))):
        assert one[0] == other[0]
        np.testing.assert_array_equal(one[1], other[1])

    def run(module):
        def apply(params, x):
            return module.apply(variables | {"params": params}, x, mutable=["batch_stats"])

        y, pull, updates = jax.vjp(apply, variables["params"], x, has_aux=True)
        return y, updates, pull(g)

    for one, other in zip(jax.tree.leaves(run(ours)), jax.tree.leaves(run(theirs)), strict=True):
        assert one.dtype == other.dtype
        one, other = (np.asarray(value, np.float32) for value in (one, other))
        np.testing.assert_allclose(one, other, atol=(1e-5 if dtype == jnp.float32 else 1e-2) * np.abs(other).max())


def test_four_devices_share_their_statistics_and_runs_side_by_side_do_not():
    def gradient(x):
        return jax.vjp(lambda x: normalise(x, jnp.float32(SCALE), jnp.float32(BIAS), 1e-5)[0], x)[1](jnp.float32(G))[0]

    x = jnp.float32(X)
    np.testing.assert_allclose(
        jax.jit(gradient)(jax.device_put(x, split(make_mesh()))), gradient(x), rtol=1e-4, atol=1e-5
    )
    two = jnp.stack([x, x[::-1] * 2])
    alone = np.stack([gradient(two[0]), gradient(two[1])])
    np.testing.assert_allclose(jax.vmap(gradient)(two), alone, rtol=1e-4, atol=1e-5)
    assert np.abs(alone[0] - alone[1]).max() > 0.1
