"""UTKFace's lists of 68 points (the usual ones of iBUG): name, then x and y of each, in pixels."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from data_pipelines.folders import read_text

CROP = np.array([[63, 62], [134, 62], [99, 102], [67, 138], [130, 138]], np.float32)
"""About where the five points lie in a crop: dlib's mean face in the 200 px that its aligned crops have."""
NEAR = 25  # px from there


def read_points(files: Sequence[Path], split_key: Callable[[str], str], warn: Callable[[str], None]) -> dict:
    """split_key(name) → five points, of each line that has 68."""
    lines = [line.split() for file in files for line in read_text(file).splitlines() if line.strip()]
    found = [(split_key(cells[0]), five_points(cells[1:])) for cells in lines]
    if bad := [name for name, points in found if points is None]:
        warn(f"{len(bad)} lines of {files[0].name} … are not a name and 136 numbers, as that of {bad[0]}")
    return {name: points for name, points in found if points is not None}


def five_points(cells: Sequence[str]) -> np.ndarray | None:
    """(5, 2): eyes (mean of their six points), nose tip, mouth corners, image-left first; None unless there are 68."""
    try:
        points = np.array(cells, np.float32).reshape(68, 2)
    except ValueError:
        return None
    return np.stack([points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]])


def fits(points: Sequence[np.ndarray], crops: bool) -> bool:
    """Whether the points are in pixels of the 200 px crops, or else of the photographs, going by their median."""
    median = np.median(points, axis=0)
    return bool((median >= 0).all() and (median < 200).all()) if crops else bool(np.abs(median - CROP).max() > NEAR)
