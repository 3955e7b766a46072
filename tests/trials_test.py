"""Trials trained as one against the same trained one by one."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import Squares
from small import Small, mesh_of

from agejax.labels import LabelGrid
from agejax.models.network import variable_shapes
from agejax.objectives import OBJECTIVES, JointLabelDistribution
from agejax.parameters import flatten
from agejax.training import swept, trials
from agejax.training.checkpoint import Description
from agejax.training.feeds import Examples, open_feed
from agejax.training.optim import SGD
from agejax.training.sharding import replicated
from agejax.training.stages import Stage, start_variables
from agejax.training.state import new_state
from agejax.training.step import make_train_steps, make_update
from agejax.training.trials import Trial
from agejax.training.weighting import InverseFrequency
from data_pipelines.align import Alignment
from data_pipelines.loaders import Loader
from data_pipelines.plans import Augmentation
from data_pipelines.samplers import Shuffle, Subset
from experiments.sweeps.vectorised import replaced

SQUARES = Squares(24)
AUGMENTATION = Augmentation(degrade=1.0)
STAGE = Stage("finetune", JointLabelDistribution(), optimizer=SGD(0.01), augmentation=AUGMENTATION)
STEPS, PER_EPOCH = 3, 1.5


def description(stage):
    return Description(Small(), stage.objective, 32, "float32", Alignment(), "squares", 50.0)


def examples_of(trial):
    augmentation = trial.stage.augmentation
    return Examples(trial.source, 8, 32, trial.seed, augmentation, Alignment(), "age", Shuffle(), Loader())


def start(trial):
    variables, _ = start_variables(trial.stage, description(trial.stage), trial.seed, None, "")
    optimizer = trial.stage.make_optimizer(variables["params"], STEPS, PER_EPOCH)
    return variables, optimizer


@functools.cache
def alone(name, t):
    """What a run of this trial and nothing else ends with: flat parameters and statistics, losses."""
    trial, mesh = GROUPS[name][t], mesh_of(1)
    variables, optimizer = start(trial)
    network = description(trial.stage).network()
    where = "host" if trial.stage.augmentation.randaugment else "resident"
    feed = open_feed(where, examples_of(trial), mesh, lambda text: None)
    weights = trial.stage.weights(trial.source)
    update = make_update(network, trial.stage.objective, optimizer, trial.seed, 1, weights)
    train_steps = make_train_steps(update, feed, mesh)
    state, losses = jax.device_put(new_state(variables, optimizer), replicated(mesh)), []
    with feed.open(0) as stream:
        for batch in itertools.islice(stream, STEPS):
            state, metrics = train_steps(state, [batch])
            losses.append(float(metrics["loss"][0]))
    return flatten(jax.device_get(state.variables)), losses


def together(group, way, groups=1, at_once=1):
    """The same for all trials, and the mean losses."""
    mesh = mesh_of(4, groups)
    widest = max(group, key=lambda trial: trial.stage.objective.head_size)
    network = description(widest.stage).network()
    feed = trials.make_feed(group, [examples_of(trial) for trial in group], mesh, lambda text: None)
    states = trials.place(trials.stack([new_state(*start(trial)) for trial in group]), mesh)
    train_steps = trials.make_trials_steps(group, network, STEPS, PER_EPOCH, feed, mesh, way)
    losses = []
    with feed.open(0) as stream:
        for _ in range(STEPS // at_once):
            states, metrics = train_steps(states, list(itertools.islice(stream, at_once)))
            losses += metrics["loss"].tolist()
            assert not np.any(metrics["diverged"])
    shapes = [variable_shapes(description(trial.stage).network(), 32) for trial in group]
    parts = [trials.take_one(states.variables, t, shape, mesh) for t, shape in enumerate(shapes)]
    return [flatten(jax.device_get(part)) for part in parts], losses


def check(name, way, **how):
    """Parameters move by 0.01 and more here; what rounding may move stays far below."""
    group = GROUPS[name]
    expected = [alone(name, t) for t in range(len(group))]
    found, losses = together(group, way, **how)
    np.testing.assert_allclose(losses, np.mean([one[1] for one in expected], axis=0), rtol=1e-4)
    for (variables, _), mine in zip(expected, found):
        for path, value in variables.items():
            np.testing.assert_allclose(mine[path], value, atol=2e-4, err_msg=path)
    kernels = [one["params/head/bias"].ravel()[:3] for one in found]
    assert all(np.abs(a - b).max() > 1e-3 for a, b in itertools.combinations(kernels, 2)), "the trials are alike"


def with_objective(**changes):
    return dataclasses.replace(STAGE, objective=dataclasses.replace(STAGE.objective, **changes))


def halves(**changes):
    """Two trials, each on its own twelve squares."""
    stage = dataclasses.replace(STAGE, **changes)
    return [Trial(stage, Subset(SQUARES, np.arange(24).reshape(2, 12)[t]), 7) for t in range(2)]


GROUPS = {
    "weighted": halves(weighting=InverseFrequency(0.5, 20.0)),
    "host": halves(augmentation=dataclasses.replace(AUGMENTATION, randaugment=2, hue=0.1)),
    "subsets": [Trial(STAGE, Subset(SQUARES, np.random.default_rng(t).permutation(24)[:6]), t) for t in range(2)],
    "options": [
        Trial(with_objective(lambda_=0.0, default_sigma=5.0), SQUARES, 7),
        Trial(dataclasses.replace(with_objective(lambda_=3.0), optimizer=SGD(0.03)), SQUARES, 7),
    ],
    "grids": [Trial(with_objective(grid=LabelGrid(step=step)), SQUARES, 3) for step in (0.5, 4.0)],
}
CASES = [
    ("subsets", "loop", {}),
    ("options", "vmap", {}),
    ("grids", "vmap", {}),
    ("weighted", "loop", {}),
    ("host", "loop", {}),
    pytest.param("weighted", "vmap", {"groups": 2}, marks=pytest.mark.slow),
    pytest.param("host", "vmap", {"groups": 2}, marks=pytest.mark.slow),
    pytest.param("options", "map", {}, marks=pytest.mark.slow),
    pytest.param("subsets", "vmap", {"groups": 2}, marks=pytest.mark.slow),
    pytest.param("options", "vmap", {"at_once": 3}, marks=pytest.mark.slow),
    pytest.param("options", "loop", {"at_once": 3}, marks=pytest.mark.slow),
    pytest.param("grids", "loop", {}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name, way, how", CASES)
def test_trials_as_one_equal_trials_one_by_one(name, way, how):
    check(name, way, **how)


def test_one_trial_that_diverges_leaves_the_others_alone():
    metrics = {"loss": jnp.array([1.0, jnp.nan, 3.0, 5.0]), "grad_norm": jnp.array([1.0, 1.0, 1.0, jnp.inf])}
    assert jax.tree.map(float, trials._means(metrics)) == {"loss": 2.0, "grad_norm": 1.0, "diverged": 2}
    everything = trials._means(jax.tree.map(lambda x: x * jnp.nan, metrics))
    assert not np.isfinite(everything["loss"])  # the loop stops


def objectives_and_options():
    for name, cls in OBJECTIVES.items():
        if hasattr(cls, "grid"):
            objective = cls(mae=3.0) if "mae" in cls.wants else cls()
            for option in swept.values(Stage("s", objective)):
                if option.startswith("objective."):
                    yield pytest.param(objective, option, id=f"{name} {option}")


def loss_and_gradient(objective, logits, batch):
    def loss(logits):
        loss_B, metrics = objective.loss(logits, batch)
        return loss_B.sum(), metrics["absolute_error"]

    (total, error_B), gradient = jax.value_and_grad(loss, has_aux=True)(logits)
    return total, error_B, gradient


@pytest.mark.parametrize("objective, option", list(objectives_and_options()))
def test_an_option_that_travels_as_an_array_means_the_same(objective, option):
    """Loss, error and gradient of each value, in one program for both, against the objective made with that value."""
    rng, name = np.random.default_rng(0), option.removeprefix("objective.")
    old = swept.values(Stage("s", objective))[option]
    both = [2 * old or 0.5, old / 2 or 0.25]
    checked = [replaced(objective, name, value) for value in both]
    widest = max(one.grid.size for one in checked)
    logits = [rng.normal(size=(6, one.head_size)).astype(np.float32) for one in checked]
    wide = np.stack([np.pad(x, ((0, 0), (0, max(y.shape[1] for y in logits) - x.shape[1]))) for x in logits])
    batch = {
        "label": np.array([0, 20, 33.4, 60, 99.9, 100], np.float32),
        "sigma": np.array([np.nan, 0, 2, 5, np.nan, 1], np.float32),
        "mask": np.ones(6, np.float32),
    }

    def one(value, logits):
        stage = swept.with_values(Stage("s", objective), {option: value}, widest)
        return loss_and_gradient(stage.objective, logits, batch)

    found = jax.jit(jax.vmap(one))(np.array(both, np.float32), wide)
    for t, (own, x) in enumerate(zip(checked, logits)):
        total, error_B, gradient = loss_and_gradient(own, x, batch)
        np.testing.assert_allclose(found[0][t], total, rtol=1e-5)
        np.testing.assert_allclose(found[1][t], error_B, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found[2][t][:, : x.shape[1]], gradient, rtol=1e-4, atol=1e-5)
        assert not np.any(found[2][t][:, x.shape[1] :])
    assert abs(float(found[0][0] - found[0][1])) > 1e-6, "the option has no effect here"
