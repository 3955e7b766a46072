"""Who is measured against whom, and that all of them do the same work; how fast they are is not tested."""

import contextlib
import datetime
import itertools
import json
import types

import cv2
import numpy as np
import pytest

from agejax import bench
from agejax.__main__ import main
from agejax.bench import detect, loader, record, rounds
from agejax.bench.rounds import OURS, Contestant, Row, Settings, compare, take_turns
from data_pipelines import host
from data_pipelines.align import ARCFACE_112
from data_pipelines.detectors import Faces
from data_pipelines.errors import UserError
from data_pipelines.plans import NO_AUGMENTATION, Augmentation
from data_pipelines.synthetic import draw_face

FACES = 72  # one batch and a little more


class Clock:
    """A time that passes only where contestants work or wait; and what they did, in order."""

    def __init__(self):
        self.now, self.did = 0.0, []

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.did.append(("wait", seconds))

    def contestant(self, name, takes, images=10, **fields):
        durations = iter(takes)

        def step():
            self.now += next(durations)
            self.did.append(name)
            return images

        return Contestant(step, **fields)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(rounds, "time", types.SimpleNamespace(perf_counter=clock.perf_counter, sleep=clock.sleep))
    return clock


@pytest.fixture
def small(monkeypatch):
    """Benches that take a second or two."""
    for module in (loader, detect):
        monkeypatch.setattr(module, "PHOTOGRAPHS", FACES)
    monkeypatch.setattr(loader, "DRAWN_PIXELS", 64)
    monkeypatch.setattr(loader, "CASES", [case for case in loader.CASES if not case.workers])
    monkeypatch.setattr(rounds, "ROUNDS", 2)


def without(monkeypatch, *packages):
    find = loader.importlib.util.find_spec
    fake = types.SimpleNamespace(util=types.SimpleNamespace(find_spec=lambda n: None if n in packages else find(n)))
    for module in (loader, detect):
        monkeypatch.setattr(module, "importlib", fake)


# rounds


def test_contestants_take_turns_and_their_medians_are_compared(clock):
    seconds = {"slow": [9, 2, 2, 2, 2, 2, 2, 2, 2, 4], "fast": itertools.repeat(1)}
    contestants = {name: clock.contestant(name, takes) for name, takes in seconds.items()}
    speeds = take_turns(contestants, seconds=5 * rounds.ROUNDS / 5)
    worked = [name for name in clock.did if isinstance(name, str)]
    assert [name for name, _ in itertools.groupby(worked)] == ["slow", "fast"] * rounds.ROUNDS
    assert speeds["slow"] == [5, 5, 5, 5, 2.5] and speeds["fast"] == [10] * 5


def test_work_done_ahead_does_not_count_and_is_done_anew_before_the_next_one_is_measured(clock):
    """Two batches lie ready, each took 4 s to make; then one takes 4 s."""
    ready = clock.contestant("ready", itertools.cycle([0, 0, 4, 4]), ahead=2)
    speeds = take_turns({"ready": ready}, seconds=rounds.ROUNDS * 5)
    assert speeds["ready"] == [2.5] * rounds.ROUNDS
    assert clock.did[:5] == ["ready"] * 4 + [("wait", 8.0)]


@pytest.mark.parametrize("seconds", [0, 1])
def test_a_step_longer_than_a_round_is_measured_once(clock, seconds):
    speeds = take_turns({"a": clock.contestant("a", itertools.repeat(7))}, seconds)
    assert speeds["a"] == [10 / 7] * rounds.ROUNDS and clock.did.count("a") == 2 * rounds.ROUNDS


def test_rows_hold_medians_and_ratios_of_speeds():
    speeds = {OURS: [30.0, 10.0, 20.0], "one": [8.0, 10.0, 12.0], "two": [40.0, 40.0, 1.0]}
    assert compare("m", "w", speeds) == [
        Row("m", "w", 20, "images/s", "one", 10, 2, (10, 30)),
        Row("m", "w", 20, "images/s", "two", 40, 0.5, (10, 30)),
    ]
    assert compare("m", "w", {OURS: [3.0]}) == [Row("m", "w", 3, "images/s", spread=(3, 3))]


def test_a_contestant_is_told_when_its_clock_starts(clock):
    told = []
    contestant = clock.contestant("a", itertools.repeat(1), ahead=3, starts=lambda: told.append(len(clock.did)))
    take_turns({"a": contestant}, seconds=rounds.ROUNDS * 2)
    assert told == [3 + 6 * i for i in range(rounds.ROUNDS)]  # three ahead, two on the clock, a wait


def test_single_figures_stand_beside_those_of_peers_that_have_one():
    values = {OURS: 3.0, "one": 6.0, "two": None}
    assert rounds.beside("m", "w", "ms", values) == [Row("m", "w", 3.0, "ms", "one", 6.0, 0.5)]
    assert rounds.beside("m", "w", "ms", {OURS: 3.0, "two": None}) == [Row("m", "w", 3.0, "ms")]


# the command


def test_the_command_prints_a_table_and_writes_rows(small, monkeypatch, tmp_path, capsys):
    without(monkeypatch, "torch")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    file = tmp_path / "new" / "bench.json"
    assert main(["bench", "--only=loader", "--seconds=0.1", f"--json={file}"]) == 0
    printed = capsys.readouterr().out
    assert "torch not installed: pip install 'agejax[bench]'" in printed
    assert "decode and align, 1 core" in printed and " cores, " in printed
    whole = json.loads(file.read_text())
    rows = whole["rows"]
    assert [row["what"] for row in rows] == [case.what for case in loader.CASES]
    for row in rows:
        assert row["model"] == "loader, 224 px" and row["unit"] == "images/s" and row["value"] > 1
        assert (row["peer"], row["peer_value"], row["ratio"]) == ("", None, None)
        assert row["spread"][0] <= row["value"] <= row["spread"][1]
    assert " cores, " in whole["machine"] and whole["device"] == {"platform": "cpu", "kind": "cpu", "count": 4}
    assert "--xla_force_host_platform_device_count=4" in whole["flags"]["XLA_FLAGS"]
    assert whole["flags"]["environment"]["JAX_PLATFORMS"] == "cpu"
    assert "jax_default_matmul_precision" in whole["flags"]["jax"] and "OMP_NUM_THREADS" in whole["flags"]["peers"]
    assert whole["versions"].keys() >= {"python", "jax", "flax", "numpy"}
    assert datetime.datetime.fromisoformat(whole["date"]).tzinfo
    assert whole["command"] and "torch not installed: pip install 'agejax[bench]'" in whole["remarks"]


def test_what_was_measured_before_ctrl_c_is_kept(monkeypatch, tmp_path, capsys):
    file = tmp_path / "bench.json"

    def measure(settings):
        yield Row("m", "first", 1.0, "images/s")
        assert [row["what"] for row in json.loads(file.read_text())["rows"]] == ["first"]  # while the next one runs
        yield Row("m", "second", 2.0, "images/s")
        yield "a last word"
        raise KeyboardInterrupt

    monkeypatch.setitem(bench.BENCHES, "floor", measure)
    monkeypatch.setitem(bench.BENCHES, "loader", lambda settings: pytest.fail("it goes on"))
    assert main(["bench", "--only=floor,loader", f"--json={file}"]) == 130
    printed = capsys.readouterr()
    assert "first" in printed.out and "second" in printed.out and "stopped" in printed.err
    whole = json.loads(file.read_text())
    assert [row["what"] for row in whole["rows"]] == ["first", "second"] and whole["remarks"][-1] == "a last word"


def test_a_bench_that_stops_does_not_stop_the_next_one(monkeypatch, capsys):
    def stops(settings):
        yield Row("m", "first", 1.0, "images/s")
        raise RuntimeError("cuDNN said no\nmore")

    monkeypatch.setitem(bench.BENCHES, "floor", stops)
    monkeypatch.setitem(bench.BENCHES, "loader", lambda settings: iter([Row("m", "second", 2.0, "images/s")]))
    assert main(["bench", "--only=floor,loader"]) == 0
    printed = capsys.readouterr()
    assert "floor stopped: RuntimeError: cuDNN said no\n" in printed.out and "Traceback" in printed.err
    assert "first" in printed.out and "second" in printed.out


def test_the_help_names_all_that_is_offered(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    printed = "".join(capsys.readouterr().out.split())
    assert f"of:{','.join(bench.BENCHES)}(default:all)" in printed
    assert f"of:{','.join(rounds.WAYS)}" in printed
    assert f"default:{','.join(rounds.MODELS)}" in printed


def test_peers_stand_in_the_table_with_their_ratio(capsys):
    about = {"device": {"kind": "NVIDIA H100 80GB HBM3"}, "machine": "16 cores, AMD EPYC, 128 GB", "versions": {}}
    speed = ("efficientnet_v2_m, bfloat16", "inference, batch best")
    rows = [
        Row(*speed, 1234.5, "images/s", "torch compile", 56.78, 21.74, (1200.0, 1300.0)),
        Row(*speed, 1234.5, "images/s", "torch eager", 5.678, 217.4, (1200.0, 1300.0)),
        Row(*speed, 2.5, "ms", "torch compile", 5.0, 0.5),
        Row(*speed, 0.614, "of byte floor"),
        Row(speed[0], "other", 7.0, "GB"),
    ]
    record.show(rows, about)
    printed = capsys.readouterr().out
    for text in ("NVIDIA H100 80GB HBM3", "1,234 images/s", "1,200–1,300", "2.5 ms", "61 % of byte floor", "7 GB"):
        assert text in printed, text
    for text in ("torch compile 56.8, ×21.74", "torch eager 5.68, ×217.40"):
        assert f" {text} " in printed, text
    assert printed.count("efficientnet_v2_m") == 2  # an entry each, not a line for every figure
    assert max(map(len, printed.splitlines())) <= 120


def test_a_prepared_set_is_read_and_not_drawn(small, drawn_data, monkeypatch):
    monkeypatch.setattr(loader.builders, "prepare", None)
    whole = loader.builders.open_split("synthetic", drawn_data, "all")
    examples = loader.open_examples(Settings("synthetic", drawn_data), drawn_data, 10)
    assert len(examples) == 10 < len(whole)
    assert [examples[row]["id"] for row in (0, 5)] == [whole[row]["id"] for row in (0, 5)]


def test_as_many_faces_are_drawn_as_are_asked_for(small, tmp_path):
    examples = loader.open_examples(Settings(), tmp_path, 12)
    assert {examples[row]["id"] for row in range(len(examples))} == {f"{row:06d}" for row in range(12)}
    assert host.decode(examples[3]["image"]).shape == (64, 64, 3)


def test_every_contestant_does_the_work_of_the_case(small, monkeypatch, tmp_path):
    work, train = [], loader.train_batches

    def spy(examples, **options):
        work.append((options["augmentation"], options["loader"].workers))
        return train(examples, **options | {"loader": loader.Loader()})

    def peer(batch_size, augmentation, workers):
        assert (augmentation, workers) == work[-1]
        return contextlib.nullcontext(itertools.repeat(batch_size))

    monkeypatch.setattr(loader, "train_batches", spy)
    examples = loader.open_examples(Settings(), tmp_path, FACES)
    cases = [loader.Case("a", NO_AUGMENTATION, 0), loader.Case("b", Augmentation(flip=0.25), 2)]
    for case in cases:
        assert list(loader._speeds(case, examples, {"peer": peer}, 0.01)) == [OURS, "peer"]
    assert work == [(case.augmentation, case.workers) for case in cases]


@pytest.mark.parametrize(
    "words, said",
    [
        (["--only=loader,trian"], "no bench 'trian': there are floor, step, inference, train, trials, loader, detect"),
        (["--seconds=0"], "seconds must be above 0, got 0"),
        (["--models=thin,thick"], "no model 'thick': there are thin, tiny"),
        (["--dtypes=float16"], "no dtype 'float16': there are float32, bfloat16"),
        (["--peers=jit"], "no way of torch 'jit': there are eager, compile, max-autotune"),
        (["--inference=1,0"], "inference takes batch sizes and best, got '0'"),
        (["--batch=-1"], "batch must be above 0, got -1"),
        (["--models=thin", "--size=31"], "size must be 32 or more for these models, got 31"),
        (["--only=loader", "--data=aaf", "--data_dir=nowhere"], "aaf is not prepared in nowhere: run"),
    ],
)
def test_mistakes_are_told_in_one_line(words, said, capsys):
    assert main(["bench", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}") and error.count("\n") == 1


# detection


class Given:
    """Finds what was drawn; sees that it is shown the photographs in order."""

    name, settings = "given", {}

    def __init__(self, points):
        self.points, self.seen = points, []

    def detect(self, images):
        self.seen += images
        return [Faces(np.ones((1, 4), np.float32), np.ones(1, np.float32), self.points[None]) for _ in images]


def test_detection_is_measured_alone_and_with_decoding_and_alignment(small, monkeypatch):
    without(monkeypatch, "tensorflow")
    given = Given(ARCFACE_112.astype(np.float32) / 2)
    monkeypatch.setattr(detect, "_ours", lambda: given)
    remark, *rows = detect.measure(Settings(seconds=0.01))
    assert remark.startswith("no figures of the mtcnn package")
    assert [(row.model, row.what) for row in rows] == [
        ("MTCNN on cpu", "detect"),
        ("MTCNN on cpu", "decode, detect, align"),
    ]
    assert min(row.value for row in rows) > 0
    assert all(image.shape == (64, 64, 3) for image in given.seen)
    assert len({image.tobytes() for image in given.seen[:FACES]}) == FACES
    np.testing.assert_array_equal(given.seen[0], given.seen[FACES])  # round and round


def test_crops_are_aligned_and_whole_where_no_face_is_found():
    face = draw_face(0, 1, "mugshot", 128)
    crop = detect.decode_detect_align(Given(face["landmarks"]), [face["image"]])[0]
    assert crop.shape == (224, 224, 3)
    image = host.decode(face["image"])
    no_one = types.SimpleNamespace(detect=lambda images: [Faces(np.zeros((0, 4)), np.zeros(0), np.zeros((0, 5, 2)))])
    whole = detect.decode_detect_align(no_one, [face["image"]])[0]
    assert np.abs(whole.astype(int) - cv2.resize(image, (224, 224))).mean() < 2
    assert np.abs(crop.astype(int) - whole).mean() > 10


def test_what_the_package_says_is_read_as_faces():
    points = {"nose": [5, 6], "mouth_right": [9, 10], "right_eye": [3, 4], "left_eye": [1, 2], "mouth_left": [7, 8]}
    (faces, no_one) = map(detect.as_faces, ([{"box": [1, 2, 3, 4], "keypoints": points, "confidence": 0.9}], []))
    assert faces.boxes.tolist() == [[1, 2, 3, 4]] and faces.scores.tolist() == [np.float32(0.9)]
    assert faces.points.tolist() == [[[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]]]
    assert [part.shape for part in no_one] == [(0, 4), (0,), (0, 5, 2)]


def test_without_weights_there_is_a_remark_and_no_row(monkeypatch):
    def missing():
        raise UserError("MTCNN's weights come with the package mtcnn")

    monkeypatch.setattr(detect, "_ours", missing)
    assert list(detect.measure(Settings())) == ["MTCNN's weights come with the package mtcnn"]


# torch's loaders: where torch is installed


@pytest.fixture(scope="module")
def torch_loader():
    pytest.importorskip("torch", reason="a peer of the bench, not a part of the project")
    from agejax.bench import torch_loader

    return torch_loader


@pytest.fixture(scope="module")
def files(torch_loader, tmp_path_factory):
    faces = [draw_face(0, i, "mugshot", 160) for i in range(4)]
    return torch_loader.write_files(faces, tmp_path_factory.mktemp("files") / "f")


def peers():
    from agejax.bench import torch_loader

    return torch_loader.DATASETS.values()


def only(**fields):
    return Augmentation(**{**{f: getattr(NO_AUGMENTATION, f) for f in NO_AUGMENTATION.__dataclass_fields__}, **fields})


def crops(files, augmentation, row=0, size=96):
    """The same face by each peer, float64."""
    return [dataset(files, size, augmentation)[row][0].numpy().astype(float) for dataset in peers()]


def test_every_peer_gives_the_same_crop(files):
    for row in range(4):
        ours, *others = crops(files, NO_AUGMENTATION, row)
        for other in others:
            assert np.abs(ours - other).max() <= 1


@pytest.mark.parametrize("fields", [{"flip": 1.0}, {"gray": 1.0}])
def test_every_peer_flips_and_greys(files, fields):
    ours, *others = crops(files, only(**fields))
    assert np.abs(ours - crops(files, NO_AUGMENTATION)[0]).mean() > 2
    for other in others:
        assert np.abs(ours - other).mean() < 1.5


@pytest.mark.parametrize(
    "fields",
    [{"rotation": 15.0}, {"zoom": 0.3}, {"shift": 0.2}, {"brightness": 0.4}, {"contrast": 0.4}, {"saturation": 1.0}],
)
def test_every_peer_does_every_step_at_random(files, fields):
    plain = crops(files, NO_AUGMENTATION)[0]
    for dataset in peers():
        photographs = dataset(files, 96, only(**fields))
        drawn = [photographs[0][0].numpy().astype(float) for _ in range(6)]
        assert drawn[0].shape == (96, 96, 3)
        assert len({image.tobytes() for image in drawn}) > 3, dataset
        assert max(np.abs(image - plain).mean() for image in drawn) > 2, dataset


def test_every_peer_degrades_alike(files):
    """At the lowest resolution that is drawn, high frequencies are gone, low ones are left."""
    plain = crops(files, NO_AUGMENTATION)[0]
    for dataset in peers():
        photographs = dataset(files, 96, only(degrade=0.25))
        drawn = [photographs[0][0].numpy().astype(float) for _ in range(12)]
        sharpness = [np.abs(np.diff(image, axis=0)).mean() for image in drawn]
        assert min(sharpness) < 0.75 * np.abs(np.diff(plain, axis=0)).mean(), dataset
        assert all(np.abs(image - plain).mean() < 12 for image in drawn)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_batches_are_uint8_and_endless(torch_loader, files, workers):
    for dataset in peers():
        with torch_loader.batches(dataset, files, 96, 3, Augmentation(), workers) as batches:
            images, ages = zip(*itertools.islice(batches, 4))  # three epochs
        assert {(tuple(image.shape), str(image.dtype)) for image in images} == {((3, 96, 96, 3), "torch.uint8")}
        assert {float(age) for batch in ages for age in batch} == {float(age) for age in files.ages}
