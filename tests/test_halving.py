"""Successive halving: who goes on, with what, and to what end."""

import jax
import numpy as np
import pytest
from helpers import bits, last
from probes import obs_reward
from rows import ALGORITHMS

from purerl import InputError, Population, halve, iterate

RATES = np.float32([1e-3, 2e-3, 4e-3, 8e-3])


@pytest.fixture(scope="module")
def population():
    return Population(ALGORITHMS["dqn"].make(obs_reward()), 4, {"learning_rate": RATES})


def test_the_better_half_goes_on_with_its_own_state_and_values(population):
    state = jax.jit(population.init)(jax.random.key(0))
    survivors = halve(population, state, np.float32([3.0, np.nan, 1.0, 5.0]))
    assert survivors.members.tolist() == [0, 3]
    np.testing.assert_array_equal(survivors.population.varied["learning_rate"], RATES[[0, 3]])
    for number, member in enumerate(survivors.members):
        ours = bits(survivors.population.member_state(survivors.state, number))
        theirs = bits(population.member_state(state, member))
        for one, other in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
            np.testing.assert_array_equal(one, other)
    assert halve(population, state, np.arange(4.0), keep=0.3).members.tolist() == [2, 3]
    assert halve(population, state, np.full(4, np.nan), keep=0.1).members.size == 1


def test_survivors_learn_what_they_would_have_learned(population):
    begun = population.warmup_iterations
    alone = last(iterate(population, jax.jit(population.init)(jax.random.key(0)), begun + 4, every=4))
    some = last(iterate(population, jax.jit(population.init)(jax.random.key(0)), begun + 2, every=2))
    survivors = halve(population, some.state, np.arange(4.0))
    after = last(iterate(survivors.population, survivors.state, begun + 4, every=2))
    for one, other in zip(*map(jax.tree.leaves, (after.state.params, alone.state.params)), strict=True):
        np.testing.assert_allclose(one, other[2:], rtol=1e-4, atol=1e-6)


def test_mistakes(population):
    with pytest.raises(InputError, match=r"fitness must have shape \[4\], got \[3\]"):
        halve(population, None, np.zeros(3))
    with pytest.raises(InputError, match=r"keep must lie in \(0, 1\]"):
        halve(population, None, np.zeros(4), keep=0.0)
