"""Writes bif.npz: OpenCV's biologically inspired features. `pip install opencv-contrib-python-headless==5.0.0.*`, then

python tests/golden/make_bif.py
"""

from pathlib import Path

import cv2
import numpy as np

SHAPES = ((2, 3), (8, 1))  # bands, orientations


def pictures() -> np.ndarray:
    """float32 (2, 44, 36): noise, and a drawing with flat parts and edges."""
    noise = np.random.default_rng(0).random((44, 36)).astype(np.float32)
    drawing = np.full((44, 36), 0.25, np.float32)
    cv2.circle(drawing, (17, 20), 12, 0.75, -1, cv2.LINE_8)
    cv2.line(drawing, (8, 36), (30, 30), 1.0, 2, cv2.LINE_8)
    return np.stack([noise, drawing])


def main() -> None:
    images, found = pictures(), {}
    for bands, orientations in SHAPES:
        bif = cv2.face.BIF_create(bands, orientations)
        found[f"{bands}x{orientations}"] = np.stack([bif.compute(image).ravel() for image in images])
    np.savez_compressed(Path(__file__).with_name("bif.npz"), images=images, **found)


if __name__ == "__main__":
    main()
