"""Optimisers and schedules against torch's and Torch7's numbers; what is frozen, decays, learns at another rate."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agejax.models.network import BACKBONES, make_network, variable_shapes
from agejax.objectives import CORAL, AMSoftmax, Identity
from agejax.parameters import flatten, mask
from agejax.training.optim import OPTIMIZERS, SCHEDULES, SGD, Adam, MultiStep, OneCycle, Rate, StepDecay, make_optimizer
from agejax.training.stages import Stage
from data_pipelines.errors import UserError

CONSTANT = StepDecay(factor=1.0)
START = [1.0, -2.0, 3.0]
GRADIENTS = [[0.5, -1.0, 2.0], [-0.25, 0.75, 1.0], [1.5, 0.0, -0.5], [0.125, -2.0, 0.25], [1.0, 1.0, -1.0]]


def walked(optimizer, params, gradients):
    """The parameters after an update by each of the gradients."""
    state, step = optimizer.init(params), jax.jit(optimizer.update)
    for gradient in gradients:
        updates, state = step(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def moved(spec, schedule, gradients, steps=6, steps_per_epoch=1.0, start=START):
    """The three numbers of a kernel after an update by each of the gradients."""
    params = {"kernel": jnp.asarray(start)}
    optimizer = make_optimizer(spec, schedule, params, "", steps, steps_per_epoch)
    return walked(optimizer, params, [{"kernel": jnp.asarray(g)} for g in gradients])["kernel"]


# Adam's two forms


@pytest.mark.parametrize(
    ("gradients", "form", "eps", "expected"),
    [
        # float64 recomputation of torch7 optim/adam.lua and of Kingma & Ba
        ([0.1], "torch7", 1e-7, -9.999683782234e-04),
        ([1e-5], "torch7", 1e-7, -7.597469266480e-04),
        ([1e-6], "torch7", 1e-7, -2.402530733520e-04),
        ([1e-5, -2e-5, 3e-5], "torch7", 1e-7, -7.554946503864e-04),
        ([0.1], "standard", 1e-8, -9.999999000000e-04),
        ([1e-5], "standard", 1e-8, -9.990009990010e-04),
        ([1e-6], "standard", 1e-8, -9.900990099010e-04),
        ([1e-5, -2e-5, 3e-5], "standard", 1e-8, -9.762111445441e-04),
        ([0.1], "standard", 1e-7, -9.999990000010e-04),
        ([1e-5], "standard", 1e-7, -9.900990099010e-04),
        ([1e-6], "standard", 1e-7, -9.090909090909e-04),
        ([1e-5, -2e-5, 3e-5], "standard", 1e-7, -9.679559836695e-04),
    ],
)
def test_adam_moves_as_the_reference(gradients, form, eps, expected, x64):
    spec = Adam(1e-3, eps=eps, form=form)
    np.testing.assert_allclose(moved(spec, CONSTANT, gradients, start=0.0), expected, rtol=1e-11)


# against torch

WD, NESTEROV = {"weight_decay": 0.1}, {"nesterov": True}


@pytest.mark.parametrize(
    ("spec", "schedule", "expected"),
    [
        # torch 2.13, float64: START after GRADIENTS at lr 0.1; OneCycleLR(max_lr=0.1, total_steps=6)
        (SGD(0.1, 0.0), CONSTANT, [0.7125, -1.875, 2.825]),
        (SGD(0.1, 0.9), CONSTANT, [0.35097, -1.568415, 2.02508]),
        (SGD(0.1, 0.9, **NESTEROV), CONSTANT, [0.128373, -1.4865735, 1.947572]),
        (SGD(0.1, 0.9, **WD), CONSTANT, [0.2346643304, -1.323940386, 1.681284496]),
        (SGD(0.1, 0.9, **NESTEROV, **WD), CONSTANT, [-0.005712342734, -1.189002057, 1.545636421]),
        (SGD(0.1, 0.0, **WD), CONSTANT, [0.6678277244, -1.780692924, 2.688076048]),
        (SGD(0.1, 0.9), OneCycle(), [0.7380016287, -1.870084184, 2.474058421]),
        (SGD(0.1, 0.9, **NESTEROV, **WD), OneCycle(), [0.5758839316, -1.719430838, 2.260901791]),
        (SGD(0.1, 0.9), OneCycle(cycle_momentum=False), [0.7329917302, -1.859838962, 2.442422618]),
        (Adam(0.1), CONSTANT, [0.6756521904, -1.812492214, 2.679478885]),
        (Adam(0.1), OneCycle(), [0.9203848368, -2.025060759, 2.896813752]),
        (Adam(0.1), OneCycle(cycle_momentum=False), [0.8781330763, -1.954733368, 2.830893647]),
        (Adam(0.1, coupled=True, **WD), CONSTANT, [0.6403849699, -1.742514446, 2.63234642]),
        # torch.optim.AdamW
        (Adam(0.1, **WD), CONSTANT, [0.6333008155, -1.71933835, 2.540801889]),
        (Adam(0.1, **WD), OneCycle(), [0.8963741202, -1.976224758, 2.82517002]),
    ],
    ids=str,
)
def test_five_steps_are_torch_s(spec, schedule, expected, x64):
    np.testing.assert_allclose(moved(spec, schedule, GRADIENTS), expected, rtol=1e-9)


def test_the_first_step_of_sgd_is_torch_s(x64):
    """torch 2.13: its buffer starts as the first gradient, not as (1 - momentum) of it."""
    np.testing.assert_allclose(moved(SGD(0.1, 0.9), CONSTANT, GRADIENTS[:1]), [0.95, -1.9, 2.8], rtol=1e-12)
    nesterov = SGD(0.1, 0.9, **NESTEROV, **WD)
    np.testing.assert_allclose(moved(nesterov, CONSTANT, GRADIENTS[:1]), [0.886, -1.772, 2.563], rtol=1e-12)


@pytest.mark.parametrize("schedule", ["constant", "multistep", "one_cycle"])
@pytest.mark.parametrize("rule", ["SGD", "nesterov", "Adam", "coupled", "AdamW"])
def test_forty_steps_of_two_groups_are_torch_s(rule, schedule, x64):
    torch = pytest.importorskip("torch")
    scheduler = torch.optim.lr_scheduler
    specs = {
        "SGD": (SGD(0.02, 0.8, weight_decay=0.01), torch.optim.SGD, {"momentum": 0.8}),
        "nesterov": (SGD(0.02, 0.8, True, 0.01), torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
        "Adam": (Adam(0.02, 0.8, 0.95, 1e-4), torch.optim.Adam, {"betas": (0.8, 0.95), "eps": 1e-4}),
        "coupled": (Adam(0.02, weight_decay=0.01, coupled=True), torch.optim.Adam, {}),
        "AdamW": (Adam(0.02, weight_decay=0.01), torch.optim.AdamW, {}),
    }
    spec, theirs, options = specs[rule]
    schedules = {
        "constant": (CONSTANT, lambda optimizer: None),
        "multistep": (MultiStep((3, 6), 0.3), lambda optimizer: scheduler.MultiStepLR(optimizer, [12, 24], 0.3)),
        "one_cycle": (
            OneCycle(0.4, 10, 100, base_momentum=0.7, max_momentum=0.9),
            lambda optimizer: scheduler.OneCycleLR(
                optimizer, [0.02, 0.2], total_steps=40, pct_start=0.4, div_factor=10, final_div_factor=100,
                base_momentum=0.7, max_momentum=0.9,
            ),
        ),
    }  # fmt: skip
    mine, their_schedule = schedules[schedule]
    rng = np.random.default_rng(0)
    params = {name: {"kernel": rng.normal(size=(2, 3))} for name in ("trunk", "head", "frozen")}
    gradients = [{name: {"kernel": rng.normal(size=(2, 3))} for name in params} for _ in range(40)]

    tensors = {name: torch.nn.Parameter(torch.tensor(params[name]["kernel"])) for name in ("trunk", "head")}
    groups = [{"params": [tensors["trunk"]], "lr": 0.02}, {"params": [tensors["head"]], "lr": 0.2}]
    optimizer = theirs(groups, lr=0.02, weight_decay=spec.weight_decay, **options)
    stepper = their_schedule(optimizer)
    for step, gradient in enumerate(gradients):
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(gradient[name]["kernel"])
        optimizer.step()
        if stepper and step < 39:
            stepper.step()
    transformation = make_optimizer(spec, mine, params, "trunk|head", 40, 4.0, (Rate("head", 10.0),))
    ended = walked(transformation, params, gradients)
    for name, tensor in tensors.items():
        np.testing.assert_allclose(ended[name]["kernel"], tensor.detach().numpy(), rtol=1e-9, err_msg=name)
    np.testing.assert_array_equal(ended["frozen"]["kernel"], params["frozen"]["kernel"])


# schedules


def test_one_cycle_is_torch_s(x64):
    """torch.optim.lr_scheduler.OneCycleLR(max_lr=0.005, total_steps=100): learning rate and momentum."""
    expected = {
        0: (2e-4, 0.95), 10: (0.001475819742, 0.923420422), 28: (0.004985931097, 0.8502931021), 29: (0.005, 0.85),
        30: (0.004997482676, 0.8500503467), 50: (0.003969467253, 0.8706107374), 75: (0.001315343083, 0.9236934331),
        98: (2.537323577e-06, 0.9499496533), 99: (2e-08, 0.95),
    }  # fmt: skip
    steps = [jnp.asarray(step) for step in expected]
    rates = [0.005 * float(OneCycle()(step, 100, 10.0)) for step in steps]
    momenta = [float(OneCycle().momentum(0.9, step, 100)) for step in steps]
    np.testing.assert_allclose(rates, [rate for rate, _ in expected.values()], rtol=1e-9)
    np.testing.assert_allclose(momenta, [momentum for _, momentum in expected.values()], rtol=1e-9)


@pytest.mark.parametrize("schedule", [StepDecay(), MultiStep(), OneCycle(cycle_momentum=False)])
def test_other_schedules_leave_the_momentum_as_it_is(schedule):
    assert [schedule.momentum(0.7, jnp.asarray(step), 100) for step in (0, 29, 99)] == [0.7] * 3


def test_step_decay_falls_at_whole_epochs():
    schedule = StepDecay(0.1, every=30)
    steps_per_epoch = 19.4375
    factors = [float(schedule(jnp.asarray(step), 0, steps_per_epoch)) for step in (0, 582, 583, 584, 1166, 1167)]
    expected = [1, 1, 1, 0.1, 0.1, 0.01]  # 30 epochs are 583.125 steps, 60 are 1166.25
    np.testing.assert_allclose(factors, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("steps_per_epoch", "falls"),
    [
        (100.0, [700, 1400, 1600]),
        (0.7, [5, 10, 12]),
        (1953.125, [13672, 27344, 31250]),
        (1e5, [700_000, 1_400_000, 1_600_000]),
        (1 / 3, [3, 5, 6]),
        (203 / 49, [29, 58, 67]),  # 7 times which is 29.000000000000004
    ],
)
def test_multi_step_falls_after_each_milestone(steps_per_epoch, falls):
    """LAE's pretraining: 0.1 after 7, 14 and 16 epochs; the first step from a milestone on has the lower rate."""
    schedule = MultiStep((7, 14, 16), 0.1)
    for passed, step in enumerate(falls):
        factors = [float(schedule(jnp.asarray(at), 0, steps_per_epoch)) for at in (step - 1, step)]
        np.testing.assert_allclose(factors, [0.1**passed, 0.1 ** (passed + 1)], rtol=1e-6)


def test_multi_step_without_milestones_is_constant_and_their_order_does_not_matter():
    assert [float(MultiStep(())(jnp.asarray(step), 0, 1.0)) for step in (0, 100)] == [1, 1]
    assert float(MultiStep((5.0, 2.0), 0.5)(jnp.asarray(3), 0, 1.0)) == 0.5


# every option does something

FULL = {
    "Adam": Adam(0.1, 0.8, 0.9, 1e-3, "torch7", 0.1, False, "kernel"),
    "SGD": SGD(0.1, 0.8, True, 0.1, "kernel"),
    "StepDecay": StepDecay(0.5, every=2),
    "MultiStep": MultiStep((1.0, 2.0), 0.5),
    "OneCycle": OneCycle(end=10),
}
OTHER = {bool: lambda x: not x, float: lambda x: x / 2, str: lambda _: "bias", tuple[float, ...]: lambda _: (1.0,)}


def fields():
    assert FULL.keys() == OPTIMIZERS.keys() | SCHEDULES.keys()
    return [(name, field) for name, full in FULL.items() for field in dataclasses.fields(full)]


@pytest.mark.parametrize(("name", "field"), fields(), ids=lambda x: getattr(x, "name", x))
def test_every_option_changes_where_the_parameters_go(name, field):
    full = FULL[name]
    value = {"form": "standard"}.get(field.name) or OTHER[field.type](getattr(full, field.name))
    ends = []
    for options in (full, dataclasses.replace(full, **{field.name: value})):
        pair = (options, CONSTANT) if name in OPTIMIZERS else (SGD(0.1), options)
        params = {"kernel": jnp.asarray(START), "bias": jnp.asarray(START)}
        optimizer = make_optimizer(*pair, params, "", 5, 2.0)
        ends.append(walked(optimizer, params, [{"kernel": jnp.asarray(g), "bias": jnp.asarray(g)} for g in GRADIENTS]))
    assert any(np.abs(ends[0][leaf] - ends[1][leaf]).max() > 1e-5 for leaf in ends[0])


def test_nesterov_needs_a_momentum():
    with pytest.raises(UserError, match="nesterov needs a momentum above 0, got 0"):
        SGD(momentum=0, nesterov=True)


# parameters by name

PARAMS = {
    "trunk": {"block1": {"kernel": jnp.ones((3, 3)), "scale": jnp.ones(3)}, "block2": {"kernel": jnp.ones((3, 3))}},
    "head": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)},
}
ONES = jax.tree.map(jnp.ones_like, PARAMS)


def first_update(spec, trainable="", rates=()):
    """{path: the update of the first step by gradients of 1}, and the state before it."""
    optimizer = make_optimizer(spec, CONSTANT, PARAMS, trainable, 10, 1.0, rates)
    state = optimizer.init(PARAMS)
    return {path: np.unique(x) for path, x in flatten(optimizer.update(ONES, state, PARAMS)[0]).items()}, state


@pytest.mark.parametrize(("spec", "moments"), [(Adam(0.1, weight_decay=0.1), 2), (SGD(0.1, weight_decay=0.1), 1)])
def test_frozen_parameters_stay_and_keep_no_moments(spec, moments):
    updates, state = first_update(spec, "head", (Rate("trunk", 7.0), Rate("bias", 3.0)))
    assert sum(x.size for x in jax.tree.leaves(state) if x.ndim) == moments * (6 + 2)
    for path, update in updates.items():
        if path.startswith("trunk"):
            assert update.tolist() == [0.0]
    np.testing.assert_allclose(updates["head/kernel"], -0.11, rtol=1e-5)
    np.testing.assert_allclose(updates["head/bias"], 3 * -0.11, rtol=1e-5)


@pytest.mark.parametrize("spec", [Adam(0.1, weight_decay=0.1), SGD(0.1, weight_decay=0.1)])
@pytest.mark.parametrize(
    ("decays", "decaying"),
    [
        ("", {"trunk/block1/kernel", "trunk/block1/scale", "trunk/block2/kernel", "head/kernel", "head/bias"}),
        ("kernel$", {"trunk/block1/kernel", "trunk/block2/kernel", "head/kernel"}),
        ("^head|scale", {"trunk/block1/scale", "head/kernel", "head/bias"}),
    ],
)
def test_what_decays_goes_by_name(spec, decays, decaying):
    updates, _ = first_update(dataclasses.replace(spec, decays=decays))
    for path, update in updates.items():
        np.testing.assert_allclose(update, -0.11 if path in decaying else -0.1, rtol=1e-5, err_msg=path)


@pytest.mark.parametrize(
    ("backbone", "objective"), [(name, Identity(4)) for name in BACKBONES] + [("tiny", AMSoftmax(4)), ("tiny", CORAL())]
)
def test_kernels_are_the_parameters_of_more_than_one_dimension(backbone, objective):
    """What `decays="kernel$"` leaves out, in every network: biases, and the scales of norms."""
    params = variable_shapes(make_network(BACKBONES[backbone], objective.head), 64)["params"]
    leaves, kernels = flatten(params), flatten(mask(params, "kernel$", "decays"))
    assert {path: len(leaf.shape) > 1 for path, leaf in leaves.items()} == kernels


@pytest.mark.parametrize("trainable", ["", "head"])
@pytest.mark.parametrize("spec", [Adam(), Adam(form="torch7"), SGD(), SGD(nesterov=True)], ids=str)
def test_no_buffer_is_there_twice(spec, trainable):
    """The step donates its state, each buffer once."""
    state = make_optimizer(spec, OneCycle(), PARAMS, trainable, 10, 1.0, (Rate("head", 2.0),)).init(PARAMS)
    buffers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state) if x.ndim]
    assert buffers and len(set(buffers)) == len(buffers)


def test_the_first_rate_that_names_a_parameter_counts():
    rates = (Rate("head", 10.0), Rate("block1/k", 0.5), Rate("block1", 0.1), Rate("trunk", 0.25))
    updates, _ = first_update(SGD(0.1), rates=rates)
    expected = {"head/kernel": 10, "head/bias": 10, "trunk/block1/kernel": 0.5, "trunk/block1/scale": 0.1}
    for path, update in updates.items():
        np.testing.assert_allclose(update, -0.1 * expected.get(path, 0.25), rtol=1e-6, err_msg=path)
    updates, _ = first_update(SGD(0.1), rates=rates[:1])
    np.testing.assert_allclose(updates["trunk/block2/kernel"], -0.1, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"trainable": "hed"}, "trainable='hed' matches no parameter; paths look like 'trunk/block1/kernel'"),
        ({"trainable": "("}, r"trainable='\(' is not a regular expression: missing \)"),
        ({"rates": (Rate("head", 1.0), Rate("hed", 1.0))}, "rates='hed' matches no parameter"),
        ({"spec": Adam(decays="hed")}, "decays='hed' matches no parameter"),
    ],
)
def test_a_pattern_that_names_nothing_is_refused(options, told):
    with pytest.raises(UserError, match=told):
        first_update(**{"spec": Adam()} | options)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan")])
def test_a_rate_does_not_freeze(factor):
    with pytest.raises(UserError, match=r"the factor of 'head' must be above 0, got .*; `trainable` freezes"):
        Rate("head", factor)


# batch sizes


@pytest.mark.parametrize(
    ("batch_size", "reference", "expected"), [(64, 256, 0.00125), (256, 256, 0.005), (512, 256, 0.01), (64, 0, 0.005)]
)
def test_the_learning_rate_is_scaled_to_the_batch(batch_size, reference, expected):
    """LAE: base · batch / 256, with a base of 0.005."""
    stage = Stage("one", Identity(4), batch_size=batch_size, reference_batch=reference, optimizer=SGD(0.005))
    assert stage.learning_rate == pytest.approx(expected, rel=1e-12)
    optimizer = stage.make_optimizer(PARAMS, 10, 1.0)
    updates, _ = optimizer.update(ONES, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["head"]["bias"], -expected, rtol=1e-6)


def test_a_stage_gives_all_its_options_to_the_optimiser():
    stage = Stage("one", Identity(4), trainable="head", rates=(Rate("bias", 3.0),), schedule=MultiStep((2.0,), 0.5))
    optimizer = dataclasses.replace(stage, optimizer=SGD(0.1, 0.0)).make_optimizer(PARAMS, 10, 1.0)
    ended = walked(optimizer, PARAMS, [ONES] * 3)
    np.testing.assert_allclose(ended["head"]["kernel"], 1 - 0.25, rtol=1e-6)
    np.testing.assert_allclose(ended["head"]["bias"], 1 - 0.75, rtol=1e-6)
    np.testing.assert_array_equal(ended["trunk"]["block2"]["kernel"], 1)
