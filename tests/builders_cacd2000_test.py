"""CACD2000. The trees are the set's layout, drawn here."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from age_trees import cell, pictures, splits
from raw_trees import made, reasons

from data_pipelines.builders import open_split, prepare, summary
from data_pipelines.builders.cacd2000 import Cacd2000
from data_pipelines.errors import DataError

CELEBRITIES = [  # name of the file, identity, rank
    ("53_Robin_Williams_0001.jpg", 1, 1),
    ("41_Jason_Statham_0003.jpg", 9, 2),
    ("14_Jean-Claude_Van_Damme_0012.jpg", 4, 3),
    ("36_Penélope_Cruz_0007.jpg", 5, 5),
    ("62_Björk_Guðmundsdóttir_0002.jpg", 2000, 6),
    ("28_Stellan_Skarsgård_0010.jpg", 7, 50),
    ("29_Stellan_Skarsgård_0011.jpg", 7, 50),
]
NAMES = [name for name, _, _ in CELEBRITIES]


def cacd_meta(file: Path, rows=CELEBRITIES, one_struct=True) -> Path:
    """`celebrityImageData` in the set's order of fields: one struct of N×1 arrays, names in cells; or N structs."""
    names, identities, ranks = zip(*rows)
    numbers = {
        "age": [int(name.partition("_")[0]) for name in names],
        "identity": identities,
        "year": [2004] * len(rows),
        "feature": [],
        "rank": ranks,
        "lfw": [0] * len(rows),
        "birth": [1951] * len(rows),
    }
    if one_struct:
        data = {field: np.array(values, np.float64).reshape(-1, 1) for field, values in numbers.items()}
        data |= {"name": cell(*names).T}
    else:
        data = np.empty((1, len(rows)), [(field, object) for field in (*numbers, "name")])
        for i, name in enumerate(names):
            data[0, i] = (*(values[i] if values else [] for values in numbers.values()), cell(name))
    file.parent.mkdir(parents=True, exist_ok=True)
    people = {"name": cell("Robin Williams").T, "identity": np.array([[1.0]]), "rank": np.array([[1.0]])}
    scipy.io.savemat(file, {"celebrityData": people, "celebrityImageData": data}, do_compression=True)
    return file


@pytest.mark.parametrize("raw", [".", "cacd", "cacd/CACD2000"])
@pytest.mark.parametrize("one_struct", [True, False])
def test_cacd_splits_by_rank(tmp_path, raw, one_struct):
    pictures(tmp_path / "cacd" / "CACD2000", *NAMES[1:], f"CACD2000/{NAMES[0]}")
    cacd_meta(tmp_path / "cacd" / "celebrity2000_meta.mat", one_struct=one_struct)
    builder, rows = made(Cacd2000, tmp_path / raw)
    assert list(rows) == NAMES
    assert list(splits(rows).values()) == ["val", "val", "test", "test", "train", "train", "train"]
    assert [row.labels for row in rows.values()] == [
        {"age": age, "identity": identity}
        for age, identity in ((53, 0), (41, 4), (14, 1), (36, 2), (62, 5), (28, 3), (29, 3))
    ]
    assert all(row.file.name == id and row.file.exists() for id, row in rows.items())
    protocol = builder.protocols(list(rows.values()))
    assert protocol == {"train_on_val": ["train", "train", "test", "test", "", "", ""]}
    assert not builder.skipped and not builder.warnings


def test_cacd_reads_what_copies_change(tmp_path):
    """Decomposed names in the list; pictures beside it; an age that is not the name's."""
    rows = [(unicodedata.normalize("NFD", f"{name} "), *numbers) for name, *numbers in CELEBRITIES]
    pictures(tmp_path / "raw", *NAMES)
    meta = cacd_meta(tmp_path / "raw" / "celebrity2000_meta.mat", rows)
    builder, rows = made(Cacd2000, tmp_path / "raw")
    assert list(rows) == NAMES and all(row.file.exists() for row in rows.values()) and not builder.warnings
    data = scipy.io.loadmat(meta)
    data["celebrityImageData"]["age"][0, 0][1] = 40
    data["celebrityImageData"]["age"][0, 0][2] = np.nan
    scipy.io.savemat(meta, {"celebrityImageData": data["celebrityImageData"]})
    builder, rows = made(Cacd2000, tmp_path / "raw")
    assert rows[NAMES[1]].labels["age"] == 40 and list(reasons(builder)) == [NAMES[2]]
    assert builder.warnings == [
        "names and celebrity2000_meta.mat differ in age: that of celebrity2000_meta.mat is taken"
    ]


@pytest.mark.parametrize(
    "changed",
    [
        lambda name: unicodedata.normalize("NFD", name),
        lambda name: unicodedata.normalize("NFD", name).encode("ascii", "ignore").decode(),
        lambda name: name.encode("utf-8").decode("gbk", "replace"),
        lambda name: name.encode("utf-8").decode("latin-1").replace("\x83", "?"),
        str.upper,
    ],
)
def test_cacd_finds_accented_names(tmp_path, changed):
    """As systems that decompose, drop or mangle letters leave them; ð has no plain form at all."""
    pictures(tmp_path / "CACD2000", *map(changed, NAMES))
    cacd_meta(tmp_path / "celebrity2000_meta.mat")
    builder, rows = made(Cacd2000, tmp_path)
    assert list(rows) == NAMES and not builder.skipped
    assert [row.file.name for row in rows.values()] == list(map(changed, NAMES))
    assert builder.split_key("a/36_Penelope_Cruz_0007.jpg") == builder.split_key(NAMES[3])  # as lists have it


def test_cacd_lists_what_it_leaves_out(tmp_path):
    root = tmp_path / "raw"
    pictures(root / "CACD2000", *NAMES[1:], "20_Some_Body_0001.jpg", "22_A_B_0001.jpg", "notes.jpg")
    more = [("20_Some_Body_0001.jpg", 3, 0), (NAMES[1], 9, 2), ("21_No_Body_0001.jpg", np.nan, 1)]
    cacd_meta(root / "celebrity2000_meta.mat", CELEBRITIES + more)
    builder, rows = made(Cacd2000, root)
    assert list(rows) == NAMES and not rows[NAMES[0]].file.exists()  # the build says so
    assert reasons(builder) == {
        "20_Some_Body_0001.jpg": "entry 8 of celebrity2000_meta.mat has age 20, rank 0, identity 3",
        NAMES[1]: "entry 9 of celebrity2000_meta.mat is there twice",
        "21_No_Body_0001.jpg": "entry 10 of celebrity2000_meta.mat has age 21, rank 1, identity nan",
        "22_A_B_0001.jpg": "not in celebrity2000_meta.mat",
        "notes.jpg": "not in celebrity2000_meta.mat",
    }


def test_cacd_needs_a_list_that_can_be_read(tmp_path):
    pictures(tmp_path / "CACD2000", *NAMES)
    with pytest.raises(DataError, match=r"no `celebrity2000_meta\.mat` or `celebrity2000\.mat` in .*; --raw must name"):
        made(Cacd2000, tmp_path)
    file = tmp_path / "celebrity2000.mat"
    file.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(116) + bytes(8) + b"\0\2IM" + bytes(100))
    with pytest.raises(DataError, match=r"celebrity2000\.mat is a MATLAB 7\.3 file; give one of an older version"):
        made(Cacd2000, tmp_path)
    whole = cacd_meta(tmp_path / "celebrity2000_meta.mat").read_bytes()
    (tmp_path / "celebrity2000_meta.mat").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"celebrity2000_meta\.mat cannot be read as a MATLAB file: .*; fetch it again"):
        made(Cacd2000, tmp_path)
    scipy.io.savemat(tmp_path / "celebrity2000_meta.mat", {"celebrityImageData": {"age": [1], "name": cell("a")}})
    with pytest.raises(DataError, match="'celebrityImageData' has no field 'identity'; it has age, name"):
        made(Cacd2000, tmp_path)
    data = {"name": cell("a", "b"), "age": [1, 2], "identity": [1, 2], "rank": [1, 2, 3]}
    scipy.io.savemat(tmp_path / "celebrity2000_meta.mat", {"celebrityImageData": data})
    with pytest.raises(DataError, match=r"the fields of 'celebrityImageData' differ in length: \{'name': 2"):
        made(Cacd2000, tmp_path)


def test_cacd_built(tmp_path):
    pictures(tmp_path / "raw" / "CACD2000", *NAMES[:-1])
    cacd_meta(tmp_path / "raw" / "celebrity2000_meta.mat")
    prepare("cacd2000", tmp_path / "data", tmp_path / "raw")
    said = summary("cacd2000", tmp_path / "data")
    assert said["splits"] == {"train": 2, "val": 2, "test": 2} and said["num_identities"] == 6
    assert said["protocols"] == {"train_on_val": {"train": 2, "test": 2}}
    assert [row["file"] for row in said["skipped"]] == [NAMES[-1]]
    assert "file not found" in said["skipped"][0]["reason"]
    assert open_split("cacd2000", tmp_path / "data", "train").column("age").tolist() == [62, 28]
    cacd_meta(tmp_path / "raw" / "celebrity2000_meta.mat", CELEBRITIES[:-1])
    with pytest.raises(DataError, match=r"from other input .*meta"):
        prepare("cacd2000", tmp_path / "data", tmp_path / "raw")
