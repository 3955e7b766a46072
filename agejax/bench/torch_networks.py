"""The same networks in torch: the VGG family by hand, the others as torchvision has them, all with uint8 pixels in."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from agejax.labels import AGE
from agejax.models.inputs import Inputs
from agejax.models.vgg import CHANNELS

OUTPUTS = AGE.size


class Ages(nn.Module):
    """Raw uint8 (B, H, W, 3) on the device → outputs (B, K) in the dtype of the network's weights, or autocast's.

    Seen as (B, C, H, W) the pixels lie channels_last already: nothing is moved.
    """

    def __init__(self, network: nn.Module, inputs: Inputs):
        super().__init__()
        if inputs.order != "rgb":
            raise ValueError(f"inputs in the order {inputs.order} are not offered here")
        self.network, self.scale = network, 255.0 / inputs.maximum
        self.register_buffer("mean", torch.tensor(inputs.mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(inputs.std).reshape(1, 3, 1, 1))

    def forward(self, image_BxHxWx3: torch.Tensor) -> torch.Tensor:
        pixels = image_BxHxWx3.permute(0, 3, 1, 2).float()
        normal = (pixels / self.scale - self.mean) / self.std
        return self.network(normal.to(next(self.network.parameters()).dtype))


class HybridVGG(nn.Module):
    """ThinAgeNet (compression 0.5) and TinyAgeNet (0.25): convolution, norm, ReLU; max-pools, then a mean; a dense
    layer."""

    def __init__(self, compression: float, convolutions: tuple[int, ...] = (2, 2, 3, 3, 3), outputs: int = OUTPUTS):
        super().__init__()
        layers, before = [], 3
        for channels, count in zip(CHANNELS, convolutions):
            width = max(1, round(channels * compression))
            for _ in range(count):
                layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)]
                before = width
            layers.append(nn.MaxPool2d(2))
        self.trunk, self.head = nn.Sequential(*layers), nn.Linear(before, outputs)

    def forward(self, x_BxCxHxW: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(x_BxCxHxW).mean((2, 3)))


def _torchvision(name: str, **options) -> nn.Module:
    import torchvision

    return torchvision.models.get_model(name, weights=None, num_classes=OUTPUTS, **options)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "thin": partial(HybridVGG, 0.5),
    "tiny": partial(HybridVGG, 0.25),
    "tiny_12": partial(HybridVGG, 0.25, (2, 2, 2, 3, 3)),
    "vgg_1_8": partial(HybridVGG, 0.125),
    "vgg_1": partial(HybridVGG, 1.0),
    "vgg16": partial(_torchvision, "vgg16", init_weights=False),
    "vgg16_bn": partial(_torchvision, "vgg16_bn", init_weights=False),
    "resnet18": partial(_torchvision, "resnet18"),
    "resnet34": partial(_torchvision, "resnet34"),
    "resnet50": partial(_torchvision, "resnet50"),
    "efficientnet_v2_s": partial(_torchvision, "efficientnet_v2_s"),
    "efficientnet_v2_m": partial(_torchvision, "efficientnet_v2_m"),
}


def joint_loss(outputs_BxK: torch.Tensor, label_B: torch.Tensor, sigma_B: torch.Tensor) -> torch.Tensor:
    """Batch mean of KL(p ‖ p̂) + |ŷ - y|, p a Gaussian (y, σ) on the age grid: objectives.JointLabelDistribution."""
    l_K = torch.arange(AGE.size, device=label_B.device, dtype=torch.float32) * AGE.step + AGE.low
    log_q_BxK = torch.log_softmax(outputs_BxK.float(), 1)
    p_BxK = torch.softmax(-0.5 * ((l_K[None, :] - label_B[:, None]) / sigma_B[:, None]) ** 2, 1)
    kl_B = torch.nn.functional.kl_div(log_q_BxK, p_BxK, reduction="none").sum(1)
    return (kl_B + (_expectation(log_q_BxK, l_K) - label_B).abs()).mean()


def predicted(outputs_BxK: torch.Tensor) -> torch.Tensor:
    """(B,) ages: the expectation of softmax(outputs)."""
    l_K = torch.arange(AGE.size, device=outputs_BxK.device, dtype=torch.float32) * AGE.step + AGE.low
    return _expectation(torch.log_softmax(outputs_BxK.float(), 1), l_K)


def _expectation(log_q_BxK: torch.Tensor, l_K: torch.Tensor) -> torch.Tensor:
    return (log_q_BxK.exp() * l_K[None, :]).sum(1)
