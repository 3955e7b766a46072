"""Torch7 files (.t7): the layers of the network that one holds, in order of use, and their arrays.

Layers are named by their 1-based positions, as Lua counts: 47/weight, or 49/2 for the second branch of the 49th.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from agejax.convert.formats.torch7.objects import Object, Storage, Tensor, load
from agejax.convert.source import Module, Source
from agejax.convert.words import listed, shown
from data_pipelines.errors import DataError

PACKAGES = ("nn", "cudnn", "inn", "cunn")
USUAL_NAMES = ("model", "net", "network")  # in a table that holds several networks, the first of these is read
LAYERS, LEVELS = 20_000, 100
NORM = ("weight", "bias", "running_mean", "running_var", "running_std")
ROLES = {
    "SpatialConvolution": ("weight", "bias"),
    "SpatialConvolutionMM": ("weight", "bias"),
    "Linear": ("weight", "bias"),
    "BatchNormalization": NORM,
    "SpatialBatchNormalization": NORM,
}
BUFFERS = {  # of other classes: what a forward or backward pass leaves behind; so are names that begin with grad or _
    *("output", "finput", "fgradInput", "input_slice", "output_slice", "addBuffer", "scaleT", "indices", "noise"),
    *("save_mean", "save_std", "buffer", "buffer2", "centered", "std", "normalized"),
}
REPLICAS = ("DataParallel", "DataParallelTable")  # their children are copies of one network
IN_LINE = ("Sequential", *REPLICAS)  # containers whose children follow one another
ABSENT = {  # what a class does where the file, older than the option, does not name it
    "nn.SpatialAveragePooling": {"divide": False},  # adds up
    "cudnn.SpatialAveragePooling": {"divide": True},
    "nn.Dropout": {"v2": False},  # scales in evaluation
}


def read_t7(path: str | Path) -> Source:
    """The network of a file that `torch.save` wrote, binary or ASCII, alone or in a table beside other things; where it
    holds no network, the arrays of its tables.

    Convolution kernels become (out, in / groups, kH, kW) however they were kept; an old layer's running_std, which is
    1 / sqrt(var + eps), becomes running_var. Gradients, outputs and buffers are left out; an absent or empty bias is no
    role. Arrays may share memory, as in the file. Raises DataError, one line, for a file that is broken, is something
    else, or holds neither.
    """
    try:
        root, form, notes = load(path)
        found = _networks(root)
        if not found:
            return Source(form, _arrays(root), (), (*notes, "no network in it, only tables of arrays"))
        place, network = _chosen(found)
        modules, more = _layers(network)
    except (OSError, DataError) as error:
        raise DataError(f"{path}: {error.strerror if isinstance(error, OSError) else error}") from None
    notes += (f"the network is the entry {shown('/'.join(place))}",) * bool(place)
    tensors = {f"{module.name}/{role}": array for module in modules for role, array in module.tensors.items()}
    return Source(form, tensors, modules, notes + more)


def _kind(layer: Object) -> str:
    return layer.name.rpartition(".")[2]


def _networks(root: object) -> dict[tuple[str, ...], Object]:
    """Where, up to three levels down, objects are that can be networks; each once, those nearest to the top first."""
    found, seen, level = {}, set(), [((), root)]
    for _ in range(4):
        below = []
        for place, value in level:
            if id(value) in seen or not isinstance(value, (Object, dict)) or _is_criterion(value):
                continue
            seen.add(id(value))
            if isinstance(value, Object) and _is_network(value):
                found[place] = value
                continue
            entries = value.fields if isinstance(value, Object) else value
            below += [((*place, str(key)), entry) for key, entry in entries.items()]
        level = below
    return found


def _is_criterion(value: object) -> bool:
    return isinstance(value, Object) and value.name.endswith("Criterion")


def _is_network(value: Object) -> bool:
    return value.name.partition(".")[0] in PACKAGES or isinstance(value.fields.get("modules"), dict)


def _chosen(found: dict[tuple[str, ...], Object]) -> tuple[tuple[str, ...], Object]:
    usual = [place for name in USUAL_NAMES for place in found if place[-1:] == (name,)]
    if len(found) > 1 and not usual:
        raise DataError(f"several networks in it, {listed(map('/'.join, found))}: save the one that is wanted alone")
    place = usual[0] if usual else next(iter(found))
    return place, found[place]


def _layers(network: Object) -> tuple[tuple[Module, ...], tuple[str, ...]]:
    """Depth first; a container is listed itself only where it has arrays or no children."""
    modules, notes, open_, visits = [], [], [((), network)], 0
    while open_:
        path, layer = open_.pop()
        visits += 1
        if visits > LAYERS or len(path) > LEVELS:
            raise DataError(f"more than {LAYERS:,} layers or {LEVELS} levels of containers, or a container in itself")
        name = "/".join(map(str, path)) or "1"
        children = _children(layer, path, name)
        module = _module(layer, name)
        if module.tensors or not children:
            modules.append(module)
        if children:
            notes += _container_note(layer, name if path else "the network", len(children))
        open_ += reversed(children)
    return tuple(modules), tuple(notes)


def _children(layer: Object, path: tuple[int, ...], name: str) -> list[tuple[tuple[int, ...], Object]]:
    entries = layer.fields.get("modules")
    if not isinstance(entries, dict) and isinstance(layer.fields.get("forwardnodes"), dict):
        entries = _of_nodes(layer.fields["forwardnodes"])  # an old graph
    if not isinstance(entries, dict):
        return []
    ordered = [entries[i] for i in range(1, len(entries) + 1) if i in entries]
    if len(ordered) < len(entries) or not all(isinstance(entry, Object) for entry in ordered):
        raise DataError(f"what {name}, {shown(layer.name)}, contains is not a list of layers")
    if _kind(layer) in REPLICAS:
        return [(path, entry) for entry in ordered[:1]]
    return [((*path, i), entry) for i, entry in enumerate(ordered, 1)]


def _of_nodes(nodes: dict) -> dict[int, object]:
    ordered = [nodes[i] for i in range(1, len(nodes) + 1) if isinstance(nodes.get(i), Object)]
    data = [node.fields.get("data") for node in ordered]
    layers = [entry["module"] for entry in data if isinstance(entry, dict) and "module" in entry]
    return dict(enumerate(layers, 1))


def _container_note(layer: Object, name: str, children: int) -> list[str]:
    kind = _kind(layer)
    if kind in REPLICAS:
        return [f"{name} is a {kind}: its first replica is read"]
    if kind == "gModule":
        return [f"{name} is a graph: its layers are listed in the order of the file, without its connections"]
    in_line = kind in IN_LINE or children < 2
    return [] if in_line else [f"{name} is a {kind}: its branches are listed one after another"]


def _module(layer: Object, name: str) -> Module:
    kind, options = _kind(layer), dict(_options(layer))
    tensors = {role: layer.fields[role].array for role in _roles(layer)}
    if kind in PREPARED:
        tensors = PREPARED[kind](tensors, options, f"layer {name}, {kind}")
    return Module(kind, name, tensors, options)


def _roles(layer: Object) -> Iterator[str]:
    fields, kind = layer.fields, _kind(layer)
    others = [name for name in map(str, fields) if not name.startswith(("grad", "_")) and name not in BUFFERS]
    for role in ROLES.get(kind, others):
        if isinstance(fields.get(role), Tensor) and not fields[role].empty:
            yield role


def _options(layer: Object) -> Iterator[tuple[str, object]]:
    yield from ABSENT.get(layer.name, {}).items()
    for name, value in layer.fields.items():
        if isinstance(value, (bool, int, float, str)) and not str(name).startswith("_"):
            yield str(name), value
        elif isinstance(value, Storage) and value.dtype == np.int64 and value.count <= 16:
            yield str(name), tuple(value.array.tolist())  # the sizes of a View
    if isinstance(padding := layer.fields.get("padding"), int):  # of old convolutions
        yield from (("padW", padding), ("padH", padding))


def _kernel(tensors: dict[str, np.ndarray], options: dict[str, object], name: str) -> dict[str, np.ndarray]:
    """4-D, whatever shape an older class kept it in: its elements always lie in this order."""
    sizes = [options.get(key, 1) for key in ("nOutputPlane", "nInputPlane", "groups", "kH", "kW")]
    if "weight" not in tensors or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise DataError(f"{name}: no weight, or no whole numbers for its sizes: {sizes}"[:300])
    out, into, groups, height, width = sizes
    shape, weight = (out, into // groups, height, width), tensors["weight"]
    if weight.size != math.prod(shape):
        raise DataError(f"{name}: a weight of shape {weight.shape} where {shape} is announced")
    return {**tensors, "weight": weight.reshape(shape)}


def _variance(tensors: dict[str, np.ndarray], options: dict[str, object], name: str) -> dict[str, np.ndarray]:
    tensors = dict(tensors)
    inverse, epsilon = tensors.pop("running_std", None), options.get("eps", 1e-5)
    if not isinstance(epsilon, (int, float)):
        raise DataError(f"{name}: eps is not a number")
    if inverse is not None and "running_var" not in tensors:
        with np.errstate(all="ignore"):
            variance = inverse.astype(np.float64) ** -2 - epsilon
        tensors["running_var"] = variance.astype(inverse.dtype)
    return tensors


Prepare = Callable[[dict[str, np.ndarray], dict[str, object], str], dict[str, np.ndarray]]
PREPARED: dict[str, Prepare] = {
    "SpatialConvolution": _kernel,
    "SpatialConvolutionMM": _kernel,
    "BatchNormalization": _variance,
    "SpatialBatchNormalization": _variance,
}


def _arrays(root: object) -> dict[str, np.ndarray]:
    """Of a table of arrays, or of tables of them: a/b."""
    arrays, seen, open_ = {}, set(), [((), root)]
    while open_:
        place, value = open_.pop()
        if isinstance(value, Tensor) and place and not value.empty:
            arrays["/".join(place)] = value.array
        if isinstance(value, dict) and id(value) not in seen:
            seen.add(id(value))
            open_ += [((*place, str(key)), entry) for key, entry in reversed(value.items())]
    if not arrays:
        raise DataError("neither a network nor a table of arrays in it")
    return arrays
