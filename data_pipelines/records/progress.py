"""How far a build is: a bar in a terminal, else a plain line now and then. On stderr: results have stdout alone."""

import contextlib
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_EVERY = 10.0  # seconds between plain lines


@contextlib.contextmanager
def faces_progress(name: str, total: int):
    """Gives advance(): call it once per face."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain_lines(name, total)
        return
    rate = TextColumn("{task.fields[rate]:.0f} faces/s")
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=total, rate=0.0)
        yield lambda: bar.update(task, advance=1, rate=bar.tasks[0].speed or 0.0)


def _plain_lines(name: str, total: int):
    started = spoke = time.monotonic()
    done = 0

    def advance() -> None:
        nonlocal done, spoke
        done += 1
        now = time.monotonic()
        if now - spoke < PLAIN_EVERY:
            return
        spoke, rate = now, done / (now - started)
        left = (total - done) / rate
        print(f"{name}: {done} of {total} faces, {rate:.0f} faces/s, {left:.0f} s left", file=sys.stderr, flush=True)

    return advance
