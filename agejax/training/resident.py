"""Data sets that live in device memory: every picture decoded once, its canvas kept as bytes, split over "data".

A store is {"canvas" uint8 (N, C·C·3), "label" and "sigma" float32 (N,), "identity" int32 (N,)}: canvases over "data", N
filled up to a multiple of its devices, the rest on every device. Canvases lie flat: a last axis of 3 would be padded to
128 on a TPU.
"""

import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, PartitionSpec

from agejax.training.sharding import replicated, split
from data_pipelines import crops
from data_pipelines.align import Alignment
from data_pipelines.plans import Augmentation, canvas_size
from data_pipelines.samplers import Source

TRAINING_SHARE = 0.25  # of a device's memory that is left to training
PART_BYTES = 1 << 26  # decoded on the host before they go to the device: so many bytes at a time
REPORT_SECONDS = 10
MEMORY = Path("/proc/meminfo")

COLUMNS = ("label", "sigma", "identity")

Store = dict[str, jax.Array]


def load(
    source: Source,
    size: int,
    augmentation: Augmentation,
    alignment: Alignment,
    target: str,
    mesh: Mesh,
    *,
    threads: int,
    report: Callable[[str], None] = print,
) -> Store:
    """Every example, decoded by `threads` threads and placed on the mesh; a process decodes what its devices hold.

    The host holds PART_BYTES of them, and what is on its way to the devices. `report` is told how far it is. Raises
    ValueError with the record's id where a picture is bad.
    """
    canvas = canvas_size(size, augmentation)
    keys, dtypes = (*crops.label_keys(target), "identity"), (np.float32, np.float32, np.int32)
    columns = {name: source.column(key).astype(dtype) for name, key, dtype in zip(COLUMNS, keys, dtypes)}
    with ThreadPoolExecutor(threads) as pool:
        draw = partial(crops.canvases, source, size=size, canvas=canvas, alignment=alignment, pool=pool)
        canvases = _place(draw, _padded(len(source), mesh), canvas * canvas * 3, mesh, report)
    return {"canvas": canvases} | jax.make_array_from_process_local_data(replicated(mesh), columns)


def _place(draw: Callable, rows: int, width: int, mesh: Mesh, report: Callable[[str], None]) -> jax.Array:
    """draw(rows=range) gives canvases; they fill, part by part, memory that the devices have set aside."""
    held, spans = [], _spans(rows, width, mesh)
    told = _Told(sum(len(span) for span in spans), report)
    for span, devices in spans.items():
        shards = [jnp.zeros((len(span), width), jnp.uint8, device=device) for device in devices]
        step = max(1, PART_BYTES // width)
        for first in range(0, len(span), step):
            part = draw(rows=span[first : first + step]).reshape(-1, width)
            shards = [_write(shard, jax.device_put(part, device), first) for shard, device in zip(shards, devices)]
            told.add(len(part))
        held += shards
    return jax.make_array_from_single_device_arrays((rows, width), split(mesh), held)


def _spans(rows: int, width: int, mesh: Mesh) -> dict[range, list[jax.Device]]:
    """Which rows this process must have, and on which of its devices."""
    spans: dict[range, list[jax.Device]] = {}
    for device, (span, _) in split(mesh).addressable_devices_indices_map((rows, width)).items():
        spans.setdefault(range(*span.indices(rows)), []).append(device)
    return spans


@partial(jax.jit, donate_argnums=0)
def _write(shard: jax.Array, part: jax.Array, first: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice(shard, part, (first, 0))


class _Told:
    """Says from time to time how far it is, and at the end."""

    def __init__(self, total: int, report: Callable[[str], None]):
        self.total, self.report, self.done = total, report, 0
        self.began = self.last = time.monotonic()

    def add(self, rows: int) -> None:
        self.done += rows
        now = time.monotonic()
        if now - self.last >= REPORT_SECONDS or self.done == self.total:
            self.last = now
            speed = self.done / max(now - self.began, 1e-9)
            self.report(f"{self.done:,} of {self.total:,} pictures in device memory, {speed:,.0f} images/s")


def take(store: Store, row_B: jax.Array, mesh: Mesh) -> dict[str, jax.Array]:
    """Examples by row, inside jit: canvas uint8 (B, C, C, 3), label, sigma, identity (B,), all split over "data".

    Over several devices each sends every other the canvases that it holds of that one's part of the batch: a few times
    as many as it gets, as each pair of devices has the same room. Where that does not do, as for an order that picks
    its rows from one device, they go in a slower program, with room for all.
    """
    canvas_NxP, columns = store["canvas"], {name: store[name] for name in COLUMNS}
    one_shard = mesh.shape["data"] == 1
    canvas_BxP = _rows(canvas_NxP, row_B) if one_shard else _exchange(canvas_NxP, row_B, mesh)
    side = math.isqrt(canvas_NxP.shape[1] // 3)
    canvas = {"canvas": canvas_BxP.reshape(-1, side, side, 3)}
    return canvas | {name: _rows(column, row_B) for name, column in columns.items()}


def _rows(table: jax.Array, row: jax.Array) -> jax.Array:
    return jnp.take(table, row, axis=0, mode="clip")


def _exchange(canvas_NxP: jax.Array, row_B: jax.Array, mesh: Mesh) -> jax.Array:
    """The canvases of row_B, split over "data" as they are: D devices, L places in the batch for each."""
    devices = mesh.shape["data"]
    places = len(row_B) // devices
    room = _room(places, devices)

    def swap(canvas_RxP, row_B):
        row_DxL = row_B.reshape(devices, places)
        owner_DxL = row_DxL // len(canvas_RxP)
        count_DxLxD = jax.nn.one_hot(owner_DxL, devices, dtype=jnp.int32).cumsum(axis=1)
        rank_DxL = jnp.take_along_axis(count_DxLxD, owner_DxL[..., None], axis=2)[..., 0] - 1
        send = partial(_send, canvas_RxP, row_DxL, owner_DxL, rank_DxL)
        if room == places:
            return send(room)
        return jax.lax.cond(rank_DxL.max() < room, lambda: send(room), lambda: send(places))

    rows, everywhere = PartitionSpec("data"), PartitionSpec()
    # unchecked: the check of jax 0.10 fails for a cond under vmap with a name
    swap = jax.shard_map(swap, mesh=mesh, in_specs=(rows, everywhere), out_specs=rows, check_vma=False)
    return swap(canvas_NxP, row_B)


def _send(canvas_RxP, row_DxL, owner_DxL, rank_DxL, room: int) -> jax.Array:
    """Every device sends every device `room` canvases, and picks those that it asked for: (L, P)."""
    me, devices = jax.lax.axis_index("data"), len(row_DxL)
    slot_DxL = jnp.where(owner_DxL == me, rank_DxL, room)  # beyond the room is dropped
    wanted_DxM = jnp.zeros((devices, room), jnp.int32)
    wanted_DxM = wanted_DxM.at[jnp.arange(devices)[:, None], slot_DxL].set(row_DxL % len(canvas_RxP), mode="drop")
    found_DxMxP = jax.lax.all_to_all(_rows(canvas_RxP, wanted_DxM), "data", split_axis=0, concat_axis=0)
    return found_DxMxP[owner_DxL[me], rank_DxL[me]]


def _room(places: int, devices: int) -> int:
    """How many canvases one device may want of another. By chance it is places / devices; six standard deviations and
    four more are not exceeded once in thousands of batches."""
    mean = places / devices
    return min(places, math.ceil(mean + 6 * math.sqrt(mean) + 4))


def needed_bytes(examples: int, size: int, augmentation: Augmentation, mesh: Mesh) -> int:
    """What the canvases take of the memory of each device."""
    return _padded(examples, mesh) // mesh.shape["data"] * 3 * canvas_size(size, augmentation) ** 2


def free_bytes(mesh: Mesh) -> int:
    """What a data set may take of each device: the same number on every process.

    That is the least that any device has free, less TRAINING_SHARE of its memory. Devices that do not tell (CPU) share
    what the host has free.
    """
    here = min(_free(device) for device in mesh.local_devices)
    if jax.process_count() > 1:  # all must come to the same decision; in MiB, as it travels in 32 bits
        here = int(multihost_utils.process_allgather(np.int32(here >> 20)).min()) << 20
    return here


def _free(device: jax.Device) -> int:
    told = device.memory_stats() or {}
    if "bytes_limit" in told:
        limit, used = told["bytes_limit"], told["bytes_in_use"]
    else:
        sharing = jax.local_device_count()
        limit, used = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // sharing, 0
        used = limit - _host_free() // sharing
    return max(0, int(limit * (1 - TRAINING_SHARE)) - used)


def _host_free() -> int:
    """Bytes that programs may still take, the page cache among them."""
    if MEMORY.exists():
        lines = dict(line.split(":") for line in MEMORY.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _padded(examples: int, mesh: Mesh) -> int:
    shards = mesh.shape["data"]
    return -(-examples // shards) * shards
