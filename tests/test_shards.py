"""Data-parallel agents: what is equal on all shards, means over them, and schedules."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import bits
from probes import obs_reward
from rows import ALGORITHMS, for_each, probe

import purerl
from purerl import Population, Shards, struct
from purerl.errors import InputError
from purerl.math import running_statistics
from purerl.math.estimates import mean_and_variance, standardize
from purerl.math.reductions import SHARDS, from_first_shard, mean_over_shards, num_shards, sum_over_shards

ALONE = ("es", "ars", "cma_es", "evosax", "q_learning", "sarsa", "expected_sarsa", "double_q_learning")


def over_shards(function, *args):
    return jax.vmap(function, out_axes=None, axis_name=SHARDS)(*args)


def test_without_shards_nothing_is_reduced():
    tree = {"a": jnp.arange(3.0), "b": jnp.float32(2.0)}
    assert mean_over_shards(tree) is tree
    assert sum_over_shards(tree) is tree
    assert num_shards() == 1


def test_reductions_are_of_each_leaf():
    tree = {"a": jnp.arange(6.0).reshape(3, 2), "b": jnp.array([1.0, 2.0, 6.0])}
    mean = over_shards(mean_over_shards, tree)
    chex.assert_trees_all_close(mean, {"a": jnp.array([2.0, 3.0]), "b": jnp.float32(3.0)})
    chex.assert_trees_all_close(over_shards(sum_over_shards, tree), jax.tree.map(lambda leaf: 3 * leaf, mean))
    first = over_shards(lambda tree: jax.tree.map(from_first_shard, tree), tree)
    chex.assert_trees_all_equal(first, jax.tree.map(lambda leaf: leaf[0], tree))


def test_statistics_of_parts_are_those_of_the_whole():
    data = jax.random.normal(jax.random.key(0), (4, 8, 3)) * 2.0 + 100.0
    before = running_statistics.update(running_statistics.init((3,)), jnp.ones((5, 3)))
    whole = running_statistics.update(before, data)
    parts = over_shards(lambda part: running_statistics.update(before, part), data)
    chex.assert_trees_all_close(parts, whole, rtol=1e-5)
    values = data[..., 0]
    chex.assert_trees_all_close(over_shards(mean_and_variance, values), mean_and_variance(values), rtol=1e-5)
    together = jax.vmap(standardize, axis_name=SHARDS)(values)
    np.testing.assert_allclose(together, standardize(values), atol=1e-4)


@for_each([name for name in ALGORITHMS if name not in ALONE])
def test_equal_shards_learn_what_one_learns(name):
    """The mean of equal gradients is the gradient, and sums of metrics count each shard once."""
    agent = ALGORITHMS[name].make(probe(obs_reward, name))
    # Statistics of twice as much data are others.
    switches = [field for field in ("normalize_observations", "normalize_rewards") if hasattr(agent, field)]
    agent = struct.replace(agent, **dict.fromkeys(switches, False))
    state = jax.jit(agent.init)(jax.random.key(0))
    axes = struct.shard_axes(state, equal=-1)
    twice = jax.tree.map(lambda leaf, axis: leaf if axis else jnp.stack([leaf, leaf]), state, axes)
    (one, metrics), (two, metrics_of_two) = jax.jit(agent.step)(state), jax.jit(Shards(agent, 2).step)(twice)
    named = jax.tree_util.tree_leaves_with_path(bits(one))
    for (path, leaf), of_two, axis in zip(named, *map(jax.tree.leaves, (bits(two), axes)), strict=True):
        place = jax.tree_util.keystr(path)
        if "_stats" not in place:
            np.testing.assert_allclose(of_two if axis else of_two[1], leaf, rtol=1e-3, atol=1e-5, err_msg=place)
    for metric, mean in metrics.items():
        np.testing.assert_allclose(metrics_of_two[metric].total, 2 * mean.total, rtol=1e-3, atol=1e-4, err_msg=metric)
        np.testing.assert_allclose(metrics_of_two[metric].count, 2 * mean.count, err_msg=metric)


def test_shards_have_environments_and_randomness_of_their_own():
    agent = Shards(ALGORITHMS["ppo"].make(purerl.make("CartPole-v1")), 3)
    state = jax.jit(agent.init)(jax.random.key(0))
    obs = state.experience.rollout.timestep.obs
    assert obs.shape[:2] == (3, agent.algorithm.num_envs)
    assert len(np.unique(np.asarray(obs).reshape(-1, obs.shape[-1]), axis=0)) == obs.shape[0] * obs.shape[1]
    assert len(np.unique(jax.random.key_data(state.key), axis=0)) == 3
    alone = jax.jit(agent.algorithm.init)(jax.random.fold_in(jax.random.key(0), 0))
    chex.assert_trees_all_equal(state.params, alone.params)


def test_schedules_count_the_steps_of_all_shards():
    agent = ALGORITHMS["a2c"].make(obs_reward())
    agent = struct.replace(agent, learning_rate=purerl.LinearSchedule(1.0, 0.0, 4.0 * agent.steps_per_iteration))
    shards = Shards(agent, 2)
    assert shards.steps_per_iteration == 2 * agent.steps_per_iteration

    def rates(agent):
        _, metrics = jax.jit(purerl.train, static_argnums=2)(agent, jax.random.key(0), 3)
        return metrics["learning_rate"].value

    np.testing.assert_allclose(rates(agent), [1.0, 0.75, 0.5])
    np.testing.assert_allclose(rates(shards), [1.0, 0.5, 0.0])


def test_division_keeps_totals():
    agent = ALGORITHMS["dqn"].make(obs_reward())
    shards = Shards.divide(struct.replace(agent, num_envs=4, warmup_steps=16 * agent.rollout_length), 2)
    assert shards.algorithm.num_envs == 2
    assert 2 * shards.algorithm.batch_size == agent.batch_size
    assert shards.steps_per_iteration == 4 * agent.rollout_length
    with pytest.raises(InputError, match=r"num_envs = \d+ cannot be divided among 3 shards: the nearest is"):
        Shards.divide(agent, 3)


@for_each(["es", "q_learning"])
def test_an_algorithm_without_means_over_shards_is_refused(name):
    agent = ALGORITHMS[name].make(probe(obs_reward, name))
    if not hasattr(agent, "num_envs"):
        with pytest.raises(InputError, match="it has no num_envs"):
            Shards.divide(agent, 2)
    shards = Shards(agent, 2)
    with pytest.raises(InputError, match="lacks a mean over the shards"):
        jax.eval_shape(shards.step, jax.eval_shape(shards.init, jax.random.key(0)))


def test_members_of_several_shards():
    """Hyper-parameters and physics are those of the algorithm inside."""
    agent = Shards(ALGORITHMS["ppo"].make(purerl.make("CartPole-v1")), 2)
    population = Population(
        agent, 2, {"algorithm.learning_rate": [0.0, 1e-2], "algorithm.env.params.gravity": [5.0, 9.8]}
    )
    before = jax.jit(population.init)(jax.random.key(0))
    after, _ = jax.jit(population.step)(before)
    still, moved = (jax.tree.map(lambda leaf, i=i: leaf[i], (before.params, after.params)) for i in range(2))
    chex.assert_trees_all_equal(*still)
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, moved), strict=True))
