"""Sets with guessed ages: ChaLearn 2015 and 2016. The trees are the sets' layouts, drawn here."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
from age_trees import labels, listing, pictures, splits
from raw_trees import JPEG, made, reasons, workbook

from data_pipelines import host
from data_pipelines.builders import open_split, prepare, summary
from data_pipelines.builders.chalearn15 import ChaLearn15
from data_pipelines.builders.chalearn16 import ChaLearn16
from data_pipelines.errors import DataError

# --- chalearn15


def chalearn15(root: Path, valid="Validation", lists=("Train.csv", "Validation.csv", "Reference.csv")) -> Path:
    """Three pictures of each split, as released: numbers are not contiguous, splits interleaved, no header."""
    for folder, name, numbers in zip(("Train", valid, "Test"), lists, ((1, 4, 12), (2, 5, 7), (3, 9, 5079))):
        pictures(root / folder, *(f"image_{n}.jpg" for n in numbers))
        if name:
            listing(root / name, *(f"image_{n}.jpg,{n % 80 + 3},{1 + n / 1000}" for n in numbers))
    return root


RELEASED15 = {
    "Train/image_1.jpg": (4, 1.001),
    "Train/image_4.jpg": (7, 1.004),
    "Train/image_12.jpg": (15, 1.012),
    "Validation/image_2.jpg": (5, 1.002),
    "Validation/image_5.jpg": (8, 1.005),
    "Validation/image_7.jpg": (10, 1.007),
    "Test/image_3.jpg": (6, 1.003),
    "Test/image_9.jpg": (12, 1.009),
    "Test/image_5079.jpg": (42, 6.079),
}


@pytest.mark.parametrize(
    "valid, lists",
    [
        ("Validation", ("Train.csv", "Validation.csv", "Reference.csv")),
        ("Valid", ("Train15_gt.csv", "valid15_gt.csv", "Test_Reference.csv")),
        ("validation", ("train.csv", "VALID.CSV", "test_gt.csv")),
    ],
)
def test_chalearn15_in_the_forms_of_its_copies(tmp_path, valid, lists):
    builder, rows = made(ChaLearn15, chalearn15(tmp_path / "raw", valid, lists))
    assert labels(rows) == RELEASED15
    assert list(splits(rows).values()) == ["train"] * 3 + ["val"] * 3 + ["test"] * 3
    assert all(row.file.read_bytes() == JPEG for row in rows.values())
    assert not builder.skipped and not builder.warnings
    (tmp_path / "raw" / valid / "image_5.jpg").unlink()
    _, rows = made(ChaLearn15, tmp_path / "raw")
    assert rows["Validation/image_5.jpg"].file == tmp_path / "raw" / valid / "image_5.jpg"  # the build says so


@pytest.mark.parametrize(
    "lines, encoding",
    [
        (("image_1.jpg,4,1.5", "image_2.jpg,50,6.25"), "utf-8"),
        (("name,mean,std", "image_1.jpg,4,1.5", "image_2.jpg,50,6.25"), "utf-8-sig"),
        (("image_1.jpg;4;1.5", "image_2.jpg;50;6.25"), "utf-8"),
        (("Image;Mean;Stdv", "image_1.jpg;4;1,5", "image_2.jpg;50,0;6,25"), "latin-1"),
        (('"image_1.jpg", 4.0, 1.5', "", '"image_2.jpg", 50, 6.25'), "utf-8"),
        ((",filename,age,stdv,database", "0,Train/image_1.jpg,4,1.5,train", "1,image_2.jpg,50,6.25,train"), "utf-8"),
        (("image_1.JPG;4,0;1,5", "Image_2.jpg;50,0;6,25"), "utf-8"),
        (("stdv\tage\tfilename", "1.5\t4\timage_1.jpg", "6.25\t50\timage_2.jpg"), "utf-8"),
    ],
)
def test_chalearn15_delimiters_and_headers(tmp_path, lines, encoding):
    pictures(tmp_path / "raw" / "Train", "image_1.jpg", "image_2.JPG")
    listing(tmp_path / "raw" / "Train.csv", *lines, encoding=encoding, end="\r\n")
    builder, rows = made(ChaLearn15, tmp_path / "raw")
    assert {id.lower(): row for id, row in labels(rows).items()} == {
        "train/image_1.jpg": (4, 1.5),
        "train/image_2.jpg": (50, 6.25),
    }
    assert [row.file.name for row in rows.values()] == ["image_1.jpg", "image_2.JPG"]
    assert not builder.skipped and len(builder.warnings) == 2  # no val, no test


def test_chalearn15_one_workbook_for_all_lists(tmp_path):
    """MWR's: it also holds the truth of test, which copies often lack."""
    root = chalearn15(tmp_path / "raw", lists=("Train.csv", None, None))
    rows = [["filename", "age", "stdv", "database"], ["image_1.jpg", 99, 9, "train"], ["image_2.jpg", 5, 1.002, "val"]]
    rows += [["image_5.jpg", 8, 1.005, "val"], ["image_7.jpg", 10, 1.007, "val"], ["image_3.jpg", 6, 1.003, "test"]]
    rows += [["image_9.jpg", 12, 1.009, "test"], ["image_5079.jpg", 42, 6.079, "test"]]
    workbook(root / "total_2015.xlsx", Sheet1=rows)
    builder, rows = made(ChaLearn15, root)
    assert labels(rows) == RELEASED15 and not builder.skipped


def test_chalearn15_lists_every_row_and_picture_that_it_leaves_out(tmp_path):
    root = chalearn15(tmp_path / "raw", lists=("Train.csv", "Validation.csv", None))
    pictures(root / "Train", "image_20.jpg", "image_21.jpg", "image_22.jpg", "image_24.jpg", "deeper/image_1.jpg")
    lines = ("image_20.jpg,30", "image_21.jpg,,2", "image_22.jpg,old,2", "image_4.jpg,9,9", "image_23.jpg,7,1,7")
    with open(root / "Train.csv", "a") as file:
        file.write("\n".join([*lines, "image_25.jpg,33,", "image_26.jpg,nan,1", "image_27.jpg,8,wide", ""]))
    builder, rows = made(ChaLearn15, root)
    assert labels(rows) == {id: both for id, both in RELEASED15.items() if id[:3] != "Tes"} | {
        "Train/image_25.jpg": (33,)  # σ not known; the picture is not there, and the build says so
    }
    assert rows["Train/image_25.jpg"].file == root / "Train" / "image_25.jpg"
    found = reasons(builder)
    assert found.pop(str(root / "Train" / "deeper" / "image_1.jpg")) == "another picture of that name is there"
    assert found == {
        "Train/image_20.jpg": "Train.csv line 4 is not `name,age,σ`: image_20.jpg,30",
        "Train/image_21.jpg": "Train.csv line 5 is not `name,age,σ`: image_21.jpg,,2",
        "Train/image_22.jpg": "Train.csv line 6 is not `name,age,σ`: image_22.jpg,old,2",
        "Train/image_4.jpg": "Train.csv line 7 lists the picture again; the first row counts",
        "Train/image_23.jpg": "Train.csv line 8 is not `name,age,σ`: image_23.jpg,7,1,7",
        "Train/image_26.jpg": "Train.csv line 10 is not `name,age,σ`: image_26.jpg,nan,1",
        "Train/image_27.jpg": "Train.csv line 11 is not `name,age,σ`: image_27.jpg,8,wide",
        "Train/image_24.jpg": "not in Train.csv",
        **{f"Test/image_{n}.jpg": "no list of test" for n in (3, 9, 5079)},
    }
    assert sum(skipped.bad for skipped in builder.skipped) == 7
    assert builder.warnings == [
        "Train.csv has rows without σ",
        "no list of test (as Reference.csv): the split is left out",
    ]


def test_chalearn15_a_first_line_without_numbers_is_no_header(tmp_path):
    pictures(tmp_path / "raw" / "Train", "image_1.jpg", "image_2.jpg")
    listing(tmp_path / "raw" / "Train.csv", "image_1.jpg,old,wide", "image_2.jpg,50,6.25")
    builder, rows = made(ChaLearn15, tmp_path / "raw")
    assert list(rows) == ["Train/image_2.jpg"] and list(reasons(builder)) == ["Train/image_1.jpg"]


def test_chalearn15_aligned_pictures_with_lists_above(tmp_path):
    root = chalearn15(tmp_path / "Align-ChaLearn15" / "Align.5", "Valid", (None, None, None))
    for name, n in (("Train15_gt.csv", 1), ("valid15_gt.csv", 2)):
        listing(root.parent / name, f"image_{n}.jpg,{n % 80 + 3},{1 + n / 1000}")
    _, rows = made(ChaLearn15, root.parent)
    assert labels(rows) == {id: RELEASED15[id] for id in ("Train/image_1.jpg", "Validation/image_2.jpg")}


def test_chalearn15_says_what_is_missing(tmp_path):
    root = chalearn15(tmp_path / "raw", lists=("Train.csv", None, "Test.csv"))
    with pytest.raises(DataError, match=r"chalearn15: no list of the pictures in .*Validation; expected Valid.*\.csv$"):
        made(ChaLearn15, root)
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no `Train` in .*; --raw must name the folder that holds `Train`"):
        made(ChaLearn15, tmp_path / "a" / "b")


def test_chalearn15_built_with_pictures_as_found_on_the_web(tmp_path):
    """One level up; every file that cannot be used is in the summary, the others are stored byte for byte."""
    root = tmp_path / "raw" / "ChaLearn15"
    train = chalearn15(root) / "Train"
    noise = np.random.default_rng(0).integers(0, 256, (40, 24, 3), np.uint8)
    PIL.Image.fromarray(noise).convert("CMYK").save(train / "image_30.jpg")
    PIL.Image.fromarray(noise).convert("L").save(train / "image_31.jpg")
    turned = PIL.Image.Exif()
    turned[0x0112] = 6
    PIL.Image.fromarray(noise).save(train / "image_32.jpg", exif=turned)
    (train / "image_33.jpg").write_bytes(cv2.imencode(".png", noise)[1].tobytes())
    (train / "image_34.jpg").write_bytes(cv2.imencode(".jpg", noise)[1].tobytes()[:300])
    (train / "image_35.jpg").write_bytes(b"")
    with open(root / "Train.csv", "a") as file:
        file.writelines(f"image_{n}.jpg,{n},{n - 30}\n" for n in range(30, 37))
        file.write("image_37.jpg,101,1\nimage_38.jpg,37,-1\n")
    pictures(train, "image_37.jpg", "image_38.jpg")
    prepare("chalearn15", tmp_path / "data", tmp_path / "raw")
    said = summary("chalearn15", tmp_path / "data")
    assert said["splits"] == {"train": 7, "val": 3, "test": 3} and said["labels"]["sigma"] == 1
    skipped = {row["file"].removeprefix("Train/image_").removesuffix(".jpg"): row["reason"] for row in said["skipped"]}
    assert skipped == {
        "34": "not a readable image (damaged or cut short)",
        "35": "image is empty",
        "36": f"file not found: {train / 'image_36.jpg'}",
        "37": "age 101 is outside 0 to 100 years",
        "38": "sigma -1 must be 0 or more",
    }
    records = {record["id"]: record for record in open_split("chalearn15", tmp_path / "data", "train")}
    for n in range(30, 34):
        record = records[f"Train/image_{n}.jpg"]
        assert record["image"] == (train / f"image_{n}.jpg").read_bytes()
        assert (record["age"], record["sigma"], record["identity"], record["gender"]) == (n, n - 30, -1, "")
    assert host.decode(records["Train/image_32.jpg"]["image"]).shape == (24, 40, 3)
    listing(root / "Reference.csv", "image_3.jpg,60,2")
    with pytest.raises(DataError, match=r"prepared in .* from other input .*lists"):
        prepare("chalearn15", tmp_path / "data", tmp_path / "raw")


# --- chalearn16


def test_chalearn16_as_its_archives_unpack(tmp_path):
    """σ may be 0; numbers are missing; archives of two parts, or folders of the archives' names."""
    pictures(tmp_path / "raw" / "train_1", "000000.jpg")
    pictures(tmp_path / "raw" / "train_2", "004112.jpg")
    pictures(tmp_path / "raw" / "images" / "valid", "004113.jpg")
    pictures(tmp_path / "raw" / "test" / "test", "005613.jpg", "005852.jpg")
    header = "image,mean,stdv"
    listing(tmp_path / "raw" / "train_gt" / "train_gt.csv", header, "000000.jpg,26.3,0.0", "004112.jpg,1.5,14.12")
    listing(tmp_path / "raw" / "valid" / "valid_gt.csv", header, "004113.jpg,87.75,4.25")
    lines = ("005613.jpg,95.5,3.5", "005851.jpg,30,1", "005852.jpg,31.25,0")
    listing(tmp_path / "raw" / "test_gt.csv", header, *lines)
    for raw in ("raw", "raw/train_1", "."):
        builder, rows = made(ChaLearn16, tmp_path / raw)
        assert labels(rows) == {
            "train/000000.jpg": (26.3, 0),
            "train/004112.jpg": (1.5, 14.12),
            "valid/004113.jpg": (87.75, 4.25),
            "test/005613.jpg": (95.5, 3.5),
            "test/005851.jpg": (30, 1),
            "test/005852.jpg": (31.25, 0),
        }
        assert Counter(splits(rows).values()) == {"train": 2, "val": 1, "test": 3}
        assert [id for id, row in rows.items() if not row.file.exists()] == ["test/005851.jpg"]
        assert not builder.skipped and not builder.warnings


def test_chalearn16_and_15_are_told_apart(tmp_path):
    root = chalearn15(tmp_path / "raw", "Valid", ("train_gt.csv", "valid_gt.csv", "test_gt.csv"))
    builder, rows = made(ChaLearn16, root)
    assert len(rows) == 9 and "train_gt.csv names pictures that are not" in builder.warnings[0]
    assert len(builder.warnings) == 3
