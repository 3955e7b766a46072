"""Words that make a config a toy: seconds on a few hundred drawn faces of 32 px. They come last, after a row's own.

Toys keep the stages, objectives, orders and schedules of their configs, and learn a little. An eighth of VGG-16, with
one convolution a stage, stands for all networks: GoogLeNet and EfficientNetV2-S take 10 to 20 s to compile on 2 CPU
cores, and tables have many runs.
"""

SMALL = ("--model=vgg_1_8", "--model.convolutions=1,1,1,1,1", "--image_size=32")
BATCH = 32


def _stages(**epochs: float) -> tuple[str, ...]:
    """Fewer epochs of small batches."""
    short = (f"--{stage}.epochs={number:g}" for stage, number in epochs.items())
    return (*short, *(f"--{stage}.batch_size={BATCH}" for stage in epochs))


def _dldl_v2() -> tuple[str, ...]:
    return (*SMALL, *_stages(pretrain=1, finetune=3))


def _agenet() -> tuple[str, ...]:
    return (*SMALL, *_stages(pretrain=1, real=2, apparent=2))


def _adapted(**before: float) -> tuple[str, ...]:
    """The steps of the last stage keep their lengths, a fifth of it each; a higher rate makes up for few iterations."""
    faster = ("--finetune.schedule.every=2", "--finetune.optimizer.learning_rate=0.01")
    return (*SMALL, *_stages(**before, finetune=10), *faster)


REPRESENTATION = {"representation": 3}

TOY: dict[str, tuple[str, ...]] = {
    "dldl_v2_thin": _dldl_v2(),
    "dldl_v2_tiny": _dldl_v2(),
    "att_thin": _dldl_v2(),
    "att_tiny": _dldl_v2(),
    "aaf_tiny": (*SMALL, *_stages(finetune=3)),
    "agenet": _agenet(),
    "agenet_euclidean": _agenet(),
    "lae_baseline": (*SMALL, *_stages(**REPRESENTATION)),
    "lae_architecture": (*SMALL, *_stages(**REPRESENTATION)),
    "lae_pretraining": (*SMALL, *_stages(pretrain=1, **REPRESENTATION)),
    "lae_augmentation": (*SMALL, *_stages(**REPRESENTATION)),
    "lae_strong": (*SMALL, *_stages(pretrain=1, **REPRESENTATION)),
    "lae": (*SMALL, *_stages(pretrain=1, **REPRESENTATION, classification=1)),
    "early_adaptation_dex": _adapted(prior=3),
    "early_adaptation_uniform": _adapted(prior=3, impose=0.3),
    "early_adaptation_imdb": _adapted(prior=3, impose=1),
    "early_adaptation_matched": _adapted(prior=3, impose=0.3),
    "early_adaptation_vgg_face": _adapted(pretrain=1),
    "early_adaptation_vgg16": _adapted(),
    "benchmark": (*SMALL, *_stages(finetune=3)),
}
"""Config → words."""
