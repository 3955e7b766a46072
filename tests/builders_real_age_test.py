"""Sets with real ages: APPA-REAL (guessed ones too), MIVIA, MegaAge-Asian. The trees are the sets' layouts, drawn."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from age_trees import labels, listing, pictures, splits
from raw_trees import JPEG, made, reasons

from data_pipelines.builders import open_split, prepare, summary
from data_pipelines.builders.appa_real import AppaReal
from data_pipelines.builders.megaage_asian import MegaAgeAsian
from data_pipelines.builders.mivia import Mivia
from data_pipelines.errors import DataError

# --- appa_real


def appa_real(root: Path) -> Path:
    header = "file_name,num_ratings,apparent_age_avg,apparent_age_std,real_age"
    for split, numbers in (("train", (0, 1, 2)), ("valid", (4113, 4114)), ("test", (5613, 5614))):
        names = [f"{n:06d}.jpg" for n in numbers]
        pictures(root / split, *names, *(f"{name}_face.jpg" for name in names))
        for name in names:
            (root / split / f"{name}.mat").write_bytes(b"MATLAB")
        listing(
            root / f"gt_avg_{split}.csv",
            header,
            *(f"{name},38,{n % 90}.5,0.0{n % 7},{n % 90}" for name, n in zip(names, numbers)),
        )
        listing(root / f"gt_{split}.csv", "file_name,rating", f"{names[0]},12")
    people = ("file,gender,race,makeup,time,happiness", "000000.jpg,male,asian,nomakeup,modernphoto,happy")
    listing(root / "allcategories_train.csv", *people, "000001.jpg,Female,caucasian,makeup,oldphoto,neutral")
    return root


@pytest.mark.parametrize("up", ["", "..", "train"])
def test_appa_real_has_two_ages(tmp_path, up):
    root = appa_real(tmp_path / "raw" / "appa-real-release")
    _, apparent = made(AppaReal, root / up)
    builder, real = made(AppaReal, root / up, config="real")
    assert labels(apparent)["train/000001.jpg"] == (1.5, 0.01, "female", "caucasian")
    assert labels(apparent)["test/005614.jpg"] == (34.5, 0)  # σ = 0 is legal
    assert labels(real) == {
        "train/000000.jpg": (0, "male", "asian"),
        "train/000001.jpg": (1, "female", "caucasian"),
        "train/000002.jpg": (2,),
        "valid/004113.jpg": (63,),
        "valid/004114.jpg": (64,),
        "test/005613.jpg": (33,),
        "test/005614.jpg": (34,),
    }
    assert splits(real) == splits(apparent)
    assert list(splits(real).values()) == ["train"] * 3 + ["val"] * 2 + ["test"] * 2
    assert all(row.file.resolve() == root / id for id, row in real.items())
    assert not builder.skipped and not builder.warnings
    assert "sigma" not in real["train/000000.jpg"].labels


def test_appa_real_face_crops_and_ignored_pictures(tmp_path):
    root = appa_real(tmp_path / "raw")
    bad = listing(tmp_path / "ignore_list.csv", "img_name", "000001.jpg", "004113.jpg")
    builder, rows = made(AppaReal, root, options={"picture": "face", "ignore": str(bad)})
    assert list(rows)[:3] == ["train/000000.jpg_face.jpg", "train/000002.jpg_face.jpg", "valid/004113.jpg_face.jpg"]
    assert reasons(builder) == {"train/000001.jpg_face.jpg": f"is in the list {bad}"}  # val and test stay whole
    assert builder.warnings == [f"1 names in {bad} are not in train, as 004113"]
    assert {builder.split_key(name) for name in ("a/000001.jpg", "000001.jpg_face.jpg", "000001")} == {"000001"}
    with pytest.raises(DataError, match=r"picture is 'crop'; give original or face"):
        made(AppaReal, root, options={"picture": "crop"})
    with pytest.raises(DataError, match=r"no-list\.csv: No such file"):
        made(AppaReal, root, options={"ignore": "no-list.csv"})


def test_appa_real_lists_what_it_leaves_out(tmp_path):
    root = appa_real(tmp_path / "raw")
    (root / "train" / "000002.jpg").rename(root / "train" / "000002.JPG")
    with open(root / "allcategories_train.csv", "a") as file:
        file.write("000002.jpg,unsure,asian,x,y,z\n000007.jpg,male\n")
    pictures(root / "train", "000003.jpg", "000004.jpg_face.jpg")
    with open(root / "gt_avg_train.csv", "a") as file:
        file.write("000005.jpg,38,,1,20\n000000.jpg,38,20,1,20\n000006.jpg,38\n000007.jpg,38,21,,22\n")
    builder, rows = made(AppaReal, root)
    assert rows["train/000002.jpg"].file.exists() and labels(rows)["train/000002.jpg"][2:] == ("", "asian")
    age, sigma = labels(rows)["train/000007.jpg"]
    assert age == 21 and math.isnan(sigma) and rows["train/000007.jpg"].file == root / "train" / "000007.jpg"
    assert reasons(builder) == {
        "train/000005.jpg": "gt_avg_train.csv line 5: no apparent_age_avg",
        "train/000000.jpg": "gt_avg_train.csv line 6: listed in line 2 already",
        "gt_avg_train.csv line 7": "not as many cells as the header",
        "train/000003.jpg": "not in gt_avg_train.csv",
        "train/000004.jpg_face.jpg": "not in gt_avg_train.csv",
    }
    (root / "gt_avg_valid.csv").unlink()
    with pytest.raises(DataError, match=r"no `gt_avg_valid\.csv` beside .*valid;"):
        made(AppaReal, root)
    listing(root / "gt_avg_valid.csv", "name,age", "004113.jpg,30")
    with pytest.raises(DataError, match=r"gt_avg_valid\.csv: line 1: column 'file_name' is missing"):
        made(AppaReal, root)


@pytest.mark.parametrize("name, ages", [("appa_real", [63.5, 64.5]), ("appa_real/real", [63, 64])])
def test_appa_real_built(tmp_path, name, ages):
    root = appa_real(tmp_path / "raw")
    prepare(name, tmp_path / "data", root)
    val, train = (open_split(name, tmp_path / "data", split) for split in ("val", "train"))
    assert val.column("age").tolist() == ages
    assert np.isnan(val.column("sigma")).all() == name.endswith("/real")
    assert train.column("gender").tolist() == ["male", "female", ""]
    assert train.column("ethnicity").tolist() == ["asian", "caucasian", ""]
    assert summary(name, tmp_path / "data")["splits"] == {"train": 3, "val": 2, "test": 2}
    (root / "allcategories_train.csv").unlink()
    with pytest.raises(DataError, match=r"from other input .*lists"):
        prepare(name, tmp_path / "data", root)


# --- mivia


def mivia(root: Path, count=100) -> Path:
    names = [f"{n:06d}.jpg" for n in range(count)]
    pictures(root / "training_caip_contest", *names[1:], f"training_caip_contest/{names[0]}")
    listing(root / "training_caip_contest.csv", *(f"{name},{20 + n // 10}.{n % 10}4" for n, name in enumerate(names)))
    return root


@pytest.mark.parametrize("up", [".", "..", "training_caip_contest"])
def test_mivia_splits_four_to_one(tmp_path, up):
    builder, rows = made(Mivia, mivia(tmp_path / "raw" / "mivia") / up)
    assert len(rows) == 100 and rows["000037.jpg"].labels == {"age": 24}  # 23.74 in the list
    assert all(row.file.name == id and row.file.exists() for id, row in rows.items())
    assert not builder.skipped and not builder.warnings
    assert Counter(splits(rows).values()) == {"train": 80, "val": 20}
    stratified = dict(zip(rows, builder.protocols(list(rows.values()))["stratified"]))
    years = Counter(round(row.labels["age"]) for row in rows.values())
    held = Counter(round(rows[id].labels["age"]) for id, split in stratified.items() if split == "val")
    assert sum(held.values()) == 20 and all(abs(held[year] - years[year] / 5) < 1 for year in years)
    assert splits(rows) != stratified


def test_mivia_ages_are_rounded_or_as_written(tmp_path):
    root = tmp_path / "raw"
    pictures(root, "a.jpg", "b.JPG", "c.jpg", "spare.jpg")  # the list lies among the pictures
    lines = ("image,age", "a.jpg,26.5", "b.jpg,27.499", "C.jpg,3e1", "d.jpg,old", "e.jpg", "a.jpg,30", "f.jpg,nan")
    listing(root / "training_caip_contest.csv", *lines, "g,young", "h.jpg,3,4")
    builder, rows = made(Mivia, root)
    assert labels(rows) == {"a.jpg": (27,), "b.jpg": (27,), "C.jpg": (30,)}
    assert [row.file.name for row in rows.values()] == ["a.jpg", "b.JPG", "c.jpg"]
    assert reasons(builder) == {
        "d.jpg": "training_caip_contest.csv line 5 is not `file name,age`: d.jpg,old",
        "e.jpg": "training_caip_contest.csv line 6 is not `file name,age`: e.jpg",
        "a.jpg": "training_caip_contest.csv line 7 lists the picture again",
        "f.jpg": "training_caip_contest.csv line 8 is not `file name,age`: f.jpg,nan",
        "g": "training_caip_contest.csv line 9 is not `file name,age`: g,young",
        "h.jpg": "training_caip_contest.csv line 10 is not `file name,age`: h.jpg,3,4",
        "spare.jpg": "not in training_caip_contest.csv",
    }
    _, written = made(Mivia, root, options={"rounded": False})
    assert labels(written) == {"a.jpg": (26.5,), "b.jpg": (27.499,), "C.jpg": (30,)}


def test_mivia_built(tmp_path):
    prepare("mivia", tmp_path / "data", mivia(tmp_path / "raw", 20))
    said = summary("mivia", tmp_path / "data")
    assert said["splits"] == {"train": 16, "val": 4} and said["protocols"] == {"stratified": {"train": 16, "val": 4}}
    assert said["missing"]["sigma"] == 20 and said["num_identities"] == 0
    listing(tmp_path / "raw" / "training_caip_contest.csv", "000000.jpg,20")
    with pytest.raises(DataError, match=r"from other input .*list"):
        prepare("mivia", tmp_path / "data", tmp_path / "raw")


# --- megaage_asian


def megaage(root: Path, train=("10.jpg", "2.jpg", "1.jpg"), ages=("30", "4", "61")) -> Path:
    pictures(root / "train", *filter(None, train))
    pictures(root / "test", "1.jpg", "2.jpg")
    listing(root / "list" / "train_name.txt", *train, end="\r\n")
    listing(root / "list" / "train_age.txt", *ages)
    listing(root / "list" / "test_name.txt", "1.jpg", "2.jpg")
    listing(root / "list" / "test_age.txt", "0", "70", "")
    return root


@pytest.mark.parametrize(
    "raw", [".", "megaage_asian", "megaage_asian/megaage_asian", "megaage_asian/megaage_asian/list"]
)
def test_megaage_pairs_lists_by_line(tmp_path, raw):
    megaage(tmp_path / "megaage_asian" / "megaage_asian")
    builder, rows = made(MegaAgeAsian, tmp_path / raw)
    assert labels(rows) == {
        "train/10.jpg": (30,),
        "train/2.jpg": (4,),
        "train/1.jpg": (61,),
        "test/1.jpg": (0,),
        "test/2.jpg": (70,),
    }
    assert list(splits(rows).values()) == ["train"] * 3 + ["test"] * 2 and not builder.skipped
    assert all(f"{row.file.parent.name}/{row.file.name}" == id and row.file.exists() for id, row in rows.items())
    assert builder.split_key("some/train/1.jpg") == builder.split_key("train/1.JPG") != builder.split_key("test/1.jpg")


def test_megaage_takes_val_from_train(tmp_path):
    names = [f"{n}.jpg" for n in range(1, 41)]
    builder, rows = made(MegaAgeAsian, megaage(tmp_path / "raw", names, ["25"] * 40))
    drawn = builder.protocols(list(rows.values()))["val10"]
    assert Counter(zip(splits(rows).values(), drawn)) == {
        ("train", "train"): 36,
        ("train", "val"): 4,
        ("test", "test"): 2,
    }


def test_megaage_refuses_lists_that_do_not_match(tmp_path):
    root = megaage(tmp_path / "raw", ages=("30", "4"))
    with pytest.raises(DataError, match=r"train_name\.txt has 3 lines and `train_age\.txt` 2: .*unpack both again"):
        made(MegaAgeAsian, root)
    (root / "list" / "test_age.txt").unlink()
    listing(root / "list" / "train_age.txt", "30", "4", "61")
    with pytest.raises(DataError, match=r"no `test_age\.txt` in .*list;"):
        made(MegaAgeAsian, root)


def test_megaage_lists_what_it_leaves_out(tmp_path):
    root = megaage(
        tmp_path / "raw", ("1.jpg", "2.jpg", "1.jpg", "", "3.jpg", "4.jpg"), ("30", "x", "31", "32", "33", "34")
    )
    (root / "train" / "4.jpg").unlink()
    pictures(root / "train", "5.jpg")
    builder, rows = made(MegaAgeAsian, root)
    assert labels(rows) == {
        "train/1.jpg": (30,),
        "train/3.jpg": (33,),
        "train/4.jpg": (34,),
        "test/1.jpg": (0,),
        "test/2.jpg": (70,),
    }
    assert rows["train/4.jpg"].file == root / "train" / "4.jpg"  # the build says that it is not there
    assert reasons(builder) == {
        "train/2.jpg": "train_age.txt line 2 has no number: 'x'",
        "train/1.jpg": "train_age.txt line 3 belongs to a picture that was listed before: '31'",
        "train/": "train_name.txt line 4 is empty",
        "train/5.jpg": "not in train_name.txt",
    }


def test_megaage_built(tmp_path):
    root = megaage(tmp_path / "raw" / "megaage_asian")
    (root / "train" / "2.jpg").write_bytes(JPEG[: len(JPEG) // 2])
    prepare("megaage_asian", tmp_path / "data", tmp_path / "raw")
    said = summary("megaage_asian", tmp_path / "data")
    assert said["splits"] == {"train": 2, "test": 2} and [row["file"] for row in said["skipped"]] == ["train/2.jpg"]
    assert sorted(open_split("megaage_asian@val10", tmp_path / "data", "all").column("age")) == [0, 30, 61, 70]
    listing(root / "list" / "test_age.txt", "0", "69")
    with pytest.raises(DataError, match=r"from other input .*lists"):
        prepare("megaage_asian", tmp_path / "data", tmp_path / "raw")
