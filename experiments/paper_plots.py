"""Figures of the papers: arrays in, a matplotlib Figure out, in the look of plots.py."""

import cv2
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from agejax.calibrate import Calibration
from agejax.labels import (
    AGE,
    LabelGrid,
    encode_distribution,
    encode_minus_one_to_one,
    encode_ranking,
    nearest_index,
)
from agejax.metrics import UNITS
from agejax.saliency import Occlusion
from experiments import plots
from experiments.plots import BLUE, FEW, GRID, INK, MUTED, ORANGE, RC

ENCODED, ENCODED_SIGMA, SHOWN = (50.0, 50.3), 2.0, (44, 56)
LOOKS = ((BLUE, "o", -0.2), (ORANGE, "^", 0.2))  # colour, mark, where beside the other a bar stands
CARD = (2.5, 1.5)  # inches
WHITE = 360  # grey level shown as white: faces are darkened, so that white numbers stand out


def encodings() -> Figure:
    """What stands for an age in training, for two ages that differ by 0.3 years: one-hot, distribution, ranking, ±1."""
    titles = (
        "one label  (DEX)",
        f"label distribution, σ = {ENCODED_SIGMA:g}  (DLDL)",
        "ranking",
        "a number  (regression)",
    )
    figure, panels = panels_of(titles, (10.2, 2.7), "age l (years)")
    ages, y_B = np.arange(SHOWN[0], SHOWN[1] + 1), np.array(ENCODED)
    coded = (
        np.eye(AGE.size)[np.asarray(nearest_index(AGE, y_B))],
        np.asarray(encode_distribution(AGE, y_B, np.full(2, ENCODED_SIGMA))),
        np.asarray(encode_ranking(AGE, y_B)),
    )
    for panel, code_BxK in zip(panels, coded):
        for code_K, (colour, mark, aside), y in zip(code_BxK, LOOKS, ENCODED):
            some = ages[code_K[ages] > 0]
            panel.bar(some + aside, code_K[some], width=0.4, color=colour, alpha=0.35, linewidth=0)
            panel.plot(some + aside, code_K[some], mark, color=colour, markersize=3.5, label=f"y = {y:g}")
    _add_line(panels[3], ages)
    for panel in panels:
        panel.set(xlim=(SHOWN[0] - 0.8, SHOWN[1] + 0.8), xticks=ages[::4])
    return plots.with_legend(figure, panels[0], "upper left")


def _add_line(panel, ages) -> None:
    """The map of ages to [-1, 1], and where the two ages lie on it."""
    panel.plot(ages, encode_minus_one_to_one(AGE, ages), color=GRID, linewidth=1.6)
    for y, (colour, mark, aside) in zip(ENCODED, LOOKS):
        code = float(encode_minus_one_to_one(AGE, np.array([y]))[0])
        panel.plot([y], [code], mark, color=colour, markersize=5)
        place = {"ha": "left", "va": "top"} if aside > 0 else {"ha": "right", "va": "bottom"}
        panel.annotate(f"{code:.3f}", (y, code), (25 * aside, -20 * aside), textcoords="offset points",
                       color=colour, **place)  # fmt: skip
    panel.set_ylim(-0.13, 0.13)


def distribution(predicted_K, label: float, sigma: float, grid: LabelGrid, target: str) -> Figure:
    """A predicted distribution (filled) over the true one (line), around the labels that either of them holds."""
    true_K = np.asarray(encode_distribution(grid, np.array([label]), np.array([sigma])))[0]
    held = np.flatnonzero(np.maximum(predicted_K, true_K) > 1e-3)
    some = slice(max(held[0] - 2, 0), held[-1] + 3)
    figure, axes = plots.new_axes(CARD, f"{target} ({UNITS[target]})", "")
    axes.fill_between(grid.values[some], np.asarray(predicted_K)[some], color=BLUE, alpha=0.35, linewidth=0)
    axes.plot(grid.values[some], np.asarray(predicted_K)[some], color=BLUE, linewidth=1.3)
    axes.plot(grid.values[some], true_K[some], color=ORANGE, linewidth=1.3, dashes=(4, 2))
    axes.set(ylim=(0, None), yticks=[])
    axes.xaxis.get_major_locator().set_params(nbins=6)
    return figure


def hidden_squares(face_HxWx3, squares: Occlusion) -> Figure:
    """By how many % the error rises where each square is hidden, over a face in grey."""
    figure, (axes,) = _in_inches((3.2, 3.4), [(0.1, 0.3, 2.8, 2.8)])
    _show_face(axes, face_HxWx3)
    size, percent = len(face_HxWx3), 100 * squares.loss
    rows, columns = percent.shape
    shown = np.clip(percent / max(percent.max(), 1e-9), 0, 1)
    cells = np.concatenate([np.broadcast_to(to_rgb(ORANGE), (*shown.shape, 3)), 0.85 * shown[:, :, None]], -1)
    axes.imshow(cells, extent=(0, size, size, 0), interpolation="nearest")
    for row, column in np.ndindex(percent.shape):
        place = (column + 0.5) * size / columns, (row + 0.5) * size / rows
        axes.annotate(_whole(percent[row, column]), place, ha="center", va="center", fontsize=8.5, color="white")
    axes.set_title("one square hidden: rise of the error (%)", loc="left", fontsize=9, color=MUTED)
    axes.set_xlabel(f"error with nothing hidden: {squares.mae:.2f}", fontsize=9, color=MUTED)
    return figure


def hidden_stripes(face_HxWx3, stripes: Occlusion, across: bool) -> Figure:
    """The same for stripes, as bars beside the face (across=True: level stripes) or under it."""
    percent, size = 100 * stripes.loss.ravel(), len(face_HxWx3)
    boxes = [(0.1, 0.3, 2.1, 2.1), (2.3, 0.3, 1.2, 2.1)] if across else [(0.1, 1.3, 2.1, 2.1), (0.1, 0.1, 2.1, 1.1)]
    figure, (faces, bars) = _in_inches((3.7, 2.7) if across else (2.3, 3.7), boxes)
    _show_face(faces, face_HxWx3)
    edges = np.linspace(0, size, len(percent) + 1)
    for edge in edges[1:-1]:
        (faces.axhline if across else faces.axvline)(edge, color=ORANGE, linewidth=0.8)
    middles = (edges[:-1] + edges[1:]) / 2
    (bars.barh if across else bars.bar)(middles, percent, 0.8 * size / len(percent), color=ORANGE)
    for middle, value in zip(middles, percent):
        place = (max(value, 0), middle) if across else (middle, max(value, 0))
        look = {"va": "center", "xytext": (3, 0)} if across else {"ha": "center", "xytext": (0, 2)}
        bars.annotate(_whole(value), place, textcoords="offset points", fontsize=8.5, color=INK, **look)
    room = min(percent.min(), 0), 1.25 * max(percent.max(), 1e-9)
    bars.set(**({"xlim": room, "ylim": (size, 0)} if across else {"ylim": room, "xlim": (0, size)}))
    bars.set_axis_off()
    faces.set_title(
        "one stripe hidden: rise of the error (%)" if across else "the same, upright",
        loc="left",
        fontsize=9,
        color=MUTED,
    )
    return figure


def _whole(value: float) -> str:
    """A whole number without -0, and with a true minus."""
    return f"{round(value) + 0}".replace("-", "−")


def error_against_examples(panels: dict[str, dict[int, list[float]]]) -> Figure:
    """{start: {number of training examples: MAE of every trial}}, a panel each: every trial, their mean and SD.

    Early Adaptation's Figs 3-8. 0 examples are a dashed line: the weights as they were.
    """
    names, rows = tuple(panels), -(-len(panels) // 3)
    size = (min(len(names), 3) * 3.4, 2.6 * (rows if len(names) != 4 else 1))
    figure, axes = panels_of(names, size, "training examples")
    for panel, trials in zip(axes, panels.values()):
        counts = sorted(count for count in trials if count)
        every = [(count, mae) for count in counts for mae in trials[count]]
        panel.plot(*zip(*every), "o", color=BLUE, alpha=0.45, markersize=3.4, markeredgewidth=0, zorder=3)
        means = [np.mean(trials[count]) for count in counts]
        deviations = [np.std(trials[count], ddof=1) if len(trials[count]) > 1 else np.nan for count in counts]
        panel.errorbar(counts, means, deviations, color=INK, linewidth=1.1, capsize=2.5)
        panel.set_xscale("log")
        if before := trials.get(0):
            _add_before(panel, float(np.mean(before)))
        panel.margins(y=0.12)
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        panel.xaxis.set_minor_formatter(lambda *_: "")
        panel.tick_params(which="minor", length=0)
    return figure


def _add_before(panel, mae: float) -> None:
    """The error of 0 examples, written above its line at the right, where errors are lowest."""
    panel.axhline(mae, color=ORANGE, linewidth=1.1, dashes=(4, 3))
    place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right", "va": "bottom"}
    panel.annotate(f"0 examples: {mae:.2f}", (1, mae), (0, 2), fontsize=8.5, color=ORANGE, **place)


def intervals_by_age(calibration: Calibration, coverage: str, groups: dict[str, dict]) -> Figure:
    """Mean width of the intervals of each age group, and the share of its labels inside."""
    titles = "mean width (years)", "labels inside (%)"
    figure, (widths, shares) = panels_of(titles, (8.8, 2.9), "true age (years), number of examples")
    for i, group in enumerate(groups.values()):
        widths.bar(i, group["mean_width"], width=0.74, color=BLUE, alpha=0.4 if group["n"] < FEW else 1.0)
        widths.vlines(i, *group["mean_width_interval"], color=INK, linewidth=1.2)
        shares.vlines(i, *(100 * bound for bound in group["interval"]), color=BLUE, linewidth=1.6)
        shares.plot([i], [100 * group["share"]], "o", color=BLUE, markersize=4.5)
    asked = 100 * float(coverage)
    shares.axhline(asked, color=INK, linewidth=0.9, dashes=(4, 3), label=f"asked for: {asked:g} %")
    shares.set_ylim(min(50, *(100 * group["interval"][0] - 4 for group in groups.values())), 103)
    labels = [f"{name.replace('-', '–')}\n{group['n']:,}" for name, group in groups.items()]
    for panel in (widths, shares):
        panel.set_xticks(range(len(groups)), labels, fontsize=8, parse_math=False)
        panel.set_xlim(-0.6, len(groups) - 0.4)
    return plots.with_legend(figure, shares, "lower left")


def panels_of(titles, size: tuple[float, float], x_label: str) -> tuple[Figure, list]:
    """A figure with a panel for each title, three in a row; four in one."""
    columns = len(titles) if len(titles) <= 4 else 3
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        panels = list(figure.subplots(-(-len(titles) // columns), columns, squeeze=False).ravel())
    for panel in panels[len(titles) :]:
        panel.set_visible(False)
    for panel, title in zip(panels, titles):
        panel.set_title(title, loc="left", fontsize=9, color=MUTED, pad=8, parse_math=False)
        panel.tick_params(labelsize=8.5, labelcolor=INK, length=0)
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.spines["bottom"].set_color(MUTED)
        panel.grid(axis="y", color=GRID, linewidth=0.8)
        panel.set_axisbelow(True)
    figure.supxlabel(x_label, fontsize=9, color=MUTED)
    return figure, panels[: len(titles)]


def _in_inches(size: tuple[float, float], boxes) -> tuple[Figure, list]:
    """A figure with axes at (left, bottom, width, height), so that bars stand beside what they measure."""
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=size)
        FigureCanvasAgg(figure)
        scale = np.array([*size, *size])
        return figure, [figure.add_axes(np.array(box) / scale) for box in boxes]


def _show_face(axes, face_HxWx3) -> None:
    size = len(face_HxWx3)
    grey = cv2.cvtColor(np.clip(face_HxWx3, 0, 255).astype(np.uint8), cv2.COLOR_RGB2GRAY)
    axes.imshow(grey, cmap="gray", vmin=0, vmax=WHITE, extent=(0, size, size, 0), interpolation="bilinear")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)
