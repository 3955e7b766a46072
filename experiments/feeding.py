"""What a stage's feed and the test need to know, from the experiment."""

import numpy as np

from agejax.augment import refused
from agejax.training.cluster import say
from agejax.training.feeds import Examples
from agejax.training.stages import Stage
from data_pipelines.errors import UserError
from data_pipelines.samplers import Source
from experiments.config import Experiment


def fed(experiment: Experiment, stage: Stage, source: Source, seed: int) -> Examples:
    """How the stage's examples become batches."""
    return Examples(
        source, stage.batch_size, experiment.image_size, seed, stage.augmentation, experiment.alignment,
        stage.objective.target, stage.order, experiment.loader,
    )  # fmt: skip


def check_feed(experiment: Experiment, stages: list[Stage]) -> None:
    """Raises UserError where a stage's augmentation is asked of a device that cannot do it."""
    for stage in stages:
        if experiment.feed in ("device", "resident") and (what := refused(stage.augmentation)):
            raise UserError(f"stage {stage.name}, augmentation: {what}: give --feed=host, not {experiment.feed}")


def looked(experiment: Experiment) -> dict:
    """evaluate.predictor's options for a validation."""
    return {"batch_size": experiment.eval_batch_size, "loader": experiment.loader}


def tested(experiment: Experiment) -> dict:
    """evaluate.predictor's options for the test."""
    versions, augmentation = experiment.test_versions, experiment.test_augmentation
    return looked(experiment) | {"versions": versions, "augmentation": augmentation}


def stage_seed(experiment: Experiment, number: int) -> int:
    """Of the order, the augmentation and the first weights of the stage of that number."""
    return int(np.random.SeedSequence([experiment.seed, number]).generate_state(1)[0])


def told(name: str, text: str) -> None:
    """On the screen, by the process that leads."""
    say(f"{name}: {text}")
