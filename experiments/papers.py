"""`python experiments/papers.py --paper=dldl_v2 --table=pooling`: the papers' tables, published beside measured."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from data_pipelines.errors import UserError

USAGE = """\
usage: python experiments/papers.py --paper=NAME [options] [--STAGE.OPTION=VALUE …]
       python experiments/papers.py --list

Runs what a paper's tables need, uses what has run before, and prints every published number beside the measured one.
The same command again goes on where it stopped. A data set that is not there is named, with how to prepare it.

  --paper=NAME           whose tables (--list shows them)
  --table=A,B            only these, by name, or by number as --list has them
  --toy                  on drawn faces, small networks, minutes on two CPU cores
  --data=A,B             these prepared data sets in place of the papers'
  --data_dir=DIR         folder of prepared data sets (default: data)
  --seeds=N              trainings of each row (default: 1; few-shot rows have the papers' trials)
  --weights=DIR          converted weights: dex, vgg_face, vgg16, resnet18, … (default: weights)
  --init=CHECKPOINT      start from these weights, in place of pretraining on other data
  --runs=DIR             folder of the runs (default: runs/papers, with --toy runs/toy)
  --figures              draw the figures, too, onto the page; pictures of the data will be on it
  --json=FILE            write the lines here, each table as soon as it is filled

Other words go to every run: --model=tiny --image_size=64 --finetune.epochs=10
"""


def main(argv: list[str]) -> int:
    """The exit code: 0, 1 where a row failed, 2 for a mistake in the words, 128 + n after signal n."""
    try:
        words, rest = _words(argv)
        if words.list or words.help or not words.paper:
            print(_listing() if words.list else USAGE)
            return 0
        from experiments.tables.runs import Stopped

        try:
            return fill(words, tuple(rest), argv)
        except Stopped as stop:
            return stop.args[0]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _words(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--paper")
    parser.add_argument("--table", default="")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--data", default="")
    parser.add_argument("--data_dir", type=Path)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--init", type=Path)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figures", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("-h", "--help", action="store_true")
    try:
        words, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from None
    if words.seeds is not None and words.seeds < 1:
        raise UserError(f"--seeds={words.seeds}: give 1 or more")
    if words.toy and words.data:
        raise UserError("--toy has data of its own: leave --data out")
    if stray := [word for word in rest if not word.startswith("--")]:
        raise UserError(f"{stray[0]!r} is no option; --help shows them")
    if swept := [word for word in rest if word.startswith("--sweep.")]:
        raise UserError(f"{swept[0]}: rows have the sweeps of their table; --seeds=N repeats them")
    if words.runs and words.runs.exists() and not words.runs.is_dir():
        raise UserError(f"--runs={words.runs} is a file: name a folder")
    if words.json and words.json.is_dir():
        raise UserError(f"--json={words.json} is a folder: name a file")
    return words, rest


def _listing() -> str:
    from experiments.tables.rows import PAPERS, rows, run_of, tables

    lines = []
    for paper, module in PAPERS.items():
        lines.append(f"{paper}: {module.__doc__.strip().splitlines()[0]}")
        for place, table in enumerate(tables(paper).values(), 1):
            number = f" (the paper’s table {table.number})" if table.number else ""
            lines.append(f"  {place} --table={table.name:<14} {table.title}{number}; {', '.join(table.data)}")
    lines.append("rows that are one run, as --config of run.py:")
    lines += [f"  {name}" for name, row in rows().items() if run_of(row)]
    return "\n".join(lines)


def fill(words: argparse.Namespace, rest: tuple[str, ...], argv: list[str]) -> int:
    """Carries the tables out, prints and writes them. The exit code."""
    from agejax.files import write_whole
    from experiments.tables import page, runs
    from experiments.tables.figures import drawn
    from experiments.tables.lines import FAILED, lines
    from experiments.tables.rows import run_of

    chosen = _chosen(words.paper, words.table)
    setting = _setting(words, rest)
    if words.toy:
        runs.prepare_toys(setting)
    runs.check_words([run for table in chosen for row in table.rows if (run := run_of(row))], setting)
    setting.folder.mkdir(parents=True, exist_ok=True)
    name = "-".join((words.paper, *(table.name for table in chosen if words.table)))
    every = []
    for table in chosen:
        data = table.toy if words.toy else setting.data
        table, here = table.on(data) if data else table, dataclasses.replace(setting, data=data)
        print(f"{words.paper}/{table.name}: {table.title}", flush=True)
        found = []
        for some in lines(table, here):
            found += some
            print(f"{words.paper}/{table.name}: {page.told(some)}", flush=True)
        page.show(table, found, words.toy)
        every.append((table, found, ""))
        if words.json:
            rows = [{"paper": words.paper} | dataclasses.asdict(line) for _, some, _ in every for line in some]
            words.json.parent.mkdir(parents=True, exist_ok=True)
            write_whole(words.json, json.dumps(rows, indent=2) + "\n")
        every[-1] = (table, found, drawn(table, here) if words.figures else "")
        where = page.write(setting.folder / f"{name}.html", words.paper, every, words.toy, argv)
    print(f"page: {where}")
    return int(any(line.status == FAILED for _, some, _ in every for line in some))


def _chosen(paper: str, names: str) -> list:
    from experiments.tables.rows import PAPERS, tables

    if paper not in PAPERS:
        raise UserError(f"unknown paper {paper!r}; there are {', '.join(PAPERS)}")
    known = tables(paper)
    numbered = {str(place): table for place, table in enumerate(known.values(), 1)}
    numbered |= {table.number: table for table in known.values() if table.number}
    wanted = names.split(",") if names else list(known)
    if unknown := [name for name in wanted if name not in known | numbered]:
        raise UserError(f"{paper} has no table {unknown[0]!r}; there are {', '.join(known)}")
    return [(known | numbered)[name] for name in wanted]


def _setting(words: argparse.Namespace, rest: tuple[str, ...]):
    from experiments.tables.runs import Setting

    folder = words.runs or Path("runs/toy" if words.toy else "runs/papers")
    return Setting(
        folder, words.data_dir or (folder / "data" if words.toy else Path("data")),
        tuple(filter(None, words.data.split(","))), words.toy, words.seeds or (2 if words.toy else 1), words.weights,
        words.init, rest,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
