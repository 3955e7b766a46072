"""The mesh and the two placements: state on every device, batches split along "data"."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from data_pipelines.errors import UserError


def make_mesh() -> Mesh:
    """All devices of all processes along one axis, "data"."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    if batch_size % mesh.size:
        raise UserError(
            f"batch_size {batch_size} cannot be split over {mesh.size} devices: choose a multiple of {mesh.size}"
        )


def to_devices(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch → one global array a key. Row numbers travel as int32."""
    rows = {key: value.astype(np.int32) if value.dtype == np.int64 else value for key, value in batch.items()}
    return jax.make_array_from_process_local_data(split(mesh), rows)
