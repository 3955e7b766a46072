"""Losses: pure, unreduced, (B, K) logits in and (B,) float32 out. The caller masks and averages.

Logits of any float dtype are widened to float32 first.
"""

import jax
import jax.numpy as jnp

from agejax.labels import LabelGrid, at_least_float32, expectation, require_one_per_example


def kl_divergence(logits_BxK, target_BxK) -> jax.Array:
    """KL(p ‖ p̂) = Σ_k p_k (ln p_k - ln p̂_k) with p̂ = softmax(logits); terms with p_k = 0 count 0.

    Args:
      logits_BxK: (B, K).
      target_BxK: (B, K) p, 0 or more. It need not sum to 1: the gradient for the logits is p̂ Σp - p.

    Returns:
      (B,) nats.

    Reference: DLDL-v2 (Gao et al., IJCAI 2018), Eqs. 8 and 9. The authors' code divides the sum over the
    batch by B·K instead of B (the objective's kl_reduction="mean_elements"), and takes ln(softmax) unclamped.
    """
    _require_logits(logits_BxK)
    if jnp.shape(target_BxK) != jnp.shape(logits_BxK):
        raise ValueError(f"target has shape {jnp.shape(target_BxK)}, the logits {jnp.shape(logits_BxK)}")
    log_q_BxK = jax.nn.log_softmax(at_least_float32(logits_BxK))
    p_BxK = at_least_float32(target_BxK)
    absent_BxK = p_BxK == 0  # not ~(p > 0), which would take a NaN for a 0
    log_p_BxK = jnp.log(jnp.where(absent_BxK, 1.0, p_BxK))
    return jnp.sum(jnp.where(absent_BxK, 0.0, p_BxK * (log_p_BxK - log_q_BxK)), axis=1)


def absolute_error(logits_BxK, label_B, grid: LabelGrid) -> jax.Array:
    """|ŷ - y| with ŷ = Σ_k p̂_k l_k and p̂ = softmax(logits).

    The gradient for the logits is sign(ŷ - y) p̂ ∘ (l - ŷ), with sign(0) = 0 as in Eq. 16.

    Args:
      logits_BxK: (B, K).
      label_B: (B,) y in the grid's units.
      grid: the K labels l.

    Returns:
      (B,) in the grid's units.

    Reference: DLDL-v2, Eqs. 10 and 11. Torch's AbsCriterion, which the authors used, has +1 for sign(0).
    """
    _require_logits(logits_BxK)
    require_one_per_example(jnp.shape(logits_BxK)[0], label=label_B)
    p_BxK = jax.nn.softmax(at_least_float32(logits_BxK))
    difference_B = expectation(p_BxK, grid) - at_least_float32(label_B)
    # not jnp.abs, whose gradient at 0 is 1
    return difference_B * jax.lax.stop_gradient(jnp.sign(difference_B))


def cross_entropy(logits_BxK, class_B) -> jax.Array:
    """Softmax cross-entropy -ln softmax(logits)_c: identity softmax, and DEX with the nearest label as class.

    Args:
      logits_BxK: (B, K).
      class_B: (B,) integers 0 … K-1. Any other, -1 included, gives NaN: a row without a class must be masked.

    Returns:
      (B,) nats.

    Reference: DLDL-v2 journal, §4.5.4, for DEX. The authors' code passes probabilities where
    log-probabilities are expected, so that its DEX minimises -p̂_c; this is the paper's cross-entropy.
    """
    _require_logits(logits_BxK)
    batch_size, size = jnp.shape(logits_BxK)
    require_one_per_example(batch_size, **{"class": class_B})
    class_B = jnp.asarray(class_B)
    class_B = jnp.where(class_B < 0, size, class_B)  # -1 would be read as the last class
    log_q_BxK = jax.nn.log_softmax(at_least_float32(logits_BxK))
    return -jnp.take_along_axis(log_q_BxK, class_B[:, None], axis=1, mode="fill")[:, 0]


def ranking_cross_entropy(logits_BxJ, target_BxJ) -> jax.Array:
    """Σ_j binary cross-entropy of sigmoid(logits) against the J = K - 1 answers of labels.encode_ranking, in nats.

    Reference: DLDL-v2 journal, §4.5.4 (Ranking). The paper leaves the reduction open; the authors' code takes the mean
    over j as well.
    """
    _require_logits(logits_BxJ)
    logits_BxJ, target_BxJ = at_least_float32(logits_BxJ), at_least_float32(target_BxJ)
    # -ln sigmoid(x) = softplus(-x), and -ln(1 - sigmoid(x)) = softplus(x)
    either_BxJ = target_BxJ * jax.nn.softplus(-logits_BxJ) + (1 - target_BxJ) * jax.nn.softplus(logits_BxJ)
    return jnp.sum(either_BxJ, axis=1)


def _require_logits(logits_BxK) -> None:
    if jnp.ndim(logits_BxK) != 2:
        raise ValueError(f"logits have shape {jnp.shape(logits_BxK)}, expected (B, K)")
