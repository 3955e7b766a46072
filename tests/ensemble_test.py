"""Several networks as one: the mixture recomputed by hand, live against saved, and what is refused."""

import numpy as np
import pytest

from agejax import ensemble
from agejax.training.evaluate import Predictions, write_rows
from data_pipelines.errors import UserError


def predictions(seed, rows=9, index=None):
    rng = np.random.default_rng(seed)
    label = np.random.default_rng(99).uniform(0, 90, rows)
    columns = [x.astype(np.float32) for x in (label, np.full(rows, np.nan), rng.uniform(0, 90, rows))]
    every = Predictions(np.arange(rows), *columns, rng.uniform(0, 9, rows).astype(np.float32))
    return every if index is None else Predictions(*(column[index] for column in every))


def draws(rng, every, weights):
    """Of the mixture: first a network, then a number from its distribution."""
    which = rng.choice(len(every), size=200_000, p=np.array(weights) / sum(weights))
    return np.array([[one.value, one.spread] for one in every])[which]


@pytest.mark.parametrize("weights", [None, (1, 2, 5)])
def test_value_and_spread_are_those_of_the_mixture(weights):
    every = [predictions(seed) for seed in range(3)]
    fused = ensemble.fuse(every, weights)
    rng, given = np.random.default_rng(0), weights or (1, 1, 1)
    drawn = draws(rng, every, given)
    sample = drawn[:, 0] + drawn[:, 1] * rng.standard_normal((len(drawn), 9))
    np.testing.assert_allclose(fused.value, sample.mean(0), atol=0.4)
    np.testing.assert_allclose(fused.spread, sample.std(0), rtol=0.01)
    by_hand = sum(w * one.value.astype(np.float64) for w, one in zip(given, every)) / sum(given)
    np.testing.assert_allclose(fused.value, by_hand, rtol=1e-6)
    np.testing.assert_array_equal(fused.label, every[0].label)


def test_golden_of_two_networks():
    one, other = (Predictions(*np.float32([[0], [50], [np.nan], [v], [s]])) for v, s in ((40, 3), (60, 4)))
    even, weighted = ensemble.fuse([one, other]), ensemble.fuse([one, other], (3, 1))
    assert (even.value.item(), weighted.value.item()) == (50, 45)
    assert even.spread.item() == pytest.approx(np.sqrt(12.5 + 100))
    assert weighted.spread.item() == pytest.approx(np.sqrt((3 * 9 + 16) / 4 + (3 * 25 + 225) / 4))


def test_one_network_is_itself():
    one = predictions(0)
    for mine, given in zip(ensemble.fuse([one], (7,)), one):
        np.testing.assert_array_equal(mine, given)


def test_rows_are_matched_by_their_index():
    order = np.random.default_rng(1).permutation(9)
    expected = ensemble.fuse([predictions(0), predictions(1)])
    found = ensemble.fuse([predictions(0), predictions(1, index=order)])
    turned = ensemble.fuse([predictions(0, index=order), predictions(1)])
    for mine, other, given in zip(found, turned, expected):
        np.testing.assert_array_equal(mine, given)
        np.testing.assert_array_equal(other, given[order])


def saved(folder, name, one, ids=None, target="age"):
    write_rows(folder / name, ids or [f"face {i}" for i in one.index], one, target)
    return ensemble.read(folder / name)


def test_saved_rows_are_matched_by_their_id(tmp_path):
    order = np.random.default_rng(1).permutation(9)
    files = [saved(tmp_path, "a", predictions(0)), saved(tmp_path, "b", predictions(1, index=order))]
    fused = ensemble.fuse_saved(files)
    assert fused.ids == tuple(f"face {i}" for i in range(9)) and fused.target == "age"
    for mine, expected in zip(fused.predictions, ensemble.fuse([predictions(0), predictions(1)])):
        np.testing.assert_array_equal(mine, expected)
    ensemble.write(tmp_path / "c", fused)
    assert ensemble.read(tmp_path / "c").predictions.value.tolist() == fused.predictions.value.tolist()


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda one: one._replace(label=one.label + 1), "predictions 2 have other labels than the first"),
        (lambda one: Predictions(*(x[:-1] for x in one)), r"other examples than the first \(8 and 9 rows\)"),
        (lambda one: one._replace(index=one.index + 1), r"other examples than the first \(9 and 9 rows\)"),
    ],
)
def test_other_sets_are_refused(change, told):
    with pytest.raises(UserError, match=told) as error:
        ensemble.fuse([predictions(0), change(predictions(1))])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "weights, told",
    [((1,), "1 weights for 2 networks"), ((0, 0), "not all 0, got 0, 0"), ((1, -1), "0 or more"), ((1, np.nan), "nan")],
)
def test_weights_that_give_no_mean_are_refused(weights, told):
    with pytest.raises(UserError, match=told):
        ensemble.fuse([predictions(0), predictions(1)], weights)


def test_saved_files_of_other_sets_are_refused(tmp_path):
    first = saved(tmp_path, "a", predictions(0))
    for other, told in [
        (saved(tmp_path, "b", predictions(1), ids=list("abcdefghi")), "predictions 2 have a, which the first lack"),
        (saved(tmp_path, "c", predictions(1), target="attractiveness"), "are of attractiveness, the first of age"),
        (saved(tmp_path, "d", predictions(1, rows=8)), r"\(8 and 9 rows\)"),
    ]:
        with pytest.raises(UserError, match=told):
            ensemble.fuse_saved([first, other])
    with pytest.raises(UserError, match="name an example twice"):
        ensemble.fuse_saved([saved(tmp_path, "e", predictions(1), ids=["a"] * 9)])
    for name, text in {"f": "", "g": "id,age\nx,3\n", "h": "id,age,sigma,predicted,predicted_std\nx,?,,1,1\n"}.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=f"{name}: not id,age") as error:
            ensemble.read(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="is not there"):
        ensemble.read(tmp_path / "nowhere")
    for name, content in {"i": "id,age\nJürgen,3\n".encode("latin-1"), "j": bytes(range(256))}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: not id,age.*utf-8") as error:
            ensemble.read(tmp_path / name)
        assert "\n" not in str(error.value) and len(str(error.value)) < 300
    (tmp_path / "k").write_text("id,age,sigma,predicted,predicted_std\n" + "x" * 200_000 + ",1,,1,1\n")
    with pytest.raises(UserError, match=r"k: not id,age.*field larger"):
        ensemble.read(tmp_path / "k")
