import html.parser
import json
import re

import cv2
import numpy as np
import pytest

from data_pipelines.audit import audit
from data_pipelines.schema import NO_LANDMARKS, record
from experiments import plots
from experiments.audit_page import FACES, FILES, PAIRS, PROTOCOLS, headline, write_page

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "img", "br"}


class Whole(html.parser.HTMLParser):
    """Notes what a browser would meet, and whether every tag is closed in order."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open += [] if tag in VOID else [tag]

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def columns(count=60, **others):
    rng = np.random.default_rng(0)
    plain = {
        "split": np.sort(np.arange(count) % 3).astype(np.int8),
        "age": rng.integers(5, 80, count).astype(np.float32),
        "identity": np.arange(count, dtype=np.int32),
        "gender": np.array(["female", "male", ""])[np.arange(count) % 3],
        "ethnicity": np.array(["a", EVIL])[np.arange(count) % 2],
        "faces": np.ones(count, np.int16),
        "sha256": np.arange(count, dtype=np.uint64),
        "phash": rng.integers(1, 2**63, (count, 4), np.uint64),
    }
    return plain | others


def summary_of(index, **others):
    counts = {split: int((index["split"] == i).sum()) for i, split in enumerate(("train", "val", "test"))}
    ages = {split: {"min": 5.0, "median": 41.25, "max": None} for split in counts}
    summary = {"name": "a_set", "splits": counts, "ages": ages, "trains": "age", "detector": "mtcnn"}
    summary |= {"identities": dict.fromkeys(counts, 20), "num_identities": 60, "skipped": [], "warnings": []}
    summary |= others
    return summary | {"audit": audit(index, summary)}


class Records:
    """Pictures, each of a grey and a width of its own, named by their row; notes what is read."""

    def __init__(self, name="row {} " + EVIL):
        self.name, self.read = name, []

    def __getitem__(self, row):
        self.read.append(row)
        picture = cv2.imencode(".png", np.full((40, 30 + row, 3), row, np.uint8))[1].tobytes()
        points = np.array([[10, 10], [14, 10], [12, 12], [10, 14], [14, 14]])
        return record(self.name.format(row), picture, age=30, landmarks=points)


def page_of(folder, index, summary=None, split=None):
    path = write_page(folder, summary_of(index) if summary is None else summary, index, split)
    assert path == folder / "audit.html"
    page = path.read_text(encoding="utf-8")
    whole = Whole(page)
    assert EVIL not in page and not {"script", "link", "iframe"} & {tag for tag, _ in whole.tags}
    assert all(attributes["src"].startswith("data:image/jpeg") for tag, attributes in whole.tags if tag == "img")
    assert not re.search(r"https?://|nan\b|None", " ".join(whole.text))
    return page


def section(page, title):
    return page.split(f"<h2>{title}</h2>")[1].split("<h2>")[0]


def test_what_strangers_named_is_escaped(tmp_path):
    index = columns(sha256=np.array([7] * 60, np.uint64))
    skipped = [{"file": f"{EVIL}.jpg", "reason": f"{EVIL}: x"}]
    summary = summary_of(index, name=EVIL, skipped=skipped, warnings=[EVIL], source={"file": EVIL}, detector=EVIL)
    page = page_of(tmp_path, index, summary, Records())
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 10


def test_findings_stand_in_order_with_the_builders_own(tmp_path):
    index = columns()
    index["sha256"][50] = index["sha256"][3]
    page = page_of(tmp_path, index, summary_of(index, warnings=["12 rows name no file"], expected={"all": 70}))
    lines = re.findall(r'<li class="(\w+)"><b>\1</b>(.*?)</li>', section(page, "Findings"))
    assert [severity for severity, _ in lines] == sorted((s for s, _ in lines), key=("leak", "warning", "note").index)
    assert lines[0] == ("leak", "1 pair of byte-identical files lies in train and test")
    assert ("warning", "12 rows name no file") in lines
    assert "60 images of 70 published: 1 leak, 4 warnings" in page  # count, age, people, builder


def test_headline():
    assert headline({}) == "0 images: no leak, no warning"
    assert headline({"splits": {"test": 1}, "warnings": ["x"]}) == "1 image: 1 warning"
    found = [{"severity": severity} for severity in ("leak", "leak", "warning", "note")]
    summary = {"splits": {"train": 1000, "val": 234}, "expected": {"all": 2000, "val": 3}, "audit": {"findings": found}}
    assert headline(summary) == "1,234 images of 2,000 published: 2 leaks, 1 warning"


def test_each_pair_is_shown_once_under_its_worst(tmp_path):
    index = columns(age=np.full(60, 40, np.float32), identity=np.full(60, -1, np.int32))
    for row, other in ((3, 1), (5, 4), (50, 2)):
        index["sha256"][row] = index["sha256"][other]
    index["age"][4] = 55
    index["phash"][57] = index["phash"][45] ^ np.uint64(9)
    records = Records("name {}")
    part = section(page_of(tmp_path, index, split=records), "Duplicates")
    shown = {}
    for title, cards in re.findall(r"<h3>(.*?)</h3>(.*?)(?=<h3>|$)", part, flags=re.DOTALL):
        shown[title.strip()] = re.findall(r"<b>(\d+)</b> (\w+)<span[^>]*>name (\d+)</span>", cards)
    assert shown == {
        "Byte-identical, in two splits": [("40", "train", "2"), ("40", "test", "50")],
        "Byte-identical, ages disagree": [("55", "train", "4"), ("40", "train", "5")],
        "Other byte-identical files": [("40", "train", "1"), ("40", "train", "3")],
        "Other near-duplicates": [("40", "test", "45"), ("40", "test", "57")],
    }
    assert part.count("<img") == 8 and sorted(records.read) == [1, 2, 3, 4, 5, 45, 50, 57]


def test_pictures_are_whole_and_the_records_own(tmp_path):
    index = columns()
    index["sha256"][3] = index["sha256"][1]
    page = page_of(tmp_path, index, split=Records())
    whole = [plots.thumbnail(Records()[row] | {"landmarks": NO_LANDMARKS}) for row in (1, 2, 3)]
    assert [picture in page for picture in whole] == [True, False, True]


def test_an_undecodable_picture_is_left_out(tmp_path):
    index = columns()
    index["sha256"][3] = index["sha256"][1]

    class Broken(Records):
        def __getitem__(self, row):
            return super().__getitem__(row) | {"image": b"nothing"}

    page = page_of(tmp_path, index, split=Broken("name {}"))
    assert "<img" not in page and "name 3" in page


def test_without_records_rows_are_named(tmp_path):
    index = columns()
    index["sha256"][3] = index["sha256"][1]
    page = page_of(tmp_path, index)
    assert "row 1<" in page and "row 3<" in page and "<img" not in page


def test_subjects_and_protocols(tmp_path):
    index = columns(identity=np.arange(60, dtype=np.int32) % 59)
    index |= {f"protocol:cv_{i}": np.where(np.arange(60) % 5 == i, 2, 0).astype(np.int8) for i in range(2)}
    index["identity"][5] = index["identity"][6]  # cv_0: 5 is test, 6 train
    index["split"][[5, 6]] = 0
    index["sha256"][5] = index["sha256"][6]
    protocols = {f"cv_{i}": {"train": 48, "test": 12} for i in range(2)}
    part = section(page_of(tmp_path, index, summary_of(index, protocols=protocols), Records("name {}")), "Splits")
    assert re.findall(r"<th>(.*?)</th>", part) == ["", "the set’s own", "cv_0", "cv_1"]
    table = re.findall(r"<th>cv_0</th>(.*?)</tr>", part)[0]
    assert re.findall(r">([\d–]+)<", table) == ["48", "–", "12", "2", "1", "0"]
    people = part.split("Subjects in two splits of protocol cv_0")[1]
    shown = re.findall(r"(\w+)<span[^>]*>name (\d+)</span>", people)
    assert shown == [("train", "59"), ("test", "0"), ("train", "6"), ("test", "5")]
    assert "subject 6" in people


def test_counts_composition_and_ages(tmp_path):
    index = columns()
    part = section(page_of(tmp_path, index, summary_of(index, expected={"train": 21, "all": 60})), "Images")
    rows = {name: cells for name, cells in re.findall(r"<tr><th>(\w+)</th>(.*?)</tr>", part)}
    assert re.findall(r">([\d.,–]+)<", rows["all"]) == ["60", "60", "60", "–", "–", "–"]
    assert "<th><b>gender</b></th>" in part and "&lt;script&gt;" in part
    first = re.findall(r"<tr><th>train</th>(.*?)</tr>", part)
    assert re.findall(r">([\d.,–]+)<", first[0]) == ["20", "21", "20", "5", "41.25", "–"]
    assert re.findall(r"<td>(\d+) <", first[1]) == ["7", "7", "6"] and "35&nbsp;%" in first[1]
    assert part.count("<svg") == 1 and "age (years)" in part
    scores = columns(age=np.full(60, np.nan, np.float32), attractiveness=np.linspace(1, 5, 60, dtype=np.float32))
    part = section(page_of(tmp_path, scores), "Images")
    assert part.count("<svg") == 1 and "attractiveness (points)" in part


def test_files_left_out_are_listed_by_reason(tmp_path):
    skipped = [{"file": f"{i}.jpg", "reason": f"duplicate of {i + 1}.jpg"} for i in range(FILES + 7)]
    skipped += [{"file": "z.jpg", "reason": "file not found"}]
    index = columns()
    part = section(page_of(tmp_path, index, summary_of(index, skipped=skipped)), "Left out")
    assert f"<summary>duplicate: {FILES + 7}</summary>" in part and "<summary>file not found: 1</summary>" in part
    assert "3.jpg: duplicate of 4.jpg" in part and "z.jpg: file not found" in part
    assert part.count("duplicate of") == FILES and "… 7 more in summary.json" in part


def test_faces_without_and_with_several(tmp_path):
    index = columns()
    index["faces"][[4, 9, 30]] = [0, 3, 3]
    part = section(page_of(tmp_path, index, split=Records("name {}")), "Faces")
    none, several = part.split("<h3>")[1:]
    assert none.startswith("No face") and re.findall(r">name (\d+)<", none) == ["4"]
    assert several.startswith("Several") and re.findall(r">name (\d+)<", several) == ["9", "30"]


def test_pictures_on_the_page_are_bounded(tmp_path):
    index = columns(sha256=np.arange(60, dtype=np.uint64) % 30, identity=np.arange(60, dtype=np.int32) % 30)
    index["faces"] = np.zeros(60, np.int16)
    records = Records()
    page = page_of(tmp_path, index, split=records)
    assert section(page, "Duplicates").split("<h3>")[1].count('class="pair"') == PAIRS
    assert section(page, "Splits").count('class="pair"') == PAIRS
    assert section(page, "Faces").count("<img") == FACES
    assert len(records.read) == len(set(records.read))


def test_protocols_on_the_page_are_bounded(tmp_path):
    protocols = {f"p_{i}": {"train": 40, "test": 20} for i in range(PROTOCOLS + 3)}
    index = columns()
    part = section(page_of(tmp_path, index, summary_of(index, protocols=protocols)), "Splits")
    assert part.count("<th>p_") == PROTOCOLS and '<p class="muted">3 more in summary.json' in part


@pytest.mark.parametrize("summary", [{}, {"name": "synthetic/wild", "audit": {}}, None])
def test_page_of_nothing(tmp_path, summary):
    empty = {name: column[:0] for name, column in columns().items()}
    for index in (empty, {"split": empty["split"]}):
        page = page_of(tmp_path, index, summary)
        assert "0 images" in page and "<svg" not in page and "<img" not in page
        assert ("drawn faces" in page) == (summary is not None and "name" in summary)


def test_the_page_is_the_same_each_time(tmp_path):
    index = columns(sha256=np.arange(60, dtype=np.uint64) % 55)
    assert page_of(tmp_path, index, split=Records()) == page_of(tmp_path, index, split=Records())
    assert json.dumps(summary_of(index))


def test_counts_of_each_age_are_stacked():
    ages = {"train": np.array([20.0, 20.9, 22.0]), "test": np.array([20.2])}
    figure = plots.counts_by_split(ages, "age")
    train, test = (patch.get_data() for patch in figure.axes[0].patches)
    assert train.edges.tolist() == [20, 21, 22, 23] and train.values.tolist() == [2, 0, 1]
    assert test.baseline.tolist() == [2, 0, 1] and test.values.tolist() == [3, 0, 1]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["train", "test"]
    assert figure.axes[0].get_title(loc="left") == "images in each year"
    scores = plots.counts_by_split({"val": np.linspace(1, 5, 50)}, "attractiveness")
    assert scores.axes[0].get_title(loc="left") == "images in each 0.2 points"
