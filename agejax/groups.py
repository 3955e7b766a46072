"""Errors by group of people, for whom a model may do worse than its mean says: numpy, from saved predictions."""

import numpy as np

from agejax import metrics

COLUMNS = ("gender", "ethnicity")  # of schema.py, as words; "" = not known


def known_columns(examples) -> dict[str, np.ndarray]:
    """{column: a group's name for every example, "" where it is not known}; without columns that nothing is known of.

    Ages are columns too, by metrics.AGE_GROUPS. No image is read.
    """
    columns = {name: np.asarray(examples.column(name), str) for name in COLUMNS}
    age = np.asarray(examples.column("age"), np.float64)
    groups = np.array(metrics.AGE_GROUPS)[metrics.age_group(np.nan_to_num(age))]
    columns["age"] = np.where(np.isnan(age), "", groups)
    return {name: column for name, column in columns.items() if (column != "").any()}


def errors_by_group(label, predicted, columns: dict[str, np.ndarray], resamples: int = 1000) -> dict[str, dict]:
    """{column: {group: {"mae", "n", "bias", "interval"}}}, ready for json; groups without examples are left out.

    bias is the mean of ŷ - y, above 0 where answers are too high; interval the 95 % one of the MAE, bootstrapped over
    the group's examples. Groups stand in the order of AGE_GROUPS, others by name; examples of none are left out.
    """
    label, predicted = np.asarray(label, np.float64), np.asarray(predicted, np.float64)
    return {
        name: {group: _of_group(label, predicted, column == group, resamples) for group in _groups(column)}
        for name, column in columns.items()
    }


def _groups(column: np.ndarray) -> list[str]:
    names = set(column.tolist()) - {""}
    return sorted(names, key=lambda name: (metrics.AGE_GROUPS.index(name) if name in metrics.AGE_GROUPS else -1, name))


def _of_group(label: np.ndarray, predicted: np.ndarray, members: np.ndarray, resamples: int) -> dict:
    label, predicted = label[members], predicted[members]
    found = metrics.summarise(label, predicted, ages=False, resamples=resamples)
    bias = float(np.mean(predicted - label))
    return {"mae": found["mae"], "n": found["n"], "bias": bias, "interval": found["intervals"]["mae"]}
