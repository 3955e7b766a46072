"""How a set is written: parts, resuming, faces, crops, protocols. What each builder reads is in builders_*_test.py."""

import csv
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipelines import align, builders, host, schema
from data_pipelines.builders import open_split, prepare, summary
from data_pipelines.detectors import NO_FACES, Faces, WholeImage
from data_pipelines.errors import DataError
from data_pipelines.records import build, index, shards
from data_pipelines.synthetic import draw_face

POINTS = [f"{axis}{i}" for i in range(1, 6) for axis in "xy"]


def drawn_list(folder: Path, count: int, points=range(0)) -> Path:
    """A manifest of drawn faces; those numbered in `points` come with their five points."""
    rows = []
    for i in range(count):
        face = draw_face(3, i, "mugshot", 96)
        (folder / f"{i}.jpg").write_bytes(face["image"])
        given = face["landmarks"].ravel().tolist() if i in points else [""] * 10
        split = ("train", "train", "val", "test")[i % 4]
        rows.append({"path": f"{i}.jpg", "age": i % 90, "split": split, **dict(zip(POINTS, given))})
    with open(folder / "list.csv", "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return folder / "list.csv"


def content(place: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in place.iterdir()}


class Corner:
    """A detector for tests: a face in the lower right of each picture, in some one more; counts the pictures."""

    name = "corner"
    settings = {"n": 1}  # noqa: RUF012

    def __init__(self):
        self.seen = 0

    def detect(self, images):
        self.seen += len(images)
        return [self.faces(image) for image in images]

    def faces(self, image) -> Faces:
        points = np.float32([[60, 60], [80, 60], [70, 70], [62, 80], [78, 80]])
        if image[0, 0, 0] % 2:
            return Faces(np.float32([[50, 50, 90, 90]]), np.float32([0.9]), points[None])
        both = np.float32([[0, 0, 8, 8], [50, 50, 90, 90]])
        return Faces(both, np.float32([1, 0.9]), np.stack([points / 10, points]))


# --- parts


def test_rows_keep_their_order_over_many_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "PART", 3)
    prepare("manifest", tmp_path / "data", drawn_list(tmp_path, 23))
    ids = [record["id"] for record in open_split("manifest", tmp_path / "data", "train")]
    assert ids == [f"{i}.jpg" for i in range(23) if i % 4 < 2]
    whole = open_split("manifest", tmp_path / "data", "all")
    assert [record["age"] for record in whole] == whole.column("age").tolist()
    assert len(list((tmp_path / "data/manifest/1.0.0").glob("*train.array_record*"))) == 4


def test_a_part_without_a_usable_image_does_not_stand_in_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "PART", 2)
    file = drawn_list(tmp_path, 16)
    for i in (4, 5):  # the second part of train
        (tmp_path / f"{i}.jpg").write_bytes(b"no picture")
    prepare("manifest", tmp_path / "data", file, max_bad_share=0.5)
    ids = [record["id"] for record in open_split("manifest", tmp_path / "data", "train")]
    assert ids == [f"{i}.jpg" for i in (0, 1, 8, 9, 12, 13)]
    assert [skipped["file"] for skipped in summary("manifest", tmp_path / "data")["skipped"]] == ["4.jpg", "5.jpg"]


def interrupt_after(parts: int, monkeypatch):
    """The build stops as if Ctrl-C had been pressed once so many parts are written."""
    written, original = [], build.write_part

    def write(job, part, advance=lambda: None):
        if len(written) == parts:
            raise KeyboardInterrupt
        original(job, part, advance)
        written.append(part)

    monkeypatch.setattr(build, "write_part", write)


def test_an_interrupted_build_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "PART", 2)
    file = drawn_list(tmp_path, 16)
    whole = content(prepare("manifest", tmp_path / "whole", file, detector=Corner()))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(3, patch)
        prepare("manifest", tmp_path / "data", file, detector=Corner())
    assert not builders.is_prepared("manifest", tmp_path / "data")
    again = Corner()
    assert content(prepare("manifest", tmp_path / "data", file, detector=again)) == whole
    assert again.seen == 16 - 6  # three parts of two were not looked at again
    assert not list((tmp_path / "data").glob(".*"))


def test_what_changed_in_between_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "PART", 2)
    file = drawn_list(tmp_path, 16)

    def interrupted(**arguments):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupt_after(3, patch)
            prepare("manifest", tmp_path / "data", file, **arguments)

    interrupted(detector=Corner())
    face = draw_face(9, 0, "mugshot", 64)["image"]
    (tmp_path / "1.jpg").write_bytes(face)
    again = Corner()
    prepare("manifest", tmp_path / "data", file, detector=again)
    assert again.seen == 16 - 4
    assert open_split("manifest", tmp_path / "data", "train")[1]["image"] == face

    other = Corner()
    other.settings = {"n": 2}
    (tmp_path / "data/manifest/1.0.0/summary.json").unlink()
    interrupted(detector=Corner())
    prepare("manifest", tmp_path / "data", file, detector=other)
    assert other.seen == 16  # another detector: nothing is kept
    assert summary("manifest", tmp_path / "data")["recipe"]["detector"]["n"] == 2


def test_a_build_that_stopped_at_its_very_end_goes_on(tmp_path, monkeypatch):
    file = drawn_list(tmp_path, 8)
    whole = content(prepare("manifest", tmp_path / "whole", file, detector=Corner()))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(index, "summarise", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        prepare("manifest", tmp_path / "data", file, detector=Corner())
    again = Corner()
    assert content(prepare("manifest", tmp_path / "data", file, detector=again)) == whole
    assert again.seen == 0


def test_a_picture_that_changed_after_such_a_stop_is_stored_as_it_is_now(tmp_path, monkeypatch):
    file = drawn_list(tmp_path, 8)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(index, "summarise", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        prepare("manifest", tmp_path / "data", file)
    face = draw_face(9, 0, "mugshot", 64)["image"]
    (tmp_path / "1.jpg").write_bytes(face)
    prepare("manifest", tmp_path / "data", file)
    assert open_split("manifest", tmp_path / "data", "train")[1]["image"] == face


@pytest.mark.slow
def test_a_killed_build_ends_byte_identical(tmp_path):
    file = drawn_list(tmp_path, 240)
    code = (
        "import sys; from data_pipelines import builders; from data_pipelines.records import build\n"
        "build.PART = 4; builders.prepare('manifest', sys.argv[1], sys.argv[2], size=64)"
    )
    command = [sys.executable, "-c", code, tmp_path / "data", file]
    kills = 0
    for parts in (1, 9, 30, 55):
        child = subprocess.Popen(command)
        scratch = tmp_path / "data/.preparing-manifest/parts"
        while child.poll() is None and len(list(scratch.glob("*.npz"))) < parts:
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        kills += child.wait() == -signal.SIGKILL
    assert kills >= 3
    subprocess.run(command, check=True)
    subprocess.run([*command[:3], tmp_path / "whole", file], check=True)
    assert content(tmp_path / "data/manifest/1.0.0") == content(tmp_path / "whole/manifest/1.0.0")


def test_one_build_of_a_set_at_a_time(tmp_path):
    file = drawn_list(tmp_path, 4)
    with build.scratch_folder("manifest", tmp_path / "data"), pytest.raises(DataError, match="by another process"):
        prepare("manifest", tmp_path / "data", file)
    prepare("manifest", tmp_path / "data", file)


def test_a_split_may_lose_all_its_images_but_not_the_set(tmp_path):
    file = drawn_list(tmp_path, 4)
    (tmp_path / "2.jpg").write_bytes(b"no picture")
    prepare("manifest", tmp_path / "data", file)
    found = summary("manifest", tmp_path / "data")
    assert found["splits"] == {"train": 2, "test": 1}
    assert found["warnings"] == ["no usable image is left in split val"]
    assert [record["id"] for record in open_split("manifest", tmp_path / "data", "test")] == ["3.jpg"]
    for i in range(4):
        (tmp_path / f"{i}.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"no usable image is left: 0\.jpg \(not a readable image"):
        prepare("manifest", tmp_path / "data", file, overwrite=True, max_bad_share=1)


def test_equal_ids_are_refused(tmp_path, monkeypatch):
    file = drawn_list(tmp_path, 4)
    rows = builders.Manifest.rows
    monkeypatch.setattr(builders.Manifest, "rows", lambda self: rows(self) + rows(self)[:1])
    with pytest.raises(DataError, match=r"0\.jpg is there twice"):
        prepare("manifest", tmp_path / "data", file)


# --- Beam


def test_beam_writes_the_same_bytes(tmp_path, monkeypatch):
    pytest.importorskip("apache_beam", reason="Apache Beam is an extra")
    from data_pipelines.records import beam

    monkeypatch.setattr(build, "PART", 3)
    file = drawn_list(tmp_path, 16)
    (tmp_path / "5.jpg").write_bytes(b"no picture")
    options = {"max_bad_share": 0.5, "size": 48}
    here = content(prepare("manifest", tmp_path / "here", file, **options))
    assert content(prepare("manifest", tmp_path / "beam", file, runner=beam.runner(), **options)) == here
    with pytest.raises(DataError, match=r"more than 0 of 16 images .*5\.jpg"):
        prepare("manifest", tmp_path / "beam", file, runner=beam.runner(), overwrite=True, max_bad_share=0)


def test_without_beam_the_error_says_what_to_install(monkeypatch):
    from data_pipelines.records import beam

    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(DataError, match=r"pip install 'agejax\[beam\]'"):
        beam.runner()


# --- faces


def test_the_detector_is_asked_where_the_set_gives_no_points(tmp_path):
    file, detector = drawn_list(tmp_path, 8, points=range(3)), Corner()
    prepare("manifest", tmp_path / "data", file, detector=detector)
    stored = {record["id"]: record for record in open_split("manifest", tmp_path / "data", "all")}
    assert detector.seen == 5
    for i in range(8):
        given = draw_face(3, i, "mugshot", 96)["landmarks"]
        found = [[60, 60], [80, 60], [70, 70], [62, 80], [78, 80]]
        np.testing.assert_allclose(stored[f"{i}.jpg"]["landmarks"], given if i < 3 else found, atol=1e-4)
    counts = open_split("manifest", tmp_path / "data", "all").column("faces")
    assert sorted(counts[counts < 0]) == [-1] * 3 and set(counts[counts >= 0]) <= {1, 2}
    faces = summary("manifest", tmp_path / "data")["faces"]
    assert faces["found"] == 5 and faces["none"] == 0 and faces["several"] == int((counts == 2).sum())
    recipe = summary("manifest", tmp_path / "data")["recipe"]
    assert recipe["detector"] == {"name": "corner", "given_first": True, "n": 1}


def test_all_pictures_are_looked_at_when_asked_so(tmp_path):
    file, detector = drawn_list(tmp_path, 8, points=range(3)), Corner()
    prepare("manifest", tmp_path / "data", file, detector=detector, keep_points=False)
    assert detector.seen == 8 and summary("manifest", tmp_path / "data")["faces"]["found"] == 8


def test_pictures_without_a_face_are_taken_whole_and_named(tmp_path):
    file = drawn_list(tmp_path, 4, points=range(4))
    prepare("manifest", tmp_path / "data", file, detector=WholeImage(), keep_points=False)
    found = summary("manifest", tmp_path / "data")
    assert all(np.isnan(record["landmarks"]).all() for record in open_split("manifest", tmp_path / "data", "all"))
    assert found["faces"] == {
        "found": 0, "none": 4, "several": 0, "without_face": ["0.jpg", "1.jpg", "2.jpg", "3.jpg"],
    }  # fmt: skip
    assert found["detector"] == "none"


def test_a_detector_that_is_never_asked_is_not_in_the_recipe(tmp_path):
    prepare("manifest", tmp_path / "data", drawn_list(tmp_path, 4, points=range(4)), detector=Corner())
    found = summary("manifest", tmp_path / "data")
    assert found["recipe"] == {"detector": {"name": "given"}, "template": "arcface", "size": 0}
    assert found["faces"]["found"] is None


def test_another_detector_is_not_answered_with_the_old_records(tmp_path):
    file = drawn_list(tmp_path, 4)
    prepare("manifest", tmp_path / "data", file, detector=Corner())
    prepare("manifest", tmp_path / "data", file, detector=Corner())
    prepare("manifest", tmp_path / "data", file)
    with pytest.raises(DataError, match=r"detector .*corner.*none.*--overwrite"):
        prepare("manifest", tmp_path / "data", file, detector=WholeImage())
    with pytest.raises(DataError, match="--overwrite"):
        prepare("manifest", tmp_path / "data", file, detector=Corner(), size=64)


def faces_at(*boxes) -> Faces:
    return Faces(np.float32(boxes).reshape(-1, 4), np.ones(len(boxes), np.float32), np.zeros((len(boxes), 5, 2)))


@pytest.mark.parametrize(
    "boxes, box, chosen",
    [
        ([], None, None),
        ([[0, 0, 10, 10]], None, 0),
        ([[0, 0, 10, 10], [0, 0, 30, 30]], None, 1),  # the larger
        ([[0, 0, 30, 30], [40, 40, 60, 60]], None, 1),  # the one in the middle of 100 x 100, though smaller
        ([[0, 0, 60, 60], [48, 48, 52, 52]], None, 0),  # but not a tiny one
        ([[40, 40, 60, 60], [0, 0, 30, 30]], (1, 1, 31, 31), 1),  # the box decides
        ([[40, 40, 60, 60], [0, 0, 30, 30], [2, 2, 6, 6]], (0, 0, 8, 8), 2),  # overlap is relative to the union
        ([[40, 40, 60, 60], [0, 0, 30, 30]], (90, 90, 99, 99), 0),  # nothing overlaps: the nearest
    ],
)
def test_which_of_several_faces(boxes, box, chosen):
    assert align.choose(faces_at(*boxes), 100, 100, box) == chosen


def test_the_box_of_a_row_chooses_the_face(tmp_path):
    file = drawn_list(tmp_path, 4)
    lines = file.read_text().splitlines()
    lines = [lines[0] + ",box_x1,box_y1,box_x2,box_y2"] + [f"{line},0,0,9,9" for line in lines[1:]]
    file.write_text("\n".join(lines))

    class Two(Corner):
        def faces(self, image):
            return super().faces(np.zeros_like(image))

    prepare("manifest", tmp_path / "data", file, detector=Two())
    assert open_split("manifest", tmp_path / "data", "all")[0]["landmarks"].max() == 8  # of the small face


# --- stored crops


def test_stored_crops_are_aligned_and_their_points_moved_along(tmp_path):
    file = drawn_list(tmp_path, 4, points=range(3))
    prepare("manifest", tmp_path / "data", file, size=64, face_scale=0.8)
    found = summary("manifest", tmp_path / "data")
    assert found["recipe"] == {"detector": {"name": "given"}, "template": "arcface", "size": 64, "face_scale": 0.8}
    target = align.template(64, align.Alignment(0.8))
    for record in open_split("manifest", tmp_path / "data", "all"):
        schema.validate(record)
        i = int(record["id"].removesuffix(".jpg"))
        image, face = host.decode(record["image"]), draw_face(3, i, "mugshot", 96)
        assert image.shape == (64, 64, 3)
        if i == 3:  # no points: the whole picture
            assert np.isnan(record["landmarks"]).all()
            small = cv2.resize(host.decode(face["image"]), (64, 64), interpolation=cv2.INTER_LINEAR)
            assert np.abs(image.astype(int) - small).mean() < 3
            continue
        residual = align.moved(face["landmarks"], align.similarity(face["landmarks"], target))
        np.testing.assert_allclose(record["landmarks"], residual, atol=1e-3)
        assert np.abs(record["landmarks"] - target).max() < 6  # px of 64: it is the same face, upright


def test_sizes_that_make_no_sense(tmp_path):
    for size in (-1, 8):
        with pytest.raises(DataError, match=f"size is {size}"):
            prepare("synthetic", tmp_path, faces=8, size=size)


# --- protocols


def halves(self, rows) -> dict[str, list[str]]:
    return {"half": ["test" if int(row.id[:-4]) % 2 else "train" for row in rows], "few": ["val"] + [""] * 7}


def test_protocols_split_the_same_records_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(builders.Manifest, "protocols", halves)
    prepare("manifest", tmp_path / "data", drawn_list(tmp_path, 8))
    ids = {
        split: {record["id"] for record in open_split("manifest@half", tmp_path / "data", split)}
        for split in ("train", "test", "all")
    }
    assert ids["train"] == {"0.jpg", "2.jpg", "4.jpg", "6.jpg"} and ids["all"] - ids["train"] == ids["test"]
    few = open_split("manifest@few", tmp_path / "data", "all")
    assert [record["id"] for record in few] == ["0.jpg"] and few.column("age").tolist() == [0]
    assert summary("manifest@half", tmp_path / "data")["protocols"] == {
        "half": {"train": 4, "test": 4}, "few": {"val": 1},
    }  # fmt: skip
    with pytest.raises(DataError, match="no protocol 'halv': there are half"):
        open_split("manifest@halv", tmp_path / "data", "train")
    with pytest.raises(DataError, match="no split 'val': it has train, test"):
        open_split("manifest@half", tmp_path / "data", "val")
    with pytest.raises(DataError, match="leave out @half"):
        prepare("manifest@half", tmp_path / "data", tmp_path / "list.csv")


def test_protocols_follow_the_records_over_parts_and_gaps(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "PART", 2)
    third = {i: ("train", "test", "test")[i % 3] for i in range(20)}

    def thirds(self, rows):
        return {"third": [third[int(row.id[:-4])] for row in rows]}

    monkeypatch.setattr(builders.Manifest, "protocols", thirds)
    file = drawn_list(tmp_path, 20)
    for i in (1, 4, 9, 16):
        (tmp_path / f"{i}.jpg").write_bytes(b"no picture")
    prepare("manifest", tmp_path / "data", file, max_bad_share=0.5)
    for split in ("train", "test"):
        ids = {record["id"] for record in open_split("manifest@third", tmp_path / "data", split)}
        assert ids == {f"{i}.jpg" for i in third if third[i] == split and i not in (1, 4, 9, 16)}


def test_images_that_the_builder_missed_count_too(tmp_path, monkeypatch):
    file, rows = drawn_list(tmp_path, 8), builders.Manifest.rows

    def with_missing(self):
        for i in range(4):
            self.skip(f"gone-{i}.jpg", "listed, not there", bad=True)
        return rows(self)

    monkeypatch.setattr(builders.Manifest, "rows", with_missing)
    with pytest.raises(DataError, match=r"more than 3 of 12 images cannot be used: gone-0\.jpg \(listed, not there\)"):
        prepare("manifest", tmp_path / "data", file, max_bad_share=0.3)
    prepare("manifest", tmp_path / "data", file, max_bad_share=0.34)
    assert summary("manifest", tmp_path / "data")["skipped"][0]["file"] == "gone-0.jpg"


def test_a_set_prepared_by_an_older_version_is_prepared_anew(tmp_path):
    file = drawn_list(tmp_path, 4)
    place = prepare("manifest", tmp_path / "data", file)
    (place / index.INDEX).unlink()
    with pytest.raises(DataError, match="is not prepared"):
        open_split("manifest", tmp_path / "data", "train")
    assert prepare("manifest", tmp_path / "data", file) == place and (place / index.INDEX).is_file()


def test_no_faces_has_the_right_shapes():
    assert [part.shape for part in NO_FACES] == [(0, 4), (0,), (0, 5, 2)]


def test_readers_do_not_run_out_of_work(tmp_path):
    """More rows than a chunk, and a last chunk of one."""
    file = drawn_list(tmp_path, 4 * shards.CHUNK // 2 + 2)
    prepare("manifest", tmp_path / "data", file)
    assert len(open_split("manifest", tmp_path / "data", "train")) == shards.CHUNK + 2
