"""Predictions for a split: what is kept between calls, and that norms folded away change nothing."""

import dataclasses
import re

import flax.linen as nn
import jax
import numpy as np
import pytest
from drawn import Squares
from small import filled

from agejax.models.network import Network, apply_in_parts, variable_shapes
from agejax.models.vgg import VGG
from agejax.objectives import JointLabelDistribution
from agejax.training import checkpoint, evaluate
from agejax.training.sharding import make_mesh, replicated, to_devices
from agejax.training.step import make_predict_step
from data_pipelines.align import Alignment
from data_pipelines.errors import UserError
from data_pipelines.loaders import eval_batches
from data_pipelines.plans import DEX

GATHERED = re.compile(r"\w+\[([\d,]+)\]\S* all-gather\(")
DESCRIPTION = checkpoint.Description(VGG(1 / 32), JointLabelDistribution(), 32, "float32", Alignment(), "squares", 50.0)


class Counted(Squares):
    """Counts the rows that are read; from `spoilt` on they cannot be."""

    reads, spoilt = 0, None

    def __getitem__(self, row):
        if self.spoilt is not None and row >= self.spoilt:
            raise ValueError("spoilt")
        self.reads += 1
        return super().__getitem__(row)


def variables(factor=1.0):
    tree = filled(variable_shapes(DESCRIPTION.network(), 32))
    return jax.device_put(jax.tree.map(lambda x: x * factor, tree), replicated(make_mesh()))


@pytest.mark.parametrize("keep, reads", [(True, 22), (False, 44)])
def test_a_kept_split_is_read_once_and_predicted_with_the_weights_of_each_call(keep, reads):
    examples = Counted(22)  # not a multiple of the batch: padding is kept too
    predict = evaluate.predictor(DESCRIPTION, examples, make_mesh(), batch_size=8, keep=keep)
    first, second = predict(variables()), predict(variables(1.1))
    assert examples.reads == reads
    np.testing.assert_array_equal(second.index, np.arange(22))
    assert np.abs(first.value - second.value).min() > 0
    expected = evaluate.predict_split(DESCRIPTION, variables(1.1), examples, make_mesh(), batch_size=8)
    for name in expected._fields:
        np.testing.assert_array_equal(getattr(second, name), getattr(expected, name))


def test_a_pass_that_failed_is_not_kept():
    examples = Counted(20)
    predict = evaluate.predictor(DESCRIPTION, examples, make_mesh(), batch_size=4, keep=True)
    examples.spoilt = 9
    with pytest.raises(ValueError, match="spoilt"):
        predict(variables())
    examples.spoilt = None
    assert len(predict(variables()).index) == 20


def test_kept_images_are_uint8_and_split_over_the_devices():
    before = {id(x) for x in jax.live_arrays()}
    predict = evaluate.predictor(DESCRIPTION, Squares(8), make_mesh(), keep=True)
    predict(variables())
    kept = [x for x in jax.live_arrays() if id(x) not in before and x.ndim == 4 and x.dtype == np.uint8]
    assert [x.shape for x in kept] == [(8, 32, 32, 3)]
    assert {shard.data.shape for shard in kept[0].addressable_shards} == {(2, 32, 32, 3)}


def test_values_are_those_of_the_network_with_its_norms():
    predictions = evaluate.predict_split(DESCRIPTION, variables(), Squares(6), make_mesh())
    with eval_batches(Squares(6), batch_size=6, image_size=32, alignment=Alignment()) as batches:
        image = next(batches)["image"]
    network, objective = DESCRIPTION.network(), DESCRIPTION.objective
    values = [objective.predict(network.apply(variables(), x)["logits"])[0] for x in (image, image[:, :, ::-1])]
    assert np.ptp(predictions.value) > 1e-3
    np.testing.assert_allclose(predictions.value, (values[0] + values[1]) / 2, rtol=1e-5)


def test_no_device_computes_other_devices_images():
    mesh, rows = make_mesh(), {name: np.zeros(8, np.float32) for name in ("label", "sigma", "mask")}
    batch = rows | {"index": np.zeros(8, np.int32), "image": np.zeros((8, 32, 32, 3), np.uint8)}
    step = make_predict_step(DESCRIPTION.network(), DESCRIPTION.objective, mesh)
    program = step.lower(variables(), to_devices(batch, mesh)).compile().as_text()
    gathered = [int(np.prod([int(n) for n in dims.split(",")])) for dims in GATHERED.findall(program)]
    assert gathered and max(gathered) <= 16  # predictions, and not pixels


@pytest.mark.parametrize("batch, parts", [(8, 4), (6, 1)])
def test_a_batch_in_parts_has_the_outputs_of_the_whole(batch, parts):
    network, weights, calls = DESCRIPTION.network(), variables(), []
    image = np.random.default_rng(0).integers(0, 256, (batch, 32, 32, 3), np.uint8)
    with nn.intercept_methods(lambda call, args, kwargs, context: (calls.append(context), call(*args, **kwargs))[1]):
        found = apply_in_parts(network, weights, image)
    whole = [c for c in calls if isinstance(c.module, Network) and c.method_name == "__call__"]
    assert len(whole) == parts
    expected = network.apply(weights, image)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), found, expected)


@pytest.mark.parametrize("keep", [False, True])
def test_several_versions_of_an_image_are_averaged(keep):
    """Against one pass by hand for each version; they are the same whatever the batch, and no mirror image is seen."""
    augmentation, examples = dataclasses.replace(DEX, brightness=0.9), Squares(10)
    network, objective, values, spreads = DESCRIPTION.network(), DESCRIPTION.objective, [], []
    for k in range(3):
        with eval_batches(
            examples, batch_size=10, image_size=32, alignment=Alignment(), augmentation=augmentation, version=k
        ) as batches:
            logits = network.apply(variables(), next(batches)["image"])["logits"]
        value, spread = objective.predict(logits)
        values.append(value)
        spreads.append(spread)
    predict = evaluate.predictor(
        DESCRIPTION, examples, make_mesh(), batch_size=4, keep=keep, versions=3, augmentation=augmentation
    )
    for found in (predict(variables()), predict(variables())):
        np.testing.assert_allclose(found.value, np.mean(values, axis=0), rtol=1e-5)
        variance = np.mean(np.square(spreads), axis=0) + np.var(values, axis=0)
        np.testing.assert_allclose(found.spread, np.sqrt(variance), rtol=1e-4)
        np.testing.assert_array_equal(found.index, np.arange(10))
    assert np.ptp(values, axis=0).max() > 1e-3


def test_no_version_is_refused():
    with pytest.raises(UserError, match=r"^versions of a test image: give 1 or more, got 0$"):
        evaluate.predictor(DESCRIPTION, Squares(4), make_mesh(), versions=0)


def test_a_mixture_has_the_mean_and_the_total_spread():
    columns = [np.array(x, np.float32) for x in ([7.0], [0.5], [10.0], [3.0])]
    one = evaluate.Predictions(np.array([0]), *columns)
    both = evaluate.mixture([one, one._replace(value=np.float32([20]), spread=np.float32([4]))])
    assert (both.value[0], both.label[0], both.sigma[0]) == (15, 7, 0.5)
    assert both.spread[0] == pytest.approx(np.sqrt((9 + 16) / 2 + 25))  # within each, and between them
    assert evaluate.mixture([one]) is one
