"""What a person and the plots see of a stage: a progress bar or plain lines, metrics.jsonl, TensorBoard."""

import json
import sys
import time
from pathlib import Path

import rich.progress
from tensorboardX import SummaryWriter

from agejax.files import write_whole

PLAIN_SECONDS = 20  # between lines where there is no terminal


class Progress:
    """Reports of one stage. Numbers go to `<stage>/metrics.jsonl` and `<stage>/tensorboard`."""

    def __init__(self, stage_dir: Path, name: str, steps: int, steps_per_epoch: float, start: int):
        self.name, self.steps, self.steps_per_epoch = name, steps, steps_per_epoch
        self.start, self.last_line = start, 0.0
        self.began = None  # (step, seconds) once the step is compiled
        self.lines = stage_dir / "metrics.jsonl"
        _forget_after(self.lines, start)
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
        self.curves.close()

    def write(self, split: str, step: int, numbers: dict[str, float]) -> None:
        """One line of metrics.jsonl, the same on TensorBoard."""
        epoch = step / self.steps_per_epoch
        row = {"step": step, "epoch": round(epoch, 4), "split": split} | numbers
        with self.lines.open("a") as file:
            file.write(json.dumps(row) + "\n")
        for name, value in numbers.items():
            self.curves.add_scalar(f"{split}/{name}", value, step)
        if split == "val":
            self.validation = " · val " + _numbers(numbers)

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


def _forget_after(path: Path, step: int) -> None:
    """Drops lines of steps that a resumed stage will take again, and a last line cut short by a kill."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            kept += [line] if json.loads(line)["step"] <= step else []
        except json.JSONDecodeError:
            break
    write_whole(path, "".join(line + "\n" for line in kept))
