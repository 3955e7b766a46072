"""What the convolutional families share. Activations are NHWC.

Convolutions and dense layers of a trunk, and the normalised activations, are in `Compute.dtype`. Parameters, batch
statistics and their reductions, pooled features and the head are float32 always.
"""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from agejax.models.norms import BatchNorm
from agejax.parameters import is_trainable

he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # N(0, sqrt(2 / (k·k·C_out)))
# torch's default for a linear layer, U(-1/sqrt(fan_in), 1/sqrt(fan_in))
torch_linear = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


@dataclasses.dataclass(frozen=True)
class Compute:
    """In what precision the layers of a trunk compute, and which of them are trained."""

    dtype: jnp.dtype = jnp.float32
    trainable: str = ""
    """Regular expression over parameter paths, as `trunk/block1_1/conv/kernel`; empty: all."""
    folded: bool = False
    """The norms are in the convolutions' kernels and biases: folding.py."""

    def trains(self, module: nn.Module, *names: str) -> bool:
        """Whether the parameter of that name, below the module, is trained. A part that is not is frozen: its
        norms use stored statistics, its dropout and stochastic depth are off."""
        return is_trainable(self.trainable, "/".join((*module.path, *names)))


class ConvNorm(nn.Module):
    """Convolution, batch normalisation, activation; the last two may be left out.

    Padding is symmetric, kernel // 2 on every side as torch has it, or "SAME" as TensorFlow has it.
    """

    channels: int
    compute: Compute
    kernel: int = 3
    stride: int = 1
    padding: str | int | None = None
    """None: kernel // 2."""
    groups: int = 1
    bias: bool = False
    norm: bool = True
    epsilon: float = 1e-5
    activation: Callable[[jax.Array], jax.Array] | None = nn.relu

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array, train: bool) -> jax.Array:
        padding = self.kernel // 2 if self.padding is None else self.padding
        folded = self.norm and self.compute.folded
        x = nn.Conv(
            self.channels, (self.kernel, self.kernel), self.stride, padding, feature_group_count=self.groups,
            use_bias=self.bias or folded, kernel_init=he_fan_out, dtype=self.compute.dtype, name="conv",
        )(x_BxHxWxC)  # fmt: skip
        if self.norm and not folded:
            stored = not train or not self.compute.trains(self, "norm", "scale")
            x = BatchNorm(stored, self.epsilon, name="norm")(x)
        return x if self.activation is None else self.activation(x)


@jax.custom_vjp
def max_pool(x_BxHxWxC: jax.Array) -> jax.Array:
    """2×2 max-pooling with stride 2; an odd last row or column is dropped.

    Of equal maxima the first, row by row, has the gradient, as in torch; a window with a NaN gives NaN. The gradient
    knows each window's place of the maximum, one byte: that of `reduce_window` is a select-and-scatter, slower than the
    convolutions around it on CPU, and that of selects keeps their masks and reads the map once for each.
    """
    return _pooled(x_BxHxWxC)[0]


def _pooled(x_BxHxWxC: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    B, H, W, C = x_BxHxWxC.shape
    x = x_BxHxWxC[:, : H // 2 * 2, : W // 2 * 2].reshape(B, H // 2, 2, W // 2, 2, C)
    upper, right_above = _larger(x[:, :, 0, :, 0], x[:, :, 0, :, 1])
    lower, right_below = _larger(x[:, :, 1, :, 0], x[:, :, 1, :, 1])
    largest, below = _larger(upper, lower)
    place = jnp.where(below, 2 + right_below, right_above).astype(jnp.uint8)  # in the window, row by row
    return largest, (place, jnp.zeros((H % 2, W % 2)))  # what is dropped, as a shape


def _unpooled(saved, gradient_BxhxwxC: jax.Array) -> tuple[jax.Array]:
    place, dropped_edge = saved
    B, h, w, C = gradient_BxhxwxC.shape
    own = jnp.arange(4, dtype=jnp.uint8).reshape(1, 1, 2, 1, 2, 1)
    here = place[:, :, None, :, None, :] == own
    gradient = jnp.where(here, gradient_BxhxwxC[:, :, None, :, None, :], 0).reshape(B, 2 * h, 2 * w, C)
    below, beside = dropped_edge.shape
    return (jnp.pad(gradient, ((0, 0), (0, below), (0, beside), (0, 0))),)


max_pool.defvjp(_pooled, _unpooled)


def _larger(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(a where they are equal, NaN where either is; whether it is b)."""
    is_b = ~((a >= b) | jnp.isnan(a))
    return jnp.where(is_b, b, a), is_b


def max_pool3(x_BxHxWxC: jax.Array, stride: int, padding: tuple[tuple[int, int], tuple[int, int]]) -> jax.Array:
    """3×3 max-pooling over the map and -inf around it: `padding` pixels (top, bottom), (left, right). Any float dtype.

    Windows that do not fit whole are dropped: floor((H + top + bottom - 3) / stride) + 1 rows. Written as maxima of
    shifted slices, one axis after the other, for the reason given at max_pool. Equal maxima divide their gradient.
    """
    x = jnp.pad(x_BxHxWxC, ((0, 0), *padding, (0, 0)), constant_values=-jnp.inf)
    for axis in (1, 2):
        last = x.shape[axis] - 3  # where the last window may start
        x = functools.reduce(jnp.maximum, (jax.lax.slice_in_dim(x, i, last + i + 1, stride, axis) for i in range(3)))
    return x


def mean_pool(x_BxHxWxC: jax.Array) -> jax.Array:
    """Mean over the map: (B, C) float32, whatever the dtype of the map."""
    return x_BxHxWxC.astype(jnp.float32).mean((1, 2))


def dropped(module: nn.Module, x: jax.Array, rate: float, active: bool, whole_rows: bool = False) -> jax.Array:
    """x with a share `rate` of its elements, or of its rows, set to 0 and the others divided by 1 - rate.

    whole_rows=True is stochastic depth: an example's whole branch. Only where `active`, and only where the caller of
    `apply` gives a key, rngs={"dropout": key}: without one nothing is dropped.
    """
    if not (active and rate and module.has_rng("dropout")):
        return x
    shape = (x.shape[0],) + (1,) * (x.ndim - 1) if whole_rows else x.shape
    keep = jax.random.bernoulli(module.make_rng("dropout"), 1 - rate, shape)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)
