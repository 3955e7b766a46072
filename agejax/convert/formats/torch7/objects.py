"""The serialisation of Torch7 (`torch.save`), binary and ASCII: numbers, strings, tables, objects, tensors, storages.

Written from the formats of torch/torch7 (File.lua, generic/Tensor.c, generic/Storage.c). Nothing is run: the bytes of a
Lua function are stepped over. An array is made when it is asked for, so what a network does not need costs nothing.
"""

import dataclasses
import functools
import math
import mmap
import re
from collections.abc import Generator
from pathlib import Path

import numpy as np

from agejax.convert.formats.torch7.file import AsciiFile, BinaryFile
from agejax.convert.words import shown
from data_pipelines.errors import DataError

DEPTH = 30_000  # a graph of nodes that name their children nests a few levels per node
AXES = 32
DTYPES = {
    "Byte": np.uint8,
    "Char": np.int8,
    "Short": np.int16,
    "Int": np.int32,
    "Long": np.int64,
    "Half": np.float16,
    "Float": np.float32,
    "Double": np.float64,
}
CLASSES = {f"torch.{device}{word}": dtype for device in ("", "Cuda") for word, dtype in DTYPES.items()}
CLASSES["torch.Cuda"] = np.float32  # torch.CudaTensor
TENSORS = {f"{name}Tensor": np.dtype(dtype) for name, dtype in CLASSES.items()}
STORAGES = {f"{name}Storage": np.dtype(dtype) for name, dtype in CLASSES.items()}
WITH_HEADER = {"nn.DataParallelTable": 2, "nn.GPU": 0}  # from this version on, an object comes before the fields


@dataclasses.dataclass(eq=False)
class Object:
    """Of a class of Lua's, a layer say."""

    name: str
    """With its package: nn.Linear."""
    version: float
    fields: dict


@dataclasses.dataclass(eq=False)
class Storage:
    """`count` elements somewhere in the file."""

    dtype: np.dtype
    count: int
    file: BinaryFile | AsciiFile
    start: int

    @functools.cached_property
    def array(self) -> np.ndarray:
        return self.file.elements(self.start, self.dtype, self.count)


@dataclasses.dataclass(eq=False)
class Tensor:
    """A strided view of a storage. `offset` counts from 1."""

    dtype: np.dtype
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    storage: Storage | None = None

    @property
    def empty(self) -> bool:
        return self.storage is None or not self.sizes or 0 in self.sizes

    @functools.cached_property
    def array(self) -> np.ndarray:
        """Shares memory with other tensors of the same storage. Raises DataError where it leaves its storage."""
        if self.empty:
            return np.empty((0,), self.dtype)
        first, held = self.offset - 1, self.storage.count
        last = first + sum((size - 1) * stride for size, stride in zip(self.sizes, self.strides))
        if min(self.sizes) < 0 or min(self.strides) < 0 or first < 0 or last >= held or math.prod(self.sizes) > held:
            raise DataError(
                f"a tensor of sizes {self.sizes}, strides {self.strides} and offset {self.offset} does not fit in its "
                f"storage of {held:,} elements"
            )
        width = self.storage.dtype.itemsize
        strides = tuple(width * stride for stride in self.strides)
        return np.lib.stride_tricks.as_strided(self.storage.array[first:], self.sizes, strides)


Steps = Generator["Steps", object, object]


class Reader:
    """Objects one after another. Each method that may meet another object is a generator: it yields the steps that read
    the other object and is sent the result. So depth is bounded by DEPTH, not by Python's stack."""

    def __init__(self, file: BinaryFile | AsciiFile):
        self.file = file
        self.known: dict[int, object] = {}  # by the index that the file gives each

    def read(self) -> object:
        open_, value = [self.any()], None
        while open_:
            try:
                open_.append(open_[-1].send(value))
                value = None
            except StopIteration as done:
                open_.pop()
                value = done.value
            if len(open_) > DEPTH:
                raise DataError(f"objects nested more than {DEPTH:,} deep")
        return value

    def any(self) -> Steps:
        at, code = self.file.at, self.file.integer()
        if code in SCALARS:
            return SCALARS[code](self.file)
        if code == OLD_FUNCTION:
            return (yield self.function())
        if code not in INDEXED:
            raise DataError(f"{code} at byte {at:,} is not a type of object")
        index = self.file.integer()
        if index not in self.known:
            self.known[index] = None
            return (yield INDEXED[code](self, index))
        return self.known[index]

    def function(self, index: int | None = None) -> Steps:
        self.file.characters(self.file.integer())
        yield self.any()  # its upvalues

    def table(self, index: int) -> Steps:
        at, count = self.file.at, self.file.integer()
        if not 0 <= 2 * count * self.file.smallest <= len(self.file.data) - self.file.at:
            raise DataError(f"a table of {count:,} entries announced at byte {at:,}, more than the file has room for")
        table = self.known[index] = {}
        for _ in range(count):
            key = yield self.any()
            value = yield self.any()
            if isinstance(key, (str, int, float)) and not isinstance(key, bool):  # else True would be the key 1
                table[key] = value
        return table

    def object(self, index: int) -> Steps:
        word = _string(self.file)
        version = re.fullmatch(r"V (\d+(?:\.\d+)?)", word)
        name = _string(self.file) if version else word
        number = float(version[1]) if version else 0.0  # saved before classes had versions
        if name in STORAGES:
            return self.storage(index, STORAGES[name])
        return (yield self.tensor(index, TENSORS[name]) if name in TENSORS else self.fields(index, name, number))

    def storage(self, index: int, dtype: np.dtype) -> Storage:
        (count,) = self.file.longs(1)
        self.known[index] = Storage(dtype, count, self.file, self.file.skip_elements(dtype, count))
        return self.known[index]

    def tensor(self, index: int, dtype: np.dtype) -> Steps:
        at, axes = self.file.at, self.file.integer()
        if not 0 <= axes <= AXES:
            raise DataError(f"a tensor of {axes:,} axes at byte {at:,}")
        sizes, strides, (offset,) = self.file.longs(axes), self.file.longs(axes), self.file.longs(1)
        tensor = self.known[index] = Tensor(dtype, sizes, strides, offset)
        tensor.storage = yield self.any()
        if not isinstance(tensor.storage, Storage | None):
            raise DataError(f"the tensor at byte {at:,} has no storage")
        return tensor

    def fields(self, index: int, name: str, version: float) -> Steps:
        at = self.file.at
        result = self.known[index] = Object(name, version, {})
        if version >= WITH_HEADER.get(name, math.inf):
            yield self.any()
        result.fields = yield self.any()
        if not isinstance(result.fields, dict):
            raise DataError(f"class {shown(name)} at byte {at:,} has a form of its own, which is not read here")
        return result


def _number(file) -> int | float:
    value = file.double()
    return int(value) if value.is_integer() else value


def _string(file) -> str:
    return file.characters(file.integer()).decode("utf-8", "backslashreplace")


SCALARS = {0: lambda file: None, 1: _number, 2: _string, 5: lambda file: file.integer() == 1}
OLD_FUNCTION = 6
INDEXED = {3: Reader.table, 4: Reader.object, 7: Reader.function, 8: Reader.function}


def load(path: str | Path) -> tuple[object, str, tuple[str, ...]]:
    """(the first object of the file, the format in words, what was odd): nil is None, a table a dict whose keys are
    strings and numbers, a function None. Raises DataError for anything else than a whole Torch7 file."""
    with open(path, "rb") as file:
        start = file.read(4)
        if not start:
            raise DataError("the file is empty")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if re.match(rb"[0-8]\n", start):
        return _read(AsciiFile(data), "torch7 ascii")
    if re.fullmatch(rb"\0\0\0[\1-\10]", start):
        raise DataError("written on a big-endian machine: save it there again with torch.save(name, object, 'ascii')")
    if not re.fullmatch(rb"[\0-\10]\0\0\0", start):
        raise DataError(f"not a Torch7 file: it begins with {start!r}")
    try:
        return _read(BinaryFile(data, 8), "torch7 binary")
    except DataError as error:
        try:
            root, form, left = _read(BinaryFile(data, 4), "torch7 binary")
        except DataError:
            raise error from None
        if left:  # a coincidence: not a file of such a machine
            raise
        return root, form, ("written where a C long has 4 bytes",)


def _read(file: BinaryFile | AsciiFile, form: str) -> tuple[object, str, tuple[str, ...]]:
    root = Reader(file).read()
    left = len(file.data) - file.at
    return root, form, (f"{left:,} bytes after the first object were not read",) * bool(left)
