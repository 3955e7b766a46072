"""Paints a `portrait`: cv2 and numpy, no randomness but the generator it is given.

One projection (asymmetry, yaw, rotation, scale, shift) takes shapes and landmarks from face units to pixels,
so that the five points are exact. Pixel (0, 0) is the middle of the first pixel, as in cv2.
"""

import math

import cv2
import numpy as np

from data_pipelines.synthetic import shapes
from data_pipelines.synthetic.portrait import (
    Ageing,
    Layout,
    Person,
    Scene,
    Shape,
    head_outline,
    landmarks,
    lay_out,
    mix,
)

FIXED_POINT_BITS = 4  # cv2 draws to 1/16 pixel


def render(person: Person, ageing: Ageing, scene: Scene, rng: np.random.Generator, size: int):
    """The picture and its five points: uint8 (size, size, 3) RGB, and float64 (5, 2) x, y in pixels."""
    layout = lay_out(person, ageing)
    place = make_projection(person, scene, layout, size)
    skin = mix(person.skin, (206, 186, 170), 0.35 * ageing.pallor)
    head = head_outline(person, ageing, layout)
    image = draw_background(scene, rng, size)
    paint(image, [*shapes.back_shapes(person, ageing, scene, layout, skin), Shape([head], skin)], place)
    image = shade_skin(image, head, ageing, scene, layout, place, rng)
    paint(
        image,
        [
            *shapes.line_shapes(person, ageing, layout, skin, rng),
            *shapes.beard_shapes(person, ageing, layout, skin, head),
            *shapes.feature_shapes(person, ageing, scene, layout, skin),
            *shapes.hair_shapes(person, ageing, layout, skin, rng),
            *shapes.worn_shapes(person, ageing, scene, layout, skin, rng),
        ],
        place,
    )
    return finish(image, scene, rng), place(landmarks(layout, scene))


def make_projection(person: Person, scene: Scene, layout: Layout, size: int):
    """Face units → pixels. Yaw turns a shallow dome: what is near the middle moves most."""
    angle, yaw = math.radians(scene.rotation), math.radians(scene.yaw)
    unit = scene.scale * size
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]) * unit
    centre = (size - 1) / 2 + np.array(scene.shift) * size
    squeeze, push, skew = math.cos(yaw), 0.6 * math.sin(yaw), 0.05 * person.asymmetry

    def place(points):
        x, y = points[:, 0], points[:, 1]
        dome = np.maximum(0.0, 1 - 0.8 * x * x - 0.45 * (y - 0.1) ** 2)
        moved = np.stack([x * squeeze + push * dome, y + skew * x * (y - layout.eyes_y + 0.3)], 1)
        return moved @ turn + centre

    place.unit = unit
    return place


def paint(image: np.ndarray, shapes: list, place) -> None:
    """Draws the shapes in order, in place; all points are projected at once."""
    parts = [part for shape in shapes for part in shape.parts]
    pixels = np.rint(place(np.concatenate(parts)) * (1 << FIXED_POINT_BITS)).astype(np.int32)
    start = 0
    for shape in shapes:
        polygons = []
        for part in shape.parts:
            polygons.append(pixels[start : start + len(part)])
            start += len(part)
        if shape.width:
            thickness = max(1, round(shape.width * place.unit))
            cv2.polylines(image, polygons, False, shape.colour, thickness, cv2.LINE_AA, FIXED_POINT_BITS)
        else:
            cv2.fillPoly(image, polygons, shape.colour, cv2.LINE_AA, FIXED_POINT_BITS)


def draw_background(scene: Scene, rng: np.random.Generator, size: int) -> np.ndarray:
    image = cv2.resize(scene.background, (size, size), interpolation=cv2.INTER_LINEAR)
    for x, y, w, h, *colour in rng.random((scene.clutter, 7)):
        corner = (int((x - w / 4) * size), int((y - h / 4) * size))
        opposite = (int((x + w / 4) * size), int((y + h / 4) * size))
        cv2.rectangle(image, corner, opposite, muted(colour), -1)
    return image


def muted(colour) -> tuple:
    """Shares 0 … 1 → RGB on the dull side, as walls and clothes are."""
    grey = sum(colour) / 3
    return tuple(30 + 200 * (0.6 * grey + 0.4 * c) for c in colour)


def shade_skin(image, head, ageing, scene, layout, place, rng) -> np.ndarray:
    """Soft light and dark on the head: 128 is neutral, drawn at half size, blurred, multiplied in."""
    size = image.shape[0]
    half = size // 2

    def small(points):
        return (place(points) - 0.5) / 2

    small.unit = place.unit / 2
    mask = np.zeros((half, half), np.uint8)
    paint(mask, [Shape([head], (255,))], small)
    blotches = rng.integers(-100, 101, (11, 11)).astype(np.float32) * (0.06 + 0.30 * ageing.spots) + 128
    shade = cv2.resize(blotches, (half, half), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)
    paint(shade, shapes.shadow_shapes(ageing, scene, layout), small)
    shade = cv2.GaussianBlur(shade, (0, 0), max(0.6, 0.045 * place.unit))
    shade[mask == 0] = 128
    shade = cv2.cvtColor(cv2.resize(shade, (size, size)), cv2.COLOR_GRAY2RGB)
    return cv2.multiply(image, shade, scale=1 / 128)


def finish(image: np.ndarray, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Light, blur and sensor noise."""
    size = image.shape[0]
    across, down = scene.light
    corners = 128 * (1 + np.array([[-across - down, across - down], [down - across, across + down]]))
    light = (corners[..., None] * scene.tint).clip(0, 255).astype(np.uint8)
    light = cv2.resize(light, (size, size), interpolation=cv2.INTER_LINEAR)
    image = cv2.multiply(image, light, scale=1 / 128)
    if scene.blur:
        image = cv2.GaussianBlur(image, (0, 0), scene.blur * size)
    if scene.noise:
        grain = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
        image = cv2.addWeighted(image, 1.0, grain, scene.noise / 127.5, -scene.noise)
    return image
