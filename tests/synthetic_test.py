import hashlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from data_pipelines import schema, synthetic
from data_pipelines.align import Alignment, crop_matrix
from data_pipelines.builders import open_split, prepare
from data_pipelines.schema import is_drawn
from data_pipelines.synthetic import CLOCKS, DOMAINS, draw_face, painting, portrait

COUNT, IDENTITIES = 600, 60


@pytest.fixture(scope="module", params=DOMAINS)
def faces(request):
    return request.param, [draw_face(5, i, request.param, identities=IDENTITIES) for i in range(COUNT)]


def decode(face):
    return cv2.imdecode(np.frombuffer(face["image"], np.uint8), cv2.IMREAD_COLOR_RGB)


def crop(face, size=24):
    image = decode(face)
    matrix = crop_matrix(face["landmarks"], *image.shape[:2], size * 2, Alignment(face_scale=0.8))
    aligned = cv2.warpAffine(image, matrix, (size * 2, size * 2), borderMode=cv2.BORDER_REPLICATE)
    return cv2.resize(aligned, (size, size), interpolation=cv2.INTER_AREA).astype(np.float64)


def same(a, b):
    return a["image"] == b["image"] and all(np.array_equal(a[k], b[k]) for k in a)


def test_a_face_depends_on_its_arguments_alone():
    forwards = [draw_face(1, i) for i in range(4)]
    backwards = [draw_face(1, i) for i in reversed(range(4))]
    assert all(same(a, b) for a, b in zip(forwards, reversed(backwards)))
    assert len({face["image"] for face in forwards}) == 4


def test_every_argument_changes_the_picture():
    base = draw_face(1, 3)["image"]
    others = [
        draw_face(2, 3),
        draw_face(1, 4),
        draw_face(1, 3, "mugshot"),
        draw_face(1, 3, size=96),
        draw_face(1, 3, identities=2),
    ]
    assert base not in [face["image"] for face in others]
    assert draw_face(2, 3)["age"] != draw_face(1, 3)["age"] != draw_face(1, 3, "mugshot")["age"]


@pytest.mark.parametrize("domain", DOMAINS)
def test_another_process_draws_the_same_bytes(domain):
    code = (
        "import hashlib; from data_pipelines.synthetic import draw_face; "
        f"print([hashlib.sha256(draw_face(7, i, {domain!r})['image']).hexdigest() for i in (9, 2)])"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = [hashlib.sha256(draw_face(7, i, domain)["image"]).hexdigest() for i in (9, 2)]
    assert other.stdout.strip() == str(ours)


def test_records_are_valid_and_decode(faces):
    domain, rows = faces
    for face in rows:
        schema.validate(face)
    assert all(decode(face).shape == (128, 128, 3) for face in rows[:50])
    assert len({face["id"] for face in rows}) == COUNT and rows[0]["id"].startswith(domain)


@pytest.mark.parametrize("size", [33, 64, 200])
def test_sizes_scale_the_same_face(size):
    small, large = draw_face(1, 0, "mugshot", size=size), draw_face(1, 0, "mugshot", size=128)
    assert decode(small).shape == (size, size, 3)
    np.testing.assert_allclose((small["landmarks"] + 0.5) / size, (large["landmarks"] + 0.5) / 128, atol=1e-5)
    assert small["age"] == large["age"]


def test_landmarks_lie_inside_and_in_order(faces):
    _, rows = faces
    points = np.stack([face["landmarks"] for face in rows])
    assert points.min() > 0 and points.max() < 127
    assert np.all(points[:, 0, 0] < points[:, 1, 0]) and np.all(points[:, 3, 0] < points[:, 4, 0])
    heights = np.stack([points[:, :2, 1].mean(1), points[:, 2, 1], points[:, 3:, 1].mean(1)], 1)
    assert np.all(np.diff(heights, axis=1) > 0)


def test_landmarks_lie_on_what_is_drawn():
    """The pupil's darkest pixel is far darker than skin, and a few pixels beside the point it is not."""
    rows = [draw_face(11, i, "mugshot") for i in range(60)]

    def darkest(dx, dy):
        total = 0.0
        for face in rows:
            x, y = np.rint(face["landmarks"][0] + (dx, dy)).astype(int)
            total += decode(face)[y - 1 : y + 2, x - 1 : x + 2].mean(-1).min() / len(rows)
        return total

    assert darkest(0, 0) < 0.6 * min(darkest(10, 0), darkest(0, 6), darkest(-10, 0))


def test_shapes_are_painted_where_the_projection_says():
    rng = np.random.default_rng(3)
    person, pace = synthetic.sample_person(rng)
    layout = portrait.lay_out(person, synthetic.sample_ageing(40.0, person, pace, rng))
    scene = synthetic.wild_scene(rng)
    place = painting.make_projection(person, scene, layout, 128)
    for point in portrait.landmarks(layout, scene):
        image = np.zeros((128, 128), np.uint8)
        painting.paint(image, [portrait.Shape([portrait.ellipse(*point, 0.1)], (255,))], place)
        weight = image / image.sum()
        x, y = (weight.sum(0) * np.arange(128)).sum(), (weight.sum(1) * np.arange(128)).sum()
        np.testing.assert_allclose((x, y), place(point[None])[0], atol=0.15)


def test_ages_follow_the_histogram_of_the_domain(faces):
    domain, rows = faces
    ages = np.array([face["age"] for face in rows])
    weights = np.array(synthetic.AGE_WEIGHTS[domain]) / sum(synthetic.AGE_WEIGHTS[domain])
    rng = np.random.default_rng(0)
    true = [synthetic.sample_age(domain, rng) for _ in range(4000)]
    shares = np.histogram(true, synthetic.AGE_EDGES[domain])[0] / 4000
    np.testing.assert_allclose(shares, weights, atol=0.025)
    median_error = np.abs(ages - np.median(ages)).mean()
    low, high = {"wild": (17, 24), "mugshot": (7, 11)}[domain]
    assert low < median_error < high


def test_votes_are_whole_years_of_ten_raters_or_more_and_spread_with_age():
    def spread(age):
        rng = np.random.default_rng(0)
        draws = [synthetic.age_votes(age, rng) for _ in range(300)]
        every = np.concatenate(draws)
        assert all(10 <= len(votes) <= 40 and votes.std() > 0 for votes in draws)
        assert np.array_equal(every, np.rint(every)) and every.min() >= 0 and every.max() <= 100
        return np.mean([votes.std() for votes in draws])

    spreads = [spread(age) for age in (1, 20, 50, 80)]
    assert np.all(np.diff(spreads) > 1) and 1 / 2 < spreads[0] < 2 < 5 < spreads[-1] < 7


def test_scores_are_labelled(faces):
    _, rows = faces
    sigma, scores, deviations = (
        np.array([face[k] for face in rows]) for k in ("sigma", "attractiveness", "attractiveness_sigma")
    )
    assert sigma.min() > 0 and deviations.min() > 0
    assert scores.min() >= 1 and scores.max() <= 5 and scores.std() > 0.3


def test_identities_come_in_equal_numbers_at_several_ages(faces):
    _, rows = faces
    identity, age = (np.array([face[k] for face in rows]) for k in ("identity", "age"))
    assert np.all(np.bincount(identity) == COUNT // IDENTITIES)
    assert [synthetic.face_identity(i, IDENTITIES) for i in range(COUNT)] == identity.tolist()
    assert np.median([np.ptp(age[identity == k]) for k in range(IDENTITIES)]) > 20


@pytest.mark.parametrize("cue", CLOCKS)
def test_every_cue_follows_age(cue):
    def level(age):
        rng = np.random.default_rng(0)
        people = [synthetic.sample_person(rng) for _ in range(80)]
        return np.mean([getattr(synthetic.sample_ageing(age, *person, rng), cue) for person in people])

    steps = np.diff([level(age) for age in (2, 12, 30, 50, 70, 90)]) * (-1 if cue == "child" else 1)
    assert steps.min() > -0.02 and steps.sum() > 0.3


def ridge(train, target, test, strength):
    """Dual ridge regression: the least-squares fit of centred targets, predicted at `test`."""
    middle = train.mean(0)
    weights = np.linalg.solve(
        (train - middle) @ (train - middle).T + strength * np.eye(len(train)), target - target.mean()
    )
    return (test - middle) @ (train - middle).T @ weights + target.mean()


def test_age_can_be_learnt_from_small_grey_crops_of_other_people(faces):
    _, rows = faces
    pixels = np.stack([crop(face).mean(-1).ravel() for face in rows])
    pixels = (pixels - pixels.mean(1, keepdims=True)) / pixels.std(1, keepdims=True)
    age = np.array([face["age"] for face in rows], np.float64)
    seen = np.array([face["identity"] for face in rows]) < 45
    error = np.abs(ridge(pixels[seen], age[seen], pixels[~seen], 100.0) - age[~seen]).mean()
    baseline = np.abs(np.median(age[seen]) - age[~seen]).mean()
    assert 1.5 < error < 0.65 * baseline


def test_a_person_is_recognisable_across_pictures():
    rows = [draw_face(5, i, "mugshot", identities=30) for i in range(300)]
    colours = np.stack([crop(face, 8).ravel() for face in rows])
    identity = np.array([face["identity"] for face in rows])
    squares = (colours**2).sum(1)
    distance = squares[:, None] + squares - 2 * colours @ colours.T + np.diag(np.full(len(rows), np.inf))
    assert np.mean(identity[distance.argmin(1)] == identity) > 0.3  # chance: 0.03


def test_an_unknown_domain_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="domain 'tame' is not known; use one of wild, mugshot"):
        draw_face(0, 0, "tame")


def test_a_split_by_image_has_the_same_people_in_all_parts(tmp_path):
    prepare("synthetic", tmp_path, faces=240, pixels=16)
    people = {
        name: [set(open_split(name, tmp_path, split).column("identity").tolist()) for split in ("train", "test")]
        for name in ("synthetic", "synthetic@by_image")
    }
    assert not set.intersection(*people["synthetic"])
    assert len(set.intersection(*people["synthetic@by_image"])) > 10
    assert is_drawn("synthetic@by_image") and is_drawn("synthetic/mugshot") and not is_drawn("aaf@official")
