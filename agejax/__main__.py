"""`python -m agejax evaluate | fuse | calibrate | convert | bench`: answers, weights and the speed of this machine."""

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from data_pipelines.errors import UserError


def main(argv: list[str]) -> int:
    """The exit code; 2 for a mistake in the words or the data, told in one line."""
    words = _parser().parse_args(argv)
    try:
        return words.command(words)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _listed(text: str) -> tuple[str, ...]:
    """Words with commas between; none of an empty text."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas between."""
    return tuple(map(float, _listed(text)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m agejax", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add = commands.add_parser("evaluate", help="measure a finished run on any prepared data set", allow_abbrev=False)
    add.add_argument(
        "--checkpoint", type=_listed, required=True,
        help="workdir of a finished run, or one stage's folder in it; or gs://…; of several, A,B,C, the mean is taken",
    )  # fmt: skip
    add.add_argument("--weights", type=_numbers, help="of several checkpoints, as 1,1,2 (default: all alike)")
    add.add_argument("--data", required=True, help="prepared data set, as synthetic, aaf, manifest")
    add.add_argument("--data_dir", type=Path, default=Path("data"), help="folder of prepared data sets (default: data)")
    add.add_argument("--split", default="test", help="a split, several as val+test, or all (default: test)")
    add.add_argument("--versions", type=int, default=1, help="of each image, augmented, as 10 for DEX; 1: mirror image")
    add.add_argument("--batch_size", type=int, default=256)
    add.add_argument("--json", type=Path, help="write the numbers here")
    add.add_argument("--predictions", type=Path, help="write id,LABEL,sigma,predicted,predicted_std here")
    add.set_defaults(command=evaluate)
    add = commands.add_parser("fuse", help="the mean of answers that several runs have saved", allow_abbrev=False)
    add.add_argument("files", type=Path, nargs="+", help="predictions.csv of finished runs on one split")
    add.add_argument("--weights", type=_numbers, help="one a file, as 1,1,2 (default: all alike)")
    add.add_argument("--json", type=Path, help="write the numbers here")
    add.add_argument("--predictions", type=Path, help="write id,LABEL,sigma,predicted,predicted_std here")
    add.set_defaults(command=fuse)
    add = commands.add_parser("calibrate", help="intervals that hold the label, from held-out data", allow_abbrev=False)
    add.add_argument("--checkpoint", required=True, help="as evaluate has it; what is found is kept beside its card")
    add.add_argument("--data", required=True, help="prepared data set like that of later use")
    add.add_argument("--data_dir", type=Path, default=Path("data"), help="folder of prepared data sets (default: data)")
    add.add_argument("--split", default="val", help="one that was not trained on (default: val)")
    add.add_argument("--coverage", type=_numbers, default=(0.9,), help="shares of labels, as 0.5,0.9 (default: 0.9)")
    add.add_argument(
        "--width", choices=("constant", "spread"),
        help="one for all, or by the predicted spread (default: spread, where the objective has a distribution)",
    )  # fmt: skip
    add.add_argument("--bands", type=int, default=1, help="of predicted labels, each for itself (default: 1)")
    add.add_argument("--versions", type=int, default=1, help="as evaluate has it; the same is then needed there")
    add.add_argument("--batch_size", type=int, default=256)
    add.set_defaults(command=calibrate)
    add = commands.add_parser("convert", help="weights of other programs in, ours out", allow_abbrev=False)
    add.add_argument("source", type=Path, help=".pth, .safetensors, .caffemodel, .t7 file; a finished run")
    add.add_argument("out", type=Path, help="folder for --init and evaluate; with --to=safetensors the file")
    add.add_argument("--backbone", help="as resnet18, vgg16, thin (default: the one that the file fits)")
    add.add_argument("--objective", help="what the outputs mean, as DEX (default: told from their number)")
    add.add_argument("--inputs", help="input recipe, as imagenet, faces, caffe_dex (default: the one such files have)")
    add.add_argument("--to", choices=("agejax", "safetensors"), default="agejax", help="form (default: agejax)")
    add.set_defaults(command=convert)
    add = commands.add_parser("bench", help="measure the speed here, beside that of other tools", allow_abbrev=False)
    add.add_argument("--only", type=_listed, help="of: floor,step,inference,train,trials,loader,detect (default: all)")
    add.add_argument("--json", type=Path, help="write the rows here, each as soon as it is measured")
    add.add_argument("--data", default="", help="prepared data set with photographs, as aaf (default: drawn faces)")
    add.add_argument("--data_dir", type=Path, default=Path("data"), help="folder of prepared data sets (default: data)")
    add.add_argument("--seconds", type=float, default=10, help="of measuring for each figure (default: 10)")
    models = "thin,tiny,vgg16,resnet18,efficientnet_v2_m"
    add.add_argument("--models", type=_listed, default=(), help=f"train takes the first (default: {models})")
    add.add_argument("--dtypes", type=_listed, default=(), help="(default: float32, on accelerators bfloat16 too)")
    add.add_argument("--size", type=int, default=224, help="of images, in pixels (default: 224)")
    add.add_argument("--batch", type=int, default=0, help="in training (default: 256, on a CPU 16)")
    add.add_argument("--inference", type=_listed, default=(), help="batches (default: 1,32,256,best; on a CPU no 256)")
    add.add_argument("--peers", type=_listed, default=("eager", "compile"), help="of: eager,compile,max-autotune")
    add.set_defaults(command=bench)
    return parser


def evaluate(words: argparse.Namespace) -> int:
    """Prints the numbers of trained stages on a prepared split; writes them, and every prediction, where asked."""
    from agejax import calibrate, ensemble
    from agejax.training import checkpoint, evaluate
    from data_pipelines import builders

    descriptions = [checkpoint.read_trained(place) for place in words.checkpoint]
    ensemble.check(words.checkpoint, descriptions, words.weights)
    calibration = calibrate.read(*words.checkpoint, words.versions) if len(words.checkpoint) == 1 else None
    examples = builders.open_split(words.data, words.data_dir, words.split)
    _make_room(words.json, words.predictions)
    answers = [_predictions(place, examples, words) for place in words.checkpoint]
    predictions = ensemble.fuse(answers, words.weights)
    numbers = evaluate.summarise(predictions, *ensemble.label_of(descriptions), examples)
    numbers |= {
        "data": words.data,
        "split": words.split,
        "checkpoint": ",".join(words.checkpoint),
        "trained_on": ",".join(dict.fromkeys(description.data for description in descriptions)),
    }
    more, sentences = {}, []
    if calibration:
        numbers["calibration"], sentences = _calibrated(calibration, predictions, words)
        more = calibrate.columns(calibration, predictions)
    rows = examples, predictions, numbers["target"], more
    _tell(words, numbers, lambda path: evaluate.write_predictions(path, *rows), sentences)
    return 0


def _calibrated(calibration, predictions, words: argparse.Namespace) -> tuple[dict, list[str]]:
    """What a calibration does on a split, for json and in sentences; both say whether it was fitted on these images.

    For json they are such where that is not known.
    """
    from agejax import calibrate

    measured = calibrate.measure(calibration, predictions)
    same = calibrate.in_common((words.data, words.split), (calibration.data, calibration.split))
    whole = calibration.split == "all" or set(words.split.split("+")) <= set(calibration.split.split("+"))
    remark = " (calibrated on these)" if whole else " (calibrated on some of these)"
    remark = {True: remark, False: "", None: " (perhaps calibrated on some of these)"}[same]
    where = {"data": calibration.data, "split": calibration.split, "calibrated_on_these": same is not False}
    sentences = [calibrate.sentence(calibration, coverage, found) + remark for coverage, found in measured.items()]
    return where | {"coverage": measured}, sentences


def _predictions(place: str, examples, words: argparse.Namespace):
    """Of one checkpoint; a warning where the faces are cropped in another way than its own."""
    from agejax.training import checkpoint, evaluate
    from agejax.training.sharding import make_mesh
    from data_pipelines import builders
    from data_pipelines.align import unlike

    if words.batch_size < 1:
        raise UserError(f"batch_size must be above 0, got {words.batch_size}")
    mesh = make_mesh()
    description, variables = checkpoint.load_trained(place, mesh)
    recipe = builders.summary(words.data, words.data_dir)["recipe"]
    if description.recipe and (difference := unlike(recipe, description.recipe)):
        text = f"faces of {words.data} are cropped in another way than in training: {difference}"
        print(f"warning: {text}", file=sys.stderr)
    size, versions = words.batch_size, words.versions
    answers = evaluate.predict_split(description, variables, examples, mesh, batch_size=size, versions=versions)
    evaluate.check_finite(answers, place)
    return answers


def _make_room(*files: Path | None) -> None:
    """For what is to be written when all is computed: a mistake in a name should not cost that."""
    from agejax.files import make_room

    for file in filter(None, files):
        make_room(file)


def _tell(
    words: argparse.Namespace, numbers: dict, write_predictions: Callable[[Path], None], more: Sequence[str] = ()
) -> None:
    """Prints the sentence, and more of them, and writes what was asked for."""
    from agejax.files import writing
    from agejax.training import evaluate

    print(evaluate.sentence(numbers), *more, sep="\n", flush=True)
    if words.predictions:
        with writing(words.predictions):
            write_predictions(words.predictions)
    if words.json:
        with writing(words.json):
            words.json.write_text(json.dumps(numbers, indent=2) + "\n")


def fuse(words: argparse.Namespace) -> int:
    """Prints the numbers of the mean of saved answers; writes them, and every prediction, where asked."""
    from agejax import ensemble
    from agejax.training import evaluate

    _make_room(words.json, words.predictions)
    every = [ensemble.read(file) for file in words.files]
    for file, one in zip(words.files, every):
        evaluate.check_finite(one.predictions, str(file))
    saved = ensemble.fuse_saved(every, words.weights)
    numbers = evaluate.summarise(saved.predictions, saved.target, None)
    numbers |= {"data": "mean of", "split": f"{len(words.files)} files", "files": list(map(str, words.files))}
    _tell(words, numbers, lambda path: ensemble.write(path, saved))
    return 0


def calibrate(words: argparse.Namespace) -> int:
    """Finds how wide intervals must be to hold the label, on a held-out split, and keeps it beside the stage's card."""
    from agejax import calibrate, ensemble
    from agejax.training import checkpoint
    from data_pipelines import builders

    description = checkpoint.read_trained(words.checkpoint)
    ensemble.check([words.checkpoint], [description], None)
    examples = builders.open_split(words.data, words.data_dir, words.split)
    calibrate.check_asked(words.coverage, words.bands)
    _make_room(calibrate.place(words.checkpoint))
    _warn_of_trained(words, *checkpoint.trained_on(words.checkpoint))
    objective = description.objective
    calibration = calibrate.fit(
        _predictions(words.checkpoint, examples, words), words.coverage, grid=objective.grid, target=objective.target,
        width=words.width or calibrate.usual_width(objective), bands=words.bands, data=words.data, split=words.split,
        versions=words.versions,
    )  # fmt: skip
    for coverage in calibration.quantiles:
        print(calibrate.told(calibration, coverage), flush=True)
    path = calibrate.write(words.checkpoint, calibration)
    print(f"from {calibration.n:,} examples ({words.data} {words.split}); written to {path}")
    return 0


def _warn_of_trained(words: argparse.Namespace, data: str, split: str) -> None:
    """Where the split to calibrate on has, or may have, images that the stage was trained on."""
    from agejax.calibrate import in_common

    same = in_common((words.data, words.split), (data, split))
    if same:
        text = f"intervals from examples that were trained on ({data} {split}) are too narrow for others"
        print(f"warning: {text}", file=sys.stderr)
    elif same is None:
        text = f"{words.data} {words.split} may hold images that were trained on ({data} {split})"
        print(f"warning: {text}: the intervals may be too narrow for others", file=sys.stderr)


def convert(words: argparse.Namespace) -> int:
    """Reads foreign weights, or ours, and writes them as ours, or as torchvision names them; prints what they are."""
    from agejax import convert

    weights = convert.read(words.source, words.backbone, words.objective, words.inputs)
    {"agejax": convert.write, "safetensors": convert.export}[words.to](weights, words.out)
    print(f"{convert.sentence(weights)}\nwritten to {words.out}")
    return 0


def bench(words: argparse.Namespace) -> int:
    """Prints a table of speeds beside those of the usual tools, measured in turn; writes its rows where asked.

    Interrupted, it shows what it has.
    """
    from agejax.bench import device

    device.share_memory()
    from agejax import bench
    from agejax.bench import record

    _make_room(words.json)
    names = bench.BENCHES if words.only is None else words.only
    chosen = {field.name: getattr(words, field.name) for field in dataclasses.fields(bench.Settings)}
    rows, remarks, code = [], [], 0
    found = bench.run(names, bench.Settings(**chosen), lambda text: (remarks.append(text), print(text, flush=True)))

    about = functools.cache(lambda: record.circumstances(sys.orig_argv))  # it opens the device

    def keep():
        if words.json:
            record.write(words.json, about(), rows, remarks)

    try:
        for row in found:
            rows.append(row)
            keep()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        code = 130
    keep()
    record.show(rows, about())
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
