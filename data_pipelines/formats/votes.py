"""Lists of apparent ages: a picture's name, the mean of its votes and their σ, in the forms that copies have."""

import math
import statistics
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.folders import PICTURES, key, read_rows
from data_pipelines.formats.sheets import number, read_sheet
from data_pipelines.records.face_set import FaceSet

HEADERS = (("image", "name", "file", "filename", "file_name"), ("mean", "age"), ("stdv", "std", "stdev", "sigma"))
SPLIT = "database"  # the column that says a row's split, where one list serves all


def read_votes(file: Path, split: str, builder: FaceSet) -> Iterator[tuple[str, dict, str]]:
    """(picture's name, its age and σ, why it cannot be used) of each row of the split.

    CSV with `,`, `;` or tab (decimals may then have commas), with or without a header; or a workbook's first sheet.
    """
    rows, columns, of = _table(file)
    width, seen = statistics.mode(len(cells) for _, cells in rows) if rows else 0, set()
    for line, cells in rows:
        if of is not None and len(cells) == width and cells[of].casefold()[:3] != split[:3]:
            continue
        name, age, sigma = (cells[i] if i < len(cells) else "" for i in columns)
        name = Path(name.replace("\\", "/")).name
        age, sigma = (number(cell.replace(",", ".")) if cell else None for cell in (age, sigma))
        reason = f"{file.name} line {line} is not `name,age,σ`: {','.join(cells)}"
        if key(name) in seen:
            reason = f"{file.name} line {line} lists the picture again; the first row counts"
        elif len(cells) == width and age is not None and math.isfinite(age) and not (sigma and math.isnan(sigma)):
            seen.add(key(name))
            reason = ""
        if sigma is None and not reason:
            builder.warn(f"{file.name} has rows without σ")
        yield name, {"age": age} | ({} if sigma is None else {"sigma": sigma}), reason


def _table(file: Path) -> tuple[list[tuple[int, list[str]]], list[int], int | None]:
    """Rows without the header; where name, age and σ stand; where the split does."""
    rows = read_sheet(file) if key(file.suffix) in (".xlsx", ".xlsm") else read_rows(file, ";,\t")
    rows = [(line, [str(cell) for cell in cells]) for line, cells in rows]
    header = [cell.casefold() for cell in rows[0][1]] if rows else [""]
    if header[0].endswith(PICTURES) or not all(math.isnan(number(cell)) for cell in header):
        return rows, [0, 1, 2], None
    found = [next((i for i, cell in enumerate(header) if cell in names), None) for names in HEADERS]
    return rows[1:], [0, 1, 2] if None in found else found, header.index(SPLIT) if SPLIT in header else None
