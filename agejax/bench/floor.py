"""What this device can do at best: bytes it copies and multiply-adds it does a second, measured and not looked up."""

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from agejax.bench import device
from agejax.bench.rounds import OURS, Contestant, Row, Settings, compare, race

TIMES = 10  # in a row, before anyone waits
QUICK = 1.0  # seconds of measuring what other benches are held against


@dataclass(frozen=True)
class Copy:
    """x + 1 in place: every byte is read and written."""

    bytes: int

    unit = "GB/s"

    @property
    def what(self) -> str:
        return f"copy, {self.bytes / 1e9:.2g} GB"

    @property
    def work(self) -> float:
        return 2 * self.bytes / 1e9

    def in_jax(self) -> tuple[Callable, tuple]:
        import jax.numpy as jnp

        return lambda x: x + 1, (jnp.zeros(self.bytes // 4, jnp.float32),)

    def in_torch(self, where: str) -> Callable[[], object]:
        import torch

        return partial(torch.zeros(self.bytes // 4, device=where).add_, 1)


@dataclass(frozen=True)
class Product:
    """Two square matrices."""

    side: int
    dtype: str

    unit = "TFLOP/s"

    @property
    def what(self) -> str:
        return f"product, {self.side} × {self.side}, {self.dtype}"

    @property
    def work(self) -> float:
        return 2 * self.side**3 / 1e12

    def in_jax(self) -> tuple[Callable, tuple]:
        shape = (self.side, self.side)
        return lambda x, w: x @ w, (_normal(0, shape, 1.0, self.dtype), _normal(1, shape, self.side**-0.5, self.dtype))

    def in_torch(self, where: str) -> Callable[[], object]:
        import torch

        dtype = getattr(torch, self.dtype)
        x, w = (torch.randn(self.side, self.side, device=where).to(dtype) for _ in range(2))
        return partial(torch.mm, x, w * self.side**-0.5, out=torch.empty_like(x))


@dataclass(frozen=True)
class Convolution:
    """3×3, as many channels out as in."""

    batch: int
    side: int
    channels: int
    dtype: str

    unit = "TFLOP/s"

    @property
    def what(self) -> str:
        return f"convolution, {self.batch} × {self.side}² × {self.channels}, {self.dtype}"

    @property
    def work(self) -> float:
        return 2 * self.batch * self.side**2 * self.channels**2 * 9 / 1e12

    def in_jax(self) -> tuple[Callable, tuple]:
        import jax

        x = _normal(0, (self.batch, self.side, self.side, self.channels), 1.0, self.dtype)
        w = _normal(1, (3, 3, self.channels, self.channels), (9 * self.channels) ** -0.5, self.dtype)
        layout = ("NHWC", "HWIO", "NHWC")
        return lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout), (x, w)

    def in_torch(self, where: str) -> Callable[[], object]:
        import torch

        shapes = (self.batch, self.channels, self.side, self.side), (self.channels, self.channels, 3, 3)
        x, w = (torch.randn(shape, device=where).to(getattr(torch, self.dtype)) for shape in shapes)
        layout = torch.channels_last
        return partial(torch.conv2d, x.to(memory_format=layout), w.to(memory_format=layout), padding=1)


def measure(settings: Settings) -> Iterator[Row | str]:
    """Rows, or remarks for the reader."""
    torch_device, remark = device.torch_device()
    if remark:
        yield remark
    dtypes = device.dtypes(settings.dtypes)
    for operation in [copy(), *map(product, dtypes), *map(convolution, dtypes)]:
        makers = {OURS: partial(_jax_loop, operation)}
        if torch_device:
            makers["torch"] = partial(_torch_loop, operation, torch_device)
        made = {name: device.attempt(make) for name, make in makers.items()}
        yield from (f"{operation.what}: {name}: {wrong}" for name, (_, wrong, _) in made.items() if wrong)
        loops = {name: Contestant(partial(_worth, loop, operation)) for name, (loop, _, _) in made.items() if loop}
        if OURS in loops:
            speeds, failures = race(loops, settings.seconds)
            yield from (f"{operation.what}: {name}: {wrong}" for name, wrong in failures.items())
            yield from compare(device.kind(), operation.what, speeds, operation.unit) if speeds else ()
        del made, loops
        device.release()


def copy() -> Copy:
    return Copy(1 << 28 if device.platform() == "cpu" else 1 << 30)


def product(dtype: str) -> Product:
    return Product(1024 if device.platform() == "cpu" else 8192, dtype)


def convolution(dtype: str) -> Convolution:
    return Convolution(1 if device.platform() == "cpu" else 256, 56, 128, dtype)


@functools.cache
def bandwidth() -> float:
    """Bytes a second, those read and those written."""
    return _quickly(copy()) * 1e9


@functools.cache
def peak(dtype: str) -> float:
    """Floating-point operations a second in a product of big matrices; on NVIDIA float32 is TensorFloat-32."""
    return _quickly(product(dtype)) * 1e12


def _quickly(operation: Copy | Product) -> float:
    loop, speeds, end = _jax_loop(operation), [], time.perf_counter() + QUICK
    while len(speeds) < 3 or time.perf_counter() < end:
        began = time.perf_counter()
        speeds.append(_worth(loop, operation) / (time.perf_counter() - began))
    return max(speeds)


def _worth(loop: Callable[[], None], operation: Copy | Product | Convolution) -> float:
    loop()
    return TIMES * operation.work


def _jax_loop(operation: Copy | Product | Convolution) -> Callable[[], None]:
    """Does it some times and waits; warm."""
    import jax

    once, (x, *others) = operation.in_jax()
    compiled, held = jax.jit(once, donate_argnums=0), [x]  # in place: fresh pages would cost a CPU more than the copy

    def loop() -> None:
        for _ in range(TIMES):
            held[0] = compiled(held[0], *others)
        held[0].block_until_ready()

    loop()
    return loop


def _torch_loop(operation: Copy | Product | Convolution, where: str) -> Callable[[], None]:
    import torch

    with torch.inference_mode():
        once = operation.in_torch(where)

    def loop() -> None:
        with torch.inference_mode():
            for _ in range(TIMES):
                once()
        if where == "cuda":
            torch.cuda.synchronize()

    loop()
    return loop


def _normal(seed: int, shape: tuple[int, ...], scale: float, dtype: str):
    import jax

    return jax.random.normal(jax.random.key(seed), shape, dtype) * scale
