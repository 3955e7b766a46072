"""Where a network looks: score maps, the cost of hiding a part of the face, and the distribution that it answers with.

Gao et al., "Learning Expectation of Label Distribution for Facial Age and Attractiveness Estimation" (the journal
version of DLDL-v2), Eqs. 23-24 and its experiments with occlusion. One process reads the whole split.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from agejax.metrics import AGE_GROUPS, age_group
from agejax.models.folding import fold_variables, without_norms
from agejax.models.inputs import Inputs
from agejax.models.layers import max_pool
from agejax.models.network import Network
from agejax.objectives.base import Expectation
from agejax.training.checkpoint import Description
from agejax.training.sharding import replicated, split, to_devices
from data_pipelines.errors import UserError
from data_pipelines.loaders import Loader, eval_batches

PARTS = 7  # of a side: 32 px of 224
MODES = {"squares": (PARTS, PARTS), "horizontal": (PARTS, 1), "vertical": (1, PARTS)}  # (rows, columns) of blocks
AT_ONCE = 256  # images in one pass of the network, over all hidden blocks


class GroupMap(NamedTuple):
    """Means over the examples of an age group."""

    n: int
    face: np.ndarray
    """float64 (H, W, 3), RGB in [0, 255]"""
    score: np.ndarray
    """float64 (H, W)"""


class Occlusion(NamedTuple):
    """What hiding each block costs."""

    mae: float
    """With nothing hidden."""
    loss: np.ndarray
    """float64 (rows, columns): relative to it."""


def score_map(map_BxHxWxC, kernel_CxK, bias_K, p_BxK) -> jax.Array:
    """(B, H, W): S = Σ_k p̂_k A_k with A_k = Σ_j w_kj F_j + b_k, Eqs. 23-24: the head at every place of the last map."""
    exact = {"precision": "highest"}
    weight_BxC = jnp.einsum("bk,ck->bc", p_BxK, kernel_CxK, **exact)
    bias_B = jnp.einsum("bk,k->b", p_BxK, bias_K, **exact)
    return jnp.einsum("bhwc,bc->bhw", map_BxHxWxC.astype(jnp.float32), weight_BxC, **exact) + bias_B[:, None, None]


def make_score_step(network: Network, objective, mesh: Mesh, pooled: bool = False) -> Callable[[dict, dict], dict]:
    """(variables, batch) → {"score": (B, H, W), "distribution": (B, K)}; the score map in the size of the image.

    pooled: of the map after the last 2×2 max-pooling, as hybrid pooling has it. Raises UserError for an objective whose
    outputs are not a distribution, or not a linear function of features.
    """
    if not isinstance(objective, Expectation) or not isinstance(network.head, nn.Dense):
        name = type(objective).__name__
        raise UserError(f"{name} has no score maps: they need a linear head that gives a distribution over the labels")

    def step(variables, batch):
        outputs, head = network.apply(variables, batch["image"]), variables["params"]["head"]
        if outputs["map"].shape[-1] != head["kernel"].shape[0]:
            raise UserError("the network has no score maps: its features are more than the mean of its last map")
        last = max_pool(outputs["map"]) if pooled else outputs["map"]
        p_BxK = objective.distribution(outputs["logits"])
        score = score_map(last, head["kernel"], head["bias"], p_BxK)
        return {"score": jax.image.resize(score, batch["image"].shape[:3], "linear"), "distribution": p_BxK}

    return jax.jit(step, in_shardings=(replicated(mesh), split(mesh)), out_shardings=replicated(mesh))


def score_maps(
    description: Description, variables: dict, examples, mesh: Mesh, *, pooled: bool = False, batch_size: int = 64,
    loader: Loader = Loader(),
) -> Iterator[dict[str, np.ndarray]]:  # fmt: skip
    """Batches of a split, padding left out: index, label, image uint8 (B, H, W, 3), score (B, H, W), distribution."""
    network, folded = _folded(description, variables)
    step = make_score_step(network, description.objective, mesh, pooled)
    for batch in _read(description, examples, mesh, batch_size, loader):
        found, real = jax.device_get(step(folded, to_devices(batch, mesh))), batch["mask"] > 0
        kept = {name: batch[name] for name in ("index", "label", "image")} | found
        yield {name: rows[real] for name, rows in kept.items()}


def means_by_age_group(batches: Iterable[dict[str, np.ndarray]]) -> dict[str, GroupMap]:
    """Mean face and mean score map of every age group that occurs, of what `score_maps` gives for ages."""
    sums = {}
    for batch in batches:
        for group, image, score in zip(age_group(batch["label"]), batch["image"], batch["score"]):
            n, faces, scores = sums.get(group, (0, 0.0, 0.0))
            sums[group] = n + 1, faces + image.astype(np.float64), scores + score.astype(np.float64)
    return {AGE_GROUPS[g]: GroupMap(n, faces / n, scores / n) for g, (n, faces, scores) in sorted(sums.items())}


def distributions(
    description: Description, variables: dict, examples, mesh: Mesh, *, batch_size: int = 64, loader: Loader = Loader()
) -> np.ndarray:
    """float32 (N, K): the distribution over the grid for every example, the mean of image and mirror image.

    Raises UserError for an objective that has none.
    """
    objective = description.objective
    network, folded = _folded(description, variables)

    def step(variables, image):
        pair = [objective.distribution(network.apply(variables, x)["logits"]) for x in (image, image[:, :, ::-1])]
        if pair[0] is None:
            raise UserError(f"{type(objective).__name__} answers with a number, and has no distribution to show")
        return (pair[0] + pair[1]) / 2

    step = jax.jit(step, in_shardings=(replicated(mesh), split(mesh)), out_shardings=replicated(mesh))
    batches = _read(description, examples, mesh, batch_size, loader)
    found = [np.asarray(step(folded, to_devices(b, mesh)["image"]))[b["mask"] > 0] for b in batches]
    return np.concatenate(found)


def blocks(image_size: int, rows: int, columns: int) -> np.ndarray:
    """bool (rows · columns, H, W): each block once, row by row; they cover the image and do not overlap."""
    row, column = (np.arange(image_size) * parts // image_size for parts in (rows, columns))
    places = np.arange(rows * columns)[:, None, None]
    return places == (row[:, None] * columns + column[None, :])[None]


def mean_colour(inputs: Inputs) -> tuple[float, ...]:
    """RGB in [0, 255]: what is 0 once the network has normalised it."""
    mean = inputs.mean if inputs.order == "rgb" else inputs.mean[::-1]
    return tuple(255.0 / inputs.maximum * value for value in mean)


def relative_loss(mae_hidden, mae) -> np.ndarray:
    """(MAE_hidden - MAE) / MAE."""
    return (np.asarray(mae_hidden, np.float64) - mae) / mae


def make_hidden_step(network: Network, objective, mesh: Mesh) -> Callable[[dict, dict, jax.Array], jax.Array]:
    """(variables, batch, hidden_GxHxW) → |ŷ - y| (B, G) with each block hidden, all in one pass.

    As in the authors' occ.lua, a block has the mean colour, and the mirror image is hidden at the SAME place: the block
    is not mirrored with it.
    """
    colour = jnp.array(mean_colour(network.inputs), jnp.float32)

    def step(variables, batch, hidden_GxHxW):
        image = batch["image"].astype(jnp.float32)
        pair_Bx1x2 = jnp.stack([image, image[:, :, ::-1]], 1)[:, None]
        every = jnp.where(hidden_GxHxW[None, :, None, :, :, None], colour.reshape(1, 1, 1, 1, 1, 3), pair_Bx1x2)
        logits = network.apply(variables, every.reshape(-1, *image.shape[1:]))["logits"]
        value_BxG = objective.predict(logits)[0].reshape(len(image), -1, 2).mean(-1)
        return jnp.abs(value_BxG - batch["label"][:, None])

    places = (replicated(mesh), split(mesh), replicated(mesh))
    return jax.jit(step, in_shardings=places, out_shardings=replicated(mesh))


def occlusion(
    description: Description, variables: dict, examples, mesh: Mesh, modes: Sequence[str] = tuple(MODES), *,
    batch_size: int = 64, loader: Loader = Loader(),
) -> dict[str, Occlusion]:  # fmt: skip
    """{mode: Occlusion} over a split: by how much the MAE rises where a seventh of the face, or a square, is hidden.

    The paper does not print its measure; here it is (MAE_hidden - MAE) / MAE.
    """
    network, folded = _folded(description, variables)
    step = make_hidden_step(network, description.objective, mesh)
    size = description.image_size
    hidden_MxHxW = np.concatenate([np.zeros((1, size, size), bool), *(blocks(size, *MODES[mode]) for mode in modes)])
    sums, count = 0.0, 0
    for batch in _read(description, examples, mesh, batch_size, loader):
        real, batch = batch["mask"] > 0, {name: batch[name] for name in ("image", "label", "mask")}
        at_once = max(1, AT_ONCE // (2 * len(real)))
        error_BxM = _in_groups(partial(step, folded, to_devices(batch, mesh)), hidden_MxHxW, at_once)[real]
        if np.isnan(error_BxM).any():
            raise UserError(f"an example has no {description.objective.target}: hide parts of faces that have it")
        sums, count = sums + error_BxM.astype(np.float64).sum(0), count + int(real.sum())
    mae, *of_blocks = sums / count
    shapes = {mode: MODES[mode] for mode in modes}
    ends = np.cumsum([rows * columns for rows, columns in shapes.values()])[:-1]
    parts = np.split(relative_loss(of_blocks, mae), ends)
    return {mode: Occlusion(float(mae), part.reshape(shapes[mode])) for mode, part in zip(modes, parts)}


def _in_groups(step: Callable, hidden_MxHxW: np.ndarray, at_once: int) -> np.ndarray:
    """(B, M) of a step that takes `at_once` blocks, every time as many: one program."""
    count = len(hidden_MxHxW)
    at_once = math.ceil(count / math.ceil(count / at_once))
    padded = np.concatenate([hidden_MxHxW, hidden_MxHxW[: -count % at_once]])
    found = [step(padded[start : start + at_once]) for start in range(0, len(padded), at_once)]
    return np.concatenate(jax.device_get(found), axis=1)[:, :count]


def _folded(description: Description, variables: dict) -> tuple[Network, dict]:
    """The network without norms, and its variables."""
    network = description.network()
    return without_norms(network), jax.jit(partial(fold_variables, network))(variables)


def _read(description: Description, examples, mesh: Mesh, batch_size: int, loader: Loader) -> Iterator[dict]:
    """Batches on the host, of a size that the devices share evenly."""
    devices = mesh.shape["data"]
    batch_size = math.ceil(min(batch_size, len(examples)) / devices) * devices
    with eval_batches(
        examples, batch_size=batch_size, image_size=description.image_size, alignment=description.alignment,
        target=description.objective.target, loader=loader,
    ) as batches:  # fmt: skip
        yield from batches
