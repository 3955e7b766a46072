"""Published split files: every format as it is found, its traps, and what is refused. The lists are made up."""

import json
import math
from pathlib import Path

import pytest
from age_trees import listing, pictures
from raw_trees import made

from data_pipelines import builders
from data_pipelines.builders.agedb import AgeDb
from data_pipelines.errors import DataError
from data_pipelines.folders import key
from data_pipelines.formats.published import protocols, read
from data_pipelines.records.face_set import Row

NAMES = [f"{person:06d}_{number}M{20 + 4 * person + number}" for person in range(6) for number in range(2)]
NAMED = "000000_0M20.JPG"


def ages_of(names) -> list[int]:
    return [int(name[-2:]) for name in names]


def rows(names=NAMES, ending=".JPG") -> list[Row]:
    """Two photographs each of six people, of 20 to 41 years, unless other names are given."""
    return [Row(f"Album2/{n}{ending}", "train", None, {"age": int(n[-2:]), "identity": int(n[:6])}) for n in names]


def taken(path: Path, given=None, split_key=lambda name: key(Path(name).stem)) -> tuple[dict, list[str]]:
    warnings = []
    return read(path, rows() if given is None else given, split_key, warnings.append), warnings


def refused(path: Path, given=None) -> str:
    with pytest.raises(DataError) as caught:
        taken(path, given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- Paplham & Franc


def database(file: Path, folders, **more) -> Path:
    ages = more.pop("ages", None) or ages_of(NAMES)
    entries = [
        {"img_path": f"MORPH/Album2/{name}.JPG", "age": age, "folder": folder} | more
        for name, age, folder in zip(NAMES, ages, folders)
    ]
    file.write_text(json.dumps(entries, indent=4))
    return file


def test_ten_folders_are_five_splits(tmp_path):
    found, warnings = taken(database(tmp_path / "MORPH.json", [*range(10), -1, 0]))  # which does not name the data set
    expected = ("tttttt vv ee", "ee tttttt vv", "vv ee tttttt", "t vv ee ttttt", "tt vv ee tttt")
    names = {"t": "train", "v": "val", "e": "test", "-": ""}
    assert found == {
        f"paplham_{k}": [names[letter] for letter in letters.replace(" ", "") + "-" + letters[0]]
        for k, letters in enumerate(expected)
    }
    assert warnings == ["paplham_0 … paplham_4: 3 of 6 subjects are in more than one split"]


@pytest.mark.parametrize(
    "name, more, folders, expected",
    [
        ("IMDB-EM-CNN_aligned", {"aligned_bbox": [-1] * 8}, [0, 6, 8], {"paplham_0": ["train", "val", "test"]}),
        ("any", {"database": "ChaLearn2016", "std_age": 4.6}, [2, 0, 1], {"paplham": ["test", "train", "val"]}),
        ("any", {"database": "CACD"}, [2, 0, 0], {"paplham": ["test", "train", "train"]}),
        ("new", {}, [1, 0, 2], {"paplham": ["val", "train", "test"]}),
        ("FG-Net", {"database": "FG-NET"}, [1, 40, 82], {"paplham": ["test"] * 3}),
        ("MORPH", {}, [0, 0, 1], {f"paplham_{k}": [s[0], s[0], s[1]] for k, s in enumerate(
            (("train", "train"), ("test", "test"), ("val", "val"), ("train", "val"), ("train", "train")))}),
    ],
)  # fmt: skip
def test_folders_mean_what_their_benchmark_says(tmp_path, name, more, folders, expected):
    found, _ = taken(database(tmp_path / f"{name}.json", folders, **more))
    assert {protocol: splits[:3] for protocol, splits in found.items()} == expected
    assert all(splits[3:] == [""] * 9 for splits in found.values())


def test_ages_are_compared_as_lists_round_them(tmp_path):
    file = database(tmp_path / "AgeDB.json", [0] * 12, ages=[20, 21, 25, -1, 28, 29, 32, 33, 36, 37, None, 41])
    given = rows()
    given[0].labels["age"], given[1].labels["age"], given[4].labels["age"] = 20.5, 20.5, math.nan
    _, warnings = taken(file, given)
    says = f"MORPH/Album2/{NAMES[2]}.JPG has 25 years, in the set 24: so differ 1 of 9 ages"
    assert warnings == [f"AgeDB.json: {says}"]


def test_a_folder_gives_what_lists_pictures_of_the_set(tmp_path):
    database(tmp_path / "MORPH.json", range(10))
    database(tmp_path / "MORPH_aligned.json", range(10), aligned_bbox=[0] * 8)
    (tmp_path / "Other.json").write_text('[{"img_path": "a/1.jpg", "folder": 0}, {"img_path": "a/1.jpg", "folder": 1}]')
    listing(tmp_path / "README.md", "[words](x)")
    listing(tmp_path / "x" / "notes.txt", "age path", "1 2 3")
    assert list(taken(tmp_path)[0]) == [f"paplham_{k}" for k in range(5)]
    database(tmp_path / "x" / "MORPH.json", [9, 0, *range(2, 10)])
    assert "two files give protocol paplham_0, with different splits" in refused(tmp_path)


# --- CORAL

MORPH2 = ",id_num,picture_num,race,Male,facial_hair,age,glasses,quality"


def coral(folder: Path, classes=16, parts=("train",) * 6 + ("valid",) * 2 + ("test",) * 4) -> Path:
    for part in set(parts):
        mine = [name for name, other in zip(NAMES, parts) if other == part]
        cells = (f"{n}.jpg,{int(n[:6])},{n[7]},B,1,,{age - classes},,GOOD" for n, age in zip(mine, ages_of(mine)))
        listing(folder / f"morph2_{part}.csv", MORPH2, *cells)
    return folder


def test_coral_classes_are_not_ages(tmp_path):
    found, warnings = taken(coral(tmp_path / "lists"))
    assert found == {"coral": ["train"] * 6 + ["val"] * 2 + ["test"] * 4}
    assert warnings == ["morph2_*.csv: val has ages 32 to 33 only, train 20 to 29: no random sample"]
    message = refused(coral(tmp_path / "years", classes=0))
    assert message.startswith(
        str(tmp_path / "years" / "morph2_test.csv line 2: 000004_0M36.jpg has 52 years (class 36)")
    )
    assert message.endswith("in the set 36: so differ 12 of 12 ages; it is another set's list, or changed")
    lists = coral(tmp_path / "one")
    text = (lists / "morph2_test.csv").read_text()
    (lists / "morph2_test.csv").write_text(text.replace(",25,,GOOD", ",24,,GOOD", 1))
    assert "000005_1M41.jpg has 40 years (class 24), in the set 41: so differ 1 of 12 ages" in refused(lists)


def test_coral_says_who_is_on_both_sides(tmp_path):
    parts = ("train", "test") * 2 + ("train",) * 4 + ("test",) * 4
    says = "coral: 2 of 6 subjects are in more than one split"
    assert taken(coral(tmp_path, parts=parts)) == ({"coral": list(parts)}, [says])  # without a file of val
    nobody = [row._replace(labels={"age": row.labels["age"], "identity": -1}) for row in rows()]
    assert taken(coral(tmp_path / "wide", parts=("train", "valid", "test") * 4), nobody)[1] == []
    (tmp_path / "morph2_train.csv").unlink()
    assert "morph2_test.csv line 2: only one file of morph2_*.csv is there; name the folder of all" in refused(tmp_path)


def test_one_wrong_class_in_many_is_only_told(tmp_path):
    names = [f"{i:06d}_0M{20 + i % 40}" for i in range(200)]
    for part, mine in (("train", names[:150]), ("test", names[150:])):
        lines = [f"{i},{name}.jpg,{age - 14}" for i, (name, age) in enumerate(zip(mine, ages_of(mine)))]
        listing(tmp_path / f"cacd_{part}.csv", ",file,age", *lines)
    file = tmp_path / "cacd_train.csv"
    file.write_text(file.read_text().replace("_0M20.jpg,6", "_0M20.jpg,7", 1))
    says = "000000_0M20.jpg has 21 years (class 7), in the set 20: so differ 1 of 200 ages"
    assert taken(tmp_path, rows(names))[1] == [f"cacd_*.csv: {says}"]


@pytest.mark.parametrize("name, header, years", [
    ("afad", "file,path,age,gender", 15), ("afad", "file,path,age,gender", 18), ("utk", ",file,age", 21)
])  # fmt: skip
def test_classes_begin_where_the_data_set_does(tmp_path, name, header, years):
    for part, mine in (("train", NAMES[:8]), ("test", NAMES[8:])):
        classes = [age - years for age in ages_of(mine)]
        cells = {"f": "{0}.jpg,39/112/{0}.jpg,{1},female", ",": "0,{0}.jpg.chip.jpg,{1}"}[header[0]]
        listing(tmp_path / f"{name}_{part}.csv", header, *(cells.format(n, c) for n, c in zip(mine, classes)))
    found = taken(tmp_path, split_key=lambda name: key(Path(name).name.partition(".")[0]))
    assert found == ({"coral": ["train"] * 8 + ["test"] * 4}, [])


# --- MWR


def test_mwr_setting_1_is_five_draws(tmp_path):
    for fold in range(3):
        for part, mine in (("train", NAMES[fold : fold + 4]), ("test", NAMES[fold + 4 : fold + 6])):
            lines = [["race", "gender", "age", "filename", "database"]]
            lines += [["0", "1", name[-2:], f"{name}.JPG", "morph"] for name in mine]
            if fold:  # with an index, and commas
                lines = [[str(i) if i else "", *line] for i, line in enumerate(lines)]
            text = (("," if fold else " ").join(line) for line in lines)
            listing(tmp_path / "RS_partial" / f"Setting_1_fold{fold}_{part}.txt", *text, end="\r\n")
    found, warnings = taken(tmp_path)
    assert found["mwr_1_0"] == ["train"] * 4 + ["test"] * 2 + [""] * 6
    assert found["mwr_1_2"] == [""] * 2 + ["train"] * 4 + ["test"] * 2 + [""] * 4
    assert list(found) == ["mwr_1_0", "mwr_1_1", "mwr_1_2"]
    assert warnings == [
        "mwr_1_0 … mwr_1_2: drawn from different pictures each, so their tests overlap: no cross-validation",
        "mwr_1_1: 1 of 4 subjects are in more than one split",
    ]


def test_mwr_setting_2_trains_on_one_fold(tmp_path):
    for fold in range(3):
        lines = (f"1 0 {name[-2:]} {name}.JPG morph" for name in NAMES[fold:9:3])
        listing(tmp_path / f"Setting_2_fold{fold}.txt", "race gender age filename database", *lines, end="\r\n")
    found, warnings = taken(tmp_path)
    assert found["mwr_2_0"] == ["train", "test", "test"] * 3 + [""] * 3
    assert found["mwr_2_2"] == ["test", "test", "train"] * 3 + [""] * 3
    assert warnings == ["mwr_2_0 … mwr_2_2: 4 of 5 subjects are in more than one split"]
    assert "only one file of setting_2_fold*.txt is there" in refused(tmp_path / "Setting_2_fold1.txt")


def test_mwr_settings_3_and_4_have_other_columns(tmp_path):
    third = [f"{name}.JPG\t{i % 3}\t{name[-2:]}\tmorph" for i, name in enumerate(NAMES)]
    listing(tmp_path / "Setting_3.txt", "filename\tfold\tage\tdatabase", *third, end="\r\n")
    order = [*NAMES[1:], "999999_0M30", NAMES[0]]
    fourth = [f"morph\t{name}.JPG\t{i // 4}\t{name[-2:]}" for i, name in enumerate(order)]
    listing(tmp_path / "Setting_4.txt", "database\tfilename\tfold\tage", *fourth)
    found, warnings = taken(tmp_path / "Setting_3.txt")
    assert found == {f"mwr_3_{k}": ["test" if i % 3 == k else "train" for i in range(12)] for k in range(3)}
    assert warnings == ["mwr_3_0 … mwr_3_2: 6 of 6 subjects are in more than one split"]
    found, warnings = taken(tmp_path / "Setting_4.txt")
    assert found["mwr_4_0"] == ["train"] + ["test"] * 4 + ["train"] * 7 and list(found)[3:] == ["mwr_4_3"]
    assert warnings == [
        "Setting_4.txt: 1 of 13 names are not in this release",
        "mwr_4_0 … mwr_4_3: 3 of 6 subjects are in more than one split",
    ]


def test_mwr_lists_of_other_sets(tmp_path):
    for part, mine in (("train", NAMES[:7]), ("test", NAMES[7:])):
        lines = (f"{i},{name}.jpg,{name[-2:]},utk" for i, name in enumerate(mine))
        listing(tmp_path / f"UTK_{part}_coral.csv", ",filename,age,database", *lines)
    parts = [("train", "val", "test")[i % 3] for i in range(12)]
    lines = (f"{name}.jpg,{name[-2:]},{part},cacd" for name, part in zip(NAMES, parts))
    file = listing(tmp_path / "cacd" / "CACD.csv", "filename,age,fold,database", *lines)
    assert taken(file)[0] == {"mwr": parts}
    assert "two files give protocol mwr, with different splits" in refused(tmp_path)
    file.unlink()
    assert taken(tmp_path)[0] == {"mwr": ["train"] * 7 + ["test"] * 5}


# --- others


def test_dir_joins_on_what_the_set_says(tmp_path):
    listed = {"3_RicardoMontalb\u0430n_31_m": "train", "20_Anna_40_f": "val", "7_B_8_m": "test"}
    lines = (f"{name.split('_')[2]},AgeDB/{name}.jpg,{part}" for name, part in listed.items())
    file = listing(tmp_path / "agedb.csv", "age,path,split", *lines)
    pictures(tmp_path / "raw", "3_RicardoMontalbán_31_m.jpg", "20_Anna_40_f.jpg", "7_B_8_m.jpg", "8_B_9_m.jpg")
    builder, given = made(AgeDb, tmp_path / "raw", options={"splits": f"{file}, "})
    assert [id[0] for id in given] == ["3", "7", "8", "2"]
    assert protocols(builder, list(given.values())) == {"dir": ["train", "test", "", "val"]} and not builder.warnings
    assert protocols(made(AgeDb, tmp_path / "raw")[0], list(given.values())) == {}


def test_imdb_clean_and_dldl_v2(tmp_path):
    boxes = "x_min,y_min,x_max,y_max,roll,yaw,pitch"
    for part, mine in (("train", NAMES[:6]), ("valid", NAMES[6:9]), ("test", NAMES[9:])):
        lines = (f"03\\{name}.jpg,{name[-2:]},M,1,2,3,4,0,0,0" for name in mine)
        listing(tmp_path / "csvs" / f"imdb_{part}_new.csv", f"filename,age,gender,{boxes}", *lines)
    assert taken(tmp_path / "csvs")[0] == {"imdb_clean": ["train"] * 6 + ["val"] * 3 + ["test"] * 3}
    for repeat in (1, 2):
        for part, mine in (("Train", NAMES[repeat:]), ("Valid", NAMES[:repeat])):
            listing(tmp_path / "dldl" / f"Morph_{part}{repeat}.txt", *(f"{name}.jpg,{name[-2:]},2" for name in mine))
    assert taken(tmp_path / "dldl")[0] == {f"dldl_v2_{k}": ["val"] * k + ["train"] * (12 - k) for k in (1, 2)}


@pytest.mark.parametrize(
    "lines, part",
    [
        (["20,a.JPG,train"], "a.csv: none of its 1 names, as a.JPG, is in this set; is it another set's?"),
        ([f"20,{NAMED},train"] * 2, f"a.csv line 3: {NAMED} is listed before, as "),
        ([f"20,{NAMED},val", f"20,x/{NAMED.lower()},test"], "a.csv line 2, in val there and in test here; keep one"),
    ],
)
def test_wrong_names_are_refused(tmp_path, lines, part):
    message = refused(file := listing(tmp_path / "a.csv", "age,path,split", *lines))
    assert part in message and message.startswith(str(file)), message


def test_a_name_that_may_be_two(tmp_path):
    file = listing(tmp_path / "a.csv", "age,path,split", "20,1.JPG,train")
    two = [Row(f"{part}/1.jpg", part, None, {"age": 20}) for part in ("train", "test")]
    assert refused(file, two).endswith("line 2: 1.JPG may be train/1.jpg or test/1.jpg")


def test_lists_are_an_option_of_every_set_that_is_downloaded(tmp_path):
    pictures(tmp_path / "raw", *(f"{i}_Name{i % 5}_{20 + i}_m.jpg" for i in range(10)))
    parts = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    lines = (f"{20 + i},{i}_x_{20 + i}_m.jpg,{part}" for i, part in enumerate(parts))
    first, second = listing(tmp_path / "agedb.csv", "age,path,split", *lines), tmp_path / "AgeDB.json"
    entries = [{"img_path": f"{i}_x_1_m.jpg", "folder": i % 10, "age": 20 + i} for i in range(11)]
    second.write_text(json.dumps(entries))
    builders.prepare("agedb", tmp_path / "data", tmp_path / "raw", splits=f"{first},{second}")
    found = builders.summary("agedb", tmp_path / "data")
    assert found["protocols"]["dir"] == {"train": 6, "val": 2, "test": 2}
    assert list(found["protocols"]) == ["dir", *(f"paplham_{k}" for k in range(5))]
