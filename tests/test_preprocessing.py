"""Network inputs from observations, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Counter

import purerl
from purerl import struct
from purerl.experience.preprocessing import preprocess, update_statistics, zero_input
from purerl.math import running_statistics
from purerl.spaces import Box, Discrete

SPACE = Box((3,), -5.0, 5.0)


def seen(*shape):
    return jnp.float32(np.random.default_rng(0).normal((1.0, 0.0, -1.0), 2.0, (*shape, 3)))


def test_statistics_are_those_of_all_batches_and_standardise():
    obs = seen(4, 50)
    stats = running_statistics.init((3,))
    for part in (obs[:, :20], obs[:, 20:]):
        stats = update_statistics(SPACE, stats, part)
    flat = np.asarray(obs).reshape(-1, 3)
    assert float(stats.count) == 200
    np.testing.assert_allclose(stats.mean, flat.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stats.var, flat.var(axis=0), rtol=1e-4)
    expected = (flat - flat.mean(axis=0)) / flat.std(axis=0)
    np.testing.assert_allclose(preprocess(SPACE, stats, obs).reshape(-1, 3), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(preprocess(SPACE, stats, obs[0, 0]), expected[0], rtol=1e-3, atol=1e-4)


def test_without_statistics_observations_are_seen_as_they_are():
    obs = seen(4)
    assert update_statistics(SPACE, None, obs) is None
    np.testing.assert_array_equal(preprocess(SPACE, None, obs), obs)


def test_choices_are_one_hot_with_or_without_statistics():
    space, obs = Discrete(3), jnp.int32([[0, 2], [2, 2]])
    np.testing.assert_array_equal(preprocess(space, None, obs), np.eye(3)[obs])
    stats = update_statistics(space, running_statistics.init(zero_input(space).shape), obs)
    np.testing.assert_allclose(stats.mean, [0.25, 0.0, 0.75])
    assert preprocess(space, stats, obs).shape == (2, 2, 3)


@pytest.mark.parametrize(
    ("space", "greatest"),
    [
        (Box((2,), 0, 255, np.uint8), 255),
        (Box((2,), dtype=np.uint8), 255),
        (Box((2,), 0, 255, np.int32), 255),
        (Box((2,), dtype=np.uint16), 65535),
        # Few values, or none in particular: no pictures.
        (Box((2,), 0, 3, np.uint8), 1),
        (Box((2,), 1, 255, np.int32), 1),
        (Box((2,), dtype=np.int32), 1),
        (Box((2,), 0, (1, 255), np.uint8), 1),
        (Box((2,), dtype=bool), 1),
        (Box((2,), 0, 255), 1),
    ],
)
def test_pictures_are_seen_between_0_and_1(space, greatest):
    obs = jnp.asarray([1, 2], space.dtype)
    np.testing.assert_allclose(preprocess(space, None, obs), np.float32(obs) / np.float32(greatest), rtol=1e-6)
    stats = update_statistics(space, running_statistics.init((2,)), jnp.stack([obs, obs]))
    np.testing.assert_allclose(stats.mean, np.float32(obs) / np.float32(greatest), rtol=1e-6)


@struct.dataclass
class Screen(Counter):
    @property
    def observation_space(self):
        return Box((2, 2), 0, 255, np.uint8)

    def reset(self, key):
        return struct.replace(Counter.reset(self, key), obs=jnp.zeros((2, 2), jnp.uint8))

    def step(self, key, state, action):
        return struct.replace(Counter.step(self, key, state, action), obs=jnp.full((2, 2), 255, jnp.uint8))


def test_pictures_are_stored_as_they_are():
    env = purerl.make(Screen())
    dqn = purerl.DQN(env=env, buffer_size=40, warmup_steps=10, batch_size=8, normalize_observations=True)
    state = jax.eval_shape(dqn.init, jax.random.key(0))
    assert (state.replay.obs.dtype, state.experience.obs_stats.mean.dtype) == (np.uint8, np.float32)
    jax.eval_shape(dqn.step, state)


def test_the_input_of_zeros_has_shape_and_dtype_of_any_other():
    for space in (SPACE, Discrete(3), Box((2, 2), 0, 255, np.uint8)):
        blank, other = zero_input(space), preprocess(space, None, space.sample(jax.random.key(0)))
        assert (blank.shape, blank.dtype) == (other.shape, other.dtype)
