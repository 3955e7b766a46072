"""What is wrong with a set of faces, or worth knowing, from the columns of its index alone: no picture is read.

A finding is `{"kind", "severity", "text", "count", "examples"}`: the text one plain sentence, the examples at most
EXAMPLES lists of rows in the stored order (under `protocol`, where it is named). Severities: leak (splits share what
they must not), warning, note.
"""

import collections
import re
from itertools import combinations
from typing import NamedTuple

import numpy as np

from data_pipelines.duplicates import CROWD, MOST_PAIRS, bits_for, equal_pairs, groups, near_pairs
from data_pipelines.schema import SPLITS

SEVERITIES = ("leak", "warning", "note")
PROTOCOL = "protocol:"
EXAMPLES, NAMED, VALUES = 20, 5, 12  # rows of a finding; protocols in a sentence; words of a column that are counted
OFTEN = 10  # times that one file occurs: more is hardly an accident
FAR = 5.0  # years
WITHOUT_FACE = 0.05  # share of the pictures; above it something is wrong with the pictures or the detector
WHAT = {"identical": "byte-identical files", "similar": "near-duplicate pictures"}
NO_PAIRS = np.empty((0, 2), np.int64)


class Across(NamedTuple):
    """What lies in more than one split: how often, in which two, and some of the rows, (M, 2)."""

    count: int
    between: dict[str, int]  # `train and test` → count
    examples: np.ndarray


def audit(columns: dict[str, np.ndarray], summary: dict) -> dict:
    """Findings, most severe first, and the numbers behind them: JSON, the same for the same input, a few kB.

    columns: those of records/index.py, each (N,), phash (N, n); only `split` must be there. Of the summary `trains`,
    `expected`, `skipped` and `detector` are read.
    """
    splittings, identity = _splittings(columns), columns.get("identity", np.empty(0, np.int32))
    pairs, bits = _pairs(columns)
    across = {
        kind: {name: _pairs_across(found, split) for name, split in splittings.items()}
        for kind, found in pairs.items()
    }  # fmt: skip
    across["subjects"] = {name: _subjects_across(identity, split) for name, split in splittings.items()}
    counts = _counts(splittings, summary.get("expected") or {})
    findings = _count_findings(counts, len(columns["split"]), len(summary.get("skipped") or ()))
    for kind, found in pairs.items():
        findings += _pair_findings(kind, found, columns) + _leaks(kind, f"pair of {WHAT[kind]}", across[kind])
    findings += _subject_findings(identity, across["subjects"], summary.get("trains", "age"))
    findings += _picture_findings(columns, summary.get("detector") != "none") + _label_findings(
        columns, summary.get("trains", "age")
    )
    return {
        "findings": sorted(findings, key=lambda finding: SEVERITIES.index(finding["severity"])),
        "counts": counts,
        "duplicates": {kind: _sizes(found) for kind, found in pairs.items()} | {"max_bits": bits},
        "across": {name: {kind: across[kind][name].count for kind in across} for name in splittings},
        "composition": {name: _composition(columns, name) for name in ("gender", "ethnicity") if name in columns},
    }


def by_reason(skipped: list[dict]) -> dict[str, list[str]]:
    """Files of summary["skipped"] by the kind of reason: `duplicate of 00072A03.jpg` is a `duplicate`."""
    kinds = collections.defaultdict(list)
    for entry in skipped:
        kinds[re.split(r":| of ", entry["reason"])[0]].append(entry["file"])
    return dict(kinds)


def _splittings(columns: dict) -> dict[str, np.ndarray]:
    """`` → the set's own splits, protocol → its splits."""
    protocols = {name.removeprefix(PROTOCOL): columns[name] for name in sorted(columns) if name.startswith(PROTOCOL)}
    return {"": columns["split"]} | protocols


def _pairs(columns: dict) -> tuple[dict[str, np.ndarray], int]:
    """Pairs of identical files; pairs of others that look alike, and in how many bits their hashes may differ."""
    digest, hashes = columns.get("sha256"), columns.get("phash")
    identical = NO_PAIRS if digest is None else equal_pairs(digest)
    if hashes is None:
        return {"identical": identical, "similar": NO_PAIRS}, 0
    bits = bits_for(hashes)
    similar = near_pairs(hashes, bits)
    if digest is not None:
        similar = similar[digest[similar[:, 0]] != digest[similar[:, 1]]]
    return {"identical": identical, "similar": similar}, bits


def _pairs_across(pairs: np.ndarray, split: np.ndarray) -> Across:
    low, high = np.sort(split[pairs], axis=1).T
    between = {_both(a, b): int(((low == a) & (high == b)).sum()) for a, b in combinations(range(len(SPLITS)), 2)}
    return Across(sum(between.values()), _some(between), pairs[(low >= 0) & (low < high)][:EXAMPLES])


def _subjects_across(identity: np.ndarray, split: np.ndarray) -> Across:
    """Subjects with pictures in more than one split; a row of each in two of them."""
    known = np.flatnonzero(identity >= 0)
    known = known[split[known] >= 0]
    seen, row = np.unique(identity[known].astype(np.int64) * len(SPLITS) + split[known], return_index=True)
    person, part = np.divmod(seen, len(SPLITS))
    people = [person[part == number] for number in range(len(SPLITS))]
    between = {_both(a, b): len(np.intersect1d(people[a], people[b])) for a, b in combinations(range(len(SPLITS)), 2)}
    again = np.flatnonzero(person[1:] == person[:-1])
    once = again[np.unique(person[again], return_index=True)[1]]
    examples = known[np.stack([row[once], row[once + 1]], axis=1)[:EXAMPLES]]
    return Across(len(once), _some(between), examples)


def _both(a: int, b: int) -> str:
    return f"{SPLITS[a]} and {SPLITS[b]}"


def _some(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def _sizes(pairs: np.ndarray) -> dict[str, int]:
    """Pairs, and what they make together: pictures, groups of pictures that hang together, the largest group."""
    group = groups(pairs)[1]
    largest = int(np.bincount(group).max(initial=0)) if len(group) else 0
    return {"pairs": len(pairs), "groups": len(np.unique(group)), "pictures": len(group), "largest": largest}


def _counts(splittings: dict, expected: dict) -> list[dict]:
    """Found against expected, of `all`, `train`, `cv_1:train` …"""
    counts = []
    for key, number in expected.items():
        protocol, _, part = key.rpartition(":")
        split = splittings.get(protocol, np.empty(0, np.int8))
        found = (split >= 0) if part == "all" else (split == SPLITS.index(part))
        counts.append({"part": key, "found": int(found.sum()), "expected": int(number)})
    return counts


def _count_findings(counts: list[dict], total: int, skipped: int) -> list[dict]:
    """A difference that the files left out can explain is no warning: they have their own list."""
    left_out = f"; {_number(skipped, 'file')} left out" if skipped else ""
    wrong = [row for row in counts if row["found"] != row["expected"]]
    if not wrong:
        agree = ", all counts as published" if counts else ""
        return [_finding("counts", "note", f"{_number(total, 'image')}{agree}{left_out}", total)]
    parts = ", ".join(f"{row['part']} {row['found']:,} of {row['expected']:,}" for row in wrong[:NAMED])
    explained = all(0 < row["expected"] - row["found"] <= skipped for row in wrong)
    text = f"counts differ from the published ones: {parts}{', …' if len(wrong) > NAMED else ''}{left_out}"
    return [_finding("counts", "note" if explained else "warning", text, len(wrong))]


def _pair_findings(kind: str, pairs: np.ndarray, columns: dict) -> list[dict]:
    """How many pairs, and what is wrong with their labels."""
    if not len(pairs):
        return [_finding(kind, "note", f"no {WHAT[kind]}", 0)]
    sizes, least = _sizes(pairs), "at least " if len(pairs) >= MOST_PAIRS else ""
    together = f"{sizes['pictures']:,} pictures in {_number(sizes['groups'], 'group')}"
    text = f"{least}{_number(len(pairs), 'pair')} of {WHAT[kind]}: {together}"
    findings = [_finding(kind, "note", text, len(pairs), pairs)]
    if kind == "identical" and sizes["largest"] >= OFTEN:
        rest = ", and not every pair of them is counted" if sizes["largest"] > CROWD else ""
        text = f"one file occurs {sizes['largest']:,} times: perhaps a placeholder{rest}"
        findings.append(_finding("often", "warning", text, sizes["largest"]))
    return findings + _pair_ages(kind, pairs, columns) + _pair_identities(kind, pairs, columns)


def _pair_ages(kind: str, pairs: np.ndarray, columns: dict) -> list[dict]:
    ages = columns.get("age", np.full(len(columns["split"]), np.nan)).astype(np.float64)
    apart = np.abs(ages[pairs[:, 0]] - ages[pairs[:, 1]])
    worst = np.argsort(-apart, kind="stable")[: (apart > 0).sum()]
    if not len(worst):
        return []
    verb, far = _verb(len(worst), "disagrees", "disagree"), f"{(apart > FAR).sum():,} by more than {FAR:g}"
    text = f"{_number(len(worst), 'pair')} of {WHAT[kind]} {verb} on age, by up to {apart[worst[0]]:.3g} years ({far})"
    return [_finding(f"{kind}_age", "warning", text, len(worst), pairs[worst])]


def _pair_identities(kind: str, pairs: np.ndarray, columns: dict) -> list[dict]:
    identity = columns.get("identity", np.full(len(columns["split"]), -1))[pairs]
    wrong = pairs[(identity[:, 0] != identity[:, 1]) & (identity >= 0).all(axis=1)]
    verb = _verb(len(wrong), "is", "are")
    text = f"{_number(len(wrong), 'pair')} of {WHAT[kind]} {verb} labelled as two people"
    return [_finding(f"{kind}_identity", "warning", text, len(wrong), wrong)] if len(wrong) else []


def _leaks(kind: str, what: str, across: dict[str, Across], severity: str = "leak", why: str = "") -> list[dict]:
    """One finding for the set's own splits, and one for all its protocols."""
    findings, own = [], across[""]
    one, _, rest = what.partition(" ")
    if own.count:
        parts = ", ".join(f"{count:,} in {name}" for name, count in own.between.items())
        where = f"in {next(iter(own.between))}" if len(own.between) == 1 else f"in more than one split ({parts})"
        text = f"{_number(own.count, one)} {rest} {_verb(own.count, 'lies', 'lie')} {where}{why}"
        findings.append(_finding(f"{kind}_across", severity, text, own.count, own.examples))
    protocols = {name: part for name, part in across.items() if name}
    worst = sorted((name for name in protocols if protocols[name].count), key=lambda name: -protocols[name].count)
    if worst:
        named = ", ".join(f"{protocols[name].count:,} in {name}" for name in worst[:NAMED])
        which = f"{len(worst):,} of {_number(len(protocols), 'protocol')} ({named}{', …' * (len(worst) > NAMED)})"
        text, most = f"{one}s {rest} lie in more than one split of {which}{why}", protocols[worst[0]]
        finding = _finding(f"{kind}_protocols", severity, text, most.count, most.examples)
        findings.append(finding | {"protocol": worst[0]})
    return findings


def _subject_findings(identity: np.ndarray, across: dict[str, Across], trains: str) -> list[dict]:
    """Who is in more than one split: a leak, but for identification sets, where it is meant so."""
    people = len(np.unique(identity[identity >= 0]))
    if not people:
        return [_finding("subjects", "note", "the set names no subjects: nobody knows who is in two splits", 0)]
    meant, what = trains == "identity", f"subject of {people:,}"
    severity, why = ("note", ", as it is meant: identity is what is trained") if meant else ("leak", "")
    found = _leaks("subjects", what, across, severity, why)
    return found or [_finding("subjects", "note", f"no {what} lies in more than one split", 0)]


def _picture_findings(columns: dict, looked: bool) -> list[dict]:
    """Pictures of one colour, and where a detector looked, without a face and with several."""
    faces, findings = columns["faces"] if looked and "faces" in columns else np.empty(0, np.int16), []
    if "phash" in columns:
        findings += _rows("one_colour", "warning", ~columns["phash"].any(axis=1), "of one colour")
    of = f"of {(faces >= 0).sum():,}"
    serious = (faces == 0).sum() > WITHOUT_FACE * (faces >= 0).sum()
    findings += _rows("no_face", "warning" if serious else "note", faces == 0, f"{of} without a face, so taken whole")
    return findings + _rows("several_faces", "note", faces > 1, f"{of} with several faces")


def _label_findings(columns: dict, trains: str) -> list[dict]:
    """Votes that all agree, and pictures without the label that is trained."""
    findings = []
    for sigma in ("sigma", "attractiveness_sigma"):
        where = f"with {sigma} 0: nothing may be divided by it"
        findings += _rows(f"{sigma}_0", "note", columns.get(sigma, np.empty(0)) == 0, where)
    label = columns.get(trains, np.empty(0))
    lacking = label < 0 if label.dtype.kind == "i" else np.isnan(label)
    return findings + _rows("unlabelled", "warning", lacking, f"of {len(label):,} without {trains}")


def _rows(kind: str, severity: str, where: np.ndarray, what: str) -> list[dict]:
    rows = np.flatnonzero(where)
    return [_finding(kind, severity, f"{_number(len(rows), 'picture')} {what}", len(rows), rows)] if len(rows) else []


def _composition(columns: dict, name: str) -> dict[str, dict[str, int]]:
    """Split → word → pictures; the most frequent words of the set, then `` for the others and the unknown."""
    words, of, count = np.unique(columns[name], return_inverse=True, return_counts=True)
    often = [i for i in np.argsort(-count, kind="stable") if words[i]][:VALUES]
    table = {}
    for number, split in enumerate(SPLITS if often else ()):
        here = np.bincount(of[columns["split"] == number], minlength=len(words))
        table[split] = {str(words[i]): int(here[i]) for i in often} | {"": int(here.sum() - here[often].sum())}
    return {split: counts for split, counts in table.items() if sum(counts.values())}


def _finding(kind: str, severity: str, text: str, count: int, examples=()) -> dict:
    """examples: (M, 2) or (M,) rows."""
    shown = [np.atleast_1d(rows).tolist() for rows in examples[:EXAMPLES]]
    return {"kind": kind, "severity": severity, "text": text, "count": int(count)} | (
        {"examples": shown} if shown else {}
    )


def _number(count: int, one: str) -> str:
    """`1 pair`, `1,200 pairs`."""
    return f"{count:,} {one}{'' if count == 1 else 's'}"


def _verb(count: int, one: str, many: str) -> str:
    return one if count == 1 else many
