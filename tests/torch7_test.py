"""Torch7 files: those of tests/torch7_files.py, and some that Torch7 itself wrote (golden/make_torch7.lua)."""

from pathlib import Path

import numpy as np
import pytest
from torch7_files import TAILS, Function, Lua, Storage, View, nn, parallelised, thin_arrays, thin_net, write_t7

from agejax.convert.formats.torch7 import read_t7
from agejax.convert.formats.torch7.objects import DEPTH, load
from data_pipelines.errors import DataError

GOLDEN = Path(__file__).parent / "golden/torch7"
RNG = np.random.default_rng(0)
ARRAYS = thin_arrays(RNG, (2, 3, 4, 3, 2), 5)
STAGE = ["SpatialConvolution", "SpatialBatchNormalization", "ReLU"]
TRUNK = [
    *(STAGE * 2 + ["SpatialMaxPooling"]) * 2,
    *(STAGE * 3 + ["SpatialMaxPooling"]) * 3,
    *("SpatialAveragePooling", "View", "Linear"),
]
ENDS = {
    "identity": ["LogSoftMax"],
    "kl": ["SoftMax"],
    "expectation": ["SoftMax", "ExpOut"],
    "joint": ["SoftMax", "Identity", "ExpOut"],
    "rank": ["Sigmoid"],
    "regression": ["Tanh"],
}
LINEAR = nn("Linear", weight=np.float32([[1, 2], [3, 4]]), bias=np.float32([5, 6]))


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "network.t7"


def small() -> Lua:
    """A few layers that have one of each thing."""
    convolution = nn("SpatialConvolution", "cudnn", weight=np.ones((2, 1, 3, 3), np.float32), nInputPlane=1)
    convolution.fields |= {"nOutputPlane": 2, "kW": 3, "kH": 3, "padW": 1, "inplace": True, "mode": "a word"}
    loop = [Function([1.5]), None, {"half": 0.5}]
    loop.append(loop)
    shared = Storage(np.arange(6, dtype=np.float32))
    linear = nn("Linear", weight=View(shared, (2, 2), (2, 1), 1), bias=View(shared, (2,), (1,), 5), buffer=loop)
    return parallelised(nn("Sequential", modules=[convolution, nn("View", size=Storage(np.int64([-1, 2]))), linear]))


@pytest.mark.parametrize("options", [{}, {"ascii": True}, {"cuda": True}, {"long": 4}], ids=str)
@pytest.mark.parametrize("build", [{}, {"cudnn": True, "flat": True}, {"parallel": True}], ids=str)
def test_a_thin_net_reads_back(path, options, build):
    source = read_t7(write_t7(path, thin_net(ARRAYS, **build), **options))
    assert source.format == ("torch7 ascii" if options.get("ascii") else "torch7 binary")
    assert [module.kind for module in source.modules] == [*TRUNK, "SoftMax"]
    assert [module.name for module in source.modules] == [str(i) for i in range(1, 49)]
    assert list(source.tensors) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert source.tensors[name].dtype == np.float32
        np.testing.assert_array_equal(source.tensors[name], array)
    for module in source.modules:
        for role, array in module.tensors.items():
            assert source.tensors[f"{module.name}/{role}"] is array
    notes = ["written where a C long has 4 bytes"] if options.get("long") else []
    notes += ["the network is a DataParallelTable: its first replica is read"] if build.get("parallel") else []
    assert list(source.notes) == notes


def test_options_are_numbers_words_and_booleans(path):
    modules = read_t7(write_t7(path, thin_net(ARRAYS))).modules
    assert modules[7].options == {
        **{"nInputPlane": 2, "nOutputPlane": 3, "kW": 3, "kH": 3, "dW": 1, "dH": 1, "padW": 1, "padH": 1},
    }
    assert modules[1].options == {"eps": 1e-5, "momentum": 0.1, "affine": True, "train": False}
    assert modules[6].options == {"kW": 2, "kH": 2, "dW": 2, "dH": 2, "padW": 0, "padH": 0, "ceil_mode": False}
    assert modules[45].options == {"size": (2,), "numElements": 2, "numInputDims": 3}
    assert type(modules[6].options["kW"]) is int


@pytest.mark.parametrize("tail", TAILS)
def test_ends_of_the_authors_networks(path, tail):
    grid = np.float32([1, 1.5, 2, 2.5, 3])
    source = read_t7(write_t7(path, thin_net(ARRAYS, tail, grid)))
    assert [module.kind for module in source.modules] == TRUNK + ENDS[tail]
    if "ExpOut" in ENDS[tail]:
        np.testing.assert_array_equal(source.modules[-1].tensors["constant_vector"], grid)
    branches = ["49 is a ConcatTable: its branches are listed one after another"]
    assert list(source.notes) == (branches if tail == "joint" else [])
    assert [module.name for module in source.modules[48:]] == {"joint": ["49/1", "49/2"], "expectation": ["49"]}.get(
        tail, []
    )


def test_a_missing_or_empty_bias_is_no_role(path):
    kept = Storage(np.ones(3, np.float32))
    empty = [None, View(None, (), ()), View(kept, (), ()), View(kept, (0,), (1,)), View(kept, (2, 0), (0, 1))]
    layers = [nn("Linear", weight=np.ones((1, 2), np.float32), bias=bias) for bias in empty]
    source = read_t7(write_t7(path, nn("Sequential", modules=layers)))
    assert list(source.tensors) == [f"{i}/weight" for i in range(1, 6)]


def test_gradients_outputs_and_buffers_are_left_out(path):
    ones = np.ones(3, np.float32)
    linear = nn("Linear", weight=ones[None], gradWeight=ones[None], addBuffer=ones, output=ones, strange=ones)
    norm = nn("SpatialBatchNormalization", running_mean=ones, running_var=ones, save_mean=ones, save_std=ones, std=ones)
    scale = nn("CMul", weight=ones, gradWeight=ones, _repeat=ones, output=ones, size=Storage(np.int64([1, 3])))
    pooling = nn("SpatialMaxPooling", indices=np.ones(3, np.int64))
    left = ("output", "finput", "fgradInput", "input_slice", "output_slice", "addBuffer", "scaleT", "indices", "noise")
    left += ("save_mean", "save_std", "buffer", "buffer2", "centered", "std", "normalized", "gradAny", "_any")
    more = dict.fromkeys(left, ones)
    twist = nn("Twist", strange=ones, sizes=Storage(np.int64([2] * 17)), values=Storage(ones), **more)
    source = read_t7(write_t7(path, nn("Sequential", modules=[linear, norm, scale, pooling, twist])))
    assert list(source.tensors) == ["1/weight", "2/running_mean", "2/running_var", "3/weight", "5/strange"]
    assert source.modules[-1].options == {} and source.modules[2].options == {"size": (1, 3)}


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"ascii": True}, {"cuda": True}, {"long": 4}], ids=str)
def test_every_type_of_tensor(path, dtype, options):
    array = np.array([[1, 2, 100], [0, 5, 7]], dtype)
    if dtype == "int64" and options.get("long") != 4:
        array[1, 1] = 2**53 + 1
    table = {"a": {"b": array, "n": 3}, "c": array[:1] + 1}
    table["a"]["up"] = table
    source = read_t7(write_t7(path, table, **options))
    assert list(source.tensors) == ["a/b", "c"] and source.modules == ()
    assert source.tensors["a/b"].dtype == dtype
    np.testing.assert_array_equal(source.tensors["a/b"], array)
    np.testing.assert_array_equal(source.tensors["c"], array[:1] + 1)
    assert all(array.flags.writeable and array.flags.aligned for array in source.tensors.values())
    assert source.notes[-1] == "no network in it, only tables of arrays"
    assert len(source.notes) == (2 if options.get("long") else 1)


def test_views_of_one_storage(path):
    storage = Storage(np.arange(12, dtype=np.float32))
    tables = {
        "whole": View(storage, (3, 4), (4, 1)),
        "turned": View(storage, (4, 3), (1, 4)),
        "part": View(storage, (3, 2), (4, 1), 2),
        "last": View(storage, (1,), (1,), 12),
    }
    tensors = read_t7(write_t7(path, tables)).tensors
    whole = np.arange(12, dtype=np.float32).reshape(3, 4)
    for name, array in (("whole", whole), ("turned", whole.T), ("part", whole[:, 1:3]), ("last", whole[2, 3:])):
        np.testing.assert_array_equal(tensors[name], array)
    assert np.shares_memory(tensors["whole"], tensors["last"])
    path.write_bytes(b"")  # the arrays do not hang on the file
    assert tensors["whole"].sum() == 66 and tensors["whole"].flags.aligned


@pytest.mark.parametrize(
    "view",
    [
        *(
            View(Storage(np.zeros(6, np.float32)), *spec)
            for spec in (((2, 3), (3, 1), 2), ((7,), (1,)), ((1,), (1,), 0))
        ),
        *(
            View(Storage(np.zeros(6, np.float32)), *spec)
            for spec in (((2,), (-1,), 2), ((2**60,), (0,)), ((-1,), (1,)))
        ),
        View(Storage(np.zeros(6, np.float32)), (2**31, 2**31, 2**31), (0, 0, 0)),
        View(Storage(np.zeros(0, np.float32)), (1,), (1,)),
    ],
)
def test_a_view_outside_its_storage_is_refused(path, view):
    with pytest.raises(
        DataError, match=r"network.t7: a tensor of sizes .* does not fit in its storage of [06] elements$"
    ):
        read_t7(write_t7(path, {"a": view}))


def test_old_convolutions(path):
    weight = np.arange(24, dtype=np.float32)
    sizes = {"nInputPlane": 4, "nOutputPlane": 2, "kW": 3, "kH": 2}
    flat = nn("SpatialConvolutionMM", weight=weight.repeat(2).reshape(2, 24), padding=3, **sizes)
    groups = nn("SpatialConvolution", "cudnn", weight=weight.reshape(2, 2, 3, 2), groups=2, padW=1, **sizes)
    line = nn("SpatialConvolution", weight=weight.repeat(2), **sizes)
    modules = read_t7(write_t7(path, nn("Sequential", modules=[flat, groups, line]))).modules
    np.testing.assert_array_equal(modules[0].tensors["weight"], weight.repeat(2).reshape(2, 4, 2, 3))
    np.testing.assert_array_equal(modules[1].tensors["weight"], weight.reshape(2, 2, 2, 3))
    np.testing.assert_array_equal(modules[2].tensors["weight"], modules[0].tensors["weight"])
    assert modules[0].kind == "SpatialConvolutionMM" and modules[1].kind == "SpatialConvolution"
    assert modules[0].options["padW"] == modules[0].options["padH"] == 3 and modules[1].options["padW"] == 1


@pytest.mark.parametrize("change", [{"kW": 2}, {"nOutputPlane": None}, {"weight": None}, {"kH": "3"}, {"groups": 0}])
def test_a_convolution_that_contradicts_itself(path, change):
    fields = {"weight": np.ones((2, 1, 3, 3), np.float32), "nInputPlane": 1, "nOutputPlane": 2, "kW": 3, "kH": 3}
    with pytest.raises(DataError, match="layer 1, SpatialConvolution: "):
        read_t7(write_t7(path, nn("Sequential", modules=[nn("SpatialConvolution", **(fields | change))])))


@pytest.mark.parametrize("kind", ["BatchNormalization", "SpatialBatchNormalization"])
def test_the_inverse_deviation_of_old_norms_becomes_a_variance(path, kind):
    variance = np.float32([0.25, 1, 4, 1e-3])
    mean = np.zeros(4, np.float32)
    old = nn(kind, version=1, running_mean=mean, running_std=(variance + 0.01) ** -0.5, eps=0.01)
    both = nn(kind, version=2, running_mean=mean, running_std=variance, running_var=variance + 1)
    modules = read_t7(write_t7(path, nn("Sequential", modules=[old, both]))).modules
    assert list(modules[0].tensors) == ["running_mean", "running_var"] == list(modules[1].tensors)
    np.testing.assert_allclose(modules[0].tensors["running_var"], variance, rtol=1e-3)
    assert modules[0].tensors["running_var"].dtype == np.float32
    np.testing.assert_array_equal(modules[1].tensors["running_var"], variance + 1)


def test_what_old_files_leave_unsaid(path):
    kinds = [("SpatialAveragePooling", "nn"), ("SpatialAveragePooling", "cudnn"), ("Dropout", "nn")]
    layers = [nn(kind, package) for kind, package in kinds] + [nn("SpatialAveragePooling", divide=True)]
    options = [module.options for module in read_t7(write_t7(path, nn("Sequential", modules=layers))).modules]
    assert options == [{"divide": False}, {"divide": True}, {"v2": False}, {"divide": True}]


def test_containers_keep_their_paths(path):
    inner = nn("Sequential", modules=[LINEAR, nn("ReLU")])
    branches = nn("Concat", modules=[inner, nn("Identity"), nn("Parallel", modules=[LINEAR])])
    source = read_t7(write_t7(path, nn("Sequential", modules=[nn("Tanh"), branches, nn("Sequential", modules=[])])))
    listed = [(module.name, module.kind) for module in source.modules]
    assert listed == [
        *(("1", "Tanh"), ("2/1/1", "Linear"), ("2/1/2", "ReLU"), ("2/2", "Identity"), ("2/3/1", "Linear")),
        ("3", "Sequential"),
    ]
    assert source.notes == ("2 is a Concat: its branches are listed one after another",)
    assert source.tensors["2/1/1/weight"] is source.tensors["2/3/1/weight"]


def test_a_single_layer_and_a_container_with_arrays(path):
    assert list(read_t7(write_t7(path, LINEAR)).tensors) == ["1/weight", "1/bias"]
    normed = nn("WeightNorm", v=np.ones(2, np.float32), modules=[LINEAR])
    source = read_t7(write_t7(path, nn("Sequential", modules=[normed])))
    assert [(module.kind, list(module.tensors)) for module in source.modules] == [
        ("WeightNorm", ["v"]),
        ("Linear", ["weight", "bias"]),
    ]


def test_data_parallel_of_before_and_other_headers(path):
    other = nn("Linear", weight=np.zeros((2, 2), np.float32))
    cases = [("nn.DataParallelTable", 1, None), ("nn.DataParallelTable", None, None), ("nn.DataParallel", 1, None)]
    for name, version, header in [*cases, ("nn.DataParallelTable", 2, [1, 2])]:
        table = Lua(name, {"modules": [nn("Sequential", modules=[LINEAR]), other]}, version, header)
        source = read_t7(write_t7(path, table))
        assert list(source.tensors) == ["1/weight", "1/bias"] and "first replica" in source.notes[0]
        assert source.tensors["1/weight"][0, 1] == 2
    device = Lua("nn.GPU", {"modules": [LINEAR]}, 1, ["torch.CudaTensor", 2])
    assert list(read_t7(write_t7(path, nn("Sequential", modules=[device]))).tensors) == ["1/1/weight", "1/1/bias"]


def test_graphs(path):
    def node(module, *children):
        data = {"module": module, "mapindex": {}}
        made = Lua("nngraph.Node", {"data": data, "children": list(children)})
        data["reverseMap"] = {"itself": made}  # cyclic
        return made

    last = node(nn("ReLU"))
    nodes = [node(None), node(LINEAR, last), last]
    for fields in ({"modules": [LINEAR, nn("ReLU")]}, {}):
        graph = nn("gModule", forwardnodes=nodes, **fields)
        source = read_t7(write_t7(path, graph))
        assert [(module.name, module.kind) for module in source.modules] == [("1", "Linear"), ("2", "ReLU")]
        assert source.notes == (
            "the network is a graph: its layers are listed in the order of the file, without its connections",
        )


def test_objects_saved_before_there_were_versions(path):
    assert list(read_t7(write_t7(path, nn("Sequential", version=None, modules=[LINEAR]))).tensors) == [
        *("1/weight", "1/bias"),
    ]


@pytest.mark.parametrize("code", [6, 7, 8])
def test_functions_are_stepped_over(path, code):
    value = {"f": Function([{"name": "x", "value": [1, 2]}], code), "after": "it"}
    assert load(write_t7(path, value))[0] == {"f": None, "after": "it"}
    function = Function([])
    function.upvalues.append(function)
    assert load(write_t7(path, [function, function, 1]))[0] == {1: None, 2: None, 3: 1}


def test_a_table_in_itself(path):
    loop = {"n": 1}
    loop["self"] = [loop]
    read, _, _ = load(write_t7(path, loop))
    assert read["self"][1] is read


def test_values_and_keys(path):
    value = {"t": True, "f": False, "n": -2, "x": 0.5, 7: "seven", 1.5: "é", True: "dropped", "nan": float("nan")}
    for ascii in (False, True):
        read, _, _ = load(write_t7(path, value, ascii=ascii))
        assert read.pop("nan") != read.get("nan")
        assert read == {"t": True, "f": False, "n": -2, "x": 0.5, 7: "seven", 1.5: "é"}
        assert read["t"] is True and type(read["n"]) is int


def test_the_network_of_a_checkpoint(path):
    table = {"epoch": 7, "optimState": {"m": np.ones(3, np.float32)}, "criterion": nn("ClassNLLCriterion", w=LINEAR)}
    for value, place in (
        (table | {"model": LINEAR}, "model"),
        (table | {"state": {"best": LINEAR}}, "state/best"),
        (table | {"first": nn("ReLU"), "model": LINEAR, "best": LINEAR}, "model"),
        ([LINEAR, LINEAR], "1"),
        (Lua("Mine", {"inside": LINEAR}), "inside"),
        ({"mine": Lua("Mine", {"modules": [LINEAR]})}, "mine"),
        ({"fast": nn("Linear", "cudnn", weight=np.ones((1, 1), np.float32)), "n": 1}, "fast"),
    ):
        source = read_t7(write_t7(path, value))
        assert [module.kind for module in source.modules] == ["Linear"]
        assert source.notes == (f"the network is the entry {place}",)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"G": LINEAR, "D": nn("ReLU")}, "several networks in it, G, D: save the one that is wanted alone"),
        ({"modelFile": "model_60.t7", "epoch": 60}, "neither a network nor a table of arrays in it"),
        (np.ones(3, np.float32), "neither a network nor a table of arrays in it"),
        (nn("ClassNLLCriterion"), "neither a network nor a table of arrays in it"),
        (nn("Sequential", modules={"a": LINEAR}), "what 1, nn.Sequential, contains is not a list of layers"),
        (nn("Sequential", modules=[LINEAR, "b"]), "what 1, nn.Sequential, contains is not a list of layers"),
        (nn("BatchNormalization", eps="b"), "layer 1, BatchNormalization: eps is not a number"),
        (Lua("tds.Vec", "not a table"), r"class tds\.Vec at byte \d+ has a form of its own, which is not read here"),
    ],
)
def test_refusals(path, value, words):
    with pytest.raises(DataError, match=f"network.t7: {words}$"):
        read_t7(write_t7(path, value))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(100), r"not a Torch7 file: it begins with b'\\xff\\xd8\\xff\\xe0'"),
        (b"<!DOCTYPE html>", "not a Torch7 file: it begins with b'<!DO'"),
        (b"\0\0\0\4\0\0\0\1", r"written on a big-endian machine: .*"),
        (b"\4", r"not a Torch7 file: it begins with b'\\x04'"),
        (b"\4\0\0\0", "4 bytes announced at byte 4, the file has 4 in all"),
        (b"\3\0\0\0\1\0\0\0\1\0\0\0\11\0\0\0" + bytes(9), "9 at byte 12 is not a type of object"),
        (b"3\n1\n1\n9\n0\n0\n", "9 at byte 6 is not a type of object"),
        (b"3\n1\n1\n1\nfour\n0\n", "b'four' before byte 13 is not a number"),
        (b"1\n1234", "a number is missing, or cut, at byte 2"),
        (b"2\n5\nhello", "the 5 elements announced at byte 4 are not all there"),
    ],
)
def test_other_files(path, content, words):
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"network.t7: {words}$"):
        read_t7(path)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(DataError, match=r"absent\.t7: No such file"):
        read_t7(tmp_path / "absent.t7")
    with pytest.raises(DataError, match=f"{tmp_path.name}: Is a directory"):
        read_t7(tmp_path)


@pytest.mark.parametrize("ascii", [False, True])
def test_a_file_cut_anywhere_is_refused(path, ascii):
    whole = write_t7(path, small(), ascii=ascii).read_bytes()
    assert len(read_t7(path).tensors) == 3
    for length in (*range(0, len(whole) - 60, 3), *range(len(whole) - 60, len(whole))):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError) as caught:
            read_t7(path)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("ascii", [False, True])
def test_damaged_bytes_do_no_harm(path, ascii):
    whole = write_t7(path, {"model": small()}, ascii=ascii).read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for place in rng.integers(len(whole), size=rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_t7(path)
        except DataError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < len(str(path)) + 400
    assert refused > 50


HUGE = 2**60


@pytest.mark.parametrize(
    ("before", "number", "words"),
    [
        (b"\4\0\0\0\1\0\0\0\3\0\0\0V 1\x12\0\0\0torch.FloatStorage", HUGE, "bytes announced at byte 45"),
        (b"\4\0\0\0\1\0\0\0\3\0\0\0V 1\x12\0\0\0torch.FloatStorage", -1, "-4 bytes announced at byte 45"),
        (b"\3\0\0\0\1\0\0\0", 2**31 - 1, "a table of 2,147,483,647 entries announced at byte 8"),
        (b"\3\0\0\0\1\0\0\0", 2**32 - 1, "a table of -1 entries announced at byte 8"),
        (b"\2\0\0\0", 2**31 - 1, "2,147,483,647 bytes announced at byte 8"),
        (b"\4\0\0\0\1\0\0\0\3\0\0\0V 1\x11\0\0\0torch.FloatTensor", 2**31 - 1, "a tensor of 2,147,483,647 axes"),
    ],
)
def test_claims_beyond_the_file_are_refused(path, before, number, words):
    path.write_bytes(before + number.to_bytes(8, "little", signed=number < 0) + bytes(64))
    with pytest.raises(DataError, match=words):
        read_t7(path)


@pytest.mark.parametrize("words", ["2\n{}\n", "3\n1\n{}\n", "4\n1\n3\nV 1\n17\ntorch.LongStorage\n{}\n"])
@pytest.mark.parametrize("number", [HUGE, -1, 10**19])
def test_claims_beyond_an_ascii_file_are_refused(path, words, number):
    path.write_bytes(words.format(number).encode() + b"1 2 3\n" * 5)
    with pytest.raises(DataError, match="announced at byte"):
        read_t7(path)


def test_a_tensor_without_a_storage_is_refused(path):
    whole = write_t7(path, {"a": np.float32([1, 2, 3, 4])}, ascii=True).read_bytes()
    path.write_bytes(whole[: whole.index(b"4\n3\n3\nV 1\n18\n")] + b"2\n1\nx\n")
    with pytest.raises(DataError, match=r"the tensor at byte \d+ has no storage$"):
        read_t7(path)


def test_numbers_too_large_for_their_type_are_infinite(path):
    whole = write_t7(path, {"a": np.float32([1, 2])}, ascii=True).read_bytes()
    path.write_bytes(whole.replace(b"1 2\n", b"1 1e99\n"))
    assert read_t7(path).tensors["a"].tolist() == [1, np.inf]


@pytest.mark.parametrize("line", [b"1 2 3\n", b"1 2 x 4\n", b"1 2 3 4 5\n", b"1 2 3 4 x\n", b"1 2 3 4"])
def test_lines_of_numbers_that_do_not_hold_what_they_should(path, line):
    good = write_t7(path, {"a": np.float32([1, 2, 3, 4])}, ascii=True).read_bytes()
    assert b"1 2 3 4\n" in good
    path.write_bytes(good.replace(b"1 2 3 4\n", line))
    with pytest.raises(DataError, match=r"elements announced at byte|holds something that is not a number"):
        read_t7(path)


def test_deep_nesting(path):
    table = b"".join(b"\3\0\0\0" + i.to_bytes(4, "little") + b"\1\0\0\0\2\0\0\0\1\0\0\0a" for i in range(DEPTH))
    path.write_bytes(table[: 21 * (DEPTH // 2 - 10)] + bytes(4))
    with pytest.raises(DataError, match="neither a network nor"):
        read_t7(path)
    path.write_bytes(table + bytes(4))
    with pytest.raises(DataError, match="objects nested more than 30,000 deep"):
        read_t7(path)


def test_containers_in_themselves_and_doubled_without_end(path):
    circle = nn("Sequential", modules=[])
    circle.fields["modules"].append(circle)
    replicas = Lua("nn.DataParallel", {})
    replicas.fields["modules"] = [replicas]
    doubled = LINEAR
    for _ in range(60):
        doubled = nn("Sequential", modules=[doubled, doubled])
    for network in (circle, replicas, doubled):
        with pytest.raises(DataError, match="more than 20,000 layers or 100 levels of containers"):
            read_t7(write_t7(path, network))


def test_what_follows_the_first_object_is_noted(path):
    path.write_bytes(write_t7(path, LINEAR).read_bytes() + b"more")
    assert read_t7(path).notes == ("4 bytes after the first object were not read",)


@pytest.mark.parametrize("name", ["network", "network_ascii", "network_long4", "unreferenced"])
def test_networks_that_torch7_wrote(name):
    """What Torch7 answers, again: convolution, norm, ReLU, means of 2 × 2, dense layer, log of the softmax."""
    source = read_t7(GOLDEN / f"{name}.t7")
    kinds = ["SpatialConvolutionMM", "SpatialBatchNormalization", "ReLU", "SpatialAveragePooling", "View", "Linear"]
    assert [module.kind for module in source.modules] == [*kinds, "Dropout", "LogSoftMax", "Identity"]
    assert [module.name for module in source.modules[6:]] == ["7", "8/1", "8/2"]
    run = read_t7(GOLDEN / "run.t7").tensors
    x = _convolved(run["x"], source.modules[0])
    t = {role: array[None, :, None, None] for role, array in source.modules[1].tensors.items()}
    x = (x - t["running_mean"]) / np.sqrt(t["running_var"] + source.modules[1].options["eps"]) * t["weight"] + t["bias"]
    x = np.maximum(x, 0).reshape(2, 3, 3, 2, 2, 2).mean((3, 5)).reshape(2, -1)
    x = x @ source.tensors["6/weight"].T + source.tensors["6/bias"]
    np.testing.assert_allclose(x - np.log(np.exp(x).sum(1, keepdims=True)), run["y"], atol=1e-5)


def _convolved(x: np.ndarray, module) -> np.ndarray:
    options, weight = module.options, module.tensors["weight"]
    assert (options["padW"], options["padH"], weight.shape) == (1, 1, (3, 2, 2, 3))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), (2, 3), (2, 3))
    return np.einsum("bihwkl,oikl->bohw", windows, weight) + module.tensors["bias"][None, :, None, None]


@pytest.mark.parametrize("name", ["arrays", "arrays_ascii"])
def test_arrays_that_torch7_wrote(name):
    tensors = read_t7(GOLDEN / f"{name}.t7").tensors
    whole = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
    for part, array in (("whole", whole), ("turned", whole.T), ("part", whole[:, 1:3])):
        np.testing.assert_array_equal(tensors.pop(f"inner/{part}"), array)
    np.testing.assert_array_equal(tensors.pop("inner/special"), [np.inf, -np.inf, np.nan, 1e-310])
    dtypes = {key.removeprefix("inner/"): array.dtype.name for key, array in tensors.items()}
    assert dtypes == {
        **{"Byte": "uint8", "Char": "int8", "Short": "int16", "Int": "int32", "Long": "int64", "Half": "float16"},
        **{"Float": "float32", "Double": "float64"},
    }
    for key, array in tensors.items():
        np.testing.assert_array_equal(array, [1, 2, 253 if key.endswith("Byte") else -3, 100])
