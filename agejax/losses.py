"""Losses: pure, unreduced, (B, K) logits in and (B,) float32 out. The caller masks and averages.

Logits of any float dtype are widened to float32 first.
"""

import jax
import jax.numpy as jnp

from agejax.labels import LabelGrid, at_least_float32, expectation, require_one_per_example, variance


def absolute(difference) -> jax.Array:
    """|d|, with gradient sign(d) and so 0 at 0, where jnp.abs has 1."""
    return difference * jax.lax.stop_gradient(jnp.sign(difference))


def smooth_absolute(difference) -> jax.Array:
    """½ d² where |d| < 1, |d| - ½ elsewhere: torch's SmoothL1Criterion; the bend stands at 1 in the unit of d."""
    size = jnp.abs(difference)
    return jnp.where(size < 1, 0.5 * jnp.square(difference), size - 0.5)


DISTANCES = {"l1": absolute, "l2": jnp.square, "smooth_l1": smooth_absolute}
"""Of a difference: |d|, d² (without ½, as torch's MSECriterion), and what lies between."""


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


def expectation_error(logits_BxK, label_B, grid: LabelGrid) -> jax.Array:
    """ŷ - y with ŷ = Σ_k p̂_k l_k and p̂ = softmax(logits); its gradient for the logits is p̂ ∘ (l - ŷ).

    Args:
      logits_BxK: (B, K).
      label_B: (B,) y in the grid's units.
      grid: the K labels l.

    Returns:
      (B,) in the grid's units, signed.

    Reference: DLDL-v2, Eq. 10.
    """
    _require_logits(logits_BxK)
    require_one_per_example(jnp.shape(logits_BxK)[0], label=label_B)
    p_BxK = jax.nn.softmax(at_least_float32(logits_BxK))
    return expectation(p_BxK, grid) - at_least_float32(label_B)


def absolute_error(logits_BxK, label_B, grid: LabelGrid) -> jax.Array:
    """|ŷ - y| of `expectation_error`, (B,) in the grid's units.

    The gradient for the logits is sign(ŷ - y) p̂ ∘ (l - ŷ), with sign(0) = 0 as in Eq. 16.

    Reference: DLDL-v2, Eqs. 10 and 11. Torch's AbsCriterion, which the authors used, has +1 for sign(0).
    """
    return absolute(expectation_error(logits_BxK, label_B, grid))


def cross_entropy(logits_BxK, class_B) -> jax.Array:
    """Softmax cross-entropy -ln softmax(logits)_c: identity softmax, and DEX with the nearest label as class.

    Args:
      logits_BxK: (B, K).
      class_B: (B,) integers 0 … K-1. Any other, -1 included, gives NaN: a row without a class must be masked.

    Returns:
      (B,) nats.

    Reference: DLDL-v2 journal, §4.5.4, for DEX.
    """
    _require_logits(logits_BxK)
    return -_at_class(jax.nn.log_softmax(at_least_float32(logits_BxK)), class_B)


def negative_probability(logits_BxK, class_B) -> jax.Array:
    """-softmax(logits)_c, (B,) in [-1, 0]; arguments as those of `cross_entropy`.

    What the authors' code of DLDL-v2 minimises as DEX: it passes probabilities to a criterion (ClassNLLCriterion)
    that expects their logarithms. The gradient for the logits is p̂_c times that of the cross-entropy.
    """
    _require_logits(logits_BxK)
    return -_at_class(jax.nn.softmax(at_least_float32(logits_BxK)), class_B)


def _at_class(value_BxK, class_B) -> jax.Array:
    batch_size, size = value_BxK.shape
    require_one_per_example(batch_size, **{"class": class_B})
    class_B = jnp.asarray(class_B)
    class_B = jnp.where(class_B < 0, size, class_B)  # -1 would be read as the last class
    return jnp.take_along_axis(value_BxK, class_B[:, None], axis=1, mode="fill")[:, 0]


def predicted_variance(logits_BxK, grid: LabelGrid) -> jax.Array:
    """v = Σ_k p̂_k (l_k - ŷ)² of p̂ = softmax(logits), (B,) in the square of the grid's units: Pan et al., CVPR 2018."""
    _require_logits(logits_BxK)
    return variance(jax.nn.softmax(at_least_float32(logits_BxK)), grid)


def unimodality(logits_BxK, label_B, grid: LabelGrid, margin: float = 0.0) -> jax.Array:
    """Σ_k max(0, margin - s_k (p̂_k - p̂_k+1)): what the K-1 steps of p̂ = softmax(logits) do in the wrong direction.

    s_k = +1 for a step beyond y, where p̂ must fall, and -1 for one before it, where p̂ must rise.

    Args:
      logits_BxK: (B, K).
      label_B: (B,) y in the grid's units. Off the grid a step counts as beyond y when its middle is, so that the
        peak is asked for at the nearest label; between two equally near ones the step is free.
      grid: the K labels l.
      margin: by how much a step must go the right way, 0 or more, in probability.

    Returns:
      (B,), a sum of probabilities.

    Reference: unimodal loss of Li et al., CVPR 2022 (Unimodal-Concentrated Loss), where labels are on the grid, s is
    sign(k - y) with +1 for the step that starts at y, and the margin is 0.
    """
    _require_logits(logits_BxK)
    require_one_per_example(jnp.shape(logits_BxK)[0], label=label_B)
    p_BxK, label_B = jax.nn.softmax(at_least_float32(logits_BxK)), at_least_float32(label_B)
    l_K = grid.as_array(label_B.dtype)
    side_BxJ = jnp.sign((l_K[:-1] + l_K[1:])[None, :] / 2 - label_B[:, None])
    wrong_BxJ = jax.nn.relu(margin - side_BxJ * (p_BxK[:, :-1] - p_BxK[:, 1:]))
    return jnp.sum(jnp.where(side_BxJ == 0, 0, wrong_BxJ), axis=1)


def concentration(logits_BxK, label_B, grid: LabelGrid, smallest_variance: float = 1e-10) -> jax.Array:
    """½ ln v + (ŷ - y)² / 2v with ŷ and v the mean and the variance of p̂ = softmax(logits), plus smallest_variance.

    The negative log-likelihood of y under a Gaussian (ŷ, v), without its constant: least at v = (ŷ - y)².

    Args:
      logits_BxK: (B, K).
      label_B: (B,) y in the grid's units.
      grid: the K labels l.
      smallest_variance: what is added to v, in the square of the grid's units.

    Returns:
      (B,) nats; it may be negative.

    Reference: concentrated loss of Li et al., CVPR 2022, which adds nothing to v: a one-hot p̂ then has ln 0.
    """
    difference_B = expectation_error(logits_BxK, label_B, grid)
    v_B = predicted_variance(logits_BxK, grid) + smallest_variance
    return 0.5 * (jnp.log(v_B) + jnp.square(difference_B) / v_B)


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
