"""One example: its picture, cropped as a plan says or laid on a canvas, and what a batch holds of its labels."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from data_pipelines import align, host, plans
from data_pipelines.samplers import Source
from data_pipelines.schema import LABELS

KEYS = LABELS | {"identity": LABELS["age"]}  # target → what a batch's label and sigma hold; identities are in all


def label_keys(target: str) -> tuple[str, str]:
    """Record keys of a batch's label and sigma. Raises ValueError."""
    if target not in KEYS:
        raise ValueError(f"target {target!r} is not one of {', '.join(KEYS)}")
    return KEYS[target]


def fill(out: np.ndarray, record: dict, size: int, alignment: align.Alignment, plan: plans.Plan, resize: str) -> None:
    """Writes into `out`, uint8 (C, C, 3), what a plan for IDENTITY and C px shows of the picture.

    C is the `size` of the crop, or larger: then there is a margin around it, as plans.canvas_size says. Raises
    ValueError with the record's id.
    """
    try:
        _crop(out, record, size, alignment, plan, resize)
    except ValueError as error:  # only a plain ValueError survives the way from a worker
        raise ValueError(f"{record['id']}: {error}") from None


def _crop(out, record, size, alignment, plan, resize) -> None:
    image, landmarks = record["image"], record["landmarks"]
    height = width = 0
    if np.isnan(landmarks[0, 0]):  # none; only then the size of the image decides, and it must be decoded first
        image = host.decode(image)
        height, width = image.shape[:2]
    matrix = align.crop_matrix(landmarks, height, width, size, alignment)
    matrix[:, 2] += (len(out) - size) // 2
    host.execute(image, plans.placed(plan, matrix), len(out), resize, out=out)


def canvases(
    source: Source, rows: range, size: int, canvas: int, alignment: align.Alignment, pool: ThreadPoolExecutor
) -> np.ndarray:
    """The plain crops of `size` px of these rows, each with its margin: uint8 (len(rows), canvas, canvas, 3).

    Rows beyond the source are black. Raises ValueError with the record's id.
    """
    cv2.setNumThreads(0)
    images = np.zeros((len(rows), canvas, canvas, 3), np.uint8)
    plain = plans.plain_plan(plans.IDENTITY, canvas)

    def draw(image, row):
        fill(image, source[row], size, alignment, plain, "antialias")

    list(pool.map(draw, images, range(rows.start, min(rows.stop, len(source)))))
    return images
