"""The table of experiments. A config is a function (data, recipe) → Experiment; its docstring says what it gives."""

from experiments.configs.aaf import aaf_tiny
from experiments.configs.agenet import agenet, agenet_euclidean
from experiments.configs.benchmark import benchmark
from experiments.configs.dldl_v2 import att_thin, att_tiny, dldl_v2_thin, dldl_v2_tiny
from experiments.configs.early_adaptation import (
    early_adaptation_dex,
    early_adaptation_imdb,
    early_adaptation_matched,
    early_adaptation_uniform,
    early_adaptation_vgg16,
    early_adaptation_vgg_face,
)
from experiments.configs.lae import (
    lae,
    lae_architecture,
    lae_augmentation,
    lae_baseline,
    lae_pretraining,
    lae_strong,
)

CONFIGS = {
    config.__name__: config
    for config in (
        dldl_v2_thin,
        dldl_v2_tiny,
        att_thin,
        att_tiny,
        aaf_tiny,
        agenet,
        agenet_euclidean,
        lae_baseline,
        lae_architecture,
        lae_pretraining,
        lae_augmentation,
        lae_strong,
        lae,
        early_adaptation_dex,
        early_adaptation_uniform,
        early_adaptation_imdb,
        early_adaptation_matched,
        early_adaptation_vgg_face,
        early_adaptation_vgg16,
        benchmark,
    )
}
