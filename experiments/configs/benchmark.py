"""One network and schedule for all objectives, as the Facial-Age-Estimation-Benchmark ships them.

Paplham & Franc, "A Call to Reflect on Evaluation Practices for Age Estimation", CVPR 2024.
"""

from dataclasses import replace


def benchmark(data: str = "synthetic"):
    """ResNet-50 at 256 px, Adam at 1e-4, 50 epochs of 100 images, the best by validation; any objective.

    python experiments/run.py --config=benchmark
    python experiments/run.py --config=benchmark --data=agedb --init=weights/resnet50 --finetune.objective=MeanVariance

    Random squares of 80 % of the area or more, mirrored; σ = 2 for all. They answer with the age of the
    smallest expected error, the median; here it is the expectation. Drawn faces: TinyAgeNet at 48 px, 8 epochs at 2e-3.
    Theirs, AgeDB: 5.80 for JointLabelDistribution (all: papers.py --paper=beyond); ours not run: data sets not at hand.
    """
    from agejax.models.resnet import ResNet
    from agejax.models.vgg import VGG
    from agejax.objectives import JointLabelDistribution
    from agejax.training.optim import Adam, OneCycle, StepDecay
    from agejax.training.stages import Stage
    from data_pipelines.plans import NO_AUGMENTATION
    from data_pipelines.schema import is_drawn
    from experiments.config import Experiment
    from experiments.configs.protocols import parts_of

    drawn, parts = is_drawn(data), parts_of(data)
    stage = Stage(
        "finetune", JointLabelDistribution(default_sigma=2.0, sigma_of="default"), epochs=8 if drawn else 50,
        batch_size=64 if drawn else 100, optimizer=Adam(2e-3 if drawn else 1e-4),
        schedule=OneCycle(cycle_momentum=False) if drawn else StepDecay(1.0),
        augmentation=replace(NO_AUGMENTATION, flip=0.5, area=0.8),
        train_split=parts.train, validation_split=parts.validation,
    )  # fmt: skip
    model, size = (VGG(0.25), 48) if drawn else (ResNet(50), 256)
    return Experiment(
        "benchmark", (stage,), data=data, model=model, image_size=size, select="best", test_split=parts.test
    )
