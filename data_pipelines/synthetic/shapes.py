"""What is drawn of a `portrait`, back to front: lists of shapes in face units."""

import numpy as np

from data_pipelines.synthetic.portrait import (
    ALMOND,
    BLACK,
    CLOSED_ALMOND,
    CLOSED_CIRCLE,
    WHITE,
    Ageing,
    Layout,
    Person,
    Scene,
    Shape,
    arc,
    both,
    ellipse,
    mix,
    whole,
)


def hair_colour(person: Person, ageing: Ageing) -> tuple:
    return mix(person.hair, (205, 203, 200), 0.92 * ageing.grey)


def back_shapes(person: Person, ageing: Ageing, scene: Scene, layout: Layout, skin: tuple) -> list:
    """Behind the face: long hair, neck, shirt, ears."""
    chin = layout.eyes_y + 1.3 * layout.length
    neck = (0.42 + 0.13 * person.masculine) * (1 - 0.25 * ageing.child)
    shapes = []
    if ageing.child < 0.75 and person.hair_style in ("long", "bob"):
        bottom = chin + (0.75 if person.hair_style == "long" else -0.15)
        mane = whole(arc((0, layout.crown - 0.2), (1.75, layout.crown - 0.2), (1.2, bottom)))
        shapes.append(Shape([mane], mix(hair_colour(person, ageing), BLACK, 0.25)))
    column = np.array([(neck, chin - 0.6), (neck, chin + 0.5)])
    body = arc((neck, chin + 0.22), (1.5, chin + 0.35), (1.75, chin + 1.6))
    long = 0.2 + 0.03 * person.ears + 0.05 * ageing.nose
    ear = ellipse(1.0 + 0.05 * person.face_width, layout.eyes_y + 0.2, 0.13, long)
    return [
        *shapes,
        Shape([whole(column)], mix(skin, (60, 30, 20), 0.28)),
        Shape([whole(body)], scene.shirt),
        Shape(both(ear), mix(skin, (120, 40, 30), 0.12)),
    ]


def shadow_shapes(ageing: Ageing, scene: Scene, layout: Layout) -> list:
    """Soft shadows and lights on the skin; the colour is one grey level, 128 = neutral."""
    e, n, x, mouth_w, mouth_y = layout.eyes_y, layout.length, layout.eyes_x, layout.mouth_w, layout.mouth_y

    def dark(share):
        return (128 * (1 - share),)

    side = np.array([(0.62, -1.0), (1.2, -0.9), (1.2, 1.3), (0.5, 1.3), (0.74, 0.5)])
    fold = arc(
        (layout.nose_w + 0.05, layout.nose_y - 0.04), (0.46, layout.nose_y + 0.06), (mouth_w + 0.14, mouth_y + 0.08)
    )
    marionette = arc(
        (mouth_w + 0.05, mouth_y + 0.04), (mouth_w + 0.14, mouth_y + 0.2), (mouth_w + 0.06, mouth_y + 0.34 * n)
    )
    return [
        Shape([side * (np.sign(scene.side_shadow) or 1, 1)], dark(0.35 * abs(scene.side_shadow))),
        Shape(both(ellipse(x, e - 0.02, 0.29, 0.2)), dark(0.08 + 0.10 * ageing.bags)),
        Shape(both(ellipse(x, e + 0.2, 0.22, 0.09)), dark(0.02 + 0.36 * ageing.bags)),
        Shape(both(ellipse(0.66, e + 0.55 * n, 0.13, 0.26)), dark(0.02 + 0.26 * ageing.sag)),
        Shape(both(fold), dark(0.42 * ageing.nasolabial), 0.09),
        Shape(both(marionette), dark(0.42 * ageing.sag), 0.09),
        Shape([ellipse(layout.nose_w * 0.6, layout.nose_y - 0.12, 0.09, 0.24)], dark(0.14)),
        Shape([ellipse(0, mouth_y + 0.2 * n, 0.17, 0.04)], dark(0.14)),
        Shape([ellipse(-0.04, layout.nose_y - 0.05, 0.06, 0.06)], dark(-0.14)),
        Shape(both(ellipse(0.56, e + 0.42 * n, 0.17, 0.12)), dark(-0.10 - 0.08 * ageing.child)),
    ]


def line_shapes(person: Person, ageing: Ageing, layout: Layout, skin: tuple, rng) -> list:
    """Wrinkles, age spots, the mole."""
    e, n, x = layout.eyes_y, layout.length, layout.eyes_x
    crease = mix(skin, (50, 20, 15), 0.75)

    def line(parts, share, width=0.02):
        return Shape(parts, mix(skin, crease, min(1.0, share)), width)

    shapes = []
    for k in range(4):  # the next line begins before the last is complete
        depth = ageing.forehead * 2.4 - 0.45 * k
        if depth > 0:
            y, w = e - 0.50 - 0.13 * k, 0.52 - 0.05 * k + rng.uniform(-0.06, 0.06)
            shapes.append(line([arc((-w, y + 0.02), (0, y - 0.07), (w, y + 0.02))], 0.7 * depth))
    for k, lift in enumerate((-0.02, 0.09, -0.12)):
        depth = ageing.crows_feet * 2.2 - 0.4 * k
        if depth > 0:
            reach = 0.10 + 0.14 * ageing.crows_feet
            start = x + layout.eye_rx + 0.03
            end = start + reach
            foot = arc((start, e + 0.4 * lift), (start + reach / 2, e + lift), (end, e + 1.7 * lift))
            shapes.append(line(both(foot), 0.8 * depth))
    bag = arc((x - 0.15, e + 0.13), (x, e + 0.27), (x + 0.17, e + 0.14))
    fold = arc(
        (layout.nose_w + 0.05, layout.nose_y - 0.04),
        (0.46, layout.nose_y + 0.05),
        (layout.mouth_w + 0.13, layout.mouth_y + 0.06),
    )
    frown = arc((0.08, e - 0.34), (0.06, e - 0.25), (0.08, e - 0.16))
    shapes += [
        line(both(bag), 0.75 * ageing.bags),
        line(both(fold), 0.9 * ageing.nasolabial, 0.025),
        line(both(frown), 0.8 * ageing.forehead),
    ]
    count = int(16 * ageing.spots)
    if count:
        at = rng.uniform((-0.8, -0.9), (0.8, 0.9), (count, 2))
        spots = [ellipse(u, e + v, 0.02 + 0.02 * (k % 3)) for k, (u, v) in enumerate(at)]
        shapes.append(Shape(spots, mix(skin, (105, 65, 40), 0.15 + 0.4 * ageing.spots)))
    mole = ellipse(person.mole[0], e + person.mole[1] * n, 0.025)
    return [*shapes, Shape([mole], mix(skin, (60, 30, 20), 0.6))]


def feature_shapes(person: Person, ageing: Ageing, scene: Scene, layout: Layout, skin: tuple) -> list:
    """Eyes, brows, nose, mouth."""
    return (
        eye_shapes(person, ageing, scene, layout, skin)
        + brow_shapes(person, ageing, layout, skin)
        + nose_shapes(layout, skin)
        + mouth_shapes(person, ageing, scene, layout, skin)
    )


def eye_shapes(person, ageing, scene, layout, skin) -> list:
    """Lids, whites, irises that fade with age, and pupils that follow the gaze."""
    x, y, rx, ry = layout.eyes_x, layout.eyes_y, layout.eye_rx, layout.eye_ry
    iris, look = min(0.11 + 0.015 * ageing.child, 0.62 * rx), 0.06 * scene.gaze
    faded = mix(person.iris, (150, 150, 155), 0.3 * ageing.pallor)
    dark = mix(skin, (30, 15, 10), 0.8)
    lid = arc((x - rx, y + 0.02), (x - 0.02, y - 2.1 * ry), (x + rx + 0.02, y + 0.02 + 0.08 * ageing.droop))
    end = (x + rx + 0.02, y - 0.04 + 0.12 * ageing.droop)
    crease = arc((x - rx, y - 0.07), (x, y - 2.0 * ry - 0.11), end)
    eyes = both(ellipse(x, y, rx, ry, ALMOND))
    centres = (x + look, -x + look)
    return [
        Shape(eyes, mix((246, 244, 242), (225, 205, 180), 0.8 * ageing.pallor)),
        Shape([ellipse(u, y, iris, min(iris, ry)) for u in centres], faded),
        Shape([ellipse(u, y, 0.45 * iris, min(0.45 * iris, ry)) for u in centres], (15, 12, 12)),
        Shape([ellipse(u - 0.03, y - 0.03, 0.025) for u in centres], WHITE),
        Shape(both(lid), dark, 0.035),
        Shape(both(crease), mix(skin, dark, 0.3 + 0.3 * ageing.droop), 0.02),
    ]


def brow_shapes(person, ageing, layout, skin) -> list:
    x, y = layout.eyes_x, layout.eyes_y - 0.27 - 0.03 * ageing.child + 0.05 * ageing.droop
    weight = (0.055 + 0.02 * person.masculine) * (1 + 0.25 * person.brow_weight) * (1 - 0.45 * ageing.child)
    weight *= 1 + (0.6 if person.masculine else -0.55) * ageing.brows
    tilt = 0.04 * person.brow_tilt + 0.07 * ageing.droop
    top = arc((x - 0.24, y), (x + 0.02, y - 0.13 - weight), (x + 0.28, y + 0.02 + tilt))
    under = arc((x + 0.28, y + 0.02 + tilt), (x + 0.02, y - 0.11 + weight), (x - 0.24, y + weight))
    colour = mix(mix(person.hair, BLACK, 0.25), (190, 188, 186), 0.8 * max(0.0, ageing.grey - 0.3) / 0.7)
    return [Shape(both(np.concatenate([top, under])), mix(colour, skin, 0.45 * ageing.child))]


def nose_shapes(layout, skin) -> list:
    y, w = layout.nose_y, layout.nose_w
    dark = mix(skin, (70, 25, 20), 0.55)
    base = arc((-w, y + 0.02), (0, y + 0.2), (w, y + 0.02))
    nostrils = both(ellipse(0.48 * w, y + 0.08, 0.26 * w, 0.025))
    return [Shape([base], dark, 0.02), Shape(nostrils, mix(skin, (50, 15, 15), 0.5))]


def mouth_shapes(person, ageing, scene, layout, skin) -> list:
    """Lips, thinner with age, smiling or open as the scene has it."""
    y, w, lift = layout.mouth_y, layout.mouth_w, 0.07 * scene.smile
    full = (0.085 - 0.015 * ageing.child) * (1 + 0.2 * person.lip_fullness) * (1 - 0.72 * ageing.thin_lips)
    gape = 0.16 * scene.mouth_open
    left, right = (-w, y - lift), (w, y - lift)
    bow = np.concatenate(
        [
            arc(left, (-0.45 * w, y - 2 * full), (0, y - 0.7 * full)),
            arc((0, y - 0.7 * full), (0.45 * w, y - 2 * full), right),
        ]
    )
    seam, lower_seam = arc(right, (0, y + lift), left), arc(right, (0, y + lift + 2 * gape), left)
    lower = arc(left, (0, y + lift + 2 * gape + 2.6 * full), right)
    lip = mix(mix(skin, (170, 60, 60), 0.42), (185, 25, 50), 0.75 * person.lipstick * (1 - ageing.child))
    lip = mix(lip, skin, 0.4 * ageing.thin_lips)
    upper_lip, lower_lip = np.concatenate([bow, seam]), np.concatenate([lower, lower_seam])
    shapes = [Shape([upper_lip], mix(lip, BLACK, 0.1)), Shape([lower_lip], lip)]
    if gape > 0.02:
        shapes.append(Shape([np.concatenate([seam, lower_seam[::-1]])], (235, 228, 218)))
    return [*shapes, Shape([seam], mix(skin, (60, 15, 20), 0.75), 0.022)]


def beard_shapes(person, ageing, layout, skin, head) -> list:
    """Moustache and beard of those who wear one, greying."""
    if ageing.beard <= 0 or person.beard == "none":
        return []
    colour = mix(mix(person.hair, BLACK, 0.2), (215, 213, 210), 0.95 * ageing.grey)
    share = ageing.beard * (0.3 if person.beard == "stubble" else 0.9)
    y, w = layout.mouth_y, layout.mouth_w
    lip = np.concatenate(
        [
            arc((-w - 0.1, y + 0.02), (-0.5 * w, y - 0.22), (0, y - 0.13)),
            arc((0, y - 0.13), (0.5 * w, y - 0.22), (w + 0.1, y + 0.02)),
            arc((w + 0.1, y + 0.02), (0, y - 0.16), (-w - 0.1, y + 0.02)),
        ]
    )
    if person.beard == "moustache":
        return [Shape([lip], mix(skin, colour, share))]
    low = head[head[:, 1] > layout.eyes_y + 0.45 * layout.length]
    edge = arc((low[-1, 0], low[-1, 1]), (-0.72, y - 0.1), (-w - 0.1, y - 0.1))
    rise = arc((-w - 0.1, y - 0.1), (0, y - 0.3), (w + 0.1, y - 0.1))
    other = arc((w + 0.1, y - 0.1), (0.72, y - 0.1), (low[0, 0], low[0, 1]))
    return [Shape([np.concatenate([low * (1.01, 1.02), edge, rise, other])], mix(skin, colour, share))]


def hair_shapes(person, ageing, layout, skin, rng) -> list:
    """The hair in front: a cap between the crown and a hairline that climbs with the years, and strands."""
    style, wide, line = person.hair_style, 1.0 + 0.05 * person.face_width, layout.hairline
    scalp = 0.6 * max(ageing.thinning, ageing.child - 0.4)
    colour = mix(hair_colour(person, ageing), skin, scalp)
    volume = (0.16 if style in ("curly", "long", "bob") else 0.07) * (1 - 0.75 * ageing.child)
    volume *= 1 - 0.7 * ageing.thinning
    shapes = []
    if style == "bun" and ageing.child < 0.6:
        shapes.append(Shape([ellipse(0, layout.crown - 0.22, 0.34, 0.3)], mix(colour, BLACK, 0.15)))
    if style == "curly" and ageing.child < 0.8:
        turn = np.linspace(-0.1, np.pi + 0.1, 11)
        around = np.stack([(wide + 0.02) * np.cos(turn), -0.45 - 0.92 * np.sin(turn)], 1)
        shapes += [Shape([ellipse(u, v, 0.14 + volume)], colour) for u, v in around]
    if style == "fringe" and ageing.receding < 0.6 and ageing.child < 0.8:
        line += 0.28
    shapes.append(Shape([hair_cap(wide, volume, line, layout, ageing)], colour))
    if scalp < 0.4:
        for shade in (mix(colour, WHITE, 0.1), mix(colour, BLACK, 0.2)):
            roots, end = rng.uniform(-0.8, 0.8, 4), min(line - 0.06, -0.8)
            bend = (layout.crown + end) / 2
            strands = [arc((0.6 * u, layout.crown), (1.05 * u, bend), (1.05 * u, end)) for u in roots]
            shapes.append(Shape(strands, shade, 0.02))
    return shapes


def hair_cap(wide, volume, line, layout, ageing) -> np.ndarray:
    """The hair above the brow: up the head's outline and back along the hairline, which recedes."""
    top = layout.crown - volume
    temple = layout.eyes_y - 0.12 - 0.1 * ageing.receding
    outer = arc((0, top), (0.98 * wide + volume, top), (wide + volume, -0.5))
    notch = max(line - 0.10 - 0.28 * ageing.receding, layout.crown + 0.16)  # below the skull's top: no horns
    inner = arc((0.9 * wide, temple - 0.15), (0.78, notch), (0.42, notch))
    side = [(wide + 0.6 * volume, temple), (0.93 * wide, temple + 0.04)]
    parting = [(0.2, max(line - 0.02, layout.crown + 0.07)), (0, line)]
    return whole(np.concatenate([outer, side, inner, parting]))


def worn_shapes(person: Person, ageing: Ageing, scene: Scene, layout: Layout, skin: tuple, rng) -> list:
    """Glasses, and what hides a part of the face."""
    shapes = glasses(person, layout) if ageing.glasses else []
    return shapes + (OCCLUDED[scene.occluder](skin, layout, rng) if scene.occluder else [])


def glasses(person, layout) -> list:
    x, y = layout.eyes_x, layout.eyes_y
    rx, ry = (0.31, 0.29) if person.round_glasses else (0.35, 0.23)
    rim = ellipse(x, y + 0.03, rx, ry, CLOSED_CIRCLE if person.round_glasses else CLOSED_ALMOND)
    bridge, arm = arc((x - rx, y), (0, y - 0.08), (-x + rx, y)), np.array([(x + rx, y), (1.02, y - 0.06)])
    return [Shape([*both(rim), bridge, *both(arm)], (45, 38, 40), 0.04)]


def hat(skin, layout, rng) -> list:
    brim, colour = -0.62 + rng.uniform(-0.08, 0.05), tuple(255 * rng.random(3))
    dome = arc((0, -1.75), (1.25, -1.75), (1.16, brim))
    cap = np.concatenate([dome, [(1.16, brim + 0.06), (0, brim + 0.02)]])
    band = np.array([(0, brim - 0.14), (1.22, brim - 0.1), (1.24, brim + 0.1), (0, brim + 0.06)])
    return [Shape([whole(cap)], colour), Shape([whole(band)], mix(colour, BLACK, 0.35))]


def hand(skin, layout, rng) -> list:
    side, y = rng.choice((-1.0, 1.0)), layout.eyes_y + rng.uniform(0.3, 0.8)
    tone = mix(skin, (90, 40, 30), 0.18)
    fingers = [ellipse(side * (0.72 + 0.02 * k), y + 0.17 * k, 0.36, 0.085) for k in range(4)]
    palm = Shape([ellipse(side * 1.1, y + 0.35, 0.3, 0.45)], tone)
    return [palm, *(Shape([finger], mix(tone, BLACK, 0.05 * k)) for k, finger in enumerate(fingers))]


def bar(skin, layout, rng) -> list:
    y, slope, half = rng.uniform(-0.7, 0.9), rng.uniform(-0.5, 0.5), rng.uniform(0.08, 0.2)
    corners = [(-2, y - slope - half), (2, y + slope - half), (2, y + slope + half), (-2, y - slope + half)]
    return [Shape([np.array(corners)], tuple(255 * rng.random(3)))]


def sunglasses(skin, layout, rng) -> list:
    lens = ellipse(layout.eyes_x, layout.eyes_y + 0.03, 0.35, 0.25, ALMOND)
    across = np.array([(1.02, layout.eyes_y - 0.06), (-1.02, layout.eyes_y - 0.06)])
    return [Shape([across], (30, 28, 32), 0.05), Shape(both(lens), (28, 26, 32))]


OCCLUDED = {"hat": hat, "hand": hand, "bar": bar, "sunglasses": sunglasses}
OCCLUDERS = tuple(OCCLUDED)
