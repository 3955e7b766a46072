"""Two-stage baselines: features that were not trained for the label, and a linear learner on them.

DLDL-v2's journal version (Gao et al., arXiv 2007.01771), §4.5.3. Features: biologically inspired ones of a grey face
(bif.py), or what the head of a pretrained network would be given, of the image alone: the paper tells of mirror images
for its own networks only. They are divided by their length, and their dimension is not reduced. Learners: linear
support vector regression, OHRank and BFGS-LDL, the first two by liblinear. C, ε and whether there is a bias are not
printed: they are C = 1, ε = 0.1 and a bias, liblinear's kind, which is regularised. Nor is the form of the losses:
they are squared, as in liblinear's first solvers, which makes them smooth.

Array names: N examples, F features, K labels of the grid.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax.sharding import Mesh
from scipy.special import log_softmax, softmax

from agejax import bif
from agejax.labels import LabelGrid, encode_distribution, nearest_index
from agejax.training.checkpoint import Description
from agejax.training.evaluate import Predictions, collect
from agejax.training.sharding import make_mesh, part_of_rows, replicated, to_devices
from data_pipelines.align import Alignment
from data_pipelines.errors import UserError
from data_pipelines.host import LUMA
from data_pipelines.loaders import Loader, cores, eval_batches
from data_pipelines.samplers import Source

Answer = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # x_NxF → value_N, spread_N, in the label's unit


class Examples(NamedTuple):
    """What a learner is given: float64 but for the grid."""

    x_NxF: np.ndarray
    label_N: np.ndarray
    sigma_N: np.ndarray
    """Known of all."""
    grid: LabelGrid


def measure(
    features: Literal["bif", "cnn"],
    learner: Any,
    train: Source,
    test: Source,
    trunk: tuple[Description, dict] | None,
    alignment: Alignment,
    objective: Any,
    *,
    mesh: Mesh | None = None,
    loader: Loader = Loader(),
    batch_size: int = 64,
) -> Predictions:
    """Fits the learner, a row of LEARNERS or its name, on the one split and answers for the other.

    `trunk` is what load_trained gives, for "cnn"; `alignment` is how faces are cropped for "bif". The objective says
    which label on which grid, and its default_sigma, where it has one, stands for a σ that an example lacks. A spread
    is 0 where the learner has none. Raises UserError.
    """
    learner = LEARNERS[learner] if isinstance(learner, str) else learner
    reading = {"target": objective.target, "loader": replace(loader, workers=0), "batch_size": batch_size}
    extract = partial(FEATURES[features], trunk, alignment, mesh or make_mesh(), reading)
    given, asked = extract(train), extract(test)
    if missing := int(np.isnan(given.label).sum()):
        raise UserError(f"{missing} of {len(given.label)} examples to learn from have no {objective.target}")
    usual = getattr(objective, "default_sigma", SIGMA * objective.grid.step)
    sigma = np.where(np.isnan(given.sigma), usual, given.sigma)
    answer = learner.fit(Examples(normalised(given.value), *map(np.float64, (given.label, sigma)), objective.grid))
    value, spread = answer(normalised(asked.value))
    value = np.clip(value, objective.grid.low, objective.grid.high)
    return asked._replace(value=value.astype(np.float32), spread=spread.astype(np.float32))


def normalised(x_NxF: np.ndarray) -> np.ndarray:
    """Rows of length 1, float64; a row of zeros stays."""
    x_NxF = x_NxF.astype(np.float64)
    return x_NxF / np.maximum(np.linalg.norm(x_NxF, axis=1, keepdims=True), np.finfo(np.float64).tiny)


# features


def _cnn(trunk: tuple[Description, dict] | None, alignment: Alignment, mesh: Mesh, reading: dict, source: Source):
    if trunk is None:
        raise UserError("features of a network need its weights: give those of a finished run")
    description, variables = trunk
    network = description.network()

    def features(variables, image_BxHxWx3):
        return network.apply(variables, image_BxHxWx3)["features"]

    reading = reading | {"image_size": description.image_size, "alignment": description.alignment}
    return _extracted(features, variables, mesh, reading, source)


def _bif(trunk, alignment: Alignment, mesh: Mesh, reading: dict, source: Source):
    def features(_, image_BxHxWx3):
        return bif.features((image_BxHxWx3 * np.float32(LUMA)[None, None, None, :]).sum(-1) / 255)

    return _extracted(features, {}, mesh, reading | {"image_size": bif.SIZE, "alignment": alignment}, source)


FEATURES = {"bif": _bif, "cnn": _cnn}


def _extracted(features: Callable, variables, mesh: Mesh, reading: dict, source: Source) -> Predictions:
    """The split's index, label and sigma, with the features (N, F) for value, in its order."""
    devices, (part, parts) = mesh.shape["data"], part_of_rows(mesh)
    size = -(-min(reading["batch_size"], len(source)) // devices) * devices

    @partial(jax.jit, out_shardings=replicated(mesh))
    def extract(variables, batch):
        kept = {name: batch[name] for name in ("label", "sigma", "index", "mask")}
        return kept | {"value": features(variables, batch["image"]), "spread": jnp.zeros_like(batch["mask"])}

    with eval_batches(source, **reading | {"batch_size": size}, process_index=part, process_count=parts) as batches:
        return collect(jax.device_get(extract(variables, to_devices(batch, mesh))) for batch in batches)


# learners


@dataclass(frozen=True)
class SVR:
    """Linear support vector regression, min ½ w·w + C Σ max(0, |w·x - y| - ε)², with the bias as one more weight."""

    C: float = 1.0
    epsilon: float = 0.1
    """In the label's unit."""
    steps: int = 1000

    def fit(self, given: Examples) -> Answer:
        form = {"loss": "squared_epsilon_insensitive", "dual": False, "max_iter": self.steps}
        model = _liblinear().LinearSVR(C=self.C, epsilon=self.epsilon, **form).fit(given.x_NxF, given.label_N)
        return lambda x_NxF: (model.predict(x_NxF), np.zeros(len(x_NxF)))


@dataclass(frozen=True)
class OHRank:
    """K - 1 questions, "above l_k?", each a linear support vector machine with absolute costs.

    An example that is |y - k| labels away from the question costs as much as its wrong answer would; the answer is the
    label at the number of questions answered with yes. Chang, Chen & Hung, "Ordinal Hyperplanes Ranker with Cost
    Sensitivities for Age Estimation", CVPR 2011.
    """

    C: float = 1.0
    steps: int = 1000

    def fit(self, given: Examples) -> Answer:
        rank_N = np.asarray(nearest_index(given.grid, given.label_N))
        above_NxJ, cost_NxJ = questions(rank_N, given.grid.size)
        asked = [j for j in range(given.grid.size - 1) if 0 < above_NxJ[:, j].sum() < len(rank_N)]
        always = int(above_NxJ.all(axis=0).sum())  # below the lowest label, where there is nothing to learn
        svm = _liblinear()

        def fit_one(j):
            model = svm.LinearSVC(C=self.C, dual=False, max_iter=self.steps)  # the squared hinge
            model.fit(given.x_NxF, above_NxJ[:, j], sample_weight=cost_NxJ[:, j])
            return model.coef_[0], model.intercept_[0]

        with ThreadPoolExecutor(cores()) as pool:
            planes = list(pool.map(fit_one, asked))
        if not planes:
            return lambda x_NxF: (np.full(len(x_NxF), given.grid.values[always]), np.zeros(len(x_NxF)))
        w_FxJ, bias_J = np.stack([w for w, _ in planes], 1), np.array([bias for _, bias in planes])

        def answer(x_NxF):
            count_N = always + (x_NxF @ w_FxJ + bias_J[None, :] > 0).sum(axis=1)
            return given.grid.values[count_N], np.zeros(len(x_NxF))

        return answer


def questions(rank_N: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """bool and float64 (N, K - 1): whether the rank, from 0, is above k; the cost of a wrong answer, in ranks."""
    distance_NxJ = rank_N[:, None] - np.arange(size - 1)[None, :]
    return distance_NxJ > 0, np.where(distance_NxJ > 0, distance_NxJ, 1 - distance_NxJ).astype(np.float64)


@dataclass(frozen=True)
class MaximumEntropy:
    """BFGS-LDL: P = softmax(xW) nearest to Gaussian label distributions; answers with the expectation.

    Geng, "Label Distribution Learning", TKDE 2016: without a bias or a penalty; L-BFGS from W = 0.
    """

    gtol: float = 1e-7
    steps: int = 500

    def fit(self, given: Examples) -> Answer:
        d_NxK = np.asarray(encode_distribution(given.grid, given.label_N, given.sigma_N), np.float64)
        d_NxK /= d_NxK.sum(axis=1, keepdims=True)
        shape = given.x_NxF.shape[1], given.grid.size

        def loss(w):
            value, gradient_FxK = divergence(w.reshape(shape), given.x_NxF, d_NxK)
            return value, gradient_FxK.ravel()

        options = {"gtol": self.gtol, "maxiter": self.steps}
        found = scipy.optimize.minimize(loss, np.zeros(np.prod(shape)), jac=True, method="L-BFGS-B", options=options)
        w_FxK, label_K = found.x.reshape(shape), given.grid.values.astype(np.float64)

        def answer(x_NxF):
            p_NxK = softmax(x_NxF @ w_FxK, axis=1)
            mean_N = p_NxK @ label_K
            return mean_N, np.sqrt((p_NxK * (label_K[None, :] - mean_N[:, None]) ** 2).sum(axis=1))

        return answer


def divergence(w_FxK: np.ndarray, x_NxF: np.ndarray, d_NxK: np.ndarray) -> tuple[float, np.ndarray]:
    """-Σ d ln softmax(xW), which is Σ KL(d‖p) but for a constant, and its gradient xᵀ(p·Σd - d)."""
    log_p_NxK = log_softmax(x_NxF @ w_FxK, axis=1)
    return -(d_NxK * log_p_NxK).sum(), x_NxF.T @ (np.exp(log_p_NxK) * d_NxK.sum(axis=1, keepdims=True) - d_NxK)


LEARNERS = {"svr": SVR(), "ohrank": OHRank(), "ldl": MaximumEntropy()}
SIGMA = 2.0  # in labels of the grid, where neither the example nor the objective has one: DLDL-v2's 2 years


def _liblinear():
    try:
        from sklearn import svm
    except ImportError:
        raise UserError("this learner is liblinear's: pip install 'agejax[papers]'") from None
    return svm
