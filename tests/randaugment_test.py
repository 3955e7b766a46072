"""RandAugment, hue and patches. golden/randaugment.npz holds what torchvision gives (golden/make_randaugment.py)."""

import dataclasses
import math
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipelines import host, randaugment, synthetic
from data_pipelines.plans import (
    BRIGHTNESS,
    CONTRAST,
    IDENTITY,
    NO_AUGMENTATION,
    ORDERS,
    Augmentation,
    patch_box,
    plain_plan,
    sample_plan,
)
from data_pipelines.randaugment import LARGEST, OPERATIONS, TF, TORCHVISION, Draw

GOLDEN = np.load(Path(__file__).parent / "golden/randaugment.npz")
IMAGE = GOLDEN["image"]
S = len(IMAGE)
EXACT = ("Identity", "Posterize", "Solarize", "AutoContrast", "Equalize", "Invert", "Brightness")
GEOMETRY = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
LAE = {"area": 0.08, "aspect": 4 / 3, "hue": 0.1, "randaugment": 2}


def only(**fields):
    return dataclasses.replace(NO_AUGMENTATION, **fields)


def sample(seed, augmentation, size=S):
    return sample_plan(np.random.default_rng(seed), IDENTITY, size, augmentation)


def difference(left, right):
    return np.abs(left.astype(int) - right)


# operations


@pytest.mark.parametrize("key", [key for key in GOLDEN if key.count("/") == 2 and not key.startswith("boxes")])
def test_an_operation_is_torchvisions(key):
    name, magnitude, sign = key.split("/")
    table = TF if name == "Invert" else TORCHVISION
    error = difference(table[name](IMAGE, Draw(int(magnitude) / 30, int(sign), (0, 0))), GOLDEN[key])
    if name in GEOMETRY:  # the other neighbour, where the place lies between two
        assert (error.max(axis=-1) > 0).mean() < 0.002
    else:
        assert error.max() <= (name not in EXACT) and error.mean() < 0.5
    if name != "Identity":
        assert difference(GOLDEN[key], IMAGE).any()


def test_the_tables_are_the_published_ones():
    assert (len(TORCHVISION), len(TF), len(OPERATIONS)) == (14, 16, 30)
    assert TF.keys() - TORCHVISION.keys() == {"Invert", "Cutout", "SolarizeAdd"}
    assert TORCHVISION.keys() - TF.keys() == {"Identity"}


GRAY_RAMP = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16)[..., None], 3, axis=-1)
AT_9 = {  # tf, magnitude 9: what becomes of the levels 0 … 255
    "Posterize": np.arange(256) // 32 * 32,  # 3 bits
    "Solarize": np.where(np.arange(256) < 230, np.arange(256), 255 - np.arange(256)),
    "SolarizeAdd": np.where(np.arange(256) < 128, np.minimum(np.arange(256) + 99, 255), np.arange(256)),
    "Brightness": np.minimum(np.floor(np.arange(256) * 1.72 + 1e-9), 255),
    "Contrast": np.clip(np.floor(1 + 1.72 * (np.arange(256) - 1.0) + 1e-9), 0, 255),  # towards 256 px / 256
    "Invert": 255 - np.arange(256),
    "Color": np.arange(256),
    "AutoContrast": np.arange(256),
}


@pytest.mark.parametrize("name", AT_9)
def test_tone_curves_of_tf(name):
    got = TF[name](GRAY_RAMP, Draw(0.9, 1, (0, 0)))
    assert difference(got, got[..., :1]).max() == 0
    assert difference(got[..., 0].ravel(), AT_9[name]).max() <= (name in ("Contrast", "Brightness"))


def dots(*places, side=224):
    image = np.full((side, side, 3), 10, np.uint8)
    for x, y in places:
        image[y, x] = 250
    return image


def seen(image):
    """x, y of the brightest."""
    y, x = np.unravel_index(image[..., 0].argmax(), image.shape[:2])
    return int(x), int(y)


@pytest.mark.parametrize(
    "name, sign, place, want",
    [
        *(("TranslateX", 1, (120, 50), (30, 50)), ("TranslateX", -1, (120, 50), (210, 50))),  # 90 px
        *(("TranslateY", 1, (120, 150), (120, 60)), ("TranslateY", -1, (120, 50), (120, 140))),
        *(("ShearX", 1, (127, 100), (100, 100)), ("ShearY", 1, (100, 127), (100, 100))),  # 0.27 of 100 px
        ("ShearX", -1, (73, 100), (100, 100)),
    ],
)
def test_geometry_of_tf(name, sign, place, want):
    got = TF[name](dots(place), Draw(0.9, sign, (0, 0)))
    assert seen(got) == want and (got == 128).all(axis=-1).any()


def test_tf_turns_by_27_degrees_and_shows_grey_outside():
    got = TF["Rotate"](dots(*((190 + i, 110 + j) for i in range(3) for j in range(3))), Draw(0.9, 1, (0, 0)))
    x, y = np.array(seen(got)) - 111.5
    assert abs(math.degrees(math.atan2(-y, x))) == pytest.approx(27, abs=1.5)
    assert (got[0, 0] == 128).all()


@pytest.mark.parametrize("place, rows, columns", [((0.5, 0.25), (20, 92), (76, 148)), ((0, 1), (187, 224), (0, 36))])
def test_cutout_is_a_grey_square_of_72_px_as_far_as_it_lies_inside(place, rows, columns):
    image = dots()
    got = TF["Cutout"](image, Draw(0.9, 1, place))
    want = image.copy()
    want[slice(*rows), slice(*columns)] = 128
    np.testing.assert_array_equal(got, want)
    assert (image == 10).all()


def test_sharpness_and_colour_of_tf_go_away_from_the_smooth_and_the_grey():
    draw = Draw(0.9, 1, (0, 0))
    gray = np.repeat((IMAGE @ host.LUMA)[..., None], 3, axis=-1)
    smooth = IMAGE.astype(float)
    smooth[1:-1, 1:-1] = cv2.filter2D(IMAGE.astype(float), -1, randaugment.SMOOTH.astype(float))[1:-1, 1:-1]
    for name, other in (("Color", gray), ("Sharpness", smooth)):
        want = (other + 1.72 * (IMAGE - other)).clip(0, 255)
        assert np.abs(TF[name](IMAGE, draw) - want).max() < 1.9, name  # both images are whole levels there


# plans


def test_every_operation_is_drawn_alike_and_both_ways():
    for flavour, table in randaugment.FLAVOURS.items():
        augmentation = only(randaugment=2, magnitude=7, flavour=flavour)
        plans = [sample(seed, augmentation) for seed in range(1500)]
        operation, level = (np.array([getattr(p, name) for p in plans]) for name in ("operation", "level"))
        rows, counts = np.unique(operation, return_counts=True)
        assert [OPERATIONS[row][0] for row in rows] == [flavour] * len(table)
        assert counts.min() > 3000 / len(table) * 0.7 and (np.abs(level) == 7).all()
        assert 0.45 < (level > 0).mean() < 0.55
        for one, two in ((operation.T), (level.T), (operation[:, 0], level[:, 0])):
            assert abs(np.corrcoef(one, two)[0, 1]) < 0.1  # standard deviation 0.026


def test_a_plan_says_all_that_is_executed():
    augmentation = Augmentation(**LAE)
    face, seen = synthetic.draw_face(0, 1, size=96)["image"], set()
    for seed in range(20):
        plan, again = sample(seed, augmentation), sample(seed, augmentation)
        assert plan.operation.shape == plan.level.shape == (2,) and plan.place.shape == (2, 2)
        out = np.zeros((S, S, 3), np.uint8)
        crop = host.execute(face, plan, S, out=out)
        assert crop is out
        np.testing.assert_array_equal(crop, host.execute(face, again, S))
        plain = host.execute(face, plan._replace(operation=plan.operation[:0]), S)
        want = randaugment.execute(plain, plan.operation, plan.level, plan.place)
        np.testing.assert_array_equal(crop, want)
        seen.add(crop.tobytes())
    assert len(seen) == 20


def test_operations_come_one_after_the_other():
    rows = {row[:2]: number for number, row in enumerate(OPERATIONS)}
    two = np.array([rows["tf", "Solarize"], rows["torchvision", "Rotate"]], np.int32)
    got = randaugment.execute(IMAGE, two, np.array([5, -12], np.int32), np.zeros((2, 2), np.float32))
    want = TORCHVISION["Rotate"](TF["Solarize"](IMAGE, Draw(0.5, 1, ())), Draw(0.4, -1, ()))
    np.testing.assert_array_equal(got, want)


OLD = {  # seed → what was drawn before there were patches, hue and RandAugment: Augmentation(zoom=0.1), 64 px
    0: ([[0.91104853, -0.23568393, 10.226015], [0.23568393, 0.91104853, -4.6220727]], 1, 33, 4),
    1: ([[1.0105661, 0.24185978, -7.9514155], [-0.24185978, 1.0105661, 7.2857504]], 0, 36, 4),
}


def test_plans_without_the_stronger_augmentation_are_those_of_before_it():
    for seed, (matrix, gray, degrade, order) in OLD.items():
        plan = sample(seed, Augmentation(zoom=0.1), 64)
        np.testing.assert_allclose(plan.matrix, matrix, rtol=1e-5)
        assert (plan.gray, plan.degrade, plan.order) == (gray, degrade, order)


@pytest.mark.parametrize("more", [{"area": 0.5}, {"hue": 0.1}, {"randaugment": 3}, LAE])
def test_the_stronger_augmentation_leaves_what_else_is_drawn(more):
    changed = {"area": ["matrix"], "hue": ["hue", "hue_after"], "randaugment": ["operation", "level", "place"]}
    changed = {field for name in more for field in changed.get(name, [])}
    plain, strong, both = (sample(4, Augmentation(**x)) for x in ({}, more, LAE | more))
    for name, value in strong._asdict().items():
        assert np.array_equal(value, getattr(plain, name)) == (name not in changed), name
        if name in changed and more.get("randaugment", 2) == 2 and "area" not in more:
            np.testing.assert_array_equal(value, getattr(both, name))


@pytest.mark.parametrize("flavour, magnitude", [("torchvision", 31), ("tf", 11), ("tf", -1)])
def test_a_magnitude_beyond_the_flavours_is_refused(flavour, magnitude):
    with pytest.raises(ValueError, match=f"^augmentation: magnitude is {magnitude}, .* 0 to {LARGEST[flavour]} for"):
        Augmentation(flavour=flavour, magnitude=magnitude)


# patches


@pytest.mark.parametrize("key", [key for key in GOLDEN if key.startswith("boxes")])
def test_patches_are_distributed_as_torchvisions(key):
    area, aspect = map(float, key.split("/")[1:])
    rng, draw = np.random.default_rng(0), partial(patch_box, size=S, augmentation=only(area=area, aspect=aspect))
    found = np.array([draw(rng.random((10, 4))) for _ in range(20_000)])
    found = np.column_stack([found, (found[:, 2:] == S).all(axis=1)])
    mean, sd = GOLDEN[key]
    assert (np.abs(found.mean(axis=0) - mean) < 0.04 * sd).all()  # standard deviation 0.009 sd
    np.testing.assert_allclose(found.std(axis=0)[:4], sd[:4], rtol=0.04)
    assert (found[:, :2] + found[:, 2:4] <= S).all() and found.min() >= 0


def test_a_patch_is_enlarged_to_the_whole_crop():
    y, x = np.mgrid[:S, :S]
    ramp = np.stack([6 * x, 6 * y, 0 * x], axis=-1).astype(np.uint8)
    augmentation = only(area=0.1, aspect=2.0)
    for seed in range(10):
        plan = sample(seed, augmentation)
        numbers = np.random.default_rng(seed).random(11 + 42)[11:51].reshape(10, 4)
        left, top, width, height = patch_box(numbers, S, augmentation)
        want = cv2.resize(ramp[top : top + height, left : left + width], (S, S), interpolation=cv2.INTER_LINEAR)
        error = difference(host.execute(ramp, plan, S), want)
        edge = 1 + S // min(width, height)  # where the patch ends there is more of the image here
        assert error[edge:-edge, edge:-edge].max() <= 1


# hue


@pytest.mark.parametrize("key", [key for key in GOLDEN if key.startswith("hue")])
def test_hue_is_torchvisions(key):
    error = difference(host.turn_hue(IMAGE, float(key.split("/")[1])), GOLDEN[key])
    assert error.max() <= 1 and difference(GOLDEN[key], IMAGE).mean() > 1


def test_all_24_orders_of_the_jitters_are_drawn_alike():
    plans = [sample(seed, only(hue=0.1)) for seed in range(3000)]
    counts = np.bincount([p.order * 4 + p.hue_after for p in plans], minlength=24)
    assert len(counts) == 24 and counts.min() > 80  # 125 expected, standard deviation 11
    hue = np.array([p.hue for p in plans])
    assert -0.1 <= hue.min() < -0.099 and 0.099 < hue.max() <= 0.1


def step_by_step(image, plan):
    """As written, rounded and clipped around the hue alone."""
    image = image.astype(float)
    for position, operation in enumerate([*ORDERS[plan.order], None]):
        if position == plan.hue_after:
            image = host.turn_hue(np.rint(image.clip(0, 255)).astype(np.uint8), float(plan.hue)).astype(float)
        if operation is not None:
            luma = (image @ host.LUMA)[..., None]
            reference = {BRIGHTNESS: 0.0, CONTRAST: luma.mean()}.get(operation, luma)
            image = plan.colour[operation] * image + (1 - plan.colour[operation]) * reference
    return image.clip(0, 255)


@pytest.mark.parametrize("order", range(6))
def test_the_hue_is_turned_between_the_other_jitters(order):
    colour = np.array([0.7, 1.3, 0.6], np.float32)
    for after in range(4):
        plan = plain_plan(IDENTITY, S)._replace(
            colour=colour, order=np.int32(order), hue=np.float32(0.2), hue_after=np.int32(after)
        )
        error = np.abs(host.execute(IMAGE, plan, S) - step_by_step(IMAGE, plan))
        assert error.max() < 4 and error.mean() < 0.6  # a level before the hue is up to two after it


def test_grey_has_no_hue():
    plan = plain_plan(IDENTITY, S)._replace(gray=np.True_)
    turned, plain = (host.execute(IMAGE, one, S) for one in (plan._replace(hue=np.float32(0.3)), plan))
    np.testing.assert_array_equal(turned, plain)
