"""Heads: float32 features (B, C) → float32 outputs (B, K). An objective says which it needs."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from agejax.models.layers import torch_linear


def linear(size: int) -> nn.Module:
    """A dense layer with bias, initialised as torch does its weight; the bias starts at 0."""
    return nn.Dense(size, kernel_init=torch_linear)


class Cosine(nn.Module):
    """Cosine of the angle between the features and each of K weight vectors, in [-1, 1]; no bias."""

    size: int

    @nn.compact
    def __call__(self, features_BxC: jax.Array) -> jax.Array:
        kernel_CxK = self.param("kernel", torch_linear, (features_BxC.shape[-1], self.size))
        return _unit(features_BxC, 1) @ _unit(kernel_CxK, 0)


class SharedWeight(nn.Module):
    """One weight vector for all K outputs, and a bias of its own for each: CORAL (Cao et al. 2020)."""

    size: int

    @nn.compact
    def __call__(self, features_BxC: jax.Array) -> jax.Array:
        kernel_Cx1 = self.param("kernel", torch_linear, (features_BxC.shape[-1], 1))
        bias_K = self.param("bias", nn.initializers.zeros, (self.size,))
        return features_BxC @ kernel_Cx1 + bias_K[None, :]


def _unit(x: jax.Array, axis: int) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis, keepdims=True), 1e-12))
