"""Sets of people: AAF, FG-NET, AT&T faces. The trees are the sets' layouts, drawn here."""

import os
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from raw_trees import made, picture, reasons

from data_pipelines.builders import aaf, fgnet, open_split, prepare, summary
from data_pipelines.builders.aaf import Aaf
from data_pipelines.builders.att_faces import AttFaces
from data_pipelines.builders.fgnet import FgNet
from data_pipelines.errors import DataError

needs_photographs = pytest.mark.skipif(
    "AGEJAX_REAL_DATA" not in os.environ, reason="AGEJAX_REAL_DATA names no folder of photographs"
)


def noise(file: Path, seed: int, ending: str = ".jpg") -> None:
    """A picture unlike the others."""
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24), np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(cv2.imencode(ending, pixels)[1].tobytes())


def records(name: str, data_dir: Path) -> dict[str, dict]:
    return {record["id"]: record for record in open_split(name, data_dir, "all")}


# --- aaf


def aaf_tree(root: Path, names, points=True) -> Path:
    for i, name in enumerate(names):
        noise(root / "Original Images" / name, i)
        if points:
            file = root / "key points" / f"{name[:-4]}.txt"
            file.parent.mkdir(exist_ok=True)
            file.write_text("".join(f"{j}.5 {i}\r\n" for j in range(49)), newline="")
    return root


def test_aaf_reads_ages_points_and_leaves_duplicates_out(tmp_path):
    root = aaf_tree(tmp_path / "raw", [f"{i:05d}A{20 + i}.jpg" for i in range(30)])
    photos = root / "Original Images"
    (photos / "00012A32.jpg").write_bytes((photos / "00003A23.jpg").read_bytes())
    (photos / "Thumbs.db").write_bytes(b"x")
    (photos / "cover.jpg").write_bytes(b"x")
    (root / "key points" / "00005A25.txt").unlink()
    (photos / "00099A40.jpg").symlink_to("nowhere.jpg")
    (root / "key points" / "00006A26.txt").write_text("1 2\n")
    (root / "key points" / "00007A27.txt").write_text("")
    prepare("aaf", tmp_path / "data", root)
    found, stored = summary("aaf", tmp_path / "data"), records("aaf", tmp_path / "data")
    assert {entry["file"]: entry["reason"] for entry in found["skipped"]} == {
        "cover.jpg": "the name is not <serial>A<age>.jpg",
        "00012A32.jpg": "duplicate of 00003A23.jpg",
        "00099A40.jpg": f"file not found: {photos / '00099A40.jpg'}",
    }
    assert set(found["splits"]) == {"train", "val", "test"} and len(stored) == 29
    assert stored["00003A23.jpg"]["age"] == 23 and stored["00003A23.jpg"]["identity"] == -1
    # x of point j is j + 0.5: means of 19 … 24 and 25 … 30, then points 13, 31, 37
    np.testing.assert_allclose(stored["00003A23.jpg"]["landmarks"], [[22, 3], [28, 3], [13.5, 3], [31.5, 3], [37.5, 3]])
    without = {"00005A25.jpg", "00006A26.jpg", "00007A27.jpg"}
    assert {id for id, row in stored.items() if np.isnan(row["landmarks"]).all()} == without
    assert found["missing"]["landmarks"] == 3 and found["labels"]["sigma"] == 0


def test_aaf_folder_is_found_one_level_up_or_down(tmp_path):
    names = [f"{i:05d}A05.jpg" for i in range(3)]
    root = aaf_tree(tmp_path / "download" / "All-Age-Faces Dataset", names, points=False)
    for raw in (root, root.parent, root / "Original Images"):
        builder, rows = made(Aaf, raw)
        assert list(rows) == names and builder.source() == {"photographs": 3}
    with pytest.raises(DataError, match="no `original images`"):
        made(Aaf, tmp_path)


def test_aaf_gender_and_halves_come_from_the_lists(tmp_path):
    names = ["00001A20.jpg", "07380A21.jpg", "07381A22.jpg", "13321A23.jpg", "00002A24.jpg", "00003A25.jpg"]
    root = aaf_tree(tmp_path / "raw", names, points=False)
    photos = root / "Original Images"
    (photos / "00003A25.jpg").write_bytes((photos / "00001A20.jpg").read_bytes())  # across the halves
    builder, rows = made(Aaf, root)
    assert [row.labels["gender"] for row in rows.values()] == ["female", "female", "female", "male", "male"]
    assert builder.protocols([*rows.values()]) == {} and not builder.warnings
    (root / "image sets").mkdir()
    (root / "image sets" / "train.txt").write_bytes(b"00001A20.jpg 0\r\n00002a24.JPG 1\r\n\r\n07380A21.jpg 0\r\n")
    (root / "image sets" / "val.txt").write_bytes(b"07381A22.jpg 1\n00003A25.jpg 0\n09999A30.jpg 1\n")
    (root / "image sets" / "val_.txt").write_bytes(b"13321A23.jpg 0\n")  # a third party's
    builder, rows = made(Aaf, root)
    rows = [rows[name] for name in names[:5]]
    assert [row.labels["gender"] for row in rows] == ["female", "female", "male", "male", "male"]
    assert builder.protocols(rows) == {"official": ["train", "train", "val", "", "train"]}
    assert builder.warnings == ["2 photographs of `image sets` are duplicates or not there: `official` lacks them"]


def test_aaf_points_need_numbers(tmp_path):
    (tmp_path / "p.txt").write_text("one two\n" * 49)
    assert aaf.five_points(tmp_path / "p.txt") is None


@pytest.mark.real
@pytest.mark.slow
@needs_photographs
def test_aaf_as_downloaded(tmp_path):
    raw = Path(os.environ["AGEJAX_REAL_DATA"], "aaf")
    prepare("aaf", tmp_path, raw)
    found = summary("aaf", tmp_path)
    duplicates = [entry for entry in found["skipped"] if entry["reason"].startswith("duplicate of")]
    assert len(duplicates) == len(found["skipped"]) == 119
    assert sum(found["splits"].values()) == len(list((raw / "original images").iterdir())) - 119
    assert sum(found["protocols"]["official"].values()) == sum(found["splits"].values())
    assert [found["labels"][label] for label in ("age", "landmarks", "gender")] == [1, 1, 1]
    assert min(ages["min"] for ages in found["ages"].values()) == 2
    assert max(ages["max"] for ages in found["ages"].values()) == 80


# --- fgnet

LAYOUT = {31: (30, 40), 36: (70, 42), 67: (50, 60), 48: (35, 80), 54: (65, 81)}  # pupils, nose tip, mouth corners


def pts(layout=LAYOUT, count=68) -> str:
    lines = [f"{x} {y}" for x, y in (layout.get(i, (1, 1)) for i in range(count))]
    return "\n".join(["version: 1", f"n_points: {count}", "{", *lines, "}", ""])


def fgnet_tree(root: Path, people: int = 12) -> Path:
    """Two pictures of each person; the points' names are in lower case, as the set has them."""
    names = [f"{person:03d}A{person:02d}.JPG" for person in range(1, people + 1)]
    names += [f"{person:03d}A{30 + person}{'ab'[person % 2]}.jpg" for person in range(1, people + 1)]
    names[0] = "001a01.JPG"
    for name in names:
        picture(root / "images" / name)
        (root / "points").mkdir(exist_ok=True)
        (root / "points" / f"{name[:-4].lower()}.pts").write_text(pts())
    return root


def test_fgnet_reads_person_age_and_points(tmp_path):
    builder, rows = made(FgNet, fgnet_tree(tmp_path / "FGNET"))
    assert len(rows) == 24 and not builder.skipped and not builder.warnings
    assert (rows["001a01.JPG"].labels["age"], rows["012A42a.jpg"].labels["age"]) == (1, 42)
    for row in rows.values():
        assert row.labels["identity"] == int(row.id[:3]) - 1
        np.testing.assert_array_equal(row.labels["landmarks"], [[30, 40], [70, 42], [50, 60], [35, 80], [65, 81]])
    splits = {}
    for row in rows.values():
        splits.setdefault(row.split, set()).add(row.id[:3])
    assert splits.keys() == {"train", "val", "test"} and sum(map(len, splits.values())) == 12


def test_fgnet_leaves_one_person_out(tmp_path):
    builder, rows = made(FgNet, fgnet_tree(tmp_path / "FGNET"))
    rows = [*rows.values()]
    protocols = builder.protocols(rows)
    assert list(protocols) == [f"lopo_{person:03d}" for person in range(1, 13)]
    for name, splits in protocols.items():
        out = [row.id[:3] for row, split in zip(rows, splits) if split == "test"]
        assert out == [name[-3:]] * 2 and splits.count("train") == 22


SWAPPED = LAYOUT | {31: LAYOUT[36], 36: LAYOUT[31]}


@pytest.mark.parametrize(
    "text, found",
    [
        (pts(), True),
        (pts().replace("\n", "\r\n").replace("version: 1", "version: 1.0"), True),
        (pts({point: (100 - y, x) for point, (x, y) in LAYOUT.items()}), False),  # lying
        (pts({point: (x - y / 2, y + x / 2) for point, (x, y) in LAYOUT.items()}), True),  # 27°
        (pts(SWAPPED), False),
        (pts(LAYOUT | {48: LAYOUT[54], 54: LAYOUT[48]}), False),
        (pts(LAYOUT | {67: (50, 10)}), False),
        (pts(LAYOUT | {67: (50, 90)}), False),
        (pts(LAYOUT | {67: ("nan", 60)}), False),
        (pts(count=67), False),
        (pts(count=0), False),
        (pts()[:200], False),
        ("", False),
    ],
)
def test_fgnet_points_must_be_those_of_an_upright_face(tmp_path, text, found):
    (tmp_path / "p.pts").write_text(text, newline="")
    assert (fgnet.five_points(tmp_path / "p.pts") is not None) == found


def test_fgnet_says_what_is_amiss(tmp_path):
    root = fgnet_tree(tmp_path / "raw" / "FGNET")
    (root / "points" / "002a02.pts").unlink()
    (root / "points" / "003a03.pts").write_text("")
    picture(root / "images" / "group.jpg"), picture(root / "images" / "013A5.jpg")
    builder, rows = made(FgNet, root.parent)
    assert len(rows) == 24 and rows["003A03.JPG"].labels["landmarks"] is None
    assert reasons(builder) == dict.fromkeys(["group.jpg", "013A5.jpg"], "the name is not <person>A<age>.jpg")
    assert builder.warnings == ["2 pictures have no usable points: 002A02.JPG, 003A03.JPG"]
    with pytest.raises(DataError, match="must name the FGNET folder"):
        made(FgNet, tmp_path)


def test_fgnet_without_points_is_a_set_too(tmp_path):
    root = fgnet_tree(tmp_path / "FGNET")
    for file in (root / "points").iterdir():
        file.unlink()
    (root / "points").rmdir()
    builder, rows = made(FgNet, root / "images")
    assert len(rows) == 24 and not builder.warnings
    assert all(row.labels["landmarks"] is None for row in rows.values())


def test_fgnet_prepared(tmp_path):
    prepare("fgnet", tmp_path / "data", fgnet_tree(tmp_path / "FGNET"))
    found = summary("fgnet", tmp_path / "data")
    assert found["num_identities"] == 12 and found["missing"]["landmarks"] == 0
    assert found["protocols"]["lopo_007"] == {"train": 22, "test": 2}
    assert {record["identity"] for record in open_split("fgnet@lopo_007", tmp_path / "data", "test")} == {6}


# --- att_faces


def att_tree(root: Path, people: int = 11) -> Path:
    for person in range(1, people + 1):
        for i in range(1, 11):
            noise(root / f"s{person}" / f"{i}.pgm", 100 * person + i, ".pgm")
    (root / "README").write_text("The ORL face database")
    return root


def test_att_faces_has_everybody_in_every_split(tmp_path):
    builder, rows = made(AttFaces, att_tree(tmp_path / "att_faces"))
    assert list(rows) == [f"s{person}/{i}.pgm" for person in range(1, 12) for i in range(1, 11)]  # by number
    assert not builder.skipped and not builder.warnings
    for person in range(1, 12):
        mine = [row for row in rows.values() if row.id.startswith(f"s{person}/")]
        assert Counter(row.split for row in mine) == {"train": 8, "val": 1, "test": 1}
        assert {row.labels["identity"] for row in mine} == {person - 1}
    assert len({row.id.split("/")[1] for row in rows.values() if row.split == "test"}) > 3  # not always the same


def test_att_faces_odd_files(tmp_path):
    root = att_tree(tmp_path / "raw" / "orl", people=2)
    noise(root / "s10" / "1.pgm", 1, ".pgm"), noise(root / "s10" / "2.pgm", 2, ".pgm")
    noise(root / "S2" / "11.pgm", 3, ".pgm"), noise(root / "s2" / "copy of 1.pgm", 4, ".pgm")
    noise(root / "extra" / "1.pgm", 5, ".pgm")
    for raw in (root, root.parent, root / "s1"):
        builder, rows = made(AttFaces, raw)
        assert len(rows) == 23 and reasons(builder) == {"s2/copy of 1.pgm": "the name is not <number>.pgm"}
        assert [(row.split, row.labels["identity"]) for row in rows.values()][-2:] == [("train", 2)] * 2
    with pytest.raises(DataError, match="must name the att_faces folder"):
        made(AttFaces, tmp_path)


@pytest.mark.real
@needs_photographs
def test_att_faces_as_downloaded(tmp_path):
    prepare("att_faces", tmp_path, Path(os.environ["AGEJAX_REAL_DATA"], "att_faces"))
    found = summary("att_faces", tmp_path)
    assert found["splits"] == {"train": 320, "val": 40, "test": 40} and found["skipped"] == []
    assert found["identities"] == {"train": 40, "val": 40, "test": 40} and found["labels"]["age"] == 0
    assert next(iter(records("att_faces", tmp_path).values()))["image"].startswith(b"P5")
