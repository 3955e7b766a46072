"""The augmentation of DLDL-v2 on a batch of canvases that lie in device memory, as a torch user writes it.

Of the same kind as ours, not equal to it: resolution is degraded in groups of images, as every size is a call of its
own, which cannot be compiled either; and the three jitters come in one order.
"""

import math
import random
from collections.abc import Callable

import torch
from torch.nn import functional

from data_pipelines.host import LUMA
from data_pipelines.plans import Augmentation

GROUPS = 8  # sizes in a batch
Images = Callable[[torch.Tensor], torch.Tensor]


def augmenter(size: int, a: Augmentation, compiled: Callable[[Images], Images] = lambda function: function) -> Images:
    """uint8 canvases (B, T, T, 3) → float32 crops (B, size, size, 3) in [0, 255], a view of (B, 3, size, size)."""
    first = compiled(lambda canvas: _warp(_gray(canvas.permute(0, 3, 1, 2).float(), a.gray), size, a))
    last = compiled(lambda x: _jitter(x, a).permute(0, 2, 3, 1))

    def augment(canvas_BxTxTx3: torch.Tensor) -> torch.Tensor:
        x = first(canvas_BxTxTx3)
        if a.degrade < 1:
            x = torch.cat([_degrade(part, a.degrade) for part in x.chunk(GROUPS)])
        return last(x)

    return augment


def _gray(x: torch.Tensor, probability: float) -> torch.Tensor:
    return torch.where(_each(x).bernoulli_(probability) > 0, _luma(x), x)


def _warp(x: torch.Tensor, size: int, a: Augmentation) -> torch.Tensor:
    """Flip, rotation, zoom and shift about the centre, in one bilinear warp; black outside."""
    B, C, T, _ = x.shape
    angle_B, zoom_B = _signed(x, math.radians(a.rotation)), 1 + _signed(x, a.zoom)
    across_B, down_B = (_signed(x, 2 * a.shift * size / T) for _ in range(2))
    flip_B = 1 - 2 * _each(x).bernoulli_(a.flip).flatten()
    cos_B, sin_B = angle_B.cos() / zoom_B * size / T, angle_B.sin() / zoom_B * size / T
    rows = [torch.stack(row, 1) for row in ((flip_B * cos_B, sin_B, across_B), (-flip_B * sin_B, cos_B, down_B))]
    grid = functional.affine_grid(torch.stack(rows, 1), [B, C, size, size], align_corners=False)
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _degrade(x: torch.Tensor, smallest: float) -> torch.Tensor:
    size = x.shape[-1]
    smaller = random.randint(round(smallest * size), size)
    x = functional.interpolate(x, (smaller, smaller), mode="bicubic", antialias=True)
    return functional.interpolate(x, (size, size), mode="bicubic", antialias=True)


def _jitter(x: torch.Tensor, a: Augmentation) -> torch.Tensor:
    """Brightness, contrast, saturation."""
    for width, reference in ((a.brightness, torch.zeros_like), (a.contrast, _mean_luma), (a.saturation, _luma)):
        if width:
            factor = 1 + _signed(x, width)[:, None, None, None]
            x = factor * x + (1 - factor) * reference(x)
    return x.clamp(0, 255)


def _mean_luma(x: torch.Tensor) -> torch.Tensor:
    return _luma(x).mean((2, 3), keepdim=True)


def _luma(x: torch.Tensor) -> torch.Tensor:
    red, green, blue = LUMA
    return red * x[:, :1] + green * x[:, 1:2] + blue * x[:, 2:]


def _each(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty((len(x), 1, 1, 1))


def _signed(x: torch.Tensor, width: float) -> torch.Tensor:
    """(B,) uniform in ± width."""
    return x.new_empty(len(x)).uniform_(-width, width)
