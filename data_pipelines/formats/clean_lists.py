"""Cleaned lists of face sets: the images to keep, and whose they are.

Read by what a line holds, as the lists differ: `m.0109kg m.0107_f/9-FaceId-0.jpg` (C-MS-Celeb: whose it is, image),
`m.0109kg/14-FaceId-0.jpg 0` (Wu Xiang; with `\\` for CASIA-WebFace; with a comma in DLDL-v2's lists),
`0/m.0109kg_14-FaceId-0.jpg` (WashList: whose it is, then the image's folder and name in one), and .lst files of more
columns, where the image's folder says whose it is.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.folders import key

ENDING = re.compile(r"(_align)?\.(jpe?g|png|bmp|webp)$", re.IGNORECASE)  # some unpackers add _align
FLAT = re.compile(r"([mg]\.\w+)_(\d+-.+)")  # a Freebase id may hold _ itself
LISTS = (".txt", ".lst", ".csv")


def image_key(path: str) -> str:
    """What all forms and lists of a set call an image: `person/name`, without ending, in lower case."""
    *_, folder, name = ("", *ENDING.sub("", path.replace("\\", "/")).split("/"))
    flat = FLAT.fullmatch(name)
    return key("/".join(flat.groups()) if flat else f"{folder}/{name}")


def list_files(paths: str) -> list[Path]:
    """The files that `paths` names: files or folders of lists, separated by commas. Raises DataError."""
    found = []
    for path in map(Path, paths.split(",")):
        if not path.exists():
            raise DataError(f"clean_list: {path} is not there; name the cleaned list, or a folder with its files")
        found += sorted(file for file in path.iterdir() if file.suffix in LISTS) if path.is_dir() else [path]
    return found


def read_list(paths: str, warn: Callable[[str], None]) -> dict[str, str | int]:
    """image_key → whose it is: a number where the list has only such. Of two lines for an image the later one counts.
    warn: is told what is odd. Raises DataError."""
    people, listed, unclear, changed = {}, {}, 0, 0
    for line in _lines(paths):
        name, person = _image(line)
        if not name:
            unclear += 1
            continue
        name, person = image_key(name), people.setdefault(person, person)  # one string for all images of a person
        changed += listed.get(name, person) != person
        listed[name] = person
    files = ", ".join(Path(path).name for path in paths.split(","))
    if unclear:
        warn(f"{files}: {unclear:,} lines name no picture")
    if changed:
        warn(f"{files}: {changed:,} images are in it again as somebody else; the later line counts")
    if all(person.isdecimal() for person in people):
        for name, person in listed.items():
            listed[name] = int(person)
    return listed


def _lines(paths: str) -> Iterator[str]:
    for file in list_files(paths):
        with open(file, encoding="utf-8-sig", errors="replace") as lines:
            yield from (line.strip() for line in lines if not line.isspace())


def _image(line: str) -> tuple[str, str]:
    """The image that a line names ("" = none), and whose it is."""
    cells = line.split("\t") if "\t" in line else re.split("[ ,]+", line)
    at = next((i for i, cell in enumerate(cells) if ENDING.search(cell)), None)
    if at is None:
        return "", ""
    if at == 0 and len(cells) > 1:
        return cells[0], cells[1]
    if at == 1 and len(cells) == 2:
        return cells[1], cells[0]
    return cells[at], Path(cells[at].replace("\\", "/")).parent.name
