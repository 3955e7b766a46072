"""Tables as people keep them: sheets of Excel workbooks, and CSV files exported from them."""

import contextlib
import fnmatch
import math
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.folders import entries, key, read_rows

SEARCHED = 20  # rows in which a header is looked for: titles may stand above it


def read_sheet(file: Path, *names: str) -> Iterator[tuple[int, list]]:
    """(row number, cells) of the first sheet that one of the names fits: any case, with wildcards; earlier names win.

    Without names the first sheet. Texts are stripped, empty cells are "". A CSV file is one sheet of any name. Raises
    DataError.
    """
    if key(file.suffix) in (".csv", ".txt", ".tsv"):
        yield from read_rows(file)
        return
    import openpyxl  # slow to import, and few sets need it

    try:
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, openpyxl.utils.exceptions.InvalidFileException):
        raise DataError(f"{file}: cannot be read as an Excel workbook; save it as .xlsx") from None
    try:
        sheet = _find_sheet(file, book, names)
        sheet.reset_dimensions()  # some programs write a wrong size, and rows would end there
        for number, row in enumerate(sheet.iter_rows(values_only=True), start=1):
            yield number, [_cell(value) for value in row]
    finally:
        book.close()


def read_records(file: Path, *columns: str, sheets: Iterable[str] = ()) -> Iterator[tuple[int, dict]]:
    """(row number, {word(column): cell}) below the first row that has all `columns`. Raises DataError.

    Of two columns of one name the first counts. A column without a name has that of the one before it, and a `_`.
    """
    rows, header = read_sheet(file, *sheets), None
    wanted = {word(name) for name in columns}
    for number, cells in rows:
        if header is None and wanted <= {word(cell) for cell in cells}:
            header = [word(cell) or f"{word(before)}_" for before, cell in zip(["", *cells], [*cells, ""])]
        elif header is None and number > SEARCHED:
            break
        elif header is not None and any(cell != "" for cell in cells):
            padded = [*cells, *[""] * (len(header) - len(cells))]
            yield number, dict(reversed([*zip(header, padded)]))
    if header is None:
        raise DataError(f"{file}: no row with the columns {', '.join(columns)} among the first {SEARCHED}")


def readable_sheets(folder: Path, besides: Path) -> Iterator[tuple[Path, list[list]]]:
    """Each other workbook or CSV file of a folder with the rows of its first sheet, as far as it can be read."""
    for file in entries(folder):
        if file != besides and key(file.suffix) in (".xlsx", ".csv"):
            with contextlib.suppress(DataError):
                yield file, [cells for _, cells in read_sheet(file) if cells]


def word(cell) -> str:
    """A column's name without what differs between copies: letters alone, lower case."""
    return re.sub(r"[^a-z]", "", str(cell).casefold())


def number(cell) -> float:
    """NaN where the cell holds none."""
    try:
        return float(cell)
    except (TypeError, ValueError):
        return math.nan


def _find_sheet(file: Path, book, names: tuple[str, ...]):
    sheets = book.worksheets
    fitting = [s for name in names for s in sheets if fnmatch.fnmatchcase(key(s.title).strip(), key(name))]
    if names and not fitting:
        there = ", ".join(sheet.title for sheet in sheets) or "none"
        raise DataError(f"{file}: no sheet `{'` or `'.join(names)}`; there are {there}")
    return fitting[0] if names else sheets[0]


def _cell(value):
    return value.strip() if isinstance(value, str) else "" if value is None else value
