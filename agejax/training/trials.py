"""Many trainings of one shape as one: seeds, few-shot subsets, learning rates, weights of a loss, widths of a grid.

T trials share a network, an objective, an optimiser, a number of steps and the pictures in device memory. What differs
travels as arrays with a leading axis T: parameters, moments, statistics, rows and plans, and the values of float
options. On accelerators the step is vmapped over that axis, which the mesh axis "trial" spreads over devices; on a CPU,
where vmapped convolutions are slower, one compiled step is called trial by trial. State and results are the same, and
WAYS names a third: one program that takes the trials in turn.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from agejax import augment
from agejax.models.network import Network
from agejax.parameters import Tree
from agejax.training import weighting
from agejax.training.compilation import training_options
from agejax.training.feeds import Examples, Feed, in_memory
from agejax.training.sharding import make_mesh, platform, replicated, split_trials, to_devices
from agejax.training.stages import Stage
from agejax.training.step import TrainSteps, make_train_steps, make_update
from agejax.training.swept import values, with_values, without_values
from data_pipelines import loaders
from data_pipelines.loaders import Loader
from data_pipelines.samplers import Source, Subset


class Trial(NamedTuple):
    """One of the trainings."""

    stage: Stage
    """With its own values; its objective is settled."""
    source: Source
    """Its examples."""
    seed: int
    """Of the order, the plans and what dropout drops."""


def shape(trial: Trial) -> tuple[Stage, int]:
    """Trials with equal shapes can be one program."""
    return without_values(trial.stage), len(trial.source)


def choose(way: str, trials: int) -> tuple[str, Mesh]:
    """The way, and its devices: vmapped trials are spread over them, else all share the batches of one.

    auto is vmap, and loop on a CPU.
    """
    if way == "auto":
        way = "loop" if jax.default_backend() == "cpu" else "vmap"
    return way, make_mesh(trials if way == "vmap" else 1)


# states


def stack(trees: Sequence[Tree]) -> Tree:
    """Trees of one structure → one on the host with a leading axis T; what a narrower grid lacks is filled with
    zeros."""

    def together(*leaves):
        shape = np.max([leaf.shape for leaf in leaves], axis=0).astype(int)
        all_T = np.zeros((len(leaves), *shape), leaves[0].dtype)
        for trial, leaf in enumerate(leaves):
            all_T[trial, *(slice(n) for n in leaf.shape)] = leaf
        return all_T

    return jax.tree.map(together, *trees)


def take_one(tree: Tree, trial: int, shapes: Tree, mesh: Mesh) -> Tree:
    """One trial's part of a stacked tree, on every device, cut to the given shapes."""
    sizes = tuple(leaf.shape for leaf in jax.tree.leaves(shapes))
    return _cut(tree, trial, sizes, replicated(mesh))


@partial(jax.jit, static_argnums=(2, 3))
def _cut(tree: Tree, trial: jax.Array, sizes: tuple[tuple[int, ...], ...], where: NamedSharding) -> Tree:
    leaves, structure = jax.tree.flatten(_part(tree, trial))
    own = [leaf[tuple(slice(n) for n in size)] for leaf, size in zip(leaves, sizes)]
    return structure.unflatten([jax.lax.with_sharding_constraint(leaf, where) for leaf in own])


def place(tree_T: Tree, mesh: Mesh) -> Tree:
    """From the host, where every process has all of it: every device gets the trials that it trains."""
    split = split_trials(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, split, lambda part: x[part]), tree_T)


# steps


def make_feed(trials: Sequence[Trial], examples: Sequence[Examples], mesh: Mesh, report: Callable[[str], None]) -> Feed:
    """One batch of every trial at a time: rows of the union of their examples, which lies in device memory; where the
    host alone can augment them, what the loader makes.

    The store holds beside the pictures what is the trials' own: {"seed": uint32 (T,), dotted name: float32 (T,)}, and
    "weights" of labels, a Table of arrays (T, C), where examples do not count alike.
    """
    if augment.refused(examples[0].augmentation):
        shared, rows = Feed("host", None), [None] * len(trials)
        make = partial(loaders.train_batches, alignment=examples[0].alignment, loader=Loader(threads=1))
    else:
        union = np.unique(np.concatenate([_rows(trial.source) for trial in trials]))
        rows = [np.searchsorted(union, _rows(trial.source)).astype(np.int32) for trial in trials]
        together = Subset(_base(trials[0].source), union)
        shared = in_memory(dataclasses.replace(examples[0], source=together), mesh, report)
        make = partial(loaders.plan_batches, loader=Loader(threads=1))
    mine = _mine(len(trials), mesh)

    @contextmanager
    def open_from(step: int):
        with ExitStack() as stack:
            streams = [(rows[t], stack.enter_context(examples[t].batches(make, mesh, step))) for t in mine]
            yield _zipped(streams)

    store = shared.store, place(_own(trials), mesh)
    return Feed("trials", open_from, shared.prepare, store, shared.dispatch)


def _zipped(streams: list[tuple[np.ndarray | None, Iterator[dict]]]) -> Iterator[dict]:
    while True:
        batches = [_renumbered(next(stream), rows) for rows, stream in streams]
        yield jax.tree.map(lambda *leaves: np.stack(leaves), *batches)


def _renumbered(batch: dict, rows: np.ndarray | None) -> dict:
    return batch if rows is None else batch | {"row": rows[batch["row"]]}


def _own(trials: Sequence[Trial]) -> dict[str, Tree]:
    """What differs between trials, as arrays with a leading axis T."""
    own = {name: np.array([values(trial.stage)[name] for trial in trials], np.float32) for name in differing(trials)}
    own["seed"] = np.array([trial.seed for trial in trials], np.uint32)
    tables = [table for trial in trials if (table := trial.stage.weights(trial.source))]
    return own | ({"weights": weighting.padded(tables)} if tables else {})


def differing(trials: Sequence[Trial]) -> list[str]:
    """Dotted names of the options in which the trials differ."""
    every = [values(trial.stage) for trial in trials]
    return [name for name in every[0] if len({one[name] for one in every}) > 1]


def _base(source: Source) -> Source:
    return source.source if isinstance(source, Subset) else source


def _rows(source: Source) -> np.ndarray:
    return source.rows if isinstance(source, Subset) else np.arange(len(source))


def _mine(count: int, mesh: Mesh) -> list[int]:
    """Trials whose batches this process gives."""
    places = split_trials(mesh).devices_indices_map((count,)).items()
    return sorted({t for device, (part,) in places if device.process_index == jax.process_index()
                   for t in range(count)[part]})  # fmt: skip


def make_trials_steps(
    trials: Sequence[Trial], network: Network, steps: int, steps_per_epoch: float, feed: Feed, mesh: Mesh, way: str
) -> TrainSteps:
    """(stacked states, N batches of the feed) → (states after N steps, metrics (N,)), each step in all trials.

    `network` has the head of the widest grid. A metric is the mean over the trials whose loss is finite; "diverged"
    counts the others. The states are donated.
    """
    widest = max(trial.stage.objective.grid.size for trial in trials)

    def update(state, batch, store, own):
        changed = {name: value for name, value in own.items() if name not in ("seed", "weights")}
        stage = with_values(trials[0].stage, changed, widest)
        optimizer = stage.make_optimizer(state.params, steps, steps_per_epoch)
        one = make_update(network, stage.objective, optimizer, own["seed"], stage.accumulate, own.get("weights"))
        return one(state, feed.prepare(store, batch))

    return WAYS[way](update, feed, mesh)


def vmapped(update: Callable, feed: Feed, mesh: Mesh) -> TrainSteps:
    """All trials in one program, side by side."""
    return _in_one_program(jax.vmap(update, in_axes=(0, 0, None, 0), spmd_axis_name="trial"), feed, mesh)


def mapped(update: Callable, feed: Feed, mesh: Mesh) -> TrainSteps:
    """All trials in one program, one after the other."""

    def each(states, batch, shared, own):
        return jax.lax.map(lambda one: update(one[0], one[1], shared, one[2]), (states, batch, own))

    return _in_one_program(each, feed, mesh)


def _in_one_program(each: Callable, feed: Feed, mesh: Mesh) -> TrainSteps:
    def together(states, fed):
        (shared, own), batch = fed
        states, metrics_T = each(states, batch, shared, own)
        return states, _means(metrics_T)

    unprepared = dataclasses.replace(feed, prepare=lambda store, batch: (store, batch))
    return make_train_steps(together, unprepared, mesh, ("trial", "data"), ("trial",))


def looped(update: Callable, feed: Feed, mesh: Mesh) -> TrainSteps:
    """One program for one trial, called for each."""
    shared, own = feed.store
    numbers = [jax.device_put(np.int32(trial), replicated(mesh)) for trial in range(len(own["seed"]))]
    # three programs: in one that reads a trial and writes it back, XLA copies the states of all the others, too
    read = jax.jit(_part)
    options = training_options(platform(mesh))
    step = jax.jit(update, donate_argnums=0, out_shardings=replicated(mesh), compiler_options=options)
    write = jax.jit(_with_part, donate_argnums=0, out_shardings=split_trials(mesh))
    means = jax.jit(lambda rows: _means(jax.tree.map(lambda *x: jnp.stack(x), *rows)))

    def once(states, batch):
        batch, rows = to_devices(batch, mesh, (None, "data")), []
        for number in numbers:
            state, mine, values = read((states, batch, own), number)
            state, metrics = step(state, mine, shared, values)
            states = write(states, state, number)
            rows.append(metrics)
        return states, means(rows)

    def train_steps(states, batches):
        metrics = []
        for batch in batches:
            states, means = once(states, batch)
            metrics.append(means)
        return states, jax.tree.map(lambda *x: np.stack(jax.device_get(x)), *metrics)

    return train_steps


def _part(all_T: Tree, trial: jax.Array) -> Tree:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, trial, keepdims=False), all_T)


def _with_part(all_T: Tree, part: Tree, trial: jax.Array) -> Tree:
    return jax.tree.map(lambda x, y: jax.lax.dynamic_update_index_in_dim(x, y, trial, 0), all_T, part)


def _means(metrics_T: dict[str, jax.Array]) -> dict[str, jax.Array]:
    finite_T = jnp.isfinite(metrics_T["loss"]) & jnp.isfinite(metrics_T["grad_norm"])
    means = {name: jnp.where(finite_T, x, 0).sum() / finite_T.sum() for name, x in metrics_T.items()}
    return means | {"diverged": (~finite_T).sum()}


WAYS = {"vmap": vmapped, "map": mapped, "loop": looped}
