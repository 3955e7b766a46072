"""Raw trees of the sets with ages, in short: lists of lines, folders of pictures; what rows say."""

from pathlib import Path

import numpy as np
from raw_trees import picture


def listing(file: Path, *lines: str, encoding="utf-8", end="\n") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes((end.join(lines) + end).encode(encoding))
    return file


def pictures(folder: Path, *names: str) -> None:
    for name in names:
        picture(folder / name)


def cell(*values) -> np.ndarray:
    """A row of MATLAB's cells."""
    cells = np.empty((1, len(values)), object)
    for i, value in enumerate(values):
        cells[0, i] = value
    return cells


def labels(rows: dict) -> dict[str, tuple]:
    return {id: tuple(row.labels.values()) for id, row in rows.items()}


def splits(rows: dict) -> dict[str, str]:
    return {id: row.split for id, row in rows.items()}
