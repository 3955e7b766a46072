"""Arrays between other programs' axes and ours."""

import math

import numpy as np

# ours: what PyTorch, Torch7 and (once read) Caffe call it
ROLES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
CELLS = 49  # fc6 reads a map of 7×7, channels outermost there and innermost here


def to_ours(array: np.ndarray, unit: str, leaf: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """The array with our axes, float32; None where it does not come out in the shape that is wanted.

    Convolutions: (O, I, H, W) → (H, W, I, O). Dense: (O, I) → (I, O), also where it is written as a 1×1 or a full-map
    convolution. fc6: the rows C, H, W → H, W, C.
    """
    array = np.asarray(array, np.float32)
    if leaf == "kernel" and len(shape) == 4:
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
    elif leaf == "kernel" and array.ndim in (2, 4) and array.size == math.prod(shape):
        array = array.reshape(array.shape[0], -1)
        array = _cells_first(array) if is_fc6(unit) else array
        array = array.T
    return array if array.shape == tuple(shape) else None


def to_theirs(array: np.ndarray, unit: str, leaf: str) -> np.ndarray:
    """The inverse, for export."""
    array = np.asarray(array)
    if leaf == "kernel" and array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    elif leaf == "kernel":
        array = _channels_first(array.T) if is_fc6(unit) else array.T
    return np.ascontiguousarray(array, np.float32)


def their_shape(unit: str, leaf: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return to_theirs(np.empty(shape, np.bool_), unit, leaf).shape


def is_fc6(unit: str) -> bool:
    return unit.endswith("/fc6")


def _cells_first(array_OxI: np.ndarray) -> np.ndarray:
    return array_OxI.reshape(len(array_OxI), -1, CELLS).swapaxes(1, 2).reshape(len(array_OxI), -1)


def _channels_first(array_OxI: np.ndarray) -> np.ndarray:
    return array_OxI.reshape(len(array_OxI), CELLS, -1).swapaxes(1, 2).reshape(len(array_OxI), -1)
