"""What a person and the plots see of a stage: a progress bar or plain lines, metrics.jsonl, TensorBoard."""

import json
import sys
import time
from pathlib import Path

import rich.progress
from tensorboardX import SummaryWriter

from agejax.files import is_remote, write_whole
from agejax.training.cluster import is_leader

PLAIN_SECONDS = 20  # between lines where there is no terminal
REMOTE_SECONDS = 30  # between writes of a file in a bucket, which is written whole each time


def make_progress(stage_dir: Path, name: str, steps: int, steps_per_epoch: float, start: int):
    """Progress in the process that leads, Silent in the others."""
    return (Progress if is_leader() else Silent)(stage_dir, name, steps, steps_per_epoch, start)


class Progress:
    """Reports of one stage. Numbers go to `<stage>/metrics.jsonl` and `<stage>/tensorboard`."""

    def __init__(self, stage_dir: Path, name: str, steps: int, steps_per_epoch: float, start: int):
        self.name, self.steps, self.steps_per_epoch = name, steps, steps_per_epoch
        self.start, self.last_line = start, 0.0
        self.began = None  # (step, seconds) once the step is compiled
        self.lines = LineFile(stage_dir / "metrics.jsonl", start)
        self.curves = SummaryWriter(str(stage_dir / "tensorboard"), purge_step=start + 1)
        self.bar = _bar() if sys.stdout.isatty() else None
        self.validation = ""

    def __enter__(self):
        if self.bar:
            self.bar.start()
            self.task = self.bar.add_task(self.name, total=self.steps, completed=self.start, text="")
        return self

    def __exit__(self, *_):
        if self.bar:
            self.bar.stop()
        self.lines.keep()
        self.curves.close()

    def write(self, split: str, step: int, numbers: dict[str, float]) -> None:
        """One line of metrics.jsonl, the same on TensorBoard."""
        epoch = step / self.steps_per_epoch
        row = {"step": step, "epoch": round(epoch, 4), "split": split} | numbers
        self.lines.add(json.dumps(row) + "\n")
        for name, value in numbers.items():
            self.curves.add_scalar(f"{split}/{name}", value, step)
        if split == "val":
            self.validation = " · val " + _numbers(numbers)

    def keep(self) -> None:
        """Nothing of what was written so far is lost from now on."""
        self.lines.keep()

    def show(self, step: int, numbers: dict[str, float], images_per_second: float) -> None:
        """Where the stage stands, now or when the next line is due."""
        epochs = self.steps / self.steps_per_epoch
        epoch = f"epoch {step / self.steps_per_epoch:.1f}/{epochs:.4g}"
        speed = f"{images_per_second:.0f} images/s" if images_per_second else "compiled"
        text = f"{epoch} · {speed} · {_numbers(numbers)}"
        if self.bar:
            self.bar.update(self.task, completed=step, text=text + self.validation)
            return
        now = time.monotonic()
        if now - self.last_line >= PLAIN_SECONDS or step == self.steps:
            self.last_line = now
            print(f"{self.name}: {text}{self.validation}{self._left(step, now)}", flush=True)

    def _left(self, step: int, now: float) -> str:
        if self.began is None:
            self.began = (step, now)
            return ""
        first, then = self.began
        return f" · {_clock((now - then) / (step - first) * (self.steps - step))} left"


class Silent:
    """Of the processes that do not lead: nothing is written or shown."""

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def write(self, split: str, step: int, numbers: dict[str, float]) -> None:
        pass

    def keep(self) -> None:
        pass

    def show(self, step: int, numbers: dict[str, float], images_per_second: float) -> None:
        pass


class LineFile:
    """A file of lines. One on disk is appended to; one in a bucket is written anew, now and then and when asked."""

    def __init__(self, path: Path, start: int):
        self.path, self.remote = path, is_remote(path)
        self.texts, self.written = _kept(path, start), time.monotonic()
        if path.exists():
            write_whole(path, "".join(self.texts))

    def add(self, line: str) -> None:
        if not self.remote:
            with self.path.open("a") as file:
                file.write(line)
            return
        self.texts.append(line)
        if time.monotonic() - self.written >= REMOTE_SECONDS:
            self.keep()

    def keep(self) -> None:
        if self.remote:
            write_whole(self.path, "".join(self.texts))
            self.written = time.monotonic()


def _bar() -> rich.progress.Progress:
    parts = rich.progress
    return parts.Progress(
        parts.TextColumn("{task.description}"), parts.BarColumn(bar_width=20), parts.TextColumn("{task.fields[text]}"),
        parts.TimeRemainingColumn(),
    )  # fmt: skip


def _numbers(numbers: dict[str, float]) -> str:
    shown = ("loss", "mae", "accuracy")
    return " · ".join(f"{name} {numbers[name]:.3g}" for name in shown if name in numbers)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"


def _kept(path: Path, step: int) -> list[str]:
    """The lines without those of steps that a resumed stage will take again, and a last one cut short by a kill."""
    kept = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            kept += [line + "\n"] if json.loads(line)["step"] <= step else []
        except json.JSONDecodeError:
            break
    return kept
