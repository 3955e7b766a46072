import csv
import json
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import builders, schema
from data_pipelines.builders import BUILDERS, DataError, open_split, prepare, prepared_dir, summary
from data_pipelines.splits import hash_split


def picture(file: Path, seed: int = 0) -> None:
    """A file of noise; its format by its ending."""
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(cv2.imencode(file.suffix, pixels)[1].tobytes())


def listing(folder: Path, rows: list[dict], name="list.csv") -> Path:
    """A manifest of these rows, and a picture for each."""
    for i, row in enumerate(rows):
        picture(folder / row["path"], seed=i)
    with open(folder / name, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return folder / name


def people(n: int, per_identity: int = 1) -> list[dict]:
    return [{"path": f"{i}.jpg", "age": i, "identity": f"p{i // per_identity}"} for i in range(n)]


def records(name, data_dir, split="all") -> dict[str, dict]:
    source = open_split(name, data_dir, split)
    return {record["id"]: record for record in source}


def message(folder: Path, text: str | bytes) -> str:
    """The one line that a manifest of this text is refused with."""
    file = folder / "list.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as caught:
        prepare("manifest", folder / "data", file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- manifest


def test_manifest_keeps_every_label(tmp_path):
    points = {f"{axis}{i}": 10 * i + (axis == "y") for i in range(1, 6) for axis in "xy"}
    full = {
        "path": "a/1.png",
        "age": 23.5,
        "sigma": 0,
        "attractiveness": 3.1,
        "attractiveness_sigma": 0.5,
        "identity": "Zoe",
        "gender": "F",
        "ethnicity": "Black",
        "split": "dev",
        **points,
        **dict(zip(("box_x1", "box_y1", "box_x2", "box_y2"), (1, 2, 30, 40))),
    }
    bare = dict.fromkeys(full, "") | {"path": "b.jpg", "age": 7, "split": "training"}
    prepare("manifest", tmp_path / "data", listing(tmp_path, [full, bare]))
    known, unknown = (records("manifest", tmp_path / "data", split) for split in ("val", "train"))
    known, unknown = known["a/1.png"], unknown["b.jpg"]
    for record in (known, unknown):
        schema.validate(record)
        assert record["age"].dtype == record["sigma"].dtype == record["landmarks"].dtype == np.float32
    assert (known["age"], known["sigma"], known["attractiveness_sigma"], known["identity"]) == (23.5, 0, 0.5, 0)
    assert known["attractiveness"] == np.float32(3.1)
    np.testing.assert_array_equal(known["landmarks"], [[10, 11], [20, 21], [30, 31], [40, 41], [50, 51]])
    assert (known["gender"], known["ethnicity"]) == ("female", "Black")
    assert unknown["age"] == 7 and unknown["identity"] == -1 and unknown["gender"] == unknown["ethnicity"] == ""
    assert np.isnan([unknown["sigma"], unknown["attractiveness"], unknown["attractiveness_sigma"]]).all()
    assert np.isnan(unknown["landmarks"]).all()


def test_the_box_says_whose_face_it_is(tmp_path):
    text = "path,age,box_x1,box_y1,box_x2,box_y2\na.jpg,1,1.5,2,30,40\nb.jpg,2,,,,\n"
    (tmp_path / "list.csv").write_text(text)
    builder = BUILDERS["manifest"](data_dir=tmp_path, raw=tmp_path / "list.csv", file_format="array_record")
    assert [row.box for row in builder.rows()] == [(1.5, 2, 30, 40), None]


def test_images_stay_byte_identical(tmp_path):
    names = ("grey.png", "rgb.jpg", "alpha.png", "deep.png", "tail.jpg", "cmyk.jpg")
    file = listing(tmp_path, [{"path": name, "age": 1} for name in names])
    cv2.imwrite(str(tmp_path / "grey.png"), np.zeros((9, 7), np.uint8))
    cv2.imwrite(str(tmp_path / "alpha.png"), np.zeros((9, 7, 4), np.uint8))
    cv2.imwrite(str(tmp_path / "deep.png"), np.zeros((9, 7, 3), np.uint16))
    pytest.importorskip("PIL.Image").new("CMYK", (9, 7)).save(tmp_path / "cmyk.jpg")
    with open(tmp_path / "tail.jpg", "ab") as tail:
        tail.write(b"\0\0")  # numpy's bytes type would drop these
    prepare("manifest", tmp_path / "data", file)
    stored = records("manifest", tmp_path / "data")
    assert {name: stored[name]["image"] for name in stored} == {name: (tmp_path / name).read_bytes() for name in names}


def test_plain_tfds_decodes_what_we_wrote(tmp_path):
    prepare("synthetic", tmp_path, faces=24, pixels=32)
    source = tfds.builder_from_directory(prepared_dir("synthetic", tmp_path)).as_data_source("train")
    assert source[0]["image"].shape == (32, 32, 3) and source[0]["landmarks"].shape == (5, 2)


@pytest.mark.parametrize("delimiter, start", [(",", ""), (";", "\ufeff"), ("\t", ""), (",", "\n\n")])
def test_delimiters_mark_and_line_ends(tmp_path, delimiter, start):
    picture(tmp_path / "a b.jpg"), picture(tmp_path / "c.jpg")
    text = start + f' Path {delimiter}AGE\r\n"a b.jpg"{delimiter} 30\r\n\r\n{tmp_path}/c.jpg{delimiter}4e1\r\n'
    (tmp_path / "list.csv").write_bytes(text.encode())
    prepare("manifest", tmp_path / "data", tmp_path / "list.csv")
    assert {id: row["age"] for id, row in records("manifest", tmp_path / "data").items()} == {
        "a b.jpg": 30,
        f"{tmp_path}/c.jpg": 40,
    }


@pytest.mark.parametrize(
    "text, parts",
    [
        ("path,age\na.jpg,nan", ("line 2", "age", "'nan'", "not a finite number")),
        ("path,age\na.jpg,20\nb.jpg,101", ("line 3", "age", "'101'", "0 to 100 years")),
        ("path,age\na.jpg,-1", ("line 2", "age", "'-1'")),
        ("path,age\n\na.jpg,2_5", ("line 3", "age", "'2_5'", "not a number")),
        ("path,age\na.jpg,old", ("line 2", "age", "'old'", "not a number")),
        ("path,age\na.jpg,", ("line 2", "age", "no other label")),
        ("path,age\n,3", ("line 2", "path", "empty")),
        ("path,age,sigma\na.jpg,20,-0.1", ("line 2", "sigma", "'-0.1'", "less than 0")),
        ("path,age,sigma\na.jpg,20,NaN", ("line 2", "sigma", "'NaN'", "leave the cell empty")),
        ("path,age,sigma\na.jpg,20,inf", ("line 2", "sigma", "'inf'")),
        ("path,age,sgima\na.jpg,20,1", ("line 1", "unknown column 'sgima'", "did you mean sigma")),
        ("path,years\na.jpg,20", ("line 1", "unknown column 'years'", "age")),
        ("path\na.jpg", ("line 1", "column 'age' is missing")),
        ("age,sigma\n20,1", ("line 1", "column 'path' is missing")),
        ("path,age,age\na.jpg,1,2", ("line 1", "'age'", "2 times")),
        ("path,age\na.jpg,1,2", ("line 2", "3 cells", "2 columns")),
        ("path,age,split\na.jpg,1,tset", ("line 2", "split", "'tset'", "train, val or test")),
        ("path,age,split\na.jpg,1,train\nb.jpg,2,", ("line 3", "split", "every row")),
        ("path,age\na.jpg,1\n./a.jpg,2", ("line 3", "path", "'./a.jpg'", "on line 2")),
        ("path,age,x1,y1\na.jpg,1,2,3", ("line 1", "column 'x2' is missing")),
        ("path,age,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5\na.jpg,1,1,2,3,4,5,6,7,8,9,", ("line 2", "y5", "none")),
        ("path,age,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5\na.jpg,1,1,2,3,4,5,6,7,8,9,nan", ("line 2", "y5", "'nan'")),
        ("path,age,gender\na.jpg,1,x", ("line 2", "gender", "'x'", "female or male")),
        ("path,age,box_x1\na.jpg,1,1", ("line 1", "column 'box_y1' is missing")),
        ("path,age,box_x1,box_y1,box_x2,box_y2\na.jpg,1,1,2,,4", ("line 2", "box_x2", "all four sides")),
        ("path,age,box_x1,box_y1,box_x2,box_y2\na.jpg,1,3,2,3,4", ("line 2", "box_x2", "above box_x1 '3'")),
        ("path,age,box_x1,box_y1,box_x2,box_y2\na.jpg,1,3,4,5,1", ("line 2", "box_y2", "above box_y1 '4'")),
        ("", ("the file is empty",)),
        ("path,age\n", ("no rows",)),
        ('path,age\n"a.jpg,3', ("line 2",)),
        (b"path,age\n\xff\xfe.jpg,3", ("not UTF-8", "byte 9")),
    ],
)
def test_mistakes_are_named_in_one_line(tmp_path, text, parts):
    picture(tmp_path / "a.jpg"), picture(tmp_path / "b.jpg")
    found = message(tmp_path, text)
    assert found.startswith(str(tmp_path / "list.csv"))
    assert not [part for part in parts if part not in found], found
    assert not list((tmp_path / "data").glob("*")) and not list((tmp_path / "data").glob(".*"))


def test_identities_are_numbered_in_sorted_order_and_splits_part_them(tmp_path):
    prepare("manifest", tmp_path / "data", listing(tmp_path, people(60, per_identity=3)))
    names = {f"p{i}": number for number, i in enumerate(sorted(range(20), key=str))}
    where = {}
    for split in ("train", "val", "test"):
        for id, record in records("manifest", tmp_path / "data", split).items():
            assert record["identity"] == names[f"p{int(id.split('.')[0]) // 3}"]
            where.setdefault(int(record["identity"]), set()).add(split)
    assert len(where) == 20 and all(len(splits) == 1 for splits in where.values())
    found = summary("manifest", tmp_path / "data")
    assert found["num_identities"] == 20 and sum(found["identities"].values()) == 20


def test_a_few_unusable_images_are_skipped_and_named(tmp_path):
    file = listing(tmp_path, people(60))
    (tmp_path / "7.jpg").unlink()
    whole = (tmp_path / "9.jpg").read_bytes()
    (tmp_path / "9.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "11.jpg").write_bytes(b"")
    (tmp_path / "13.jpg").write_bytes(b"GIF, no picture")
    prepare("manifest", tmp_path / "data", file, max_bad_share=0.07)
    found = summary("manifest", tmp_path / "data")
    reasons = {entry["file"]: entry["reason"] for entry in found["skipped"]}
    assert sum(found["splits"].values()) == len(records("manifest", tmp_path / "data")) == 56
    assert reasons.keys() == {"7.jpg", "9.jpg", "11.jpg", "13.jpg"}
    assert reasons["7.jpg"] == f"file not found: {tmp_path / '7.jpg'}" and "empty" in reasons["11.jpg"]
    assert "damaged or cut short" in reasons["9.jpg"] and "damaged or cut short" in reasons["13.jpg"]


@pytest.mark.parametrize(
    "missing, share, stops", [(1, 0.01, False), (2, 0.01, True), (1, 0.0, True), (2, 0.1, False), (3, 0.1, True)]
)
def test_the_share_of_unusable_images_is_bounded(tmp_path, missing, share, stops):
    file = listing(tmp_path, [row | {"split": "train"} for row in people(20)])
    for i in range(missing):
        (tmp_path / f"{i}.jpg").unlink()
    if not stops:
        prepare("manifest", tmp_path / "data", file, max_bad_share=share)
        assert summary("manifest", tmp_path / "data")["splits"] == {"train": 20 - missing}
        return
    with pytest.raises(DataError, match=r"0\.jpg \(file not found.*--max_bad_share"):
        prepare("manifest", tmp_path / "data", file, max_bad_share=share)


def test_a_failed_build_leaves_the_old_set_and_nothing_else(tmp_path):
    file = listing(tmp_path, people(20))
    place = prepare("manifest", tmp_path / "data", file)
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    for i in range(10, 20):
        (tmp_path / f"{i}.jpg").unlink()
    with pytest.raises(DataError):
        prepare("manifest", tmp_path / "data", file, overwrite=True)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    assert {*(tmp_path / "data").rglob("*")} == {place.parent, place, *place.iterdir()}
    prepare("manifest", tmp_path / "data", file, overwrite=True, max_bad_share=0.5)
    assert sum(summary("manifest", tmp_path / "data")["splits"].values()) == 10
    assert {*(tmp_path / "data").rglob("*")} == {place.parent, place, *place.iterdir()}


def test_changed_input_is_not_answered_with_the_old_records(tmp_path):
    file = listing(tmp_path, people(4))
    prepare("manifest", tmp_path / "data", file)
    assert prepare("manifest", tmp_path / "data", file) == prepare("manifest", tmp_path / "data")
    file.write_text(file.read_text().replace("3.jpg,3,", "3.jpg,30,"))
    with pytest.raises(DataError, match="--overwrite"):
        prepare("manifest", tmp_path / "data", file)
    prepare("manifest", tmp_path / "data", file, overwrite=True)
    assert records("manifest", tmp_path / "data")["3.jpg"]["age"] == 30
    prepare("synthetic", tmp_path / "data", faces=24, pixels=32)
    with pytest.raises(DataError, match="faces 24, now 32"):
        prepare("synthetic", tmp_path / "data", faces=32)


def test_several_manifests_stand_side_by_side(tmp_path):
    prepare("manifest/one", tmp_path / "data", listing(tmp_path, people(3), "one.csv"))
    prepare("manifest/two", tmp_path / "data", listing(tmp_path, people(5), "two.csv"))
    assert [len(open_split(f"manifest/{name}", tmp_path / "data", "all")) for name in ("one", "two")] == [3, 5]
    assert summary("manifest/two", tmp_path / "data")["name"] == "manifest/two"


# --- splits


@pytest.mark.parametrize("n", [3, 4, 5, 9, 40])
def test_no_split_is_empty(n):
    for seed in range(50):
        splits = hash_split(map(str, range(n)), {"train": 0.8, "val": 0.1, "test": 0.1}, seed)
        assert len(splits) == n and set(splits.values()) == {"train", "val", "test"}


def test_splits_have_their_shares_and_keys_keep_theirs_as_the_set_grows():
    shares = {"train": 0.9, "val": 0.05, "test": 0.05}
    small, large = (hash_split(map(str, range(n)), shares) for n in (2000, 4000))
    counts = [list(large.values()).count(split) for split in shares]
    # a binomial's standard deviation is 19 for train and 14 for the others: four of them
    assert abs(np.array(counts) - [3600, 200, 200]).max() < 4 * 19
    assert small.items() <= large.items()
    assert small != hash_split(map(str, range(2000)), shares, seed=1)


# --- synthetic


@pytest.mark.parametrize("domain", ["wild", "mugshot"])
def test_synthetic_splits_hold_different_people(tmp_path, domain):
    prepare(f"synthetic/{domain}", tmp_path, faces=96, pixels=32)
    found = summary(f"synthetic/{domain}", tmp_path)
    seen = {}
    for split in ("train", "val", "test"):
        rows = records(f"synthetic/{domain}", tmp_path, split).values()
        identities = [int(row["identity"]) for row in rows]
        assert all(identities.count(identity) == 8 for identity in identities)
        seen[split] = set(identities)
    train = len(seen["train"])
    assert seen["train"] == set(range(train)) and train >= 6
    assert sorted(set.union(*seen.values())) == list(range(12)) and sum(map(len, seen.values())) == 12
    assert found["name"] == f"synthetic/{domain}"
    assert {label for label, share in found["labels"].items() if share < 1} == {"gender", "ethnicity"}


def test_synthetic_means_wild(tmp_path):
    prepare("synthetic", tmp_path, faces=3, pixels=32)
    assert prepared_dir("synthetic", tmp_path) == prepared_dir("synthetic/wild", tmp_path)
    assert summary("synthetic", tmp_path)["splits"] == {"train": 1, "val": 1, "test": 1}


# --- reading


def test_summary_counts_what_is_stored(tmp_path):
    prepare("synthetic", tmp_path, faces=48, pixels=32)
    found = summary("synthetic", tmp_path)
    for split, count in found["splits"].items():
        ages = np.array([row["age"] for row in records("synthetic", tmp_path, split).values()])
        assert count == len(ages) == found["ages"][split]["labelled"]
        middle = [found["ages"][split][key] for key in ("min", "median", "max")]
        assert middle == pytest.approx([ages.min(), np.median(ages), ages.max()], abs=1e-5)
        years = {str(year): int(n) for year, n in zip(*np.unique(np.floor(ages).astype(int), return_counts=True))}
        assert found["ages"][split]["histogram"] == years
    assert found["versions"]["builder"] == "1.1.0"


def test_splits_join_and_index_like_a_sequence(tmp_path):
    prepare("synthetic", tmp_path, faces=24, pixels=32)
    sizes = summary("synthetic", tmp_path)["splits"]
    both = open_split("synthetic", tmp_path, "train+val")
    assert len(both) == sizes["train"] + sizes["val"] and len(open_split("synthetic", tmp_path, "all")) == 24
    assert both[-1]["id"] == both[len(both) - 1]["id"] == both[np.int64(len(both) - 1)]["id"]
    with pytest.raises(IndexError):
        both[len(both)]


def _in_a_worker(source) -> tuple[list[str], bool]:
    return [record["id"] for record in source], bool({"jax", "tensorflow"} & sys.modules.keys())


def test_source_travels_to_a_spawned_worker(tmp_path):
    prepare("synthetic", tmp_path, faces=24, pixels=32)
    source = open_split("synthetic", tmp_path, "train")
    ids = [record["id"] for record in source]  # opened here: the open files must not travel
    assert len(pickle.dumps(source)) < 20_000
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(_in_a_worker, source).result() == (ids, False)


def test_same_input_gives_the_same_bytes_in_another_process(tmp_path):
    listing(tmp_path, people(24))
    code = "import sys; from data_pipelines import builders; builders.prepare('manifest', sys.argv[1], sys.argv[2])"
    for out in ("a", "b"):
        subprocess.run([sys.executable, "-c", code, tmp_path / out, tmp_path / "list.csv"], check=True)
    first, second = (
        {path.name: path.read_bytes() for path in prepared_dir("manifest", tmp_path / out).iterdir()}
        for out in ("a", "b")
    )
    assert len(first) == 7 and first == second


@pytest.mark.parametrize(
    "name, parts",
    [
        ("aff", ("no data set 'aff'", "did you mean aaf")),
        ("zzz", ("there are aaf, afad",)),
        ("synthetic/wlid", ("synthetic has wild, mugshot",)),
        ("aaf/x", ("no data set 'aaf/x'",)),
        ("manifest/../x", ("no data set",)),
        ("aaf", ("python experiments/prepare.py --data=aaf --raw=RAW --data_dir=", "original images")),
        ("synthetic", ("`python experiments/prepare.py --data=synthetic --data_dir=",)),
    ],
)
def test_what_is_not_there_is_said_with_what_to_do(tmp_path, name, parts):
    with pytest.raises(DataError) as caught:
        open_split(name, tmp_path / "my data", "train")
    assert not [part for part in parts if part not in str(caught.value)], caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, arguments, part",
    [
        ("aaf", {}, "needs --raw"),
        ("aaf", {"raw": "nowhere"}, "is not there"),
        ("aaf", {"raw": __file__}, "not a folder"),
        ("manifest", {"raw": "."}, "not a file"),
        ("synthetic", {"raw": "."}, "leave --raw out"),
        ("aaf", {"raw": ".", "faces": 3}, "takes no option 'faces'"),
        ("synthetic", {"faces": 0}, "1 or more"),
        ("synthetic", {"max_bad_share": 2}, "from 0 to 1"),
    ],
)
def test_wrong_arguments(tmp_path, name, arguments, part):
    with pytest.raises(DataError, match=part):
        prepare(name, tmp_path, **arguments)


def test_unknown_split_lists_the_splits(tmp_path):
    prepare("synthetic", tmp_path, faces=24, pixels=32)
    with pytest.raises(DataError, match="no split 'dev': it has train, val, test"):
        open_split("synthetic", tmp_path, "train+dev")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write in"):
        prepare("synthetic", tmp_path / "file", faces=24)


def test_the_table_is_the_builders():
    for name, builder_class in BUILDERS.items():
        assert builder_class.name == name and issubclass(builder_class, builders.FaceSet)
        assert builder_class.__doc__ and builder_class.VERSION


def test_summary_is_json_that_others_read(tmp_path):
    place = prepare("synthetic", tmp_path, faces=24, pixels=32)
    found = json.loads((place / "summary.json").read_text())
    assert {"name", "splits", "identities", "num_identities", "skipped", "labels", "ages", "versions"} <= found.keys()
