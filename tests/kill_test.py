"""kill -9 at random moments of both stages: the run that goes on ends with the very bits of one that was left alone."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from agejax.training import checkpoint

pytestmark = pytest.mark.slow

STAGES = ("pretrain", "finetune")
KILLED = ("pretrain", "pretrain", "finetune", "finetune", "finetune")
STEPS, SECONDS = (20, 50), 0.1  # from the last step seen before to the kill; the seconds, at most, add to the steps
WORDS = (
    *(f"--{stage}.{word}" for stage in STAGES for word in ("batch_size=8", "epochs=50")),  # 300 steps
    "--checkpoint_epochs=2.25",  # 14 steps
    "--validate_epochs=30",
)


@pytest.fixture(scope="module")
def uninterrupted(drawn_data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    with tiny.started(tiny.words(drawn_data, folder, *WORDS), log := folder.with_suffix(".log")) as process:
        assert process.wait(240) == 0, log.read_text()
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_five_times_ends_with_the_same_bits(uninterrupted, drawn_data, tmp_path, workers):
    rng, folder, log = random.Random(workers), tmp_path / "run", tmp_path / "log"
    words = tiny.words(drawn_data, folder, *WORDS, f"--loader.workers={workers}")
    kills = []
    for stage in KILLED:
        moment = tiny.last_step(folder / stage) + rng.randint(*STEPS)
        with tiny.started(words, log) as process:
            tiny.wait_for_step(process, folder / stage, moment)
            time.sleep(rng.uniform(0, SECONDS))  # into a step, a save, a line being written
            kill = os.kill if len(kills) % 2 else os.killpg  # workers end with a parent that is killed alone, too
            kill(process.pid, signal.SIGKILL)
            assert process.wait(10) == -signal.SIGKILL
            assert_nothing_left(process)
        kills.append(stage_in(folder))
    assert tuple(kills) == KILLED
    with tiny.started(words, log) as process:
        assert process.wait(240) == 0, log.read_text()
        assert_nothing_left(process)
    assert log.read_text().count("goes on at step") >= 3, log.read_text()
    for stage in STAGES:
        assert_same(folder / stage, uninterrupted / stage)
    assert (folder / "predictions.csv").read_text() == (uninterrupted / "predictions.csv").read_text()


def stage_in(folder: Path) -> str:
    """The stage that the run is in the middle of, as its files have it."""
    begun = [stage for stage in STAGES if tiny.last_step(folder / stage)]
    finished = [stage for stage in STAGES if checkpoint.read_card(folder / stage)]
    assert begun and begun[-1] not in finished, f"between stages: {begun} begun, {finished} finished"
    return begun[-1]


def assert_nothing_left(process: subprocess.Popen, seconds: float = 10) -> None:
    """No process of its group, workers among them, is there any more."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        assert time.monotonic() < deadline, f"processes of group {process.pid} are still there"
        time.sleep(0.05)


def assert_same(stage: Path, other: Path) -> None:
    (description, variables), (expected_description, expected) = (checkpoint.load_trained(x) for x in (stage, other))
    assert description == expected_description
    jax.tree.map_with_path(
        lambda path, one, two: np.testing.assert_array_equal(one, two, jax.tree_util.keystr(path)), variables, expected
    )
