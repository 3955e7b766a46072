"""Pickles read as data: nothing that a pickle names is imported, and only the functions of a given table are called.

A pickle is a program for a small machine with a stack. Here is such a machine, in which a name (`os.system`) is a
`Global` that holds this text and no more, and an object of a foreign class is an `Instance` that holds what it was
given. Python's own Unpickler looks names up by importing them, calls methods of the objects that it fills, and lets a
short file ask for much memory.
"""

import dataclasses
import pickletools
import sys
from collections.abc import Callable, Mapping
from typing import BinaryIO

from agejax.convert.words import shown
from data_pipelines.errors import DataError

BROKEN = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError, RecursionError)
Calls = Mapping[str, Callable[..., object]]

RENAMED = (("__builtin__.", "builtins."), ("copy_reg.", "copyreg."), ("numpy._core.", "numpy.core."))
STANDARD = sys.stdlib_module_names - {"code"}  # a folder where people keep their networks
KNOWN_STANDARD = frozenset({"argparse.Namespace", "builtins.object", "optparse.Values", "types.SimpleNamespace"})
FILLING = ("__setstate__", "add", "append", "extend", "update")  # methods that an ordinary unpickler calls
LONGEST_NAME = 500  # characters
MOST_STATES = 8  # of an object
LARGEST_KEY = 2**60  # greater whole numbers may share a hash


@dataclasses.dataclass(frozen=True)
class Global:
    """The name of a class, a function or a value: never looked up."""

    name: str

    @classmethod
    def of(cls, module: str, name: str) -> "Global":
        """By the newest of its names: modules were renamed between versions of Python and NumPy."""
        if len(module) + len(name) > LONGEST_NAME:
            raise ValueError(f"a name of more than {LONGEST_NAME} characters")
        dotted = f"{module}.{name}"
        for old, new in RENAMED:
            dotted = new + dotted.removeprefix(old) if dotted.startswith(old) else dotted
        return cls(dotted)


class Inert:
    """What stands in for an object."""

    def build(self, state: object) -> None:
        """Takes the state that the pickle gives the object; here it is forgotten."""


@dataclasses.dataclass(eq=False)
class Instance(Inert):
    """An object of a foreign class: what the pickle says of it. Nothing is copied: its parts may be others' too."""

    name: str
    args: tuple = ()
    states: list[dict] = dataclasses.field(default_factory=list)
    items: dict = dataclasses.field(default_factory=dict)
    elements: list = dataclasses.field(default_factory=list)

    def build(self, state: object) -> None:
        """Keeps attributes: a dict, or a pair of dicts (the second for slots). Other states are forgotten."""
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
        for attributes in (part for part in parts if isinstance(part, dict)):
            for method in FILLING:
                if isinstance(attributes.get(method), Global):
                    raise refusal(f"call {attributes[method].name} as {self.name}.{method}")
            self.states.append(attributes)
        if len(self.states) > MOST_STATES:
            raise ValueError("an object that gets its state many times")

    def attribute(self, name: str) -> object:
        """None where it has none of that name."""
        return next((state[name] for state in reversed(self.states) if name in state), None)

    def attributes(self) -> dict:
        return {key: value for state in self.states for key, value in state.items()}


def refusal(deed: str) -> DataError:
    """What the pickle wants done."""
    return DataError(
        f"would {shown(deed)}: refused, nothing was run; "
        "if you trust the file, load it with PyTorch and save the network's state_dict()"
    )


def load(file: BinaryIO, calls: Calls, persistent: Callable[[object], object]) -> object:
    """The object of one pickle, read from where `file` stands, which is left behind the pickle.

    calls: dotted name → what is called in its place; persistent: what stands for a persistent id. Raises DataError,
    whose text wants the file's name before it, where the pickle wants anything else called, and one of BROKEN where it
    is broken. Sets become lists, frozen sets tuples: nothing of theirs is hashed.
    """
    machine = _Machine(calls, persistent)
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "STOP":
            break
        if opcode.name not in OPCODES:
            raise DataError(f"uses the pickle opcode {opcode.name}: refused, nothing was run")
        OPCODES[opcode.name](machine, argument)
    return machine.stack.pop()


def put(mapping: dict, name: object, value: object) -> None:
    """mapping[name] = value, for keys that are hashed at once: nested tuples and chosen numbers can take for ever."""
    for part in name if isinstance(name, tuple) else (name,):
        if not isinstance(part, KEYS) or (isinstance(part, int) and abs(part) > LARGEST_KEY):
            raise ValueError(f"a key of type {type(part).__name__}")
    mapping[name] = value


KEYS = (str, bytes, int, float, type(None), Global, Inert)


class _Machine:
    """The stack, the stacks below marks, and the memo."""

    def __init__(self, calls: Calls, persistent: Callable[[object], object]):
        self.calls, self.persistent = calls, persistent
        self.stack, self.below, self.memo = [], [], {}

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self, kind: type = object):
        return _is(kind, self.stack.pop())

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list:
        found, self.stack = self.stack, self.below.pop()
        return found

    def pop_or_mark(self) -> None:
        self.stack.pop() if self.stack else self.since_mark()

    def pack(self, count: int) -> None:
        self.push(tuple([self.stack.pop() for _ in range(count)][::-1]))

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def call(self, args: tuple, function: object) -> None:
        """Runs a function of the table, refuses any other."""
        if not isinstance(function, Global):
            raise refusal(f"call an object of type {type(function).__name__}")
        if function.name not in self.calls:
            raise refusal(f"call {function.name}")
        self.push(self.calls[function.name](*args))

    def call_since_mark(self) -> None:
        function, *args = self.since_mark()
        self.call(tuple(args), function)

    def make(self, args: tuple, kind: object) -> None:
        """An object of a class, which may be of any name; of the standard library few have a place beside a network."""
        if not isinstance(kind, Global):
            raise refusal(f"make an object of type {type(kind).__name__}")
        if kind.name.split(".")[0] in STANDARD and kind.name not in KNOWN_STANDARD:
            raise refusal(f"make a {kind.name}")
        self.push(Instance(kind.name, args))

    def make_dict(self) -> None:
        pairs = self.since_mark()
        self.push({})
        self.set_items(pairs)

    def make_with_names(self) -> None:
        self.pop(dict)
        self.make(self.pop(tuple), self.pop())

    def build(self) -> None:
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, Global):
            raise refusal(f"change {target.name}")
        if isinstance(target, Inert):
            target.build(state)
        else:
            _is(dict, target)  # a state dict has attributes of its own: the versions of its layers

    def extend(self, values: list) -> None:
        target = self.stack[-1]
        (target.elements if isinstance(target, Instance) else _is(list, target)).extend(values)

    def set_items(self, pairs: list) -> None:
        target = self.stack[-1]
        mapping = target.items if isinstance(target, Instance) else _is(dict, target)
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            put(mapping, key, value)


def _is(kind: type, value: object):
    if not isinstance(value, kind):
        raise ValueError(f"an object of type {type(value).__name__} where a {kind.__name__} is wanted")
    return value


PLAIN = (
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8"
)
OPCODES: dict[str, Callable[[_Machine, object], object]] = {
    **{name: lambda machine, value: machine.push(value) for name in PLAIN.split()},
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_SET": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "MARK": lambda machine, _: machine.mark(),
    "POP_MARK": lambda machine, _: machine.since_mark(),
    "POP": lambda machine, _: machine.pop_or_mark(),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "TUPLE1": lambda machine, _: machine.pack(1),
    "TUPLE2": lambda machine, _: machine.pack(2),
    "TUPLE3": lambda machine, _: machine.pack(3),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "FROZENSET": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "LIST": lambda machine, _: machine.push(machine.since_mark()),
    "DICT": lambda machine, _: machine.make_dict(),
    "APPEND": lambda machine, _: machine.extend([machine.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    **{name: lambda machine, index: machine.remember(index) for name in ("PUT", "BINPUT", "LONG_BINPUT")},
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    **{name: lambda machine, index: machine.push(machine.memo[index]) for name in ("GET", "BINGET", "LONG_BINGET")},
    "GLOBAL": lambda machine, words: machine.push(Global.of(*words.split(" ", 1))),
    "STACK_GLOBAL": lambda machine, _: machine.push(Global.of(*[machine.pop(str), machine.pop(str)][::-1])),
    "PERSID": lambda machine, name: machine.push(machine.persistent(name)),
    "BINPERSID": lambda machine, _: machine.push(machine.persistent(machine.pop())),
    "REDUCE": lambda machine, _: machine.call(machine.pop(tuple), machine.pop()),
    "INST": lambda machine, words: machine.call(tuple(machine.since_mark()), Global.of(*words.split(" ", 1))),
    "OBJ": lambda machine, _: machine.call_since_mark(),
    "NEWOBJ": lambda machine, _: machine.make(machine.pop(tuple), machine.pop()),
    "NEWOBJ_EX": lambda machine, _: machine.make_with_names(),
    "BUILD": lambda machine, _: machine.build(),
}
