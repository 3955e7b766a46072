"""All tables by name, and the run of one row: find("dldl_v2/pooling/gap")."""

import difflib
import re

from data_pipelines.errors import UserError
from data_pipelines.schema import is_drawn
from experiments.tables import agenet, beyond, dldl_v2, early_adaptation, lae
from experiments.tables.kinds import Before, Row, Run, Table, TwoStage

PAPERS = {module.__name__.rpartition(".")[2]: module for module in (dldl_v2, agenet, lae, early_adaptation, beyond)}
"""Each has TABLES, and a docstring that names the paper."""


def slug(name: str) -> str:
    """What stands for a row's name on the command line: `DEX matched, N = 12` is dex_matched_n_12."""
    return re.sub(r"[^a-z0-9.λδ]+", "_", name.lower()).strip("_")


def tables(paper: str) -> dict[str, Table]:
    return {table.name: table for table in PAPERS[paper].TABLES}


def rows() -> dict[str, Row]:
    """PAPER/TABLE/ROW → the row, of all tables."""
    return {
        f"{paper}/{table.name}/{slug(row.name)}": row
        for paper in PAPERS
        for table in tables(paper).values()
        for row in table.rows
    }


def run_of(row: Row) -> Run | None:
    """The run that the row is measured on; None where it takes several, a part of one, or none."""
    return None if isinstance(row.fill, Before | TwoStage) else getattr(row.fill, "run", None)


def find(name: str) -> Run:
    """The run of the row PAPER/TABLE/ROW. Raises UserError."""
    known = rows()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else "python experiments/papers.py --list shows all rows"
        raise UserError(f"unknown row {name!r}; {hint}")
    if (run := run_of(known[name])) is None:
        paper, table, _ = name.split("/")
        raise UserError(f"{name} is not one run: python experiments/papers.py --paper={paper} --table={table}")
    return run


def words_on(run: Run, data: str) -> tuple[str, ...]:
    """The run's words; on drawn faces without the other sets that its stages have."""
    others = re.compile(r"--\w+\.data=(.*)")
    drawn = is_drawn(data)
    return tuple(word for word in run.words if not (drawn and (set_ := others.match(word)) and not is_drawn(set_[1])))
