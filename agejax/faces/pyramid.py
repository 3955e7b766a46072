"""Image pyramids laid out on canvases of one size, so that P-Net is compiled once whatever the photographs' sizes.

P-Net is fully convolutional with stride 2 and cells of 12 px. So a level may lie anywhere on a canvas as long as its
corner is at even coordinates, and a level larger than the canvas may be cut into pieces that overlap by 10 px: each
cell then sees what it sees on the level alone. A column and a row right of and below an odd piece stay empty (-1);
networks.pnet needs them.
"""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

CELL, STRIDE = 12, 2
OVERLAP = CELL - STRIDE
HEIGHT, WIDTH = 128, 386  # of a canvas, both even: larger ones leave a CPU's cache; width as pnet likes it
EMPTY = -1.0


class Piece(NamedTuple):
    """A part of a level of an image, at top, left in the level and at y, x on a canvas; all in pixels."""

    image: int
    level: int
    top: int
    left: int
    height: int
    width: int
    canvas: int = 0
    y: int = 0
    x: int = 0


class Pyramids(NamedTuple):
    """The levels of several images: scales[image][level], sizes[image][level] = (height, width), and where they lie."""

    scales: list[np.ndarray]
    sizes: list[list[tuple[int, int]]]
    pieces: list[Piece]
    canvases: int


def lay_out(shapes: list[tuple[int, int]], min_face: float, factor: float) -> Pyramids:
    """Plans the pyramids of images whose (height, width) are given."""
    levels = [scales(*shape, min_face, factor) for shape in shapes]
    sizes = [[(int(height * s), int(width * s)) for s in some] for (height, width), some in zip(shapes, levels)]
    pieces = [piece for i, some in enumerate(sizes) for k, size in enumerate(some) for piece in cut(*size, i, k)]
    return Pyramids(levels, sizes, *pack(pieces))


def scales(height: int, width: int, min_face: float, factor: float) -> np.ndarray:
    """The scale of each level, float64, the largest first: a cell of the first sees faces of min_face px.

    As the package has it for min_face = 20: round(log(side / 12) / log(1 / factor) - 1) levels, side being the
    shorter one. For another min_face as many as for an image that is larger or smaller by 20 / min_face.
    """
    side = min(height, width) * 20 / min_face
    count = round(-(np.log(side / CELL) / np.log(factor) + 1))
    return CELL / min_face * factor ** np.arange(max(count, 0))


def cells(length: int) -> int:
    """How many cells P-Net has along `length` pixels; its pooling takes half a window at the end of an odd length."""
    return max((length - 1) // 2 - 4, 0)


def cut(height: int, width: int, image: int, level: int) -> list[Piece]:
    """The pieces of a level of height x width px that fit on a canvas."""
    rows, columns = _spans(height, HEIGHT), _spans(width, WIDTH)
    return [Piece(image, level, top, left, h, w) for top, h in rows for left, w in columns]


def _spans(length: int, most: int) -> list[tuple[int, int]]:
    starts = range(0, length, most - OVERLAP)
    spans = [(start, min(most, length - start)) for start in starts]
    return [(start, size) for start, size in spans if cells(size)]


def pack(pieces: list[Piece]) -> tuple[list[Piece], int]:
    """The pieces with their places, and the number of canvases: guillotine cuts, the tightest rectangle first."""
    free, placed, canvases = [], [], 0
    for piece in sorted(pieces, key=lambda p: (-max(p.height, p.width), -p.height)):
        height, width = piece.height + piece.height % 2, piece.width + piece.width % 2
        fitting = [spot for spot in free if spot[3] >= height and spot[4] >= width]
        if fitting:
            spot = min(fitting, key=lambda spot: min(spot[3] - height, spot[4] - width))
            free.remove(spot)
        else:
            spot, canvases = (canvases, 0, 0, HEIGHT, WIDTH), canvases + 1
        placed.append(piece._replace(canvas=spot[0], y=spot[1], x=spot[2]))
        free += _rest(spot, height, width)
    return placed, canvases


def _rest(spot: tuple, height: int, width: int) -> Iterator[tuple]:
    """What a piece in its upper left corner leaves of a free rectangle, cut so that the larger part stays whole."""
    canvas, y, x, free_height, free_width = spot
    below, right = free_height - height, free_width - width
    wide = below > right
    for rest in (
        (canvas, y + height, x, below, free_width if wide else width),
        (canvas, y, x + width, height if wide else free_height, right),
    ):
        if min(rest[3:]) >= CELL:
            yield rest


def paint(images: list[np.ndarray], pyramids: Pyramids) -> np.ndarray:
    """The canvases: float32 (canvases, HEIGHT, WIDTH, 3) of 0…255, each level the means of areas of its image."""
    canvases = np.zeros((pyramids.canvases, HEIGHT, WIDTH, 3), np.float32)
    floats = [image.astype(np.float32) for image in images]  # resized as bytes, they would be rounded
    cut_up = {}
    for piece in pyramids.pieces:
        size = pyramids.sizes[piece.image][piece.level]
        below, right = piece.y + piece.height, piece.x + piece.width
        canvases[piece.canvas, piece.y : below + piece.height % 2, piece.x : right + piece.width % 2] = EMPTY
        place = canvases[piece.canvas, piece.y : below, piece.x : right]
        if (piece.height, piece.width) == size:
            cv2.resize(floats[piece.image], size[::-1], dst=place, interpolation=cv2.INTER_AREA)
            continue
        if piece[:2] not in cut_up:
            cut_up[piece[:2]] = cv2.resize(floats[piece.image], size[::-1], interpolation=cv2.INTER_AREA)
        place[:] = cut_up[piece[:2]][piece.top : piece.top + piece.height, piece.left : piece.left + piece.width]
    return canvases


def find_cells(pyramids: Pyramids, offsets: np.ndarray, scores: np.ndarray, threshold: float) -> tuple:
    """The cells above the threshold in order: their image (N,), level (N,), box (N, 4) in the image, score (N,).

    offsets (canvases, h, w, 4) and scores (canvases, h, w) are P-Net's. As in the package a cell goes from its pixel 1
    to its pixel 12, so offsets are in 11 px, and the scales are the nominal ones, not ratios of the rounded sizes.
    """
    found = []
    for piece in pyramids.pieces:
        y, x, rows, columns = piece.y // STRIDE, piece.x // STRIDE, cells(piece.height), cells(piece.width)
        row, column = np.nonzero(scores[piece.canvas, y : y + rows, x : x + columns] > threshold)
        at = piece.canvas, y + row, x + column
        corner = STRIDE * np.stack([column, row], 1) + (piece.left, piece.top)
        boxes = np.concatenate([corner + 1, corner + CELL], 1) + offsets[at].astype(np.float64) * (CELL - 1)
        boxes /= pyramids.scales[piece.image][piece.level]
        found.append((np.full((len(row), 2), piece[:2]), corner, boxes, scores[at]))
    owners, corners, boxes, scores = (np.concatenate(parts) for parts in zip(*found))
    order = np.lexsort((*corners.T, *owners.T[::-1]))
    return *owners[order].T, boxes[order], scores[order]
