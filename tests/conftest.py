"""What every test runs under. Set in the environment: before jax is imported, and for child processes too."""

import contextlib
import io
import os
import tempfile
import types

import pytest

DEVICES = "--xla_force_host_platform_device_count"

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")  # (B, 1) against (B,) must not pass
# many tests and their child processes compile the same programs: once a session is enough
PROGRAMS = tempfile.TemporaryDirectory(prefix="agejax-tests-", ignore_cleanup_errors=True)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", PROGRAMS.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
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


@pytest.fixture(scope="session")
def drawn_data(tmp_path_factory):
    """A data_dir with the few drawn faces that tiny runs share."""
    import tiny

    from data_pipelines import builders

    folder = tmp_path_factory.mktemp("data")
    builders.prepare("synthetic", folder, faces=tiny.FACES)
    return folder


@pytest.fixture(scope="session")
def tiny_run(drawn_data, tmp_path_factory):
    """A finished run of both stages, for tests that read what it left: .words, .folder, .code, .printed."""
    import tiny

    from experiments.run import main

    folder, screen = tmp_path_factory.mktemp("runs") / "tiny", io.StringIO()
    words = tiny.words(drawn_data, folder, *tiny.PRETRAIN, *tiny.FINETUNE)
    with contextlib.redirect_stdout(screen):
        code = main(words)
    return types.SimpleNamespace(words=words, folder=folder, code=code, printed=screen.getvalue())
