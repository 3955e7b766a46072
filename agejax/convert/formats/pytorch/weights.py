"""Where the weights are in what a pickle held: a state dict, a checkpoint with one in it, or a whole network."""

import dataclasses

from agejax.convert.formats.pytorch.networks import Layer, is_network, layers
from agejax.convert.formats.pytorch.storages import Array
from agejax.convert.formats.pytorch.unpickler import Instance
from agejax.convert.words import listed, shown
from data_pipelines.errors import DataError

USUAL = {
    "ema", "ema_state_dict", "model", "model_ema", "model_state", "model_state_dict", "model_weights", "module", "net",
    "net_state_dict", "network", "params", "params_ema", "state_dict", "state_dict_ema", "weights",
}  # fmt: skip
DEEPEST = 4  # dicts in dicts that are looked through
WRAPPERS = {"module.": "DataParallel", "_orig_mod.": "torch.compile"}
COUNTERS = frozenset({"n_averaged"})  # beside the module in an AveragedModel

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Weights:
    """What was found: a network's arrays by name, its layers where the file has them, and remarks of one line."""

    arrays: dict[str, Array]
    layers: tuple[Layer, ...] = ()
    notes: tuple[str, ...] = ()


def find_weights(root: object, entry: str | None = None) -> Weights:
    """The only network that a file holds, or the one under `entry` ("ema", "callbacks.ema").

    Of dicts in dicts the outermost count. Raises DataError, whose text wants the file's name before it, when there is
    no network, or when there are several and not just one has a usual name (state_dict, model …).
    """
    path, value = _chosen(root) if entry is None else _under(root, tuple(entry.split(".")))
    found = _of_network(value) if is_network(value) else _of_state_dict(value)
    return _unwrapped(dataclasses.replace(found, notes=(*_beside(root, path), *found.notes)))


def _chosen(root: object) -> tuple[Path, object]:
    found = _candidates(root)
    usual = {path: value for path, value in found.items() if path and path[-1] in USUAL}
    found = usual if len(usual) == 1 else found
    if not found:
        raise DataError(f"holds no weights of a network: {_contents(root)}")
    if len(found) > 1:
        names = listed(".".join(path) for path in found)
        raise DataError(f"holds several networks ({names}): name one as entry; {_contents(root)}")
    return next(iter(found.items()))


def _under(root: object, path: Path) -> tuple[Path, object]:
    value = root
    for key in path:
        value = _entries(value).get(key)
    if not (is_network(value) or _arrays(value)):
        raise DataError(f"holds no weights of a network under {shown('.'.join(path))}: {_contents(root)}")
    return path, value


def _candidates(root: object) -> dict[Path, object]:
    """Networks and state dicts of the outermost level that has any."""
    level, seen = {(): root}, set()
    for _ in range(DEEPEST):
        found = {path: value for path, value in level.items() if is_network(value) or _is_state_dict(value)}
        if found:
            return found
        inner = {}
        for path, value in level.items():
            for key, child in {} if "param_groups" in _entries(value) else _entries(value).items():
                if isinstance(key, str) and isinstance(child, dict | Instance) and id(child) not in seen:
                    seen.add(id(child))
                    inner[*path, key] = child
        level = inner
    return {(): root} if _arrays(root) else {}


def _entries(value: object) -> dict:
    """Of a dict, or of an object that is one or has attributes."""
    if isinstance(value, Instance):
        return value.items or value.attributes()
    return value if isinstance(value, dict) else {}


def _arrays(value: object) -> dict[str, Array]:
    found = {name: array for name, array in _entries(value).items() if isinstance(array, Array)}
    return {name: array for name, array in found.items() if isinstance(name, str)}


def _is_state_dict(value: object) -> bool:
    """Beside a checkpoint's state dict there may be tensors too (the best score): names with dots tell them apart."""
    inner = any(isinstance(child, dict | Instance) for child in _entries(value).values())
    arrays = _arrays(value)
    return bool(arrays) and (not inner or any("." in name for name in arrays))


def _of_network(network: Instance) -> Weights:
    found = tuple(layers(network))
    arrays = {f"{layer.name}.{role}".lstrip("."): array for layer in found for role, array in layer.arrays.items()}
    if not arrays:
        raise DataError(f"holds no weights of a network: its {shown(found[0].kind)} has no tensors")
    note = (
        f"a network saved whole, of class {shown(network.name)}: only its layers were read, not what it does with them"
    )
    return Weights(arrays, tuple(layer for layer in found if layer.arrays or not layer.children), (note,))


def _of_state_dict(value: object) -> Weights:
    arrays = _arrays(value)
    if not all(name.isprintable() for name in arrays):
        raise DataError("is damaged: a tensor's name has characters that cannot be printed")
    others = [name for name in _entries(value) if name not in arrays]
    return Weights(arrays, notes=(f"left out, no tensors: {listed(others)}",) if others else ())


def _beside(root: object, path: Path) -> tuple[str, ...]:
    """Where the weights were, and what else the outermost dict holds."""
    others = [key for key in _entries(root) if key != path[0]] if path else []
    return (f"taken from {shown('.'.join(path))}; left out: {listed(others) or 'nothing'}",) if path else ()


def _unwrapped(weights: Weights) -> Weights:
    """Without what a wrapper puts before all names."""
    for prefix, wrapper in WRAPPERS.items():
        names = [name for name in weights.arrays if name not in COUNTERS]
        if names and all(name.startswith(prefix) for name in names):
            arrays = {name.removeprefix(prefix): weights.arrays[name] for name in names}
            inner = tuple(_renamed(layer, prefix) for layer in weights.layers if f"{layer.name}.".startswith(prefix))
            note = f"{prefix} taken off the names of all tensors ({wrapper})"
            return _unwrapped(Weights(arrays, inner, (*weights.notes, note)))
    return weights


def _renamed(layer: Layer, prefix: str) -> Layer:
    return dataclasses.replace(layer, name=f"{layer.name}.".removeprefix(prefix).removesuffix("."))


def _contents(root: object) -> str:
    keys = list(_entries(root))
    kind = root.name if isinstance(root, Instance) else type(root).__name__
    return f"its keys are {listed(keys)}" if keys else f"it is of type {shown(kind)}"
