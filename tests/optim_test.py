"""Optimisers and schedules against torch's and Torch7's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agejax.training.optim import Adam, OneCycle, StepDecay, make_optimizer

CONSTANT = StepDecay(factor=1.0)


@pytest.mark.parametrize(
    ("gradients", "form", "eps", "expected"),
    [
        # float64 recomputation of torch7 optim/adam.lua and of Kingma & Ba
        ([0.1], "torch7", 1e-7, -9.999683782234e-04),
        ([1e-5], "torch7", 1e-7, -7.597469266480e-04),
        ([1e-6], "torch7", 1e-7, -2.402530733520e-04),
        ([1e-5, -2e-5, 3e-5], "torch7", 1e-7, -7.554946503864e-04),
        ([1e-5], "standard", 1e-8, -9.990009990010e-04),
        ([1e-6], "standard", 1e-8, -9.900990099010e-04),
        ([1e-5, -2e-5, 3e-5], "standard", 1e-8, -9.762111445441e-04),
        ([1e-5, -2e-5, 3e-5], "standard", 1e-7, -9.679559836695e-04),
    ],
)
def test_adam_moves_as_the_reference(gradients, form, eps, expected):
    params = {"kernel": jnp.zeros(())}
    optimizer = make_optimizer(Adam(1e-3, eps=eps, form=form), CONSTANT, params, "", 10, 1)
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update({"kernel": jnp.asarray(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["kernel"], expected, rtol=2e-5)


def test_one_cycle_is_torch_s():
    """torch.optim.lr_scheduler.OneCycleLR(max_lr=0.005, total_steps=100)."""
    expected = {
        0: 2e-4, 10: 0.001475819742, 28: 0.004985931097, 29: 0.005, 30: 0.004997482676,
        50: 0.003969467253, 75: 0.001315343083, 98: 2.537323577e-06, 99: 2e-08,
    }  # fmt: skip
    rates = [0.005 * float(OneCycle()(jnp.asarray(step), 100, 10.0)) for step in expected]
    np.testing.assert_allclose(rates, list(expected.values()), rtol=1e-5, atol=2e-10)


def test_step_decay_falls_at_whole_epochs():
    schedule = StepDecay(0.1, every=30)
    steps_per_epoch = 19.4375
    factors = [float(schedule(jnp.asarray(step), 0, steps_per_epoch)) for step in (0, 582, 583, 584, 1166, 1167)]
    expected = [1, 1, 1, 0.1, 0.1, 0.01]  # 30 epochs are 583.125 steps, 60 are 1166.25
    np.testing.assert_allclose(factors, expected, rtol=1e-6)


def test_frozen_parameters_stay_and_keep_no_moments():
    params = {"trunk": {"kernel": jnp.ones((3, 3))}, "head": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}}
    optimizer = make_optimizer(Adam(0.1, weight_decay=0.1), CONSTANT, params, "head", 10, 1)
    state = optimizer.init(params)
    assert sum(x.size for x in jax.tree.leaves(state) if x.ndim) == 2 * (6 + 2)
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
    np.testing.assert_array_equal(updates["trunk"]["kernel"], 0)
    np.testing.assert_allclose(updates["head"]["kernel"], -0.11, rtol=1e-5)  # decay on kernels
    np.testing.assert_allclose(updates["head"]["bias"], -0.1, rtol=1e-5)  # and not on biases
