"""Rows of the tables of AgeNet, LAE and Early Adaptation: words that are understood, numbers that are consistent."""

import re

import pytest

from agejax.metrics import AGE_GROUPS
from data_pipelines.samplers import trials
from experiments.command_line import parse
from experiments.configs import CONFIGS
from experiments.tables import agenet, early_adaptation, lae
from experiments.tables.kinds import Before, Fused
from experiments.tables.measures import MEASURES

TABLES = [table for paper in (agenet, lae, early_adaptation) for table in paper.TABLES]
FEW_SHOT = {"lap": early_adaptation.LAP, "morph": early_adaptation.MORPH}


def runs(table):
    return [run for row in table.rows for run in (row.fill.runs if isinstance(row.fill, Fused) else (row.fill.run,))]


def test_rows_have_names_of_their_own_and_numbers_of_their_sets():
    for table in TABLES:
        assert len({row.name for row in table.rows}) == len(table.rows)
        for number in (number for row in table.rows for number in row.published):
            assert number.data in table.data and number.metric in table.metrics
        assert set(table.metrics) <= set(MEASURES)


def test_every_run_is_understood_on_drawn_faces():
    seen = set()
    for table in TABLES:
        for run in runs(table) + runs(table.on(table.toy)):
            forms = run.config, tuple(re.sub(r"=[\d.]+$", "", word) for word in run.words)
            if forms not in seen:
                seen.add(forms)
                assert run.config in CONFIGS
                stages = [stage.name for stage in parse([f"--config={run.config}", *run.words]).stages]
                assert not run.instead_of or stages[0] == run.instead_of
    assert len(seen) >= 25


@pytest.mark.parametrize(
    "name, expected",
    [
        ("lap", {3: 32, 6: 32, 9: 32, 12: 32, 24: 16, 49: 8, 99: 4, 198: 2, 396: 1, 495: 1, 990: 1, 1981: 1}),
        (
            "morph",
            {3: 32, 6: 32, 9: 32, 13: 32, 20: 32, 27: 32, 54: 16, 109: 8, 219: 4, 438: 2}
            | dict.fromkeys((876, 1095, 2190, 4380), 1),
        ),
    ],
)
def test_few_examples_are_drawn_as_often_as_in_the_paper(name, expected):
    """32 up to 0.5 % of 2,476 and 5,475, half as often for each doubling."""
    table = next(table for table in TABLES if table.name == name)
    for row in table.rows:
        n = int(row.name.rpartition(" ")[2])
        if n == 0:
            assert isinstance(row.fill, Before)
            continue
        sweeps = [word for word in row.fill.run.words if word.startswith("--sweep")]
        assert f"--finetune.examples.n={n}" in row.fill.run.words
        assert sweeps == ([f"--sweep.examples.trial=0..{expected[n] - 1}"] if expected[n] > 1 else [])
        assert expected[n] == trials(n, {"lap": 2476, "morph": 5475}[name])
    assert len(table.rows) == 6 * (1 + len(expected))


def test_imposing_has_the_budgets_of_the_paper():
    table = next(table for table in TABLES if table.name == "lap_budgets")
    budgets = [re.search(r"budget=(\d+)", " ".join(run.words))[1] for run in runs(table)]
    assert sorted(set(map(int, budgets))) == [0, 100, 1000, 10_000]


def test_tables_on_other_sets_have_their_sizes_and_no_published_number():
    lap = TABLES[3]
    assert lap.on(("aaf",)).data == ("aaf",) and not any(row.published for row in lap.on(("aaf",)).rows)
    drawn = lap.on(lap.toy)
    assert len(drawn.rows) == 6 * 4 and max(int(row.name.rpartition(" ")[2]) for row in drawn.rows) < 700


def test_the_published_rows_of_lae_are_consistent():
    """AAR = max(0, 7 - MAE) + max(0, 3 - σ), to rounding; one row has all three."""
    (table,) = lae.TABLES
    rows = [{number.metric: number.value for number in row.published} for row in table.rows]
    whole = [row for row in rows if len(row) == 3]
    assert len(whole) == 1
    for row in whole:
        assert max(0, 7 - row["mae"]) + max(0, 3 - row["sigma"]) == pytest.approx(row["aar"], abs=0.011)
    assert table.metrics[3:] == tuple(f"mae {group}" for group in AGE_GROUPS)


def test_the_ten_networks_and_their_mean_are_the_ensemble():
    networks, heads = agenet.TABLES
    assert len(networks.rows) == 11 and set(runs(networks)) == set(agenet.ENSEMBLE)
    by_name = {row.name: row.fill for row in heads.rows}
    assert len(by_name) == 10 and by_name["exterior, 227 px, LD, seed 0"].values == (("seed", 0),)
    assert by_name["interior, 248 px, Euclidean"].run.config == "agenet_euclidean"
    assert {run.config for run in by_name["mean of the LD networks"].runs} == {"agenet"}
