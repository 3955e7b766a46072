"""The jitted steps. They know neither pixels' meaning nor years: they average what the objective returns."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agejax.models.network import CPU_PARTS, Network, apply_in_parts
from agejax.training.compilation import training_options
from agejax.training.feeds import Feed
from agejax.training.sharding import platform, replicated, split, to_devices
from agejax.training.state import TrainState
from agejax.training.weighting import Table, weight_of

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Update = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
TrainSteps = Callable[[TrainState, list[dict]], tuple[TrainState, Metrics]]
Axes = tuple[str | None, ...]


def make_update(
    network: Network,
    objective,
    optimizer: optax.GradientTransformation,
    seed: int = 0,
    accumulate: int = 1,
    weights: Table | None = None,
) -> Update:
    """(state, batch) → (next state, batch means of the loss and the objective's metrics, at the OLD parameters).

    Pure, to be compiled by the caller. What dropout drops is a function of (seed, step). accumulate: so many parts of
    the batch pass one after the other, as Stage.accumulate has it. weights: each example's loss, and no metric, is
    multiplied by that of its label.
    """

    def mean_loss(key, params, batch_stats, batch):
        variables = {"params": params, "batch_stats": batch_stats}
        outputs, updates = network.apply(
            variables, batch["image"], train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        loss_B, metrics_B = objective.loss(outputs["logits"], batch)
        loss_B = loss_B if weights is None else loss_B * weight_of(weights, batch["label"])
        means = {name: masked_mean(value_B, batch["mask"]) for name, value_B in metrics_B.items()}
        loss = masked_mean(loss_B, batch["mask"])
        return loss, (updates.get("batch_stats", {}), means | {"loss": loss})  # a network may have no statistics

    def means(key, params, batch_stats, batch):
        gradient_of = jax.value_and_grad(mean_loss, argnums=1, has_aux=True)
        (_, (batch_stats, metrics)), grads = gradient_of(key, params, batch_stats, batch)
        return batch_stats, (grads, metrics)

    def update(state, batch):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        passed = means if accumulate == 1 else in_parts(means, accumulate)
        batch_stats, (grads, metrics) = passed(key, state.params, state.batch_stats, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics["grad_norm"] = optax.tree.norm(grads)
        return TrainState(state.step + 1, params, batch_stats, opt_state), metrics

    return update


def in_parts(means: Callable, count: int) -> Callable:
    """(key, params, batch_stats, batch) → (batch_stats, means over the batch), part by part.

    `means` has the same form. Part i is rows i, i + count, …, so that every device has as many rows of each; it counts
    by its rows of mask 1. The statistics go from part to part.
    """

    def passed(key, params, batch_stats, batch):
        parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0), batch)
        total = jnp.maximum(batch["mask"].sum(), 1)

        def one(carry, numbered):
            (batch_stats, sums), (number, part) = carry, numbered
            batch_stats, own = means(jax.random.fold_in(key, number), params, batch_stats, part)
            share = part["mask"].sum() / total
            return (batch_stats, jax.tree.map(lambda x, y: x + share * y, sums, own)), None

        first = jax.tree.map(lambda x: x[0], parts)
        sums = jax.tree.map(jnp.zeros_like, jax.eval_shape(means, key, params, batch_stats, first)[1])
        unroll = jax.default_backend() == "cpu"  # where convolutions in a loop are ten times slower
        return jax.lax.scan(one, (batch_stats, sums), (jnp.arange(count), parts), unroll=unroll)[0]

    return passed


def make_train_steps(
    update: Update, feed: Feed, mesh: Mesh, axes: Axes = ("data",), state_axes: Axes = ()
) -> TrainSteps:
    """(state, N batches of the feed on the host) → (state after N steps, metrics (N,)), in one dispatch.

    The state is donated. Batch statistics are those of the whole batch, whatever the number of devices. Two programs at
    most are compiled: for one step and for feed.dispatch of them. The axes say what leading axes are split over.
    """

    def one(state, batch, store):
        state, metrics = update(state, feed.prepare(store, batch))
        return state, {name: value[None] for name, value in metrics.items()}

    def many(state, batch_N, store):
        return jax.lax.scan(lambda state, batch: update(state, feed.prepare(store, batch)), state, batch_N)

    def compiled(program, axes):
        state, batch = (NamedSharding(mesh, PartitionSpec(*names)) for names in (state_axes, axes))
        places = (state, batch, jax.tree.map(lambda x: x.sharding, feed.store))
        options = training_options(platform(mesh))
        return jax.jit(
            program, donate_argnums=0, in_shardings=places, out_shardings=(state, replicated(mesh)),
            compiler_options=options,
        )  # fmt: skip

    single, several = compiled(one, axes), compiled(many, (None, *axes))

    def train_steps(state, batches):
        if len(batches) == 1:
            return single(state, to_devices(batches[0], mesh, axes), feed.store)
        batch_N = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
        return several(state, to_devices(batch_N, mesh, (None, *axes)), feed.store)

    return train_steps


def masked_mean(value_B: jax.Array, mask_B: jax.Array) -> jax.Array:
    """Mean over rows whose mask is 1; what stands in the others, NaN included, does not count."""
    return jnp.where(mask_B > 0, value_B, 0).sum() / jnp.maximum(mask_B.sum(), 1)


def make_predict_step(network: Network, objective, mesh: Mesh, mirrored: bool = True) -> Callable[[dict, Batch], Batch]:
    """(variables, batch) → label, sigma, index, mask, value, spread of every row, on every process.

    value is the mean of the predictions for the image and for its mirror image, as in DLDL-v2; spread the standard
    deviation of the even mixture of their two distributions. Both in the label's unit. mirrored=False: the image alone.
    """

    parts = CPU_PARTS if mesh.size == 1 and platform(mesh) == "cpu" else 1

    def predict_step(variables, batch):
        # image by image, each beside its mirror image: all images and then all mirror images would be gathered from
        # everywhere, and every device would compute the whole batch
        views = [batch["image"], batch["image"][:, :, ::-1]] if mirrored else [batch["image"]]
        views_BxV = jnp.stack(views, 1)
        logits = apply_in_parts(network, variables, views_BxV.reshape(-1, *views_BxV.shape[2:]), parts)["logits"]
        value_BxV, spread_BxV = (each.reshape(-1, len(views)) for each in objective.predict(logits))
        mean_B = value_BxV.mean(1)
        spread_B = jnp.sqrt(jnp.maximum((spread_BxV**2 + value_BxV**2).mean(1) - mean_B**2, 0))
        return {key: batch[key] for key in ("label", "sigma", "index", "mask")} | {"value": mean_B, "spread": spread_B}

    everywhere, rows = replicated(mesh), split(mesh)
    return jax.jit(predict_step, in_shardings=(everywhere, rows), out_shardings=everywhere)
