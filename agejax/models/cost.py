"""What a network costs: multiply-adds, and bytes of memory traffic, counted in its traced program.

Convolutional networks with batch norm are bound by bytes, so the floor of a step is bytes / bandwidth. A *touch* is
one element of a convolution's output (or of an array of its size) read from memory or written to it:

    training, every layer a pass of its own ("unfused"), touches an element       with norm    without
      forward    convolution writes                                                    1           1
                 statistics read                                                       1
                 normalising, activation read and write                                2           2
                 next convolution reads                                                1           1
      backward   norm's sums read the gradient and the map                             2
                 norm, activation read both, write the gradient                        3           3
                 weight gradient reads both                                            2           2
                 data gradient reads, writes                                           2           2
                                                                                      14          11
    training, fused: what no order of the work avoids while maps do not fit on the chip
      forward    convolution writes (sums on the way), next one reads and normalises   2           2
      backward   weight gradient reads both; the map once more for the norm            3           2
                 data gradient reads, writes; the same; the map before for its sums    4           3
                                                                                       9           7
    inference, unfused: convolution writes, norm and activation read, write, next reads            4
    inference, fused: norm folded into the kernels, activation on the way                          2

A touch is 4 bytes in float32, 2 in bfloat16. An input is counted as the output of the layer before it. Not counted:
pooling, sums of branches, squeeze-excitation's factors, the image itself, so real traffic is above. ThinAgeNet at
224 px has 6.8 M elements (13.6 MB in bfloat16): 190 MB an image to train unfused, 122 MB fused.
"""

import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from agejax.models.network import DTYPES, Network, variable_shapes
from agejax.parameters import count

TOUCHES = {  # (training, fused) → touches of an element with norm, and without
    (True, False): (14, 11),
    (True, True): (9, 7),
    (False, False): (4, 4),
    (False, True): (2, 2),
}
ADAM_FLOATS = 10  # a parameter's: cast for the forward and the backward, gradient out and in, p, m, v in and out


def macs(network: Network, image_size: int) -> int:
    """Multiply-adds of the convolutions and dense layers for one image of that many pixels a side, in evaluation.

    One is two floating-point operations. Norms, activations, pooling and other element-wise work are not counted.
    Nothing is computed: shapes are traced.
    """
    return _count(_traced(network, image_size), MACS)


def elements(network: Network, image_size: int) -> int:
    """Elements that the convolutions and dense layers write for one image, in evaluation."""
    return _count(_traced(network, image_size), dict.fromkeys(MACS, _written))


def bytes_per_image(network: Network, image_size: int, dtype: str, training: bool, fused: bool = False) -> int:
    """Memory traffic of the maps for one image, as accounted for above; dtype is a key of network.DTYPES.

    A network with batch statistics counts as normalised throughout.
    """
    normed = bool(jax.tree.leaves(variable_shapes(network, image_size)["batch_stats"]))
    touches = TOUCHES[training, fused][0 if normed else 1]
    return touches * elements(network, image_size) * jnp.dtype(DTYPES[dtype]).itemsize


def bytes_per_step(network: Network, image_size: int, dtype: str, training: bool) -> int:
    """Memory traffic of the parameters, whatever the batch: in training float32 with Adam, otherwise one read."""
    parameters = count(variable_shapes(network, image_size)["params"])
    return parameters * (4 * ADAM_FLOATS if training else jnp.dtype(DTYPES[dtype]).itemsize)


def _traced(network: Network, image_size: int) -> Jaxpr:
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.uint8)
    return jax.make_jaxpr(network.apply)(variable_shapes(network, image_size), image).jaxpr


def _count(jaxpr: Jaxpr, costs: dict[str, Callable[[JaxprEqn], int]]) -> int:
    total = 0
    for equation in jaxpr.eqns:
        total += costs[equation.primitive.name](equation) if equation.primitive.name in costs else 0
        inside = sum(_count(inner, costs) for inner in _inner(equation))
        total += inside * equation.params.get("length", 1)  # of a scan
    return total


def _inner(equation: JaxprEqn) -> Iterator[Jaxpr]:
    """The programs inside an equation: of a jitted function, a function with its own derivative, a loop."""
    for leaf in jax.tree.leaves(list(equation.params.values())):
        if isinstance(leaf, (ClosedJaxpr, Jaxpr)):
            yield leaf.jaxpr if isinstance(leaf, ClosedJaxpr) else leaf


def _convolution(equation: JaxprEqn) -> int:
    """Each output sums over the kernel's window and the input channels of its group."""
    kernel = equation.invars[1].aval
    outputs = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
    return _written(equation) * math.prod(kernel.shape) // outputs


def _product(equation: JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval
    return _written(equation) * math.prod(left.shape[axis] for axis in contracted)


def _written(equation: JaxprEqn) -> int:
    return math.prod(equation.outvars[0].aval.shape)


MACS: dict[str, Callable[[JaxprEqn], int]] = {"conv_general_dilated": _convolution, "dot_general": _product}
