"""The mesh and the placements: state on every device, batches split along "data", runs at once along "trial"."""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from agejax.parameters import Tree
from data_pipelines.errors import UserError


def make_mesh(trials: int = 1) -> Mesh:
    """All devices of all processes as ("trial", "data").

    `trials` runs at once are spread over as many groups of devices as divide both numbers; each group shares its runs'
    batches along "data". One run has all devices along "data".
    """
    groups = math.gcd(trials, jax.device_count())
    axes = (AxisType.Auto,) * 2
    return jax.make_mesh((groups, jax.device_count() // groups), ("trial", "data"), axis_types=axes)


def platform(mesh: Mesh) -> str:
    """cpu, gpu or tpu."""
    return mesh.devices.flat[0].platform


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """Rows over "data"."""
    return NamedSharding(mesh, PartitionSpec("data"))


def split_trials(mesh: Mesh) -> NamedSharding:
    """The leading axis, one entry a run, over "trial"."""
    return NamedSharding(mesh, PartitionSpec("trial"))


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """The same values, which every process has, on every device."""
    if jax.process_count() == 1:
        return jax.device_put(tree, replicated(mesh))
    place = replicated(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(place, np.asarray(x)), tree)


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    devices = mesh.shape["data"]
    if batch_size % (devices * accumulate):
        parts = f" in {accumulate} parts" if accumulate > 1 else ""
        raise UserError(
            f"batch_size {batch_size} cannot be split over {devices} devices{parts}: "
            f"choose a multiple of {devices * accumulate}"
        )


def part_of_rows(mesh: Mesh) -> tuple[int, int]:
    """(i, n): this process gives the i-th of n equal parts of every batch's rows, those that its devices hold."""
    places = list(split(mesh).devices_indices_map((mesh.shape["data"],)).items())
    mine = {rows[0].start or 0 for device, rows in places if device.process_index == jax.process_index()}
    return min(mine) // len(mine), mesh.shape["data"] // len(mine)


def to_devices(batch: dict[str, Any], mesh: Mesh, axes: tuple[str | None, ...] = ("data",)) -> dict[str, Any]:
    """This process's part of a batch, of any nesting → one global array a leaf. int64 travels as int32.

    `axes` names what the leading axes are split over; None: not split.
    """
    part = jax.tree.map(lambda value: value.astype(np.int32) if value.dtype == np.int64 else value, batch)
    return jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec(*axes)), part)
