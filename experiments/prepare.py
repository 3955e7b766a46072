"""Makes a downloaded data set ready: `python experiments/prepare.py --data=aaf --raw=DIR [--data_dir=data]`.

Every image is checked once and stored with its labels as ArrayRecord files under data_dir. `--data=synthetic` draws its
own faces and needs no --raw; `--data=manifest --raw=FILE.csv` reads any list of pictures, and `--data=manifest/NAME`
keeps several lists side by side.
"""

import argparse
import collections
import re
import sys
import time


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The words of the command line; ends the program with exit code 2 where they do not fit."""
    parser = argparse.ArgumentParser(
        "prepare.py", description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="NAME",
        help="a row of BUILDERS in data_pipelines/builders: "
        "aaf, manifest, manifest/NAME, synthetic, synthetic/mugshot, …",
    )
    parser.add_argument("--raw", metavar="PATH", help="what you downloaded: the folder, or a manifest's CSV file")
    parser.add_argument("--data_dir", default="data", metavar="DIR", help="where prepared sets lie (%(default)s)")
    parser.add_argument("--faces", type=int, metavar="N", help="synthetic only: how many faces to draw")
    parser.add_argument(
        "--max_bad_share",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="stop when more images than this share of the rows are missing or unreadable "
        "(%(default)s; one always may be, unless 0)",
    )
    parser.add_argument("--overwrite", action="store_true", help="prepare again; a failure leaves the old set in place")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0, or 2 with one line on stderr for a mistake that the user can mend."""
    options = parse(argv)
    from data_pipelines.errors import UserError  # after parse: --help must not wait for tensorflow-datasets

    try:
        prepare(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def prepare(options: argparse.Namespace) -> None:
    """Prepares the set if it is not there yet, and shows its summary. Raises UserError."""
    from data_pipelines import builders

    started = time.monotonic()
    ready = not options.overwrite and builders.is_prepared(options.data, options.data_dir)
    own = {} if options.faces is None else {"faces": options.faces}
    place = builders.prepare(
        options.data,
        options.data_dir,
        options.raw,
        overwrite=options.overwrite,
        max_bad_share=options.max_bad_share,
        **own,
    )
    show(builders.summary(options.data, options.data_dir))
    took = f"took {time.monotonic() - started:.0f} s"
    print(f"{place}: {'was prepared already; --overwrite prepares it again' if ready else took}")


def show(summary: dict) -> None:
    """The summary as a table: splits, ages in years, labels, and what was skipped."""
    from rich.console import Console
    from rich.table import Table

    table = Table("split", title=summary["name"], title_justify="left")
    for heading in ("faces", "identities", "youngest", "median age", "oldest"):
        table.add_column(heading, justify="right")
    for split, faces in summary["splits"].items():
        ages = [summary["ages"][split][key] for key in ("min", "median", "max")]
        table.add_row(split, f"{faces:,}", f"{summary['identities'][split]:,}", *map(_years, ages))
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print("labelled: " + ", ".join(f"{label} {_percent(share)}" for label, share in summary["labels"].items()))
    for reason, ids in _by_reason(summary["skipped"]).items():
        named = ", ".join(ids[:3]) + (", …" if len(ids) > 3 else "")
        console.print(f"skipped, {reason}: {len(ids):,} ({named})", markup=False)


def _years(age: float | None) -> str:
    return "–" if age is None else f"{age:.4g}"


def _percent(share: float) -> str:
    """Never 100 % or 0 % unless all or none."""
    return f"{share:.0%}" if share in (0, 1) else f"{min(max(share, 0.001), 0.999):.1%}"


def _by_reason(skipped: list[dict]) -> dict[str, list[str]]:
    """Ids by the kind of reason: `duplicate of 00072A03.jpg` is a `duplicate`."""
    kinds = collections.defaultdict(list)
    for entry in skipped:
        kinds[re.split(r":| of ", entry["reason"])[0]].append(entry["id"])
    return kinds


if __name__ == "__main__":
    sys.exit(main())
