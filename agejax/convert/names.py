"""What our layers are called elsewhere: one table of conventions a family.

A unit is a layer with arrays, `trunk/stage2_1/conv1/norm` or `head`; its arrays are its leaves. A convention gives each
unit's name in the other program.
"""

import dataclasses
import re
from collections.abc import Callable

from agejax.convert.source import Source
from agejax.models.efficientnet_v2 import EfficientNetV2
from agejax.models.googlenet import GoogLeNet
from agejax.models.inputs import CAFFE_DEX, CAFFE_VGG16, CAFFE_VGG_FACE, FACES, HALF, IMAGENET, Inputs
from agejax.models.resnet import ResNet
from agejax.models.vgg import VGG

Names = dict[str, str]  # unit → its name there, in order of use
Tensors = dict[str, object]


@dataclasses.dataclass(frozen=True)
class Convention:
    """How one program names the layers of one family."""

    names: Callable[[object, list[str], Source], Names]
    """(backbone, units, source) → names."""
    settle: Callable[[object, Source], object] = lambda backbone, source: backbone
    """The backbone with those options that the file itself decides."""
    inputs: Callable[[int, Source], Inputs | None] = lambda outputs, source: None
    """The input recipe that such files were trained with, by the number of outputs; None: the family's usual one."""
    leaves_out: str = "num_batches_tracked$"
    """Regular expression over names of arrays that no layer of ours has, and that may go."""


def by_rules(*rules: tuple[str, str | Callable]) -> Callable:
    """Names from (pattern over our unit, replacement); a unit that no pattern matches whole has no name there."""

    def names(backbone, units, source):
        matches = ((unit, re.fullmatch(pattern, unit), name) for unit in units for pattern, name in rules)
        return {unit: name(match) if callable(name) else match.expand(name) for unit, match, name in matches if match}

    return names


# VGG


def vgg_torchvision(backbone: VGG, units: list[str], source: Source) -> Names:
    """features.N counts ReLUs and pools too."""
    numbers, number = {}, 0
    for stage, convolutions in enumerate(backbone.convolutions, 1):
        for i in range(convolutions):
            numbers[f"trunk/block{stage}_{i + 1}/conv"] = f"features.{number}"
            numbers[f"trunk/block{stage}_{i + 1}/norm"] = f"features.{number + 1}"
            number += 3 if backbone.norm else 2
        number += 1
    dense = {"trunk/fc6": "classifier.0", "trunk/fc7": "classifier.3"}
    head = {"head": "classifier.6" if backbone.pooling == "fc" else "classifier"}
    return {unit: (numbers | dense | head)[unit] for unit in units}


def vgg_timm(backbone: VGG, units: list[str], source: Source) -> Names:
    dense = {"trunk/fc6": "pre_logits.fc1", "trunk/fc7": "pre_logits.fc2", "head": "head.fc"}
    return vgg_torchvision(backbone, units, source) | {unit: dense[unit] for unit in units if unit in dense}


def vgg_caffe(backbone: VGG, units: list[str], source: Source) -> Names:
    """The last layer is fc8, or fc8-101 in DEX."""
    last = next((name.rpartition(".")[0] for name in source.tensors if name.startswith("fc8")), "fc8")
    rules = ((r"trunk/block(\d)_(\d)/conv", r"conv\1_\2"), (r"trunk/(fc\d)", r"\1"), ("head", last))
    return by_rules(*rules)(backbone, units, source)


def in_sequence(backbone: VGG, units: list[str], source: Source) -> Names:
    """The n-th layer that has arrays is our n-th unit: for networks that were saved whole, whatever their names."""
    return {unit: module.name for unit, module in zip(units, (m for m in source.modules if m.tensors))}


def vgg_bias(convention: Callable) -> Callable:
    """Whether convolutions have a bias is seen from the first one."""

    def settle(backbone: VGG, source: Source) -> VGG:
        first = "trunk/block1_1/conv"
        name = convention(backbone, [first], source).get(first)
        return dataclasses.replace(backbone, bias=f"{name}.bias" in source.tensors)

    return settle


CAFFE_INPUTS = {1000: CAFFE_VGG16, 2622: CAFFE_VGG_FACE, 101: CAFFE_DEX}
SEQUENCE_INPUTS = {"torch7 binary": FACES, "torch7 ascii": FACES}  # the authors' nets; others follow PyTorch's habit

VGG_CONVENTIONS = {
    "torchvision": Convention(vgg_torchvision, vgg_bias(vgg_torchvision)),
    "timm": Convention(vgg_timm, vgg_bias(vgg_timm)),
    "caffe": Convention(vgg_caffe, inputs=lambda outputs, source: CAFFE_INPUTS.get(outputs, CAFFE_VGG16)),
    "sequence": Convention(
        in_sequence,
        vgg_bias(in_sequence),
        lambda outputs, source: SEQUENCE_INPUTS.get(source.format, IMAGENET),
        r"num_batches_tracked$|constant_vector$",  # the labels, of which the authors' joint nets take the expectation
    ),
}

# ResNet

resnet_torchvision = by_rules(
    ("trunk/stem/conv", "conv1"),
    ("trunk/stem/norm", "bn1"),
    (r"trunk/stage(\d)_(\d+)/conv(\d)/conv", lambda m: f"layer{m[1]}.{int(m[2]) - 1}.conv{m[3]}"),
    (r"trunk/stage(\d)_(\d+)/conv(\d)/norm", lambda m: f"layer{m[1]}.{int(m[2]) - 1}.bn{m[3]}"),
    (r"trunk/stage(\d)_(\d+)/shortcut/conv", lambda m: f"layer{m[1]}.{int(m[2]) - 1}.downsample.0"),
    (r"trunk/stage(\d)_(\d+)/shortcut/norm", lambda m: f"layer{m[1]}.{int(m[2]) - 1}.downsample.1"),
    ("head", "fc"),
)

# GoogLeNet

BRANCHES = {
    "one": "branch1", "three_reduce": "branch2.0", "three": "branch2.1",
    "five_reduce": "branch3.0", "five": "branch3.1", "pool": "branch4.1",
}  # fmt: skip
LAYERS = {"conv": "conv", "norm": "bn"}

googlenet_torchvision = by_rules(
    (r"trunk/(conv\d)/(\w+)", lambda m: f"{m[1]}.{LAYERS[m[2]]}"),
    (r"trunk/(inception\w+)/(\w+)/(\w+)", lambda m: f"{m[1]}.{BRANCHES[m[2]]}.{LAYERS[m[3]]}"),
    ("head", "fc"),
)


def settle_googlenet(backbone: GoogLeNet, source: Source) -> GoogLeNet:
    """torchvision's fourth pool is 2×2; whether its 5×5 branch is the published 3×3 is seen from the kernel."""
    kernel = source.tensors.get("inception3a.branch3.1.conv.weight")
    branch = kernel.shape[-1] if kernel is not None and kernel.ndim == 4 else backbone.branch
    return dataclasses.replace(backbone, branch=branch if branch in (3, 5) else backbone.branch, pool4=2)


# EfficientNetV2: names depend on what stands in a block


def _kind(block: str, units: list[str]) -> str:
    inside = {unit[len(block) :].split("/")[0] for unit in units if unit.startswith(block)}
    return "single" if "conv" in inside else "mb" if "depthwise" in inside else "fused"


def in_blocks(layers: dict[str, dict[str, str]], block: str, first: int, outside: Names) -> Callable:
    """Names of units inside blocks by their block's kind, and of those outside."""

    def names(backbone, units, source):
        found = {}
        for unit in units:
            match = re.match(r"trunk/stage(\d)_(\d+)/", unit)
            if match is None:
                found[unit] = outside[unit]
                continue
            prefix = block.format(stage=int(match[1]) - 1 + first, block=int(match[2]) - 1)
            found[unit] = f"{prefix}.{layers[_kind(match[0], units)][unit[match.end() :]]}"
        return found

    return names


EFFICIENTNET_TORCHVISION = {
    "single": {"conv/conv": "block.0.0", "conv/norm": "block.0.1"},
    "fused": {
        "expand/conv": "block.0.0", "expand/norm": "block.0.1",
        "project/conv": "block.1.0", "project/norm": "block.1.1",
    },
    "mb": {
        "expand/conv": "block.0.0", "expand/norm": "block.0.1",
        "depthwise/conv": "block.1.0", "depthwise/norm": "block.1.1",
        "squeeze/reduce": "block.2.fc1", "squeeze/restore": "block.2.fc2",
        "project/conv": "block.3.0", "project/norm": "block.3.1",
    },
}  # fmt: skip
EFFICIENTNET_TIMM = {
    "single": {"conv/conv": "conv", "conv/norm": "bn1"},
    "fused": {
        "expand/conv": "conv_exp", "expand/norm": "bn1",
        "project/conv": "conv_pwl", "project/norm": "bn2",
    },
    "mb": {
        "expand/conv": "conv_pw", "expand/norm": "bn1",
        "depthwise/conv": "conv_dw", "depthwise/norm": "bn2",
        "squeeze/reduce": "se.conv_reduce", "squeeze/restore": "se.conv_expand",
        "project/conv": "conv_pwl", "project/norm": "bn3",
    },
}  # fmt: skip


def efficientnet_torchvision(backbone: EfficientNetV2, units: list[str], source: Source) -> Names:
    last = 1 + max(int(match[1]) for unit in units if (match := re.match(r"trunk/stage(\d)", unit)))
    outside = {"trunk/stem/conv": "features.0.0", "trunk/stem/norm": "features.0.1", "head": "classifier.1"}
    outside |= {"trunk/last/conv": f"features.{last}.0", "trunk/last/norm": f"features.{last}.1"}
    return in_blocks(EFFICIENTNET_TORCHVISION, "features.{stage}.{block}", 1, outside)(backbone, units, source)


efficientnet_timm = in_blocks(
    EFFICIENTNET_TIMM, "blocks.{stage}.{block}", 0,
    {
        "trunk/stem/conv": "conv_stem", "trunk/stem/norm": "bn1", "head": "classifier",
        "trunk/last/conv": "conv_head", "trunk/last/norm": "bn2",
    },
)  # fmt: skip

CONVENTIONS = {
    VGG: VGG_CONVENTIONS,
    ResNet: {"torchvision": Convention(resnet_torchvision)},
    GoogLeNet: {
        "torchvision": Convention(
            googlenet_torchvision, settle_googlenet, lambda outputs, source: HALF, r"num_batches_tracked$|^aux[12]\."
        )
    },
    EfficientNetV2: {
        "torchvision": Convention(efficientnet_torchvision),
        "timm": Convention(  # its published weights are TensorFlow's
            efficientnet_timm,
            lambda backbone, source: dataclasses.replace(backbone, padding="same"),
            lambda outputs, source: HALF,
        ),
    },
}
