"""From stage to stage: weights, statistics, heads, input recipes, and what an objective wants of the stage before."""

import contextlib
import dataclasses
import functools
import io
import json
import re
import types
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from drawn import Squares
from small import Small

from agejax.models.inputs import FACES, HALF, IMAGENET, Inputs
from agejax.models.resnet import ResNet
from agejax.models.vgg import VGG
from agejax.objectives import CORAL, OBJECTIVES, AMSoftmax, Identity, JointLabelDistribution, LabelDistribution
from agejax.parameters import flatten
from agejax.training import checkpoint, loop
from agejax.training.checkpoint import Description
from agejax.training.feeds import Feed
from agejax.training.optim import SGD
from agejax.training.progress import Progress
from agejax.training.sharding import make_mesh, replicated
from agejax.training.stages import Stage, check_parameters, check_start, start_variables
from agejax.training.state import new_state
from agejax.training.step import make_train_steps, make_update
from data_pipelines.align import Alignment
from data_pipelines.errors import UserError
from data_pipelines.loaders import train_batches
from experiments.check import describe, doubts
from experiments.command_line import parse
from experiments.handover import Before, take_over, with_inputs
from experiments.run import main

YEARS, FOUR = JointLabelDistribution(), Identity(4)


def description(backbone=Small(), objective=YEARS, size=32):
    return Description(backbone, objective, size, "float32", Alignment(), "squares", 50.0)


def stage(objective=YEARS, name="next", **options):
    return Stage(name, objective, **{"batch_size": 8} | options)


def started(described, seed=0):
    """(description, variables) to start from, with statistics that are not the first ones."""
    variables, _ = start_variables(stage(described.objective), described, seed, None, "")
    variables["batch_stats"] = jax.tree.map(lambda x: x + 0.25, variables["batch_stats"])
    return described, variables


def assert_same(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


# what is taken


def settled(name):
    """A row of OBJECTIVES with what its data would settle."""
    objective = OBJECTIVES[name]()
    return dataclasses.replace(objective, **dict.fromkeys(objective.wants, 4))


def heads():
    """A row of OBJECTIVES for every kind of head and every size."""
    found = {}
    for name in OBJECTIVES:
        objective = settled(name)
        found.setdefault((type(objective.head), objective.head_size), name)
    return list(found.values())


def test_between_any_two_heads_the_trunk_is_taken():
    names = heads()
    assert len(names) > 5
    source = started(description(objective=settled(names[-1])))
    expected = source[1]
    for number, name in enumerate(names):  # each starts from the one before it
        mine = description(objective=settled(name))
        check_start(stage(mine.objective), mine, source[0], "before")
        variables, told = start_variables(stage(mine.objective), mine, number, source, "before")
        assert_same(variables["params"]["trunk"], expected["params"]["trunk"])
        assert_same(variables["batch_stats"], expected["batch_stats"])
        assert "takes trunk" in told and "head/kernel" in told
        source = mine, variables


def test_the_head_is_initialised_anew_unless_it_is_taken():
    source = started(description())
    for take, same in (("trunk", False), ("all", True)):
        variables, told = start_variables(stage(take=take), description(), 7, source, "before")
        heads = [x["params"]["head"]["kernel"] for x in (variables, source[1])]
        assert (np.array(heads[0]) == np.array(heads[1])).all() == same
        assert f"takes {take}" in told and ("head/bias 101, head/kernel 4×101" in told) != same


def test_nothing_is_taken_where_the_stage_says_so():
    source = started(description())
    variables, told = start_variables(stage(take="nothing"), description(), 7, source, "before")
    assert_same(variables, start_variables(stage(), description(), 7, None, "")[0])
    assert told == "starts from random weights"
    other = started(description(VGG(1 / 32)))[0]
    check_start(stage(take="nothing"), description(), other, "before")  # not even the family matters


def test_official_second_stage_takes_all_and_resets_the_head_bias():
    source = started(description(objective=LabelDistribution()))
    source[1]["params"]["head"]["bias"] += 1
    joint = stage(take="all", reset_head_bias=True)
    variables, told = start_variables(joint, description(), 5, source, "kl")
    assert_same(variables["params"]["head"]["kernel"], source[1]["params"]["head"]["kernel"])
    np.testing.assert_array_equal(variables["params"]["head"]["bias"], 0)
    assert (source[1]["params"]["head"]["bias"] == 1).all() and "takes all" in told


def test_weights_of_another_image_size_fit():
    for backbone in (VGG(1 / 32, "fc", norm=False), ResNet(18)):
        mine, theirs = description(backbone, size=64), description(backbone, size=48)
        check_start(stage(take="all"), mine, theirs, "before")
    variables, _ = start_variables(
        stage(take="all"), description(size=48), 7, source := started(description()), "before"
    )
    assert_same(variables, source[1])


# what cannot be taken


@pytest.mark.parametrize(
    ("mine", "theirs", "told"),
    [
        (ResNet(18), VGG(0.5, inputs=HALF), r"x was trained with VGG, this run has ResNet: give --model=thin$"),
        (VGG(0.5), ResNet(50), r"x was trained with ResNet, this run has VGG: give --model=resnet50$"),
        (VGG(), Small(), r"x was trained with Small, this run has VGG: give the network it has, Small\("),
        (VGG(0.25), VGG(0.5), r"block1_1/conv/kernel is \(3, 3, 3, 32\) there and \(3, 3, 3, 16\) .*--model=thin$"),
        # the larger network's parameters include those of the smaller one, by name and shape
        (ResNet(18), ResNet(34), r"trunk/stage1_3/conv1/\S+ is there and not in this run; .* with --model=resnet34$"),
        (ResNet(34), ResNet(18), r"trunk/stage1_3/conv1/\S+ is not there; it was trained with --model=resnet18$"),
        (VGG(), VGG(bias=True), r"block1_1/conv/bias is there and not in this run.*--model=thin --model.bias=True$"),
        (VGG(), VGG(convolutions=(2, 2, 2, 3, 3)), r"block3_3/.* is not there.*thin --model.convolutions=2,2,2,3,3$"),
        (VGG(), VGG(norm=False), r"block1_1/norm/bias is not there; .*--model=thin --model.norm=False$"),
    ],
)  # fmt: skip
def test_another_network_is_refused_with_the_words_that_choose_it(mine, theirs, told):
    mine, theirs = description(mine), description(theirs, FOUR)
    with pytest.raises(UserError, match=told):
        check_start(stage(), mine, theirs, "x")


def test_a_stage_refuses_another_network_when_it_starts_too():
    with pytest.raises(UserError, match=r"x has another network: trunk/block1/conv/kernel is \(3, 3, 3, 4\) there"):
        start_variables(stage(), description(Small(8)), 0, started(description()), "x")


@pytest.mark.parametrize(
    ("mine", "theirs", "told"),
    [
        (YEARS, FOUR, r"head/bias is \(4,\) there and \(101,\) in this run"),
        (AMSoftmax(4), FOUR, r"head/bias is there and not in this run"),
        (FOUR, AMSoftmax(4), r"head/bias is not there"),
        (CORAL(), YEARS, r"head/bias is \(101,\) there and \(100,\) in this run"),
    ],
)
def test_another_head_is_refused_with_the_words_that_leave_it(mine, theirs, told):
    mine, theirs = description(objective=mine), description(objective=theirs)
    with pytest.raises(UserError, match=f"^x has another head: {told}; take the trunk alone: --next.take=trunk$"):
        check_start(stage(mine.objective, take="all"), mine, theirs, "x")
    check_start(stage(mine.objective), mine, theirs, "x")


def test_options_that_shape_nothing_may_differ():
    check_start(stage(), description(Small(dropout=0.1, inputs=HALF)), description(), "x")


def test_a_head_without_bias_has_none_to_reset():
    with pytest.raises(UserError, match="stage next: reset_head_bias=True, and the head of its objective has no bias"):
        check_parameters(stage(AMSoftmax(4), reset_head_bias=True), description(objective=AMSoftmax(4)))


# networks without statistics, and with dropout, through the loop

SQUARES = Squares(20)


def batches(start_step):
    return train_batches(
        SQUARES, batch_size=8, image_size=32, seed=1, start_step=start_step, augmentation=stage().augmentation,
        alignment=Alignment(),
    )  # fmt: skip


@functools.cache
def compiled(backbone, seed):
    """(train_steps, initial variables, optimizer): compiled once for all tests."""
    described = description(backbone)
    variables, _ = start_variables(one := stage(optimizer=SGD(1e-3)), described, 0, None, "")
    optimizer = one.make_optimizer(variables["params"], 4, 2.5)
    update = make_update(described.network(), described.objective, optimizer, seed)
    return make_train_steps(update, Feed("host", batches), make_mesh()), variables, optimizer


def fresh_state(variables, optimizer, step=0):
    state = new_state(jax.tree.map(np.array, variables), optimizer)  # a copy: the step donates its state
    return jax.device_put(state.replace(step=np.int32(step)), replicated(make_mesh()))


def trained(folder, backbone, steps):
    """The state after so many steps of 4, in one go or from the checkpoint there is."""
    step, variables, optimizer = compiled(backbone, 0)
    plan = loop.Plan("next", 8, steps, 2.5, checkpoint_every=2, validate_every=100)
    folder.mkdir(exist_ok=True)
    with checkpoint.StageCheckpoints(folder) as saves:
        opened, state = functools.partial(Progress, folder, "next", steps, 2.5), fresh_state(variables, optimizer)
        state, _ = loop.train(plan, state, step, batches, None, "mae", saves, opened)
        saves.save_best(steps, state.variables)
    return state


def test_a_run_with_dropout_that_was_stopped_ends_with_the_same_bits(tmp_path):
    trained(tmp_path / "stopped", Small(), 2)
    resumed, whole = (trained(tmp_path / name, Small(), 4) for name in ("stopped", "whole"))
    assert_same(resumed, whole)


def test_what_dropout_drops_is_a_function_of_seed_and_step():
    with batches(0) as stream:
        batch = next(stream)
    losses = {}
    for seed in (0, 1):
        step, variables, optimizer = compiled(Small(), seed)
        for number in (0, 1, 0):  # the same weights and the same batch
            _, metrics = step(fresh_state(variables, optimizer, number), [batch])
            losses.setdefault((seed, number), []).append(float(metrics["loss"][0]))
    assert all(len(set(values)) == 1 for values in losses.values())
    assert len({values[0] for values in losses.values()}) == 4


def test_a_network_without_norms_is_saved_and_read_back(tmp_path):
    described, state = description(Small(norm=False)), trained(tmp_path / "run", Small(norm=False), 2)
    assert state.batch_stats == {}
    for selected in ("latest", "best"):
        variables = checkpoint.load_variables(tmp_path / "run", described, selected, make_mesh())
        assert flatten(variables).keys() == flatten(state.variables).keys()
        assert_same(variables, state.variables)
    again = trained(tmp_path / "run", Small(norm=False), 2)  # restored, and nothing left to do
    assert_same(again.params, state.params)
    started_from, told = start_variables(
        stage(FOUR), description(Small(norm=False), FOUR), 3, (described, variables), "x"
    )
    assert_same(started_from["params"]["trunk"], state.params["trunk"])
    assert started_from["batch_stats"] == {} and "takes trunk" in told


# recipes and measures, through whole runs

NETWORK = ("--model.compression=0.03125", "--model.convolutions=1,1,1,1,1", "--image_size=32")
SHORT = ("batch_size=16", "epochs=1", "trainable=head")
TWO = (
    "--config=dldl_v2_thin",
    "--recipe=official",
    "--stages=kl,joint",
    *NETWORK,
    "--joint.objective=LAEClassification",
)
TWO += tuple(f"--{name}.{word}" for name in ("kl", "joint") for word in SHORT)
ONE = ("--config=aaf_tiny", "--data=synthetic", *NETWORK, *(f"--finetune.{word}" for word in SHORT))


def run(words) -> tuple[int, str]:
    with contextlib.redirect_stdout(screen := io.StringIO()), contextlib.redirect_stderr(screen):
        code = main(list(words))
    return code, screen.getvalue()


def card(folder: Path) -> dict:
    return json.loads((folder / "stage.json").read_text())


@pytest.fixture(scope="module")
def two_stages(drawn_data, tmp_path_factory):
    """(folder, words, printed) of a run of LAE's shape; the best of the first stage is not its last."""
    folder, measured = tmp_path_factory.mktemp("two") / "run", iter([5.0, 3.0625, 4.0, 3.5])
    places = (f"--data_dir={drawn_data}", f"--workdir={folder}")
    words = [*TWO, *places, "--model.inputs=half", "--kl.epochs=3", "--kl.optimizer=SGD", "--select=best"]
    words.append("--joint.optimizer.learning_rate=0")  # it ends with the weights it was handed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.build.metrics", types.SimpleNamespace(mae=lambda *_: next(measured)))
        code, printed = run(words)
    assert code == 0, printed
    return folder, words, printed


def test_the_mae_of_the_weights_that_are_handed_on_is_used_told_and_kept(two_stages):
    folder, _, printed = two_stages
    kl, joint = card(folder / "kl"), card(folder / "joint")
    assert (kl["selected"], kl["best"]["step"], kl["validation"]) == ("best", 6, {"mae": 3.0625})
    assert f"joint: mae = 3.0625, of {folder}/kl on its validation split" in printed
    assert joint["description"]["objective"]["mae"] == 3.0625
    assert joint["validation"] == {"mae": 3.5}
    best, last, handed = (
        checkpoint.load_variables(folder / name, checkpoint.read_description(folder / name), selected, make_mesh())
        for name, selected in (("kl", "best"), ("kl", "latest"), ("joint", "latest"))
    )
    kernels = [np.array(variables["params"]["head"]["kernel"]) for variables in (best, last, handed)]
    assert (kernels[2] == kernels[0]).all() and (kernels[2] != kernels[1]).any()
    config = json.loads((folder / "config.json").read_text())
    assert config["stages"][-1]["objective"]["mae"] == 0 and config["model"]["inputs"]["mean"] == [0.5] * 3  # as asked


def test_the_same_command_finds_the_same_mae_again(two_stages):
    folder, words, _ = two_stages
    before = card(folder / "joint")["description"]
    for name in ("results.json", "joint/stage.json"):
        (folder / name).unlink()
    code, printed = run(words)
    assert code == 0 and "joint: goes on at step 3 of 3" in printed
    assert card(folder / "joint")["description"] == before


def test_weights_bring_their_input_recipe_and_their_mae(two_stages, drawn_data, tmp_path):
    folder, _, _ = two_stages
    assert checkpoint.read_description(folder / "kl").backbone.inputs == HALF
    words = [*ONE, f"--data_dir={drawn_data}", f"--workdir={tmp_path / 'run'}", f"--init={folder / 'kl'}"]
    code, printed = run([*words, "--finetune.objective=LAEClassification"])
    assert code == 0 and "warning" not in printed, printed
    described = checkpoint.read_description(tmp_path / "run/finetune")
    assert described.backbone == VGG(1 / 32, convolutions=(1, 1, 1, 1, 1), inputs=HALF)
    lines = [json.loads(line) for line in (tmp_path / "run/finetune/metrics.jsonl").read_text().splitlines()]
    last = [line["mae"] for line in lines if line["split"] == "val"][-1]
    assert card(tmp_path / "run/finetune")["validation"] == {"mae": last}
    assert described.objective.mae == card(folder / "kl")["validation"]["mae"]
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["model"]["inputs"] is None
    assert checkpoint.load_trained(tmp_path / "run")[0].network().inputs == HALF


def test_another_recipe_than_the_weights_is_used_and_warned_of(drawn_data):
    words = [*ONE, f"--data_dir={drawn_data}"]
    init = Before("runs/x", description(VGG(1 / 32, inputs=HALF)), None)
    plain, other, same = (parse([*words, *more]) for more in ([], ["--model.inputs=imagenet"], ["--model.inputs=half"]))
    told = "--model.inputs=imagenet, and the weights of runs/x were trained with half"
    assert [doubts(one, list(one.stages), init) for one in (plain, other, same)] == [[], [told], []]
    used = [describe(one, one.stages[0], init).backbone.inputs for one in (plain, other, same)]
    assert used == [HALF, IMAGENET, HALF]
    unnamed = Before("runs/x", description(VGG(1 / 32, inputs=Inputs((1.0, 2.0, 3.0)))), None)
    assert "were trained with Inputs(mean=(1.0, 2.0, 3.0), std=" in doubts(other, list(other.stages), unnamed)[0]


def test_without_weights_the_family_s_recipe_is_written_down(drawn_data):
    experiment = parse([*ONE, f"--data_dir={drawn_data}"])
    assert describe(experiment, experiment.stages[0]).backbone.inputs == FACES
    usual = Before("runs/x", description(VGG(1 / 32)), None)  # of a version that did not write it down
    assert with_inputs(VGG(), usual).inputs == FACES
    assert with_inputs(VGG(pooling="fc"), None).inputs == with_inputs(ResNet(18), None).inputs == IMAGENET


def test_what_is_given_is_not_found_out(drawn_data):
    words = ["--config=dldl_v2_thin", *NETWORK, f"--data_dir={drawn_data}", "--pretrain.objective.num_identities=9"]
    experiment = parse([*words, "--finetune.objective=LAEClassification", "--finetune.objective.mae=2.5"])
    pretrain, finetune = (describe(experiment, stage) for stage in experiment.stages)
    assert pretrain.objective.num_identities == 9
    before = Before("runs/x", description(), {"mae": 4.0})
    assert take_over(experiment.stages[1], finetune, before).objective.mae == 2.5
    assert take_over(experiment.stages[1], finetune, None).objective.mae == 2.5


def refused(words) -> str:
    code, told = run(words)
    assert code == 2 and told.splitlines()[-1].startswith("error: "), told
    return told.splitlines()[-1]


def test_a_mae_that_nobody_measured_is_asked_for_before_anything_is_trained(two_stages, drawn_data, tmp_path):
    folder, _, _ = two_stages
    places = (f"--data_dir={drawn_data}", f"--workdir={tmp_path / 'run'}")
    told = refused([*TWO, *places, "--kl.validation_split="])
    assert re.search(
        r"stage joint needs a mae, and \S+/kl has no validation MAE of age: set --joint.objective.mae=YEARS$", told
    )
    alone = [*ONE, *places, "--finetune.objective=LAEClassification"]
    assert "stage finetune needs a mae, and there is no stage before it: set --finetune.obj" in refused(alone)
    points = ("--finetune.objective.target=attractiveness", "--finetune.objective.grid.low=0")
    told = refused([*alone, *points, f"--init={folder / 'kl'}"])
    assert told.endswith("/kl has no validation MAE of attractiveness: set --finetune.objective.mae=POINTS")
    assert not (tmp_path / "run").exists()


def test_what_a_later_stage_could_not_take_is_told_before_the_first_trains(two_stages, drawn_data, tmp_path):
    folder, _, _ = two_stages
    words = tiny.words(drawn_data, tmp_path / "run", *tiny.PRETRAIN, *tiny.FINETUNE)
    told = refused([*words, "--finetune.take=all"])
    assert re.search(
        r"/pretrain has another head: head/bias is \(8,\) there and \(101,\).*--finetune.take=trunk$", told
    )
    told = refused([*words, "--pretrain.take=nothing", f"--init={folder / 'kl'}"])
    assert told == "error: stage pretrain takes nothing: leave --init away, or set --pretrain.take=trunk"
    resnet = [*ONE[:2], "--model=resnet18", f"--data_dir={drawn_data}", f"--workdir={tmp_path / 'run'}"]
    told = refused([*resnet, f"--init={folder / 'kl'}"])
    chosen = "--model=thin --model.compression=0.03125 --model.convolutions=1,1,1,1,1"
    assert told.endswith(f"/kl was trained with VGG, this run has ResNet: give {chosen}")
    assert not (tmp_path / "run").exists()
