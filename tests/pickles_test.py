"""Files of torch.save, read without torch: from small writers, and from torch where it is installed."""

import argparse
import datetime
import os
import zipfile
from collections import Counter, defaultdict, deque
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from pickled import (
    BOTH,
    STORAGES,
    Call,
    Name,
    New,
    Persistent,
    TorchFile,
    floats,
    network,
    rewritten,
    small_network,
)

from agejax.convert.formats.pytorch import read_pickle
from data_pipelines.errors import DataError

FORMATS = {False: "pytorch zip", True: "pytorch legacy pickle"}


def equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@BOTH
def test_state_dict_of_every_dtype(tmp_path, legacy):
    dtypes = [np.dtype(getattr(ml_dtypes, name, name)) for name in STORAGES]
    arrays = {f"a.{dtype.name}": (8 * floats(3, 2, 5)).astype(dtype) for dtype in dtypes}
    arrays |= {"scalar": np.array(3, np.int64), "none": np.zeros((0, 4), np.float32)}
    file = TorchFile(legacy)
    source = read_pickle(file.save(tmp_path / "a.pth", file.state_dict(arrays)))
    equal(source.tensors, arrays)
    assert source.format == FORMATS[legacy] and source.modules == () and source.notes == ()
    assert all(array.flags.aligned and not array.flags.writeable for array in source.tensors.values())


@BOTH
def test_tensors_share_storages_and_have_strides(tmp_path, legacy):
    file, values = TorchFile(legacy), floats(4, 6)
    storage = file.storage(values)
    root = {
        "all": file.view(storage, 0, (4, 6), (6, 1)),
        "turned": file.view(storage, 0, (6, 4), (1, 6)),
        "part": file.view(storage, 7, (2, 3), (12, 2)),
        "last": file.view(storage, 23, (1,), (1,)),
        "repeated": file.view(storage, 5, (3, 2), (0, 0)),
        "empty": file.view(storage, 24, (0,), (1,)),
        "turned in memory": file.tensor(values.T),
        "parameter": file.parameter(values),
    }
    found = read_pickle(file.save(tmp_path / "a.pth", root)).tensors
    expected = {"all": values, "turned": values.T, "part": values.ravel()[[[7, 9, 11], [19, 21, 23]]]}
    expected |= {"last": values[3, 5:], "repeated": np.full((3, 2), values[0, 5]), "empty": values[0, :0]}
    equal(found, expected | {"turned in memory": values.T, "parameter": values})
    assert np.shares_memory(found["all"], found["turned"]) and np.shares_memory(found["all"], found["part"])
    assert not np.shares_memory(found["all"], found["parameter"])


@BOTH
def test_arrays_outlive_the_file(tmp_path, legacy):
    file, values = TorchFile(legacy), floats(1000, 7)
    storage = file.storage(values)
    views = {name: file.view(storage, 0, (1000, 7), (7, 1)) for name in ("weight", "same", "again")}
    path = file.save(tmp_path / "a.pth", views)
    found = read_pickle(path).tensors["weight"]
    with path.open("r+b") as written:  # in place, as another program may do
        written.write(bytes(path.stat().st_size))
    np.testing.assert_array_equal(found, values)


def test_archive_of_a_big_endian_machine(tmp_path):
    file = TorchFile()
    arrays = {"a": floats(3), "b": np.arange(3) * 1j, "c": np.arange(4).astype(ml_dtypes.bfloat16), "d": np.arange(5)}
    root = file.state_dict(arrays)
    for key, values in file.storages.items():
        part = values.itemsize // (2 if values.dtype.kind == "c" else 1)
        file.storages[key] = values.view(f"u{part}").byteswap()
    path, there = file.save(tmp_path / "a.pth", root), tmp_path / "b.pth"
    rewritten(path, there, {"archive/byteorder": b"big"})
    source = read_pickle(there)
    equal(source.tensors, arrays)
    assert source.notes == ("its numbers are big-endian",)


def test_older_file_of_a_big_endian_machine(tmp_path):
    file, arrays = TorchFile(legacy=True), {"a": floats(3)}
    file.little_endian = False
    source = read_pickle(file.save(tmp_path / "a.pth", file.state_dict(arrays)))
    equal(source.tensors, arrays)
    assert source.notes == ("saved on a big-endian machine: the numbers of this format are little-endian there too",)


def test_archives_of_other_versions(tmp_path):
    """The folder is named after the file; the oldest do not tell the order of bytes."""
    file, arrays = TorchFile(), {"a": floats(3)}
    path = file.save(tmp_path / "a.pth", file.state_dict(arrays))
    with zipfile.ZipFile(path) as archive:
        members = {name.replace("archive/", "resnet18-f37072fd/"): archive.read(name) for name in archive.namelist()}
        del members["resnet18-f37072fd/byteorder"]
    other = rewritten(path, tmp_path / "b.pth", members | dict.fromkeys(archive.namelist()))
    equal(read_pickle(other).tensors, arrays)


def test_older_ways_to_write_a_tensor(tmp_path):
    """PyTorch 0.1 to 0.3: _rebuild_tensor, Parameters and Variables by call, parts of storages, classes with source."""
    file, values = TorchFile(legacy=True), floats(4, 6)
    storage = file.storage(values)
    part = Persistent((*storage.id[:5], ("1", 6, 12)))
    tensor = Call("torch._utils _rebuild_tensor", (part, 6, (2, 3), (3, 1)))
    parameter = Call("torch.nn.parameter Parameter", (tensor,), (True, False, Call("collections OrderedDict")))
    pairs = [["weight", parameter], ["bias", Call("torch.autograd.variable Variable", (tensor,))]]
    kind = Persistent(("module", Name("torch.nn.modules.linear Linear"), "linear.py", "class Linear: ..."))
    backend = Call("torch.nn.backends.thnn _get_thnn_function_backend")
    root = network(kind, Call("collections OrderedDict", (pairs,)), _backend=backend)
    source = read_pickle(file.save(tmp_path / "a.pth", root))
    equal(source.tensors, {"weight": values[2:3].reshape(2, 3), "bias": values[2:3].reshape(2, 3)})
    assert [module.kind for module in source.modules] == ["Linear"]


def test_newer_ways_to_write_a_tensor(tmp_path):
    file, values = TorchFile(), np.arange(12, dtype=np.uint32)
    raw = file.storage(values.view(np.uint8))
    untyped = Persistent(("storage", Name("torch.storage UntypedStorage"), *raw.id[2:]))
    tail = (4, (2, 3), (4, 1), False, Call("collections OrderedDict"))
    wide = Call("torch._utils _rebuild_tensor_v3", (untyped, *tail, Name("torch uint32")))
    plain = file.tensor(floats(2))
    hooks, tags = Call("collections OrderedDict"), {"tag": 3}
    kept = Call("torch._tensor _rebuild_from_type_v2", (Name(plain.name), Name("torch Tensor"), plain.args, tags))
    told = Call("torch._utils _rebuild_parameter_with_state", (plain, True, hooks, tags))
    found = read_pickle(file.save(tmp_path / "a.pth", {"wide": wide, "kept": kept, "told": told})).tensors
    np.testing.assert_array_equal(found["wide"], [[4, 5, 6], [8, 9, 10]])
    assert found["wide"].dtype == np.uint32
    assert found["kept"].tolist() == found["told"].tolist() == file.storages["1"].tolist()


# --- where the weights are ---

WEIGHTS = {"conv.weight": floats(2, 3), "conv.bias": floats(2)}


def checkpoint(file: TorchFile, **entries: object) -> dict:
    """A training checkpoint with what usually stands beside the weights."""
    moments = {"step": 3, "exp_avg": file.tensor(floats(2, 3)), "exp_avg_sq": file.tensor(floats(2, 3))}
    group = {"lr": 0.1, "betas": (0.9, 0.999), "params": [0]}
    scalar = Call("numpy._core.multiarray scalar", (Call("numpy dtype", ("f8", False, True)), b"12345678"))
    return {
        "epoch": 3,
        **entries,
        "optimizer": {"state": {0: moments}, "param_groups": [group]},
        "scheduler": {"last_epoch": 3, "_last_lr": [0.1]},
        "args": New("argparse Namespace", (), {"out": Call("pathlib PosixPath", ("/", "x"))}),
        "best": scalar,
        "best_tensor": file.tensor(floats()),
        "when": Call("datetime datetime", (Call("_codecs encode", ("\x07\xe8\x02\x1d\x0c\0\0\0\0\0", "latin1")),)),
        "callbacks": {Name("argparse Namespace"): {"score": file.tensor(floats())}},
        "rng": file.tensor(np.arange(4, dtype=np.uint8)),
    }


@BOTH
@pytest.mark.parametrize("entry", ["state_dict", "model_state_dict", "model", "net", "params", "ema", "student"])
def test_weights_of_a_checkpoint(tmp_path, legacy, entry):
    file = TorchFile(legacy)
    path = file.save(tmp_path / "a.pth", checkpoint(file, **{entry: file.state_dict(WEIGHTS)}))
    source = read_pickle(path)
    equal(source.tensors, WEIGHTS)
    others = "epoch, optimizer, scheduler, args, best, best_tensor, when, callbacks, rng"
    assert source.notes == (f"taken from {entry}; left out: {others}",)


def test_what_usually_stands_beside_weights(tmp_path):
    """Named one by one: a checkpoint with any of these is read."""
    names = """builtins.complex builtins.bytearray __builtin__.xrange collections.Counter collections.deque torch.Size
    datetime.datetime datetime.timedelta pathlib.PosixPath pathlib.WindowsPath pathlib._local.PosixPath numpy.dtype
    numpy.core.multiarray._reconstruct numpy.core.multiarray.scalar numpy._core.multiarray._reconstruct torch.device
    numpy._core.multiarray.scalar numpy.random._pickle.__randomstate_ctor numpy.random._pickle.__generator_ctor
    torch.nn.backends.thnn._get_thnn_function_backend torchvision.transforms.functional.InterpolationMode"""
    file = TorchFile()
    beside = {name: Call(" ".join(name.rsplit(".", 1)), ("x", 3)) for name in names.split()}
    kinds = (
        "argparse Namespace",
        "types SimpleNamespace",
        "optparse Values",
        "__builtin__ object",
        "omegaconf DictConfig",
    )
    beside |= {kind: New(kind, (), {"lr": 1}) for kind in kinds}
    path = file.save(tmp_path / "a.pth", {"model": file.state_dict(WEIGHTS), "function": Name("torch relu"), **beside})
    equal(read_pickle(path).tensors, WEIGHTS)


def test_weights_further_inside(tmp_path):
    file = TorchFile()
    inner = checkpoint(file, model={"extra": file.state_dict(WEIGHTS)})
    path = file.save(tmp_path / "a.pth", {"run": New("a.b Dict", items=inner), "version": 1})
    assert read_pickle(path).notes[0] == "taken from run.model.extra; left out: version"
    equal(read_pickle(path, "run.model.extra").tensors, WEIGHTS)
    further = file.save(tmp_path / "c.pth", {"a": {"b": {"c": {"d": file.state_dict(WEIGHTS)}}}})
    with pytest.raises(DataError, match=r"holds no weights of a network: its keys are a$"):
        read_pickle(further)
    equal(read_pickle(further, "a.b.c.d").tensors, WEIGHTS)
    trainer = New(
        "code.train Trainer", (), {"model": network("torch.nn Linear", {"weight": file.tensor(floats(2, 3))})}
    )
    source = read_pickle(file.save(tmp_path / "b.pth", trainer))
    assert list(source.tensors) == ["weight"] and source.notes[0].startswith("taken from model;")


def test_two_networks_in_a_checkpoint_are_not_guessed_between(tmp_path):
    file, other = TorchFile(), {"conv.weight": floats(2, 3)}
    root = checkpoint(file, model=file.state_dict(WEIGHTS), ema=file.state_dict(other))
    path = file.save(tmp_path / "a.pth", root)
    told = (
        r"a.pth holds several networks \(model, ema\): name one as entry; its keys are epoch, model, ema, optimizer, .*"
    )
    with pytest.raises(DataError, match=f"{told}$"):
        read_pickle(path)
    equal(read_pickle(path, "ema").tensors, other)
    equal(read_pickle(path, "model").tensors, WEIGHTS)
    for wrong in ("nets", "epoch", "model.conv", "optimizer"):
        with pytest.raises(DataError, match=f"holds no weights of a network under {wrong}: its keys are epoch, model"):
            read_pickle(path, wrong)


def test_a_usual_name_decides(tmp_path):
    file = TorchFile()
    normal = {"mean": file.tensor(floats(3)), "std": file.tensor(floats(3))}
    path = file.save(tmp_path / "a.pth", {"normal": normal, "state_dict": file.state_dict(WEIGHTS)})
    source = read_pickle(path)
    equal(source.tensors, WEIGHTS)
    assert source.notes == ("taken from state_dict; left out: normal",)
    inside = file.save(tmp_path / "b.pth", {"model": {"normal": normal, "net": file.state_dict(WEIGHTS)}})
    equal(read_pickle(inside).tensors, WEIGHTS)
    equal(read_pickle(path, "normal").tensors, {"mean": file.storages["0"], "std": file.storages["1"]})


@pytest.mark.parametrize(
    ("root", "told"),
    [
        ({"epoch": 3, "best": 0.5}, "its keys are epoch, best$"),
        ({f"k{i}": i for i in range(20)}, "its keys are k0, .*k11 and 8 more$"),
        ({"a\nb\x1b[1m" + "x" * 500: 1}, r"its keys are a\\nb\\x1b\[1mx{100,110}…$"),
        ({}, "it is of type dict$"),
        ([1], "it is of type list$"),
        (3, "it is of type int$"),
        (New("a.b Trainer", (), {"lr": 1}), "its keys are lr$"),
        (New("a.b Trainer"), "it is of type a.b.Trainer$"),
        (network("torch.nn ReLU"), "its ReLU has no tensors$"),
        (New("a.b Half", (), {"_modules": {}, "_parameters": {}}), "its keys are _modules, _parameters$"),
    ],
    ids=range(10),
)
def test_nothing_found(tmp_path, root, told):
    with pytest.raises(DataError, match=f"a.pth holds no weights of a network: {told}"):
        read_pickle(TorchFile().save(tmp_path / "a.pth", root))


def test_an_optimizer_alone(tmp_path):
    """Its moments have names and shapes of a network's, but the weights are not there."""
    file = TorchFile()
    state = {"state": {"conv.weight": {"exp_avg": file.tensor(floats(2, 3))}}, "param_groups": [{"lr": 0.1}]}
    for root in (state, {"optimizer": state}):
        with pytest.raises(DataError, match="holds no weights of a network"):
            read_pickle(file.save(tmp_path / "a.pth", root))


def test_one_network_under_two_names(tmp_path):
    file = TorchFile()
    weights = file.state_dict(WEIGHTS)
    equal(read_pickle(file.save(tmp_path / "a.pth", {"model": weights, "net": weights})).tensors, WEIGHTS)


def test_names_without_dots(tmp_path):
    file, arrays = TorchFile(), {"weight": floats(2, 3), "bias": floats(2)}
    weights = file.state_dict(arrays)
    source = read_pickle(file.save(tmp_path / "a.pth", {"epoch": 1, "mean": file.tensor(floats(3)), "layer": weights}))
    equal(source.tensors, arrays)
    source = read_pickle(file.save(tmp_path / "b.pth", {**weights.items, "options": {"lr": 0.1}}))
    equal(source.tensors, arrays)
    assert source.notes == ("left out, no tensors: options",)
    equal(
        read_pickle(file.save(tmp_path / "c.pth", {"n_averaged": weights.items["bias"]})).tensors,
        {"n_averaged": arrays["bias"]},
    )


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[1m", "\u202eweight"])
def test_names_that_cannot_be_printed(tmp_path, name):
    file = TorchFile()
    with pytest.raises(DataError, match=r"is damaged: a tensor's name has characters that cannot be printed$"):
        read_pickle(file.save(tmp_path / "a.pth", {name: file.tensor(floats(2))}))
    with pytest.raises(DataError, match=r"is damaged: a layer or a tensor has an impossible name$"):
        read_pickle(file.save(tmp_path / "b.pth", network("a.b C", {name: file.tensor(floats(2))})))


def test_what_is_no_tensor_in_a_state_dict(tmp_path):
    file = TorchFile()
    tensors = {name: file.tensor(array) for name, array in WEIGHTS.items()}
    root = {"version": 3, **tensors, "conv._extra_state": {"scale": file.tensor(floats())}, 5: file.tensor(floats())}
    source = read_pickle(file.save(tmp_path / "a.pth", root))
    equal(source.tensors, WEIGHTS)
    assert source.notes == ("left out, no tensors: version, conv._extra_state, 5",)


@pytest.mark.parametrize(
    ("prefix", "wrappers"),
    [
        ("module.", ["DataParallel"]),
        ("_orig_mod.", ["torch.compile"]),
        ("_orig_mod.module.", ["torch.compile", "DataParallel"]),
        ("module._orig_mod.", ["DataParallel", "torch.compile"]),
    ],
)
def test_prefixes_of_wrappers_go(tmp_path, prefix, wrappers):
    file = TorchFile()
    root = {"n_averaged": file.tensor(np.array(3))} | {prefix + key: file.tensor(WEIGHTS[key]) for key in WEIGHTS}
    source = read_pickle(file.save(tmp_path / "a.pth", root))
    equal(source.tensors, WEIGHTS)
    assert [note.split("(")[1] for note in source.notes] == [f"{wrapper})" for wrapper in wrappers]


def test_other_prefixes_stay(tmp_path):
    file = TorchFile()
    arrays = {"module.weight": floats(2), "weight": floats(3)}
    equal(read_pickle(file.save(tmp_path / "a.pth", file.state_dict(arrays))).tensors, arrays)
    arrays = {"modules.weight": floats(2), "modules.bias": floats(3)}
    equal(read_pickle(file.save(tmp_path / "a.pth", file.state_dict(arrays))).tensors, arrays)


# --- networks saved whole ---


@BOTH
def test_network_saved_whole(tmp_path, legacy):
    file = TorchFile(legacy)
    root, expected = small_network(file)
    source = read_pickle(file.save(tmp_path / "a.pt", root))
    equal(source.tensors, expected)
    kinds = [(module.kind, module.name, list(module.tensors)) for module in source.modules]
    assert kinds == [
        ("Tiny", "", ["scale"]),
        ("Conv2d", "trunk.0", ["weight"]),
        ("Conv2d", "trunk.1", ["weight"]),
        ("BatchNormAct2d", "trunk.2", ["weight", "running_mean"]),
        ("Conv2d", "trunk.3", ["weight"]),
        ("ReLU", "act", []),
    ]
    options = {"training": False, "kernel_size": (3, 3), "padding": "same", "stride": (1, 1), "eps": 1e-3}
    assert source.modules[1].options == options
    np.testing.assert_array_equal(source.modules[3].tensors["running_mean"], expected["trunk.2.running_mean"])
    assert source.notes[0].startswith("a network saved whole, of class model.Tiny: ") and len(source.notes) == 1


def test_networks_that_are_none(tmp_path):
    file, tensor = TorchFile(), TorchFile().tensor(floats(2))
    deep = network("a.b Leaf", {"weight": file.tensor(floats(2))})
    for _ in range(70):
        deep = network("a.b Box", modules={"inner": deep})
    cases = {
        "has something else than layers in a a.b.Box": network("a.b Box", modules={"a": New("a.b C")}),
        "has something else than tensors in a a.b.Box": network("a.b Box", {"a": tensor, "b": 3}),
        "is damaged: a layer or a tensor has an impossible name": network("a.b Box", {"a" * 201: tensor}),
        "is damaged: layers nest without end, as in inner.inner": deep,
    }
    wide = network("a.b Box", {f"weight_{number}": tensor for number in range(100)})
    for _ in range(12):
        wide = network("a.b Box", modules={"a": wide, "b": wide})
    cases["is damaged: layers nest without end, as in .*a.a"] = wide
    file.storage(floats(2))
    for told, root in cases.items():
        with pytest.raises(DataError, match=told):
            read_pickle(file.save(tmp_path / "a.pth", root))


def test_wrapped_network_saved_whole(tmp_path):
    file = TorchFile()
    root, expected = small_network(file)
    wrapped = network("torch.nn.parallel.data_parallel DataParallel", modules={"module": root}, dim=0)
    source = read_pickle(file.save(tmp_path / "a.pt", {"model": wrapped}))
    equal(source.tensors, expected)
    assert [module.name for module in source.modules] == ["", "trunk.0", "trunk.1", "trunk.2", "trunk.3", "act"]


# --- files of torch itself ---


def of_torch(tensors: dict) -> dict[str, np.ndarray]:
    """Through 32 bits for dtypes that torch does not give to NumPy."""
    return {name: tensor.detach().float().numpy() for name, tensor in tensors.items()}


def same(source_tensors: dict[str, np.ndarray], tensors: dict) -> None:
    assert [str(tensor.dtype) for tensor in tensors.values()] == [f"torch.{x.dtype}" for x in source_tensors.values()]
    equal({name: array.astype(np.float32) for name, array in source_tensors.items()}, of_torch(tensors))


@BOTH
def test_writers_write_what_torch_reads(tmp_path, legacy):
    torch = pytest.importorskip("torch")
    file = TorchFile(legacy)
    arrays = {"a": floats(3, 2).T, "b": np.arange(4), "c": np.array(True), "d": floats(2).astype(np.float16)}
    path = file.save(tmp_path / "a.pth", checkpoint(file, model=file.state_dict(arrays)))
    found = torch.load(path, weights_only=False)["model"]
    equal({name: tensor.numpy() for name, tensor in found.items()}, arrays)


@BOTH
def test_state_dict_of_torch(tmp_path, legacy):
    torch = pytest.importorskip("torch")
    base, odd = torch.randn(6, 8), torch.randn(3, 5, 7).permute(2, 0, 1)
    tensors = {"a.base": base, "a.turned": base.T, "a.part": base[1::2, 3:], "a.odd": odd, "a.same": base}
    last = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    tensors |= {"b.channels_last": last, "b.scalar": base[0, 0], "b.repeated": base[:1].expand(5, 8)}
    tensors |= {f"c.{dtype}": (4 * base).to(getattr(torch, dtype)) for dtype in STORAGES if "complex" not in dtype}
    tensors |= {"d.parameter": torch.nn.Parameter(odd), "d.none": torch.zeros(0, 3)}
    torch.save(tensors, path := tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    found = read_pickle(path).tensors
    same(found, tensors)
    assert np.shares_memory(found["a.base"], found["a.part"]) and found["a.same"] is not None


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@BOTH
def test_pickle_protocols_of_torch(tmp_path, legacy, protocol):
    torch = pytest.importorskip("torch")
    tensors = torch.nn.Linear(3, 2).state_dict()
    path = tmp_path / "a.pth"
    torch.save(tensors, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    same(read_pickle(path).tensors, tensors)


def test_newer_dtypes_of_torch(tmp_path):
    torch = pytest.importorskip("torch")
    names = ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2")
    tensors = {name: torch.arange(6).reshape(2, 3).to(getattr(torch, name)).T for name in names}
    torch.save(tensors, path := tmp_path / "a.pth")
    found = read_pickle(path).tensors
    assert [array.dtype.name for array in found.values()] == list(names)
    for name, array in found.items():
        np.testing.assert_array_equal(array.astype(np.float32), tensors[name].float().numpy())
    torch.save({"a": torch.randn(3, dtype=torch.complex64).conj()}, path)
    with pytest.raises(DataError, match=r"has a tensor with marks \(conj\)"):
        read_pickle(path)


@BOTH
def test_checkpoint_of_torch(tmp_path, legacy):
    """With all that a training loop may leave in it."""
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.randn(2, 3, 5, 5)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 100)
    shape = net[0].weight.shape
    args = argparse.Namespace(lr=0.1, out=Path("/x"), device=torch.device("cpu"), dtype=torch.float16, size={1, 2})
    state = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "args": args, "epoch": 3}
    state |= {"best": np.float64(0.5), "curve": np.arange(3.0), "random": np.random.get_state(), "date": DATE}
    state |= {"rng": torch.get_rng_state(), "seeds": np.random.default_rng(0), "raw": b"\xff\0", "shape": shape}
    state |= {"counts": Counter("aab"), "last": deque([1.5], 3), "lists": defaultdict(list, a=[1]), "many": range(3)}
    path = tmp_path / "a.pth"
    torch.save({"model": net.state_dict(), **state}, path, _use_new_zipfile_serialization=not legacy)
    source = read_pickle(path)
    same(source.tensors, net.state_dict())
    assert source.notes[0].startswith("taken from model; left out: optimizer, schedule, args, epoch, best")


DATE = datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC)


@BOTH
def test_networks_of_torch_saved_whole(tmp_path, legacy):
    torch = pytest.importorskip("torch")
    nn, path = torch.nn, tmp_path / "a.pt"
    conv = nn.Conv2d(3, 4, (3, 5), stride=2, padding=1, bias=False)
    net = nn.Sequential(conv, nn.Sequential(nn.BatchNorm2d(4, eps=1e-3, momentum=0.2), nn.ReLU()), nn.MaxPool2d(2))
    net.add_module("none", None)
    net[1].register_buffer("passing", torch.zeros(2), persistent=False)
    for saved in (net, nn.DataParallel(net), {"ema": net, "epoch": 3}):
        torch.save(saved, path, _use_new_zipfile_serialization=not legacy)
        source = read_pickle(path)
        same(source.tensors, net.state_dict())
        kinds = [(module.kind, module.name) for module in source.modules]
        assert kinds == [("Conv2d", "0"), ("BatchNorm2d", "1.0"), ("ReLU", "1.1"), ("MaxPool2d", "2")]
        convolution, norm, _, pool = source.modules
        assert convolution.options["kernel_size"] == (3, 5) and convolution.options["stride"] == (2, 2)
        assert (norm.options["eps"], norm.options["momentum"], pool.options["kernel_size"]) == (1e-3, 0.2, 2)
        assert list(norm.tensors) == ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "vgg11_bn", "efficientnet_v2_s"])
def test_networks_of_torchvision(tmp_path, name):
    torch, torchvision = pytest.importorskip("torch"), pytest.importorskip("torchvision")
    options = {"init_weights": False} if name in ("googlenet", "vgg11_bn") else {}
    net = narrowed(torch, torchvision.models.get_model(name, weights=None, num_classes=3, **options))
    torch.save(net.state_dict(), tmp_path / "a.pth")
    torch.save(net, tmp_path / "b.pth")
    same(read_pickle(tmp_path / "a.pth").tensors, net.state_dict())
    same(read_pickle(tmp_path / "b.pth").tensors, net.state_dict())


@pytest.mark.parametrize("name", ["resnet18", "efficientnetv2_s", "tf_efficientnetv2_s", "vgg11_bn", "convnext_atto"])
def test_networks_of_timm(tmp_path, name):
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
    net = narrowed(torch, timm.create_model(name, num_classes=3))
    torch.save(net, tmp_path / "a.pth")
    same(read_pickle(tmp_path / "a.pth").tensors, net.state_dict())


def narrowed(torch, net):
    """Every tensor with at most 4 entries on an axis: the files stay small."""
    for tensor in (*net.parameters(), *net.buffers()):
        tensor.data = tensor.data[tuple(slice(4) for _ in tensor.shape)].clone()
    return net


def test_compiled_network_of_torch(tmp_path):
    torch = pytest.importorskip("torch")
    net = torch.nn.Linear(3, 2)
    torch.save(torch.compile(net).state_dict(), path := tmp_path / "a.pth")
    source = read_pickle(path)
    same(source.tensors, net.state_dict())
    assert source.notes == ("_orig_mod. taken off the names of all tensors (torch.compile)",)
    torch.save(torch.optim.swa_utils.AveragedModel(net).state_dict(), path)
    same(read_pickle(path).tensors, net.state_dict())
    torch.save(torch.compile(net), path)  # with the compiler's objects, which only Python code can make
    with pytest.raises(DataError, match=r"would call .*save the network's state_dict\(\)$"):
        read_pickle(path)


def test_other_files_of_torch(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.pth"
    torch.jit.save(torch.jit.script(torch.nn.Linear(3, 2)), path)
    with pytest.raises(DataError, match="is a TorchScript archive"):
        read_pickle(path)
    torch.save({"a": torch.eye(3).to_sparse()}, path)
    with pytest.raises(DataError, match=r"would call torch._utils._rebuild_sparse_tensor: refused"):
        read_pickle(path)
    torch.serialization.set_crc32_options(False)
    torch.save({"a": torch.eye(3)}, path)
    torch.serialization.set_crc32_options(True)
    assert read_pickle(path).tensors["a"].tolist() == np.eye(3).tolist()


# --- a published file ---


@pytest.mark.real
@pytest.mark.skipif("AGEJAX_REAL_DATA" not in os.environ, reason="AGEJAX_REAL_DATA names no folder of weights")
def test_published_tiny_network():
    source = read_pickle(Path(os.environ["AGEJAX_REAL_DATA"], "weights/TinyAge_chalearn.pt"))
    widths = (16, 16, 32, 32, 64, 64, 128, 128, 128, 128, 128, 128)
    kinds = [module.kind for module in source.modules]
    unit = ["Conv2d", "BatchNorm2d", "ReLU"]
    stages = [part for units in (2, 2, 2, 3, 3) for part in (*(unit * units), "MaxPool2d")]
    assert kinds == [*stages, "AvgPool2d", "Linear", "Sigmoid"]
    assert tuple(len(module.tensors["weight"]) for module in source.modules if module.kind == "Conv2d") == widths
    assert source.tensors["fc1.0.weight"].shape == (101, 128) and len(source.tensors) == 12 * 6 + 2
    assert all(array.dtype in (np.float32, np.int64) and np.isfinite(array).all() for array in source.tensors.values())
    norms = [module for module in source.modules if module.kind == "BatchNorm2d"]
    assert {norm.options["eps"] for norm in norms} == {1e-5}
    assert all((norm.tensors["running_var"] > 0).all() for norm in norms)
    assert "model.TinyAge" in source.notes[0]
