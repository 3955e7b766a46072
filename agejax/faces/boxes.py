"""Boxes between MTCNN's networks, as the `mtcnn` package treats them: float64 (N, 4) of x1, y1, x2, y2 in pixels."""

import numpy as np

BLOCK = 512  # boxes compared with all better ones at a time: bounds the memory for a crowd


def suppress(boxes_Nx4: np.ndarray, most: float, over_smaller: bool = False) -> np.ndarray:
    """Indices of the boxes to keep, of boxes sorted best first.

    A box goes when it overlaps any better one by more than `most`, even one that itself goes: that is how the package
    does it, and not the usual greedy rule. Overlap is intersection over union or, with over_smaller, over the smaller.
    """
    worst = [_worst(boxes_Nx4, start, over_smaller) for start in range(0, len(boxes_Nx4), BLOCK)]
    return np.flatnonzero(np.concatenate(worst) <= most) if worst else np.zeros(0, int)


def _worst(boxes_Nx4: np.ndarray, start: int, over_smaller: bool) -> np.ndarray:
    """The largest overlap of each box of a block with a better one; -inf where there is none."""
    better = boxes_Nx4[: start + BLOCK]
    left, top, right, bottom = (column[None] for column in better.T)
    left_b, top_b, right_b, bottom_b = (column[start:, None] for column in better.T)
    width = np.maximum(np.minimum(right, right_b) - np.maximum(left, left_b), 0)
    shared = width * np.maximum(np.minimum(bottom, bottom_b) - np.maximum(top, top_b), 0)
    area, area_b = (right - left) * (bottom - top), (right_b - left_b) * (bottom_b - top_b)
    whole = np.minimum(area, area_b) if over_smaller else area + area_b - shared
    with np.errstate(divide="ignore", invalid="ignore"):  # boxes without area
        overlap = shared / whole
    index = np.arange(len(better))
    overlap[(index[None] >= index[start:, None]) | np.isnan(overlap)] = -np.inf
    return overlap.max(1)


def square(boxes_Nx4: np.ndarray) -> np.ndarray:
    """Squares of the longer side about the same centres."""
    centre = (boxes_Nx4[:, :2] + boxes_Nx4[:, 2:]) / 2
    side = (boxes_Nx4[:, 2:] - boxes_Nx4[:, :2]).max(1, keepdims=True)
    return np.concatenate([centre - side / 2, centre + side / 2], 1)


def sides(boxes_Nx4: np.ndarray) -> np.ndarray:
    """Width and height of boxes whose last pixel counts, (N, 2)."""
    return boxes_Nx4[:, 2:] - boxes_Nx4[:, :2] + 1


def moved(boxes_Nx4: np.ndarray, offsets_Nx4: np.ndarray) -> np.ndarray:
    """Boxes with their corners moved by what R- or O-Net says, in widths and heights."""
    return boxes_Nx4 + offsets_Nx4 * np.tile(sides(boxes_Nx4), 2)


def best(groups: tuple, boxes_Nx4: np.ndarray, scores_N: np.ndarray, most: float, over_smaller: bool = False):
    """Indices of the boxes that suppress() keeps within each group, group by group and best first.

    groups are one or more int (N,): neighbours that agree in all of them are of one group. Scores of exactly 1 are
    common; which of them comes first is left to the sort that the package uses, because it decides which one stays.
    """
    changes = np.any([np.diff(group) != 0 for group in groups], axis=0)
    parts = np.split(np.arange(len(scores_N)), np.flatnonzero(changes) + 1)
    parts = [part[np.argsort(scores_N[part].astype(np.float64))[::-1]] for part in parts]
    return np.concatenate([part[suppress(boxes_Nx4[part], most, over_smaller)] for part in parts])
