"""Goldens: computed in numpy float64 from the formulas of the DLDL-v2 journal paper (§4.5.4) and Caffe's Euclidean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agejax.labels import AGE, CFD, SCUT, decode_minus_one_to_one, encode_minus_one_to_one
from agejax.objectives import EuclideanRegression, MetricRegression
from data_pipelines.errors import UserError

PRINTED = {"rtol": 1e-9, "atol": 1e-12}
REGRESSIONS = [MetricRegression, EuclideanRegression]
of_both = pytest.mark.parametrize("cls", REGRESSIONS)
grids = pytest.mark.parametrize("grid", [AGE, SCUT, CFD], ids=["age", "scut", "cfd"])


def batch(*labels, dtype=None):
    label_B = jnp.array(labels, dtype)
    return {"label": label_B, "sigma": jnp.full_like(label_B, jnp.nan), "mask": jnp.ones_like(label_B)}


def outputs(*numbers, dtype=None):
    return jnp.array(numbers, dtype)[:, None]


def test_map_to_minus_one_to_one_goldens(x64):
    codes = encode_minus_one_to_one(AGE, jnp.array([50.3, 26.0, 0.0, 100.0]))
    np.testing.assert_allclose(codes, [0.006, -0.48, -1, 1], **PRINTED)
    np.testing.assert_allclose(encode_minus_one_to_one(SCUT, jnp.array([3.24])), [0.12], **PRINTED)
    np.testing.assert_allclose(decode_minus_one_to_one(AGE, jnp.tanh(jnp.array([0.3]))), [64.56563062], rtol=1e-9)


@grids
def test_map_to_minus_one_to_one_is_undone(grid):
    label_N = np.append(grid.values, np.random.default_rng(0).uniform(grid.low, grid.high, 99)).astype(np.float32)
    code_N = encode_minus_one_to_one(grid, label_N)
    assert code_N.dtype == jnp.float32
    assert (code_N[0], code_N[grid.size - 1]) == (-1, 1)
    np.testing.assert_allclose(decode_minus_one_to_one(grid, code_N), label_N, atol=1e-6 * grid.high)


@pytest.mark.parametrize(
    "distance, expected",
    [
        ("l1", [0.2853126124516, 0.1243677771170]),
        ("l2", [0.0814032868240, 0.0154673439851]),
        ("smooth_l1", [0.0407016434120, 0.0077336719925]),
    ],
)
def test_metric_regression_goldens(x64, distance, expected):
    loss_B, metrics = MetricRegression(distance=distance).loss(outputs(0.3, -0.7), batch(50.3, 26.0))
    np.testing.assert_allclose(loss_B, expected, rtol=1e-9)
    np.testing.assert_allclose(metrics["absolute_error"], [14.26563062258, 6.21838885586], rtol=1e-9)


def test_euclidean_regression_goldens(x64):
    loss_B, metrics = EuclideanRegression().loss(outputs(0.53, -0.2), batch(50.3, 20.0))
    np.testing.assert_allclose(loss_B, [0.0003645, 0.08], **PRINTED)
    np.testing.assert_allclose(metrics["absolute_error"], [2.7, 20.0], **PRINTED)  # of 0 years, not of -20
    raw_B, _ = EuclideanRegression(scale=1.0).loss(outputs(53.0), batch(50.3))
    np.testing.assert_allclose(raw_B, [3.645], **PRINTED)
    slope = jax.grad(lambda x: EuclideanRegression().loss(x, batch(50.3))[0][0])(outputs(0.53))
    np.testing.assert_allclose(slope, [[0.027]], **PRINTED)


def test_answers_are_clipped_to_the_grid():
    value_B, spread_B = EuclideanRegression().predict(outputs(-0.03, 0.263, 1.2, jnp.inf, jnp.nan))
    np.testing.assert_allclose(value_B, [0, 26.3, 100, 100, np.nan], rtol=1e-6)
    np.testing.assert_array_equal(spread_B, np.zeros(5))
    points_B, _ = EuclideanRegression(grid=SCUT, scale=5.0).predict(outputs(-0.1, 0.1, 0.5, 1.1))
    np.testing.assert_allclose(points_B, [1, 1, 2.5, 5], rtol=1e-6)


def test_clipping_takes_nothing_from_the_gradient():
    slope = jax.grad(lambda x: EuclideanRegression().loss(x, batch(0.0))[0][0])(outputs(-0.5))
    np.testing.assert_allclose(slope, [[-0.5]])


@grids
def test_metric_regression_answers_the_ends_exactly(grid):
    value_B, _ = MetricRegression(grid=grid).predict(outputs(-1e4, -20.0, 20.0, 1e4))
    np.testing.assert_array_equal(value_B, np.float32([grid.low, grid.low, grid.high, grid.high]))


@of_both
@grids
def test_outputs_that_fit_the_target_predict_the_label(cls, grid):
    objective = cls(grid=grid)
    label_B = np.concatenate([grid.values, grid.values[:-1] + grid.step / 2]).astype(np.float32)
    code_B = np.float64(objective.encode(label_B))
    with np.errstate(divide="ignore"):
        fitting_B = np.arctanh(code_B) if cls is MetricRegression else code_B
    value_B, _ = objective.predict(outputs(*np.clip(fitting_B, -20, 20), dtype=jnp.float32))
    np.testing.assert_allclose(value_B, label_B, atol=1e-5 * grid.high)


@of_both
def test_numbers_are_finite_and_float32_for_extreme_outputs_and_labels(cls):
    objective = cls()
    extreme = outputs(-1e4, 1e4, 0, 0.5, -1e4, dtype=jnp.bfloat16)
    rows = batch(0.0, 0.0, 26.5, 100.0, 100.0, dtype=jnp.float32)
    slope = jax.grad(lambda x: objective.loss(x, rows)[0].sum())(extreme)
    loss_B, metrics = objective.loss(extreme, rows)
    for number in (loss_B, metrics["absolute_error"], *objective.predict(extreme)):
        assert number.dtype == jnp.float32 and jnp.isfinite(number).all()
    assert jnp.isfinite(slope).all()


def test_gradient_of_an_exact_answer_is_zero():
    slope = jax.grad(lambda x: MetricRegression().loss(x, batch(50.0))[0][0])(outputs(0.0))
    np.testing.assert_array_equal(slope, [[0]])


@of_both
def test_regression_has_one_output_and_no_distribution(cls):
    assert cls().head_size == 1
    assert cls().distribution(outputs(0.3)) is None
    with pytest.raises(ValueError, match=r"outputs have shape \(2, 101\), expected \(B, 1\)"):
        cls().predict(jnp.zeros((2, 101)))
    with pytest.raises(ValueError, match=r"outputs have shape \(2, 101\), expected \(B, 1\)"):
        cls().loss(jnp.zeros((2, 101)), batch(1.0, 2.0))


@pytest.mark.parametrize("scale", [0.0, -100.0, np.nan])
def test_euclidean_regression_without_a_scale_is_refused(scale):
    with pytest.raises(UserError, match="scale"):
        EuclideanRegression(scale=scale)
