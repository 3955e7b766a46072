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

    Padding is symmetric, kernel // 2 on every side as torch has it, or "SAME" as TensorFlow has it. Batch
    normalisation keeps the biased running variance (torch keeps the unbiased one).
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
            norm = nn.BatchNorm(stored, momentum=0.9, epsilon=self.epsilon, dtype=self.compute.dtype, name="norm")
            x = norm(x)
        return x if self.activation is None else self.activation(x)


def max_pool(x_BxHxWxC: jax.Array) -> jax.Array:
    """2×2 max-pooling with stride 2; an odd last row or column is dropped.

    Written as selects: their gradient is a select again, where that of `reduce_window` is a select-and-scatter, slower
    than the convolutions around it on CPU. Of equal maxima the first, row by row, has the gradient, as in torch.
    """
    B, H, W, C = x_BxHxWxC.shape
    x = x_BxHxWxC[:, : H // 2 * 2, : W // 2 * 2].reshape(B, H // 2, 2, W // 2, 2, C)
    x = _larger(x[:, :, :, :, 0], x[:, :, :, :, 1])
    return _larger(x[:, :, 0], x[:, :, 1])


def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    """a where they are equal; NaN where either is.

    Not `.max(axis)`: its gradient divides by the number of elements that equal the maximum, and where XLA computes the
    input twice, rounded differently, that number may be 0.
    """
    return jnp.where((a >= b) | jnp.isnan(a), a, b)


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
