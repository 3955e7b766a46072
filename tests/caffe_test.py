"""Caffe models: those of tests/caffe_files.py, and two that protobuf's own library wrote (golden/make_caffe.py)."""

from pathlib import Path

import numpy as np
import pytest
from caffe_files import blob, integer, message, numbers, text, varint, write_caffemodel

from agejax.convert.formats.caffe import V1_KINDS, _fields, read_caffemodel
from data_pipelines.errors import DataError

GOLDEN = Path(__file__).parent / "golden/caffe"
RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(4, 3, 3, 2)).astype(np.float32)
DENSE = RNG.normal(size=(5, 7)).astype(np.float32)
VECTOR = RNG.normal(size=4).astype(np.float32)
LAYERS = [
    ("data", "Data", []),
    ("conv1_1", "Convolution", [KERNEL, VECTOR], {"num_output": 4, "kernel_size": (3, 2), "pad": 1, "group": 2}),
    ("relu1_1", "ReLU", []),
    ("fc8-101", "InnerProduct", [DENSE, DENSE[:, 0]], {"num_output": 5, "bias_term": True}),
    ("no bias", "InnerProduct", [DENSE[:1]], {"bias_term": False, "transpose": 1, "axis": -1}),
    ("prob", "Softmax", []),
]


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "network.caffemodel"


def layer(name: str, kind: str, *blobs: bytes) -> bytes:
    """Of version 2, from blobs' bodies."""
    return message(100, text(1, name) + text(2, kind) + b"".join(message(7, body) for body in blobs))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("diffs", [True, False])
def test_networks_read_back(path, version, packed, diffs):
    source = read_caffemodel(write_caffemodel(path, LAYERS, version, packed, diffs))
    assert source.format == "caffemodel" and source.notes == ()
    expected = {"conv1_1/weight": KERNEL, "conv1_1/bias": VECTOR, "fc8-101/weight": DENSE, "fc8-101/bias": DENSE[:, 0]}
    expected["no bias/weight"] = DENSE[:1]
    assert list(source.tensors) == list(expected)
    for name, array in expected.items():
        assert source.tensors[name].dtype == np.float32
        np.testing.assert_array_equal(source.tensors[name], array)
    assert [(module.name, module.kind, list(module.tensors)) for module in source.modules] == [
        ("conv1_1", "Convolution", ["weight", "bias"]),
        ("fc8-101", "InnerProduct", ["weight", "bias"]),
        ("no bias", "InnerProduct", ["weight"]),
    ]
    assert source.modules[0].tensors["weight"] is source.tensors["conv1_1/weight"]
    assert [module.options for module in source.modules] == [
        {"num_output": 4, "kernel_size": (3, 2), "pad": 1, "group": 2},
        {"num_output": 5, "bias_term": True},
        {"bias_term": False, "transpose": True, "axis": -1},
    ]
    assert source.modules[2].options["transpose"] is True
    path.write_bytes(b"")  # the arrays do not hang on the file
    assert source.tensors["fc8-101/weight"].sum() == DENSE.sum() and source.tensors["conv1_1/bias"].flags.aligned


@pytest.mark.parametrize("packed", [True, False])
def test_double_precision_and_norms(path, packed):
    norm = ("bn", "BatchNorm", [VECTOR, VECTOR**2, np.float32([3])], {"eps": 1e-4, "use_global_stats": True})
    layers = [norm, ("s", "Scale", [VECTOR, VECTOR + 1]), ("d", "InnerProduct", [DENSE.astype(float), DENSE[:, 1]])]
    layers.append(("p", "PReLU", [VECTOR, VECTOR, VECTOR, VECTOR]))
    source = read_caffemodel(write_caffemodel(path, layers, packed=packed, diffs=True))
    assert [list(module.tensors) for module in source.modules] == [
        *(["mean", "var", "factor"], ["weight", "bias"], ["weight", "bias"], ["weight", "bias", "blob2", "blob3"]),
    ]
    assert source.tensors["d/weight"].dtype == np.float64
    np.testing.assert_array_equal(source.tensors["d/weight"], DENSE)
    np.testing.assert_array_equal(source.tensors["bn/var"], VECTOR**2)
    assert source.tensors["bn/factor"].tolist() == [3]
    assert source.modules[0].options == {"use_global_stats": True, "eps": 1e-4}


@pytest.mark.parametrize(
    ("kind", "sizes", "shapes"),
    [
        ("Convolution", [(1, 1, 3, 3), (1, 1, 1, 4)], [(1, 1, 3, 3), (4,)]),
        ("Deconvolution", [(1, 1, 1, 5), (1, 1, 1, 1)], [(1, 1, 1, 5), (1,)]),
        ("InnerProduct", [(1, 1, 5, 7), (1, 1, 1, 5)], [(5, 7), (5,)]),
        ("InnerProduct", [(1, 1, 1, 7), (1, 1, 1, 1)], [(1, 7), (1,)]),
        ("InnerProduct", [(1, 1, 7, 1), (1,)], [(7, 1), (1,)]),
        ("InnerProduct", [(5, 7), (5,)], [(5, 7), (5,)]),
        ("InnerProduct", [(2, 1, 5, 7), (2, 5)], [(2, 1, 5, 7), (2, 5)]),
        ("Scale", [(1, 4, 1, 1), (4,)], [(4,), (4,)]),
        ("BatchNorm", [(1, 1, 1, 4), (4,), ()], [(4,), (4,), (1,)]),
    ],
)
def test_four_axes_become_as_many_as_there_are(path, kind, sizes, shapes):
    source = read_caffemodel(write_caffemodel(path, [("a", kind, [np.ones(size, np.float32) for size in sizes])]))
    assert [array.shape for array in source.tensors.values()] == shapes


def test_old_sizes_go_before_a_shape_and_sizes_need_not_be_packed(path):
    values = numbers(5, np.arange(6, dtype=np.float32))
    old = message(7, message(1, varint(3) + varint(2))) + integer(1, 1) + integer(2, 1) + integer(3, 2) + integer(4, 3)
    loose = message(7, integer(1, 2) + integer(1, 3))
    path.write_bytes(layer("a", "InnerProduct", old + values) + layer("b", "InnerProduct", loose + values))
    assert [array.shape for array in read_caffemodel(path).tensors.values()] == [(2, 3), (2, 3)]


def test_numbers_in_pieces_and_unknown_fields(path):
    """As protobuf has it: pieces of a list follow one another, the last of two words counts, the rest is skipped."""
    array = np.arange(8, dtype=np.float32)
    unknown = integer(1000, 2**63) + message(2000, b"xyz") + numbers(3000, array, False) + numbers(3001, array + 0.0)
    unknown += numbers(16, array.astype(float), False) + integer(100, 3) + integer(7, 1) + integer(8, 1)
    pieces = numbers(5, array[:2]) + numbers(5, array[2:4], False) + unknown
    pieces += b"\xad\0" + array[4:5].tobytes()  # the tag in two bytes, which protobuf allows
    pieces += numbers(6, array[:1], False) + numbers(5, array[5:6], False) + numbers(5, array[6:])
    body = text(1, "first") + text(1, "a") + text(2, "InnerProduct") + unknown
    body += message(7, unknown + message(7, message(1, varint(2) + varint(4)) + unknown) + pieces)
    path.write_bytes(unknown + message(100, body) + unknown)
    source = read_caffemodel(path)
    np.testing.assert_array_equal(source.tensors["a/weight"], array.reshape(2, 4))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_that_are_not_packed_are_one_field(dtype):
    """Of millions each would take a step of its own."""
    data = numbers(5, np.arange(1000, dtype=dtype), False)
    (field,) = _fields(data, 0, len(data))
    assert (field.number, field.start, field.end) == (5, 0, len(data))
    after = data + numbers(6, np.arange(3, dtype=dtype), False)
    assert [field.end for field in _fields(after, 0, len(after))] == [len(data), len(after)]


def test_kinds_of_version_one(path):
    ones = blob(np.ones(2, np.float32), legacy=True)
    codes = [4, 14, 39, 77]
    path.write_bytes(
        b"".join(message(2, text(4, f"{code}") + integer(5, code) + message(6, ones)) for code in codes)
        + message(2, text(4, "none") + message(6, ones))
    )
    kinds = [module.kind for module in read_caffemodel(path).modules]
    assert kinds == ["Convolution", "InnerProduct", "Deconvolution", "type 77", ""]
    assert sorted(V1_KINDS) == list(range(1, 40)) and V1_KINDS[37] == "ContrastiveLoss" and V1_KINDS[18] == "ReLU"


def test_both_generations_in_one_file_keep_their_order(path):
    ones = np.ones(2, np.float32)
    old = message(2, text(4, "old") + integer(5, 14) + message(6, blob(ones, legacy=True)))
    path.write_bytes(layer("a", "Scale", blob(ones)) + old + layer("b", "Scale", blob(ones)))
    assert list(read_caffemodel(path).tensors) == ["a/weight", "old/weight", "b/weight"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", r"no field of a message begins at byte 0: broken, or not a \.caffemodel"),
        (b"<!DOCTYPE html>", r"no field of a message begins at byte 0: broken, or not a \.caffemodel"),
        (b'name: "VGG"\nlayer {', r"no field of a message begins at byte 0: broken, or not a \.caffemodel"),
        (b"\0\0\0\0", r"no field of a message begins at byte 0: broken, or not a \.caffemodel"),
        (b"\xff" * 20, r"a number at byte 0 does not end: broken, or not a \.caffemodel"),
        (b"\xff" * 10 + b"\1" * 9, r"a number at byte 0 does not end: broken, or not a \.caffemodel"),
        (
            layer("a", "Scale", message(7, message(1, b"\x84")) + numbers(5, VECTOR)),
            "a number at byte 19 does not end.*",
        ),
        (
            layer("a", "Scale", b"\x2d\0") + text(1, "\0\x2d"),
            "field 5 at byte 15 is to end at byte 20, its message ends at 17",
        ),
        (
            layer("a", "Scale", integer(1, 2) + integer(2, 2) + numbers(5, VECTOR)),
            r".* shape \(2, 2, 0, 0\) is announced .*",
        ),
        (text(1, "a network"), r"no layer with weights in it, if it is a \.caffemodel at all"),
        (layer("a", "ReLU"), r"no layer with weights in it, if it is a \.caffemodel at all"),
        (message(2, message(1, text(1, "a"))), r"layers in the oldest form \(V0\): .* upgrade_net_proto_binary"),
        (layer("a", "Scale", blob(VECTOR)) * 2, "two layers with weights have one name"),
        (layer("a", "Scale", b""), r"layer a, weight: shape \(\) is announced and 0 numbers are there"),
        (layer("a", "Scale", numbers(5, VECTOR)), r"layer a, weight: shape \(\) is announced and 4 numbers are there"),
        (layer("a", "Scale", message(5, b"12345")), "numbers of 4 bytes at byte 17 take up 5 bytes"),
        (message(100, b"\x0a\x7f"), "field 1 at byte 3 is to end at byte 132, its message ends at 5"),
        (
            varint(100 << 3 | 2) + varint(2**60),
            "field 100 at byte 0 is to end at byte 1,?152.*, its message ends at 11",
        ),
    ],
)
def test_other_files(path, content, words):
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"network.caffemodel: {words}$"):
        read_caffemodel(path)


@pytest.mark.parametrize(
    "sizes", [(5,), (2**60,), (2**62, 2**62), (0,), (-4,), (-2, -2), (0, 2**60), (4, *[1] * 32), (2, 2, 2)], ids=str
)
def test_sizes_that_are_not_those_of_the_numbers(path, sizes):
    dims = message(7, message(1, b"".join(map(varint, sizes))))
    path.write_bytes(layer("a\nb", "Scale", dims + numbers(5, VECTOR)))
    with pytest.raises(DataError, match=r"layer a\\nb, weight: shape .* is announced and 4 numbers are there$"):
        read_caffemodel(path)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(DataError, match=r"absent\.caffemodel: No such file"):
        read_caffemodel(tmp_path / "absent.caffemodel")
    with pytest.raises(DataError, match=f"{tmp_path.name}: Is a directory"):
        read_caffemodel(tmp_path)


@pytest.mark.parametrize(("version", "packed"), [(1, True), (2, True), (2, False)])
def test_a_file_cut_anywhere_but_between_layers_is_refused(path, version, packed):
    whole = write_caffemodel(path, LAYERS, version, packed).read_bytes()
    layers = [write_caffemodel(path, LAYERS[:i], version, packed).stat().st_size for i in range(len(LAYERS))]
    for length in sorted({*range(0, len(whole), 4), *layers, *range(len(whole) - 20, len(whole))}):
        path.write_bytes(whole[:length])
        if length in layers[2:]:  # a whole network, only shorter: nothing in the format tells
            assert len(read_caffemodel(path).modules) < 4
            continue
        with pytest.raises(DataError) as caught:
            read_caffemodel(path)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("packed", [True, False])
def test_damaged_bytes_do_no_harm(path, packed):
    whole = write_caffemodel(path, LAYERS, 2, packed).read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for place in rng.integers(len(whole), size=rng.integers(1, 6)):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_caffemodel(path)
        except DataError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < len(str(path)) + 400
    assert refused > 50


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_networks_that_protobuf_wrote(name):
    """The arrays that went in, and what OpenCV computes with the file."""
    source, run = read_caffemodel(GOLDEN / f"{name}.caffemodel"), np.load(GOLDEN / "run.npz")
    norms = [("bn1", "BatchNorm"), ("scale1", "Scale")] if name == "v2" else []
    listed = [(module.name, module.kind) for module in source.modules]
    assert listed == [("conv1", "Convolution"), *norms, ("conv2", "Convolution"), ("fc", "InnerProduct")]
    for key, array in source.tensors.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, run[key])
    assert len(source.tensors) == sum(key.count("/") for key in run) - 2 - (0 if name == "v2" else 5)
    options = {module.name: module.options for module in source.modules}
    assert options["conv1"] == {"num_output": 4, "pad": 1, "kernel_size": 3} and options["conv2"]["group"] == 2
    t, x = source.tensors, run["image"]
    x = _convolved(x, t["conv1/weight"], t["conv1/bias"])
    if norms:
        mean, var = t["bn1/mean"] / t["bn1/factor"], t["bn1/var"] / t["bn1/factor"] + options["bn1"]["eps"]
        x = (x - _channels(mean)) / np.sqrt(_channels(var))
        x = x * _channels(t["scale1/weight"]) + _channels(t["scale1/bias"])
    x = np.split(np.maximum(x, 0), 2, axis=1)
    halves = zip(x, np.split(t["conv2/weight"], 2), np.split(t["conv2/bias"], 2))
    x = np.concatenate([_convolved(*half) for half in halves], 1)
    x = x.reshape(1, 6, 4, 2, 4, 2).max((3, 5)).reshape(1, -1) @ t["fc/weight"].T + t["fc/bias"][None]
    np.testing.assert_allclose(np.exp(x) / np.exp(x).sum(), run[f"{name}/prob"], atol=1e-5)


def _channels(values: np.ndarray) -> np.ndarray:
    return values[None, :, None, None]


def _convolved(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    return np.einsum("bihwkl,oikl->bohw", windows, weight) + _channels(bias)
