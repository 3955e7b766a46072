"""Three ways for an example to reach the step, which must bring the same examples, augmented alike."""

import dataclasses
import itertools
from functools import partial

import jax
import numpy as np
import pytest
from drawn import Squares
from small import Small, mesh_of

from agejax.objectives import JointLabelDistribution
from agejax.training import feeds, resident
from agejax.training.checkpoint import Description
from agejax.training.feeds import Examples, open_feed
from agejax.training.sharding import replicated, to_devices
from agejax.training.stages import Stage, start_variables
from agejax.training.state import new_state
from agejax.training.step import make_train_steps, make_update
from data_pipelines.align import Alignment
from data_pipelines.errors import UserError
from data_pipelines.loaders import Loader
from data_pipelines.plans import NO_AUGMENTATION, Augmentation
from data_pipelines.samplers import ClassBalanced, Shuffle

SQUARES = Squares(20)
EXAMPLES = Examples(SQUARES, 8, 32, 1, Augmentation(), Alignment(), "age", Shuffle(), Loader())
STAGE = Stage("finetune", JointLabelDistribution())
NAMES = ("host", "device", "resident")


def fed(name, examples=EXAMPLES, devices=4, steps=3, start=0):
    """What the update is given in each step."""
    mesh = mesh_of(devices)
    feed = open_feed(name, examples, mesh, lambda text: None)
    prepare = jax.jit(feed.prepare)
    with feed.open(start) as stream:
        placed = [to_devices(batch, mesh) for batch in itertools.islice(stream, steps)]
        return [jax.device_get(prepare(feed.store, batch)) for batch in placed]


@pytest.mark.parametrize("order", [Shuffle(), ClassBalanced(25.0)])
def test_all_feeds_bring_the_same_examples_and_two_the_same_pixels(order):
    examples = dataclasses.replace(EXAMPLES, order=order)
    host, streamed, stored = (fed(name, examples) for name in NAMES)
    for one, two, three in zip(host, streamed, stored):
        for key in ("label", "sigma", "identity", "mask"):
            np.testing.assert_array_equal(one[key], two[key])
            np.testing.assert_array_equal(one[key], three[key])
        np.testing.assert_array_equal(two["image"], three["image"])
        difference = np.abs(one["image"].astype(int) - two["image"])
        assert difference.mean() < 1 and np.abs(one["image"] - one["image"].mean()).max() > 20


@pytest.mark.parametrize("name", NAMES)
def test_a_feed_opens_at_any_step_and_on_any_number_of_devices(name):
    whole, rest = fed(name, steps=4), fed(name, devices=1, steps=2, start=2)
    jax.tree.map(np.testing.assert_array_equal, whole[2:], rest)


def test_without_augmentation_all_feeds_give_the_same_pixels():
    examples = dataclasses.replace(EXAMPLES, augmentation=NO_AUGMENTATION)
    images = [fed(name, examples, steps=1)[0]["image"] for name in NAMES]
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[0], images[2])


def losses(name, devices):
    mesh = mesh_of(devices)
    description = Description(Small(), STAGE.objective, 32, "float32", Alignment(), "squares", 50.0)
    variables, _ = start_variables(STAGE, description, 0, None, "")
    optimizer = STAGE.make_optimizer(variables["params"], 8, 2.5)
    feed = open_feed(name, EXAMPLES, mesh, lambda text: None)
    train_steps = make_train_steps(make_update(description.network(), STAGE.objective, optimizer), feed, mesh)
    state, found = jax.device_put(new_state(variables, optimizer), replicated(mesh)), []
    with feed.open(0) as stream:
        for batch in itertools.islice(stream, 4):
            state, metrics = train_steps(state, [batch])
            found.append(float(metrics["loss"][0]))
    return found


def test_resident_and_streamed_training_have_the_same_losses():
    streamed = losses("device", 1)
    assert losses("resident", 1) == streamed and len(set(streamed)) == 4
    np.testing.assert_allclose(losses("resident", 4), streamed, rtol=1e-5)


def test_where_memory_is_short_the_pictures_are_streamed_aloud(monkeypatch):
    monkeypatch.setattr(resident, "free_bytes", lambda mesh: 50_000)
    told = []
    feed = open_feed("resident", EXAMPLES, mesh_of(1), told.append)
    assert feed.name == "device" and not feed.store
    assert told == ["9.6e-05 GB of pictures, 5e-05 GB free on each device: they are streamed"]


def test_auto_is_the_host_where_a_device_cannot(monkeypatch):
    quiet = partial(open_feed, "auto", mesh=mesh_of(1), report=lambda text: None)
    assert quiet(examples=EXAMPLES).name == "host"
    monkeypatch.setattr(feeds, "platform", lambda mesh: "gpu")
    assert quiet(examples=EXAMPLES).name == "resident"
    for fields in ({"zoom": 0.5}, {"hue": 0.1}, {"randaugment": 2}):
        assert quiet(examples=dataclasses.replace(EXAMPLES, augmentation=Augmentation(**fields))).name == "host"
    assert quiet(examples=dataclasses.replace(EXAMPLES, augmentation=Augmentation(area=0.5))).name == "resident"


@pytest.mark.parametrize("name", ["device", "resident"])
def test_a_device_refuses_what_only_the_host_does_before_it_reads_a_picture(name, monkeypatch):
    monkeypatch.setattr(resident, "load", None)
    examples = dataclasses.replace(EXAMPLES, augmentation=Augmentation(randaugment=2))
    with pytest.raises(UserError, match="randaugment is 2, which only the host does"):
        open_feed(name, examples, mesh_of(1), lambda text: None)


@pytest.mark.parametrize("name", NAMES)
def test_only_accelerators_get_several_steps_at_once(name, monkeypatch):
    quiet = partial(open_feed, name, EXAMPLES, mesh_of(1), lambda text: None)
    assert quiet().dispatch == 1
    monkeypatch.setattr(feeds, "platform", lambda mesh: "gpu")
    assert quiet().dispatch > 1
