"""Factors of the learning rate against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from purerl import LinearDecay
from purerl.schedules import schedule_factor

SCHEDULES = {
    "none": (None, lambda env_steps: 1.0),
    "linear": (LinearDecay(200.0), lambda env_steps: max(1.0 - env_steps / 200.0, 0.0)),
    "cosine": (optax.cosine_decay_schedule(1.0, 200), lambda x: 0.5 * (1.0 + np.cos(np.pi * min(x, 200) / 200))),
}


@pytest.mark.parametrize(("schedule", "expected"), SCHEDULES.values(), ids=SCHEDULES)
def test_the_factor_follows_environment_steps(schedule, expected):
    for iteration in (0, 1, 3, 7):
        factor = schedule_factor(schedule, jnp.int32(iteration), 32)
        assert factor.dtype == jnp.float32
        assert not factor.weak_type
        np.testing.assert_allclose(factor, expected(32 * iteration), rtol=1e-5, atol=1e-6)


def test_more_steps_than_an_integer_holds():
    steps = jax.jit(lambda iteration: schedule_factor(lambda env_steps: env_steps, iteration, 2**20))(2**20)
    np.testing.assert_allclose(steps, 2.0**40)
