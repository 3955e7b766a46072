"""`.safetensors`: named arrays behind a header, which the safetensors library reads and checks."""

from pathlib import Path

import ml_dtypes  # noqa: F401  NumPy knows bfloat16 by its name from here on
import numpy as np
from safetensors import SafetensorError, safe_open

from agejax.convert.source import Source
from agejax.convert.words import shown
from data_pipelines.errors import DataError


def read_safetensors(path: Path | str) -> Source:
    """All arrays of a file, in the order of its bytes; with its metadata.

    Raises DataError of one line where the file cannot be opened, is cut short, has a header that is broken or
    contradicts itself, holds no arrays, or an array of a dtype that NumPy has not (8-bit floats).
    """
    try:
        return _read(path)
    except SafetensorError as error:
        raise DataError(f"{path} is cut short or damaged: {shown(error)}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {shown(error)}") from None


def _read(path: Path | str) -> Source:
    with safe_open(path, framework="np") as file:
        tensors = {name: _array(path, file, name) for name in file.offset_keys()}
        metadata = file.metadata() or {}
    if not tensors:
        raise DataError(f"{path} holds no tensors")
    return Source("safetensors", tensors, metadata=metadata)


def _array(path: Path | str, file: safe_open, name: str) -> np.ndarray:
    if not name.isprintable():
        raise DataError(f"{path} is damaged: a tensor's name has characters that cannot be printed")
    try:
        return file.get_tensor(name)
    except (AttributeError, TypeError, ValueError):
        slice_ = file.get_slice(name)
        raise DataError(
            f"{path} has {shown(name)} of {slice_.get_dtype()} and {len(slice_.get_shape())} axes, which NumPy has not"
        ) from None
