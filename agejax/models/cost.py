"""What a network costs: multiply-adds, counted in its traced program."""

import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from agejax.models.network import Network, variable_shapes


def macs(network: Network, image_size: int) -> int:
    """Multiply-adds of the convolutions and dense layers for one image of that many pixels a side, in evaluation.

    One is two floating-point operations. Norms, activations, pooling and other element-wise work are not counted.
    Nothing is computed: shapes are traced.
    """
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.uint8)
    return _count(jax.make_jaxpr(network.apply)(variable_shapes(network, image_size), image).jaxpr)


def _count(jaxpr: Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        total += COSTS[equation.primitive.name](equation) if equation.primitive.name in COSTS else 0
        total += sum(map(_count, _inner(equation))) * equation.params.get("length", 1)  # of a scan
    return total


def _inner(equation: JaxprEqn) -> Iterator[Jaxpr]:
    """The programs inside an equation: of a jitted function, a function with its own derivative, a loop."""
    for leaf in jax.tree.leaves(list(equation.params.values())):
        if isinstance(leaf, (ClosedJaxpr, Jaxpr)):
            yield leaf.jaxpr if isinstance(leaf, ClosedJaxpr) else leaf


def _convolution(equation: JaxprEqn) -> int:
    """Each output sums over the kernel's window and the input channels of its group."""
    kernel, (out,) = equation.invars[1].aval, equation.outvars
    outputs = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
    return math.prod(out.aval.shape) * math.prod(kernel.shape) // outputs


def _product(equation: JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, (out,) = equation.invars[0].aval, equation.outvars
    return math.prod(out.aval.shape) * math.prod(left.shape[axis] for axis in contracted)


COSTS: dict[str, Callable[[JaxprEqn], int]] = {"conv_general_dilated": _convolution, "dot_general": _product}
