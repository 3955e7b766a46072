"""What tests of builders write and read: pictures, workbooks, a builder's rows."""

from pathlib import Path

import cv2
import numpy as np
import openpyxl

JPEG = cv2.imencode(".jpg", np.full((16, 16, 3), 90, np.uint8))[1].tobytes()


def picture(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(JPEG)


def workbook(file: Path, **sheets) -> Path:
    """Sheet name (`_` for a blank) → rows of cells."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name.replace("_", " "))
        for row in rows:
            sheet.append(row)
    file.parent.mkdir(parents=True, exist_ok=True)
    book.save(file)
    return file


def made(builder_class, raw: Path, **kwargs):
    """The builder and its rows by id."""
    builder = builder_class(data_dir=raw.parent / "data", raw=raw, file_format="array_record", **kwargs)
    return builder, {row.id: row for row in builder.rows()}


def reasons(builder) -> dict[str, str]:
    return {skipped.file: skipped.reason for skipped in builder.skipped}
