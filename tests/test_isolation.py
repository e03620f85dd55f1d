"""Members that diverge are frozen, and the others do not notice."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import bits
from jax.tree_util import Partial
from probes import obs_reward
from rows import ALGORITHMS, probe

from purerl import Policy, Population, Shards, iterate, struct
from purerl.training import isolation, loop
from purerl.training.isolation import NEVER
from purerl.types import Mean


@struct.dataclass
class State:
    """Weights; `own` is what a frozen member keeps doing."""

    iteration: jax.Array = struct.field(shared=True)
    weights: dict
    own: jax.Array = struct.field(per_shard=True)


@struct.dataclass
class Growing:
    """Doubles a weight in each iteration."""

    start: float = 1.0

    @property
    def steps_per_iteration(self):
        return 1

    @property
    def minibatch_rows(self):
        return 1

    def init(self, key):
        del key
        return State(
            jnp.int32(0), {"a": -jnp.float32(jnp.inf), "b": jnp.asarray(self.start, jnp.float32)}, jnp.int32(0)
        )

    def policy(self, state, *, explore):
        """Computed from both weights, so that both are watched."""
        del explore
        return Policy(Partial(jnp.multiply, state.weights["a"] * state.weights["b"]))

    def step(self, state):
        weights = {"a": state.weights["a"], "b": 2.0 * state.weights["b"]}
        return State(state.iteration + 1, weights, state.own + 1), {"weight": Mean.of(weights["b"])}


@pytest.mark.parametrize("size", [1, 3], ids=["one after the other", "together"])
def test_a_frozen_member_keeps_its_last_finite_state(size, monkeypatch: pytest.MonkeyPatch):
    """1e38 is doubled once; what is infinite by intention does not count."""
    monkeypatch.setattr("purerl.training.population.ROWS_IN_CACHE", size)
    population = Population(Growing(), 3, {"start": [1.0, 1e38, 3.0]})
    state = jax.jit(population.init)(jax.random.key(0))
    assert isolation.names(population, state) == ["weights.a", "weights.b"]
    before = loop.no_metrics(population, state)
    state, metrics, diverged = loop.advance(population, state, jnp.int32(4), before)
    np.testing.assert_array_equal(state.weights["b"], np.float32([16.0, 2e38, 48.0]))
    np.testing.assert_array_equal(diverged.iteration, [NEVER, 2, NEVER])
    np.testing.assert_array_equal(diverged.leaf, [0, 1, 0])
    np.testing.assert_array_equal(metrics["weight"].count, [4, 1, 4])
    np.testing.assert_allclose(metrics["weight"].total, [30.0, 2e38, 90.0])
    np.testing.assert_array_equal(state.own, [4, 4, 4])
    # Chunks do not matter: frozen members stay so.
    again = jax.jit(population.init)(jax.random.key(0))
    frozen = loop.nobody(population)
    for _ in range(4):
        again, _, frozen = loop.advance(population, again, jnp.int32(1), before, frozen)
    chex.assert_trees_all_equal((again, frozen), (state, diverged))


def test_a_single_agent():
    (last,) = iterate(Growing(1e38), Growing(1e38).init(jax.random.key(0)), 3, every=3)
    assert int(last.diverged.iteration) == 2
    assert float(last.state.weights["b"]) == np.float32(2e38)


@pytest.mark.parametrize("name", ["ppo", "dqn"])
def test_the_others_are_bit_equal_to_a_run_without_it(name):
    """One member with a learning rate that explodes, beside two sound ones; then all three sound."""
    agent = ALGORITHMS[name].make(obs_reward())
    agent = struct.replace(agent, optimizer=struct.replace(agent.optimizer, max_grad_norm=None))
    outcomes = []
    for rate in (1e38, 1e-3):
        population = Population(agent, 3, {"learning_rate": [1e-3, rate, 1e-2]})
        *_, last = iterate(population, jax.jit(population.init)(jax.random.key(0)), 4 + population.warmup_iterations, 2)
        outcomes.append((bits(last.state), last.metrics, jax.device_get(last.diverged)))
    (state, metrics, diverged), (sound, metrics_of_sound, nobody) = outcomes
    assert diverged.iteration[1] != NEVER
    assert all(np.all(np.isfinite(leaf[1])) for leaf in jax.tree.leaves(state.params))
    assert nobody.iteration.tolist() == [NEVER] * 3
    axes = struct.member_axes(state, shared=-1)
    for ours, theirs, axis in zip(*map(jax.tree.leaves, (state, sound, axes)), strict=True):
        if axis == 0:
            np.testing.assert_array_equal(ours[[0, 2]], theirs[[0, 2]])
    for ours, theirs in zip(*map(jax.tree.leaves, (metrics, metrics_of_sound)), strict=True):
        np.testing.assert_array_equal(ours[np.array([0, 2])], theirs[np.array([0, 2])])
        assert ours[1] == 0.0


@pytest.mark.parametrize(("name", "starts"), [("dqn", {"params"}), ("sac", {"actor_params"}), ("ppo", {"params"})])
def test_what_is_watched_are_the_leaves_of_the_policy(name, starts):
    agent = ALGORITHMS[name].make(probe(obs_reward, name), normalize_observations=True)
    for algorithm in (agent, Population(agent, 2), Population(Shards(agent, 2), 2)):
        names = isolation.names(algorithm, jax.eval_shape(algorithm.init, jax.random.key(0)))
        assert {name.split(".")[0] for name in names} == starts | {"experience"}
        statistics = [name for name in names if name.startswith("experience")]
        assert statistics == [f"experience.obs_stats.{part}" for part in ("count", "mean", "var")]
