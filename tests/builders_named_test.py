"""Sets whose file names say all: UTKFace, AFAD, AgeDB. The trees are the sets' layouts, drawn."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from age_trees import labels, listing, pictures, splits
from raw_trees import made, reasons

from data_pipelines import builders
from data_pipelines.builders.afad import Afad
from data_pipelines.builders.agedb import AgeDb
from data_pipelines.builders.utkface import UtkFace
from data_pipelines.errors import DataError

# --- utkface


def dots(x: float, y: float, size: float) -> str:
    """136 numbers: eyes' points about (x ± size, y), the nose tip `size` below, mouth corners 2 · size."""
    points = np.full((68, 2), -1.0)
    points[36:42] = [(x - size + dx, y + dy) for dx, dy in ((-2, 0), (-1, -1), (1, -1), (2, 0), (1, 1), (-1, 1))]
    points[42:48] = points[36:42] + np.array([2 * size, 0])
    points[[30, 48, 54]] = [(x, y + size), (x - size, y + 2 * size), (x + size, y + 2 * size)]
    return " ".join(f"{value:g}" for value in points.ravel())


WILD = {
    "part1": ["1_0_0_20161219140623097.jpg", "61_1_20170109142408075.jpg", "61_3_20170109150557335.jpg", "8_0.jpg"],
    "part2": ["39_1_20170116174525125.jpg", "53__0_20170116184028385.jpg", "116_1_4_20170120134921760.JPG"],
    "part3": ["26_1_2_20170116184028385.jpg", "26_2_2_20170116184028385.jpg"],
}
CORRECTED = {"61_1_20170109142408075": (61, "female", "Black"), "61_3_20170109150557335": (61, "female", "Indian")}
CORRECTED |= {"39_1_20170116174525125": (39, "male", "Black"), "53__0_20170116184028385": (53, "female", "White")}


def wild(root: Path, **points) -> Path:
    for number, (part, names) in enumerate(WILD.items(), 1):
        pictures(root / part, *names)
        if points:
            given = [f"{name} {dots(**points)} " for name in names if not name.startswith("53_")]
            listing(root / f"landmark_list_part{number}.txt", *given)
    return root


@pytest.mark.parametrize("up", ["", "..", "part2"])
def test_utkface_photographs(tmp_path, up):
    builder, rows = made(UtkFace, wild(tmp_path / "raw", x=150, y=120, size=30) / up)
    found = {id: known[:3] for id, known in labels(rows).items()}
    assert found == {
        "part1/1_0_0_20161219140623097.jpg": (1, "male", "White"),
        "part1/61_1_20170109142408075.jpg": CORRECTED["61_1_20170109142408075"],
        "part1/61_3_20170109150557335.jpg": CORRECTED["61_3_20170109150557335"],
        "part2/39_1_20170116174525125.jpg": CORRECTED["39_1_20170116174525125"],
        "part2/53__0_20170116184028385.jpg": CORRECTED["53__0_20170116184028385"],
        "part2/116_1_4_20170120134921760.JPG": (116, "female", "Other"),
        "part3/26_1_2_20170116184028385.jpg": (26, "female", "Asian"),
    }
    expected = [[120, 120], [180, 120], [150, 150], [120, 180], [180, 180]]
    np.testing.assert_allclose(rows["part1/61_1_20170109142408075.jpg"].labels["landmarks"], expected)
    assert rows["part2/53__0_20170116184028385.jpg"].labels["landmarks"] is None
    why = "the name is not <age>_<gender 0-1>_<race 0-4>_<date>.jpg"
    assert reasons(builder) == {"part1/8_0.jpg": why, "part3/26_2_2_20170116184028385.jpg": why}
    assert not builder.warnings and not builder.cropped and not builder.EXPECTED
    assert set(splits(rows).values()) == {"train", "val", "test"}
    assert Counter(builder.protocols(list(rows.values()))["rs80_20"]) == {"train": 6, "test": 1}


def test_utkface_crops_have_the_same_labels_and_splits(tmp_path):
    _, found = made(UtkFace, wild(tmp_path / "raw"))
    crops = tmp_path / "raw" / "UTKFace"
    named = {id: f"{Path(id).name}.chip.jpg".replace("61_3_2017", "61_1_2017") for id in found}
    pictures(crops, *named.values(), "61_1_20170109.chip.png")
    for number, names in enumerate(WILD.values(), 1):
        points = dots(x=99, y=62, size=36)
        listing(tmp_path / "raw" / f"landmark_list_part{number}.txt", *(f"{name} {points} " for name in names))
    builder, rows = made(UtkFace, crops)
    assert {id: known[:3] for id, known in labels(rows).items()} == {
        named[id]: known[:3] for id, known in labels(found).items()
    }
    assert splits(rows) == {named[id]: split for id, split in splits(found).items()}
    points = rows["61_1_20170109150557335.jpg.chip.jpg"].labels["landmarks"]
    np.testing.assert_allclose(points, [[63, 62], [135, 62], [99, 98], [63, 134], [135, 134]])
    assert builder.cropped and builder.EXPECTED == {"all": 23_708} and not builder.warnings
    assert list(reasons(builder)) == ["61_1_20170109.chip.png"]
    assert {builder.split_key(f"a/{name}") for name in (*named, *named.values())} == set(map(builder.split_key, named))
    pictures(tmp_path / "more" / "utkface", *named.values())
    pictures(tmp_path / "more" / "crop_part1", *list(named.values())[:2])
    for raw in ("more", "more/utkface", "more/crop_part1"):
        assert len(made(UtkFace, tmp_path / raw)[1]) == (2 if raw.endswith("part1") else 7), raw


def test_utkface_points_of_other_pictures_are_not_taken(tmp_path):
    builder, rows = made(UtkFace, wild(tmp_path / "raw", x=99, y=62, size=36))  # where faces lie in a crop
    assert all(row.labels["landmarks"] is None for row in rows.values())
    assert builder.warnings == ["the points of landmark_list_part*.txt are not in pixels of these pictures: not used"]
    pictures(tmp_path / "crops", "1_0_0_20161219140623097.jpg.chip.jpg")
    lines = [f"1_0_0_20161219140623097.jpg {dots(900, 300, 50)}", "1_0_1_20161219140623097.jpg 1 2", "", "x"]
    listing(tmp_path / "crops" / "landmark_list" / "landmark_list_part1.txt", *lines)
    (tmp_path / "crops" / "landmark_list").rename(tmp_path / "landmark_list")
    builder, rows = made(UtkFace, tmp_path / "crops")
    assert rows["1_0_0_20161219140623097.jpg.chip.jpg"].labels["landmarks"] is None
    assert len(builder.warnings) == 2
    assert builder.warnings[0].startswith(
        "2 lines of landmark_list_part1.txt … are not a name and 136 numbers, as that of"
    )
    with pytest.raises(
        DataError, match=r"--raw must name the folder with part1, part2, part3, or the folder `UTKFace`"
    ):
        made(UtkFace, tmp_path / "landmark_list")


# --- afad

FACES = ["15/111/638660-1.jpg", "15/112/638660-0.jpg", "18/111/7-0.jpg", "18/111/7-1.JPG", "40/112/99-0.jpg"]
NOT_FACES = ["18/111/readme.txt", "18/111/8.jpg", "18/113/8-0.jpg", "other/111/9-0.jpg"]


def afad(root: Path) -> Path:
    pictures(root, *FACES, *NOT_FACES, "15/111/.DS_Store", "15/111/Thumbs.db", "15/.hidden/1-1.jpg", "README.md")
    return root


@pytest.mark.parametrize("up", ["", "..", "15"])
def test_afad_labels_are_folders(tmp_path, up):
    builder, rows = made(Afad, afad(tmp_path / "AFAD-Full") / up)
    assert labels(rows) == {
        "15/111/638660-1.jpg": (15, "male", 2),
        "15/112/638660-0.jpg": (15, "female", 2),
        "18/111/7-0.jpg": (18, "male", 0),
        "18/111/7-1.JPG": (18, "male", 0),
        "40/112/99-0.jpg": (40, "female", 1),
    }
    name, folder = "the name is not <number>-<number>.jpg", "not a folder <age>/<111 or 112>"
    assert reasons(builder) == dict(
        zip(("18/113", "other/111", "18/111/8.jpg", "18/111/readme.txt"), (folder,) * 2 + (name,) * 2)
    )
    found = splits(rows)
    assert found["15/111/638660-1.jpg"] == found["15/112/638660-0.jpg"] and len(set(found.values())) == 3
    assert Counter(builder.protocols(list(rows.values()))["rs80_20"]) == {"train": 4, "test": 1}
    assert builder.EXPECTED == {"all": 164_432}
    keys = {builder.split_key(f"{above}15/111/638660-1.jpg") for above in ("", "./", "AFAD/AFAD-Full/")}
    assert keys == {"15/111/638660-1"}


def test_afad_list_is_checked(tmp_path):
    root = afad(tmp_path / "AFAD-Lite")
    listing(root / "AFAD-Lite.txt", *(f"./{name}" for name in (*FACES, "39/112/5-0.jpg")), "./README.md", end="\r\n")
    builder, rows = made(Afad, root)
    assert len(rows) == 5 and reasons(builder)["39/112/5-0.jpg"] == "in AFAD-Lite.txt, but not there"
    assert builder.EXPECTED == {"all": 59_344} and len(builder.skipped) == 5


def test_afad_in_pieces(tmp_path):
    for piece in ("aa", "ab", "bb"):
        listing(tmp_path / "raw" / "tarballs" / f"AFAD-Lite.tar.xz{piece}")
    join = r"`cat AFAD-Lite.tar.xz\?\? > AFAD-Lite.tar.xz && tar xf AFAD-Lite.tar.xz` there$"
    with pytest.raises(DataError, match=rf"tarballs/AFAD-Lite.tar.xzaa is still packed: {join}"):
        made(Afad, tmp_path / "raw")
    listing(tmp_path / "joined" / "AFAD-Full.tar.xz")
    with pytest.raises(DataError, match=r"packed: `tar xf AFAD-Full.tar.xz` there$"):
        made(Afad, tmp_path / "joined")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="--raw must name the folder `AFAD-Full` or `AFAD-Lite`"):
        made(Afad, tmp_path / "none")


# --- agedb

PEOPLE = ["12083_ElsaMartinelli_74_f.jpg", "3_RicardoMontalb\u0430n_84_m.jpg", "20_RicardoMontalb\u0430n_48_M.JPG"]
PEOPLE += ["100_RoyScheider_40_m.jpg", "7_RoyScheider_30_f.jpg", "16487_DannyGlover_101_m.jpg"]


@pytest.mark.parametrize("up", ["", "..", "below"])
def test_agedb_labels_are_names(tmp_path, up):
    pictures(tmp_path / "AgeDB", *PEOPLE, "5_A_B_20_m.jpg", "6_A_20_x.jpg", "A_20_m.jpg", "below/x.jpg", ".DS_Store")
    builder, rows = made(AgeDb, tmp_path / "AgeDB" / up)
    assert list(labels(rows).items()) == [
        ("3_RicardoMontalb\u0430n_84_m.jpg", (84, "male", 2)),
        ("7_RoyScheider_30_f.jpg", (30, "female", 3)),
        ("20_RicardoMontalb\u0430n_48_M.JPG", (48, "male", 2)),
        ("100_RoyScheider_40_m.jpg", (40, "male", 3)),
        ("12083_ElsaMartinelli_74_f.jpg", (74, "female", 1)),
        ("16487_DannyGlover_101_m.jpg", (101, "male", 0)),
    ]
    assert list(reasons(builder)) == ["5_A_B_20_m.jpg", "6_A_20_x.jpg", "A_20_m.jpg", "below"]
    assert builder.warnings == ["1 names are listed as female and as male, as royscheider"]
    found = splits(rows)
    assert found[PEOPLE[1]] == found[PEOPLE[2]] and found[PEOPLE[3]] == found[PEOPLE[4]]
    assert len(set(found.values())) == 3
    assert builder.split_key("AgeDB/AgeDB/03_RicardoMontalbán_84_m.jpg") == builder.split_key(PEOPLE[1]) == "3"
    assert builder.split_key("071011_3M42.JPG") == "071011_3m42"


# --- the whole build


def test_builds_leave_out_what_cannot_be_used(tmp_path):
    raw = {"utkface": wild(tmp_path / "wild" / "raw"), "afad": afad(tmp_path / "afad"), "agedb": tmp_path / "AgeDB"}
    pictures(raw["agedb"], *PEOPLE)
    cut = raw["afad"] / "18/111/7-1.JPG"
    cut.write_bytes(cut.read_bytes()[:90])
    kept, out = {"utkface": 6, "afad": 4, "agedb": 5}, {}
    for name in raw:
        builders.prepare(name, tmp_path / "data", raw[name])
        found = builders.summary(name, tmp_path / "data")
        assert sum(found["splits"].values()) == kept[name] == len(builders.open_split(name, tmp_path / "data", "all"))
        out[name] = {each["file"]: each["reason"] for each in found["skipped"]}
    assert out["utkface"]["part2/116_1_4_20170120134921760.JPG"] == "age 116 is outside 0 to 100 years"
    assert out["agedb"] == {"16487_DannyGlover_101_m.jpg": "age 101 is outside 0 to 100 years"}
    assert out["afad"]["18/111/7-1.JPG"].startswith("not a readable image") and len(out["afad"]) == 5
