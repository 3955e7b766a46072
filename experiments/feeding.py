"""What a stage's feed needs to know, from the experiment."""

import numpy as np

from agejax.training.cluster import say
from agejax.training.feeds import Examples
from agejax.training.stages import Stage
from data_pipelines.samplers import Source
from experiments.config import Experiment


def fed(experiment: Experiment, stage: Stage, source: Source, seed: int) -> Examples:
    """How the stage's examples become batches."""
    return Examples(
        source, stage.batch_size, experiment.image_size, seed, stage.augmentation, experiment.alignment,
        stage.objective.target, stage.order, experiment.loader,
    )  # fmt: skip


def stage_seed(experiment: Experiment, number: int) -> int:
    """Of the order, the augmentation and the first weights of the stage of that number."""
    return int(np.random.SeedSequence([experiment.seed, number]).generate_state(1)[0])


def told(name: str, text: str) -> None:
    """On the screen, by the process that leads."""
    say(f"{name}: {text}")
