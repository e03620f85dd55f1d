"""Domain randomisation over ranges: uniform, one draw per episode, nothing else changes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl import make
from purerl.environments import check_types, randomize
from purerl.errors import InputError

KEYS = jax.random.split(jax.random.key(0), 2000)


def test_draws_are_uniform_one_per_episode_and_kept_in_it():
    env = randomize(make("CartPole-v1"), {"params.length": (0.25, 1.0), "params.masscart": (2.0, 3.0)})
    check_types(env)

    @jax.jit
    def play(env, key):
        first = env.reset(key)
        return first.state.drawn, env.step(key, first.state, jnp.int32(0)).state.drawn

    drawn, later = jax.vmap(partial(play, env))(KEYS)
    assert set(drawn) == {"params.length", "params.masscart"}
    for name, (low, high) in {"params.length": (0.25, 1.0), "params.masscart": (2.0, 3.0)}.items():
        np.testing.assert_array_equal(drawn[name], later[name])
        assert np.all((drawn[name] >= low) & (drawn[name] <= high))
        quantiles = np.quantile(drawn[name], [0.1, 0.5, 0.9])
        np.testing.assert_allclose(quantiles, low + (high - low) * np.array([0.1, 0.5, 0.9]), atol=0.05 * (high - low))
    assert abs(np.corrcoef(*drawn.values())[0, 1]) < 0.1


def test_a_drawn_parameter_acts_like_a_given_one():
    env = randomize(make("CartPole-v1"), {"params.length": (0.25, 1.0)})
    first = env.reset(KEYS[0])
    given = make("CartPole-v1", length=float(first.state.drawn["params.length"]))
    action = jnp.int32(1)
    random, known = env.step(KEYS[1], first.state, action), given.step(KEYS[1], first.state.env, action)
    np.testing.assert_allclose(random.obs, known.obs, rtol=1e-6)
    assert not np.allclose(random.obs, make("CartPole-v1").step(KEYS[1], first.state.env, action).obs, rtol=1e-6)


def test_whole_numbers_are_drawn_with_both_ends():
    env = randomize(make("smooth/pendulum"), {"length": (3, 5)})
    drawn = jax.vmap(lambda key: env.reset(key).state.drawn["length"])(KEYS)
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [3, 4, 5]
    assert np.all(np.abs(counts / 2000 - 1 / 3) < 0.05)


@pytest.mark.parametrize("compiled", [False, True])
def test_numbers_that_a_constructor_copies_are_not_drawn(compiled):
    env = randomize(make("smooth/pendulum"), {"env.mass": (0.5, 2.0)})

    def reset(env):
        return env.reset(KEYS[0]).state.drawn

    assert set((jax.jit(reset) if compiled else reset)(env)) == {"env.mass"}


def test_ranges_are_leaves():
    reset = jax.jit(lambda env: env.reset(KEYS[0]).state.drawn["params.length"])
    for low in (0.5, 2.0):
        assert low <= reset(randomize(make("CartPole-v1"), {"params.length": (low, low + 1.0)})) <= low + 1.0
    assert reset._cache_size() == 1


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ({"params.lenth": (1.0, 2.0)}, "did you mean 'length'"),
        ({"params.length": (2.0, 2.0)}, "to a greater one, got 2.0 to 2.0"),
        ({"params.polemass_length": (1.0, 2.0)}, "follows from masspole and length"),
        ({"params.length": ("short", 2.0)}, "'params.length' must be a number"),
        ({"params": (1.0, 2.0)}, "'params' is no number but a EnvParams"),
    ],
)
def test_bad_input(ranges, words):
    with pytest.raises(InputError, match=words):
        randomize(make("CartPole-v1"), ranges)
