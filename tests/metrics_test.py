"""Goldens: computed in numpy float64 from the equations of DLDL-v2 (ε-error, RMSE, PC) and LAE (AAR)."""

import json
import subprocess
import sys

import numpy as np
import pytest

from agejax import metrics

PRINTED = {"rtol": 1e-9, "atol": 0}
EPSILON_LABEL, EPSILON_PREDICTED, EPSILON_SIGMA = [27, 40, 50, 20], [25, 40, 60, 18.5], [3, 5, 4, 2.2]
AAR_LABEL = [5, 8, 15, 18, 25, 28, 29, 35, 38, 45, 55, 58, 65, 75, 80]
AAR_PREDICTED = [9, 6.5, 14, 21, 25.5, 27, 30, 33.8, 38.2, 47, 53, 60.5, 61, 70, 77]


@pytest.fixture(scope="module")
def example():
    rng = np.random.default_rng(0)
    label = rng.uniform(0, 90, 5000)
    sigma = np.where(rng.random(5000) < 0.5, np.nan, rng.uniform(0, 6, 5000))
    return label, label + rng.normal(0, 5, 5000), sigma


def test_epsilon_error_goldens():
    for row, expected in enumerate([0.1992625971, 0, 0.9560630664, 0.2074011241]):
        one = slice(row, row + 1)
        actual = metrics.epsilon_error(EPSILON_LABEL[one], EPSILON_PREDICTED[one], EPSILON_SIGMA[one])
        np.testing.assert_allclose(actual, expected, **PRINTED)
    actual = metrics.epsilon_error(EPSILON_LABEL, EPSILON_PREDICTED, EPSILON_SIGMA)
    np.testing.assert_allclose(actual, 0.3406816969, **PRINTED)


def test_mae_and_cumulative_score_goldens():
    assert metrics.mae(EPSILON_LABEL, EPSILON_PREDICTED) == 3.375
    assert metrics.cumulative_score(EPSILON_LABEL, EPSILON_PREDICTED, 3) == 0.75


def test_cumulative_score_includes_its_bound():
    assert metrics.cumulative_score([20, 20], [23, 23.5], 3) == 0.5


def test_epsilon_error_counts_known_sigmas_only():
    sigma = [3, np.nan, 4, np.nan]
    actual = metrics.epsilon_error(EPSILON_LABEL, EPSILON_PREDICTED, sigma)
    np.testing.assert_allclose(actual, (0.1992625971 + 0.9560630664) / 2, **PRINTED)
    assert metrics.epsilon_error([1, 2], [1, 2], [np.nan, np.nan]) is None


def test_epsilon_error_of_sigma_zero_is_one_unless_exact():
    assert metrics.epsilon_error([20, 20], [20, 20.001], [0, 0]) == 0.5


def test_rmse_and_pearson_goldens():
    label, predicted = [1.59, 2.9, 2.8, 4.67, 3.0], [1.68, 2.5, 3.1, 4.47, 3.3]
    np.testing.assert_allclose(metrics.mae(label, predicted), 0.258, rtol=1e-9)
    np.testing.assert_allclose(metrics.rmse(label, predicted), 0.2786036611, **PRINTED)
    np.testing.assert_allclose(metrics.pearson(label, predicted), 0.9593519241, **PRINTED)


@pytest.mark.parametrize("label, predicted", [([0.1] * 3, [1, 2, 3]), ([1, 2, 3], [0.1] * 3), ([5], [6])])
def test_pearson_of_a_constant_is_none(label, predicted):
    assert metrics.pearson(label, predicted) is None


def test_aar_goldens():
    groups = metrics.mae_by_age_group(AAR_LABEL, AAR_PREDICTED)
    np.testing.assert_allclose(metrics.mae(AAR_LABEL, AAR_PREDICTED), 2.126666667, rtol=1e-9)
    expected = [2.75, 2, 0.8333333333, 0.7, 2, 2.25, 4, 4]
    np.testing.assert_allclose([g["mae"] for g in groups.values()], expected, **PRINTED)
    assert [g["n"] for g in groups.values()] == [2, 2, 3, 2, 1, 2, 1, 2]
    np.testing.assert_allclose(metrics.sigma_of_groups(AAR_LABEL, AAR_PREDICTED), 1.18124346, rtol=1e-8)
    np.testing.assert_allclose(metrics.aar(AAR_LABEL, AAR_PREDICTED), 6.692089874, **PRINTED)


def test_aar_from_groups_goldens():
    # rows 2-4: Table 2 of LAE prints AAR for MAE and σ; groups at MAE ± σ have that σ
    actual = metrics.aar_from_groups(1.71, [4.66, 2, 1.4, 1.5, 1.7, 1.9, 2.2, 2.59])
    np.testing.assert_allclose(actual, 7.173224508, **PRINTED)
    for mae, sigma, printed in [(1.71, 1.11, 7.18), (1.89, 0.37, 7.74), (1.86, 0.20, 7.94), (9, 4, 0)]:
        actual = metrics.aar_from_groups(mae, [mae - sigma, mae + sigma])
        np.testing.assert_allclose(actual, printed, atol=1e-9)


def test_aar_leaves_empty_groups_out():
    label, predicted = [5, 25, 45], [6, 26, 46]
    np.testing.assert_allclose(metrics.aar(label, predicted), 9)


def test_age_groups_end_at_the_tens():
    label = [0, 0.5, 1, 10, 10.5, 11, 20, 20.1, 70, 70.5, 80, 81, 100]
    np.testing.assert_array_equal(metrics.age_group(label), [0, 0, 0, 0, 1, 1, 1, 2, 6, 7, 7, 7, 7])
    assert metrics.mae_by_age_group([5], [7]) == {
        name: {"mae": 2.0, "n": 1} if name == "0-10" else {"mae": None, "n": 0} for name in metrics.AGE_GROUPS
    }


def test_median_baseline():
    assert metrics.median_baseline_mae([10, 20, 60]) == pytest.approx(50 / 3)
    assert metrics.median_baseline_mae([10, 20, 60], train_median=30) == pytest.approx(20)


def test_summary_has_every_measure(example):
    label, predicted, sigma = example
    summary = metrics.summarise(label, predicted, sigma)
    assert summary["n"] == 5000
    assert summary["mae"] == metrics.mae(label, predicted)
    assert summary["rmse"] == metrics.rmse(label, predicted)
    assert summary["pearson"] == metrics.pearson(label, predicted)
    assert summary["epsilon_error"] == metrics.epsilon_error(label, predicted, sigma)
    assert summary["mae_by_age_group"] == metrics.mae_by_age_group(label, predicted)
    assert list(summary["cs"]) == [str(k) for k in range(1, 11)]
    assert summary["cs"]["5"] == metrics.cumulative_score(label, predicted, 5)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_a_score_that_is_no_age_has_the_same_measures_but_those_that_count_in_years(example):
    full, points = metrics.summarise(*example), metrics.summarise(*example, ages=False)
    kept = ("mae", "rmse", "pearson", "epsilon_error")
    assert points == {key: full[key] for key in ("n", *kept)} | {
        "intervals": {key: pytest.approx(full["intervals"][key], rel=1e-12) for key in kept}
    }


def test_resampling_everything_once_gives_the_measures_themselves(example):
    label, predicted, sigma = example
    terms = metrics._terms(label, predicted, sigma) | metrics._age_terms(label, predicted)
    sums = {name: term.sum(keepdims=True) for name, term in terms.items()}
    whole = {name: value for name, (value,) in (metrics._measures(sums) | metrics._age_measures(sums)).items()}
    expected = {name: getattr(metrics, name)(label, predicted) for name in ("mae", "rmse", "pearson")}
    expected["epsilon_error"] = metrics.epsilon_error(label, predicted, sigma)
    expected |= {f"cs{k}": metrics.cumulative_score(label, predicted, k) for k in range(1, 11)}
    expected |= {name: group["mae"] for name, group in metrics.mae_by_age_group(label, predicted).items()}
    assert whole == pytest.approx(expected, rel=1e-12)


def test_intervals_agree_with_theory(example):
    label, predicted, sigma = example
    summary = metrics.summarise(label, predicted, sigma)
    absolute, square = np.abs(predicted - label), (predicted - label) ** 2
    half_widths = {
        "mae": 1.96 * absolute.std() / np.sqrt(5000),
        "rmse": 1.96 * square.std() / np.sqrt(5000) / (2 * summary["rmse"]),
    }
    for name, half_width in half_widths.items():
        low, high = summary["intervals"][name]
        assert low < summary[name] < high
        np.testing.assert_allclose((high - low) / 2, half_width, rtol=0.1, err_msg=name)


def test_intervals_are_those_of_a_plain_loop(example):
    label, predicted, sigma = (x[:60] for x in example)
    rng, values = np.random.default_rng(3), []
    for _ in range(200):
        i = rng.integers(60, size=60)
        row = [f(label[i], predicted[i]) for f in (metrics.mae, metrics.rmse, metrics.pearson)]
        values.append([*row, metrics.epsilon_error(label[i], predicted[i], sigma[i])])
    expected = np.percentile(values, (2.5, 97.5), axis=0).T
    intervals = metrics.summarise(label, predicted, sigma, resamples=200, seed=3)["intervals"]
    flat = [intervals[name] for name in ("mae", "rmse", "pearson", "epsilon_error")]
    np.testing.assert_allclose(flat, expected, rtol=1e-9)


def test_intervals_of_scores_and_groups_are_those_of_a_plain_loop(example):
    label, predicted, _ = (x[:60] for x in example)
    rng, values = np.random.default_rng(3), []
    for _ in range(200):
        i = rng.integers(60, size=60)
        groups = metrics.mae_by_age_group(label[i], predicted[i])
        values.append([metrics.cumulative_score(label[i], predicted[i], 5), groups["21-30"]["mae"] or np.nan])
    expected = np.nanpercentile(values, (2.5, 97.5), axis=0).T
    intervals = metrics.summarise(label, predicted, resamples=200, seed=3)["intervals"]
    np.testing.assert_allclose([intervals["cs"]["5"], intervals["mae_by_age_group"]["21-30"]], expected, rtol=1e-9)


def test_intervals_cover_the_truth_about_95_times_in_100():
    rng, covered = np.random.default_rng(1), 0
    for _ in range(200):
        error = rng.normal(0, 5, 100)
        low, high = metrics.summarise(np.zeros(100), error, resamples=300)["intervals"]["mae"]
        covered += low < 5 * np.sqrt(2 / np.pi) < high
    assert 0.89 <= covered / 200 <= 0.98


def of_trials(measure, *arguments, **options):
    return metrics.interval_over_trials(lambda y, p, s: measure(y, p), *arguments, **options)


def test_interval_over_one_trial_is_the_plain_bootstrap(example):
    label, predicted, _ = (x[:300] for x in example)
    found = of_trials(metrics.mae, label, predicted[None], resamples=2000)
    expected = metrics.summarise(label, predicted, resamples=2000)["intervals"]["mae"]
    np.testing.assert_allclose(found, expected, rtol=0.02)


def test_interval_over_trials_has_the_spread_of_trials_and_of_examples():
    rng, trials, n = np.random.default_rng(5), 8, 200
    offset = rng.normal(0, 1, (trials, 1))
    predictions = 20 + offset + rng.normal(0, 3, n)[None]  # far above the labels: the MAE is the mean error
    low, high = of_trials(metrics.mae, np.zeros(n), predictions, resamples=4000)
    # two levels, drawn anew apart: their variances add up
    deviation = np.sqrt(predictions.mean(1).var() / trials + predictions.mean(0).var() / n)
    np.testing.assert_allclose((high - low) / 2, 1.96 * deviation, rtol=0.06)
    np.testing.assert_allclose((high + low) / 2, predictions.mean(), rtol=0.01)


def test_interval_over_equal_trials_is_that_of_one(example):
    label, predicted, sigma = (x[:100] for x in example)
    known = metrics.interval_over_trials(metrics.epsilon_error, label, predicted[None], sigma)
    again = metrics.interval_over_trials(metrics.epsilon_error, label, np.stack([predicted] * 3), sigma)
    np.testing.assert_allclose(known, again, atol=0.02)
    assert metrics.interval_over_trials(metrics.epsilon_error, label, predicted[None], resamples=9) is None


def test_interval_over_trials_refuses_other_shapes():
    for predictions in (np.zeros(5), np.zeros((2, 4)), np.zeros((0, 5))):
        with pytest.raises(ValueError, match="predictions have shape"):
            of_trials(metrics.mae, np.zeros(5), predictions)


def test_intervals_are_seeded_and_do_not_depend_on_the_block(example, monkeypatch):
    intervals = metrics.summarise(*example)["intervals"]
    assert metrics.summarise(*example)["intervals"] == intervals
    assert metrics.summarise(*example, seed=1)["intervals"] != intervals
    monkeypatch.setattr(metrics, "BOOTSTRAP_BLOCK", 7 * 5000)
    blocked = metrics.summarise(*example)["intervals"]
    for name in ("mae", "rmse", "pearson", "epsilon_error"):
        np.testing.assert_allclose(blocked[name], intervals[name], rtol=1e-12)


def test_summary_without_sigma_and_of_few_examples_is_json():
    summary = metrics.summarise([30], [33])
    assert summary["epsilon_error"] is summary["pearson"] is None
    assert (
        summary["intervals"].items() >= {"mae": [3, 3], "rmse": [3, 3], "pearson": None, "epsilon_error": None}.items()
    )
    assert summary["intervals"]["mae_by_age_group"]["0-10"] is None
    for label, predicted in [([20, 30], [22, 30]), ([0.1] * 3, [1, 2, 3])]:
        json.dumps(metrics.summarise(label, predicted), allow_nan=False)


@pytest.mark.parametrize(
    "label, predicted, sigma, message",
    [
        ([], [], None, "n > 0"),
        ([1, 2], [1], None, "label has shape"),
        ([[1], [2]], [1, 2], None, "label has shape"),
        ([1, 2], [1, np.nan], None, "predicted is not finite in 1 of 2"),
        ([np.inf, 2], [1, 2], None, "label is not finite"),
        ([1, 2], [1, 2], [[1], [2]], "sigma has shape"),
    ],
)
def test_unusable_input_is_refused(label, predicted, sigma, message):
    with pytest.raises(ValueError, match=message) as error:
        metrics.summarise(label, predicted, sigma)
    assert "\n" not in str(error.value)


def test_metrics_do_not_import_jax():
    code = "import sys, agejax.metrics; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
