import json

import numpy as np
import pytest

from data_pipelines.audit import EXAMPLES, OFTEN, audit, by_reason
from data_pipelines.duplicates import CROWD, MAX_BITS

TRAIN, VAL, TEST, NONE = 0, 1, 2, -1
LEAKY = ({TRAIN, VAL}, {TRAIN, TEST}, {VAL, TEST})


def columns(split, **others):
    """An index of pictures that differ, of nobody known, but for what is given."""
    count, rng = len(split), np.random.default_rng(0)
    plain = {
        "split": np.array(split, np.int8),
        "age": np.full(count, 30, np.float32),
        "sigma": np.full(count, np.nan, np.float32),
        "attractiveness": np.full(count, np.nan, np.float32),
        "attractiveness_sigma": np.full(count, np.nan, np.float32),
        "identity": np.full(count, -1, np.int32),
        "gender": np.full(count, ""),
        "ethnicity": np.full(count, ""),
        "faces": np.full(count, -1, np.int16),
        "sha256": np.arange(count, dtype=np.uint64) + 10,
        "phash": rng.integers(1, 2**63, (count, 4), np.uint64),
    }
    words = {"gender": None, "ethnicity": None}
    dtypes = {name: column.dtype for name, column in plain.items()} | words
    return plain | {name: np.array(values, dtypes[name]) for name, values in others.items()}


def found(index, summary=()):
    """Kind → finding, after a check of what all findings have."""
    result = audit(index, dict(summary))
    assert json.loads(json.dumps(result)) == result == audit(index, dict(summary))
    order = [("leak", "warning", "note").index(finding["severity"]) for finding in result["findings"]]
    assert order == sorted(order)
    kinds = [finding["kind"] for finding in result["findings"]]
    assert len(kinds) == len(set(kinds))
    return dict(zip(kinds, result["findings"]))


def severities(index, summary=()):
    return {kind: finding["severity"] for kind, finding in found(index, summary).items()}


def near(index, row, other, count=9):
    """Row's hash becomes the other's, with `count` bits changed."""
    index["phash"][row] = index["phash"][other] ^ np.array([2**count - 1, 0, 0, 0], np.uint64)
    return index


# --- duplicates


def test_a_clean_set_has_only_notes():
    index = columns([TRAIN] * 6 + [VAL] * 2 + [TEST] * 2, identity=[0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    assert severities(index) == dict.fromkeys(("counts", "identical", "similar", "subjects"), "note")
    texts = {kind: finding["text"] for kind, finding in found(index).items()}
    assert texts == {
        "counts": "10 images",
        "identical": "no byte-identical files",
        "similar": "no near-duplicate pictures",
        "subjects": "no subject of 5 lies in more than one split",
    }


def test_identical_files_in_two_splits_are_a_leak():
    index = columns([TRAIN] * 4 + [VAL] + [TEST] * 2, sha256=[1, 2, 3, 1, 2, 2, 7])
    finding = found(index)["identical_across"]
    assert finding["severity"] == "leak" and finding["count"] == 3
    assert finding["text"] == (
        "3 pairs of byte-identical files lie in more than one split (1 in train and val, 1 in train and test, "
        "1 in val and test)"
    )
    assert finding["examples"] == [[1, 4], [1, 5], [4, 5]]
    assert found(index)["identical"]["text"] == "4 pairs of byte-identical files: 5 pictures in 2 groups"
    assert audit(index, {})["duplicates"]["identical"] == {"pairs": 4, "groups": 2, "pictures": 5, "largest": 3}


@pytest.mark.parametrize(
    ("split", "text"),
    [
        ([TRAIN, TRAIN, VAL, VAL], "2 pairs of near-duplicate pictures lie in train and val"),
        ([TRAIN, NONE, TRAIN, TEST], "1 pair of near-duplicate pictures lies in train and test"),
        ([TRAIN, NONE, TRAIN, TRAIN], None),
    ],
)
def test_near_duplicates_in_two_splits_are_a_leak(split, text):
    index = near(near(columns(split), 0, 1), 3, 1, 14)
    finding = found(index).get("similar_across")
    assert (finding and finding["text"]) == text
    if finding:
        crossing = [pair for pair in ([0, 1], [0, 3], [1, 3]) if {split[row] for row in pair} in LEAKY]
        assert finding["severity"] == "leak" and finding["examples"] == crossing


def test_how_near_depends_on_the_set(monkeypatch):
    index = near(columns([TRAIN] * 4), 0, 1)
    assert audit(index, {})["duplicates"]["max_bits"] == MAX_BITS
    monkeypatch.setattr("data_pipelines.audit.bits_for", lambda hashes: 8)
    assert audit(index, {})["duplicates"] == {
        "identical": {"pairs": 0, "groups": 0, "pictures": 0, "largest": 0},
        "similar": {"pairs": 0, "groups": 0, "pictures": 0, "largest": 0},
        "max_bits": 8,
    }


def test_identical_files_are_not_near_duplicates_as_well():
    index = near(columns([TRAIN, TEST, TEST], sha256=[5, 5, 6]), 0, 1)
    assert audit(index, {})["duplicates"]["similar"]["pairs"] == 0
    assert audit({key: index[key] for key in ("split", "phash")}, {})["duplicates"]["similar"]["pairs"] == 1


def test_duplicates_that_disagree_are_told_from_the_worst():
    age = [30, 34, 30.5, np.nan, 20, 44]
    index = columns([TRAIN] * 6, sha256=[1, 1, 2, 2, 3, 3], age=age, identity=[0, 0, 1, 2, -1, 4])
    for finding in (found(index)["identical_age"], found(index)["identical_identity"]):
        assert finding["severity"] == "warning"
    finding = found(index)["identical_age"]
    assert finding["text"] == "2 pairs of byte-identical files disagree on age, by up to 24 years (1 by more than 5)"
    assert finding["examples"] == [[4, 5], [0, 1]]
    assert found(index)["identical_identity"]["text"] == "1 pair of byte-identical files is labelled as two people"
    assert found(index)["identical_identity"]["examples"] == [[2, 3]]
    near_ages = found(near(columns([TRAIN] * 3, age=[50, 50.5, 1]), 0, 1))["similar_age"]["text"]
    assert near_ages == "1 pair of near-duplicate pictures disagrees on age, by up to 0.5 years (0 by more than 5)"


@pytest.mark.parametrize("times", [OFTEN - 1, OFTEN, CROWD + 1])
def test_a_file_that_occurs_often_is_a_warning(times):
    index = columns([TRAIN] * (times + 3), sha256=[7] * times + [1, 2, 2])
    finding = found(index).get("often")
    assert bool(finding) == (times >= OFTEN)
    if finding:
        assert finding["severity"] == "warning" and finding["count"] == times
        assert f"occurs {times} times" in finding["text"]
        assert ("not every pair" in finding["text"]) == (times > CROWD)


def test_examples_are_few_and_counts_are_whole():
    count = 3 * EXAMPLES
    index = columns([TRAIN] * count + [TEST] * count, sha256=list(range(count)) * 2)
    finding = found(index)["identical_across"]
    assert finding["count"] == count and finding["examples"] == [[i, count + i] for i in range(EXAMPLES)]
    assert found(index)["identical"]["examples"] == finding["examples"]


# --- subjects and protocols


def test_a_subject_in_two_splits_is_a_leak():
    index = columns([TRAIN] * 4 + [VAL] * 2 + [TEST] * 3, identity=[9, 9, 4, -1, 9, 4, 9, -1, 6])
    finding = found(index)["subjects_across"]
    assert finding["severity"] == "leak" and finding["count"] == 2
    assert finding["text"] == (
        "2 subjects of 3 lie in more than one split (2 in train and val, 1 in train and test, 1 in val and test)"
    )
    assert finding["examples"] == [[2, 5], [0, 4]]
    assert audit(index, {})["across"][""] == {"identical": 0, "similar": 0, "subjects": 2}


def test_identification_sets_share_subjects_on_purpose():
    index = columns([TRAIN, TRAIN, VAL], identity=[0, 1, 1], age=[np.nan] * 3)
    finding = found(index, {"trains": "identity"})["subjects_across"]
    assert finding["severity"] == "note"
    assert finding["text"] == (
        "1 subject of 2 lies in train and val, as it is meant: identity is what is trained"
    )  # fmt: skip
    assert severities(index, {"trains": "age"})["subjects_across"] == "leak"


def test_unknown_subjects_are_told():
    assert "names no subjects" in found(columns([TRAIN, TEST]))["subjects"]["text"]


def test_protocols_are_audited_each_with_its_own_splits():
    index = columns([TRAIN] * 5 + [TEST], sha256=[1, 1, 3, 4, 5, 6], identity=[0, 0, 1, 1, 2, 3])
    protocols = {
        "protocol:a": [TRAIN, TEST, TRAIN, VAL, TEST, TRAIN],
        "protocol:b": [TRAIN, NONE, NONE, TRAIN, TEST, TEST],
        "protocol:c": [TEST, TRAIN, VAL, VAL, TRAIN, TRAIN],
    }
    index |= {name: np.array(split, np.int8) for name, split in protocols.items()}
    findings = found(index)
    assert not findings.keys() & {"identical_across", "subjects_across"}
    copies, people = findings["identical_protocols"], findings["subjects_protocols"]
    assert copies["severity"] == people["severity"] == "leak"
    assert copies["text"] == (
        "pairs of byte-identical files lie in more than one split of 2 of 3 protocols (1 in a, 1 in c)"
    )
    assert people["text"] == "subjects of 4 lie in more than one split of 2 of 3 protocols (2 in a, 1 in c)"
    assert (people["protocol"], people["examples"], people["count"]) == ("a", [[0, 1], [2, 3]], 2)
    across = audit(index, {})["across"]
    assert {name: row["subjects"] for name, row in across.items()} == {"": 0, "a": 2, "b": 0, "c": 1}
    assert {name: row["identical"] for name, row in across.items()} == {"": 0, "a": 1, "b": 0, "c": 1}


def test_many_protocols_make_one_finding():
    index = columns([TRAIN] * 4, identity=[0, 0, 1, 1])
    index |= {f"protocol:fold_{i:02d}": np.array([TRAIN, TEST, TRAIN, TRAIN], np.int8) for i in range(30)}
    text = found(index)["subjects_protocols"]["text"]
    assert "30 of 30 protocols" in text and text.count("fold_") == 5 and text.endswith(", …)")


# --- counts, pictures, labels


@pytest.mark.parametrize(
    ("expected", "skipped", "severity", "text"),
    [
        ({}, 0, "note", "4 images"),
        ({}, 1, "note", "4 images; 1 file left out"),
        ({"all": 4, "test": 1, "cv:val": 2}, 0, "note", "4 images, all counts as published"),
        ({"all": 6, "train": 3}, 2, "note", "counts differ from the published ones: all 4 of 6; 2 files left out"),
        ({"all": 6}, 1, "warning", "counts differ from the published ones: all 4 of 6; 1 file left out"),
        (
            {"all": 6, "train": 2},
            2,
            "warning",
            "counts differ from the published ones: all 4 of 6, train 3 of 2; 2 files left out",
        ),
        ({"train": 2}, 5, "warning", "counts differ from the published ones: train 3 of 2; 5 files left out"),
        ({"rs:test": 1}, 0, "warning", "counts differ from the published ones: rs:test 0 of 1"),
        ({"cv:all": 4}, 0, "warning", "counts differ from the published ones: cv:all 3 of 4"),
    ],
)
def test_counts_are_held_against_the_published_ones(expected, skipped, severity, text):
    index = columns([TRAIN] * 3 + [TEST]) | {"protocol:cv": np.array([VAL, VAL, NONE, TEST], np.int8)}
    finding = found(index, {"expected": expected, "skipped": [{}] * skipped})["counts"]
    assert (finding["severity"], finding["text"]) == (severity, text)


@pytest.mark.parametrize(("without", "severity"), [(5, "note"), (6, "warning")])
def test_pictures_without_a_face_are_counted_among_those_looked_at(without, severity):
    faces = [0] * without + [1] * (98 - without) + [2, 7] + [-1] * 50
    findings = found(columns([TRAIN] * 150, faces=faces))
    assert findings["no_face"]["text"] == f"{without} pictures of 100 without a face, so taken whole"
    assert findings["no_face"]["severity"] == severity
    assert findings["no_face"]["examples"] == [[i] for i in range(without)]
    assert findings["several_faces"]["text"] == "2 pictures of 100 with several faces"
    assert findings["several_faces"]["severity"] == "note"
    nobody_looked = found(columns([TRAIN] * 150, faces=faces), {"detector": "none"})
    assert not nobody_looked.keys() & {"no_face", "several_faces"}


def test_pictures_and_labels_that_need_care_are_told():
    index = columns([TRAIN] * 4, sigma=[0, 0, 1, np.nan], attractiveness_sigma=[np.nan, np.nan, 0, 2])
    index["age"][2] = np.nan
    index["phash"][1] = 0
    index["phash"][2, 3] = 0
    index["identity"][2] = 0
    findings = found(index)
    assert {kind: finding["examples"] for kind, finding in findings.items() if "examples" in finding} == {
        "sigma_0": [[0], [1]],
        "attractiveness_sigma_0": [[2]],
        "one_colour": [[1]],
        "unlabelled": [[2]],
    }
    assert findings["unlabelled"]["text"] == "1 picture of 4 without age"
    assert findings["sigma_0"]["text"] == "2 pictures with sigma 0: nothing may be divided by it"
    assert severities(index)["one_colour"] == severities(index)["unlabelled"] == "warning"
    assert found(index, {"trains": "identity"})["unlabelled"]["count"] == 3


def test_composition_is_counted_per_split():
    gender = ["male", "female", "", "male", "female", "female"]
    index = columns([TRAIN] * 4 + [TEST] * 2, gender=gender, ethnicity=["a", "x", "x", "x", "b", "c"])
    counts = audit(index, {})["composition"]
    assert counts["gender"] == {
        "train": {"female": 1, "male": 2, "": 1},
        "test": {"female": 2, "male": 0, "": 0},
    }
    assert list(counts["ethnicity"]["train"].items()) == [("x", 3), ("a", 1), ("b", 0), ("c", 0), ("", 0)]
    many = columns([TRAIN] * 60, ethnicity=[f"{i % 30}" for i in range(60)])
    counted = audit(many, {})["composition"]["ethnicity"]["train"]
    assert len(counted) == 13 and counted[""] == 60 - 2 * 12
    assert audit(columns([TRAIN]), {})["composition"] == {"gender": {}, "ethnicity": {}}


def test_an_index_of_splits_alone_and_an_empty_one():
    for split in ([], [TRAIN, TEST]):
        result = audit({"split": np.array(split, np.int8)}, {})
        assert {finding["severity"] for finding in result["findings"]} == {"note"}
        assert result["findings"][0]["text"] == f"{len(split)} images"
        assert json.dumps(result)
    assert found(columns([]))["counts"]["count"] == 0


def test_files_left_out_are_put_together_by_reason():
    reasons = {"a": "duplicate of b", "c": "file not found", "d": "duplicate of e: f", "g": "age: 130 is too much"}
    skipped = [{"file": file, "reason": reason} for file, reason in reasons.items()]
    assert by_reason(skipped) == {"duplicate": ["a", "d"], "file not found": ["c"], "age": ["g"]}
