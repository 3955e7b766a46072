"""One page about a sweep: every trial as a point, means and spreads, a table of all."""

import json
from html import escape
from pathlib import Path
from string import Template

from agejax.files import write_whole
from agejax.metrics import DECIMALS, UNITS
from experiments import plots
from experiments.results import REPEATS, sweep_sentence
from experiments.saved import flat, read_json


def write_page(workdir: Path) -> Path:
    """Writes workdir/report.html from its results.json and returns the path."""
    results = read_json(workdir / "results.json")
    target, kind = results["trials"][0]["test"]["target"], "drawn faces" if results["drawn"] else "photographs"
    page = PAGE.substitute(
        name=escape(results["name"]), kind=kind, shade=kind.split()[0], style=plots.STYLE_SHEET,
        headline=escape(sweep_sentence(results)),
        figures="".join(_figures(results["trials"], target)), means=_means(results["sweep"], target),
        trials=_table(results["trials"], target), command=escape(results["command"]),
        config=escape("\n".join(f"{name} = {json.dumps(value)}" for name, value in flat(results["config"]))),
    )  # fmt: skip
    write_whole(workdir / "report.html", page)
    return workdir / "report.html"


def _figures(trials: list[dict], target: str) -> list[str]:
    """A figure for each swept option; one by the trial's number where only seeds and draws differ."""
    names = [name for name in trials[0]["values"] if name not in REPEATS] or ["trial"]
    found = []
    known = [trial for trial in trials if trial["test"]["mae"] is not None]
    for i, name in enumerate(names if known else ()):
        values = [trial["values"].get(name, trial["trial"]) for trial in known]
        figure = plots.trials(name, values, [trial["test"]["mae"] for trial in known], target)
        found.append(f"<figure>{plots.inline_svg(figure, f'sweep{i}', f'error by {name}')}</figure>")
    return found


def _means(rows: list[dict], target: str) -> str:
    head = ("", "trials", f"mean MAE ({UNITS[target]})", "SD")
    body = [(_words(row), str(row["trials"]), _figure(row["mae"], target), _figure(row["sd"], target)) for row in rows]
    return plots.table([head, *body])


def _figure(value: float | None, target: str) -> str:
    return "diverged" if value is None else f"{value:.{DECIMALS[target]}f}"


def _table(trials: list[dict], target: str) -> str:
    rows = [("trial", "", f"test MAE ({UNITS[target]})", "95 % interval", "n")]
    for trial in trials:
        test, interval = trial["test"], ""
        if test["mae"] is not None:
            interval = "[{}, {}]".format(*(_figure(bound, target) for bound in test["intervals"]["mae"]))
        mae = f"<b>{_figure(test['mae'], target)}</b>"
        rows.append((escape(trial["folder"]), _words(trial), mae, interval, f"{test['n']:,}"))
    return plots.table(rows)


def _words(row: dict) -> str:
    return escape(", ".join(f"{name} {value}" for name, value in row["values"].items())) or "all"


PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$name</title><style>$style</style></head><body>
<h1>$name<span class="badge $shade">$kind</span></h1><p class="headline">$headline</p>
<h2>Measured</h2><div class="two">$figures</div>$means
<p class="small">SD: over trials, of what other seeds and other draws of examples would give.</p>
<h2>Trials</h2><div class="scroll">$trials</div>
<h2>The run</h2><p><code>$command</code></p>
<details><summary>Configuration, as resolved</summary><pre>$config</pre></details>
</body></html>
""")
