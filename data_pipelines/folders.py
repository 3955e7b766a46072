"""Reading what was downloaded: folders whatever their case and depth, lists whatever their delimiter and encoding."""

import csv
import fnmatch
import hashlib
import io
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.errors import DataError

PICTURES = (".jpg", ".jpeg", ".png", ".pgm", ".ppm", ".bmp", ".tif", ".tiff", ".webp")
IGNORED = ("__macosx", "thumbs.db", "desktop.ini")
ENCODINGS = ("utf-8-sig", "cp1252", "latin-1")  # the last one takes any bytes


def key(name: str) -> str:
    """A file name as lists and folders can agree on it: composed Unicode, any case."""
    return unicodedata.normalize("NFC", name).casefold()


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, sorted by name, without hidden files and what systems leave behind."""
    found = (path for path in folder.iterdir() if not path.name.startswith(".") and key(path.name) not in IGNORED)
    return sorted(found, key=lambda path: path.name)


def entry(folder: Path, *names: str) -> Path | None:
    """The first entry that one of the names fits: any case, with wildcards as `gt_*.csv`; earlier names win."""
    there = entries(folder)
    for name in names:
        for path in there:
            if fnmatch.fnmatchcase(key(path.name), key(name)):
                return path
    return None


def find_root(raw: Path, what: str, *wanted: str | tuple[str, ...]) -> Path:
    """The folder that holds every entry of `wanted` (a tuple: any one of them): raw, one level below or one above.

    `what` says what raw should have been, for the DataError.
    """
    below = [path for path in entries(raw) if path.is_dir()]
    groups = [names if isinstance(names, tuple) else (names,) for names in wanted]
    for root in (raw, *below, raw.resolve().parent):
        if all(entry(root, *names) for names in groups):
            return root
    missing = next(names for names in groups if not entry(raw, *names))
    raise DataError(f"no `{'` or `'.join(missing)}` in {raw}, one level below or above; --raw must name {what}")


def pictures(folder: Path, recursive: bool = False) -> Iterator[Path]:
    """Files with a picture's ending, in the order of their paths."""
    for path in entries(folder):
        if path.is_dir() and recursive:
            yield from pictures(path, recursive=True)
        elif path.suffix.lower() in PICTURES and path.is_file():
            yield path


def by_name(files) -> dict[str, Path]:
    """key(name) → file; the first of two that differ in case only."""
    found = {}
    for file in files:
        found.setdefault(key(file.name), file)
    return found


def read_text(file: Path) -> str:
    """UTF-8 where it is that, else cp1252 or latin-1. Raises DataError where the file cannot be read."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from None
    for encoding in ENCODINGS:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise AssertionError("latin-1 takes any bytes")


def read_rows(file: Path, delimiters: str = ",;\t") -> list[tuple[int, list[str]]]:
    """(line number, cells) of each line that is not empty; the delimiter that the first line has most of."""
    text = read_text(file)
    delimiter = max(delimiters, key=text.lstrip().partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise DataError(f"{file}: line {reader.line_num}: {error}") from None
    return [(line, cells) for line, cells in rows if any(cells)]


def read_columns(file: Path, *columns: str) -> list[tuple[int, dict[str, str]]]:
    """(line number, {column: cell}) below a header that must have `columns`, in any case. Cells of a row with another
    number of cells than the header: {} (list it as skipped). Raises DataError."""
    rows = read_rows(file)
    header = [cell.casefold() for cell in rows[0][1]] if rows else []
    if absent := [name for name in columns if name.casefold() not in header]:
        raise DataError(
            f"{file}: line 1: column {absent[0]!r} is missing; the header has {', '.join(header) or 'none'}"
        )
    return [(line, dict(zip(header, cells)) if len(cells) == len(header) else {}) for line, cells in rows[1:]]


def fingerprint(paths: str) -> str:
    """SHA-256 over the content of files and folders, separated by commas."""
    digest = hashlib.sha256()
    for path in map(Path, paths.split(",")):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
