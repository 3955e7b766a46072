"""Writes Torch7 files (.t7), for tests, binary and ASCII, as `torch.save` does (torch/torch7, File.lua).

Python's None, bool, int, float, str, list and dict are Lua's nil, boolean, number, string and tables; an array is a
tensor with a storage of its own.
"""

import dataclasses
from pathlib import Path

import numpy as np

WORDS = {
    **{"uint8": "Byte", "int8": "Char", "int16": "Short", "int32": "Int", "int64": "Long", "float16": "Half"},
    **{"float32": "Float", "float64": "Double"},
}
CONVOLUTIONS = (2, 2, 3, 3, 3)  # in the stages of VGG-16


@dataclasses.dataclass(eq=False)
class Lua:
    """An object of a class of Lua's. version None: as saved before there were versions."""

    name: str
    fields: dict
    version: int | None = 1
    header: object = None
    """What some classes write before their fields."""


@dataclasses.dataclass(eq=False)
class Storage:
    array: np.ndarray


@dataclasses.dataclass(eq=False)
class View:
    """A tensor of a storage that others may share. Strides in elements; offset from 1."""

    storage: Storage | None
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 1


@dataclasses.dataclass(eq=False)
class Function:
    """code: 8, or the older 7 and 6."""

    upvalues: object = dataclasses.field(default_factory=list)
    code: int = 8


def nn(kind: str, package: str = "nn", version: int | None = 1, **fields) -> Lua:
    """A layer with the fields that every layer has."""
    empty = View(None, (), ())
    return Lua(
        f"{package}.{kind}", {"output": empty, "gradInput": empty, "_type": "torch.FloatTensor"} | fields, version
    )


def write_t7(path: Path, value: object, ascii: bool = False, cuda: bool = False, long: int = 8) -> Path:
    """cuda: tensors of the CUDA classes. long: bytes of a C long where the file is written."""
    path.write_bytes(_Writer(ascii, cuda, long).any(value))
    return path


class _Writer:
    def __init__(self, ascii: bool, cuda: bool, long: int):
        self.ascii, self.cuda, self.long = ascii, cuda, f"i{long}"
        self.indices: dict[int, int] = {}
        self.kept = []  # an id is one object's as long as the object lives

    def numbers(self, values, dtype) -> bytes:
        array = np.asarray(values, dtype).reshape(-1)
        if not self.ascii or array.dtype.itemsize == 1:
            return array.tobytes() + b"\n" * (self.ascii and array.size > 0)
        digits = 17 if array.dtype.itemsize == 8 else 9
        words = [f"{value:.{digits}g}" if array.dtype.kind == "f" else str(value) for value in array.tolist()]
        return (" ".join(words) + "\n").encode() if words else b""

    def integer(self, *values: int) -> bytes:
        return b"".join(self.numbers(value, "<i4") for value in values)

    def longs(self, values) -> bytes:
        return self.numbers(values, f"<{self.long}")

    def string(self, value: str | bytes) -> bytes:
        raw = value if isinstance(value, bytes) else value.encode()
        return self.integer(len(raw)) + self.numbers(np.frombuffer(raw, np.uint8), np.uint8)

    def any(self, value: object) -> bytes:
        if value is None:
            return self.integer(0)
        if isinstance(value, bool):
            return self.integer(5, int(value))
        if isinstance(value, (int, float)):
            return self.integer(1) + self.numbers(value, "<f8")
        if isinstance(value, (str, bytes)):
            return self.integer(2) + self.string(value)
        if isinstance(value, Function) and value.code == 6:
            return self.integer(6) + self.function(value)
        return self.referenced(value)

    def referenced(self, value: object) -> bytes:
        codes = {list: 3, dict: 3, Function: getattr(value, "code", 8)}
        head = self.integer(codes.get(type(value), 4))
        if id(value) in self.indices:
            return head + self.integer(self.indices[id(value)])
        self.kept.append(value)
        self.indices[id(value)] = len(self.kept)
        bodies = {list: self.table, dict: self.table, Function: self.function, Lua: self.object, View: self.view}
        bodies |= {np.ndarray: self.tensor, Storage: self.storage}
        return head + self.integer(len(self.kept)) + bodies[type(value)](value)

    def table(self, value: list | dict) -> bytes:
        entries = dict(enumerate(value, 1)) if isinstance(value, list) else value
        entries = {key: entry for key, entry in entries.items() if entry is not None}  # nil: no entry
        return self.integer(len(entries)) + b"".join(self.any(key) + self.any(entry) for key, entry in entries.items())

    def function(self, value: Function) -> bytes:
        return self.string(b"\x1bLua\0 bytecode") + self.any(value.upvalues)

    def name(self, word: str, version: int | None = 1) -> bytes:
        return (b"" if version is None else self.string(f"V {version}")) + self.string(word)

    def object(self, value: Lua) -> bytes:
        header = b"" if value.header is None else self.any(value.header)
        return self.name(value.name, value.version) + header + self.any(value.fields)

    def tensor(self, array: np.ndarray) -> bytes:
        strides = tuple(int(np.prod(array.shape[i + 1 :])) for i in range(array.ndim))
        return self.view(View(Storage(array), array.shape, strides), array.dtype)

    def view(self, value: View, dtype: np.dtype | None = None) -> bytes:
        dtype = dtype or (value.storage.array.dtype if value.storage else np.dtype(np.float32))
        sizes = self.integer(len(value.sizes)) + self.longs(value.sizes) + self.longs(value.strides)
        return self.name(self.word(dtype) + "Tensor") + sizes + self.longs(value.offset) + self.any(value.storage)

    def storage(self, value: Storage) -> bytes:
        array = np.ascontiguousarray(value.array)
        stored = self.long if array.dtype == np.int64 else array.dtype
        name = self.name(self.word(array.dtype) + "Storage")
        return name + self.longs(array.size) + self.numbers(array, stored)

    def word(self, dtype: np.dtype) -> str:
        word = WORDS[str(dtype)]
        return f"torch.{'Cuda' * self.cuda}{'' if self.cuda and word == 'Float' else word}"


def thin_arrays(rng: np.random.Generator, widths=(4, 4, 8, 8, 8), outputs: int = 101) -> dict[str, np.ndarray]:
    """Random weights and statistics of ThinAgeNet (widths 32, 64, 128, 256, 256) by their names in the file: 1/weight …
    47/bias."""
    arrays, position, before = {}, 1, 3

    def add(role: str, *shape: int, low: float, high: float):
        arrays[f"{position}/{role}"] = rng.uniform(low, high, shape).astype(np.float32)

    for width, count in zip(widths, CONVOLUTIONS):
        for _ in range(count):
            bound = (6 / before / 9) ** 0.5
            add("weight", width, before, 3, 3, low=-bound, high=bound)
            position += 1
            add("weight", width, low=0.5, high=1.5)
            add("bias", width, low=-0.2, high=0.2)
            add("running_mean", width, low=-0.2, high=0.2)
            add("running_var", width, low=0.5, high=2)
            position, before = position + 2, width
        position += 1  # the pooling
    position += 2
    add("weight", outputs, before, low=-1, high=1)
    add("bias", outputs, low=-0.1, high=0.1)
    return arrays


TAILS = {
    "identity": lambda grid: [nn("LogSoftMax")],
    "kl": lambda grid: [nn("SoftMax")],
    "expectation": lambda grid: [nn("SoftMax"), nn("ExpOut", constant_vector=grid)],
    "joint": lambda grid: [
        nn("SoftMax"),
        nn("ConcatTable", output=[], modules=[nn("Identity"), nn("ExpOut", constant_vector=grid)]),
    ],
    "rank": lambda grid: [nn("Sigmoid")],
    "regression": lambda grid: [nn("Tanh")],
}


def thin_net(
    arrays: dict[str, np.ndarray],
    tail: str = "kl",
    grid: np.ndarray | None = None,
    cudnn: bool = False,
    parallel: bool = False,
    flat: bool = False,
) -> Lua:
    """The authors' VGG-16 with batch normalisation, built and named as thin_arrays names its arrays; then `tail`.

    grid: labels of an expectation, 0, 1, … unless given. cudnn: convolutions, ReLUs and the last pooling are of cudnn's
    classes. parallel: inside nn.DataParallelTable. flat: all parameters in one storage, as training on several devices
    leaves them.
    """
    arrays = dict(arrays)
    package = "cudnn" if cudnn else "nn"
    if flat:
        arrays |= _flattened({name: array for name, array in arrays.items() if "running" not in name})
    layers: list[Lua] = []
    for count in CONVOLUTIONS:
        for _ in range(count):
            layers.append(_convolution(arrays, len(layers) + 1, package))
            layers.append(_norm(arrays, len(layers) + 1))
            layers.append(nn("ReLU", package, inplace=True, threshold=0, val=0))
        layers.append(_pooling("SpatialMaxPooling", "nn", 2, 2))
    layers.append(_pooling("SpatialAveragePooling", package, 7, 1, divide=True, count_include_pad=True))
    width = layers[-4].fields["running_mean"].shape[0]
    layers.append(nn("View", size=Storage(np.int64([width])), numElements=width, numInputDims=3))
    last = f"{len(layers) + 1}/"
    bias = arrays.get(f"{last}bias")
    layers.append(nn("Linear", weight=arrays[f"{last}weight"], bias=bias, gradBias=bias))
    if grid is None:
        grid = np.arange(sizes(arrays[f"{last}weight"])[0], dtype=np.float32)
    network = nn("Sequential", modules=layers + TAILS[tail](grid))
    return parallelised(network) if parallel else network


def sizes(array: np.ndarray | View) -> tuple[int, ...]:
    return array.sizes if isinstance(array, View) else array.shape


def parallelised(network: Lua) -> Lua:
    """As cunn writes it since version 2: the devices first; its threads know it and hold a function."""
    table = Lua("nn.DataParallelTable", {"modules": [network], "dimension": 1, "flattenParams": True}, 3, [1, 2])
    table.fields["impl"] = Lua(
        "nn.DataParallelTable.Threads", {"dpt": table, "initFunc": Function([{"name": "cudnn"}])}
    )
    return table


def _convolution(arrays: dict, position: int, package: str) -> Lua:
    weight, bias = arrays[f"{position}/weight"], arrays.get(f"{position}/bias")
    out, into, height, width = sizes(weight)
    options = {
        "nInputPlane": into,
        "nOutputPlane": out,
        "kW": width,
        "kH": height,
        "dW": 1,
        "dH": 1,
        "padW": 1,
        "padH": 1,
    }
    more = {"groups": 1} if package == "cudnn" else {}
    return nn("SpatialConvolution", package, weight=weight, bias=bias, gradWeight=weight, **options, **more)


def _norm(arrays: dict, position: int) -> Lua:
    roles = {role: arrays[f"{position}/{role}"] for role in ("weight", "bias", "running_mean", "running_var")}
    return nn("SpatialBatchNormalization", version=2, **roles, eps=1e-5, momentum=0.1, affine=True, train=False)


def _pooling(kind: str, package: str, size: int, step: int, **more) -> Lua:
    return nn(kind, package, kW=size, kH=size, dW=step, dH=step, padW=0, padH=0, ceil_mode=False, **more)


def _flattened(arrays: dict[str, np.ndarray]) -> dict[str, View]:
    storage, offset, views = Storage(np.concatenate([array.reshape(-1) for array in arrays.values()])), 1, {}
    for name, array in arrays.items():
        strides = tuple(int(np.prod(array.shape[i + 1 :])) for i in range(array.ndim))
        views[name] = View(storage, array.shape, strides, offset)
        offset += array.size
    return views
