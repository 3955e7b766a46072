"""Split files whose format is not known, or not kept: each is refused in one line that names file and line."""

import pytest
from age_trees import listing

from data_pipelines.errors import DataError
from data_pipelines.formats.split_lists import read_lists, rules

UNKNOWN = "is no known split list; known are Paplham & Franc's JSON, CORAL's CSV, MWR's Setting_1 … Setting_4"
FOLDS = "filename,fold,age,database"


def refused(path) -> str:
    with pytest.raises(DataError) as caught:
        for listed in read_lists(path):
            rules(listed)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "name, lines, part",
    [
        ("a.csv", ["age,path,split", "20,1.JPG,dev2"], "line 2: 'dev2' is neither train, val or test nor the number"),
        ("a.csv", ["age,path,split", "20,1.JPG,1"], "line 2: '1' is neither train, val or test nor the number"),
        ("a.csv", ["age,path,split", "20,1.JPG"], "line 2: 2 cells, but the header has 3"),
        ("a.txt", [FOLDS, "1.JPG,0,20,x", "2.JPG,test,20,x"], "its folds are numbers in some lines, and train, val or"),
        ("a_test.csv", ["file,age", "1.JPG,6"], "line 2: only one file of a_*.csv is there; name the folder of all"),
        ("a.csv", ["name,years", "1.JPG,20"], UNKNOWN),
        ("a.csv", [""], UNKNOWN),
        ("a.csv", ["age,path,split"], UNKNOWN),
        ("a.csv", ["file,age", "1.JPG,6"], UNKNOWN),
        ("fold1.csv", ["file,age", "1.JPG,6"], UNKNOWN),
        ("a_train.csv", ["id_num,picture_num,race,Male,age", "1,1,B,1,6"], UNKNOWN),
        ("a_train.csv", ["1.JPG,20,2,3"], UNKNOWN),
        ("a_train.csv", ["1.JPG,20,x"], UNKNOWN),
        ("a.csv", ["1.JPG,20,2"], UNKNOWN),
        ("a.txt", ['[{"img_path": "1.JPG",', "}]"], UNKNOWN),
        ("a.json", ['[{"img_path": "1.JPG",', "}]"], "line 2: "),
        ("a.json", ['[{"img_path": "1.JPG", "folder": 0}, {"folder": 1}]'], "entry 2: not an object with img_path"),
        ("a.json", ['[{"img_path": "1.JPG", "folder": 0}, []]'], "entry 2: not an object with img_path, folder"),
        ("a.json", ['[{"img_path": "1.JPG", "folder": NaN}]'], "entry 1: not an object with img_path, folder"),
        ("a.json", ['[{"img_path": 1, "folder": 11}]'], "entry 1: folder 11 of a; known are 0 to 9"),
        ("a.json", ['{"train": ["1.JPG"]}'], UNKNOWN),
        ("a.json", ['[{"folder": 1}]'], UNKNOWN),
        ("a.json", ["[]"], UNKNOWN),
        ("a.json", ["version https://git-lfs.github.com/spec/v1", "size 2"], "is a Git LFS pointer, not the list"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(tmp_path, name, lines, part):
    message = refused(file := listing(tmp_path / name, *lines))
    assert part in message and message.startswith(str(file)), message


def test_nothing_there(tmp_path):
    assert "none.csv is not there; --splits must name published split files" in refused(tmp_path / "none.csv")
    assert UNKNOWN in refused(tmp_path)
    listing(tmp_path / "list.log", "age,path,split", "20,1.JPG,train")
    assert UNKNOWN in refused(tmp_path)


def test_names_are_text(tmp_path):
    (listed,) = read_lists(listing(tmp_path / "MORPH.json", '[{"img_path": 12, "folder": "3", "age": "20"}]'))
    assert [(line.name, line.part, line.age) for line in listed.lines] == [("12", 3, 20)]
