"""Arrays that any program can write down again: cosines, so that blocks can be compared with torch's by few numbers."""

import jax
import jax.numpy as jnp
import numpy as np

from agejax.models.layers import Compute


def wave(shape, phase) -> np.ndarray:
    """cos(1.3 i + phase) of the flat index i, C order."""
    return np.cos(1.3 * np.arange(np.prod(shape)) + phase).reshape(shape)


def waved(shapes):
    """A tree of shapes → float32 arrays. Kernels (H, W, I, O) are waves; vectors are half of one, plus 1 but for stored
    means. The phase counts the arrays: parameters before statistics, each in the order of their sorted paths."""
    leaves, tree = jax.tree_util.tree_flatten_with_path((shapes["params"], shapes["batch_stats"]))
    arrays = []
    for phase, (path, x) in enumerate(leaves):
        values = wave(x.shape, phase)
        arrays.append(jnp.float32(values if x.ndim > 1 else values / 2 + (path[-1].key != "mean")))
    params, statistics = jax.tree_util.tree_unflatten(tree, arrays)
    return {"params": params, "batch_stats": statistics}


def run_block(make, shape, train: bool, dtype=jnp.float32) -> jax.Array:
    """Output of the block `make(Compute(dtype))`, filled with waves, for a wave of this shape at phase 0.5."""
    block, x = make(Compute(dtype)), jnp.asarray(wave(shape, 0.5), dtype)
    variables = waved(jax.eval_shape(lambda: block.init(jax.random.key(0), x, False)))
    return jax.jit(lambda variables: block.apply(variables, x, train, mutable=["batch_stats"])[0])(variables)
