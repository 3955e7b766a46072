"""Pickles that want something run, time or memory: one line, nothing run, no hang. Those that do not: as Python's."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import tracemalloc
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from pathlib import Path

import malicious
import numpy as np
import pytest
from pickled import Call, Name, New, Persistent, TorchFile, refused

from agejax.convert.formats.pytorch.harmless import CALLS
from agejax.convert.formats.pytorch.unpickler import load

TESTS = Path(__file__).parent
WAYS = {
    "zip": lambda path, data: TorchFile().save_pickle(path, data),
    "legacy": lambda path, data: TorchFile(legacy=True).save_pickle(path, data),
    "bare": lambda path, data: path.write_bytes(data),
}


# --- what would be run ---


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", malicious.FORMS)
def test_nothing_that_a_pickle_wants_is_run(tmp_path, form, way):
    path, proof = tmp_path / "evil.pth", tmp_path / "proof"
    WAYS[way](path, malicious.whole(form, str(proof)))
    told = refused(path)
    assert malicious.FORMS[form][0] in told and "refused, nothing was run" in told
    assert not proof.exists()


def test_the_same_pickles_do_harm_elsewhere(tmp_path):
    """Each of them creates its file when Python's own pickle loads it: the test above could fail."""
    proofs = {form: str(tmp_path / f"proof {number}".replace(" ", "_")) for number, form in enumerate(malicious.FORMS)}
    code = "import json, malicious, sys; malicious.load_all(json.loads(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, json.dumps(proofs)], cwd=TESTS, check=True, capture_output=True)
    end = time.monotonic() + 10
    while time.monotonic() < end and not all(map(os.path.exists, proofs.values())):  # one of them does not wait
        time.sleep(0.05)
    assert [form for form, proof in proofs.items() if not os.path.exists(proof)] == []


AUDIT = """
import json, sys
from agejax.convert.formats.pytorch import read_pickle
paths, events = json.loads(sys.argv[1]), []
read_pickle(paths.pop(0))
def hook(event, args):
    allowed = event == "open" and str(args[0]) in paths and args[1] in ("rb", "r")
    if not allowed and not event.startswith("mmap."):
        events.append(f"{event} {args}"[:200])
sys.addaudithook(hook)
before = set(sys.modules)
for path in paths:
    try:
        read_pickle(path)
    except ValueError:
        pass
print(json.dumps([events, sorted(set(sys.modules) - before)]))
"""


def test_python_itself_sees_nothing_but_the_file_opened(tmp_path):
    """Audit events: an import, compiled code, a process, a name looked up, a file written would each be one."""
    file = TorchFile()
    good = file.save(tmp_path / "good.pth", {"weight": file.tensor(np.ones(3)), "f": Name("antigravity fly")})
    paths = [good, good]
    for number, form in enumerate(malicious.FORMS):
        paths.append(tmp_path / f"{number}.pth")
        TorchFile().save_pickle(paths[-1], malicious.whole(form, str(tmp_path / "proof")))
    words = json.dumps([str(path) for path in paths])
    run = subprocess.run([sys.executable, "-c", AUDIT, words], check=True, capture_output=True, text=True)
    assert json.loads(run.stdout) == [[], []]


@pytest.mark.parametrize(
    "root",
    [
        Call("torch._tensor _rebuild_from_type_v2", (Name("os system"), Name("torch Tensor"), ("true",), {})),
        Call("collections defaultdict", (Call("os system", ("true",)),)),
        {"a": [(1, {"b": Call("os system", ("true",))})]},
        New("a.b C", (Call("os system", ("true",)),)),
        New("a.b C", (), {"state": Call("os system", ("true",))}),
        New("torch.nn.modules.conv Conv2d", (), ({}, {"append": Name("os system")})),
        Persistent(("storage", Call("os system", ("true",)), "0", "cpu", 3)),
        Call(Call("collections OrderedDict"), ()),
        Call(New("a.b C"), ()),
        New("torch.hub load", (), {"__setstate__": Name("os system")}),
        New(Call("collections OrderedDict")),
    ],
    ids=range(11),
)
def test_refused_wherever_it_stands(tmp_path, root):
    told = refused(TorchFile().save(tmp_path / "a.pth", root))
    assert ("os.system" in told or " an object of type" in told) and "nothing was run" in told


UNKNOWN = """
torch.hub.load torch.load torch.jit.load torch.storage._load_from_bytes torch._utils._rebuild_sparse_tensor torch._utils
torch._utils._rebuild_device_tensor_from_numpy torch.nn.modules.conv.Conv2d torch.device.__init__ model.Net numpy.load
numpy.memmap numpy.dtype.__class__ builtins.getattr builtins.map builtins.type _codecs.decode codecs.encode os
collections.namedtuple collections.OrderedDict.fromkeys pathlib.Path.unlink datetime.datetime.now
"""


@pytest.mark.parametrize("name", UNKNOWN.split())
def test_only_names_of_the_table_are_called(tmp_path, name):
    module, _, attribute = name.rpartition(".")
    told = refused(TorchFile().save(tmp_path / "a.pth", Call(f"{module} {attribute}", ("x",))))
    assert told.startswith(f"would call {name if module else '.os'}: refused, nothing was run")


def test_bytes_of_protocol_2_are_only_of_latin_1(tmp_path):
    for codec in ("utf-8", "idna", "rot13", "unicode_escape", 3):
        told = refused(TorchFile().save(tmp_path / "a.pth", Call("_codecs encode", ("x", codec))))
        assert told.startswith(f"would call _codecs.encode with {codec}: refused")


def test_names_in_messages_are_printable(tmp_path):
    evil = malicious.call(malicious.inside("os\n\x1b[31m", "é" * 200), b"N")
    told = refused(TorchFile().save_pickle(tmp_path / "a.pth", b"\x80\x02" + evil + b"."))
    assert told.startswith(r"would call os\n\x1b[31m.\xe9\xe9") and len(told) < 400


def plain(rng: np.random.Generator, depth: int = 0) -> object:
    """A random value of Python's own types."""
    few = rng.integers(5)
    makers = [
        lambda: None,
        lambda: bool(rng.integers(2)),
        lambda: int(rng.integers(-300, 300)) ** int(rng.integers(1, 20)),
        lambda: float(rng.normal()),
        lambda: "é\n'\\x" * int(rng.integers(100)),
        lambda: [plain(rng, depth + 1) for _ in range(few)],
        lambda: tuple(plain(rng, depth + 1) for _ in range(few)),
        lambda: {key: plain(rng, depth + 1) for key in ("a", 3, -1.5, None, ("b", 2))[:few]},
        lambda: [shared := [1], shared, (shared, shared)],
    ]
    return makers[rng.integers(len(makers) if depth < 5 else 5)]()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_are_python_s(protocol):
    rng = np.random.default_rng(protocol)
    values = [plain(rng) for _ in range(100)]
    assert load(io.BytesIO(pickle.dumps(values, protocol)), CALLS, None) == values
    values = [{"x", "y"}, frozenset("z"), OrderedDict(a=1), Counter("aab"), defaultdict(list, b=[2]), deque("cd")]
    sets, *rest = load(io.BytesIO(pickle.dumps(values, protocol)), CALLS, None)
    assert sorted(sets) == ["x", "y"]
    assert list(rest[0]) == ["z"] and rest[1:] == [{"a": 1}, {"a": 2, "b": 1}, {"b": [2]}, ["c", "d"]]
    data = bytes(range(256))
    assert load(io.BytesIO(pickle.dumps(data, protocol)), CALLS, None) in (data, data.decode("latin-1"))


def test_what_is_shared_stays_shared():
    values = load(io.BytesIO(pickle.dumps([shared := [1], shared, {"a": shared}])), CALLS, None)
    assert values[0] is values[1] is values[2]["a"]


def test_pickles_one_after_another_are_read_one_by_one():
    file = io.BytesIO(pickle.dumps(1) + pickle.dumps([2], 0) + b"rest")
    assert [load(file, CALLS, None), load(file, CALLS, None), file.read()] == [1, [2], b"rest"]


def loaded(opcodes: bytes) -> object:
    return load(io.BytesIO(opcodes + b"."), CALLS, None)


def test_opcodes_that_python_writes_seldom():
    assert loaded(b"N(0") is None and loaded(b"(K\1K\x020t") == (1,)
    one, other = loaded(b"]2\x86")
    assert one is other == []
    assert loaded(b"(ccollections\nCounter\n}U\1aK\1so") == loaded(b"(}U\1aK\1sicollections\nCounter\n") == {"a": 1}
    assert loaded(b"(K\1K\2d") == {1: 2} and loaded(b"(K\1l") == [1] and loaded(b"N(K\x011") is None


def test_objects_keep_what_they_are_given():
    kept = loaded(b"ca\nB\n(K\1t\x81}U\1aK\1sb}(U\1aK\2U\1bK\3ubN}U\1cK\4s\x86bK\5bU\1xK\6sK\7a(K\x08K\x09e")
    assert (kept.name, kept.args, kept.items, kept.elements) == ("a.B", (1,), {"x": 6}, [7, 8, 9])
    assert kept.attributes() == {"a": 2, "b": 3, "c": 4}
    assert [kept.attribute(name) for name in ("a", "c", "d")] == [2, 4, None]


@pytest.mark.parametrize(
    ("opcodes", "told"),
    [
        (b"\x82\x01", "uses the pickle opcode EXT1: refused, nothing was run"),
        (b"\x97", "uses the pickle opcode NEXT_BUFFER: refused, nothing was run"),
        (b"]}b", "(ValueError: an object of type list where a dict is wanted)"),
        (b"}(K\1u", "(ValueError: zip() argument 2 is shorter than argument 1)"),
        (b"}N(K\1u", "(ValueError: an object of type NoneType where a dict is wanted)"),
        (b"}K\1a", "(ValueError: an object of type dict where a list is wanted)"),
        (b"}(K\1e", "(ValueError: an object of type dict where a list is wanted)"),
        (b"K\1K\1\x93", "(ValueError: an object of type int where a str is wanted)"),
        (b"ca\nB\nNR", "(ValueError: an object of type NoneType where a tuple is wanted)"),
        (b"ca\nB\nN\x81", "(ValueError: an object of type NoneType where a tuple is wanted)"),
        (b"ccollections\nOrderedDict\n](](NNNee\x85R", "(ValueError: too many values to unpack"),
        (b"ccollections\nOrderedDict\nN\x85R", "(TypeError: 'NoneType' object is not iterable)"),
        (b"ctorch._utils\n_rebuild_parameter\nN\x85R", "is damaged: a parameter without a tensor"),
        (b"ctorch._utils\n_rebuild_tensor\n)R", "(TypeError: "),
        (b"ctorch._utils\n_rebuild_tensor\n(NK\0))tR", "is damaged: a tensor without storage, shape or strides"),
        (b"ctorch._utils\n_rebuild_tensor\n(NNNNtR", "is damaged: a tensor without storage, shape or strides"),
        (b"h\1", "(KeyError: 1)"),
        (b"0", "(IndexError: "),
        (b"", "(IndexError: "),
        (b"t", "(IndexError: "),
        (b"Pname\n", "is damaged: a storage is not described as torch.save does it"),
        (b"\x8c\1\xff", "(UnicodeDecodeError: "),
        (b"\xff", "(ValueError: "),
    ],
    ids=range(23),
)
def test_broken_pickles(tmp_path, opcodes, told):
    assert told in refused(TorchFile().save_pickle(tmp_path / "a.pth", b"\x80\x02" + opcodes + b"."))


# --- short pickles that ask for much ---


def of(name: str) -> bytes:
    return malicious.text(name)


def each(count: int, write: Callable[[int], bytes]) -> bytes:
    return b"".join(write(number) for number in range(count))


def linked(link: str) -> bytes:
    """Sixty times a pair of what came before: in all 2^60."""
    return each(60, lambda i: b"q%c0" % i + {"tuple": b"h%ch%c\x86", "list": b"](h%ch%ce", "dict": DICT}[link] % (i, i))


DICT = b"}(" + of("a") + b"h%c" + of("b") + b"h%cu"
MODULE = b"cm\nM\n)\x81}(" + of("_parameters") + b"h\xf0" + of("_buffers") + b"h\xf0" + of("_modules")
PAIRED = MODULE + DICT + b"ub"
RING = MODULE.replace(b")\x81", b")\x81q\0") + b"}" + of("a") + b"h\0sub"
OBJECT = b"ca\nB\n)\x81"
EMPTY = b"}q\xf00"  # an empty dict in the memo
NAMES = b"}(" + each(2000, lambda i: of(f"k{i}") + b"N") + b"u"
PAIRS = b"](" + each(2000, lambda i: b"](" + of(f"k{i}") + b"Ne") + b"e"

# what is asked for → the pickle without protocol and STOP, and what the line says
LONG = {
    "a network in itself": (
        EMPTY + RING,
        "nest without end",
    ),
    "networks": (EMPTY + MODULE + b"h\xf0ub" + each(60, lambda i: b"q%c0" % i + PAIRED % (i, i)), "nest without end"),
    "a key": (b")" + linked("tuple") + b"q\xf00}h\xf0Ns", "a key of type tuple"),
    "lists": (b"]" + linked("list"), "holds no weights"),
    "dicts": (b"}" + linked("dict"), "holds no weights"),
    "a dict in itself": (b"}q\0" + of("model") + b"h\0s", "holds no weights"),
    "a list in itself": (b"]q\0h\0a", "holds no weights"),
    "deep lists": (b"]" * 50_000 + b"a" * 49_999, "holds no weights"),
    "deep tuples": (b")" + b"\x85" * 50_000, "holds no weights"),
    "deep objects": (b"}" + (b"q\0" + OBJECT + b"}" + of("a") + b"h\0sb") * 20_000, "holds no weights"),
    "deep marks": (b"(" * 50_000 + b"}", "holds no weights"),
    "many digits": (b"L" + b"9" * 1_000_000 + b"L\n}", "is cut short or damaged (ValueError: Exceeds the limit"),
    "numbers of one hash": (
        b"}(" + each(3000, lambda i: b"\x8a\x0a" + ((i + 2) * (2**61 - 1)).to_bytes(10, "little") + b"N") + b"u",
        "a key of type int",
    ),
    "one state again and again": (NAMES + b"q\0" + OBJECT + b"h\0b" * 2000, "gets its state many times"),
}
WIDE = {
    "a place in the memo": (b"}r\xff\xff\xff\xff", "holds no weights"),
    "bytes": (b"\x8e" + struct.pack("<Q", 2**62) + b"x", "is cut short or damaged"),
    "text": (b"\x8d" + struct.pack("<Q", 2**40) + b"x", "is cut short or damaged"),
    "a number": (b"\x8b" + struct.pack("<I", 2**31 - 1) + b"x", "is cut short or damaged"),
    "a frame": (b"\x95" + struct.pack("<Q", 2**60) + b"}", "holds no weights"),
    "long names": (of("m" * 100_000) + b"q\0" + b"h\0h\0\x93" * 1000, "a name of more than"),
    "one state for many objects": (NAMES + b"q\0](" + (OBJECT + b"h\0b") * 1000 + b"e", "holds no weights"),
    "one list for many dicts": (
        PAIRS + b"q\0](" + b"ccollections\nOrderedDict\nh\0\x85R" * 1000 + b"e",
        "holds no weights",
    ),
    "one list for many sets": (PAIRS + b"q\0](" + b"cbuiltins\nset\nh\0\x85R" * 10_000 + b"e", "holds no weights"),
    "one text for many bytes": (
        of("x" * 1_000_000) + b"q\0](" + (b"c_codecs\nencode\nh\0" + of("latin1") + b"\x86R") * 100 + b"e",
        "holds no weights",
    ),
}


@pytest.mark.parametrize("name", LONG)
def test_no_pickle_takes_long(tmp_path, name):
    pickle_, told = LONG[name]
    start = time.monotonic()
    assert told in refused(TorchFile().save_pickle(tmp_path / "a.pth", b"\x80\x02" + pickle_ + b"."))
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("name", WIDE)
def test_no_pickle_takes_memory(tmp_path, name):
    """Ten times the file, and some megabytes for the reader; what is asked for is a hundred megabytes at least."""
    pickle_, told = WIDE[name]
    path = TorchFile().save_pickle(tmp_path / "a.pth", b"\x80\x02" + pickle_ + b".")
    tracemalloc.start()
    assert told in refused(path)
    assert tracemalloc.get_traced_memory()[1] < 5e6 + 10 * path.stat().st_size
    tracemalloc.stop()
