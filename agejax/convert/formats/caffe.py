"""Caffe models (.caffemodel): the layers that hold weights, in order, read from protobuf's wire form.

Field numbers are those of BVLC/caffe, src/caffe/proto/caffe.proto. The network's means are not in such a file.
"""

import dataclasses
import math
import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from agejax.convert.source import Module, Source
from agejax.convert.words import shown
from data_pipelines.errors import DataError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types; groups (3, 4) are not in Caffe's messages
FIXED = {FIXED32: 4, FIXED64: 8}


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where one generation of layer messages keeps things."""

    layers: int
    name: int
    kind: int
    blobs: int
    options: dict[str, int]
    """Field of the message with a kind's options."""


V1 = Layout(layers=2, name=4, kind=5, blobs=6, options={"Convolution": 10, "Deconvolution": 10, "InnerProduct": 17})
V2 = Layout(
    layers=100,
    name=1,
    kind=2,
    blobs=7,
    options={"Convolution": 106, "Deconvolution": 106, "InnerProduct": 117, "BatchNorm": 139},
)
V0_LAYER = 1  # of a V1 layer: the whole layer in the oldest form
V1_KINDS = {
    **{1: "Accuracy", 2: "BNLL", 3: "Concat", 4: "Convolution", 5: "Data", 6: "Dropout", 7: "EuclideanLoss"},
    **{8: "Flatten", 9: "HDF5Data", 10: "HDF5Output", 11: "Im2col", 12: "ImageData", 13: "InfogainLoss"},
    **{14: "InnerProduct", 15: "LRN", 16: "MultinomialLogisticLoss", 17: "Pooling", 18: "ReLU", 19: "Sigmoid"},
    **{20: "Softmax", 21: "SoftmaxWithLoss", 22: "Split", 23: "TanH", 24: "WindowData", 25: "Eltwise", 26: "Power"},
    **{27: "SigmoidCrossEntropyLoss", 28: "HingeLoss", 29: "MemoryData", 30: "ArgMax", 31: "Threshold"},
    **{32: "DummyData", 33: "Slice", 34: "MVN", 35: "AbsVal", 36: "Silence", 37: "ContrastiveLoss", 38: "Exp"},
    **{39: "Deconvolution"},
}
CONVOLUTION = {
    **{1: "num_output", 2: "bias_term", 3: "pad", 4: "kernel_size", 5: "group", 6: "stride", 9: "pad_h", 10: "pad_w"},
    **{11: "kernel_h", 12: "kernel_w", 13: "stride_h", 14: "stride_w", 16: "axis", 18: "dilation"},
}
OPTIONS = {
    "Convolution": CONVOLUTION,
    "Deconvolution": CONVOLUTION,
    "InnerProduct": {1: "num_output", 2: "bias_term", 5: "axis", 6: "transpose"},
    "BatchNorm": {1: "use_global_stats", 2: "moving_average_fraction", 3: "eps"},
}
BOOLEANS = ("bias_term", "transpose", "use_global_stats")
ROLES = {"BatchNorm": ("mean", "var", "factor")}  # mean and var are sums: each is divided by the factor when used
USUAL_ROLES = ("weight", "bias")
LEGACY_SHAPE, DATA, SHAPE, DOUBLE_DATA = (1, 2, 3, 4), 5, 7, 8  # of a blob
AXES = 32


def read_caffemodel(path: str | Path) -> Source:
    """The layers with blobs of a V1 or V2 file, as LAYER/weight, LAYER/bias; of BatchNorm LAYER/mean, /var, /factor.

    Kernels stay (out, in / group, H, W); a dense weight is (out, in), a vector (n,), also where an old file says
    1 × 1 × n × m. Options are those that the file gives: Caffe's defaults are not filled in. Raises DataError, one
    line, for a file that is broken, has no weights, or has the oldest form (V0).
    """
    try:
        with open(path, "rb") as file:
            if not file.read(1):
                raise DataError("the file is empty")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        modules = tuple(module for module in _modules(data) if module.tensors)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    if not modules:
        raise DataError(f"{path}: no layer with weights in it, if it is a .caffemodel at all")
    tensors = {f"{module.name}/{role}": array for module in modules for role, array in module.tensors.items()}
    if len(tensors) < sum(len(module.tensors) for module in modules):
        raise DataError(f"{path}: two layers with weights have one name")
    return Source("caffemodel", tensors, modules)


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a message; or, of fixed width, all that follow one another: a list that was not packed."""

    number: int
    wire: int
    value: int
    """Of a varint, unsigned; of a fixed width, the bytes of a tag."""
    start: int
    """Of the payload; of a fixed width, of its first tag."""
    end: int


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[Field]:
    at = start
    while at < end:
        first = at
        tag, at = _varint(data, at, end)
        number, wire, value, begin = tag >> 3, tag & 7, 0, at
        if wire == VARINT:
            value, at = _varint(data, at, end)
        elif wire == BYTES:
            size, begin = _varint(data, at, end)
            at = begin + size
        elif wire in FIXED:
            value, begin, at = at - first, first, _run_end(data, first, at, at + FIXED[wire], end)
        if number == 0 or wire not in (VARINT, BYTES, *FIXED):
            raise DataError(f"no field of a message begins at byte {first:,}: broken, or not a .caffemodel")
        if at > end:
            raise DataError(f"field {number} at byte {first:,} is to end at byte {at:,}, its message ends at {end:,}")
        yield Field(number, wire, value, begin, at)


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = 0
    for i, byte in enumerate(data[at : min(at + 10, end)]):
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, at + i + 1
    raise DataError(f"a number at byte {at:,} does not end: broken, or not a .caffemodel")


def _run_end(data: mmap.mmap, first: int, payload: int, end: int, limit: int) -> int:
    """Where the last of the equal tags with their values ends: a list of millions is stepped over at once."""
    tag, width = data[first:payload], end - first
    if end + width > limit or data[end : end + len(tag)] != tag:
        return end
    rows = np.frombuffer(data, np.uint8, (limit - first) // width * width, first).reshape(-1, width)
    other = (rows[:, : len(tag)] != np.frombuffer(tag, np.uint8)).any(axis=1)
    return first + width * (int(other.argmax()) if other.any() else len(rows))


def _modules(data: mmap.mmap) -> Iterator[Module]:
    layouts = {layout.layers: layout for layout in (V1, V2)}
    for field in _fields(data, 0, len(data)):
        if field.number in layouts and field.wire == BYTES:
            layer = list(_fields(data, field.start, field.end))
            yield _module(data, layer, layouts[field.number])


def _module(data: mmap.mmap, layer: list[Field], layout: Layout) -> Module:
    if layout is V1 and any(field.number == V0_LAYER and field.wire == BYTES for field in layer):
        raise DataError("layers in the oldest form (V0): rewrite the file with Caffe's upgrade_net_proto_binary")
    name = "".join(_words(data, layer, layout.name)[-1:])
    kind = _kind(data, layer, layout)
    blobs = [field for field in layer if field.number == layout.blobs and field.wire == BYTES]
    roles = ROLES.get(kind, USUAL_ROLES)
    roles += tuple(f"blob{i}" for i in range(len(roles), len(blobs)))
    tensors = {}
    for role, blob in zip(roles, blobs):
        array = _blob(data, list(_fields(data, blob.start, blob.end)), f"{shown(name)}, {role}")
        tensors[role] = _shaped(array, kind, role)
    return Module(kind, name, tensors, _options(data, layer, layout, kind))


def _words(data: mmap.mmap, fields: list[Field], number: int) -> list[str]:
    found = [field for field in fields if field.number == number and field.wire == BYTES]
    return [data[field.start : field.end].decode("utf-8", "backslashreplace") for field in found]


def _kind(data: mmap.mmap, layer: list[Field], layout: Layout) -> str:
    if layout is V2:
        return "".join(_words(data, layer, layout.kind)[-1:])
    codes = [field.value for field in layer if field.number == layout.kind and field.wire == VARINT]
    return V1_KINDS.get(codes[-1], f"type {codes[-1]}") if codes else ""


def _options(data: mmap.mmap, layer: list[Field], layout: Layout, kind: str) -> dict[str, object]:
    options = {}
    for message in (field for field in layer if field.number == layout.options.get(kind) and field.wire == BYTES):
        fields = list(_fields(data, message.start, message.end))
        for number, name in OPTIONS[kind].items():
            values = _integers(data, fields, number) or _decimals(_floats(data, fields, number, FIXED32))
            if values:
                same = name in BOOLEANS or len(set(values)) == 1
                options[name] = bool(values[-1]) if name in BOOLEANS else values[0] if same else tuple(values)
    return options


def _decimals(values: np.ndarray) -> list[float]:
    return [float(str(value)) for value in values]  # 1e-05, not the 9.99999974e-06 that is nearest to it in float32


def _integers(data: mmap.mmap, fields: list[Field], number: int) -> list[int]:
    values = []
    for field in (field for field in fields if field.number == number and field.wire in (VARINT, BYTES)):
        at, some = field.start, [field.value] if field.wire == VARINT else []
        while field.wire == BYTES and at < field.end:
            value, at = _varint(data, at, field.end)
            some.append(value)
        values += some
    return [value - (1 << 64) if value >> 63 else value for value in values]


def _floats(data: mmap.mmap, fields: list[Field], number: int, wire: int) -> np.ndarray:
    """A copy: aligned, and free of the file."""
    width = FIXED[wire]
    parts = [np.empty((0,), f"<f{width}")]
    for field in (field for field in fields if field.number == number and field.wire in (wire, BYTES)):
        size = field.end - field.start
        stride = width if field.wire == BYTES else width + field.value
        if size % stride:
            raise DataError(f"numbers of {width} bytes at byte {field.start:,} take up {size:,} bytes")
        rows = np.frombuffer(data, np.uint8, size, field.start).reshape(-1, stride)
        parts.append(np.ascontiguousarray(rows[:, stride - width :]).view(f"<f{width}")[:, 0])
    return np.concatenate(parts)


def _blob(data: mmap.mmap, fields: list[Field], name: str) -> np.ndarray:
    shape = _shape(data, fields)
    values = _floats(data, fields, DOUBLE_DATA, FIXED64)
    if not len(values):
        values = _floats(data, fields, DATA, FIXED32)
    if len(shape) > AXES or min(shape, default=1) < 1 or math.prod(shape) != len(values):
        raise DataError(f"layer {name}: shape {str(shape)[:80]} is announced and {len(values):,} numbers are there")
    return values.reshape(shape)


def _shape(data: mmap.mmap, fields: list[Field]) -> tuple[int, ...]:
    legacy = [_integers(data, fields, number)[-1:] for number in LEGACY_SHAPE]
    if any(legacy):  # goes before a newer shape, as in Caffe
        return tuple(sum(size) for size in legacy)
    messages = [field for field in fields if field.number == SHAPE and field.wire == BYTES]
    parts = [_integers(data, list(_fields(data, field.start, field.end)), 1) for field in messages]
    return tuple(size for part in parts for size in part)


def _shaped(array: np.ndarray, kind: str, role: str) -> np.ndarray:
    """Old files give every blob four axes."""
    if role == "weight" and kind in ("Convolution", "Deconvolution"):
        return array
    if role == "weight" and kind == "InnerProduct":
        return array.reshape(array.shape[-2:]) if math.prod(array.shape[:-2]) == 1 else array
    return array.reshape(-1) if array.size == max(array.shape, default=1) else array
