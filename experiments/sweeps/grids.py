"""Combinations of options, as {name: value}: generators for a loop, a notebook or a sweep.

    for values in grid({"model": ["tiny", "thin"], "seed": range(3)}):
        main(["--config=dldl_v2_thin", *words(values), f"--workdir=runs/{title(values)}"])

A name is that of the command line, so there is one way to set an option.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

LONGEST = 120  # characters of a folder's name; file systems take 255


def grid(values: Mapping[str, Iterable]) -> Iterator[dict[str, Any]]:
    """Every combination, the last name's values changing fastest; of no names one combination, {}."""
    for one in itertools.product(*values.values()):
        yield dict(zip(values, one))


def repeats(times: int, first: int = 0) -> Iterator[dict[str, int]]:
    """The same again with other seeds."""
    return grid({"seed": range(first, first + times)})


def crossed(*parts: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every combination of the parts' own, as of hand-picked settings with repeats(5). Of equal names the last part's
    value holds."""
    for one in itertools.product(*parts):
        yield {name: value for values in one for name, value in values.items()}


def words(values: Mapping[str, Any]) -> list[str]:
    """What sets them on the command line."""
    return [f"--{name}={value}" for name, value in values.items()]


def title(values: Mapping[str, Any]) -> str:
    """A name for a folder: `model=tiny,image_size=32`; letters that a file system might refuse become dashes."""
    told = ",".join(
        f"{name}={value:g}" if type(value) is float else f"{name}={value}" for name, value in values.items()
    )
    return re.sub(r"[^\w.,=+-]+", "-", told)[:LONGEST]


def titles(many: Iterable[Mapping[str, Any]]) -> list[str]:
    """One for each, no two alike, in capitals or not."""
    found: list[str] = []
    for values in many:
        name, taken = title(values), {one.lower() for one in found}
        again = (f"{name}-{number}" for number in itertools.count(2))
        found.append(name if name.lower() not in taken else next(one for one in again if one.lower() not in taken))
    return found
