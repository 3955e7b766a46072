"""What is settled before the first step: whose the workdir is, which stages run, whether data and labels fit them."""

import itertools
import json
import time
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from agejax import specs
from agejax.calibrate import in_common
from agejax.files import write_whole
from agejax.training import checkpoint, cluster
from agejax.training.cluster import is_leader, say, together
from agejax.training.sharding import check_batch_size
from agejax.training.stages import Stage, check_labels, check_parameters
from data_pipelines import builders
from data_pipelines.align import unlike
from data_pipelines.errors import DataError, UserError
from data_pipelines.samplers import Source
from data_pipelines.schema import is_drawn
from experiments.config import FREE_TO_CHANGE, NOT_YET, Experiment
from experiments.forms import write_inputs
from experiments.handover import FROM_DATA, Before, recipe_of, settled, with_inputs
from experiments.results import CONFIG, RESULTS, sentence
from experiments.saved import read_json

SHARED_SECONDS = 70  # network disks remember for up to a minute that a file was not there
RUNS = ("*/metrics.jsonl", "*/groups/*/metrics.jsonl")  # of a stage, and of a sweep of it
METRICS = dict.fromkeys(RUNS, 0) | {f"runs/*/{form}": 2 for form in RUNS}  # and of a queue; where the stage's name is


def ran_before(experiment: Experiment) -> bool:
    """Whether its workdir has its results, which is said. Raises UserError where the workdir is another run's."""
    workdir = experiment.folder
    cluster.check_same(settings(experiment), "other settings")
    with together():
        check_claim(workdir, experiment)
        finished = (workdir / RESULTS).exists()
    cluster.check_same(finished, f"other files in {workdir}")
    if finished:
        say(f"{sentence(workdir)}\nFinished before; to run again, remove {workdir} or choose another --workdir.")
    return finished


def check_claim(workdir: Path, experiment: Experiment) -> None:
    """Raises UserError where the workdir holds a run whose stages have made steps with other settings."""
    before = read_json(workdir / CONFIG)
    begun = {path.relative_to(workdir).parts[depth] for form, depth in METRICS.items() for path in workdir.glob(form)}
    if before is None or not begun:
        return
    if changed := differences(*(_decisive(known, begun) for known in (before, specs.encode(experiment)))):
        raise UserError(
            f"{workdir} holds a run with another {', '.join(changed[:4])}: "
            "choose another --workdir, or remove that folder"
        )


def _decisive(known: dict, begun: set[str]) -> dict:
    """What of a run's encoded settings has decided something, where these stages have begun."""
    left_out = FREE_TO_CHANGE if known["stages"][-1]["name"] in begun else (*FREE_TO_CHANGE, *NOT_YET)
    stages = [stage | {"data": stage["data"] or known["data"]} for stage in known["stages"] if stage["name"] in begun]
    return {name: value for name, value in known.items() if name not in left_out} | {"stages": stages}


def settings(experiment: Experiment) -> dict:
    """What decides what is computed, encoded."""
    return {name: value for name, value in specs.encode(experiment).items() if name not in FREE_TO_CHANGE}


def claim(workdir: Path, experiment: Experiment) -> None:
    """Makes the workdir this experiment's; the leader does. Raises UserError where it cannot be written."""
    if not is_leader():
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_whole(workdir / CONFIG, json.dumps(specs.encode(experiment), indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write in {workdir}: {error.strerror or error}; name another --workdir") from None


def check_shared(workdir: Path) -> None:
    """Raises UserError where a process does not see what the leader has written, not even a little later."""
    deadline = time.monotonic() + SHARED_SECONDS
    while not (workdir / CONFIG).exists():
        if time.monotonic() > deadline:
            raise UserError(
                f"{workdir} here is not the leader's: give a --workdir that all hosts share, on a network disk or gs://"
            )
        time.sleep(1)


def differences(a, b, path: str = "") -> list[str]:
    """Dotted names at which two encoded configs differ; a stage goes by its name."""
    if isinstance(a, dict) and isinstance(b, dict) and a.get("type") == b.get("type"):
        keys = sorted(a.keys() | b.keys())
        return [name for key in keys for name in differences(a.get(key), b.get(key), f"{path}.{key}" if path else key)]
    if path == "stages" and [stage["name"] for stage in a] == [stage["name"] for stage in b]:
        return [name for one, other in zip(a, b) for name in differences(one, other, one["name"])]
    return [] if a == b else [path]


def ensure_data(experiment: Experiment) -> None:
    """Drawn faces are prepared on first use; other sets must be there. Raises UserError with the command to type."""
    names = {stage.data or experiment.data for stage in experiment.stages if _wanted(stage, experiment)}
    names |= {experiment.data}
    for name in sorted(names):
        if is_drawn(name):
            builders.prepare(name, experiment.data_dir)
        builders.summary(name, experiment.data_dir)


def stages_to_run(experiment: Experiment) -> tuple[list[tuple[int, Stage]], dict[str, str]]:
    """The numbered stages that were asked for or were finished before, and why others are left out.

    A pretraining on identities that no picture has is left out, aloud; other missing labels raise UserError.
    """
    stages, left_out = [], {}
    for number, stage in enumerate(experiment.stages):
        if not _wanted(stage, experiment):
            continue
        name, target, asked = stage.data or experiment.data, stage.objective.target, stage.name in experiment.only
        share = builders.summary(name, experiment.data_dir)["labels"][target]
        if share == 1:
            stages.append((number, stage))
        elif target == "identity" and share == 0 and not asked and len(experiment.stages) > 1:
            left_out[stage.name] = f"{name} has no identities"
            say(
                f"{stage.name}: left out, as {name} has no identities; --{stage.name}.data=NAME pretrains on "
                "another set, --init=CHECKPOINT starts from a trained trunk"
            )
        else:
            raise UserError(f"stage {stage.name} trains on {target}, which {1 - share:.0%} of {name} lack")
    return stages, left_out


def _wanted(stage: Stage, experiment: Experiment) -> bool:
    """Asked for, or finished before."""
    asked = not experiment.only or stage.name in experiment.only
    return asked or bool(checkpoint.read_card(experiment.folder / stage.name))


def doubts(experiment: Experiment, stages: list[Stage], init: Before | None) -> list[str]:
    """What a reader of the run's number should know before it is made: splits that share faces, mixed recipes."""
    names = [stage.data or experiment.data for stage in stages] + [experiment.data]
    summaries = {name: builders.summary(name, experiment.data_dir) for name in names}
    found = [text for name, summary in summaries.items() if (text := shared_faces(name, summary))]
    found += [text] if (text := chosen_on_test(experiment)) else []
    recipes = [(f"the weights of {init.origin}", init.description.recipe)] if init and init.description.recipe else []
    recipes += [(name, summaries[name]["recipe"]) for name in dict.fromkeys(names)]
    for (before, one), (after, other) in itertools.pairwise(recipes):
        if difference := unlike(other, one):
            found.append(f"faces of {after} are cropped in another way than those of {before}: {difference}")
    return found + other_inputs(experiment.model, init)


def chosen_on_test(experiment: Experiment) -> str:
    """Said where the weights are the best ones on what they are then tested on."""
    splits = experiment.stages[-1].validation_split, experiment.test_split
    same = experiment.select == "best" and in_common(*((experiment.data, split) for split in splits))
    return "weights are chosen on the split that is tested on" if same else ""


def other_inputs(model, init: Before | None) -> list[str]:
    """Told where the network is to be fed in another way than the weights it starts from were."""
    if init is None or (mine := with_inputs(model, init).inputs) == (theirs := recipe_of(init.description.backbone)):
        return []
    words = f"--model.inputs={write_inputs(mine)}"
    return [f"{words}, and the weights of {init.origin} were trained with {write_inputs(theirs)}"]


def shared_faces(name: str, summary: dict) -> str:
    """What the data set's splits, or its protocol's, have in common though they should not; "" for nothing."""
    across = summary["audit"]["across"][name.partition("@")[2]]
    words = {"identical": "pairs of identical files", "similar": "pairs of near-duplicates", "subjects": "subjects"}
    if summary["trains"] == "identity":  # an identification set has everybody in all splits
        del words["subjects"]
    shared = [f"{across[kind]:,} {word}" for kind, word in words.items() if across[kind]]
    return f"splits of {name} share {', '.join(shared)}: measured numbers will be too good" if shared else ""


def check_stages(experiment: Experiment, stages: list[Stage], mesh: Mesh) -> None:
    """Raises UserError for what a later stage, or the test, would stumble over after hours."""
    wanted = [(experiment.data, experiment.test_split)] if experiment.stages[-1].objective.measures else []
    for stage in stages:
        check_batch_size(stage.batch_size, mesh, stage.accumulate)
        splits = (stage.train_split, stage.objective.measures and stage.validation_split)
        wanted += [(stage.data or experiment.data, split) for split in splits if split]
    for name, split in wanted:
        builders.open_split(name, experiment.data_dir, split)


def describe(experiment: Experiment, stage: Stage, init: Before | None = None) -> checkpoint.Description:
    """What the stage's weights will need to be used: the class count and the median label come from its data.

    The input recipe is that of the weights the run starts from, where no other is asked for.

    Raises UserError where a label to be trained on lies outside the objective's grid, or an option names parameters
    that the network does not have.
    """
    name, median = stage.data or experiment.data, None
    examples, _ = chosen(experiment, stage)
    objective = settled(stage.objective, FROM_DATA, name, experiment, examples)
    if objective.target != "identity":
        labels = examples.column(objective.target)
        check_labels(stage, labels, examples)
        median = float(np.nanmedian(labels))
    backbone = with_inputs(experiment.model, init)
    recipe = builders.summary(name, experiment.data_dir)["recipe"]
    description = checkpoint.Description(
        backbone, objective, experiment.image_size, experiment.dtype, experiment.alignment, name, median, recipe
    )
    check_parameters(stage, description)
    return description


def chosen(experiment: Experiment, stage: Stage) -> tuple[Source, str]:
    """(the examples that a stage trains on, how they were chosen in words). Raises DataError, naming the stage."""

    def open_split(name: str, split: str) -> Source:
        return builders.open_split(name, experiment.data_dir, split)

    examples = open_split(stage.data or experiment.data, stage.train_split)
    try:
        return stage.examples.choose(examples, experiment.seed, open_split)
    except DataError as error:
        raise DataError(f"stage {stage.name}, examples: {error}") from None
