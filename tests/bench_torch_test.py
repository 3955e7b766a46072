"""That torch does the same work as ours under the bench: same sizes, same outputs and losses on the same weights."""

import cv2
import jax
import numpy as np
import pytest

from agejax import parameters
from agejax.bench import device, floor, ours, rounds, step, train
from agejax.bench.ours import OBJECTIVE, Case
from agejax.bench.rounds import Settings
from agejax.models.cost import elements
from agejax.models.inputs import CAFFE_DEX
from agejax.models.network import BACKBONES, variable_shapes
from agejax.models.vgg import VGG
from agejax.parameters import flatten
from data_pipelines.plans import NO_AUGMENTATION, Augmentation

torch = pytest.importorskip("torch", reason="a peer of the bench, not a part of the project")
pytest.importorskip("torchvision", reason="a peer of the bench, not a part of the project")

from agejax.bench import torch_augment, torch_networks, torch_steps  # noqa: E402

SMALL = VGG(0.03125, convolutions=(1, 1, 1, 1, 1))


@pytest.fixture
def small(monkeypatch):
    """A network of five layers, and one short round."""
    monkeypatch.setitem(BACKBONES, "small", SMALL)
    monkeypatch.setitem(torch_networks.NETWORKS, "small", lambda: torch_networks.HybridVGG(0.03125, (1, 1, 1, 1, 1)))
    monkeypatch.setattr(rounds, "ROUNDS", 1)
    for module in (step, train):
        monkeypatch.setattr(module, "BURST", 0.001)
    monkeypatch.setattr(step, "SEARCH", {"cpu": (2, 4)})
    monkeypatch.setattr(floor, "bandwidth", lambda: 1e9)
    monkeypatch.setattr(floor, "peak", lambda dtype: 1e9)
    return Case("small", "float32", 32)


@pytest.mark.parametrize("model", torch_networks.NETWORKS)
def test_parameters_multiply_adds_and_elements_are_ours(model):
    case = Case(model, "float32", 224)
    with torch.device("meta"):
        network = torch_networks.NETWORKS[model]().eval()
    counted = {"macs": 0, "elements": 0}

    def note(layer, given, out):
        counted["elements"] += out.numel()
        counted["macs"] += out.numel() * layer.weight[0].numel()

    for layer in network.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            layer.register_forward_hook(note)
    network(torch.empty(1, 3, 224, 224, device="meta"))
    theirs = sum(x.numel() for x in network.parameters())
    assert theirs == parameters.count(variable_shapes(case.network, 224)["params"])
    assert counted == {"macs": case.macs, "elements": elements(case.network, 224)}


def same_weights(case, network):
    """Our weights in torch's network of the VGG family, layer by layer in order."""
    ours_of, stats = flatten(case.variables["params"]), flatten(case.variables["batch_stats"])
    units = sorted({path.rsplit("/", 2)[0] for path in ours_of if "/conv/" in path})
    convolutions = [x for x in network.network.trunk if isinstance(x, torch.nn.Conv2d)]
    norms = [x for x in network.network.trunk if isinstance(x, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for unit, convolution, norm in zip(units, convolutions, norms, strict=True):
            kernel = np.array(ours_of[f"{unit}/conv/kernel"]).transpose(3, 2, 0, 1)
            convolution.weight.copy_(torch.from_numpy(kernel))
            norm.weight.copy_(torch.from_numpy(np.array(ours_of[f"{unit}/norm/scale"])))
            norm.running_mean.copy_(torch.from_numpy(np.array(stats[f"{unit}/norm/mean"])))
        network.network.head.weight.copy_(torch.from_numpy(np.array(ours_of["head/kernel"]).T))
        network.network.head.bias.copy_(torch.from_numpy(np.array(ours_of["head/bias"])))
    return network


@pytest.mark.parametrize("train_mode", [False, True])
def test_outputs_and_losses_are_ours(small, train_mode):
    batch = ours.drawn_batch(4, 32)
    network = same_weights(small, torch_steps.network_of("small", small.inputs, "cpu")).train(train_mode)
    theirs = network(torch.from_numpy(batch["image"]))
    apply = jax.jit(lambda *given: small.network.apply(*given, train=train_mode, mutable=["batch_stats"])[0])
    outputs = apply(small.variables, batch["image"])
    np.testing.assert_allclose(theirs.detach(), outputs["logits"], atol=2e-4)
    loss = torch_networks.joint_loss(theirs, torch.from_numpy(batch["label"]), torch.from_numpy(batch["sigma"]))
    wanted = OBJECTIVE.loss(outputs["logits"], {key: jax.numpy.asarray(x) for key, x in batch.items()})[0].mean()
    np.testing.assert_allclose(loss.detach(), wanted, rtol=1e-4)
    ages = torch_networks.predicted(theirs).detach()
    np.testing.assert_allclose(ages, OBJECTIVE.predict(outputs["logits"])[0], atol=1e-3)
    assert np.ptp(theirs.detach().numpy()) > 0.1


def test_pixels_are_normalised_as_ours():
    image = ours.drawn_batch(2, 8)["image"]
    for inputs in (Case("thin", "float32", 32).inputs, Case("vgg16", "float32", 32).inputs):
        network = torch_networks.Ages(torch.nn.Conv2d(3, 3, 1), inputs)
        network.network.weight.data[:] = torch.eye(3)[:, :, None, None]
        network.network.bias.data[:] = 0
        found = network(torch.from_numpy(image)).detach().permute(0, 2, 3, 1)
        np.testing.assert_allclose(found, inputs.normalise(image), atol=1e-5)
    with pytest.raises(ValueError, match="bgr"):
        torch_networks.Ages(torch.nn.Conv2d(3, 3, 1), CAFFE_DEX)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_torch_trains(small, dtype):
    case = Case("small", dtype, 32)
    work = torch_steps.training(case, "eager", "cpu", 4)
    first = float(work.result)
    for _ in range(20):
        work.start()
    work.wait()
    assert float(work.result) < first and work.seconds_to_compile > 0 and work.memory is None


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-3), ("bfloat16", 3.0)])
def test_torch_answers_with_folded_norms(small, monkeypatch, dtype, tolerance):
    made = []
    find = torch_steps.network_of
    monkeypatch.setattr(torch_steps, "network_of", lambda *given: made.append(find(*given)) or made[-1])
    fused, fuse = [], torch_steps.fuse
    monkeypatch.setattr(torch_steps, "fuse", lambda network: fused.append(network) or fuse(network))
    work = torch_steps.inference(Case("small", dtype, 32), "eager", "cpu", 4)
    assert not any(isinstance(x, torch.nn.BatchNorm2d) for x in made[0].modules())
    assert {x.dtype for x in made[0].network.parameters()} == {getattr(torch, dtype)}
    plain = torch_networks.Ages(fused[0], small.inputs).eval()
    image = torch.from_numpy(ours.drawn_batch(4, 32)["image"])
    wanted = torch_networks.predicted(plain.float()(image)) if dtype == "float32" else work.result
    np.testing.assert_allclose(work.result, wanted.detach(), atol=tolerance)


@pytest.mark.parametrize("model", ["resnet18", "efficientnet_v2_s"])
def test_torchvisions_networks_can_be_folded(model):
    network = torch_networks.NETWORKS[model]().eval()
    folded = torch_steps.fuse(network)
    assert not any(isinstance(x, torch.nn.BatchNorm2d) for x in folded.modules())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), network(x), atol=1e-3, rtol=1e-3)


@pytest.mark.slow  # compiling takes 20 seconds
def test_compiled_torch_gives_what_eager_gives(small):
    torch._dynamo.reset()
    torch.manual_seed(0)
    eager = torch_steps.training_step(small, "eager", "cpu")
    torch.manual_seed(0)
    compiled = torch_steps.training_step(small, "compile", "cpu")
    batch = [torch.from_numpy(ours.drawn_batch(4, 32)[key]) for key in ("image", "label", "sigma")]
    for _ in range(3):
        torch.testing.assert_close(compiled(*batch), eager(*batch), atol=1e-2, rtol=1e-3)


def test_torch_stands_beside_ours(small):
    settings = Settings(seconds=0.01, models=("small",), size=32, batch=4, inference=("2", "best"), peers=("eager",))
    for measure in (step.measure_training, step.measure_inference):
        rows = [row for row in measure(settings) if not isinstance(row, str)]
        compared = [row for row in rows if row.unit in ("images/s", "ms")]
        assert compared and {row.peer for row in compared} == {"torch eager"}
        assert all(row.ratio == row.value / row.peer_value for row in compared)


def test_torch_knows_the_floors(monkeypatch):
    for operation in (floor.Copy(4096), floor.Product(8, "bfloat16"), floor.Convolution(1, 6, 4, "float32")):
        floor._torch_loop(operation, "cpu")()


def test_on_a_gpu_memory_is_shared_and_the_peak_is_read(monkeypatch):
    """As far as it can be run without one: the names exist, and are called."""
    called = []
    monkeypatch.setattr(device, "platform", lambda: "gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", called.append)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: called.append("reset"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 350)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: called.append("wait"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: called.append("empty"))
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    before = torch.get_float32_matmul_precision()
    try:
        assert device.torch_device() == ("cuda", "") and called == [0.45] and torch.backends.cudnn.benchmark
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    work = torch_steps.Work(lambda: lambda: called.append("step"), "cuda", 4)
    assert called[1:] == ["reset", "step", "step", "step", "wait"] and work.memory == 250
    device.release()
    assert called[-1] == "empty"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.torch_device() == ("", "no figures of torch: it has no gpu here")


def test_torch_out_of_memory_is_recognised():
    assert device.is_short_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 55)
    assert device.is_short_of_memory(caught.value)


# augmentation in device memory


def canvas(batch=4, side=48):
    rng = np.random.default_rng(3)
    image = cv2.GaussianBlur(rng.integers(0, 256, (batch * side, side, 3), np.uint8), (0, 0), 1.5)
    return torch.from_numpy(cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX).reshape(batch, side, side, 3))


def only(**fields):
    return Augmentation(**{**{f: getattr(NO_AUGMENTATION, f) for f in NO_AUGMENTATION.__dataclass_fields__}, **fields})


def augmented(images, **fields):
    return torch_augment.augmenter(32, only(**fields))(images)


def test_without_augmentation_it_is_the_middle_of_the_canvas():
    torch.testing.assert_close(augmented(canvas()), canvas()[:, 8:40, 8:40].float(), atol=1e-2, rtol=0)


def test_flips_and_greys():
    plain = augmented(canvas())
    torch.testing.assert_close(augmented(canvas(), flip=1.0), plain.flip(2), atol=1e-2, rtol=0)
    luma = plain @ torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(augmented(canvas(), gray=1.0), luma[..., None].expand_as(plain), atol=1e-2, rtol=0)


def test_a_turn_is_a_turn_about_the_middle(monkeypatch):
    monkeypatch.setattr(torch_augment, "_signed", lambda x, width: torch.full((len(x),), width))
    turned = augmented(canvas(1), rotation=90.0)
    plain = augmented(canvas(1))
    either = [float((turned - plain.rot90(k, (1, 2))).abs().max()) for k in (1, 3)]
    assert min(either) < 0.1 and max(either) > 20


@pytest.mark.parametrize("fields", [{"zoom": 0.3}, {"shift": 0.2}, {"brightness": 0.4}, {"contrast": 0.4}])
def test_every_step_is_drawn_for_each_image(fields):
    images = canvas(1).expand(6, -1, -1, -1)
    drawn = augmented(images, **fields)
    assert drawn.shape == (6, 32, 32, 3) and float(drawn.min()) >= 0 and float(drawn.max()) <= 255
    assert len({image.numpy().tobytes() for image in drawn}) == 6


def test_low_resolution_takes_high_frequencies_away():
    plain, degraded = augmented(canvas(16)), augmented(canvas(16), degrade=0.25)
    assert degraded.shape == plain.shape
    sharpness = [float(x.diff(dim=1).abs().mean()) for x in (plain, degraded)]
    assert sharpness[1] < 0.9 * sharpness[0] and float((plain - degraded).abs().mean()) < 30


@pytest.mark.slow  # compiling takes 20 seconds and more
def test_torch_trains_end_to_end_beside_ours(small, monkeypatch, drawn_data):
    monkeypatch.setattr(train, "workers", lambda: 0)
    settings = Settings("synthetic", drawn_data, seconds=0.01, models=("small",), size=32, batch=8)
    found = list(train.measure(settings))
    assert not [remark for remark in found if isinstance(remark, str)]
    peers = {row.peer for row in found if row.what.endswith("feed=resident") and row.unit == "images/s"}
    assert peers == {"torch, DataLoader", "torch, resident"}


def test_rows_are_drawn_anew_in_every_epoch():
    rows = train._endless_rows(5, 3, "cpu")
    drawn = torch.cat([next(rows) for _ in range(5)]).reshape(3, 5)
    assert all(sorted(epoch.tolist()) == list(range(5)) for epoch in drawn)
