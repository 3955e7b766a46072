"""What is known of every stored record without reading one: index.npz, and from it summary.json.

Columns, in the stored order (train, then val, then test): split, age, sigma, attractiveness, attractiveness_sigma,
identity, gender, ethnicity, points (whether there are five), faces (how many the detector found, -1: did not look),
sha256 (first 8 bytes, of the image as found), phash (n, 4), and `protocol:NAME` for each protocol; splits as numbers:
0 train, 1 val, 2 test, -1 none.
"""

import collections
import io
import json
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np

from data_pipelines import audit
from data_pipelines.audit import PROTOCOL
from data_pipelines.records.face_set import FaceSet
from data_pipelines.records.shards import LABELS, Part, sidecar
from data_pipelines.schema import SPLITS

SUMMARY, INDEX = "summary.json", "index.npz"
COUNTED = ("age", "sigma", "attractiveness", "identity", "gender", "ethnicity", "landmarks")
STORED = (*LABELS, "points", "faces", "sha256", "phash")
NAMED = 1000  # ids of pictures without a face that the summary names


def gather(
    folder: Path, name: str, parts: list[Part], protocols: dict[str, dict[str, np.ndarray]]
) -> tuple[dict, list]:
    """The columns of all finished parts, and what they left out as (file, reason)."""
    columns, skipped = collections.defaultdict(list), []
    for part in parts:
        with np.load(sidecar(folder / part.file(name))) as stored:
            for column in STORED:
                if len(stored[column]):
                    columns[column].append(stored[column])
            rows = stored["row"]
            columns["split"].append(np.full(len(rows), SPLITS.index(part.split), np.int8))
            for protocol, numbers in protocols.items():
                columns[PROTOCOL + protocol].append(numbers[part.split][rows])
            skipped += map(tuple, json.loads(str(stored["skipped"])))
    return {column: np.concatenate(values) for column, values in columns.items()}, skipped


def write(place: Path, columns: dict[str, np.ndarray]) -> None:
    """index.npz; equal columns give equal bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **columns)
    (place / INDEX).write_bytes(buffer.getvalue())


def read(place: Path, column: str) -> np.ndarray:
    """One column of every record."""
    with np.load(place / INDEX) as stored:
        return stored[column]


def read_all(place: Path) -> dict[str, np.ndarray]:
    """All columns."""
    with np.load(place / INDEX) as stored:
        return {column: stored[column] for column in stored.files}


def summarise(builder: FaceSet, name: str, source: dict, columns: dict, skipped: list, recipe: dict, ids) -> dict:
    """What summary.json holds; equal input gives equal content. source: builder.made_from(); ids: row → id, asked
    for a few rows only."""
    parts = {split: columns["split"] == number for number, split in enumerate(SPLITS)}
    parts = {split: mask for split, mask in parts.items() if mask.any()}
    known = {label: int(_known(columns, label).sum()) for label in COUNTED}
    total, everyone = len(columns["split"]), columns["identity"]
    summary = {
        "name": name,
        "source": source,
        "trains": builder.TRAINS,
        "splits": {split: int(mask.sum()) for split, mask in parts.items()},
        "protocols": {
            column.removeprefix(PROTOCOL): _counts(columns[column]) for column in columns if column.startswith(PROTOCOL)
        },
        "expected": builder.EXPECTED,
        "identities": {split: len(set(everyone[mask].tolist()) - {-1}) for split, mask in parts.items()},
        "num_identities": int(everyone.max(initial=-1)) + 1,
        "labels": {label: count / total for label, count in known.items()},
        "missing": {label: total - count for label, count in known.items()},
        "ages": {split: _ages(columns["age"][mask]) for split, mask in parts.items()},
        "detector": recipe["detector"]["name"],
        "recipe": recipe,
        "faces": _faces(columns, ids),
        "skipped": [{"file": file, "reason": reason} for file, reason in skipped],
        "warnings": builder.warnings,
        "versions": {
            "builder": str(builder.version),
            **{package: metadata.version(package) for package in ("tensorflow-datasets", "array-record", "numpy")},
            "opencv": cv2.__version__,
        },
    }
    findings = audit.audit(columns, summary)
    for finding in findings["findings"]:
        if "examples" in finding:
            finding["files"] = [[ids(row) for row in rows] for rows in finding["examples"]]
    return summary | {"audit": findings}


def _known(columns: dict, label: str) -> np.ndarray:
    if label == "landmarks":
        return columns["points"]
    values = columns[label]
    if values.dtype.kind == "U":
        return values != ""
    return values >= 0 if values.dtype.kind == "i" else ~np.isnan(values)


def _counts(numbers: np.ndarray) -> dict[str, int]:
    return {split: int(count) for number, split in enumerate(SPLITS) if (count := (numbers == number).sum())}


def _faces(columns: dict, ids) -> dict:
    """Of the detector; all None where it did not look."""
    faces = columns["faces"]
    if not (faces >= 0).any():
        return {"found": None, "none": None, "several": None, "without_face": []}
    without = np.flatnonzero(faces == 0)
    return {
        "found": int((faces > 0).sum()),
        "none": len(without),
        "several": int((faces > 1).sum()),
        "without_face": [ids(int(row)) for row in without[:NAMED]],
    }


def _ages(column: np.ndarray) -> dict:
    """Minimum, median, maximum (None without ages) and how many faces per completed year."""
    ages = column[~np.isnan(column)].astype(np.float64)
    years = collections.Counter(ages.astype(int).tolist())
    low, middle, high = np.percentile(ages, (0, 50, 100)) if ages.size else (None,) * 3
    return {
        "labelled": int(ages.size),
        "min": None if low is None else float(low),
        "median": None if middle is None else float(middle),
        "max": None if high is None else float(high),
        "histogram": {str(year): years[year] for year in sorted(years)},
    }
