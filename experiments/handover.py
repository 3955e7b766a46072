"""What a stage gets from the one before it, or from --init: weights, their input recipe, their validation MAE.

An objective's `wants` names fields that, left at 0, are found out: from the data before any stage runs, or from the
stage before when this one starts.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from agejax import metrics
from agejax.training import checkpoint
from agejax.training.checkpoint import Description
from agejax.training.cluster import say
from agejax.training.stages import Stage, check_start
from data_pipelines import builders
from data_pipelines.errors import UserError
from data_pipelines.samplers import Source, Subset
from experiments.config import Experiment


class Before(NamedTuple):
    """Finished weights that a stage starts from, or, without variables, such as will be there."""

    origin: str
    """Folder of the stage."""
    description: Description
    validation: dict | None
    """{measure: value} of these weights on the validation split; None: not measured."""
    variables: dict | None = None


def load_before(folder: Path, mesh: Mesh) -> Before:
    """The finished stage that the path means. Raises UserError."""
    description, variables = checkpoint.load_trained(folder, mesh)
    card = checkpoint.read_card(checkpoint.find_stage(folder))
    return Before(str(folder), description, card.get("validation"), variables)


def with_inputs(model, before: Before | None):
    """The backbone with its input recipe: the one asked for, else that of the weights it starts from, else its own."""
    theirs = recipe_of(before.description.backbone) if before else model.usual_inputs
    return dataclasses.replace(model, inputs=model.inputs or theirs)


def recipe_of(backbone):
    return backbone.inputs or backbone.usual_inputs


def settled(objective, finders: dict[str, Callable[..., Any]], *known):
    """The objective with its open fields filled in, as far as the finders can."""
    wanted = [name for name in objective.wants if name in finders and not getattr(objective, name)]
    return dataclasses.replace(objective, **{name: finders[name](*known) for name in wanted})


def count_identities(name: str, experiment: Experiment, examples: Source) -> int:
    """Classes that a head for the identities of these examples needs; a subset has numbers of its own."""
    if isinstance(examples, Subset):
        return int(examples.column("identity").max()) + 1
    return builders.summary(name, experiment.data_dir)["num_identities"]


def validation_mae(stage: Stage, before: Before | None) -> float:
    """Of the weights that the stage starts from, in the label's unit. Raises UserError with what to type."""
    target = stage.objective.target
    if before and before.description.objective.target == target and "mae" in (before.validation or {}):
        return before.validation["mae"]
    missing = f"{before.origin} has no validation MAE of {target}" if before else "there is no stage before it"
    unit = metrics.UNITS[target].upper()
    raise UserError(f"stage {stage.name} needs a mae, and {missing}: set --{stage.name}.objective.mae={unit}")


FROM_DATA = {"num_identities": count_identities}  # (data set, experiment, examples) → value
FROM_BEFORE = {"mae": validation_mae}  # (stage, before) → value


def take_over(stage: Stage, description: Description, before: Before | None, tell: bool = True) -> Description:
    """The description with what its objective wants of the stage before; told."""
    objective = settled(description.objective, FROM_BEFORE, stage, before)
    for name in objective.wants if tell else ():
        if (value := getattr(objective, name)) != getattr(description.objective, name):
            say(f"{stage.name}: {name} = {value:.6g}, of {before.origin} on its validation split")
    return dataclasses.replace(description, objective=objective)


def check_handovers(
    experiment: Experiment, stages: list[Stage], descriptions: dict[str, Description], init: Before | None
) -> None:
    """Raises UserError where a stage could not start from what will be there. `descriptions`: what is to be trained."""
    before = init
    for stage in stages:
        folder, description = experiment.folder / stage.name, descriptions.get(stage.name)
        if description is None:
            card = checkpoint.read_card(folder)
            before = Before(str(folder), checkpoint.read_description(folder), card.get("validation"))
            continue
        if init and before is init and stage.take == "nothing":
            raise UserError(f"stage {stage.name} takes nothing: leave --init away, or set --{stage.name}.take=trunk")
        if before:
            check_start(stage, description, before.description, before.origin)
        settled(description.objective, FROM_BEFORE, stage, before)
        will_be_measured = stage.validation_split and stage.objective.measures
        before = Before(str(folder), description, {stage.objective.measures: 1.0} if will_be_measured else None)
