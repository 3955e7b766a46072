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

STAGES, STEPS = ("pretrain", "finetune"), 300  # of 8 images: some seconds each
WORDS = (
    *(f"--{stage}.{word}" for stage in STAGES for word in ("batch_size=8", "epochs=50")),
    "--checkpoint_epochs=4.5",  # 27 steps: not at the lines of metrics.jsonl only
    "--validate_epochs=30",
)
PLACES = {"pretrain": ((0.1, 0.4), (0.5, 0.8)), "finetune": ((0.05, 0.25), (0.35, 0.55), (0.65, 0.85))}
SECONDS = 0.3  # at most, from the step waited for to the kill: it may fall into a step, a save, a line being written


@pytest.fixture(scope="module")
def uninterrupted(drawn_data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    process = tiny.start(tiny.words(drawn_data, folder, *WORDS), folder.with_suffix(".log"))
    assert process.wait(240) == 0, folder.with_suffix(".log").read_text()
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_five_times_ends_with_the_same_bits(uninterrupted, drawn_data, tmp_path, workers):
    rng, folder, log = random.Random(workers), tmp_path / "run", tmp_path / "log"
    words = tiny.words(drawn_data, folder, *WORDS, f"--loader.workers={workers}")
    kills = []
    for stage, places in PLACES.items():
        for low, high in places:
            process = tiny.start(words, log)
            tiny.wait_for_step(process, folder / stage, round(STEPS * rng.uniform(low, high)))
            time.sleep(rng.uniform(0, SECONDS))
            kill = os.kill if len(kills) % 2 else os.killpg  # workers end with a parent that is killed alone, too
            kill(process.pid, signal.SIGKILL)
            assert process.wait(10) == -signal.SIGKILL
            assert_nothing_left(process)
            kills.append(where(folder))
    assert [stage for stage, _ in kills] == [stage for stage, places in PLACES.items() for _ in places]
    last = tiny.start(words, log)
    assert last.wait(240) == 0, log.read_text()
    assert_nothing_left(last)
    assert log.read_text().count("goes on at step") >= 4, log.read_text()
    for stage in STAGES:
        assert_same(folder / stage, uninterrupted / stage)
    assert (folder / "predictions.csv").read_text() == (uninterrupted / "predictions.csv").read_text()


def where(folder: Path) -> tuple[str, int]:
    """The stage that the run was in, and the step it had got to, as its files have them."""
    begun = [stage for stage in STAGES if tiny.last_step(folder / stage)]
    finished = [stage for stage in STAGES if checkpoint.read_card(folder / stage)]
    assert begun and begun[-1] not in finished, f"between stages: {begun} begun, {finished} finished"
    return begun[-1], tiny.last_step(folder / begun[-1])


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
