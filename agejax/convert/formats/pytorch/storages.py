"""The numbers of a PyTorch file: storages (runs of numbers), and tensors, which are strided views of them."""

import dataclasses
import math

import ml_dtypes
import numpy as np

from agejax.convert.formats.pytorch.unpickler import Global, Inert, refusal
from agejax.convert.words import shown
from data_pipelines.errors import DataError

STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "UntypedStorage": "uint8",
    "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
}  # fmt: skip
FOREIGN = {
    name: np.dtype(getattr(ml_dtypes, name))
    for name in ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")
}
PACKAGES = ("torch", "torch.cuda", "torch.storage")
MOST_AXES = 32
MOST_REPEATED = 2**20  # elements of a tensor that shows fewer numbers many times


@dataclasses.dataclass(eq=False)
class Storage(Inert):
    """A run of numbers of a file."""

    dtype: np.dtype
    count: int
    data: np.ndarray | None = None
    """uint8 (count · itemsize,), read-only; None until the file has been read as far."""
    swapped: bool = False
    """Whether the bytes of a number stand in the other order than this machine's."""
    whole: "Storage | None" = None
    """What it is a part of, from number `start` on."""
    start: int = 0
    views: dict[np.dtype, np.ndarray] = dataclasses.field(default_factory=dict)

    def part(self, start: int, count: int) -> "Storage":
        if type(start) is not int or type(count) is not int or not 0 <= start <= start + count <= self.count:
            raise DataError("is damaged: a part of a storage lies outside it")
        return Storage(self.dtype, count, whole=self, start=start)

    def values(self, dtype: np.dtype) -> np.ndarray:
        """All numbers as `dtype`: one copy for all tensors, which stays whatever happens to the file."""
        if self.whole is not None:
            return self.whole.values(dtype)[self.start : self.start + self.count]
        if dtype not in self.views:
            self.views[dtype] = self._values(dtype)
        return self.views[dtype]

    def _values(self, dtype: np.dtype) -> np.ndarray:
        data = self.data[: len(self.data) // dtype.itemsize * dtype.itemsize].copy()  # aligned, too
        if self.swapped:
            part = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
            data.view(f"u{part}").byteswap(inplace=True)
        return data.view(dtype)


class Array(Inert):
    """What becomes an array when it is wanted."""

    def array(self) -> np.ndarray:
        """Read-only, in the file's shape and dtype. Raises DataError where that is impossible."""
        raise NotImplementedError


@dataclasses.dataclass(eq=False)
class Tensor(Array):
    """A view of a storage; offset and strides count numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype

    def array(self) -> np.ndarray:
        """As Array.array; tensors of one storage share memory."""
        self._check_numbers()
        values = self.storage.values(self.dtype)
        self._check_reach(len(values))
        size = self.dtype.itemsize
        strides = [stride * size for stride in self.strides]
        array = np.ndarray(self.shape, self.dtype, values.view(np.uint8), self.offset * size, strides)
        array.flags.writeable = False
        return array

    def _check_numbers(self) -> None:
        numbers = (self.offset, *self.shape, *self.strides)
        if any(type(number) is not int or not 0 <= number < 2**63 for number in numbers):
            raise DataError("is damaged: a tensor has an impossible shape, offset or stride")
        if len(self.shape) != len(self.strides) or len(self.shape) > MOST_AXES:
            raise DataError(f"is damaged: a tensor has {len(self.shape)} axes and {len(self.strides)} strides")

    def _check_reach(self, count: int) -> None:
        size = math.prod(self.shape)
        last = self.offset + sum((length - 1) * stride for length, stride in zip(self.shape, self.strides))
        if size and last >= count:
            raise DataError(f"is damaged: a tensor reaches to number {last + 1} of a storage of {count}")
        if size > max(count, MOST_REPEATED):
            raise DataError(f"has a tensor of {size} elements that shows {count} numbers again and again")


def storage_dtype(kind: object) -> np.dtype:
    """Of a storage's class: `torch.HalfStorage` → float16."""
    package, _, name = kind.name.rpartition(".") if isinstance(kind, Global) else ("", "", "")
    if package not in PACKAGES or name not in STORAGES:
        raise DataError(f"has numbers of an unknown type: {shown(getattr(kind, 'name', type(kind).__name__))}")
    return _dtype(STORAGES[name])


def _dtype(name: str) -> np.dtype:
    return FOREIGN[name] if name in FOREIGN else np.dtype(name)


def _tensor(storage: Storage, offset: int, shape: tuple, strides: tuple, dtype: np.dtype | None = None) -> Tensor:
    if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise DataError("is damaged: a tensor without storage, shape or strides")
    return Tensor(storage, offset, shape, strides, dtype or storage.dtype)


def _rebuild_v2(storage, offset, shape, strides, requires_grad=False, hooks=None, marks=None) -> Tensor:
    if marks:
        raise DataError(f"has a tensor with marks ({shown(', '.join(map(str, marks)))}) that change its values")
    return _tensor(storage, offset, shape, strides)


def _rebuild_v3(storage, offset, shape, strides, requires_grad, hooks, dtype, marks=None) -> Tensor:
    name = dtype.name.removeprefix("torch.")
    if name not in (*FOREIGN, *STORAGES.values(), "uint16", "uint32", "uint64"):
        raise DataError(f"has numbers of an unknown type: {shown(name)}")
    return _tensor(storage, offset, shape, strides, _dtype(name))


def _rebuild_parameter(data: Array, *_: object) -> Array:
    if not isinstance(data, Array):
        raise DataError("is damaged: a parameter without a tensor")
    return data


def _rebuild_subclass(function: Global, kind: object, args: tuple, state: object) -> Array:
    if function.name not in REBUILDERS:
        raise refusal(f"call {function.name}")
    return REBUILDERS[function.name](*args)


REBUILDERS = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_v2,
    "torch._utils._rebuild_tensor_v3": _rebuild_v3,
}
TENSOR_CALLS = REBUILDERS | {
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": _rebuild_subclass,
    "torch.nn.parameter.Parameter": _rebuild_parameter,  # before PyTorch 0.4
    "torch.autograd.variable.Variable": _rebuild_parameter,
}
