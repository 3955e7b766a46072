"""`python -m agejax bench`: how fast it is here, every figure beside its peer's in the same run."""

import dataclasses
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path

from agejax.bench import detect, loader
from agejax.bench.rounds import Row, Settings
from data_pipelines.errors import UserError

BENCHES: dict[str, Callable[[Settings], Iterator[Row | str]]] = {
    "loader": loader.measure,
    "detect": detect.measure,
}
PLAIN_WIDTH = 180  # characters, where there is no terminal
VERSIONS = ("jax", "numpy", "opencv-python-headless", "torch", "tensorflow-cpu", "mtcnn")


def run(names: Iterable[str], settings: Settings, report: Callable[[str], None] = print) -> list[Row]:
    """Every row of the named benches; remarks, and which bench is at work, go to `report`. Raises UserError."""
    names = list(names)
    if unknown := [name for name in names if name not in BENCHES]:
        raise UserError(f"no bench {unknown[0]!r}: there are {', '.join(BENCHES)}")
    if not settings.seconds > 0:
        raise UserError(f"seconds must be above 0, got {settings.seconds:g}")
    rows = []
    for name in names:
        report(f"{name} …")
        for found in BENCHES[name](settings):
            if isinstance(found, str):
                report(found)
            else:
                rows.append(found)
    return rows


def machine() -> str:
    """What the figures were taken on, in one line."""
    found = [f"{name} {_version(name)}" for name in VERSIONS if _version(name)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores, {platform.machine()}, Python {platform.python_version()}, {', '.join(found)}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def write(rows: list[Row], file: Path) -> None:
    """JSON: a list of objects with the fields of Row."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=2, ensure_ascii=False) + "\n")


def show(rows: list[Row]) -> None:
    """The rows as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "what", title=machine(), title_justify="left")
    for heading in ("ours", "slowest–fastest"):
        table.add_column(heading, justify="right")
    table.add_column("unit")
    table.add_column("peer")
    for heading in ("peer's", "ratio"):
        table.add_column(heading, justify="right")
    for row in rows:
        spread = "–".join(map(number, row.spread)) if row.spread else ""
        table.add_row(
            *(row.model, row.what, number(row.value), spread, row.unit),
            *(row.peer, number(row.peer_value), "" if row.ratio is None else f"{row.ratio:.2f}"),
        )
    Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False).print(table)


def number(value: float | None) -> str:
    """Three digits, or all before the point: 1,234; 56.7; empty for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
