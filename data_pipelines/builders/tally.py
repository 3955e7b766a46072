"""What a build kept and what it left out, for summary.json."""

import collections
import dataclasses
from importlib import metadata

import cv2
import numpy as np

LABELS = ("age", "sigma", "attractiveness", "identity", "landmarks")


@dataclasses.dataclass
class Tally:
    """Filled record by record while a set is written."""

    skipped: list[dict] = dataclasses.field(default_factory=list)
    bad: list[dict] = dataclasses.field(default_factory=list)  # of these, images that cannot be used
    kept: dict[str, list[dict]] = dataclasses.field(default_factory=dict)  # split → records without their images

    def skip(self, id: str, reason: str, bad: bool = False) -> None:
        self.skipped.append({"id": id, "reason": reason})
        self.bad += self.skipped[-1:] if bad else []

    def keep(self, split: str, record: dict) -> None:
        self.kept.setdefault(split, []).append({key: record[key] for key in LABELS})

    def summary(self, name: str, version: str, source: dict) -> dict:
        """What summary.json holds; equal input gives equal content."""
        everything = [record for records in self.kept.values() for record in records]
        return {
            "name": name,
            "source": source,
            "splits": {split: len(records) for split, records in self.kept.items()},
            "identities": {split: len(_identities(records)) for split, records in self.kept.items()},
            "num_identities": max(_identities(everything), default=-1) + 1,
            "labels": {label: _count_known(everything, label) / max(len(everything), 1) for label in LABELS},
            "missing": {label: len(everything) - _count_known(everything, label) for label in LABELS},
            "ages": {split: _ages(records) for split, records in self.kept.items()},
            "skipped": self.skipped,
            "versions": {
                "builder": version,
                **{p: metadata.version(p) for p in ("tensorflow-datasets", "array-record", "numpy")},
                "opencv": cv2.__version__,
            },
        }


def _identities(records: list[dict]) -> set[int]:
    return {int(record["identity"]) for record in records} - {-1}


def _is_known(value) -> bool:
    return bool(value >= 0 if isinstance(value, np.integer) else not np.isnan(value).any())


def _count_known(records: list[dict], label: str) -> int:
    return sum(_is_known(record[label]) for record in records)


def _ages(records: list[dict]) -> dict:
    """Minimum, median, maximum (None without ages) and how many faces per completed year."""
    ages = np.array([record["age"] for record in records if _is_known(record["age"])], np.float64)
    years = collections.Counter(int(age) for age in ages)
    low, middle, high = np.percentile(ages, (0, 50, 100)) if ages.size else (None,) * 3
    return {
        "labelled": int(ages.size),
        "min": None if low is None else float(low),
        "median": None if middle is None else float(middle),
        "max": None if high is None else float(high),
        "histogram": {str(year): years[year] for year in sorted(years)},
    }
