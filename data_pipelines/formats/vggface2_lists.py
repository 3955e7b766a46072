"""VGGFace2's tables: who is a woman or a man, the box of each face, its five points."""

from pathlib import Path

import numpy as np

from data_pipelines.folders import read_text

GENDERS = {"m": "male", "f": "female"}


def read_genders(file: Path) -> dict[str, str]:
    """Identity → gender, of identity_meta.csv. Names hold commas: the first and the last cell of a line count."""
    lines = [line.split(",") for line in read_text(file).split("\n")]
    return {cells[0].strip(' "'): GENDERS.get(cells[-1].strip(' "\r').lower(), "") for cells in lines}


def read_numbers(file: Path, index: dict[str, int], table: np.ndarray) -> int:
    """Puts each line, `"n000002/0001_01",…`, into the row of the table that index gives; how many are no numbers."""
    bad = 0
    with open(file, encoding="utf-8-sig", errors="replace") as lines:
        for line in lines:
            name, *cells = line.strip().replace('"', "").split(",")
            row = index.get(name.strip().removesuffix(".jpg"))
            if row is None:
                continue  # the header, or an image that is not there
            try:
                table[row] = np.array(cells, np.float32).reshape(table[row].shape)
            except ValueError:
                bad += 1
    return bad


def usable(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Which faces (n, 5, 2) have eyes apart and no point farther off the box (n, 4) than half its size: bool (n,).

    A box is x, y, width, height in pixels; points are not held against one that is NaN or empty.
    """
    corner, size = boxes[:, None, :2], boxes[:, None, 2:]
    near = (np.abs(points - corner - size / 2) <= size).all((1, 2)) | ~(boxes[:, 2:] > 0).all(1)
    apart = np.linalg.norm(points[:, 1] - points[:, 0], axis=1) > 1
    return near & apart & np.isfinite(points).all((1, 2))


def corners(box: np.ndarray) -> tuple[float, float, float, float] | None:
    """x1, y1, x2, y2 of x, y, width, height; None where it is NaN or empty."""
    x, y, width, height = box.tolist()
    return (x, y, x + width, y + height) if width > 0 and height > 0 else None
