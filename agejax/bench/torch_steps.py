"""Torch's training step and inference as contestants, as a careful user writes them.

channels_last, uint8 pixels that lie on the device and are normalised inside; bfloat16 by autocast in training, as the
dtype of the weights in inference; fused Adam; batch norms folded for inference; compiled, on a GPU with CUDA graphs.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.fx.experimental.optimization import fuse

from agejax.bench.ours import OPTIMIZER, Case, drawn_batch
from agejax.bench.torch_networks import NETWORKS, Ages, joint_loss, predicted

WAYS: dict[str, dict[str, Any] | None] = {  # name → options of torch.compile; None: not compiled
    "eager": None,
    "compile": {"mode": "reduce-overhead"},  # CUDA graphs; on a CPU it is the default mode
    "max-autotune": {"mode": "max-autotune"},
}


class Work:
    """Compiled and warm; `start` does it once without waiting, `wait` waits for all that was started."""

    def __init__(self, build: Callable[[], Callable[[], torch.Tensor]], device: str, batch: int):
        self.device, self.batch, self.steps, self.memory, self.result = device, batch, 1, None, None
        began, before = time.perf_counter(), 0
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        self.function = build()
        for _ in range(3):  # the first compiles, the second records a CUDA graph
            self.start()
        self.wait()
        self.seconds_to_compile = time.perf_counter() - began
        if device == "cuda":
            self.memory = torch.cuda.max_memory_allocated() - before

    def start(self) -> None:
        mark(self.device)
        self.result = self.function()

    def wait(self) -> None:
        waiter(self.device)(self.result)


def mark(device: str) -> None:
    """Says that the results of the step before are not read any more: CUDA graphs write over them."""
    if device == "cuda":
        torch.compiler.cudagraph_mark_step_begin()


def waiter(device: str) -> Callable[[torch.Tensor], None]:
    """What waits for all that was started; the result does not matter."""
    return (lambda _: torch.cuda.synchronize()) if device == "cuda" else (lambda _: None)


def training(case: Case, way: str, device: str, batch: int) -> Work:
    """Forward, backward, Adam."""

    def build():
        given = drawn_batch(batch, case.size)
        image, label, sigma = (torch.from_numpy(given[key]).to(device) for key in ("image", "label", "sigma"))
        step = training_step(case, way, device)
        return lambda: step(image, label, sigma)

    return Work(build, device, batch)


def training_step(case: Case, way: str, device: str) -> Callable[..., torch.Tensor]:
    """(image, label, sigma) → the loss; the network it trains is its own."""
    network = network_of(case.model, case.inputs, device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=OPTIMIZER.learning_rate, fused=True)

    def loss_of(image, label, sigma):
        with torch.autocast(device, torch.bfloat16, enabled=case.dtype == "bfloat16"):
            outputs = network(image)
        return joint_loss(outputs, label, sigma)

    compiled = in_way(loss_of, way, device)

    def step(image, label, sigma):
        optimizer.zero_grad(set_to_none=True)
        loss = compiled(image, label, sigma)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def inference(case: Case, way: str, device: str, batch: int) -> Work:
    """Raw uint8 pixels on the device → ages."""

    def build():
        network = network_of(case.model, case.inputs, device).eval()
        network.network = fuse(network.network).to(memory_format=torch.channels_last)
        if case.dtype == "bfloat16":
            network.network.bfloat16()
        image = torch.from_numpy(drawn_batch(batch, case.size)["image"]).to(device)
        ages = in_way(lambda image: predicted(network(image)), way, device)

        def answer():
            with torch.inference_mode():
                return ages(image)

        return answer

    return Work(build, device, batch)


def network_of(model: str, inputs, device: str) -> Ages:
    """Fresh weights, channels_last."""
    return Ages(NETWORKS[model](), inputs).to(device).to(memory_format=torch.channels_last)


def in_way(function: Callable, way: str, device: str) -> Callable:
    """The function as it is, or compiled for the shapes that it will be given."""
    options = WAYS[way]
    if options is None:
        return function
    return torch.compile(function, dynamic=False, **({} if device == "cpu" and way == "compile" else options))
