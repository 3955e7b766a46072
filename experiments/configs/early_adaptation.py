"""Early Adaptation of Deep Priors in Age Prediction from Face Images: a network that knows ages (DEX) is taught the
ages of the target by resampling its own training set, before it sees the few examples of the target.

Printed are VGG-16 and its three priors (DEX, VGG-Face, ImageNet), the resampling (Eqs 2 and 3), SGD from 1e-4 in 5
steps of 2,000 iterations for all examples and fewer for fewer, one epoch at 1e-5 for uniform ages. Taken over from DEX,
as its protocol is: batches of 10, momentum 0.9, weight decay 5e-4, ten versions of every image (turned by ±10°, moved
and scaled by ±10 %), in training and in tests. Chosen here: a factor of 0.1 at each step, 1e-4 for the other
impositions, the prior's 20 epochs where it is trained here, faces of 80 % of ArcFace's size, which shows some of DEX's
margin.

Where the prior's weights are at hand, --init and --stages leave its stage out. The paper's IMDB is imdb_wiki prepared
from `imdb_crop` alone.
"""

from dataclasses import replace

STEPS, ITERATIONS = 5, 2000  # of the schedule, on all examples
BATCH = 10
ALL = {"chalearn15": 1981, "morph@caucasian_0": 4380}  # data set → examples that those iterations are for
OTHERS = 2000  # for any other set
TRAINED_ON_SOME = ("chalearn15",)  # of its 2,476, at most 80 %
VERSIONS = 10


def early_adaptation_dex(data: str = "synthetic/mugshot"):
    r"""DEX as it is, then fine-tuned on the target.

    python experiments/run.py --config=early_adaptation_dex
    python experiments/run.py --config=early_adaptation_dex --data=chalearn15 --init=weights/dex \
        --stages=finetune

    Drawn faces, here and in the other five: TinyAgeNet at 48 px, the prior from faces of the domain wild, few epochs.
    Paper, ChaLearn15 / MORPH, all examples: 3.294 / 2.768; ours not run: data sets not at hand.
    """
    return _early_adaptation("early_adaptation_dex", data)


def early_adaptation_uniform(data: str = "synthetic/mugshot"):
    """DEX with all ages alike imposed, then fine-tuned on the target.

    python experiments/run.py --config=early_adaptation_uniform

    Paper, ChaLearn15, all examples: 3.294; ours not run: data sets not at hand.
    """
    return _early_adaptation("early_adaptation_uniform", data, "uniform")


def early_adaptation_imdb(data: str = "synthetic/mugshot"):
    """DEX trained on with the ages of IMDB as they are, then fine-tuned on the target.

    python experiments/run.py --config=early_adaptation_imdb

    Ours not run: data sets not at hand.
    """
    return _early_adaptation("early_adaptation_imdb", data, "original")


def early_adaptation_matched(data: str = "synthetic/mugshot"):
    r"""DEX with the target's distribution of ages imposed, then fine-tuned on the target.

    python experiments/run.py --config=early_adaptation_matched
    python experiments/run.py --config=early_adaptation_matched --data=chalearn15 --init=weights/dex \
        --stages=impose,finetune --impose.examples.budget=1000

    Paper, ChaLearn15 / MORPH, all examples: 3.318 / 2.691; ours not run: data sets not at hand.
    """
    return _early_adaptation("early_adaptation_matched", data, "matched")


def early_adaptation_vgg_face(data: str = "synthetic/mugshot"):
    r"""A prior of identities: VGG-Face with a new last layer, fine-tuned on the target.

    python experiments/run.py --config=early_adaptation_vgg_face
    python experiments/run.py --config=early_adaptation_vgg_face --data=chalearn15 \
        --init=weights/vgg_face --stages=finetune

    Paper, ChaLearn15, all examples: 4.423; ours not run: data sets not at hand.
    """
    return _early_adaptation("early_adaptation_vgg_face", data, prior="identities")


def early_adaptation_vgg16(data: str = "synthetic/mugshot"):
    """A prior of objects: ImageNet's VGG-16 with a new last layer, fine-tuned on the target.

    python experiments/run.py --config=early_adaptation_vgg16
    python experiments/run.py --config=early_adaptation_vgg16 --data=chalearn15 --init=weights/vgg16

    Ours not run: data sets not at hand.
    """
    return _early_adaptation("early_adaptation_vgg16", data, prior="")


def _early_adaptation(name: str, data: str, imposed: str = "", prior: str = "ages"):
    from agejax.models.vgg import VGG
    from agejax.objectives import DEX
    from agejax.training.stages import Stage
    from data_pipelines.align import Alignment
    from data_pipelines.plans import DEX as TEN
    from data_pipelines.samplers import NShot
    from data_pipelines.schema import is_drawn
    from experiments.config import Experiment
    from experiments.configs.protocols import parts_of

    drawn, parts = is_drawn(data), parts_of(data)
    epochs = 10.0 if drawn else STEPS * ITERATIONS * BATCH / ALL.get(data, OTHERS)
    some = {"examples": NShot(ALL[data])} if data in TRAINED_ON_SOME else {}
    finetune = Stage(
        "finetune", DEX(), take="all" if prior == "ages" else "trunk", train_split=parts.train,
        validation_split=parts.validation, **some, **_learning(drawn, 1e-4, epochs, STEPS),
    )  # fmt: skip
    before = (*_prior(prior, drawn), *_imposition(imposed, data, drawn))
    model, size = (VGG(0.25), 48) if drawn else (VGG(1.0, "fc", norm=False, bias=True), 224)
    return Experiment(
        name, (*before, finetune), data=data, model=model, image_size=size, alignment=Alignment(0.8),
        test_split=parts.test, test_versions=VERSIONS, test_augmentation=TEN,
    )  # fmt: skip


def _prior(kind: str, drawn: bool) -> tuple:
    """The stage that published weights stand for, trained on celebrities: their ages, their identities, or none."""
    from agejax.objectives import DEX, Identity
    from agejax.training.optim import Adam, OneCycle, Rate
    from agejax.training.stages import Stage

    from_scratch = {"optimizer": Adam(2e-3), "schedule": OneCycle(cycle_momentum=False), "epochs": 8, "batch_size": 64}
    if kind == "ages":
        options = _learning(drawn, 1e-4, 20.0, 2) | (from_scratch if drawn else {"rates": (Rate("head", 10.0),)})
        return (Stage("prior", DEX(), data=_celebrities(drawn), **options),)
    if kind == "identities":
        options = _learning(drawn, 0.01, 20.0, 2) | (from_scratch if drawn else {"data": "vggface2"})
        return (Stage("pretrain", Identity(), validation_split="", **{"data": "synthetic"} | options),)
    return ()


def _imposition(distribution: str, data: str, drawn: bool) -> tuple:
    """The prior goes on with its own examples, of the distribution; "": it does not."""
    from agejax.objectives import DEX
    from agejax.training.stages import Stage
    from data_pipelines.samplers import Imposed

    if not distribution:
        return ()
    examples = Imposed(distribution, like=data if distribution == "matched" else "")
    rate, epochs = (1e-5, 1.0) if distribution == "uniform" else (1e-4, 1.0 if drawn else 10.0)
    options = _learning(drawn, rate, epochs)
    return (Stage("impose", DEX(), data=_celebrities(drawn), take="all", examples=examples, **options),)


def _celebrities(drawn: bool) -> str:
    return "synthetic" if drawn else "imdb_wiki"


def _learning(drawn: bool, rate: float, epochs: float, steps: int = 1) -> dict:
    """SGD, its rate falling after each of the steps, of ten versions of every image; on drawn faces ten times the
    rate."""
    from agejax.training.optim import SGD, StepDecay
    from data_pipelines.plans import DEX as TEN

    sgd = SGD(10 * rate if drawn else rate, momentum=0.9, weight_decay=5e-4)
    augmentation = replace(TEN, versions=VERSIONS)
    schedule = StepDecay(0.1, every=epochs / steps)
    return {"epochs": epochs, "optimizer": sgd, "schedule": schedule, "batch_size": BATCH, "augmentation": augmentation}


def few(n: int, data: str) -> tuple[str, ...]:
    """The words for n examples: a step is round(2000 n / N) iterations, N being all, and at least one."""
    iterations = max(1, round(ITERATIONS * n / ALL.get(data, OTHERS)))
    every = iterations * BATCH / n
    epochs = STEPS * every - 0.01 / n  # a number of steps is rounded up: a little less than the last one's end
    words = (f"--finetune.examples.n={n}", f"--finetune.epochs={epochs:.9g}", f"--finetune.schedule.every={every:.9g}")
    return ("--finetune.examples=NShot", *words)
