"""The papers' tables: their data, what runs share, what is told of a row without a number, and one table whole."""

import csv
import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from agejax.metrics import AGE_GROUPS
from data_pipelines.errors import UserError
from experiments import papers
from experiments.check import ensure_data
from experiments.command_line import parse
from experiments.configs import CONFIGS
from experiments.tables import beyond, figures, fills, lines, measures, page, runs
from experiments.tables.kinds import Elsewhere, Row, Run, Table, Trained, numbers
from experiments.tables.rows import PAPERS, find, rows, run_of, slug, tables

ROWS = rows()
TABLES = [(paper, table) for paper in PAPERS for table in tables(paper).values()]
KNOWN = measures.MEASURES.keys() | measures.COSTS.keys() | measures.INTERVALS.keys()
THIN = ("--model.compression=0.03125", "--image_size=32", "--finetune.batch_size=16", "--finetune.epochs=1")


def on(folder, drawn_data, **more) -> runs.Setting:
    return runs.Setting(folder, drawn_data, ("synthetic",), words=THIN, **more)


# the tables as data


def test_rows_have_names_of_their_own():
    assert len(ROWS) == sum(len(table.rows) for _, table in TABLES)


@pytest.mark.parametrize("paper, table", TABLES, ids=lambda each: getattr(each, "name", each))
def test_a_table_is_whole(paper, table):
    assert set(table.metrics) <= KNOWN and table.rows and table.toy
    for row in table.rows:
        assert all(number.metric in KNOWN for number in row.published), row.name
        assert row.published or not isinstance(row.fill, Elsewhere), row.name
        for run in [run_of(row), *getattr(row.fill, "runs", ())]:
            assert run is None or run.config in CONFIGS, row.name
    if any(row.published for row in table.rows):
        assert table.source


def test_groups_are_those_that_the_set_names():
    names = {data: [row.name for row in beyond.groups((data,)).rows] for data in ("aaf", "utkface", "morph@se_0")}
    assert names["aaf"] == ["everybody", "female", "male"]
    assert "Indian" in names["utkface"] and "American Indian" in names["morph@se_0"]


def test_published_numbers_are_in_the_range_of_their_metric():
    share = {"epsilon_error", "pearson"}
    for name, row in ROWS.items():
        for number in row.published:
            assert 0 < number.value < (1 if number.metric in share else 200), name


def test_listed_rows_are_configs():
    words = parse(["--config=dldl_v2/pooling/gap", "--finetune.epochs=2"])
    assert words.name == "dldl_v2/pooling/gap" and words.model.pooling == "gap" and words.stages[-1].epochs == 2
    assert [stage.data for stage in words.stages] == ["", ""]  # drawn faces are the default, for pretraining too
    real = parse(["--config=dldl_v2/pooling/gap", "--data=chalearn15"])
    assert [stage.data for stage in real.stages] == ["ms_celeb_1m", ""]


def test_unknown_rows_are_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"did you mean dldl_v2/pooling/gap"):
        find("dldl_v2/pooling/gaap")
    with pytest.raises(UserError, match=r"not one run: python experiments/papers.py --paper=dldl_v2 --table=cost"):
        find("dldl_v2/cost/thinagenet")
    with pytest.raises(UserError, match="not one run"):
        find("early_adaptation/lap/dex_matched_n_0")  # what a run starts from
    with pytest.raises(UserError, match="give --init=weights/vgg16"):
        parse(["--config=early_adaptation/lap/vgg_16_n_12", "--data=chalearn15"])
    assert slug("GAP, no augmentation") == "gap_no_augmentation"


# numbers from saved predictions


def test_measures_of_the_sheet():
    predicted, label = np.array([25, 40, 60, 18.5]), np.array([27, 40, 50, 20.0])
    answers = measures.Answers(label, np.array([3, 5, 4, 2.2]), predicted[None])
    known = {"mae": 3.375, "epsilon_error": 0.3406816969, "cs3": 75.0}
    for metric, value in known.items():
        assert measures.measured(answers, metric).value == pytest.approx(value, rel=1e-9)
    ages = np.array([5, 8, 15, 18, 25, 28, 29, 35, 38, 45, 55, 58, 65, 75, 80.0])
    said = np.array([9, 6.5, 14, 21, 25.5, 27, 30, 33.8, 38.2, 47, 53, 60.5, 61, 70, 77])
    tail = measures.Answers(ages, np.full(15, np.nan), said[None])
    assert measures.measured(tail, "sigma").value == pytest.approx(1.18124346, rel=1e-8)
    assert measures.measured(tail, "aar").value == pytest.approx(6.692089874, rel=1e-9)
    assert measures.measured(tail, f"mae {AGE_GROUPS[2]}").value == pytest.approx(0.8333333333, rel=1e-9)
    assert measures.measured(tail, "epsilon_error") is None  # no σ is known


def test_trials_are_averaged_and_spread():
    answers = measures.Answers(np.array([10.0, 20, 30]), np.full(3, np.nan), np.array([[11.0, 22, 33], [10, 20, 31]]))
    found = measures.measured(answers, "mae")
    assert found.value == pytest.approx((2 + 1 / 3) / 2) and found.trials == 2
    assert found.sd == pytest.approx(math.sqrt(2) * (2 - 1 / 3) / 2)
    assert found.interval[0] <= found.value <= found.interval[1]


# what a run shares


def test_rows_share_the_stages_that_they_have_in_common(tmp_path, drawn_data):
    table, setting = tables("dldl_v2")["single_stage"], on(tmp_path, drawn_data)
    every = [runs.plan(row.fill.run, "synthetic", setting) for row in table.rows]
    assert len({planned.folder(0) for planned in every}) == 1
    assert len({planned.folder(1) for planned in every}) == len(every)
    whole = next(row for row in tables("dldl_v2")["comparison"].rows if row.name == "ThinAgeNet")
    assert runs.plan(whole.fill.run, "synthetic", setting).folder(1) == every[-1].folder(1)


def test_what_decides_the_weights_decides_the_folder(tmp_path, drawn_data):
    row, setting = Run("dldl_v2_thin"), on(tmp_path, drawn_data)
    plain = runs.plan(row, "synthetic", setting)
    words = (
        "--seed=1", "--pretrain.epochs=1", "--finetune.objective.lambda_=2", "--model.pooling=gap", "--loader.workers=0"
    )  # fmt: skip
    other = {word: runs.plan(dataclasses.replace(row, words=(word,)), "synthetic", setting) for word in words}
    assert [other[word].folder(0) == plain.folder(0) for word in words] == [False, False, True, False, True]
    assert [other[word].folder(1) == plain.folder(1) for word in words] == [False, False, False, False, True]


def test_seeds_are_a_sweep_of_the_last_stage_alone(tmp_path, drawn_data):
    one, three = (runs.plan(Run("dldl_v2_thin"), "synthetic", on(tmp_path, drawn_data, seeds=n)) for n in (1, 3))
    assert three.experiment.sweep == (("seed", (0, 1, 2)),) and one.experiment.sweep == ()
    assert one.folder(0) == three.folder(0) and one.folder(1) != three.folder(1)
    shots = Run("dldl_v2_thin", ("--finetune.examples=NShot", "--finetune.examples.n=4", "--sweep.examples.trial=0..7"))
    assert runs.plan(shots, "synthetic", on(tmp_path, drawn_data, seeds=3)).experiment.sweep[0][1] == tuple(range(8))


def test_an_ensemble_has_the_seeds_that_its_list_says():
    words = ["--config=agenet", "--apparent.examples=NShot"]
    own, trials_ = (parse([*words, f"--sweep.{name}=0,1,2"]) for name in ("seed", "examples.trial"))
    toy = runs.Setting(toy=True, seeds=2)
    assert runs.with_repeats(own, toy).sweep == (("seed", (0, 1, 2)),)
    assert runs.with_repeats(trials_, toy).sweep == (("examples.trial", (0, 1)),)


def test_another_preparation_of_a_set_is_another_set(tmp_path, drawn_data, monkeypatch):
    setting, folders = on(tmp_path, drawn_data), []
    monkeypatch.setattr(runs, "is_drawn", lambda name: False)
    for recipe in ("one", "other", "one"):
        known = {"labels": {"identity": 1.0, "age": 1.0}, "recipe": recipe, "splits": {}}
        monkeypatch.setattr(runs.builders, "summary", lambda name, data_dir, known=known: known)
        folders.append(runs.plan(Run("dldl_v2_thin"), "synthetic", setting).folder(1))
    assert folders[0] == folders[2] != folders[1]


def test_the_command_of_a_row_says_what_was_run(tmp_path, drawn_data):
    setting = on(tmp_path, drawn_data, seeds=3)
    planned = runs.plan(Run("dldl_v2_thin", ("--pretrain.data=ms_celeb_1m",)), "synthetic", setting)
    experiment = parse(list(planned.command))
    assert experiment.sweep == (("seed", (0, 1, 2)),) and experiment.data_dir == drawn_data
    assert [stage.data for stage in experiment.stages] == ["", ""]
    assert "--stages=finetune" in planned._replace(numbers=(1,)).command


def test_words_for_stages_of_other_rows_are_left_out():
    words = ("--classification.epochs=4", "--representation.epochs=2", "--image_size=32", "--clasification.epochs=1")
    assert runs.fitting(words, Run("lae")) == words
    assert runs.fitting(words, Run("lae_strong")) == words[1:]  # what no config knows stays, to be refused


# what cannot be measured


def found_of(fill, data, setting):
    table = Table("t", "t", (data,), ("mae",), (Row("r", fill, numbers("chalearn15", mae=3.5)),))
    (some,) = lines.lines(table, setting)
    return some[0]


def test_a_missing_set_is_told_with_the_command_that_prepares_it(tmp_path):
    setting = runs.Setting(tmp_path / "runs", tmp_path / "data")
    line = found_of(Trained(Run("dldl_v2_thin")), "chalearn15", setting)
    assert (line.status, line.measured, line.published, line.seeds) == ("missing", None, 3.5, 0)
    assert "python experiments/prepare.py --data=chalearn15" in line.note
    assert page.cells(line)[4] == "missing"


def test_missing_weights_are_told(tmp_path, drawn_data):
    setting = runs.Setting(tmp_path, drawn_data, weights=tmp_path / "w")
    line = found_of(Trained(Run("dldl_v2_thin", weights="dex")), "synthetic", setting)
    assert line.status == "missing" and f"convert FILE {tmp_path / 'w/dex'}" in line.note


def test_a_failed_run_is_failed_and_not_tried_again(tmp_path, drawn_data, monkeypatch):
    tried = []
    monkeypatch.setattr(runs, "train", lambda experiment, words: tried.append(experiment.folder) or 1)
    lines_ = [found_of(Trained(Run("dldl_v2_thin")), "synthetic", on(tmp_path, drawn_data)) for _ in range(2)]
    assert [(line.status, line.measured) for line in lines_] == [("failed", None)] * 2
    assert len(tried) == 1 and "exit code 1" in lines_[0].note


def test_a_set_of_an_earlier_stage_may_be_missing(tmp_path, drawn_data, monkeypatch):
    trained = []
    monkeypatch.setattr(runs, "train", lambda one, words: ensure_data(one) or trained.append(one.only) or 0)
    monkeypatch.setattr(runs, "words_on", lambda run, data: run.words)
    setting, run = on(tmp_path, drawn_data), Run("dldl_v2_thin", ("--pretrain.data=ms_celeb_1m",))
    planned = runs.plan(run, "synthetic", setting)
    runs.carry_out(planned)
    assert planned.notes == ("without pretrain: ms_celeb_1m is not prepared",) and trained == [("finetune",)]
    line = found_of(Trained(run), "synthetic", dataclasses.replace(setting, data=()))
    assert line.status == "missing" and "--data=ms_celeb_1m" in line.note


def test_a_row_without_what_it_is_called_by_is_missing(tmp_path, drawn_data, monkeypatch):
    monkeypatch.setattr(runs, "words_on", lambda run, data: run.words)
    setting = on(tmp_path, drawn_data)
    imposed = Run("early_adaptation_uniform", ("--impose.data=imdb_wiki",), needs=("prior", "impose"))
    assert "imdb_wiki is not prepared" in found_of(Trained(imposed), "synthetic", setting).note
    for row in tables("early_adaptation")["lap"].rows:
        assert row.fill.run.needs[0] in ("prior", "pretrain", "weights")
    (vgg16,) = {row.fill.run for row in tables("early_adaptation")["lap"].rows if row.name == "VGG-16, N = 12"}
    assert "weights vgg16 are not there" in found_of(Trained(vgg16), "synthetic", setting).note


def test_whatever_goes_wrong_in_a_row_stays_there(tmp_path, drawn_data, monkeypatch, capsys):
    def broken(fill, data, setting):
        raise ValueError("no memory\nat all")

    monkeypatch.setitem(lines.FILLS, Trained, broken)
    line = found_of(Trained(Run("dldl_v2_thin")), "synthetic", on(tmp_path, drawn_data))
    assert (line.status, line.note, line.command) == ("failed", "ValueError: no memory", "")
    assert "Traceback" in capsys.readouterr().err


def test_intervals_are_not_fitted_on_what_they_are_tested_on():
    for data, known in {"aaf": ("val", "test"), "chalearn15": None, "chalearn16": None, "morph@se_0": None}.items():
        planned = SimpleNamespace(experiment=parse(["--config=dldl_v2_thin", f"--data={data}"]))
        if known:
            assert fills.held_out_and_test(planned, data) == known
        else:
            with pytest.raises(runs.Missing, match=f"{data} has no part beside training and test"):
                fills.held_out_and_test(planned, data)


def test_a_signal_stops_the_table(tmp_path, drawn_data, monkeypatch):
    monkeypatch.setattr(runs, "train", lambda experiment, words: 130)
    with pytest.raises(runs.Stopped):
        found_of(Trained(Run("dldl_v2_thin")), "synthetic", on(tmp_path, drawn_data))


def test_the_published_number_is_never_ours(tmp_path):
    setting = runs.Setting(tmp_path / "runs", tmp_path / "data")
    for paper, table in TABLES:
        for some in lines.lines(table, setting) if table.name != "cost" else ():
            for line in some:
                assert line.measured is None and line.interval is None, (paper, line)


# figures


def test_figures_of_what_has_not_run_say_so(tmp_path, drawn_data):
    nowhere = runs.Setting(tmp_path / "runs", tmp_path / "data")
    for paper, table in TABLES:
        if table.name in figures.FIGURES:
            assert "is not prepared" in figures.drawn(table, nowhere), (paper, table.name)
            assert "Not drawn" in figures.drawn(table.on(("synthetic",)), on(tmp_path, drawn_data)), (paper, table.name)
        else:
            assert figures.drawn(table, nowhere) == ""


def test_every_trial_is_a_point_of_its_panel(tmp_path, drawn_data, monkeypatch):
    known = {"N = 0": [[9.0]], "N = 3": [[7.0], [5.0]], "N = 12": [[4.0]]}
    wanted, drawn = {}, []
    for row in beyond.few_shots(("synthetic",)).rows:
        wanted[row.fill] = known.get(row.name)

    def at_hand(fill, data, setting):
        errors = wanted[fill]
        return errors and measures.Answers(np.zeros(1), np.zeros(1), np.array(errors))

    monkeypatch.setattr(figures.fills, "at_hand", at_hand)
    monkeypatch.setattr(figures.figures, "error_against_examples", drawn.append)
    table = tables("beyond")["few_shots"].on(("synthetic",))
    figures.drawn(table, on(tmp_path, drawn_data))
    assert drawn == [{table.title: {0: [9.0], 3: [7.0, 5.0], 12: [4.0]}}]


# the command


def test_words_are_checked(tmp_path, capsys):
    (file := tmp_path / "file").touch()
    for words, told in (
        (["--paper=dldl"], "unknown paper 'dldl'"),
        (["--paper=dldl_v2", "--table=10"], "no table '10'"),
        (["--paper=dldl_v2", "--seeds=0"], "--seeds=0"),
        (["--paper=dldl_v2", "--toy", "--data=aaf"], "--toy has data of its own"),
        (["--paper=dldl_v2", "pooling"], "'pooling' is no option"),
        (["--paper=dldl_v2", "--sweep.seed=0,1"], "--seeds=N"),
        (["--paper=dldl_v2", f"--json={tmp_path}"], "is a folder"),
        (["--paper=dldl_v2", f"--runs={file}"], "is a file"),
        (["--paper=dldl_v2", f"--runs={tmp_path}", "--finetune.epoch=3"], "--finetune.epochs"),
    ):
        assert papers.main(words) == 2
        captured = capsys.readouterr()
        assert told in captured.err and captured.err.count("\n") == 1


def test_tables_have_the_papers_numbers_where_these_are_known():
    def chosen(paper, number):
        (table,) = papers._chosen(paper, number)
        return table.name

    assert [chosen("dldl_v2", n) for n in "37"] == ["attractiveness", "label_step"]
    assert chosen("lae", "2") == "tricks" and chosen("early_adaptation", "4") == "morph_budgets"


def test_help_runs_nothing(capsys):
    assert papers.main(["--paper=dldl_v2", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: ")


def test_everything_is_listed(capsys):
    assert papers.main(["--list"]) == 0
    told = capsys.readouterr().out
    assert all(f"--table={table.name}" in told for _, table in TABLES) and "dldl_v2/pooling/gap" in told


@pytest.mark.slow
def test_a_table_whole_and_again(tmp_path, drawn_data, capsys, monkeypatch):
    words = ["--paper=dldl_v2", "--table=single_stage,cost", "--data=synthetic", f"--data_dir={drawn_data}", *THIN]
    words += ["--seeds=2", f"--runs={tmp_path / 'runs'}", f"--json={tmp_path / 'lines.json'}", "--pretrain.epochs=0.4"]
    monkeypatch.setattr(fills, "FORWARD_PIXELS", 64)
    monkeypatch.setattr(fills, "FORWARD_PASSES", 1)
    assert papers.main(words) == 0
    found = json.loads((tmp_path / "lines.json").read_text())
    capsys.readouterr()
    mae = {line["row"]: line for line in found if line["metric"] == "mae"}
    assert list(mae) == [row.name for row in tables("dldl_v2")["single_stage"].rows]
    for line in mae.values():
        assert line["status"] == "measured" and line["seeds"] == 2 and line["data"] == "synthetic"
        assert line["interval"][0] < line["measured"] < line["interval"][1]
        assert line["published_data"] == "chalearn15" and line["published"] > 3
        assert recomputed(line, tmp_path) == pytest.approx(line["measured"], abs=1e-6)
    page_ = (tmp_path / "runs/dldl_v2-single_stage-cost.html").read_text()
    assert "3.665" in page_ and "objectives, one network and schedule" in page_

    monkeypatch.setattr(runs, "train", None)  # whatever has run is used
    assert papers.main(words) == 0
    again = json.loads((tmp_path / "lines.json").read_text())
    assert [line for line in again if line["metric"] == "mae"] == list(mae.values())


def recomputed(line: dict, tmp_path) -> float:
    """The mean MAE, from the predictions of the run whose results.json has the line's command."""
    for results in (tmp_path / "runs").glob("*/results.json"):
        saved = json.loads(results.read_text())
        if line["command"].removeprefix("python experiments/run.py ") in saved["command"]:
            values = []
            for trial in saved["trials"]:
                with (results.parent / trial["folder"] / "predictions.csv").open() as file:
                    every = [abs(float(row["predicted"]) - float(row["age"])) for row in csv.DictReader(file)]
                values.append(sum(every) / len(every))
            return sum(values) / len(values)
    raise AssertionError(f"no run of {line['command']}")
