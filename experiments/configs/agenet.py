"""AgeNet: Liu et al., "AgeNet: Deeply Learned Regressor and Classifier for Robust Apparent Age Estimation", ICCV
Workshops 2015; the fact sheet of team ICT-VIPL at ChaLearn Looking at People 2015.

Printed are the network (GoogLeNet, 22 layers), the stages (identities of CASIA-WebFace, real ages, apparent ages), the
two heads, two face normalisations times two crop sizes of a picture of 256 px, and the mean of ten networks. Not
printed, and chosen here: the crop sizes 227 and 248, what "exterior" and "interior" show, SGD with its steps, 101 ages,
σ = 2 where the data has none, an age code of y / 100, no auxiliary heads, and which ten.
"""

from dataclasses import replace

from experiments.tables.kinds import Run

CANVAS, CROPS = 256, (227, 248)  # px
DRAWN_CANVAS = 56
NORMALISATIONS = {"exterior": 0.7, "interior": 1.0}  # face_scale on the canvas: eyes 22 % and 31 % of its width apart
STAGES = ("pretrain", "real", "apparent")
HEADS = {"LD": "agenet", "Euclidean": "agenet_euclidean"}  # head → config


def agenet(data: str = "synthetic/mugshot"):
    """AgeNet with a label-distribution head: identities, real ages, apparent ages; one of the ten networks.

    python experiments/run.py --config=agenet
    python experiments/run.py --config=agenet --data=chalearn15 --real.data=cacd2000

    Real ages may be of another set: --real.data=morph. This is the exterior normalisation, cut to 227 px; the words for
    the others are in ENSEMBLE. Drawn faces: 50 of 56 px, 2 + 6 + 8 epochs, identities and real ages of the domain wild.
    Paper, ten networks fused, validation part of ChaLearn15: ε-error 0.2873; ours not run: data sets not at hand.
    """
    from agejax.objectives import LabelDistribution

    return _agenet("agenet", LabelDistribution(), data, rates=(0.01, 0.01, 0.001))


def agenet_euclidean(data: str = "synthetic/mugshot"):
    """AgeNet with a regressor of y / 100: as agenet.

    python experiments/run.py --config=agenet_euclidean

    Ours not run: data sets not at hand.
    """
    from agejax.objectives import EuclideanRegression

    # a regressor's own curvature is the square of its features' length: 0.01 would be near divergence
    return _agenet("agenet_euclidean", EuclideanRegression(), data, rates=(0.01, 0.001, 0.001))


def _agenet(name: str, objective, data: str, rates: tuple[float, float, float]):
    """General to specific: each stage takes over what it can of the one before. rates: a learning rate for each."""
    from agejax.models.googlenet import GoogLeNet
    from agejax.objectives import Identity
    from agejax.training.optim import SGD, StepDecay
    from agejax.training.stages import Stage
    from data_pipelines.align import Alignment
    from data_pipelines.plans import NO_AUGMENTATION
    from data_pipelines.schema import is_drawn
    from experiments.config import Experiment
    from experiments.configs.protocols import parts_of

    drawn, parts = is_drawn(data), parts_of(data)
    faces, ages = ("synthetic", "synthetic") if drawn else ("casia_webface", "cacd2000")
    size = round(CROPS[0] / CANVAS * DRAWN_CANVAS) if drawn else CROPS[0]
    epochs = (2, 6, 8) if drawn else (30, 15, 30)

    def stage(number: int, objective, **options) -> Stage:
        return Stage(
            STAGES[number], objective, epochs=epochs[number], batch_size=64 if drawn else 128,
            optimizer=SGD(rates[number] * (5 if drawn else 1), weight_decay=5e-4),
            schedule=StepDecay(0.1, every=epochs[number] / 3),
            augmentation=replace(NO_AUGMENTATION, flip=0.5, shift=_margin(CROPS[0])), **options,
        )  # fmt: skip

    stages = (
        stage(0, Identity(), data=faces, validation_split=""),
        stage(1, objective, data=ages),
        stage(2, objective, take="all", train_split=parts.train, validation_split=parts.validation),
    )
    alignment = Alignment(_face_scale("exterior", CROPS[0]))
    return Experiment(
        name, stages, data=data, model=GoogLeNet(), image_size=size, alignment=alignment, test_split=parts.test
    )


def _margin(crop: int) -> float:
    """A random crop of the canvas, as a shift: ± share of the crop."""
    return round((CANVAS - crop) / (2 * crop), 4)


def _face_scale(normalisation: str, crop: int) -> float:
    """A crop is a narrower look at the canvas."""
    return round(NORMALISATIONS[normalisation] * CANVAS / crop, 4)


def view(normalisation: str, crop: int) -> tuple[str, ...]:
    """The words for one of the four ways to show a face."""
    shifts = (f"--{stage}.augmentation.shift={_margin(crop)}" for stage in STAGES)
    return (f"--image_size={crop}", f"--alignment.face_scale={_face_scale(normalisation, crop)}", *shifts)


VIEWS = {f"{name}, {crop} px": view(name, crop) for name in NORMALISATIONS for crop in CROPS}
MORE_SEEDS = {"exterior, 227 px": (0, 1), "interior, 227 px": (0, 1)}  # of LD networks, from the same real ages


def _net(view_name: str, head: str) -> Run:
    seeds = MORE_SEEDS.get(view_name, ()) if head == "LD" else ()
    return Run(HEADS[head], (*VIEWS[view_name], *([f"--sweep.seed={','.join(map(str, seeds))}"] if seeds else [])))


ENSEMBLE: tuple[Run, ...] = tuple(_net(name, head) for name in VIEWS for head in HEADS)
"""Four views times two heads, and two of the LD networks with another seed: ten networks of four pretrained ones. Those
that differ in the seed alone are one run."""
