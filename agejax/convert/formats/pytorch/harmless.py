"""All that a pickle may call, and what is called in its place: CALLS. Whatever is not there is refused.

Besides tensors, checkpoints hold containers, options, dates and states of random generators. Containers become dicts
and lists; the others become Instances that nobody looks into. Nothing is copied: a short pickle could ask for it often.
"""

from collections.abc import Callable

from agejax.convert.formats.pytorch.storages import TENSOR_CALLS
from agejax.convert.formats.pytorch.unpickler import Calls, Instance, put, refusal

PLACEHOLDERS = (
    "builtins.bytearray", "builtins.bytes", "builtins.complex", "builtins.range", "builtins.slice", "builtins.xrange",
    "datetime.date", "datetime.datetime", "datetime.time", "datetime.timedelta", "datetime.timezone",
    "pathlib.Path", "pathlib.PosixPath", "pathlib.PurePath", "pathlib.PurePosixPath", "pathlib.PureWindowsPath",
    "pathlib.WindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath",
    "numpy.core.multiarray._reconstruct", "numpy.core.multiarray.scalar", "numpy.dtype",
    "numpy.random._pickle.__bit_generator_ctor", "numpy.random._pickle.__generator_ctor",
    "numpy.random._pickle.__randomstate_ctor", "numpy.random.bit_generator.__pyx_unpickle_SeedSequence",
    "torch.device", "torch.nn.backends.thnn._get_thnn_function_backend", "torch.serialization._get_layout",
    "torchvision.transforms.functional.InterpolationMode",
)  # fmt: skip


def _placeholder(name: str) -> Callable[..., Instance]:
    return lambda *args: Instance(name, args)


def _ordered_dict(*args: list) -> dict:
    """Python 2 gives a list of pairs. It is used up here: a short pickle could ask for many dicts of one long list."""
    found = {}
    for pairs in args:
        for key, value in pairs:
            put(found, key, value)
        pairs.clear()
    return found


def _given(kind: type) -> Callable[..., object]:
    """The first argument of a kind, or an empty one: of defaultdict(factory), Counter(counts), set(values) …"""
    return lambda *args: next((arg for arg in args if isinstance(arg, kind)), kind())


def _text(text: str = "", codec: str = "utf-8") -> str:
    """Protocol 2 writes bytes as the text of the same codes; so it stays."""
    if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
        raise refusal(f"call _codecs.encode with {codec}")
    return text


CALLS: Calls = {
    **{name: _placeholder(name) for name in PLACEHOLDERS},
    **TENSOR_CALLS,
    "_codecs.encode": _text,
    "builtins.dict": _given(dict),
    "builtins.frozenset": _given(list),
    "builtins.list": _given(list),
    "builtins.set": _given(list),
    "collections.Counter": _given(dict),
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": _given(dict),
    "collections.deque": _given(list),
    "torch.Size": _given(tuple),
}
