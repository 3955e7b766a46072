"""What every row of OBJECTIVES must keep; nothing here knows an objective by its name.

The slow part goes through every option that a row has, and through the grid of SCUT-FBP.
"""

import dataclasses
import functools
import json
import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agejax import specs
from agejax.labels import (
    AGE,
    SCUT,
    decode_ranking,
    encode_distribution,
    encode_ranking,
    encode_soft_labels,
    expectation,
    nearest_index,
)
from agejax.objectives import OBJECTIVES

STAND_INS = {int: 7, float: 0.125}  # for what a run finds out from the data or from the stage before
SIGMAS = (0.0, 1.0, 2.0)  # in steps of the grid
QUICKLY = {"xla_backend_optimization_level": 0}  # much is compiled here, and little of it is run for long
ROWS, FIT_STEPS = 24, 1500


def options(cls) -> dict[str, list]:
    """What a field that is one of several words, or yes or no, may be other than its default."""
    hints, found = typing.get_type_hints(cls), {}
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        words = (
            (True, False)
            if hint is bool
            else typing.get_args(hint)
            if typing.get_origin(hint) is typing.Literal
            else ()
        )
        found[field.name] = [word for word in words if word != field.default]
    return found


def variants() -> dict:
    """Every objective as it is by default, with each of its options, and on the grid of SCUT-FBP."""
    found = {}
    for name, cls in OBJECTIVES.items():
        hints = typing.get_type_hints(cls)
        wanted = {field: STAND_INS[hints[field]] for field in cls.wants}
        found[name] = cls(**wanted)
        for field, others in options(cls).items():
            for other in others if field != "target" else ():
                found[f"{name} {field}={other}"] = cls(**wanted, **{field: other})
        if "grid" in hints:
            found[f"{name} on SCUT"] = cls(**wanted, grid=SCUT, target="attractiveness")
    return found


VARIANTS = variants()
DEFAULTS = {name: VARIANTS[name] for name in OBJECTIVES}


def every(table: dict):
    marks = {False: pytest.mark.slow, True: ()}
    return pytest.mark.parametrize(
        "objective", [pytest.param(one, id=name, marks=marks[name in DEFAULTS]) for name, one in table.items()]
    )


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICKLY)
def evaluate(objective, outputs_BxK, batch):
    """All that an objective gives, and the gradient of the sum of its losses."""

    def total(outputs_BxK):
        loss_B, metrics = objective.loss(outputs_BxK, batch)
        return loss_B.sum(), (loss_B, metrics)

    gradient_BxK, (loss_B, metrics) = jax.grad(total, has_aux=True)(outputs_BxK)
    value_B, spread_B = objective.predict(outputs_BxK)
    found = {"loss": loss_B, "gradient": gradient_BxK, "value": value_B, "spread": spread_B}
    return found | metrics, objective.distribution(outputs_BxK)


def grid_of(objective):
    return getattr(objective, "grid", AGE)


def make_batch(objective, sigmas=SIGMAS):
    """ROWS examples: labels at both ends, on the grid, halfway and in between; every label with every σ."""
    grid, last = grid_of(objective), grid_of(objective).size - 1
    steps = [0, 0.5, 1, round(0.26 * last), round(0.26 * last) + 0.3, last / 2 + 0.5, last - 0.5, last]
    label_B = grid.low + grid.step * np.repeat(steps, 3)
    return {
        "label": label_B.astype(np.float32).clip(np.float32(grid.low), np.float32(grid.high)),
        "sigma": (grid.step * np.tile(sigmas, 8)).astype(np.float32),
        "identity": np.random.default_rng(0).integers(0, 7, ROWS, np.int32),
        "mask": np.ones(ROWS, np.float32),
    }


def make_outputs(objective, scale=1.0):
    return np.random.default_rng(0).normal(0, scale, (ROWS, objective.head_size)).astype(np.float32)


def with_rows(columns, rows, values):
    """A copy of an array, or of each array of a dict, with some rows replaced."""
    if isinstance(columns, dict):
        return {name: with_rows(column, rows, values[name]) for name, column in columns.items()}
    columns = columns.copy()
    columns[rows] = values
    return columns


def meant(objective, label_B, sigma_B):
    """(B,) what the method takes a label for: the mean of its target, the label next above, or the nearest label."""
    grid, names = objective.grid, {field.name for field in dataclasses.fields(objective)}
    if objective.distribution(jnp.zeros((1, objective.head_size))) is None:
        return label_B
    if "penalty" in names:
        return expectation(encode_soft_labels(grid, label_B, objective.penalty, objective.temperature), grid)
    if "decode" in names:
        return decode_ranking(grid, encode_ranking(grid, label_B))
    if names & {"sigma", "default_sigma"}:
        sigma_B = jnp.full(len(label_B), objective.sigma) if "sigma" in names else sigma_B
        return expectation(encode_distribution(grid, label_B, sigma_B), grid)
    return jnp.asarray(grid.values)[nearest_index(grid, label_B)]


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICKLY)
def fit(objective, batch):
    """(B,) predictions for the outputs that FIT_STEPS steps of Adam find, from zeros, to make the losses small."""
    optimizer = optax.adam(optax.cosine_decay_schedule(0.2, FIT_STEPS, 1e-4))
    gradient = jax.grad(lambda outputs_BxK: objective.loss(outputs_BxK, batch)[0].sum())

    def step(_, carry):
        updates, state = optimizer.update(gradient(carry[0]), carry[1])
        return optax.apply_updates(carry[0], updates), state

    start_BxK = jnp.zeros((ROWS, objective.head_size))
    outputs_BxK, _ = jax.lax.fori_loop(0, FIT_STEPS, step, (start_BxK, optimizer.init(start_BxK)))
    return objective.predict(outputs_BxK)[0]


@every({name: one for name, one in DEFAULTS.items() if hasattr(one, "grid")})
def test_what_is_learnt_is_the_label(objective):
    """decode ∘ encode: between the label and what the method takes it for, and off by `mae` where that is wanted."""
    batch = make_batch(objective)
    ends_2xB = np.stack([batch["label"], meant(objective, batch["label"], batch["sigma"])])
    value_B, slack = np.asarray(fit(objective, batch)), 0.1 + getattr(objective, "mae", 0.0)
    np.testing.assert_array_less(ends_2xB.min(0) - slack, value_B)
    np.testing.assert_array_less(value_B, ends_2xB.max(0) + slack)


@every({name: one for name, one in DEFAULTS.items() if one.target == "identity"})
def test_who_is_learnt_is_the_subject(objective):
    batch = make_batch(objective)
    np.testing.assert_array_equal(fit(objective, batch), batch["identity"])


@every(VARIANTS)
def test_losses_and_gradients_are_finite(objective):
    """At the ends of the grid, between labels, with σ 0 and unknown, for outputs that are huge, tiny or certain."""
    batch = make_batch(objective, sigmas=(0.0, 1.0, np.nan))
    sign_BxK = np.sign(make_outputs(objective))
    for size in (np.float32(1e4), np.float32(1e-30)):
        for outputs_BxK in (size * np.ones_like(sign_BxK), -size * np.ones_like(sign_BxK), size * sign_BxK):
            found, p_BxK = evaluate(objective, outputs_BxK, batch)
            for name, array in found.items():
                assert np.isfinite(array).all(), name
            assert p_BxK is None or np.isfinite(p_BxK).all()


@every(VARIANTS)
def test_shapes_and_types(objective):
    """A loss for each example, as float32; nothing is averaged."""
    found, p_BxK = evaluate(objective, make_outputs(objective), make_batch(objective))
    for name, array in found.items():
        expected = (ROWS, objective.head_size) if name == "gradient" else (ROWS,)
        assert (array.shape, array.dtype) == (expected, np.float32), name
    assert found.keys() - {"loss", "gradient", "value", "spread"}, "a metric"
    assert p_BxK is None or (p_BxK.shape, p_BxK.dtype) == ((ROWS, objective.grid.size), np.float32)


@every({name: one for name, one in DEFAULTS.items() if hasattr(one, "grid")})
def test_all_follows_the_grid(objective):
    """Here in shape only; the slow part goes through the numbers."""
    scores = dataclasses.replace(objective, grid=SCUT, target="attractiveness")
    found, p_BxK = evaluate.eval_shape(scores, make_outputs(scores), make_batch(scores))
    assert found["loss"].shape == (ROWS,)
    assert p_BxK is None or p_BxK.shape == (ROWS, 41)


@every(VARIANTS)
def test_distribution_value_and_spread(objective):
    grid = grid_of(objective)
    low, high = (grid.low, grid.high) if hasattr(objective, "grid") else (0, objective.head_size - 1)
    for scale in (0.01, 1.0, 30.0, 1e4):
        found, p_BxK = evaluate(objective, make_outputs(objective, scale), make_batch(objective))
        value_B, spread_B = np.asarray(found["value"]), np.asarray(found["spread"])
        assert ((value_B >= low) & (value_B <= high)).all()
        assert (spread_B >= 0).all()
        if p_BxK is not None:
            assert_is_distribution(np.asarray(p_BxK, np.float64), grid, spread_B)


def assert_is_distribution(p_BxK, grid, spread_B):
    l_K = grid.as_array(np.float64)
    assert (p_BxK >= 0).all()
    np.testing.assert_allclose(p_BxK.sum(1), 1, atol=3e-6)
    mean_B = p_BxK @ l_K
    std_B = np.sqrt(np.sum(p_BxK * (l_K[None, :] - mean_B[:, None]) ** 2, axis=1))
    np.testing.assert_allclose(spread_B, std_B, rtol=1e-4, atol=1e-3 * grid.step)


@every(VARIANTS)
def test_padded_rows_count_nothing_whatever_stands_in_them(objective):
    """Twelve examples, once with themselves again and once with junk: the means over the batch are the same too."""
    twice, half, last = np.tile(np.arange(ROWS // 2), 2), ROWS // 2, np.arange(ROWS) >= ROWS // 2
    batch = {name: column[twice] for name, column in make_batch(objective).items()}
    outputs_BxK = make_outputs(objective)[twice]
    alone, _ = evaluate(objective, outputs_BxK, batch)
    numbers = np.resize(np.array([np.nan, np.inf, -np.inf, 1e30], np.float32), half)
    junk = {"label": numbers, "sigma": numbers, "identity": np.resize([-1, 10**6, -(10**6), 7], half), "mask": 0}
    padded, _ = evaluate(objective, with_rows(outputs_BxK, last, numbers[:, None]), with_rows(batch, last, junk))
    for name in padded.keys() - {"value", "spread"}:
        np.testing.assert_array_equal(padded[name][last], 0, err_msg=name)
        assert_equal_but_for_rounding(padded[name][~last], alone[name][~last], name)
    assert (np.asarray(alone["loss"])[last] != 0).any()


def assert_equal_but_for_rounding(actual, expected, name):
    largest = np.abs(np.asarray(expected)).max()  # sums of large terms of both signs are rounded as they are
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=2e-6 * largest, err_msg=name)


@every(VARIANTS)
def test_an_example_knows_nothing_of_the_others(objective):
    """In another order all moves along, and another last example changes nothing of the first ones."""
    batch, outputs_BxK = make_batch(objective), make_outputs(objective)
    order = np.random.default_rng(1).permutation(ROWS)
    found, _ = evaluate(objective, outputs_BxK, batch)
    moved, _ = evaluate(objective, outputs_BxK[order], {name: column[order] for name, column in batch.items()})
    first = {name: column[0] for name, column in batch.items()}
    other, _ = evaluate(objective, with_rows(outputs_BxK, -1, -outputs_BxK[0]), with_rows(batch, -1, first))
    for name in found:
        assert_equal_but_for_rounding(moved[name], found[name][order], name)
    mixes = "batch" in dataclasses.asdict(objective).values()  # documented to: it takes a mean over the batch
    same = {name: np.array_equal(other[name][:-1], found[name][:-1]) for name in found}
    assert same == dict.fromkeys(found, True) | ({"loss": False, "gradient": False} if mixes else {})


@every(DEFAULTS)
def test_bfloat16_outputs_are_widened_first(objective):
    batch, outputs_BxK = make_batch(objective), jnp.asarray(make_outputs(objective, 10.0), jnp.bfloat16)
    both = jax.jit(lambda x: (objective.loss(x, batch), objective.predict(x)), compiler_options=QUICKLY)
    wide, _ = evaluate(objective, np.asarray(outputs_BxK, np.float32), batch)
    (loss_B, metrics), (value_B, spread_B) = both(outputs_BxK)
    for name, narrow_B in ({"loss": loss_B, "value": value_B, "spread": spread_B} | metrics).items():
        assert_equal_but_for_rounding(narrow_B, wide[name], name)


@every(DEFAULTS)
def test_an_example_without_its_label_is_noticed(objective):
    batch = make_batch(objective)
    batch = batch | {"label": with_rows(batch["label"], 3, np.nan), "identity": with_rows(batch["identity"], 3, -1)}
    found, _ = evaluate(objective, make_outputs(objective), batch)
    np.testing.assert_array_equal(np.isnan(found["loss"]), np.arange(ROWS) == 3)


@every(DEFAULTS)
def test_columns_are_refused(objective):
    """(B, 1) where (B,) is meant: against (B,) it would broadcast to (B, B)."""
    batch, outputs_BxK = make_batch(objective), make_outputs(objective)
    read = set()
    for name, column in batch.items():
        try:
            jax.eval_shape(objective.loss, outputs_BxK, {key: batch[key] for key in batch.keys() - {name}})
        except KeyError:
            read.add(name)
            with pytest.raises(ValueError, match=rf"{name} has shape \(24, 1\), expected \(24,\)"):
                jax.eval_shape(objective.loss, outputs_BxK, batch | {name: column[:, None]})
    assert read >= {"mask", "identity" if objective.target == "identity" else "label"}


@every(VARIANTS)
def test_options_survive_json(objective):
    again = specs.decode(json.loads(json.dumps(specs.encode(objective))), "here")
    assert again == objective
    assert hash(again) == hash(objective)


def test_options_that_share_a_name_share_their_words():
    """The command line keeps them when the class is changed: a word that means nothing there would fail much later."""
    words = {}
    for cls in OBJECTIVES.values():
        for field in dataclasses.fields(cls):
            words.setdefault(field.name, set()).add(str(typing.get_type_hints(cls)[field.name]))
    assert {name: hints for name, hints in words.items() if len(hints) > 1} == {}
