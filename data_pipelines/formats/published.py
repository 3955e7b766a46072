"""Published split files → protocols: their names are matched with the set's, their ages and subjects looked at."""

import collections
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.formats.split_lists import Line, List, read_lists, rules
from data_pipelines.records.face_set import FaceSet, Row

Found = list[tuple[Line, int]]  # lines whose picture is there, and its row
WRONG = 0.01  # of a list of classes, the share of ages above which it is another set's


def protocols(builder: FaceSet, rows: list[Row]) -> dict[str, list[str]]:
    """Those of the files that option `splits` names, separated by commas: name → a split per row, "" = in none."""
    paths = filter(None, map(str.strip, builder.options.get("splits", "").split(",")))
    return _united(read(Path(path), rows, builder.split_key, builder.warn) for path in paths)


def read(
    path: Path, rows: list[Row], split_key: Callable[[str], str], warn: Callable[[str], None]
) -> dict[str, list[str]]:
    """The protocols of a file, or of the files in a folder that list pictures of this set. Raises DataError.

    split_key: what a name in the list and a row's id have in common; warn: told what a user of the list should know.
    """
    there, lists = _by_key(rows, split_key), read_lists(path)
    matched = [(listed, found) for listed in lists if (found := _match(listed, rows, there, split_key))]
    if not matched:
        names = [line.name for listed in lists for line in listed.lines]
        raise DataError(
            f"{path}: none of its {len(names):,} names, as {names[0]}, is in this set; is it another set's?"
        )
    _warn_of_other_draws([(listed, found) for listed, found in matched if listed.protocol.startswith("mwr_1")], warn)
    return _united(_protocols(listed, found, rows, warn) for listed, found in matched)


def _united(several) -> dict[str, list[str]]:
    found = {}
    for new in several:
        if twice := [name for name in new if name in found and found[name] != new[name]]:
            raise DataError(
                f"--splits: two files give protocol {twice[0]}, with different splits; leave one of them out"
            )
        found |= new
    return found


def _protocols(listed: List, found: Found, rows: list[Row], warn: Callable[[str], None]) -> dict[str, list[str]]:
    plan, result = rules(listed), {}
    if absent := len(listed.lines) - len(found):
        warn(f"{listed.title}: {absent:,} of {len(listed.lines):,} names are not in this release")
    _check_ages(listed, found, rows, warn)
    _warn_of_leaks(plan, found, rows, warn)
    for name, rule in plan.items():
        result[name] = [""] * len(rows)
        for line, row in found:
            result[name][row] = rule.get(line.part, "")
    return result


def _by_key(rows: list[Row], split_key: Callable[[str], str]) -> dict[str, list[int]]:
    there = collections.defaultdict(list)
    for i, row in enumerate(rows):
        there[split_key(row.id)].append(i)
    return there


def _match(listed: List, rows: list[Row], there: dict[str, list[int]], split_key: Callable[[str], str]) -> Found:
    """The lines whose pictures are there. Names that are listed twice, or that two pictures have, are refused."""
    keys = [split_key(line.name.replace("\\", "/")) for line in listed.lines]
    if not any(name in there for name in keys):
        return []
    first, found = {}, []
    for name, line in zip(keys, listed.lines):
        if (earlier := first.setdefault(name, line)) is not line:
            both = f", in {earlier.part} there and in {line.part} here" if earlier.part != line.part else ""
            raise DataError(f"{line.where}: {line.name} is listed before, as {earlier.where}{both}; keep one")
        if len(there.get(name, ())) > 1:
            ids = [rows[i].id for i in there[name]]
            raise DataError(f"{line.where}: {line.name} may be {' or '.join(ids)}")
        if name in there:
            found.append((line, there[name][0]))
    return found


def _check_ages(listed: List, found: Found, rows: list[Row], warn: Callable[[str], None]) -> None:
    """The listed ages, made years where they are classes, against the set's."""
    pairs = [(line, rows[row].labels.get("age", math.nan)) for line, row in found]
    pairs = [(line, age) for line, age in pairs if not math.isnan(line.age) and not math.isnan(age)]
    other = {
        first: [(line, age) for line, age in pairs if abs(line.age + first - age) > 0.5]  # lists round means
        for first in listed.first_classes
    }
    first = min(other, key=lambda first: len(other[first]))
    if wrong := other[first]:
        line, age = wrong[0]
        known = f"{line.age + first:g} years" + (f" (class {line.age:g})" if first else "")
        says = f"{line.name} has {known}, in the set {age:g}: so differ {len(wrong):,} of {len(pairs):,} ages"
        if first and len(wrong) > WRONG * len(pairs):
            raise DataError(f"{line.where}: {says}; it is another set's list, or changed")
        warn(f"{listed.title}: {says}")
    if first:
        _warn_of_narrow_val(listed, first, warn)


def _warn_of_narrow_val(listed: List, first: int, warn: Callable[[str], None]) -> None:
    """Of AFAD, CORAL validates on people in their thirties."""
    spans = {}
    for part in ("train", "val"):
        ages = [line.age + first for line in listed.lines if line.part == part and not math.isnan(line.age)]
        spans[part] = (min(ages), max(ages)) if ages else (0, 0)
    (low, high), (youngest, oldest) = spans["val"], spans["train"]
    if any(line.part == "val" for line in listed.lines) and high - low < (oldest - youngest) / 2:
        warn(
            f"{listed.title}: val has ages {low:g} to {high:g} only, train {youngest:g} to {oldest:g}: no random sample"
        )


def _warn_of_leaks(plan: dict[str, dict], found: Found, rows: list[Row], warn: Callable[[str], None]) -> None:
    parts = collections.defaultdict(set)
    for line, row in found:
        parts[rows[row].labels.get("identity", -1)].add(line.part)
    parts.pop(-1, None)
    crossing = [
        mine
        for mine in parts.values()
        if any(len({rule.get(p, "") for p in mine} - {""}) > 1 for rule in plan.values())
    ]
    if crossing:
        warn(f"{_span(list(plan))}: {len(crossing):,} of {len(parts):,} subjects are in more than one split")


def _warn_of_other_draws(folds: Sequence[tuple[List, Found]], warn: Callable[[str], None]) -> None:
    """MWR's Setting_1: each of its folds is a draw of its own."""
    drawn = {listed.protocol: frozenset(row for _, row in found) for listed, found in folds}
    if len(set(drawn.values())) > 1:
        warn(f"{_span(sorted(drawn))}: drawn from different pictures each, so their tests overlap: no cross-validation")


def _span(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
