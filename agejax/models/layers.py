"""What the convolutional families share. Activations are NHWC; parameters, statistics and reductions float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from agejax.parameters import is_trainable

he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # N(0, sqrt(2 / (k·k·C_out)))
# torch's default for a linear layer, U(-1/sqrt(fan_in), 1/sqrt(fan_in))
torch_linear = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


def max_pool(x_BxHxWxC: jax.Array) -> jax.Array:
    """2×2 max-pooling with stride 2; an odd last row or column is dropped.

    Written as reshape and max: its gradient is a select, where that of `reduce_window` is a select-and-scatter, slower
    than the convolutions around it on CPU. Among equal maxima the gradient is shared evenly; a scatter gives it to one.
    """
    B, H, W, C = x_BxHxWxC.shape
    x = x_BxHxWxC[:, : H // 2 * 2, : W // 2 * 2]
    return x.reshape(B, H // 2, 2, W // 2, 2, C).max((2, 4))


class ConvBlock(nn.Module):
    """3×3 convolution without bias, batch normalisation, ReLU.

    Batch normalisation keeps the biased running variance (torch keeps the unbiased one). Where `trainable`, a regular
    expression over parameter paths, leaves the block's scale out, the block normalises by its stored statistics.
    """

    channels: int
    dtype: jnp.dtype
    trainable: str = ""

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array, train: bool) -> jax.Array:
        stored = not train or not is_trainable(self.trainable, "/".join((*self.path, "norm", "scale")))
        conv = nn.Conv(self.channels, (3, 3), use_bias=False, kernel_init=he_fan_out, dtype=self.dtype, name="conv")
        norm = nn.BatchNorm(stored, momentum=0.9, epsilon=1e-5, dtype=self.dtype, name="norm")
        return nn.relu(norm(conv(x_BxHxWxC)))
