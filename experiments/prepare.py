"""Makes a downloaded data set ready: `python experiments/prepare.py --data=aaf --raw=DIR [--data_dir=data]`.

Every image is checked, its face found and stored with its labels as ArrayRecord files under data_dir; what was found
out about the set, duplicates and leaks above all, is shown at the end. `--list` names the data sets and their options.
`--data=synthetic` draws its own faces and needs no --raw; `--data=manifest --raw=FILE.csv` reads any list of pictures,
and `--data=manifest/NAME` keeps several lists side by side. A build that was killed goes on where it was.
"""

import argparse
import collections
import importlib.util
import re
import sys
import time

NO_DETECTOR = (
    "whole pictures are taken as faces where the set gives no points, as no detector is installed: "
    "pip install 'agejax[faces]', then --overwrite"
)
DETECTORS = ("auto", "given", "mtcnn", "yunet", "none")


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, dict[str, str]]:
    """The words of the command line, and the set's own options; ends the program with exit code 2 for wrong words."""
    parser = argparse.ArgumentParser(
        "prepare.py", description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Other words, as --faces=100, are options of the data set: --list shows them.",
    )  # fmt: skip
    add = parser.add_argument
    add("--data", metavar="NAME", help="as aaf, morph, manifest, manifest/NAME, synthetic, synthetic/mugshot")
    add("--raw", metavar="PATH", help="what you downloaded: the folder, or a manifest's CSV file")
    add("--data_dir", default="data", metavar="DIR", help="where prepared sets lie (%(default)s)")
    add(
        "--detector", choices=DETECTORS, default="auto",
        help="who finds the face and its five points: given, the set's own points; mtcnn; yunet, with --model; "
        "none, the whole picture is the face; auto, given where there are points, else mtcnn (%(default)s)",
    )  # fmt: skip
    add("--model", metavar="FILE", help="the detector's model file, for yunet")
    add("--size", type=int, default=0, metavar="PX", help="store aligned faces of this size; 0: pictures as found (0)")
    add("--face_scale", type=float, default=1.0, metavar="S", help="of stored faces; below 1 shows more around (1.0)")
    add(
        "--max_bad_share", type=float, metavar="SHARE",
        help="stop when more images than this share of the rows are missing or unreadable "
        "(manifest 0.01, else 0.5; one always may be, unless 0)",
    )  # fmt: skip
    add("--audit", action="store_true", help="show every finding and write audit.html beside the records")
    add("--beam", metavar="RUNNER", help="build by Apache Beam, as DirectRunner, DataflowRunner, FlinkRunner")
    add("--beam_option", action="append", default=[], metavar="KEY=VALUE", help="for Beam; may be given several times")
    add("--overwrite", action="store_true", help="prepare again; a failure leaves the old set in place")
    add("--list", action="store_true", help="the data sets, what each needs, its options and its licence")
    words, rest = parser.parse_known_args(argv)
    if not words.list and not words.data:
        parser.error("--data=NAME is missing; --list shows the data sets")
    return words, _own_options(parser, rest)


def _own_options(parser: argparse.ArgumentParser, words: list[str]) -> dict[str, str]:
    """`--faces=100` or `--faces 100` → {"faces": "100"}."""
    options, remaining = {}, iter(words)
    for word in remaining:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            parser.error(f"unrecognized argument: {word}")
        options[name] = value if equals else next(remaining, "")
    return options


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0, or 2 with one line on stderr for a mistake that the user can mend."""
    words, own = parse(argv)
    from data_pipelines.errors import UserError  # after parse: --help must not wait for tensorflow-datasets

    try:
        list_sets() if words.list else prepare(words, own)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def prepare(words: argparse.Namespace, own: dict[str, str]) -> None:
    """Prepares the set if it is not there yet, and shows its summary. Raises UserError."""
    from data_pipelines import builders

    started = time.monotonic()
    options = typed(words.data, own)
    ready = not words.overwrite and builders.is_prepared(words.data, words.data_dir)
    place = builders.prepare(
        words.data,
        words.data_dir,
        words.raw,
        detector=None if ready and words.detector == "auto" else make_detector(words),
        keep_points=words.detector == "auto",
        size=words.size,
        face_scale=words.face_scale,
        overwrite=words.overwrite,
        max_bad_share=words.max_bad_share,
        runner=make_runner(words),
        **options,
    )
    summary = builders.summary(words.data, words.data_dir)
    if summary["missing"]["landmarks"] and summary["detector"] == "given" and words.detector == "auto":
        print(f"warning: {NO_DETECTOR}", file=sys.stderr)
    show(summary, everything=words.audit)
    if words.audit:
        from data_pipelines.records import index
        from experiments.audit_page import write_page

        everyone = builders.open_stored(words.data, words.data_dir)
        print(f"audit: {write_page(place, summary, index.read_all(place), everyone)}")
    took = f"took {time.monotonic() - started:.0f} s"
    print(f"{place}: {'was prepared already; --overwrite prepares it again' if ready else took}")


def typed(name: str, own: dict[str, str]) -> dict:
    """The set's own options as the types of their defaults; unknown ones are left for prepare() to refuse."""
    from data_pipelines import builders
    from data_pipelines.errors import UserError

    defaults, options = builders.builder_class(name).options_taken(), {}
    for option, text in own.items():
        kind = type(defaults.get(option, ""))
        try:
            options[option] = {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
        except (ValueError, KeyError):
            raise UserError(f"--{option}={text} does not fit: its default is {defaults[option]!r}") from None
    return options


def make_detector(words: argparse.Namespace):
    """The detector that the words name; None: the set's own points."""
    from data_pipelines import builders, detectors
    from data_pipelines.errors import UserError

    kind = words.detector
    if (kind == "yunet") != bool(words.model):
        raise UserError("--model=FILE and --detector=yunet go together")
    if kind == "yunet":
        return detectors.YuNet(words.model)
    if kind in ("given", "none"):
        return detectors.WholeImage() if kind == "none" else None
    if kind == "auto" and (not builders.builder_class(words.data).NEEDS or not importlib.util.find_spec("mtcnn")):
        return None  # drawn faces have their points; else a warning follows where it was needed
    from agejax.faces import MTCNN, networks

    networks.load_weights()  # a damaged file is better known now than in the middle of a build
    return MTCNN()


def make_runner(words: argparse.Namespace):
    """Apache Beam, where it was asked for."""
    from data_pipelines.errors import UserError

    for option in words.beam_option:
        if "=" not in option or not words.beam:
            raise UserError(f"--beam_option={option}: give KEY=VALUE, and --beam=RUNNER")
    if not words.beam:
        return None
    from data_pipelines.records import beam

    return beam.runner(words.beam, dict(option.split("=", 1) for option in words.beam_option))


def list_sets() -> None:
    """Every data set: what --raw must name, options with their defaults, home and licence."""
    from data_pipelines.builders import BUILDERS

    for name, made_by in BUILDERS.items():
        print(f"{name}: {made_by.__doc__.splitlines()[0]}")
        facts = {
            "raw": made_by.NEEDS,
            "variants": ", ".join(f"{name}/{config.name}" for config in made_by.BUILDER_CONFIGS),
            "options": " ".join(f"--{option}={value}" for option, value in made_by.options_taken().items()),
            "home": made_by.HOMEPAGE,
            "licence": made_by.LICENCE,
        }
        for heading, text in facts.items():
            if text:
                print(f"  {heading:9}{text}")


def show(summary: dict, everything: bool = False) -> None:
    """The summary as a table: splits, ages in years, labels, faces found, what was skipped, what the audit says."""
    from rich.console import Console
    from rich.table import Table

    from data_pipelines.audit import by_reason

    table = Table("split", title=summary["name"], title_justify="left")
    for heading in ("faces", "identities", "youngest", "median age", "oldest"):
        table.add_column(heading, justify="right")
    for split, faces in summary["splits"].items():
        ages = [summary["ages"][split][key] for key in ("min", "median", "max")]
        table.add_row(split, f"{faces:,}", f"{summary['identities'][split]:,}", *map(_years, ages))
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(table)
    console.print("labelled: " + ", ".join(f"{label} {_percent(share)}" for label, share in summary["labels"].items()))
    faces = summary["faces"]
    if faces["found"] is not None:
        console.print(
            f"faces by {summary['detector']}: {faces['found']:,} found ({faces['several']:,} among several), "
            f"{faces['none']:,} pictures without one are taken whole"
        )
    if summary["protocols"]:
        first = f"--data={summary['name']}@{next(iter(summary['protocols']))}"
        console.print(f"protocols: {_families(summary)} (as {first})")
    for reason, files in by_reason(summary["skipped"]).items():
        named = ", ".join(files[:3]) + (", …" if len(files) > 3 else "")
        console.print(f"skipped, {reason}: {len(files):,} ({named})")
    for text in summary["warnings"]:
        console.print(f"warning: {text}")
    for finding in summary["audit"]["findings"]:
        if everything or finding["severity"] != "note":
            console.print(f"{finding['severity']}: {finding['text']}")


def _families(summary: dict) -> str:
    """`rs_0 … rs_4, official`: numbered ones together."""
    families = collections.defaultdict(list)
    for protocol in summary["protocols"]:
        families[re.sub(r"_?\d+$", "", protocol)].append(protocol)
    return ", ".join(names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}" for names in families.values())


def _years(age: float | None) -> str:
    return "–" if age is None else f"{age:.4g}"


def _percent(share: float) -> str:
    """Never 100 % or 0 % unless all or none."""
    return f"{share:.0%}" if share in (0, 1) else f"{min(max(share, 0.001), 0.999):.1%}"


if __name__ == "__main__":
    sys.exit(main())
