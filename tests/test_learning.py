"""Real tasks to published scores, several seeds in one program. The slow ones are the rows of docs/results.md."""

import jax
import numpy as np
import pytest
from test_contract import last

import purerl
from purerl import Population, iterate
from purerl.cli.configure import configure


def trained(env, total_steps, num_seeds):
    """A population as `purerl train` would make it, and its evaluation returns ``[num_seeds]``."""
    command = ["--seeds", str(num_seeds), "--seed", "2024", "--total-steps", str(total_steps), "--out", "unused"]
    config, _, _ = configure("ppo", env, command)
    population = config.population()
    state = jax.jit(population.init)(jax.random.key(config.seed))
    progress = last(iterate(population, state, config.num_iterations, every=config.num_iterations))
    return np.asarray(evaluation(population, progress.state))


def evaluation(population: Population, state):
    def play(agent, state, key):
        return purerl.evaluate(agent.env, agent.policy(state, explore=False), key, num_episodes=32).episode_return

    keys = jax.random.split(jax.random.key(77), population.num_members)
    return jax.jit(lambda state, keys: population.map(play, state, keys))(state, keys).mean(axis=1)


def test_cartpole():
    assert trained("CartPole-v1", 500_000, num_seeds=4).mean() >= 470


def test_catch():
    assert trained("Catch-bsuite", 64_000, num_seeds=4).mean() >= 0.95


def test_brax_fast():
    assert trained("brax/fast", 32_768, num_seeds=4).mean() > 135


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "total_steps", "bar"),
    [("Acrobot-v1", 500_000, -90), ("Pendulum-v1", 300_000, -200), ("brax/inverted_pendulum", 2_000_000, 950)],
)
def test_slow_rows(env, total_steps, bar):
    assert trained(env, total_steps, num_seeds=5).mean() >= bar
