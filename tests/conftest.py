"""What every test runs under. Set in the environment: before jax is imported, and for child processes too."""

import os

import pytest

DEVICES = "--xla_force_host_platform_device_count"

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")  # (B, 1) against (B,) must not pass
if DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}=4".strip()


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", r"error:::(agejax|data_pipelines|experiments)(\.|$)")


@pytest.fixture
def x64():
    """float64 in jax for one test: for goldens printed with more digits than float32 holds."""
    import jax

    with jax.enable_x64(True):
        yield
