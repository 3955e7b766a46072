"""`--config=NAME --finetune.epochs=5` → an Experiment. Nothing heavy is imported until a config is named."""

import argparse
import contextlib
import dataclasses
import difflib
import inspect
import io
import re
from functools import partial
from typing import Annotated, Any

from data_pipelines.errors import UserError
from experiments.configs import CONFIGS

SWEEP = "--sweep."
USAGE = """\
usage: python experiments/run.py --config=NAME [options]
       python experiments/run.py --list

Trains the stages of a config, evaluates, and writes a report into the workdir. The same command again goes on where
it stopped.

  --config=NAME          which experiment, or row of a paper's table, as dldl_v2/pooling/gap (--list shows them)
  --data=NAME            prepared data set (default: synthetic, drawn faces, prepared on first use)
  --data_dir=DIR         folder of prepared data sets (default: data)
  --workdir=DIR          folder of this run, or gs://BUCKET/DIR (default: runs/<config>)
  --stages=A,B           only these stages
  --init=CHECKPOINT      start from the trunk of a finished run or stage, or of converted weights
  --model=BACKBONE       another network, as resnet18 (--list shows them)
  --recipe=paper|official  formulas as printed, or as the authors' code has them
  --cluster=none         one process, whatever SLURM, Open MPI or Cloud TPU say
  --image_size=PIXELS    --seed=INT    --dtype=float32|bfloat16    --loader.workers=INT

Every field can be set by its dotted name, stages by theirs: --model.compression=0.25 --finetune.epochs=5
--finetune.objective.lambda_=0.1 --finetune.objective=ExpectationRegression --finetune.optimizer.learning_rate=3e-4
--finetune.examples=NShot --finetune.examples.n=12 --finetune.order=ClassBalanced --finetune.schedule=OneCycle
Freezing, learning rates by part, and what is taken over go by parameter paths: --finetune.trainable=head
--finetune.rates=head:10,trunk/block1:0.1 --finetune.optimizer.decays=kernel$ --finetune.take=all
Lists are one word, --model.convolutions=2,2,2,3,3; so is a recipe for the network's input, --model.inputs=imagenet
(usual: that of the weights the run starts from, or the network's own).
Any option can be swept, and all combinations are tried: --sweep.seed=0..31 --sweep.objective.lambda_=0.1,1,10 trains
trials of the last stage together; --sweep.model=tiny,thin --sweep.finetune.objective=DEX,Ranking trains one run after
another. Values that hold commas have semicolons between them: '--sweep.finetune.rates=head:1;head:10,trunk:0.1'
Processes that no launcher started find each other by --cluster.coordinator=HOST:PORT --cluster.processes=N
--cluster.index=I; the same command again, in all of them, goes on where the run stopped.
`--config=NAME --help` shows all of them with their values.
"""


def parse(argv: list[str]):
    """The Experiment that the words ask for; None where they ask for a listing, which is printed. Raises UserError."""
    words, rest = _first_words(argv)
    if words.list:
        print(_listing())
        return None
    if words.config is None:
        if "-h" in rest or "--help" in rest:
            print(USAGE)
            return None
        raise UserError("give --config=NAME; --list shows the names")
    if "/" in words.config:
        return _row(words.config, argv)
    if words.config not in CONFIGS:
        raise UserError(f"unknown config {words.config!r}; {_nearest(words.config, CONFIGS)}")
    experiment = _make(CONFIGS[words.config], data=words.data, recipe=words.recipe)
    only = _chosen(experiment.stages, words.stages)
    experiment, rest = _with_kinds(experiment, rest)
    sweep, rest = _sweep_words(rest)
    experiment = _override(dataclasses.replace(experiment, only=only), rest)
    return dataclasses.replace(experiment, sweep=_sweep(experiment, sweep))


def _row(name: str, argv: list[str]):
    """One row of the papers' tables, as dldl_v2/pooling/gap: its config and words, then the user's."""
    from data_pipelines.schema import is_drawn
    from experiments.tables.rows import find, words_on

    run = find(name)
    config = f"--config={run.config}"  # the last one counts
    experiment = parse([*run.words, *argv, config])
    if experiment is None:
        return None
    if run.weights and not (run.instead_of or experiment.init or is_drawn(experiment.data)):
        raise UserError(f"{name} starts from weights: give --init=weights/{run.weights} (python -m agejax convert)")
    if (fitting := words_on(run, experiment.data)) != run.words:
        experiment = parse([*fitting, *argv, config])
    return dataclasses.replace(experiment, name=name)


def _first_words(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config")
    parser.add_argument("--data")
    parser.add_argument("--recipe", choices=("paper", "official"))
    parser.add_argument("--stages")
    parser.add_argument("--list", action="store_true")
    try:
        return parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from None


def _make(config, **choices):
    """Calls the config with the choices that were made. Raises UserError for one that it does not offer."""
    made = {name: value for name, value in choices.items() if value is not None}
    for name in made.keys() - inspect.signature(config).parameters.keys():
        raise UserError(f"{config.__name__} offers no choice of {name}")
    return config(**made)


def _listing() -> str:
    from agejax.models.network import BACKBONES
    from agejax.objectives import OBJECTIVES
    from data_pipelines.builders import BUILDERS
    from experiments.tables import rows as papers

    told = {"configs": CONFIGS, "data sets": BUILDERS, "objectives": OBJECTIVES}
    parts = {part: {name: _first_line(thing) for name, thing in table.items()} for part, table in told.items()}
    parts["rows of the papers' tables"] = {
        name: " ".join((run.config, *run.words)) for name, row in papers.rows().items() if (run := papers.run_of(row))
    }
    parts["backbones"] = {name: repr(backbone).replace(", inputs=None", "") for name, backbone in BACKBONES.items()}
    lines = [(part, [f"  {name:<22} {text}" for name, text in rows.items()]) for part, rows in parts.items()]
    return "\n".join(line for part, rows in lines for line in (f"{part}:", *rows))


def _first_line(thing: Any) -> str:
    return (thing.__doc__ or "").strip().splitlines()[0]


def _nearest(name: str, names) -> str:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"


def _chosen(stages: tuple, names: str | None) -> tuple[str, ...]:
    known, chosen = [stage.name for stage in stages], tuple(names.split(",")) if names else ()
    for name in chosen:
        if name not in known:
            raise UserError(f"unknown stage {name!r}; this config has {', '.join(known)}")
    return chosen


def _with_kinds(experiment, rest: list[str]):
    """Takes the words that choose a class or a row, as `--finetune.objective=DEX --model=resnet18`, out of the rest."""
    from agejax.models.network import BACKBONES
    from agejax.objectives import OBJECTIVES
    from agejax.training.cluster import CLUSTERS
    from agejax.training.optim import OPTIMIZERS, SCHEDULES
    from agejax.training.weighting import WEIGHTINGS
    from data_pipelines.samplers import ORDERS, SELECTIONS

    kinds = {"objective": OBJECTIVES, "optimizer": OPTIMIZERS, "schedule": SCHEDULES}
    kinds |= {"examples": SELECTIONS, "order": ORDERS, "weighting": WEIGHTINGS}
    tables = {f"{stage.name}.{field}": table for stage in experiment.stages for field, table in kinds.items()}
    tables |= {"model": BACKBONES, "cluster": CLUSTERS}
    others, words = [], iter(rest)
    for word in words:
        name, given, kind = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in tables:
            others.append(word)
            continue
        kind = kind if given else next(words, "")
        if kind not in tables[name]:
            raise UserError(f"unknown {name.split('.')[-1]} {kind!r}; {_nearest(kind, tables[name])}")
        experiment = _with_kind(experiment, name, tables[name][kind])
    return experiment, others


def _with_kind(experiment, name: str, kind: Any):
    """The experiment with another backbone, or, for `stage.field`, with an instance of another class."""
    owner, _, field = name.rpartition(".")
    if not owner:
        return dataclasses.replace(experiment, **{field: kind})
    stages = [
        dataclasses.replace(stage, **{field: _like(getattr(stage, field), kind)}) if stage.name == owner else stage
        for stage in experiment.stages
    ]
    return dataclasses.replace(experiment, stages=tuple(stages))


def _like(old: Any, kind: type) -> Any:
    """An instance of the class with the old one's values where both have a field of that name, as target and grid."""
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{f.name: getattr(old, f.name) for f in dataclasses.fields(old) if f.name in names})


def _sweep_words(rest: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """(name, values) of every `--sweep.NAME=VALUES`, and the other words."""
    found = [word.removeprefix(SWEEP).partition("=") for word in rest if word.startswith(SWEEP)]
    return [(name, values) for name, _, values in found], [word for word in rest if not word.startswith(SWEEP)]


def _sweep(experiment, found: list[tuple[str, str]]) -> tuple[tuple[str, tuple], ...]:
    """Every swept option, by its short name, and its values. Raises UserError."""
    sweep = [_swept(experiment, name, words) for name, words in found]
    if twice := [name for i, (name, _) in enumerate(sweep) if name in dict(sweep[:i])]:
        raise UserError(f"--sweep.{twice[0]} is given twice: name all its values once")
    return tuple(sweep)


def _swept(experiment, name: str, words: str) -> tuple[str, tuple]:
    from experiments.sweeps import names

    options = names.by_words(experiment)
    try:
        word = names.word_of(experiment, name)
    except KeyError:
        near = _nearest(name, dict.fromkeys(map(partial(names.short, experiment), options)))
        raise UserError(f"unknown option to sweep {name!r}; {near}") from None
    kind = type(options[word]).__name__
    try:
        values = names.read(words, options[word])
    except (ValueError, KeyError):
        raise UserError(f"--sweep.{name}={words}: give {kind}s, as 1,2,5, or whole numbers as 0..31") from None
    if len(set(values)) < len(values):
        raise UserError(f"--sweep.{name}={words} names a value twice")
    if isinstance(options[word], str) and word not in ("data", "recipe"):
        for value in values:
            _override(experiment, [f"--{word}={value}"])
    return names.short(experiment, word), values


def _override(experiment, rest: list[str]):
    """tyro sets the fields; stages stand under their names."""
    import tyro

    from experiments.forms import registry

    stages = {stage.name: _form(stage, hidden=("name",), extra={}) for stage in experiment.stages}
    form = _form(experiment, hidden=("name", "stages", "data", "recipe", "only", "sweep"), extra=stages)
    screen, style = io.StringIO(), (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)
    try:
        with contextlib.redirect_stderr(screen):
            values = tyro.cli(form, args=rest, prog="run.py", config=style, use_underscores=True, registry=registry())
    except SystemExit as stop:
        if stop.code:
            raise UserError(_one_line(screen.getvalue())) from None
        raise
    chosen = tuple(_plain(getattr(values, stage.name), stage) for stage in experiment.stages)
    return dataclasses.replace(_plain(values, experiment), stages=chosen)


def _form(instance: Any, hidden: tuple[str, ...], extra: dict[str, type]) -> type:
    """The instance's class with its values as defaults, each field typed by its value: what tyro reads."""
    import tyro

    fields = []
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        kind = type(value) if dataclasses.is_dataclass(value) else field.type
        kind = Annotated[Any, tyro.conf.Fixed, tyro.conf.Suppress] if field.name in hidden else kind
        fields.append((field.name, kind, dataclasses.field(default=value)))
    fields += [(name, kind, dataclasses.field(default_factory=kind)) for name, kind in extra.items()]
    return dataclasses.make_dataclass(type(instance).__name__, fields, bases=(type(instance),), frozen=True)


def _plain(form: Any, instance: Any) -> Any:
    """An instance of the original class with the form's values."""
    values = {field.name: getattr(form, field.name) for field in dataclasses.fields(instance)}
    return dataclasses.replace(instance, **values)


def _one_line(boxed: str) -> str:
    """What tyro drew in a box, without the box and its title."""
    inside = [line for line in boxed.splitlines() if not re.match(r"\s*[╭┌]", line)]
    text = re.sub(r"[─│╭╮╰╯┌┐└┘├┤\s]+", " ", " ".join(inside))
    return re.split("Argument helptext|For full helptext", text)[0].strip()
