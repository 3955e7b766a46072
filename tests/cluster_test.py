"""Several processes as one run: 2 processes of 2 devices, through the real experiments/run.py where it counts."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import tiny

from agejax.__main__ import main as agejax
from agejax.parameters import flatten
from agejax.training import checkpoint, cluster
from agejax.training.cluster import CLUSTERS, Cluster
from data_pipelines.errors import UserError
from experiments.command_line import parse
from experiments.report import read_metrics
from experiments.run import main

SLURM = {
    "SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "a[1-2]", "SLURM_PROCID": "5", "SLURM_LOCALID": "1",
}  # fmt: skip
TPU = {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}
MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}, None),  # perhaps runs of their own
        (SLURM, {"num_processes": 8, "process_id": 5, "cluster_detection_method": "slurm"}),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None),  # a shell in an allocation of 8
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, None),  # the batch script itself
        (MPI, {"num_processes": 4, "process_id": 3, "cluster_detection_method": "ompi"}),
        (MPI | {"OMPI_COMM_WORLD_SIZE": "1"}, None),
        (TPU, {}),
        (TPU | {"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        (TPU | {"TPU_WORKER_HOSTNAMES": "localhost", "MEGASCALE_NUM_SLICES": "2"}, {}),
        (TPU | {"JAX_PLATFORMS": "cpu"}, None),
    ],
)
def test_several_processes_are_found_where_a_launcher_says_so_and_only_there(environment, expected):
    assert cluster.find(Cluster(), environment) == expected
    assert cluster.find(CLUSTERS["none"], environment) is None


def test_a_process_of_slurm_takes_all_devices_that_are_its_own():
    def devices(**environment):
        return cluster.find(Cluster(), SLURM | environment).get("local_device_ids")

    assert devices(CUDA_VISIBLE_DEVICES="0,1,2,3") is None  # four tasks a node: jax takes the one of SLURM_LOCALID
    assert devices(CUDA_VISIBLE_DEVICES="3") == [0]  # bound by SLURM already
    assert devices(CUDA_VISIBLE_DEVICES="0,1,2,3", SLURM_STEP_NUM_NODES="8") == [0, 1, 2, 3]  # one task a node


def test_addresses_on_the_command_line_come_first():
    words = ["--cluster.coordinator=10.0.0.2:8476", "--cluster.processes=4", "--cluster.index=0"]
    told = {"coordinator_address": "10.0.0.2:8476", "cluster_detection_method": "deactivate"}
    assert cluster.find(_parsed(*words), {}) == told | {"num_processes": 4, "process_id": 0}
    assert cluster.find(_parsed(words[0]), MPI) == told | {"num_processes": 4, "process_id": 3}
    assert cluster.find(_parsed(words[0], "--cluster.processes=1", "--cluster.index=0"), {}) is None
    assert cluster.find(_parsed("--cluster=none"), MPI) is None


@pytest.mark.parametrize(
    "words, message",
    [
        (["coordinator=here:1"], "--cluster.coordinator without --cluster.processes: give all three"),
        (["processes=2", "index=0"], "--cluster.processes and --cluster.index without --cluster.coordinator"),
        (["coordinator=here", "processes=2", "index=0"], "coordinator=here is not HOST:PORT, as in 10.0.0.2:8476"),
        (["coordinator=http://a:1", "processes=2", "index=0"], "is not HOST:PORT"),
        (["coordinator=a:70000", "processes=2", "index=0"], "is not HOST:PORT"),
        (["coordinator=a:1", "processes=2", "index=2"], "index=2 is not one of --cluster.processes=2: they count from"),
    ],
)
def test_mistakes_in_addresses_are_told(words, message):
    with pytest.raises(UserError, match=message):
        cluster.find(_parsed(*(f"--cluster.{word}" for word in words)), {})


def _parsed(*words):
    return parse([tiny.CONFIG, *words]).cluster


# What each of two processes does, beside `check`: it prints and the test reads. Each ends with the code of its error.
SCRIPT = """
import os, signal, sys, time
import jax, numpy as np
from agejax.training import cluster, sharding
from agejax.training.cluster import Cluster
from data_pipelines.errors import UserError

def caught(do, *words):
    try:
        do(*words)
    except UserError as error:
        return str(error)

def fail(index):
    with cluster.together():
        if jax.process_index() == index:
            raise UserError("no such folder")

def loop():
    with cluster.stop_signals() as stop:
        for step in range(1, 500):
            cluster.check_same(0, "")  # keeps step, as training does
            if jax.process_index() == 1 and step == 20:
                os.kill(os.getpid(), signal.SIGINT)
            if number := stop.agreed():
                return step, number
            time.sleep(0.005)

def main():
    me = jax.process_index()
    cluster.say(f"only one says this")
    print("failing", caught(fail, 1), flush=True)
    print("same", caught(cluster.check_same, 7, "other files"), caught(cluster.check_same, me, "other files"))
    cluster.in_turn(lambda: (print("turn", me, time.time()), time.sleep(0.2), print("done", time.time())))
    mesh = sharding.make_mesh()
    rows = sharding.to_devices({"x": np.arange(4) + 10 * me}, mesh)["x"]
    print("rows", sharding.part_of_rows(mesh), rows.shape, [shard.data.tolist() for shard in rows.addressable_shards])
    two = sharding.make_mesh(2)
    print("trials", dict(two.shape), sharding.part_of_rows(two))
    copied = sharding.replicate({"a": np.float32(3)}, mesh)["a"]
    print("replicated", copied.is_fully_replicated, len(copied.sharding.device_set), float(copied))
    print("stopped", *loop(), flush=True)
    if "alone" in sys.argv and me == 1:
        raise RuntimeError("a fault of one process")
    cluster.check_same(0, "")
    raise UserError("told by both")

if __name__ == "__main__":
    try:
        with cluster.joined(Cluster(coordinator=sys.argv[1], processes=2, index=int(sys.argv[2]), patience=60)):
            main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
"""


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """What two processes of SCRIPT print, and their codes."""
    return _talk(tmp_path_factory.mktemp("talk"))


def _talk(folder: Path, *more: str):
    (folder / "script.py").write_text(textwrap.dedent(SCRIPT))
    words = [sys.executable, str(folder / "script.py"), f"localhost:{tiny.free_port()}"]
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    both = [
        subprocess.Popen(
            [*words, str(i), *more], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for i in range(2)
    ]
    heard = [process.communicate(timeout=120) for process in both]
    lines = [dict(line.split(" ", 1) for line in out.splitlines() if " " in line) for out, _ in heard]
    return lines, [process.returncode for process in both], [err for _, err in heard]


def test_what_fails_in_one_process_stops_both(talk):
    (leader, other), codes, errors = talk
    assert other["failing"] == "no such folder"
    assert leader["failing"] == "process 1 of 2 cannot go on, and says why"
    assert leader["same"] == other["same"] == "None process 1 of 2 has other files than process 0"
    assert codes == [2, 2]
    assert "\nerror: told by both" in "\n" + errors[0] and "\nerror: process 1: told by both" in "\n" + errors[1]


def test_only_the_leader_speaks_and_turns_do_not_overlap(talk):
    (leader, other), _, _ = talk
    assert "only" in leader and "only" not in other
    assert float(other["turn"].split()[1]) >= float(leader["done"])


def test_rows_and_copies_lie_where_they_should(talk):
    (leader, other), _, _ = talk
    assert leader["rows"] == "(0, 2) (8,) [[0, 1], [2, 3]]"
    assert other["rows"] == "(1, 2) (8,) [[10, 11], [12, 13]]"
    assert leader["trials"] == other["trials"] == "{'trial': 2, 'data': 2} (0, 1)"  # each has all rows of its own trial
    assert leader["replicated"] == other["replicated"] == "True 4 3.0"


def test_a_signal_to_one_process_stops_both_at_one_step(talk):
    (leader, other), _, _ = talk
    assert leader["stopped"] == other["stopped"]
    step, number = leader["stopped"].split()
    assert 20 <= int(step) < 500 and int(number) == signal.SIGTERM


@pytest.mark.slow
def test_a_process_that_fails_alone_takes_the_other_with_it(tmp_path):
    began = time.monotonic()
    _, codes, errors = _talk(tmp_path, "alone")
    assert codes[1] == 1 and codes[0] != 0
    assert "a fault of one process" in errors[1]
    assert time.monotonic() - began < 60  # 10 s of waiting for the others, and starting up


def test_a_process_that_nobody_joins_gives_up_in_one_line(tmp_path):
    for index in (0, 1):
        options = f"coordinator='localhost:{tiny.free_port()}', processes=2, index={index}, patience=1"
        code = f"from agejax.training.cluster import *\nwith joined(Cluster({options})): pass"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert done.stderr.strip().splitlines()[-1].startswith("error: waited 1 s at localhost:")


# The real run: 3 steps, then 24; a checkpoint every 6.
WORDS = (*tiny.PRETRAIN, "--finetune.batch_size=16", "--finetune.epochs=8", "--checkpoint_epochs=2")
SAVED_AT, END = 6, 24
SILENCE = 20  # seconds


@pytest.fixture(scope="module")
def alone(drawn_data, tmp_path_factory):
    """The run in one process of four devices."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert main(tiny.words(drawn_data, folder, *WORDS)) == 0
    return folder


@pytest.fixture(scope="module")
def twice(drawn_data, tmp_path_factory):
    """The run in two processes, left alone."""
    folder = tmp_path_factory.mktemp("twice") / "run"
    _finish_twice(tiny.words(drawn_data, folder, *WORDS), folder.with_suffix(".log"))
    return folder


def _finish_twice(words, log):
    with tiny.started_twice(words, log) as processes:
        assert [process.wait(240) for process in processes] == [0, 0], log.read_text()


@pytest.mark.slow
def test_two_processes_give_what_one_gives(alone, twice):
    for stage in ("pretrain", "finetune"):
        assert_close(twice / stage, alone / stage)
        assert_same_lines(twice / stage, alone / stage)
    results = [json.loads((folder / "results.json").read_text()) for folder in (twice, alone)]
    assert [result["devices"] for result in results] == [4, 4]
    assert [result["processes"] for result in results] == [2, 1]
    assert results[0]["test"]["mae"] == pytest.approx(results[1]["test"]["mae"], abs=0.05)


@pytest.mark.slow
def test_everything_is_said_and_written_once(twice):
    said, heard = (twice.with_suffix(end).read_text() for end in (".log", ".1"))
    assert said.count("finetune: 48 examples") == said.count("MAE ") == 1
    assert "examples" not in heard and "MAE" not in heard
    lines = (twice / "finetune/metrics.jsonl").read_text().splitlines()
    assert len(lines) == len({(json.loads(line)["step"], json.loads(line)["split"]) for line in lines})
    assert len(list((twice / "finetune/tensorboard").iterdir())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_killed_and_restarted_ends_with_the_same_bits(killed, twice, drawn_data, tmp_path):
    folder, log = tmp_path / "run", tmp_path / "log"
    words = tiny.words(drawn_data, folder, *WORDS, f"--cluster.silence={SILENCE}")
    with tiny.started_twice(words, log) as processes:
        wait_for_save(processes[killed], folder / "finetune", SAVED_AT)
        processes[killed].kill()
        assert processes[1 - killed].wait(SILENCE + 30) not in (0, None)  # by itself
    _finish_twice(words, log)
    assert "finetune: goes on at step" in log.read_text()
    assert_close(folder / "finetune", twice / "finetune", 0)


@pytest.mark.slow
def test_stopped_by_a_signal_to_one_and_finished_on_one_device(alone, drawn_data, tmp_path, capsys):
    folder, log = tmp_path / "run", tmp_path / "log"
    words = tiny.words(drawn_data, folder, *WORDS)
    with tiny.started_twice(words, log) as processes:
        wait_for_save(processes[1], folder / "finetune", SAVED_AT)
        processes[1].send_signal(signal.SIGTERM)
        assert [process.wait(120) for process in processes] == [128 + signal.SIGTERM] * 2, log.read_text()
    told = next(line for line in log.read_text().splitlines() if "stopped by a signal" in line)
    step = int(told.split("saved at step ")[1].split()[0])
    saves = folder / "finetune/checkpoints/latest"
    assert SAVED_AT < step < END and [path.name for path in saves.iterdir()] == [str(step)]
    with tiny.started(words, log) as process:
        assert process.wait(240) == 0, log.read_text()
    assert f"finetune: goes on at step {step} of {END}" in log.read_text()
    assert_close(folder / "finetune", alone / "finetune")


@pytest.mark.slow
def test_the_checkpoint_of_two_processes_is_evaluated_by_one(twice, drawn_data, tmp_path):
    words = ["--checkpoint", str(twice), "--data", "synthetic", "--data_dir", str(drawn_data)]
    assert agejax(["evaluate", *words, "--json", str(tmp_path / "numbers.json")]) == 0
    numbers, before = (json.loads(path.read_text()) for path in (tmp_path / "numbers.json", twice / "results.json"))
    assert numbers["mae"] == pytest.approx(before["test"]["mae"], abs=1e-3)


def wait_for_save(process, stage_dir: Path, step: int, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not (stage_dir / "checkpoints/latest" / str(step)).exists():
        assert process.poll() is None, f"it ended, with {process.returncode}, before step {step} was saved"
        assert time.monotonic() < deadline, f"no save of step {step} after {seconds} s"
        time.sleep(0.02)


def assert_close(stage: Path, other: Path, distance: float = 2e-3) -> None:
    """Parameters and statistics: 2e-3 is a twelfth of what 24 steps of Adam at 1e-3 may move them. Rounding is all that
    may differ, and for one layout of devices not even that."""
    trees = [flatten(checkpoint.load_trained(folder)[1]) for folder in (stage, other)]
    for path, value in trees[0].items():
        np.testing.assert_allclose(value, trees[1][path], rtol=0, atol=distance, err_msg=path)


def assert_same_lines(stage: Path, other: Path) -> None:
    """The same steps, with losses within 1e-3 of each other."""
    one, two = (read_metrics(folder / "metrics.jsonl") for folder in (stage, other))
    assert [(line["split"], line["step"]) for line in one] == [(line["split"], line["step"]) for line in two]
    for line, expected in zip(one, two):
        if line["split"] == "train":
            assert line["loss"] == pytest.approx(expected["loss"], rel=1e-3)
