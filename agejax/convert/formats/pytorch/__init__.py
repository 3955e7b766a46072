"""`.pth` and `.pt`: files of torch.save, in the zip format and in the one before it, read without torch.

A pickle is a program. Here it is read as data (unpickler.py): what a file may call is the table in harmless.py,
functions of ours, and a file that wants to call anything else is refused.
"""

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from agejax.convert.formats.pytorch.files import read_content
from agejax.convert.formats.pytorch.storages import Array
from agejax.convert.formats.pytorch.unpickler import BROKEN
from agejax.convert.formats.pytorch.weights import find_weights
from agejax.convert.source import Module, Source
from agejax.convert.words import shown
from data_pipelines.errors import DataError, UserError

DAMAGED = (*BROKEN, EOFError, NotImplementedError, struct.error, zipfile.BadZipFile)


def read_pickle(path: Path | str, entry: str | None = None) -> Source:
    """The weights in a file of torch.save: a state dict, a checkpoint with one in it, or a network saved whole.

    entry: which, where a checkpoint holds several ("ema"). Arrays are read-only copies; what shares memory in PyTorch
    shares it here. Nothing of the file is run. Raises DataError of one line where the file cannot be opened, is
    damaged, wants anything called, or holds no weights or several.
    """
    try:
        with Path(path).open("rb") as file:
            return _read(file, entry)
    except UserError as error:
        raise DataError(f"{path} {error}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {shown(error.strerror or error)}") from None
    except DAMAGED as error:
        raise DataError(f"{path} is cut short or damaged ({type(error).__name__}: {shown(error)})") from None


def _read(file: BinaryIO, entry: str | None) -> Source:
    content = read_content(file)
    found = find_weights(content.root, entry)
    tensors = _arrays(found.arrays)
    modules = tuple(Module(layer.kind, layer.name, _arrays(layer.arrays), layer.options) for layer in found.layers)
    return Source(content.format, tensors, modules, notes=(*content.notes, *found.notes))


def _arrays(arrays: Mapping[str, Array]) -> dict[str, np.ndarray]:
    return {name: array.array() for name, array in arrays.items()}
