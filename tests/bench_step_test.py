"""The step and inference under the bench: that they are the real ones, that figures follow from what was measured, and
that a case that fails is told and left out."""

import json
import types
from contextlib import ExitStack

import jax
import numpy as np
import pytest

from agejax.__main__ import main
from agejax.bench import device, floor, ours, rounds, step, train, trials
from agejax.bench.loader import open_examples
from agejax.bench.rounds import OURS, Row, Settings
from agejax.models.network import BACKBONES
from agejax.models.vgg import VGG
from agejax.training import resident

SHORT = RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 99 bytes.\nmore")


@pytest.fixture
def small(monkeypatch):
    """A network of five layers, and two short rounds."""
    monkeypatch.setitem(BACKBONES, "small", VGG(0.03125, convolutions=(1, 1, 1, 1, 1)))
    monkeypatch.setattr(rounds, "ROUNDS", 2)
    for module in (step, train):
        monkeypatch.setattr(module, "BURST", 0.001)
    monkeypatch.setattr(floor, "bandwidth", lambda: 1e9)
    monkeypatch.setattr(floor, "peak", lambda dtype: {"float32": 1e9, "bfloat16": 2e9}[dtype])
    monkeypatch.setattr(step, "SEARCH", {"cpu": (2, 4)})
    return ours.Case("small", "float32", 32)


class Fake:
    """Work that takes no time; fails where it is told to."""

    steps, seconds_to_compile = 1, 1.5

    def __init__(self, batch, fits=1 << 30, lasts=1 << 30, memory=None, error=SHORT):
        self.batch, self.lasts, self.memory, self.error, self.started = batch, lasts, memory, error, 0
        if batch > fits:
            raise error

    def start(self):
        self.started += 1
        if self.started > self.lasts:
            raise self.error

    def wait(self):
        pass


class Known:
    """What a case says of its network."""

    name, dtype, macs = "m, float32", "float32", 1000
    bytes_in_training, bytes_in_inference = (100, 40), (10, 4)


def told(found):
    """Remarks and rows."""
    found = list(found)
    return [x for x in found if isinstance(x, str)], [x for x in found if isinstance(x, Row)]


# figures


def test_figures_follow_from_the_speed(small):
    works = {OURS: Fake(8, memory=3e9), "torch eager": Fake(4, memory=6e9), "torch compile": Fake(8)}
    speeds = {OURS: [90.0, 100.0, 110.0], "torch eager": [50.0] * 3, "torch compile": [200.0] * 3}
    rows = list(step._rows("m", "w", speeds, works, (100, 40), 2000, "bfloat16"))
    value = {(row.unit, row.peer): (row.value, row.peer_value, row.ratio) for row in rows}
    assert value["images/s", "torch eager"] == (100, 50, 2) and value["images/s", "torch compile"] == (100, 200, 0.5)
    assert value["ms", "torch eager"] == (80, 80, 1) and value["ms", "torch compile"] == (80, 40, 2)
    assert value["GB", "torch eager"] == (3, 6, 0.5) and ("GB", "torch compile") not in value
    assert value["of byte floor", ""][0] == pytest.approx(100 * (100 + 40 / 8) / 1e9)
    assert value["of peak FLOP/s", ""][0] == pytest.approx(100 * 2000 / 2e9)
    assert value["s to compile", "torch eager"] == (1.5, 1.5, 1)
    assert rows[0].spread == (90, 110)


def test_training_counts_three_times_the_forward_and_inference_once(small):
    makers = {OURS: lambda batch: Fake(batch)}
    for found, bytes_moved, operations in (
        (step.training(Known, makers, 8, 0.01), 100 + 40 / 8, 6000),
        (step.inference(Known, makers, {OURS: 8}, "8", 0.01), 10 + 4 / 8, 2000),
    ):
        value = {row.unit: row.value for row in told(found)[1]}
        assert value["of byte floor"] == pytest.approx(value["images/s"] * bytes_moved / 1e9)
        assert value["of peak FLOP/s"] == pytest.approx(value["images/s"] * operations / 1e9)


# what fails


def test_a_batch_that_does_not_fit_is_halved_for_all(small):
    asked = []
    makers = {OURS: lambda batch: Fake(batch, fits=5), "peer": lambda batch: asked.append(batch) or Fake(batch)}
    remarks, rows = told(step.training(Known, makers, 16, 0.01))
    assert remarks[:2] == [f"m, float32, training, batch {n}: ours: out of memory" for n in (16, 8)]
    assert {row.what for row in rows} == {"training, batch 4"} and asked == [4]
    assert {row.peer for row in rows if row.unit == "images/s"} == {"peer"}


def test_what_is_not_for_want_of_memory_is_not_tried_again(small):
    makers = {OURS: lambda batch: Fake(batch, fits=5, error=ValueError("no such layer\nmore"))}
    remarks, rows = told(step.training(Known, makers, 16, 0.01))
    assert remarks == ["m, float32, training, batch 16: ours: ValueError: no such layer"] and not rows


@pytest.mark.parametrize("fields", [{"fits": 2}, {"lasts": 3}], ids=["at first", "later"])
@pytest.mark.parametrize("run", ["training", "inference"])
def test_a_peer_that_fails_is_left_out(small, fields, run):
    makers = {OURS: Fake, "good": Fake, "bad": lambda batch: Fake(batch, **fields)}
    if run == "training":
        found = step.training(Known, makers, 4, 0.01)
    else:
        found = step.inference(Known, makers, dict.fromkeys(makers, 4), "4", 0.01)
    remarks, rows = told(found)
    assert f"m, float32, {run}, batch 4: bad: out of memory" in remarks
    assert {row.peer for row in rows if row.unit == "images/s"} == {"good"}


def test_where_ours_fails_later_there_is_no_row(small):
    makers = {OURS: lambda batch: Fake(batch, lasts=3), "peer": Fake}
    remarks, rows = told(step.inference(Known, makers, dict.fromkeys(makers, 4), "4", 0.01))
    assert remarks[-1] == "m, float32, inference, batch 4: ours: out of memory" and not rows


def test_jax_out_of_memory_is_recognised():
    found, wrong, short = device.attempt(lambda: jax.jit(lambda: jax.numpy.zeros(1 << 44))().block_until_ready())
    assert (found, wrong, short) == (None, "out of memory", True)
    assert device.attempt(lambda: 1 / 0) == (None, "ZeroDivisionError: division by zero", False)
    assert device.attempt(int, "7") == (7, "", False)


@pytest.mark.parametrize("chosen", [{}, {"XLA_CLIENT_MEM_FRACTION": "0.9"}, {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9"}])
def test_memory_is_shared_with_torch_unless_the_user_says_how(monkeypatch, chosen):
    names = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
    for torch, wanted in ((None, chosen), (object(), chosen or {names[0]: "0.45"})):
        environment = dict(chosen)
        monkeypatch.setattr(device.os, "environ", environment)
        monkeypatch.setattr(device.util, "find_spec", lambda name: torch)  # noqa: B023
        device.share_memory()
        assert environment == wanted
        monkeypatch.undo()


# the best batch


def best_of(monkeypatch, speeds, first=4, most=64):
    """Speeds by batch; None: out of memory."""

    def make(batch):
        if speeds[batch] is None:
            raise SHORT
        return batch

    monkeypatch.setattr(step, "SEARCH", {"cpu": (first, most)})
    monkeypatch.setattr(step, "_quick", speeds.get)
    return step.best_batch(make)


@pytest.mark.parametrize(
    "speeds, found",
    [
        ({4: 10, 8: 19, 16: 30, 32: 30.5}, 16),  # not worth it
        ({4: 10, 8: 19, 16: None}, 8),
        ({4: 10, 8: 20, 16: 40, 32: 80, 64: 160}, 64),  # no further
        ({4: None, 2: None, 1: 5.0}, 1),
        ({4: None, 2: None, 1: None}, 0),
    ],
)
def test_the_best_batch_is_found_by_doubling(monkeypatch, speeds, found):
    assert best_of(monkeypatch, speeds) == found


def test_each_has_its_own_best_batch_and_compiled_torch_that_of_eager(monkeypatch, small):
    sizes = {"a": 4, "b": 2}
    monkeypatch.setattr(step, "best_batch", lambda make: sizes[make(1)])
    monkeypatch.setattr(step, "inference", lambda case, makers, batches, word, seconds: iter([batches, word]))
    makers = {OURS: lambda batch: "a", "torch compile": Fake}
    assert list(step.best(Known, makers, {"torch eager": lambda batch: "b"}, 1.0)) == [
        {OURS: 4, "torch compile": 2},
        "best",
    ]
    assert next(step.best(Known, {OURS: makers[OURS]}, {}, 1.0)) == {OURS: 4}


# the real ones


@pytest.mark.slow  # three programs to compile
def test_the_step_is_trainings(small):
    """Two steps in one dispatch are two steps; the loss falls on one batch."""
    one, two = ours.Training(small, 8), ours.Training(small, 8, at_once=2)
    assert (one.batch, one.steps, two.batch, two.steps) == (8, 1, 8, 2)
    first = float(one.result["loss"])
    one.start()
    one.wait()
    assert int(one.state.step) == int(two.state.step) == 2
    for a, b in zip(jax.tree.leaves(one.state.params), jax.tree.leaves(two.state.params)):
        np.testing.assert_allclose(a, b, atol=1e-4)
    for _ in range(20):
        one.start()
    assert float(one.result["loss"]) < first
    assert one.memory > 8 * 32 * 32 * 3 and one.seconds_to_compile > 0


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-3), pytest.param("bfloat16", 2.0, marks=pytest.mark.slow)])
def test_inference_gives_the_ages_of_the_network(small, dtype, tolerance):
    case = ours.Case("small", dtype, 32)
    work = ours.Inference(case, 4)
    image = ours.drawn_batch(4, 32)["image"]
    ages = ours.OBJECTIVE.predict(jax.jit(case.network.apply)(case.variables, image)["logits"])[0]
    np.testing.assert_allclose(work.result, ages, atol=tolerance)
    assert np.ptp(work.result) > 0


def test_the_command_measures_steps_and_inference(small, monkeypatch, tmp_path):
    monkeypatch.setattr(device, "torch_device", lambda: ("", "no torch"))
    file = tmp_path / "bench.json"
    words = ["--models=small", "--size=32", "--batch=4", "--inference=1,best", "--seconds=0.01"]
    assert main(["bench", "--only=step,inference", *words, f"--json={file}"]) == 0
    whole = json.loads(file.read_text())
    by_what = {}
    for row in whole["rows"]:
        assert row["model"] == "small, float32" and row["value"] > 0 and row["peer"] == ""
        by_what.setdefault(row["what"], []).append(row["unit"])
    units = ["images/s", "ms", "GB", "of byte floor", "of peak FLOP/s", "s to compile"]
    assert by_what == {
        "training, batch 4": units,
        "inference, batch 1": units,
        "inference, batch best": [*units, "a batch"],
    }
    assert "no torch" in whole["remarks"]


@pytest.mark.slow  # many programs to compile
def test_an_accelerator_is_asked_for_more(small, monkeypatch):
    """What is done on a GPU, done here: both precisions, several steps a dispatch, larger batches."""
    monkeypatch.setattr(device, "torch_device", lambda: ("", ""))
    monkeypatch.setattr(device, "platform", lambda: "gpu")
    monkeypatch.setattr(ours, "AT_ONCE", 2)
    monkeypatch.setattr(step, "TRAINED_ELSEWHERE", 8)
    monkeypatch.setattr(step, "ASKED_ELSEWHERE", ("2", "best"))
    monkeypatch.setattr(step, "SEARCH_ELSEWHERE", (2, 4))
    settings = Settings(seconds=0.01, models=("small",), size=32)
    rows = told(step.measure_training(settings))[1] + told(step.measure_inference(settings))[1]
    assert {row.model for row in rows} == {"small, float32", "small, bfloat16"}
    assert {row.what for row in rows} == {"training, batch 8", "inference, batch 2", "inference, batch best"}
    assert {row.peer for row in rows if row.what == "training, batch 8" and row.unit == "images/s"} == {
        "ours, 1 step a dispatch"
    }
    for row in rows:
        if row.unit == "ms" and row.what == "training, batch 8":  # of one step, not of a dispatch
            speed = next(r.value for r in rows if (r.model, r.what, r.unit) == (row.model, row.what, "images/s"))
            assert row.value == pytest.approx(8000 / speed)


def test_floors_are_measured(small, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(rounds, "ROUNDS", 1)
    monkeypatch.setattr(device, "torch_device", lambda: ("", "no torch"))
    monkeypatch.setattr(floor, "copy", lambda: floor.Copy(1 << 20))
    monkeypatch.setattr(floor, "product", lambda dtype: floor.Product(64, dtype))
    monkeypatch.setattr(floor, "convolution", lambda dtype: floor.Convolution(1, 8, 4, dtype))
    remarks, rows = told(floor.measure(Settings(seconds=0.01, dtypes=("float32", "bfloat16"))))
    assert remarks == ["no torch"] and [row.unit for row in rows] == ["GB/s"] + 4 * ["TFLOP/s"]
    assert all(row.model == "cpu" and row.value > 0 for row in rows)


@pytest.mark.parametrize(
    "operation, work",
    [
        (floor.Copy(4000), 8000e-9),
        (floor.Product(10, "float32"), 2000e-12),
        (floor.Convolution(2, 16, 4, "float32"), 2 * 2 * 256 * 4 * 4 * 9 * 1e-12),
    ],
)
def test_the_work_of_a_floor_is_what_it_computes(operation, work):
    assert operation.work == pytest.approx(work)
    once, arrays = operation.in_jax()
    cost = jax.jit(once).lower(*arrays).compile().cost_analysis()
    assert once(*arrays).shape == arrays[0].shape
    if operation.unit == "TFLOP/s":
        assert cost["flops"] == pytest.approx(work * 1e12, rel=0.1)  # the convolution's border is not multiplied


# end to end


def test_waiting_is_counted_on_the_clock_alone():
    work = train.Streamed(lambda: None, lambda _: None, lambda _: None, images=10, ahead=5)
    work.dispatches = 5
    assert work.contestant().ahead == 1
    work.calls = [(9, 9), (1, 4), (1, 4), (9, 9), (2, 2)]  # a warm one, two; a warm one, one
    work.marks = [1, 4]
    assert work.waiting() == 4 / 10


def test_losses_are_told_apart():
    speeds = {train.ALONE: [100.0], "host": [40.0], f"host{train.IN_HAND}": [80.0], "torch, resident": [20.0]}
    rows = list(train._rows("m", "w", speeds, {"host": types.SimpleNamespace(waiting=lambda: 0.3)}, 25.0))
    value = {(row.what, row.unit): row.value for row in rows}
    assert value["w, feed=host", "of time stalled"] == 0.5 and value["w, feed=host", "of time awaiting data"] == 0.3
    assert value["w, feed=host", "of time beyond step"] == pytest.approx(0.6)
    assert value["w: loader, feed=host", "cores to keep up"] == 4
    assert [(row.what, row.peer, row.ratio) for row in rows if row.peer] == [("w, feed=host", "torch, resident", 2)]


def test_batches_in_hand_are_fetched_once():
    fetched = []
    work = train.Streamed(lambda: fetched.append(1) or len(fetched), lambda x: x, lambda x: None, images=1)
    before = len(fetched)
    hand = work.in_hand()
    hand._step()
    assert len(fetched) == before + 1 and hand.ahead == 0


def test_a_dispatch_is_waited_for_when_the_next_one_runs():
    done = []
    work = train.Streamed(
        lambda: done.append("fetch"),
        lambda _: done.append("run") or "running",
        lambda _: done.append("wait"),
        images=10,
    )
    done.clear()
    work.dispatches = 3
    assert work._step() == 30
    assert done == ["fetch", "run", "fetch", "run", "wait", "fetch", "run", "wait", "wait"]


@pytest.mark.slow  # four programs to compile
def test_training_is_measured_from_every_feed(small, monkeypatch, drawn_data):
    monkeypatch.setattr(device, "torch_device", lambda: ("", "no torch"))
    monkeypatch.setattr(train, "workers", lambda: 0)
    settings = Settings("synthetic", drawn_data, seconds=0.01, models=("small",), size=32, batch=8)
    remarks, rows = told(train.measure(settings))
    assert remarks == ["no torch"]
    by_what = {}
    for row in rows:
        assert row.model == "small, float32"
        by_what.setdefault(row.what, {})[row.unit] = row.value
    feeds = {f"end to end, batch 8, feed={feed}" for feed in train.FEEDS}
    assert by_what.keys() == feeds | {"end to end, batch 8: the step alone", "end to end, batch 8: loader, feed=host"}
    alone = by_what["end to end, batch 8: the step alone"]["images/s"]
    for feed in feeds:
        found = by_what[feed]
        assert found["of time beyond step"] == pytest.approx(1 - found["images/s"] / alone)
        assert found["of time stalled"] < 1 and 0 <= found["of time awaiting data"] <= 1
    loader = by_what["end to end, batch 8: loader, feed=host"]
    assert loader["cores to keep up"] == pytest.approx(alone / loader["images/s a core"])


def test_pictures_that_do_not_fit_are_a_remark(small, monkeypatch, drawn_data):
    monkeypatch.setattr(resident, "free_bytes", lambda mesh: 1)
    source = open_examples(Settings("synthetic", drawn_data), drawn_data, 16)
    with ExitStack() as stack:
        assert device.attempt(train._ours, small, "resident", source, 8, stack) == (None, "out of memory", True)


# trials


def test_trials_are_held_against_as_many_processes(small, monkeypatch, drawn_data):
    took = {32: [20.0], 1: [9.0, 2.0, 3.0]}
    monkeypatch.setattr(trials, "seconds_of", lambda job: took[job.trials].pop(0))
    settings = Settings("synthetic", drawn_data, models=("small",))
    remarks, (row,) = told(trials.measure(settings))
    assert not remarks and (row.value, row.unit, row.peer) == (20.0, "s", "32 processes")
    assert (row.peer_value, row.ratio) == (96.0, 20 / 96)


def test_on_a_gpu_every_way_is_tried(small, monkeypatch, drawn_data):
    took = {"auto": 20.0, "map": 40.0, "loop": 80.0}
    monkeypatch.setattr(device, "platform", lambda: "gpu")
    monkeypatch.setattr(trials, "seconds_of", lambda job: took[job.way] if job.trials == 32 else 5.0)
    rows = told(trials.measure(Settings("synthetic", drawn_data, models=("small",))))[1]
    assert {row.peer: row.ratio for row in rows} == {"way=map": 0.5, "way=loop": 0.25, "32 processes": 0.125}
    assert {(row.value, row.model) for row in rows} == {(20.0, "small, bfloat16")} and "224 px" in rows[0].what


def test_a_process_that_dies_is_a_remark(small, monkeypatch, drawn_data):
    """The child does not know this network."""
    monkeypatch.setattr(trials, "SINGLES", 1)
    remarks, rows = told(trials.measure(Settings("synthetic", drawn_data, models=("small",))))
    names = (OURS, *(f"alone {i}" for i in range(trials.SINGLES)))
    assert remarks == [f"trials: {name}: RuntimeError: KeyError: 'small'" for name in names] and not rows


@pytest.mark.parametrize(
    "chosen, limits",
    [
        ({}, {"XLA_CLIENT_MEM_FRACTION": "0.2"}),
        ({"XLA_CLIENT_MEM_FRACTION": "0.45"}, {"XLA_CLIENT_MEM_FRACTION": "0.4"}),
        ({"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9"}, {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.4"}),
    ],
)
def test_processes_leave_this_ones_memory_alone(monkeypatch, chosen, limits):
    given = []
    done = types.SimpleNamespace(returncode=0)
    monkeypatch.setattr(trials.os, "environ", chosen)
    monkeypatch.setattr(trials.subprocess, "run", lambda words, env, **_: given.append(env) or done)
    assert trials.seconds_of(trials.Job("d", "f", "m", "float32", 32, 1, 1)) >= 0
    assert given == [limits]


@pytest.mark.slow  # two programs to compile
def test_trials_train_like_one_alone(small, drawn_data):
    alone, together = (
        trials.work(trials.Job("synthetic", str(drawn_data), "small", "float32", 32, 3, count)) for count in (1, 2)
    )
    assert len(alone) == len(together) == 3
    np.testing.assert_allclose(alone, together, rtol=0.5)  # of one and of two draws
    assert all(np.isfinite(alone + together))
