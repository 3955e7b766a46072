"""Who is in which part: seeded, the same on every machine. All give one answer per key, in the order of the keys."""

import bisect
import collections
import hashlib
import itertools
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction

from data_pipelines.errors import DataError


def hash_split(keys: Iterable[str], shares: Mapping[str, float], seed: int = 0) -> dict[str, str]:
    """Key → split name. Each key's place in [0, 1) is its hash; the shares cut that line in their order.

    The sizes are thus near the shares, not equal to them, and an example keeps its split when the data set grows. No
    split stays empty while there are as many keys as splits.
    """
    places = {key: place(seed, key) for key in keys}
    ordered = sorted(places, key=places.get)
    line = [places[key] for key in ordered]
    names, total, start, result = list(shares), 0.0, 0, {}
    for i, name in enumerate(names):
        total += shares[name]
        later = len(names) - 1 - i
        end = len(line) if not later else bisect.bisect_left(line, total)
        end = max(min(end, len(line) - later), start + 1) if start < len(line) else start
        result |= dict.fromkeys(ordered[start:end], name)
        start = end
    return result


def place(seed: int, key: str) -> float:
    """Where a key lies in [0, 1)."""
    digest = hashlib.sha256(f"{seed}\0{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def random_split(
    keys: Sequence[str], sizes: Mapping[str, float], seed: int = 0, strata: Sequence[Hashable] | None = None
) -> list[str]:
    """A split name per key, of exact sizes (largest remainder); with strata, within each stratum.

    sizes are shares that add up to 1, or counts that add up to len(keys). With strata the totals stay as exact as
    without, and each stratum is within one of its part of every total. Raises DataError.
    """
    totals, result = _totals(sizes, len(keys)), [""] * len(keys)
    parts = list(_in_parts(_in_seeded_order(keys, seed), strata).values())
    for members, counts in zip(parts, _shared_out([len(members) for members in parts], totals)):
        names = itertools.chain.from_iterable(map(itertools.repeat, sizes, counts))
        for member, name in zip(members, names):
            result[member] = name
    return result


def k_fold(
    keys: Sequence[str],
    k: int,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
) -> list[int]:
    """A fold 0 … k-1 per key, sizes as equal as can be; with groups (subjects) nobody is in two folds.

    Without groups the folds, and each stratum in them, are equal to within one. With groups each goes whole, the
    largest first, to the fold that has least of what it brings: examples, and examples of its strata. Raises DataError.
    """
    order, result = _in_seeded_order(keys, seed), [-1] * len(keys)
    whole = _in_parts(order, groups if groups is not None else range(len(keys)))
    if not 2 <= k <= len(whole):
        what = "examples" if groups is None else "groups"
        raise DataError(f"cannot make {k} folds of {len(whole):,} {what}: give 2 or more, and at most one for each")
    if groups is None:
        dealt = itertools.chain.from_iterable(_in_parts(order, strata).values())
        for i, member in enumerate(dealt):
            result[member] = i % k
        return result
    for members, fold in _groups_in_folds(list(whole.values()), k, strata):
        for member in members:
            result[member] = fold
    return result


def largest_remainder(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers that add up to total, each within one of weight · total / sum of weights.

    What rounding down leaves goes to the largest remainders, of equal ones to the first. The sums are exact: a weight
    is the decimal number that it is printed as.
    """
    exact = [Fraction(str(weight)) for weight in weights]
    if min(exact, default=0) < 0 or not sum(exact):
        raise DataError(f"cannot share {total:,} out by {list(weights)}: weights must be 0 or more, and not all 0")
    quotas = [weight * total / sum(exact) for weight in exact]
    counts = [int(quota) for quota in quotas]
    remainders = [quota - count for quota, count in zip(quotas, counts)]
    for i in sorted(range(len(counts)), key=remainders.__getitem__, reverse=True)[: total - sum(counts)]:
        counts[i] += 1
    return counts


def _totals(sizes: Mapping[str, float], examples: int) -> list[int]:
    """Examples in each split."""
    given = sum(Fraction(str(size)) for size in sizes.values())
    if given != examples and abs(given - 1) > 1e-9:
        listed = ", ".join(f"{name} {size:g}" for name, size in sizes.items())
        raise DataError(f"sizes ({listed}) add up to {float(given):g}: give shares of 1, or counts of {examples:,}")
    return largest_remainder(list(sizes.values()), examples)


def _in_seeded_order(keys: Sequence[str], seed: int) -> list[int]:
    """Positions of the keys by their place: the set of keys alone decides, not the order in which they come."""
    if len(set(keys)) < len(keys):
        twice = next(key for key, count in collections.Counter(keys).items() if count > 1)
        raise DataError(f"{twice} is listed twice: examples must have names of their own to be split")
    return sorted(range(len(keys)), key=lambda i: (place(seed, keys[i]), keys[i]))


def _in_parts(order: Iterable[int], labels: Sequence[Hashable] | None) -> dict[Hashable, list[int]]:
    """Positions by label, labels and positions in the given order; without labels one part."""
    order = list(order)
    if labels is not None and len(labels) != len(order):
        raise DataError(f"{len(labels):,} groups or strata for {len(order):,} examples: give one for each")
    parts = collections.defaultdict(list)
    for i in order:
        parts[labels[i] if labels is not None else None].append(i)
    return parts


def _shared_out(sizes: list[int], totals: list[int]) -> Iterator[list[int]]:
    """For each stratum its count in each split: rows add up to sizes, columns to totals, all within one of even shares.

    What rounding down leaves in a row goes to the columns that still lack most, which always ends even (Gale 1957).
    """
    examples = sum(totals)
    rows = [[size * total // examples for total in totals] for size in sizes]
    lacking = [total - sum(column) for total, column in zip(totals, zip(*rows))]
    for size, row in zip(sizes, rows):
        remainder = [size * total % examples for total in totals]
        neediest = sorted(range(len(row)), key=lambda j: (lacking[j], remainder[j]), reverse=True)
        for j in neediest[: size - sum(row)]:
            row[j] += 1
            lacking[j] -= 1
        yield row


def _groups_in_folds(groups: list[list[int]], k: int, strata: Sequence[Hashable] | None) -> Iterator:
    """(members, fold) of each group. Stable: groups of one size stay in their order."""
    everyone = object()  # all examples are one more stratum
    size = collections.Counter(strata if strata is not None else ())
    size[everyone] = sum(map(len, groups))
    held = [collections.Counter() for _ in range(k)]
    for members in sorted(groups, key=len, reverse=True):
        brings = collections.Counter(strata[i] for i in members) if strata is not None else collections.Counter()
        brings[everyone] = len(members)
        crowd = [sum(fold[s] * n / size[s] for s, n in brings.items()) for fold in held]
        fold = crowd.index(min(crowd))
        held[fold].update(brings)
        yield members, fold


def fold_protocols(name: str, folds: Sequence[int], first: int = 0) -> dict[str, list[str]]:
    """`name_0`, `name_1`, …: each fold in turn is test, all others train; a fold below 0 is in neither."""
    tests = range(max(folds) + 1)
    return {
        f"{name}_{test + first}": ["" if fold < 0 else "test" if fold == test else "train" for fold in folds]
        for test in tests
    }
