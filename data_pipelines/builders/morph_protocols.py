"""The protocols of the MORPH II papers, drawn anew with a fixed seed. All have train and test only."""

from collections.abc import Sequence

from data_pipelines.records.face_set import Row
from data_pipelines.splits import fold_protocols, k_fold, place, random_split

FOLDS = 5
CAUCASIANS = 5475  # papers take that many of about 10,600 photographs, and do not say which
CELLS = {("Black", "male"): 3, ("Black", "female"): 1, ("White", "male"): 3, ("White", "female"): 1}


def morph_protocols(rows: list[Row]) -> dict[str, list[str]]:
    """`rs`, `caucasian`, `se` and `three_sets`, as Morph says; those that the rows are too few for are left out."""
    everyone, people = range(len(rows)), [row.labels["identity"] for row in rows]
    white = [i for i in everyone if rows[i].labels["ethnicity"] == "White"]
    drawn = sorted(white, key=lambda i: place(0, rows[i].id))[:CAUCASIANS]
    photographs = _folds("rs", rows, everyone) | _folds("caucasian", rows, drawn)
    return photographs | _folds("se", rows, everyone, people) | _three_sets(rows)


def _folds(name: str, rows: list[Row], chosen: Sequence[int], people: list[int] | None = None) -> dict[str, list[str]]:
    """Protocols of five folds of the chosen rows, by photograph or by people."""
    if len(set(people or chosen)) < FOLDS:
        return {}
    folds = dict(zip(chosen, k_fold([rows[i].id for i in chosen], FOLDS, groups=people)))
    return fold_protocols(name, [folds.get(i, -1) for i in range(len(rows))])


def _three_sets(rows: list[Row]) -> dict[str, list[str]]:
    """Guo & Mu 2011: S1 and S2, each with CELLS' proportions and as large as can be; all others are S3."""
    members, sets = {cell: [] for cell in CELLS}, {}
    for row in rows:
        members.get((row.labels["ethnicity"], row.labels["gender"]), []).append(row.id)
    unit = min(len(members[cell]) // (2 * weight) for cell, weight in CELLS.items())
    if not unit:
        return {}
    for cell, weight in CELLS.items():
        sizes = {"S1": weight * unit, "S2": weight * unit, "S3": len(members[cell]) - 2 * weight * unit}
        sets |= zip(members[cell], random_split(members[cell], sizes))
    return {f"three_sets_{k}": ["train" if sets.get(row.id) == f"S{k}" else "test" for row in rows] for k in (1, 2)}
