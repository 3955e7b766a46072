"""What the figures were taken on and with, the figures as a table, and both as JSON."""

import dataclasses
import datetime
import itertools
import json
import os
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path

from agejax.bench import device
from agejax.bench.rounds import Row
from agejax.files import write_whole
from data_pipelines.loaders import cores

PLAIN_WIDTH = 118  # characters, where there is no terminal
PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "numpy", "grain", "opencv-python-headless"),
    *("torch", "torchvision", "triton", "tensorflow", "tensorflow-cpu", "mtcnn"),
    *("jax-cuda13-plugin", "jax-cuda12-plugin", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12"),
)
PEERS = ("TORCH", "PYTORCH_", "TRITON_", "TF_", "CUBLAS_", "OMP_", "MKL_")  # what settings of theirs begin with


def circumstances(command: list[str]) -> dict:
    """Machine, device, flags, versions, date and command, for JSON."""
    import jax

    from agejax.training import compilation

    theirs = {name: value for name, value in sorted(os.environ.items()) if name.startswith(PEERS)}
    return {
        "machine": machine(),
        "device": {"platform": device.platform(), "kind": device.kind(), "count": jax.device_count()},
        "flags": {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "")} | compilation.flags() | {"peers": theirs},
        "versions": {"python": platform.python_version()} | versions(),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(command),
    }


def machine() -> str:
    """Processor and memory, in one line."""
    found = [f"{cores()} cores", _processor(), f"{_memory() / 1e9:.0f} GB"]
    return ", ".join(found)


def versions() -> dict[str, str]:
    """Of the packages that figures depend on, where they are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def write(file: Path, about: dict, rows: list[Row], remarks: list[str]) -> None:
    """JSON: what `circumstances` gives, and with it "rows", objects with the fields of Row, and "remarks"."""
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = about | {"rows": [dataclasses.asdict(row) for row in rows], "remarks": remarks}
    write_whole(file, json.dumps(whole, indent=2, ensure_ascii=False) + "\n")


def show(rows: list[Row], about: dict) -> None:
    """The rows as a table: one entry for all figures of a model's piece of work, one line in it for each peer."""
    from rich.console import Console
    from rich.table import Table

    title = f"{about['device']['kind']}; {about['machine']}; jax {about['versions'].get('jax', '')}"
    table = Table("model", "what", title=title, title_justify="left", show_lines=True)
    for heading in ("ours", "slowest–fastest", "peer's, ours / peer's"):
        table.add_column(heading, justify="right", no_wrap=True)
    for (model, what), entry in itertools.groupby(rows, lambda row: (row.model, row.what)):
        kinds = [list(kind) for _, kind in itertools.groupby(entry, lambda row: row.unit)]
        first, *others = kinds
        ours = [figure(kind[0].value, kind[0].unit) for kind in (first, *others)]
        spread = "–".join(map(number, first[0].spread)) if first[0].spread else ""
        peers = [f"{row.peer} {number(row.peer_value)}, ×{row.ratio:.2f}" for row in first if row.peer]
        table.add_row(model, what, "\n".join(ours), spread, "\n".join(peers))
    Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False).print(table)


def figure(value: float, unit: str) -> str:
    """With its unit; a share in per cent."""
    if not unit.startswith("of "):
        return f"{number(value)} {unit}"
    return f"{100 * value:.0f} % {unit}" if abs(value) >= 0.1 else f"{100 * value:.2g} % {unit}"


def number(value: float | None) -> str:
    """Three digits, or all before the point: 1,234; 56.7; empty for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
