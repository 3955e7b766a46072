"""What a stage shows, on a terminal and off it, and what it leaves in metrics.jsonl."""

import json
import sys

import pytest

from agejax.training import progress

NUMBERS = {"loss": 2.5, "mae": 7.25, "grad_norm": 1.0}


def show_three(folder, start=0):
    with progress.Progress(folder, "finetune", steps=30, steps_per_epoch=10, start=start) as shown:
        shown.show(start + 1, NUMBERS, 0.0)
        shown.write("val", start + 10, {"mae": 6.5})
        for step in (10, 20):
            shown.write("train", start + step, NUMBERS)
            shown.show(start + step, NUMBERS, 123.4)


def test_plain_lines_off_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0)
    show_three(tmp_path)
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "finetune: epoch 0.1/3 · compiled · loss 2.5 · mae 7.25"
    assert second.startswith("finetune: epoch 1.0/3 · 123 images/s · loss 2.5 · mae 7.25 · val mae 6.5 · 0:0")
    assert third.endswith(" left")


def test_a_bar_on_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "150")
    show_three(tmp_path, start=5)
    shown = capsys.readouterr().out
    assert "finetune" in shown and "123 images/s" in shown and "val mae 6.5" in shown and "━" in shown


def test_lines_that_will_be_written_again_are_dropped_and_so_is_a_torn_one(tmp_path):
    show_three(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "spl')
    with progress.Progress(tmp_path, "finetune", steps=30, steps_per_epoch=10, start=10):
        pass
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["split"], row["step"]) for row in rows] == [("val", 10), ("train", 10)]
    assert rows[0]["epoch"] == pytest.approx(1)


def test_curves_are_written_for_tensorboard(tmp_path):
    show_three(tmp_path)
    (events,) = (tmp_path / "tensorboard").glob("events.*")
    assert b"train/loss" in events.read_bytes() and b"val/mae" in events.read_bytes()
