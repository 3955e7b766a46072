"""Drawn faces whose age, votes, identity, beauty score and landmarks are known: data of demo, tests and docs.

A face is a pure function of (seed, index, domain, size, identities): the same bytes in any order and process.
The same person (seed, identity) has the same traits in every picture and in both domains, at ages drawn anew.

| domain  | picture                                       | true ages                                        |
|---------|-----------------------------------------------|--------------------------------------------------|
| wild    | turned and tilted, any light, clutter, blur,  | near uniform, 1 … 95, thinner above 80; guessing |
|         | noise, things before the face                 | the median is wrong by about 22 years            |
| mugshot | frontal, grey wall, even light                | 16 … 70, age groups as in MORPH II, most 20 … 40;|
|         |                                               | the median is wrong by about 9 years             |

Age shows through graded cues (`CLOCKS`: proportions, wrinkles, grey, hairline, sagging …). Each runs on a
clock of its own, fast or slow in each person, jittered in each picture, so that no single one gives the age.
"""

import cv2
import numpy as np

from data_pipelines import schema
from data_pipelines.synthetic import painting
from data_pipelines.synthetic.portrait import BEARDS, HAIR_STYLES, Ageing, Person, Scene
from data_pipelines.synthetic.shapes import OCCLUDERS

DOMAINS = ("wild", "mugshot")
IDENTITIES = 400
AGE_EDGES = {"wild": (1, 10, 20, 30, 40, 50, 60, 70, 80, 95), "mugshot": (16, 20, 30, 40, 50, 60, 70)}
# mugshot: images of MORPH II under 20, in the twenties, thirties, forties; 50 and over (3,933) split by hand
AGE_WEIGHTS = {"wild": (10, 11, 12, 12, 12, 12, 11, 11, 9), "mugshot": (7469, 16325, 15357, 12050, 3600, 333)}
RATERS = (10, 40)  # votes on the age of one face, fewest and most
BEAUTY_RATERS = 60

# cue: the ages at which it begins and is complete
CLOCKS = {
    "child": (0, 24),
    "forehead": (24, 88),
    "crows_feet": (26, 90),
    "nasolabial": (18, 85),
    "grey": (32, 78),
    "receding": (20, 90),
    "thinning": (35, 100),
    "spots": (35, 95),
    "pallor": (10, 95),
    "sag": (35, 95),
    "bags": (22, 90),
    "droop": (25, 95),
    "thin_lips": (14, 92),
    "nose": (5, 95),
    "brows": (30, 95),
    "beard": (15, 22),
}
PACE_SPREAD, JITTER = 4.0, 3.5  # years, std: of a person's clock, and of a clock in one picture
_BEGIN, _COMPLETE = np.array(list(CLOCKS.values()), float).T
_PERSON, _FACE = 1, 2  # streams of randomness

SKINS = ((255, 224, 200), (240, 200, 170), (224, 178, 140), (198, 146, 106), (150, 102, 70), (102, 68, 48))
HAIRS = ((28, 22, 20), (58, 38, 26), (98, 64, 38), (150, 106, 62), (208, 172, 112), (158, 72, 36))
IRISES = ((70, 45, 30), (105, 70, 40), (95, 120, 75), (80, 125, 165), (115, 130, 140))
STYLE_SHARES = {True: (0.60, 0.20, 0.02, 0.02, 0.15, 0.01), False: (0.10, 0.20, 0.25, 0.20, 0.10, 0.15)}
BEARD_SHARES = {True: (0.55, 0.15, 0.12, 0.18), False: (1.0, 0.0, 0.0, 0.0)}


def face_identity(index: int, identities: int = IDENTITIES) -> int:
    """Who face `index` shows: people come round in turn, each as often as the next, within one."""
    return index % identities


def draw_face(seed: int, index: int, domain: str = "wild", size: int = 128, identities: int = IDENTITIES) -> dict:
    """A schema record: JPEG of `size` × `size`, mean and std of the votes, landmarks in pixels.

    Raises ValueError for a domain that is not in DOMAINS.
    """
    if domain not in DOMAINS:
        raise ValueError(f"domain {domain!r} is not known; use one of {', '.join(DOMAINS)}")
    identity = face_identity(index, identities)
    person, pace = sample_person(np.random.default_rng([seed, _PERSON, identity]))
    rng = np.random.default_rng([seed, _FACE, DOMAINS.index(domain), index])
    true_age = sample_age(domain, rng)
    votes = age_votes(true_age, rng)
    ageing = sample_ageing(true_age, person, pace, rng)
    scores = beauty_votes(beauty(person, ageing), rng)
    scene = SCENES[domain](rng)
    image, points = painting.render(person, ageing, scene, rng, size)
    quality = int(rng.integers(50, 96)) if domain == "wild" else 92
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return schema.record(
        f"{domain}-{seed}-{index:06d}",
        jpeg.tobytes(),
        age=votes.mean(),
        sigma=votes.std(),
        attractiveness=scores.mean(),
        attractiveness_sigma=scores.std(),
        identity=identity,
        landmarks=points,
    )


def sample_age(domain: str, rng: np.random.Generator) -> float:
    """True age in years from the domain's histogram, uniform within a bin."""
    weights = AGE_WEIGHTS[domain]
    cumulative = np.concatenate([[0.0], np.cumsum(weights) / np.sum(weights)])
    return float(np.interp(rng.random(), cumulative, AGE_EDGES[domain]))


def age_votes(true_age: float, rng: np.random.Generator) -> np.ndarray:
    """Whole years from 10 … 40 raters, mirrored at 0 and 100: float64 (raters,).

    Every rater has a bias and a slip; they differ more over older faces (std 1 year at birth, 6.6 at 80).
    """
    raters = int(rng.integers(RATERS[0], RATERS[1] + 1))
    bias, slip = rng.standard_normal((2, raters))
    votes = np.rint(true_age + (1 + 0.07 * true_age) * (0.8 * bias + 0.6 * slip))
    return np.abs(100 - np.abs(100 - np.abs(votes)))


def beauty(person: Person, ageing: Ageing) -> float:
    """A plausible latent score, 1 … 5, of things that show: symmetry, proportions, eyes, lips, skin."""
    score = 3.3 - 0.45 * abs(person.asymmetry) - 0.2 * abs(person.jaw_width) - 0.2 * abs(person.nose_width)
    score += 0.25 * person.eye_size + 0.2 * person.lip_fullness + 0.2 * person.face_length
    score -= 0.15 * person.ears + 0.5 * ageing.spots + 0.4 * ageing.bags + 0.3 * ageing.sag
    return float(np.clip(score, 1.2, 4.8))


def beauty_votes(score: float, rng: np.random.Generator) -> np.ndarray:
    """Whole marks 1 … 5 from 60 raters, as many as SCUT-FBP5500 has: float64 (60,)."""
    return np.clip(np.rint(score + 0.7 * rng.standard_normal(BEAUTY_RATERS)), 1, 5)


def sample_person(rng: np.random.Generator) -> tuple[Person, np.ndarray]:
    """The person, and how far ahead (+) or behind each clock runs: float64 (len(CLOCKS),), 0 ± 1."""
    masculine, tone = bool(rng.random() < 0.5), rng.random() * (len(SKINS) - 1)
    low, fair = int(tone), tone < 2.5
    skin = mix_of(SKINS[low : low + 2], tone - low) + rng.uniform(-8, 8, 3)
    traits = rng.standard_normal(13).clip(-2.2, 2.2).tolist()
    lipstick = max(0.0, rng.uniform(-0.8, 1.0))
    person = Person(
        skin=tuple(skin.clip(0, 255).tolist()),
        hair=HAIRS[rng.integers(len(HAIRS) if fair else 3)],
        iris=IRISES[rng.integers(len(IRISES) if fair else 2)],
        masculine=masculine,
        hair_style=HAIR_STYLES[rng.choice(len(HAIR_STYLES), p=STYLE_SHARES[masculine])],
        beard=BEARDS[rng.choice(len(BEARDS), p=BEARD_SHARES[masculine])],
        round_glasses=bool(rng.random() < 0.5),
        lipstick=0.0 if masculine else lipstick,
        face_width=traits[0],
        jaw_width=traits[1],
        face_length=traits[2],
        eye_size=traits[3],
        eye_spacing=traits[4],
        brow_weight=traits[5],
        brow_tilt=traits[6],
        nose_width=traits[7],
        nose_length=traits[8],
        mouth_width=traits[9],
        lip_fullness=traits[10],
        asymmetry=0.8 * traits[11],
        ears=traits[12],
        mole=tuple(rng.uniform((-0.7, 0.2), (0.7, 1.1)).tolist()),
    )
    return person, rng.standard_normal(len(CLOCKS))


def mix_of(pair, share: float) -> np.ndarray:
    return np.array(pair[0]) * (1 - share) + np.array(pair[1]) * share


def sample_ageing(true_age: float, person: Person, pace: np.ndarray, rng: np.random.Generator) -> Ageing:
    """Reads every clock at the true age, give or take 5 years (1 in infancy), half of it the person's own."""
    spread = min(1.0, 0.2 + true_age / 30)
    seen = true_age + spread * (PACE_SPREAD * pace + JITTER * rng.standard_normal(len(CLOCKS)))
    share = dict(zip(CLOCKS, ((seen - _BEGIN) / (_COMPLETE - _BEGIN)).clip(0, 1).tolist()))
    share["child"] = (1 - share["child"]) ** 1.4
    share["receding"] *= 0.95 if person.masculine else 0.35
    share["thinning"] *= 0.9 if person.masculine else 0.5
    wears = 0.08 + 0.5 * min(1.0, max(0.0, true_age - 35) / 30)
    return Ageing(**share, glasses=bool((pace[0] + 8) % 1 < wears and true_age > 4))


def wild_scene(rng: np.random.Generator) -> Scene:
    """Any pose, light, background, blur, noise and JPEG quality; sometimes something before the face."""
    u = rng.uniform(-1, 1, 10)
    tint = (1.0 + 0.28 * u[6]) * (1 + rng.uniform(-0.08, 0.08, 3))
    grid = int(rng.integers(2, 6))
    wall = [[painting.muted(colour) for colour in row] for row in rng.random((grid, grid, 3)).tolist()]
    return Scene(
        scale=0.255 + 0.03 * u[0],
        shift=(0.05 * u[1], 0.03 + 0.05 * u[2]),
        rotation=18 * u[3] * abs(u[3]),
        yaw=25 * u[4],
        smile=rng.uniform(-0.4, 1.0),
        mouth_open=max(0.0, rng.uniform(-1.2, 1.0)),
        gaze=u[5],
        light=(0.2 * u[7], 0.2 * u[8]),
        tint=tuple(tint),
        side_shadow=u[9],
        background=np.array(wall, np.uint8),
        shirt=painting.muted(rng.random(3).tolist()),
        clutter=int(rng.integers(0, 7)),
        occluder=OCCLUDERS[rng.integers(len(OCCLUDERS))] if rng.random() < 0.16 else "",
        blur=max(0.0, rng.uniform(-0.008, 0.010)),
        noise=int(max(0, rng.integers(-6, 13))),
    )


def mugshot_scene(rng: np.random.Generator) -> Scene:
    """Frontal and still, even light, grey wall."""
    u = rng.uniform(-1, 1, 6)
    return Scene(
        scale=0.26 + 0.012 * u[1],
        shift=(0.015 * u[2], 0.03 + 0.015 * u[3]),
        rotation=3 * u[4],
        yaw=4 * u[5],
        smile=rng.uniform(-0.4, 0.2),
        mouth_open=0.0,
        gaze=0.0,
        light=(0.03, -0.05),
        tint=(1.0, 1.0, 1.0),
        side_shadow=rng.uniform(-0.2, 0.2),
        background=np.full((1, 1, 3), 150 + 20 * u[0], np.uint8),
        shirt=painting.muted(rng.random(3).tolist()),
        clutter=0,
        occluder="",
        blur=0.0,
        noise=3,
    )


SCENES = {"wild": wild_scene, "mugshot": mugshot_scene}
