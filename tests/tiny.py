"""The smallest run that goes through every part: 64 drawn faces of 32 px, and a network of 15,000 parameters."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from experiments.report import read_metrics

ROOT = Path(__file__).parents[1]
CONFIG = "--config=dldl_v2_thin"
FACES = 64  # 48 to train on
NETWORK = ("--model.compression=0.03125", "--image_size=32")
PRETRAIN = ("--pretrain.batch_size=16", "--pretrain.epochs=1")  # 3 steps
FINETUNE = ("--finetune.batch_size=16", "--finetune.epochs=2")  # 6 steps


def words(data_dir: Path, workdir: Path, *more: str) -> list[str]:
    """What follows `python experiments/run.py`."""
    return [CONFIG, *NETWORK, f"--data_dir={data_dir}", f"--workdir={workdir}", *more]


@contextlib.contextmanager
def started(words: list[str], log: Path, devices: int = 1):
    """A run as a process, in a group of its own with its workers; what is left of them ends with this."""
    with log.open("a") as file:
        process = subprocess.Popen(
            [sys.executable, ROOT / "experiments/run.py", *words], stdout=file, stderr=file, start_new_session=True,
            env=os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"},
        )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def started_twice(words: list[str], log: Path):
    """One run as two processes of two devices each; the second one's log has .1 at its end."""
    cluster = [f"--cluster.coordinator=localhost:{free_port()}", "--cluster.processes=2"]
    logs = (log, log.with_suffix(".1"))
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(started([*words, *cluster, f"--cluster.index={i}"], file, devices=2))
            for i, file in enumerate(logs)
        ]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def last_step(stage_dir: Path) -> int:
    """The newest step in metrics.jsonl; 0 where there is none."""
    lines = read_metrics(stage_dir / "metrics.jsonl")
    return lines[-1]["step"] if lines else 0


def wait_for_step(process: subprocess.Popen, stage_dir: Path, step: int, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while last_step(stage_dir) < step:
        assert process.poll() is None, f"it ended, with {process.returncode}, before step {step} of {stage_dir.name}"
        assert time.monotonic() < deadline, f"no step {step} of {stage_dir.name} after {seconds} s"
        time.sleep(0.02)
