"""Linear learners on fixed features: each against what it is defined as, and all on faces whose age can be seen."""

import dataclasses
import sys
from functools import partialmethod

import cv2
import numpy as np
import pytest
import scipy.optimize
from drawn import Squares
from small import Small, filled, mesh_of

from agejax import metrics, two_stage
from agejax.labels import LabelGrid, encode_distribution
from agejax.models.network import variable_shapes
from agejax.objectives import JointLabelDistribution
from agejax.training.checkpoint import Description
from agejax.two_stage import LEARNERS, SVR, Examples, MaximumEntropy, OHRank, divergence, normalised, questions
from data_pipelines.align import Alignment
from data_pipelines.errors import UserError
from data_pipelines.loaders import eval_batches
from data_pipelines.samplers import Subset

sklearn = pytest.importorskip("sklearn.svm", reason="scikit-learn is the extra `papers`")
GRID = LabelGrid(0.0, 6.0, 1.0)


def examples(count=60, features=5, seed=0, grid=GRID):
    """Labels that a line through the features tells, but for noise."""
    rng = np.random.default_rng(seed)
    x = normalised(rng.standard_normal((count, features)))
    label = np.clip(np.round(3 + 3 * x[:, 0] + rng.normal(0, 0.4, count)), grid.low, grid.high)
    return Examples(x, label, np.full(count, 0.8), grid)


# BFGS-LDL


@pytest.mark.parametrize(
    "w, loss, gradient",
    [
        (np.zeros((2, 3)), 2.197224577, [[-0.25, 0.15, 0.1], [-0.9666666667, 0.2333333333, 0.7333333333]]),
        (
            np.eye(2, 3),
            2.66173657,
            [[-0.2319968353, 0.3762167819, -0.1442199466], [-1.3570924452, 1.1085302592, 0.2485621859]],
        ),
    ],
)
def test_loss_and_gradient_are_the_worked_example_s(w, loss, gradient):
    x, d = np.array([[1, 2], [0.5, -1]]), np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    found, slope = divergence(w, x, d)
    assert found == pytest.approx(loss, rel=1e-9)
    np.testing.assert_allclose(slope, gradient, rtol=1e-8)


def test_gradient_is_that_of_finite_differences_where_a_distribution_does_not_sum_to_one():
    rng = np.random.default_rng(0)
    x, d, w = rng.standard_normal((4, 3)), rng.random((4, 5)), rng.standard_normal((3, 5))
    slope = scipy.optimize.approx_fprime(w.ravel(), lambda one: divergence(one.reshape(3, 5), x, d)[0], 1e-7)
    np.testing.assert_allclose(divergence(w, x, d)[1].ravel(), slope, atol=2e-5)


def test_what_is_found_is_the_least_and_answers_are_moments_of_it():
    given = examples(20, 3)
    learner = MaximumEntropy(steps=5000)
    x, d = given.x_NxF, np.asarray(encode_distribution(GRID, given.label_N, given.sigma_N), np.float64)
    best = scipy.optimize.minimize(
        lambda w: divergence(w.reshape(3, 7), x, d / d.sum(1, keepdims=True))[0], np.zeros(21), method="BFGS"
    )
    p = np.exp(x @ best.x.reshape(3, 7))
    p /= p.sum(axis=1, keepdims=True)
    value, spread = learner.fit(given)(x)
    np.testing.assert_allclose(value, p @ GRID.values, atol=2e-3)
    np.testing.assert_allclose(spread**2, p @ GRID.values**2 - (p @ GRID.values) ** 2, atol=5e-3)


# OHRank


def test_costs_are_distances_from_the_question():
    above, cost = questions(np.array([2]), 5)  # y = 3 of 1 … 5
    assert above.tolist() == [[True, True, False, False]] and cost.tolist() == [[2, 1, 1, 2]]


def slope(w, x, sign, cost, C):
    """Gradient of ½ (w·w + b²) + C Σ cost · max(0, 1 - sign (w·x + b))²."""
    x = np.column_stack([x, np.ones(len(x))])
    return w - 2 * C * x.T @ (cost * sign * np.maximum(0, 1 - sign * (x @ w)))


def test_each_question_is_a_support_vector_machine_with_costs(monkeypatch):
    """Its plane is where the objective, written out, has no slope."""
    given, planes = examples(40, 3), []
    real = sklearn.LinearSVC.fit

    def fit(self, x, y, sample_weight):
        self.tol = 1e-9
        planes.append((real(self, x, y, sample_weight=sample_weight), np.where(y, 1, -1), sample_weight))
        return planes[-1][0]

    monkeypatch.setattr(sklearn.LinearSVC, "fit", fit)
    answer = OHRank(C=0.7).fit(given)
    planes.sort(key=lambda plane: -plane[1].sum())
    lowest = int(given.label_N.min())  # questions below it are answered with yes by every example
    assert len(planes) == given.label_N.max() - lowest
    for k, (model, sign, cost) in enumerate(planes, lowest):
        np.testing.assert_array_equal(sign, np.where(given.label_N > k, 1, -1))
        np.testing.assert_array_equal(cost, np.where(given.label_N > k, given.label_N - k, k - given.label_N + 1))
        w = np.append(model.coef_[0], model.intercept_)
        np.testing.assert_allclose(slope(w, given.x_NxF, sign, cost, 0.7), 0, atol=1e-5)
    yes = sum((given.x_NxF @ model.coef_[0] + model.intercept_ > 0).astype(int) for model, _, _ in planes)
    np.testing.assert_array_equal(answer(given.x_NxF)[0], GRID.values[lowest + yes])


def test_questions_without_two_answers_are_not_asked():
    given = examples(30)
    few = given._replace(label_N=np.where(given.label_N > 3, 4.0, 2.0))
    assert {2.0, 4.0} <= set(OHRank().fit(few)(few.x_NxF)[0]) <= {2.0, 3.0, 4.0}
    one = given._replace(label_N=np.full(30, 5.0))
    assert set(OHRank().fit(one)(one.x_NxF)[0]) == {5.0}


def test_answers_lie_on_a_grid_of_points():
    points = LabelGrid(1.0, 2.0, 0.25)
    given = examples(grid=points)._replace(label_N=1.25 + 0.5 * (np.arange(60) % 2))
    given.x_NxF[:, 0] = given.label_N
    np.testing.assert_allclose(OHRank(C=10.0).fit(given)(given.x_NxF)[0], given.label_N)


# SVR


def test_regression_has_no_slope_where_it_ends(monkeypatch):
    """½ (w·w + b²) + C Σ max(0, |w·x + b - y| - ε)², written out."""
    given, (C, epsilon) = examples(), (2.0, 0.3)
    monkeypatch.setattr(sklearn.LinearSVR, "fit", partialmethod(exact, sklearn.LinearSVR.fit))
    answer = SVR(C=C, epsilon=epsilon).fit(given)
    x = np.column_stack([given.x_NxF, np.ones(60)])
    w = np.linalg.lstsq(x, answer(given.x_NxF)[0])[0]
    error = x @ w - given.label_N
    over = np.sign(error) * np.maximum(0, np.abs(error) - epsilon)
    np.testing.assert_allclose(w + 2 * C * x.T @ over, 0, atol=1e-4)
    assert not answer(given.x_NxF)[1].any()


def exact(self, real, *given):
    self.tol = 1e-9
    return real(self, *given)


def test_without_scikit_learn_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    for learner in (SVR(), OHRank()):
        with pytest.raises(UserError, match=r"pip install 'agejax\[papers\]'"):
            learner.fit(examples())


# from a split to answers


def trunk():
    description = Description(Small(32), JointLabelDistribution(), 32, "float32", Alignment(), "squares", 50.0)
    return description, filled(variable_shapes(description.network(), 32))


@pytest.mark.parametrize("features", ["cnn", pytest.param("bif", marks=pytest.mark.slow)])
@pytest.mark.parametrize("learner", LEARNERS)
def test_what_is_learnt_is_better_than_the_median(features, learner):
    train, test = (Subset(Lit(90), rows) for rows in (np.arange(60), np.arange(60, 90)))
    given = trunk() if features == "cnn" else None
    options = {"svr": SVR(C=100.0), "ohrank": OHRank(C=100.0), "ldl": MaximumEntropy(steps=50)}
    found = two_stage.measure(
        features, options[learner], train, test, given, Alignment(), JointLabelDistribution(), mesh=mesh_of(2)
    )
    np.testing.assert_array_equal(found.label, test.column("age").astype(np.float32))
    blind = metrics.median_baseline_mae(found.label, float(np.median(train.column("age"))))
    assert metrics.mae(found.label, found.value) < 0.5 * blind
    assert (found.spread > 0).all() == (learner == "ldl")


class Lit(Squares):
    """Half of the square is as bright as it is old, the other half black or white."""

    def __getitem__(self, row):
        record = super().__getitem__(row)
        image = np.full((40, 40, 3), 2.5 * record["age"], np.uint8)
        image[:, 20:] = 128
        image[10:20] = 0
        return record | {"image": cv2.imencode(".png", image)[1].tobytes()}


def test_features_are_those_that_the_head_would_be_given():
    description, variables = trunk()
    squares = Squares(5)
    seen = []
    learner = dataclasses.make_dataclass("Seen", [], namespace={"fit": lambda self, given: seen.append(given) or ask})()

    def ask(x_NxF):
        seen.append(x_NxF)
        return np.full(len(x_NxF), 120.0), np.zeros(len(x_NxF))

    options = {"mesh": mesh_of(2), "batch_size": 2}
    found = two_stage.measure(
        "cnn", learner, squares, Subset(squares, [3, 0]), (description, variables), Alignment(0.5),
        JointLabelDistribution(default_sigma=3.0), **options,
    )  # fmt: skip
    crop = {"batch_size": 5, "image_size": 32, "alignment": Alignment()}
    with eval_batches(squares, **crop) as batches:
        features = description.network().apply(variables, next(batches)["image"])["features"]
    assert seen[0].x_NxF.shape == (5, 32)
    np.testing.assert_allclose(seen[0].x_NxF, features / np.linalg.norm(features, axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(seen[1], seen[0].x_NxF[[3, 0]], atol=1e-6)
    sigma = squares.column("sigma")
    np.testing.assert_array_equal(seen[0].sigma_N, np.where(np.isnan(sigma), 3.0, sigma))
    assert found.value.tolist() == [100.0, 100.0] and found.index.tolist() == [0, 1]
