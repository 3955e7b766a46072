"""Writes randaugment.npz: what torchvision's RandAugment, adjust_hue and RandomResizedCrop make of one drawn face.

python tests/golden/make_randaugment.py       (torchvision 0.28.0, torch 2.13.0)
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as F
from torchvision.transforms.autoaugment import RandAugment, _apply_op

from data_pipelines import host, synthetic

SIZE, MAGNITUDES, HUES = 32, (9, 17), (-0.5, -0.1, 0.03, 0.1)


def face() -> np.ndarray:
    """uint8 (SIZE, SIZE, 3)."""
    return cv2.resize(host.decode(synthetic.draw_face(0, 3, size=96)["image"]), (SIZE, SIZE))


def operations(image: torch.Tensor):
    """(name, uint8 (SIZE, SIZE, 3)) as `Rotate/9/-1`."""
    for magnitude in MAGNITUDES:
        for name, (levels, signed) in RandAugment()._augmentation_space(31, (SIZE, SIZE)).items():
            for sign in (1, -1) if signed else (1,):
                level = sign * float(levels[magnitude]) if levels.ndim else 0.0
                made = _apply_op(image, name, level, F.InterpolationMode.NEAREST, None)
                yield f"{name}/{magnitude}/{sign}", made.permute(1, 2, 0).numpy()


def boxes(scale: tuple, ratio: tuple, count: int = 40_000) -> np.ndarray:
    """Of (left, top, width, height, whether it is the whole), the means and standard deviations: float64 (2, 5)."""
    torch.manual_seed(0)
    image, found = torch.zeros(3, SIZE, SIZE), []
    for _ in range(count):
        top, left, height, width = RandomResizedCrop.get_params(image, scale, ratio)
        found.append((left, top, width, height, width == height == SIZE))
    return np.stack([np.mean(found, axis=0), np.std(found, axis=0)])


if __name__ == "__main__":
    image = face()
    tensor = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    arrays = {"image": image, "Invert/0/1": F.invert(tensor).permute(1, 2, 0).numpy(), **dict(operations(tensor))}
    arrays |= {f"hue/{hue}": F.adjust_hue(tensor, hue).permute(1, 2, 0).numpy() for hue in HUES}
    arrays |= {"boxes/0.08/1.3333333333333333": boxes((0.08, 1.0), (3 / 4, 4 / 3))}
    arrays |= {"boxes/0.9/2.0": boxes((0.9, 1.0), (1 / 2, 2.0))}
    np.savez_compressed(Path(__file__).with_name("randaugment.npz"), **arrays)
