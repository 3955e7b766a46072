"""Files as torch.save writes them, made without torch: a small pickler, and the two containers."""

import dataclasses
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from agejax.convert.formats.pytorch import read_pickle
from data_pipelines.errors import DataError

STORAGES = {
    "float64": "DoubleStorage", "float32": "FloatStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage",
    "int64": "LongStorage", "int32": "IntStorage", "int16": "ShortStorage", "int8": "CharStorage",
    "uint8": "ByteStorage", "bool": "BoolStorage",
    "complex64": "ComplexFloatStorage", "complex128": "ComplexDoubleStorage",
}  # fmt: skip
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
RNG = np.random.default_rng(0)
BOTH = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
SYSTEM = {"protocol_version": PROTOCOL, "type_sizes": {"short": 2, "int": 4, "long": 4}}


@dataclasses.dataclass(frozen=True)
class Name:
    """module and name, with a space between them: the opcode GLOBAL."""

    words: str


@dataclasses.dataclass
class Call:
    """name(*args): the opcode REDUCE; then items, and BUILD where there is a state."""

    name: object
    args: tuple = ()
    state: object = None
    items: dict = dataclasses.field(default_factory=dict)
    opcode: bytes = b"R"


@dataclasses.dataclass
class New(Call):
    """An object of a class: the opcode NEWOBJ."""

    opcode: bytes = b"\x81"


@dataclasses.dataclass
class Persistent:
    """A persistent id: the opcode BINPERSID."""

    id: object


def write(value: object) -> bytes:
    """A whole pickle of protocol 2, every object in it written once."""
    return b"\x80\x02" + _Writer().written(value) + b"."


class _Writer:
    def __init__(self):
        self.memo: dict[int, tuple[int, object]] = {}

    def written(self, value: object) -> bytes:
        if id(value) in self.memo and not isinstance(value, str | int | tuple):
            return b"j" + struct.pack("<I", self.memo[id(value)][0])
        return WRITERS[type(value)](self, value)

    def remembered(self, value: object) -> bytes:
        self.memo[id(value)] = (len(self.memo), value)
        return b"r" + struct.pack("<I", len(self.memo) - 1)

    def tuple(self, values: tuple) -> bytes:
        return b"(" + b"".join(self.written(value) for value in values) + b"t"

    def list(self, values: list) -> bytes:
        return b"]" + self.remembered(values) + b"(" + b"".join(self.written(value) for value in values) + b"e"

    def dict(self, values: dict) -> bytes:
        return b"}" + self.remembered(values) + self.items(values)

    def items(self, values: dict) -> bytes:
        return b"(" + b"".join(self.written(key) + self.written(value) for key, value in values.items()) + b"u"

    def call(self, call: Call) -> bytes:
        made = (
            self.written(Name(call.name) if isinstance(call.name, str) else call.name)
            + self.tuple(call.args)
            + call.opcode
            + self.remembered(call)
        )
        items = self.items(call.items) if call.items else b""
        return made + items + (self.written(call.state) + b"b" if call.state is not None else b"")


def _text(_: _Writer, text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


WRITERS = {
    str: _text,
    tuple: _Writer.tuple,
    list: _Writer.list,
    dict: _Writer.dict,
    Call: _Writer.call,
    New: _Writer.call,
    Name: lambda _, name: b"c" + name.words.replace(" ", "\n").encode() + b"\n",
    Persistent: lambda writer, persistent: writer.written(persistent.id) + b"Q",
    bool: lambda _, value: b"\x88" if value else b"\x89",
    type(None): lambda _, __: b"N",
    float: lambda _, value: b"G" + struct.pack(">d", value),
    int: lambda _, value: pickle.dumps(value, 2)[2:-1],
    bytes: lambda _, value: b"B" + struct.pack("<I", len(value)) + value,
}


def floats(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


class TorchFile:
    """Storages that tensors of one file live in, and the file."""

    def __init__(self, legacy: bool = False):
        self.legacy, self.storages, self.little_endian = legacy, {}, True

    def storage(self, values: np.ndarray, count: int | None = None) -> Persistent:
        key = str(len(self.storages))
        self.storages[key] = np.ascontiguousarray(values).ravel()
        words = ("storage", Name(f"torch {STORAGES[values.dtype.name]}"), key, "cpu")
        return Persistent((*words, values.size if count is None else count, *([None] if self.legacy else [])))

    def tensor(self, values: np.ndarray) -> Call:
        """Of an array whose axes may be in any order in memory."""
        base = values if values.base is None else values.base
        strides = tuple(stride // values.itemsize for stride in values.strides)
        return self.view(self.storage(base), 0, values.shape, strides)

    def view(self, storage: Persistent, offset: int, shape: tuple, strides: tuple) -> Call:
        args = (storage, offset, shape, strides, False, Call("collections OrderedDict"))
        return Call("torch._utils _rebuild_tensor_v2", args)

    def parameter(self, values: np.ndarray) -> Call:
        args = (self.tensor(values), True, Call("collections OrderedDict"))
        return Call("torch._utils _rebuild_parameter", args)

    def state_dict(self, arrays: dict[str, np.ndarray]) -> Call:
        items = {name: self.tensor(array) for name, array in arrays.items()}
        return Call("collections OrderedDict", items=items, state={"_metadata": Call("collections OrderedDict")})

    def save(self, path: Path, root: object) -> Path:
        return self.save_pickle(path, write(root))

    def save_pickle(self, path: Path, data: bytes) -> Path:
        (self._save_legacy if self.legacy else self._save_zip)(path, data)
        return path

    def _save_zip(self, path: Path, data: bytes) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("archive/data.pkl", data)
            archive.writestr("archive/byteorder", "little")
            for key, values in self.storages.items():
                archive.writestr(f"archive/data/{key}", values.tobytes())
            archive.writestr("archive/version", "3\n")

    def _save_legacy(self, path: Path, data: bytes) -> None:
        head = b"".join(write(value) for value in (MAGIC, PROTOCOL, SYSTEM | {"little_endian": self.little_endian}))
        numbers = (struct.pack("<q", values.size) + values.tobytes() for values in self.storages.values())
        path.write_bytes(head + data + write(list(self.storages)) + b"".join(numbers))


def network(kind: object, parameters: dict | None = None, buffers: dict | None = None, **rest: object) -> New:
    """A module as torch.save writes it: kind "torch.nn.modules.conv Conv2d"; rest: modules={…}, stride=(1, 1), …"""
    modules = Call("collections OrderedDict", items=rest.pop("modules", {}))
    state = {"training": False, "_parameters": parameters or {}, "_buffers": buffers or {}, "_modules": modules}
    return New(kind, (), state | rest)


def small_network(file: TorchFile) -> tuple[New, dict[str, np.ndarray]]:
    """Two convolutions in a container, the second used twice, and a linear layer; its state_dict()."""
    a, b, c, mean, passing = floats(4, 3, 3, 3), floats(4), floats(4, 4, 1, 1), floats(4), floats(2)
    one = network(
        "torch.nn.modules.conv Conv2d",
        {"weight": file.parameter(a), "bias": None},
        kernel_size=(3, 3),
        padding="same",
        stride=[1, 1],
        eps=1e-3,
        names=("x", {}),
        many=tuple(range(17)),
        _private=3,
        act=Name("torch relu"),
    )
    two = network("torch.nn.modules.conv Conv2d", {"weight": file.parameter(c)}, groups=1)
    norm = network(
        "timm.layers BatchNormAct2d",
        {"weight": file.parameter(b)},
        {"running_mean": file.tensor(mean), "shift": file.tensor(passing), "num": None},
        _non_persistent_buffers_set=Call("__builtin__ set", (["shift"],)),
    )
    trunk = network("torch.nn.modules.container Sequential", modules={"0": one, "1": two, "2": norm, "3": two})
    modules = {"trunk": trunk, "act": network("torch.nn ReLU", inplace=True), "down": None}
    root = network("model Tiny", {"scale": file.parameter(b[:1])}, modules=modules, out=3)
    names = ["scale", "trunk.0.weight", "trunk.1.weight", "trunk.2.weight", "trunk.2.running_mean", "trunk.3.weight"]
    return root, dict(zip(names, [b[:1], a, c, b, mean, c], strict=True))


def rewritten(path: Path, there: Path, members: dict[str, bytes | None], **options: int) -> Path:
    """The archive with members changed, added, or left out (None)."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(there, "w", **options) as new:
        for name in {**dict.fromkeys(old.namelist()), **members}:
            data = members[name] if name in members else old.read(name)
            if data is not None:
                new.writestr(name, data)
    return there


def refused(path: Path) -> str:
    """The one line that a file is refused with."""
    with pytest.raises(DataError) as told:
        read_pickle(path)
    line = str(told.value)
    assert line.startswith(f"{path} ") and line.isprintable() and len(line) < 1000
    return line.removeprefix(f"{path} ")
