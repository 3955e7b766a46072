"""A builder's rows → a prepared set: parts written one by one or by Apache Beam, resumed where they were left.

The parts lie in a hidden folder beside the final place until all are there. A build that was killed goes on from the
parts that are finished; one that fails for a user's mistake leaves nothing.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.records import index, reading
from data_pipelines.records.face_set import DataError, FaceSet, Row
from data_pipelines.records.progress import faces_progress
from data_pipelines.records.shards import PART, Job, Part, sidecar, write_part
from data_pipelines.schema import SPLITS

PLAN = "plan.json"
NAMED = 5  # unusable images that an error names

Runner = Callable[[Callable[[Part], None], list[Part]], None]
"""Calls a function for every part, somewhere: what beam.runner() gives."""


def write_set(
    job: Job,
    name: str,
    rows: list[Row],
    protocols: dict[str, list[str]],
    scratch: Path,
    max_bad_share: float | None,
    runner: Runner | None,
) -> Path:
    """Writes the whole set below scratch and returns its folder. rows and protocols as FaceSet has them, the rows
    through read_rows(). Raises DataError."""
    builder, folder, parts = job.builder, job.folder, _parts(rows)
    source = builder.made_from()
    _check_plan(scratch, folder, {"name": name, "source": source, "recipe": make_recipe(job)})
    share = builder.MAX_BAD_SHARE if max_bad_share is None else max_bad_share
    outcome = _Outcome(builder, folder, len(rows), share)
    write_all(job, parts, outcome, runner)
    outcome.check_all()

    columns, skipped = index.gather(folder, builder.name, parts, _by_split(rows, protocols))
    builder.finished = {
        split: [(folder / part.file(builder.name), lengths[part.number]) for part in parts if part.split == split]
        for split, lengths in outcome.lengths.items()
    }
    with _quiet_tfds():
        builder.download_and_prepare()
    place = Path(builder.data_dir)
    index.write(place, columns)
    left_out = [(file, reason) for file, reason, _ in builder.skipped] + skipped
    recipe = make_recipe(job, looked=bool((columns["faces"] >= 0).any()))
    stored = reading.open_stored(place)
    summary = index.summarise(
        builder, name, source, columns, left_out, recipe, lambda row: reading.parse(stored[row])["id"]
    )
    text = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
    (place / index.SUMMARY).write_text(text, encoding="utf-8", errors="replace")
    return place


def make_recipe(job: Job, looked: bool = True) -> dict:
    """How the faces of a set were found and cropped: stored with the set and with every checkpoint trained on it.

    looked: whether the detector was asked at all; where the set gives all points, it does not matter which it was.
    """
    detector = job.detector if looked else None
    found_by = {"name": "given"}
    if detector is not None:
        found_by = {"name": detector.name, "given_first": job.keep_points} | detector.settings
    crop = {"size": job.crop.size} | ({"face_scale": job.crop.face_scale} if job.crop.size else {})
    return {"detector": found_by, "template": "arcface"} | crop


def write_all(job: Job, parts: list[Part], outcome: "_Outcome", runner: Runner | None) -> None:
    """Every part, here or by the runner. Raises DataError where too many images cannot be used."""
    if runner is not None:
        runner(_Write(job), parts)
        outcome.check(parts)
        return
    for split in dict.fromkeys(part.split for part in parts):
        mine = [part for part in parts if part.split == split]
        with faces_progress(f"{job.builder.name} {split}", sum(len(part.rows) for part in mine)) as advance:
            for part in mine:
                write_part(job, part, advance)
                outcome.check([part])


class _Write:
    """write_part for one job, as Beam can send it to a worker."""

    def __init__(self, job: Job):
        self.job = job

    def __call__(self, part: Part) -> None:
        write_part(self.job, part)


class _Outcome:
    """What became of the parts: how many records each holds; stops a build that has too many unusable images."""

    def __init__(self, builder: FaceSet, folder: Path, total: int, share: float):
        self.builder, self.folder, self.share = builder, folder, share
        self.named = [f"{skipped.file} ({skipped.reason})" for skipped in builder.skipped if skipped.bad]
        self.total = total + len(self.named)
        self.allowed = max(int(share * self.total), 1) if share > 0 else 0
        self.lengths: dict[str, list[int]] = {}

    def check(self, parts: list[Part]) -> None:
        for part in parts:
            with np.load(sidecar(self.folder / part.file(self.builder.name))) as stored:
                self.named += [f"{file} ({reason})" for file, reason in json.loads(str(stored["skipped"]))]
                self.lengths.setdefault(part.split, []).append(len(stored["row"]))
            if part.number == part.count - 1 and not any(self.lengths[part.split]):
                del self.lengths[part.split]
                self.builder.warn(f"no usable image is left in split {part.split}")
        if len(self.named) > self.allowed:
            raise DataError(
                f"{self.builder.name}: more than {self.allowed} of {self.total} images cannot be used: "
                f"{self._first()}; mend them, or allow more with --max_bad_share (now {self.share:g})"
            )

    def check_all(self) -> None:
        """At the end."""
        if not self.lengths:
            raise DataError(f"{self.builder.name}: no usable image is left: {self._first()}")

    def _first(self) -> str:
        return ", ".join(self.named[:NAMED]) + (", …" if len(self.named) > NAMED else "")


def read_rows(builder: FaceSet) -> list[Row]:
    """The builder's rows, checked: there are some, each is in a split, no two have one id. Raises DataError."""
    rows = builder.rows()
    if not rows:
        why = f"; {builder.skipped[0].file}: {builder.skipped[0].reason}" if builder.skipped else ""
        raise DataError(f"{builder.name}: nothing to read in {builder.raw}: {builder.NEEDS} was expected{why}")
    seen = set()
    for row in rows:
        if row.split not in SPLITS:
            raise ValueError(f"{builder.name}: {row.id} is in split {row.split!r}, expected one of {', '.join(SPLITS)}")
        if row.id in seen:
            raise DataError(f"{builder.name}: {row.id} is there twice; keep one")
        seen.add(row.id)
    return rows


def _parts(rows: list[Row]) -> list[Part]:
    parts = []
    for split in SPLITS:
        mine = [row for row in rows if row.split == split]
        starts = range(0, len(mine), PART)
        parts += [
            Part(split, number, len(starts), start, mine[start : start + PART]) for number, start in enumerate(starts)
        ]
    return parts


def _by_split(rows: list[Row], protocols: dict[str, list[str]]) -> dict[str, dict[str, np.ndarray]]:
    """Protocol → split → the protocol's own split of each of its rows, as numbers."""
    of = np.array([SPLITS.index(row.split) for row in rows])
    numbers = {name: number for number, name in enumerate(SPLITS)} | {"": -1}
    result = {}
    for protocol, names in protocols.items():
        column = np.array([numbers[name] for name in names], np.int8)
        result[protocol] = {split: column[of == number] for number, split in enumerate(SPLITS)}
    return result


def _check_plan(scratch: Path, folder: Path, plan: dict) -> None:
    """Empties the folder of finished parts where they were made for another plan."""
    text = json.dumps(plan, sort_keys=True, default=str)
    if not (scratch / PLAN).exists() or (scratch / PLAN).read_text(encoding="utf-8") != text:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (scratch / PLAN).write_text(text, encoding="utf-8")


@contextlib.contextmanager
def scratch_folder(name: str, data_dir: Path) -> Iterator[Path]:
    """A hidden folder in data_dir for one build at a time. It stays when the build is interrupted, and only then."""
    scratch = data_dir / f".preparing-{name.replace('/', '-')}"
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        lock = os.open(scratch, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"cannot write in {data_dir}: {error.strerror}; name another --data_dir") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise DataError(f"{name} is being prepared in {data_dir} by another process; wait for it") from None
    try:
        for torn in scratch.glob("set*"):  # of a build that was killed at its end; its parts that are left count
            shutil.rmtree(torn)
        yield scratch
        shutil.rmtree(scratch)
    except DataError:
        shutil.rmtree(scratch)
        raise
    finally:
        os.close(lock)


@contextlib.contextmanager
def _quiet_tfds():
    """Its announcements go to stdout as if they were results, and its bars do not know how many faces there are."""
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(None):
            yield
    finally:
        tfds.enable_progress_bar()
