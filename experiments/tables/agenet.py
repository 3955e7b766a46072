"""AgeNet: two heads, two normalisations, two crops, ten networks and their mean (Liu et al., ICCV Workshops 2015)."""

from experiments.configs.agenet import ENSEMBLE, HEADS, MORE_SEEDS, VIEWS
from experiments.tables.kinds import Fused, Row, Run, Table, Trained, numbers

DATA, METRICS, TOY = ("chalearn15",), ("epsilon_error", "mae"), ("synthetic/mugshot",)


def _of(view: str = "", head: str = "") -> tuple[Run, ...]:
    """The ensemble's runs with that view and that head; empty: with any."""
    return tuple(
        run for run in ENSEMBLE
        if set(VIEWS.get(view, ())) <= set(run.words) and (not head or run.config == HEADS[head])
    )  # fmt: skip


def _rows(view: str, head: str) -> tuple[Row, ...]:
    """One for each network."""
    (run,), name = _of(view, head), f"{view}, {head}"
    if head == "LD" and view in MORE_SEEDS:
        return tuple(Row(f"{name}, seed {seed}", Trained(run, (("seed", seed),))) for seed in MORE_SEEDS[view])
    return (Row(name, Trained(run)),)


NETWORKS = Table(
    "networks", "ten networks and their mean", DATA, METRICS,
    (
        *(row for view in VIEWS for head in HEADS for row in _rows(view, head)),
        Row("mean of ten", Fused(ENSEMBLE), numbers("chalearn15", epsilon_error=0.2873)),
    ),
    toy=TOY, source="fact sheet of team ICT-VIPL, validation part",
)  # fmt: skip

COMPARISON = Table(
    "heads", "a label distribution beside a regressor, for each normalisation and crop", DATA, METRICS,
    (
        *(_rows(view, head)[0] for view in VIEWS for head in HEADS),
        *(Row(f"mean of the {head} networks", Fused(_of(head=head))) for head in HEADS),
    ),
    toy=TOY, source="the fact sheet has no such table",
)  # fmt: skip

TABLES = (NETWORKS, COMPARISON)
