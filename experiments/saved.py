"""The files of a run, read back."""

import csv
import io
import json
from pathlib import Path

import numpy as np

from data_pipelines.errors import UserError

COLUMNS = ("sigma", "predicted", "predicted_std")  # of predictions.csv, beside id and the label


def read_predictions(path: Path, target: str) -> dict:
    """predictions.csv as {"id": list of str, "label", "sigma", …: float64 (N,)}; blank is NaN; without a file N is 0.

    The label stands in the column `target`; all are in its unit. Raises UserError.
    """
    columns = {"label": target} | {column: column for column in COLUMNS}
    if not path.exists():
        return {"id": [], **{name: np.zeros(0) for name in columns}}
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
    try:
        arrays = {name: np.array([float(row[head] or "nan") for row in rows]) for name, head in columns.items()}
        return {"id": [row["id"] for row in rows], **arrays}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not id,{','.join(columns.values())} (at {error}); evaluate again") from error


def read_metrics(path: Path) -> list[dict]:
    """The lines of a metrics.jsonl by step; where a resumed run repeats a step, the later line."""
    latest = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
            latest[line["split"], line["step"]] = line
        except (json.JSONDecodeError, KeyError, TypeError):
            continue  # a run that was killed leaves half a line
    return sorted(latest.values(), key=lambda line: line["step"])


def read_json(path: Path):
    """What the file holds, None where it is not there. Raises UserError."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON ({error}); run the experiment again") from error


def flat(config: dict, prefix: str = ""):
    """(dotted name, value) of every leaf; a stage goes by its name."""
    for name, value in config.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = {part.get("name", str(i)): part for i, part in enumerate(value)}
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
