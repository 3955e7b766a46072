"""Goldens: computed in numpy float64 from LAE's equations on ages 0 … 10, with y = 4, σ = 1 and the outputs below."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agejax.labels import LabelGrid, expectation
from agejax.objectives import JointLabelDistribution, LAEClassification, LAERepresentation
from data_pipelines.errors import UserError

ELEVEN = LabelGrid(0, 10, 1)
OUTPUTS = -0.5 * ((np.arange(11.0) - 5) / 1.5) ** 2
GRADIENT = [
    0.0081960483, 0.0463278493, 0.1353730146, 0.1779739633, 0.1165305274, 0.0240406404, -0.1434533727, -0.2056555237,
    -0.1174963476, -0.0355636748, -0.0062731246,
]  # fmt: skip


def batch(*labels, sigma=np.nan, mask=None):
    label_B = jnp.array(labels)
    mask_B = jnp.ones_like(label_B) if mask is None else jnp.array(mask)
    return {"label": label_B, "sigma": jnp.full_like(label_B, sigma), "mask": mask_B}


def with_errors(*errors):
    """Outputs and labels whose absolute errors are the given ones."""
    outputs = jnp.array(np.random.default_rng(0).normal(0, 1, (len(errors), 11)))
    return outputs, expectation(jax.nn.softmax(outputs), ELEVEN) - jnp.array(errors)


def slope_and_loss(objective, outputs, rows):
    """Gradient of the sum of losses (B, K), and the losses (B,)."""

    def total(x):
        loss_B, _ = objective.loss(x, rows)
        return loss_B.sum(), loss_B

    return jax.jit(jax.grad(total, has_aux=True))(jnp.array(outputs))


@pytest.mark.parametrize("normalise, kl", [(True, 0.3497290009), (False, 0.3497269932)])
def test_representation_goldens(x64, normalise, kl):
    objective = LAERepresentation(grid=ELEVEN, normalise=normalise)
    loss_B, metrics = objective.loss(jnp.array([OUTPUTS]), batch(4.0))
    np.testing.assert_allclose(metrics["kl"], [kl], rtol=1e-9)
    np.testing.assert_allclose(metrics["absolute_error"], [1], rtol=1e-9)
    np.testing.assert_allclose(loss_B, [kl + 1], rtol=1e-9)
    half_B, _ = LAERepresentation(grid=ELEVEN, normalise=normalise, lambda_=0.5).loss(jnp.array([OUTPUTS]), batch(4.0))
    np.testing.assert_allclose(half_B, [kl + 0.5], rtol=1e-9)


@pytest.mark.parametrize("mae, expected", [(1.71, 0.8538290009), (1.0, 0.3497290009), (0.5, 0.5997290009)])
def test_classification_goldens(x64, mae, expected):
    loss_B, metrics = LAEClassification(grid=ELEVEN, mae=mae).loss(jnp.array([OUTPUTS]), batch(4.0))
    np.testing.assert_allclose(loss_B, [expected], rtol=1e-9)
    np.testing.assert_allclose(metrics["kl"], [0.3497290009], rtol=1e-9)
    np.testing.assert_allclose(metrics["absolute_error"], [1], rtol=1e-9)


@pytest.mark.parametrize("reduction", ["example", "batch"])
def test_classification_gradient_golden(x64, reduction):
    objective = LAEClassification(grid=ELEVEN, mae=1.71, reduction=reduction)
    actual, _ = slope_and_loss(objective, [OUTPUTS], batch(4.0))
    np.testing.assert_allclose(actual[0], GRADIENT, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("reduction, expected", [("example", 1.038766667), ("batch", 0.1965444444)])
def test_square_is_of_each_error_or_of_their_mean(x64, reduction, expected):
    outputs, label_B = with_errors(1.0, 2.5, 0.3)
    loss_B, metrics = LAEClassification(grid=ELEVEN, mae=1.71, reduction=reduction).loss(outputs, batch(*label_B))
    squares_B = loss_B - metrics["kl"]
    np.testing.assert_allclose(squares_B.mean(), expected, rtol=1e-9)
    np.testing.assert_allclose(metrics["absolute_error"], [1.0, 2.5, 0.3], rtol=1e-9)
    assert squares_B.shape == (3,)


def test_mean_error_of_a_batch_is_that_of_its_examples(x64):
    outputs, label_B = with_errors(1.0, 2.5, 0.3)
    objective = LAEClassification(grid=ELEVEN, mae=1.71, reduction="batch")
    alone_slope, alone_B = slope_and_loss(objective, outputs, batch(*label_B))
    padded_outputs = np.concatenate([outputs, np.full((2, 11), np.nan)])
    slope, padded_B = slope_and_loss(objective, padded_outputs, batch(*label_B, np.nan, 1e30, mask=[1, 1, 1, 0, 0]))
    np.testing.assert_allclose(padded_B, [*alone_B, 0, 0], rtol=1e-12)
    np.testing.assert_allclose(slope, [*alone_slope, np.zeros(11), np.zeros(11)], rtol=1e-10, atol=1e-14)


def test_batch_of_padding_alone_has_no_loss():
    objective = LAEClassification(grid=ELEVEN, mae=1.71, reduction="batch")
    slope, loss_B = slope_and_loss(objective, np.zeros((2, 11)), batch(np.nan, 4.0, mask=[0.0, 0.0]))
    np.testing.assert_array_equal(loss_B, [0, 0])
    np.testing.assert_array_equal(slope, np.zeros((2, 11)))


def test_small_errors_are_drawn_up_to_the_mae(x64):
    """The sign of the gradient's pull on the expectation turns where the error passes the mae."""
    outputs, label_B = with_errors(0.5, 3.0)
    with_square, _ = slope_and_loss(LAEClassification(grid=ELEVEN, mae=1.71), outputs, batch(*label_B))
    without, _ = slope_and_loss(LAERepresentation(grid=ELEVEN, lambda_=0.0), outputs, batch(*label_B))
    slope = with_square - without
    pull_B = -(slope * jnp.arange(11.0)[None, :]).sum(1)  # of a small step down the slope, on the expectation
    assert pull_B[0] > 0 and pull_B[1] < 0  # predictions lie above their labels


def test_representation_is_the_joint_loss_with_one_sigma_for_all():
    outputs, label_B = with_errors(1.0, 2.5, 0.3)
    lae_B, _ = LAERepresentation(grid=ELEVEN, sigma=0.8).loss(outputs, batch(*label_B, sigma=3.0))
    joint_B, _ = JointLabelDistribution(grid=ELEVEN).loss(outputs, batch(*label_B, sigma=0.8))
    np.testing.assert_allclose(lae_B, joint_B, rtol=1e-6)


@pytest.mark.parametrize("mae", [0.0, -1.0, np.nan])
def test_classification_without_an_mae_is_refused(mae):
    with pytest.raises(UserError, match="mae is") as error:
        LAEClassification(grid=ELEVEN, mae=mae).loss(jnp.array([OUTPUTS]), batch(4.0))
    assert "\n" not in str(error.value)


def test_classification_wants_its_mae_and_predicts_without():
    assert LAEClassification().wants == ("mae",) and LAEClassification().mae == 0
    value_B, _ = LAEClassification(grid=ELEVEN).predict(jnp.array([OUTPUTS]))
    np.testing.assert_allclose(value_B, [5], rtol=1e-6)
