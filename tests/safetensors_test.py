"""`.safetensors` files, whole and broken."""

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from agejax.convert.formats.safetensors_file import read_safetensors
from data_pipelines.errors import DataError


def written(path: Path, header: dict | bytes, body: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def entry(start: int, stop: int, shape: tuple[int, ...] = (1,), dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def refused(path: Path) -> str:
    with pytest.raises(DataError) as told:
        read_safetensors(path)
    line = str(told.value)
    assert line.startswith(f"{path} ") and line.isprintable() and len(line) < 500
    return line.removeprefix(f"{path} ")


def test_arrays_of_every_dtype(tmp_path):
    rng = np.random.default_rng(0)
    names = [np.dtype(code).name for code in "?bBhHiIlLefdF"]
    arrays = {f"a.{name}": (9 * rng.normal(size=(2, 3))).astype(name) for name in names}
    arrays |= {"scalar": np.array(2.5), "none": np.zeros((0, 3), np.float32)}
    save_file(arrays, path := tmp_path / "a.safetensors")
    source = read_safetensors(path)
    assert source.format == "safetensors" and source.modules == () and source.notes == ()
    assert set(source.tensors) == set(arrays)
    for name, array in arrays.items():
        assert source.tensors[name].dtype == array.dtype and source.tensors[name].shape == array.shape
        np.testing.assert_array_equal(source.tensors[name], array)


def test_bfloat16(tmp_path):
    """Its bytes, by hand: 1, -2, 0.15625 are 3f80, c000, 3e20."""
    body = struct.pack("<3H", 0x3F80, 0xC000, 0x3E20)
    path = written(tmp_path / "a.safetensors", {"a": entry(0, 6, (3, 1), "BF16")}, body)
    array = read_safetensors(path).tensors["a"]
    assert array.dtype == ml_dtypes.bfloat16 and array.astype(np.float32).tolist() == [[1], [-2], [0.15625]]


def test_order_is_that_of_the_bytes(tmp_path):
    header = {"b": entry(8, 12), "a": entry(4, 8), "c": entry(0, 4)}
    source = read_safetensors(written(tmp_path / "a.safetensors", header, np.arange(3, dtype="<f4").tobytes()))
    assert {name: array.tolist() for name, array in source.tensors.items()} == {"c": [0], "a": [1], "b": [2]}
    assert list(source.tensors) == ["c", "a", "b"]


def test_metadata_are_kept(tmp_path):
    header = {"__metadata__": {"model": "a\nb\x1b[1m", "format": "pt"}, "a": entry(0, 4)}
    source = read_safetensors(written(tmp_path / "a.safetensors", header, bytes(4)))
    assert source.metadata == header["__metadata__"] and source.notes == ()


@pytest.mark.parametrize(
    ("header", "body", "told"),
    [
        ({"a": entry(0, 4)}, b"123", "is cut short or damaged: .* not fully covered"),
        ({"a": entry(0, 4)}, b"12345", "is cut short or damaged: .* not fully covered"),
        ({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6), "is cut short or damaged: .*invalid offset.*b"),
        ({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12), "is cut short or damaged: .*invalid offset.*b"),
        ({"a": entry(0, 4, (2,))}, bytes(4), "is cut short or damaged: .*invalid shape"),
        ({"a": entry(0, 4, (-1,))}, bytes(4), "is cut short or damaged: .*integer `-1`"),
        ({"a": entry(0, 4, (2**63, 2))}, bytes(4), "is cut short or damaged: .*overflow"),
        ({"a": entry(0, 4, (1,), "X9")}, bytes(4), "is cut short or damaged: .*X9"),
        ({"a": entry(0, 4, (1,) * 80)}, bytes(4), "has a of F32 and 80 axes, which NumPy has not"),
        ({"a.b": entry(0, 4, (4,), "F8_E4M3")}, bytes(4), "has a.b of F8_E4M3 and 1 axes, which NumPy has not"),
        ({"a\n": entry(0, 4)}, bytes(4), "is damaged: a tensor's name has characters that cannot be printed"),
        ({"__metadata__": {"k": 3}, "a": entry(0, 4)}, bytes(4), "is cut short or damaged: .*expected a string"),
        (b"{{{", b"", "is cut short or damaged: .*invalid JSON"),
        (b"{}", b"", "holds no tensors"),
        (b"\xff{}", b"", "is cut short or damaged: "),
    ],
    ids=range(15),
)
def test_broken_headers(tmp_path, header, body, told):
    path = written(tmp_path / "a.safetensors", header, body)
    with pytest.raises(DataError, match=f"a.safetensors {told}"):
        read_safetensors(path)
    refused(path)


@pytest.mark.parametrize("length", [0, 1, 2**27, 2**40, 2**63])
def test_lengths_of_headers_that_are_not_there(tmp_path, length):
    (path := tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", length) + b"{}")
    assert refused(path).startswith("is cut short or damaged: ")


def test_cut_anywhere_and_bits_that_fell_over(tmp_path):
    arrays = {f"layer.{i}.weight": np.full((3, i + 1), i, np.float32) for i in range(5)}
    save_file(arrays, path := tmp_path / "a.safetensors", metadata={"format": "pt"})
    data, rng, read = path.read_bytes(), np.random.default_rng(0), 0
    for size in rng.integers(0, len(data), 150):
        path.write_bytes(data[:size])
        refused(path)
    for _ in range(200):
        hurt = bytearray(data)
        hurt[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path.write_bytes(hurt)
        try:
            read += len(read_safetensors(path).tensors) == len(arrays)
        except DataError:
            refused(path)
    assert 0 < read < 200


def test_no_file(tmp_path):
    assert refused(tmp_path / "none.safetensors").startswith("cannot be read: No such file")
    assert refused(tmp_path).startswith("cannot be read: ")


def test_file_of_torch(tmp_path):
    torch, save = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    net = torch.nn.Conv2d(3, 4, 5).to(torch.bfloat16)
    save.save_file(net.state_dict(), path := tmp_path / "a.safetensors", metadata={"format": "pt"})
    found = read_safetensors(path)
    assert found.metadata == {"format": "pt"}
    for name, tensor in net.state_dict().items():
        assert found.tensors[name].dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(found.tensors[name].astype(np.float32), tensor.float().numpy())
