"""Members and shards on four virtual devices of a CPU. `test_placement` runs this file in a process of its own."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import bits
from probes import obs_reward
from rows import ALGORITHMS, for_each, probe

from purerl import InputError, Population, Shards
from purerl.training import checkpoint, loop
from purerl.training.in_process import InProcess

COLLECTIVES = r" (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast)(?:-start)?\("


def trained(population, num_iterations=3):
    """State and metrics after some iterations, and the communication in the program that did them."""
    state = jax.jit(population.init)(jax.random.key(0))
    args = population, state, jnp.int32(num_iterations), loop.no_metrics(population, state)
    program = loop.advance.lower(*args).compile()
    state, metrics, _ = program(*args)
    return bits(state), metrics, re.findall(COLLECTIVES, program.as_text())


def test_members_do_not_communicate_and_learn_the_same_bits(monkeypatch: pytest.MonkeyPatch):
    agent = ALGORITHMS["ppo"].make(probe(obs_reward, "ppo"))
    population = Population(agent, 8, {"learning_rate": np.linspace(1e-3, 1e-2, 8)})
    monkeypatch.setattr("purerl.training.population.ROWS_IN_CACHE", agent.minibatch_rows)  # one after the other
    state, metrics, _ = trained(population)
    on_four, metrics_on_four, communication = trained(population.on(jax.devices()))
    assert communication == []
    chex.assert_trees_all_equal(on_four, state)
    chex.assert_trees_all_equal(metrics_on_four, metrics)


@for_each(["ppo", "a2c", "dqn", "ddpg", "sac", "trpo"])
def test_shards_learn_the_same_on_any_number_of_devices(name):
    """Two members of two shards each: both axes of the mesh."""
    population = Population(Shards(ALGORITHMS[name].make(probe(obs_reward, name)), 2), 2)
    state, metrics, _ = trained(population)
    on_four, metrics_on_four, communication = trained(population.on(jax.devices()))
    assert set(communication) == {"all-reduce"}
    chex.assert_trees_all_close(on_four, state, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(metrics_on_four, metrics, rtol=1e-3, atol=1e-4)


def test_one_message_per_gradient():
    agent = Shards(ALGORITHMS["pqn"].make(obs_reward(), normalize_observations=False), 4)
    *_, communication = trained(Population(agent, 1).on(jax.devices()))
    assert communication == ["all-reduce"] * 2  # the gradient of each minibatch, the metrics of the iteration


def test_a_checkpoint_fits_any_number_of_devices(tmp_path):
    population = Population(Shards(ALGORITHMS["a2c"].make(obs_reward()), 2), 2)
    shapes = jax.eval_shape(population.init, jax.random.key(0))
    for before, after in ((4, 1), (2, 4)):
        members = InProcess(population.on(jax.devices()[:before]))
        members.compile_init()
        members.init(jax.random.key(0))
        members.advance(2)
        checkpoint.save(tmp_path, before, members.state())
        members.advance(2)
        resumed = InProcess(population.on(jax.devices()[:after]))
        resumed.load(checkpoint.restore(tmp_path, before, shapes))
        resumed.advance(2)
        assert len(resumed.state().params["params"]["actor_head"]["bias"].devices()) == after
        chex.assert_trees_all_close(bits(resumed.state()), bits(members.state()), rtol=1e-5, atol=1e-6)
        keys = jax.random.key(1)
        for each in (members, resumed):
            each.compile_evaluation(2, explore=False)
        chex.assert_trees_all_close(members.evaluate(keys), resumed.evaluate(keys), rtol=1e-4)


def test_devices_that_cannot_share_equally_are_refused():
    population = Population(ALGORITHMS["a2c"].make(obs_reward()), 6)
    with pytest.raises(InputError, match="6 members cannot be divided equally among 4 devices: possible are 1, 2, 3"):
        population.on(jax.devices())
