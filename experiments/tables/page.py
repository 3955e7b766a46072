"""A paper's tables on the screen and on one page: published beside measured, never the one for the other."""

import shlex
from html import escape
from pathlib import Path
from string import Template

from rich.console import Console
from rich.table import Table as Screen

from agejax.files import write_whole
from experiments import figures, plots
from experiments.tables.kinds import Table
from experiments.tables.lines import FAILED, MEASURED, MISSING, PUBLISHED, Line

DIGITS = {"mae": 2, "sigma": 2, "aar": 2, "parameters": 1, "forward": 1, "width": 1, "coverage": 1}
DIGITS |= {"cs3": 1, "cs5": 1, "cs8": 1}
NAMES = {
    "cs3": "CS@3, %", "cs5": "CS@5, %", "cs8": "CS@8, %",
    "mae": "MAE", "rmse": "RMSE", "pearson": "Pearson’s r", "epsilon_error": "ε-error", "aar": "AAR", "sigma": "σ",
    "parameters": "parameters, M", "forward": "forward, ms", "coverage": "coverage, %", "width": "mean width",
}  # fmt: skip
TOY_TOLD = "toy: drawn faces, one small network stands for all"
HEAD = ("row", "metric", "data", "published", "measured", "95 %", "SD", "seeds")


def told(lines: list[Line]) -> str:
    """One row in one line: `GAP on synthetic: MAE 7.21 [6.5, 7.9]`."""
    first = lines[0]
    if first.status in (MISSING, FAILED):
        return f"{first.row} on {first.data}: {first.status}: {first.note}"
    if first.status == PUBLISHED:
        return f"{first.row}: others' work, not run here"
    known = [line for line in lines if line.measured is not None]
    numbers = ", ".join(" ".join(filter(None, (name(one.metric), cells(one)[4], cells(one)[5]))) for one in known)
    return f"{first.row} on {first.data}: {numbers}" + (f" ({first.note})" if first.note else "")


def show(table: Table, lines: list[Line], toy: bool) -> None:
    """On the screen, with a legend of what is missing."""
    screen = Screen(title=f"{table.title}{f' ({TOY_TOLD})' if toy else ''}", title_justify="left")
    for i, head in enumerate(HEAD):
        screen.add_column(head, justify="left" if i < 3 else "right", overflow="fold")
    for line in lines:
        screen.add_row(*cells(line))
    console = Console(width=None if Console().is_terminal else 140)
    console.print(screen)
    for note in notes(lines):
        console.print(note, markup=False, highlight=False, soft_wrap=True)


def notes(lines: list[Line]) -> list[str]:
    """What is to be said of rows, each once: `GAP and 2 more: without pretrain: …`."""
    of_note: dict[str, dict[str, None]] = {}
    for line in lines:
        if line.note:
            of_note.setdefault(line.note, {})[line.row] = None
    return [
        f"{', '.join(list(rows)[:2])}{f' and {len(rows) - 2} more' if len(rows) > 2 else ''}: {note}"
        for note, rows in of_note.items()
    ]


def cells(line: Line) -> tuple[str, ...]:
    """What stands in the columns of HEAD."""
    elsewhere = line.published_data if line.published_data not in ("", line.data) else ""
    published = printed(line.metric, line.published) + (f" ({elsewhere})" if elsewhere else "")
    measured = figure(line.metric, line.measured) if line.status == MEASURED else line.status
    measured = "" if line.status == PUBLISHED else measured
    interval = (
        f"[{figure(line.metric, line.interval[0])}, {figure(line.metric, line.interval[1])}]" if line.interval else ""
    )
    sd = figure(line.metric, line.sd) if line.sd is not None else ""
    return line.row, name(line.metric), line.data, published, measured, interval, sd, str(line.seeds or "")


def name(metric: str) -> str:
    """As tables print it: `mae 11-20` is MAE 11-20."""
    first, _, rest = metric.partition(" ")
    return NAMES.get(first, first.upper()) + (f" {rest}" if rest else "")


def figure(metric: str, value: float | None) -> str:
    return "" if value is None else f"{value:.{_digits(metric)}f}"


def printed(metric: str, value: float | None) -> str:
    """A published number, with as many digits as the paper gives."""
    told = figure(metric, value)
    return told if value is None or float(told) == value else f"{value:g}"


def _digits(metric: str) -> int:
    return DIGITS.get(metric.partition(" ")[0], 3)


def write(path: Path, paper: str, tables: list[tuple[Table, list[Line], str]], toy: bool, argv: list[str]) -> Path:
    """The page with all tables so far, and their figures."""
    kind = TOY_TOLD if toy else "measured beside published"
    body = "".join(_section(table, lines) + drawn for table, lines, drawn in tables)
    page = PAGE.substitute(
        name=escape(paper), kind=kind, shade="drawn" if toy else "photographs", body=body,
        style=plots.STYLE_SHEET + figures.STYLE_SHEET,
        command=escape(shlex.join(["python", "experiments/papers.py", *argv])),
    )  # fmt: skip
    write_whole(path, page)
    return path


def _section(table: Table, lines: list[Line]) -> str:
    head = f"<h2>{escape(table.title)}{f' (table {table.number})' if table.number else ''}</h2>"
    rows = plots.table([HEAD, *(tuple(map(escape, cells(line))) for line in lines)])
    runs = dict.fromkeys(line.command for line in lines if line.command)
    source = f'<p class="small">Published numbers: {escape(table.source)}.</p>' if table.source else ""
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes(lines))
    commands = escape("\n".join(runs))
    more = f"<details><summary>Commands</summary><pre>{commands}</pre></details>" if runs else ""
    return f'{head}<div class="scroll">{rows}</div>{source}{listed and f"<ul>{listed}</ul>"}{more}'


PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$name</title><style>$style</style></head><body>
<h1>$name<span class="badge $shade">$kind</span></h1>
<p class="muted">Published: the paper’s number, on its own data, where it was read. Measured: this code’s, with 95 %
intervals over test examples and over seeds of the last stage; SD over these.</p>
$body
<h2>The run</h2><p><code>$command</code></p>
</body></html>
""")
