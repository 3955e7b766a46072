"""What a foreign file holds, whatever its format: named arrays, and a network's layers where the file has them."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Module:
    """One layer of a network that was saved whole."""

    kind: str
    """Class name without its package, as the file has it: SpatialConvolution, Conv2d, Convolution, LogSoftMax …"""
    name: str
    """Path in the network, or the layer's name."""
    tensors: dict[str, np.ndarray]
    """Its own arrays by role, as the file has them: weight, bias, running_mean …"""
    options: dict[str, object] = dataclasses.field(default_factory=dict)
    """Numbers, words and booleans that the file gives for it: stride, eps, momentum …"""


@dataclasses.dataclass(frozen=True)
class Source:
    """A foreign file, read."""

    format: str
    """In words: pytorch zip, pytorch legacy pickle, safetensors, caffemodel, torch7 binary, torch7 ascii."""
    tensors: dict[str, np.ndarray]
    """In the order of the file; names, axes and dtypes as the file has them."""
    modules: tuple[Module, ...] = ()
    """Layers in order of use; () where the file names arrays only."""
    notes: tuple[str, ...] = ()
    """What was odd, or was left out; one line each."""
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    """Words that the file carries beside its arrays."""
