"""Population-based training: who takes over from whom, what is taken over, and what is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import bits
from probes import obs_reward
from rows import ALGORITHMS

from purerl import PBT, InputError, Population, struct
from purerl.training import loop

RATES = [1e-3, 2e-3, 4e-3, 8e-3]
KEY = jax.random.key(0)


def population(**varied) -> Population:
    agent = ALGORITHMS["dqn"].make(obs_reward())
    return Population(agent, 4, {"learning_rate": RATES, **varied})


@pytest.fixture(scope="module")
def begun():
    return jax.jit(population().init)(KEY)


def test_the_worst_takes_over_from_the_best(begun):
    outcome = PBT().exchange(population(), begun, np.float32([3.0, -1.0, 7.0, 5.0]), KEY)
    assert outcome.source.tolist() == [0, 2, 2, 3]
    before, after = bits(begun), bits(outcome.state)
    for name in ("params", "target_params", "opt_state"):
        for old, new in zip(*map(jax.tree.leaves, (getattr(before, name), getattr(after, name))), strict=True):
            np.testing.assert_array_equal(new, old[[0, 2, 2, 3]])
    rates = outcome.population.varied["learning_rate"]
    np.testing.assert_array_equal(rates[[0, 2, 3]], np.float32(RATES)[[0, 2, 3]])
    assert rates[1] in (np.float32(RATES[2]) * np.float32(1.25), np.float32(RATES[2]) / np.float32(1.25))


def test_environments_replays_and_keys_stay_ones_own(begun):
    outcome = PBT(fraction=0.5).exchange(population(), begun, np.arange(4.0), KEY)
    assert set(outcome.source[:2]) <= {2, 3}
    axes = struct.shard_axes(bits(begun), equal=-1)
    for name in ("key", "experience", "replay"):
        trees = (getattr(tree, name) for tree in (bits(begun), bits(outcome.state), axes))
        for old, new, own in zip(*map(jax.tree.leaves, trees), strict=True):
            if own == 0 or name == "key":
                np.testing.assert_array_equal(new, old)


def test_both_directions_are_equally_likely_and_sources_are_the_best(begun):
    outcomes = [
        PBT(fraction=0.5).exchange(population(), begun, np.arange(4.0), key) for key in jax.random.split(KEY, 40)
    ]
    sources = np.array([outcome.source[:2] for outcome in outcomes])
    ups = np.array([out.population.varied["learning_rate"][:2] > np.float32(RATES)[out.source[:2]] for out in outcomes])
    assert set(sources.ravel()) == {2, 3}
    for share in (np.mean(sources == 2), ups.mean()):
        assert 0.5 - 4 * 0.5 / np.sqrt(80) < share < 0.5 + 4 * 0.5 / np.sqrt(80)


def test_a_fitness_that_is_no_number_is_the_worst_and_no_source(begun):
    nan = np.nan
    assert PBT().exchange(population(), begun, np.float32([1.0, 2.0, nan, 0.0]), KEY).source.tolist() == [0, 1, 1, 3]
    assert PBT().exchange(population(), begun, np.float32([nan] * 4), KEY).source.tolist() == [0, 1, 2, 3]
    assert PBT().exchange(population(), begun, np.float32([1.0] * 4), KEY).source.tolist() == [0, 1, 2, 3]


def test_values_stay_within_their_intervals_and_whole_numbers_whole(begun):
    many = population(tau=[1.0] * 4, target_period=[1] * 4)
    for key in jax.random.split(KEY, 10):
        outcome = PBT().exchange(many, begun, np.arange(4.0), key)
        varied = outcome.population.varied
        assert 0.0 < varied["tau"][0] <= 1.0
        assert varied["target_period"].dtype == np.int32
        assert varied["target_period"][0] in (1, 2)
        many = outcome.population


def test_the_program_of_the_training_stays(begun):
    first = population()
    state = jax.tree.map(jnp.copy, begun)
    metrics = loop.no_metrics(first, state)
    state, *_ = loop.advance(first, state, jnp.int32(1), metrics)
    programs = loop.advance._cache_size()
    outcome = PBT().exchange(first, state, np.arange(4.0), KEY)
    loop.advance(outcome.population, outcome.state, jnp.int32(1), metrics)
    assert loop.advance._cache_size() == programs


@pytest.mark.parametrize(
    ("population", "message"),
    [
        (Population(ALGORITHMS["dqn"].make(obs_reward()), 2), "needs hyper-parameters that vary"),
        (Population(ALGORITHMS["dqn"].make(obs_reward()), 1, {"tau": [1.0]}), "at least 2 members"),
        (Population(ALGORITHMS["dqn"].make(obs_reward()), 2, {"env.start": [0.0, 1.0]}), "a number of the environment"),
    ],
)
def test_mistakes(population, message):
    with pytest.raises(InputError, match=message):
        PBT().exchange(population, None, np.zeros(population.num_members), KEY)
    with pytest.raises(InputError, match=r"fraction must lie in \(0, 0.5\]"):
        PBT(fraction=0.6)
