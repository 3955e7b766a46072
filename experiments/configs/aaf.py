"""All-Age-Faces (Cheng et al. 2019): real photographs, 2 to 80 years, small enough for a CPU."""


def aaf_tiny(data: str = "aaf"):
    """TinyAgeNet from scratch on All-Age-Faces photographs at 64 px, 20 epochs.

    python experiments/prepare.py --data=aaf --raw=DIR
    python experiments/run.py --config=aaf_tiny

    9,409 photographs, seed 0, on 2 CPU cores: 15 min, test MAE 5.74 [5.35, 6.13] years on 562 photographs.
    """
    from agejax.models.vgg import VGG
    from agejax.objectives import JointLabelDistribution
    from agejax.training.optim import Adam, OneCycle
    from agejax.training.stages import Stage
    from data_pipelines.plans import Augmentation
    from experiments.config import Experiment

    augmentation = Augmentation(
        gray=0.1, degrade=1.0, rotation=15, zoom=0.1, shift=0.05, brightness=0.3, contrast=0.3, saturation=0.3
    )
    stage = Stage(
        "finetune", JointLabelDistribution(), epochs=20, batch_size=64, optimizer=Adam(3e-3),
        schedule=OneCycle(cycle_momentum=False), augmentation=augmentation,
    )  # fmt: skip
    return Experiment("aaf_tiny", (stage,), data=data, model=VGG(0.25), image_size=64)
