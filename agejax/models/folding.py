"""Batch norms folded into the convolutions before them, for inference: no norm is read, computed or written.

kernel' = kernel · s and bias' = β + (bias - μ) · s with s = γ / √(σ² + ε), per output channel.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from agejax.models.layers import ConvNorm
from agejax.models.network import Network
from agejax.parameters import flatten

IMAGE = (1, 64, 64, 3)  # any size that every family takes: it is only traced


def fold(network: Network, variables: dict) -> tuple[Network, dict]:
    """The network without norms, and its {"params", "batch_stats": {}}; on the variables' devices.

    Equal to the network with train=False, within float32's rounding; in bfloat16 the kernels are rounded with their
    scales in them, and outputs differ by as much as bfloat16's differ from float32's. Not for training.
    """
    return without_norms(network), jax.jit(lambda variables: fold_variables(network, variables))(variables)


def without_norms(network: Network) -> Network:
    """The network that takes what `fold_variables` gives."""
    trunk = network.trunk
    return network.clone(trunk=trunk.clone(compute=dataclasses.replace(trunk.compute, folded=True)))


def fold_variables(network: Network, variables: dict) -> dict:
    """{"params", "batch_stats"} of the network → those of `without_norms(network)`.

    The trunk's are in its dtype, as its layers would round them in every call.
    """
    params, statistics = flatten(variables["params"]), flatten(variables["batch_stats"])
    for unit, epsilon in _epsilons(network, variables).items():
        scale_C = params.pop(f"{unit}/norm/scale") * jax.lax.rsqrt(statistics[f"{unit}/norm/var"] + epsilon)
        shift_C = params.get(f"{unit}/conv/bias", 0) - statistics[f"{unit}/norm/mean"]
        params[f"{unit}/conv/bias"] = params.pop(f"{unit}/norm/bias") + shift_C * scale_C
        params[f"{unit}/conv/kernel"] *= scale_C[None, None, None, :]
    params = traverse_util.unflatten_dict(params, sep="/")
    dtype = network.trunk.compute.dtype
    return {
        "params": params | {"trunk": jax.tree.map(lambda x: jnp.asarray(x, dtype), params["trunk"])},
        "batch_stats": {},
    }


def _epsilons(network: Network, variables: dict) -> dict[str, float]:
    """Path of each normalised convolution → the epsilon of its norm, as the network itself has it."""
    found = {}

    def note(call, args, kwargs, context):
        unit = context.module
        if isinstance(unit, ConvNorm) and unit.norm:
            found["/".join(unit.path)] = unit.epsilon
        return call(*args, **kwargs)

    image = jax.ShapeDtypeStruct(IMAGE, jnp.uint8)
    with nn.intercept_methods(note):
        jax.eval_shape(network.apply, variables, image)
    return found
