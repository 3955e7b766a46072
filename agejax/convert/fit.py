"""Whether a file's arrays are those of a network: every one in its place, or a list of what is wrong."""

import dataclasses
import functools
import re

import numpy as np

from agejax.convert.layout import ROLES, their_shape, to_ours
from agejax.convert.names import CONVENTIONS, Convention
from agejax.convert.source import Source
from agejax.models.heads import linear
from agejax.models.network import make_network, variable_shapes
from agejax.parameters import flatten

SHOWN = 3  # names of each kind in a message


@dataclasses.dataclass(frozen=True)
class Fit:
    """How a file lies over a network."""

    backbone: object
    """With the options that the file decides."""
    convention: str
    outputs: int
    """Of the last layer."""
    places: dict[str, tuple[str, str]]
    """Path in our variables, as params/trunk/stem/conv/kernel → (name in the file, our unit)."""
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    """Arrays of another shape, with both."""
    left_out: tuple[str, ...] = ()

    @property
    def faults(self) -> int:
        return len(self.missing) + len(self.extra) + len(self.unlike)

    def reproach(self) -> str:
        """`missing 2: a, b; extra 1: c`; "" for none."""
        lists = (("missing", self.missing), ("extra", self.extra), ("of another shape", self.unlike))
        return "; ".join(
            f"{what} {len(names)}: {', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''}"
            for what, names in lists
            if names
        )


def best_fit(source: Source, backbone, settle: bool = True) -> Fit:
    """The fit of the convention with the fewest faults; settle=False: the file has no say in the backbone's options."""
    conventions = CONVENTIONS[type(backbone)]
    fits = (_fit(source, backbone, name, conventions[name], settle) for name in conventions)
    return min(fits, key=lambda fit: fit.faults)


def arrays_of(source: Source, convention: str) -> dict[str, np.ndarray]:
    """The arrays that a convention names: those of the layers, one by one, or those that the file names."""
    if convention == "sequence":
        return {f"{module.name}.{role}": a for module in source.modules for role, a in module.tensors.items()}
    return source.tensors


def units_of(shapes: dict[str, tuple]) -> dict[str, dict[str, str]]:
    """{unit: {leaf: path}}, the head last."""
    units: dict[str, dict[str, str]] = {}
    for path in sorted(shapes):
        unit, _, leaf = path.partition("/")[2].rpartition("/")
        units.setdefault(unit, {})[leaf] = path
    return {unit: units[unit] for unit in sorted(units, key=lambda unit: (unit == "head", unit))}


@functools.lru_cache(maxsize=64)
def shapes_of(backbone, outputs: int) -> dict[str, tuple]:
    """{path: shape} of a network's variables with a linear head."""
    # the arrays do not depend on the size of the image
    shapes = variable_shapes(make_network(backbone, linear(outputs)), backbone.min_image_size)
    return {path: x.shape for path, x in flatten(shapes).items()}


def _fit(source: Source, backbone, name: str, convention: Convention, settle: bool) -> Fit:
    arrays = arrays_of(source, name)
    backbone = convention.settle(backbone, dataclasses.replace(source, tensors=arrays)) if settle else backbone
    names = convention.names(backbone, list(units_of(shapes_of(backbone, 1))), source)
    last = arrays.get(f"{names.get('head')}.weight")
    outputs = len(last) if last is not None and last.ndim > 1 else 1
    shapes = shapes_of(backbone, outputs)
    wanted = {
        path: (f"{names.get(unit, unit)}.{ROLES[leaf]}", unit, leaf)
        for unit, leaves in units_of(shapes).items()
        for leaf, path in leaves.items()
    }
    given, spare = {theirs for theirs, _, _ in wanted.values()}, arrays.keys()
    unlike = tuple(
        f"{theirs} {_times(arrays[theirs].shape)} and not {_times(their_shape(unit, leaf, shapes[path]))}"
        for path, (theirs, unit, leaf) in wanted.items()
        if theirs in arrays and to_ours(_blank(arrays[theirs]), unit, leaf, shapes[path]) is None
    )  # fmt: skip
    return Fit(
        backbone, name, outputs, {path: (theirs, unit) for path, (theirs, unit, _) in wanted.items()},
        missing=tuple(theirs for theirs, _, _ in wanted.values() if theirs not in arrays),
        extra=tuple(theirs for theirs in spare if theirs not in given and not re.search(convention.leaves_out, theirs)),
        unlike=unlike,
        left_out=tuple(theirs for theirs in spare if theirs not in given and re.search(convention.leaves_out, theirs)),
    )  # fmt: skip


def _blank(array: np.ndarray) -> np.ndarray:
    """Zeros of that shape that take no memory."""
    return np.broadcast_to(np.float32(0), array.shape)


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a number"
