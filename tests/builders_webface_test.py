"""CASIA-WebFace and VGGFace2 in the layouts in which they are had; record files; whole builds of such sets."""

import base64

import cv2
import numpy as np
import pytest
from builders_identity_test import TABLE, face, identities, table
from raw_trees import JPEG, made, picture, reasons
from recordio_test import content, insightface, write_records

from data_pipelines import align, builders, schema
from data_pipelines.builders.casia_webface import CasiaWebFace
from data_pipelines.builders.ms_celeb_1m import MsCeleb1M
from data_pipelines.builders.vggface2 import VggFace2
from data_pipelines.errors import DataError
from data_pipelines.formats.vggface2_lists import usable

# --- record files


@pytest.mark.parametrize("builder_class", [MsCeleb1M, CasiaWebFace, VggFace2])
def test_record_files(tmp_path, builder_class):
    images = [(7, JPEG + b"1"), ([3.0, 0.0], JPEG + b"2"), (7, JPEG + b"3"), (9, JPEG + b"4")]
    rec, offsets = write_records(tmp_path / "raw", insightface(images), "3,112,112")
    data = bytearray(rec.read_bytes())
    data[offsets[4]] ^= 1
    rec.write_bytes(data)
    builder, rows = made(builder_class, tmp_path / "raw")
    assert identities(rows) == {"train.rec:1": 1, "train.rec:2": 0, "train.rec:3": 1}
    assert builder.EXPECTED == {"all": 4} and [skipped[0] for skipped in builder.skipped] == ["train.rec:4"]
    assert builder.skipped[0].bad and builder.protocols(list(rows.values())) == {} and not builder.warnings
    for (_, image), row in zip(images, rows.values()):
        record = builder.load(row)
        assert record["image"] == image
        np.testing.assert_array_equal(record["landmarks"], align.ARCFACE_112.astype(np.float32))


@pytest.mark.parametrize("text, part", [("3,112,96", "112 x 96"), (None, "no size")])
def test_record_files_of_another_size_have_no_points(tmp_path, text, part):
    write_records(tmp_path / "raw", [(0, content(1, JPEG)), (1, content(0, JPEG))], text)
    builder, rows = made(CasiaWebFace, tmp_path / "raw")
    assert identities(rows) == {"train.rec:0": 1, "train.rec:1": 0} and builder.EXPECTED == {}
    assert np.isnan(builder.load(rows["train.rec:0"])["landmarks"]).all()
    assert part in builder.warnings[0]


def test_record_files_have_no_names_for_a_list(tmp_path):
    write_records(tmp_path / "raw", insightface([(0, JPEG)]))
    (tmp_path / "list.txt").write_text("m.1/0-FaceId-0.jpg 0\n")
    with pytest.raises(DataError, match="no names"):
        made(MsCeleb1M, tmp_path / "raw", options={"clean_list": str(tmp_path / "list.txt")})


# --- CASIA-WebFace

WEBFACES = ("0000045/001.jpg", "0000045/015.jpg", "0000099/001.jpg", "6573245/002.JPG")  # numbers are missing


def webfaces(raw):
    for name in WEBFACES:
        picture(raw / name)
    (raw / "names.txt").write_text("0000045 Boris_Karloff\n")
    return raw


def test_webface_folders(tmp_path):
    raw = webfaces(tmp_path / "up" / "CASIA-WebFace")
    (raw / "0000099" / "list.txt").write_text("")
    (raw / "readme").mkdir()
    for place in (raw, raw.parent):
        builder, rows = made(CasiaWebFace, place)
        assert identities(rows) == dict(zip(WEBFACES, (0, 0, 1, 2))) and not builder.warnings
        assert reasons(builder).keys() == {"0000099/list.txt", "readme"}
        assert builder.load(rows[WEBFACES[3]])["image"] == JPEG


def test_webface_folders_of_fewer_digits(tmp_path):
    picture(tmp_path / "raw" / "000007" / "00000001.jpg")
    assert identities(made(CasiaWebFace, tmp_path / "raw")[1]) == {"000007/00000001.jpg": 0}


def lst(*names) -> str:
    """Flag, path on the machine where it was made, a number that is no identity, box."""
    return "".join(f"0\t/home/me/casia/{name}\t{i}\t10\t20\t110\t120\n" for i, name in enumerate(names))


def test_webface_list_beside_the_folders(tmp_path):
    raw = webfaces(tmp_path / "raw")
    (raw / "train.lst").write_text(lst(*WEBFACES[:3], "0000099/002.jpg"))
    builder, rows = made(CasiaWebFace, raw)
    assert identities(rows) == dict(zip(WEBFACES, (0, 0, 1, 2)))
    assert reasons(builder) == {"0000099/002": "in train.lst, but not there"} and builder.skipped[0].bad
    assert builder.warnings == ["1 images are not in train.lst, and kept"]


def test_webface_list_of_renumbered_folders(tmp_path):
    raw = webfaces(tmp_path / "raw")
    (raw / "train.lst").write_text(lst("0000045/001.jpg", "0000001/001.jpg", "0000002/001.jpg"))
    builder, rows = made(CasiaWebFace, raw)
    assert len(rows) == 4 and not builder.skipped and "another copy" in builder.warnings[0]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("0000045\\001.jpg 0\r\n6573245\\002.jpg 1\r\n", {WEBFACES[0]: 0, WEBFACES[3]: 1}),
        (lst("6573245/002.jpg", "0000099/001.jpg"), {WEBFACES[2]: 0, WEBFACES[3]: 1}),
    ],
)
def test_webface_cleaned_lists(tmp_path, text, expected):
    (tmp_path / "list.lst").write_text(text)
    _, rows = made(CasiaWebFace, webfaces(tmp_path / "raw"), options={"clean_list": str(tmp_path / "list.lst")})
    assert identities(rows) == expected


# --- VGGFace2

POINTS = [[40.5, 50], [80, 50], [60, 70], [45, 90], [75, 90]]
VGG = (
    "train/n000002/0001_01.jpg",
    "train/n000002/0002_02.jpg",
    "train/n000009/0001_01.jpg",
    "test/n000001/0001_01.jpg",
)
META = """Class_ID, Name, Sample_Num, Flag, Gender
n000001, "14th_Dalai_Lama", 424, 0, m
n000002, A_Fine_Frenzy, 315, 1, f
n000009, Jr.,_Ömer_Aşık, 100, 1, m
n000077, Not_There, 5, 1, f
"""


def measured(name, values) -> str:
    return ",".join([f'"{name}"', *map(str, np.ravel(values))]) + "\n"


def vggface2(raw, lists="bb_landmark", boxes=(), points=(), names=VGG):
    """boxes, points: name → numbers in place of the usual ones, None = no line."""
    for name in names:
        picture(raw / name)
    (raw / lists).mkdir(parents=True, exist_ok=True)
    for part in ("train", "test"):
        short = [name[len(part) + 1 : -4] for name in VGG if name.startswith(part)]
        for kind, usual, other in (("bb", [30, 30, 60, 80], boxes), ("landmark", POINTS, points)):
            values = {name: dict(other).get(name, usual) for name in (*short, "n000077/0001_01")}
            head = "NAME_ID,X,Y,W,H\n" if kind == "bb" else f"NAME_ID,{','.join(f'P{i}X,P{i}Y' for i in range(1, 6))}\n"
            text = head + "".join(measured(name, values[name]) for name in values if values[name] is not None)
            (raw / lists / f"loose_{kind}_{part}.csv").write_text(text)
    (raw / lists / "identity_meta.csv").write_text(META, encoding="utf-8")
    return raw


@pytest.mark.parametrize("lists", [".", "bb_landmark", "meta/bb_landmark", "../bb_landmark", "../meta"])
def test_vggface2(tmp_path, lists):
    builder, rows = made(VggFace2, vggface2(tmp_path / "up" / "data", lists))
    assert identities(rows) == dict(zip(VGG, (0, 0, 1, 2)))  # those of train first
    assert [row.labels["gender"] for row in rows.values()] == ["female", "female", "male", "male"]
    assert [row.split for row in rows.values()].count("val") == 1 and rows[VGG[3]].split == "test"
    assert builder.protocols(list(rows.values())) == {"official": ["train"] * 3 + ["test"]}
    assert {row.box for row in rows.values()} == {(30, 30, 90, 110)} and not builder.warnings
    assert "clean_list" not in builder.options  # it would undo the order of the identities
    for row in rows.values():
        np.testing.assert_array_equal(builder.load(row)["landmarks"], np.float32(POINTS))


def test_vggface2_points_are_held_against_the_box(tmp_path):
    far, spot = [*POINTS[:4], [130, 90]], [[60, 60]] * 5
    first, second, third, fourth = (name.partition("/")[2][:-4] for name in VGG)
    points = {first: far, second: spot, third: [*POINTS[:4], [float("nan"), 1]], fourth: far}
    boxes = {third: [-5, -7, 400, 300], fourth: [30, 30, 0, 80]}
    builder, rows = made(VggFace2, vggface2(tmp_path / "raw", points=points, boxes=boxes))
    assert ["landmarks" in row.labels for row in rows.values()] == [False, False, False, True]
    assert [row.box for row in rows.values()] == [(30, 30, 90, 110), (30, 30, 90, 110), (-5, -7, 395, 293), None]
    assert builder.warnings == ["five points of 2 images lie far off their box, or on one spot: left out"]


@pytest.mark.parametrize(
    "points, box, good",
    [
        (POINTS, [30, 30, 60, 80], True),
        ([*POINTS[:4], [119, 148]], [30, 30, 60, 80], True),  # off the box by less than half its size
        ([*POINTS[:4], [121, 90]], [30, 30, 60, 80], False),
        ([*POINTS[:4], [90, -11]], [30, 30, 60, 80], False),
        ([*POINTS[:4], [900, 90]], [np.nan] * 4, True),
        ([*POINTS[:4], [900, 90]], [30, 30, 60, 0], True),
        ([*POINTS[:4], [np.nan, 90]], [np.nan] * 4, False),
        ([*POINTS[:4], [np.inf, 90]], [np.nan] * 4, False),
        ([[80, 50], *POINTS[1:]], [30, 30, 60, 80], False),
    ],
)
def test_which_points_are_usable(points, box, good):
    assert usable(np.array([points, POINTS], float), np.array([box, [30, 30, 60, 80]], float)).tolist() == [good, True]


def test_vggface2_lines_that_are_missing_or_broken(tmp_path):
    first, second, *_ = (name.partition("/")[2][:-4] for name in VGG)
    raw = vggface2(tmp_path / "raw", points={first: None, second: [1, 2]}, boxes={first: None, second: ["a", 1, 2, 3]})
    (raw / "bb_landmark" / "loose_bb_test.csv").unlink()
    (raw / "bb_landmark" / "identity_meta.csv").unlink()
    builder, rows = made(VggFace2, raw)
    assert ["landmarks" in row.labels for row in rows.values()] == [False, False, True, True]
    assert [row.box is None for row in rows.values()] == [True, True, False, True]
    assert {row.labels["gender"] for row in rows.values()} == {""}
    assert "loose_bb_test.csv is not there" in builder.warnings
    assert "1 lines of loose_bb_*.csv do not hold 4 numbers" in builder.warnings
    assert "1 lines of loose_landmark_*.csv do not hold 10 numbers" in builder.warnings


def test_vggface2_lists_of_images(tmp_path):
    raw = vggface2(tmp_path / "raw")
    (raw / "train_list.txt").write_text("n000002/0001_01.jpg\nn000002/0002_02.jpg\nn000002/0003_01.jpg\n")
    (raw / "test_list.txt").write_text("n000001/0001_01.jpg\n")
    builder, rows = made(VggFace2, raw)
    assert len(rows) == 4 and reasons(builder) == {"n000002/0003_01": "in train_list.txt, but not there"}
    assert "1 images are not in train_list.txt, and kept" in builder.warnings


def test_vggface2_as_its_archives_unpack(tmp_path):
    raw = tmp_path / "raw"
    for name in VGG:
        picture(raw / f"vggface2_{name.split('/')[0]}" / name)
    _, rows = made(VggFace2, raw, options={"min_images": 2})
    assert identities(rows) == {VGG[0]: 0, VGG[1]: 0}
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "vggface2_train.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"unpack it first, `tar -xf vggface2_train\.tar\.gz`"):
        made(VggFace2, tmp_path / "packed")


# --- whole builds


def test_a_built_table_keeps_every_byte_and_lists_every_fault(tmp_path, monkeypatch):
    monkeypatch.setitem(builders.BUILDERS, "ms_celeb_1m", MsCeleb1M)
    rng = np.random.default_rng(0)
    pictures = [cv2.imencode(".jpg", rng.integers(0, 256, (20, 20, 3), np.uint8))[1].tobytes() for _ in range(40)]
    lines = [face(f"m.{i % 4}", i, 0, base64.b64encode(image).decode()) for i, image in enumerate(pictures)]
    lines += [
        "m.1\tbroken\n",
        face("m.1", 90, 0, base64.b64encode(pictures[0][:200]).decode()),
        face("m.1", 91, 0, "/9j/?"),
    ]
    builders.prepare("ms_celeb_1m", tmp_path / "data", table(tmp_path / "raw", *lines))
    found = builders.summary("ms_celeb_1m", tmp_path / "data")
    assert sum(found["splits"].values()) == 40 and found["num_identities"] == 4 and found["trains"] == "identity"
    assert {entry["file"]: entry["reason"].split(" ")[0] for entry in found["skipped"]} == {
        f"{TABLE}:41": "not",
        "m.1/90-FaceId-0": "not",
        "m.1/91-FaceId-0": "its",
    }
    stored = {record["id"]: record for record in builders.open_split("ms_celeb_1m", tmp_path / "data", "all")}
    for i, image in enumerate(pictures):
        record = stored[f"m.{i % 4}/{i}-FaceId-0"]
        schema.validate(record)
        assert (record["image"], record["identity"]) == (image, i % 4)


def test_a_built_vggface2_has_its_own_protocol(tmp_path, monkeypatch):
    monkeypatch.setitem(builders.BUILDERS, "vggface2", VggFace2)
    raw = vggface2(tmp_path / "raw")
    (raw / VGG[1]).write_bytes(JPEG[:100])
    builders.prepare("vggface2", tmp_path / "data", raw)
    found = builders.summary("vggface2", tmp_path / "data")
    assert found["protocols"]["official"] == {"train": 2, "test": 1} and sum(found["splits"].values()) == 3
    assert [entry["file"] for entry in found["skipped"]] == [VGG[1]]
    assert found["labels"]["landmarks"] == found["labels"]["gender"] == 1
