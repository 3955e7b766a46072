"""The tables of MS-Celeb-1M: one image per line as base64, columns separated by TAB, lines of any length."""

import base64
import binascii
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_pipelines.schema import RecordError

MID, NAME = re.compile(rb"[mg]\.\w+"), re.compile(rb"[^/\s]+")
PICTURES = (b"/9j/", b"iVBORw0KGgo", b"R0lGOD", b"UklGR", b"Qk")  # JPEG, PNG, GIF, WebP and BMP begin so in base64
SNIFFED = 20  # lines
BUFFER = 1 << 22  # bytes; lines have 10,000 and more


class Layout(NamedTuple):
    """The columns of a table, counted from 0."""

    columns: int
    mid: int
    name: tuple[int, ...]  # what tells the images of a person apart
    image: int
    published: int | None  # lines

    def id(self, cells: list[bytes]) -> str:
        """`<MID>/<rank>-<FaceID>`, or what the table has of that; "" where it has no such line."""
        if len(cells) != self.columns or not cells[self.image]:
            return ""
        mid, name = cells[self.mid], b"-".join([cells[i] for i in self.name])
        return f"{mid.decode()}/{name.decode(errors='replace')}" if MID.fullmatch(mid) and NAME.fullmatch(name) else ""


LAYOUTS = (
    Layout(7, 0, (1, 4), 6, 8_456_240),  # faces: MID, rank, image URL, page URL, FaceID, rectangle, image
    Layout(6, 0, (2,), 5, 10_490_534),  # thumbnails: MID, name, rank, image URL, page URL, image
    Layout(6, 0, (3,), 5, None),  # DevSet: MID, name, image URL, FaceID, rectangle, image
    Layout(5, 2, (0,), 1, None),  # TrainData_Base, TrainData_lowshot: image ID, image, MID, rank, image URL
)


def find_layout(file: Path) -> Layout | None:
    """By its first lines: some may be broken, or end what the part before began."""
    with open(file, "rb") as lines:
        for line, _ in zip(lines, range(SNIFFED)):
            cells = line.rstrip(b"\r\n").split(b"\t")
            for layout in LAYOUTS:
                if layout.id(cells) and cells[layout.image].startswith(PICTURES):
                    return layout
    return None


def read_places(file: Path, layout: Layout) -> Iterator[tuple[int, str, int]]:
    """Number, id ("" = not such a line) and where the image begins, in bytes, of each line: decodes no image."""
    end = 0
    with open(file, "rb", buffering=BUFFER) as lines:
        for number, line in enumerate(lines, 1):
            start, end = end, end + len(line)
            cells = line.rstrip(b"\r\n").split(b"\t")
            yield number, layout.id(cells), start + sum(map(len, cells[: layout.image])) + layout.image


def read_image(file: Path, at: int) -> bytes:
    """The image whose cell begins there. Raises RecordError, OSError."""
    with open(file, "rb") as table:
        table.seek(at)
        text = table.readline().partition(b"\t")[0].strip()
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise RecordError(f"its base64 is damaged ({error})") from None
