"""What a sweep leaves: sweep.csv, and one page with every trial as a point, means and spreads, a table of all."""

import json
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import quote

from agejax.files import write_whole
from agejax.metrics import DECIMALS, UNITS
from experiments import plots
from experiments.results import REPEATS, sweep_sentence
from experiments.saved import flat, read_json
from experiments.sweeps.lines import lines
from experiments.sweeps.table import DIVERGED, FINISHED, has_run, seconds, write_table

OWN_STYLE = "a{color:var(--blue)}.scroll td{max-width:24rem}.scroll td:nth-child(-n+9){white-space:nowrap}"
MOST_LINES = 12  # of a figure; more settings are in the table alone


def write_page(workdir: Path, results: dict | None = None) -> Path:
    """Writes workdir/sweep.csv and workdir/report.html, from its results.json or what will stand there; the page's
    path."""
    results = results or read_json(workdir / "results.json")
    trials, kind = results["trials"], "drawn faces" if results["drawn"] else "photographs"
    write_table(workdir, trials)
    page = PAGE.substitute(
        name=escape(results["name"]), kind=kind, shade=kind.split()[0], style=plots.STYLE_SHEET, own=OWN_STYLE,
        headline=escape(headline(results)), figures="".join(_figures(results)),
        means=_means(results["sweep"], trials[0]["test"]["target"]), trials=_table(workdir, trials), lost=_lost(trials),
        command=escape(results["command"]),
        config=escape("\n".join(f"{name} = {json.dumps(value)}" for name, value in flat(results["config"]))),
    )  # fmt: skip
    write_whole(workdir / "report.html", page)
    return workdir / "report.html"


def headline(results: dict) -> str:
    """results.sweep_sentence of the trials that have run, and how many have not."""
    known = [trial for trial in results["trials"] if has_run(trial)]
    lost = len(results["trials"]) - len(known)
    told = sweep_sentence(results | {"trials": known}) if known else "no trial has run to its end"
    return told + (f"; {lost} failed" if lost else "")


def settings(trials: list[dict]) -> dict[str, list]:
    """Swept option → its values in their order, without those that only repeat a measurement."""
    names = [name for name in trials[0]["values"] if name not in REPEATS]
    return {name: list(dict.fromkeys(trial["values"][name] for trial in trials)) for name in names}


def _figures(results: dict) -> list[str]:
    """A figure for each swept option, one by the trial's number where only seeds and draws differ; and, where several
    options do, how settings compare over the one with the most values."""
    known = [trial for trial in results["trials"] if trial["status"] == FINISHED]
    if not known:
        return []
    target, swept, mae = known[0]["test"]["target"], settings(known), [trial["test"]["mae"] for trial in known]
    found = []
    for name in swept or ["trial"]:
        values = [trial["values"].get(name, trial["trial"]) for trial in known]
        found.append((plots.trials(name, values, mae, target), f"error by {name}"))
    if len(swept) > 1:
        across = max(swept, key=lambda name: len(swept[name]))
        rows = [row for row in results["sweep"] if row["mae"] is not None]
        points = [(_setting(row, across), row["values"][across], row["mae"], row["sd"]) for row in rows]
        if len({setting for setting, *_ in points}) <= MOST_LINES:
            found.append((lines(across, points, target), f"error by {across}, one line a setting"))
    return [
        f"<figure>{plots.inline_svg(figure, f'sweep{i}', label)}</figure>" for i, (figure, label) in enumerate(found)
    ]


def _setting(row: dict, across: str) -> str:
    return ", ".join(f"{name} {value}" for name, value in row["values"].items() if name != across)


def _means(rows: list[dict], target: str) -> str:
    """One row a setting."""
    names = rows[0]["values"] if rows else ()
    head = ("", *map(escape, names), "trials", f"mean MAE ({UNITS[target]})", "SD", "validation")
    body = [("", *_values(row), str(row["trials"]), *_mean(row, target)) for row in rows]
    return plots.table([head, *body]) if rows else ""


def _mean(row: dict, target: str) -> tuple[str, ...]:
    several = row["trials"] - row["diverged"] > 1
    mae, sd = _number(row["mae"], target, DIVERGED), _number(row["sd"], target) if several else ""
    return f"<b>{mae}</b>", sd, _number(row["validation"], target)


def _number(value: float | None, target: str, missing: str = "") -> str:
    return missing if value is None else f"{value:.{DECIMALS[target]}f}"


def _table(workdir: Path, trials: list[dict]) -> str:
    names, unit = trials[0]["values"], UNITS[trials[0]["test"]["target"]]
    head = ("trial", *map(escape, names), f"test MAE ({unit})", "95 % interval", "validation", "n", "examples",
            "parameters", "s")  # fmt: skip
    return plots.table([head, *(_row(trial, seconds(workdir, trial)) for trial in trials)])


def _lost(trials: list[dict]) -> str:
    """Why runs have failed, once for all trials of a run."""
    told = dict.fromkeys(f"{trial['folder']} {trial['status']}" for trial in trials if not has_run(trial))
    return "".join(f'<p class="warning">{escape(text)}</p>' for text in told)


def _row(trial: dict, took: float | None) -> tuple[str, ...]:
    test, interval, target = trial["test"], "", trial["test"]["target"]
    if test["mae"] is not None:
        interval = "[{}]".format(", ".join(_number(bound, target) for bound in test["intervals"]["mae"]))
    name = f'<a href="{escape(quote(trial["folder"], safe="/=,"))}">{trial["trial"]}</a>'
    mae = f"<b>{_number(test['mae'], target, trial['status'].partition(':')[0])}</b>"
    validated = _number((trial["validation"] or {}).get("mae"), target)
    counts = [f"{count:,}" if count is not None else "" for count in (trial["examples"], trial["parameters"])]
    return (
        name,
        *_values(trial),
        mae,
        interval,
        validated,
        f"{test['n']:,}",
        *counts,
        "" if took is None else f"{took:,.0f}",
    )


def _values(row: dict) -> list[str]:
    return [escape(str(value)) for value in row["values"].values()]


PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$name</title><style>$style$own</style></head><body>
<h1>$name<span class="badge $shade">$kind</span></h1><p class="headline">$headline</p>
<h2>Measured</h2><div class="two">$figures</div><div class="scroll">$means</div>
<p class="small">SD: over trials, of what other seeds and other draws of examples would give.</p>
<h2>Trials</h2><div class="scroll">$trials</div>$lost
<p class="small">Validation: MAE on the validation split. s: seconds of training the last stage; of trials trained
together a share of them. The same rows are in sweep.csv.</p>
<h2>The run</h2><p><code>$command</code></p>
<details><summary>Configuration, as resolved</summary><pre>$config</pre></details>
</body></html>
""")
