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

    Paper, ChaLearn15 / ChaLearn16 / Morph: 3.427 / 3.765 / 2.291; ours not run: data sets not at hand. On AAF, 48 px, 5
    epochs from random weights, 2 CPU cores, 5.5 min for 3 seeds: 8.63 [8.00, 9.34], SD 0.29 (docs/papers.md).
    """
    return _dldl_v2("dldl_v2_tiny", 0.25, YEARS, data, recipe)


def att_thin(data: str = "synthetic", recipe: str = "paper"):
    """ThinAttNet (3.7 M parameters): as dldl_v2_thin for attractiveness, 1 to 5 points by 0.1, CFD 1 to 7.

    python experiments/run.py --config=att_thin
    python experiments/run.py --config=att_thin --data=scut_fbp@rs_0 --pretrain.data=ms_celeb_1m

    The papers' splits are scut_fbp@rs_0 … rs_4 and cfd/main@rs_0 … rs_4, random 80/20; scut_fbp5500@cv_1 … cv_5. σ is
    that of the votes, of CFD 0.5 for all.
    Paper, SCUT-FBP / CFD: MAE 0.212 / 0.364, RMSE 0.273 / 0.472, Pearson 0.930 / 0.766; ours not run: data sets not at
    hand.
    """
    return _dldl_v2("att_thin", 0.5, _points(data), data, recipe)


def att_tiny(data: str = "synthetic", recipe: str = "paper"):
    """TinyAttNet (0.9 M parameters): as att_thin at a quarter of VGG-16's channels.

    python experiments/run.py --config=att_tiny

    Ours not run: data sets not at hand.
    """
    return _dldl_v2("att_tiny", 0.25, _points(data), data, recipe)


def _points(data: str) -> dict:
    """Label, grid and σ of a set with scores."""
    from agejax.labels import CFD, SCUT

    points = {"target": "attractiveness", "default_sigma": 0.5}
    return points | ({"grid": CFD, "sigma_of": "default"} if data.startswith("cfd") else {"grid": SCUT})


def _dldl_v2(name: str, compression: float, score: dict, data: str, recipe: str):
    """The paper's schedule; on drawn faces one that a laptop finishes in minutes."""
    from agejax.models.vgg import VGG
    from agejax.objectives import Identity, JointLabelDistribution, LabelDistribution
    from agejax.training.optim import Adam, OneCycle, StepDecay
    from agejax.training.stages import Stage
    from data_pipelines.plans import Augmentation
    from data_pipelines.schema import is_drawn
    from experiments.config import Experiment
    from experiments.configs.protocols import parts_of

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
    parts = parts_of(data)
    finetune = {"epochs": epochs, "train_split": parts.train, "validation_split": parts.validation} | common
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
    return Experiment(
        name, stages, data=data, recipe=recipe, model=VGG(compression), image_size=size, test_split=parts.test
    )
