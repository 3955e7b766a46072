"""DLDL-v2: Gao et al., "Age Estimation Using Expectation of Label Distribution Learning", IJCAI 2018.

The journal version, "Learning Expectation of Label Distribution for Facial Age and Attractiveness Estimation"
(arXiv 2007.01771), adds attractiveness.
"""

YEARS = {"target": "age", "default_sigma": 2.0}  # Morph's σ


def dldl_v2_thin(data: str = "synthetic", recipe: str = "paper"):
    """ThinAgeNet (3.7 M parameters): identity pretraining, then joint label distribution learning.

    python experiments/run.py --config=dldl_v2_thin

    Drawn faces (48 px, 2 + 13 epochs, seed 0), 2 CPU cores: 6 min, test MAE 3.62 [3.34, 3.92] years, n = 368.
    Paper, ChaLearn15 / ChaLearn16 / Morph: 3.135 / 3.452 / 1.969; ours not run: data sets not at hand.
    """
    return _dldl_v2("dldl_v2_thin", 0.5, YEARS, data, recipe)


def dldl_v2_tiny(data: str = "synthetic", recipe: str = "paper"):
    """TinyAgeNet (0.9 M parameters): as dldl_v2_thin at a quarter of VGG-16's channels.

    python experiments/run.py --config=dldl_v2_tiny

    Paper, ChaLearn15 / ChaLearn16 / Morph: 3.427 / 3.765 / 2.291; ours not run: data sets not at hand.
    """
    return _dldl_v2("dldl_v2_tiny", 0.25, YEARS, data, recipe)


def att_thin(data: str = "synthetic", recipe: str = "paper"):
    """ThinAttNet (3.7 M parameters): as dldl_v2_thin for attractiveness, 1 to 5 points by 0.1 as in SCUT-FBP.

    python experiments/run.py --config=att_thin

    Paper, SCUT-FBP: MAE 0.212, RMSE 0.273, Pearson 0.930; ours not run: data set not at hand.
    """
    from agejax.labels import SCUT

    points = {"target": "attractiveness", "grid": SCUT, "default_sigma": 0.5}
    return _dldl_v2("att_thin", 0.5, points, data, recipe)


def _dldl_v2(name: str, compression: float, score: dict, data: str, recipe: str):
    """The paper's schedule; on drawn faces one that a laptop finishes in minutes."""
    from agejax.models.vgg import VGG
    from agejax.objectives import Identity, JointLabelDistribution, LabelDistribution
    from agejax.training.optim import Adam, OneCycle, StepDecay
    from agejax.training.stages import Stage
    from data_pipelines.plans import Augmentation
    from data_pipelines.schema import is_drawn
    from experiments.config import Experiment

    drawn, official = is_drawn(data), recipe == "official"
    form = {"eps": 1e-7, "form": "torch7"} if official else {}
    # the authors fine-tuned from epoch 60 of the wide face network and from epoch 45 of the narrow one
    face_epochs, epochs = (2, 13) if drawn else (60 if compression == 0.5 else 45, 60)
    common = {
        "optimizer": Adam(2e-3 if drawn else 1e-3, **form),
        # the figures above were measured without cycling
        "schedule": OneCycle(cycle_momentum=False) if drawn else StepDecay(0.1, every=30),
        "augmentation": Augmentation(resize="torch7" if official else "antialias"),
        "batch_size": 64 if drawn else 128,
    }
    finetune = {"epochs": epochs} | common
    pretrain = Stage("pretrain", Identity(), epochs=face_epochs, validation_split="", **common)
    if official:
        stages = (
            pretrain,
            Stage("kl", LabelDistribution(kl_reduction="mean_elements", **score), **finetune),
            Stage(
                "joint",
                JointLabelDistribution(kl_reduction="mean_elements", **score),
                take="all",
                reset_head_bias=True,
                **finetune,
            ),
        )
    else:
        stages = (pretrain, Stage("finetune", JointLabelDistribution(**score), **finetune))
    size = 48 if drawn else 224
    return Experiment(name, stages, data=data, recipe=recipe, model=VGG(compression), image_size=size)
