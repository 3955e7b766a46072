"""Weights by label frequency, against the authors' formula written anew here, and in the step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawn import Squares
from scipy.ndimage import convolve1d, gaussian_filter1d
from scipy.signal.windows import triang
from small import Small

from agejax.models.network import init_variables, make_network
from agejax.objectives import Identity, JointLabelDistribution
from agejax.parameters import flatten
from agejax.training import weighting
from agejax.training.stages import Stage
from agejax.training.state import new_state
from agejax.training.step import make_update
from agejax.training.weighting import Even, InverseFrequency, SmoothedFrequency, weight_of
from data_pipelines.align import Alignment
from data_pipelines.errors import UserError
from data_pipelines.loaders import train_batches
from data_pipelines.plans import Augmentation

AGES = np.repeat([20, 21, 22, 23, 24, 25, 40], [2, 30, 1, 7, 1200, 90, 3]).astype(np.float32)


def looked_up(options, labels=AGES):
    return np.asarray(weight_of(options.table(labels), jnp.asarray(labels)))


def authors(labels, power, kernel=None, width=5, sigma=2.0):
    """_prepare_weights of imbalanced-regression, with real numbers throughout."""
    count = np.bincount(np.minimum(120, labels.astype(int)), minlength=121).astype(float)
    count = count.clip(5, 1000) if power == 1 else np.sqrt(count)
    if kernel:
        half = (width - 1) // 2
        window = {
            "gaussian": lambda: gaussian_filter1d([0.0] * half + [1.0] + [0.0] * half, sigma=sigma),
            "triangular": lambda: triang(width),
            "laplace": lambda: np.exp(-np.abs(np.arange(-half, half + 1)) / sigma) / (2 * sigma),
        }[kernel]()
        count = convolve1d(count, weights=window / max(window), mode="constant")
    weights = 1 / count[labels.astype(int)]
    return weights * len(weights) / weights.sum()


CASES = [(kernel, *more) for kernel in weighting.KERNELS for more in ((5, 2.0), (9, 1.0), (3, 0.5))]


@pytest.mark.parametrize("power", [1.0, 0.5])
@pytest.mark.parametrize("kernel, width, sigma", [(None, 1, 1.0), *CASES])
def test_weights_are_those_of_the_authors_formula(kernel, width, sigma, power):
    plain = InverseFrequency(power=power)
    options = SmoothedFrequency(kernel, width, sigma, power) if kernel else plain
    for labels in (AGES, np.array([0, 0, 0, 1, 4, 100], np.float32)):  # at the range's lower end, too
        found = looked_up(options, labels)
        np.testing.assert_allclose(found, authors(labels, power, kernel, width, sigma), rtol=1e-5)
        assert found.mean() == pytest.approx(1, rel=1e-5)
        assert kernel is None or np.abs(found - looked_up(plain, labels)).max() > 0.01


def test_golden():
    """By hand: counts 1, 4, 0, 16 at 30 … 33; roots 1, 2, 0, 4; triangular kernel (½, 1, ½): 2, 2.5, 3, 4."""
    labels = np.repeat([30, 31, 33], [1, 4, 16]).astype(np.float32)
    weights = np.repeat([1 / 2, 1 / 2.5, 1 / 4], [1, 4, 16])
    found = looked_up(SmoothedFrequency("triangular", 3, power=0.5), labels)
    np.testing.assert_allclose(found, weights / weights.mean(), rtol=1e-6)


def test_golden_of_the_published_snippet():
    """imbalanced-regression at c37d6f46, sqrt_inv, gaussian, 5, 2: ages 20, 21 × 4, 23 × 9, 30."""
    labels = np.repeat([20, 21, 23, 30], [1, 4, 9, 1]).astype(np.float32)
    found = looked_up(SmoothedFrequency(power=0.5), labels)
    np.testing.assert_allclose(found[[0, 1, 5, 14]], (1.30383122, 0.68292820, 0.79935843, 3.77023029), rtol=2e-6)


@pytest.mark.parametrize("width", [0.1, 0.25, 1.0, 7.5])
def test_every_training_label_has_the_weight_of_its_bin(width):
    rng = np.random.default_rng(0)
    for labels in (rng.uniform(1, 5, 400), rng.integers(0, 40, 400) * 0.1 + 1, rng.integers(0, 200, 400) * 0.5):
        labels = labels.astype(np.float32)
        bins = weighting.nearest(labels, width)
        count = np.bincount(bins)[bins] ** 0.5
        want = np.mean(1 / count) ** -1 / count
        np.testing.assert_allclose(looked_up(InverseFrequency(0.5, width), labels), want, 1e-4)


def test_even_has_no_table():
    assert Even().table(AGES) is None and Stage("s", JointLabelDistribution()).weights(Squares(4)) is None


@pytest.mark.parametrize(
    "kind, fields",
    [
        (SmoothedFrequency, {"width": 4}),
        *((SmoothedFrequency, x) for x in ({"kernel": "box"}, {"sigma": 0.0}, {"power": 0.0}, {"bin": 0.0})),
        *((InverseFrequency, x) for x in ({"power": 1.5}, {"bin": float("nan")})),
    ],
)
def test_an_option_out_of_range_is_named(kind, fields):
    (name,) = fields
    with pytest.raises(UserError, match=rf"^weighting {kind.__name__}: {name} is .*, allowed: [^\n]*$"):
        kind(**fields)


def test_identities_are_not_weighted():
    with pytest.raises(UserError, match=r"^stage pretrain trains on identities.*weighting must be Even$"):
        Stage("pretrain", Identity(4), weighting=InverseFrequency())


def test_tables_of_several_trials_stand_side_by_side():
    tables = [InverseFrequency(0.5).table(labels) for labels in (AGES, AGES[:40])]
    wide = jax.tree.map(jnp.asarray, weighting.padded(tables))
    for trial, labels in enumerate((AGES, AGES[:40])):
        one = jax.tree.map(lambda x, trial=trial: x[trial], wide)
        np.testing.assert_array_equal(weight_of(one, labels), looked_up(InverseFrequency(0.5), labels))


# in the step


def updated(accumulate, weights):
    """Parameters before and after a step of SGD, the batch, and the metrics; three rows are padding."""
    objective = STAGE.objective
    network = make_network(Small(8, norm=False, dropout=0.0), objective.head, "float32")
    variables, optimizer = init_variables(jax.random.key(0), network, 32), optax.sgd(1e-3)
    options = {"batch_size": 8, "image_size": 32, "seed": 1, "augmentation": Augmentation(), "alignment": Alignment()}
    with train_batches(SQUARES, **options) as stream:
        batch = next(stream) | {"mask": np.array([0, 1, 1, 1, 0, 1, 0, 1], np.float32)}
    batch["label"] = np.where(batch["mask"] > 0, batch["label"], np.nan).astype(np.float32)
    update = jax.jit(make_update(network, objective, optimizer, 0, accumulate, weights))
    state, metrics = update(new_state(variables, optimizer), batch)

    def losses(params):
        outputs = network.apply({"params": params, "batch_stats": {}}, batch["image"], train=True,
                                rngs={"dropout": jax.random.key(0)})  # fmt: skip
        return objective.loss(outputs["logits"], batch)[0]

    return variables["params"], state.params, batch, metrics, losses


SQUARES = Squares(20)
STAGE = Stage("finetune", JointLabelDistribution(), weighting=SmoothedFrequency(power=0.5, width=3, bin=10.0))


@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_multiplies_each_loss_by_its_weight(parts):
    table = STAGE.weights(SQUARES)
    before, after, batch, metrics, losses = updated(parts, table)
    real = batch["mask"] > 0
    labels = SQUARES.column("age")
    weight = dict(zip(labels.tolist(), looked_up(STAGE.weighting, labels)))
    weight_B = np.array([weight[x] for x in batch["label"][real].tolist()])
    assert np.ptp(weight_B) > 0.3

    def weighted(params):
        return (losses(params)[real] * weight_B).mean()

    value, gradient = jax.value_and_grad(weighted)(before)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    assert abs(metrics["loss"] - losses(before)[real].mean()) > 1e-2
    for path, step in flatten(gradient).items():
        np.testing.assert_allclose(flatten(after)[path], flatten(before)[path] - 1e-3 * step, atol=1e-6, err_msg=path)
    _, _, _, plain, _ = updated(parts, None)
    np.testing.assert_allclose(metrics["absolute_error"], plain["absolute_error"], rtol=1e-5)
