"""Plans executed on the device, against the host's execution and against float64."""

import dataclasses
import types
from functools import cache, partial

import cv2
import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from agejax import augment
from data_pipelines import crops, host, synthetic
from data_pipelines.align import Alignment
from data_pipelines.errors import UserError
from data_pipelines.plans import (
    BRIGHTNESS,
    CONTRAST,
    IDENTITY,
    NO_AUGMENTATION,
    ORDERS,
    Augmentation,
    Plan,
    canvas_size,
    on_canvas,
    plain_plan,
    sample_plan,
    stack,
)

S, B = 40, 96


def only(**fields):
    return dataclasses.replace(NO_AUGMENTATION, **fields)


JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}
CASES = {  # what may happen; most grey levels, and the mean, of the difference to the host
    "nothing": (NO_AUGMENTATION, 0, 0),
    "flip": (only(flip=0.5), 0, 0),
    "gray": (only(gray=0.5), 0, 0),
    "rotation": (only(rotation=15.0), 1, 5e-4),
    "geometry": (only(flip=0.5, rotation=180.0, zoom=0.4, shift=0.2), 1, 5e-4),
    "patch": (only(area=0.1, aspect=4 / 3), 1, 2e-3),
    "patch, turned": (only(area=0.3, rotation=15.0, shift=0.1), 1, 5e-4),
    "gray, turned": (only(gray=0.5, rotation=15.0), 1, 5e-4),
    "degrade": (only(degrade=0.5), 1, 1e-4),
    "degrade, torch7": (only(degrade=0.3, resize="torch7"), 1, 1e-4),
    "jitter": (only(**JITTER), 1, 0.07),
    "jitter, gray": (only(gray=1.0, **JITTER), 1, 1e-4),
    "default": (Augmentation(), 2, 4e-3),
    "all": (Augmentation(zoom=0.2, shift=0.1, degrade=0.1), 2, 4e-3),
    "all, torch7": (Augmentation(zoom=0.2, shift=0.1, resize="torch7"), 2, 4e-3),
}


@cache
def canvases(side, count=B):
    """Drawn faces and noise by turns: uint8 (count, side, side, 3)."""
    images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    for number in range(0, count, 2):
        face, plan = synthetic.draw_face(0, number, size=96), plain_plan(IDENTITY, side)
        crops.fill(images[number], face, S, Alignment(), plan, "antialias")
    return images


def drawn(augmentation, count=B, seed=0):
    """(canvases, plans for them)."""
    rng, side = np.random.default_rng(seed), canvas_size(S, augmentation)
    plans = [sample_plan(rng, IDENTITY, S, augmentation) for _ in range(count)]
    return canvases(side, count), on_canvas(stack(plans), S, side)


@cache
def compiled(augmentation):
    return jax.jit(partial(augment.execute, size=S, augmentation=augmentation))


def on_device(augmentation, canvas, plan):
    return np.asarray(compiled(augmentation)(canvas, plan))


def each(canvas, plan):
    for number, image in enumerate(canvas):
        yield image, Plan(*(field[number] for field in plan))


def on_host(augmentation, canvas, plan):
    return np.stack([host.execute(image, one, S, augmentation.resize) for image, one in each(canvas, plan)])


def difference(left, right):
    return np.abs(left.astype(float) - right)


@pytest.mark.parametrize("name", CASES)
def test_the_device_does_what_the_host_does(name):
    augmentation, most, mean = CASES[name]
    canvas, plan = drawn(augmentation)
    crop = on_device(augmentation, canvas, plan)
    assert (crop.dtype, crop.shape) == (np.uint8, (B, S, S, 3))
    error = difference(crop, on_host(augmentation, canvas, plan))
    assert error.max() <= most and error.mean() <= mean
    still = NO_AUGMENTATION if name != "nothing" else only(flip=1.0)  # the plans do something
    assert difference(crop, on_host(still, *drawn(still))).mean() > 1


def bilinear(image, matrix):
    """Black outside, float64 (S, S, 3)."""
    x, y = matrix.astype(float) @ [np.tile(np.arange(S), S), np.repeat(np.arange(S), S), np.ones(S * S)]
    total, side = np.zeros((S * S, 3)), len(image)
    for column in range(side):
        across = np.clip(1 - np.abs(x - column), 0, None)
        rows = np.clip(1 - np.abs(y[:, None] - np.arange(side)), 0, None) @ image[:, column]
        total += across[:, None] * rows
    return total.reshape(S, S, 3)


def step_by_step(image, plan, resize):
    """The formulas as written, one after the other, in float64; unrounded at the end."""
    image = image.astype(float)
    if plan.gray:
        image = np.repeat(np.rint(image @ host.LUMA)[..., None], 3, axis=-1)
    image = np.rint(bilinear(image, plan.matrix))
    for axis in (0, 1):
        for source, target in ((S, plan.degrade), (plan.degrade, S)):
            image = np.moveaxis(np.tensordot(host.resample_matrix(source, target, resize), image, (1, axis)), 0, axis)
    for operation in ORDERS[plan.order]:
        luma = (image @ host.LUMA)[..., None]
        reference = {BRIGHTNESS: 0.0, CONTRAST: luma.mean()}.get(operation, luma)
        image = plan.colour[operation] * image + (1 - plan.colour[operation]) * reference
    return image.clip(0, 255)


@pytest.mark.parametrize("resize", ["antialias", "torch7"])
def test_against_float64(resize):
    augmentation = Augmentation(rotation=40.0, zoom=0.2, shift=0.1, resize=resize)
    canvas, plan = drawn(augmentation, count=24, seed=1)
    want = np.stack([step_by_step(image, one, resize) for image, one in each(canvas, plan)])
    error = difference(on_device(augmentation, canvas, plan), want)
    assert error.max() < 2.5 and (error > 0.51).mean() < 1e-3  # half a level is rounding


def test_a_plan_that_does_nothing_copies_pixels():
    augmentation = Augmentation()
    side = canvas_size(S, augmentation)
    plan = on_canvas(stack([plain_plan(IDENTITY, S)] * B), S, side)
    inner = slice((side - S) // 2, (side + S) // 2)
    np.testing.assert_array_equal(on_device(augmentation, canvases(side), plan), canvases(side)[:, inner, inner])


def test_outside_of_the_canvas_is_black():
    for offset, seen in ((0, 200), (1000, 0), (-1e9, 0)):
        matrix = np.array([(1, 0, S - 9 + offset), (0, 1, -5)], np.float32)
        plan = stack([plain_plan(IDENTITY, S)._replace(matrix=matrix)])
        (crop,) = on_device(NO_AUGMENTATION, np.full((1, S, S, 3), 200, np.uint8), plan)
        want = np.zeros((S, S, 3))
        want[5:, :9] = seen
        np.testing.assert_array_equal(crop, want)


def test_new_plans_need_no_new_program():
    augmentation = Augmentation(shift=0.1)
    outputs = [on_device(augmentation, *drawn(augmentation, count=4, seed=seed)) for seed in range(4)]
    assert compiled(augmentation)._cache_size() == 1
    assert len({crop.tobytes() for crop in outputs}) == 4


def test_trials_under_vmap_are_each_their_own():
    augmentation = Augmentation()
    batches = [drawn(augmentation, count=6, seed=seed) for seed in range(3)]
    together = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
    crop = jax.jit(jax.vmap(partial(augment.execute, size=S, augmentation=augmentation)))(*together)
    for number, batch in enumerate(batches):
        np.testing.assert_array_equal(crop[number], on_device(augmentation, *batch))


def test_four_devices_do_what_one_does_and_do_not_talk():
    augmentation = Augmentation()
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    batch = drawn(augmentation)
    split = jax.jit(compiled(augmentation), in_shardings=(rows, rows), out_shardings=rows)
    np.testing.assert_array_equal(split(*batch), on_device(augmentation, *batch))
    text = split.lower(*batch).compile().as_text()
    assert not [word for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute") if word in text]


@pytest.mark.parametrize(
    "augmentation, absent",
    [(only(**JITTER), "dot_general"), (only(degrade=0.5), "reduce_sum"), (Augmentation(gray=0.0), "9798")],
)
def test_what_never_happens_is_not_in_the_program(augmentation, absent):
    def program(augmentation):
        return str(jax.make_jaxpr(partial(augment.execute, size=S, augmentation=augmentation))(*drawn(augmentation)))

    assert absent not in program(augmentation) and absent in program(Augmentation())


def test_grey_is_opencvs_to_the_byte():
    image = np.random.default_rng(5).integers(0, 256, (1, 512, 512, 3), np.uint8)
    plan = stack([plain_plan(IDENTITY, 512)._replace(gray=np.True_)])
    crop = np.asarray(augment.execute(image, plan, 512, only(gray=1.0)))[0]
    np.testing.assert_array_equal(crop, cv2.cvtColor(cv2.cvtColor(image[0], cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB))


def test_a_zoom_that_the_host_reduces_for_is_refused():
    image = np.zeros((1, S, S, 3), np.uint8)
    with pytest.raises(UserError, match=r"zoom is 0\.5; on a device it must be below 0\.5"):
        augment.execute(image, stack([plain_plan(IDENTITY, S)]), S, only(zoom=0.5))


@pytest.mark.parametrize("fields, said", [({"hue": 0.1}, r"hue is 0\.1"), ({"randaugment": 2}, "randaugment is 2")])
def test_what_only_the_host_does_is_refused(fields, said):
    with pytest.raises(UserError, match=f"^augmentation: {said}, which only the host does: feed=host$"):
        augment.execute(np.zeros((1, S, S, 3), np.uint8), stack([plain_plan(IDENTITY, S)]), S, only(**fields))


@pytest.mark.parametrize(
    "platform, capability, halves",
    [("cpu", None, False), ("gpu", "7.5", False), ("gpu", "9.0", True), ("gpu", "12.0", True), ("tpu", None, True)],
)
def test_products_of_halves_only_where_there_are_some(platform, capability, halves):
    device = types.SimpleNamespace(platform=platform, compute_capability=capability)
    assert (augment._precision(device) == jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X3) == halves
