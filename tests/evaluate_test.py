"""`python -m agejax evaluate` on a finished run, and what it says to mistakes."""

import errno
import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from drawn import Squares, prepare_squares

from agejax import ensemble
from agejax.__main__ import main
from agejax.training import checkpoint
from agejax.training.evaluate import Predictions, predict_split, summarise, write_rows
from agejax.training.sharding import make_mesh
from data_pipelines import builders
from data_pipelines.errors import UserError


@pytest.fixture
def evaluate(tiny_run, drawn_data, capsys):
    """(words) → (exit code, stdout, stderr); a later word takes an earlier one's place."""
    usual = ["evaluate", f"--checkpoint={tiny_run.folder}", "--data=synthetic", f"--data_dir={drawn_data}"]

    def run(*words):
        capsys.readouterr()
        return main([*usual, *words]), *capsys.readouterr()

    return run


def refused(done) -> str:
    """The one line that a mistake is answered with."""
    code, _, told = done
    assert code == 2
    assert told.startswith("error: ") and told.count("\n") == 1, told
    return told


def results_of(run) -> dict:
    return json.loads((run.folder / "results.json").read_text())


def test_a_finished_run_gives_the_numbers_of_its_results(evaluate, tiny_run, tmp_path):
    files = (tmp_path / "new" / "numbers.json", tmp_path / "new" / "rows.csv")
    code, printed, _ = evaluate(f"--json={files[0]}", f"--predictions={files[1]}")
    assert code == 0
    numbers, results = json.loads(files[0].read_text()), results_of(tiny_run)
    for measure in ("mae", "rmse", "n", "cs", "intervals"):
        assert numbers[measure] == results["test"][measure], measure
    assert numbers["median_baseline_mae"] == results["median_baseline_mae"]
    assert numbers["checkpoint"] == str(tiny_run.folder)
    assert (numbers["data"], numbers["split"], numbers["trained_on"]) == ("synthetic", "test", "synthetic")
    assert f"MAE {numbers['mae']:.2f} years [" in printed and "n = 8 (synthetic test)" in printed
    assert files[1].read_text() == (tiny_run.folder / "predictions.csv").read_text()


def test_a_stage_of_the_run_may_be_named_and_the_batch_size_does_not_matter(evaluate, tiny_run, tmp_path):
    file = tmp_path / "numbers.json"
    code, _, _ = evaluate(f"--checkpoint={tiny_run.folder / 'finetune'}", f"--json={file}", "--batch_size=3")
    assert code == 0
    assert json.loads(file.read_text())["mae"] == pytest.approx(results_of(tiny_run)["test"]["mae"], rel=1e-5)


def test_versions_of_the_images_are_those_of_predict_split(evaluate, tiny_run, drawn_data, tmp_path):
    assert evaluate("--versions=3", f"--predictions={tmp_path / 'rows.csv'}")[0] == 0
    description, variables = checkpoint.load_trained(tiny_run.folder)
    examples = builders.open_split("synthetic", drawn_data, "test")
    expected = predict_split(description, variables, examples, make_mesh(), versions=3)
    np.testing.assert_allclose(ensemble.read(tmp_path / "rows.csv").predictions.value, expected.value, rtol=1e-6)
    assert np.abs(expected.value - predict_split(description, variables, examples, make_mesh()).value).max() > 1e-3


def test_all_splits_together_count_every_face_once(evaluate, drawn_data, tmp_path):
    file = tmp_path / "rows.csv"
    code, printed, _ = evaluate("--split=all", f"--predictions={file}")
    assert code == 0
    assert "n = 64 (synthetic all)" in printed
    ids = [line.split(",")[0] for line in file.read_text().splitlines()[1:]]
    assert sorted(ids) == sorted(face["id"] for face in builders.open_split("synthetic", drawn_data, "all"))
    assert len(set(ids)) == 64


def test_another_data_set_is_measured_against_the_median_of_the_one_trained_on(evaluate, drawn_data, tmp_path):
    builders.prepare("synthetic/mugshot", tmp_path, faces=16)
    file = tmp_path / "numbers.json"
    code, _, _ = evaluate("--data=synthetic/mugshot", f"--data_dir={tmp_path}", "--split=all", f"--json={file}")
    assert code == 0
    ages = [
        np.array([face["age"] for face in builders.open_split(name, folder, split)])
        for name, folder, split in (("synthetic/mugshot", tmp_path, "all"), ("synthetic", drawn_data, "train"))
    ]
    blind = np.abs(ages[0] - np.median(ages[1])).mean()
    assert json.loads(file.read_text())["median_baseline_mae"] == pytest.approx(blind, rel=1e-6)


@pytest.mark.parametrize(
    "words, told",
    [
        (["--checkpoint={run}/pretrain"], "pretrain was trained on identities: it gives no age"),
        (["--checkpoint={run}/nowhere"], "nowhere does not exist: give the workdir of a run, or a stage in it"),
        (["--checkpoint={run}/finetune/tensorboard"], "tensorboard holds no finished stage"),
        (["--data=aaf"], r"aaf is not prepared in \S+: run `python experiments/prepare.py --data=aaf --raw=RAW"),
        (["--data=syntetic"], r"no data set 'syntetic': did you mean synthetic"),
        (["--split=valid"], "synthetic has no split 'valid': it has train, val, test"),
        (["--batch_size=0"], "batch_size must be above 0, got 0"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(evaluate, tiny_run, words, told):
    assert re.search(told, refused(evaluate(*(word.format(run=tiny_run.folder) for word in words))))


def test_a_data_set_without_the_label_is_refused(evaluate, tmp_path):
    data_dir = prepare_squares(tmp_path, Squares(6), "age,identity", lambda row: f"{'' if row else 20},{row}")
    done = evaluate("--data=manifest", f"--data_dir={data_dir}", "--split=all")
    assert "5 of 6 examples have no age" in refused(done)


def test_live_and_saved_answers_fuse_to_the_same(evaluate, tiny_run, tmp_path, capsys):
    """The stage and a copy of it that is fed another way: other answers, and another input size."""
    other = tmp_path / "other"
    (other / "checkpoints").mkdir(parents=True)
    stage = tiny_run.folder / "finetune"
    for name in ("best", "latest"):
        if (stage / "checkpoints" / name).exists():
            (other / "checkpoints" / name).symlink_to(stage / "checkpoints" / name)
    card = json.loads((stage / "stage.json").read_text())
    card["description"]["image_size"] = 48
    (other / "stage.json").write_text(json.dumps(card))
    files = [tmp_path / f"{name}.csv" for name in "abc"]
    for place, file in zip((stage, other), files):
        assert evaluate(f"--checkpoint={place}", f"--predictions={file}")[0] == 0
    words = [f"--checkpoint={stage},{other}", "--weights=1,3", f"--predictions={files[2]}", f"--json={tmp_path}/live"]
    code, _, _ = evaluate(*words)
    assert code == 0
    told = [
        "fuse",
        *map(str, files[:2]),
        "--weights=1,3",
        f"--json={tmp_path}/x/s",
        f"--predictions={tmp_path}/x/s.csv",
    ]
    assert main(told) == 0
    assert (tmp_path / "x/s.csv").read_text() == files[2].read_text()
    live, later = (json.loads((tmp_path / name).read_text()) for name in ("live", "x/s"))
    assert live["mae"] == later["mae"] and live["intervals"] == later["intervals"]
    assert live["checkpoint"] == f"{stage},{other}" and live["median_baseline_mae"] is not None
    one, two, both = (ensemble.read(file).predictions.value for file in files)
    assert np.abs(one - two).min() > 1e-4
    np.testing.assert_allclose(both, (one + 3 * two) / 4, rtol=1e-6)
    assert re.match(r"MAE .* \(mean of 2 files\)", capsys.readouterr().out)


def test_what_cannot_be_fused_is_told_before_anything_is_predicted(evaluate, tiny_run, tmp_path):
    stage = tiny_run.folder / "finetune"
    assert "3 weights for 2 networks" in refused(evaluate(f"--checkpoint={stage},{stage}", "--weights=1,1,1"))
    assert "no checkpoint is named" in refused(evaluate("--checkpoint=,"))
    card = json.loads((stage / "stage.json").read_text())
    card["description"]["objective"]["target"] = "attractiveness"
    (tmp_path / "stage.json").write_text(json.dumps(card))
    told = refused(evaluate(f"--checkpoint={stage},{tmp_path}"))
    assert f"{tmp_path} answers attractiveness, {stage} age: fuse networks of one label" in told


def test_a_network_that_has_diverged_is_one_line(evaluate, tiny_run, tmp_path, monkeypatch, capsys):
    file, variables = tmp_path / "rows.csv", checkpoint.load_variables
    monkeypatch.setattr(checkpoint, "load_variables", lambda *to: jax.tree.map(lambda x: x * np.nan, variables(*to)))
    assert f"{tiny_run.folder}: 8 of 8 predictions are not finite" in refused(evaluate(f"--predictions={file}"))
    predictions = Predictions(*np.float32([[0, 1], [20, 30], [1, 1], [21, np.nan], [1, 1]]))
    with pytest.raises(UserError, match=r"^1 of 2 predictions are not finite"):
        summarise(predictions, "age", None)
    write_rows(file, "ab", predictions, "age")
    write_rows(tmp_path / "whole.csv", "ab", predictions._replace(value=predictions.label), "age")
    code = main(["fuse", f"{tmp_path}/whole.csv", str(file)])
    assert f"error: {file}: 1 of 2 predictions are not finite" in refused((code, *capsys.readouterr()))


@pytest.mark.parametrize("word", ["json", "predictions"])
@pytest.mark.parametrize("path, told", [("", "Is a directory"), ("file/x", "its folder is a file")])
def test_files_that_cannot_be_written_are_told_before_anything_is_predicted(
    evaluate, tmp_path, monkeypatch, word, path, told
):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("agejax.__main__._predictions", lambda *_: 1 / 0)
    assert f"{tmp_path / path} cannot be written ({told})" in refused(evaluate(f"--{word}={tmp_path / path}"))


@pytest.mark.parametrize(
    "words", [["fuse", "rows.csv"], ["bench", "--only=loader", "--seconds=0.1"]], ids=lambda x: x[0]
)
def test_other_commands_ask_for_room_first_too(tmp_path, monkeypatch, capsys, words):
    monkeypatch.setattr(ensemble, "read", lambda *_: 1 / 0)
    monkeypatch.setattr("agejax.bench.run", lambda *_: 1 / 0)
    monkeypatch.setattr("agejax.bench.device.share_memory", lambda: None)
    assert f"{tmp_path} cannot be written (" in refused((main([*words, f"--json={tmp_path}"]), *capsys.readouterr()))


def test_numbers_are_printed_before_they_cannot_be_written(evaluate, tmp_path, monkeypatch):
    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("agejax.training.evaluate.write_whole", full)
    done = evaluate(f"--predictions={tmp_path / 'rows.csv'}")
    assert "rows.csv cannot be written (No space left on device)" in refused(done)
    assert done[1].startswith("MAE ")


@pytest.mark.parametrize(
    "text", ["", '{"description": {"ima', "[]", "{}", '{"description": {}}', '{"selected": "best", "description": 3}']
)
def test_a_broken_card_is_one_line(evaluate, tmp_path, text):
    (tmp_path / "stage.json").write_text(text)
    assert f"{tmp_path / 'stage.json'} is not the card of a finished stage (" in refused(
        evaluate(f"--checkpoint={tmp_path}")
    )


def test_a_card_that_does_not_say_which_weights_is_one_line(evaluate, tiny_run, tmp_path):
    card = json.loads((tiny_run.folder / "finetune/stage.json").read_text())
    del card["selected"]
    (tmp_path / "stage.json").write_text(json.dumps(card))
    assert "is not the card of a finished stage (KeyError: 'selected')" in refused(evaluate(f"--checkpoint={tmp_path}"))


def test_help_does_not_import_jax():
    code = (
        "import sys\nfrom agejax.__main__ import main\n"
        "try: main(['evaluate', '--help'])\nexcept SystemExit as stop: assert not stop.code\n"
        "assert 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--checkpoint" in done.stdout
