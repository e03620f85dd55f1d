"""The loop around an algorithm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import begin, bits
from probes import obs_reward
from rows import ppo

from purerl import InputError, Population, iterate, struct
from purerl.training import loop
from purerl.types import Mean


def test_chunks_end_at_multiples_and_at_the_end():
    algorithm = ppo(obs_reward())
    progresses = list(iterate(algorithm, begin(algorithm, jax.random.key(0)), 7, every=3))
    assert [p.iteration for p in progresses] == [3, 6, 7]
    assert [p.env_steps for p in progresses] == [3 * 32, 6 * 32, 7 * 32]
    # Continuing from 7 meets the next multiple first.
    assert [p.iteration for p in iterate(algorithm, progresses[-1].state, 11, every=3)] == [9, 11]


def test_a_finished_run_yields_nothing():
    algorithm = ppo(obs_reward())
    *_, final = iterate(algorithm, begin(algorithm, jax.random.key(0)), 2)
    assert list(iterate(algorithm, final.state, 2)) == []


def test_metrics_of_a_chunk_are_those_of_its_iterations():
    algorithm = ppo(obs_reward())
    single = [p.metrics for p in iterate(algorithm, begin(algorithm, jax.random.key(0)), 4, every=1)]
    (merged,) = [p.metrics for p in iterate(algorithm, begin(algorithm, jax.random.key(0)), 4, every=4)]
    for name, mean in merged.items():
        np.testing.assert_allclose(mean.total, sum(m[name].total for m in single), rtol=1e-5)
        np.testing.assert_allclose(mean.count, sum(m[name].count for m in single))


def test_means_of_very_many_iterations_are_exact():
    """A float32 counts to 2^24; what a day of short iterations in one chunk adds up must not stop there."""

    @struct.dataclass
    class State:
        iteration: jax.Array
        counted: jax.Array

    @struct.dataclass
    class Metered:
        def policy(self, state, *, explore):
            return state

        def step(self, state):
            metrics = {"tenth": Mean(jnp.float32(0.1), jnp.float32(1.0)), "some": Mean.of(jnp.ones(7), state.counted)}
            return struct.replace(state, iteration=state.iteration + 1), metrics

    state = State(jnp.int32(0), jnp.arange(7) < 3)
    _, metrics, _ = loop.advance(Metered(), state, jnp.int32(2**24 + 1_000_001))
    np.testing.assert_allclose(metrics["tenth"].value, 0.1, rtol=1e-6)
    for mean, per_iteration in ((metrics["tenth"], 1), (metrics["some"], 3)):
        assert float(mean.count) + float(mean.count_rest) == per_iteration * (2**24 + 1_000_001)
    total = Mean.nothing() + Mean(jnp.float32(1e30), jnp.float32(1.0)) + Mean(jnp.float32(1.0), jnp.float32(1.0))
    assert (float(total.total), float(total.total_rest)) == (np.float32(1e30), 1.0)
    for lost in (jnp.inf, jnp.nan):
        total = Mean.nothing() + Mean.of(jnp.float32(lost)) + Mean.of(jnp.float32(1.0))
        np.testing.assert_equal(float(total.value), lost)


def test_metrics_do_not_depend_on_how_a_chunk_is_divided():
    population = Population(ppo(obs_reward()), 2)
    state = begin(population, jax.random.key(0))
    nothing = loop.no_metrics(population, state)

    def train(pieces):
        now, metrics = jax.tree.map(jnp.copy, state), nothing
        for piece in pieces:
            now, metrics, _ = loop.advance(population, now, jnp.int32(piece), metrics)
        return now, metrics

    jax.tree.map(np.testing.assert_array_equal, bits(train((1, 3, 0, 1))), bits(train((5,))))


def test_compile_time_is_apart_from_run_time():
    algorithm = ppo(obs_reward(), rollout_length=10)
    jax.clear_caches()
    progresses = list(iterate(algorithm, begin(algorithm, jax.random.key(0)), 6, every=2))
    assert progresses[0].compile_seconds > 0.2
    assert progresses[0].compile_seconds == progresses[-1].compile_seconds
    assert 0.0 < progresses[0].run_seconds < progresses[-1].run_seconds < progresses[0].compile_seconds


def test_one_program_for_the_whole_run():
    population = Population(ppo(obs_reward()), 2)
    list(iterate(population, begin(population, jax.random.key(0)), 1))
    programs = loop.advance._cache_size()
    list(iterate(population, begin(population, jax.random.key(1)), 7, every=3))
    assert loop.advance._cache_size() == programs


@pytest.mark.parametrize(("num_iterations", "every"), [(0, 1), (-3, 1), (3, 0), (2**31, 1), (3.5, 1), (3, 1.5)])
def test_what_cannot_be_counted_is_an_error(num_iterations, every):
    algorithm = ppo(obs_reward())
    with pytest.raises(InputError):
        list(iterate(algorithm, begin(algorithm, jax.random.key(0)), num_iterations, every))
