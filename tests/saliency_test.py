"""Score maps and occlusion, against the goldens of DLDL-v2's equations and against numpy."""

import dataclasses
import itertools
import re

import cv2
import jax
import numpy as np
import pytest
from drawn import Squares
from small import Small, filled

from agejax import saliency
from agejax.metrics import AGE_GROUPS, age_group
from agejax.models.inputs import CAFFE_DEX, FACES
from agejax.models.network import variable_shapes
from agejax.models.vgg import VGG
from agejax.objectives import CORAL, DEX, AMSoftmax, JointLabelDistribution, MetricRegression, Ranking
from agejax.training import checkpoint
from agejax.training.sharding import make_mesh, replicated
from data_pipelines.align import Alignment
from data_pipelines.errors import UserError
from data_pipelines.loaders import eval_batches

DESCRIPTION = checkpoint.Description(Small(8), JointLabelDistribution(), 32, "float32", Alignment(), "squares", 50.0)
CAFFE = dataclasses.replace(DESCRIPTION, backbone=Small(8, inputs=CAFFE_DEX), objective=DEX())


class Patches(Squares):
    """Squares of patches, so that it matters which of them is hidden."""

    def __getitem__(self, row):
        patches = np.random.default_rng(row).integers(0, 256, (5, 5, 3), np.uint8)
        image = cv2.resize(patches, (40, 40), interpolation=cv2.INTER_CUBIC)
        return super().__getitem__(row) | {"image": cv2.imencode(".png", image)[1].tobytes()}


FACES_OF = Patches(10)  # no multiple of the four devices


def variables(description=DESCRIPTION):
    tree = filled(variable_shapes(description.network(), description.image_size))
    head = tree["params"]["head"]
    scale = 3 / description.network().inputs.maximum ** 0.5  # else all distributions are flat, or all on one label
    tree["params"]["head"] = {name: scale * value for name, value in head.items()}
    return jax.device_put(tree, replicated(make_mesh()))


def images(size=32):
    with eval_batches(FACES_OF, batch_size=10, image_size=size, alignment=Alignment()) as batches:
        return next(batches)


def test_score_map_golden():
    features = np.stack([[[1, 0], [0, 1]], [[0, 2], [1, 0]]], -1)[None]
    kernel, bias = np.array([[1, 0], [0, 1], [1, 1]]).T, np.array([0.1, -0.1, 0])
    found = saliency.score_map(features, kernel, bias, np.array([[0.2, 0.3, 0.5]]))
    np.testing.assert_allclose(found[0], [[0.69, 1.59], [0.79, 0.69]], rtol=1e-6)


@pytest.mark.parametrize("pooled", [False, True])
def test_score_maps_of_a_split_are_those_of_the_equations(pooled):
    found = list(saliency.score_maps(DESCRIPTION, variables(), FACES_OF, make_mesh(), pooled=pooled, batch_size=4))
    assert [len(batch["index"]) for batch in found] == [4, 4, 2]
    found = {name: np.concatenate([batch[name] for batch in found]) for name in found[0]}
    batch, weights = images(), variables()
    np.testing.assert_array_equal(found["image"], batch["image"])
    np.testing.assert_array_equal(found["label"], batch["label"])
    outputs = DESCRIPTION.network().apply(weights, batch["image"])
    kernel, bias = (np.asarray(weights["params"]["head"][name], np.float64) for name in ("kernel", "bias"))
    scores = np.exp(outputs["logits"] - outputs["logits"].max(1, keepdims=True)).astype(np.float64)
    p = scores / scores.sum(1, keepdims=True)
    np.testing.assert_allclose(found["distribution"], p, rtol=1e-3, atol=1e-6)
    last = np.asarray(outputs["map"], np.float64)
    assert last.shape[1:3] == (8, 8)
    last = last.reshape(10, 4, 2, 4, 2, -1).max((2, 4)) if pooled else last
    every = np.einsum("bhwc,ck->bhwk", last, kernel) + bias  # A_k
    small = np.einsum("bhwk,bk->bhw", every, p)
    expected = np.stack([cv2.resize(one, (32, 32), interpolation=cv2.INTER_LINEAR) for one in small])
    assert np.ptp(expected, axis=(1, 2)).min() > 1
    np.testing.assert_allclose(found["score"], expected, rtol=2e-3, atol=2e-3)


def test_means_of_age_groups():
    groups = saliency.means_by_age_group(
        saliency.score_maps(DESCRIPTION, variables(), FACES_OF, make_mesh(), batch_size=4)
    )
    (every,) = saliency.score_maps(DESCRIPTION, variables(), FACES_OF, make_mesh())
    number = age_group(every["label"])
    assert list(groups) == [AGE_GROUPS[g] for g in sorted(set(number))] and len(groups) > 3
    for g, (n, face, score) in zip(sorted(set(number)), groups.values()):
        assert n == (number == g).sum()
        np.testing.assert_allclose(face, every["image"][number == g].mean(0))
        np.testing.assert_allclose(score, every["score"][number == g].mean(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("objective", [Ranking(), CORAL(), MetricRegression(), AMSoftmax(num_identities=9)])
def test_objectives_without_score_maps_are_refused_by_name(objective):
    description = dataclasses.replace(DESCRIPTION, objective=objective)
    with pytest.raises(UserError, match=f"{type(objective).__name__} has no score maps"):
        saliency.make_score_step(description.network(), objective, make_mesh())


def test_features_behind_dense_layers_have_no_score_maps():
    description = dataclasses.replace(DESCRIPTION, backbone=VGG(1 / 32, "fc", norm=False, bias=True), objective=DEX())
    shapes = variable_shapes(description.network(), 32)
    step = saliency.make_score_step(description.network(), DEX(), make_mesh())
    with pytest.raises(UserError, match="its features are more than the mean of its last map"):
        jax.eval_shape(step, shapes, {"image": jax.ShapeDtypeStruct((4, 32, 32, 3), np.uint8)})


def test_distributions_are_the_mean_of_both_images():
    found = saliency.distributions(DESCRIPTION, variables(), FACES_OF, make_mesh(), batch_size=4)
    image, network = images()["image"], DESCRIPTION.network()
    pair = [jax.nn.softmax(network.apply(variables(), x)["logits"]) for x in (image, image[:, :, ::-1])]
    np.testing.assert_allclose(found, (pair[0] + pair[1]) / 2, rtol=1e-3, atol=1e-6)
    assert np.abs(found - pair[0]).max() > 1e-4
    number = dataclasses.replace(DESCRIPTION, objective=MetricRegression())
    with pytest.raises(UserError, match="MetricRegression answers with a number"):
        tree = filled(variable_shapes(number.network(), 32))
        saliency.distributions(number, tree, FACES_OF, make_mesh())


def test_occlusion_goldens():
    assert saliency.relative_loss(3.6, 3.0) == pytest.approx(0.2)
    squares = saliency.blocks(224, *saliency.MODES["squares"])
    assert squares.shape == (49, 224, 224)
    starts = [tuple(np.argwhere(square).min(0)) for square in squares]
    assert starts == [(row, column) for row in range(0, 224, 32) for column in range(0, 224, 32)]
    assert {square.sum() for square in squares} == {32 * 32}
    horizontal, vertical = (saliency.blocks(224, *saliency.MODES[mode]) for mode in ("horizontal", "vertical"))
    assert horizontal[3, 96:128].all() and horizontal[3].sum() == 32 * 224
    assert vertical[3, :, 96:128].all() and vertical[3].sum() == 32 * 224


@pytest.mark.parametrize("size", [7, 48, 64, 100])
def test_blocks_of_any_size_cover_the_face_once(size):
    for rows, columns in saliency.MODES.values():
        every = saliency.blocks(size, rows, columns)
        assert len(every) == rows * columns and (every.sum(0) == 1).all()
        areas = every.sum((1, 2))
        assert areas.min() >= (size // rows) * (size // columns)


def test_the_mean_colour_is_nothing_to_the_network():
    for inputs in (FACES, CAFFE_DEX):
        grey = np.full((1, 2, 2, 3), saliency.mean_colour(inputs), np.float32)
        np.testing.assert_allclose(inputs.normalise(grey), 0, atol=1e-5)
    assert saliency.mean_colour(CAFFE_DEX) == (122.67891, 116.66877, 104.00699)


@pytest.mark.parametrize("description", [DESCRIPTION, CAFFE], ids=["faces", "caffe"])
def test_occlusion_of_a_split_is_that_of_a_loop(description):
    weights = variables(description)
    found = saliency.occlusion(description, weights, FACES_OF, make_mesh(), batch_size=4)
    assert {mode: part.loss.shape for mode, part in found.items()} == saliency.MODES
    batch, network, size = images(), description.network(), 32
    colour = np.float32(saliency.mean_colour(network.inputs))
    predict = jax.jit(lambda image: description.objective.predict(network.apply(weights, image)["logits"])[0])

    def mae(top, bottom, left, right):
        values = []
        for image in (batch["image"], batch["image"][:, :, ::-1]):
            image = image.astype(np.float32)
            image[:, top:bottom, left:right] = colour  # at one place in both
            values.append(np.asarray(predict(image), np.float64))
        return np.abs((values[0] + values[1]) / 2 - batch["label"]).mean()

    whole, edges = mae(0, 0, 0, 0), [-(-i * size // 7) for i in range(8)]
    assert edges[1:3] == [5, 10]
    rows = list(itertools.pairwise(edges))
    squares = [[mae(*row, *column) for column in rows] for row in rows]
    expected = {
        "squares": squares,
        "horizontal": [[mae(*row, 0, size)] for row in rows],
        "vertical": [[mae(0, size, *column) for column in rows]],
    }
    for mode, part in found.items():
        assert part.mae == pytest.approx(whole, rel=1e-4)
        np.testing.assert_allclose(part.loss, np.array(expected[mode]) / whole - 1, atol=2e-4)
        assert np.ptp(part.loss) > 0.01


def test_one_program_hides_all_blocks(monkeypatch):
    """Of one face and of many, and never more images in one pass than AT_ONCE."""
    traced = []
    monkeypatch.setattr(Small, "trunk", _noting(Small.trunk, traced))
    description = dataclasses.replace(DESCRIPTION, backbone=Small())
    tree = filled(variable_shapes(description.network(), 32))
    for count, most in ((4, 65), (100, 2)):
        traced.clear()
        found = saliency.occlusion(description, tree, Squares(count), make_mesh(), ("squares",))
        assert found["squares"].loss.shape == (7, 7)
        batches = [shape for shape in traced if shape[0] > 4]
        assert len(batches) == 1 and batches[0][0] <= saliency.AT_ONCE
        assert batches[0][0] <= 2 * min(count, 64) * most


def _noting(trunk, traced):
    def noted(self, compute):
        module = trunk(self, compute)
        call = type(module).__call__

        class Noting(type(module)):
            def __call__(self, image, train):
                traced.append(image.shape)
                return call(self, image, train)

        return Noting(self, compute)

    return noted


def test_faces_without_the_label_are_refused():
    class Unlabelled(Squares):
        def __getitem__(self, row):
            return super().__getitem__(row) | {"age": np.float32(np.nan if row == 3 else 20)}

    with pytest.raises(UserError, match=re.escape("an example has no age")):
        saliency.occlusion(DESCRIPTION, variables(), Unlabelled(6), make_mesh(), ("vertical",))
