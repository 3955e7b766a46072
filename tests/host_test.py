import io
import itertools

import cv2
import numpy as np
import pytest
from PIL import Image

from data_pipelines import align, host
from data_pipelines.plans import BRIGHTNESS, CONTRAST, ORDERS, Augmentation, plain_plan, sample_plan

S = 48
NONE = np.full((5, 2), np.nan, np.float32)
FACE = align.Alignment()


def encode(image, extension=".png"):
    quality = [cv2.IMWRITE_JPEG_QUALITY, 98] if extension == ".jpg" else []
    return cv2.imencode(extension, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)[1].tobytes()


def noise(height=S, width=S, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def ramps(height, width):
    """Grey levels that are linear in x and y, dithered so that rounding has no direction."""
    y, x = np.mgrid[:height, :width]
    dither = np.random.default_rng(0).random((height, width, 3))
    return np.floor(levels(x, y) + dither).astype(np.uint8)


def levels(x, y):
    return np.stack([1.73 * x + 0.19 * y, 0.17 * x + 2.1 * y, 0 * x + 77], axis=-1)


def with_exif(jpeg, orientation):
    entry = b"\x12\x01\x03\x00\x01\x00\x00\x00" + orientation.to_bytes(2, "little") + b"\x00\x00"
    tiff = b"II*\x00\x08\x00\x00\x00\x01\x00" + entry + b"\x00\x00\x00\x00"
    body = b"Exif\x00\x00" + tiff
    return jpeg[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + jpeg[2:]


def plan_of(image, size=S, **changes):
    matrix = align.crop_matrix(NONE, *image.shape[:2], size, FACE)
    return plain_plan(matrix, size)._replace(**changes)


# decoding


def test_png_bytes_come_back_as_rgb():
    np.testing.assert_array_equal(host.decode(encode(noise())), noise())


def test_grey_alpha_16_bit_and_cmyk_become_three_channels():
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    stacked = np.stack([grey] * 3, axis=-1)
    images = {
        "grey": cv2.imencode(".png", grey),
        "alpha": cv2.imencode(".png", np.dstack([stacked, grey])),
        "16 bit": cv2.imencode(".png", grey.astype(np.uint16) * 257),
    }
    for name, (_, data) in images.items():
        np.testing.assert_array_equal(host.decode(data.tobytes()), stacked, err_msg=name)
    cmyk = io.BytesIO()
    Image.new("RGB", (16, 8), (200, 100, 50)).convert("CMYK").save(cmyk, "JPEG", quality=98)
    assert np.abs(host.decode(cmyk.getvalue()).astype(int) - (200, 100, 50)).max() <= 4


@pytest.mark.parametrize("data", [b"", b"not an image", encode(noise(), ".jpg")[:-200]])
def test_what_cannot_be_decoded_is_a_one_line_value_error(data):
    for reduction in (1, 4):
        with pytest.raises(ValueError, match="cannot be decoded") as caught:
            host.decode(data, reduction)
        assert type(caught.value) is ValueError and "\n" not in str(caught.value)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_at_every_reduction(orientation):
    data = with_exif(encode(ramps(101, 79), ".jpg"), orientation)
    with Image.open(io.BytesIO(data)) as stored:
        assert stored.getexif()[0x0112] == orientation  # PIL reads what this test wrote
    full = host.decode(data)
    assert full.shape[:2] == ((101, 79) if orientation < 5 else (79, 101))
    for reduction in (2, 4, 8):
        inner = host.decode(data, reduction)[1:-1, 1:-1].astype(float)
        rows, columns = (np.arange(1, n + 1) * reduction for n in inner.shape[:2])
        means = full.astype(float).cumsum(0).cumsum(1)
        block = np.diff(np.diff(means[rows[0] - 1 :: reduction], axis=0)[:, columns[0] - 1 :: reduction], axis=1)
        block = block[: len(rows), : len(columns)] / reduction**2
        assert np.abs((inner[: len(block), : block.shape[1]] - block).mean(axis=(0, 1))).max() < 0.4


@pytest.mark.parametrize("extension, reduction", [*itertools.product((".jpg", ".png"), (2, 4, 8))])
def test_reduced_decoding_is_the_mean_of_whole_pixels(extension, reduction):
    image = cv2.GaussianBlur(noise(203, 157), (0, 0), 4)
    image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)
    reduced = host.decode(encode(image, extension), reduction)
    height, width = 203 // reduction, 157 // reduction
    assert reduced.shape == (-(-203 // reduction), -(-157 // reduction), 3)
    whole = image[: height * reduction, : width * reduction].astype(float)
    means = whole.reshape(height, reduction, width, reduction, 3).mean(axis=(1, 3))
    assert np.abs(reduced[:height, :width] - means).mean() < 1.5


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_reduced_decoding_does_not_darken_the_edge(extension):
    for reduction in (2, 4, 8):
        assert (host.decode(encode(np.full((33, 25, 3), 200, np.uint8), extension), reduction) == 200).all()


# warping


def test_a_crop_of_the_whole_image_at_its_own_size_is_exact():
    for image in (noise(), encode(noise())):
        np.testing.assert_array_equal(host.execute(image, plan_of(noise()), S), noise())


@pytest.mark.parametrize(
    "extension, size", [*itertools.product((".jpg", ".png", None), (64, 48, 32, 16, 12))]
)  # the source has 1.6 to 8.3 px per px of the crop
def test_pixels_come_from_where_the_matrix_says(extension, size):
    image = ramps(100, 120)
    matrix = align.whole_image_matrix(100, 120, size) + np.array([[0, 0, 0.3], [0, 0, -0.4]])
    source = encode(image, extension) if extension else image
    crop = host.execute(source, plain_plan(matrix, size), size).astype(float)
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    want = levels((x - matrix[0, 2]) / matrix[0, 0], (y - matrix[1, 2]) / matrix[1, 1])
    error = (crop - want)[2:-2, 2:-2]
    assert np.abs(error).max() < 4 and np.abs(error.mean(axis=(0, 1))).max() < 0.25  # half a pixel: 1


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_landmarks_land_on_the_template(scale):
    turn = cv2.getRotationMatrix2D((0, 0), 25, scale) + np.array([[0, 0, 40], [0, 0, 90 * scale]])
    points = (align.ARCFACE_112 @ turn[:, :2].T + turn[:, 2]).astype(np.float32)
    height, width = (np.ceil(points.max(axis=0)) + 30).astype(int)[::-1]
    y, x = np.mgrid[:height, :width]
    dots = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * (2 * scale) ** 2)) for a, b in points)
    image = np.stack([np.minimum(255, 255 * dots).astype(np.uint8)] * 3, axis=-1)
    matrix = align.crop_matrix(points, height, width, 112, FACE)
    crop = host.execute(encode(image, ".jpg"), plain_plan(matrix, 112), 112)[..., 0].astype(float)
    for a, b in align.ARCFACE_112:
        left, top = round(a) - 7, round(b) - 7
        spot = crop[top : top + 15, left : left + 15]
        ys, xs = np.mgrid[top : top + 15, left : left + 15]
        assert np.hypot((spot * xs).sum() / spot.sum() - a, (spot * ys).sum() / spot.sum() - b) < 0.15


def test_flip_mirrors():
    only_flip = Augmentation(1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    plan = sample_plan(np.random.default_rng(0), np.eye(2, 3), S, only_flip)
    np.testing.assert_array_equal(host.execute(noise(), plan, S), noise()[:, ::-1])


def test_a_crop_is_one_plain_warp_wherever_it_lies():
    image, rng = cv2.GaussianBlur(noise(150, 210), (0, 0), 2), np.random.default_rng(1)
    for case in range(60):
        matrix = cv2.getRotationMatrix2D((24, 24), rng.uniform(-180, 180), rng.uniform(0.3, 1.9))
        matrix[:, 2] += rng.uniform(-100, 260, 2)
        if case % 2:
            matrix[:, 0] *= -1
        plan = plain_plan(np.eye(2, 3), S)._replace(matrix=matrix.astype(np.float32))
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        want = cv2.warpAffine(image, plan.matrix.astype(float), (S, S), flags=flags)
        error = np.abs(host.execute(image, plan, S).astype(int) - want)
        assert error.max() <= 1 and error.mean() < 0.01, case


def test_outside_of_the_source_is_black():
    matrix = np.array([(1.0, 0, 10), (0, 1, 0)])
    crop = host.execute(np.full((S, S, 3), 200, np.uint8), plain_plan(matrix, S), S)
    assert (crop[:, :10] == 0).all() and (crop[:, 10:] == 200).all()


# resampling


def test_torch7_bicubic_golden():
    # torch/image, generic/image.c scaleCubic: aligned corners, linear extrapolation, a = -0.5
    row = np.array([0.0, 1, 4, 9])
    up, down = host.resample_matrix(4, 7, "torch7") @ row, host.resample_matrix(4, 3, "torch7") @ row
    np.testing.assert_allclose(up, (0, 0.375, 1, 2.25, 4, 6.375, 9), atol=1e-12)
    np.testing.assert_allclose(down, (0, 2.25, 9), atol=1e-12)


def test_antialiased_bicubic_golden():
    # Pillow 13.0.0, Image.fromarray(float32).resize((n, 1), BICUBIC)
    row = np.array([0.0, 1, 4, 9, 16, 25, 36, 100])
    goldens = [
        (1.0358, 11.3367, 53.9975),
        (0.1559, 3.6476, 12.1877, 24.4261, 75.7739),
        (-0.0658, 0.2941, 1.3611, 3.3611, 6.25, 10.0278, 14.6944, 20.25, 26.1042, 31.0764, 70.5294, 104.2105),
    ]
    for golden in goldens:
        got = host.resample_matrix(8, len(golden), "antialias") @ row
        np.testing.assert_allclose(got, golden, atol=6e-5)


@pytest.mark.parametrize("resize", ["antialias", "torch7"])
def test_resampling_keeps_constants_and_the_same_size(resize):
    for source, target in ((48, 24), (24, 48), (48, 47), (5, 3)):
        np.testing.assert_allclose(host.resample_matrix(source, target, resize).sum(axis=1), 1)
    np.testing.assert_allclose(host.resample_matrix(9, 9, resize), np.eye(9), atol=1e-12)


@pytest.mark.parametrize("degrade", [24, 31, 47])
def test_degradation_is_pillows_down_and_up(degrade):
    crop = host.execute(noise(), plan_of(noise(), degrade=np.int32(degrade)), S, "antialias")
    for channel in range(3):
        plane = Image.fromarray(noise()[..., channel].astype(np.float32))
        small = plane.resize((degrade, degrade), Image.Resampling.BICUBIC)
        want = np.asarray(small.resize((S, S), Image.Resampling.BICUBIC))
        assert np.abs(crop[..., channel] - want.clip(0, 255)).max() < 0.51


@pytest.mark.parametrize("size, degrade", [*itertools.product((20, 48), (2, 11, 19))])
def test_torch7_degradation_is_down_and_up_along_both_axes(size, degrade):
    image = noise(size, size)
    crop = host.execute(image, plan_of(image, size, degrade=np.int32(degrade)), size, "torch7")
    twice = host.resample_matrix(degrade, size, "torch7") @ host.resample_matrix(size, degrade, "torch7")
    want = np.einsum("yi,xj,ijc->yxc", twice, twice, image.astype(float))
    assert np.abs(crop - want.clip(0, 255)).max() < 0.51


# colour


def step_by_step(image, plan):
    """The formulas as written: factor·image + (1 - factor)·reference, one after the other, in float64."""
    image = image.astype(float)
    if plan.gray:
        image = np.repeat((image @ host.LUMA)[..., None], 3, axis=-1)
    for operation in ORDERS[plan.order]:
        luma = (image @ host.LUMA)[..., None]
        reference = {BRIGHTNESS: 0.0, CONTRAST: luma.mean()}.get(operation, luma)
        image = plan.colour[operation] * image + (1 - plan.colour[operation]) * reference
    return image


@pytest.mark.parametrize("gray, order", [*itertools.product((False, True), range(6))])
def test_one_colour_matrix_is_all_the_steps(gray, order):
    colour = np.array([0.7, 1.35, 0.6], np.float32)
    plan = plan_of(noise(), gray=np.bool_(gray), order=np.int32(order), colour=colour)
    matrix = host.colour_matrix(plan, noise().mean(axis=(0, 1)))
    np.testing.assert_allclose(noise() @ matrix[:, :3].T + matrix[:, 3], step_by_step(noise(), plan), atol=1e-9)
    source = noise()
    if gray:  # its luma is rounded to bytes first, as it is in a JPEG
        source = cv2.cvtColor(cv2.cvtColor(source, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    want = step_by_step(source, plan)
    assert np.abs(host.execute(noise(), plan, S) - want.clip(0, 255)).max() < 0.9  # OpenCV: fixed point
    blurred = plan._replace(degrade=np.int32(S // 2))
    twice = host.resample_matrix(S // 2, S, "antialias") @ host.resample_matrix(S, S // 2, "antialias")
    want = step_by_step(np.einsum("yi,xj,ijc->yxc", twice, twice, source.astype(float)), plan)
    assert np.abs(host.execute(noise(), blurred, S) - want.clip(0, 255)).max() < 0.51


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("jitter", [1.0, 1.2])
@pytest.mark.parametrize("degrade", [S, S // 2])
def test_a_crop_can_be_written_where_it_is_to_lie(gray, jitter, degrade):
    colour = np.full(3, jitter, np.float32)
    plan = plan_of(noise(), gray=np.bool_(gray), degrade=np.int32(degrade), colour=colour)
    batch = np.full((3, S, S, 3), 7, np.uint8)
    host.execute(noise(), plan, S, out=batch[1])
    np.testing.assert_array_equal(batch[1], host.execute(noise(), plan, S))
    assert (batch[[0, 2]] == 7).all()


def test_grey_alone_is_the_luma_in_three_channels():
    crop = host.execute(noise(), plan_of(noise(), gray=np.True_), S)
    assert np.abs(crop - (noise() @ host.LUMA)[..., None]).max() < 0.9


@pytest.mark.parametrize("extension", [".jpg", ".png"])
@pytest.mark.parametrize("reduction", [1, 2])
def test_grey_decoding_gives_the_luma_of_colour_decoding(extension, reduction):
    image = cv2.GaussianBlur(noise(120, 100), (0, 0), 3)
    data = encode(image, extension)
    gray, colour = host.decode(data, reduction, gray=True), host.decode(data, reduction)
    assert gray.shape == colour.shape[:2] == (120 // reduction, 100 // reduction)
    assert np.abs(gray - colour @ host.LUMA).max() < 2.1


@pytest.mark.parametrize("degrade", [S, S // 2])
def test_grey_from_bytes_and_from_pixels_agree(degrade):
    image = cv2.GaussianBlur(noise(90, 70), (0, 0), 2)
    plan = plan_of(image, gray=np.True_, degrade=np.int32(degrade), colour=np.array([0.9, 1.2, 1.3], np.float32))
    crops = [host.execute(source, plan, S).astype(int) for source in (encode(image, ".jpg"), image)]
    assert np.abs(crops[0] - crops[1]).max() <= 6 and np.abs(crops[0] - crops[1]).mean() < 0.8  # a JPEG is not exact
    assert (crops[0] == crops[0][..., :1]).all()
