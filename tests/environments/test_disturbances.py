"""Noise, delays and imperfect actuators around environments that report what reached them."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from environment_contract import check_types
from jax.tree_util import Partial

import purerl
from purerl import InputError, struct
from purerl.environments import (
    ActionDelay,
    ActionRepeat,
    Actuator,
    FrameStack,
    ObservationDelay,
    ObservationNoise,
    RandomizeParameters,
    TimeLimit,
    check_env,
    environment_options,
    make,
)
from purerl.spaces import Box, Discrete
from purerl.types import TimeStep

KEY = jax.random.key(0)


@struct.dataclass
class Meter:
    """Observes the time and the action that reached it; the reward is half of that action."""

    scale: float | np.float32 = np.float32(1.0)

    observation_space = Box((2,), -100.0, 100.0)
    action_space = Box((1,), 0.5, 3.0)

    def _timestep(self, time, action):
        obs = jnp.stack([time.astype(jnp.float32), jnp.float32(self.scale) * action])
        return TimeStep(time, obs, 0.5 * action, jnp.bool_(False), jnp.bool_(False))

    def reset(self, key):
        return self._timestep(jnp.int32(0), jnp.float32(0.0))

    def step(self, key, state, action):
        return self._timestep(state + 1, action[0])


@struct.dataclass
class Free(Meter):
    action_space = Box((1,), -5.0, 5.0)


@struct.dataclass
class Switch(Meter):
    """Its actions and observations are integers."""

    observation_space = Discrete(4)
    action_space = Discrete(4)

    def reset(self, key):
        return TimeStep(jnp.int32(0), jnp.int32(3), jnp.float32(0.0), jnp.bool_(False), jnp.bool_(False))

    def step(self, key, state, action):
        return TimeStep(state + 1, action, jnp.float32(0.0), jnp.bool_(False), jnp.bool_(False))


def play(env, actions):
    """Observations ``[T + 1, n]`` from a reset on, and rewards ``[T]``."""
    first = env.reset(KEY)

    def step(state, inputs):
        key, action = inputs
        timestep = env.step(key, state, action)
        return timestep.state, (timestep.obs, timestep.reward)

    keys = jax.random.split(jax.random.key(1), len(actions))
    _, (obs, reward) = jax.lax.scan(step, first.state, (keys, actions))
    return np.concatenate([first.obs[None], obs]), np.asarray(reward)


def reached(env, actions):
    """The actions ``[T]`` that reached the inner environment."""
    return play(env, jnp.asarray(actions, jnp.float32).reshape(-1, 1))[1] * 2.0


WRAPPED = {
    "ObservationNoise": ObservationNoise(Meter(), 0.5),
    "ObservationDelay": ObservationDelay(Meter(), 2),
    "ObservationDelay of integers": ObservationDelay(Switch(), 2),
    "ActionDelay": ActionDelay(Meter(), 2),
    "ActionDelay of integers": ActionDelay(Switch(), 1),
    "Actuator": Actuator(Meter(), 0.9, 0.1, 0.5, 0.2),
    "all": FrameStack(
        TimeLimit(ObservationDelay(ObservationNoise(ActionRepeat(ActionDelay(Actuator(Free()), 1), 2), 0.1), 3), 7), 2
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_types(name):
    check_types(WRAPPED[name])


@pytest.mark.parametrize("name", ["ActionDelay of integers", "all"])
def test_the_contract_of_environments(name):
    assert check_env(WRAPPED[name], num_steps=20) is None


@pytest.mark.parametrize("name", ["ObservationNoise", "Actuator"])
def test_keys_are_used_once(name):
    env = WRAPPED[name]

    def both(key):
        reset_key, action_key, step_key = jax.random.split(key, 3)
        return env.step(step_key, env.reset(reset_key).state, env.action_space.sample(action_key))

    with jax.debug_key_reuse(True):
        assert np.isfinite(jax.jit(both)(jax.random.key(1)).reward)


def test_a_delay_shifts_the_actions_and_begins_at_rest():
    """0 is outside of the bounds, so the nearest value is the action at rest."""
    np.testing.assert_array_equal(reached(ActionDelay(Meter(), 2), [1.0, 1.5, 2.0, 2.5]), [0.5, 0.5, 1.0, 1.5])
    np.testing.assert_array_equal(reached(ActionDelay(Free(), 1), [1.0, 1.5, 2.0]), [0.0, 1.0, 1.5])
    np.testing.assert_array_equal(reached(ActionDelay(Free(), 0), [1.0, 1.5]), [1.0, 1.5])
    obs, _ = play(ActionDelay(Switch(), 1), jnp.int32([1, 2, 3]))
    np.testing.assert_array_equal(obs, [3, 0, 1, 2])


def test_a_delay_shifts_the_observations_and_begins_with_the_first():
    obs, reward = play(ObservationDelay(Free(), 2), jnp.float32([[1.0], [2.0], [3.0], [4.0]]))
    np.testing.assert_array_equal(obs, [[0, 0], [0, 0], [0, 0], [1, 1], [2, 2]])
    np.testing.assert_array_equal(reward, [0.5, 1.0, 1.5, 2.0])  # rewards are not delayed


def test_a_delay_may_vary_up_to_the_longest():
    """One program for all delays, and a delay drawn for every episode."""
    env = jax.vmap(lambda steps: ActionDelay(Free(), steps, longest=3))(jnp.arange(4))
    taken = jax.vmap(lambda env: jnp.asarray(play_rewards(env)))(env)
    np.testing.assert_array_equal(taken, [[1, 2, 3], [0, 1, 2], [0, 0, 1], [0, 0, 0]])
    # Nobody can refuse a number that a program computes: beyond the longest it counts as the longest.
    late = jax.vmap(lambda steps: jnp.asarray(play_rewards(ActionDelay(Free(), steps, longest=1))))(jnp.arange(1, 4))
    np.testing.assert_array_equal(late, [[0, 1, 2]] * 3)

    def draw(key, env):
        return struct.replace(env, steps=jax.random.randint(key, (), 0, 3))

    drawn = RandomizeParameters(ObservationDelay(Free(), 0, longest=2), draw)
    steps = jax.vmap(lambda key: drawn.reset(key).state.drawn["steps"])(jax.random.split(KEY, 60))
    assert set(np.asarray(steps)) == {0, 1, 2}


def play_rewards(env):
    state, seen = env.reset(KEY).state, []
    for action in (1.0, 2.0, 3.0):
        timestep = env.step(KEY, state, jnp.float32([action]))
        state = timestep.state
        seen.append(2.0 * timestep.reward)
    return seen


def test_sensor_noise_is_gaussian_independent_and_not_in_the_state():
    std = np.float32([0.5, 2.0])
    obs, reward = play(ObservationNoise(Free(), std), jnp.ones((4000, 1)))
    clean, same = play(Free(), jnp.ones((4000, 1)))
    noise = obs - clean
    np.testing.assert_array_equal(reward, same)
    # Five standard errors of mean, deviation and correlation.
    np.testing.assert_array_less(np.abs(noise.mean(0)), 5 * std / math.sqrt(4000))
    np.testing.assert_allclose(noise.std(0), std, rtol=5 / math.sqrt(8000))
    assert abs(np.corrcoef(noise.T)[0, 1]) < 5 / math.sqrt(4000)
    assert abs(np.corrcoef(noise[1:, 0], noise[:-1, 0])[0, 1]) < 5 / math.sqrt(4000)
    assert np.any(noise[0] != 0.0)  # the first observation is noisy too
    assert ObservationNoise(Meter(), 0.1).observation_space == Box((2,))


def test_action_noise_has_its_deviation_and_keeps_the_bounds():
    noise = reached(Actuator(Free(), noise_std=0.5), np.ones(4000)) - 1.0
    assert abs(noise.mean()) < 5 * 0.5 / math.sqrt(4000)
    np.testing.assert_allclose(noise.std(), 0.5, rtol=5 / math.sqrt(8000))
    clipped = reached(Actuator(Meter(), noise_std=2.0), np.ones(200))
    assert (clipped.min(), clipped.max()) == (0.5, 3.0)


def test_a_lag_is_the_exact_first_order_response():
    """A constant action from rest: y after t steps is gain (1 - lag^t) action; it equals exp(-t dt / tau)."""
    dt, tau = 0.05, 0.2
    lag = math.exp(-dt / tau)
    steps = np.arange(1, 9)
    expected = 0.8 * 2.0 * (1.0 - np.exp(-steps * dt / tau))
    np.testing.assert_allclose(reached(Actuator(Free(), gain=0.8, lag=lag), np.full(8, 2.0)), expected, rtol=1e-5)


def test_dead_zone_and_gain():
    given = [-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]
    np.testing.assert_allclose(
        reached(Actuator(Free(), gain=2.0, dead_zone=1.0), given), [-4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    )
    np.testing.assert_array_equal(reached(Actuator(Free()), given), given)


def test_gradients_pass_through():
    """A perfect actuator has derivative 1 also at 0; a delayed action has its effect later."""

    def total(actions, env):
        return jnp.sum(jnp.stack(play_twice(env, actions)))

    gradient = jax.grad(total)
    np.testing.assert_allclose(gradient(jnp.zeros(2), Actuator(Free())), [1.0, 1.0])
    np.testing.assert_allclose(gradient(jnp.zeros(2), ActionDelay(Free(), 1)), [1.0, 0.0])
    # y_1 = 0.5 u_1, y_2 = 0.25 u_1 + 0.5 u_2
    np.testing.assert_allclose(gradient(jnp.ones(2), Actuator(Free(), lag=0.5)), [0.75, 0.5])
    of_gain = jax.grad(lambda gain: total(jnp.ones(2), Actuator(Free(), gain)))
    np.testing.assert_allclose(of_gain(0.7), 2.0)


def play_twice(env, actions):
    state = env.reset(KEY).state
    first = env.step(KEY, state, actions[:1])
    return 2.0 * first.reward, 2.0 * env.step(KEY, first.state, actions[1:]).reward


OPTIONS = {
    "observation_noise": 0.1,
    "observation_delay": 2,
    "action_noise": 0.1,
    "action_delay": 1,
    "actuator_gain": 0.9,
    "actuator_dead_zone": 0.05,
    "actuator_lag": 0.5,
}


def test_every_environment_has_them_as_options():
    defaults = environment_options("smooth/pendulum")
    assert [defaults[name] for name in OPTIONS] == [0.0, 0, 0.0, 0, 1.0, 0.0, 0.0]
    assert isinstance(make("smooth/pendulum", **{name: defaults[name] for name in OPTIONS}), TimeLimit)
    env = make("smooth/pendulum", action_repeat=2, **OPTIONS)
    kinds = []
    while hasattr(env, "env"):
        kinds.append(type(env).__name__)
        env = env.env
    assert kinds == ["ActionRepeat", "ObservationDelay", "ObservationNoise", "ActionDelay", "Actuator", "TimeLimit"]
    assert isinstance(make(Free(), observation_noise=jnp.float32([0.0, 0.1])), ObservationNoise)


def test_delays_count_steps_of_the_simulator():
    env = make(Free(), action_repeat=3, action_delay=2, actuator_lag=0.0)
    np.testing.assert_array_equal(reached(env, [1.0, 2.0]), [0.0 + 0.0 + 1.0, 1.0 + 1.0 + 2.0])


def test_a_population_of_disturbances_trains_in_one_program():
    env = make("smooth/pendulum", episode_length=8, observation_noise=0.1, actuator_lag=0.1)
    network = purerl.ActorCritic(trunk=purerl.MLP((16,)))
    agent = purerl.PPO(env=env, network=network, num_envs=2, rollout_length=8, num_minibatches=1, num_epochs=1)
    population = purerl.Population(agent, 2, {"env.std": [0.0, 1.0], "env.env.lag": [0.0, 0.9]})
    state, metrics = jax.jit(population.step)(jax.jit(population.init)(KEY))
    assert np.all(np.isfinite(metrics["policy_loss"].value))
    # Without noise the observed cosine and sine are on the unit circle.
    radius = jnp.sum(state.experience.rollout.timestep.obs[..., :2] ** 2, -1)
    np.testing.assert_allclose(radius[0], 1.0, rtol=1e-5)
    assert np.all(np.abs(radius[1] - 1.0) > 1e-3)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (partial(ObservationNoise, Meter(), -0.1), r"observation_noise must lie in \[0, inf\), got -0.1"),
        (partial(ObservationNoise, Switch(), 0.1), "observation noise is for observations that are a Box of floating"),
        (lambda: ObservationNoise(Meter(), np.ones(3)).reset(KEY), r"observation_noise must be one number or have sha"),
        (partial(ObservationDelay, Meter(), -1), r"observation_delay must lie in \[0, inf\), got -1"),
        (partial(ActionDelay, Meter(), 1.5), "action_delay must be a whole number, got 1.5"),
        (partial(ActionDelay, Meter(), 3, 2), "action_delay must be at most longest = 2, got 3"),
        (partial(ActionDelay, Meter(), 3, 2.5), "longest of action_delay must be a whole number, got 2.5"),
        (lambda: jax.jit(lambda n: ActionDelay(Meter(), n).reset(KEY))(1), "give its greatest value as `longest`"),
        (partial(Actuator, Switch()), r"an actuator is for actions that are a Box of floating-point numbers, not Disc"),
        (partial(Actuator, Meter(), gain=-1.0), r"actuator_gain must lie in \[0, inf\), got -1"),
        (partial(Actuator, Meter(), dead_zone=-1.0), "actuator_dead_zone must lie in"),
        (partial(Actuator, Meter(), lag=1.0), r"actuator_lag must lie in \[0, 1\), got 1.0"),
        (partial(Actuator, Meter(), noise_std=math.nan), "action_noise must lie in"),
        (
            lambda: Actuator(Meter(), lag=np.zeros(2)).step(KEY, Actuator(Meter()).reset(KEY).state, 0),
            "actuator_lag mus",
        ),
        (partial(make, "CartPole-v1", actuator_lag=0.5), "an actuator is for actions that are a Box"),
        (partial(make, "smooth/pendulum", action_delay="2"), "action_delay must be a whole number, got '2'"),
        (partial(make, "smooth/pendulum", action_noise=False), "action_noise must be a number, got False"),
        (partial(make, "smooth/pendulum", actuator_lagg=0.5), "did you mean 'actuator_lag'"),
    ],
)
def test_bad_values(build, message):
    with pytest.raises(InputError, match=message) as error:
        build()
    assert "\n" not in str(error.value)


def test_a_delay_of_a_random_environment_keeps_its_parameters():
    def draw(key, env, low, high):
        return struct.replace(env, scale=jax.random.uniform(key, (), minval=low, maxval=high))

    env = ActionDelay(RandomizeParameters(Free(), Partial(draw, low=np.float32(2), high=np.float32(3))), 1)
    obs, _ = play(env, jnp.ones((4, 1)))
    assert 2.0 <= obs[2, 1] <= 3.0
    assert obs[2, 1] == obs[3, 1] == obs[4, 1]
