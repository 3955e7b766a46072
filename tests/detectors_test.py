"""YuNet runs inside OpenCV with a model of the user's; here a stand-in takes the network's place."""

import types

import cv2
import numpy as np
import pytest

from data_pipelines import detectors
from data_pipelines.detectors import WholeImage, YuNet
from data_pipelines.errors import DataError

FOUND = np.float32(
    [
        # x, y, width, height, right eye, left eye, nose tip, right and left corner of the mouth, score
        [10, 20, 30, 40, 15, 30, 35, 31, 25, 40, 17, 52, 33, 50, 0.8],
        [100, 50, 60, 60, 110, 70, 140, 70, 125, 85, 112, 100, 138, 101, 0.95],
    ]
)


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model file, and what was asked of the network opened with it."""
    asked = types.SimpleNamespace(sizes=[], images=[], found=FOUND)
    network = types.SimpleNamespace(
        setInputSize=asked.sizes.append, detect=lambda image: (1, asked.images.append(image) or asked.found)
    )
    monkeypatch.setattr(cv2, "FaceDetectorYN", types.SimpleNamespace(create=lambda *_: network))
    detectors._open_yunet.cache_clear()
    (tmp_path / "yunet.onnx").write_bytes(b"weights")
    yield tmp_path / "yunet.onnx", asked
    detectors._open_yunet.cache_clear()


def test_yunet_gives_boxes_and_points_best_first(model):
    file, asked = model
    image = np.zeros((320, 480, 3), np.uint8)
    image[..., 0] = 200  # red
    (faces,) = YuNet(file).detect([image])
    np.testing.assert_allclose(faces.scores, [0.95, 0.8])
    np.testing.assert_allclose(faces.boxes, [[100, 50, 160, 110], [10, 20, 40, 60]])
    np.testing.assert_allclose(faces.points[1], [[15, 30], [35, 31], [25, 40], [17, 52], [33, 50]])
    assert faces.points[0][0, 0] < faces.points[0][1, 0]  # the eye on the left of the picture comes first
    assert asked.sizes == [(480, 320)] and asked.images[0][0, 0].tolist() == [0, 0, 200]  # BGR


def test_large_pictures_are_looked_at_in_small(model):
    file, asked = model
    (faces,) = YuNet(file, max_side=320).detect([np.zeros((640, 1280, 3), np.uint8)])
    assert asked.sizes == [(320, 160)] and asked.images[0].shape == (160, 320, 3)
    np.testing.assert_allclose(faces.boxes[1], [40, 80, 160, 240])
    np.testing.assert_allclose(faces.points[1][0], [60, 120])


def test_yunet_that_finds_nothing(model):
    file, asked = model
    asked.found = None
    faces = YuNet(file).detect([np.zeros((32, 32, 3), np.uint8)])[0]
    assert [part.shape for part in faces] == [(0, 4), (0,), (0, 5, 2)]


def test_the_settings_name_the_model_by_its_content(model):
    file, _ = model
    first = YuNet(file).settings
    file.write_bytes(b"other weights")
    assert first["model"] != YuNet(file).settings["model"] and first["threshold"] == 0.7


def test_a_model_that_is_not_there_or_no_model(tmp_path):
    with pytest.raises(DataError, match="not a file"):
        YuNet(tmp_path / "yunet.onnx")
    (tmp_path / "yunet.onnx").write_bytes(b"no network")
    with pytest.raises(DataError, match="OpenCV cannot read"):
        YuNet(tmp_path / "yunet.onnx").detect([np.zeros((32, 32, 3), np.uint8)])


def test_the_whole_image_is_no_face():
    faces = WholeImage().detect([np.zeros((8, 8, 3), np.uint8)] * 2)
    assert len(faces) == 2 and len(faces[0].boxes) == 0 and WholeImage().settings == {}
