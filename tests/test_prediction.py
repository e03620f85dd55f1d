"""Monte Carlo and temporal differences: known values of the random walk, slow NumPy twins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purerl
from purerl import tabular

WALK = tabular.mdp_of(purerl.make("grid/random-walk"))
KNOWN = np.array([0, 1, 2, 3, 4, 5, 0]) / 6.0
START = jnp.float32([0, 0.5, 0.5, 0.5, 0.5, 0.5, 0])


def walks(num_episodes, max_steps, seed=0):
    return jax.jit(tabular.sample_trajectories, static_argnums=(3, 4))(
        WALK, tabular.uniform_policy(WALK), jax.random.key(seed), num_episodes, max_steps
    )


def test_trajectories_follow_the_process():
    episodes = jax.device_get(walks(200, 40))
    states, mask = episodes.states, episodes.mask
    assert np.all(states[:, 0] == 3)
    moved = states[:, 1:] - states[:, :-1]
    assert np.all(moved[mask] == 2 * episodes.actions[mask] - 1)
    assert np.all(moved[~mask] == 0)
    assert np.all(episodes.terminated == np.isin(states[:, -1], [0, 6]))
    assert 0 < np.sum(~episodes.terminated) < 10
    np.testing.assert_array_equal(episodes.rewards, mask & (states[:, 1:] == 6))
    assert np.all(np.diff(mask.astype(int), axis=1) <= 0)
    assert abs(episodes.actions[mask].mean() - 0.5) < 0.06


def test_known_values_of_the_random_walk(optimized):
    """Sutton & Barto 2018, example 6.2."""
    episodes = walks(5_000, 200)
    for first_visit in (False, True):
        values = tabular.monte_carlo(episodes, START, 1.0, first_visit=first_visit)
        np.testing.assert_allclose(values[-1], KNOWN, atol=0.03)
    for trace_decay in (0.0, 0.8):
        for trace in tabular.Trace:
            values = tabular.td_lambda(episodes, START, 1.0, 0.01, trace_decay, trace)
            np.testing.assert_allclose(values[1_000:].mean(axis=0), KNOWN, atol=0.03)
    assert values.shape == (5_001, 7)
    assert np.all(values[0] == START)


@pytest.mark.parametrize("first_visit", [False, True])
@pytest.mark.parametrize("learning_rate", [None, 0.2])
def test_monte_carlo_in_numpy(first_visit, learning_rate):
    episodes, gamma = jax.device_get(walks(12, 15)), 0.9
    values, counts, history = np.float64(START), np.zeros(7), []
    for states, rewards, mask in zip(episodes.states, episodes.rewards, episodes.mask, strict=True):
        length, seen = mask.sum(), set()
        for t in range(length):
            target = sum(gamma**k * rewards[t + k] for k in range(length - t))
            if not (first_visit and states[t] in seen):
                counts[states[t]] += 1
                rate = 1.0 / counts[states[t]] if learning_rate is None else learning_rate
                values[states[t]] += rate * (target - values[states[t]])
            seen.add(states[t])
        history.append(values.copy())
    found = tabular.monte_carlo(episodes, START, gamma, learning_rate, first_visit=first_visit)
    np.testing.assert_allclose(found[1:], history, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("trace", tabular.Trace)
@pytest.mark.parametrize("trace_decay", [0.0, 0.7])
def test_temporal_differences_in_numpy(trace, trace_decay):
    """Some episodes are cut: there the value of the last state counts."""
    episodes, gamma = jax.device_get(walks(12, 15)), 0.9
    assert 0 < episodes.terminated.sum() < 12
    values, history = np.float64(START), []
    for states, rewards, mask in zip(episodes.states, episodes.rewards, episodes.mask, strict=True):
        eligibility = np.zeros(7)
        for t in range(mask.sum()):
            state, onward = states[t], states[t + 1]
            td_error = rewards[t] + gamma * (0.0 if onward in (0, 6) else values[onward]) - values[state]
            eligibility *= gamma * trace_decay
            eligibility[state] = eligibility[state] + 1 if trace is tabular.Trace.ACCUMULATING else 1.0
            values = values + 0.3 * td_error * eligibility
        history.append(values)
    found = tabular.td_lambda(episodes, START, gamma, 0.3, trace_decay, trace)
    np.testing.assert_allclose(found[1:], history, rtol=1e-4, atol=1e-6)


def test_one_program_for_many_step_sizes():
    episodes = jax.vmap(lambda key: tabular.sample_trajectories(WALK, tabular.uniform_policy(WALK), key, 5, 20))(
        jax.random.split(jax.random.key(1), 3)
    )
    rates = jnp.float32([0.1, 0.2])
    learn = jax.vmap(lambda rate: jax.vmap(lambda some: tabular.td_lambda(some, START, 1.0, rate))(episodes))
    values = jax.jit(learn)(rates)
    assert values.shape == (2, 3, 6, 7)
    alone = tabular.td_lambda(jax.tree.map(lambda leaf: leaf[2], episodes), START, 1.0, 0.2)
    np.testing.assert_allclose(values[1, 2], alone, rtol=1e-5)
