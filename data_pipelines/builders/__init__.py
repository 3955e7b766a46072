"""Prepared data sets: the one table of builders, preparing them, and reading their splits at random.

`open_split("aaf", "data", "train")[7]` is a record of schema.py. A name may go on with a protocol, another way to split
the same records: `open_split("morph@rs_0", "data", "test")`. Reading needs no builder class: what is on disk is an
ordinary TFDS directory of ArrayRecord files, `data/aaf/1.0.0`, with summary.json and index.npz beside the records.
"""

import difflib
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipelines.builders.aaf import Aaf
from data_pipelines.builders.afad import Afad
from data_pipelines.builders.agedb import AgeDb
from data_pipelines.builders.appa_real import AppaReal
from data_pipelines.builders.att_faces import AttFaces
from data_pipelines.builders.cacd2000 import Cacd2000
from data_pipelines.builders.casia_webface import CasiaWebFace
from data_pipelines.builders.cfd import Cfd
from data_pipelines.builders.chalearn15 import ChaLearn15
from data_pipelines.builders.chalearn16 import ChaLearn16
from data_pipelines.builders.fgnet import FgNet
from data_pipelines.builders.imdb_wiki import ImdbWiki
from data_pipelines.builders.manifest import Manifest
from data_pipelines.builders.megaage_asian import MegaAgeAsian
from data_pipelines.builders.mivia import Mivia
from data_pipelines.builders.morph import Morph
from data_pipelines.builders.ms_celeb_1m import MsCeleb1M
from data_pipelines.builders.scut_fbp import ScutFbp
from data_pipelines.builders.scut_fbp5500 import ScutFbp5500
from data_pipelines.builders.synthetic import Synthetic
from data_pipelines.builders.utkface import UtkFace
from data_pipelines.builders.vggface2 import VggFace2
from data_pipelines.detectors import Detector
from data_pipelines.formats import published
from data_pipelines.records import index, reading
from data_pipelines.records.build import make_recipe, read_rows, scratch_folder, write_set
from data_pipelines.records.face_set import DataError, FaceSet
from data_pipelines.records.shards import Crop, Job
from data_pipelines.schema import SPLITS

BUILDERS: dict[str, type[FaceSet]] = {
    "aaf": Aaf,
    "afad": Afad,
    "agedb": AgeDb,
    "appa_real": AppaReal,
    "att_faces": AttFaces,
    "cacd2000": Cacd2000,
    "casia_webface": CasiaWebFace,
    "cfd": Cfd,
    "chalearn15": ChaLearn15,
    "chalearn16": ChaLearn16,
    "fgnet": FgNet,
    "imdb_wiki": ImdbWiki,
    "manifest": Manifest,
    "megaage_asian": MegaAgeAsian,
    "mivia": Mivia,
    "morph": Morph,
    "ms_celeb_1m": MsCeleb1M,
    "scut_fbp": ScutFbp,
    "scut_fbp5500": ScutFbp5500,
    "synthetic": Synthetic,
    "utkface": UtkFace,
    "vggface2": VggFace2,
}


class Split:
    """One split, or several joined: `len()`, and `[i]` gives a record. Files open at the first read, in each worker.

    rows: which records of the set, in its stored order.
    """

    def __init__(self, folder: Path, name: str, rows: Sequence[int]):
        self.name, self.rows, self._folder = f"{folder}:{name}", rows, folder
        self._source = reading.open_stored(folder)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> dict:
        return reading.parse(self._source[int(self.rows[position])])

    def column(self, label: str) -> np.ndarray:
        """A label of every record, without reading an image: as schema.py, or one of index.py's columns."""
        return index.read(self._folder, label)[np.asarray(self.rows)]

    def __repr__(self) -> str:
        return f"Split({self.name}, {len(self)} records)"


def open_split(name: str, data_dir: str | Path, split: str) -> Split:
    """Random access to a prepared split: train, val, test, several joined (`train+val`), or `all`. Raises DataError."""
    known = splits(name, data_dir)
    wanted = list(known) if split == "all" else split.split("+")
    for part in wanted:
        if part not in known:
            raise DataError(f"{name} has no split {part!r}: it has {', '.join(known)}; `all` and `train+val` join them")
    place, protocol = prepared_dir(name, data_dir), name.partition("@")[2]
    numbers = index.read(place, index.PROTOCOL + protocol if protocol else "split")
    rows = np.concatenate([np.flatnonzero(numbers == SPLITS.index(part)) for part in wanted])
    contiguous = len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all()
    rows = range(int(rows[0]), int(rows[-1]) + 1) if contiguous else rows  # nothing to send to workers then
    return Split(place, f"{split}@{protocol}" if protocol else split, rows)


def open_stored(name: str, data_dir: str | Path) -> Split:
    """Every record in the stored order, that of index.py's columns. Raises DataError."""
    return Split(prepared_dir(name, data_dir), "stored", range(sum(summary(name, data_dir)["splits"].values())))


def splits(name: str, data_dir: str | Path) -> dict[str, int]:
    """Split → how many examples, of the set's own splits or of the protocol in the name. Raises DataError."""
    known, protocol = summary(name, data_dir), name.partition("@")[2]
    if protocol and protocol not in known["protocols"]:
        near = difflib.get_close_matches(protocol, known["protocols"], n=3, cutoff=0.3) or list(known["protocols"])[:8]
        hint = f"there are {', '.join(near)}" if near else "it has none"
        raise DataError(f"{name}: no protocol {protocol!r}: {hint}")
    return known["protocols"][protocol] if protocol else known["splits"]


def summary(name: str, data_dir: str | Path) -> dict:
    """The set's summary.json: counts per split, identities, ages, labels present, what was skipped and why."""
    return json.loads((prepared_dir(name, data_dir) / index.SUMMARY).read_text(encoding="utf-8"))


def prepared_dir(name: str, data_dir: str | Path) -> Path:
    """Where the prepared set lies. Raises DataError, with the command that prepares it, where it does not."""
    if not is_prepared(name, data_dir):
        stem = name.partition("@")[0]
        raw = "--raw=RAW " if (needs := builder_class(name).NEEDS) else ""
        command = f"python experiments/prepare.py --data={stem} {raw}--data_dir={shlex.quote(str(data_dir))}"
        raise DataError(f"{stem} is not prepared in {data_dir}: run `{command}`" + (f"; RAW is {needs}" if raw else ""))
    return _place(name, data_dir)


def prepare(
    name: str,
    data_dir: str | Path,
    raw: str | Path | None = None,
    *,
    detector: Detector | None = None,
    keep_points: bool = True,
    size: int = 0,
    face_scale: float = 1.0,
    overwrite: bool = False,
    max_bad_share: float | None = None,
    runner=None,
    **options,
) -> Path:
    """Writes the set's records and summary under data_dir and returns their folder.

    raw: what was downloaded, one folder level up or down is found too; detector: finds the faces of the images for
    which the set gives no points (keep_points=False: of all), None = such an image is taken whole; size: pixels of the
    aligned crop that is stored (face_scale as align.Alignment has it), 0 = the images as found; max_bad_share: of all
    rows, how many images may be missing or unreadable, None = the set's own (at least one may be, in a set however
    small, unless it is 0); runner: beam.runner(…), None = this process; options: the set's own (synthetic: faces,
    pixels, seed). What is prepared already stays, unless `overwrite`; a build that fails leaves nothing, one that was
    killed goes on where it was. Raises DataError.
    """
    _check_options(name, max_bad_share, size, options)
    place, ready = _place(name, data_dir), is_prepared(name, data_dir) and not overwrite
    if raw is not None or not ready:
        _check_raw(name, raw)
    crop = Crop(size, face_scale)
    if ready:
        recipe = make_recipe(Job(None, place, detector, keep_points, crop)) if detector or crop != Crop() else {}
        _check_same_source(name, data_dir, raw, options, recipe)
        return place
    with scratch_folder(full_name(name), Path(data_dir)) as scratch:
        builder = _builder(name, scratch / "set", raw, options)
        job = Job(builder, scratch / "parts", detector, keep_points, crop)
        rows = read_rows(builder)
        protocols = builder.protocols(rows) | published.protocols(builder, rows)
        made = write_set(job, full_name(name), rows, protocols, scratch, max_bad_share, runner)
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists():
            place.rename(scratch / "old")
        made.rename(place)  # two renames in one file system: the old set goes only once the new one is whole
    return place


def is_prepared(name: str, data_dir: str | Path) -> bool:
    place = _place(name, data_dir)
    return (place / index.SUMMARY).is_file() and (place / index.INDEX).is_file()


def builder_class(name: str) -> type[FaceSet]:
    """The row of BUILDERS that a data name means. Raises DataError, with the nearest ones."""
    base, _, variant = name.partition("@")[0].partition("/")
    if base not in BUILDERS:
        near = difflib.get_close_matches(base, BUILDERS, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise DataError(f"no data set {name!r}: {hint}there are {', '.join(BUILDERS)}")
    known = [config.name for config in BUILDERS[base].BUILDER_CONFIGS]
    if variant not in ("", *known) and not (BUILDERS[base].MANY and re.fullmatch(r"[A-Za-z][\w-]*", variant)):
        raise DataError(f"no data set {name!r}: " + (f"{base} has {', '.join(known)}" if known else f"try {base!r}"))
    return BUILDERS[base]


def full_name(name: str) -> str:
    """`synthetic` is `synthetic/wild`: the first config is the default. Without the protocol."""
    stem = name.partition("@")[0]
    configs = builder_class(name).BUILDER_CONFIGS
    return f"{stem}/{configs[0].name}" if configs and "/" not in stem else stem


def _place(name: str, data_dir: str | Path) -> Path:
    return Path(data_dir, full_name(name), str(builder_class(name).VERSION))


def _builder(name: str, data_dir: Path, raw: str | Path | None, options: dict) -> FaceSet:
    made_by = builder_class(name)
    config = full_name(name).partition("/")[2] if made_by.BUILDER_CONFIGS else None
    return made_by(raw=raw, options=options, data_dir=data_dir, config=config, file_format="array_record")


def _check_same_source(name, data_dir, raw, options: dict, recipe: dict) -> None:
    """A changed list, another count or another detector must not be answered with the old records."""
    asked = options if raw is None else _builder(name, Path(data_dir), raw, options).made_from()
    known = summary(name, data_dir)
    made = known["source"] | known["recipe"]
    asked = json.loads(json.dumps(asked | recipe, default=str))
    if changed := [key for key in asked if asked[key] != made.get(key)]:
        key = changed[0]
        raise DataError(
            f"{name} was prepared in {data_dir} from other input ({key} {made.get(key)!r}, "
            f"now {asked[key]!r}): --overwrite replaces it"
        )


def _check_options(name: str, max_bad_share: float | None, size: int, options: dict) -> None:
    known = builder_class(name).options_taken()
    if "@" in name:
        raise DataError(f"{name}: all protocols are prepared together; leave out {name[name.index('@') :]}")
    if wrong := sorted(options.keys() - known.keys()):
        near = difflib.get_close_matches(wrong[0], known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise DataError(f"{name} takes no option {wrong[0]!r}; {hint}it takes {', '.join(known) or 'none'}")
    if max_bad_share is not None and not 0 <= max_bad_share <= 1:
        raise DataError(f"{name}: max_bad_share is {max_bad_share:g}; give a share from 0 to 1")
    if size < 0 or 0 < size < 16:
        raise DataError(f"{name}: size is {size}; give 0 (images as found), or 16 pixels or more")


def _check_raw(name: str, raw: str | Path | None) -> None:
    made_by = builder_class(name)
    if not made_by.NEEDS and raw is not None:
        raise DataError(f"{name} is made here: leave --raw out")
    if made_by.NEEDS and raw is None:
        raise DataError(f"{name} needs --raw: {made_by.NEEDS}")
    if raw is not None and not (Path(raw).is_dir() if made_by.FOLDER else Path(raw).is_file()):
        what = f"not a {'folder' if made_by.FOLDER else 'file'}" if Path(raw).exists() else "not there"
        raise DataError(f"{name}: {raw} is {what}; --raw must name {made_by.NEEDS}")
