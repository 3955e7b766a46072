"""Goldens: computed in numpy float64 from the equations of DLDL-v2 (Gao et al.), the gradients also by finite
differences. Compared in float64 (fixture x64) to the digits they were printed with."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agejax.labels import AGE, SCUT, LabelGrid, encode_distribution
from agejax.objectives import (
    OBJECTIVES,
    ExpectationRegression,
    Identity,
    JointLabelDistribution,
    LabelDistribution,
)
from data_pipelines.errors import UserError

PRINTED = {"rtol": 1e-9, "atol": 1e-10}
FIVE = LabelGrid(0, 4, 1)
LOGITS = [[0.1, -0.2, 0.3, 0, 0.5], [1, 0, -1, 2, 0.5]]
BATCH = {"label": [2.4, 3.0], "sigma": [1.0, 1.0], "identity": [0, 3], "mask": [1.0, 1.0]}

# rows of (λ, reduction, example): gradient for the logits
GRADIENTS = {
    (1.0, "batch_mean", 0): [0.5770358101, 0.1540093363, -0.0973207536, -0.3022971468, -0.3314272461],
    (0.1, "batch_mean", 0): [0.2051774067, 0.0029469005, -0.1412515763, -0.1828785789, 0.1160058480],
    (1.0, "mean_elements", 0): [0.4459479650, 0.1650795880, 0.0195854695, -0.1666092675, -0.4640037550],
    (1.0, "batch_mean", 1): [0.6837367211, 0.1197106157, -0.2199498348, -0.2414940082, -0.3420034939],
}


def batch(rows=slice(None), **changes):
    return {name: jnp.array(value)[rows] for name, value in (BATCH | changes).items()}


def make(name):
    """An objective with five classes or labels."""
    return Identity(5) if name == "Identity" else OBJECTIVES[name](grid=FIVE)


def gradient(objective, logits, rows):
    return jax.grad(lambda x: jnp.sum(objective.loss(x, rows)[0]))(jnp.array(logits))


def test_joint_loss_goldens(x64):
    loss_B, metrics = JointLabelDistribution(grid=FIVE).loss(jnp.array(LOGITS), batch())
    np.testing.assert_allclose(loss_B[0], 0.4712301071, **PRINTED)
    np.testing.assert_allclose(loss_B.mean(), 0.8733054077, **PRINTED)
    np.testing.assert_allclose(metrics["kl"], [0.2853920085, 0.5992114652], **PRINTED)
    np.testing.assert_allclose(metrics["absolute_error"], [0.1858380986, 0.6761692431], **PRINTED)


def test_joint_loss_golden_as_scaled_by_the_authors_code(x64):
    official = JointLabelDistribution(grid=FIVE, kl_reduction="mean_elements")
    np.testing.assert_allclose(official.loss(jnp.array(LOGITS), batch())[0].mean(), 0.5194640182, **PRINTED)


@pytest.mark.parametrize("reduction, expected", [("batch_mean", 2.721576219), ("mean_elements", 2.304174022)])
def test_joint_loss_goldens_on_the_age_grid(x64, reduction, expected):
    logits_BxK = jnp.log(encode_distribution(AGE, jnp.array([48.0]), jnp.array([3.0])))
    rows = batch(slice(1), label=[50.3], sigma=[2.0])
    loss_B, _ = JointLabelDistribution(kl_reduction=reduction).loss(logits_BxK, rows)
    np.testing.assert_allclose(loss_B, [expected], **PRINTED)


@pytest.mark.parametrize("lambda_, reduction, example", GRADIENTS)
def test_joint_gradient_goldens(x64, lambda_, reduction, example):
    objective = JointLabelDistribution(lambda_=lambda_, kl_reduction=reduction, grid=FIVE)
    rows = batch(slice(example, example + 1))
    actual = gradient(objective, LOGITS[example : example + 1], rows)
    np.testing.assert_allclose(actual[0], GRADIENTS[lambda_, reduction, example], **PRINTED)


def test_joint_gradient_golden_in_float32():
    actual = gradient(JointLabelDistribution(grid=FIVE), LOGITS, batch())
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual[0], GRADIENTS[1.0, "batch_mean", 0], rtol=2e-6, atol=1e-7)


def test_joint_is_the_sum_of_its_parts():
    logits_BxK, rows = jnp.array(LOGITS), batch()
    joint_B, _ = JointLabelDistribution(lambda_=0.25, grid=FIVE).loss(logits_BxK, rows)
    kl_B, _ = LabelDistribution(grid=FIVE).loss(logits_BxK, rows)
    error_B, _ = ExpectationRegression(grid=FIVE).loss(logits_BxK, rows)
    np.testing.assert_allclose(joint_B, kl_B + 0.25 * error_B, rtol=1e-6)
    scaled_B, _ = LabelDistribution(kl_reduction="mean_elements", grid=FIVE).loss(logits_BxK, rows)
    np.testing.assert_allclose(scaled_B, kl_B / 5, rtol=1e-6)


@pytest.mark.parametrize("cls", [JointLabelDistribution, LabelDistribution])
def test_unknown_sigma_is_the_default_sigma(cls):
    objective = cls(default_sigma=0.7, grid=FIVE)
    unknown, _ = objective.loss(jnp.array(LOGITS), batch(sigma=[np.nan, 1.0]))
    known, _ = objective.loss(jnp.array(LOGITS), batch(sigma=[0.7, 1.0]))
    other, _ = objective.loss(jnp.array(LOGITS), batch(sigma=[0.8, 1.0]))
    np.testing.assert_array_equal(unknown, known)
    assert unknown[0] != other[0]


@pytest.mark.parametrize("cls", [JointLabelDistribution, LabelDistribution])
def test_normalise_reaches_the_loss(cls):
    loss_B, _ = cls(grid=FIVE).loss(jnp.array(LOGITS), batch())
    raw_B, _ = cls(grid=FIVE, normalise=False).loss(jnp.array(LOGITS), batch())
    assert jnp.all(loss_B != raw_B)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_padded_rows_count_nothing_whatever_stands_in_them(name):
    objective, junk = make(name), [np.nan, np.inf, 1e30]
    labels_and_sigmas = {"label": BATCH["label"] + junk, "sigma": BATCH["sigma"] + junk}
    padded = batch(**labels_and_sigmas, identity=[0, 3, -1, 7, 0], mask=[1.0, 1.0, 0.0, 0.0, 0.0])
    logits = np.array(LOGITS + [[x] * 5 for x in junk], np.float32)
    loss_B, metrics = jax.jit(objective.loss)(logits, padded)
    alone_B, alone_metrics = objective.loss(jnp.array(LOGITS), batch())
    np.testing.assert_allclose(loss_B, [*alone_B, 0, 0, 0], rtol=1e-6)
    for metric, values_B in metrics.items():
        np.testing.assert_allclose(values_B, [*alone_metrics[metric], 0, 0, 0], rtol=1e-6)
    actual = gradient(objective, logits, padded)
    np.testing.assert_allclose(actual[:2], gradient(objective, LOGITS, batch()), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(actual[2:], np.zeros((3, 5)))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_example_without_its_label_is_noticed(name):
    loss_B, _ = make(name).loss(jnp.array(LOGITS), batch(label=[2.4, np.nan], identity=[0, -1]))
    np.testing.assert_array_equal(jnp.isnan(loss_B), [False, True])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_protocol(name):
    objective = make(name)
    assert OBJECTIVES[name].__name__ == name
    assert hash(objective) == hash(dataclasses.replace(objective))
    assert objective.head_size == 5
    assert objective.target in ("age", "attractiveness", "identity")
    assert objective.measures in ("mae", None)
    loss_B, metrics = objective.loss(jnp.array(LOGITS).astype(jnp.bfloat16), batch())
    outputs = [loss_B, *metrics.values(), *objective.predict(jnp.array(LOGITS).astype(jnp.bfloat16))]
    assert all(x.shape == (2,) and x.dtype == jnp.float32 for x in outputs)


@pytest.mark.parametrize(
    "name, key",
    [
        *((name, "mask") for name in OBJECTIVES),
        *((name, "label") for name in OBJECTIVES if name != "Identity"),
        ("JointLabelDistribution", "sigma"),
        ("LabelDistribution", "sigma"),
        ("Identity", "identity"),
    ],
)
def test_columns_are_refused(name, key):
    rows = batch() | {key: batch()[key][:, None]}
    with pytest.raises(ValueError, match=rf"{key} has shape \(2, 1\), expected \(2,\)"):
        make(name).loss(jnp.array(LOGITS), rows)


@pytest.mark.parametrize("cls", [JointLabelDistribution, LabelDistribution, ExpectationRegression])
def test_head_and_prediction_follow_the_grid(cls):
    objective = cls(grid=SCUT, target="attractiveness")
    p_BxK = encode_distribution(SCUT, jnp.array([3.0, 2.5]), jnp.array([0.3, 0.0]))
    value_B, spread_B = objective.predict(jnp.log(p_BxK + 1e-30))
    assert objective.head_size == 41
    assert objective.target == "attractiveness"
    np.testing.assert_allclose(value_B, [3.0, 2.5], rtol=1e-5)
    np.testing.assert_allclose(spread_B, [0.3, 0.0], atol=1e-5)


def test_prediction_is_unmoved_by_a_shift_of_the_logits():
    logits_BxK = jnp.array(LOGITS)
    moved = JointLabelDistribution(grid=FIVE).predict(logits_BxK + 100)
    for actual, expected in zip(moved, JointLabelDistribution(grid=FIVE).predict(logits_BxK)):
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_identity():
    objective = Identity(5)
    loss_B, metrics = objective.loss(jnp.array(LOGITS), batch(identity=[0, 3]))
    p_hat = [0.1866060488, 0.5630212318]
    np.testing.assert_allclose(loss_B, -np.log(p_hat), rtol=1e-6)
    np.testing.assert_array_equal(metrics["accuracy"], [0, 1])
    value_B, entropy_B = objective.predict(jnp.array([[0.0, 0, 0, 0, 0], [0, 0, 1e4, 0, 0]]))
    np.testing.assert_array_equal(value_B, [0, 2])
    np.testing.assert_allclose(entropy_B, [np.log(5), 0], rtol=1e-6)


def test_identity_without_a_number_of_identities_has_no_head():
    with pytest.raises(UserError, match="num_identities is 0"):
        _ = Identity().head_size
