"""A table carried out: one line for each row, data set and metric, published number and measured one side by side."""

import dataclasses
import traceback
from collections.abc import Iterator

from data_pipelines import builders
from data_pipelines.errors import UserError
from experiments.check import shared_faces
from experiments.tables.fills import FILLS, Filled
from experiments.tables.kinds import Elsewhere, Number, Row, Table
from experiments.tables.measures import Measured
from experiments.tables.runs import Missing, Setting, Stopped

MEASURED, MISSING, FAILED, PUBLISHED = "measured", "missing", "failed", "published"


@dataclasses.dataclass(frozen=True)
class Line:
    """What is known of one number; `measured` is never the published one."""

    table: str
    row: str
    metric: str
    published: float | None
    published_data: str
    """The data set that the published number is of."""
    measured: float | None
    interval: tuple[float, float] | None
    """95 %: over test examples, and over seeds where there are several."""
    sd: float | None
    """Over seeds or trials."""
    seeds: int
    data: str
    """The row's data set: trained and tested on, where the row does not name another test."""
    status: str
    """measured, missing, failed; published: others' work."""
    note: str
    command: str


def lines(table: Table, setting: Setting) -> Iterator[list[Line]]:
    """The lines of each row on each data set as soon as they are known; raises Stopped."""
    for row in table.rows:
        if isinstance(row.fill, Elsewhere):
            yield _published(table, row)
            continue
        for data in table.data:
            yield _lines(table, row, data, setting)


def _published(table: Table, row: Row) -> list[Line]:
    return [
        Line(table.name, row.name, n.metric, n.value, n.data, None, None, None, 0, n.data, PUBLISHED, "", "")
        for n in row.published
    ]


def _lines(table: Table, row: Row, data: str, setting: Setting) -> list[Line]:
    """A row that fails, however it does, leaves the others as they are."""
    found, numbers, status, note = None, {}, MEASURED, ""
    try:
        found = FILLS[type(row.fill)](row.fill, data, setting)
        numbers = {metric: found.number(metric) for metric in table.metrics}
        note = "; ".join(filter(None, (*found.notes, found.words and _shared(data, setting))))
    except Missing as error:
        status, note = MISSING, str(error)
    except UserError as error:
        status, note = FAILED, str(error)
    except Stopped:
        raise
    except Exception as error:
        traceback.print_exc()
        status, note = FAILED, f"{type(error).__name__}: {error}".partition("\n")[0]
    command = _command(found) if status == MEASURED else ""
    return [_line(table, row, data, metric, numbers.get(metric), status, note, command) for metric in table.metrics]


def _line(
    table: Table, row: Row, data: str, metric: str, number: Measured | None, status: str, note: str, command: str
) -> Line:
    published, value = _nearest(row.published, data, metric), number or Measured(None, None, None, 0)
    if status == MEASURED and number is None:
        note = "; ".join(filter(None, (note, "not defined here")))
    return Line(
        table.name, row.name, metric, published and published.value, published.data if published else "",
        value.value, value.interval, value.sd, value.trials, data, status, note, command,
    )  # fmt: skip


def _nearest(published: tuple[Number, ...], data: str, metric: str) -> Number | None:
    """The number of this data set; where the paper has none of it, of the first that it has one of."""
    known = [number for number in published if number.metric == metric]
    return next((number for number in known if number.data == data), known[0] if known else None)


def _shared(data: str, setting: Setting) -> str:
    """What the splits have in common though they should not."""
    return shared_faces(data, builders.summary(data, setting.data_dir))


def _command(found: Filled | None) -> str:
    return " ".join(("python experiments/run.py", *found.words)) if found and found.words else ""
