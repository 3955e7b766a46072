"""Options of compilation, programs kept on disk, flags for the record."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax import lax

from agejax.training import compilation

KEEPING = """
import sys
from pathlib import Path
import jax
from jax import monitoring
from agejax.training.compilation import keep_compiled

events = []
monitoring.register_event_listener(lambda event, **_: events.append(event.rpartition("/")[2]))
jax.jit(lambda x: x + 1)(1.0)  # something is compiled before the folder is known
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
keep_compiled(Path(sys.argv[1]))
print(float(jax.jit(lambda x: x * 3)(2.0)))
print(*sorted(set(events) & {"cache_hits", "cache_misses"}))
"""


def test_another_process_finds_what_one_has_compiled(tmp_path):
    folder = tmp_path / "not there yet"
    printed = [
        subprocess.run([sys.executable, "-c", KEEPING, folder], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert printed == ["6.0\ncache_misses\n", "6.0\ncache_hits\n"]
    assert list(folder.iterdir())


@pytest.fixture
def jax_config():
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_enable_xla_caches")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation.compilation_cache.reset_cache()


def test_kernels_are_not_kept_in_a_bucket(jax_config):
    compilation.keep_compiled(epath.Path("gs://bucket/run/compiled"))
    assert jax.config.jax_compilation_cache_dir == "gs://bucket/run/compiled"
    assert jax.config.jax_persistent_cache_enable_xla_caches == "none"
    compilation.keep_compiled(Path("compiled"))
    assert jax.config.jax_compilation_cache_dir == str(Path("compiled").absolute())
    assert jax.config.jax_persistent_cache_enable_xla_caches == "xla_gpu_per_fusion_autotune_cache_dir"


def test_only_cpu_training_has_options_and_the_user_has_the_last_word(monkeypatch):
    assert compilation.training_options("gpu") == {}
    assert compilation.training_options("tpu") == {}
    assert list(compilation.training_options("cpu")) == [compilation.YNN]
    monkeypatch.setenv("XLA_FLAGS", f"--{compilation.YNN}=LIBRARY_FUSION_TYPE_DOT")
    assert compilation.training_options("cpu") == {}


def test_a_version_that_does_not_know_the_option_does_without(monkeypatch):
    monkeypatch.setattr(compilation, "CPU_TRAINING", {"xla_cpu_no_such_option": "1"})
    compilation._is_known_on_cpu.cache_clear()
    try:
        assert compilation.training_options("cpu") == {}
    finally:
        compilation._is_known_on_cpu.cache_clear()


@pytest.mark.parametrize("stride, kernel", [(1, 3), (2, 3), (2, 7), (1, 1)])
def test_gradients_of_kernels_are_right_with_the_options(stride, kernel):
    """Against float64 sums over shifted slices."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((3, 16, 16, 20)), rng.standard_normal((kernel, kernel, 20, 24))
    edge = kernel // 2

    def convolve(w, x):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, w, (stride, stride), [(edge, edge)] * 2, dimension_numbers=dimensions)

    g = rng.standard_normal((3, -(-16 // stride), -(-16 // stride), 24))
    pull = jax.jit(
        lambda x, w, g: jax.vjp(lambda w: convolve(w, x), w)[1](g)[0],
        compiler_options=compilation.training_options("cpu"),
    )
    padded, reach = np.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0))), stride * (g.shape[1] - 1) + 1
    expected = [
        [
            np.einsum("bhwi,bhwo->io", padded[:, a : a + reach : stride, b : b + reach : stride], g)
            for b in range(kernel)
        ]
        for a in range(kernel)
    ]
    np.testing.assert_allclose(pull(*map(jnp.float32, (x, w, g))), expected, rtol=1e-4, atol=1e-3)


def test_flags_name_what_changes_the_program_and_can_be_written(monkeypatch):
    monkeypatch.setenv("XLA_SOMETHING", "1")
    monkeypatch.setenv("HF_TOKEN", "secret")
    found = json.loads(json.dumps(compilation.flags()))
    assert (found["backend"], found["devices"]) == ("cpu", 4)
    assert found["environment"]["XLA_SOMETHING"] == "1"
    assert "device_count=4" in found["environment"]["XLA_FLAGS"]
    assert "HF_TOKEN" not in found["environment"]
    assert found["training_options"] == compilation.training_options("cpu")
