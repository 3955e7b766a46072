import importlib.util
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipelines import builders
from data_pipelines.synthetic import draw_face
from experiments import prepare

SCRIPT = Path(prepare.__file__)


def noise(file: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)
    file.write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes())


def manifest(folder: Path, n: int) -> Path:
    for i in range(n):
        noise(folder / f"{i}.jpg", i)
    (folder / "list.csv").write_text("path,age\n" + "".join(f"{i}.jpg,{20 + i}\n" for i in range(n)))
    return folder / "list.csv"


def run(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True)


def test_synthetic_from_the_command_line(tmp_path, capfd):
    arguments = ["--data=synthetic", f"--data_dir={tmp_path}", "--faces=48"]
    assert prepare.main(arguments) == 0
    out, err = capfd.readouterr()
    counts = builders.summary("synthetic", tmp_path)["splits"]
    for split, faces in counts.items():
        assert next(line for line in out.splitlines() if split in line).split("│")[2].strip() == str(faces)
    assert sum(counts.values()) == 48 and "labelled: age 100%" in out and "took" in out
    assert str(tmp_path / "synthetic" / "wild" / "1.1.0") in out and err == ""
    assert prepare.main(arguments) == 0 and "was prepared already" in capfd.readouterr().out
    assert prepare.main(arguments[:2]) == 0 and "was prepared already" in capfd.readouterr().out
    assert prepare.main([*arguments[:2], "--faces=24", "--overwrite"]) == 0 and "took" in capfd.readouterr().out
    assert sum(builders.summary("synthetic", tmp_path)["splits"].values()) == 24


def test_what_was_skipped_is_shown_by_reason(tmp_path, capsys):
    file = manifest(tmp_path, 20)
    (tmp_path / "3.jpg").unlink()
    (tmp_path / "4.jpg").unlink()
    arguments = ["--data=manifest", f"--raw={file}", f"--data_dir={tmp_path / 'data'}"]
    assert prepare.main([*arguments, "--max_bad_share=0.1"]) == 0
    assert "skipped, file not found: 2 (" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, part",
    [
        (["--data=aaff"], "did you mean aaf"),
        (["--data=aaf"], "aaf needs --raw"),
        (["--data=aaf", "--raw=nowhere"], "nowhere is not there"),
        (["--data=synthetic", "--faces=0"], "1 or more"),
        (["--data=synthetic", "--max_bad_share=nan"], "from 0 to 1"),
        (["--data=synthetic", "--faces=many"], "--faces=many does not fit: its default is 3200"),
        (["--data=synthetic", "--face=4"], "takes no option 'face'; did you mean 'faces'?"),
        (["--data=imdb_wiki", "--raw=.", "--full=perhaps"], "its default is False"),
        (["--data=synthetic", "--detector=yunet"], "--model=FILE and --detector=yunet go together"),
        (["--data=synthetic", "--model=x.onnx"], "go together"),
        (["--data=synthetic", "--detector=yunet", "--model=x.onnx"], "x.onnx is not a file"),
        (["--data=synthetic", "--beam_option=a=b"], "and --beam=RUNNER"),
        (["--data=synthetic", "--beam=DirectRunner", "--beam_option=a"], "give KEY=VALUE"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, capfd, arguments, part):
    assert prepare.main([*arguments, f"--data_dir={tmp_path}"]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("error: ") and part in err


def test_the_script_runs_where_it_is_not_at_home(tmp_path):
    """As a user calls it: a process of its own, from another folder; damaged pictures must not chatter on stderr."""
    file = manifest(tmp_path, 5)
    for i in range(2):
        content = (tmp_path / f"{i}.jpg").read_bytes()
        (tmp_path / f"{i}.jpg").write_bytes(content[: len(content) - 200 * (i + 1)])
    found = run("--data=manifest", f"--raw={file}", f"--data_dir={tmp_path / 'data'}")
    assert found.returncode == 2 and found.stdout == "" and found.stderr.count("\n") == 1, found.stderr
    assert "damaged or cut short" in found.stderr and "more than 1 of 5" in found.stderr


def drawn(folder: Path, n: int, points: bool) -> Path:
    """A manifest of drawn faces, all but the last with their five points where asked."""
    names = [f"{axis}{i}" for i in range(1, 6) for axis in "xy"]
    lines = [",".join(["path", "age", "split", *names])]
    for i in range(n):
        face = draw_face(2, i, "mugshot", 96)
        (folder / f"{i}.jpg").write_bytes(face["image"])
        given = points and i < n - 1
        cells = [f"{value:.2f}" for value in face["landmarks"].ravel()] if given else [""] * 10
        lines.append(",".join([f"{i}.jpg", str(i), ("train", "val", "test")[i % 3], *cells]))
    (folder / "list.csv").write_text("\n".join(lines))
    return folder / "list.csv"


def arguments(folder: Path, *more: str) -> list[str]:
    return ["--data=manifest", f"--raw={folder / 'list.csv'}", f"--data_dir={folder / 'data'}", *more]


def test_faces_are_found_where_the_list_gives_no_points(tmp_path, capsys):
    if not importlib.util.find_spec("mtcnn"):  # importing it needs TensorFlow
        pytest.skip("MTCNN's weights are an extra")
    drawn(tmp_path, 6, points=True)
    assert prepare.main(arguments(tmp_path)) == 0
    out, err = capsys.readouterr()
    assert "faces by mtcnn: 1 found" in out or "1 picture" in out  # it looked at the one picture without points
    assert err == "" and builders.summary("manifest", tmp_path / "data")["recipe"]["detector"]["given_first"]


def test_without_a_detector_a_warning_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    drawn(tmp_path, 6, points=True)
    assert prepare.main(arguments(tmp_path)) == 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("warning: whole pictures") and "agejax[faces]" in err
    assert prepare.main(arguments(tmp_path, "--overwrite", "--detector=none")) == 0  # even where there are points
    out, err = capsys.readouterr()
    assert err == "" and "faces by none: 0 found" in out and "6 pictures" in out


def test_the_audit_is_shown_and_written_as_a_page(tmp_path, capsys):
    drawn(tmp_path, 6, points=True)
    (tmp_path / "1.jpg").write_bytes((tmp_path / "0.jpg").read_bytes())
    assert prepare.main(arguments(tmp_path, "--detector=given")) == 0
    out = capsys.readouterr().out
    assert "leak: 1 pair of byte-identical files" in out and "note:" not in out
    page = tmp_path / "data/manifest/1.0.0/audit.html"
    assert not page.exists()
    assert prepare.main(arguments(tmp_path, "--detector=given", "--audit")) == 0  # of what was prepared before
    out = capsys.readouterr().out
    assert "note:" in out and f"audit: {page}" in out and "0.jpg" in page.read_text()
    assert prepare.main(arguments(tmp_path)) == 0 and "was prepared already" in capsys.readouterr().out


def test_stored_faces_have_the_size_that_was_asked_for(tmp_path, capsys):
    drawn(tmp_path, 6, points=True)
    assert prepare.main(arguments(tmp_path, "--detector=given", "--size=48", "--face_scale=0.9")) == 0
    recipe = builders.summary("manifest", tmp_path / "data")["recipe"]
    assert (recipe["size"], recipe["face_scale"]) == (48, 0.9)
    image = builders.open_split("manifest", tmp_path / "data", "all")[0]["image"]
    assert cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR).shape == (48, 48, 3)


def test_protocols_are_named_by_family():
    names = ["rs_0", "rs_1", "rs_2", "official", "lopo_001", "lopo_002"]
    assert prepare._families({"protocols": dict.fromkeys(names)}) == "rs_0 … rs_2, official, lopo_001 … lopo_002"


def test_a_sets_own_options_have_the_types_of_their_defaults():
    found = prepare.typed("imdb_wiki", {"min_face_score": "3", "known_gender": "True", "splits": "x.json"})
    assert found == {"min_face_score": 3.0, "known_gender": True, "splits": "x.json"}


def test_every_set_is_listed_with_what_it_needs(capsys):
    assert prepare.main(["--list"]) == 0
    out = capsys.readouterr().out
    assert not [name for name in builders.BUILDERS if f"\n{name}: " not in f"\n{out}"]
    assert "cfd/main, cfd/mr" in out and "--min_images=0" in out and "withdrawn" in out


def test_help_does_not_wait_for_tfds():
    code = (
        "import sys, experiments.prepare as p\n"
        "try: p.main(['--help'])\nexcept SystemExit as e: assert e.code == 0\n"
        "slow = {'tensorflow_datasets', 'jax', 'numpy', 'cv2'} & sys.modules.keys(); assert not slow, slow"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert all(
        flag in found.stdout
        for flag in ("--data", "--raw", "--data_dir", "--faces", "--overwrite", "--audit", "--detector")
    )


def test_nothing_to_do_without_a_name():
    found = run()
    assert found.returncode == 2 and "--data" in found.stderr
