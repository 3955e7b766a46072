import zipfile

import pytest
from raw_trees import workbook

from data_pipelines.errors import DataError
from data_pipelines.formats.sheets import read_records, read_sheet


def test_a_sheet_is_found_by_its_name_and_the_header_below_titles(tmp_path):
    file = workbook(tmp_path / "b.xlsx", other=[["a"]], The_Sheet=[["Title"], [], [" A b ", None, "C"], [1, 2, " x "]])
    assert list(read_records(file, "ab", sheets=("nothing", "the *"))) == [(4, {"ab": 1, "ab_": 2, "c": "x", "c_": ""})]
    assert [cells for _, cells in read_sheet(file)] == [["a"]]
    with pytest.raises(DataError, match="no sheet `third`; there are other, The Sheet"):
        list(read_sheet(file, "third"))
    with pytest.raises(DataError, match="no row with the columns Age"):
        list(read_records(file, "Age"))


def test_short_and_long_rows_and_repeated_columns(tmp_path):
    file = workbook(tmp_path / "b.xlsx", s=[["a", "b", "a"], [1], [2, 3, 4], [5, 6, 7, 8, 9]])
    assert [cells for _, cells in read_records(file, "a")] == [
        {"a": 1, "b": "", "a_": ""},
        {"a": 2, "b": 3, "a_": ""},
        {"a": 5, "b": 6, "a_": 8},
    ]


def test_a_wrong_size_in_the_workbook_does_not_hide_rows(tmp_path):
    file = workbook(tmp_path / "b.xlsx", s=[["a", "b"], [1, 2]])
    with zipfile.ZipFile(file) as old:
        parts = {name: old.read(name) for name in old.namelist()}
    parts["xl/worksheets/sheet1.xml"] = parts["xl/worksheets/sheet1.xml"].replace(b'ref="A1:B2"', b'ref="A1"')
    assert b'ref="A1"' in parts["xl/worksheets/sheet1.xml"]
    with zipfile.ZipFile(file, "w") as new:
        for name, data in parts.items():
            new.writestr(name, data)
    assert [cells for _, cells in read_sheet(file)] == [["a", "b"], [1, 2]]


@pytest.mark.parametrize("content", [b"", b"no workbook", b"PK\3\4 cut short"])
def test_what_is_no_workbook_is_said_in_one_line(tmp_path, content):
    (tmp_path / "b.xlsx").write_bytes(content)
    with pytest.raises(DataError, match=r"b\.xlsx: cannot be read as an Excel workbook") as caught:
        list(read_sheet(tmp_path / "b.xlsx"))
    assert "\n" not in str(caught.value)
