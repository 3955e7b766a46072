"""Goldens: computed in numpy float64 from the papers' equations, the gradients also by finite differences.

Compared in float64 (fixture x64) to the digits they were printed with. Those of mean-variance, soft labels and the
unimodal-concentrated loss were also compared with the torch functions of the Facial-Age-Estimation-Benchmark
(lib/loss.py), values and gradients to 1e-12.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agejax.labels import AGE, CFD, SCUT, LabelGrid, encode_distribution, encode_soft_labels
from agejax.objectives import (
    DEX,
    ExpectationRegression,
    JointLabelDistribution,
    LabelDistribution,
    LAEClassification,
    LAERepresentation,
    MeanVariance,
    SoftLabels,
    UnimodalConcentrated,
)
from agejax.objectives.base import Expectation
from data_pipelines.errors import UserError

PRINTED = {"rtol": 1e-9, "atol": 1e-10}
FIVE = LabelGrid(0, 4, 1)
LOGITS = [[0.1, -0.2, 0.3, 0, 0.5], [1, 0, -1, 2, 0.5]]
BATCH = {"label": [2.4, 3.0], "sigma": [1.0, 1.0], "mask": [1.0, 1.0]}
NEEDS = {LAEClassification: {"mae": 1.7}}
DISTRIBUTIONS = [
    JointLabelDistribution,
    LabelDistribution,
    ExpectationRegression,
    DEX,
    MeanVariance,
    SoftLabels,
    UnimodalConcentrated,
    LAERepresentation,
    LAEClassification,
]
of_all = pytest.mark.parametrize("cls", DISTRIBUTIONS)

# rows of (λ, reduction, example): gradient for the logits
GRADIENTS = {
    (1.0, "batch_mean", 0): [0.5770358101, 0.1540093363, -0.0973207536, -0.3022971468, -0.3314272461],
    (0.1, "batch_mean", 0): [0.2051774067, 0.0029469005, -0.1412515763, -0.1828785789, 0.1160058480],
    (1.0, "mean_elements", 0): [0.4459479650, 0.1650795880, 0.0195854695, -0.1666092675, -0.4640037550],
    (1.0, "batch_mean", 1): [0.6837367211, 0.1197106157, -0.2199498348, -0.2414940082, -0.3420034939],
}
# objective: losses of both examples, gradient for the logits of the first
LOSSES = {
    JointLabelDistribution(distance="l2"): (
        [0.3199278074, 1.0564163104],
        [0.317427492, 0.048546976, -0.127990511, -0.218926559, -0.019057398],
    ),
    JointLabelDistribution(distance="smooth_l1"): (
        [0.3026599079, 0.8278138878],
        [0.240643649, 0.017354581, -0.137061645, -0.194268204, 0.073331619],
    ),
    JointLabelDistribution(link="sigmoid"): (
        [0.5696832930, 1.3482879224],
        [0.277728235, 0.110131723, -0.059312741, -0.160657566, -0.122426492],
    ),
    DEX(): ([1.4787555755, 0.5744379396], None),
    DEX(form="official"): (
        [-0.2279211426, -0.5630212318],
        [0.042531464, 0.031508083, -0.175973095, 0.03848406, 0.063449488],
    ),
    MeanVariance(): (
        [1.5882682664, 0.7134261903],
        [0.227913474, 0.140007586, -0.793915061, 0.151222118, 0.274771882],
    ),
    SoftLabels(): ([0.2218555271, 0.3486060815], None),
    SoftLabels(temperature=2.0): ([0.0856248406, 0.3918362544], None),
    SoftLabels(penalty="squared"): ([0.5600480981, 0.5152657272], None),
    SoftLabels(penalty="squared_log"): ([0.0981171568, 0.6224609525], None),
    SoftLabels(penalty="squared_log", temperature=2.0): ([0.0492610007, 0.5457013751], None),
    UnimodalConcentrated(lambda_unimodal=0.0): (
        [0.3841274881, 0.4342774557],
        [0.156547268, -0.006034385, -0.105404686, -0.070496067, 0.02538787],
    ),
    UnimodalConcentrated(lambda_unimodal=1.0, lambda_concentrated=0.0): (
        [0.1579002647, 0.1790927596],
        [0.157140904, -0.160069477, -0.035988809, -0.195509301, 0.234426682],
    ),
    UnimodalConcentrated(lambda_unimodal=1.0, lambda_concentrated=0.0, margin=0.02): (
        [0.1979002647, 0.2190927596],
        None,
    ),
    UnimodalConcentrated(): ([158.284392152, 179.527037022], None),
}


def batch(rows=slice(None), **changes):
    return {name: jnp.array(value)[rows] for name, value in (BATCH | changes).items()}


def rows_of(label_B, sigma=2.0):
    label_B = jnp.asarray(label_B)
    return {"label": label_B, "sigma": jnp.full_like(label_B, sigma), "mask": jnp.ones_like(label_B)}


def make(cls, grid=FIVE, **options):
    return cls(grid=grid, **NEEDS.get(cls, {}) | options)


@functools.cache
def loss_and_gradient(objective):
    """Jitted (outputs, batch) → (B,) losses, gradient of their sum (B, K)."""

    def total(logits, rows):
        loss_B, _ = objective.loss(logits, rows)
        return loss_B.sum(), loss_B

    def calls(logits, rows):
        gradient, loss_B = jax.grad(total, has_aux=True)(logits, rows)
        return loss_B, gradient

    return jax.jit(calls)


def gradient(objective, logits, rows):
    return loss_and_gradient(objective)(jnp.array(logits), rows)[1]


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


@pytest.mark.parametrize(
    "grid, lambda_, normalise",
    [(AGE, 0.0, True), (AGE, 1.0, True), (AGE, 10.0, True), (AGE, 1.0, False), (SCUT, 1.0, True)],
)
def test_joint_gradient_is_equation_16(x64, grid, lambda_, normalise):
    """(p̂ Σp - p) + λ sign(ŷ - y) p̂ ∘ (l - ŷ), with the first term p̂ - p for normalised targets."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (500, grid.size))
    label, sigma = rng.uniform(grid.low, grid.high, (500, 1)), rng.uniform(0.5, 9, (500, 1)) * grid.step
    l = grid.low + grid.step * np.arange(grid.size)
    q = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    p = np.exp(-((l - label) ** 2) / (2 * sigma**2)) / (np.sqrt(2 * np.pi) * sigma)
    total = p.sum(1, keepdims=True)
    p, total = (p / total, 1.0) if normalise else (p, total)
    y_hat = (q * l).sum(1, keepdims=True)
    expected = (q * total - p) + lambda_ * np.sign(y_hat - label) * q * (l - y_hat)
    rows = {"label": jnp.array(label[:, 0]), "sigma": jnp.array(sigma[:, 0]), "mask": jnp.ones(500)}
    objective = JointLabelDistribution(lambda_=lambda_, normalise=normalise, grid=grid)
    np.testing.assert_allclose(gradient(objective, logits, rows), expected, rtol=1e-10, atol=1e-13)


def test_joint_gradient_at_an_exact_expectation_is_that_of_the_kl():
    grid, logits = LabelGrid(0, 3, 1), jnp.zeros((1, 4))  # ¼ (0 + 1 + 2 + 3) is 1.5 without rounding
    joint = gradient(JointLabelDistribution(lambda_=100.0, grid=grid), logits, rows_of([1.5]))
    np.testing.assert_array_equal(joint, gradient(LabelDistribution(grid=grid), logits, rows_of([1.5])))


@pytest.mark.parametrize("objective", LOSSES, ids=repr)
def test_loss_goldens(x64, objective):
    (expected, expected_gradient), objective = LOSSES[objective], dataclasses.replace(objective, grid=FIVE)
    np.testing.assert_allclose(objective.loss(jnp.array(LOGITS), batch())[0], expected, rtol=1e-9, atol=1e-10)
    if expected_gradient:
        np.testing.assert_allclose(gradient(objective, LOGITS, batch())[0], expected_gradient, rtol=1e-7, atol=1e-9)


def test_terms_of_a_loss_are_its_metrics(x64):
    def metrics(cls, **options):
        return make(cls, **options).loss(jnp.array(LOGITS), batch())[1]

    np.testing.assert_allclose(metrics(MeanVariance)["variance"], [2.12118222041, 1.86535532555], **PRINTED)
    np.testing.assert_allclose(metrics(MeanVariance)["cross_entropy"], [1.4787555755, 0.5744379396], **PRINTED)
    np.testing.assert_allclose(metrics(UnimodalConcentrated)["unimodal"], [0.1579002647, 0.1790927596], **PRINTED)
    np.testing.assert_allclose(metrics(UnimodalConcentrated)["concentrated"], [0.3841274881, 0.4342774557], **PRINTED)
    for cls in DISTRIBUTIONS:
        np.testing.assert_allclose(metrics(cls)["absolute_error"], [0.1858380986, 0.6761692431], **PRINTED)
    squared = metrics(JointLabelDistribution, distance="l2")
    np.testing.assert_allclose(squared["absolute_error"], [0.1858380986, 0.6761692431], **PRINTED)


def test_joint_is_the_sum_of_its_parts():
    logits_BxK, rows = jnp.array(LOGITS), batch()
    joint_B, _ = JointLabelDistribution(lambda_=0.25, grid=FIVE).loss(logits_BxK, rows)
    kl_B, _ = LabelDistribution(grid=FIVE).loss(logits_BxK, rows)
    error_B, _ = ExpectationRegression(grid=FIVE).loss(logits_BxK, rows)
    np.testing.assert_allclose(joint_B, kl_B + 0.25 * error_B, rtol=1e-6)
    scaled_B, _ = LabelDistribution(kl_reduction="mean_elements", grid=FIVE).loss(logits_BxK, rows)
    np.testing.assert_allclose(scaled_B, kl_B / 5, rtol=1e-6)


@pytest.mark.parametrize(
    "distance, expected",
    [
        ("l1", [1.714161901350, 0.05]),
        ("l2", [2.938351024041, 0.0025]),
        ("smooth_l1", [1.214161901350, 0.00125]),
    ],
)
def test_expectation_regression_goldens(x64, distance, expected):
    objective = ExpectationRegression(distance=distance, grid=FIVE)
    loss_B, metrics = objective.loss(jnp.array(LOGITS), batch(label=[0.5, 2.323830756927 + 0.05]))
    np.testing.assert_allclose(loss_B, expected, rtol=1e-9)
    np.testing.assert_allclose(metrics["absolute_error"], [1.714161901, 0.05], rtol=1e-9)


def test_soft_labels_of_squares_are_a_label_distribution():
    """φ = (y - l)² at τ = 2σ² is the Gaussian of DLDL."""
    soft_B, _ = SoftLabels(penalty="squared", temperature=2.0, grid=FIVE).loss(jnp.array(LOGITS), batch())
    gaussian_B, _ = LabelDistribution(grid=FIVE).loss(jnp.array(LOGITS), batch())
    np.testing.assert_allclose(soft_B, gaussian_B, rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan])
def test_soft_labels_without_a_temperature_are_refused(temperature):
    with pytest.raises(UserError, match="temperature"):
        SoftLabels(temperature=temperature)


@pytest.mark.parametrize("cls", [JointLabelDistribution, LabelDistribution])
def test_unknown_sigma_is_the_default_sigma(cls):
    objective = cls(default_sigma=0.7, grid=FIVE)
    unknown, _ = objective.loss(jnp.array(LOGITS), batch(sigma=[np.nan, 1.0]))
    known, _ = objective.loss(jnp.array(LOGITS), batch(sigma=[0.7, 1.0]))
    other, _ = objective.loss(jnp.array(LOGITS), batch(sigma=[0.8, 1.0]))
    np.testing.assert_array_equal(unknown, known)
    assert unknown[0] != other[0]


@pytest.mark.parametrize("cls", [JointLabelDistribution, LabelDistribution])
def test_one_sigma_for_all_whatever_the_data_has(cls):
    fixed, _ = cls(default_sigma=0.7, sigma_of="default", grid=FIVE).loss(jnp.array(LOGITS), batch(sigma=[3.0, np.nan]))
    known, _ = cls(grid=FIVE).loss(jnp.array(LOGITS), batch(sigma=[0.7, 0.7]))
    np.testing.assert_array_equal(fixed, known)


@pytest.mark.parametrize("cls", DISTRIBUTIONS)
def test_sigma_of_the_data_reaches_the_objectives_that_read_it(cls):
    one, _ = make(cls).loss(jnp.array(LOGITS), batch(sigma=[0.5, 0.5]))
    other, _ = make(cls).loss(jnp.array(LOGITS), batch(sigma=[1.5, np.nan]))
    assert np.all((one != other) == hasattr(make(cls), "default_sigma"))


FIELDS = [(cls, f.name) for cls in DISTRIBUTIONS for f in dataclasses.fields(cls) if f.name not in ("grid", "target")]


@pytest.mark.parametrize("cls, field", FIELDS)
def test_every_field_reaches_the_loss(cls, field):
    """Another value of it, another loss."""
    other = {
        "link": "sigmoid", "distance": "l2", "kl_reduction": "mean_elements", "form": "official", "penalty": "squared",
        "reduction": "batch", "normalise": False, "sigma_of": "default",
    }  # fmt: skip
    objective = make(cls)
    value = other.get(field) if field in other else 2 * getattr(objective, field) + (field == "margin")
    label = [2.4, 3.9]
    changes = {"label": label, "sigma": [1.3, 0.6] if field == "sigma_of" else [np.nan, np.nan]}
    changed = dataclasses.replace(objective, **{field: value})
    if field == "smallest_variance":
        changed = dataclasses.replace(objective, smallest_variance=0.1)
    loss_B, _ = objective.loss(jnp.array(LOGITS), batch(**changes))
    changed_B, _ = changed.loss(jnp.array(LOGITS), batch(**changes))
    assert jnp.all(loss_B != changed_B)


@of_all
def test_link_sigmoid_divides_by_the_sum(cls, x64):
    objective, logits = make(cls, link="sigmoid"), jnp.array(LOGITS)
    p_BxK = [
        [0.196470788118, 0.168472334602, 0.214982187291, 0.187122454379, 0.232952235611],
        [0.243421965702, 0.166485951207, 0.089549936711, 0.293280678695, 0.207261467685],
    ]
    np.testing.assert_allclose(objective.distribution(logits), p_BxK, rtol=1e-10)
    value_B, spread_B = objective.predict(logits)
    np.testing.assert_allclose(value_B, [2.091613014764, 2.054473731454], rtol=1e-10)
    np.testing.assert_allclose(spread_B, [1.436973882651, 1.503174299951], rtol=1e-10)
    # of outputs ln p̂ the softmax is p̂ again: the loss must be the same by either link
    loss_B, metrics = objective.loss(logits, batch())
    same_B, same = make(cls).loss(jnp.log(jnp.array(p_BxK)), batch())
    np.testing.assert_allclose(loss_B, same_B, rtol=1e-9)
    np.testing.assert_allclose(metrics["absolute_error"], same["absolute_error"], rtol=1e-9)


@of_all
def test_head_and_prediction_follow_the_grid(cls):
    objective = make(cls, SCUT, target="attractiveness")
    p_BxK = encode_distribution(SCUT, jnp.array([3.0, 2.5]), jnp.array([0.3, 0.0]))
    value_B, spread_B = objective.predict(jnp.log(p_BxK + 1e-30))
    assert objective.head_size == 41
    assert objective.target == "attractiveness"
    np.testing.assert_allclose(value_B, [3.0, 2.5], rtol=1e-5)
    np.testing.assert_allclose(spread_B, [0.3, 0.0], atol=1e-5)


@of_all
def test_softmax_objectives_are_unmoved_by_a_shift_of_the_logits(cls, x64):
    objective, logits_BxK = make(cls), jnp.array(LOGITS)
    for shift in (100.0, -1e4):
        for moved, still in zip(objective.predict(logits_BxK + shift), objective.predict(logits_BxK)):
            np.testing.assert_allclose(moved, still, rtol=1e-9)
        calls = loss_and_gradient(objective)
        for moved, still in zip(calls(logits_BxK + shift, batch()), calls(logits_BxK, batch())):
            np.testing.assert_allclose(moved, still, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(gradient(objective, LOGITS, batch()).sum(1), [0, 0], atol=1e-11)


def hard_batch(grid):
    """Ends of the grid, half steps, σ = 0, σ wide: labels and σ, each against each."""
    step = grid.step
    labels = [grid.low, grid.low + step / 2, grid.low + 7.5 * step, (grid.low + grid.high) / 2, grid.high]
    label_B, sigma_B = (x.reshape(-1) for x in np.meshgrid(labels, [0.0, 0.3 * step, 40 * step, np.nan]))
    return {
        "label": jnp.array(label_B, jnp.float32),
        "sigma": jnp.array(sigma_B, jnp.float32),
        "mask": jnp.ones(label_B.shape, jnp.float32),
    }


def hard_outputs(grid, count):
    """Outputs of every size, 1e4 among them, some rows with all on one label."""
    rng = np.random.default_rng(0)
    outputs = rng.normal(0, 1, (count, grid.size)) * 10.0 ** rng.integers(-3, 5, (count, 1))
    outputs[::4] = -1e4
    outputs[::4, [0, -1]] = 1e4
    outputs[1::5] = np.where(np.arange(grid.size) == 30, 1e4, -1e4)
    return outputs.astype(np.float32)


@pytest.mark.parametrize(
    "cls, link, dtype",
    [(cls, "softmax", jnp.float32) for cls in DISTRIBUTIONS]
    + [(cls, "sigmoid", jnp.bfloat16) for cls in (JointLabelDistribution, UnimodalConcentrated)],
)
def test_losses_and_gradients_are_finite_for_hard_labels_and_extreme_outputs(cls, link, dtype):
    objective, rows = make(cls, AGE, link=link), hard_batch(AGE)
    outputs = jnp.array(hard_outputs(AGE, len(rows["label"])), dtype)
    loss_B, slope = loss_and_gradient(objective)(outputs, rows)
    assert loss_B.dtype == jnp.float32 and slope.dtype == dtype
    assert jnp.isfinite(loss_B).all() and jnp.isfinite(slope).all()


@of_all
def test_all_answer_in_the_same_way(cls):
    assert (cls.predict, cls.distribution) == (Expectation.predict, Expectation.distribution)


@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
@pytest.mark.parametrize("grid", [AGE, SCUT, CFD], ids=["age", "scut", "cfd"])
def test_predictions_stay_on_the_grid(grid, link):
    value_B, spread_B = LabelDistribution(grid=grid, link=link).predict(hard_outputs(grid, 200))
    assert np.all((value_B >= np.float32(grid.low)) & (value_B <= np.float32(grid.high)))
    assert jnp.all((spread_B >= 0) & (spread_B <= (grid.high - grid.low) / 2 * (1 + 1e-5)))


TARGETS = {
    JointLabelDistribution: lambda label_B: encode_distribution(AGE, label_B, jnp.full_like(label_B, 2.0)),
    LabelDistribution: lambda label_B: encode_distribution(AGE, label_B, jnp.full_like(label_B, 2.0)),
    LAERepresentation: lambda label_B: encode_distribution(AGE, label_B, jnp.full_like(label_B, 1.0)),
    SoftLabels: lambda label_B: encode_soft_labels(AGE, label_B),
    DEX: lambda label_B: encode_distribution(AGE, label_B, jnp.zeros_like(label_B)),
}
LABELS = np.append(np.arange(16, 85, 0.5), [0, 100])


@pytest.mark.parametrize("cls", TARGETS)
def test_outputs_that_fit_the_target_predict_the_label(cls):
    """To what the grid allows: exact away from its ends, and at them for one-hot targets."""
    label_B = jnp.array(LABELS)
    value_B, _ = make(cls, AGE).predict(jnp.log(TARGETS[cls](label_B) + 1e-30))
    inside = slice(None) if cls is DEX else slice(-2)
    np.testing.assert_allclose(value_B[inside], label_B[inside], atol=2e-4)


@pytest.mark.parametrize("cls", TARGETS)
def test_outputs_that_fit_the_target_have_no_gradient(cls, x64):
    """What the targets of the test above claim to be: the minimum of the loss without its error term."""
    rows = rows_of(np.array([16.0, 50.5, 84.0]), 2.0)
    options = {"lambda_": 0.0} if hasattr(cls, "lambda_") else {}
    objective, target_BxK = make(cls, AGE, **options), TARGETS[cls](rows["label"])
    if cls is DEX:  # a half year has two nearest labels, of which the class is the lower
        target_BxK = jax.nn.one_hot(jnp.array([16, 50, 84]), 101)
    slope = gradient(objective, jnp.log(target_BxK + 1e-300), rows)
    np.testing.assert_allclose(slope, np.zeros((3, 101)), atol=1e-9)


@pytest.mark.parametrize("cls", [DEX, MeanVariance])
def test_class_is_the_nearest_label_and_the_lower_of_two(cls):
    outputs = jnp.where(jnp.arange(101)[None] == jnp.array([25, 26, 26, 0, 100])[:, None], 50.0, 0.0)
    rows = rows_of([25.49, 25.51, 26.5, 0.0, 100.0])
    loss_B, _ = make(cls, AGE).loss(outputs, rows)
    assert jnp.all(loss_B < 0.1)  # of a class beside it: 50
    loss_B, _ = make(cls, AGE).loss(outputs, rows | {"label": jnp.array([26.0, 25.0, 26.6, 1.0, 99.0])})
    assert jnp.all(loss_B > 49)


@pytest.mark.parametrize("label, peaks", [(2.0, [2]), (2.3, [2]), (2.5, [2, 3]), (2.6, [3]), (0.0, [0]), (4.0, [4])])
def test_unimodal_term_asks_for_a_peak_at_the_nearest_label(label, peaks):
    """Between two equally near labels either may have it."""
    objective = UnimodalConcentrated(lambda_unimodal=1.0, lambda_concentrated=0.0, grid=FIVE)
    peak_at_k = -jnp.abs(jnp.arange(5.0)[None, :] - jnp.arange(5.0)[:, None])
    loss_B, _ = objective.loss(peak_at_k, rows_of([label] * 5))
    np.testing.assert_array_equal(np.flatnonzero(loss_B == 0), peaks)


def test_unimodal_term_is_the_sum_of_the_wrong_steps(x64):
    p_BxK = jnp.array([[0.1, 0.3, 0.2, 0.25, 0.15]])
    objective = UnimodalConcentrated(lambda_unimodal=1.0, lambda_concentrated=0.0, grid=FIVE)
    for label, expected in [(0.0, 0.25), (1.0, 0.05), (2.0, 0.15), (3.0, 0.1), (4.0, 0.2), (1.5, 0.05), (2.5, 0.1)]:
        np.testing.assert_allclose(objective.loss(jnp.log(p_BxK), rows_of([label]))[0], [expected], rtol=1e-12)
    # by 0.06 at least, which the step from 2 to 3 is not asked for
    wide = dataclasses.replace(objective, margin=0.06)
    np.testing.assert_allclose(wide.loss(jnp.log(p_BxK), rows_of([2.5]))[0], [0.16], rtol=1e-12)


def test_concentrated_term_is_least_where_the_variance_is_the_squared_error():
    objective = UnimodalConcentrated(lambda_unimodal=0.0)
    sigmas = np.arange(2.0, 8.0, 0.25)
    label_B = jnp.full(len(sigmas), 45.0)
    p_BxK = encode_distribution(AGE, label_B + 5, jnp.array(sigmas))
    loss_B, _ = objective.loss(jnp.log(p_BxK), rows_of(label_B))
    assert sigmas[np.argmin(loss_B)] == 5.0
