"""What every row of the table of objectives promises, with each choice that its fields offer."""

import dataclasses
import functools
import json
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agejax import specs
from agejax.labels import LabelGrid
from agejax.objectives import OBJECTIVES, Identity
from data_pipelines.errors import UserError

FIVE = LabelGrid(0, 4, 1)
LOGITS = [[0.1, -0.2, 0.3, 0, 0.5], [1, 0, -1, 2, 0.5]]
BATCH = {"label": [2.4, 3.0], "sigma": [1.0, 1.0], "identity": [0, 3], "mask": [1.0, 1.0]}
GIVEN = {"grid": FIVE, "num_identities": 5, "mae": 0.7}  # to the objectives that have such a field
READS = {"age": "label", "identity": "identity"}  # what of a batch stands for the target


def choices(cls):
    """(field, value) of every value that a Literal field of the class may have."""
    hints = typing.get_type_hints(cls)
    literal = {f.name: hints[f.name] for f in dataclasses.fields(cls) if typing.get_origin(hints[f.name])}
    offered = {name: typing.get_args(h) for name, h in literal.items() if typing.get_origin(h) is typing.Literal}
    return [(name, value) for name, values in offered.items() for value in values]


CHOICES = [
    (name, field, value) for name, cls in OBJECTIVES.items() for field, value in choices(cls) if field != "target"
]


def batch(rows=slice(None), **changes):
    return {name: jnp.array(value)[rows] for name, value in (BATCH | changes).items()}


def make(name, **options):
    """An objective with five classes or labels."""
    has = {field.name for field in dataclasses.fields(OBJECTIVES[name])}
    return OBJECTIVES[name](**{field: value for field, value in GIVEN.items() if field in has} | options)


def outputs(objective):
    """Outputs (2, K) of its head; LOGITS where that has five."""
    return np.resize(np.array(LOGITS, np.float32), (2, objective.head_size))


@functools.cache
def everything(objective):
    """Jitted: (outputs, batch) → loss (B,), metrics, gradient of the sum of losses (B, K)."""

    def total(logits, rows):
        loss_B, metrics = objective.loss(logits, rows)
        return loss_B.sum(), (loss_B, metrics)

    def calls(logits, rows):
        gradient, (loss_B, metrics) = jax.grad(total, has_aux=True)(logits, rows)
        return loss_B, metrics, gradient

    return jax.jit(calls)


def with_padding(objective, junk):
    """Outputs and batch of two examples, and three rows of padding filled with `junk`."""
    junk = np.array(junk, np.float32)
    labels_and_sigmas = {"label": [*BATCH["label"], *junk], "sigma": [*BATCH["sigma"], *junk]}
    rows = batch(**labels_and_sigmas, identity=[0, 3, -1, 7, 0], mask=[1.0, 1.0, 0.0, 0.0, 0.0])
    return np.concatenate([outputs(objective), np.repeat(junk[:, None], objective.head_size, axis=1)]), rows


def assert_padding_is_zero(objective, loss_B, metrics, gradient):
    for values_B in (loss_B, *metrics.values()):
        np.testing.assert_array_equal(values_B[2:], np.zeros(3))
        assert jnp.isfinite(values_B).all()
    np.testing.assert_array_equal(gradient[2:], np.zeros((3, objective.head_size)))
    assert jnp.isfinite(gradient).all() and jnp.any(gradient[:2] != 0)


JUNK = [np.nan, np.inf, 1e30]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_padded_rows_count_nothing_whatever_stands_in_them(name):
    objective = make(name)
    actual = everything(objective)(*with_padding(objective, JUNK))
    assert_padding_is_zero(objective, *actual)
    without = everything(objective)(outputs(objective), batch())
    for value, expected in zip(jax.tree.leaves(actual), jax.tree.leaves(without), strict=True):
        np.testing.assert_allclose(value[:2], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name, field, value", CHOICES)
def test_every_choice_of_a_field_has_finite_numbers_and_no_padding(name, field, value):
    objective = make(name, **{field: value})
    if objective == make(name):
        return  # the default, tested above
    calls = everything(objective)
    actual, clean = calls(*with_padding(objective, JUNK)), calls(*with_padding(objective, [0, 0, 0]))
    assert_padding_is_zero(objective, *actual)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(clean), strict=True):
        np.testing.assert_array_equal(one, other)
    assert all(jnp.isfinite(number).all() for number in jax.jit(objective.predict)(outputs(objective)))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_example_without_its_label_is_noticed(name):
    objective = make(name)
    without = batch(label=[2.4, np.nan], sigma=[1.0, np.nan], identity=[0, -1])
    loss_B, _, _ = everything(objective)(outputs(objective), without)
    np.testing.assert_array_equal(jnp.isnan(loss_B), [False, True])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_protocol(name):
    objective = make(name)
    assert OBJECTIVES[name].__name__ == name
    assert hash(objective) == hash(dataclasses.replace(objective))
    assert objective.head_size >= 1
    assert objective.target in ("age", "attractiveness", "identity")
    assert objective.measures in ("mae", None)
    assert all(getattr(OBJECTIVES[name](), field) == 0 for field in objective.wants)
    logits = jnp.array(outputs(objective)).astype(jnp.bfloat16)
    loss_B, metrics = jax.eval_shape(objective.loss, logits, batch())
    numbers = [loss_B, *metrics.values(), *objective.predict(logits)]
    assert all(x.shape == (2,) and x.dtype == jnp.float32 for x in numbers)
    p_BxK = objective.distribution(logits)
    if p_BxK is not None:
        assert p_BxK.shape == (2, 5) and p_BxK.dtype == jnp.float32
        np.testing.assert_allclose(p_BxK.sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_head_makes_as_many_outputs_as_it_says(name):
    objective = make(name)
    shape = jax.eval_shape(objective.head.init_with_output, jax.random.key(0), jnp.zeros((2, 3)))[0]
    assert (shape.shape, shape.dtype) == ((2, objective.head_size), jnp.float32)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective_is_the_same_after_json(name):
    objective = make(name)
    assert specs.decode(json.loads(json.dumps(specs.encode(objective))), "here") == objective


@pytest.mark.parametrize("name", OBJECTIVES)
def test_columns_are_refused(name):
    objective = make(name)
    keys = ["mask", READS[objective.target]] + ["sigma"] * hasattr(objective, "default_sigma")
    for key in keys:
        rows = batch() | {key: batch()[key][:, None]}
        with pytest.raises(ValueError, match=rf"{key} has shape \(2, 1\), expected \(2,\)"):
            objective.loss(jnp.array(outputs(objective)), rows)


def test_identity():
    objective = Identity(5)
    loss_B, metrics = objective.loss(jnp.array(LOGITS), batch(identity=[0, 3]))
    p_hat = [0.1866060488, 0.5630212318]
    np.testing.assert_allclose(loss_B, -np.log(p_hat), rtol=1e-6)
    np.testing.assert_array_equal(metrics["accuracy"], [0, 1])
    value_B, entropy_B = objective.predict(jnp.array([[0.0, 0, 0, 0, 0], [0, 0, 1e4, 0, 0]]))
    np.testing.assert_array_equal(value_B, [0, 2])
    np.testing.assert_allclose(entropy_B, [np.log(5), 0], rtol=1e-6)


def test_identity_without_a_number_of_identities_has_no_head():
    with pytest.raises(UserError, match="num_identities is 0"):
        _ = Identity().head_size
