"""The options that can be swept: their names, and their values as words.

Options of the last stage, and the seed, can differ between trials of one run (vectorised.py). The seed is the last
stage's, too: stages before it are trained once. Any other option takes a run for each of its values (queued.py).
"""

import dataclasses
import re
from typing import Any

from experiments.config import FREE_TO_CHANGE

NOT_SWEPT = ("name", "stages", "only", "sweep", *FREE_TO_CHANGE)
KINDS = ("objective", "optimizer", "schedule", "examples", "order", "model")  # chosen by a word, as a whole
PLAIN = bool | int | float | str


def in_one_run(experiment) -> dict[str, Any]:
    """Name → value of the seed and of all numbers, words and switches of the last stage."""
    stage = experiment.stages[-1]
    found = {name: value for name, value in _options(stage).items() if isinstance(value, PLAIN)}
    return {"seed": experiment.seed} | {name: found[name] for name in found if name not in ("data", "train_split")}


def by_words(experiment) -> dict[str, Any]:
    """Name on the command line → value of everything that can be swept; a stage's options begin with its name."""
    found = {name: value for name, value in _options(experiment).items() if name.split(".")[0] not in NOT_SWEPT}
    for stage in experiment.stages:
        found |= {f"{stage.name}.{name}": value for name, value in _options(stage).items()}
    return found


def word_of(experiment, name: str) -> str:
    """The name on the command line, where the last stage's options go by their own names, too. Raises KeyError."""
    known, of_last = by_words(experiment), f"{experiment.stages[-1].name}.{name}"
    if name not in known and of_last not in known:
        raise KeyError(name)
    return name if name in known else of_last


def short(experiment, word: str) -> str:
    """The name in tables: without the last stage's, unless that would mean another option."""
    own = word.removeprefix(f"{experiment.stages[-1].name}.")
    return own if word_of(experiment, own) == word else word


def apart(experiment) -> list[str]:
    """Names of the sweep that take a run for each value."""
    return [name for name, _ in experiment.sweep if name not in in_one_run(experiment)]


def read(text: str, option: Any) -> tuple:
    """The values: with commas between, or semicolons where values hold commas. As the option's own type where it is a
    number, a word or a switch, else as they are. Raises ValueError, KeyError."""
    kind = type(option) if isinstance(option, PLAIN) else str
    return tuple(value for word in text.split(";" if ";" in text else ",") for value in _values(word, kind))


def _values(word: str, kind: type) -> list:
    """`0..31` → 0, 1, …, 31; anything else is one value."""
    if kind in (int, float) and (ends := re.fullmatch(r"(-?\d+)\.\.(-?\d+)", word)):
        return [kind(number) for number in range(int(ends[1]), int(ends[2]) + 1)]
    return [{"True": True, "False": False}[word] if kind is bool else kind(word)]


def _options(instance: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name → value of every option that one word sets."""
    found = {}
    for field in dataclasses.fields(instance):
        value, name = getattr(instance, field.name), prefix + field.name
        value = float(value) if field.type is float else value  # a config may say 60
        if name in ("name", "stages"):
            continue
        if not dataclasses.is_dataclass(value) or name in KINDS or name.endswith("inputs"):
            found[name] = value
        if dataclasses.is_dataclass(value) and not name.endswith("inputs"):
            found |= _options(value, f"{name}.")
    return found
