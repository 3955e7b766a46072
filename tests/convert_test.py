"""Foreign weights: names and axes against torch's results, what is refused, what is written."""

import dataclasses
import functools
import json

import foreign
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import agejax
from agejax import convert
from agejax.__main__ import main
from agejax.convert.layout import to_ours, to_theirs
from agejax.models.efficientnet_v2 import EfficientNetV2
from agejax.models.inputs import CAFFE_DEX, FACES, HALF, IMAGENET, INPUTS
from agejax.models.network import BACKBONES
from agejax.models.resnet import ResNet
from agejax.models.vgg import VGG
from agejax.objectives import DEX, Identity, JointLabelDistribution
from agejax.parameters import flatten
from data_pipelines.errors import DataError, UserError

CASES = [pytest.param(case, marks=[pytest.mark.slow] * (case not in foreign.QUICK)) for case in foreign.CASES]


@functools.cache
def state(case):
    """The drawn arrays of a case, by torchvision's names."""
    golden = foreign.golden(case)
    return foreign.drawn_state(golden["names"], golden["shapes"])


def saved(tensors, path):
    safetensors.numpy.save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()}, path)
    return path


@pytest.fixture
def thin(tmp_path):
    """A narrow ThinAgeNet in a file, by torchvision's names."""
    return saved(state("vgg_thin"), tmp_path / "thin.safetensors")


def near(actual, expected, tolerance):
    """Whether the error is below a share of the largest value."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_torch_s(case, tmp_path):
    options, pixels, n = foreign.CASES[case]
    golden, image = foreign.golden(case), foreign.drawn_images(pixels, n)
    path = saved(state(case), tmp_path / "weights.safetensors")
    w = convert.read(path, dataclasses.replace(options, inputs=IMAGENET))
    if case == "googlenet":  # torchvision's fourth pool is 2×2, and no file says otherwise
        w = dataclasses.replace(w, backbone=dataclasses.replace(w.backbone, pool4=3))
    assert w.objective == Identity(foreign.OUTPUTS)

    def squares(params):
        logits = w.model.apply(w.variables | {"params": params}, image, train=False)["logits"]
        return jnp.sum(logits**2), logits

    gradients, logits = jax.jit(jax.grad(squares, has_aux=True))(w.variables["params"])
    near(logits, golden["eval"], 1e-4)
    first, last = first_and_last(gradients)
    near(first, golden["first"], 1e-3)
    near(last, golden["last"], 1e-3)
    train = jax.jit(lambda variables: w.model.apply(variables, image, train=True, mutable=["batch_stats"]))
    outputs, moved = train(w.variables)
    near(outputs["logits"], golden["train"], 1e-4)
    if case == "vgg_thin":
        near(moved["batch_stats"]["trunk"]["block5_3"]["norm"]["mean"], golden["running_mean"], 1e-4)


def first_and_last(gradients):
    """As the golden has them: 8 kernels of the first layer, 64 inputs of the last, in torch's axes."""
    kernels = {path: x for path, x in flatten(gradients).items() if path.endswith("kernel")}
    first = next(x for x in kernels.values() if x.ndim == 4 and x.shape[2] == 3)
    return to_theirs(first, "", "kernel")[:8], to_theirs(kernels["head/kernel"], "", "kernel")[:, :64]


def test_axes_there_and_back():
    rng = np.random.default_rng(0)
    conv, dense, fc6 = rng.normal(size=(5, 2, 3, 4)), rng.normal(size=(6, 5)), rng.normal(size=(3, 2 * 49))
    for theirs, unit, shape in ((conv, "a", (3, 4, 2, 5)), (dense, "b", (5, 6)), (fc6, "trunk/fc6", (98, 3))):
        ours = to_ours(theirs, unit, "kernel", shape)
        assert ours.shape == shape
        np.testing.assert_array_equal(to_theirs(ours, unit, "kernel"), theirs.astype(np.float32))
    assert to_ours(conv, "a", "kernel", (3, 4, 2, 5))[2, 3, 1, 4] == np.float32(conv[4, 1, 2, 3])
    assert to_ours(dense, "b", "kernel", (5, 6))[4, 1] == np.float32(dense[1, 4])
    row, column, channel = 2, 5, 1  # of the 7 × 7 map: channels are outermost there, innermost here
    assert to_ours(fc6, "trunk/fc6", "kernel", (98, 3))[(row * 7 + column) * 2 + channel, 2] == np.float32(
        fc6[2, channel * 49 + row * 7 + column]
    )
    assert to_ours(conv, "a", "kernel", (4, 3, 2, 5)) is None and to_ours(dense, "b", "kernel", (6, 5)) is None


def test_the_row_that_a_file_fits_is_found(tmp_path):
    for case, name in (("resnet18", "resnet18"), ("googlenet", "googlenet")):
        w = convert.read(saved(state(case), tmp_path / f"{case}.safetensors"))
        assert type(w.backbone) is type(BACKBONES[name])
    assert w.backbone == dataclasses.replace(BACKBONES["googlenet"], pool4=2, inputs=HALF)


def test_options_that_the_file_decides(tmp_path):
    tensors = dict(state("googlenet"))
    for name, x in state("googlenet").items():
        if "branch3.1.conv" in name:
            tensors[name] = x[:, :, 1:4, 1:4]
    w = convert.read(saved(tensors, tmp_path / "published.safetensors"), "googlenet")
    assert w.backbone.branch == 3
    biased = state("vgg_thin") | {
        name.replace("weight", "bias"): np.ones(len(x), np.float32)
        for name, x in state("vgg_thin").items()
        if x.ndim == 4
    }
    w = convert.read(saved(biased, tmp_path / "biased.safetensors"), VGG(1 / 16))
    assert w.backbone.bias and "bias" in w.variables["params"]["trunk"]["block3_2"]["conv"]


def test_a_part_that_all_names_begin_with_is_taken_off(tmp_path):
    trained = {f"model.{name}": x for name, x in state("vgg_thin").items()}
    w = convert.read(saved(trained, tmp_path / "t.safetensors"), VGG(1 / 16))
    assert w.provenance["notes"] == ["all names begin with model., which was taken off"]
    trained["other.bias"] = np.ones(3, np.float32)
    with pytest.raises(UserError, match="missing"):
        convert.read(saved(trained, tmp_path / "u.safetensors"), VGG(1 / 16))


def test_arrays_that_do_not_fit_are_listed_and_refused(tmp_path):
    good = state("vgg_thin")
    bad = dict(good)
    del bad["features.1.running_var"]
    bad["features.3.weight"] = good["features.3.weight"][:, :-1]
    bad["classifier.scale"] = np.ones(3, np.float32)
    with pytest.raises(UserError) as error:
        convert.read(saved(bad, tmp_path / "bad.safetensors"), VGG(1 / 16))
    assert str(error.value).startswith(f"{tmp_path}/bad.safetensors does not fit VGG(compression=0.0625): ")
    for part in (
        "missing 1: features.1.running_var",
        "extra 1: classifier.scale",
        "of another shape 1: features.3.weight 4×3×3×3 and not 4×4×3×3",
    ):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_another_architecture_is_named(tmp_path, thin):
    path = saved(state("resnet18"), tmp_path / "r.safetensors")
    with pytest.raises(UserError, match=r"does not fit ResNet\(depth=34\): missing .*; it fits resnet18$"):
        convert.read(path, "resnet34")
    with pytest.raises(UserError, match=r"is no network of thin, tiny, .*; the nearest is "):
        convert.read(thin)
    with pytest.raises(UserError, match="unknown backbone 'resnet19'; there are thin, "):
        convert.read(path, "resnet19")


def test_values_that_are_not_finite_are_refused(tmp_path):
    bad = state("vgg_thin") | {"features.1.bias": np.full(4, np.nan, np.float32)}
    with pytest.raises(DataError, match=r"features\.1\.bias holds values that are not finite"):
        convert.read(saved(bad, tmp_path / "nan.safetensors"), VGG(1 / 16))


def headed(case, outputs, prefix):
    """The drawn arrays with another number of outputs."""
    tensors = dict(state(case))
    for role in ("weight", "bias"):
        old = tensors[f"{prefix}.{role}"]
        tensors[f"{prefix}.{role}"] = np.resize(old, (outputs, *old.shape[1:]))
    return tensors


@pytest.mark.parametrize(
    "outputs, asked, expected",
    [
        (101, None, JointLabelDistribution()),
        (9, None, Identity(9)),
        (9, "Identity", Identity(9)),
        (101, "DEX", DEX()),
        (101, DEX(), DEX()),
    ],
)
def test_what_the_outputs_mean(tmp_path, outputs, asked, expected):
    path = saved(headed("vgg_thin", outputs, "classifier"), tmp_path / "n.safetensors")
    w = convert.read(path, VGG(1 / 16), objective=asked)
    assert w.objective == expected
    assert w.model.apply(w.variables, np.zeros((1, 32, 32, 3), np.uint8))["logits"].shape == (1, outputs)


def test_an_objective_of_another_size_is_refused(thin):
    with pytest.raises(UserError, match="has 7 outputs, DEX 101: give another objective"):
        convert.read(thin, VGG(1 / 16), objective="DEX")
    with pytest.raises(UserError, match="unknown objective 'DEXX'"):
        convert.read(thin, VGG(1 / 16), objective="DEXX")


def test_the_input_recipe_is_applied_and_kept(thin, tmp_path):
    image = foreign.drawn_images(48, 2)
    plain, caffe = (convert.read(thin, VGG(1 / 16), inputs=name) for name in (None, "caffe_dex"))
    assert plain.inputs == FACES and caffe.inputs == CAFFE_DEX == caffe.model.inputs
    given = caffe.model.trunk.apply({k: v["trunk"] for k, v in caffe.variables.items()}, to_bgr(image), False)[0]
    near(caffe.model.apply(caffe.variables, image)["features"], given, 1e-5)
    assert np.abs(given - plain.model.apply(plain.variables, image)["features"]).max() > 0.01
    convert.write(caffe, tmp_path / "out")
    assert convert.read(tmp_path / "out").inputs == CAFFE_DEX
    with pytest.raises(UserError, match="unknown input recipe 'caffee'"):
        convert.read(thin, VGG(1 / 16), inputs="caffee")


def to_bgr(image):
    return jnp.asarray(image[..., ::-1] - np.array([104.00699, 116.66877, 122.67891]), jnp.float32)


def test_what_is_written_is_read_again_and_says_where_it_comes_from(thin, tmp_path):
    w = convert.read(thin, VGG(1 / 16))
    convert.write(w, tmp_path / "deep/out")
    again = convert.read(tmp_path / "deep/out")
    assert (again.backbone, again.objective) == (w.backbone, w.objective)
    jax.tree.map(np.testing.assert_array_equal, again.variables, w.variables)
    card = json.loads((tmp_path / "deep/out/stage.json").read_text())
    origin = card["converted"]
    assert (origin["file"], origin["format"], origin["names"]) == ("thin.safetensors", "safetensors", "torchvision")
    assert len(origin["sha256"]) == 64 and origin["bytes"] == thin.stat().st_size
    assert card["description"]["backbone"]["inputs"]["mean"] == list(FACES.mean)
    assert sorted(x.name for x in (tmp_path / "deep").iterdir()) == ["out"]
    with pytest.raises(UserError, match=r"deep/out exists: give another name, or remove it"):
        convert.write(w, tmp_path / "deep/out")


def test_a_network_without_statistics_is_written_and_read_again(tmp_path):
    path = saved(state("vgg_fc"), tmp_path / "plain.safetensors")
    w = convert.read(path, VGG(1 / 32, "fc", norm=False, bias=True))
    convert.write(w, tmp_path / "out")
    again = convert.read(tmp_path / "out")
    assert again.variables["batch_stats"] == {}
    jax.tree.map(np.testing.assert_array_equal, again.variables["params"], w.variables["params"])


def test_nothing_is_left_where_writing_fails(thin, tmp_path, monkeypatch):
    w = convert.read(thin, VGG(1 / 16))
    monkeypatch.setattr("agejax.convert.weights.write_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        convert.write(w, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    convert.write(w, tmp_path / "out")  # what lies there from before does not disturb
    assert sorted(x.name for x in tmp_path.iterdir()) == ["out", "thin.safetensors"]


@pytest.mark.parametrize("case", ["vgg_thin", "vgg_fc", "resnet18", "googlenet", "efficientnet_v2_s"])
def test_the_way_out_gives_the_arrays_that_came_in(case, tmp_path):
    options, *_ = foreign.CASES[case]
    w = convert.read(saved(state(case), tmp_path / "in.safetensors"), dataclasses.replace(options, inputs=IMAGENET))
    convert.export(w, tmp_path / "out.safetensors")
    out = safetensors.numpy.load_file(tmp_path / "out.safetensors")
    expected = {name: x for name, x in state(case).items() if not name.endswith("num_batches_tracked")}
    assert out.keys() == expected.keys()
    for name, x in expected.items():
        np.testing.assert_array_equal(out[name], x, err_msg=name)
    with pytest.raises(UserError, match="exists"):
        convert.export(w, tmp_path / "out.safetensors")
    again = convert.read(tmp_path / "out.safetensors")  # which says what it is of
    assert (again.backbone, again.objective) == (w.backbone, w.objective)


def test_a_file_of_ours_keeps_options_that_others_cannot_tell(tmp_path):
    w = convert.read(saved(state("googlenet"), tmp_path / "in.safetensors"), "googlenet")
    published = dataclasses.replace(w, backbone=dataclasses.replace(w.backbone, pool4=3))
    convert.export(published, tmp_path / "out.safetensors")
    assert convert.read(tmp_path / "out.safetensors").backbone.pool4 == 3
    assert convert.read(tmp_path / "in.safetensors", "googlenet").backbone.pool4 == 2


def test_what_torchvision_would_compute_otherwise_does_not_go_out(tmp_path):
    w = convert.Weights(EfficientNetV2("s", padding="same"), Identity(7), {"params": {}, "batch_stats": {}}, {})
    with pytest.raises(UserError, match="torchvision has no EfficientNetV2 with TensorFlow's padding"):
        convert.export(w, tmp_path / "out.safetensors")
    assert not list(tmp_path.iterdir())


def test_torchvision_takes_what_goes_out(tmp_path):
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    torch = pytest.importorskip("torch")
    w = convert.read(saved(state("resnet18"), tmp_path / "in.safetensors"), ResNet(18, inputs=IMAGENET))
    convert.export(w, tmp_path / "out.safetensors")
    arrays = safetensors.numpy.load_file(tmp_path / "out.safetensors")
    network = torchvision.models.resnet18(num_classes=foreign.OUTPUTS)
    network.load_state_dict({name: torch.from_numpy(x) for name, x in arrays.items()}, strict=True)
    image = foreign.drawn_images(64, 2)
    x = torch.from_numpy(np.array(w.inputs.normalise(image))).permute(0, 3, 1, 2)
    near(w.model.apply(w.variables, image)["logits"], network.eval()(x).detach().numpy(), 1e-4)


# the command


def test_the_command_there_and_back(tmp_path, capsys):
    path = saved(state("resnet18"), tmp_path / "in.safetensors")
    assert main(["convert", str(path), str(tmp_path / "ours"), "--backbone=resnet18"]) == 0
    printed = capsys.readouterr().out
    assert "in.safetensors (safetensors): ResNet(" in printed and "parameters" in printed
    assert "input: RGB, white is 1, mean (0.485, 0.456, 0.406)" in printed
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "out.safetensors"), "--to=safetensors"]) == 0
    out = safetensors.numpy.load_file(tmp_path / "out.safetensors")
    np.testing.assert_array_equal(
        out["layer3.0.downsample.0.weight"], state("resnet18")["layer3.0.downsample.0.weight"]
    )


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is neither a .pth, .safetensors, .caffemodel nor .t7 file"),
        (b"<html>not found</html>", "is neither a .pth"),
        (b"\xff\xd8\xff\xe0 a photograph", "is neither a .pth"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{", "in.bin"),
    ],
)
def test_a_file_that_is_no_network_is_one_line_and_code_2(tmp_path, capsys, content, message):
    (tmp_path / "in.bin").write_bytes(content)
    assert main(["convert", str(tmp_path / "in.bin"), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert [x.name for x in tmp_path.iterdir()] == ["in.bin"]


def test_a_file_that_is_not_there(tmp_path, capsys):
    assert main(["convert", str(tmp_path / "no.pth"), str(tmp_path / "out")]) == 2
    assert "no.pth is not a file: give a .pth, .safetensors" in capsys.readouterr().err


def test_the_package_gives_its_parts_when_they_are_asked_for():
    assert agejax.convert is convert
    with pytest.raises(AttributeError, match="module 'agejax' has no attribute 'convertt'"):
        _ = agejax.convertt
    assert "imagenet" in INPUTS


def test_what_is_written_can_be_evaluated(drawn_data, tmp_path, capsys):
    path = saved(headed("vgg_thin", 101, "classifier"), tmp_path / "n.safetensors")
    w = dataclasses.replace(convert.read(path, VGG(1 / 16)), image_size=32)
    convert.write(w, tmp_path / "out")
    words = ["evaluate", f"--checkpoint={tmp_path / 'out'}", "--data=synthetic", f"--data_dir={drawn_data}"]
    assert main([*words, f"--json={tmp_path / 'numbers.json'}"]) == 0
    assert capsys.readouterr().out.endswith("(synthetic test)\n")  # whose median is not known
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["median_baseline_mae"] is None and numbers["trained_on"] == "n.safetensors"
