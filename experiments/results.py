"""results.json: what a run measured, with all that is needed to know what was run."""

import datetime
import importlib.metadata
import json
import platform
import shlex
from pathlib import Path

import jax

from agejax import specs
from agejax.files import write_whole
from agejax.training import evaluate
from data_pipelines.schema import is_drawn
from experiments.config import Experiment
from experiments.saved import read_json

CONFIG, RESULTS = "config.json", "results.json"
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
        "config": specs.encode(experiment),
    }


def write_results(workdir: Path, results: dict) -> None:
    """Written whole or not at all: the file's presence means that the run is finished."""
    write_whole(workdir / RESULTS, json.dumps(results, indent=2) + "\n")


def sentence(workdir: Path) -> str:
    """`MAE 4.31 years [4.22, 4.40], n = 384 (synthetic test); …; report: runs/…/report.html`."""
    results = read_json(workdir / RESULTS)
    if results["test"] is None:
        return f"The last stage trains identities, so there is no label to test; numbers: {workdir / RESULTS}"
    median = {"median_baseline_mae": results["median_baseline_mae"]}
    told = evaluate.sentence({"target": "age"} | results["test"] | median)
    return f"{told}; report: {workdir / 'report.html'}"
