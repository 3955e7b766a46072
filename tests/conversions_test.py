"""Whole files of other programs, from bytes to outputs: Torch7, Caffe, PyTorch, and a published network."""

import os
from pathlib import Path

import caffe_files
import foreign
import jax
import numpy as np
import pytest
import torch7_files
from convert_test import near, saved, state

from agejax import convert
from agejax.convert.formats import read_file
from agejax.labels import CFD, LabelGrid
from agejax.models.inputs import CAFFE_DEX, CAFFE_VGG16, CAFFE_VGG_FACE, FACES, IMAGENET, Inputs
from agejax.models.network import BACKBONES
from agejax.models.vgg import VGG
from agejax.objectives import DEX, Identity, JointLabelDistribution, LabelDistribution, MetricRegression, Ranking
from data_pipelines.errors import DataError, UserError

THIN = VGG(1 / 16, inputs=IMAGENET)


def in_order(case):
    """The drawn arrays of a case, (name, array), without counters."""
    return [(name, x) for name, x in state(case).items() if not name.endswith("num_batches_tracked")]


def t7_arrays(outputs=foreign.OUTPUTS):
    """Those of the narrow ThinAgeNet, by their names in a Torch7 file."""
    names = torch7_files.thin_arrays(np.random.default_rng(0), (4, 8, 16, 32, 32), outputs)
    return {theirs: np.resize(x, (outputs, *x.shape[1:])) if "47/" in theirs else x
            for theirs, (_, x) in zip(names, in_order("vgg_thin"), strict=True)}  # fmt: skip


@pytest.mark.parametrize("ascii", [False, True])
@pytest.mark.parametrize("cudnn, parallel, flat", [(False, False, False), (True, True, True)])
def test_torch7(tmp_path, ascii, cudnn, parallel, flat):
    network = torch7_files.thin_net(t7_arrays(), "identity", cudnn=cudnn, parallel=parallel, flat=flat)
    path = torch7_files.write_t7(tmp_path / "thin.t7", network, ascii=ascii)
    w = convert.read(path, THIN)
    assert (w.provenance["names"], w.objective) == ("sequence", Identity(foreign.OUTPUTS))
    image = foreign.drawn_images(*foreign.CASES["vgg_thin"][1:])
    logits = jax.jit(lambda variables: w.model.apply(variables, image)["logits"])(w.variables)
    near(logits, foreign.golden("vgg_thin")["eval"], 1e-4)


@pytest.mark.parametrize(
    "tail, outputs, grid, objective",
    [
        ("kl", 101, None, JointLabelDistribution()),
        ("joint", 101, None, JointLabelDistribution()),
        ("rank", 100, None, Ranking()),
        ("regression", 1, None, MetricRegression()),
        ("identity", 101, None, JointLabelDistribution()),
        ("kl", 61, None, JointLabelDistribution(grid=CFD, target="attractiveness")),
        ("joint", 73, np.linspace(-3.6, 3.6, 73, dtype=np.float32), None),
    ],
)
def test_torch7_networks_of_the_authors(tmp_path, tail, outputs, grid, objective):
    network = torch7_files.thin_net(t7_arrays(outputs), tail, grid)
    w = convert.read(torch7_files.write_t7(tmp_path / "thin.t7", network), VGG(1 / 16))
    hotnot = JointLabelDistribution(grid=LabelGrid(-3.6, 3.6, 0.1), target="attractiveness")
    assert w.objective == (objective or hotnot)
    assert w.inputs == FACES


def test_torch7_with_a_bias_in_its_convolutions(tmp_path):
    arrays = t7_arrays()
    biases = {f"{name.split('/')[0]}/bias": np.ones(len(x), np.float32) for name, x in arrays.items() if x.ndim == 4}
    path = torch7_files.write_t7(tmp_path / "thin.t7", torch7_files.thin_net(arrays | biases, "identity"))
    w = convert.read(path, THIN)
    assert w.backbone.bias
    image = foreign.drawn_images(32, 2)
    norm = w.variables["batch_stats"]["trunk"]["block1_1"]["norm"]
    near(norm["mean"], state("vgg_thin")["features.1.running_mean"], 1e-6)
    unbiased = convert.read(
        torch7_files.write_t7(tmp_path / "plain.t7", torch7_files.thin_net(arrays, "identity")), THIN
    )
    moved = np.abs(
        w.model.apply(w.variables, image)["logits"] - unbiased.model.apply(unbiased.variables, image)["logits"]
    )
    assert moved.max() > 1e-3


def test_torch7_with_a_layer_too_many(tmp_path):
    network = torch7_files.thin_net(t7_arrays(), "identity")
    extra = torch7_files.nn("Linear", weight=np.eye(foreign.OUTPUTS, dtype=np.float32), bias=None)
    network.fields["modules"].append(extra)
    with pytest.raises(UserError, match=r"does not fit VGG\(.*extra 1: 49\.weight"):
        convert.read(torch7_files.write_t7(tmp_path / "more.t7", network), THIN)


def caffe_layers(head="fc8", outputs=foreign.OUTPUTS):
    """The plain VGG of the drawn arrays as Caffe's layers."""
    names = [f"conv{stage}_{i + 1}" for stage, n in enumerate((2, 2, 3, 3, 3), 1) for i in range(n)]
    arrays = [x for _, x in in_order("vgg_fc")]
    layers = []
    for name, weight, bias in zip((*names, "fc6", "fc7", head), arrays[::2], arrays[1::2], strict=True):
        if name == head:
            weight, bias = np.resize(weight, (outputs, *weight.shape[1:])), np.resize(bias, outputs)
        layers.append((name, "Convolution" if weight.ndim == 4 else "InnerProduct", [weight, bias]))
    return layers


@pytest.mark.parametrize("version", [1, 2])
def test_caffe(tmp_path, version):
    """Rows of fc6, and the order of channels: golden images are RGB, and Caffe's recipe turns them."""
    path = caffe_files.write_caffemodel(tmp_path / "vgg.caffemodel", caffe_layers(), version)
    options, pixels, n = foreign.CASES["vgg_fc"]
    w = convert.read(path, options, inputs=IMAGENET)
    assert w.provenance["names"] == "caffe"
    near(w.model.apply(w.variables, foreign.drawn_images(pixels, n))["logits"], foreign.golden("vgg_fc")["eval"], 1e-4)
    bgr = Inputs(IMAGENET.mean[::-1], IMAGENET.std[::-1], order="bgr")
    turned = convert.read(path, options, inputs=bgr)
    logits = turned.model.apply(turned.variables, foreign.drawn_images(pixels, n)[..., ::-1])["logits"]
    assert np.abs(logits - foreign.golden("vgg_fc")["eval"]).max() > 0.01  # BGR in, and turned to RGB again
    kernel = turned.variables["params"]["trunk"]["block1_1"]["conv"]["kernel"]
    swapped = jax.tree.map(lambda x: x, turned.variables)
    swapped["params"]["trunk"]["block1_1"]["conv"]["kernel"] = kernel[:, :, ::-1]
    near(turned.model.apply(swapped, foreign.drawn_images(pixels, n))["logits"], foreign.golden("vgg_fc")["eval"], 1e-4)


@pytest.mark.parametrize(
    "head, outputs, objective, inputs",
    [
        ("fc8", 1000, Identity(1000), CAFFE_VGG16),
        ("fc8", 2622, Identity(2622), CAFFE_VGG_FACE),
        ("fc8-101", 101, DEX(), CAFFE_DEX),
    ],
)
def test_caffe_networks_and_their_means(tmp_path, head, outputs, objective, inputs):
    path = caffe_files.write_caffemodel(tmp_path / "vgg.caffemodel", caffe_layers(head, outputs), 1)
    w = convert.read(path, foreign.CASES["vgg_fc"][0])
    assert (w.objective, w.inputs) == (objective, inputs)


def test_caffe_with_transposed_weights_is_refused(tmp_path):
    layers = caffe_layers()
    layers[-2] = (*layers[-2], {"transpose": 1})
    with pytest.raises(DataError, match="fc7 has its weights transposed: save it without"):
        convert.read(caffe_files.write_caffemodel(tmp_path / "t.caffemodel", layers), foreign.CASES["vgg_fc"][0])


@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch(tmp_path, zipped):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    tensors = {f"module.{name}": torch.from_numpy(np.array(x)) for name, x in state("resnet18").items()}
    checkpoint = {"epoch": 3, "state_dict": tensors, "optimizer": {"lr": 0.1}}
    torch.save(checkpoint, tmp_path / "r.pth", _use_new_zipfile_serialization=zipped)
    w = convert.read(tmp_path / "r.pth", "resnet18")
    assert w.inputs == IMAGENET and w.provenance["notes"]
    again = convert.read(saved(state("resnet18"), tmp_path / "r.safetensors"), "resnet18")
    jax.tree.map(np.testing.assert_array_equal, w.variables, again.variables)


# a file by other hands

PUBLISHED = Path(os.environ.get("AGEJAX_REAL_DATA", "")) / "weights/TinyAge_chalearn.pt"


@pytest.fixture(scope="module")
def published():
    if "AGEJAX_REAL_DATA" not in os.environ or not PUBLISHED.exists():
        pytest.skip("AGEJAX_REAL_DATA names no folder with weights/TinyAge_chalearn.pt")
    return convert.read(PUBLISHED)


@pytest.mark.real
def test_the_published_tiny_network_is_recognised(published):
    assert published.backbone == BACKBONES["tiny_12"].__class__(0.25, convolutions=(2, 2, 2, 3, 3), inputs=IMAGENET)
    assert published.objective == LabelDistribution(link="sigmoid")
    assert published.provenance["format"] == "pytorch legacy pickle"


@pytest.mark.real
def test_the_published_tiny_network_gives_torch_s_ages(published):
    """The ages that torch computes with the file's layers in their order; sigmoid, divided by its sum, expectation."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from torch import nn

    make = {
        "Conv2d": lambda given: nn.Conv2d(given["in_channels"], given["out_channels"], 3, padding=1, bias=False),
        "BatchNorm2d": lambda given: nn.BatchNorm2d(given["num_features"]),
        "ReLU": lambda given: nn.ReLU(),
        "MaxPool2d": lambda given: nn.MaxPool2d(2, 2),
        "AvgPool2d": lambda given: nn.AvgPool2d(7, 1),
        "Linear": lambda given: nn.Sequential(nn.Flatten(), nn.Linear(128, 101)),
        "Sigmoid": lambda given: nn.Sigmoid(),
    }
    modules = read_file(PUBLISHED).modules
    layers = [make[module.kind](module.options) for module in modules]
    for module, layer in zip(modules, layers):
        prefix = "1." if module.kind == "Linear" else ""
        layer.load_state_dict({prefix + role: torch.from_numpy(np.array(x)) for role, x in module.tensors.items()})
    image = foreign.drawn_images(224, 4)[:, :, :224]
    x = torch.from_numpy(np.array(IMAGENET.normalise(image))).permute(0, 3, 1, 2)
    with torch.no_grad():
        p = nn.Sequential(*layers).eval()(x)
    ages = ((p / p.sum(1, keepdim=True)) @ torch.arange(101.0)).numpy()
    value, _ = published.objective.predict(published.model.apply(published.variables, image)["logits"])
    np.testing.assert_allclose(value, ages, rtol=1e-4)


@pytest.mark.real
def test_the_published_tiny_network_gives_the_ages_that_torch_gave(published):
    image = foreign.drawn_images(224, 4)[:, :, :224]
    value, _ = published.objective.predict(published.model.apply(published.variables, image)["logits"])
    np.testing.assert_allclose(value, TORCH_AGES, rtol=1e-4)


TORCH_AGES = [43.937996, 40.176994, 42.240650, 35.053108]
