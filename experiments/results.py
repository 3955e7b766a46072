"""results.json: what a run measured, with all that is needed to know what was run."""

import datetime
import importlib.metadata
import json
import platform
import shlex
from pathlib import Path

import jax
import numpy as np

from agejax import metrics, specs
from agejax.files import write_whole
from agejax.training import compilation, evaluate
from data_pipelines.schema import is_drawn
from experiments.config import Experiment
from experiments.saved import read_json

CONFIG, RESULTS = "config.json", "results.json"
TRIAL = "examples.trial"
REPEATS = ("seed", TRIAL)  # options of a sweep that only repeat a measurement
VERSIONS = ("agejax", "jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "opencv-python-headless")


def new_results(experiment: Experiment, argv: list[str]) -> dict:
    """The part that is known before training."""
    device = jax.devices()[0]
    return {
        "name": experiment.name,
        "command": shlex.join(["python", "experiments/run.py", *argv]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "drawn": is_drawn(experiment.data),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in VERSIONS},
        "device": device.device_kind,
        "devices": jax.device_count(),
        "flags": compilation.flags(),
        "processes": jax.process_count(),
        "config": specs.encode(experiment),
    }


def write_results(workdir: Path, results: dict) -> None:
    """Written whole or not at all: the file's presence means that the run is finished."""
    write_whole(workdir / RESULTS, json.dumps(results, indent=2) + "\n")


def sentence(workdir: Path) -> str:
    """`MAE 4.31 years [4.22, 4.40], n = 384 (synthetic test); …; report: runs/…/report.html`."""
    results = read_json(workdir / RESULTS)
    if "trials" in results:
        return f"{sweep_sentence(results)}; report: {workdir / 'report.html'}"
    if results["test"] is None:
        return f"The last stage trains identities, so there is no label to test; numbers: {workdir / RESULTS}"
    median = {"median_baseline_mae": results["median_baseline_mae"]}
    told = evaluate.sentence({"target": "age"} | results["test"] | median)
    return f"{told}; report: {workdir / 'report.html'}"


def summarise(rows: list[dict]) -> list[dict]:
    """Mean and standard deviation of the test MAE over trials that differ in seed or draw of examples alone; their
    mean validation MAE. None where nothing was measured; trials that have diverged are counted and left out."""
    alike: dict[str, list[dict]] = {}
    for row in rows:
        values = {name: value for name, value in row["values"].items() if name not in REPEATS}
        alike.setdefault(json.dumps(values), []).append(row)
    return [{"values": json.loads(values)} | _over_trials(some) for values, some in alike.items()]


def _over_trials(rows: list[dict]) -> dict:
    known = [row for row in rows if row["test"]["mae"] is not None]
    mae, validated = ([row[part]["mae"] for row in known if row[part]] for part in ("test", "validation"))
    return {
        "trials": len(rows),
        "diverged": len(rows) - len(known),
        "mae": float(np.mean(mae)) if mae else None,
        "sd": sd(mae),
        "validation": float(np.mean(validated)) if validated else None,
    }


def sweep_sentence(results: dict) -> str:
    """`32 trials, MAE 5.41 ± 0.32 years (mean and SD over trials; synthetic test, n = 368)`.

    Of several settings the one that is best in validation, or, where that was not measured, how far they reach.
    """
    every, rows = results["trials"], [row for row in results["sweep"] if row["mae"] is not None]
    test, lost = every[0]["test"], sum(row["diverged"] for row in results["sweep"])
    words = f"{len(every)} trials" + (f", {lost} diverged" if lost else "")
    if not rows:
        return words
    unit, digits = metrics.UNITS[test["target"]], metrics.DECIMALS[test["target"]]
    where = f"{test['data']} {test['split']}, n = {test['n']:,}"
    if len(rows) > 1 and any(row["validation"] is None for row in rows):
        low, high = (extreme(row["mae"] for row in rows) for extreme in (min, max))
        return f"{words} of {len(rows)} settings, mean MAE {low:.{digits}f} to {high:.{digits}f} {unit} ({where})"
    best = min(rows, key=lambda row: row["validation"] or 0)
    mae = f"MAE {best['mae']:.{digits}f} ± {best['sd']:.{digits}f} {unit}"
    if len(rows) == 1:
        return f"{words}, {mae} (mean and SD over trials; {where})"
    values = ", ".join(f"{name} {value}" for name, value in best["values"].items())
    return f"{words}; best in validation {values}: {mae} (mean and SD over {best['trials']} trials; {where})"


def sd(values: list[float]) -> float:
    """Of the sample, n - 1; 0 for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
