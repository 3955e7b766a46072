"""The step, the loop and checkpoints, on a network of a few thousand parameters."""

import contextlib
import functools
import json
import os
import signal
from functools import partial

import jax
import numpy as np
import optax
import pytest
from drawn import Squares
from small import mesh_of

from agejax.labels import LabelGrid
from agejax.models.network import init_variables, make_network
from agejax.models.vgg import VGG
from agejax.objectives import Identity, JointLabelDistribution
from agejax.parameters import flatten
from agejax.training import checkpoint, evaluate, loop, stages
from agejax.training.feeds import Feed
from agejax.training.optim import SGD, Rate
from agejax.training.progress import Progress
from agejax.training.sharding import check_batch_size, make_mesh, replicated, to_devices
from agejax.training.state import new_state
from agejax.training.step import make_predict_step, make_train_steps, make_update
from data_pipelines.align import Alignment
from data_pipelines.errors import UserError
from data_pipelines.loaders import train_batches

BACKBONE = VGG(1 / 32)  # 2 to 16 channels
SQUARES = Squares(20)
STAGE = stages.Stage("finetune", JointLabelDistribution(), epochs=3.2, batch_size=8)  # 8 steps


def describe(objective=STAGE.objective):
    return checkpoint.Description(BACKBONE, objective, 32, "float32", Alignment(), "squares", 50.0)


@functools.cache
def compiled(stage, devices):
    """(train_steps, initial variables, optimizer): compiled once for all tests."""
    description = describe(stage.objective)
    network = description.network(stage.trainable)
    variables, _ = stages.start_variables(stage, description, 0, None, "")
    optimizer = stage.make_optimizer(variables["params"], 8, 2.5)
    update = make_update(network, stage.objective, optimizer)
    return make_train_steps(update, Feed("host", batches), mesh_of(devices)), variables, optimizer


def start(stage, devices=4):
    step, variables, optimizer = compiled(stage, devices)
    fresh = jax.tree.map(lambda x: np.array(x), variables)  # the step donates its state
    return step, jax.device_put(new_state(fresh, optimizer), replicated(mesh_of(devices)))


def batches(start_step, spoil=None, stop_at=None):
    stream = train_batches(
        SQUARES, batch_size=8, image_size=32, seed=1, start_step=start_step,
        augmentation=STAGE.augmentation, alignment=Alignment(),
    )  # fmt: skip
    return _watched(stream, start_step, spoil, stop_at)


@contextlib.contextmanager
def _watched(stream, step, spoil, stop_at):
    def rows():
        for number, batch in enumerate(stream, step + 1):
            if number == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch | {"label": np.full(8, np.nan, np.float32)} if number == spoil else batch

    with stream:
        yield rows()


def train(folder, open_batches=batches, validate=None, stage=STAGE, parts=None):
    step, state = start(stage)
    plan = loop.Plan(stage.name, 8, 8, 2.5, checkpoint_every=3, validate_every=3)
    folder.mkdir(exist_ok=True)
    with checkpoint.StageCheckpoints(folder) as saves:
        opened = partial(Progress, folder, stage.name, 8, 2.5)
        return loop.train(plan, state, step, open_batches, validate, "mae", saves, opened, parts)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole"))


def assert_same(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def test_training_lowers_the_loss(uninterrupted, tmp_path):
    state, summary = uninterrupted
    assert int(state.step) == summary["steps"] == 8
    longer = STAGE.objective.loss
    _, fresh = start(STAGE)
    before, after = (_loss_on_all(variables, longer) for variables in (fresh.variables, state.variables))
    assert after < before


def _loss_on_all(variables, loss):
    with batches(0) as stream:
        batch = next(stream)
    logits = describe().network().apply(variables, batch["image"], train=True, mutable=["batch_stats"])[0]["logits"]
    return float(loss(logits, batch)[0].mean())


def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(uninterrupted, tmp_path):
    with pytest.raises(loop.Interrupted, match=r"saved at step 5 of 8") as stopped:
        train(tmp_path / "run", partial(batches, stop_at=5))
    assert stopped.value.signal == signal.SIGTERM
    state, _ = train(tmp_path / "run")
    assert_same(state, uninterrupted[0])


def test_a_crash_goes_back_to_the_last_checkpoint_and_equals_uninterrupted(uninterrupted, tmp_path):
    def crash(step):
        @contextlib.contextmanager
        def opened():
            with batches(step) as stream:
                yield (batch if number < 5 else 1 / 0 for number, batch in enumerate(stream, step + 1))

        return opened()

    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "run", crash)
    state, _ = train(tmp_path / "run")
    assert_same(state, uninterrupted[0])
    steps = [json.loads(line)["step"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_last_good_checkpoint(tmp_path):
    with pytest.raises(loop.Diverged, match=r"loss is nan at step 5 of 8; step 3 is kept"):
        train(tmp_path / "run", partial(batches, spoil=5))
    with checkpoint.StageCheckpoints(tmp_path / "run") as saves:
        assert saves.latest.latest_step() == 3


def test_the_best_by_validation_is_kept_beside_the_latest(tmp_path):
    seen = []

    def validate(variables):
        seen.append(jax.tree.map(np.asarray, variables))
        return {"mae": [5.0, 3.0, 4.0][len(seen) - 1]}

    state, summary = train(tmp_path / "run", validate=validate)
    assert summary["best"] == {"step": 6, "mae": 3.0} and summary["validation"] == {"mae": 4.0}
    _, again = train(tmp_path / "run", validate=validate)  # killed after the last save: nothing is left to train
    assert (again["best"], again["validation"], len(seen)) == (summary["best"], summary["validation"], 3)
    best, latest = (
        checkpoint.load_variables(tmp_path / "run", describe(), name, make_mesh()) for name in ("best", "latest")
    )
    assert_same(best, seen[1])
    assert_same(latest, state.variables)


def test_each_part_has_its_own_best_and_keeps_it_over_a_crash(tmp_path):
    found = {"a": [5.0, 3.0, 3.0], "b": [2.0, None, 1.0], "c": [None] * 3}  # at steps 3, 6 and 8; None: diverged
    saved, crashed = [], []

    def validate(look, variables):
        return {name: numbers[look] for name, numbers in found.items() if numbers[look] is not None}

    def looks(first):
        steps = iter(range(first, 3))
        return lambda variables: validate(next(steps), variables)

    def crash(step, variables):
        crashed.append(step)
        if len(crashed) == 2:
            raise ZeroDivisionError

    parts = {name: partial(lambda name, step, _: saved.append((name, step)), name) for name in found}
    with pytest.raises(ZeroDivisionError):  # at step 6, of which nothing is saved
        train(tmp_path / "run", validate=looks(0), parts=parts | {"a": crash})
    _, summary = train(tmp_path / "run", validate=looks(1), parts=parts)
    assert (saved, crashed) == ([("b", 3), ("a", 6), ("b", 8)], [3, 6])
    assert summary["parts"] == {"a": {"step": 6, "a": 3.0}, "b": {"step": 8, "b": 1.0}} and summary["best"] is None


def test_one_device_equals_four():
    results = []
    for count in (1, 4):
        step, state = start(STAGE, count)
        with batches(0) as stream:
            for _ in range(3):
                state, metrics = step(state, [next(stream)])
        results.append((flatten(jax.device_get(state.variables)), float(metrics["loss"][0])))
    (one, loss_one), (four, loss_four) = results
    assert loss_one == pytest.approx(loss_four, rel=1e-5)
    for path, value in one.items():
        # three Adam steps of 1e-3 each: what rounding moves must stay far below one step
        np.testing.assert_allclose(value, four[path], atol=1e-4, err_msg=path)


def test_one_step_and_several_are_traced_once_each():
    traced, mesh = [], mesh_of(1)

    def update(state, batch):
        traced.append(batch["label"].shape)
        return state, {"loss": batch["label"].sum()}

    step = make_train_steps(update, Feed("host", batches), mesh)
    with batches(0) as stream:
        for count in (1, 2, 1, 2, 1):
            step(jax.device_put(np.zeros(3), replicated(mesh)), [next(stream) for _ in range(count)])
    assert traced == [(8,), (8,)]


def test_several_steps_in_one_dispatch_equal_single_ones():
    step, state = start(STAGE, 4)
    _, other = start(STAGE, 4)
    with batches(0) as stream:
        three = [next(stream) for _ in range(3)]
    losses = []
    for batch in three:
        state, metrics = step(state, [batch])
        losses += [float(metrics["loss"][0])]
    other, metrics = step(other, three)
    assert int(other.step) == 3
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-4), state.variables, other.variables)


def test_a_dispatch_never_passes_a_look():
    plan = loop.Plan("finetune", 8, steps=20, steps_per_epoch=5, checkpoint_every=6, validate_every=8, dispatch=3)
    stops, step = [0], 0
    while step < plan.steps:
        step += plan.at_once(step)
        stops.append(step)
    assert stops == [0, 3, 6, 7, 8, 11, 12, 15, 16, 17, 18, 19, 20]


def test_steps_move_nothing_between_host_and_device_by_themselves():
    step, state = start(STAGE)
    with batches(0) as stream, jax.transfer_guard("disallow"):
        for _ in range(2):
            state, _ = step(state, [next(stream)])


def test_padding_and_sharding_lose_no_example_and_prediction_is_the_mirror_mean():
    description = describe()
    mesh = make_mesh()
    _, state = start(STAGE)
    predictions = evaluate.predict_split(description, state.variables, SQUARES, mesh, batch_size=12)
    np.testing.assert_array_equal(predictions.index, np.arange(20))
    np.testing.assert_allclose(predictions.label, [SQUARES[row]["age"] for row in range(20)])
    with evaluate.eval_batches(SQUARES, batch_size=4, image_size=32, alignment=Alignment()) as stream:
        batch = next(stream)
    batch["image"][:, :, :8] = 0  # not its own mirror image
    rows = make_predict_step(description.network(), description.objective, mesh)(
        state.variables, to_devices(batch, mesh)
    )
    logits = [
        description.network().apply(state.variables, image)["logits"]
        for image in (batch["image"], batch["image"][:, :, ::-1])
    ]
    values, spreads = zip(*(description.objective.predict(one) for one in logits))
    np.testing.assert_allclose(rows["value"], (values[0] + values[1]) / 2, rtol=1e-5)
    mixture = [spreads[i] ** 2 + values[i] ** 2 for i in (0, 1)]
    expected = np.sqrt((mixture[0] + mixture[1]) / 2 - np.asarray(rows["value"]) ** 2)
    np.testing.assert_allclose(rows["spread"], expected, rtol=1e-3)


def test_predictions_csv_has_a_row_for_every_example(tmp_path):
    columns = (np.arange(2), *(np.array(x, np.float32) for x in ([3, 4], [np.nan, 1.5], [3.25, 5], [1, 2])))
    evaluate.write_predictions(tmp_path / "p.csv", [{"id": "a"}, {"id": "b,c"}], evaluate.Predictions(*columns), "age")
    text = (tmp_path / "p.csv").read_text()
    assert text == 'id,age,sigma,predicted,predicted_std\na,3,,3.25,1\n"b,c",4,1.5,5,2\n'


@pytest.mark.parametrize(
    "target, told",
    [
        ("age", "MAE 0.50 years [0.50, 0.50], n = 2 (squares test); always answering the training median: 47.25"),
        (
            "attractiveness",
            "MAE 0.500 points [0.500, 0.500], n = 2 (squares test); always answering the training median: 47.250",
        ),
    ],
)
def test_numbers_say_what_was_predicted_and_in_which_unit(tmp_path, target, told):
    columns = (np.array(x, np.float32) for x in ([2.5, 3], [np.nan, 0.5], [3, 2.5], [1, 2]))
    predictions = evaluate.Predictions(np.arange(2), *columns)
    numbers = evaluate.measure(predictions, describe(JointLabelDistribution(target=target)))
    assert numbers["target"] == target
    in_years = {"cs", "mae_by_age_group"}
    assert (
        in_years & numbers.keys() == in_years & numbers["intervals"].keys() == (in_years if target == "age" else set())
    )
    assert evaluate.sentence(numbers | {"data": "squares", "split": "test"}) == told
    evaluate.write_predictions(tmp_path / "p.csv", [{"id": "a"}, {"id": "b"}], predictions, numbers["target"])
    assert (tmp_path / "p.csv").read_text().splitlines()[0] == f"id,{target},sigma,predicted,predicted_std"


def test_examples_without_the_label_are_not_measured():
    columns = (np.array(x, np.float32) for x in ([2.5, np.nan], [np.nan, 0.5], [3, 2.5], [1, 2]))
    predictions = evaluate.Predictions(np.arange(2), *columns)
    with pytest.raises(UserError, match="1 of 2 examples have no attractiveness: evaluate on data that has it"):
        evaluate.measure(predictions, describe(JointLabelDistribution(target="attractiveness")))


def test_labels_outside_the_grid_are_refused_by_name():
    stage = stages.Stage("finetune", JointLabelDistribution(grid=LabelGrid(0.7, 3.2, 0.1), target="attractiveness"))
    examples = [{"id": f"face-{row}"} for row in range(4)]
    ends = np.array([0.7, 3.2, np.nan], np.float32)  # in float32 0.7 is below 0.7, and 3.2 above 3.2
    stages.check_labels(stage, ends, examples)
    with pytest.raises(UserError) as caught:
        stages.check_labels(stage, np.array([3, 3.5, 2, 0.5], np.float32), examples)
    assert str(caught.value) == (
        "face-1: attractiveness 3.5 is outside the label grid of stage finetune, 0.7 to 3.2 (2 of 4 examples are): "
        "set --finetune.objective.grid.low and .high, or mend the labels"
    )


def finished(tmp_path, objective):
    stage = stages.Stage("pretrain", objective, batch_size=8)
    _, state = start(stage)
    folder = tmp_path / "run" / "pretrain"
    with checkpoint.StageCheckpoints(folder) as saves:
        saves.save(1, state, {})
    checkpoint.write_card(folder, describe(objective), {"selected": "latest", "steps": 1})
    return folder, state


def test_a_finished_stage_is_found_and_read_back(tmp_path):
    folder, state = finished(tmp_path, Identity(num_identities=4))
    for path in (folder, folder.parent):
        description, variables = checkpoint.load_trained(path)
        assert description == describe(Identity(num_identities=4))
        assert_same(variables, state.variables)


def test_unfinished_and_missing_checkpoints_are_told(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        checkpoint.load_trained(tmp_path / "no")
    with pytest.raises(UserError, match="no finished stage"):
        checkpoint.load_trained(tmp_path)


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_gives_the_update_of_the_whole_where_no_statistics_are_taken(parts):
    whole, divided = (one_update(VGG(1 / 32, norm=False), accumulate) for accumulate in (1, parts))
    for (path, value), moved in zip(flatten(divided[0].params).items(), flatten(whole[0].params).values()):
        np.testing.assert_allclose(value, moved, rtol=0, atol=1e-6, err_msg=path)
    for name, value in divided[1].items():
        np.testing.assert_allclose(value, whole[1][name], rtol=2e-6, err_msg=name)


def test_each_part_is_normalised_by_its_own_statistics_and_they_go_from_part_to_part():
    state, _ = one_update(BACKBONE, 2)
    variables, batch = started(BACKBONE)
    for rows in (slice(0, None, 2), slice(1, None, 2)):
        _, updates = describe().network().apply(variables, batch["image"][rows], train=True, mutable=["batch_stats"])
        variables |= updates
    for path, value in flatten(variables["batch_stats"]).items():
        np.testing.assert_allclose(flatten(state.batch_stats)[path], value, rtol=1e-4, atol=1e-6, err_msg=path)


def started(backbone):
    """(variables, a batch of which three rows are padding)."""
    network = make_network(backbone, STAGE.objective.head, "float32")
    with batches(0) as stream:
        batch = next(stream) | {"mask": np.array([0, 1, 1, 1, 0, 1, 0, 1], np.float32)}
    return init_variables(jax.random.key(0), network, 32), batch


def one_update(backbone, accumulate):
    variables, batch = started(backbone)
    optimizer, network = optax.sgd(1e-3), make_network(backbone, STAGE.objective.head, "float32")
    update = jax.jit(make_update(network, STAGE.objective, optimizer, accumulate=accumulate))
    return update(new_state(variables, optimizer), batch)


def test_each_device_needs_rows_of_every_part():
    with pytest.raises(UserError, match="stage s: accumulate must be above 0, got 0"):
        stages.Stage("s", JointLabelDistribution(), accumulate=0)
    check_batch_size(24, make_mesh(), 3)
    with pytest.raises(UserError, match="8 cannot be split over 4 devices in 4 parts: choose a multiple of 16"):
        check_batch_size(8, make_mesh(), 4)


def test_frozen_trunk_stays_through_training(tmp_path):
    decaying = {"optimizer": SGD(1e-3, weight_decay=0.1), "rates": (Rate("trunk", 9.0), Rate("bias", 2.0))}
    stage = stages.Stage("finetune", STAGE.objective, batch_size=8, trainable="head", **decaying)
    _, before = start(stage)
    kept = jax.tree.map(np.asarray, before.variables)
    state, _ = train(tmp_path / "run", stage=stage)
    assert_same(state.params["trunk"], kept["params"]["trunk"])
    assert_same(state.batch_stats, kept["batch_stats"])
    assert (state.params["head"]["bias"] != kept["params"]["head"]["bias"]).any()
