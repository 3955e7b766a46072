"""A paper's figures, drawn from runs that are finished; what is not finished is said, not run."""

from collections.abc import Callable
from html import escape
from pathlib import Path

import numpy as np

from agejax import calibrate, saliency
from agejax.training import checkpoint
from agejax.training.sharding import make_mesh
from data_pipelines import builders
from data_pipelines.errors import UserError
from experiments import figures
from experiments.results import RESULTS
from experiments.saved import read_predictions
from experiments.tables import beyond, dldl_v2, fills
from experiments.tables.kinds import Table
from experiments.tables.runs import Planned, Setting, plan

NOT_DRAWN = '<p class="muted">Not drawn: {}</p>'
NOT_RUN = NOT_DRAWN.format("{} has not run on {} in this setting.")


def drawn(table: Table, setting: Setting) -> str:
    """The table's figures for its first data set as markup; "" where it has none."""
    if table.name not in FIGURES:
        return ""
    try:
        return FIGURES[table.name](table, table.data[0], setting)
    except UserError as error:
        return NOT_DRAWN.format(escape(str(error)))


def of_dldl_v2(table: Table, data: str, setting: Setting) -> str:
    """Label encodings; good and poor cases, score maps by age group and occlusion of ThinAgeNet."""
    planned = plan(dldl_v2.thin(), data, setting)
    if (trial := _first(planned)) is None:
        return figures.label_encodings() + NOT_RUN.format("ThinAgeNet", data)
    description, variables = checkpoint.load_trained(trial)
    examples, mesh = builders.open_split(data, setting.data_dir, planned.experiment.test_split), make_mesh()
    target = description.objective.target
    said = read_predictions((_saved_in(planned, trial)), target)
    p_NxK = saliency.distributions(description, variables, examples, mesh)
    groups = saliency.means_by_age_group(saliency.score_maps(description, variables, examples, mesh))
    face = np.mean([group.face for group in groups.values()], axis=0)
    hidden = saliency.occlusion(description, variables, examples, mesh)
    shown = (said["label"], said["sigma"], said["predicted"], p_NxK, description.objective.grid, target)
    cases = figures.cases(examples, *shown)
    return figures.label_encodings() + cases + figures.score_maps(groups) + figures.occlusion(hidden, face)


def of_few_examples(table: Table, data: str, setting: Setting) -> str:
    """MAE against the number of examples, every trial a point; a panel for each prior, or budget."""
    panels: dict[str, dict[int, list[float]]] = {}
    for row in table.made_of((data,)).rows:
        start, _, n = row.name.rpartition("N = ")
        if found := fills.at_hand(row.fill, data, setting):
            panel = panels.setdefault(start.removesuffix(", ") or table.title, {})
            panel[int(n)] = np.abs(found.predicted - found.label).mean(axis=1).tolist()
    panels = {start: known for start, known in panels.items() if known.keys() - {0}}
    return figures.error_against_examples(panels) if panels else NOT_RUN.format("none of it", data)


def of_intervals(table: Table, data: str, setting: Setting) -> str:
    """Width and coverage of 90 % intervals by age."""
    planned = plan(beyond.INTERVALS.rows[1].fill.run, data, setting)
    splits = fills.held_out_and_test(planned, data)
    if (trial := _first(planned)) is None:
        return NOT_RUN.format("ThinAgeNet", data)
    objective = planned.experiment.stages[-1].objective
    held_out, test = (fills.saved(trial / fills.named(data, split), objective.target) for split in splits)
    calibration = calibrate.fit(held_out, (0.9,), data=data, split=splits[0], **fills.of_intervals(objective))
    return figures.intervals_by_age(calibration, "0.9", calibrate.measure(calibration, test)["0.9"])


FIGURES: dict[str, Callable[[Table, str, Setting], str]] = {
    "comparison": of_dldl_v2, "intervals": of_intervals,
    **dict.fromkeys(("lap", "morph", "lap_budgets", "morph_budgets", "few_shots"), of_few_examples),
}  # fmt: skip
"""By the table that they belong to."""


def _first(planned: Planned) -> Path | None:
    """The finished run's stage, or its first trial."""
    folder = planned.folder(planned.last)
    if not (folder / RESULTS).exists():
        return None
    return next(iter(fills.trials_of(folder, planned.experiment.stages[-1].name)), None)


def _saved_in(planned: Planned, trial: Path) -> Path:
    """Its predictions: of a run they lie above the stage."""
    return next(path for path in (trial / fills.SAVED, trial.parent / fills.SAVED) if path.exists())
