"""Goldens: computed in numpy float64 from the equations of DLDL-v2 (Gao et al.), independently of this code.

They are compared in float64 (fixture x64) to the digits they were printed with; float32 separately, to 3e-6.
"""

import contextlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agejax import labels
from agejax.labels import AGE, CFD, GRIDS, SCUT, LabelGrid
from data_pipelines.errors import UserError
from data_pipelines.schema import AGE_RANGE

PRINTED = {"rtol": 1e-9, "atol": 0}

PEAK = [0.1029681344, 0.1614861798, 0.1972396655, 0.1876201735, 0.1389924431, 0.08019166367]
# label, σ -> first index, normalised values from there on, raw sum, expectation
GAUSSIANS = {
    (50.3, 2.0): (48, PEAK, 1, 50.3),
    (0.5, 2.0): (0, [0.278846908, 0.278846908, 0.2171661903, 0.1317179527], 0.693334058401, 1.5236290946),
    (1.0, 1.0): (0, [0.2570214188, 0.4237566803, 0.2570214188, 0.05734923035], 0.941441867395, 1.1293975481),
    (98.7, 4.5): (98, [0.1335736089, 0.1348993907, 0.1296739306], 0.655726092154, 96.1683176830),
}


def encode(grid, label, sigma, **options):
    return labels.encode_distribution(grid, jnp.array([label]), jnp.array([sigma]), **options)


def test_tests_run_under_rank_promotion_raise():
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones((4, 1)) - jnp.ones(4)


@pytest.mark.parametrize("module, is_error", [("agejax", True), ("data_pipelines.x.y", True), ("agejaxx", False)])
def test_tests_run_with_warnings_of_our_packages_as_errors(module, is_error):
    expected = pytest.raises(UserWarning) if is_error else contextlib.nullcontext()
    with expected, warnings.catch_warnings(record=True):  # not pytest.warns, which suspends the filters
        exec("import warnings; warnings.warn('from ' + __name__)", {"__name__": module})


@pytest.mark.parametrize("name, size, last", [("age", 101, 100), ("scut", 41, 5), ("cfd", 61, 7)])
def test_grids(name, size, last):
    grid = GRIDS[name]
    assert grid.size == len(grid.values) == size
    assert grid.values.dtype == np.float32
    assert grid.values[-1] == np.float32(last)
    assert hash(grid) == hash(LabelGrid(grid.low, grid.high, grid.step))


def test_age_grid_spans_the_ages_of_the_schema():
    assert (AGE.low, AGE.high) == AGE_RANGE


@pytest.mark.parametrize("step, size", [(4, 26), (2, 51), (0.5, 201), (0.25, 401), (0.1, 1001)])
def test_size_of_grid_for_step(step, size):
    assert LabelGrid(step=step).size == size


@pytest.mark.parametrize("low, high, step", [(0, 100, 3), (0, 100, 0), (0, 100, -1), (5, 1, 0.1), (1, 1, 1)])
def test_grid_that_is_no_whole_number_of_steps_is_refused(low, high, step):
    with pytest.raises(UserError, match="whole number of steps") as error:
        LabelGrid(low, high, step)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", GAUSSIANS)
def test_distribution_goldens(x64, case):
    first, expected, raw_sum, expectation = GAUSSIANS[case]
    p = encode(AGE, *case)
    raw = encode(AGE, *case, normalise=False)
    np.testing.assert_allclose(p[0, first : first + len(expected)], expected, **PRINTED)
    np.testing.assert_allclose(raw.sum(), raw_sum, rtol=2e-12)
    np.testing.assert_allclose(labels.expectation(p, AGE), [expectation], **PRINTED)


@pytest.mark.parametrize("case", GAUSSIANS)
def test_distribution_goldens_in_float32(case):
    first, expected, _, expectation = GAUSSIANS[case]
    p = encode(AGE, *case)
    assert p.dtype == jnp.float32
    np.testing.assert_allclose(p[0, first : first + len(expected)], expected, rtol=3e-6)
    np.testing.assert_allclose(labels.expectation(p, AGE), [expectation], rtol=3e-6)


def test_more_distribution_goldens(x64):
    p = encode(AGE, 50.3, 2.0)
    np.testing.assert_allclose(-jnp.sum(jax.scipy.special.xlogy(p, p)), 2.1120857138, **PRINTED)
    raw = encode(AGE, 50.3, 2.0, normalise=False)[0]
    np.testing.assert_allclose(raw[48:54], PEAK, **PRINTED)
    raw = encode(AGE, 0.5, 2.0, normalise=False)[0]
    np.testing.assert_allclose(raw[:4], [0.1933340584, 0.1933340584, 0.1505687161, 0.09132454269], **PRINTED)
    raw = encode(AGE, 26.0, 1.0, normalise=False)
    np.testing.assert_allclose(raw.sum(), 1.000000005351, rtol=1e-12)
    expected = [0.05399096622, 0.2419707232, 0.3989422783, 0.2419707232]
    np.testing.assert_allclose(encode(AGE, 26.0, 1.0)[0, 24:28], expected, **PRINTED)


def test_attractiveness_goldens(x64):
    p = encode(SCUT, 3.24, 0.6)
    np.testing.assert_allclose(encode(SCUT, 3.24, 0.6, normalise=False).sum(), 9.986703568, **PRINTED)
    assert p.argmax() == 22
    np.testing.assert_allclose(p[0, [22, 0, -1]], [0.0664311174, 6.263061366e-05, 9.013745367e-04], **PRINTED)
    np.testing.assert_allclose(labels.expectation(p, SCUT), [3.237653278], **PRINTED)


@pytest.mark.parametrize(
    "step, largest, expectation",
    [
        (4, 0.5631875997, 50.3415624),
        (2, 0.3944793297, 50.29999995),
        (0.5, 0.09923813687, 50.3),
        (0.25, 0.0498522038, 50.3),
    ],
)
def test_label_step_goldens(x64, step, largest, expectation):
    grid = LabelGrid(step=step)
    p = encode(grid, 50.3, 2.0)
    np.testing.assert_allclose(p.max(), largest, **PRINTED)
    np.testing.assert_allclose(labels.expectation(p, grid), [expectation], rtol=1e-9)
    if step == 4:
        np.testing.assert_allclose(encode(grid, 50.3, 2.0, normalise=False).sum(), 0.2467959933, **PRINTED)


@pytest.mark.parametrize("label, nearest", [(26.0, 26), (26.3, 26), (26.7, 27), (0.0, 0), (100.0, 100)])
def test_sigma_zero_is_one_hot_at_the_nearest_label(label, nearest):
    np.testing.assert_array_equal(encode(AGE, label, 0.0)[0], np.eye(101, dtype=np.float32)[nearest])


def test_sigma_zero_between_two_labels_is_halves():
    p = encode(AGE, 26.5, 0.0)[0]
    assert (p[26], p[27], p.sum()) == (0.5, 0.5, 1)


def test_sigma_zero_unnormalised_is_finite():
    assert jnp.isfinite(encode(AGE, 26.0, 0.0, normalise=False)).all()
    assert jnp.isfinite(encode(AGE, 26.3, 0.0, normalise=False)).all()


@pytest.mark.parametrize("grid", [AGE, SCUT, CFD], ids=GRIDS)
def test_every_distribution_sums_to_one_and_is_largest_at_its_label(grid):
    rng = np.random.default_rng(0)
    label_B = rng.uniform(grid.low, grid.high, 200)
    sigma_B = np.concatenate([np.zeros(20), 10 ** rng.uniform(-12, 3, 180)])
    p_BxK = labels.encode_distribution(grid, label_B, sigma_B)
    assert jnp.isfinite(p_BxK).all()
    np.testing.assert_allclose(p_BxK.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(p_BxK[jnp.arange(200), labels.nearest_index(grid, label_B)], p_BxK.max(1))


def test_expectation_and_spread_give_back_label_and_sigma():
    p = encode(AGE, 50.3, 2.0)
    np.testing.assert_allclose(labels.expectation(p, AGE), [50.3], rtol=1e-6)
    np.testing.assert_allclose(labels.spread(p, AGE), [2.0], rtol=1e-5)
    np.testing.assert_allclose(labels.variance(p, AGE), [4.0], rtol=1e-5)
    np.testing.assert_allclose(labels.spread(encode(AGE, 30.0, 0.0), AGE), [0.0])


def test_bfloat16_is_widened_before_any_maths():
    label_B, sigma_B = jnp.array([50.0], jnp.bfloat16), jnp.array([2.0], jnp.bfloat16)
    p_BxK = labels.encode_distribution(AGE, label_B, sigma_B)
    assert p_BxK.dtype == jnp.float32
    np.testing.assert_array_equal(p_BxK, encode(AGE, 50.0, 2.0))
    assert labels.expectation(p_BxK.astype(jnp.bfloat16), AGE).dtype == jnp.float32


def test_nearest_index():
    index_B = labels.nearest_index(AGE, jnp.array([0.0, 25.4, 25.5, 25.6, 26.5, 100.0]))
    np.testing.assert_array_equal(index_B, [0, 25, 25, 26, 26, 100])
    np.testing.assert_array_equal(labels.nearest_index(SCUT, jnp.array([1.0, 3.24, 5.0])), [0, 22, 40])


def test_unknown_label_is_no_class_and_no_ranking():
    unknown_B = jnp.array([np.nan, 3.0])
    np.testing.assert_array_equal(labels.nearest_index(AGE, unknown_B), [-1, 3])
    np.testing.assert_array_equal(jnp.isnan(labels.encode_ranking(AGE, unknown_B)).all(1), [True, False])


@pytest.mark.parametrize(
    "penalty, expected",
    [  # y = 2.4 on the labels 0 … 4, computed in numpy float64
        ("absolute", [0.051592861708, 0.14024393846, 0.381222549467, 0.312118625015, 0.11482202535]),
        ("squared", [0.001779148787, 0.079530058179, 0.481128814809, 0.393914956876, 0.043647021348]),
        ("squared_log", [0.058882058805, 0.198660314946, 0.259173296034, 0.25640297925, 0.226881350964]),
    ],
)
def test_soft_label_goldens(x64, penalty, expected):
    p_BxK = labels.encode_soft_labels(LabelGrid(0, 4, 1), jnp.array([2.4]), penalty)
    np.testing.assert_allclose(p_BxK[0], expected, rtol=1e-9)


def test_soft_labels_count_from_one_at_the_low_end_for_their_logarithm(x64):
    from_zero = labels.encode_soft_labels(LabelGrid(0, 4, 1), jnp.array([2.4]), "squared_log")
    from_seven = labels.encode_soft_labels(LabelGrid(7, 11, 1), jnp.array([9.4]), "squared_log")
    np.testing.assert_allclose(from_seven, from_zero, rtol=1e-12)
    expected = -jnp.square(jnp.log(jnp.array([3.24]))[:, None] - jnp.log(jnp.array(SCUT.as_array(np.float64)))[None, :])
    actual = labels.encode_soft_labels(SCUT, jnp.array([3.24]), "squared_log")  # which starts at 1: the paper's
    np.testing.assert_allclose(actual, jax.nn.softmax(expected), rtol=1e-12)


def test_soft_labels_of_squares_are_gaussian(x64):
    label_B = jnp.array([0.0, 26.3, 26.5, 100.0])
    gaussian_BxK = labels.encode_distribution(AGE, label_B, jnp.full(4, 3.0))
    np.testing.assert_allclose(labels.encode_soft_labels(AGE, label_B, "squared", 18.0), gaussian_BxK, rtol=1e-12)


@pytest.mark.parametrize("penalty", labels.PENALTIES)
@pytest.mark.parametrize("temperature", [1e-6, 1.0, 1e6])
def test_soft_labels_sum_to_one_and_are_largest_at_the_nearest_label(penalty, temperature):
    label_B = jnp.array([0.0, 0.4, 26.2, 99.6, 100.0])
    p_BxK = labels.encode_soft_labels(AGE, label_B, penalty, temperature)
    np.testing.assert_allclose(p_BxK.sum(1), np.ones(5), rtol=1e-5)
    np.testing.assert_array_equal(p_BxK[jnp.arange(5), labels.nearest_index(AGE, label_B)], p_BxK.max(1))


def test_ranking_encoding_goldens():
    ranking_BxJ = labels.encode_ranking(AGE, jnp.array([50, 50.3, 0, 100, 0.2]))
    assert ranking_BxJ.shape == (5, 100)
    assert ranking_BxJ.dtype == jnp.float32
    np.testing.assert_array_equal(ranking_BxJ.sum(1), [50, 51, 0, 100, 1])
    target = labels.encode_ranking(LabelGrid(0, 8, 1), jnp.array([3.2]))
    np.testing.assert_array_equal(target, [[1, 1, 1, 1, 0, 0, 0, 0]])


def test_ranking_decoding_golden():
    probability = jnp.array([[0.99, 0.9, 0.8, 0.45, 0.6, 0.2, 0.1, 0.05]])
    np.testing.assert_array_equal(labels.decode_ranking(LabelGrid(0, 8, 1), probability), [4])


def test_ranking_decoding_counts_no_ties():
    np.testing.assert_array_equal(labels.decode_ranking(AGE, jnp.full((1, 100), 0.5)), [0])


@pytest.mark.parametrize("grid", [AGE, SCUT, CFD], ids=GRIDS)
def test_ranking_decodes_to_its_label(grid):
    decoded_K = labels.decode_ranking(grid, labels.encode_ranking(grid, grid.values))
    np.testing.assert_array_equal(decoded_K, grid.values)


def test_ranking_decodes_a_label_off_the_grid_to_the_next():
    label_B = np.random.default_rng(0).uniform(0, 100, 100)
    decoded_B = labels.decode_ranking(AGE, labels.encode_ranking(AGE, label_B))
    np.testing.assert_array_equal(decoded_B, np.ceil(label_B.astype(np.float32)))


@pytest.mark.parametrize(
    "label, sigma, expected",
    [
        (50.0, 2.0, [0.7757682335, 0.5997355701, 0.4002644299, 0.2242317665, 0.1032464043]),
        (50.0, 0.5, [0.9997361229, 0.8932853535, 0.1067146465, 2.638770559e-4, 1.197946609e-8]),
        (50.0, 0.1, [1, 1, 0, 0, 0]),
        (50.3, 2.0, [0.8184751907, 0.6569890109, 0.4597493454, 0.2721291719, 0.1331367289]),
    ],
)
def test_survival_goldens(x64, label, sigma, expected):
    survival_BxJ = labels.survival(encode(AGE, label, sigma))
    assert survival_BxJ.shape == (1, 100)
    np.testing.assert_allclose(survival_BxJ[0, 48:53], expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("sigma, largest", [(2.0, 0.4002644299), (0.5, 0.1067146465), (0.1, 0.0)])
def test_survival_approaches_the_ranking_encoding(x64, sigma, largest):
    difference = labels.survival(encode(AGE, 50.0, sigma)) - labels.encode_ranking(AGE, jnp.array([50.0]))
    np.testing.assert_allclose(jnp.abs(difference).max(), largest, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("label", "sigma", "expected"),
    [  # DLDL-v2, 1 - c of Eq. 2 at l = 48 … 52, computed in numpy float64
        (50.0, 2.0, [0.8413447461, 0.6914624613, 0.5, 0.3085375387, 0.1586552539]),
        (50.0, 0.5, [0.9999683288, 0.9772498681, 0.5, 0.02275013195, 3.167124183e-5]),
        (50.3, 2.0, [0.8749280644, 0.7421538892, 0.5596176924, 0.3631693488, 0.1976625431]),
    ],
)
def test_survival_of_gaussian_goldens(x64, label, sigma, expected):
    survival_BxK = labels.survival_of_gaussian(AGE, jnp.array([label]), jnp.array([sigma]))
    np.testing.assert_allclose(survival_BxK[0, 48:53], expected, rtol=1e-9)


def test_survival_uses_the_lower_triangle_not_the_printed_one():
    p_BxK = encode(LabelGrid(0, 4, 1), 1.2, 0.8)
    lower = np.tril(np.ones((5, 5), np.float32))
    np.testing.assert_allclose(labels.survival(p_BxK)[0], (1 - lower @ p_BxK[0])[:-1], atol=1e-6)
    assert np.abs(labels.survival(p_BxK)[0] - (1 - lower.T @ p_BxK[0])[:-1]).max() > 0.5


@pytest.mark.parametrize("encode_labels", [labels.nearest_index, labels.encode_ranking, labels.encode_soft_labels])
def test_column_of_labels_is_refused(encode_labels):
    with pytest.raises(ValueError, match=r"label has shape \(4, 1\), expected \(4,\)"):
        encode_labels(AGE, jnp.ones((4, 1)))


@pytest.mark.parametrize("label, sigma, name", [((4, 1), (4,), "label"), ((4,), (4, 1), "sigma"), ((4,), (), "sigma")])
def test_distribution_refuses_columns_and_scalars(label, sigma, name):
    with pytest.raises(ValueError, match=f"{name} has shape"):
        labels.encode_distribution(AGE, jnp.ones(label), jnp.ones(sigma))


def test_ranking_of_another_grid_is_refused():
    with pytest.raises(ValueError, match=r"expected \(B, 100\)"):
        labels.decode_ranking(AGE, jnp.ones((2, 101)))
