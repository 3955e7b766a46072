"""The launch scripts, with stand-ins for gcloud, srun, scontrol and kubectl that write down what they are told."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from agejax.training import cluster
from experiments.command_line import parse

LAUNCH = Path(__file__).parents[1] / "experiments/launch"
SCRIPTS = [*sorted(LAUNCH.glob("*.sh")), LAUNCH / "slurm.sbatch"]
AWKWARD = "--pretrain.trainable=head|block5 x$HOME(a)'b"  # one word
WORDS = ["--config=dldl_v2_thin", "--workdir=gs://bucket/run 1", "--seed=3", AWKWARD]
TPU = {"TPU": "mine", "ZONE": "z-a", "TYPE": "v5litepod-16", "PAUSE": "0"}
GPUS = {
    "NAME": "mine", "IMAGE": "registry/agejax:1", "DATA": "bucket", "HOSTS": "4", "CHIPS": "8",
    "DEVICE": "nvidia.com/gpu", "NODES": '{"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}',
}  # fmt: skip
STAND_IN = """\
#!{python}
import json, pathlib, sys
here = pathlib.Path(__file__).parent
text = "" if {name!r} != "kubectl" else sys.stdin.read()
with (here / "told.jsonl").open("a") as file:
    file.write(json.dumps([{name!r}, *sys.argv[1:], *([text] if text else [])]) + "\\n")
answers = json.loads((here / "answers.json").read_text())
for part, waiting in answers.items():
    if waiting and any(part in word for word in sys.argv[1:]):
        said, code = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        (here / "answers.json").write_text(json.dumps(answers))
        print(said)
        sys.exit(code)
"""


@pytest.fixture
def launch(tmp_path):
    """launch(script, words, environment, answers) → .told: every command given to a stand-in, .code, .err.

    answers: part of a word → [what is printed, code] for each such command in turn; the last one stays.
    """
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("gcloud", "srun", "scontrol", "kubectl"):
        (folder / name).write_text(STAND_IN.format(python=sys.executable, name=name))
        (folder / name).chmod(0o755)

    def run(script, words, environment, **answers):
        (folder / "told.jsonl").write_text("")
        (folder / "answers.json").write_text(json.dumps(answers))
        path = f"{folder}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", LAUNCH / script, *words], env=os.environ | environment | {"PATH": path}, timeout=60,
            cwd=LAUNCH.parents[1], capture_output=True, text=True,
        )  # fmt: skip
        told = [json.loads(line) for line in (folder / "told.jsonl").read_text().splitlines()]
        return SimpleNamespace(told=told, code=done.returncode, err=done.stderr)

    return run


def check(words):
    """They are what run.py was to be told, all of it, and run.py understands them."""
    assert [word for word in words if word in WORDS] == WORDS
    experiment = parse(words)
    assert str(experiment.workdir) == "gs://bucket/run 1" and experiment.seed == 3
    assert experiment.stages[0].trainable == AWKWARD.partition("=")[2]
    return experiment


@pytest.fixture(autouse=True)
def bucket(monkeypatch):
    """gs:// without the package for it."""
    import fsspec

    monkeypatch.setattr(fsspec, "get_filesystem_class", lambda name: None)


def run_words(command: str) -> list[str]:
    """What follows run.py in a command for a remote shell."""
    return shlex.split(command.rpartition("; }")[0].partition("experiments/run.py ")[2])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_well_formed(script):
    subprocess.run(["bash", "-n", script], check=True)
    if shellcheck := shutil.which("shellcheck"):
        subprocess.run([shellcheck, script], check=True)


def test_slurm_passes_its_words_on(launch):
    done = launch("slurm.sbatch", WORDS, {"SLURM_JOB_ID": "7", "PYTHON": "python"})
    assert done.code == 0 and len(done.told) == 1
    command = done.told[0]
    assert command[:1] == ["srun"] and command[3:5] == ["python", "experiments/run.py"]
    check(command[5:])


@pytest.mark.parametrize("code, again", [(143, True), (2, False), (1, False)])
def test_slurm_goes_on_in_another_job_only_after_a_stop(launch, code, again):
    done = launch("slurm.sbatch", WORDS, {"SLURM_JOB_ID": "7"}, **{"run.py": [["", code]]})
    assert done.code == code
    assert (["scontrol", "requeue", "7"] in done.told) == again


def test_a_tpu_is_made_filled_used_and_removed(launch):
    done = launch("tpu_vm.sh", WORDS, TPU | {"DATA": "gs://bucket/data"}, describe=[["", 1]])
    assert done.code == 0, done.err
    assert [command[4] for command in done.told] == [
        "describe",
        "delete",
        "create",
        "scp",
        "ssh",
        "ssh",
        "ssh",
        "delete",
    ]
    create, *shells = (command for command in done.told if command[4] in ("create", "ssh"))
    assert create[5:] == ["mine", "--zone=z-a", "--accelerator-type=v5litepod-16", "--version=v2-alpha-tpuv5-lite"]
    assert all("--worker=all" in command for command in shells)
    assert "rsync -r gs://bucket/data agejax/data" in shells[1][-1]
    check(run_words(shells[2][-1]))


def test_a_spot_tpu_that_is_taken_away_is_made_anew_and_the_run_goes_on(launch):
    states = [["", 1], ["PREEMPTED", 0], ["PREEMPTED", 0], ["READY", 0]]
    answers = {"describe": states, "[e]xperiments/run.py": [["", 255], ["", 0]]}
    done = launch("tpu_vm.sh", WORDS, TPU | {"SPOT": "1"}, **answers)
    assert done.code == 0, done.err
    made = [command for command in done.told if command[4] == "create"]
    runs = [run_words(command[-1]) for command in done.told if "pkill" in command[-1]]
    assert len(made) == len(runs) == 2 and runs[0] == runs[1]
    assert all("--spot" in command for command in made)


def test_a_run_that_fails_on_a_healthy_tpu_is_not_repeated(launch):
    answers = {"describe": [["READY", 0]], "[e]xperiments/run.py": [["", 2]]}
    done = launch("tpu_vm.sh", WORDS, TPU | {"KEEP": "1"}, **answers)
    assert done.code == 2
    assert [command[4] for command in done.told] == ["describe", "ssh", "describe"]  # it was there, and stays


def test_a_tpu_without_a_bucket_is_refused(launch):
    done = launch("tpu_vm.sh", ["--config=dldl_v2_thin", "--workdir=runs/x"], TPU)
    assert done.code == 2 and not done.told and "give --workdir=gs://BUCKET/DIR" in done.err


def test_a_jobset_of_gpus_finds_itself_by_address(launch):
    done = launch("gke.sh", WORDS, GPUS)
    assert done.code == 0, done.err
    [command] = done.told
    assert command[:4] == ["kubectl", "apply", "-f", "-"]
    job = yaml.safe_load(command[4])
    spec = job["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = spec["template"]["spec"]
    container = pod["containers"][0]
    assert (spec["parallelism"], spec["completions"], spec["backoffLimit"]) == (4, 4, 0)
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    assert container["command"] == ["python", "experiments/run.py"]
    words = [expanded(word, JOB_COMPLETION_INDEX="3") for word in container["args"]]
    experiment = check(words)
    found = cluster.find(experiment.cluster, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert found["coordinator_address"] == "mine-run-0-0.mine:8476"  # job, index of the job, index of the pod; service
    assert (found["num_processes"], found["process_id"], str(experiment.data_dir)) == (4, 3, "/data")


def expanded(word: str, **environment: str) -> str:
    """$(NAME) and $$ as Kubernetes reads them."""
    parts = word.split("$$")
    for name, value in environment.items():
        parts = [part.replace(f"$({name})", value) for part in parts]
    return "$".join(parts)


def test_a_jobset_of_tpus_leaves_the_finding_to_gke(launch):
    done = launch("gke.sh", WORDS, GPUS | {"DEVICE": "google.com/tpu", "HOSTS": "4"})
    job = yaml.safe_load(done.told[0][4])
    words = job["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert check([expanded(word) for word in words]).cluster == cluster.Cluster()


def test_a_jobset_wants_all_it_needs(launch):
    done = launch("gke.sh", WORDS, {name: value for name, value in GPUS.items() if name != "IMAGE"})
    assert done.code != 0 and not done.told and "IMAGE" in done.err
