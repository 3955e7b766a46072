"""One page about one run, from the files that the run saved: report.html, whole in itself, offline, on paper.

Every number is read from results.json or computed from predictions.csv; what was not saved is "not measured".
Figures are inline SVG, pictures inline JPEG, and the page's own content policy forbids it to load anything.
"""

import json
import math
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from agejax.files import as_path
from agejax.metrics import DECIMALS, UNITS
from data_pipelines.errors import UserError
from experiments import plots
from experiments.saved import flat, read_json, read_metrics, read_predictions

AGE = "age"  # the target where none is recorded, and the only one with CS@k and age groups
NOT_MEASURED = '<span class="muted">not measured</span>'
WRONG_SOURCE = "as source, pass the split that was evaluated"
ERRORS, SHARES = {"mae": "MAE", "rmse": "RMSE"}, {"pearson": "Pearson’s r", "epsilon_error": "ε-error"}
SHOWN = 8  # best and worst examples, each
CURVES = {"loss": "loss", "mae": "mean absolute error", "images_per_second": "images a second"}


def write_report(workdir: Path, source=None) -> Path:
    """Writes workdir/report.html and returns its path. Raises UserError.

    `source`, where given, is the evaluated split: `[i]` is the record (data_pipelines/schema.py) of row i of
    predictions.csv. Only then the page holds pictures, those of the best and the worst examples: with
    photographs of people it must stay where the photographs are.
    """
    workdir = as_path(workdir)
    results = read_json(workdir / "results.json")
    if not results:
        raise UserError(f"{workdir}/results.json is missing or empty; run the experiment to its end first")
    test = results.get("test") or {}
    target = _target(test, workdir)
    rows = read_predictions(workdir / "predictions.csv", target)
    config = read_json(workdir / "config.json") or results.get("config") or {}
    kind = {True: "drawn faces", False: "photographs"}.get(results.get("drawn"), "pictures: not recorded")
    page = PAGE.substitute(
        name=escape(results.get("name") or workdir.name), kind=kind, shade=kind.split()[0],
        style=plots.STYLE_SHEET, headline=headline(results), about=_about(results, test),
        check=_check(test, rows, target), metrics=_metrics(test, target), figures=_figures(test, rows, target),
        groups=_groups(test, target),
        scale=f"{target}, in {UNITS[target]}", examples=_examples(rows, target, source),
        training=_training(workdir, results, config), run=_run(results, config),
    )  # fmt: skip
    (workdir / "report.html").write_text(page, encoding="utf-8")
    return workdir / "report.html"


def headline(results: dict) -> str:
    """`MAE 4.31 years [4.22, 4.40], n = 384; the median age alone gives 20.3`."""
    test, median = results.get("test") or {}, results.get("median_baseline_mae")
    target = test.get("target", AGE)
    unit, digits = UNITS[target], DECIMALS[target]
    if not _known(test.get("mae")):
        return "MAE not measured"
    bounds = _interval((test.get("intervals") or {}).get("mae"), digits)
    count = f", n = {test['n']:,}" if _known(test.get("n")) else ""
    baseline = f"gives {median:.{digits - 1}f}" if _known(median) else "was not measured"
    mae = f"MAE {test['mae']:.{digits}f} {unit}{bounds and ' ' + bounds}{count}"
    return f"{mae}; the median {target} alone {baseline}"


def _target(test: dict, workdir: Path) -> str:
    """What was predicted. Raises UserError."""
    target = test.get("target", AGE)
    if target not in UNITS:
        raise UserError(f"{workdir}/results.json: target {target!r} is not one of {', '.join(UNITS)}; evaluate again")
    return target


def _about(results: dict, test: dict) -> str:
    split = test.get("split") and f"{test['split']} split"
    device = results.get("device") and f"{results.get('devices') or 1} × {results['device']}"
    return " · ".join(escape(part) for part in (test.get("data"), split, device, results.get("date")) if part)


def _check(test: dict, rows: dict, target: str) -> str:
    """A warning where the two saved files disagree about the number in the headline."""
    error, digits = np.abs(rows["predicted"] - rows["label"]), DECIMALS[target]
    error = error[np.isfinite(error)]
    if not len(error) or not _known(test.get("mae")) or abs(error.mean() - test["mae"]) < 0.5 * 10**-digits:
        return ""
    mae = f"predictions.csv gives MAE {error.mean():.{digits}f} {UNITS[target]}"
    numbers = f"{mae}, results.json {test['mae']:.{digits}f}"
    return f'<p class="warning">{numbers}: the two files are not of one evaluation.</p>'


def _metrics(test: dict, target: str) -> str:
    intervals, shares = test.get("intervals") or {}, test.get("cs") or {}
    measures = {name: (key, DECIMALS[target], f" {UNITS[target]}") for key, name in ERRORS.items()}
    measures |= {name: (key, 3, "") for key, name in SHARES.items()}
    rows = [
        (name, _cell(test.get(key), digits, unit), _interval(intervals.get(key), digits))
        for name, (key, digits, unit) in measures.items()
    ]
    for k in ("3", "5", "8") if target == AGE else ():
        bounds = (intervals.get("cs") or {}).get(k)
        rows.append((f"CS@{k}", _cell(shares.get(k), 1, " %", 100.0), _interval(bounds, 1, 100.0)))
    note = "Bootstrap over examples: other test sets of this size, not other trainings." if intervals else ""
    return f'{plots.table([("", "value", "95 % interval"), *rows])}<p class="small">{note}</p>'


def _groups(test: dict, target: str) -> str:
    """A table of test["by_group"]: error and bias of every group of every column; nothing where it was not measured."""
    unit, digits = UNITS[target], DECIMALS[target]
    table = [("", "examples", f"MAE ({unit})", "95 % interval", f"bias ({unit})")]
    for column, groups in (test.get("by_group") or {}).items():
        for name, row in groups.items():
            numbers = f"{row['n']:,}", f"<b>{row['mae']:.{digits}f}</b>", _interval(row["interval"], digits)
            table.append((escape(f"{column}: {name}"), *numbers, f"{row['bias']:+.{digits}f}".replace("-", "−")))
    note = '<p class="small">Bias: mean of predicted minus true; above 0 the answers are too high.</p>'
    shown = f'<h3>Error by group</h3><div class="scroll">{plots.table(table)}</div>{note}'
    return shown if len(table) > 1 else ""


def _figures(test: dict, rows: dict, target: str) -> str:
    usable = np.isfinite(rows["label"]) & np.isfinite(rows["predicted"])
    label, predicted, std = (rows[column][usable] for column in ("label", "predicted", "predicted_std"))
    inside = plots.coverage(label, predicted, std, 0.6827)
    note = f"{100 * inside:.0f}\u00a0% of the labels lie within one predicted std; 68\u00a0% should."
    dots = len(label) and plots.scatter(label, predicted, std, target)
    bars = len(label) and plots.histogram(label, target)
    scatter = _figure("scatter", f"Predicted and true {target}", dots)
    labels = _figure("labels", f"{target.capitalize()} in this split", bars)
    spread = _figure("spread", "Predicted spread", _known(inside) and plots.calibration(label, predicted, std), note)
    if target != AGE:
        return f'{scatter}{labels}</div><div class="three">{spread}'
    groups, scores = _age_figures(test)
    return f'{scatter}{groups}</div><div class="three">{scores}{spread}{labels}'


def _age_figures(test: dict) -> tuple[str, str]:
    """What counts in years: the error of the age groups, and CS@k."""
    groups, intervals = test.get("mae_by_age_group") or {}, test.get("intervals") or {}
    shares = {k: share for k, share in (test.get("cs") or {}).items() if _known(share)}
    by_group, of_shares = intervals.get("mae_by_age_group") or {}, intervals.get("cs") or {}
    bars = groups and plots.error_by_age(groups, test.get("mae"), by_group)
    curve = shares and plots.cumulative_score(shares, of_shares)
    return _figure("groups", "Error by age", bars), _figure("cs", "Cumulative score", curve)


def _figure(key: str, title: str, figure, note: str = "") -> str:
    body = f"{plots.inline_svg(figure, key, title)}<figcaption>{note}</figcaption>" if figure else NOT_MEASURED
    return f'<figure class="{key}"><h3>{title}</h3>{body}</figure>'


def _examples(rows: dict, target: str, source) -> str:
    """The worst and the best rows as cards, with pictures where there is a source."""
    if source is not None and len(source) != len(rows["id"]):
        raise UserError(f"{len(rows['id'])} rows in predictions.csv, {len(source)} records: {WRONG_SOURCE}")
    error = np.abs(rows["predicted"] - rows["label"])
    order = [i for i in np.argsort(error, kind="stable").tolist() if np.isfinite(error[i])]
    count = min(SHOWN, math.ceil(len(order) / 2))
    groups = {"Largest errors": order[::-1][:count], "Smallest errors": order[:count]}
    cards = {title: "".join(_card(rows, i, target, source) for i in chosen) for title, chosen in groups.items()}
    parts = [f'<h3>{title}</h3><div class="faces">{body}</div>' for title, body in cards.items()]
    return "".join(parts) if order else NOT_MEASURED


def _card(rows: dict, i: int, target: str, source) -> str:
    name, face, digits = escape(rows["id"][i]), "", DECIMALS[target] - 1
    if source is not None:
        record = source[i]
        if str(record["id"]) != rows["id"][i]:
            raise UserError(f"row {i} of predictions.csv is not {record['id']}: {WRONG_SOURCE}")
        face = plots.thumbnail(record)
    picture = face and f'<img src="{face}" alt="{name}">'
    numbers = f"<b>{rows['predicted'][i]:.{digits}f}</b> for {rows['label'][i]:.{digits}f}"
    return f'<div class="face">{picture}{numbers}<span class="muted" title="{name}">{name}</span></div>'


def _training(workdir: Path, results: dict, config: dict) -> str:
    stages, left_out = results.get("stages") or {}, results.get("left_out") or {}
    metrics = {name: read_metrics(workdir / name / "metrics.jsonl") for name in stages}
    units = _stage_units(config)
    curves = "".join(_curves(f"stage{i}", name, metrics[name], units.get(name)) for i, name in enumerate(stages))
    keys = dict.fromkeys(key for facts in stages.values() for key in facts)
    rows = [(escape(key).replace("_", " "), *(_fact(part.get(key)) for part in stages.values())) for key in keys]
    table = f'<div class="scroll">{plots.table([("", *map(escape, stages)), *rows])}</div>'
    notes = "".join(f"<p>{escape(name)}: left out, as {escape(why)}</p>" for name, why in left_out.items())
    notes += "".join(f"<p>warning: {escape(text)}</p>" for text in results.get("warnings") or [])
    return curves + (table if stages else NOT_MEASURED) + notes


def _stage_units(config: dict) -> dict[str, str | None]:
    """The unit of each stage's labels, which need not be that of the last stage; None: not recorded."""
    objectives = {stage.get("name"): stage.get("objective") or {} for stage in config.get("stages") or []}
    return {name: UNITS.get(objective.get("target")) for name, objective in objectives.items()}


def _curves(place: str, name: str, lines: list[dict], unit: str | None) -> str:
    labels = CURVES | ({"mae": f"{CURVES['mae']} ({unit})"} if unit else {})
    known = [key for key in CURVES if any(_known(line.get(key)) for line in lines)]
    figures = [_figure(f"{place}-{key}", "", plots.history(lines, key, labels[key])) for key in known]
    return f'<h3>{escape(name)}</h3><div class="three">{"".join(figures) or NOT_MEASURED}</div>'


def _run(results: dict, config: dict) -> str:
    versions = " · ".join(f"{name} {version}" for name, version in (results.get("versions") or {}).items())
    lines = "\n".join(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in flat(config))
    return (
        f"<p><code>{escape(results.get('command') or 'command: not recorded')}</code></p>"
        f'<p class="muted">{escape(versions or "versions: not recorded")}</p>'
        f"<details><summary>Configuration, as resolved</summary><pre>{escape(lines)}</pre></details>"
    )


def _known(value) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _cell(value, digits: int, unit: str, scale: float = 1.0) -> str:
    return f"<b>{scale * value:.{digits}f}</b>{unit}" if _known(value) else NOT_MEASURED


def _interval(bounds, digits: int, scale: float = 1.0) -> str:
    known = bounds and all(map(_known, bounds))
    return "[{}]".format(", ".join(f"{scale * bound:.{digits}f}" for bound in bounds)) if known else ""


def _fact(value) -> str:
    if value is None or value != value:  # None or NaN
        return NOT_MEASURED
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{escape(name)} {_fact(part)}" for name, part in value.items())
    return f"{value:,}" if type(value) is int else escape(str(value))


PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$name</title><style>$style</style></head><body>
<h1>$name<span class="badge $shade">$kind</span></h1><p class="headline">$headline</p>
<p class="muted">$about</p>$check
<h2>Measured</h2><div class="two"><div>$metrics</div>$figures</div>$groups
<h2>Examples</h2><p class="muted">Predicted for true $scale.</p>$examples
<h2>Training</h2>$training
<h2>The run</h2>$run
</body></html>
""")
