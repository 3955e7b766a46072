"""Experiment → objects → a finished run. Straight-line: read top to bottom."""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from agejax import metrics
from agejax.parameters import count
from agejax.training import checkpoint, evaluate, loop
from agejax.training.checkpoint import Description
from agejax.training.feeds import Examples, open_feed
from agejax.training.progress import Progress
from agejax.training.sharding import make_mesh, replicated
from agejax.training.stages import Stage, start_variables
from agejax.training.state import new_state
from agejax.training.step import make_train_steps, make_update
from data_pipelines import builders
from experiments.check import check_claim, check_stages, chosen, claim, describe, doubts, ensure_data, stages_to_run
from experiments.config import Experiment
from experiments.handover import Before, check_handovers, load_before, take_over
from experiments.report import write_report
from experiments.results import RESULTS, new_results, sentence, write_results


def run(experiment: Experiment, argv: list[str]) -> int:
    """Trains what is not trained yet, evaluates the last stage on the test split, writes the report. The exit code."""
    workdir = experiment.folder
    check_claim(workdir, experiment)
    if (workdir / RESULTS).exists():
        print(f"{sentence(workdir)}\nFinished before; to run again, remove {workdir} or choose another --workdir.")
        return 0
    mesh = make_mesh()
    ensure_data(experiment)
    stages, left_out = stages_to_run(experiment)
    trained = load_before(experiment.init, mesh) if experiment.init else None
    check_stages(experiment, [stage for _, stage in stages], mesh)
    warnings = doubts(experiment, [stage for _, stage in stages], trained)
    for text in warnings:
        print(f"warning: {text}", flush=True)
    # reads every label, so only for what is still to be trained; a finished stage has its own on disk
    to_train = [stage for _, stage in stages if not checkpoint.read_card(workdir / stage.name)]
    descriptions = {stage.name: describe(experiment, stage, trained) for stage in to_train}
    check_handovers(experiment, [stage for _, stage in stages], descriptions, trained)
    claim(workdir, experiment)
    try:
        for number, stage in stages:
            trained = run_stage(experiment, number, stage, descriptions.get(stage.name), trained, mesh)
    except loop.Interrupted as stop:
        print(f"{stop}; the same command goes on from there", flush=True)
        return 128 + stop.signal
    except loop.Diverged as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    if not checkpoint.read_card(workdir / experiment.stages[-1].name):
        print(f"finished {', '.join(experiment.only)}; the same command without --stages goes on to the end")
        return 0
    results = new_results(experiment, argv) | {"left_out": left_out, "warnings": warnings}
    results["stages"] = {stage.name: summary_of(workdir / stage.name) for _, stage in stages}
    report(experiment, trained, results, mesh)
    print(sentence(workdir))
    return 0


def run_stage(
    experiment: Experiment, number: int, stage: Stage, description: Description, before: Before | None, mesh: Mesh
) -> Before:
    """The finished stage, for the next one: trained now, or loaded where it was finished before."""
    folder = experiment.folder / stage.name
    if checkpoint.read_card(folder):
        print(f"{stage.name}: finished before, skipped", flush=True)
        return load_before(folder, mesh)
    folder.mkdir(parents=True, exist_ok=True)
    examples, how = chosen(experiment, stage)
    description = take_over(stage, description, before)
    network = description.network(stage.trainable)
    steps, per_epoch = stage.steps(len(examples)), len(examples) / stage.batch_size

    seed = int(np.random.SeedSequence([experiment.seed, number]).generate_state(1)[0])
    source = (before.description, before.variables) if before else None
    variables, start = start_variables(stage, description, seed, source, before.origin if before else "")
    counted = f"{len(examples):,} examples" + (f" ({how})" if how else "")
    print(f"{stage.name}: {counted}, {steps:,} steps of {stage.batch_size}; {start}", flush=True)
    optimizer = stage.make_optimizer(variables["params"], steps, per_epoch)
    state = jax.device_put(new_state(variables, optimizer), replicated(mesh))

    feed = open_feed(experiment.feed, fed(experiment, stage, examples, seed), mesh, partial(told, stage.name))
    looks = [max(1, round(every * per_epoch)) for every in (experiment.checkpoint_epochs, experiment.validate_epochs)]
    plan = loop.Plan(stage.name, stage.batch_size, steps, per_epoch, *looks, dispatch=min(feed.dispatch, *looks))
    with checkpoint.StageCheckpoints(folder) as checkpoints:
        state, summary = loop.train(
            plan,
            state,
            make_train_steps(make_update(network, description.objective, optimizer, seed), feed, mesh),
            feed.open,
            make_validation(experiment, stage, description, mesh),
            description.objective.measures,
            checkpoints,
            partial(Progress, folder, stage.name, steps, per_epoch),
        )
    selected, variables, measure = "latest", state.variables, description.objective.measures
    if experiment.select == "best" and summary["best"]:
        selected, summary["validation"] = "best", {measure: summary["best"][measure]}
        variables = checkpoint.load_variables(folder, description, selected, mesh)
    summary |= {"parameters": count(state.params), "examples": len(examples), "selected": selected}
    checkpoint.write_card(folder, description, summary)
    return Before(str(folder), description, summary["validation"], variables)


def fed(experiment: Experiment, stage: Stage, examples, seed: int) -> Examples:
    """What the stage's feed needs to know."""
    return Examples(
        examples, stage.batch_size, experiment.image_size, seed, stage.augmentation, experiment.alignment,
        stage.objective.target, stage.order, experiment.loader,
    )  # fmt: skip


def told(name: str, text: str) -> None:
    print(f"{name}: {text}", flush=True)


def make_validation(experiment: Experiment, stage: Stage, description, mesh: Mesh) -> Callable[[dict], dict] | None:
    """variables → {measure: value} on the stage's validation split."""
    if not stage.validation_split or description.objective.measures is None:
        return None
    examples = builders.open_split(description.data, experiment.data_dir, stage.validation_split)
    size, loader = experiment.eval_batch_size, experiment.loader
    predict = evaluate.predictor(description, examples, mesh, batch_size=size, loader=loader)

    def validate(variables):
        predictions = predict(variables)
        return {"mae": metrics.mae(predictions.label, predictions.value)}

    return validate


def summary_of(folder: Path) -> dict:
    return {name: value for name, value in checkpoint.read_card(folder).items() if name != "description"}


def report(experiment: Experiment, trained: Before, results: dict, mesh: Mesh) -> None:
    """predictions.csv, results.json and report.html of the last stage on the test split."""
    description, variables = trained.description, trained.variables
    workdir, began = experiment.folder, time.monotonic()
    if description.objective.measures is None:
        results["test"] = None
        write_results(workdir, results)
        return
    examples = builders.open_split(experiment.data, experiment.data_dir, experiment.test_split)
    size, loader = experiment.eval_batch_size, experiment.loader
    predictions = evaluate.predict_split(description, variables, examples, mesh, batch_size=size, loader=loader)
    test = evaluate.measure(predictions, description)
    evaluate.write_predictions(workdir / "predictions.csv", examples, predictions, test["target"])
    results["median_baseline_mae"] = test.pop("median_baseline_mae")
    where = {"data": experiment.data, "split": experiment.test_split}
    results["test"] = where | {"seconds": round(time.monotonic() - began, 1)} | test
    write_results(workdir, results)
    write_report(workdir, examples)
