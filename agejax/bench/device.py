"""The device that is measured: how two programs share it, what it is called, and what happens when memory is short."""

import gc
import os
import sys
from collections.abc import Callable
from importlib import util
from typing import Any

from data_pipelines.loaders import cores

ONE_EACH = "0.45"
"""Of the device's memory, when torch is there too: the rest is for the libraries' own."""
FRACTIONS = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")  # new name and old; jax refuses both
SHORT = ("RESOURCE_EXHAUSTED", "out of memory", "can't allocate memory", "CUDNN_STATUS_ALLOC_FAILED")


def share_memory() -> None:
    """Leaves room for torch beside jax, in one block so that it does not splinter; before jax opens the device."""
    if util.find_spec("torch") and not any(name in os.environ for name in FRACTIONS):
        os.environ[FRACTIONS[0]] = ONE_EACH


def platform() -> str:
    """cpu, gpu or tpu: where jax computes."""
    import jax

    return jax.default_backend()


def kind() -> str:
    """As the device calls itself: NVIDIA H100 80GB HBM3; cpu."""
    import jax

    return jax.devices()[0].device_kind


def dtypes(asked: tuple[str, ...]) -> tuple[str, ...]:
    """Those that are measured: what was asked for, or what this device is used with."""
    return asked or (("float32",) if platform() == "cpu" else ("float32", "bfloat16"))


def torch_device() -> tuple[str, str]:
    """Torch's name for the device that jax computes on, and ""; or "" and why there is none."""
    if util.find_spec("torch") is None:
        return "", "no figures of torch, which is not installed: pip install 'agejax[bench]'"
    import torch

    if platform() == "cpu":
        torch.set_num_threads(cores())  # the loader's bench leaves it at one
        return "cpu", ""
    if platform() == "gpu" and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(float(ONE_EACH))
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # TensorFloat-32 in products, as jax's default has it
        return "cuda", ""
    return "", f"no figures of torch: it has no {platform()} here"


def release() -> None:
    """Gives back what the last contestants held; they must not be referred to any more."""
    import jax

    gc.collect()
    jax.clear_caches()
    if torch := sys.modules.get("torch"):
        if dynamo := sys.modules.get("torch._dynamo"):
            dynamo.reset()  # and with it the count of recompilations, beyond which it would fall back to eager
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def is_short_of_memory(error: BaseException) -> bool:
    """Whether jax's or torch's error says so."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in SHORT)


def attempt(work: Callable, *given) -> tuple[Any, str, bool]:
    """(what the work gives, "", False), or (None, what went wrong in one line, whether memory was short).

    The error itself is not kept: its frames would keep arrays on the device.
    """
    try:
        return work(*given), "", False
    except Exception as error:
        return None, in_one_line(error), is_short_of_memory(error)


def in_one_line(error: BaseException) -> str:
    """What to tell the reader."""
    if is_short_of_memory(error):
        return "out of memory"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]
