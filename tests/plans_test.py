import dataclasses

import numpy as np
import pytest

from data_pipelines.plans import (
    IDENTITY,
    NO_AUGMENTATION,
    ORDERS,
    Augmentation,
    canvas_size,
    on_canvas,
    placed,
    plain_plan,
    sample_plan,
    stack,
)

SIZE = 64
CROP = np.array([(0.9, -0.1, 5.0), (0.1, 0.9, -7.0)])  # source → crop
DTYPES = {"matrix": np.float32, "gray": np.bool_, "degrade": np.int32, "colour": np.float32, "order": np.int32}
SHAPES = {"matrix": (2, 3), "gray": (), "degrade": (), "colour": (3,), "order": ()}
DTYPES |= {"hue": np.float32, "hue_after": np.int32, "operation": np.int32, "level": np.int32, "place": np.float32}
SHAPES |= {"hue": (), "hue_after": (), "operation": (0,), "level": (0,), "place": (0, 2)}


def sample(seed=0, augmentation=NO_AUGMENTATION, crop=CROP, size=SIZE):
    return sample_plan(np.random.default_rng(seed), crop, size, augmentation)


def only(**fields):
    return dataclasses.replace(NO_AUGMENTATION, **fields)


def to_crop(plan, x, y):
    """Where output pixel (x, y) lies in the crop that has not been augmented."""
    return CROP[:, :2] @ (plan.matrix.astype(float) @ (x, y, 1)) + CROP[:, 2]


@pytest.mark.parametrize("plan", [plain_plan(CROP, SIZE), sample(augmentation=Augmentation())])
def test_plans_have_fixed_shapes_and_dtypes(plan):
    for name, value in plan._asdict().items():
        assert (value.dtype, value.shape) == (DTYPES[name], SHAPES[name]), name


def test_plain_plan_undoes_the_crop_matrix():
    np.testing.assert_allclose(to_crop(plain_plan(CROP, SIZE), 3, 50), (3, 50), atol=1e-4)


def test_a_plan_made_for_the_crop_can_be_placed_in_an_image_later():
    at_once = sample(7, Augmentation(zoom=0.2, shift=0.1))
    later = placed(sample(7, Augmentation(zoom=0.2, shift=0.1), crop=IDENTITY), CROP)
    np.testing.assert_allclose(later.matrix, at_once.matrix, rtol=1e-5, atol=2e-5)
    for name, value in later._asdict().items():
        assert (value.dtype, value.shape) == (DTYPES[name], SHAPES[name])
        if name != "matrix":
            np.testing.assert_array_equal(value, getattr(at_once, name))


def test_no_augmentation_is_the_plain_plan():
    plain = plain_plan(CROP, SIZE)
    for name, value in sample(augmentation=NO_AUGMENTATION)._asdict().items():
        if name != "order":  # of operations that do nothing
            np.testing.assert_array_equal(value, getattr(plain, name), err_msg=name)


def test_flip_maps_the_left_edge_to_the_right_edge():
    np.testing.assert_allclose(to_crop(sample(augmentation=only(flip=1.0)), 0, 9), (SIZE - 1, 9), atol=1e-4)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_rotation_and_zoom_leave_the_centre_where_it_is(flip):
    plan = sample(augmentation=only(flip=flip, rotation=90.0, zoom=0.5))
    np.testing.assert_allclose(to_crop(plan, 31.5, 31.5), (31.5, 31.5), atol=1e-4)
    assert abs(to_crop(plan, 63, 31.5)[1] - 31.5) > 1


def test_rotation_and_zoom_span_their_ranges():
    turns, zooms = [], []
    for seed in range(400):
        plan = sample(seed, only(rotation=15.0, zoom=0.25))
        x, y = to_crop(plan, 63, 31.5) - 31.5
        turns.append(np.degrees(np.arctan2(y, x)))
        zooms.append(31.5 / np.hypot(x, y))
    assert -15 <= min(turns) < -14.5 and 14.5 < max(turns) <= 15
    assert 0.75 - 1e-4 <= min(zooms) < 0.76 and 1.24 < max(zooms) <= 1.25 + 1e-4


def test_shift_moves_the_crop_by_its_share():
    offsets = np.array([to_crop(sample(i, only(shift=0.125)), 0, 0) for i in range(400)])
    assert np.abs(offsets).max() <= 8 + 1e-4
    assert (offsets.max(axis=0) > 7.8).all() and (offsets.min(axis=0) < -7.8).all()
    assert abs(np.corrcoef(offsets.T)[0, 1]) < 0.25  # standard deviation 0.05


def test_degrade_is_uniform_from_half_the_size_to_the_size():
    sizes = [sample(i, only(degrade=0.5), size=16).degrade for i in range(900)]
    values, counts = np.unique(sizes, return_counts=True)
    assert values.tolist() == list(range(8, 17))
    assert counts.min() > 60  # 100 expected, standard deviation 9.4


def test_default_ranges_are_those_of_the_dldl_v2_code():
    drawn = [sample(i, Augmentation(), size=224) for i in range(600)]
    degrade = [p.degrade for p in drawn]
    colour = np.array([p.colour for p in drawn])
    assert 112 <= min(degrade) < 115 and 221 < max(degrade) <= 224
    assert 0.6 <= colour.min() < 0.61 and 1.39 < colour.max() <= 1.4
    assert 0.4 < np.mean([p.gray for p in drawn]) < 0.6
    assert 0.4 < np.mean([np.linalg.det(p.matrix[:, :2]) < 0 for p in drawn]) < 0.6  # mirrored
    assert np.bincount([p.order for p in drawn], minlength=6).min() > 60  # 100 expected


def test_what_is_drawn_is_independent():
    def numbers(plan):
        turn = CROP[:, :2] @ plan.matrix[:, :2].astype(float)
        area = np.linalg.det(turn)
        return [area > 0, abs(area), turn[1, 0], plan.gray, plan.degrade, *plan.colour, plan.order]

    drawn = np.array([numbers(sample(i, Augmentation(zoom=0.3))) for i in range(1500)], float)
    off_diagonal = np.corrcoef(drawn.T) - np.eye(drawn.shape[1])
    assert np.abs(off_diagonal).max() < 0.12  # standard deviation 0.026


def test_orders_are_the_six_permutations():
    assert len(np.unique(ORDERS, axis=0)) == 6
    assert (np.sort(ORDERS, axis=1) == (0, 1, 2)).all()


def test_a_plan_depends_on_its_generator_alone():
    one, two, other = sample(5, Augmentation()), sample(5, Augmentation()), sample(6, Augmentation())
    assert all(np.array_equal(a, b) for a, b in zip(one, two))
    assert not np.array_equal(one.matrix, other.matrix)


def test_switching_one_augmentation_off_leaves_the_others():
    with_turn, without = sample(3, Augmentation()), sample(3, Augmentation(rotation=0.0))
    assert not np.array_equal(with_turn.matrix, without.matrix)
    for name in ("gray", "degrade", "colour", "order"):
        np.testing.assert_array_equal(getattr(with_turn, name), getattr(without, name))


@pytest.mark.parametrize(
    "fields",
    [
        *({"flip": 1.5}, {"gray": -0.1}, {"degrade": 0.0}, {"rotation": -1.0}, {"zoom": 1.0}, {"shift": 2.0}),
        *({"brightness": 1.1}, {"contrast": -1.0}, {"saturation": float("nan")}, {"resize": "nearest"}),
        *({"area": 0.0}, {"aspect": 0.9}, {"hue": 0.6}, {"randaugment": -1}, {"flavour": "timm"}, {"versions": -1}),
    ],
)
def test_a_field_out_of_range_is_named(fields):
    (name,) = fields
    with pytest.raises(ValueError, match=f"^augmentation: {name} is .*allowed") as caught:
        Augmentation(**fields)
    assert "\n" not in str(caught.value)


# canvases


def test_stacked_plans_are_the_plans():
    plans = [sample(seed, Augmentation()) for seed in range(5)]
    stacked = stack(plans)
    for name, values in stacked._asdict().items():
        assert (values.dtype, values.shape) == (DTYPES[name], (5, *SHAPES[name]))
        for value, plan in zip(values, plans):
            np.testing.assert_array_equal(value, getattr(plan, name))


def test_a_crop_with_a_margin_is_where_the_canvas_says():
    plans = stack([sample(seed, Augmentation(), crop=IDENTITY) for seed in range(3)])
    moved = on_canvas(plans, SIZE, SIZE + 10)
    np.testing.assert_array_equal(moved.matrix - plans.matrix, np.broadcast_to([(0, 0, 5), (0, 0, 5)], (3, 2, 3)))
    np.testing.assert_array_equal(moved.degrade, plans.degrade)


def test_canvas_sizes():
    sizes = {rotation: canvas_size(224, only(rotation=rotation)) for rotation in (0.0, 15.0, 45.0, 180.0)}
    assert sizes == {0.0: 224, 15.0: 276, 45.0: 318, 180.0: 318}  # 1 + 223 · √2 = 316.4
    assert canvas_size(64, only(flip=1.0, gray=0.5, degrade=0.5)) == 64
    assert canvas_size(64, only(shift=0.125)) == 80 and canvas_size(65, only(zoom=0.5)) == 129
    assert canvas_size(64, only(area=0.08)) == 66 and canvas_size(64, only(hue=0.1, randaugment=2)) == 64


class Extreme:
    """Uniform numbers, two fifths of them moved to the nearer end."""

    rng = np.random.default_rng(0)

    def random(self, count):
        numbers = self.rng.random(count)
        return np.where(self.rng.random(count) < 0.4, np.round(numbers), numbers)


@pytest.mark.parametrize("size", [33, 64])
@pytest.mark.parametrize(
    "fields",
    [
        {"rotation": 15.0},
        {"rotation": 180.0},
        {"zoom": 0.4},
        {"shift": 0.2},
        {"rotation": 20.0, "zoom": 0.3, "shift": 0.1, "flip": 0.5},
        {"area": 0.1, "aspect": 1.5},
    ],
)
def test_no_plan_leaves_its_canvas_and_a_smaller_one_would_not_do(fields, size):
    augmentation = only(**fields)
    canvas = canvas_size(size, augmentation)
    assert (canvas - size) % 2 == 0
    plans = stack([sample_plan(Extreme(), IDENTITY, size, augmentation) for _ in range(2000)])
    corners = np.array([(x, y, 1) for x in (0, size - 1) for y in (0, size - 1)])
    places = on_canvas(plans, size, canvas).matrix.astype(float) @ corners.T
    assert places.min() > -1e-3 and places.max() < canvas - 1 + 1e-3
    assert places.min() < 1 + 1e-3 and places.max() > canvas - 2 - 1e-3
