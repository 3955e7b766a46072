"""sweep.csv: one row a trial, whichever way it ran.

A trial in results.json is {"trial", "values": {name: value}, "folder", "examples", "parameters", "validation", "test",
"status"}. status is `finished`, `diverged`, `waiting`, or `failed: ` and the reason; without a number test["mae"] is
None. How long it took is in its own folder alone: trials that were stopped and went on are equal in all else.
"""

import csv
import io
from pathlib import Path
from typing import Any

from agejax.files import write_whole
from agejax.training.checkpoint import CARD
from experiments.results import RESULTS
from experiments.saved import read_json

TABLE = "sweep.csv"
MEASURED = ("mae", "mae_low", "mae_high", "validation_mae", "examples", "parameters", "seconds", "folder", "status")
KEPT = ("examples", "parameters", "validation", "test")
FINISHED, DIVERGED, WAITING, FAILED = "finished", "diverged", "waiting", "failed: "


def row(values: dict[str, Any], folder: str, card: dict, status: str) -> dict:
    """A trial as results.json has it, but for its number; what its card lacks is None."""
    return {"values": values, "folder": folder} | {name: card.get(name) for name in KEPT} | {"status": status}


def status(test: dict) -> str:
    """Of a trial that ran to its end."""
    return DIVERGED if test["mae"] is None else FINISHED


def has_run(trial: dict) -> bool:
    return trial["status"] in (FINISHED, DIVERGED)


def write_table(workdir: Path, trials: list[dict]) -> None:
    """Writes workdir/sweep.csv: trial, the swept options, MEASURED; what is not known is empty."""
    file, names = io.StringIO(newline=""), list(trials[0]["values"])
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("trial", *names, *MEASURED))
    writer.writerows(
        (trial["trial"], *(trial["values"][name] for name in names), *_measured(workdir, trial)) for trial in trials
    )
    write_whole(workdir / TABLE, file.getvalue())


def seconds(workdir: Path, trial: dict) -> float | None:
    """Of training the last stage; of trials trained together a share of them. None: not known."""
    folder = workdir / trial["folder"]
    if card := read_json(folder / CARD):
        return card.get("seconds")
    stages = (read_json(folder / RESULTS) or {}).get("stages") or {}
    return stages[list(stages)[-1]]["wall_seconds"] if stages else None


def _measured(workdir: Path, trial: dict) -> list:
    mae, (low, high) = trial["test"]["mae"], (trial["test"].get("intervals") or {}).get("mae") or (None, None)
    counts, validated = (trial["examples"], trial["parameters"]), (trial["validation"] or {}).get("mae")
    known = (mae, low, high, validated, *counts, seconds(workdir, trial), trial["folder"], trial["status"])
    return ["" if value is None else value for value in known]
