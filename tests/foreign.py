"""Networks of other programs for conversion tests: arrays drawn from a seed, and what torch computes with them.

`python tests/golden/make_networks.py` (needs torch and torchvision) writes golden/networks.npz: names and shapes
of torchvision's arrays, and the results in float64; the arrays themselves are drawn again here.
"""

import json
import zlib
from pathlib import Path

import cv2
import numpy as np

from agejax.models.efficientnet_v2 import EfficientNetV2
from agejax.models.googlenet import GoogLeNet
from agejax.models.resnet import ResNet
from agejax.models.vgg import VGG

GOLDEN = Path(__file__).parent / "golden/networks.npz"
OUTPUTS = 7

# (options, pixels, images): small where the family can be, and so that float32 and float64 agree on which units of a
# ReLU or a pool are active: where rounding flips one, torch's own gradients differ between the two by per mille
CASES = {
    "vgg_thin": (VGG(1 / 16), 48, 6),
    "vgg_fc": (VGG(1 / 32, "fc", norm=False, bias=True), 40, 3),
    "vgg_fc_bn": (VGG(1 / 32, "fc", bias=True), 48, 6),
    "resnet18": (ResNet(18), 64, 6),
    "resnet50": (ResNet(50), 64, 6),
    "googlenet": (GoogLeNet(), 64, 6),
    "googlenet_tv": (GoogLeNet(branch=3, pool4=2), 71, 4),
    "efficientnet_v2_s": (EfficientNetV2("s"), 64, 8),
    "efficientnet_v2_m": (EfficientNetV2("m"), 64, 8),
}
QUICK = {"vgg_thin", "vgg_fc", "resnet18"}  # of which every run computes something


def drawn_state(names: list[str], shapes: list[tuple[int, ...]]) -> dict[str, np.ndarray]:
    """float32 arrays as a trained network might have them: weights that keep the scale, true running statistics."""
    return {name: _drawn(name, tuple(shape)) for name, shape in zip(names, shapes)}


def _drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.array(3, np.int64)
    if len(shape) > 1:
        return rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
    middle, half = {"weight": (0.7, 0.3), "running_var": (1.0, 0.5)}.get(name.rpartition(".")[2], (0.0, 0.2))
    return rng.uniform(middle - half, middle + half, shape).astype(np.float32)


def drawn_images(pixels: int, n: int) -> np.ndarray:
    """uint8 RGB (n, pixels, pixels + 8, 3): smooth, with some noise, which leaves max-pooling no ties."""
    rng = np.random.default_rng(5)
    coarse, size = rng.uniform(30, 225, (n, 6, 6, 3)).astype(np.float32), (pixels + 8, pixels)
    smooth = np.stack([cv2.resize(image, size, interpolation=cv2.INTER_LINEAR) for image in coarse])
    return np.clip(smooth + rng.normal(0, 20, smooth.shape), 0, 255).round().astype(np.uint8)


def golden(case: str) -> dict:
    """names, shapes, torch's logits in both modes, and gradients of the evaluated ones' sum of squares."""
    with np.load(GOLDEN) as file:
        parts = {key.partition("/")[2]: file[key] for key in file.files if key.startswith(f"{case}/")}
    parts["names"], parts["shapes"] = json.loads(bytes(parts.pop("layout")))
    return parts
