"""Goldens: Ranking in numpy float64 from the DLDL-v2 journal paper, §4.5.4; CORAL and OR-CNN by running the cost
functions of coral-cnn (Raschka-research-group) in torch, float64. Compared in float64 to the digits printed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agejax.labels import AGE, SCUT, LabelGrid, encode_distribution, encode_ranking, expectation, survival
from agejax.objectives import CORAL, OBJECTIVES, ORCNN, Ranking
from agejax.objectives.ordinal import distribution_of_answers, ohrank_targets, task_importance
from data_pipelines.errors import UserError

PRINTED = {"rtol": 1e-9, "atol": 1e-10}
NINE, FIVE = LabelGrid(0, 8, 1), LabelGrid(0, 4, 1)
ANSWERS = [0.99, 0.9, 0.8, 0.45, 0.6, 0.2, 0.1, 0.05]  # 0.45 < 0.6: they contradict each other
LEVELS = [2.0, 1.0, 4.0]  # labels of 1100, 1000, 1111
CORAL_LOGITS = [[2.1, 1.8, -2.1, -1.8], [1.9, -1.0, -1.5, -1.3], [1.9, 1.8, 1.7, 1.6]]
PAIRS = [
    [0.3, 2.4, -0.2, 1.6, 1.1, -1.0, 0.9, -0.9],
    [0.0, 1.9, 1.0, 0.0, 2.0, 0.5, 0.3, -1.0],
    [1.0, 2.9, -1.8, 0.0, 0.7, 2.4, 0.1, 2.0],
]
IMPORTANCE = (1.0, 0.5, 0.25, 2.0)
ORDINAL = ["Ranking", "CORAL", "ORCNN"]


def logits(q_BxJ):
    q_BxJ = jnp.array(q_BxJ)
    return jnp.log(q_BxJ) - jnp.log1p(-q_BxJ)


def rows(label):
    return {"label": jnp.array(label), "mask": jnp.ones(len(label))}


def loss(objective, outputs, label):
    return jax.jit(objective.loss)(jnp.array(outputs), rows(label))[0]


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, 2.433150192),
        ({"question_reduction": "mean"}, 0.304143774),
        ({"question_loss": "squared"}, 0.7651),
        ({"question_loss": "squared", "question_reduction": "mean"}, 0.0956375),
    ],
)
def test_ranking_goldens(x64, options, expected):
    objective = Ranking(grid=NINE, **options)
    np.testing.assert_allclose(loss(objective, logits([ANSWERS]), [3.2]), [expected], **PRINTED)


def test_ranking_decode_golden():
    value_B, _ = Ranking(grid=NINE).predict(logits([ANSWERS]))
    np.testing.assert_array_equal(value_B, [4])


@pytest.mark.parametrize("name", ORDINAL)
@pytest.mark.parametrize("ties, expected", [("below", [0, 2]), ("above", [4, 4])])
def test_answers_of_one_half_are_below_in_the_paper_and_above_in_the_authors_code(name, ties, expected):
    objective = OBJECTIVES[name](grid=FIVE, ties=ties)
    answer_BxJ = np.array([[0.0, 0, 0, 0], [3, 1, 0, 0]])
    outputs = np.stack([np.zeros((2, 4)), answer_BxJ], 2).reshape(2, 8) if name == "ORCNN" else answer_BxJ
    np.testing.assert_array_equal(objective.predict(jnp.array(outputs))[0], expected)
    assert OBJECTIVES[name]().ties == "below"


def test_coral_goldens(x64):
    loss_B = loss(CORAL(grid=FIVE), CORAL_LOGITS, LEVELS)
    np.testing.assert_allclose(loss_B, [0.536994267412, 0.895070177617, 0.644051139084], **PRINTED)
    assert round(float(loss_B.mean()), 4) == 0.6920  # the docstring of coral_pytorch.losses.coral_loss
    weighed_B = loss(CORAL(grid=FIVE, importance=IMPORTANCE), CORAL_LOGITS, LEVELS)
    np.testing.assert_allclose(weighed_B, [0.526843430290, 0.828387829204, 0.625623552669], **PRINTED)


def test_orcnn_goldens(x64):
    objective = ORCNN(grid=FIVE)
    loss_B = loss(objective, PAIRS, LEVELS)
    np.testing.assert_allclose(loss_B, [0.536994267412, 0.895070177617, 0.599537156478], **PRINTED)
    weighed_B = loss(ORCNN(grid=FIVE, importance=IMPORTANCE), PAIRS, LEVELS)
    np.testing.assert_allclose(weighed_B, [0.526843430290, 0.828387829204, 0.536595587458], **PRINTED)
    gradient = jax.jit(jax.grad(lambda x: objective.loss(x, rows(LEVELS))[0][0]))(jnp.array(PAIRS))
    expected = np.array([-0.109096821196, -0.141851064900, 0.109096821196, 0.141851064900])
    np.testing.assert_allclose(gradient[0], np.stack([-expected, expected], 1).ravel(), **PRINTED)
    np.testing.assert_array_equal(gradient[1:], 0)


@pytest.mark.parametrize("name, outputs", [("Ranking", CORAL_LOGITS), ("CORAL", CORAL_LOGITS), ("ORCNN", PAIRS)])
def test_decode_counts_the_answers_above_one_half(name, outputs):
    objective = OBJECTIVES[name](grid=FIVE)
    np.testing.assert_array_equal(objective.predict(jnp.array(outputs))[0], LEVELS)
    np.testing.assert_allclose(
        objective.loss(jnp.array(outputs), rows([2.0, 2.5, 0]))[1]["absolute_error"], [0, 1.5, 4]
    )


def test_heads():
    features_BxC = jnp.ones((2, 3))
    shapes = {
        cls.__name__: jax.tree.map(jnp.shape, cls().head.init(jax.random.key(0), features_BxC)["params"])
        for cls in (Ranking, CORAL, ORCNN)
    }
    assert shapes["Ranking"] == {"kernel": (3, 100), "bias": (100,)}
    assert shapes["CORAL"] == {"kernel": (3, 1), "bias": (100,)}
    assert shapes["ORCNN"] == {"kernel": (3, 200), "bias": (200,)}
    assert [cls(grid=SCUT).head_size for cls in (Ranking, CORAL, ORCNN)] == [40, 40, 80]


def test_distribution_is_the_inverse_of_survival():
    p_BxK = encode_distribution(AGE, jnp.array([50.3, 1.0, 99.0]), jnp.array([2.0, 1.0, 4.0]))
    np.testing.assert_allclose(distribution_of_answers(survival(p_BxK)), p_BxK, atol=3e-7)
    certain_BxJ = encode_ranking(AGE, jnp.array([0.0, 26.0, 26.3, 100.0]))
    one_hot_BxK = np.eye(101)[[0, 26, 27, 100]]
    np.testing.assert_array_equal(distribution_of_answers(certain_BxJ), one_hot_BxK)


def test_answers_that_contradict_each_other_are_replaced_by_their_running_minimum():
    falling = [0.99, 0.9, 0.8, 0.45, 0.45, 0.2, 0.1, 0.05]
    p_BxK = Ranking(grid=NINE).distribution(logits([ANSWERS]))
    np.testing.assert_allclose(p_BxK[0], -np.diff([1, *falling, 0]), atol=1e-6)
    assert p_BxK[0, 4] == 0
    assert p_BxK.min() >= 0


def test_answers_of_coral_with_falling_biases_never_contradict_each_other():
    bias_J = np.linspace(3, -3, 8)
    q_BxJ = jax.nn.sigmoid(jnp.array([[-9.0], [0.1], [4.0]]) + bias_J[None, :])
    p_BxK = CORAL(grid=NINE).distribution(logits(q_BxJ))
    np.testing.assert_allclose(survival(p_BxK), q_BxJ, atol=1e-6)


def test_decode_by_expectation():
    objective = Ranking(grid=NINE, decode="expectation")
    value_B, spread_B = objective.predict(logits([ANSWERS]))
    p_K = -np.diff([1, 0.99, 0.9, 0.8, 0.45, 0.45, 0.2, 0.1, 0.05, 0])
    mean = p_K @ np.arange(9)
    np.testing.assert_allclose(value_B, [mean], rtol=1e-6)
    np.testing.assert_allclose(spread_B, [np.sqrt(p_K @ (np.arange(9) - mean) ** 2)], rtol=1e-5)
    np.testing.assert_array_equal(Ranking(grid=NINE).predict(logits([ANSWERS]))[1], spread_B)


def test_rounding_leaves_no_expectation_outside_the_grid():
    outputs = np.random.default_rng(0).normal(-16, 2, (500, 40)).astype(np.float32)
    objective = Ranking(grid=SCUT, decode="expectation")
    assert expectation(objective.distribution(outputs), SCUT).min() < 1
    assert objective.predict(outputs)[0].min() == 1


def test_expectation_of_exact_answers_is_the_label_and_their_count_is_the_next_one_up():
    p_BxK = encode_distribution(AGE, jnp.array([26.0, 26.3, 50.5]), jnp.full(3, 2.0))
    outputs = logits(jnp.clip(survival(p_BxK), 1e-6, 1 - 1e-6))
    np.testing.assert_allclose(Ranking(decode="expectation").predict(outputs)[0], expectation(p_BxK, AGE), atol=1e-3)
    certain = 30 * (2 * encode_ranking(AGE, jnp.array([26.0, 26.3, 50.5])) - 1)
    np.testing.assert_array_equal(Ranking().predict(certain)[0], [26, 27, 51])


@pytest.mark.parametrize("name", ORDINAL)
def test_outputs_that_are_not_numbers_give_no_label(name):
    objective = OBJECTIVES[name](grid=FIVE)
    outputs = jnp.full((2, objective.head_size), 5.0).at[1, 1].set(jnp.nan)
    value_B, spread_B = objective.predict(outputs)
    np.testing.assert_array_equal(jnp.isnan(value_B), [False, True])
    np.testing.assert_array_equal(jnp.isnan(spread_B), [False, True])


def test_bfloat16_outputs_are_widened_before_they_are_subtracted():
    outputs = jnp.array([[100.0, 100.5] * 4], jnp.bfloat16)
    assert ORCNN(grid=FIVE).answers(outputs).dtype == jnp.float32
    np.testing.assert_array_equal(ORCNN(grid=FIVE).answers(outputs), [[0.5] * 4])


@pytest.mark.parametrize("importance", [(1.0,), (1.0,) * 5, *((1.0, odd, 1.0, 1.0) for odd in (-0.1, np.nan, np.inf))])
@pytest.mark.parametrize("name", ["CORAL", "ORCNN"])
def test_importance_that_does_not_fit_is_refused(name, importance):
    with pytest.raises(UserError, match="importance") as error:
        OBJECTIVES[name](grid=FIVE, importance=importance)
    assert "\n" not in str(error.value)


def test_importance_by_task():
    """Expected: task_importance_weights of coral-cnn, run in torch, float64; without its last entry, which is 0."""
    labels, expected = [0, 1, 1, 2, 3, 3, 4, 4, 4, 5], [1, 0.881917103688, 0.816496580928, 0.816496580928, 1]
    np.testing.assert_allclose(task_importance(LabelGrid(0, 5, 1), labels), expected, rtol=1e-9)
    np.testing.assert_allclose(task_importance(LabelGrid(0, 5, 1), [np.nan, *labels]), expected, rtol=1e-9)
    wider = task_importance(LabelGrid(-2, 7, 1), labels)  # no label up to -1, none above 5 or 6: all on one side
    np.testing.assert_allclose(wider, np.array([*[np.sqrt(10 / 9)] * 2, *expected, *[np.sqrt(10 / 9)] * 2]) * 0.9**0.5)
    assert hash(CORAL(grid=LabelGrid(-2, 7, 1), importance=wider)) is not None


def test_importance_by_task_needs_labels():
    with pytest.raises(UserError, match="needs labels"):
        task_importance(AGE, [np.nan])


def test_ohrank_targets():
    """The first: labels 1 to 5, y = 3 (absolute costs y - k and k - y + 1)."""
    sign_BxJ, cost_BxJ = ohrank_targets(LabelGrid(1, 5, 1), jnp.array([3.0, 3.25, 1.0, 5.0]))
    np.testing.assert_array_equal(sign_BxJ, [[1, 1, -1, -1], [1, 1, 1, -1], [-1] * 4, [1] * 4])
    np.testing.assert_array_equal(cost_BxJ, [[2, 1, 1, 2], [2.25, 1.25, 0.25, 1.75], [1, 2, 3, 4], [4, 3, 2, 1]])


def test_ohrank_costs_are_the_least_error_that_a_wrong_sign_brings():
    label_B = jnp.array([1.0, 3.24, 3.25, 5.0])
    sign_BxJ, cost_BxJ = ohrank_targets(SCUT, label_B)
    error_BxK = np.abs(np.asarray(label_B)[:, None] - SCUT.values[None, :])
    for j in range(40):
        least_B = np.where(sign_BxJ[:, j] > 0, error_BxK[:, : j + 1].min(1), error_BxK[:, j + 1 :].min(1))
        np.testing.assert_allclose(cost_BxJ[:, j], least_B, atol=1e-6)
    with pytest.raises(ValueError, match="label has shape"):
        ohrank_targets(SCUT, label_B[:, None])
