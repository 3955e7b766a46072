"""The CSV of a manifest: read, checked cell by cell; each mistake is one line with file, line, column and value."""

import csv
import difflib
import io
import math
import os
from pathlib import Path

import numpy as np

from data_pipelines import schema
from data_pipelines.records.face_set import DataError

POINTS = tuple(f"{axis}{i}" for i in range(1, 6) for axis in "xy")
BOX = ("box_x1", "box_y1", "box_x2", "box_y2")
ANY, POSITIVE = (-math.inf, math.inf), (0.0, math.inf)
NUMBERS = {"age": schema.AGE_RANGE, "sigma": POSITIVE, "attractiveness": ANY, "attractiveness_sigma": POSITIVE}
COLUMNS = ("path", *NUMBERS, "identity", "gender", "ethnicity", "split", *POINTS, *BOX)
REQUIRED = ("path", "age")
GENDERS = {"": "", "female": "female", "f": "female", "male": "male", "m": "male"}
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


def read_table(file: Path) -> list[tuple[int, dict]]:
    """Each row's line number and its values: path, identity (text, "" = none), split ("" = none), box (None = none) and
    `labels`, the keyword arguments of schema.record. Raises DataError."""
    rows = _read_rows(file)
    columns = _columns(file, [cell.lower() for cell in rows[0][1]] if rows else [])
    table = [(line, _values(file, line, columns, cells)) for line, cells in rows[1:]]
    if not table:
        raise DataError(f"{file}: there are no rows below the header; give one row per picture")
    _refuse_repeats(file, table)
    _refuse_half_given_splits(file, table)
    return table


def _read_rows(file: Path) -> list[tuple[int, list[str]]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    delimiter = max(",;\t", key=text.lstrip().partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise DataError(f"{file}: line {reader.line_num}: {error}") from None
    return [(line, cells) for line, cells in rows if any(cells)]


def _columns(file: Path, header: list[str]) -> list[str]:
    if not header:
        raise DataError(f"{file}: the file is empty; it needs a header with at least path,age")
    for name in header:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, n=3)
            raise DataError(
                f"{file}: line 1: unknown column {name!r}; {'did you mean' if near else 'known are'} "
                f"{', '.join(near or COLUMNS)}"
            )
        if header.count(name) > 1:
            raise DataError(f"{file}: line 1: column {name!r} is there {header.count(name)} times; keep one")
    wanted = REQUIRED + tuple(name for group in (POINTS, BOX) if set(group) & set(header) for name in group)
    if absent := [name for name in wanted if name not in header]:
        raise DataError(f"{file}: line 1: column {absent[0]!r} is missing; the header has {', '.join(header)}")
    return header


def _values(file: Path, line: int, columns: list[str], row: list[str]) -> dict:
    if len(row) != len(columns):
        raise DataError(f"{file}: line {line}: {len(row)} cells, but the header has {len(columns)} columns")
    cells = dict.fromkeys(COLUMNS, "") | dict(zip(columns, row))
    if not cells["path"]:
        raise _mistake(file, line, "path", "", "is empty; name the picture")
    if cells["split"] and cells["split"].lower() not in SPLIT_NAMES:
        raise _mistake(file, line, "split", cells["split"], "must be train, val or test")
    if cells["gender"].lower() not in GENDERS:
        raise _mistake(file, line, "gender", cells["gender"], "must be female or male, or empty")
    labels = {name: _number(file, line, name, cells[name], *limits) for name, limits in NUMBERS.items()}
    if all(math.isnan(labels[name]) for name in ("age", "attractiveness")) and not cells["identity"]:
        raise _mistake(file, line, "age", cells["age"], "is empty, and the row has no other label")
    points = _together(file, line, cells, POINTS, "all ten coordinates of the five points")
    words = {"gender": GENDERS[cells["gender"].lower()], "ethnicity": cells["ethnicity"]}
    return {
        "path": cells["path"],
        "identity": cells["identity"],
        "split": SPLIT_NAMES.get(cells["split"].lower(), ""),
        "labels": labels | words | {"landmarks": points and np.array(points, np.float32).reshape(5, 2)},
        "box": _box(file, line, cells),
    }


def _number(file: Path, line: int, column: str, text: str, low: float, high: float) -> float:
    """NaN for an empty cell; anything else must be a finite number within the limits."""
    if not text:
        return math.nan
    try:
        value = float(text.replace("_", "?"))  # float() takes 2_5 for 25
    except ValueError:
        raise _mistake(file, line, column, text, "is not a number") from None
    if not math.isfinite(value):
        raise _mistake(file, line, column, text, "is not a finite number; leave the cell empty where it is not known")
    if not low <= value <= high:
        limits = f"outside {low:g} to {high:g} years" if math.isfinite(high) else f"less than {low:g}"
        raise _mistake(file, line, column, text, f"is {limits}")
    return value


def _together(file: Path, line: int, cells: dict[str, str], names: tuple[str, ...], what: str) -> list[float] | None:
    """The numbers of columns that are given together or not at all."""
    empty = [name for name in names if not cells[name]]
    if len(empty) == len(names):
        return None
    if empty:
        raise _mistake(file, line, empty[0], "", f"is empty; give {what}, or none")
    return [_number(file, line, name, cells[name], *ANY) for name in names]


def _box(file: Path, line: int, cells: dict[str, str]) -> tuple[float, float, float, float] | None:
    box = _together(file, line, cells, BOX, "all four sides of the box")
    for low, high in ((0, 2), (1, 3)) if box else ():
        if box[low] >= box[high]:
            raise _mistake(file, line, BOX[high], cells[BOX[high]], f"must be above {BOX[low]} {cells[BOX[low]]!r}")
    return box and tuple(box)


def _refuse_repeats(file: Path, table: list[tuple[int, dict]]) -> None:
    first = {}
    for line, values in table:
        earlier = first.setdefault(os.path.normpath(values["path"]), line)
        if earlier != line:
            raise _mistake(file, line, "path", values["path"], f"is there already, on line {earlier}; keep one row")


def _refuse_half_given_splits(file: Path, table: list[tuple[int, dict]]) -> None:
    if any(values["split"] for _, values in table):
        for line, values in table:
            if not values["split"]:
                raise _mistake(file, line, "split", "", "is empty; give it in every row, or in none")


def _mistake(file: Path, line: int, column: str, value: str, what: str) -> DataError:
    return DataError(f"{file}: line {line}: {column} {value!r} {what}")
