"""How programs are compiled: options by backend, compiled programs kept on disk, and the flags for the record."""

import functools
import os
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from agejax.files import is_remote

YNN = "xla_cpu_experimental_ynn_fusion_type"
# XLA's own choice for CPU less YNNPACK's convolutions. Gradients of kernels are convolutions with maps for kernels:
# YNNPACK computes them on one thread and in up to twice the instructions that XLA's other way, Eigen, takes on all.
CPU_TRAINING = {YNN: "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
ENVIRONMENT = ("XLA_", "JAX_", "LIBTPU_", "NCCL_", "CUDA_", "CUDNN_", "NVIDIA_TF32_OVERRIDE")
CONFIG = (
    *("jax_compilation_cache_dir", "jax_persistent_cache_enable_xla_caches", "jax_default_matmul_precision"),
    *("jax_enable_x64", "jax_default_prng_impl", "jax_threefry_partitionable"),
)


def training_options(platform: str) -> dict[str, str]:
    """`compiler_options` for jitting a training step on devices of that platform: cpu, gpu or tpu.

    Empty where the user's XLA_FLAGS choose themselves, and where this version of XLA does not know the option.
    """
    if platform != "cpu" or YNN in os.environ.get("XLA_FLAGS", "") or not _is_known_on_cpu():
        return {}
    return CPU_TRAINING


@functools.cache
def _is_known_on_cpu() -> bool:
    try:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            jax.jit(lambda: 0).lower().compile(compiler_options=CPU_TRAINING)
    except jax.errors.JaxRuntimeError:
        return False
    return True


def keep_compiled(folder: Path) -> None:
    """Programs compiled from here on are kept in the folder, and found there by this and other processes.

    On a GPU XLA's choices of kernels are kept with them, and so stay the same from run to run; not in a bucket, which
    XLA cannot write to. Programs that compile in under a second are not kept.
    """
    remote = is_remote(folder)
    jax.config.update("jax_compilation_cache_dir", os.fspath(folder if remote else folder.absolute()))
    kernels = "none" if remote else "xla_gpu_per_fusion_autotune_cache_dir"
    jax.config.update("jax_persistent_cache_enable_xla_caches", kernels)
    compilation_cache.reset_cache()  # what was compiled before has settled that there is none


def flags() -> dict:
    """Backend, device kind and count, the environment variables and jax options that change what is compiled."""
    device = jax.devices()[0]
    chosen = {name: value for name, value in sorted(os.environ.items()) if name.startswith(ENVIRONMENT)}
    return {
        "backend": device.platform,
        "device_kind": device.device_kind,
        "devices": jax.device_count(),
        "environment": chosen,
        "jax": {name: getattr(jax.config, name) for name in CONFIG},
        "training_options": training_options(device.platform),
    }
