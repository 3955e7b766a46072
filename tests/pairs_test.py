"""Any objective trains any backbone.

The step that training takes is compiled for every objective with a backbone of one layer, and for every backbone with
one objective. For all objectives with a backbone of every family it is put together by the chain rule from trunk, head
and objective, each compiled once; the first test shows that the result is the same.
"""

import dataclasses
import functools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small import SEVEN_BLOCKS, filled

from agejax.models.efficientnet_v2 import SIZES, EfficientNetV2
from agejax.models.heads import linear
from agejax.models.inputs import HALF
from agejax.models.layers import Compute, ConvNorm, mean_pool
from agejax.models.network import BACKBONES, make_network, variable_shapes
from agejax.objectives import OBJECTIVES
from agejax.parameters import flatten
from agejax.training.state import new_state
from agejax.training.step import make_update

RATE = 0.1
GIVEN = {"num_identities": 5, "mae": 3.0}  # for what an objective wants to be found out
BATCH = {
    "image": np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8),
    "label": np.array([20.5, 3, 70, np.nan], np.float32),
    "sigma": np.array([3, np.nan, 0, np.nan], np.float32),
    "identity": np.array([0, 4, 2, -1], np.int32),
    "mask": np.array([1, 1, 1, 0], np.float32),
}
QUICK = ("one layer", "seven blocks", "thin")  # the others take long to compile
IDLE = "conv/bias"  # the gradient is 0 where a norm follows
quickly = {"xla_backend_optimization_level": 0}
jit = functools.partial(jax.jit, compiler_options=quickly)


@dataclasses.dataclass(frozen=True)
class OneLayer:
    """All that a backbone has to be."""

    inputs = None
    usual_inputs = HALF
    min_image_size = 1

    def trunk(self, compute):
        return OneLayerTrunk(compute)


class OneLayerTrunk(nn.Module):
    compute: Compute

    @nn.compact
    def __call__(self, x, train):
        x = ConvNorm(8, self.compute, stride=2, name="layer")(x, train)
        return mean_pool(x), x


MADE = {"one layer": OneLayer, "seven blocks": lambda: EfficientNetV2("seven blocks")}


def backbone_of(name):
    return MADE[name]() if name in MADE else BACKBONES[name]


def objective_of(name):
    return OBJECTIVES[name](**{field: GIVEN[field] for field in OBJECTIVES[name].wants})


@pytest.fixture(scope="module", autouse=True)
def seven_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "seven blocks", SEVEN_BLOCKS)
        yield


def real_step(backbone, objective):
    """Flat parameters before and after a step as training takes it, and its metrics."""
    network, optimizer = make_network(backbone, objective.head), optax.sgd(RATE)
    state = new_state(filled(variable_shapes(network, 32)), optimizer)
    step = jax.jit(make_update(network, objective, optimizer)).lower(state, BATCH).compile(compiler_options=quickly)
    after, metrics = step(state, BATCH)
    return flatten(state.params), flatten(jax.device_get(after.params)), metrics


def check_moves(before, after, metrics):
    assert np.isfinite(metrics["loss"])
    for path, value in after.items():
        assert np.isfinite(value).all(), path
        assert (value != before[path]).any() or path.endswith(IDLE), path


# The same by the chain rule. One compiled function a part gives both its result, for a cotangent of zeros, and its
# gradients. Two functions, with what the second needs handed over by the first, would round in other ways than the
# step that training takes.


@functools.lru_cache(maxsize=1)
def trunk_step(name):
    """Features (B, C) of a training pass, and a function from their cotangent to the features, the absolute sum of
    every parameter's gradient, and the gradient where it is small enough to hand about."""
    network = make_network(backbone_of(name), linear(1))
    variables = filled(variable_shapes(network, 32))
    head, trunk = variables["params"]["head"], variables["params"]["trunk"]

    def features(trunk):
        now = variables | {"params": {"head": head, "trunk": trunk}}
        rngs = {"dropout": jax.random.key(0)}
        return network.apply(now, BATCH["image"], train=True, mutable=["batch_stats"], rngs=rngs)[0]["features"]

    @jit
    def move(trunk, cotangent_BxC):
        features_BxC, pull = jax.vjp(features, trunk)
        (gradient,) = pull(cotangent_BxC)
        return features_BxC, jax.tree.map(lambda g: jnp.abs(g).sum(), gradient), gradient if name in MADE else {}

    shape = jax.eval_shape(features, trunk)
    return move(trunk, jnp.zeros_like(shape))[0], functools.partial(move, trunk)


@functools.cache
def head_step(head):
    """(parameters, features, cotangent) → logits, and the gradients for parameters and features."""

    @jit
    def run(params, features_BxC, cotangent_BxK):
        logits_BxK, pull = jax.vjp(lambda p, x: head.apply({"params": p}, x), params, features_BxC)
        return logits_BxK, pull(cotangent_BxK)

    return run


@functools.cache
def objective_step(objective):
    """Logits → mean loss, its gradient for the logits, prediction."""

    def loss(logits_BxK):
        return objective.loss(logits_BxK, BATCH)[0].sum() / 3  # the fourth is padding, its loss 0

    return jit(lambda logits_BxK: (*jax.value_and_grad(loss)(logits_BxK), objective.predict(logits_BxK)))


def chained_step(name, objective):
    """What a step gives, from its parts."""
    features_BxC, move = trunk_step(name)
    shapes = jax.eval_shape(objective.head.init, jax.random.key(0), features_BxC)["params"]
    params = filled({"params": {"head": shapes}})["params"]["head"]
    run = functools.partial(head_step(objective.head), params, features_BxC)
    logits_BxK, _ = run(np.zeros((4, objective.head_size), np.float32))
    loss, cotangent_BxK, prediction = objective_step(objective)(logits_BxK)
    _, (gradient, cotangent_BxC) = run(cotangent_BxK)
    _, sizes, trunk_gradient = move(cotangent_BxC)
    return types.SimpleNamespace(
        logits=logits_BxK, loss=loss, prediction=prediction,
        gradient=flatten({"head": gradient, "trunk": trunk_gradient}),
        sizes=flatten({"head": jax.tree.map(lambda g: jnp.abs(g).sum(), gradient), "trunk": sizes}),
    )  # fmt: skip


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_takes_a_step_and_the_chain_rule_gives_the_same(objective):
    before, after, metrics = real_step(OneLayer(), objective_of(objective))
    check_moves(before, after, metrics)
    chained = chained_step("one layer", objective_of(objective))
    np.testing.assert_allclose(metrics["loss"], chained.loss, rtol=1e-5)
    assert chained.gradient.keys() == after.keys()
    for path, gradient in chained.gradient.items():
        np.testing.assert_allclose(-RATE * gradient, after[path] - before[path], rtol=1e-3, atol=1e-5, err_msg=path)


TURNS = [  # the objectives, one after the other
    list(OBJECTIVES)[i % len(OBJECTIVES)] for i in range(len(BACKBONES))
]


@pytest.mark.slow
@pytest.mark.parametrize("backbone, objective", [*zip(BACKBONES, TURNS)])
def test_every_backbone_takes_a_step(backbone, objective):
    check_moves(*real_step(backbone_of(backbone), objective_of(objective)))


FIRST_OF_EACH = {type(backbone): name for name, backbone in reversed(BACKBONES.items())}
PAIRS = [
    pytest.param(backbone, objective, marks=() if backbone in QUICK else pytest.mark.slow)
    for backbone in (*MADE, *FIRST_OF_EACH.values())
    for objective in OBJECTIVES
]


@pytest.mark.parametrize("backbone, objective", PAIRS)
def test_any_objective_trains_any_family(backbone, objective):
    made = objective_of(objective)
    step = chained_step(backbone, made)
    assert np.isfinite(step.loss)
    assert step.logits.shape == (4, made.head_size)
    for value_B in step.prediction:
        assert value_B.shape == (4,) and value_B.dtype == jnp.float32
        assert np.isfinite(value_B).all()
    for path, size in step.sizes.items():
        assert np.isfinite(size), path
        assert size > 0 or path.endswith(IDLE), path
