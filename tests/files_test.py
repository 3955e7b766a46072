"""Folders in a bucket, which is a stand-in in memory: what a run keeps there beside its checkpoints."""

import json

import fsspec
import numpy as np
import pytest
import tensorboardX.record_writer
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem

from agejax.files import absolute, as_path, is_remote, modified, write_whole
from agejax.training import checkpoint, progress
from agejax.training.progress import Progress
from data_pipelines.errors import UserError
from experiments.check import check_claim, claim
from experiments.command_line import parse
from experiments.results import sentence, write_results
from experiments.saved import read_json, read_metrics, read_predictions


class Bucket(MemoryFileSystem):
    """Objects only: no folders to make, nothing to append to."""

    store, pseudo_dirs = {}, [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("gs://"))

    def glob(self, path, **options):
        return [name.lstrip("/") for name in super().glob(path, **options)]

    def open(self, path, mode="rb", **options):
        assert "a" not in mode, "objects cannot be appended to"
        return super().open(path, mode, **options)


class Events:
    """What tensorboardX asks of a writer for gs://, and of what makes one."""

    def directory_check(self, path):
        pass

    def open(self, path):
        return self

    write = directory_check

    def flush(self):
        pass

    close = flush


@pytest.fixture
def bucket(monkeypatch):
    monkeypatch.setitem(tensorboardX.record_writer.REGISTERED_FACTORIES, "gs", Events())
    monkeypatch.setattr(fsspec, "get_filesystem_class", {"gcs": Bucket}.get)
    monkeypatch.setattr(fsspec, "filesystem", lambda name, **options: Bucket())
    opened = type(backend.fsspec_backend)._get_filesystem
    opened.cache_clear()
    yield as_path("gs://bucket/runs/mine")
    Bucket.store.clear()
    opened.cache_clear()


def test_paths_are_of_this_machine_or_of_a_bucket(bucket, tmp_path):
    assert not is_remote(as_path("runs/x")) and not is_remote(as_path(tmp_path)) and is_remote(bucket)
    assert str(bucket) == str(as_path(bucket)) == str(absolute(bucket)) == "gs://bucket/runs/mine"
    with pytest.raises(UserError, match=r"ftp://a/b: folders are local, or gs://"):
        as_path("ftp://a/b")


def test_a_bucket_without_its_package_is_told(monkeypatch):
    def missing(name):
        raise ImportError("Please install gcsfs to access Google Storage")  # fsspec's own words

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(UserError, match=r"gs://bucket/x needs another package: pip install 'agejax\[gcs\]'"):
        as_path("gs://bucket/x")


def test_the_command_line_takes_buckets(bucket):
    experiment = parse(["--config=dldl_v2_thin", "--workdir=gs://bucket/runs/mine", "--init=gs://bucket/other"])
    assert str(experiment.folder) == str(bucket) and str(experiment.init) == "gs://bucket/other"
    assert parse(["--config=dldl_v2_thin", "--init=None"]).init is None


def test_a_bucket_is_claimed_by_one_experiment(bucket):
    words = ["--config=dldl_v2_thin", f"--workdir={bucket}"]
    check_claim(bucket, parse(words))
    claim(bucket, parse(words))
    assert read_json(bucket / "config.json")["workdir"] == str(bucket)
    check_claim(bucket, parse([*words, "--seed=1"]))  # no step was made
    write_whole(bucket / "finetune" / "metrics.jsonl", "")
    check_claim(bucket, parse([*words, "--cluster.patience=5"]))
    with pytest.raises(UserError, match="holds a run with another seed"):
        check_claim(bucket, parse([*words, "--seed=1"]))


def test_lines_reach_the_bucket_when_they_are_kept_and_now_and_then(bucket, monkeypatch):
    with Progress(bucket, "finetune", 9, 3.0, 0) as reports:
        reports.write("train", 1, {"loss": 3.0})
        assert read_metrics(bucket / "metrics.jsonl") == []
        reports.keep()
        assert [line["step"] for line in read_metrics(bucket / "metrics.jsonl")] == [1]
        monkeypatch.setattr(progress, "REMOTE_SECONDS", 0)
        reports.write("train", 2, {"loss": 2.0})
        assert [line["step"] for line in read_metrics(bucket / "metrics.jsonl")] == [1, 2]
    with Progress(bucket, "finetune", 9, 3.0, 1) as reports:  # goes on after step 1
        reports.write("train", 2, {"loss": 2.5})
    assert [line["loss"] for line in read_metrics(bucket / "metrics.jsonl")] == [3.0, 2.5]


def test_results_and_predictions_are_read_back_from_a_bucket(bucket):
    results = {"test": None}
    write_results(bucket, results)
    assert read_json(bucket / "results.json") == results
    assert f"numbers: {bucket}/results.json" in sentence(bucket)
    write_whole(bucket / "predictions.csv", "id,age,sigma,predicted,predicted_std\r\na,3,,4,1\r\n")
    rows = read_predictions(bucket / "predictions.csv", "age")
    assert rows["id"] == ["a"] and np.isnan(rows["sigma"][0]) and rows["predicted"][0] == 4


def test_the_stage_finished_last_is_found_in_a_bucket(bucket, monkeypatch):
    for name in ("b", "a"):
        write_whole(bucket / name / checkpoint.CARD, json.dumps({"selected": "latest"}))
    assert modified(bucket / "a" / checkpoint.CARD) >= 0
    assert checkpoint.find_stage(bucket / "b") == bucket / "b"
    assert checkpoint.find_stage(bucket).parent == bucket
    assert checkpoint.read_card(bucket / "a")["selected"] == "latest"
    with pytest.raises(UserError, match="gs://bucket/none does not exist"):
        checkpoint.find_stage(as_path("gs://bucket/none"))
