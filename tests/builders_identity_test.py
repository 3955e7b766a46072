"""MS-Celeb-1M in the layouts in which it is had, and what its relatives have in common with it."""

import base64
import tracemalloc

import numpy as np
import pytest
from raw_trees import JPEG, made, picture, reasons

from data_pipelines import schema
from data_pipelines.builders.identification import share_out
from data_pipelines.builders.ms_celeb_1m import MsCeleb1M
from data_pipelines.errors import DataError
from data_pipelines.formats.celeb_tables import BUFFER
from data_pipelines.formats.clean_lists import image_key
from data_pipelines.records.face_set import Row
from data_pipelines.splits import hash_split

TABLE = "FaceImageCroppedWithAlignment.tsv"


def text(image: bytes = JPEG) -> str:
    return base64.b64encode(image).decode()


def face(mid, rank=0, number=0, image=None) -> str:
    """A line of the tables of faces."""
    cells = (mid, rank, "http://a.b/c.jpg", "http://a.b/", f"FaceId-{number}", "KsQsP3Pumj2B6UE/Vj4/Pg==")
    return "\t".join(map(str, (*cells, text() if image is None else image))) + "\n"


def table(folder, *lines, name=TABLE):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes("".join(lines).encode())
    return folder


def identities(rows) -> dict[str, int]:
    return {id: row.labels["identity"] for id, row in rows.items()}


# --- MS-Celeb-1M: tables


def test_table_of_faces(tmp_path):
    other, long = JPEG + b"tail", JPEG + bytes(300_000)
    lines = (face("m.0b_", 12, 3, text(other)), face("m.0107_f", 0), face("m.0b_", 100, 0, text(long)), face("g.1", 7))
    builder, rows = made(MsCeleb1M, table(tmp_path / "raw", *lines))
    assert list(rows) == ["m.0b_/12-FaceId-3", "m.0107_f/0-FaceId-0", "m.0b_/100-FaceId-0", "g.1/7-FaceId-0"]
    assert list(identities(rows).values()) == [2, 1, 2, 0] and not builder.skipped
    records = [builder.load(row) for row in rows.values()]
    assert [record["image"] for record in records] == [other, JPEG, long, JPEG]
    for record in records:
        schema.validate(record)
        assert np.isnan(record["age"]) and np.isnan(record["landmarks"]).all()
    first, _, third, _ = rows.values()
    assert first.labels is third.labels  # 8 million of them fit into memory


def test_lines_that_cannot_be_used_are_listed(tmp_path):
    cut = face("m.4", 2)[:-20]
    lines = (
        *("rest of a line that began before\t" + text() + "\n", face("m.1", 1), "m.1\t2\tfour\tcells\n", face("q1", 3)),
        *(face("m.1", 4, image=""), face("m.1", 1), "\n", face("m.2", "a/b"), face("m.3").replace("\n", "\r\n"), cut),
    )
    raw = table(tmp_path / "raw", *lines)
    with open(raw / TABLE, "ab") as file:
        file.write(b"\n" + face("m.5", 1).encode().replace(b"FaceId", b"\xff") + face("\xff", 1).encode("latin-1"))
        file.write(face("m.6", 1, image="\r").encode() + face("m.6", 2).replace("\n", "\tmore\n").encode())
    builder, rows = made(MsCeleb1M, raw)
    assert list(rows) == ["m.1/1-FaceId-0", "m.3/0-FaceId-0", "m.4/2-FaceId-0", "m.5/1-\ufffd-0"]
    assert [file for file, _, _ in builder.skipped] == [f"{TABLE}:{line}" for line in (1, 3, 4, 5, 6, 7, 8, 12, 13, 14)]
    assert [skipped.file for skipped in builder.skipped if not skipped.bad] == [f"{TABLE}:6"]
    assert reasons(builder)[f"{TABLE}:6"] == "m.1/1-FaceId-0 is there already"
    assert builder.load(rows["m.3/0-FaceId-0"])["image"] == JPEG


@pytest.mark.parametrize("image", ["/9j/*" + text()[5:], text()[:-1], "/9j/é" + text()[4:]])
def test_damaged_base64_is_told_when_it_is_read(tmp_path, image):
    builder, rows = made(MsCeleb1M, table(tmp_path / "raw", face("m.1", 1), face("m.1", 2, 0, image)))
    with pytest.raises(schema.RecordError, match="base64"):
        builder.load(rows["m.1/2-FaceId-0"])


@pytest.mark.parametrize(
    "name, line, id, published",
    [
        ("MsCelebV1-Faces-Aligned.tsv", face("m.1", 5, 1), "m.1/5-FaceId-1", 8_456_240),
        ("FaceImageCroppedWithOutAlignment.tsv", face("m.1", 5, 1), "m.1/5-FaceId-1", 8_456_240),
        ("Thumbnails.tsv", f"m.1\ta name\t17\thttp://a/b.jpg\thttp://a/\t{text()}\n", "m.1/17", 10_490_534),
        ("DevSet.tsv", f"m.1\ta name\thttp://a/b.jpg\tFaceId-2\tKsQsP3A=\t{text()}\n", "m.1/FaceId-2", None),
        ("TrainData_Base.tsv", f"img-33\t{text()}\tm.1\t4\thttp://a/b.jpg\n", "m.1/img-33", None),
    ],
)
def test_each_kind_of_table_is_told_by_its_first_lines(tmp_path, name, line, id, published):
    builder, rows = made(MsCeleb1M, table(tmp_path / "raw", line, name=name))
    expected = {"all": published} if published else {}
    assert expected == builder.EXPECTED
    assert list(rows) == [id] and builder.load(rows[id])["image"] == JPEG and rows[id].labels == {"identity": 0}


def test_the_best_table_is_read_and_all_its_parts(tmp_path):
    raw = tmp_path / "raw"
    for part in range(8):
        table(raw, face("m.1", part), face("m.2", 0), name=f"MsCelebV1-Faces-Aligned.{part}.tsv")
    table(raw, face("m.3"), name="FaceImageCroppedWithOutAlignment.tsv")
    table(raw, 'm.1\t"a name"@en\n', name="Top1M_MidList.Name.tsv")
    (raw / "aligned.tsv").mkdir()
    table(raw, face("m.3", image="none"), name="MsCelebV1-Faces-Aligned-Names.tsv")
    builder, rows = made(MsCeleb1M, raw)
    assert len(rows) == 9 and len({row.file for row in rows.values()}) == 8
    assert builder.load(rows["m.1/7-FaceId-0"])["image"] == JPEG
    told = reasons(builder)
    assert "is read in its place" in told["FaceImageCroppedWithOutAlignment.tsv"]
    for name in ("Top1M_MidList.Name.tsv", "MsCelebV1-Faces-Aligned-Names.tsv"):
        assert told[name] == "it is no table of images"
    assert told["MsCelebV1-Faces-Aligned.3.tsv:2"] == "m.2/0-FaceId-0 is there already"


def test_a_row_of_millions_is_small(tmp_path):
    raw = table(tmp_path / "raw", *(face(f"m.0{i // 50:05d}", i % 50, image="/9j/") for i in range(10_000)))
    builder = MsCeleb1M(data_dir=tmp_path, raw=raw, file_format="array_record")
    tracemalloc.start()
    rows = builder.rows()
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows) == 10_000 and kept / 10_000 < 230 and (peak - BUFFER) / 10_000 < 350


# --- MS-Celeb-1M: folders, cleaned lists, thresholds, splits


def celeb_folders(raw, *names):
    for name in names:
        picture(raw / name)
    return raw


def test_folders_are_read_one_level_up_and_down(tmp_path):
    names = ("m.0b_/0-FaceId-0.jpg", "m.0107_f/3-FaceId-12.JPG", "m.0107_f/20-FaceId-0.png")
    raw = celeb_folders(tmp_path / "up" / "raw", *names, "other/1.jpg")
    for extra in ("m.0b_/notes.md", "m.0b_/.hidden.jpg", "m.0b_/Thumbs.db"):
        (raw / extra).write_text("")
    table(raw, 'm.1\t"a name"@en\n', name="Top1M_MidList.Name.tsv")
    for place in (raw, raw.parent, raw / "m.0b_"):
        builder, rows = made(MsCeleb1M, place)
        assert identities(rows) == dict(zip(sorted(names), (0, 0, 1)))
        assert reasons(builder).keys() == {"other", "m.0b_/notes.md", "Top1M_MidList.Name.tsv"}
        assert builder.load(rows[names[1]])["image"] == JPEG


LISTED = {"m.1/0-FaceId-0": "m.1", "m.1/2-FaceId-1": "m.9", "m.0_2/7-FaceId-0": "m.9"}
NUMBERS = {"m.1": 10, "m.9": 9}


@pytest.mark.parametrize(
    "line",
    [
        lambda id, who: f"{who} {id}.jpg",  # C-MS-Celeb
        lambda id, who: f"{id}.jpg {NUMBERS[who]}",  # Wu Xiang
        lambda id, who: f"{id}.jpg {NUMBERS[who]} {who}",
        lambda id, who: f"{id}.jpg,{NUMBERS[who]}",  # DLDL-v2
        lambda id, who: f"{NUMBERS[who]}/{id.replace('/', '_')}.jpg",  # WashList
        lambda id, who: f"{NUMBERS[who]}\\{id.replace('/', '_')}.jpg",
        lambda id, who: f"/data/{id}_align.JPG\t{NUMBERS[who]}\r",
        lambda id, who: id.replace("/", "\\") + f".jpg {who}",
    ],
)
@pytest.mark.parametrize("form", ["table", "folders"])
def test_cleaned_lists_say_which_and_whose(tmp_path, line, form):
    ids = (*LISTED, "m.1/1-FaceId-0", "m.3/0-FaceId-0")
    lines = (face(*id.replace("/", "-FaceId-").split("-FaceId-")) for id in ids)
    raw = tmp_path / "raw"
    table(raw, *lines) if form == "table" else celeb_folders(raw, *(f"{id}.jpg" for id in ids))
    listed = LISTED | {"m.7/0-FaceId-0": "m.9"}
    text = "\n".join(["", *(line(id, who) for id, who in listed.items()), "", "README"])
    (tmp_path / "list.txt").write_text(text)
    builder, rows = made(MsCeleb1M, raw, options={"clean_list": str(tmp_path / "list.txt")})
    found = {id.removesuffix(".jpg"): number for id, number in identities(rows).items()}
    by_number = line("", "m.1").find("10") >= 0
    assert found == {id: (who == "m.9") != by_number for id, who in LISTED.items()}
    assert "clean_list: 2 images are not in it, left out; 1 of its images are not there" in builder.warnings
    assert "list.txt: 1 lines name no picture" in builder.warnings and builder.EXPECTED == {"all": 4}


def test_two_lists_are_one_and_the_later_line_counts(tmp_path):
    raw = table(tmp_path / "raw", *(face("m.1", rank) for rank in range(3)))
    (tmp_path / "lists").mkdir()
    first, second = tmp_path / "lists" / "clean_list_128Vec.txt", tmp_path / "lists" / "relabel_list_128Vec.txt"
    first.write_text("m.1 m.1/0-FaceId-0.jpg\nm.1 m.1/1-FaceId-0.jpg\n")
    second.write_text("m.2 m.1/1-FaceId-0.jpg\nm.0 m.1/2-FaceId-0.jpg\n")
    (tmp_path / "lists" / "clean_list.7z").write_bytes(b"7z")
    sources = []
    for given in (f"{first},{second}", str(tmp_path / "lists")):
        builder, rows = made(MsCeleb1M, raw, options={"clean_list": given})
        assert list(identities(rows).values()) == [1, 2, 0]
        assert "1 images are in it again as somebody else; the later line counts" in builder.warnings[0]
        sources.append(builder.source())
    assert sources[0] == sources[1]
    second.write_text("m.2 m.1/1-FaceId-0.jpg\n")
    assert builder.source() != sources[0]


def test_identities_of_a_list_are_numbered_as_its_numbers_go(tmp_path):
    raw = table(tmp_path / "raw", *(face("m.1", rank) for rank in range(12)))
    (tmp_path / "list.txt").write_text("".join(f"m.1/{rank}-FaceId-0.jpg {rank}\n" for rank in range(12)))
    _, rows = made(MsCeleb1M, raw, options={"clean_list": str(tmp_path / "list.txt")})
    assert list(identities(rows).values()) == list(range(12))


@pytest.mark.parametrize(
    "lists, part",
    [
        ("nowhere.txt", "nowhere.txt is not there"),
        ("none.txt", "names none of the 2 images"),
        ("no.txt", "names no picture"),
    ],
)
def test_lists_of_something_else(tmp_path, lists, part):
    (tmp_path / "none.txt").write_text("m.5/0-FaceId-0.jpg 0\n")
    (tmp_path / "no.txt").write_text("m.1\tA Name\n")
    raw = table(tmp_path / "raw", face("m.1"), face("m.1", 1))
    with pytest.raises(DataError, match=part):
        made(MsCeleb1M, raw, options={"clean_list": str(tmp_path / lists)})


def test_people_with_few_images_are_left_out_after_the_list(tmp_path):
    lines = [face(f"m.{person}", rank) for person, count in enumerate((3, 1, 2, 4)) for rank in range(count)]
    raw = table(tmp_path / "raw", *lines)
    builder, rows = made(MsCeleb1M, raw, options={"min_images": 3})
    assert sorted(identities(rows).values()) == [0] * 3 + [1] * 4 and builder.EXPECTED == {}
    assert builder.warnings == ["min_images leaves out 2 people with 3 images"]
    (tmp_path / "list.txt").write_text("".join(f"m.3/{rank}-FaceId-0.jpg {rank // 3}\n" for rank in range(4)))
    _, rows = made(MsCeleb1M, raw, options={"min_images": 2, "clean_list": str(tmp_path / "list.txt")})
    assert identities(rows) == {f"m.3/{rank}-FaceId-0": 0 for rank in range(3)}
    assert made(MsCeleb1M, raw, options={"min_images": 5})[1] == {}


def test_splits_are_the_same_in_every_form_and_hold_the_same_people(tmp_path):
    ids = [f"m.{i % 5}/{i}-FaceId-0" for i in range(600)]
    raw = table(tmp_path / "raw", *(face(f"m.{i % 5}", i) for i in range(600)))
    builder, rows = made(MsCeleb1M, raw)
    expected = hash_split([image_key(id) for id in ids], {"train": 0.98, "val": 0.01, "test": 0.01})
    assert {id: row.split for id, row in rows.items()} == {id: expected[image_key(id)] for id in ids}
    folders = celeb_folders(tmp_path / "folders", *(f"{id}.jpg" for id in ids))
    assert {id[:-4]: row.split for id, row in made(MsCeleb1M, folders)[1].items()} == {
        id: row.split for id, row in rows.items()
    }
    assert builder.TRAINS == "identity" and builder.split_key("x\\M.1\\5-FaceId-0.JPG") == image_key("m.1/5-FaceId-0")


@pytest.mark.parametrize("shares", [{"train": 0.98, "val": 0.01, "test": 0.01}, {"train": 0.99, "val": 0.01}])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 10, 70, 500])
def test_sharing_out_is_hash_split(n, shares):
    rows = [Row(f"p/{i}.jpg", "train") for i in range(n)] + [Row("q/0.jpg", "test")]
    share_out(rows, shares)
    expected = hash_split([f"p/{i}" for i in range(n)], shares)
    assert {row.id: row.split for row in rows} == {f"{id}.jpg": s for id, s in expected.items()} | {"q/0.jpg": "test"}
