"""Batch normalisation whose gradient reads its input twice and keeps nothing else of its size."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

MOMENTUM = 0.9  # share of a running statistic that stays in a step


class BatchNorm(nn.Module):
    """γ · (x - μ) / √(σ² + ε) + β per channel, in the dtype of x; parameters, statistics and sums are float32.

    Ioffe & Szegedy (ICML 2015). σ² is the biased variance, in the running statistics too (torch keeps the unbiased
    one there). Equal to flax's nn.BatchNorm and with its names; its gradient, as XLA differentiates it, sums three
    times over the map on a GPU, and writes the gradient behind the activation down for that. Written out it needs two
    sums in one pass, and XLA computes what leads to them twice instead.
    """

    stored: bool
    """Use the running statistics and leave them as they are."""
    epsilon: float

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array) -> jax.Array:
        shape = x_BxHxWxC.shape[-1:]
        scale_C = self.param("scale", nn.initializers.ones, shape)
        bias_C = self.param("bias", nn.initializers.zeros, shape)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        var = self.variable("batch_stats", "var", jnp.ones, shape)
        if self.stored:
            return _normalised(x_BxHxWxC, mean.value, var.value, scale_C, bias_C, self.epsilon)
        y, mean_C, var_C = normalise(x_BxHxWxC, scale_C, bias_C, self.epsilon)
        if not self.is_initializing():
            mean.value = MOMENTUM * mean.value + (1 - MOMENTUM) * mean_C
            var.value = MOMENTUM * var.value + (1 - MOMENTUM) * var_C
        return y


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalise(
    x_BxHxWxC: jax.Array, scale_C: jax.Array, bias_C: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(x normalised by its own statistics, mean (C,), biased variance (C,)); gradients pass through the first only."""
    x = x_BxHxWxC.astype(jnp.float32)
    mean_C = x.mean((0, 1, 2))
    var_C = jnp.maximum((x * x).mean((0, 1, 2)) - mean_C * mean_C, 0)  # one pass: x is read once
    return _normalised(x_BxHxWxC, mean_C, var_C, scale_C, bias_C, epsilon), mean_C, var_C


def _forward(x_BxHxWxC, scale_C, bias_C, epsilon):
    y, mean_C, var_C = normalise(x_BxHxWxC, scale_C, bias_C, epsilon)
    return (y, mean_C, var_C), (x_BxHxWxC, mean_C, var_C, scale_C)


def _backward(epsilon, saved, gradients):
    x_BxHxWxC, mean_C, var_C, scale_C = saved
    dy, inverse_C = gradients[0].astype(jnp.float32), jax.lax.rsqrt(var_C + epsilon)
    centred, count = x_BxHxWxC.astype(jnp.float32) - _wide(mean_C), x_BxHxWxC.size // x_BxHxWxC.shape[-1]
    dbias_C = dy.sum((0, 1, 2))
    dscale_C = (dy * centred).sum((0, 1, 2)) * inverse_C
    dx = dy - _wide(dbias_C / count) - centred * _wide(inverse_C * dscale_C / count)
    return (_wide(scale_C * inverse_C) * dx).astype(x_BxHxWxC.dtype), dscale_C, dbias_C


normalise.defvjp(_forward, _backward)


def _normalised(x_BxHxWxC, mean_C, var_C, scale_C, bias_C, epsilon):
    factor_C = jax.lax.rsqrt(var_C + epsilon) * scale_C
    y = (x_BxHxWxC - _wide(mean_C)) * _wide(factor_C) + _wide(bias_C)
    return y.astype(x_BxHxWxC.dtype)


def _wide(value_C: jax.Array) -> jax.Array:
    return value_C[None, None, None, :]
