"""Biologically inspired features against OpenCV's, and against sums written out."""

from pathlib import Path

import numpy as np
import pytest

from agejax import bif
from data_pipelines.errors import UserError


def test_gabor_filters_have_the_printed_values():
    upright = bif.gabor(5, 2.0, 2.5, 0.0)
    expected = [0.1791809651, -0.6825391742, 0.9559974818, -0.6825391742, 0.1791809651]
    np.testing.assert_allclose(upright[0], expected, rtol=1e-9)
    np.testing.assert_allclose(upright[2, :3], [0.1874282815, -0.7139549917, 1], rtol=1e-9)
    assert upright.sum() == pytest.approx(-0.2594111214, rel=1e-9)
    tilted = bif.gabor(7, 2.8, 3.5, np.pi / 8)
    corners = [tilted[0, 0], tilted[0, 6], tilted[3, 3], tilted[2, 4]]
    np.testing.assert_allclose(corners, [0.2696649022, -0.7540668231, 1, 0.5481823598], rtol=1e-9)
    assert tilted.sum() == pytest.approx(-1.758878275, rel=1e-9)


def test_features_are_opencv_s():
    """tests/golden/make_bif.py wrote cv2.face.BIF's features of these pictures with OpenCV 5.0.0."""
    with np.load(Path(__file__).parent / "golden/bif.npz") as golden:
        for name in ("2x3", "8x1"):
            bands, orientations = map(int, name.split("x"))
            found = bif.features(golden["images"], bands, orientations)
            np.testing.assert_allclose(found, golden[name], atol=1e-7)
            assert found.shape[1] == bif.dimension(*golden["images"].shape[1:], bands, orientations)


@pytest.mark.parametrize("size, bands, orientations, length", [(60, 6, 8, 8112), (60, 8, 4, 4396), (60, 1, 1, 400)])
def test_the_dimension_is_derived(size, bands, orientations, length):
    assert bif.dimension(size, size, bands, orientations) == length


def test_cells_are_deviations_of_windows_cut_off_at_the_border():
    rng = np.random.default_rng(0)
    image_HxW = rng.standard_normal((13, 17)).astype(np.float32)
    found = np.asarray(bif._stds_of_cells(image_HxW[None, :, :, None], 4))[0, :, :, 0]
    assert found.shape == (4, 5)
    for i in range(4):
        for j in range(5):
            window = image_HxW[max(0, 4 * i - 4) : 4 * i + 4, max(0, 4 * j - 4) : 4 * j + 4]
            assert found[i, j] == pytest.approx(window.std(), rel=1e-5)
    flat = bif._stds_of_cells(np.full((1, 8, 8, 1), 1e3, np.float32), 4)
    np.testing.assert_array_equal(flat, 0)
    four = np.array([[1, 2], [3, 4]], np.float32)[None, :, :, None]
    assert float(bif._stds_of_cells(four, 2)[0, 0, 0, 0]) == pytest.approx(1.118033989)


def test_a_brighter_picture_has_features_in_proportion():
    images = np.random.default_rng(1).random((2, 30, 30)).astype(np.float32)
    np.testing.assert_allclose(bif.features(3 * images, 2, 4), 3 * bif.features(images, 2, 4), atol=1e-6)


@pytest.mark.parametrize("bands, orientations", [(0, 8), (9, 8), (6, 0)])
def test_more_than_there_is_is_refused(bands, orientations):
    with pytest.raises(UserError, match="1 to 8 bands"):
        bif.features(np.zeros((1, 60, 60)), bands, orientations)
