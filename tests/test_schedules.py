"""Schedules against closed forms, and as hyper-parameters of algorithms and optimisers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import purerl
from purerl import A2C, MLP, ActorCritic, Adam, CosineSchedule, InputError, LinearSchedule, Population
from purerl.learning import schedules

CARTPOLE = purerl.make("CartPole-v1")
SCHEDULES = {
    "linear": (LinearSchedule(3.0, 1.0, 200.0), lambda x: max(3.0 - 2.0 * x / 200.0, 1.0)),
    "rising": (LinearSchedule(0.4, 1.0, 200.0), lambda x: min(0.4 + 0.6 * x / 200.0, 1.0)),
    "cosine": (CosineSchedule(3.0, 1.0, 200.0), lambda x: 2.0 + np.cos(np.pi * min(x, 200.0) / 200.0)),
    "optax": (optax.cosine_decay_schedule(1.0, 200), lambda x: 0.5 * (1.0 + np.cos(np.pi * min(x, 200) / 200))),
}


def a2c(**changes):
    return A2C(env=CARTPOLE, network=ActorCritic(MLP((4,))), num_envs=4, rollout_length=8, **changes)


@pytest.mark.parametrize(("schedule", "expected"), SCHEDULES.values(), ids=SCHEDULES)
def test_values_follow_environment_steps(schedule, expected):
    for iteration in (0, 1, 3, 7):
        value = schedules.at(a2c(entropy_coef=schedule), jnp.int32(iteration)).entropy_coef
        assert value.dtype == jnp.float32
        assert not value.weak_type
        np.testing.assert_allclose(value, expected(32 * iteration), rtol=1e-5, atol=1e-6)


def test_numbers_stay_and_those_of_an_optimiser_are_scheduled_too():
    agent = a2c(gamma=0.5, optimizer=Adam(max_grad_norm=LinearSchedule(2.0, 1.0, 64.0)))
    now = schedules.at(agent, jnp.int32(1))
    assert (now.gamma, now.num_envs, now.env) == (0.5, 4, CARTPOLE)
    assert float(now.optimizer.max_grad_norm) == 1.5


def test_more_steps_than_an_integer_holds():
    steps = jax.jit(lambda iteration: schedules.env_steps(iteration, 2**20))(2**20)
    np.testing.assert_allclose(steps, 2.0**40)


def metrics(agent, iterations):
    return jax.jit(lambda key: purerl.train(agent, key, iterations)[1])(jax.random.key(0))


def test_training_uses_the_present_value():
    rates = metrics(a2c(learning_rate=LinearSchedule(1e-3, 2e-4, 96.0)), 5)["learning_rate"].value
    np.testing.assert_allclose(rates, [*np.linspace(1e-3, 2e-4, 4), 2e-4], rtol=1e-5)
    # A constant schedule trains as the number does; another value trains otherwise.
    number, constant, other = (
        metrics(a2c(optimizer=Adam(), learning_rate=0.01, entropy_coef=value), 4)["entropy"].total
        for value in (0.1, LinearSchedule(0.1, 0.1, 1.0), LinearSchedule(0.1, 10.0, 1.0))
    )
    np.testing.assert_allclose(number, constant, rtol=1e-5)
    assert abs(number[-1] - other[-1]) > 1e-4


def test_fields_of_schedules_vary_in_a_population_and_compile_once():
    agent = a2c(learning_rate=LinearSchedule(1e-3, 0.0, 64.0))
    population = Population(agent, 2, {"learning_rate.start": [1e-3, 2e-3], "learning_rate.steps": [64.0, 128.0]})
    state = jax.jit(population.init)(jax.random.key(0))
    *_, progress = purerl.iterate(population, state, 2)
    np.testing.assert_allclose(progress.metrics["learning_rate"].value, [5e-4, 1.5e-3], rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gamma": LinearSchedule(0.9, 1.5, 10.0)}, r"gamma, scheduled, must lie in \[0, 1\], got 1.5"),
        (
            {"learning_rate": CosineSchedule(-1.0, 0.0, 10.0)},
            r"learning_rate, scheduled, must lie in \[0, inf\), got -1",
        ),
        ({"learning_rate": "linear"}, "learning_rate must be a number or a schedule, got 'linear'"),
        ({"learning_rate": LinearSchedule}, "learning_rate must be a number or a schedule, got <class 'purerl"),
        ({"num_envs": LinearSchedule(1.0, 2.0, 3.0)}, "num_envs must be a whole number"),
    ],
)
def test_bad_schedules_name_the_field(fields, message):
    with pytest.raises(InputError, match=message):
        A2C(env=CARTPOLE, **fields)


@pytest.mark.parametrize("schedule", [LinearSchedule, CosineSchedule])
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_schedule_without_finite_ends_is_refused(schedule, bad):
    """Between infinity and a number there is no line: it would be NaN."""
    for name, ends in (("start", (bad, 1.0)), ("end", (1.0, bad))):
        with pytest.raises(InputError, match=rf"{name} must lie in \(-inf, inf\), got {bad}"):
            schedule(*ends, 10.0)


def test_a_schedule_without_steps_is_refused():
    with pytest.raises(InputError, match=r"steps must lie in \(0, inf\), got 0"):
        LinearSchedule(1.0, 0.0, 0.0)
