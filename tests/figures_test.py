"""Figures of the papers: that they hold the data, and that their fragments stand alone in a page."""

import html.parser
import json
import re

import cv2
import numpy as np
import pytest
from drawn import Squares

from agejax import calibrate
from agejax.labels import AGE
from agejax.metrics import AGE_GROUPS
from agejax.saliency import GroupMap, Occlusion
from agejax.training.evaluate import Predictions
from experiments import figures, paper_plots, plots

RNG = np.random.default_rng(0)
FACE = RNG.uniform(0, 255, (28, 28, 3))
TRIALS = {"DEX": {0: [5.4], 3: [4.0, 5.0], 100: [3.5]}, "VGG-Face": {3: [15.0, 16.0, 17.0]}}
HIDDEN = {
    "squares": Occlusion(3.0, np.linspace(-0.01, 0.2, 49).reshape(7, 7)),
    "horizontal": Occlusion(3.0, np.linspace(0, 0.6, 7).reshape(7, 1)),
    "vertical": Occlusion(3.0, np.linspace(0.3, 0, 7).reshape(1, 7)),
}


def calibrated():
    label = RNG.uniform(0, 100, 300)
    value = np.clip(label + RNG.normal(0, 4, 300), 0, 100)
    every = Predictions(np.arange(300), label, np.full(300, np.nan), value, np.full(300, 4.0))
    found = calibrate.fit(every, [0.9], width="spread", grid=AGE, target="age", data="<b>", split="val")
    return found, calibrate.measure(found, every)["0.9"]


def case_arguments(count=20):
    squares = Squares(count)
    label = squares.column("age").astype(np.float64)
    distribution = RNG.dirichlet(np.ones(101), count)
    return squares, label, squares.column("sigma"), label + np.arange(count), distribution, AGE, "age"


def fragments():
    calibration, measured = calibrated()
    groups = {name: GroupMap(3, FACE, RNG.normal(size=(28, 28))) for name in AGE_GROUPS[:3]}
    return {
        "encodings": figures.label_encodings(),
        "cases": figures.cases(*case_arguments()),
        "score_maps": figures.score_maps(groups),
        "occlusion": figures.occlusion(HIDDEN, FACE),
        "examples": figures.error_against_examples(TRIALS),
        "intervals": figures.intervals_by_age(calibration, "0.9", measured),
    }


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.ids, self.addresses, self.depth = [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.depth += tag != "img"
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.addresses += [attributes[key] for key in ("src", "href") if key in attributes]

    def handle_endtag(self, tag):
        self.depth -= 1


def test_fragments_stand_in_one_page_and_load_nothing():
    markup = "".join(fragments().values())
    page = Page(markup)
    assert page.depth == 0
    assert len(page.ids) == len(set(page.ids)) > 100
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert {address[1:] for address in page.addresses if address[0] == "#"} <= set(page.ids)
    assert not re.search(r"https?://|@import|<script", markup)
    assert not set(plots.CSS_NAMES) & set(re.findall(r"#[0-9a-f]{6}", markup))  # day and night
    assert "&lt;b&gt; val" in markup


def test_encodings_of_two_ages():
    one, distribution, ranking, number = paper_plots.encodings().axes
    heights = [{round(x - a): y for x, y in line.get_xydata()} for line, a in zip(one.lines, (-0.2, 0.2))]
    assert heights == [{50: 1.0}, {50: 1.0}]
    whole, between = ({round(x): y for x, y in line.get_xydata()} for line in distribution.lines)
    golden = {48: 0.1029681344, 49: 0.1614861798, 50: 0.1972396655, 51: 0.1876201735, 52: 0.1389924431}
    assert {age: between[age] for age in golden} == pytest.approx(golden, rel=1e-5)
    assert whole[49] == pytest.approx(whole[51]) and between[49] < between[51]
    answers = [{round(x) for x, _ in line.get_xydata()} for line in ranking.lines]
    assert answers == [set(range(44, 50)), set(range(44, 51))]
    assert [text.get_text() for text in number.texts] == ["0.000", "0.006"]


def test_cases_are_the_best_and_the_poorest():
    markup = figures.cases(*case_arguments())  # the error of row i is i years
    good, poor = markup.split("Poor cases")
    assert re.findall(r"square-(\d+)</span>", good) == [str(i) for i in range(6)]
    assert re.findall(r"square-(\d+)</span>", poor) == [str(i) for i in range(19, 13, -1)]
    assert markup.count("<img") == markup.count("<svg") == 12
    few = figures.cases(*(x[:3] if isinstance(x, np.ndarray) else x for x in case_arguments(3)))
    assert re.findall(r"square-(\d+)</span>", few) == ["0", "1", "2", "1"]


def test_a_case_shows_both_distributions():
    predicted = np.zeros(101)
    predicted[[28, 33]] = 0.5
    axes = paper_plots.distribution(predicted, 30.0, 2.0, AGE, "age").axes[0]
    ours, true = axes.lines
    assert dict(ours.get_xydata())[28] == 0.5 and dict(true.get_xydata())[30] == pytest.approx(0.19947, rel=1e-3)
    assert 18 < ours.get_xdata()[0] < 24 and 36 < ours.get_xdata()[-1] < 42


def test_the_overlay_is_strongest_where_the_score_is():
    score = np.zeros((28, 28))
    score[5, 9] = 7
    picture = figures.overlaid(FACE, score).astype(float)
    colour = np.array([0xD5, 0x5E, 0x00])
    grey = FACE.mean(-1)
    np.testing.assert_allclose(picture[5, 9], 0.2 * grey[5, 9] + 0.8 * colour, atol=1.1)
    np.testing.assert_allclose(picture[0, 0], grey[0, 0], atol=1.1)
    assert figures.overlaid(FACE, np.zeros((28, 28))).shape == (28, 28, 3)  # no score at all
    data = plots.base64.b64decode(figures.picture(picture).split(",")[1])
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (132, 132, 3)


def test_hidden_parts_are_written_where_they_are():
    squares = paper_plots.hidden_squares(FACE, HIDDEN["squares"]).axes[0]
    assert len(squares.texts) == 49
    first, third, last = (squares.texts[i] for i in (0, 2, -1))
    assert [(text.get_text(), text.xy) for text in (first, third, last)] == [
        ("−1", (2, 2)), ("0", (10, 2)), ("20", (26, 26))
    ]  # fmt: skip
    assert not any(text.get_text() == "-0" for text in squares.texts)
    for mode, across in (("horizontal", True), ("vertical", False)):
        faces, bars = paper_plots.hidden_stripes(FACE, HIDDEN[mode], across).axes
        sizes = [bar.get_width() if across else bar.get_height() for bar in bars.patches]
        np.testing.assert_allclose(sizes, 100 * HIDDEN[mode].loss.ravel())
        middles = [(bar.get_y() + bar.get_height() / 2) if across else bar.get_x() + bar.get_width() / 2
                   for bar in bars.patches]  # fmt: skip
        np.testing.assert_allclose(middles, np.arange(7) * 4 + 2)
        # a bar stands beside its stripe: the same stretch of the page for the same pixels
        for point in (0, 13):
            pixel = (0, point) if across else (point, 0)
            axis = 1 if across else 0
            assert faces.transData.transform(pixel)[axis] == pytest.approx(bars.transData.transform(pixel)[axis])


def test_every_trial_is_a_dot():
    first, second = paper_plots.error_against_examples(TRIALS).axes
    assert {tuple(dot) for dot in first.lines[0].get_xydata()} == {(3, 4), (3, 5), (100, 3.5)}
    (line, _, (bars,)) = first.containers[0]
    assert line.get_xydata().tolist() == [[3, 4.5], [100, 3.5]]
    np.testing.assert_allclose(bars.get_segments()[0], [[3, 4.5 - 0.5**0.5], [3, 4.5 + 0.5**0.5]])
    assert first.get_xscale() == "log" and [text.get_text() for text in first.texts] == ["0 examples: 5.40"]
    assert not second.texts and second.get_title(loc="left") == "VGG-Face"
    assert len([axes for axes in paper_plots.error_against_examples({str(i): TRIALS["DEX"] for i in range(5)}).axes
                if axes.get_visible()]) == 5  # fmt: skip


def test_trials_are_read_from_the_results_of_sweeps(tmp_path):
    def trial(examples, mae):
        return {"values": {"examples.count": examples, "seed": 1}, "test": {"mae": mae}}

    for name, rows in {"a": [trial(3, 5.0), trial(6, None)], "b": [trial(3, 4.0), trial(9, 3.0)]}.items():
        (tmp_path / name).write_text(json.dumps({"trials": rows}))
    found = figures.trials_of([tmp_path / "a", tmp_path / "b"], "examples.count")
    assert found == {3: [5.0, 4.0], 9: [3.0]}


def test_widths_and_coverage_of_intervals():
    calibration, measured = calibrated()
    groups = measured["by_age_group"]
    widths, shares = paper_plots.intervals_by_age(calibration, "0.9", groups).axes
    assert [bar.get_height() for bar in widths.patches] == [group["mean_width"] for group in groups.values()]
    *dots, asked = shares.lines
    assert [dot.get_ydata()[0] for dot in dots] == pytest.approx([100 * group["share"] for group in groups.values()])
    assert asked.get_ydata() == [90, 90]


def test_same_data_same_markup():
    assert figures.error_against_examples(TRIALS) == figures.error_against_examples(TRIALS)
    assert figures.label_encodings() == figures.label_encodings()
