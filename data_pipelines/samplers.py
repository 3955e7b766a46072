"""Which examples are trained on, and in what order: options for a stage, over plain functions for a notebook.

A selection says which rows of a split are used: an array of row numbers, in which one may stand several times. An order
says which of them stands at position i of the endless training stream, as a pure function of (seed, i).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import grain
import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.schema import AGE_RANGE
from data_pipelines.splits import largest_remainder

AGES = np.arange(AGE_RANGE[0], AGE_RANGE[1] + 1, dtype=np.int64)  # the years that a distribution is imposed on


class Source(Protocol):
    """Records as in schema.py at random access, and whole columns of them; picklable where there are workers."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> dict: ...

    def column(self, name: str) -> np.ndarray: ...


class Subset:
    """The given rows of a source as a source; a row may stand in them several times.

    Identities are numbered anew, 0 … n-1 in the order of their old numbers, so that a head for them has n classes.
    """

    def __init__(self, source: Source, rows: np.ndarray):
        self.source, self.rows = source, np.asarray(rows, np.int64)
        self.identities = renumber(source.column("identity")[self.rows])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict:
        return self.source[int(self.rows[row])] | {"identity": self.identities[row]}

    def column(self, name: str) -> np.ndarray:
        return self.identities if name == "identity" else self.source.column(name)[self.rows]


# orders


@dataclass(frozen=True)
class Shuffle:
    """Every example once an epoch, each epoch in a new order."""

    def stream(self, source: Source, target: str, seed: int) -> grain.MapDataset:
        """Endless row numbers of a source that is not empty."""
        return grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()


@dataclass(frozen=True)
class ClassBalanced:
    """Each position draws a class, all alike, then one of its examples, all alike: P = 1 / (C · n_c). LAE, stage 2.

    A class is an identity, or the labels nearest to one multiple of `width` (24.5 belongs to 25); classes without
    examples do not count. An epoch is as many draws as there are examples. Raises DataError where a label is missing.
    """

    width: float = 1.0
    """In the label's unit."""

    def __post_init__(self):
        if not self.width > 0:
            raise DataError(f"order ClassBalanced: width must be above 0, got {self.width:g}")

    def stream(self, source: Source, target: str, seed: int) -> grain.MapDataset:
        """Endless row numbers, by the classes of the column `target`."""
        classes, counts = _classes(_known(source, target), self.width)
        pick = partial(_pick, np.argsort(classes, kind="stable"), np.cumsum(counts) - counts, counts)
        return grain.MapDataset.range(len(source)).seed(seed).repeat().random_map(pick)


def _pick(members: np.ndarray, starts: np.ndarray, counts: np.ndarray, _: int, rng: np.random.Generator) -> int:
    """members: rows sorted by class; starts and counts: where each class lies in them."""
    chosen = rng.integers(len(counts))
    return int(members[starts[chosen] + rng.integers(counts[chosen])])


def class_balanced_probabilities(labels: np.ndarray, width: float = 1.0) -> np.ndarray:
    """How likely ClassBalanced draws each example: float64 (n,), sum 1."""
    classes, counts = _classes(labels, width)
    return 1 / (len(counts) * counts[classes])


def _classes(labels: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """(class 0 … C-1 of each label, examples in each class)."""
    return np.unique(nearest(labels, width), return_inverse=True, return_counts=True)[1:]


def nearest(labels: np.ndarray, width: float = 1.0) -> np.ndarray:
    """int64 number of the multiple of width (above 0) that each label is nearest to, the upper one in the middle."""
    return np.floor(np.asarray(labels, np.float64) / width + 0.5).astype(np.int64)


# selections

OpenSplit = Callable[[str, str], Source]  # (data name, split) → its examples


@dataclass(frozen=True)
class Everything:
    """All examples of the split."""

    def choose(self, source: Source, seed: int, open_split: OpenSplit) -> tuple[Source, str]:
        """(the chosen examples, what was done in words). Raises DataError where nothing is left, or labels lack."""
        return source, ""


@dataclass(frozen=True)
class NShot:
    """n examples by chance. A larger n holds those of a smaller one, for one seed and trial."""

    n: int = 0
    trial: int = 0
    """Which repetition: another one has other examples."""

    def choose(self, source: Source, seed: int, open_split: OpenSplit) -> tuple[Source, str]:
        rows = n_shot(len(source), self.n, seed, self.trial)
        return Subset(source, rows), f"drawn from {len(source):,}, trial {self.trial}"


@dataclass(frozen=True)
class Imposed:
    """Examples repeated or left out until their ages have another distribution. Early Adaptation, Eqs 2 and 3."""

    distribution: Literal["uniform", "matched", "original"] = "uniform"
    like: str = ""
    """matched: the set whose ages are matched, NAME or NAME:SPLIT (train if left out)."""
    budget: int = 0
    """Examples in all; 0: four times those of the split (original: each once)."""
    trial: int = 0
    """Which repetition: another one draws others where not all can be taken."""

    def choose(self, source: Source, seed: int, open_split: OpenSplit) -> tuple[Source, str]:
        name, _, split = self.like.partition(":")
        like = _known(open_split(name, split or "train"), "age") if name else None
        ages = _known(source, "age")
        counts = imposed_counts(self.distribution, ages, like, self.budget)
        rows, lost = fill(ages, counts, _chance(seed, self.trial))
        told = f"{np.unique(rows).size:,} different ones, ages {self.distribution} {self.like}".rstrip()
        return Subset(source, rows), told + _told_lost(lost, counts.sum())


@dataclass(frozen=True)
class MinPerIdentity:
    """Examples of identities that have at least so many in the split; these are numbered anew, as Subset says."""

    count: int = 1

    def choose(self, source: Source, seed: int, open_split: OpenSplit) -> tuple[Source, str]:
        identities = source.column("identity")
        rows = frequent(identities, self.count)
        kept, known = (np.unique(numbers[numbers >= 0]).size for numbers in (identities[rows], identities))
        told = f"of {len(source):,}: {kept:,} of {known:,} identities have {self.count} or more"
        return Subset(source, rows), told


def n_shot(examples: int, n: int, seed: int = 0, trial: int = 0) -> np.ndarray:
    """int64 (n,): the first n rows of one permutation of all, which hangs on seed and trial."""
    if not 1 <= n <= examples:
        raise DataError(f"n is {n:,}: give 1 to {examples:,}, which is how many there are")
    return _chance(seed, trial).permutation(examples)[:n]


def trials(n: int, n_full: int) -> int:
    """How often Early Adaptation repeats a fine-tuning on n examples of a set of n_full, training and test together.

    32 times up to 0.5 % of them, 16 up to 1 %, and so on; once above 8 %.
    """
    return next((32 >> k for k in range(5) if 1000 * n <= 5 * n_full << k), 1)


def imposed_counts(distribution: str, ages: np.ndarray, like: np.ndarray | None = None, budget: int = 0) -> np.ndarray:
    """How many examples of each age 0 … 100 are wanted: int64 (101,), exact in sum by largest remainder.

    ages: those at hand, N of them, in years; like: those to be matched. A real-valued age belongs to the nearest year,
    half a year to the upper. The sum is 4 N as in Eqs 2 and 3 of Early Adaptation (original: N), or the budget.
    """
    if budget < 0:
        raise DataError(f"budget must be 0 or more, got {budget}")
    if (distribution == "matched") != (like is not None):
        need = "needs a set whose ages are matched: give like=NAME" if like is None else "takes no set to be like"
        raise DataError(f"the {distribution} distribution {need}")
    pattern = {"uniform": AGES, "matched": like, "original": ages}[distribution]
    total = budget or len(ages) * (1 if distribution == "original" else 4)
    return np.array(largest_remainder(histogram(pattern).tolist(), total), np.int64)


def histogram(ages: np.ndarray) -> np.ndarray:
    """Examples of each age 0 … 100, int64 (101,)."""
    return np.bincount(nearest(ages), minlength=len(AGES))


def fill(ages: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(rows, lost): rows of which counts[a] have age a, and the int64 (101,) counts of ages that nobody has.

    Of one age all rows are repeated as often as they go in whole; the rest is drawn, none twice.
    """
    years, rows, lost = nearest(ages), [], np.zeros_like(counts)
    for age in np.flatnonzero(counts):
        members = np.flatnonzero(years == age)
        if not members.size:
            lost[age] = counts[age]
            continue
        times, rest = divmod(int(counts[age]), members.size)
        rows += [np.tile(members, times), rng.choice(members, rest, replace=False)]
    if lost.sum() == counts.sum():
        raise DataError("there is no example of any age that is wanted: choose another distribution or data set")
    return np.concatenate(rows), lost


def frequent(identities: np.ndarray, count: int) -> np.ndarray:
    """int64 rows of identities that have at least `count` rows; -1, not known, is none."""
    _, index, sizes = np.unique(identities, return_inverse=True, return_counts=True)
    rows = np.flatnonzero((identities >= 0) & (sizes >= count)[index])
    if not rows.size:
        raise DataError(f"no identity has {count} or more examples: lower the count")
    return rows


def renumber(identities: np.ndarray) -> np.ndarray:
    """int32 numbers 0 … n-1 in the order of the old ones; -1 stays."""
    known = np.unique(identities[identities >= 0])
    return np.where(identities < 0, -1, np.searchsorted(known, identities)).astype(np.int32)


def _chance(seed: int, trial: int) -> np.random.Generator:
    if trial < 0:
        raise DataError(f"trial is {trial}: give 0 or more")
    return np.random.default_rng([seed, trial])


def _known(source: Source, name: str) -> np.ndarray:
    """A column without gaps."""
    values = source.column(name)
    missing = np.isnan(values) if values.dtype.kind == "f" else values < 0
    if missing.any():
        raise DataError(f"{missing.sum():,} of {len(values):,} examples have no {name}: choose by what all have")
    return values


def _told_lost(lost: np.ndarray, wanted: int) -> str:
    if not lost.any():
        return ""
    ages = ", ".join(map(str, np.flatnonzero(lost)))
    return f"; nobody is {ages} years old, which loses {lost.sum() / wanted:.1%} of {wanted:,}"


ORDERS = {"Shuffle": Shuffle, "ClassBalanced": ClassBalanced}
SELECTIONS = {"Everything": Everything, "NShot": NShot, "Imposed": Imposed, "MinPerIdentity": MinPerIdentity}
