"""The processes of one run: how they find each other, who speaks and writes, and what all of them agree on.

Every process runs the same program on the devices of its own. The first, the leader, prints and writes files; what one
does alone and may fail at stands in `together`, so that either all go on or all stop.
"""

import dataclasses
import os
import re
import signal
import sys
import threading
import traceback
import zlib
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from data_pipelines.errors import UserError

LEAVE_SECONDS = 10  # that a process which fails waits for the others to fail alike


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes of a run. Left alone: as Cloud TPU, SLURM or Open MPI started them; else one process."""

    alone: bool = False
    """One process, whatever the environment says."""
    coordinator: str = ""
    """HOST:PORT of the first process, as all reach it; the port must be free there."""
    processes: int = 0
    index: int = -1
    """Of this process, from 0."""
    patience: int = 300
    """Seconds to wait for the other processes to start."""
    silence: int = 100
    """Seconds without a sign of life of one process after which the others end."""


UNSET = {"coordinator": "", "processes": 0, "index": -1}
CLUSTERS = {"auto": Cluster(), "none": Cluster(alone=True)}


def find(cluster: Cluster, environment: Mapping[str, str]) -> dict[str, Any] | None:
    """What jax.distributed.initialize is to be told; None for one process. Raises UserError.

    Nothing is asked of the network here: only what a launcher has said counts, so that a job of one process never waits
    for others.
    """
    if cluster.alone:
        return None
    known = {"coordinator": cluster.coordinator, "processes": cluster.processes, "index": cluster.index}
    given = {name: value for name, value in known.items() if value != UNSET[name]}
    launched = next((found for launcher in LAUNCHERS if (found := launcher(environment)) is not None), None)
    return _given(given, launched or {}) if given else launched


def _given(given: dict, launched: dict) -> dict[str, Any] | None:
    """From the command line; a launcher fills in which of how many processes this is."""
    known = {"processes": launched.get("num_processes"), "index": launched.get("process_id")} | given
    for name in ("coordinator", "processes", "index"):
        if known.get(name) is None:
            raise UserError(f"--cluster.{' and --cluster.'.join(given)} without --cluster.{name}: give all three")
    address, processes, index = known["coordinator"], known["processes"], known["index"]
    port = re.fullmatch(r"(?:[^\s:/\[\]]+|\[[0-9a-fA-F:]+\]):(\d+)", address)
    if not port or not 0 < int(port[1]) < 65536:
        raise UserError(f"--cluster.coordinator={address} is not HOST:PORT, as in 10.0.0.2:8476")
    if not 0 <= index < processes:
        raise UserError(f"--cluster.index={index} is not one of --cluster.processes={processes}: they count from 0")
    if processes == 1:
        return None
    devices = {"local_device_ids": launched["local_device_ids"]} if "local_device_ids" in launched else {}
    return devices | {
        "coordinator_address": address, "num_processes": processes, "process_id": index,
        "cluster_detection_method": "deactivate",
    }  # fmt: skip


def _cloud_tpu(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """GKE says who is there; on a TPU VM jax asks the machine's metadata, which names one host or many."""
    if "tpu" not in environment.get("JAX_PLATFORMS", "tpu"):
        return None
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")
    if hosts is not None or "TPU_SKIP_MDS_QUERY" in environment:
        several = "," in (hosts or "") or int(environment.get("MEGASCALE_NUM_SLICES") or 1) > 1
        return {} if several else None
    chips = any(path for pattern in ("accel[0-9]*", "vfio/[0-9]*") for path in Path("/dev").glob(pattern))
    return {} if chips and find_spec("libtpu") else None


def _slurm(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """Tasks of the job step that srun began: a batch script, or a shell in an allocation, is one task."""
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS") or 1)
    if tasks == 1 or "SLURM_PROCID" not in environment:
        return None
    found = {"num_processes": tasks, "process_id": int(environment["SLURM_PROCID"])}
    visible = [device for device in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    if len(visible) == 1 or tasks == int(environment.get("SLURM_STEP_NUM_NODES") or 0):
        found["local_device_ids"] = list(range(len(visible)))  # all that it sees; jax would take the LOCALID-th
    return found | {"cluster_detection_method": "slurm"}


def _open_mpi(environment: Mapping[str, str]) -> dict[str, Any] | None:
    size = int(environment.get("OMPI_COMM_WORLD_SIZE") or 1)
    if size == 1:
        return None
    found = {"num_processes": size, "process_id": int(environment["OMPI_COMM_WORLD_RANK"])}
    return found | {"cluster_detection_method": "ompi"}


LAUNCHERS = (_cloud_tpu, _slurm, _open_mpi)


@contextmanager
def joined(cluster: Cluster):
    """Finds the other processes, before jax computes anything, and leaves with them. Raises UserError.

    A process that fails takes the others with it: at once where the leader has failed or the others talk to it over a
    connection that breaks, else after `silence`.
    """
    found = find(cluster, os.environ)
    if found is None:
        yield
        return
    _start(found, cluster)
    try:
        yield
    except BaseException as error:
        _leave(error)
        if isinstance(error, UserError) and not is_leader():
            raise UserError(f"process {jax.process_index()}: {error}") from None
        raise


def _start(found: dict[str, Any], cluster: Cluster) -> None:
    where = found.get("coordinator_address", "the address that the launcher gives")
    count = found.get("num_processes", "all")

    def give_up():  # jax itself would end with a stack trace from inside C++
        print(
            f"error: waited {cluster.patience} s at {where} for {count} processes to start; are all of them running, "
            "and do firewalls let them through? --cluster.patience=SECONDS waits longer",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)

    watch = threading.Timer(cluster.patience, give_up)
    watch.daemon = True
    watch.start()
    try:
        seconds = {"initialization_timeout": cluster.patience + 60, "heartbeat_timeout_seconds": cluster.silence}
        jax.distributed.initialize(**found, **seconds)
        multihost_utils.process_allgather(np.int32(0))  # while all are here: CPUs wait 30 s at most for each other
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"the processes of this run do not find each other: {reason}; "
            "--cluster.coordinator=HOST:PORT --cluster.processes=N --cluster.index=I says it, --cluster=none runs alone"
        ) from None
    finally:
        watch.cancel()


def _leave(error: BaseException) -> None:
    """Returns where all the others fail alike; else ends this process, so that nobody waits for it."""
    try:
        ocp.multihost.get_barrier_sync_fn()(key="leave", timeout_ms=LEAVE_SECONDS * 1000)
    except Exception:
        code = 2 if isinstance(error, UserError) else 1
        if not isinstance(error, UserError):
            traceback.print_exception(error)
            error = "see above; where that tells of a connection, another process has ended before this one"
        print(f"error: process {jax.process_index()}: {error}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(code)


def is_leader() -> bool:
    return jax.process_index() == 0


def say(text: str) -> None:
    """On the leader's screen only."""
    if is_leader():
        print(text, flush=True)


@contextmanager
def together():
    """What each process does by itself: all go on after it, or, where one fails, all raise, the others UserError.

    Nothing inside may need the other processes.
    """
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    failed = _gather(error is not None)
    if error:
        raise error
    if any(failed):
        raise UserError(f"process {failed.index(True)} of {len(failed)} cannot go on, and says why")


def in_turn(action: Callable[[], Any]) -> None:
    """Once in every process, never in two at a time."""
    for index in range(jax.process_count()):
        with together():
            if index == jax.process_index():
                action()


def check_same(value: Any, what: str) -> None:
    """Raises UserError, in all processes, where they do not have the same (by its repr)."""
    prints = _gather(zlib.crc32(repr(value).encode()))
    for index, other in enumerate(prints):
        if other != prints[0]:
            raise UserError(f"process {index} of {len(prints)} has {what} than process 0")


def _gather(value: bool | int) -> list:
    """Every process's value, in every process."""
    if jax.process_count() == 1:
        return [value]
    return multihost_utils.process_allgather(np.asarray(value, np.uint32)).astype(type(value)).tolist()


class Stop:
    """Whether a signal has asked to stop: the same answer at the same dispatch in all processes."""

    dispatches = 0  # of all stages: jax's protocol needs numbers that only rise
    number = 0

    def agreed(self) -> int:
        """The signal's number, 0 for none. To be asked after every dispatch, once."""
        if jax.process_count() == 1:
            return self.number
        Stop.dispatches += 1
        return signal.SIGTERM if multihost_utils.reached_preemption_sync_point(Stop.dispatches) else 0


@contextmanager
def stop_signals():
    """SIGTERM and SIGINT to one process are seen by the loop of all; a second one stops at once.

    With several processes jax itself listens to SIGTERM, and only a second SIGINT stops at once.
    """
    stop, alone = Stop(), jax.process_count() == 1
    numbers = (signal.SIGTERM, signal.SIGINT) if alone else (signal.SIGINT,)

    def note(number, _frame):
        if stop.number:
            raise KeyboardInterrupt
        stop.number = number
        if not alone:
            signal.raise_signal(signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may listen to signals
        return
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
