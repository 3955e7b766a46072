"""Writes networks.npz: what torch and torchvision compute, in float64, with the arrays and images of tests/foreign.py.

python tests/golden/make_networks.py [CASE …]
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
import foreign

from agejax.models.vgg import CHANNELS, HIDDEN


def vgg(options) -> nn.Module:
    """torchvision's VGG, narrower, with or without its dense stack."""
    layers, channels = [], 3
    for width, convolutions in zip(CHANNELS, options.convolutions):
        for _ in range(convolutions):
            out = max(1, round(width * options.compression))
            layers.append(nn.Conv2d(channels, out, 3, padding=1, bias=options.bias))
            layers += [nn.BatchNorm2d(out)] if options.norm else []
            layers.append(nn.ReLU())
            channels = out
        layers.append(nn.MaxPool2d(2, 2))
    features = nn.Sequential(*layers)
    if options.pooling == "fc":
        network = torchvision.models.VGG(features, num_classes=foreign.OUTPUTS, dropout=0.0)
        network.classifier[0] = nn.Linear(channels * 49, HIDDEN)
        return network

    class Thin(nn.Module):
        def __init__(self):
            super().__init__()
            self.features, self.classifier = features, nn.Linear(channels, foreign.OUTPUTS)

        def forward(self, x):
            return self.classifier(self.features(x).mean((2, 3)))

    return Thin()


def googlenet(options) -> nn.Module:
    """torchvision's, with the published 5×5 branch and 3×3 fourth pool where the options say so."""
    network = torchvision.models.googlenet(
        num_classes=foreign.OUTPUTS, aux_logits=False, init_weights=False, dropout=0.0, transform_input=False
    )
    if options.branch == 5:
        for name, block in network.named_children():
            if name.startswith("inception"):
                old = block.branch3[1].conv
                block.branch3[1].conv = nn.Conv2d(old.in_channels, old.out_channels, 5, padding=2, bias=False)
    if options.pool4 == 3:
        network.maxpool4 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
    return network


def efficientnet(options) -> nn.Module:
    build = getattr(torchvision.models, f"efficientnet_v2_{options.size}")
    return build(num_classes=foreign.OUTPUTS, dropout=0.0, stochastic_depth_prob=0.0)


def resnet(options) -> nn.Module:
    return getattr(torchvision.models, f"resnet{options.depth}")(num_classes=foreign.OUTPUTS)


BUILDERS = {"VGG": vgg, "GoogLeNet": googlenet, "EfficientNetV2": efficientnet, "ResNet": resnet}


def results(case: str) -> dict[str, np.ndarray]:
    options, pixels, n = foreign.CASES[case]
    network = BUILDERS[type(options).__name__](options)
    names = list(network.state_dict())
    shapes = [list(x.shape) for x in network.state_dict().values()]
    state = foreign.drawn_state(names, shapes)
    network.load_state_dict({name: torch.from_numpy(x) for name, x in state.items()})
    network.double()
    image = torch.from_numpy(foreign.drawn_images(pixels, n)).permute(0, 3, 1, 2).double() / 255
    mean, std = (torch.tensor(x).double()[None, :, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = (image - mean) / std
    plain = network.eval()(x)
    first, last = gradients(network, plain)
    with torch.no_grad():
        trained = network.train()(x)
    layout = np.frombuffer(json.dumps([names, shapes]).encode(), np.uint8)
    moved = [b for name, b in network.named_buffers() if name.endswith("running_mean")]
    return {
        "layout": layout,
        "eval": plain.detach().numpy(),
        "train": trained.numpy(),
        "first": first[:8],  # a part is enough, and small
        "last": last[:, :64],
        "running_mean": moved[-1].numpy() if moved else np.zeros(0),
    }


def gradients(network: nn.Module, logits: torch.Tensor) -> list[np.ndarray]:
    """Of the sum of squares, for the kernels of the first and the last layer.

    With stored statistics: with those of a small batch torch's own float32 and float64 differ by per cents.
    """
    kernels = [p for p in network.parameters() if p.ndim > 1]
    return [g.numpy().astype(np.float32) for g in torch.autograd.grad((logits**2).sum(), [kernels[0], kernels[-1]])]


def main(cases: list[str]) -> None:
    found = dict(np.load(foreign.GOLDEN)) if foreign.GOLDEN.exists() and cases else {}
    for case in cases or foreign.CASES:
        parts = results(case)
        found |= {f"{case}/{key}": value for key, value in parts.items()}
        print(case, parts["eval"][0, :3], parts["train"][0, :3], np.abs(parts["first"]).max())
    np.savez_compressed(foreign.GOLDEN, **found)


if __name__ == "__main__":
    main(sys.argv[1:])
