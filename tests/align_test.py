import numpy as np
import pytest

from data_pipelines import align

POINTS = np.array([(110, 120), (180, 112), (150, 160), (120, 200), (178, 196)], float)
NONE = np.full((5, 2), np.nan, np.float32)


def moved(matrix, points):
    return points @ matrix[:, :2].T + matrix[:, 2]


def test_template_at_224_and_256_is_the_scaled_one_of_112():
    # printed in public alignment code: 112 template x 2, and x 16/7
    at_224 = [
        (76.5892, 103.3926),
        (147.0636, 103.0028),
        (112.0504, 143.4732),
        (83.0986, 184.7310),
        (141.4598, 184.4082),
    ]
    np.testing.assert_allclose(align.template(224, align.Alignment()), at_224, atol=1e-9)
    np.testing.assert_allclose(align.template(256, align.Alignment())[0], (87.5305, 118.1630), atol=1e-4)


def test_face_scale_is_about_the_centre_of_the_crop():
    tight, loose = (align.template(64, align.Alignment(scale)) for scale in (1.0, 0.5))
    np.testing.assert_allclose(loose - 31.5, 0.5 * (tight - 31.5))


def test_similarity_golden():
    # computed in float64 with numpy's SVD form of Umeyama (1991)
    matrix = align.similarity(POINTS, align.template(224, align.Alignment()))
    linear = [(0.9915983087, -0.0606782179), (0.0606782179, 0.9915983087)]
    np.testing.assert_allclose(matrix[:, :2], linear, atol=1e-9)
    np.testing.assert_allclose(matrix[:, 2], (-24.7447032216, -21.4304384097), atol=1e-8)
    np.testing.assert_allclose(moved(matrix, POINTS)[0], (77.0497245863, 104.2359626007), atol=1e-8)


def test_similarity_of_a_moved_template_is_exact():
    points = 2 * align.ARCFACE_112 + (20, 10)
    matrix = align.similarity(points, align.ARCFACE_112)
    np.testing.assert_allclose(matrix, [(0.5, 0, -10), (0, 0.5, -5)], atol=1e-12)


def test_similarity_is_the_least_squares_one():
    target = align.template(64, align.Alignment())
    best = align.similarity(POINTS, target)
    error = np.sum((moved(best, POINTS) - target) ** 2)
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b, x, y = rng.normal(scale=1e-3, size=4)
        other = best + np.array([(a, -b, x), (b, a, y)])
        assert np.sum((moved(other, POINTS) - target) ** 2) > error


def test_similarity_never_mirrors():
    mirrored = POINTS * (-1, 1)
    assert np.linalg.det(align.similarity(mirrored, align.ARCFACE_112)[:, :2]) > 0


def test_coinciding_points_are_an_error():
    with pytest.raises(ValueError, match="all at one point"):
        align.similarity(np.ones((5, 2)), align.ARCFACE_112)


@pytest.mark.parametrize("height, width", [(100, 150), (150, 100), (31, 31)])
def test_without_landmarks_the_shorter_side_fills_the_crop(height, width):
    matrix = align.crop_matrix(NONE, height, width, 64, align.Alignment(face_scale=0.5))
    scale = 64 / min(height, width)
    np.testing.assert_allclose(matrix[:, :2], np.eye(2) * scale)
    centre = np.array([[(width - 1) / 2, (height - 1) / 2]])
    np.testing.assert_allclose(moved(matrix, centre), [[31.5, 31.5]])


def test_a_square_image_of_the_size_of_the_crop_is_left_alone():
    np.testing.assert_allclose(align.crop_matrix(NONE, 64, 64, 64, align.Alignment()), np.eye(2, 3), atol=0)


@pytest.mark.parametrize("scale", [0, -1, 5, float("nan")])
def test_face_scale_out_of_range_is_an_error(scale):
    with pytest.raises(ValueError, match="face_scale"):
        align.Alignment(face_scale=scale)
