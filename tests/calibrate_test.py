"""Conformal intervals: their coverage over many draws, their quantile by its definition, and the command line."""

import dataclasses
import json
import re

import numpy as np
import pytest

from agejax import calibrate
from agejax.__main__ import main
from agejax.labels import AGE, SCUT
from agejax.objectives import DEX, MetricRegression, Ranking
from agejax.training.evaluate import Predictions
from data_pipelines.errors import UserError


def drawn(rng, n, factor=1.5):
    """Ages well inside the grid, whose error is `factor` times as wide as the spread says, and wider for the old."""
    value = rng.uniform(35, 65, n)
    spread = 1 + rng.uniform(0, 3, n)
    label = value + factor * spread * rng.laplace(0, 1, n)
    return Predictions(np.arange(n), label, np.full(n, np.nan), value, spread)


def fit(predictions, *coverages, width="spread", **options):
    return calibrate.fit(predictions, coverages, width=width, grid=AGE, target="age", **options)


@pytest.mark.parametrize("n", [1, 9, 10, 19, 99, 100])
@pytest.mark.parametrize("coverage", [0.5, 0.7, 0.8, 0.9, 0.95])
def test_quantile_is_the_smallest_that_the_definition_allows(n, coverage):
    scores = np.random.default_rng(n).permutation(np.arange(1.0, n + 1))
    # a new number falls into each of the n + 1 gaps alike: P(new <= k-th smallest) = k / (n + 1)
    enough = [k for k in range(1, n + 1) if k / (n + 1) >= coverage - 1e-12]
    if enough:
        assert calibrate.conformal_quantile(scores, coverage) == enough[0]
    else:
        with pytest.raises(UserError, match=f"coverage {coverage:g} needs .* and there are {n}"):
            calibrate.conformal_quantile(scores, coverage)


def test_too_few_examples_are_told_how_many_are_needed():
    with pytest.raises(UserError, match=r"coverage 0\.95 needs 19 examples"):
        calibrate.conformal_quantile(np.zeros(18), 0.95)
    assert calibrate.conformal_quantile(np.zeros(19), 0.95) == 0
    with pytest.raises(UserError, match=r"needs 99,999,99\d examples or more in each band, and there are 18$"):
        calibrate.conformal_quantile(np.zeros(18), 0.99999999)


@pytest.mark.parametrize("coverage", [1e-6, 0.1, 0.5, 0.7, 0.9, 0.95, 0.999, 0.9999])
def test_the_number_that_is_needed_is_the_least(coverage):
    with pytest.raises(UserError) as told:
        calibrate.conformal_quantile([], coverage)
    least = int(re.search(r"needs ([\d,]+) examples", str(told.value))[1].replace(",", ""))
    calibrate.conformal_quantile(np.zeros(least), coverage)
    with pytest.raises(UserError, match=f"needs {least:,} examples"):
        calibrate.conformal_quantile(np.zeros(least - 1), coverage)


def test_the_least_of_coverages_takes_the_smallest_score():
    assert calibrate.conformal_quantile([3.0, 1.0, 2.0], 1e-10) == 1


@pytest.mark.parametrize("width", ["constant", "spread"])
@pytest.mark.parametrize("bands", [1, 3])
def test_coverage_over_many_draws_is_what_was_asked_for(width, bands):
    rng, shares = np.random.default_rng(0), []
    for _ in range(300):
        calibration = fit(drawn(rng, 60), 0.8, width=width, bands=bands)
        shares.append(calibrate.measure(calibration, drawn(rng, 100))["0.8"]["share"])
    n = 60 // bands
    exact = np.ceil((n + 1) * 0.8 - 1e-9) / (n + 1)  # without ties: coverage, to within 1 / (n + 1)
    error = np.std(shares) / np.sqrt(len(shares))
    assert abs(np.mean(shares) - exact) < 3.5 * error + 0.002
    assert error < 0.006


def test_a_spread_that_tells_gives_narrower_intervals_and_even_coverage():
    rng = np.random.default_rng(1)
    held, test = drawn(rng, 4000), drawn(rng, 4000)
    by_spread, constant = (fit(held, 0.9, width=width) for width in ("spread", "constant"))
    narrow, wide = (calibrate.measure(one, test)["0.9"] for one in (by_spread, constant))
    assert narrow["mean_width"] < 0.97 * wide["mean_width"]
    sure = test.spread < 1.5
    for calibration, least, most in ((by_spread, 0.88, 0.92), (constant, 0.97, 1.0)):
        low, high = calibration.interval(test.value, test.spread, "0.9")
        assert least < ((low <= test.label) & (test.label <= high))[sure].mean() < most


def test_bands_are_calibrated_each_for_itself():
    rng = np.random.default_rng(2)
    value = rng.uniform(30, 70, 6000)
    label = value + rng.normal(0, np.where(value > 50, 6, 2))
    every = Predictions(np.arange(6000), label, np.full(6000, np.nan), value, np.ones(6000))
    calibration = fit(every, 0.9, width="constant", bands=2)
    assert calibration.edges == pytest.approx((50,), abs=1)
    np.testing.assert_allclose(calibration.quantiles["0.9"], [2 * 1.645, 6 * 1.645], rtol=0.1)
    assert calibration.half_width([40, 60], [1, 1], "0.9").tolist() == list(calibration.quantiles["0.9"])


def test_intervals_end_with_the_grid_and_no_spread_is_too_small():
    calibration = dataclasses.replace(fit(drawn(np.random.default_rng(0), 50), 0.8), quantiles={"0.8": (2.0,)})
    low, high = calibration.interval([1, 50, 99.5], [3, 0, np.float32(0.25)], "0.8")
    assert low.tolist() == [0, 48, 97.5] and high.tolist() == [7, 52, 100]
    assert calibrate.fit(
        drawn(np.random.default_rng(0), 50), [0.8], width="spread", grid=SCUT, target="attractiveness"
    ).floor == pytest.approx(0.1)


def test_what_is_measured():
    calibration = dataclasses.replace(fit(drawn(np.random.default_rng(0), 50), 0.8), quantiles={"0.8": (1.0,)})
    label = np.array([5, 8, 22, 30, 25, 90.0])
    value, spread = np.array([5, 14, 20, 25, 25, 92.0]), np.array([1, 4, 2, 5, 3, 10.0])
    found = calibrate.measure(calibration, Predictions(np.arange(6), label, np.full(6, np.nan), value, spread))["0.8"]
    assert (found["n"], found["share"]) == (6, 5 / 6)
    assert found["mean_width"] == pytest.approx((2 + 8 + 4 + 10 + 6 + 18) / 6)  # 92 ± 10 ends at 100
    groups = found["by_age_group"]
    assert {name: (group["n"], group["share"], group["mean_width"]) for name, group in groups.items()} == {
        "0-10": (2, 0.5, 5), "21-30": (3, 1, pytest.approx(20 / 3)), "71+": (1, 1, 18)
    }  # fmt: skip
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_wilson_interval_is_the_root_of_its_equation():
    for share, n in [(0.9, 562), (0.0, 5), (1.0, 5), (0.5, 1)]:
        for bound in calibrate.wilson(share, n):
            if 1e-9 < bound < 1 - 1e-9:
                assert abs(share - bound) == pytest.approx(1.959964 * np.sqrt(bound * (1 - bound) / n), rel=1e-6)
    assert (calibrate.wilson(0.0, 5)[0], calibrate.wilson(1.0, 5)[1]) == pytest.approx((0, 1), abs=1e-12)


@pytest.mark.parametrize(
    "change, options, told",
    [
        ({}, {"coverages": []}, "got none"),
        ({}, {"coverages": [0.9, 1.0]}, "coverage must lie between 0 and 1, got 0.9, 1"),
        ({}, {"coverages": [0.1234567]}, "coverage 0.1234567 has more than 6 digits"),
        ({}, {"coverages": [0.99999999]}, "coverage 0.99999999 has more than 6 digits"),
        ({}, {"coverages": [0.999999]}, "coverage 0.999999 needs 999,999 examples or more"),
        ({}, {"bands": 0}, "bands must be 1 or more"),
        ({}, {"bands": 6}, "coverage 0.9 needs 9 examples or more in each band, and there are 8"),
        ({"label": np.nan}, {}, "1 of 50 examples have no age"),
        ({"value": np.nan}, {}, "1 of 50 predictions are not finite"),
        ({"spread": np.inf}, {"width": "constant"}, "1 of 50 predictions are not finite"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(change, options, told):
    predictions = drawn(np.random.default_rng(0), 50)
    for name, value in change.items():
        getattr(predictions, name)[3] = value
    with pytest.raises(UserError, match=re.escape(told)):
        calibrate.fit(predictions, **{"coverages": [0.9], "width": "spread", "grid": AGE, "target": "age"} | options)


def test_only_a_distribution_has_a_spread_to_go_by():
    assert [calibrate.usual_width(objective) for objective in (DEX(), Ranking(), MetricRegression())] == [
        "spread", "spread", "constant"
    ]  # fmt: skip


@pytest.fixture
def stage(tiny_run, tmp_path):
    """A copy of the finished stage that may be written to."""
    for name in ("best", "latest"):
        if (saved := tiny_run.folder / "finetune" / "checkpoints" / name).exists():
            (tmp_path / "finetune/checkpoints").mkdir(parents=True, exist_ok=True)
            (tmp_path / "finetune/checkpoints" / name).symlink_to(saved)
    card = tmp_path / "finetune/stage.json"
    card.write_bytes((tiny_run.folder / "finetune/stage.json").read_bytes())
    return card.parent


def run(command, stage, data, *words):
    return main([command, f"--checkpoint={stage.parent}", "--data=synthetic", f"--data_dir={data}", *words])


def test_a_stage_is_calibrated_and_evaluated_on_the_command_line(stage, drawn_data, tmp_path, capsys):
    files = [f"--json={tmp_path}/n.json", f"--predictions={tmp_path}/rows.csv"]
    before = {path for path in stage.rglob("*")}
    assert run("calibrate", stage, drawn_data, "--split=train+val", "--coverage=0.5,0.9") == 0
    told = capsys.readouterr()
    assert re.search(r"^50 % intervals: predicted ± [\d.]+ predicted std\n90 % intervals: ", told.out)
    assert f"from 56 examples (synthetic train+val); written to {stage}/calibration.json" in told.out
    assert "warning: intervals from examples that were trained on" in told.err
    assert {path for path in stage.rglob("*")} - before == {stage / "calibration.json"}

    assert run("evaluate", stage, drawn_data, "--split=train+val", *files) == 0
    printed = capsys.readouterr().out
    numbers = json.loads((tmp_path / "n.json").read_text())["calibration"]
    assert (numbers["data"], numbers["split"]) == ("synthetic", "train+val")
    for coverage, rank in (("0.5", 29), ("0.9", 52)):  # of 56 that were calibrated on: their rank, exactly
        assert numbers["coverage"][coverage]["share"] == pytest.approx(rank / 56)
    share = r"\n90 % intervals hold 92\.9 % \[\d+\.\d, 9\d\.\d\] of 56 labels"
    assert re.search(share + r", mean width \d+\.\d years \(calibrated on these\)\n", printed)
    head, *rows = ((tmp_path / "rows.csv").read_text()).splitlines()
    assert head == "id,age,sigma,predicted,predicted_std,low_50,high_50,low_90,high_90"
    rows = np.array([[float(cell or "nan") for cell in row.split(",")[1:]] for row in rows])
    label, _, value, spread, low_50, high_50, low, high = rows.T
    assert ((low <= low_50) & (low_50 <= value) & (value <= high_50) & (high_50 <= high)).all()
    assert ((low <= label) & (label <= high)).sum() == 52
    q = calibrate.read(stage).quantiles["0.9"][0]
    np.testing.assert_allclose(high, np.minimum(100, value + q * np.maximum(spread, 1)), rtol=1e-6)


def test_a_calibration_of_other_weights_is_refused(stage, drawn_data, capsys):
    assert run("calibrate", stage, drawn_data, "--split=val", "--coverage=0.5", "--width=constant") == 0
    assert "predicted ± " in capsys.readouterr().out and calibrate.read(stage).width == "constant"
    assert run("evaluate", stage, drawn_data, "--versions=2") == 2
    assert "is of 1 versions of each image" in capsys.readouterr().err
    card = stage / "stage.json"
    card.write_text(card.read_text() + " ")
    assert run("evaluate", stage, drawn_data) == 2
    assert "is of other weights than" in capsys.readouterr().err
    (stage / "calibration.json").write_text("{}")
    assert run("evaluate", stage, drawn_data) == 2
    assert "is not a calibration" in capsys.readouterr().err


def test_too_small_a_split_is_one_line(stage, drawn_data, capsys):
    assert run("calibrate", stage, drawn_data, "--coverage=0.99") == 2
    told = capsys.readouterr().err
    assert told.startswith("error: coverage 0.99 needs 99 examples") and told.count("\n") == 1
    assert not (stage / "calibration.json").exists()


@pytest.fixture
def unasked(monkeypatch):
    """Drawn answers in place of the network's."""

    def answer(place, examples, words):
        return drawn(np.random.default_rng(0), len(examples))

    monkeypatch.setattr("agejax.__main__._predictions", answer)


@pytest.mark.parametrize(
    "data, trained, split, told",
    [
        ("synthetic", "train", "val", ""),
        ("synthetic", "train+val", "val", "warning: intervals from examples that were trained on"),
        ("synthetic", "train+val", "val+test", "warning: intervals from examples that were trained on"),
        ("synthetic", "all", "test", "warning: intervals from examples that were trained on"),
        ("synthetic", "val", "all", "warning: intervals from examples that were trained on"),
        ("synthetic@half", "train", "val", "warning: synthetic val may hold images that were trained on"),
        ("synthetic/mugshot", "train", "train", ""),
        ("synthetic", None, "val", ""),
        ("synthetic", None, "train", "warning: intervals from examples that were trained on"),
    ],
)
@pytest.mark.usefixtures("unasked")
def test_a_split_that_was_trained_on_is_told(stage, drawn_data, capsys, data, trained, split, told):
    """Without a word about it in the card, as of older runs, it is taken to be `train`."""
    card = json.loads((stage / "stage.json").read_text())
    card.pop("trained_on", None)
    card |= {"trained_on": {"data": data, "split": trained}} if trained else {}
    (stage / "stage.json").write_text(json.dumps(card))
    assert run("calibrate", stage, drawn_data, f"--split={split}", "--coverage=0.5") == 0
    warned = capsys.readouterr().err
    assert warned.count("\n") == bool(told) and warned.startswith(told)


@pytest.mark.parametrize(
    "data, calibrated, split, told",
    [
        ("synthetic", "val", "test", ""),
        ("synthetic", "val+test", "test+val", " (calibrated on these)"),
        ("synthetic", "val+test", "test", " (calibrated on these)"),
        ("synthetic", "all", "test", " (calibrated on these)"),
        ("synthetic", "val", "all", " (calibrated on some of these)"),
        ("synthetic@half", "val", "test", " (perhaps calibrated on some of these)"),
        ("aaf", "val", "val", ""),
    ],
)
@pytest.mark.usefixtures("unasked")
def test_what_was_calibrated_on_is_told_beside_its_coverage(
    stage, drawn_data, tmp_path, capsys, data, calibrated, split, told
):
    assert run("calibrate", stage, drawn_data, "--coverage=0.5") == 0
    saved = json.loads((stage / "calibration.json").read_text()) | {"data": data, "split": calibrated}
    (stage / "calibration.json").write_text(json.dumps(saved))
    capsys.readouterr()
    assert run("evaluate", stage, drawn_data, f"--split={split}", f"--json={tmp_path}/n.json") == 0
    assert re.search(rf"mean width [\d.]+ years{re.escape(told)}\n$", capsys.readouterr().out)
    assert json.loads((tmp_path / "n.json").read_text())["calibration"]["calibrated_on_these"] is bool(told)


def test_words_and_places_are_looked_at_before_anything_is_predicted(stage, drawn_data, monkeypatch, capsys):
    monkeypatch.setattr("agejax.__main__._predictions", lambda *_: 1 / 0)
    for words, told in ((["--coverage=1.5"], "coverage must lie between"), (["--bands=0"], "bands must be 1 or more")):
        assert run("calibrate", stage, drawn_data, *words) == 2
        assert told in capsys.readouterr().err
    (stage / "calibration.json").mkdir()
    assert run("calibrate", stage, drawn_data) == 2
    assert re.match(r"error: \S+calibration.json cannot be written \(Is a directory\)", capsys.readouterr().err)
