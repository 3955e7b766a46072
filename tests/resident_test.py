"""Data sets in device memory: what is loaded, what is taken, on one device and on several."""

import re
from functools import partial

import jax
import numpy as np
import pytest
from drawn import Squares
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from agejax.training import resident
from data_pipelines import crops, loaders
from data_pipelines.align import Alignment
from data_pipelines.plans import IDENTITY, NO_AUGMENTATION, Augmentation, canvas_size, plain_plan
from data_pipelines.samplers import Subset

SIZE, ROWS = 24, 22
AUGMENTATION, ALIGNMENT = Augmentation(), Alignment(0.9)
SIDE = canvas_size(SIZE, AUGMENTATION)
ROW_B = np.array([3, 21, 0, 3, 17, 8, 11, 5], np.int32)
MESHES = {"1": (1,), "4": (4,), "1 x 4": (1, 4), "2 x 2": (2, 2), "4 x 1": (4, 1)}


def mesh_of(shape):
    axes = ("trial", "data")[-len(shape) :]
    devices = jax.devices()[: int(np.prod(shape))]
    return jax.make_mesh(shape, axes, axis_types=(AxisType.Auto,) * len(shape), devices=devices)


def load(mesh, source=None, **options):
    source = Squares(ROWS) if source is None else source
    options = {"target": "age", "threads": 2, "report": lambda text: None} | options
    return resident.load(source, SIZE, AUGMENTATION, ALIGNMENT, mesh=mesh, **options)


def canvas_of(source, row):
    image = np.empty((SIDE, SIDE, 3), np.uint8)
    crops.fill(image, source[row], SIZE, ALIGNMENT, plain_plan(IDENTITY, SIDE), "antialias")
    return image


@pytest.mark.parametrize("name", MESHES)
def test_examples_are_those_of_the_source_on_any_mesh(name, monkeypatch):
    monkeypatch.setattr(resident, "PART_BYTES", 5 * SIDE * SIDE * 3)  # five at a time
    source, mesh = Squares(ROWS), mesh_of(MESHES[name])
    store = load(mesh, source)
    shards = mesh.shape["data"]
    assert store["canvas"].sharding.shard_shape(store["canvas"].shape) == (-(-ROWS // shards), SIDE * SIDE * 3)
    taken = jax.jit(partial(resident.take, mesh=mesh))(store, ROW_B)
    np.testing.assert_array_equal(taken["canvas"], [canvas_of(source, row) for row in ROW_B])
    for key, column in (("label", "age"), ("sigma", "sigma"), ("identity", "identity")):
        np.testing.assert_array_equal(taken[key], source.column(column)[ROW_B])
    assert {key: value.dtype.name for key, value in taken.items()} == {
        "canvas": "uint8",
        "label": "float32",
        "sigma": "float32",
        "identity": "int32",
    }


@pytest.mark.parametrize("shape", [(2, 2), (1, 4), (4, 1)])
def test_trials_take_each_their_own_rows(shape):
    mesh, row_TxB = mesh_of(shape), np.stack([ROW_B, ROW_B[::-1], ROW_B * 0, ROW_B // 2])
    store = load(mesh)
    places = jax.tree.map(lambda column: column.sharding, store), NamedSharding(mesh, PartitionSpec("trial", "data"))
    take = jax.vmap(partial(resident.take, mesh=mesh), in_axes=(None, 0), spmd_axis_name="trial")
    taken = jax.jit(take, in_shardings=places)(store, row_TxB)
    canvases = np.array([canvas_of(Squares(ROWS), row) for row in range(ROWS)])
    np.testing.assert_array_equal(taken["canvas"], canvases[row_TxB])
    np.testing.assert_array_equal(taken["label"], Squares(ROWS).column("age")[row_TxB])


def test_devices_send_each_other_what_they_need_and_more_where_one_holds_it_all():
    mesh, rng = mesh_of((4,)), np.random.default_rng(0)
    store, canvases = load(mesh), np.array([canvas_of(Squares(ROWS), row) for row in range(ROWS)])
    take = jax.jit(partial(resident.take, mesh=mesh))
    spread, crowded = rng.integers(0, ROWS, 256).astype(np.int32), rng.integers(6, 12, 256).astype(np.int32)
    for row_B in (spread, crowded, np.concatenate([crowded[:128], spread[128:]])):
        np.testing.assert_array_equal(take(store, row_B)["canvas"], canvases[row_B])
    text = take.lower(store, spread).compile().as_text()
    sent = {int(room) for room in re.findall(rf"u8\[4,(\d+),{SIDE * SIDE * 3}\]", text)}
    assert resident._room(64, 4) == 44 and sent == {44, 64}  # 16 by chance; 64 where all are of one device
    assert not {"all-gather", "all-reduce", "reduce-scatter"} & set(re.findall(r"[a-z-]+(?=\()", text))


def test_trials_send_each_other_what_they_need():
    mesh, rng = mesh_of((2, 2)), np.random.default_rng(0)
    store, row_TxB = load(mesh), rng.integers(0, ROWS, (2, 256)).astype(np.int32)
    row_TxB[1] = 3
    take = jax.vmap(partial(resident.take, mesh=mesh), in_axes=(None, 0), spmd_axis_name="trial")
    canvases = np.array([canvas_of(Squares(ROWS), row) for row in range(ROWS)])
    assert resident._room(128, 2) < 128
    np.testing.assert_array_equal(jax.jit(take)(store, row_TxB)["canvas"], canvases[row_TxB])


def test_room_is_seldom_exceeded_and_never_more_than_all():
    rng = np.random.default_rng(0)
    for places, devices in ((128, 2), (128, 8), (64, 16), (128, 64)):
        room = resident._room(places, devices)
        assert (rng.binomial(places, 1 / devices, 100_000) <= room).all()
        assert room * devices <= 8 * places and room <= places
    assert resident._room(3, 4) == 3


def test_batches_are_those_of_the_loader_bit_for_bit():
    source, mesh = Subset(Squares(ROWS), [*range(0, ROWS, 2), 4, 4]), mesh_of((4,))
    store = load(mesh, source, target="identity")
    take = jax.jit(partial(resident.take, mesh=mesh))
    options = {"batch_size": 8, "image_size": SIZE, "seed": 3, "augmentation": AUGMENTATION, "target": "identity"}
    seen = []
    with (
        loaders.plan_batches(source, **options) as plans,
        loaders.canvas_batches(source, alignment=ALIGNMENT, **options) as canvases,
    ):
        for _, plan, canvas in zip(range(5), plans, canvases):
            for key, value in take(store, plan["row"]).items():
                np.testing.assert_array_equal(value, canvas[key])
            seen += plan["row"].tolist()
    first, second = sorted(seen[:13]), sorted(seen[13:26])
    assert first == second == list(range(13))  # each example once an epoch


def test_a_bad_picture_is_named():
    class Torn(Squares):
        def __getitem__(self, row):
            record = super().__getitem__(row)
            return record | {"image": record["image"][:-40]} if row == 9 else record

    with pytest.raises(ValueError, match=rf"^{Squares(ROWS)[9]['id']}: the image cannot be decoded"):
        load(mesh_of((4,)), Torn(ROWS))


def test_it_says_how_far_it_is(monkeypatch):
    told = []
    monkeypatch.setattr(resident, "PART_BYTES", 4 * SIDE * SIDE * 3)
    monkeypatch.setattr(resident, "REPORT_SECONDS", 0)
    load(mesh_of((1,)), report=told.append)
    assert [text.split(" pictures")[0] for text in told] == [f"{done} of 22" for done in (4, 8, 12, 16, 20, 22)]
    assert re.fullmatch(r"22 of 22 pictures in device memory, [\d,]+ images/s", told[-1])
    told.clear()
    monkeypatch.setattr(resident, "REPORT_SECONDS", 60)
    load(mesh_of((1,)), report=told.append)
    assert len(told) == 1


def test_needed_memory_is_what_a_device_holds():
    for shape in MESHES.values():
        mesh = mesh_of(shape)
        held = {}
        for shard in load(mesh)["canvas"].addressable_shards:
            held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
        assert set(held.values()) == {resident.needed_bytes(ROWS, SIZE, AUGMENTATION, mesh)}
    # MORPH II at 224 px: 10.1 GB with the authors' rotations, 6.6 GB without
    assert resident.needed_bytes(44_107, 224, AUGMENTATION, mesh_of((1,))) == 44_107 * 276 * 276 * 3
    assert resident.needed_bytes(44_107, 224, NO_AUGMENTATION, mesh_of((1,))) == 44_107 * 224 * 224 * 3


class Device:
    def __init__(self, limit, used):
        self.stats = {"bytes_limit": limit, "bytes_in_use": used}

    def memory_stats(self):
        return self.stats


def test_free_memory_leaves_a_quarter_to_training():
    class Mesh:
        local_devices = (Device(80_000, 1_000), Device(80_000, 3_000))

    assert resident.free_bytes(Mesh) == 57_000
    Mesh.local_devices = (Device(80_000, 70_000),)
    assert resident.free_bytes(Mesh) == 0


@pytest.mark.parametrize("known", [True, False])
def test_devices_of_a_cpu_share_what_the_host_has_free(known, tmp_path, monkeypatch):
    monkeypatch.setattr(resident, "MEMORY", tmp_path / "meminfo")
    pages = {"SC_PHYS_PAGES": 1000, "SC_AVPHYS_PAGES": 700, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(resident.os, "sysconf", pages.get)
    if known:
        resident.MEMORY.write_text("MemTotal:  4000 kB\nMemAvailable:   3200 kB\n")
    free = 3200 * 1024 if known else 700 * 4096
    want = (free - 1000 * 4096 // 4) // jax.local_device_count()
    assert abs(resident.free_bytes(mesh_of((4,))) - want) <= 2
