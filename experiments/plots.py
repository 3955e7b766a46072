"""The look of a report: figures (arrays in, a matplotlib Figure out), pictures, colours, style sheet.

Only the object API is used, so nothing here touches pyplot's global state or needs a display. The colours
are those of Okabe and Ito ("Color universal design", 2008), which colour-blind readers can tell apart.
`inline_svg` gives markup whose colours are variables of STYLE_SHEET, which has values for day and for night.
`target` is what was predicted, a key of agejax.metrics.UNITS: labels, predictions and errors are in its unit.
"""

import base64
import html
import io
import math
import re
from statistics import NormalDist

import cv2
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure

from agejax.metrics import DECIMALS, UNITS

INK, MUTED, GRID, BLUE, ORANGE, GREEN = "#20262e", "#66707b", "#e2e6ea", "#0072b2", "#d55e00", "#009e73"
CSS_NAMES = {INK: "ink", MUTED: "muted", GRID: "grid", BLUE: "blue", ORANGE: "orange", GREEN: "green"}
RC = {"svg.fonttype": "none", "svg.hashsalt": "report", "text.parse_math": False, "font.size": 9.0}
WIDE, SQUARE, SMALL = (4.4, 2.9), (4.4, 4.4), (3.5, 2.6)  # inches; 1 inch is 72 units of the view box
BROAD = (9.2, 2.6)
SPLIT_COLOURS = {"train": BLUE, "val": ORANGE, "test": GREEN}
MAX_DOTS = 1500  # above it single dots hide each other, and a density is drawn
FEW = 20  # examples; a bar that rests on fewer is drawn pale
BIN_WIDTHS, MOST_BINS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0), 20
THUMBNAIL = 96  # pixels


def scatter(label, predicted, predicted_std, target: str) -> Figure:
    """Predicted against true label, all (N,): dots, or a density above MAX_DOTS.

    The band, drawn where `predicted_std` is finite, is read across: at the height of a prediction, the labels
    within one predicted standard deviation of it, averaged in bins.
    """
    edges = _bin_edges(np.concatenate([label, predicted]))
    low, high = edges[0], edges[-1]
    dense = len(label) > MAX_DOTS
    note = "; opacity: log of the count" if dense else ""
    names = f"true {target} ({UNITS[target]})", f"predicted {target} ({UNITS[target]}){note}"
    figure, axes = new_axes(SQUARE, *names, grid="both")
    if dense:
        cells = {"gridsize": 45, "extent": (low, high, low, high), "mincnt": 1, "linewidths": 0.0}
        axes.hexbin(label, predicted, bins="log", cmap=_opacity_ramp(BLUE), **cells)
    else:
        axes.plot(label, predicted, "o", color=BLUE, alpha=0.5, markersize=3.4, markeredgewidth=0.0, clip_on=False)
    if np.isfinite(predicted_std).any():
        height, std = _binned_means(predicted, predicted_std, width=edges[1] - edges[0])
        band = {"color": ORANGE, "alpha": 0.2, "linewidth": 0.0, "zorder": 1, "label": "± predicted std"}
        axes.fill_betweenx(height, height - std, height + std, **band)
    axes.plot([low, high], [low, high], color=INK, linewidth=0.9, label="no error")
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    return with_legend(figure, axes, "upper left")


def histogram(label, target: str) -> Figure:
    """Counts of (N,) labels, in bins of a round width."""
    edges, median = _bin_edges(label), float(np.median(label))
    unit, digits = UNITS[target], DECIMALS[target] - 1
    figure, axes = new_axes(SMALL, f"true {target} ({unit})", f"examples in each {edges[1] - edges[0]:.3g} {unit}")
    axes.hist(label, bins=edges, color=BLUE, rwidth=0.9)
    axes.axvline(median, color=INK, linewidth=0.9, dashes=(4, 3), label=f"median {median:.{digits}f}")
    axes.yaxis.get_major_locator().set_params(integer=True)
    return with_legend(figure, axes, "best")


def counts_by_split(labels: dict[str, np.ndarray], target: str) -> Figure:
    """How many examples have each label, split upon split: split → (N,) finite labels, not all of them empty.

    Ages are counted by completed year, as in the histograms of the papers.
    """
    everything = np.concatenate(list(labels.values()))
    years = np.arange(math.floor(everything.min()), math.floor(everything.max()) + 2)
    edges = years if target == "age" else _bin_edges(everything)
    unit, below = UNITS[target], np.zeros(len(edges) - 1)
    each = "year" if target == "age" else f"{edges[1] - edges[0]:.3g} {unit}"
    figure, axes = new_axes(BROAD, f"{target} ({unit})", f"images in each {each}")
    for split, values in labels.items():
        count, look = np.histogram(values, edges)[0], {"color": SPLIT_COLOURS[split], "label": split}
        axes.stairs(below + count, edges, baseline=below, fill=True, **look)
        below = below + count
    axes.margins(x=0.01)
    axes.yaxis.get_major_locator().set_params(integer=True)
    return with_legend(figure, axes, "best")


def error_by_age(groups: dict, overall: float | None, intervals: dict) -> Figure:
    """MAE in years of each age group, `{"0-10": {"mae": 3.1, "n": 40}, ...}`; dashed: `overall`.

    A line on a bar is the group's interval, `{"0-10": [2.8, 3.5], "11-20": None, ...}`.
    """
    mae = [0.0 if row.get("mae") is None else row["mae"] for row in groups.values()]
    counts = [row.get("n") or 0 for row in groups.values()]
    note = f"; pale: under {FEW}" if min(counts) < FEW else ""
    figure, axes = new_axes(WIDE, f"true age (years), number of examples{note}", "mean absolute error (years)")
    for i, (height, count) in enumerate(zip(mae, counts)):
        axes.bar(i, height, width=0.74, color=BLUE, alpha=0.4 if count < FEW else 1.0)
    bounds = {i: intervals[name] for i, name in enumerate(groups) if intervals.get(name)}
    if bounds:
        axes.vlines(list(bounds), *zip(*bounds.values()), color=INK, linewidth=1.2, label="95 % interval")
    if overall is not None:
        axes.axhline(overall, color=INK, linewidth=0.9, dashes=(4, 3), label=f"all ages {overall:.2f}")
    labels = [f"{name.replace('-', '–')}\n{count:,}" for name, count in zip(groups, counts)]
    axes.set_xticks(range(len(groups)), labels, fontsize=8.5 if len(groups) <= 8 else 7, parse_math=False)
    axes.margins(y=0.14)
    return with_legend(figure, axes, "best")


def cumulative_score(shares: dict, intervals: dict) -> Figure:
    """CS@k, the share of examples in % whose error is at most k years; keys are k, shares in [0, 1]."""
    keys = sorted(shares, key=float)
    years, percent = np.array(keys, float), 100.0 * np.array([shares[key] for key in keys])
    bounds = 100.0 * np.array([intervals.get(key) or (np.nan, np.nan) for key in keys], float)
    figure, axes = new_axes(SMALL, "error of at most k (years)", "CS@k: share of examples (%)")
    band = {"color": BLUE, "alpha": 0.18, "linewidth": 0.0}
    if np.isfinite(bounds).any():
        axes.fill_between(years, bounds[:, 0], bounds[:, 1], label="95 % interval", **band)
    axes.plot(years, percent, "o-", color=BLUE, markersize=3.5, linewidth=1.6)
    for x, y in zip(years, percent):
        if x in (1, 3, 5, 8):
            axes.annotate(f"{y:.0f} %", (x, y), (5, -11), textcoords="offset points", fontsize=8, color=INK)
    axes.set(ylim=(0, 104), xlim=(years[0] - 0.5, years[-1] + 0.5))
    axes.xaxis.get_major_locator().set_params(integer=True)
    return with_legend(figure, axes, "lower right")


def coverage(label, predicted, predicted_std, share: float) -> float:
    """Share of (N,) labels inside the central interval that should hold `share`; NaN if no std is above 0."""
    known = predicted_std > 0
    reach = NormalDist().inv_cdf(0.5 + share / 2.0)  # standard deviations
    inside = np.abs(predicted - label)[known] <= reach * predicted_std[known]
    return float(inside.mean()) if known.any() else math.nan


def calibration(label, predicted, predicted_std) -> Figure:
    """Measured against nominal share of labels in central intervals of Normal(predicted, predicted_std²).

    Below the line the model is too sure of itself, above it too modest. All (N,).
    """
    nominal = np.linspace(0.02, 0.98, 49)
    measured = [100.0 * coverage(label, predicted, predicted_std, share) for share in nominal]
    figure, axes = new_axes(SMALL, "predicted interval (%)", "examples inside it (%)", grid="both")
    axes.plot([0, 100], [0, 100], color=INK, linewidth=0.9, label="as it should be")
    axes.plot(100.0 * nominal, measured, color=BLUE, linewidth=1.8, label="measured")
    axes.set(xlim=(0, 100), ylim=(0, 104))
    return with_legend(figure, axes, "upper left")


def history(lines: list[dict], key: str, label: str) -> Figure:
    """`key` of a stage's metric lines against epoch (step, where one lacks it), a curve for each split."""
    clock = "epoch" if all("epoch" in line for line in lines) else "step"
    figure, axes = new_axes(SMALL, clock, label)
    for split, colour in SPLIT_COLOURS.items():
        rows = [line for line in lines if line["split"] == split and line.get(key) is not None]
        if rows:
            times, values = [row[clock] for row in rows], [row[key] for row in rows]
            style = "o-" if len(rows) < 25 else "-"
            axes.plot(times, values, style, color=colour, linewidth=1.5, markersize=3.0, label=split)
    axes.margins(y=0.12)
    return with_legend(figure, axes, "best") if len(axes.lines) > 1 else figure


def trials(name: str, values: list, mae: list[float], target: str) -> Figure:
    """Test MAE of every trial against its value of the option `name`; a dash is the mean of those that share one."""
    figure, axes = new_axes(WIDE, name, f"mean absolute error ({UNITS[target]})")
    order = list(dict.fromkeys(sorted(values, key=lambda value: (isinstance(value, str), value))))
    places = [order.index(value) for value in values]
    axes.plot(places, mae, "o", color=BLUE, alpha=0.5, markersize=4.0, markeredgewidth=0.0)
    for place, value in enumerate(order):
        shared = [error for one, error in zip(values, mae) if one == value]
        if len(shared) > 1:
            axes.hlines(np.mean(shared), place - 0.3, place + 0.3, color=INK, linewidth=1.2)
    shown = order if len(order) <= 12 else order[:: math.ceil(len(order) / 12)]
    axes.set_xticks([order.index(value) for value in shown], [str(value) for value in shown], parse_math=False)
    axes.margins(x=0.08, y=0.12)
    return figure


def inline_svg(figure: Figure, prefix: str, label: str) -> str:
    """SVG to stand inside an HTML page: no addresses, ids that begin with `prefix`, CSS variables."""
    buffer = io.StringIO()
    with matplotlib.rc_context(RC):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    markup = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", buffer.getvalue(), flags=re.DOTALL)
    box, body = re.search(r'<svg[^>]*?viewBox="([^"]*)"[^>]*>(.*)', markup, flags=re.DOTALL).groups()
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", body).replace("xlink:href", "href")
    for colour, name in CSS_NAMES.items():
        body = body.replace(colour, f"var(--{name})")
    return f'<svg viewBox="{box}" role="img" aria-label="{html.escape(label)}">{body}'


def thumbnail(record: dict) -> str:
    """The face of a record (data_pipelines/schema.py) as a JPEG data URI, THUMBNAIL pixels or less a side.

    "" where the image cannot be decoded. Without landmarks the whole image is the face.
    """
    image = cv2.imdecode(np.frombuffer(record["image"], np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        return ""
    points = np.asarray(record["landmarks"], np.float64)
    if np.isfinite(points).all():
        half = 2.0 * np.ptp(points, axis=0).max()  # the five points span a good third of a head with its hair
        (left, up), (right, down) = np.maximum(points.mean(0) - half, 0), points.mean(0) + half
        cropped = image[int(up) : math.ceil(down), int(left) : math.ceil(right)]
        image = cropped if cropped.size else image
    scale = THUMBNAIL / max(image.shape[:2])
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


def table(rows) -> str:
    """An HTML table of rows of markup, the first of them the heads, and the first cell of each its name."""
    lines = (f"<tr><th>{name}</th><td>" + "</td><td>".join(cells) + "</td></tr>" for name, *cells in rows)
    return f"<table>{''.join(lines)}</table>"


def new_axes(size, x_label: str, y_label: str, grid: str = "y"):
    """A Figure and its axes. The y label lies level above them: it reads without turning the head."""
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_title(y_label, loc="left", fontsize=9, color=MUTED, pad=8)
        axes.set_xlabel(x_label, fontsize=9, color=MUTED)
    axes.tick_params(labelsize=8.5, labelcolor=INK, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def with_legend(figure: Figure, axes, place: str) -> Figure:
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc=place, frameon=False, fontsize=8.5, labelcolor=INK, handlelength=1.6)
    return figure


def _opacity_ramp(colour: str) -> ListedColormap:
    """One colour from faint to full, so that the ground of the page shows through."""
    return ListedColormap([(*to_rgb(colour), opacity) for opacity in np.linspace(0.15, 1.0, 64)])


def _bin_edges(values) -> np.ndarray:
    """Edges of at most about MOST_BINS bins of a round width that hold all values; at least two edges."""
    span, last = np.ptp(values), BIN_WIDTHS[-1]
    width = next((w for w in BIN_WIDTHS if span <= w * MOST_BINS), last) if span else 1.0
    # in floats 0.6 / 0.1 is below 6, and 17 · 0.1 above 1.7
    first, last = (math.floor(end / width + 1e-9) for end in (np.min(values), np.max(values)))
    return np.round(width * np.arange(first, last + 2), 6)


def _binned_means(position, value, width: float):
    """Means of two (N,) arrays in bins of `width` along the first, in rising order; finite values only."""
    known = np.isfinite(position) & np.isfinite(value)
    position, value = position[known], value[known]
    bins = np.floor(position / width)
    members = [bins == one for one in np.unique(bins)]
    return tuple(np.array([array[member].mean() for member in members]) for array in (position, value))


STYLE_SHEET = """
:root{color-scheme:light dark;--ink:#20262e;--muted:#66707b;--grid:#e2e6ea;--blue:#0072b2;--orange:#d55e00;
--green:#009e73;--page:#fff}@media screen and (prefers-color-scheme:dark){:root{--ink:#e6e9ed;--muted:#9aa4af;
--grid:#2c333b;--blue:#56b4e9;--orange:#e69f00;--green:#2fc59b;--page:#14181d}}@media print{body{font-size:12px}}
body{margin:auto;padding:2rem 1.2rem 4rem;max-width:66rem;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;font-variant-numeric:tabular-nums}
h1{font-size:1rem;margin:0}h3:empty{display:none}
h3{font-size:.95rem;margin:1.2rem 0 .4rem}figure h3{margin-top:0}
h2{font-size:1.15rem;margin:2.6rem 0 1rem;padding-top:1rem;border-top:1px solid var(--grid)}
.headline{font-size:clamp(1.35rem,3.4vw,2rem);font-weight:600;line-height:1.25;margin:.6rem 0}
.badge{border:1px solid;border-radius:1rem;padding:.1rem .65rem;margin-left:.6rem;font-size:.82rem}
.badge,th{font-weight:400}.small,figcaption{font-size:.85rem}.headline{text-wrap:balance}
.muted,.small,figcaption{color:var(--muted)}.drawn,.warning{color:var(--orange)}.photographs{color:var(--blue)}
.two,.three{display:grid;gap:1.6rem 2.4rem;margin-bottom:1.6rem;
grid-template-columns:repeat(auto-fill,minmax(min(100%,var(--least,21rem)),1fr))}.three{--least:16rem}
.two>*,.three>*{min-width:0}.scatter{grid-row:span 2}figure{margin:0;break-inside:avoid}
svg{width:100%;height:auto;display:block}svg text{font-family:inherit!important}
table{border-collapse:collapse;width:100%}.scroll{overflow-x:auto}
.scroll table{width:auto;min-width:min(100%,34rem)}
th,td{padding:.32rem 0 .32rem 1rem;border-bottom:1px solid var(--grid);text-align:right;vertical-align:top}
th{text-align:left;padding-left:0}td+td:last-child,tr:first-child td{color:var(--muted)}
.scroll tr+tr td{color:inherit}.faces{display:grid;gap:1rem;font-size:.88rem;line-height:1.35;
grid-template-columns:repeat(auto-fill,minmax(6.5rem,1fr))}.face{min-width:0;break-inside:avoid}
.face span{display:block;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
img{display:block;width:96px;height:96px;object-fit:cover;border-radius:6px;margin-bottom:.3rem}summary{cursor:pointer}
code,pre{font-size:.85rem}pre{overflow-x:auto}code{overflow-wrap:anywhere}
"""
