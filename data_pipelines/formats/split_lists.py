"""Published split files as they are: which format one has, and what each line says.

| protocol     | file                                              | columns                                       |
|--------------|---------------------------------------------------|-----------------------------------------------|
| paplham      | Paplham & Franc 2024, NAME(_aligned).json         | objects with img_path, folder, age            |
| coral        | CORAL (Cao et al. 2020), X_train/valid/test.csv   | ages are class indices                        |
| mwr_1        | MWR (Shin et al. 2022), Setting_1_fold0_train.txt | race gender age filename database             |
| mwr_2        | Setting_2_fold0.txt: trained on it, tested on all | the same                                      |
|              | the others                                        |                                               |
| mwr_3, mwr_4 | Setting_3.txt, Setting_4.txt                      | filename fold age database; database first    |
| mwr          | UTK_train_coral.csv, CACD.csv                     | filename age database; fold: train, val, test |
| dir          | Yang et al. 2021, agedb.csv, imdb_wiki.csv        | age path split                                |
| imdb_clean   | Lin et al. 2022, imdb_train_new.csv               | filename age gender x_min …                   |
| dldl_v2      | Gao et al. 2018, Morph_Train1.txt                 | no header: name, age, σ                       |
"""

import json
import math
import re
from pathlib import Path
from typing import NamedTuple

from data_pipelines.errors import DataError
from data_pipelines.folders import key, read_rows, read_text
from data_pipelines.formats.table import SPLIT_NAMES
from data_pipelines.schema import SPLITS

KNOWN = (
    "Paplham & Franc's JSON, CORAL's CSV, MWR's Setting_1 … Setting_4 and lists, DIR's CSV (age,path,split), "
    "IMDB-Clean's CSV, DLDL-v2's lists (name,age,σ)"
)
PART = re.compile(r"(?<![a-z])(train|valid|val|test)(\d*)(?![a-z0-9])")  # in a file's name
FOLD = re.compile(r"fold(\d+)")
ROUNDS = {"mwr_2": ("train", "test"), "mwr_3": ("test", "train"), "mwr_4": ("test", "train")}  # one fold, the others
FIVE_SPLITS = (
    "012345 67 89",
    "234567 89 01",
    "456789 01 23",
    "567890 12 34",
    "678901 23 45",
)  # folders of train, val, test
TEN_FOLDERS = ("afadfull", "afad", "agedb", "morph", "utkface", "imdbemcnn")
TESTED = ("fgnet",)  # one folder per person, for tests only
ENDINGS = (".json", ".csv", ".txt", ".tsv")


class Line(NamedTuple):
    """One picture of a list."""

    where: str  # file and line
    name: str
    part: str | int  # train, val, test; or the number of a fold or folder
    age: float  # as listed; NaN = not known


class Format(NamedTuple):
    """How a table is recognised, and which of its columns say what."""

    protocol: str
    columns: frozenset[str]
    name: str
    part: str = ""  # "" = the file's name says it
    first_classes: tuple[int, ...] = (0,)  # years of class 0, one for each data set; 0 = the ages are years


class List(NamedTuple):
    """One file, or several that make a list together."""

    protocol: str
    title: str
    lines: list[Line]
    first_classes: tuple[int, ...] = (0,)
    database: str = ""


def _columns(names: str) -> frozenset[str]:
    return frozenset(names.split())


FORMATS = (  # the first one whose columns are all there
    Format("dir", _columns("age path split"), "path", "split"),
    Format("coral", _columns("id_num picture_num race male age") | {""}, "", first_classes=(16,)),  # MORPH
    Format("coral", _columns("file path age gender"), "path", first_classes=(15, 18)),  # AFAD, AFAD-Lite
    Format("coral", _columns("file age"), "file", first_classes=(14, 21)),  # CACD, UTKFace
    Format("mwr_1", _columns("race gender age filename database"), "filename"),
    Format("mwr_3", _columns("filename fold age"), "filename", "fold"),
    Format("imdb_clean", _columns("filename age gender x_min"), "filename"),
    Format("mwr", _columns("filename age database"), "filename"),
)
HEADERLESS = Format("dldl_v2", frozenset(), "name")


def read_lists(path: Path) -> list[List]:
    """The lists of a file, or of all files in a folder and below that have a known format. Raises DataError."""
    if not path.exists():
        raise DataError(f"{path} is not there; --splits must name published split files: {KNOWN}")
    folder = path.is_dir()
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS) if folder else [path]
    found = [made for file in files if (made := _read(file)) is not None]
    if not found:
        pointer = not folder and read_text(path).startswith("version https://git-lfs")
        what = "is a Git LFS pointer, not the list itself: `git lfs pull`" if pointer else "is no known split list"
        raise DataError(f"{path} {what}; known are {KNOWN}")
    return _joined(found)


def rules(listed: List) -> dict[str, dict[str | int, str]]:
    """Protocol → part of the list → train, val or test. Raises DataError."""
    parts = {line.part for line in listed.lines}
    if len(parts) == 1 and "*" in listed.title:
        raise DataError(f"{listed.lines[0].where}: only one file of {listed.title} is there; name the folder of all")
    if listed.protocol == "paplham":
        return _folder_rules(listed, {part for part in parts if part >= 0})
    if listed.protocol in ROUNDS:
        one, others = ROUNDS[listed.protocol]
        return {
            f"{listed.protocol}_{fold}": {part: one if part == fold else others for part in parts}
            for fold in sorted(parts)
        }
    return {listed.protocol: {part: part for part in parts}}


def _folder_rules(listed: List, folders: set[int]) -> dict[str, dict[str | int, str]]:
    """Paplham & Franc's benchmarks. Not all of their files name the data set: then the folders' numbers decide."""
    if listed.database in TESTED:
        return {"paplham": dict.fromkeys(folders, "test")}
    if listed.database not in TEN_FOLDERS and folders <= {0, 1, 2}:
        return {"paplham": dict(enumerate(SPLITS))}
    if odd := [line for line in listed.lines if line.part > 9]:
        raise DataError(f"{odd[0].where}: folder {odd[0].part} of {listed.database}; known are 0 to 9")
    used = FIVE_SPLITS[:1] if listed.database == "imdbemcnn" else FIVE_SPLITS
    return {
        f"paplham_{k}": {int(folder): split for split, mine in zip(SPLITS, parts.split()) for folder in mine}
        for k, parts in enumerate(used)
    }


def _read(file: Path) -> List | None:
    """One file; its title is what the files of one list have in common. None: not a known format."""
    text = read_text(file)
    if text.lstrip()[:1] in ("[", "{"):
        return _read_json(file, text)
    rows = read_rows(file, ",;\t ")
    header = [cell.casefold() for cell in rows[0][1]] if rows else []
    chosen, named = (
        next((known for known in FORMATS if known.columns <= set(header)), None),
        PART.search(key(file.stem)),
    )
    if chosen is None and len(header) == 3 and not any(math.isnan(_number(cell)) for cell in header[1:]):
        chosen, header, rows = HEADERLESS, ["name", "age", "sigma"], [rows[0], *rows]
    if chosen is None or not (chosen.part or named or (chosen.protocol == "mwr_1" and FOLD.search(key(file.stem)))):
        return None
    protocol, title, part = _of_file(file, chosen, header)
    lines = []
    for number, cells in rows[1:]:
        where = f"{file} line {number}"
        if len(cells) != len(header):
            raise DataError(f"{where}: {len(cells)} cells, but the header has {len(header)}")
        values = dict(zip(header, cells))
        mine = _part(where, values[chosen.part], protocol) if chosen.part else part
        lines.append(Line(where, values[chosen.name], mine, _age(values["age"])))
    kinds = {type(line.part) for line in lines}
    if len(kinds) > 1:
        raise DataError(f"{file}: its folds are numbers in some lines, and train, val or test in others")
    protocol = "mwr" if protocol in ROUNDS and kinds == {str} else protocol
    return List(protocol, title, lines, chosen.first_classes) if lines else None


def _of_file(file: Path, chosen: Format, header: list[str]) -> tuple[str, str, str | int]:
    """Protocol, title and part, as far as a table's columns and its file's name say them."""
    named, fold = PART.search(key(file.stem)), FOLD.search(key(file.stem))
    if chosen.part:
        return "mwr_4" if chosen.part == "fold" and header[0] == "database" else chosen.protocol, file.name, ""
    if chosen.protocol == "mwr_1" and not named:
        return "mwr_2", FOLD.sub("fold*", key(file.name)), int(fold[1])
    title = PART.sub("*", key(file.name))
    number = fold[1] if fold and chosen.protocol == "mwr_1" else named[2] if chosen is HEADERLESS else ""
    return f"{chosen.protocol}_{number}".rstrip("_"), title, SPLIT_NAMES[named[1]]


def _read_json(file: Path, text: str) -> List | None:
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        if file.suffix.lower() != ".json":
            return None
        raise DataError(f"{file}: line {error.lineno}: {error.msg}") from None
    if not (isinstance(entries, list) and entries and isinstance(entries[0], dict) and "img_path" in entries[0]):
        return None
    lines = []
    for number, entry in enumerate(entries, 1):
        where = f"{file} entry {number}"
        try:
            lines.append(Line(where, str(entry["img_path"]), int(entry["folder"]), _age(entry.get("age"))))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise DataError(f"{where}: not an object with img_path, folder (a whole number) and age") from None
    database = str(entries[0].get("database") or file.stem.removesuffix("_aligned"))
    return List("paplham", file.name, lines, database=re.sub(r"[^a-z0-9]", "", key(database)))


def _joined(found: list[List]) -> list[List]:
    """Files that make a list together, as one."""
    lists = {}
    for one in found:
        folder = Path(one.lines[0].where).parent
        first = lists.setdefault((one.protocol, folder, one.title), one._replace(lines=[]))
        first.lines.extend(one.lines)
    return list(lists.values())


def _part(where: str, cell: str, protocol: str) -> str | int:
    if cell.casefold() in SPLIT_NAMES:
        return SPLIT_NAMES[cell.casefold()]
    if cell.isdecimal() and protocol in ROUNDS:
        return int(cell)
    raise DataError(f"{where}: {cell!r} is neither train, val or test nor the number of a fold")


def _age(cell) -> float:
    """NaN where it is not known, which lists write as -1 or not at all."""
    age = _number(cell)
    return age if age >= 0 else math.nan


def _number(cell) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return math.nan
