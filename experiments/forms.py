"""Values of options that are written as one word: lists of numbers, learning rates by pattern, input recipes."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from agejax.files import as_path
from agejax.models.inputs import INPUTS, Inputs
from agejax.training.optim import Rate
from data_pipelines.errors import UserError


class Form(NamedTuple):
    """How a type's values are written."""

    looks: str
    """In --help."""
    read: Callable[[str], Any]
    """Raises ValueError."""
    write: Callable[[Any], str]


def _numbers(kind: type) -> Form:
    return Form(
        f"{kind.__name__.upper()},…",
        lambda word: tuple(kind(part) for part in word.split(",") if part),
        lambda values: ",".join(map(str, values)),
    )


def _read_rates(word: str) -> tuple[Rate, ...]:
    """`head:10,trunk/block1:0.1`; a pattern may hold colons and commas of its own."""
    rates, rest = [], word
    while rest:
        match = re.match(r"(.+?):(\d*\.?\d+(?:[eE][-+]?\d+)?)(?:,|$)", rest)
        if not match:
            raise UserError(f"{rest!r} is not PATTERN:FACTOR, as in head:10,trunk/block1:0.1")
        rates.append(Rate(match[1], float(match[2])))
        rest = rest[match.end() :]
    return tuple(rates)


def _write_rates(rates: tuple[Rate, ...]) -> str:
    return ",".join(f"{rate.pattern}:{rate.factor:g}" for rate in rates)


USUAL = ("usual", "null", "None")  # no recipe of the user's own


def _read_inputs(word: str) -> Inputs | None:
    if word in USUAL:
        return None
    if word not in INPUTS:
        raise UserError(f"unknown recipe {word!r}; there are {', '.join(INPUTS)}, and {USUAL[0]}")
    return INPUTS[word]


def write_inputs(inputs: Inputs | None) -> str:
    """Its name in INPUTS; its values where it has none."""
    return next((name for name, known in INPUTS.items() if known == inputs), str(inputs) if inputs else USUAL[0])


FORMS = {
    Path | None: Form("DIR", lambda word: None if word == "None" else as_path(word), str),
    tuple[int, ...]: _numbers(int),
    tuple[float, ...]: _numbers(float),
    tuple[Rate, ...]: Form("PATTERN:FACTOR,…", _read_rates, _write_rates),
    Inputs | None: Form(f"{{{','.join([*INPUTS, USUAL[0]])}}}", _read_inputs, write_inputs),
}


def registry() -> ConstructorRegistry:
    """For tyro."""
    rules = ConstructorRegistry()

    @rules.primitive_rule
    def _one_word(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        form = FORMS.get(info.type)
        return form and PrimitiveConstructorSpec(
            nargs=1,
            metavar=form.looks,
            instance_from_str=lambda words: form.read(words[0]),
            is_instance=lambda value: True,
            str_from_instance=lambda value: [form.write(value)],
        )

    return rules
