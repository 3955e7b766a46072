"""Sets with attractiveness scores: SCUT-FBP, SCUT-FBP5500, CFD. The trees are the sets' layouts, drawn here."""

import csv
import statistics
from collections import Counter
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from raw_trees import made, picture, reasons, workbook

from data_pipelines.builders import open_split, prepare, summary
from data_pipelines.builders.cfd import Cfd
from data_pipelines.builders.scut_fbp import ScutFbp
from data_pipelines.builders.scut_fbp5500 import ScutFbp5500
from data_pipelines.errors import DataError


def score(row) -> tuple:
    return row.labels["attractiveness"], row.labels["attractiveness_sigma"]


MEANS = {i: 1 + (i * 7 % 40) / 10 for i in range(1, 21)}  # 1.0 … 4.9


def scut_tree(root: Path, columns=3, more=()) -> Path:
    for i in MEANS:
        picture(root / "Data_Collection" / f"SCUT-FBP-{i}.jpg")
    rows = [["#Image ", " Attractiveness label ", "Standard Deviation"]]
    rows += [[i, f"{mean} ", i / 10] for i, mean in MEANS.items()]
    rows = [*(row[:columns] for row in rows), *more]
    workbook(root / "Rating_Collection" / "Attractiveness label.xlsx", Notes=[["x"]], Sheet1=rows)
    return root


def test_scut_fbp_reads_mean_and_deviation(tmp_path):
    builder, rows = made(ScutFbp, scut_tree(tmp_path / "SCUT-FBP"))
    assert list(rows) == [f"SCUT-FBP-{i}.jpg" for i in range(1, 21)]  # by number, not as text
    assert [*map(score, rows.values())] == [(mean, i / 10) for i, mean in MEANS.items()]
    assert {(row.labels["gender"], row.labels["ethnicity"]) for row in rows.values()} == {("female", "Asian")}
    assert not builder.skipped and not builder.warnings
    protocols = builder.protocols([*rows.values()])
    assert list(protocols) == [f"rs_{i}" for i in range(5)] and len(set(map(tuple, protocols.values()))) == 5
    assert all(Counter(split) == {"train": 16, "test": 4} for split in protocols.values())
    assert {row.split for row in rows.values()} == {"train", "val", "test"}


def test_scut_fbp_says_what_it_leaves_out(tmp_path):
    root = scut_tree(tmp_path / "raw", columns=2, more=[[21, 0.9], [22, 5.1]])
    folder = root / "Data_Collection"
    (folder / "SCUT-FBP-3.jpg").unlink()
    for name in ("SCUT-FBP-21.jpg", "SCUT-FBP-22.jpg", "nested/scut-fbp-04.JPG", "notes.png"):
        picture(folder / name)
    builder, rows = made(ScutFbp, root)
    assert len(rows) == 19 and np.isnan([row.labels["attractiveness_sigma"] for row in rows.values()]).all()
    assert reasons(builder) == {
        "SCUT-FBP-3.jpg": "file not found, though it has a score",
        "SCUT-FBP-21.jpg": "no score from 1 to 5 in the label file",
        "SCUT-FBP-22.jpg": "no score from 1 to 5 in the label file",
        "scut-fbp-04.JPG": "picture 4 is there already: SCUT-FBP-4.jpg",
        "notes.png": "the name is not SCUT-FBP-<number>.jpg",
    }
    assert len(builder.warnings) == 1 and builder.warnings[0].startswith("no σ")


VOTES = {i: [1 + (i + j) % 5 for j in range(3 + i % 3)] for i in MEANS}


@pytest.mark.parametrize("turned", [False, True])
def test_scut_fbp_takes_sigma_from_votes_that_have_the_given_means(tmp_path, turned):
    root = scut_tree(tmp_path / "raw")
    ratings = root / "Rating_Collection"
    means = [["Image", "Attractiveness label"], *([i, statistics.fmean(given)] for i, given in VOTES.items())]
    means += [["average", 3.1]]
    workbook(ratings / "Attractiveness label.xlsx", Sheet1=means)
    table = [["Image", *(f"rater {j}" for j in range(5)), "half the votes"]]
    table += [[f"SCUT-FBP-{i}.jpg", *given, *[None] * (5 - len(given)), 0.5] for i, given in VOTES.items()]
    workbook(ratings / "Rating.xlsx", Sheet1=list(zip(*table)) if turned else table)
    (ratings / "~$lock.xlsx").write_bytes(b"")
    builder, rows = made(ScutFbp, root)
    expected = [(statistics.fmean(given), statistics.stdev(given)) for given in VOTES.values()]
    np.testing.assert_allclose([*map(score, rows.values())], expected)
    assert builder.warnings == ["σ is that of the votes in Rating.xlsx"] and not builder.skipped
    table[1][1] = 6 - table[1][1]  # 1 of 20 pictures: 5 % have other means now
    workbook(ratings / "Rating.xlsx", Sheet1=table)
    builder, rows = made(ScutFbp, root)
    assert np.isnan([row.labels["attractiveness_sigma"] for row in rows.values()]).all()
    assert builder.warnings[0].startswith("no σ")


def test_scut_fbp_from_csv_flat_or_one_level_off(tmp_path):
    root = scut_tree(tmp_path / "raw" / "SCUT-FBP")
    (root / "Rating_Collection" / "Attractiveness label.xlsx").unlink()
    with open(root / "Rating_Collection" / "AttractivenessLabel.csv", "w", newline="") as file:
        csv.writer(file).writerows([["Image", "Attractiveness label "], *MEANS.items()])
    assert [len(made(ScutFbp, raw)[1]) for raw in (root, root.parent, root / "Data_Collection")] == [20] * 3
    (flat := tmp_path / "flat").mkdir()
    for file in [*root.glob("*/*")]:
        file.rename(flat / file.name)
    assert len(made(ScutFbp, flat)[1]) == 20
    with pytest.raises(DataError, match=r"no `Attractiveness label\.xlsx` in"):
        made(ScutFbp, root)
    with pytest.raises(DataError, match="must name the SCUT-FBP folder"):
        made(ScutFbp, Path(__file__).parent)


# --- scut_fbp5500

FACES = [f"{group}{i}.jpg" for group in ("AF", "AM", "CF", "CM") for i in range(1, 6)]
OLD = {"AF": "fty", "AM": "mty", "CF": "ftw", "CM": "mtw"}


def ballot(name: str) -> list[int]:
    return [1 + FACES.index(name) * (j + 3) % 7 % 5 for j in range(4)]


def scut5500_tree(root: Path, old=()) -> Path:
    """old: which of images, lists have the older names."""

    def named(name, what):
        return OLD[name[:2]] + name[2:] if what in old else name

    rows = [["Rater", "Filename", "original Rating", "Rating"]]
    rows += [[j, f"{named(name, 'images')} ", 9, vote] for name in FACES for j, vote in enumerate(ballot(name), 1)]
    workbook(root / "All_Ratings.xlsx", Asian_Female=[rows[0], [1, "AF1.jpg", 1, 1]], ALL=rows)
    for name in FACES:
        picture(root / "Images" / named(name, "images"))
    (root / "facial landmark").mkdir()
    (root / "facial landmark" / "CM5.pts").write_bytes(b"\0\0\0\0")
    folds = root / "train_test_files" / "5_folders_cross_validations_files"
    for fold in range(5):
        write_lists(folds / f"cross_validation_{fold + 1}", f"_{fold + 1}", [fold], named)
    write_lists(root / "train_test_files" / "split_of_60%training and 40%testing", "", [0, 1], named)
    return root


def write_lists(folder: Path, ending: str, tested: list[int], named) -> None:
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        chosen = [name for i, name in enumerate(FACES) if (i % 5 in tested) == (split == "test")]
        lines = "".join(f"{named(name, 'lists')} {statistics.fmean(ballot(name)):.6f}\r\n" for name in chosen)
        (folder / f"{split}{ending}.txt").write_text(lines, newline="")


@pytest.mark.parametrize("old", [(), ("lists",), ("images", "lists")])
def test_scut_fbp5500_votes_and_protocols(tmp_path, old):
    builder, rows = made(ScutFbp5500, scut5500_tree(tmp_path / "SCUT-FBP5500_v2", old))
    by_key = {builder.split_key(row.id): row for row in rows.values()}
    assert [builder.split_key(f"{name}12.jpg") for name in OLD.values()] == [f"{name}12" for name in OLD]
    assert by_key.keys() == {name[:-4] for name in FACES} and not builder.skipped
    for name in FACES:
        row = by_key[name[:-4]]
        assert score(row) == pytest.approx((statistics.fmean(ballot(name)), statistics.stdev(ballot(name))))
        assert row.labels["gender"] == ("female" if name[1] == "F" else "male")
        assert row.labels["ethnicity"] == ("Asian" if name[0] == "A" else "Caucasian")
    protocols = builder.protocols(list(rows.values()))
    assert list(protocols) == ["cv_1", "cv_2", "cv_3", "cv_4", "cv_5", "p60_40"] and not builder.warnings
    place = {row.id: i for i, row in enumerate(rows.values())}
    for i, name in enumerate(FACES):
        splits = [splits[place[by_key[name[:-4]].id]] for splits in protocols.values()]
        assert splits[:5] == ["test" if i % 5 == fold else "train" for fold in range(5)]
        assert splits[5] == ("test" if i % 5 < 2 else "train")


def test_scut_fbp5500_says_what_is_amiss(tmp_path):
    root = scut5500_tree(tmp_path / "raw")
    (root / "Images" / "AF2.jpg").unlink()
    picture(root / "Images" / "CM9.jpg"), picture(root / "Images" / "group.png")
    book = openpyxl.load_workbook(root / "All_Ratings.xlsx")
    book["ALL"].append([5, "AF1.jpg", 3, None]), book["ALL"].append([5, "AF1.jpg", 3, 9])
    book.save(root / "All_Ratings.xlsx")
    half = root / "train_test_files" / "split_of_60%training and 40%testing" / "test.txt"
    half.write_text(half.read_text().replace("AM1.jpg ", "AM3.jpg "))  # a name moved: AM3 gets another's score
    builder, rows = made(ScutFbp5500, root)
    assert reasons(builder) == {
        "AF2.jpg": "file not found, though there are votes for it",
        "CM9.jpg": "no vote for it in All_Ratings.xlsx",
        "group.png": "the name is not AF, AM, CF or CM and a number",
    }
    assert score(rows["AF1.jpg"])[0] == statistics.fmean(ballot("AF1.jpg"))
    assert builder.protocols([*rows.values()])["p60_40"][list(rows).index("AM1.jpg")] == ""
    assert builder.warnings[0] == "2 rows of All_Ratings.xlsx have no Rating from 1 to 5 and do not count"
    assert "cv_1: 1 listed pictures are not there" in builder.warnings
    assert "p60_40: 1 listed scores are not the means of the votes: are the names other faces?" in builder.warnings


# --- cfd

NEUTRAL = {"AF-200-228": 3.1, "BM-005-003": 4.2, "LF-201-001": 2.0, "WM-009-002": 6.5}


def cfd_images(root: Path, folder: str, names) -> None:
    for name in names:
        picture(root / folder / "-".join(name.split("-")[:2]) / f"CFD-{name}.jpg")


def cfd3_tree(root: Path) -> Path:
    """3.0: titles, variable ids (row 7), labels (row 8), one row to skip, then data; σ in columns without a label."""
    cfd_images(root, "Images/CFD", [f"{name}-N" for name in NEUTRAL] + ["AF-200-229-HO", "WM-009-003-A"])
    cfd_images(root, "Images/CFD-MR", ["MF-300-002-N"])
    cfd_images(root, "Images/CFD-INDIA", ["IF-601-519-N", "IF-601-530-HC", "IM-602-100-N"])
    sheets = {
        "CFD 3.0 Codebook": [["VarID", "Attractive"]],
        "CFD U.S. Norming Data": norms([("AF-200", 3.1), ("BM-005", 4.2), ("LF-201", 2.0), ("WM-009", 6.5)]),
        "CFD-MR U.S. Norming Data": norms([("MF-300", 3.3)], "R013B", blank=True),
        "CFD-I INDIA Norming Data": norms([("IF601-519", 6.7), ("IM602-100", 6.2)], "R013B"),
        "CFD-I U.S. Norming Data": norms([("IF601-519", 3.7), ("IM602-100", 2.2)], "R013B"),
    }
    workbook(root / "CFD 3.0 Norming Data and Codebook.xlsx", **sheets)
    return root


def norms(models, question="R013", blank=False) -> list[list]:
    ids = ["S001", "S002", "S003", "R002", "R002s", "R010", "R010s", question, f"{question}s"]
    labels = ["Model", "EthnicitySelf", "GenderSelf", "AgeRated", None, "Afraid", None, "Attractive", None]
    selves = {name: ["", ""] if blank else name[:2] for name, _ in models}
    data = [[name, *selves[name], 20.25 + i, 3.5, 2, 1, mean, 0.5 + i] for i, (name, mean) in enumerate(models)]
    return [["Norming data"], *[[None]] * 5, ids, labels, [None, "(n)"], *data]


def test_cfd_3_reads_mean_sigma_and_guessed_age(tmp_path):
    builder, rows = made(Cfd, cfd3_tree(tmp_path / "CFD Version 3.0"))
    assert list(rows) == [f"CFD-{name}-N.jpg" for name in NEUTRAL]
    assert [*map(score, rows.values())] == [(mean, 0.5 + i) for i, mean in enumerate(NEUTRAL.values())]
    labels = rows["CFD-WM-009-002-N.jpg"].labels
    assert (labels["age"], labels["sigma"], labels["gender"], labels["ethnicity"]) == (23.25, 3.5, "male", "White")
    assert [row.labels["ethnicity"] for row in rows.values()] == ["Asian", "Black", "Latino", "White"]
    assert builder.warnings == ["2 pictures that are not neutral are left out: nobody rated them"]
    assert not builder.skipped and builder.EXPECTED == {"all": 597}


def test_cfd_3_parts_are_never_mixed(tmp_path):
    root = cfd3_tree(tmp_path / "raw" / "CFD Version 3.0")
    builder, rows = made(Cfd, root.parent, config="india")
    assert list(rows) == ["CFD-IF-601-519-N.jpg", "CFD-IM-602-100-N.jpg"]
    assert [*map(score, rows.values())] == [(3.7, 0.5), (2.2, 1.5)]
    assert {row.labels["ethnicity"] for row in rows.values()} == {"Indian"} and not builder.skipped
    builder, rows = made(Cfd, root / "Images", config="mr")
    labels = rows["CFD-MF-300-002-N.jpg"].labels  # what the sheet leaves blank is in the name
    assert (labels["attractiveness"], labels["gender"], labels["ethnicity"]) == (3.3, "female", "Multiracial")


def cfd2_tree(root: Path) -> Path:
    models = [f"WM-{i:03d}" for i in range(1, 11)]
    cfd_images(root, "CFD 2.0.3 Images", [f"{model}-{i:03d}-N" for i, model in enumerate(models)])
    header = ["Target", "Race", "Gender", "Age", "NumberofRaters", "Afraid", "Angry", "Attractive", "Babyface"]
    data = [[model, "W", "M", 30 + i, 26, 2.1, 2.2, 2 + i / 10, 3.0] for i, model in enumerate(models)]
    rows = [["CFD 2.0.3"], [], ["Notes"], [], header, *data]
    workbook(root / "CFD 2.0.3 Norming Data and Codebook.xlsx", **{"CFD 2.0.3 Norming Data": rows})
    return root


def test_cfd_2_has_means_only(tmp_path):
    root = cfd2_tree(tmp_path / "CFD Version 2.0.3")
    builder, rows = made(Cfd, root)
    assert [score(row)[0] for row in rows.values()] == [2 + i / 10 for i in range(10)]
    assert np.isnan([(score(row)[1], row.labels["sigma"]) for row in rows.values()]).all()
    assert [row.labels["age"] for row in rows.values()] == list(range(30, 40))
    splits = builder.protocols([*rows.values()]).values()
    assert [Counter(split) for split in splits] == [{"train": 8, "test": 2}] * 5
    with pytest.raises(DataError, match=r"no sheet `CFD-MR U\.S\. Norming Data`; there are CFD 2\.0\.3 Norming Data"):
        made(Cfd, root, config="mr")


def test_cfd_flags_what_has_no_partner(tmp_path):
    root = cfd2_tree(tmp_path / "CFD Version 2.0.3")
    cfd_images(root, "CFD 2.0.3 Images", ["WF-222-001-N", "WM-001-000-1-N", "WM-001-x-N"])
    (root / "CFD 2.0.3 Images" / "WM-002" / "CFD-WM-002-001-N.jpg").unlink()
    only = root / "CFD 2.0.3 Images" / "WM-003" / "CFD-WM-003-002-N.jpg"
    only.rename(only.with_stem("CFD-WM-003-002-1-N"))
    builder, rows = made(Cfd, root)
    assert list(rows)[:2] == ["CFD-WM-001-000-N.jpg", "CFD-WM-003-002-1-N.jpg"] and len(rows) == 9
    assert reasons(builder) == {
        "CFD-WF-222-001-N.jpg": "no rating from 1 to 7 for it in the norming data",
        "CFD-WM-001-000-1-N.jpg": "another neutral picture of the model in CFD-WM-001-000-N.jpg",
        "CFD-WM-001-x-N.jpg": "the name is not CFD-<model>-<picture>-<expression>.jpg",
        "CFD-WM-002": "rated, but there is no neutral picture",
    }


# --- the whole way

TREES = {"scut_fbp": (ScutFbp, scut_tree), "scut_fbp5500": (ScutFbp5500, scut5500_tree), "cfd/main": (Cfd, cfd2_tree)}


@pytest.mark.parametrize("name", TREES)
def test_scores_arrive_in_the_records(tmp_path, name):
    builder_class, tree = TREES[name]
    root = tree(tmp_path / "raw")
    prepare(name, tmp_path / "data", root)
    found, (builder, rows) = summary(name, tmp_path / "data"), made(builder_class, root)
    stored = {record["id"]: record for record in open_split(name, tmp_path / "data", "all")}
    assert stored.keys() == rows.keys() and found["skipped"] == [] and found["trains"] == "attractiveness"
    for row_id, row in rows.items():
        for label, value in row.labels.items():
            np.testing.assert_array_equal(stored[row_id][label], value if isinstance(value, str) else np.float32(value))
    protocols = builder.protocols([*rows.values()])
    assert found["protocols"] == {protocol: dict(Counter(split)) for protocol, split in protocols.items()}
    assert found["expected"] == builder.EXPECTED
