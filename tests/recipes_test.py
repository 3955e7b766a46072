"""What a run says before it starts about the data it was given: mixed recipes, splits that share faces."""

import csv
import json

import pytest
import tiny

from data_pipelines import builders
from data_pipelines.align import unlike
from data_pipelines.detectors import WholeImage
from experiments.check import shared_faces
from experiments.run import main

GIVEN = {"detector": {"name": "given"}, "template": "arcface", "size": 0}


@pytest.mark.parametrize(
    "other, said",
    [
        (GIVEN, ""),
        (GIVEN | {"detector": {"name": "mtcnn", "factor": 0.7}}, "detector mtcnn, not given"),
        (GIVEN | {"size": 256, "face_scale": 0.8}, "size 256, not 0, face_scale 0.8, not None"),
        (GIVEN | {"detector": {"name": "given", "x": 1}}, "the settings of detector given"),
    ],
)
def test_what_two_recipes_differ_in(other, said):
    assert unlike(other, GIVEN) == said


@pytest.mark.parametrize(
    "name, trains, said",
    [
        ("x", "age", "splits of x share 2 pairs of identical files, 1,000 subjects: measured numbers will be too good"),
        ("x", "identity", "splits of x share 2 pairs of identical files: measured numbers will be too good"),
        ("x@fold", "age", "splits of x@fold share 3 pairs of near-duplicates: measured numbers will be too good"),
        ("x@clean", "age", ""),
    ],
)
def test_what_splits_share(name, trains, said):
    none = {"identical": 0, "similar": 0, "subjects": 0}
    across = {"": none | {"identical": 2, "subjects": 1000}, "fold": none | {"similar": 3}, "clean": none}
    assert shared_faces(name, {"trains": trains, "audit": {"across": across}}) == said


def whole_faces(drawn_data, folder) -> None:
    """The drawn faces as a manifest, taken whole; two people and one picture are in train and in test."""
    faces = builders.open_split("synthetic", drawn_data, "all")
    rows = []
    for i in range(24):
        record = faces[i]
        (folder / f"{i}.jpg").write_bytes(faces[0]["image"] if i == 23 else record["image"])
        split = "test" if i in (1, 9, 23) else "val" if i == 22 else "train"
        rows.append({"path": f"{i}.jpg", "age": record["age"], "identity": int(record["identity"]), "split": split})
    with open(folder / "list.csv", "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    builders.prepare("manifest", folder / "data", folder / "list.csv", detector=WholeImage())


def test_a_run_and_an_evaluation_warn_of_mixed_recipes_and_shared_faces(drawn_data, tiny_run, tmp_path, capsys):
    from agejax.__main__ import main as agejax

    whole_faces(drawn_data, tmp_path)
    words = [f"--init={tiny_run.folder}", "--stages=finetune", "--data=manifest", "--finetune.epochs=0.1"]
    assert main([*tiny.words(tmp_path / "data", tmp_path / "run", *tiny.FINETUNE), *words]) == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert len(warnings) == 2
    assert "1 pairs of identical files" in warnings[0] and "subjects" in warnings[0]
    assert warnings[1].endswith(
        f"faces of manifest are cropped in another way than those of the weights of {tiny_run.folder}: "
        "detector none, not given"
    )
    assert warnings[1].removeprefix("warning: ") in (tmp_path / "run/report.html").read_text()

    evaluate = [f"--checkpoint={tiny_run.folder}", "--data=manifest", f"--data_dir={tmp_path / 'data'}"]
    assert agejax(["evaluate", *evaluate]) == 0
    assert "in another way than in training: detector none, not given" in capsys.readouterr().err
    evaluate[2] = f"--data_dir={drawn_data}"
    assert agejax(["evaluate", evaluate[0], "--data=synthetic", evaluate[2]]) == 0
    assert capsys.readouterr().err == ""

    card = tmp_path / "run/finetune/stage.json"  # as an older version wrote it
    facts = json.loads(card.read_text())
    del facts["description"]["recipe"]
    card.write_text(json.dumps(facts))
    assert agejax(["evaluate", f"--checkpoint={tmp_path / 'run'}", "--data=synthetic", evaluate[2]]) == 0
    assert capsys.readouterr().err == ""
