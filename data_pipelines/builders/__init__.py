"""Prepared data sets: the one table of builders, preparing them, and reading their splits at random.

`open_split("aaf", "data", "train")[7]` is a record of schema.py. Reading needs no builder class: what is on disk is an
ordinary TFDS directory of ArrayRecord files, `data/aaf/1.0.0`, with a summary.json beside the records.
"""

import contextlib
import difflib
import io
import json
import re
import shlex
import tempfile
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.builders.aaf import Aaf
from data_pipelines.builders.base import SUMMARY, DataError, FaceSet
from data_pipelines.builders.manifest import Manifest
from data_pipelines.builders.synthetic import Synthetic

BUILDERS: dict[str, type[FaceSet]] = {
    "aaf": Aaf,
    "manifest": Manifest,
    "synthetic": Synthetic,
}


class Split:
    """One split, or several joined: `len()`, and `[i]` gives a record. Files open at the first read, in each worker."""

    def __init__(self, folder: Path, split: str):
        self.name = f"{folder}:{split}"
        skip = {"image": tfds.decode.SkipDecoding()}
        self._source = tfds.builder_from_directory(folder).as_data_source(split, decoders=skip)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict:
        row = self._source[range(len(self))[index]]
        numbers = {key: np.float32(row[key]) for key in ("age", "sigma", "attractiveness", "attractiveness_sigma")}
        return {
            "id": row["id"].decode(),
            "image": row["image"],
            **numbers,
            "identity": np.int32(row["identity"]),
            "landmarks": row["landmarks"],
        }

    def __repr__(self) -> str:
        return f"Split({self.name}, {len(self)} records)"


def open_split(name: str, data_dir: str | Path, split: str) -> Split:
    """Random access to a prepared split: train, val, test, several joined (`train+val`), or `all`. Raises DataError."""
    known = summary(name, data_dir)["splits"]
    for part in split.split("+"):
        if part not in known and split != "all":
            raise DataError(f"{name} has no split {part!r}: it has {', '.join(known)}; `all` and `train+val` join them")
    return Split(prepared_dir(name, data_dir), split)


def summary(name: str, data_dir: str | Path) -> dict:
    """The set's summary.json: counts per split, identities, ages, labels present, what was skipped and why."""
    return json.loads((prepared_dir(name, data_dir) / SUMMARY).read_text(encoding="utf-8"))


def prepared_dir(name: str, data_dir: str | Path) -> Path:
    """Where the prepared set lies. Raises DataError, with the command that prepares it, where it does not."""
    if not is_prepared(name, data_dir):
        raw = "--raw=RAW " if (needs := _builder_class(name).NEEDS) else ""
        command = f"python experiments/prepare.py --data={name} {raw}--data_dir={shlex.quote(str(data_dir))}"
        raise DataError(f"{name} is not prepared in {data_dir}: run `{command}`" + (f"; RAW is {needs}" if raw else ""))
    return _place(name, data_dir)


def prepare(
    name: str,
    data_dir: str | Path,
    raw: str | Path | None = None,
    *,
    overwrite: bool = False,
    max_bad_share: float = 0.01,
    **options,
) -> Path:
    """Writes the set's records and summary under data_dir and returns their folder.

    raw: what was downloaded; options: the set's own (synthetic: faces, size, seed). What is prepared already stays,
    unless `overwrite`; a build that fails leaves nothing, and does not touch what was there. Raises DataError.
    """
    place, ready = _place(name, data_dir), is_prepared(name, data_dir) and not overwrite
    _check_options(name, max_bad_share, options)
    if raw is not None or not ready:
        _check_raw(name, raw)
    if ready:
        _check_same_source(name, data_dir, raw, options)
        return place
    with _scratch_folder(name, Path(data_dir)) as scratch:
        builder = _builder(name, scratch, raw=raw, max_bad_share=max_bad_share, options=options)
        with _quiet_tfds():
            builder.download_and_prepare()
        builder.write_summary(_full_name(name))
        _swap(Path(builder.data_dir), place, scratch)
    return place


def is_prepared(name: str, data_dir: str | Path) -> bool:
    return (_place(name, data_dir) / SUMMARY).is_file()


def _builder_class(name: str) -> type[FaceSet]:
    base, _, variant = name.partition("/")
    if base not in BUILDERS:
        near = difflib.get_close_matches(base, BUILDERS, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise DataError(f"no data set {name!r}: {hint}there are {', '.join(BUILDERS)}")
    known = [config.name for config in BUILDERS[base].BUILDER_CONFIGS]
    if "/" in name and variant not in known and not (BUILDERS[base].MANY and re.fullmatch(r"[A-Za-z][\w-]*", variant)):
        raise DataError(f"no data set {name!r}: " + (f"{base} has {', '.join(known)}" if known else f"try {base!r}"))
    return BUILDERS[base]


def _full_name(name: str) -> str:
    """`synthetic` is `synthetic/wild`: the first config is the default."""
    configs = _builder_class(name).BUILDER_CONFIGS
    return f"{name}/{configs[0].name}" if configs and "/" not in name else name


def _place(name: str, data_dir: str | Path) -> Path:
    return Path(data_dir, _full_name(name), str(_builder_class(name).VERSION))


def _builder(name: str, data_dir: Path, **kwargs) -> FaceSet:
    builder_class = _builder_class(name)
    config = _full_name(name).partition("/")[2] if builder_class.BUILDER_CONFIGS else None
    return builder_class(data_dir=data_dir, config=config, file_format="array_record", **kwargs)


def _check_same_source(name: str, data_dir: str | Path, raw: str | Path | None, options: dict) -> None:
    """A changed list, or another count, must not be answered with the old records."""
    asked = options if raw is None else _builder(name, Path(data_dir), raw=raw).source()
    made = summary(name, data_dir)["source"]
    if changed := [key for key in asked if asked[key] != made.get(key)]:
        key = changed[0]
        raise DataError(
            f"{name} was prepared in {data_dir} from other input ({key} {made.get(key)!r}, "
            f"now {asked[key]!r}): --overwrite replaces it"
        )


def _check_options(name: str, max_bad_share: float, options: dict) -> None:
    known = _builder_class(name).OPTIONS
    if wrong := sorted(options.keys() - known.keys()):
        raise DataError(f"{name} takes no option {wrong[0]!r}; it takes {', '.join(known) or 'none'}")
    if not 0 <= max_bad_share <= 1:
        raise DataError(f"{name}: max_bad_share is {max_bad_share:g}; give a share from 0 to 1")


def _check_raw(name: str, raw: str | Path | None) -> None:
    builder_class = _builder_class(name)
    if not builder_class.NEEDS and raw is not None:
        raise DataError(f"{name} is made here: leave --raw out")
    if builder_class.NEEDS and raw is None:
        raise DataError(f"{name} needs --raw: {builder_class.NEEDS}")
    if raw is not None and not (Path(raw).is_dir() if builder_class.FOLDER else Path(raw).is_file()):
        what = f"not a {'folder' if builder_class.FOLDER else 'file'}" if Path(raw).exists() else "not there"
        raise DataError(f"{name}: {raw} is {what}; --raw must name {builder_class.NEEDS}")


@contextlib.contextmanager
def _quiet_tfds():
    """Its announcements go to stdout as if they were results, and its bars do not know how many faces there are."""
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()


@contextlib.contextmanager
def _scratch_folder(name: str, data_dir: Path):
    """A folder beside the final one, gone afterwards whatever happens."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=f".preparing-{name.replace('/', '-')}-", dir=data_dir)
    except OSError as error:
        raise DataError(f"cannot write in {data_dir}: {error.strerror}; name another --data_dir") from None
    with scratch as path:
        yield Path(path)


def _swap(new: Path, place: Path, scratch: Path) -> None:
    """Two renames in one file system: the old set goes only once the new one is whole."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        place.rename(scratch / "old")
    new.rename(place)
