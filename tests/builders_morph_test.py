"""MORPH II: the list and the files that do not agree with it, and the papers' protocols. The tree is drawn."""

from collections import Counter, defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from age_trees import labels, listing, pictures, splits
from raw_trees import made, reasons

from data_pipelines import builders
from data_pipelines.builders.morph import Morph
from data_pipelines.builders.morph_protocols import morph_protocols
from data_pipelines.errors import DataError
from data_pipelines.records.face_set import Row

HEADER = "id_num,picture_num,dob,doa,race,gender,facial_hair,age,age_diff,glasses,photo"


def line(photo: str, race="B", gender="", age="", person="") -> str:
    id_num = str(int(person or photo[:6]))
    cells = (
        id_num,
        photo[7:-7],
        "01/02/1950",
        "03/04/2004",
        race,
        gender or photo[-7:-6],
        "",
        age or photo[-6:-4],
        "365",
    )
    return ",".join((*cells, "0", f"Album2/{photo}"))


def morph(root: Path) -> Path:
    """Two people with mixed padding, one listed as both, and each of the set's faults."""
    photos = ["019066_0M67.JPG", "019066_08M70.JPG", "019066_10M72.JPG", "009055_1M54.JPG", "009055_2F55.JPG"]
    pictures(root / "Album2", *photos, "200000_00M30.JPG", "300000_00F31.JPG", "tattoo.JPG", "400000_0M40.JPG")
    (root / "Album2" / "400000_0M40.JPG").rename(root / "Album2" / "400000_0m40.jpg")
    lines = [line(photos[0]), line(photos[2]), line(photos[1]), line(photos[3], "W"), line(photos[4], "W")]
    faults = ["200000,0,01/02/1950,B,M,,30,0,Album2/200000_00M30.JPG", line("500000_0M41.JPG"), lines[0]]
    listing(root / "morph_2008_nonCommercial.csv", HEADER, *lines, *faults, line("400000_0M40.JPG", "I", age="41"))
    return root


@pytest.mark.parametrize("up", ["", "..", "Album2"])
def test_morph_labels_come_from_the_list(tmp_path, up):
    builder, rows = made(Morph, morph(tmp_path / "raw") / up)
    assert list(labels(rows).items()) == [
        ("Album2/009055_1M54.JPG", (54, "male", "White", 0)),
        ("Album2/009055_2F55.JPG", (55, "female", "White", 0)),
        ("Album2/019066_0M67.JPG", (67, "male", "Black", 1)),
        ("Album2/019066_08M70.JPG", (70, "male", "Black", 1)),  # by the picture's number, not by its text
        ("Album2/019066_10M72.JPG", (72, "male", "Black", 1)),
        ("Album2/400000_0m40.jpg", (41, "male", "American Indian", 2)),
    ]
    assert all(row.file.resolve() == (tmp_path / "raw" / id) for id, row in rows.items())
    people = defaultdict(set)
    for id, split in splits(rows).items():
        people[id[:13]].add(split)
    assert [len(mine) for mine in people.values()] == [1, 1, 1] and len(set(splits(rows).values())) == 3
    assert reasons(builder) == {
        "Album2/200000_00M30.JPG": "morph_2008_nonCommercial.csv line 7: 9 cells, unlike the header",
        "Album2/500000_0M41.JPG": "morph_2008_nonCommercial.csv line 8: listed, but not there",
        "Album2/019066_0M67.JPG": "morph_2008_nonCommercial.csv line 9: listed before",
        "Album2/300000_00F31.JPG": "not in morph_2008_nonCommercial.csv",
        "Album2/tattoo.JPG": "not in morph_2008_nonCommercial.csv",
    }
    assert builder.warnings == [
        "1 people are listed as female and as male, as 009055",
        "1 ages are not those in the names, as 400000_0m40.jpg: morph_2008_nonCommercial.csv is taken",
    ]


def test_morph_without_its_list(tmp_path):
    (morph(tmp_path / "raw") / "morph_2008_nonCommercial.csv").unlink()
    builder, rows = made(Morph, tmp_path / "raw")
    assert labels(rows)["Album2/300000_00F31.JPG"] == (31, "female", "", 3) and len(rows) == 8
    assert labels(rows)["Album2/400000_0m40.jpg"] == (40, "male", "", 4)
    assert reasons(builder) == {"Album2/tattoo.JPG": "no age: the name is not <person>_<number><M|F><age>.JPG"}
    assert builder.warnings[-1].startswith("no morph_2008_nonCommercial.csv: race is not known")
    assert {name[:-2] for name in builder.protocols(list(rows.values()))} == {"rs", "se"}


def test_morph_list_and_names_fill_each_other_in(tmp_path):
    root = morph(tmp_path / "raw")
    (root / "morph_2008_nonCommercial.csv").unlink()
    pictures(root / "Album2", "x.JPG", "300000_00F31.jpg", "000007_0M21.JPG")
    rows = [line("300000_00F31.JPG", "w", "f", "?"), line("x.JPG", gender="M", age="?", person="8")]
    rows += [line("tattoo.JPG", "U", age="20", person="7").replace("Album2/", "Album2\\"), line("000007_0M21.JPG")]
    file = listing(root / "Album2_NONCOMMERCIAL.CSV", HEADER, *rows, end="\r\n")
    builder, found = made(Morph, root)
    names = {"Album2/300000_00F31.JPG", "Album2/300000_00F31.jpg"}
    (kept,) = names & found.keys()
    assert labels(found) == {
        "Album2/000007_0M21.JPG": (21, "male", "Black", 0),
        "Album2/tattoo.JPG": (20, "", "U", 0),
        kept: (31, "female", "White", 1),
    }
    assert {reasons(builder)[name] for name in names - found.keys()} == {"another file differs in case only"}
    assert reasons(builder)["Album2/x.JPG"].startswith("no age") and not builder.warnings
    listing(file, "id_num,age", "1,2")
    with pytest.raises(DataError, match=r"CSV: line 1: column 'photo' is missing; the header has id_num, age"):
        made(Morph, root)
    (root / "Album2").rename(root / "Album1")
    with pytest.raises(DataError, match=r"no `Album2` in .*--raw must name the folder that holds `Album2`"):
        made(Morph, root)


def photographs(people: int, each: int) -> list[Row]:
    """Half of them White; one woman for three men, race by race."""
    kinds = [("White", "female"), ("White", "male"), ("Black", "male"), ("Black", "female"), ("White", "male")]
    kinds += [("Black", "male"), ("White", "male"), ("Black", "male"), ("Asian", "male")]
    return [
        Row(f"{who}_{i}", "", None, {"identity": who, "ethnicity": kinds[who % 9][0], "gender": kinds[who % 9][1]})
        for who in range(people)
        for i in range(each)
    ]


def test_morph_protocols(tmp_path):
    rows = photographs(people=45, each=3)
    found = morph_protocols(rows)
    assert list(found) == [f"{name}_{k}" for name in ("rs", "caucasian", "se") for k in range(5)] + [
        "three_sets_1",
        "three_sets_2",
    ]
    for name in ("rs", "caucasian", "se"):
        tested = [[mine == "test" for mine in found[f"{name}_{k}"]] for k in range(5)]
        listed = [name != "caucasian" or row.labels["ethnicity"] == "White" for row in rows]
        assert [sum(mine) for mine in zip(*tested)] == listed  # each photograph is tested once
        assert {sum(fold) for fold in tested} == ({27} if name != "caucasian" else {12})
        assert all(
            set(found[f"{name}_{k}"]) == {"train", "test"} | ({""} if not all(listed) else set()) for k in range(5)
        )
    people = [row.labels["identity"] for row in rows]
    crossing = {name: len(set(zip(people, found[name]))) - 45 for name in ("rs_0", "se_0")}
    assert crossing["se_0"] == 0 < crossing["rs_0"]


def test_morph_three_sets():
    rows = photographs(people=90, each=1) + photographs(people=2, each=0)
    rows += [Row(f"more{i}", "", None, {"identity": i, "ethnicity": "Black", "gender": "male"}) for i in range(20)]
    found = morph_protocols(rows)
    s1, s2 = ({row.id for row, split in zip(rows, found[f"three_sets_{k}"]) if split == "train"} for k in (1, 2))
    assert not s1 & s2 and set(found["three_sets_1"]) == {"train", "test"}
    kinds = {row.id: (row.labels["ethnicity"], row.labels["gender"]) for row in rows}
    for mine in (s1, s2):
        assert Counter(kinds[id] for id in mine) == {
            ("White", "female"): 5, ("White", "male"): 15, ("Black", "female"): 5, ("Black", "male"): 15
        }  # fmt: skip


def test_morph_takes_as_many_caucasians_as_the_papers(monkeypatch):
    monkeypatch.setattr("data_pipelines.builders.morph_protocols.CAUCASIANS", 20)
    rows = photographs(people=45, each=3)
    found = morph_protocols(rows)
    assert Counter(found["caucasian_3"]) == {"": 115, "train": 16, "test": 4}
    assert [split == "" for split in found["caucasian_0"]] == [split == "" for split in found["caucasian_4"]]


def test_morph_is_built(tmp_path):
    root = morph(tmp_path / "raw")
    grey = cv2.imencode(".png", np.full((9, 7), 60, np.uint8))[1].tobytes()
    (root / "Album2" / "019066_0M67.JPG").write_bytes(grey)  # a wrong ending
    (root / "Album2" / "019066_10M72.JPG").write_bytes(b"no picture")
    listing(tmp_path / "Setting_3.txt", "filename\tfold\tage\tdatabase", "009055_1M54.JPG\t0\t54\tmorph")
    builders.prepare("morph", tmp_path / "data", root, splits=str(tmp_path / "Setting_3.txt"))
    found = builders.summary("morph", tmp_path / "data")
    assert sum(found["splits"].values()) == 5 == len(builders.open_split("morph", tmp_path / "data", "all"))
    out = {each["file"]: each["reason"] for each in found["skipped"]}
    assert len(out) == 6 and out["Album2/019066_10M72.JPG"].startswith("not a readable image")
    assert found["protocols"]["mwr_3_0"] == {"test": 1}
    assert sum(found["protocols"]["rs_1"].values()) == 5 and found["num_identities"] == 3
    records = builders.open_split("morph@rs_1", tmp_path / "data", "train+test")
    assert {(record["ethnicity"], np.isnan(record["sigma"])) for record in records} == {
        ("White", True),
        ("Black", True),
        ("American Indian", True),
    }
