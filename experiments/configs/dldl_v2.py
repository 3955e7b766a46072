"""DLDL-v2: Gao et al., "Age Estimation Using Expectation of Label Distribution Learning", IJCAI 2018."""


def dldl_v2_thin(data: str = "synthetic", recipe: str = "paper"):
    """ThinAgeNet (3.7 M parameters): identity pretraining, then joint label distribution learning.

    python experiments/run.py --config=dldl_v2_thin
    """
    return _dldl_v2("dldl_v2_thin", 0.5, data, recipe)


def dldl_v2_tiny(data: str = "synthetic", recipe: str = "paper"):
    """TinyAgeNet (0.9 M parameters): as dldl_v2_thin at a quarter of VGG-16's channels.

    python experiments/run.py --config=dldl_v2_tiny
    """
    return _dldl_v2("dldl_v2_tiny", 0.25, data, recipe)


def _dldl_v2(name: str, compression: float, data: str, recipe: str):
    """The paper's schedule; on drawn faces one that a laptop finishes in minutes."""
    from agejax.models.vgg import VGG
    from agejax.objectives import Identity, JointLabelDistribution, LabelDistribution
    from agejax.training.optim import Adam, StepDecay
    from agejax.training.stages import Stage
    from data_pipelines.plans import Augmentation
    from experiments.config import Experiment

    drawn, official = data.split("/")[0] == "synthetic", recipe == "official"
    adam = Adam(eps=1e-7, form="torch7") if official else Adam()
    pretrain_epochs, epochs, decay = (3, 12, StepDecay(every=8)) if drawn else (90, 60, StepDecay(every=30))
    common = {
        "optimizer": adam,
        "augmentation": Augmentation(resize="torch7" if official else "antialias"),
        "batch_size": 64 if drawn else 128,
    }
    finetune = {"epochs": epochs, "schedule": decay} | common
    pretrain = Stage("pretrain", Identity(), epochs=pretrain_epochs, schedule=decay, validation_split="", **common)
    if official:
        stages = (
            pretrain,
            Stage("kl", LabelDistribution(), **finetune),
            Stage(
                "joint",
                JointLabelDistribution(kl_reduction="mean_elements"),
                take="all",
                reset_head_bias=True,
                **finetune,
            ),
        )
    else:
        stages = (pretrain, Stage("finetune", JointLabelDistribution(), **finetune))
    size = 48 if drawn else 224
    return Experiment(name, stages, data=data, recipe=recipe, model=VGG(compression), image_size=size)
