"""Writes .caffemodel files, for tests, in protobuf's wire form (field numbers: BVLC/caffe, caffe.proto)."""

import struct
from pathlib import Path

import numpy as np

KINDS = {"Convolution": 4, "InnerProduct": 14, "Pooling": 17, "ReLU": 18, "Softmax": 20, "Data": 5, "Dropout": 6}
OPTIONS = {  # kind: (field in V1, field in V2, the fields inside)
    "Convolution": (
        *(10, 106),
        {"num_output": 1, "bias_term": 2, "pad": 3, "kernel_size": 4, "group": 5, "stride": 6, "dilation": 18},
    ),
    "InnerProduct": (17, 117, {"num_output": 1, "bias_term": 2, "axis": 5, "transpose": 6}),
    "BatchNorm": (None, 139, {"use_global_stats": 1, "eps": 3}),
}

Layer = tuple[str, str, list[np.ndarray]] | tuple[str, str, list[np.ndarray], dict[str, object]]


def write_caffemodel(
    path: Path, layers: list[Layer], version: int = 2, packed: bool = True, diffs: bool = False
) -> Path:
    """layers: (name, kind, blobs) or (name, kind, blobs, options). Version 1 gives every blob four axes, as Caffe did:
    a dense weight 1 × 1 × n × m. float64 blobs go to double_data. Not packed: one tag per number. diffs: each blob is
    followed by as many numbers again, which no reader needs."""
    write = {1: _v1_layer, 2: _v2_layer}[version]
    body = b"".join(write(*(*layer, {})[:4], packed, diffs) for layer in layers)
    path.write_bytes(text(1, "a network") + body)
    return path


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def integer(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def message(field: int, body: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(body)) + body


def text(field: int, value: str) -> bytes:
    return message(field, value.encode())


def numbers(field: int, array: np.ndarray, packed: bool = True) -> bytes:
    """float32 or float64, flattened in C order."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if packed:
        return message(field, flat.astype(flat.dtype.newbyteorder("<")).tobytes())
    wire, form = (5, "<f") if flat.dtype == np.float32 else (1, "<d")
    return b"".join(varint(field << 3 | wire) + struct.pack(form, value) for value in flat)


def blob(array: np.ndarray, legacy: bool = False, packed: bool = True, diff: bool = False) -> bytes:
    double = array.dtype == np.float64
    body = numbers(8 if double else 5, array, packed)
    body += numbers(9 if double else 6, array + 1, packed) if diff else b""
    if legacy:
        sizes = (1,) * (4 - array.ndim) + array.shape
        return b"".join(integer(field, size) for field, size in enumerate(sizes, 1)) + body
    return message(7, message(1, b"".join(map(varint, array.shape)))) + body


def _options(kind: str, options: dict[str, object], place: int) -> bytes:
    if not options:
        return b""
    fields, body = OPTIONS[kind][2], b""
    for name, value in options.items():
        for one in value if isinstance(value, tuple) else (value,):
            number = fields[name]
            body += numbers(number, np.float32([one]), False) if isinstance(one, float) else integer(number, int(one))
    return message(OPTIONS[kind][place], body)


def _v2_layer(name, kind, blobs, options, packed, diffs) -> bytes:
    body = text(1, name) + text(2, kind) + text(3, "bottom") + text(4, name)
    body += b"".join(message(7, blob(array, False, packed, diffs)) for array in blobs)
    return message(100, body + integer(10, 1) + _options(kind, options, 1))


def _v1_layer(name, kind, blobs, options, packed, diffs) -> bytes:
    body = text(2, "bottom") + text(3, name) + text(4, name) + integer(5, KINDS[kind])
    body += b"".join(message(6, blob(array, True, packed, diffs)) for array in blobs)
    body += numbers(7, np.float32([1, 2]), False) + text(1001, "shared")
    return message(2, body + _options(kind, options, 0))
