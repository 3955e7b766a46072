"""Trials trained as one against the same trained one by one."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest
from drawn import Squares
from small import Small, mesh_of

from agejax.labels import LabelGrid
from agejax.models.network import variable_shapes
from agejax.objectives import JointLabelDistribution
from agejax.parameters import flatten
from agejax.training import trials
from agejax.training.checkpoint import Description
from agejax.training.feeds import Examples, open_feed
from agejax.training.optim import SGD
from agejax.training.sharding import replicated
from agejax.training.stages import Stage, start_variables
from agejax.training.state import new_state
from agejax.training.step import make_train_steps, make_update
from agejax.training.trials import Trial
from data_pipelines.align import Alignment
from data_pipelines.loaders import Loader
from data_pipelines.plans import Augmentation
from data_pipelines.samplers import Shuffle, Subset

SQUARES = Squares(24)
STAGE = Stage("finetune", JointLabelDistribution(), optimizer=SGD(0.01))
STEPS, PER_EPOCH = 3, 1.5


def description(stage):
    return Description(Small(), stage.objective, 32, "float32", Alignment(), "squares", 50.0)


def examples_of(trial):
    return Examples(trial.source, 8, 32, trial.seed, Augmentation(degrade=1.0), Alignment(), "age", Shuffle(), Loader())


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
    feed = open_feed("resident", examples_of(trial), mesh, lambda text: None)
    update = make_update(network, trial.stage.objective, optimizer, trial.seed)
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


GROUPS = {
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
    pytest.param("subsets", "vmap", {"groups": 2}, marks=pytest.mark.slow),
    pytest.param("options", "vmap", {"at_once": 3}, marks=pytest.mark.slow),
    pytest.param("options", "loop", {"at_once": 3}, marks=pytest.mark.slow),
    pytest.param("grids", "loop", {}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name, way, how", CASES)
def test_trials_as_one_equal_trials_one_by_one(name, way, how):
    check(name, way, **how)
