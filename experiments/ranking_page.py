"""`python experiments/ranking_page.py`: draws docs/ranking.png and writes the table of docs/ranking.md.

The page is about Eqs. 2-6 of DLDL-v2 (Gao et al., IJCAI 2018); the picture shows what its Fig. 1 shows.
"""

import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from agejax.labels import AGE, encode_distribution, encode_ranking, survival, survival_of_gaussian
from data_pipelines.errors import UserError
from experiments.plots import BLUE, GREEN, GRID, INK, MUTED, ORANGE, RC

DOCS = Path(__file__).parents[1] / "docs"
LABEL, SIGMAS = 50.0, (2.0, 0.5, 0.1)
SHOWN, DRAWN = range(48, 53), range(44, 57)  # ages of the table, and of the picture
LOOKS = {2.0: (BLUE, "o"), 0.5: (ORANGE, "s"), 0.1: (GREEN, "^")}  # told apart by shape as well
TABLE = re.compile(r"(?<=<!-- written by experiments/ranking_page.py -->\n).*?(?=<!-- end -->)", re.DOTALL)


def curves(sigma: float) -> dict[str, np.ndarray]:
    """For LABEL and σ on the ages 0 … 100, float64: p and Tp (101,), the rest (100,), for all ages but the last."""
    with jax.enable_x64(True):
        y_B, sigma_B = jnp.array([LABEL]), jnp.array([sigma])
        p_BxK = encode_distribution(AGE, y_B, sigma_B)
        found = {
            "p": p_BxK,
            "Tp": jnp.cumsum(p_BxK, axis=1),
            "1 - Tp": survival(p_BxK),
            "1 - c": survival_of_gaussian(AGE, y_B, sigma_B)[:, :-1],
            "1 - T'p": 1 - jnp.cumsum(p_BxK[:, ::-1], axis=1)[:, ::-1][:, :-1],  # T' as printed: from k on
            "code": encode_ranking(AGE, y_B),
        }
    return {name: np.asarray(array, np.float64)[0] for name, array in found.items()}


def table() -> str:
    """Markdown: the ranking code, and what each σ has in its place; last, how far from the code it is at most."""
    found, ages = {sigma: curves(sigma) for sigma in SIGMAS}, list(SHOWN)
    code = found[SIGMAS[0]]["code"]
    rows = [("ranking code, y > l", code)]
    rows += [(f"{name}, σ = {sigma:g}", found[sigma][name]) for name in ("1 - Tp", "1 - c") for sigma in SIGMAS]
    rows += [(f"1 - Tp with T as printed, σ = {SIGMAS[0]:g}", found[SIGMAS[0]]["1 - T'p"])]
    lines = [f"| age l | {' | '.join(map(str, ages))} | furthest from the code |", f"|---|{'---:|' * (len(ages) + 1)}"]
    for name, value in rows:
        cells = [*(f"{value[age]:.4f}" for age in ages), f"{np.abs(value - code).max():.6f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "".join(line + "\n" for line in lines)


def figure() -> Figure:
    """Three panels: p, Tp, and 1 - Tp with the ranking code in it."""
    with matplotlib.rc_context(RC):
        drawing = Figure(figsize=(10.2, 3.4), dpi=150, layout="constrained", facecolor="white")
        FigureCanvasAgg(drawing)
        panels = drawing.subplots(1, 3, sharex=True)
    titles = "label distribution  p", "its distribution function  Tp", "what ranking asks for  1 − Tp"
    for panel, title, name in zip(panels, titles, ("p", "Tp", "1 - Tp")):
        _frame(panel, title)
        for sigma in SIGMAS:
            colour, shape = LOOKS[sigma]
            heights = curves(sigma)[name][list(DRAWN)]
            panel.plot(DRAWN, heights, shape + "-", color=colour, markersize=5, linewidth=1.3, label=f"σ = {sigma:g}")
    _add_code(panels[2])
    panels[0].legend(loc="upper left", frameon=False, labelcolor=INK, borderaxespad=0.2)
    return drawing


def _add_code(panel) -> None:
    code = curves(SIGMAS[0])["code"][list(DRAWN)]
    ring = {"markersize": 10, "markerfacecolor": "none", "markeredgewidth": 1.2, "linestyle": "none"}
    panel.plot(DRAWN, code, "o", color=INK, **ring)
    panel.text(LABEL + 0.4, 0.88, "○ ranking code, y > l", color=INK, va="center", fontsize=8.5)
    gap = curves(SIGMAS[0])["1 - Tp"][round(LABEL)]
    panel.annotate(f"{gap:.3f}", (LABEL, gap), (9, 3), textcoords="offset points", fontsize=9, color=BLUE)


def _frame(panel, title: str) -> None:
    panel.set_title(title, loc="left", fontsize=10, color=INK, pad=8)
    panel.set_xlabel("age l (years)", color=MUTED)
    panel.set(xticks=list(DRAWN)[::2], ylim=(-0.06, 1.17))
    panel.tick_params(labelcolor=INK, length=0)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.spines["bottom"].set_color(MUTED)
    panel.grid(axis="y", color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.axvline(LABEL, color=MUTED, linewidth=0.9, dashes=(4, 3))
    panel.annotate(f"y = {LABEL:g}", (LABEL, 1.17), (4, -8), textcoords="offset points", fontsize=9, color=MUTED)


def write(folder: Path) -> None:
    """Draws folder/ranking.png, and puts the table of today into folder/ranking.md."""
    figure().savefig(folder / "ranking.png", metadata={"Software": None})
    page = folder / "ranking.md"
    text, count = TABLE.subn(lambda _: table(), page.read_text())
    if count != 1:
        raise UserError(f"{page} has {count} places for the table, marked as written by experiments/ranking_page.py")
    page.write_text(text)


if __name__ == "__main__":
    sys.exit(write(DOCS))
