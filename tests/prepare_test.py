import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipelines import builders
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
    assert str(tmp_path / "synthetic" / "wild" / "1.0.0") in out and err == ""
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


def test_help_does_not_wait_for_tfds():
    code = (
        "import sys, experiments.prepare as p\n"
        "try: p.main(['--help'])\nexcept SystemExit as e: assert e.code == 0\n"
        "slow = {'tensorflow_datasets', 'jax', 'numpy', 'cv2'} & sys.modules.keys(); assert not slow, slow"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert all(flag in found.stdout for flag in ("--data", "--raw", "--data_dir", "--faces", "--overwrite"))


def test_nothing_to_do_without_a_name():
    found = run()
    assert found.returncode == 2 and "--data" in found.stderr
