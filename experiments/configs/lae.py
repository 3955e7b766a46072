"""LAE: Bao et al., "LAE: Long-Tailed Age Estimation", CAIP 2021, winner of the contest Guess The Age.

All have σ = 1, KL + l1, weight decay 5e-4, batches of 256, learning rates for 256 images. Not printed, and chosen here:
momentum 0.9, s = 30 and m = 0.35 and a learning rate of 0.1 of the pretraining, the patch's and the jitter's strengths
(torchvision's), RandAugment as torchvision has it; the classifier starts from the representation's, its norms stay as
they are, and it sees augmented images, too.

MIVIA has no test part with known truth: train and val are a random 4:1, as in the paper, and val is tested on.
"""

from dataclasses import replace

TRICKS = ("architecture", "pretraining", "augmentation")


def lae_baseline(data: str = "synthetic"):
    """The standard baseline: ResNet-18 at 224 px, mirrored images, 75 epochs of SGD.

    python experiments/run.py --config=lae_baseline
    python experiments/run.py --config=lae_baseline --data=mivia --init=weights/resnet18

    Drawn faces, here and in the other five: 48 px, few epochs of Adam, and networks without strided convolutions, whose
    gradients are slow on a CPU: TinyAgeNet stands for ResNet-18, ThinAgeNet for EfficientNetV2-M.
    Ours not run: data set not at hand.
    """
    return _lae("lae_baseline", data)


def lae_architecture(data: str = "synthetic"):
    """The baseline with EfficientNetV2-M, and nothing else changed.

    python experiments/run.py --config=lae_architecture
    python experiments/run.py --config=lae_architecture --data=mivia --init=weights/efficientnet_v2_m

    Paper, MIVIA: MAE 1.93; ours not run: data set not at hand.
    """
    return _lae("lae_architecture", data, "architecture")


def lae_pretraining(data: str = "synthetic"):
    """The baseline pretrained on the identities of MS-Celeb-1M, 18 epochs of AM-softmax, and nothing else changed.

    python experiments/run.py --config=lae_pretraining

    Paper, MIVIA: MAE 1.78; ours not run: data set not at hand.
    """
    return _lae("lae_pretraining", data, "pretraining")


def lae_augmentation(data: str = "synthetic"):
    """The baseline with random patches, colour jitter and RandAugment, and nothing else changed.

    python experiments/run.py --config=lae_augmentation

    Paper, MIVIA: MAE 1.85; ours not run: data set not at hand.
    """
    return _lae("lae_augmentation", data, "augmentation")


def lae_strong(data: str = "synthetic"):
    """The strong baseline: the three above together, 24 epochs of OneCycle. LAE's representation stage.

    python experiments/run.py --config=lae_strong

    Paper, MIVIA: MAE 1.71, σ 1.11, AAR 7.18; ours not run: data set not at hand.
    """
    return _lae("lae_strong", data, *TRICKS)


def lae(data: str = "synthetic"):
    """LAE: the strong baseline, then 8 epochs of its last layer alone, with all ages equally often.

    python experiments/run.py --config=lae
    python experiments/run.py --config=lae --data=mivia

    Ours not run: data set not at hand. On AAF with TinyAgeNet at 48 px, 3 seeds, 2 CPU cores, the second stage took σ
    from 5.06 to 4.57 (SD 0.08) and the MAE from 8.81 to 10.59 (docs/papers.md).
    """
    return _lae("lae", data, *TRICKS, "classifier")


def _lae(name: str, data: str, *tricks: str):
    """The baseline with these: OneCycle comes with all three TRICKS, and the classifier is a stage of its own."""
    from agejax.models.efficientnet_v2 import EfficientNetV2
    from agejax.models.resnet import ResNet
    from agejax.models.vgg import VGG
    from agejax.objectives import AMSoftmax, LAEClassification, LAERepresentation
    from agejax.training.optim import SGD, Adam, MultiStep, OneCycle
    from agejax.training.stages import Stage
    from data_pipelines.plans import NO_AUGMENTATION, Augmentation
    from data_pipelines.samplers import ClassBalanced
    from data_pipelines.schema import is_drawn
    from experiments.config import Experiment
    from experiments.configs.protocols import parts_of

    drawn, parts = is_drawn(data), parts_of(data)
    mirrored = replace(NO_AUGMENTATION, flip=0.5)
    strong = Augmentation(
        gray=0.0, degrade=1.0, rotation=0.0, area=0.08, aspect=4 / 3, hue=0.1, randaugment=2, magnitude=9
    )  # flips half the images and jitters by 0.4 as it is
    on_ages = {"train_split": parts.train, "validation_split": parts.validation}
    on_ages["augmentation"] = strong if "augmentation" in tricks else mirrored

    def learning(rate: float) -> dict:
        if drawn:
            return {"optimizer": Adam(2e-3), "batch_size": 64}
        return {"optimizer": SGD(rate, weight_decay=5e-4), "batch_size": 256, "reference_batch": 256}

    pretrain = Stage(
        "pretrain", AMSoftmax(), epochs=2 if drawn else 18, schedule=MultiStep((7.0, 14.0, 16.0)),
        data="synthetic" if drawn else "ms_celeb_1m", validation_split="", augmentation=mirrored, **learning(0.1),
    )  # fmt: skip
    strongest = set(tricks) >= set(TRICKS)
    cycle, epochs = OneCycle(cycle_momentum=not drawn), 24 if strongest else 75
    representation = Stage(
        "representation", LAERepresentation(), epochs=8 if drawn else epochs,
        schedule=cycle if drawn or strongest else MultiStep((20.0, 40.0, 60.0)), **learning(0.005), **on_ages,
    )  # fmt: skip
    classification = Stage(
        "classification", LAEClassification(), epochs=3 if drawn else 8, schedule=cycle, take="all", trainable="head",
        order=ClassBalanced(), **learning(0.001), **on_ages,
    )  # fmt: skip
    named = {"pretraining": pretrain, "classifier": classification}
    before, after = ([named[trick]] if trick in tricks else [] for trick in named)
    large, small = (VGG(0.5), VGG(0.25)) if drawn else (EfficientNetV2("m"), ResNet(18))
    return Experiment(
        name, (*before, representation, *after), data=data, model=large if "architecture" in tricks else small,
        image_size=48 if drawn else 224, test_split=parts.test,
    )  # fmt: skip
