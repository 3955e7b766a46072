"""MTCNN. golden/mtcnn.npz holds what the mtcnn package gives (see golden/make_mtcnn.py); TensorFlow is not needed."""

import json
import os
import pickle
import types
from pathlib import Path

import cv2
import jax
import joblib
import numpy as np
import pytest

from agejax import faces
from agejax.faces import MTCNN, boxes, networks, pyramid
from data_pipelines.builders.aaf import five_points
from data_pipelines.errors import UserError
from data_pipelines.host import decode
from data_pipelines.synthetic import draw_face

GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "mtcnn.npz"))
PACKAGE = MTCNN(retry=False)
SCENES = {"crowd": 7, "near": 1, "cut": 1, "half": 1, "low": 1}  # the last three: faces cut off by the image's border


def scene(name):
    return cv2.imdecode(GOLDEN[f"png_{name}"], cv2.IMREAD_COLOR_RGB)


def drawn(size, index=7, domain="mugshot"):
    face = draw_face(3, index, domain, size)
    return decode(face["image"]), face["landmarks"]


def assert_same(found, expected, atol):
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert a.boxes.shape == b.boxes.shape
        for part, other in zip(a, b):
            np.testing.assert_allclose(part, other, atol=atol)


# --- networks


def network_inputs():
    """As make_mtcnn.py drew them: four maps, crops of 24 and 48 px, one image."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.uniform(-1, 1, shape).astype(np.float32)  # noqa: E731
    maps = [draw(1, height, width, 3) for height, width in ((12, 12), (11, 15), (25, 36), (40, 31))]
    return maps, draw(4, 24, 24, 3), draw(4, 48, 48, 3), rng.integers(0, 256, (1, 37, 53, 3)).astype(np.uint8)[0]


def differences(prefix, names, outputs):
    pairs = [(np.asarray(out), GOLDEN[f"{prefix}_{name}"]) for name, out in zip(names, outputs)]
    return [np.abs(out.reshape(gold.shape) - gold).max() for out, gold in pairs]


def test_networks_agree_with_the_package():
    pnet, rnet, onet = networks.load_weights()
    maps, small, large, _ = network_inputs()
    worst = [differences(f"p{x.shape[1]}", ("boxes", "scores"), jax.jit(networks.pnet)(pnet, x)) for x in maps]
    worst.append(differences("r", ("boxes", "scores"), networks.rnet(rnet, small)))
    offsets, points, scores = networks.onet(onet, large)
    by_axis = np.asarray(points).transpose(0, 2, 1)  # the package gives five x, then five y
    worst.append(differences("o", ("boxes", "points", "scores"), (offsets, by_axis, scores)))
    assert max(max(some) for some in worst) < 1e-5
    assert min(GOLDEN[name].std() for name in ("p40_boxes", "p40_scores", "r_boxes", "o_boxes", "o_points")) > 0.01


def test_control_without_the_swap_of_height_and_width(monkeypatch):
    _, rnet, onet = networks.load_weights()
    _, small, large, _ = network_inputs()
    monkeypatch.setattr(networks, "_flat", lambda x: x.reshape(x.shape[0], -1))
    for prefix, network, *inputs in (("r", networks.rnet, rnet, small), ("o", networks.onet, onet, large)):
        again = jax.jit(lambda *args, network=network: network.__wrapped__(*args))  # not from the cache
        assert differences(prefix, ("boxes",), again(*inputs))[0] > 1e-2


def test_crops_agree_with_the_package():
    rgb = network_inputs()[-1]
    store = faces._stored([np.zeros((5, 9, 3), np.uint8), rgb])
    cut = np.array([(-3.2, 5.1, 20.7, 29.0), (30.5, 11.4, 61.3, 42.2), (7.9, -8.8, 44.4, 27.7)], np.float32)
    places = (np.repeat(part[1:], 3) for part in store[1:])
    crops = np.asarray(networks.crop_boxes(store.pixels, cut, *places, 24))
    np.testing.assert_allclose(crops, GOLDEN["crops"], atol=1e-4)
    assert (crops[0, :, 0] == 0).all() and (crops[1, -1] == 0).all()  # outside of the image


def packaged(monkeypatch, folder):
    spec = types.SimpleNamespace(submodule_search_locations=[str(folder)])
    monkeypatch.setattr(networks.importlib.util, "find_spec", lambda name: spec)


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(networks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'agejax\[faces\]'"):
        networks.load_weights.__wrapped__()


def test_a_file_of_weights_that_was_changed_is_not_opened(monkeypatch, tmp_path):
    (tmp_path / "assets" / "weights").mkdir(parents=True)
    packaged(monkeypatch, tmp_path)
    monkeypatch.setattr(joblib, "load", lambda file: pytest.fail("a pickle was opened"))
    with pytest.raises(UserError, match=r"pnet\.lz4: cannot be read"):
        networks.load_weights.__wrapped__()
    (tmp_path / "assets" / "weights" / "pnet.lz4").write_bytes(b"not the weights")
    with pytest.raises(UserError, match=r"pnet\.lz4: SHA-256 \w{12}… is not that of mtcnn 1.0") as error:
        networks.load_weights.__wrapped__()
    assert "\n" not in str(error.value)


# --- pyramids


def test_as_many_levels_as_the_package_has():
    def package(width, height):
        count = round(-((np.log(min(width, height) / 12) / np.log(0.709)) + 1))
        return 12 / 20 * 0.709 ** np.arange(count)

    for size in range(12, 1600, 7):
        np.testing.assert_array_equal(pyramid.scales(size, 700, 20, 0.709), package(700, size))
        twice = pyramid.scales(2 * size, 1400, 40, 0.709)  # twice the image, faces twice as large: the same levels
        np.testing.assert_allclose(twice, pyramid.scales(size, 700, 20, 0.709) / 2)


@pytest.mark.parametrize("shapes", [[(61, 75), (64, 64), (75, 60)], [(45, 901), (230, 47)]])
def test_packing_changes_nothing(shapes):
    """Every cell of every level, from levels on shared canvases, against P-Net on the level alone."""
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]
    pnet, alone_pnet = networks.load_weights()[0], jax.jit(networks.pnet)
    plan = pyramid.lay_out(shapes, 20, 0.709)
    offsets, scores = faces._read(faces._send_pyramids(pnet, pyramid.paint(images, plan), 1))
    owner, level, found, score = pyramid.find_cells(plan, offsets, scores, -1)
    for i, image in enumerate(images):
        for k, (height, width) in enumerate(plan.sizes[i]):
            alone = cv2.resize(image.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
            reg, expected = (np.asarray(part)[0] for part in alone_pnet(pnet, (alone[None] - 127.5) / 128))
            here = (owner == i) & (level == k)
            np.testing.assert_allclose(score[here], expected.ravel(), atol=1e-5)
            at = 2 * np.argwhere(expected > -1)[:, ::-1]
            corners = np.concatenate([at + 1, at + 12], 1) + 11 * reg.reshape(-1, 4)
            np.testing.assert_allclose(found[here] * plan.scales[i][k], corners, atol=1e-3)


def test_levels_larger_than_a_canvas_are_cut():
    plan = pyramid.lay_out([(310, 1450)], 20, 0.709)
    assert len(plan.pieces) > len(plan.sizes[0])
    for piece in plan.pieces:
        assert piece.y % 2 == piece.x % 2 == piece.top % 2 == piece.left % 2 == 0
        assert piece.y + piece.height <= pyramid.HEIGHT and piece.x + piece.width <= pyramid.WIDTH


def test_canvases_are_well_filled():
    shapes = [(300 + i, 340 - i) for i in range(16)]
    plan = pyramid.lay_out(shapes, 20, 0.709)
    pixels = sum(height * width for sizes in plan.sizes for height, width in sizes)
    assert pixels > 0.75 * plan.canvases * pyramid.HEIGHT * pyramid.WIDTH


# --- boxes


def overlap(a, b, over_smaller):
    shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    area_a, area_b = ((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b))
    return shared / (min(area_a, area_b) if over_smaller else area_a + area_b - shared)


@pytest.mark.parametrize("over_smaller", [False, True])
def test_suppression_against_a_plain_loop(over_smaller, monkeypatch):
    monkeypatch.setattr(boxes, "BLOCK", 16)
    rng = np.random.default_rng(2)
    corner = rng.uniform(0, 60, (100, 2))
    some = np.concatenate([corner, corner + rng.uniform(10, 40, (100, 2))], 1)
    expected = [j for j, b in enumerate(some) if all(overlap(a, b, over_smaller) <= 0.4 for a in some[:j])]
    assert boxes.suppress(some, 0.4, over_smaller).tolist() == expected
    assert 5 < len(expected) < 60


def test_a_suppressed_box_suppresses_too():
    chain = np.array([(0, 0, 10, 10), (4, 0, 14, 10), (8, 0, 18, 10)], float)  # each overlaps the next one only
    assert boxes.suppress(chain, 0.4).tolist() == [0]
    assert boxes.suppress(np.zeros((0, 4)), 0.4).tolist() == []
    assert boxes.suppress(np.zeros((2, 4)), 0.4).tolist() == [0, 1]  # no area, no overlap


def test_groups_do_not_suppress_each_other():
    same = np.array([(0, 0, 10, 10)] * 4, float)
    kept = boxes.best((np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1])), same, np.array([0.7, 0.9, 0.8, 0.8]), 0.5)
    assert kept.tolist() == [1, 2, 3]


# --- the cascade


@pytest.mark.parametrize("name", SCENES)
def test_cascade_agrees_with_the_package(name):
    expected = GOLDEN[f"faces_{name}"]
    (found,) = PACKAGE.detect([scene(name)])
    assert len(found.boxes) == len(expected) == SCENES[name]
    np.testing.assert_allclose(found.boxes, expected[:, :4], atol=0.05)
    np.testing.assert_allclose(found.scores, expected[:, 4], atol=1e-3)
    np.testing.assert_allclose(found.points, expected[:, 5:].reshape(-1, 2, 5).transpose(0, 2, 1), atol=0.05)
    assert [part.dtype for part in found] == [np.float32] * 3


def test_points_come_image_left_first():
    for index in (1, 3, 7):
        image, landmarks = drawn(160, index)
        (found,) = MTCNN().detect([image])
        assert np.abs(found.points[0] - landmarks).max() < 0.2 * (landmarks[1, 0] - landmarks[0, 0])


def test_a_result_does_not_depend_on_its_batch(monkeypatch):
    images = [scene("crowd"), drawn(97, 1)[0], np.zeros((9, 30, 3), np.uint8), scene("near"), drawn(260, 3, "wild")[0]]
    alone = [faces_ for image in images for faces_ in MTCNN().detect([image])]
    assert [len(one.boxes) for one in alone] == [7, 1, 0, 1, 1]
    assert_same(MTCNN().detect(images), alone, 1e-3)
    assert_same(MTCNN().detect(images[::-1])[::-1], alone, 1e-3)
    monkeypatch.setattr(faces, "CPU", faces.Load(3, 16, 4, 60_000))  # several batches, as with more images
    assert_same(MTCNN().detect(images), alone, 1e-3)


def test_twice_the_same():
    images = [scene(name) for name in SCENES]
    assert_same(MTCNN().detect(images), MTCNN().detect(images), 0)


def test_nothing_to_find():
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    for image in (noise, np.full((200, 150, 3), 77, np.uint8), noise[:5, :5], noise[:11, :1], noise[:1]):
        (found,) = MTCNN().detect([image])
        assert [part.shape for part in found] == [(0, 4), (0,), (0, 5, 2)]
    assert MTCNN().detect([]) == []


def test_images_that_are_views():
    image = drawn(160)[0]
    assert_same(MTCNN().detect([image[:, ::-1]]), MTCNN().detect([image[:, ::-1].copy()]), 0)


def test_a_large_photograph_is_reduced_first():
    image, landmarks = drawn(640)
    small = cv2.resize(image, (160, 160), interpolation=cv2.INTER_AREA)
    (found,), (reduced,) = MTCNN(shrink=160).detect([image]), MTCNN().detect([small])
    np.testing.assert_allclose(found.points, (reduced.points + 0.5) * 4 - 0.5, atol=1e-2)
    np.testing.assert_allclose(found.boxes, (reduced.boxes + 0.5) * 4 - 0.5, atol=1e-2)
    assert np.abs(found.points[0] - landmarks).max() < 0.2 * (landmarks[1, 0] - landmarks[0, 0])


def test_a_second_look_where_nothing_was_found():
    image, landmarks = drawn(128, 2)
    assert len(PACKAGE.detect([image])[0].boxes) == 0
    crowd, found = MTCNN().detect([scene("crowd"), image])
    assert_same([crowd], PACKAGE.detect([scene("crowd")]), 1e-3)
    assert np.abs(found.points[0] - landmarks).max() < 0.2 * (landmarks[1, 0] - landmarks[0, 0])
    assert found.boxes.min() >= 0 and found.boxes.max() <= 127


def test_thresholds_and_smallest_face():
    image = scene("crowd")
    every, few, large = (
        detector.detect([image])[0]
        for detector in (PACKAGE, MTCNN((0.6, 0.7, 0.96), retry=False), MTCNN(min_face=60, retry=False))
    )
    assert len(few.boxes) == (every.scores > 0.96).sum() == 4
    sides = [(found.boxes[:, 2:] - found.boxes[:, :2]).max(1) for found in (every, large)]
    assert min(sides[0]) < 26 and len(sides[1]) > 0 and min(sides[1]) > 34
    for wrong in ({"min_face": 8}, {"factor": 1.0}, {"factor": 0}):
        with pytest.raises(UserError, match="mtcnn: "):
            MTCNN(**wrong)


def test_settings_are_json_and_tell_detectors_apart():
    kinds = (MTCNN(), MTCNN(min_face=21), MTCNN(factor=0.8), MTCNN((0.5, 0.7, 0.8)), MTCNN(shrink=9), PACKAGE)
    assert len({json.dumps(kind.settings) for kind in kinds}) == len(kinds)
    assert json.loads(json.dumps(MTCNN().settings)) == MTCNN().settings
    assert "94f6ea2f4cf985275ee958cdd762d17b6009348a4fb9d8c6be39ba73ffd22ca3" in json.dumps(MTCNN().settings)
    assert MTCNN.name == "mtcnn"


def test_a_detector_travels_without_its_weights():
    MTCNN().detect([drawn(128)[0]])
    sent = pickle.dumps(MTCNN(min_face=30))
    assert len(sent) < 1000 and pickle.loads(sent) == MTCNN(min_face=30)


def test_few_shapes_are_compiled():
    """Photographs of any sizes: each network once, the crops once for each size of store."""
    jitted = (networks.propose, networks.rnet, networks.onet, networks.crop_boxes)
    for function in jitted:
        function.clear_cache()
    rng = np.random.default_rng(3)
    image = scene("crowd")
    for height, width in (*rng.integers(20, 500, (25, 2)), (1500, 1100), (900, 450), (500, 800), (600, 700)):
        MTCNN().detect([cv2.resize(image, (int(width), int(height)), interpolation=cv2.INTER_AREA)])
    assert [function._cache_size() for function in jitted[:3]] == [1, 1, 1]
    assert 2 <= networks.crop_boxes._cache_size() <= 2 * 3


def test_runs_in_step_give_their_results_in_order():
    order = []

    def run(number, steps):
        for step in range(steps):
            order.append((number, step))
            yield
        return number

    assert faces._in_step(run(i, steps) for i, steps in enumerate((3, 0, 1, 3))) == [0, 1, 2, 3]
    assert order.index((2, 0)) < order.index((0, 2))  # the next one starts before the first one ends


@pytest.mark.real
@pytest.mark.skipif("AGEJAX_REAL_DATA" not in os.environ, reason="AGEJAX_REAL_DATA names no folder of photographs")
def test_photographs():
    root = Path(os.environ["AGEJAX_REAL_DATA"], "aaf")
    files = sorted((root / "original images").iterdir())[::260]
    points = [five_points(root / "key points" / f"{file.stem}.txt") for file in files]
    found = MTCNN().detect([decode(file.read_bytes()) for file in files])
    assert len(files) >= 40 and all(len(one.boxes) for one in found)
    errors = [
        np.linalg.norm(one.points - true, axis=-1).mean(1).min() / np.linalg.norm(true[0] - true[1])
        for one, true in zip(found, points)
    ]
    assert np.median(errors) < 0.04
