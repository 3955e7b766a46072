import html.parser
import re

import cv2
import numpy as np
import pytest

from experiments import plots

GROUPS = {"0-10": {"mae": 3.1, "n": 40}, "11-20": {"mae": None, "n": 0}, "21-30": {"mae": 5.2, "n": 7}}
GROUP_INTERVALS = {"0-10": [2.8, 3.5], "11-20": None, "21-30": [5.2, 5.2]}
LINES = [{"step": s, "epoch": s / 9, "split": p, "loss": 5.0 / s} for s in range(1, 9) for p in ("train", "val")]


def predictions(n):
    rng = np.random.default_rng(0)
    age = rng.uniform(5, 80, n)
    return age, age + rng.normal(0, 4, n), np.full(n, 4.0)


def drawings():
    age, predicted, std = predictions(60)
    unknown = np.full(60, np.nan)
    return {
        "scatter": lambda: plots.scatter(age, predicted, std, "age"),
        "no_std": lambda: plots.scatter(age, predicted, unknown, "age"),
        "one": lambda: plots.scatter(age[:1], predicted[:1], std[:1], "age"),
        "dense": lambda: plots.scatter(*predictions(plots.MAX_DOTS + 1), "age"),
        "points": lambda: plots.scatter(1 + age / 20, 1 + predicted / 20, std / 20, "attractiveness"),
        "ages": lambda: plots.histogram(age, "age"),
        "equal_ages": lambda: plots.histogram(np.full(5, 30.0), "age"),
        "groups": lambda: plots.error_by_age(GROUPS, 4.0, GROUP_INTERVALS),
        "groups_without_intervals": lambda: plots.error_by_age(GROUPS, None, {}),
        "cs": lambda: plots.cumulative_score({"1": 0.2, "5": 0.7, "10": 1.0}, {"5": [0.6, 0.8]}),
        "calibration": lambda: plots.calibration(age, predicted, std),
        "history": lambda: plots.history(LINES, "loss", "loss"),
    }


@pytest.mark.parametrize("name", drawings())
def test_figures_are_not_blank_and_name_their_axes(name):
    figure = drawings()[name]()
    figure.canvas.draw()
    axes = figure.axes[0]
    assert axes.get_xlabel() and axes.get_title(loc="left")
    assert all(len(line.get_xdata()) for line in axes.lines)
    inside = axes.get_window_extent()
    picture = np.asarray(figure.canvas.buffer_rgba())[::-1]
    picture = picture[int(inside.y0) : int(inside.y1), int(inside.x0) : int(inside.x1), :3].astype(int)
    assert (np.ptp(picture, axis=-1) > 60).sum() > 8  # ink, text and grid are grey: this is blue or orange


def test_inline_svg_stands_alone_in_a_page():
    markup = plots.inline_svg(plots.history(LINES, "loss", "loss"), "a", 'the "loss"')
    assert markup.startswith("<svg viewBox=") and markup.rstrip().endswith("</svg>")
    assert "://" not in markup
    ids = re.findall(r'\bid="([^"]*)"', markup)
    assert ids and all(name.startswith("a-") for name in ids)
    used = {name for pair in re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', markup) for name in pair if name}
    assert used and used <= set(ids)
    assert not set(plots.CSS_NAMES) & set(re.findall(r"#[0-9a-f]{6}", markup))
    assert "&quot;loss&quot;" in markup


def test_figures_hold_the_data():
    age, predicted, std = predictions(9)
    dots, diagonal = plots.scatter(age, predicted, std, "age").axes[0].lines
    assert np.array_equal(dots.get_xydata(), np.stack([age, predicted], axis=1))
    assert np.array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    assert sum(bar.get_height() for bar in plots.histogram(age, "age").axes[0].patches) == 9
    axes = plots.error_by_age(GROUPS, 4.0, GROUP_INTERVALS).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [3.1, 0.0, 5.2]
    assert [bar.get_alpha() for bar in axes.patches] == [1.0, 0.4, 0.4]  # fewer than 20 examples: pale
    assert axes.lines[0].get_ydata() == [4.0, 4.0]
    (bounds,) = axes.collections
    assert np.allclose(bounds.get_segments(), [[[0, 2.8], [0, 3.5]], [[2, 5.2], [2, 5.2]]])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0–10\n40", "11–20\n0", "21–30\n7"]
    axes = plots.cumulative_score({"10": 0.9, "2": 0.5}, {"2": [0.4, 0.55], "10": [0.85, 0.92]}).axes[0]
    assert np.allclose(axes.lines[0].get_xydata(), [[2, 50], [10, 90]])
    corners = {(x, round(y, 9)) for x, y in axes.collections[0].get_paths()[0].vertices}
    assert corners == {(2, 40), (2, 55), (10, 85), (10, 92)}
    assert not plots.cumulative_score({"10": 0.9, "2": 0.5}, {}).axes[0].collections
    train, val = plots.history([*LINES, {"step": 9, "epoch": 1, "split": "val", "loss": 7.0}], "loss", "").axes[0].lines
    assert (train.get_label(), val.get_label()) == ("train", "val")
    assert (train.get_xydata()[-1] == (8 / 9, 5 / 8)).all() and (val.get_xydata()[-1] == (1, 7)).all()


@pytest.mark.parametrize(("target", "unit"), [("age", "years"), ("attractiveness", "points")])
def test_axes_name_what_was_predicted_and_its_unit(target, unit):
    label = np.array([1.5, 2.25, 4.75])
    axes = plots.scatter(label, label + 0.5, np.full(3, np.nan), target).axes[0]
    assert axes.get_xlabel() == f"true {target} ({unit})"
    assert axes.get_title(loc="left") == f"predicted {target} ({unit})"
    assert axes.get_xlim() == axes.get_ylim() == pytest.approx((1.4, 5.4))  # 1.5 to 5.25 in steps of 0.2
    assert plots.scatter(label[:1], label[:1], np.full(1, np.nan), target).axes[0].get_xlim() == (1, 2)
    axes = plots.histogram(label, target).axes[0]
    assert axes.get_xlabel() == f"true {target} ({unit})"
    assert axes.get_title(loc="left") == f"examples in each 0.2 {unit}"
    assert f"median {'2.2' if target == 'age' else '2.25'}" in [text.get_text() for text in axes.get_legend().texts]


@pytest.mark.parametrize("spacing", [0.1, 0.2, 0.5, 1.0, 7.0])
def test_bins_hold_every_value(spacing):
    for first in range(30):
        for last in range(first, 30):
            values = np.array([round(spacing * k, 1) for k in range(first, last + 1)])  # as 1.7, not 17 · 0.1
            edges = plots._bin_edges(values)
            assert np.histogram(values, edges)[0].sum() == len(values), (values, edges)
            assert 2 <= len(edges) <= plots.MOST_BINS + 2 and np.ptp(np.diff(edges)) < 1e-6


def test_same_data_same_markup():
    first, second = (plots.inline_svg(plots.error_by_age(GROUPS, 4.0, {}), "a", "") for _ in range(2))
    assert first == second


def test_text_from_files_is_text_in_the_markup():
    groups = GROUPS | {"<script>$x_1$": {"mae": 1.0, "n": 30}}
    markup = plots.inline_svg(plots.error_by_age(groups, 4.0, {}), "a", "")
    tags = []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append(tag)
    parser.feed(markup)
    assert "script" not in tags and "&lt;script&gt;$x_1$" in markup


def test_style_sheet_has_every_colour_by_day_and_by_night():
    for colour, name in plots.CSS_NAMES.items():
        assert f"--{name}:{colour}" in plots.STYLE_SHEET
        assert plots.STYLE_SHEET.count(f"--{name}:") == 2


def test_coverage_of_a_normal_is_its_share():
    rng = np.random.default_rng(0)
    predicted, std = rng.uniform(20, 60, 20_000), rng.uniform(1, 9, 20_000)
    age = predicted + std * rng.normal(size=20_000)
    for share in (0.2, 0.6827, 0.95):
        assert plots.coverage(age, predicted, std, share) == pytest.approx(share, abs=0.01)
    assert np.isnan(plots.coverage(age, predicted, np.zeros(20_000), 0.5))
    assert plots.coverage(np.array([30.0, 50.0]), np.array([30.5, 30.0]), np.array([1.0, np.nan]), 0.6827) == 1.0


def thumbnail_pixels(record):
    uri = plots.thumbnail(record)
    assert uri.startswith("data:image/jpeg;base64,")
    data = plots.base64.b64decode(uri.split(",")[1])
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def test_thumbnail_shows_the_face_in_its_colours():
    image = np.zeros((300, 400, 3), np.uint8)
    image[100:160, 200:260] = (0, 0, 255)  # a red face, in OpenCV's BGR
    points = np.array([[220, 120], [240, 120], [230, 130], [222, 140], [238, 140]], np.float32)
    record = {"image": cv2.imencode(".png", image)[1].tobytes(), "landmarks": np.full((5, 2), np.nan)}
    assert thumbnail_pixels(record).shape == (72, 96, 3)
    face = thumbnail_pixels(record | {"landmarks": points})
    assert max(face.shape) == plots.THUMBNAIL
    blue, _, red = face[face.shape[0] // 2, face.shape[1] // 2]
    assert red > 200 and blue < 50
    assert (face[..., 2] > 128).mean() > 0.4
    assert plots.thumbnail(record | {"image": b"not a picture"}) == ""
