"""Parameter trees by path: counting, the one freezing rule, moving a trunk from one network to another.

A path is the names from the root joined by "/": `trunk/block1_1/conv/kernel`, `head/bias`.
"""

import re
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from data_pipelines.errors import UserError

Tree = Any  # nested dict of arrays


def is_trainable(pattern: str, path: str) -> bool:
    """Whether the regular expression is found in the path; the empty pattern is found in every path."""
    return re.search(pattern, path) is not None


def trainable_mask(params: Tree, pattern: str) -> Tree:
    """The same tree with True where a parameter is trained. Raises UserError when nothing would be."""
    mask = {path: is_trainable(pattern, path) for path in flatten(params)}
    if not any(mask.values()):
        raise UserError(f"trainable={pattern!r} matches no parameter; paths look like {next(iter(mask))!r}")
    return traverse_util.unflatten_dict(mask, sep="/")


def flatten(tree: Tree) -> dict[str, Any]:
    return traverse_util.flatten_dict(tree, sep="/")


def count(params: Tree) -> int:
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))


def transfer(target: Tree, source: Tree, part: str, origin: str) -> Tree:
    """`target` with the arrays under `part` ("" = all) taken from `source`. UserError where names or shapes differ."""
    wanted, given = flatten(target), flatten(source)
    taken = {path: given.get(path) for path in wanted if path.startswith(part)}
    for path, array in taken.items():
        if array is None:
            raise UserError(f"{origin} has no {path}: it was trained with another network")
        if array.shape != wanted[path].shape:
            raise UserError(
                f"{origin} has another shape: {path} is {array.shape} there and {wanted[path].shape} in this run; "
                "choose the model options it was trained with"
            )
    return traverse_util.unflatten_dict(wanted | taken, sep="/")
