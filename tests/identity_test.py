"""Additive margin softmax. Goldens: numpy float64 from -ln softmax(s (cos - m onehot)), to the digits printed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agejax.objectives import AMSoftmax, Identity
from data_pipelines.errors import UserError

PRINTED = {"rtol": 1e-9, "atol": 0}
COSINES = [[0.7, 0.2, -0.1], [0.4, 0.35, 0.1]]


def rows(identity, mask=None):
    return {"identity": jnp.array(identity), "mask": jnp.ones(len(identity)) if mask is None else jnp.array(mask)}


def loss(objective, outputs, identity):
    return jax.jit(objective.loss)(jnp.array(outputs), rows(identity))[0]


@pytest.mark.parametrize(
    "scale, margin, example, expected",
    [
        (30.0, 0.35, 0, 0.01104910074),
        (30.0, 0.35, 1, 9.000676265),
        (64.0, 0.35, 0, 6.772644331e-05),
        (64.0, 0.35, 1, 19.20000012),
        (30.0, 0.0, 0, 3.059400252e-07),
        (1.0, 0.35, 0, 0.9156249615),
    ],
)
def test_goldens(x64, scale, margin, example, expected):
    loss_B = loss(AMSoftmax(3, scale=scale, margin=margin), COSINES, [0, 0])
    np.testing.assert_allclose(loss_B[example], expected, **PRINTED)


def test_goldens_are_of_the_published_defaults(x64):
    assert (AMSoftmax().scale, AMSoftmax().margin) == (30.0, 0.35)
    np.testing.assert_allclose(loss(AMSoftmax(3), COSINES, [0, 0]), [0.01104910074, 9.000676265], **PRINTED)


def test_margin_is_taken_off_the_own_identity_alone(x64):
    """Logits 10.5, 6, -3 of the first golden, and what moves when another identity is the own one."""
    for own in range(3):
        logits_K = 30 * (np.array(COSINES[0]) - 0.35 * (np.arange(3) == own))
        expected = np.log(np.exp(logits_K - logits_K[own]).sum())
        np.testing.assert_allclose(loss(AMSoftmax(3), COSINES[:1], [own]), [expected], **PRINTED)
    np.testing.assert_allclose(30 * (0.7 - 0.35), 10.5)


def test_gradient_is_that_of_the_scaled_softmax(x64):
    gradient = jax.jit(jax.grad(lambda x: AMSoftmax(3).loss(x, rows([0, 0]))[0].sum()))(jnp.array(COSINES))
    logits_BxK = 30 * (np.array(COSINES) - 0.35 * np.array([[1, 0, 0]]))
    p_BxK = np.exp(logits_BxK) / np.exp(logits_BxK).sum(1, keepdims=True)
    np.testing.assert_allclose(gradient, 30 * (p_BxK - np.array([[1, 0, 0]])), rtol=1e-9, atol=1e-12)


def test_without_margin_and_at_scale_one_it_is_identity():
    plain_B = loss(Identity(3), COSINES, [0, 2])
    np.testing.assert_array_equal(loss(AMSoftmax(3, scale=1.0, margin=0.0), COSINES, [0, 2]), plain_B)


def test_accuracy_and_prediction_are_without_the_margin():
    """0.4 - 0.35 is below 0.35, yet the face of cosine 0.4 is the likeliest."""
    _, metrics = AMSoftmax(3).loss(jnp.array(COSINES), rows([0, 0]))
    np.testing.assert_array_equal(metrics["accuracy"], [1, 1])
    _, metrics = AMSoftmax(3).loss(jnp.array(COSINES), rows([1, 2]))
    np.testing.assert_array_equal(metrics["accuracy"], [0, 0])
    value_B, entropy_B = AMSoftmax(3, scale=10.0).predict(jnp.array(COSINES))
    p_BxK = np.exp(10 * np.array(COSINES)) / np.exp(10 * np.array(COSINES)).sum(1, keepdims=True)
    np.testing.assert_array_equal(value_B, [0, 0])
    np.testing.assert_allclose(entropy_B, -(p_BxK * np.log(p_BxK)).sum(1), rtol=1e-5)


def test_outputs_of_the_head_are_cosines():
    features_BxC = jax.random.normal(jax.random.key(0), (4, 6)) * jnp.array([[1e-3], [1], [10], [1e3]])
    head = AMSoftmax(5).head
    variables = head.init(jax.random.key(1), features_BxC)
    kernel_CxK = variables["params"]["kernel"]
    assert jax.tree.map(jnp.shape, variables["params"]) == {"kernel": (6, 5)}
    unit_BxC = features_BxC / np.linalg.norm(features_BxC, axis=1, keepdims=True)
    expected = unit_BxC @ (kernel_CxK / np.linalg.norm(kernel_CxK, axis=0, keepdims=True))
    np.testing.assert_allclose(head.apply(variables, features_BxC), expected, atol=1e-6)
    np.testing.assert_allclose(head.apply(variables, 50 * kernel_CxK.T).diagonal(), 1, rtol=1e-6)


def test_bfloat16_cosines_are_widened_before_they_are_scaled():
    """Not under jit, which may leave a rounding out. 30 · 0.69921875 is 20.977, and 21 in bfloat16."""
    cosines = jnp.array(COSINES, jnp.bfloat16)
    assert AMSoftmax(3).scores(cosines)[0, 0] == 30 * np.float32(cosines[0, 0]) != 21
    narrow_B, _ = AMSoftmax(3).loss(cosines, rows([0, 1]))
    np.testing.assert_array_equal(narrow_B, AMSoftmax(3).loss(jnp.float32(cosines), rows([0, 1]))[0])


@pytest.mark.parametrize("objective", [Identity(3), AMSoftmax(3)])
def test_padding_and_unknown_identities(objective):
    """A padded row counts 0 whatever stands in it; a row that should have an identity and has none has loss NaN."""
    outputs = jnp.array([COSINES[0], [np.nan] * 3, [np.inf] * 3, COSINES[1], COSINES[1]])
    batch = rows([0, -1, 7, -1, 3], [1.0, 0.0, 0.0, 1.0, 1.0])
    (_, (loss_B, metrics)), gradient = jax.jit(
        jax.value_and_grad(lambda x: ((found := objective.loss(x, batch))[0][:3].sum(), found), has_aux=True)
    )(outputs)
    np.testing.assert_array_equal(loss_B[1:], [0, 0, np.nan, np.nan])
    assert np.isfinite(loss_B[0])
    np.testing.assert_array_equal(metrics["accuracy"], [1, 0, 0, 0, 0])
    np.testing.assert_array_equal(gradient[1:3], 0)
    assert np.isfinite(gradient[0]).all()
    assert (gradient[0] != 0).all()


def test_number_of_identities_is_wanted():
    assert AMSoftmax().wants == ("num_identities",)
    assert isinstance(AMSoftmax(), Identity)  # whoever fills it in asks for this
    assert dataclasses.replace(AMSoftmax(margin=0.4), num_identities=7).head_size == 7
    with pytest.raises(UserError, match="num_identities is 0"):
        _ = AMSoftmax().head
