"""How mtcnn.npz was made: `python make_mtcnn.py drawn.npz mtcnn.npz` where tensorflow and mtcnn are installed.

drawn.npz holds PNG files of drawn faces, under the names that they keep. The networks' inputs are drawn again by the
test: uniform(-1, 1) from a generator with the seed 0, in the order below.
"""

import os
import sys

import cv2
import numpy as np

MAPS = ((12, 12), (11, 15), (25, 36), (40, 31))
BOXES = ((-3.2, 5.1, 20.7, 29.0), (30.5, 11.4, 61.3, 42.2), (7.9, -8.8, 44.4, 27.7))  # two reach out of 37 x 53 pixels


def main(drawn: str, to: str) -> None:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import mtcnn
    import tensorflow
    from mtcnn.utils.images import extract_patches

    detector = mtcnn.MTCNN()
    p, r, o = (stage.model for stage in detector.stages)
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.uniform(-1, 1, shape).astype(np.float32)  # noqa: E731
    made = {"source": f"mtcnn 1.0.0 with tensorflow {tensorflow.__version__}, numpy {np.__version__}"}
    for height, width in MAPS:
        boxes, probability = p(draw(1, height, width, 3))
        made |= {f"p{height}_boxes": boxes, f"p{height}_scores": probability[..., 1]}
    boxes, probability = r(draw(4, 24, 24, 3))
    made |= {"r_boxes": boxes, "r_scores": probability[:, 1]}
    boxes, points, probability = o(draw(4, 48, 48, 3))
    made |= {"o_boxes": boxes, "o_points": points, "o_scores": probability[:, 1]}
    image = rng.integers(0, 256, (1, 37, 53, 3))
    boxes = np.concatenate([np.zeros((len(BOXES), 1)), np.array(BOXES)], 1)
    made["crops"] = extract_patches((image - 127.5) / 128, boxes, (24, 24))
    for name, png in np.load(drawn).items():
        rgb = cv2.imdecode(png, cv2.IMREAD_COLOR)[..., ::-1].copy()
        rows = np.asarray(detector.detect_faces(rgb, output_type="numpy", box_format="xyxy")).reshape(-1, 16)
        made |= {f"png_{name}": png, f"faces_{name}": rows[:, 1:]}
    np.savez_compressed(to, **made)


if __name__ == "__main__":
    main(*sys.argv[1:])
