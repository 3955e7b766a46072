"""IMDB-WIKI. The trees are the set's layout, drawn here."""

import datetime
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from age_trees import cell, pictures, splits
from raw_trees import made, reasons

from data_pipelines.builders import prepare, summary
from data_pipelines.builders.imdb_wiki import ImdbWiki
from data_pipelines.errors import DataError
from data_pipelines.formats.imdb_wiki_mat import ages_of


def datenum(year: int, month: int, day: int) -> int:
    """MATLAB's: 1 January of the year 0 is day 1."""
    return datetime.date(year, month, day).toordinal() + 366


PHOTO = {"dob": datenum(1970, 3, 1), "photo_taken": 2000, "gender": 1.0, "face_score": 4.2, "second_face_score": np.nan}


def imdb_mat(file: Path, part: str, photos: list[dict], celebrities=()) -> Path:
    """One struct of 1×N fields, as published: whole numbers in small types, paths and boxes in cells."""
    photos = [PHOTO | {"face_location": [1, 1, 17, 33.5], "name": "Fred"} | photo for photo in photos]
    kinds = {"dob": np.int32, "photo_taken": np.uint16, "celeb_id": np.float64}
    fields = ["dob", "photo_taken", "full_path", "gender", "name", "face_location", "face_score", "second_face_score"]
    data = {}
    for field in fields + ["celeb_id"] * bool(celebrities):
        values = [photo.get(field, np.nan) for photo in photos]
        if field == "face_location":
            values = [np.array([box], np.float64) for box in values]
        cells = field in ("full_path", "name", "face_location")
        data[field] = cell(*values) if cells else np.array([values], kinds.get(field, np.float64))
    file.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(file, {part: data | ({"celeb_names": cell(*celebrities)} if celebrities else {})})
    return file


def imdb_wiki(root: Path, crop="_crop") -> Path:
    """Sixty of IMDB, of twenty people, and twenty of Wikipedia, of whom two are in IMDB too."""
    celebrities = [f"Star {n}" for n in range(30)]
    imdb = [
        {
            "full_path": f"{n % 7:02d}/nm{n % 20:07d}_rm{n}_1970-3-1_2000.jpg",
            "celeb_id": 1.0 + n % 20,
            "name": celebrities[n % 20],
        }
        for n in range(60)
    ]
    wiki = [{"full_path": f"{n:02d}/{n}_1970-03-01_2000.jpg", "name": f"Star {n + 18}"} for n in range(20)]
    for part, photos, names in (("imdb", imdb, celebrities), ("wiki", wiki, ())):
        folder = root / f"{part}{crop}"
        pictures(folder, *(photo["full_path"] for photo in photos))
        imdb_mat(folder / f"{part}.mat", part, photos, names)
    return root


@pytest.mark.parametrize(
    "birth, year, age",
    [
        ((1970, 6, 30), 2000, 30),
        ((1970, 7, 1), 2000, 29),
        ((1970, 1, 1), 2000, 30),
        ((1970, 12, 31), 2000, 29),
        ((1899, 5, 10), 1968, 69),
        ((2000, 7, 1), 2000, -1),
    ],
)
def test_imdb_wiki_age_is_that_of_the_middle_of_the_year(birth, year, age):
    assert ages_of(np.array([datenum(*birth)], np.int32), np.array([year], np.uint16)).tolist() == [age]


def test_imdb_wiki_takes_nonsense_dates():
    births = np.array([0, 366, 367, 5, np.nan, np.inf, -9e18])
    assert ages_of(births, np.full(7, 2000)).tolist() == [1999, 1999, 1999, 1999, 1999, -8000, 1999]


def test_imdb_wiki_keeps_people_in_one_split(tmp_path):
    builder, rows = made(ImdbWiki, imdb_wiki(tmp_path / "raw"))
    assert len(rows) == 80 and Counter(id.partition("/")[0] for id in rows) == {"imdb_crop": 60, "wiki_crop": 20}
    assert {row.file.relative_to(tmp_path / "raw").as_posix() for row in rows.values()} == set(rows)
    splits_of = {}
    for id, row in rows.items():
        number = int(Path(id).name.partition("_")[0].removeprefix("nm"))
        person = number if id.startswith("imdb") else number + 18
        splits_of.setdefault(person, set()).add(row.split)
        assert row.labels == {"age": 30, "gender": "male", "identity": number if id.startswith("imdb") else -1}
        assert row.box is None  # the boxes are of the whole photographs
    assert len(splits_of) == 38 and all(len(found) == 1 for found in splits_of.values())
    assert set(splits(rows).values()) == {"train", "val", "test"}
    by_image = builder.protocols(list(rows.values()))["by_image"]
    assert Counter(by_image) == {"train": 64, "val": 8, "test": 8}
    assert not builder.skipped and builder.warnings == [
        "imdb.mat has 60 entries, the published one 460,723",
        "wiki.mat has 20 entries, the published one 62,328",
    ]


@pytest.mark.parametrize("raw, count", [("..", 80), ("wiki_crop", 20), ("imdb_crop", 60), ("imdb_crop/03", 60)])
def test_imdb_wiki_takes_the_parts_that_are_there(tmp_path, raw, count):
    root = imdb_wiki(tmp_path / "raw" / "faces")
    _, rows = made(ImdbWiki, root / raw)
    assert len(rows) == count and all(row.file.exists() for row in rows.values())
    (root / "wiki_crop").rename(root / "once")  # an archive unpacked into a folder of its own name
    (root / "wiki_crop").mkdir()
    (root / "once").rename(root / "wiki_crop" / "wiki_crop")
    assert made(ImdbWiki, root)[1].keys() >= rows.keys()
    (root / "imdb_crop" / "imdb.mat").rename(root / "imdb.mat")  # the archive of the lists unpacked elsewhere
    assert len(made(ImdbWiki, root)[1]) == 80
    (root / "imdb.mat").unlink()
    with pytest.raises(DataError, match=r"no `imdb\.mat` in .*imdb_crop; --raw must name"):
        made(ImdbWiki, root)


def test_imdb_wiki_whole_photographs_have_boxes(tmp_path):
    _, rows = made(ImdbWiki, imdb_wiki(tmp_path / "raw", crop=""))
    assert {row.box for row in rows.values()} == {(0, 0, 16, 32.5)}  # the set counts from 1
    assert next(iter(rows)) == "imdb/00/nm0000000_rm0_1970-3-1_2000.jpg"
    imdb_wiki(tmp_path / "raw")
    assert {row.box for row in made(ImdbWiki, tmp_path / "raw")[1].values()} == {None}
    whole = made(ImdbWiki, tmp_path / "raw", options={"full": True})[1]
    assert list(whole) == list(rows) and whole == rows


PHOTOS = {
    "good": {},
    "woman": {"gender": 0.0},
    "someone": {"gender": np.nan},
    "faceless": {"face_score": -np.inf},
    "page": {"face_score": np.inf},
    "blurred": {"face_score": 0.99},
    "nothing": {"face_score": np.nan},
    "two": {"second_face_score": 1.7},
    "edge": {"second_face_score": 0.0, "photo_taken": 2070, "face_score": 1.0},
    "shadow": {"second_face_score": -0.5},
    "unborn": {"photo_taken": 1969},
    "methuselah": {"dob": 5},
    "old": {"photo_taken": 2071},
}


def test_imdb_wiki_of_one_entry(tmp_path):
    pictures(tmp_path / "wiki", "00/1.jpg")
    imdb_mat(tmp_path / "wiki" / "wiki.mat", "wiki", [{"full_path": "00/1.jpg", "name": np.array([])}])
    (row,) = made(ImdbWiki, tmp_path)[1].values()
    assert row[0] == "wiki/00/1.jpg" and row.box == (0, 0, 16, 32.5) and row.labels["age"] == 30


def test_imdb_wiki_people_without_names(tmp_path):
    """`celeb_id` alone says who it is, whatever `name` is."""
    photos = [{"full_path": f"00/{n}.jpg", "celeb_id": 1.0 + n % 9, "name": f"{n}"} for n in range(90)]
    photos += [{"full_path": "00/alone.jpg", "celeb_id": np.nan}, {"full_path": "00/8.jpg", "celeb_id": 7.0}]
    imdb_mat(tmp_path / "imdb_crop" / "imdb.mat", "imdb", photos, ["one"])
    builder, rows = made(ImdbWiki, tmp_path)
    assert reasons(builder) == {"imdb_crop/00/8.jpg": "imdb.mat: listed before"}
    assert rows["imdb_crop/00/alone.jpg"].labels["identity"] == -1 and len(rows) == 91
    assert len({(row.labels["identity"], row.split) for row in rows.values()}) == 10


def left_out(root: Path, **options) -> dict[str, str]:
    builder, rows = made(ImdbWiki, root, options=options)
    assert len(rows) + len(builder.skipped) == len(PHOTOS)
    return {Path(file).stem: reason.removeprefix("wiki.mat: ") for file, reason in reasons(builder).items()}


def test_imdb_wiki_filters(tmp_path):
    photos = [{"full_path": f"01/{name}.jpg"} | photo for name, photo in PHOTOS.items()]
    pictures(tmp_path / "wiki_crop", *(photo["full_path"] for photo in photos))
    imdb_mat(tmp_path / "wiki_crop" / "wiki.mat", "wiki", photos)
    usual = {
        "faceless": "face score -inf is below 1",
        "page": "face score -inf is below 1",
        "blurred": "face score 0.99 is below 1",
        "nothing": "face score nan is below 1",
        "two": "there is a second face, of score 1.7",
        "unborn": "age -1 is outside 0 to 100",
        "methuselah": "age 1999 is outside 0 to 100",
        "old": "age 101 is outside 0 to 100",
    }
    assert left_out(tmp_path) == usual
    assert left_out(tmp_path, known_gender=True) == usual | {"someone": "gender is not known"}
    assert left_out(tmp_path, min_face_score=-1.0, max_second_score=2.0).keys() == usual.keys() - {"blurred", "two"}
    assert left_out(tmp_path, max_second_score=-1.0)["shadow"] == "there is a second face, of score -0.5"
    assert left_out(tmp_path, min_age=31.0)["good"] == "age 30 is outside 31 to 100"
    genders = {Path(id).stem: row.labels["gender"] for id, row in made(ImdbWiki, tmp_path)[1].items()}
    assert genders == {"good": "male", "woman": "female", "someone": "", "shadow": "male", "edge": "male"}


def test_imdb_wiki_built(tmp_path):
    root = imdb_wiki(tmp_path / "raw")
    (root / "wiki_crop" / "03" / "3_1970-03-01_2000.jpg").write_bytes(b"")
    pictures(root / "imdb_crop" / "99", "nm_spare.jpg")
    prepare("imdb_wiki", tmp_path / "data", root)
    said = summary("imdb_wiki", tmp_path / "data")
    assert sum(said["splits"].values()) == 79 and said["num_identities"] == 20
    assert {row["file"]: row["reason"] for row in said["skipped"]} == {
        "imdb_crop/99/nm_spare.jpg": "not in imdb.mat",
        "wiki_crop/03/3_1970-03-01_2000.jpg": "image is empty",
    }
    imdb_mat(root / "wiki_crop" / "wiki.mat", "wiki", [{"full_path": "00/0_1970-03-01_2000.jpg"}])
    with pytest.raises(DataError, match=r"from other input .*wiki"):
        prepare("imdb_wiki", tmp_path / "data", root)
