"""Goldens: computed in numpy float64 from the equations of DLDL-v2 (Gao et al.), the gradients also by finite
differences. Compared in float64 (fixture x64) to the digits they were printed with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agejax import losses
from agejax.labels import AGE, LabelGrid, encode_distribution, encode_ranking, expectation

PRINTED = {"rtol": 1e-9, "atol": 1e-10}
FIVE = LabelGrid(0, 4, 1)
LOGITS = [[0.1, -0.2, 0.3, 0, 0.5], [1, 0, -1, 2, 0.5]]
LABELS = [2.4, 3.0]
P = [0.0227462424, 0.1520789756, 0.3740539215, 0.3384579845, 0.1126628761]
P_HAT = [
    [0.1866060488, 0.1382411610, 0.2279211426, 0.1688481353, 0.2783835123],
    [0.2071239361, 0.0761966379, 0.0280311766, 0.5630212318, 0.1256270176],
]
KL_GRADIENT_UNNORMALISED = [0.1613261362, -0.0136238484, -0.1438732115, -0.1669872694, 0.1631581931]


def gaussian(label, sigma, grid=AGE):
    return encode_distribution(grid, jnp.array([label]), jnp.array([sigma]))


def kl(p, q):
    return losses.kl_divergence(jnp.log(q), p)[0]


def test_kl_goldens(x64):
    p, q, uniform = gaussian(50.3, 2.0), gaussian(48.0, 3.0), jnp.full((1, 101), 1 / 101)
    np.testing.assert_allclose(kl(p, q), 0.4215762192, rtol=2e-10)
    np.testing.assert_allclose(kl(q, p), 0.8807848919, rtol=2e-10)
    np.testing.assert_allclose(kl(p, uniform), 2.503034803, rtol=2e-10)
    entropy = -jnp.sum(jax.scipy.special.xlogy(p, p))
    np.testing.assert_allclose(kl(p, q) + entropy, 2.533661933, rtol=2e-10)  # the cross-entropy
    np.testing.assert_allclose(kl(p, q) / 101, 0.004174021972, rtol=2e-10)
    np.testing.assert_allclose(kl(p, uniform) / 101, 0.0247825228, rtol=2e-9)


def test_expectation_error_golden(x64):
    error_B = losses.absolute_error(jnp.log(gaussian(48.0, 3.0)), jnp.array([50.3]), AGE)
    np.testing.assert_allclose(error_B, [2.3], rtol=1e-9)


def test_joint_terms_goldens(x64):
    logits_BxK, label_B = jnp.array(LOGITS), jnp.array(LABELS)
    p_BxK = encode_distribution(FIVE, label_B, jnp.ones(2))
    np.testing.assert_allclose(p_BxK[0], P, **PRINTED)
    np.testing.assert_allclose(jax.nn.softmax(logits_BxK), P_HAT, **PRINTED)
    y_hat_B = expectation(jax.nn.softmax(logits_BxK), FIVE)
    np.testing.assert_allclose(y_hat_B, [2.214161901, 2.323830757], rtol=1e-9)
    kl_B = losses.kl_divergence(logits_BxK, p_BxK)
    np.testing.assert_allclose(kl_B, [0.2853920085, 0.5992114652], **PRINTED)
    error_B = losses.absolute_error(logits_BxK, label_B, FIVE)
    np.testing.assert_allclose(error_B, [0.1858380986, 0.6761692431], **PRINTED)


def test_kl_gradient_of_an_unnormalised_target_golden(x64):
    p_BxK = encode_distribution(FIVE, jnp.array([2.4]), jnp.ones(1), normalise=False)
    np.testing.assert_allclose(p_BxK.sum(), 0.9845375738, **PRINTED)
    gradient = jax.grad(lambda x: losses.kl_divergence(x, p_BxK)[0])(jnp.array(LOGITS[:1]))
    np.testing.assert_allclose(gradient[0], KL_GRADIENT_UNNORMALISED, **PRINTED)
    literal = jax.nn.softmax(jnp.array(LOGITS[:1])) - p_BxK  # Eq. 16 holds for Σp = 1 only
    np.testing.assert_allclose(
        literal[0], [0.1642115185, -0.0114863046, -0.1403489977, -0.1643764675, 0.1674626776], **PRINTED
    )


def test_gradient_of_an_exact_expectation_is_zero():
    grid, logits_BxK = LabelGrid(0, 3, 1), jnp.zeros((1, 4))  # ¼ (0 + 1 + 2 + 3) is 1.5 without rounding

    def error(x):
        return losses.absolute_error(x, jnp.array([1.5]), grid)[0]

    assert error(logits_BxK) == 0
    np.testing.assert_array_equal(jax.grad(error)(logits_BxK), np.zeros((1, 4)))


@pytest.mark.parametrize("label", [26.0, 26.3])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_sigma_zero_has_a_finite_loss_and_gradient(label, scale):
    target_BxK, logits_BxK = gaussian(label, 0.0), scale * jax.random.normal(jax.random.key(0), (1, 101))
    loss, gradient = jax.value_and_grad(lambda x: losses.kl_divergence(x, target_BxK)[0])(logits_BxK)
    np.testing.assert_allclose(loss, -jax.nn.log_softmax(logits_BxK)[0, 26], rtol=1e-6)
    assert jnp.isfinite(gradient).all()


def test_kl_has_a_finite_gradient_for_a_target_with_zeros():
    gradient = jax.grad(lambda p: losses.kl_divergence(jnp.zeros((1, 101)), p)[0])(gaussian(26.0, 0.0))
    assert jnp.isfinite(gradient).all()


def test_kl_is_zero_at_the_target_and_positive_elsewhere():
    target_BxK = gaussian(50.3, 8.0)
    logits_BxK = jax.random.normal(jax.random.key(0), (1, 101))
    np.testing.assert_allclose(kl(target_BxK, target_BxK), 0, atol=1e-6)
    assert losses.kl_divergence(logits_BxK, target_BxK)[0] > 0


def test_cross_entropy_goldens(x64):
    # 30 · (cos - margin at the target): additive-margin softmax computed in float64
    logits_BxK = jnp.array([[21.0, 6.0, -3.0], [10.5, 6.0, -3.0], [0.0, 0.0, 0.0]])
    loss_B = losses.cross_entropy(logits_BxK, jnp.array([0, 0, 2]))
    np.testing.assert_allclose(loss_B, [3.059400252e-07, 0.01104910074, np.log(3)], rtol=1e-9)


@pytest.mark.parametrize("wrong", [-1, 3, 100])
def test_cross_entropy_of_a_class_that_is_not_there_is_nan(wrong):
    loss_B = losses.cross_entropy(jnp.zeros((2, 3)), jnp.array([wrong, 1], jnp.int32))
    assert jnp.isnan(loss_B[0])
    assert jnp.isfinite(loss_B[1])


@pytest.mark.parametrize("wrong", [-1, 3, 100])
def test_probability_of_a_class_that_is_not_there_is_nan(wrong):
    loss_B = losses.negative_probability(jnp.zeros((2, 3)), jnp.array([wrong, 1], jnp.int32))
    np.testing.assert_allclose(loss_B, [np.nan, -1 / 3], rtol=1e-6)


@pytest.mark.parametrize(
    "name, values, slopes",
    [  # at d = -3, -1, -0.4, 0, 0.4, 1, 3; torch's SmoothL1Criterion and MSECriterion, Eq. 16's sign(0) = 0
        ("l1", [3, 1, 0.4, 0, 0.4, 1, 3], [-1, -1, -1, 0, 1, 1, 1]),
        ("l2", [9, 1, 0.16, 0, 0.16, 1, 9], [-6, -2, -0.8, 0, 0.8, 2, 6]),
        ("smooth_l1", [2.5, 0.5, 0.08, 0, 0.08, 0.5, 2.5], [-1, -1, -0.4, 0, 0.4, 1, 1]),
    ],
)
def test_distances(name, values, slopes):
    d_N = jnp.array([-3, -1, -0.4, 0, 0.4, 1, 3])
    np.testing.assert_allclose(losses.DISTANCES[name](d_N), values, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(jax.grad(losses.DISTANCES[name]))(d_N), slopes, rtol=1e-6)
    assert jnp.isnan(losses.DISTANCES[name](jnp.nan))


def test_expectation_error_keeps_its_sign(x64):
    difference_B = losses.expectation_error(jnp.array(LOGITS), jnp.array([2.4, 2.0]), FIVE)
    np.testing.assert_allclose(difference_B, [-0.1858380986, 0.323830757], rtol=1e-9)


def test_losses_of_bfloat16_logits_are_float32():
    narrow_BxK = jax.random.normal(jax.random.key(0), (3, 101)).astype(jnp.bfloat16)
    for loss, arguments in [
        (losses.kl_divergence, (jnp.full((3, 101), 1 / 101),)),
        (losses.absolute_error, (jnp.full(3, 30.0), AGE)),
        (losses.cross_entropy, (jnp.arange(3),)),
        (losses.negative_probability, (jnp.arange(3),)),
        (losses.expectation_error, (jnp.full(3, 30.0), AGE)),
        (losses.predicted_variance, (AGE,)),
        (losses.unimodality, (jnp.full(3, 30.0), AGE)),
        (losses.concentration, (jnp.full(3, 30.0), AGE)),
    ]:
        actual_B, expected_B = loss(narrow_BxK, *arguments), loss(narrow_BxK.astype(jnp.float32), *arguments)
        np.testing.assert_array_equal(actual_B, expected_B, strict=True)
        assert actual_B.dtype == jnp.float32


def test_columns_are_refused():
    logits_BxK = jnp.zeros((4, 101))
    for loss in (losses.absolute_error, losses.unimodality, losses.concentration):
        with pytest.raises(ValueError, match=r"label has shape \(4, 1\), expected \(4,\)"):
            loss(logits_BxK, jnp.ones((4, 1)), AGE)
    for loss in (losses.cross_entropy, losses.negative_probability):
        with pytest.raises(ValueError, match=r"class has shape \(4, 1\), expected \(4,\)"):
            loss(logits_BxK, jnp.ones((4, 1), jnp.int32))
    with pytest.raises(ValueError, match=r"target has shape \(4, 1\)"):
        losses.kl_divergence(logits_BxK, jnp.ones((4, 1)))
    for loss in (losses.absolute_error, losses.unimodality, losses.concentration):
        with pytest.raises(ValueError, match=r"expected \(B, K\)"):
            loss(jnp.zeros(101), jnp.ones(1), AGE)
    with pytest.raises(ValueError, match=r"expected \(B, K\)"):
        losses.predicted_variance(jnp.zeros(101), AGE)


def test_ranking_cross_entropy_golden(x64):
    """Numpy float64: outputs of a ranking head against y = 3.2 on l = 0 … 8."""
    probability = jnp.array([[0.99, 0.9, 0.8, 0.45, 0.6, 0.2, 0.1, 0.05]])
    target = encode_ranking(LabelGrid(0, 8, 1), jnp.array([3.2]))
    np.testing.assert_array_equal(target[0], [1, 1, 1, 1, 0, 0, 0, 0])
    logits = jnp.log(probability) - jnp.log1p(-probability)
    np.testing.assert_allclose(losses.ranking_cross_entropy(logits, target), [2.433150192], rtol=1e-9)
    np.testing.assert_allclose(losses.ranking_cross_entropy(logits, target) / 8, [0.304143774], rtol=1e-8)
