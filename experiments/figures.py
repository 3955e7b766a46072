"""Figures of the papers as fragments of HTML, for a page with plots.STYLE_SHEET and STYLE_SHEET of this module.

Fragments that show faces hold pictures of the data: with photographs of people their page must stay beside the data.
"""

import base64
import json
from html import escape
from pathlib import Path

import cv2
import numpy as np
from matplotlib.colors import to_rgb

from agejax.calibrate import Calibration
from agejax.labels import LabelGrid
from agejax.metrics import DECIMALS, UNITS
from agejax.saliency import GroupMap, Occlusion
from experiments import paper_plots, plots

SHOWN = 6  # good and poor cases, each
PICTURE = 132  # pixels of a score map's picture
INCH = 6.4  # rem


def label_encodings() -> str:
    """One-hot, label distribution, ranking and ±1 of two ages: what DLDL-v2's first figures compare."""
    note = (
        "0.3 years later the one label is the same and the ranking changes by a whole answer; "
        "the distribution and the number move a little."
    )
    return _figure("encodings", "What stands for an age", paper_plots.encodings(), note)


def cases(
    records, label_N, sigma_N, predicted_N, distribution_NxK, grid: LabelGrid, target: str, default_sigma: float = 2.0
) -> str:
    """The best and the poorest answers: face, predicted distribution (filled) and true one (dashed).

    records[i] is the i-th example, as data_pipelines/schema.py has it; distribution_NxK of saliency.distributions.
    """
    order = np.argsort(np.abs(np.asarray(predicted_N) - label_N), kind="stable").tolist()
    count = min(SHOWN, -(-len(order) // 2))
    parts = []
    for title, chosen in {"Good cases": order[:count], "Poor cases": order[::-1][:count]}.items():
        cards = []
        for i in chosen:
            sigma = default_sigma if np.isnan(sigma_N[i]) else float(sigma_N[i])
            drawing = paper_plots.distribution(distribution_NxK[i], float(label_N[i]), sigma, grid, target)
            svg = plots.inline_svg(drawing, f"case{i}", "predicted and true distribution")
            cards.append(_card(records[i], svg, predicted_N[i], label_N[i], DECIMALS[target] - 1))
        parts.append(f'<h3>{title}</h3><div class="cases">{"".join(cards)}</div>')
    return "".join(parts) + '<p class="small">Filled: predicted distribution; dashed: the label’s.</p>'


def score_maps(groups: dict[str, GroupMap]) -> str:
    """Mean face and mean score map of each age group, one column each: what raises the answer's score, and where."""
    columns = []
    for name, (n, face, score) in groups.items():
        plain, mapped = picture(face), picture(overlaid(face, score))
        head = f"{escape(name.replace('-', '–'))} years"
        images = f'<img src="{plain}" alt="mean face"><img src="{mapped}" alt="score map, {head}">'
        columns.append(f'<div class="face">{images}<b>{head}</b><span class="muted">n = {n:,}</span></div>')
    note = "Mean face, and over it the mean score map, from its least value (clear) to its greatest (orange)."
    return f'<h3>Score maps by age</h3><div class="maps">{"".join(columns)}</div><p class="small">{note}</p>'


def occlusion(found: dict[str, Occlusion], face_HxWx3) -> str:
    """A heat map for squares, bars for stripes; face_HxWx3: a face or a mean of faces, RGB in [0, 255]."""
    drawings = {
        "squares": lambda part: paper_plots.hidden_squares(face_HxWx3, part),
        "horizontal": lambda part: paper_plots.hidden_stripes(face_HxWx3, part, across=True),
        "vertical": lambda part: paper_plots.hidden_stripes(face_HxWx3, part, across=False),
    }
    parts = [_figure(f"hidden-{mode}", "", drawings[mode](part)) for mode, part in found.items()]
    return f'<h3>What hiding a part costs</h3><div class="hidden">{"".join(parts)}</div>'


def error_against_examples(panels: dict[str, dict[int, list[float]]], target: str = "age") -> str:
    """{start: {number of examples: MAE of every trial}}: Early Adaptation's Figs 3-8."""
    drawing, title = paper_plots.error_against_examples(panels), f"MAE ({UNITS[target]}) against training examples"
    note = "A dot is one trial; line and bars: mean and SD. Every panel has its own scale."
    return _figure("examples", title, drawing, note)


def trials_of(results: list[Path], option: str) -> dict[int, list[float]]:
    """{value of the option: MAE of every trial} from results.json of sweeps; what has diverged is left out."""
    found: dict[int, list[float]] = {}
    for path in results:
        for trial in json.loads(path.read_text(encoding="utf-8"))["trials"]:
            if trial["test"]["mae"] is not None:
                found.setdefault(trial["values"][option], []).append(trial["test"]["mae"])
    return found


def intervals_by_age(calibration: Calibration, coverage: str, measured: dict) -> str:
    """Width and coverage of conformal intervals by age group; `measured`: calibrate.measure's of that coverage."""
    drawing = paper_plots.intervals_by_age(calibration, coverage, measured["by_age_group"])
    note = f"Calibrated on {calibration.n:,} examples ({calibration.data} {calibration.split}). Lines: 95 % intervals."
    return _figure("intervals", f"{100 * float(coverage):g} % intervals by age", drawing, escape(note))


def overlaid(face_HxWx3, score_HxW) -> np.ndarray:
    """uint8 (H, W, 3): the face in grey, and orange over it where the score is high."""
    low, high = score_HxW.min(), score_HxW.max()
    alpha = 0.8 * ((score_HxW - low) / max(high - low, 1e-12))[:, :, None]
    grey = np.repeat(np.asarray(face_HxWx3, np.float64).mean(-1, keepdims=True), 3, -1)
    return np.clip((1 - alpha) * grey + alpha * 255 * np.array(to_rgb(plots.ORANGE)), 0, 255).astype(np.uint8)


def picture(image_HxWx3) -> str:
    """A JPEG data URI of an RGB image in [0, 255]."""
    image = np.clip(image_HxWx3, 0, 255).astype(np.uint8)[:, :, ::-1]
    sized = cv2.resize(image, (PICTURE, PICTURE), interpolation=cv2.INTER_CUBIC)
    encoded = cv2.imencode(".jpg", sized, [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


def _card(record: dict, svg: str, predicted: float, label: float, digits: int) -> str:
    name, face = escape(str(record["id"])), plots.thumbnail(record)
    shown = f'<img src="{face}" alt="{name}">' if face else ""
    numbers = f"<b>{predicted:.{digits}f}</b> for {label:.{digits}f}"
    return f'<div class="case"><div class="face">{shown}{numbers}<span class="muted">{name}</span></div>{svg}</div>'


def _figure(key: str, title: str, drawing, note: str = "") -> str:
    head = f"<h3>{escape(title)}</h3>" if title else ""
    svg = plots.inline_svg(drawing, key, title or key)
    width = f"max-width:{INCH * drawing.get_figwidth():.1f}rem"  # letters are of one size in all figures
    return f'<figure style="{width}">{head}{svg}<figcaption>{note}</figcaption></figure>'


STYLE_SHEET = """
.cases{display:grid;gap:1rem 1.6rem;grid-template-columns:repeat(auto-fill,minmax(17rem,1fr))}
.case{display:grid;grid-template-columns:6.2rem 1fr;gap:.4rem;align-items:start;min-width:0;font-size:.85rem}
.maps{display:grid;gap:.8rem;grid-template-columns:repeat(auto-fit,minmax(6.4rem,1fr));font-size:.85rem}
.maps img{width:100%;height:auto;aspect-ratio:1}
.hidden{display:flex;flex-wrap:wrap;gap:1.2rem 2rem;align-items:flex-start}.hidden figure{flex:0 1 100%}
figure+h3,figure+figure{margin-top:1.6rem}.hidden figure+figure{margin-top:0}
"""
