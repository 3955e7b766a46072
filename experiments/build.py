"""Experiment → objects → a finished run. Straight-line: read top to bottom."""

import dataclasses
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
from jax.sharding import Mesh

from agejax import metrics, specs
from agejax.parameters import count
from agejax.training import checkpoint, cluster, evaluate, loop
from agejax.training.checkpoint import Description
from agejax.training.cluster import is_leader, say, together
from agejax.training.compilation import keep_compiled
from agejax.training.feeds import open_feed
from agejax.training.progress import make_progress
from agejax.training.sharding import make_mesh, replicate
from agejax.training.stages import Stage, start_variables
from agejax.training.state import new_state
from agejax.training.step import make_train_steps, make_update
from data_pipelines import builders
from experiments.check import (
    check_shared,
    check_stages,
    chosen,
    claim,
    describe,
    doubts,
    ensure_data,
    ran_before,
    stages_to_run,
)
from experiments.config import Experiment
from experiments.feeding import check_feed, fed, looked, stage_seed, tested, told
from experiments.handover import Before, check_handovers, load_before, take_over
from experiments.report import write_report
from experiments.results import new_results, sentence, summarise, write_results
from experiments.sweeps.page import write_page
from experiments.sweeps.vectorised import check_sweep, run_sweep


def run(experiment: Experiment, argv: list[str]) -> int:
    """Trains what is not trained yet, evaluates the last stage on the test split, writes the report. The exit code."""
    workdir = experiment.folder
    if ran_before(experiment):
        return 0
    accelerated = jax.default_backend() != "cpu"
    if experiment.compile_cache or accelerated:
        keep_compiled(experiment.compile_cache or workdir / "compiled")
    mesh, loader = make_mesh(), experiment.loader.settled(accelerated)
    experiment = dataclasses.replace(experiment, loader=loader)
    cluster.in_turn(partial(ensure_data, experiment))
    with together():
        stages, left_out = stages_to_run(experiment)
        if experiment.init:
            checkpoint.find_stage(experiment.init)
    trained = load_before(experiment.init, mesh) if experiment.init else None
    with together():
        check_stages(experiment, [stage for _, stage in stages], mesh)
        check_feed(experiment, [stage for _, stage in stages])
        if experiment.sweep:
            check_sweep(experiment)
        warnings = doubts(experiment, [stage for _, stage in stages], trained)
        for text in warnings:
            say(f"warning: {text}")
        # reads every label, so only for what is still to be trained; a finished stage has its own on disk
        to_train = [stage for _, stage in stages if not checkpoint.read_card(workdir / stage.name)]
        descriptions = {stage.name: describe(experiment, stage, trained) for stage in to_train}
        check_handovers(experiment, [stage for _, stage in stages], descriptions, trained)
        claim(workdir, experiment)
    with together():
        check_shared(workdir)
    cluster.check_same([specs.encode(one) for one in descriptions.values()], f"other data, or files in {workdir},")
    trials, last = None, experiment.stages[-1]
    try:
        for number, stage in stages:
            if experiment.sweep and stage is last:
                trials = run_sweep(experiment, number, trained)
            else:
                trained = run_stage(experiment, number, stage, descriptions.get(stage.name), trained, mesh)
    except loop.Interrupted as stop:
        say(f"{stop}; the same command goes on from there")
        return 128 + stop.signal
    except loop.Diverged as error:
        if is_leader():
            print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    if last not in [stage for _, stage in stages]:
        say(f"finished {', '.join(experiment.only)}; the same command without --stages goes on to the end")
        return 0
    began, predictions = time.monotonic(), predict_test(experiment, trained, mesh) if trials is None else None
    with together():
        if is_leader():
            results = new_results(experiment, argv) | {"left_out": left_out, "warnings": warnings}
            trained_once = [stage.name for _, stage in stages if trials is None or stage is not last]
            results["stages"] = {name: summary_of(workdir / name) for name in trained_once}
            if trials is None:
                report(experiment, trained.description, predictions, results, began)
            else:
                write_results(workdir, results | {"trials": trials, "sweep": summarise(trials)})
                write_page(workdir)
            say(sentence(workdir))
    return 0


def run_stage(
    experiment: Experiment, number: int, stage: Stage, description: Description | None, before: Before | None, mesh
) -> Before:
    """The finished stage, for the next one: trained now, or loaded as it was finished before (no description)."""
    folder = experiment.folder / stage.name
    if description is None:
        say(f"{stage.name}: finished before, skipped")
        return load_before(folder, mesh)
    folder.mkdir(parents=True, exist_ok=True)
    examples, how = chosen(experiment, stage)
    description = take_over(stage, description, before)
    network = description.network(stage.trainable)
    steps, per_epoch = stage.steps(len(examples)), len(examples) / stage.batch_size

    seed = stage_seed(experiment, number)
    source = (before.description, before.variables) if before else None
    variables, start = start_variables(stage, description, seed, source, before.origin if before else "")
    counted = f"{len(examples):,} examples" + (f" ({how})" if how else "")
    say(f"{stage.name}: {counted}, {steps:,} steps of {stage.batch_size}; {start}")
    optimizer = stage.make_optimizer(variables["params"], steps, per_epoch)
    state = replicate(new_state(variables, optimizer), mesh)

    feed = open_feed(experiment.feed, fed(experiment, stage, examples, seed), mesh, partial(told, stage.name))
    looks = [max(1, round(every * per_epoch)) for every in (experiment.checkpoint_epochs, experiment.validate_epochs)]
    plan = loop.Plan(stage.name, stage.batch_size, steps, per_epoch, *looks, dispatch=min(feed.dispatch, *looks))
    weights = stage.weights(examples)
    update = make_update(network, description.objective, optimizer, seed, stage.accumulate, weights)
    with checkpoint.StageCheckpoints(folder) as checkpoints:
        state, summary = loop.train(
            plan,
            state,
            make_train_steps(update, feed, mesh),
            feed.open,
            make_validation(experiment, stage, description, mesh, keep=feed.name == "resident"),
            description.objective.measures,
            checkpoints,
            partial(make_progress, folder, stage.name, steps, per_epoch),
        )
    selected, variables, measure = "latest", state.variables, description.objective.measures
    if experiment.select == "best" and summary["best"]:
        selected, summary["validation"] = "best", {measure: summary["best"][measure]}
        variables = checkpoint.load_variables(folder, description, selected, mesh)
    summary |= {"parameters": count(state.params), "examples": len(examples), "selected": selected}
    summary["trained_on"] = {"data": description.data, "split": stage.train_split}
    with together():
        if is_leader():
            checkpoint.write_card(folder, description, summary)
    return Before(str(folder), description, summary["validation"], variables)


def make_validation(
    experiment: Experiment, stage: Stage, description: Description, mesh: Mesh, keep: bool
) -> Callable[[dict], dict] | None:
    """variables → {measure: value} on the stage's validation split; keep: its pictures stay in device memory."""
    if not stage.validation_split or description.objective.measures is None:
        return None
    examples = builders.open_split(description.data, experiment.data_dir, stage.validation_split)
    predict = evaluate.predictor(description, examples, mesh, keep=keep, **looked(experiment))

    def validate(variables):
        predictions = predict(variables)
        return {"mae": metrics.mae(predictions.label, predictions.value)}

    return validate


def summary_of(folder: Path) -> dict:
    return {name: value for name, value in checkpoint.read_card(folder).items() if name != "description"}


def predict_test(experiment: Experiment, trained: Before, mesh: Mesh) -> evaluate.Predictions | None:
    """Of the last stage on the test split; None where it gives no label."""
    description, variables = trained.description, trained.variables
    if description.objective.measures is None:
        return None
    examples = builders.open_split(experiment.data, experiment.data_dir, experiment.test_split)
    return evaluate.predict_split(description, variables, examples, mesh, **tested(experiment))


def report(experiment: Experiment, description: Description, predictions, results: dict, began: float) -> None:
    """predictions.csv, results.json and report.html of the last stage on the test split."""
    workdir = experiment.folder
    if predictions is None:
        write_results(workdir, results | {"test": None})
        return
    examples = builders.open_split(experiment.data, experiment.data_dir, experiment.test_split)
    test = evaluate.measure(predictions, description, examples)
    evaluate.write_predictions(workdir / "predictions.csv", examples, predictions, test["target"])
    results["median_baseline_mae"] = test.pop("median_baseline_mae")
    where = {"data": experiment.data, "split": experiment.test_split}
    results["test"] = where | {"seconds": round(time.monotonic() - began, 1)} | test
    write_results(workdir, results)
    write_report(workdir, examples)
