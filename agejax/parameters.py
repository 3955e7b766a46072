"""Parameter trees by path: counting, naming parameters by pattern, moving parts from one network to another.

A path is the names from the root joined by "/": `trunk/block1_1/conv/kernel`, `head/bias`.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from data_pipelines.errors import UserError

Tree = Any  # nested dict of arrays


def is_trainable(pattern: str, path: str) -> bool:
    """Whether the regular expression is found in the path; the empty pattern is found in every path.

    The one rule by which options name parameters: those that are trained, that decay, that learn at another rate.
    """
    return re.search(pattern, path) is not None


def first_match(params: Tree, choices: Sequence[tuple[str, Any]], otherwise: Any, option: str) -> Tree:
    """The same tree with the value of the first (pattern, value) whose pattern is found in the parameter's path.

    Raises UserError, naming the option, for a pattern that is found in no path or is no regular expression.
    """
    paths = list(flatten(params))
    for pattern, _ in choices:
        try:
            found = any(is_trainable(pattern, path) for path in paths)
        except re.error as error:
            raise UserError(f"{option}={pattern!r} is not a regular expression: {error}") from None
        if not found:
            raise UserError(f"{option}={pattern!r} matches no parameter; paths look like {paths[0]!r}")
    values = {
        path: next((value for pattern, value in choices if is_trainable(pattern, path)), otherwise) for path in paths
    }
    return traverse_util.unflatten_dict(values, sep="/")


def mask(params: Tree, pattern: str, option: str) -> Tree:
    """The same tree with True where the pattern is found in the path. Raises UserError where it never is."""
    return first_match(params, [(pattern, True)], False, option)


def flatten(tree: Tree) -> dict[str, Any]:
    return traverse_util.flatten_dict(tree, sep="/")


def count(params: Tree) -> int:
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))


def difference(target: Tree, source: Tree, part: str) -> str:
    """The first name or shape under `part` ("" = all) in which two trees differ, in words; "" where there is none."""
    wanted, given = (
        {path: x.shape for path, x in flatten(tree).items() if path.startswith(part)} for tree in (target, source)
    )
    for path in sorted(wanted.keys() | given.keys()):
        if path not in given:
            return f"{path} is not there"
        if path not in wanted:
            return f"{path} is there and not in this run"
        if given[path] != wanted[path]:
            return f"{path} is {given[path]} there and {wanted[path]} in this run"
    return ""


def transfer(target: Tree, source: Tree, part: str) -> Tree:
    """`target` with the arrays under `part` ("" = all) taken from `source`, where `difference` must be ""."""
    taken = {path: array for path, array in flatten(source).items() if path.startswith(part)}
    return traverse_util.unflatten_dict(flatten(target) | taken, sep="/")
