import csv
import html.parser
import json
import re

import cv2
import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.schema import record
from experiments.report import headline, write_report
from experiments.saved import read_metrics, read_predictions

EVIL = "<script>alert(1)</script>"


def rows(n=30, sigma=True):
    rng = np.random.default_rng(0)
    age = rng.uniform(5, 80, n).round(2)
    predicted = (age + rng.normal(0, 4, n)).round(2)
    return [[f"r{i}", age[i], 3.0 if sigma else "", predicted[i], 4.0 if sigma else ""] for i in range(n)]


def write_csv(workdir, table, target="age"):
    with (workdir / "predictions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", target, "sigma", "predicted", "predicted_std"], *table])


def make_workdir(workdir, table=None, **changes):
    table = rows() if table is None else table
    write_csv(workdir, table)
    error = np.array([abs(row[3] - row[1]) for row in table])
    test = {
        "data": "synthetic", "split": "test", "target": "age", "n": len(table), "mae": error.mean(), "rmse": 5.25,
        "pearson": 0.9712, "epsilon_error": 0.3141, "cs": {"3": 0.505, "5": 0.75},
        "mae_by_age_group": {"0-10": {"mae": 3.1, "n": 40}},
        "intervals": {
            "mae": [1.234, 5.678], "rmse": None, "cs": {"5": [0.701, 0.812]}, "mae_by_age_group": {"0-10": [2.8, 3.4]},
        },
    }  # fmt: skip
    results = {
        "name": "a_run", "config": {}, "test": test, "median_baseline_mae": 20.31, "drawn": True, "device": "cpu",
        "stages": {"pretrain": {"steps": 900, "parameters": 3708229}, "finetune": {"steps": 8, "best": {"step": 4}}},
        "versions": {"jax": "1.2.3"}, "devices": 1, "command": "python run.py --x=1", "date": "today",
    }  # fmt: skip
    config = {"objective": {"lambda_": 0.5}, "stages": [{"name": "finetune", "epochs": 3}]}
    (workdir / "results.json").write_text(json.dumps(results | changes))
    (workdir / "config.json").write_text(json.dumps(config))
    (workdir / "finetune").mkdir(exist_ok=True)
    lines = [{"step": s, "epoch": s, "split": p, "loss": 1 / s, "mae": 9 / s} for s in (1, 2) for p in ("train", "val")]
    (workdir / "finetune/metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 3, "spl')
    return workdir


def page_of(workdir, source=None):
    return write_report(workdir, source).read_text()


def make_points_workdir(workdir):
    """A run that predicts attractiveness, after a stage that trained on age."""
    table = [
        [name, age / 20, sigma and 0.6, round(guess / 20, 3), std and 0.2] for name, age, sigma, guess, std in rows()
    ]
    make_workdir(workdir, table)
    results = json.loads((workdir / "results.json").read_text())
    test = results["test"] | {"target": "attractiveness", "mae": np.mean([abs(row[3] - row[1]) for row in table])}
    del test["cs"], test["mae_by_age_group"]
    test["intervals"] = {"mae": [0.1234, 0.5678], "rmse": [0.2, 0.3], "pearson": None, "epsilon_error": [0.3, 0.4]}
    stages = {name: {"steps": 2} for name in ("ages", "finetune")}
    changed = results | {"test": test, "stages": stages, "median_baseline_mae": 0.512}
    (workdir / "results.json").write_text(json.dumps(changed))
    (workdir / "ages").mkdir()
    (workdir / "ages/metrics.jsonl").write_bytes((workdir / "finetune/metrics.jsonl").read_bytes())
    targets = {"ages": "age", "finetune": "attractiveness"}
    config = {"stages": [{"name": name, "objective": {"target": target}} for name, target in targets.items()]}
    (workdir / "config.json").write_text(json.dumps(config))
    write_csv(workdir, table, "attractiveness")
    return table


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for key, value in attributes if key in ("src", "href", "xlink:href", "srcset")]


def source_of(table):
    image = cv2.imencode(".png", np.full((40, 30, 3), 90, np.uint8))[1].tobytes()
    return [record(row[0], image, age=row[1]) for row in table]


def test_page_shows_the_numbers(tmp_path):
    table = rows()
    page = page_of(make_workdir(tmp_path, table))
    mae = np.mean([abs(row[3] - row[1]) for row in table])
    assert f"MAE {mae:.2f} years [1.23, 5.68], n = 30; the median age alone gives 20.3" in page
    for text in ("drawn faces", "<b>0.971</b>", "<b>0.314</b>", "<b>75.0</b> %", "[70.1, 81.2]", "3,708,229",
                 "step 4", "objective.lambda_ = 0.5", "stages.finetune.epochs = 3", "jax 1.2.3", "--x=1"):  # fmt: skip
        assert text in page, text
    assert page.count("<svg") == 7  # five of the test set, loss and MAE of finetune
    assert 'class="warning"' not in page


def test_page_of_attractiveness_counts_in_points_and_knows_no_ages(tmp_path):
    table = make_points_workdir(tmp_path)
    page = page_of(tmp_path)
    mae = np.mean([abs(row[3] - row[1]) for row in table])
    assert f"MAE {mae:.3f} points [0.123, 0.568], n = 30; the median attractiveness alone gives 0.51" in page
    measured, training = page.split("<h2>Training</h2>")
    for text in ("true attractiveness (points)", "predicted attractiveness (points)", "<b>5.250</b> points",
                 "Predicted for true attractiveness, in points", "Attractiveness in this split"):  # fmt: skip
        assert text in measured, text
    words = re.sub(r"<style.*?</style>", "", measured, flags=re.DOTALL)
    assert not re.search(r"\byears?\b|\bages?\b|CS@|Cumulative", words, flags=re.IGNORECASE)
    worst = max(table, key=lambda row: abs(row[3] - row[1]))
    assert f"<b>{worst[3]:.2f}</b> for {worst[1]:.2f}" in measured
    assert 'class="warning"' not in page
    assert page.count("<svg") == 7  # three of the test set, loss and MAE of each stage
    ages, finetune = training.split("<h3>finetune</h3>")
    assert "absolute error (years)" in ages and "absolute error (points)" not in ages
    assert "absolute error (points)" in finetune and "years" not in finetune.split("<h2>")[0]


def test_a_small_disagreement_in_points_is_told(tmp_path):
    table = make_points_workdir(tmp_path)
    table[3][3] += 0.06 * (1 if table[3][3] > table[3][1] else -1)  # 0.002 in the mean
    write_csv(tmp_path, table, "attractiveness")
    assert "not of one evaluation" in page_of(tmp_path)


def test_intervals_of_the_groups_are_drawn(tmp_path):
    make_workdir(tmp_path)
    assert page_of(tmp_path).count("95 % interval") == 3  # the table, the groups, the cumulative score
    results = json.loads((tmp_path / "results.json").read_text())
    del results["test"]["intervals"]["mae_by_age_group"], results["test"]["intervals"]["cs"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert page_of(tmp_path).count("95 % interval") == 1


def test_errors_of_groups_stand_in_a_table(tmp_path):
    assert "Error by group" not in page_of(make_workdir(tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    row = {"mae": 4.123, "n": 1234, "bias": -0.456, "interval": [3.9, 4.35]}
    results["test"]["by_group"] = {"gender": {"female": row}, "ethnicity": {EVIL: row | {"bias": 0.456}}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    table = page_of(tmp_path).split("Error by group")[1].split("</table>")[0]
    cells = "<td>1,234</td><td><b>4.12</b></td><td>[3.90, 4.35]</td><td>−0.46</td>"
    assert f"<th>gender: female</th>{cells}" in table
    assert "ethnicity: &lt;script&gt;" in table and "<td>+0.46</td>" in table


def test_page_loads_nothing(tmp_path):
    table = rows()
    page = page_of(make_workdir(tmp_path, table), source_of(table))
    parsed = Page(page)
    assert not {"script", "link", "iframe", "object"} & set(parsed.tags)
    assert parsed.addresses and all(a.startswith(("data:image/jpeg", "#")) for a in parsed.addresses)
    assert not re.search(r"https?://|@import|url\((?!#)", page)


def test_pictures_only_with_a_source(tmp_path):
    table = rows()
    assert "img" not in Page(page_of(make_workdir(tmp_path, table))).tags
    assert Page(page_of(tmp_path, source_of(table))).tags.count("img") == 16


def test_worst_examples_come_first(tmp_path):
    table = [["good", 30.0, "", 30.5, ""], ["bad", 30.0, "", 60.0, ""], ["fair", 30.0, "", 33.0, ""]]
    page = page_of(make_workdir(tmp_path, table))
    largest, smallest = page.split("Largest errors")[1].split("Smallest errors")
    assert re.findall(r'title="(\w+)"', largest) == ["bad", "fair"]
    assert re.findall(r'title="(\w+)"', smallest)[:2] == ["good", "fair"]
    assert "<b>60.0</b> for 30.0" in largest


def test_text_from_files_is_escaped(tmp_path):
    table = rows()
    table[0][0], table[0][3] = EVIL, table[0][1] + 50.0  # among the worst
    stages = {EVIL.replace("/", ""): {EVIL: EVIL, "best": {EVIL: 1}}}
    evil = dict.fromkeys(("name", "command", "device", "date"), EVIL)
    make_workdir(tmp_path, table, stages=stages, versions={EVIL: EVIL}, left_out={EVIL: EVIL}, **evil)
    (tmp_path / "config.json").write_text(json.dumps({EVIL: EVIL}))
    page = page_of(tmp_path, source_of(table))
    assert "script" not in Page(page).tags and "alert(1)&lt;/script&gt;" in page
    assert "<script" not in page


def test_a_changed_prediction_changes_the_page(tmp_path):
    table = rows()
    before = page_of(make_workdir(tmp_path, table))
    middle = sorted(range(30), key=lambda i: abs(table[i][3] - table[i][1]))[15]
    table[middle][3] += 0.05  # neither among the best nor the worst: only the figures hold it
    write_csv(tmp_path, table)
    assert page_of(tmp_path) != before
    table[3][3] += 15.0
    write_csv(tmp_path, table)
    assert "not of one evaluation" in page_of(tmp_path)


def test_what_was_not_saved_is_not_measured(tmp_path):
    full = page_of(make_workdir(tmp_path)).count("not measured")
    results = json.loads((tmp_path / "results.json").read_text())
    results["test"]["epsilon_error"] = None
    (tmp_path / "results.json").write_text(json.dumps(results))
    write_csv(tmp_path, rows(sigma=False))
    page = page_of(tmp_path)
    assert page.count("not measured") == full + 2  # ε-error; predicted spread
    assert "± predicted std" not in page and "nan" not in re.sub(r"<[^>]*>", " ", page)


@pytest.mark.parametrize("results", [{"name": "x"}, {"test": None, "stages": {}}, {"test": {"n": 3, "cs": {}}}])
def test_page_of_almost_nothing(tmp_path, results):
    (tmp_path / "results.json").write_text(json.dumps(results))
    page = page_of(tmp_path)
    assert "MAE not measured" in page and "pictures: not recorded" in page and "<svg" not in page


def test_headline_leaves_out_what_is_missing():
    assert headline({"test": {"mae": 4.306, "n": 1}}) == (
        "MAE 4.31 years, n = 1; the median age alone was not measured"
    )


def test_headline_names_what_was_predicted():
    test = {"target": "attractiveness", "mae": 0.2119, "n": 100, "intervals": {"mae": [0.2, 0.225]}}
    assert headline({"test": test, "median_baseline_mae": 0.5}) == (
        "MAE 0.212 points [0.200, 0.225], n = 100; the median attractiveness alone gives 0.50"
    )


def test_photographs_are_named(tmp_path):
    page = page_of(make_workdir(tmp_path, drawn=False))
    assert '<span class="badge photographs">photographs</span>' in page and "drawn faces" not in page


@pytest.mark.parametrize(
    ("breakage", "words"),
    [
        (lambda d: (d / "results.json").unlink(), "results.json is missing"),
        (lambda d: (d / "results.json").write_text("{"), "results.json: not JSON"),
        (lambda d: (d / "predictions.csv").write_text("id,age\na,3\n"), "predictions.csv: not id,age,sigma"),
        (lambda d: (d / "results.json").write_text('{"test": {"target": "beauty"}}'), "target 'beauty' is not one of"),
        (lambda d: write_csv(d, rows(), "attractiveness"), "predictions.csv: not id,age,sigma"),
        (lambda d: write_csv(d, [["a", "x", "", 3, ""]]), "could not convert string to float: 'x'"),
    ],
)
def test_broken_files_are_told_in_one_line(tmp_path, breakage, words):
    breakage(make_workdir(tmp_path))
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)


def test_another_split_as_source_is_refused(tmp_path):
    table = rows()
    make_workdir(tmp_path, table)
    for wrong in (source_of(table[:-1]), source_of([["other", *row[1:]] for row in table])):
        with pytest.raises(UserError, match="pass the split that was evaluated"):
            write_report(tmp_path, wrong)


def test_predictions_are_read_as_written(tmp_path):
    write_csv(tmp_path, [["a, b", 30.5, "", 31, 2.5]])
    table = read_predictions(tmp_path / "predictions.csv", "age")
    assert (
        table["id"] == ["a, b"]
        and table["label"] == [30.5]
        and table["predicted"] == [31.0]
        and np.isnan(table["sigma"]).all()
    )


def test_of_a_repeated_step_the_later_line_counts(tmp_path):
    lines = [{"step": 2, "split": "train", "loss": 1.0}, {"step": 1, "split": "val", "loss": 5.0},
             {"step": 2, "split": "train", "loss": 3.0}]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"st')
    assert [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [5.0, 3.0]
    assert read_metrics(tmp_path / "none.jsonl") == []
