"""A network that was pickled whole: its layers, in the order and with the names that its state_dict() would have."""

import dataclasses
from collections.abc import Iterator

from agejax.convert.formats.pytorch.storages import Array
from agejax.convert.formats.pytorch.unpickler import Instance
from agejax.convert.words import shown
from data_pipelines.errors import DataError

MOST_LEVELS, MOST_PARTS, LONGEST_NAME = 64, 100_000, 200  # of a network; beyond them it is a knot
PLAIN = (bool, int, float, str)
MOST_NUMBERS = 16  # in a tuple of options
TABLES = ("_modules", "_parameters", "_buffers")


@dataclasses.dataclass(frozen=True)
class Layer:
    """A module of the network, without those inside it."""

    name: str
    kind: str
    arrays: dict[str, Array]
    options: dict[str, object]
    children: dict[str, Instance]


def is_network(value: object) -> bool:
    return isinstance(value, Instance) and all(isinstance(value.attribute(name), dict) for name in TABLES)


def layers(network: Instance) -> Iterator[Layer]:
    """All modules, containers among them, each before those inside it. Raises DataError where they nest without end."""
    read, waiting, left = {}, [("", network, 0)], MOST_PARTS
    while waiting:
        name, module, level = waiting.pop()
        if id(module) not in read:
            read[id(module)] = _read(module)
        layer = read[id(module)]
        left -= 1 + len(layer.arrays) + len(layer.children)
        if left < 0 or level > MOST_LEVELS:
            raise DataError(f"is damaged: layers nest without end, as in {shown(name)}")
        yield dataclasses.replace(layer, name=name)
        inner = [(f"{name}.{key}".lstrip("."), child, level + 1) for key, child in layer.children.items()]
        waiting.extend(reversed(inner))


def _read(module: Instance) -> Layer:
    attributes = module.attributes()
    children = {_name(key): child for key, child in attributes["_modules"].items() if child is not None}
    if not all(is_network(child) for child in children.values()):
        raise DataError(f"has something else than layers in a {shown(module.name)}")
    passing = attributes.get("_non_persistent_buffers_set") or ()
    buffers = {key: value for key, value in attributes["_buffers"].items() if key not in passing}
    arrays = {_name(key): value for key, value in (attributes["_parameters"] | buffers).items() if value is not None}
    if not all(isinstance(value, Array) for value in arrays.values()):
        raise DataError(f"has something else than tensors in a {shown(module.name)}")
    return Layer("", module.name.rpartition(".")[2], arrays, _options(attributes), children)


def _options(attributes: dict) -> dict[str, object]:
    """Public attributes that are plain, or a few plain values: kernel_size, eps …"""
    public = {key: value for key, value in attributes.items() if isinstance(key, str) and not key.startswith("_")}
    plain = {key: value for key, value in public.items() if _is_plain(value)}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return len(value) <= MOST_NUMBERS and all(isinstance(part, PLAIN) for part in value)
    return isinstance(value, PLAIN)


def _name(key: object) -> str:
    if not isinstance(key, str) or not key.isprintable() or len(key) > LONGEST_NAME:
        raise DataError("is damaged: a layer or a tensor has an impossible name")
    return key
