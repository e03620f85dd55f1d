"""IMPALA's own promises: what lags and by how much, A2C without a lag, and what V-trace corrects."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import begin, bits, last
from probes import Probe, action_times_obs, endless
from rows import NETWORK

import purerl
from purerl import A2C, GRU, IMPALA, ActorCritic, InputError, iterate, struct
from purerl.types import TimeStep

SETTINGS = {
    "num_envs": 8,
    "rollout_length": 5,
    "learning_rate": 1e-2,
    "entropy_coef": 0.01,
    "normalize_observations": True,
    "normalize_rewards": True,
    "network": NETWORK,
}


def states(algorithm, iterations, seed=0):
    """After each iteration, those before the first included."""
    state = begin(algorithm, jax.random.key(seed))
    yield jax.device_get((state.params, state.recent_params))
    for progress in iterate(algorithm, state, iterations):
        yield jax.device_get((progress.state.params, progress.state.recent_params))


@pytest.mark.parametrize(
    ("env", "network"),
    [("CartPole-v1", ActorCritic(NETWORK.trunk, GRU(8))), ("Pendulum-v1", NETWORK)],
    ids=["discrete, with memory", "continuous"],
)
def test_without_a_lag_it_is_a2c(env, network):
    learned = []
    for algorithm in (
        IMPALA(env=purerl.make(env), lag=0, **SETTINGS | {"network": network}),
        A2C(env=purerl.make(env), **SETTINGS | {"network": network}),
    ):
        state = last(iterate(algorithm, begin(algorithm, jax.random.key(0)), 5, every=5)).state
        learned.append(bits((state.params, state.opt_state)))
    chex.assert_trees_all_close(*learned, rtol=1e-4, atol=1e-6)


def test_the_ring_holds_the_parameters_of_the_last_iterations():
    algorithm = IMPALA(env=action_times_obs(), lag=3, **SETTINGS)
    history = list(states(algorithm, 7))
    params = [params for params, _ in history]
    for iteration, (_, ring) in enumerate(history):
        for past in range(max(iteration - 4, 0), iteration):
            kept = jax.tree.map(lambda leaf, place=past % 4: leaf[place], ring)
            chex.assert_trees_all_equal(kept, params[past])


@struct.dataclass
class Fork(Probe):
    """Action 0 ends it for 0.6; action 1 leads to a second step, which pays the action."""

    def reset(self, key):
        return self._timestep(jnp.bool_(False), 0.0, False)

    def step(self, key, state, action):
        return self._timestep(~state, jnp.where(state, 1.0 * action, 0.6 * (1 - action)), state | (action == 0))

    def _timestep(self, state, reward, terminated):
        obs = jnp.float32(state).reshape(1)
        return TimeStep(state, obs, jnp.float32(reward), jnp.bool_(terminated), jnp.bool_(False))


def leaning(params, logit):
    """The same network with other odds of action 1."""
    head = {"kernel": jnp.zeros((16, 2)), "bias": jnp.float32([0.0, logit])}
    return {"params": {**params["params"], "actor_head": head}}


@pytest.mark.parametrize("iteration", [3, 5])
def test_the_oldest_parameters_act(iteration):
    algorithm = IMPALA(env=Fork(), lag=3, **SETTINGS | {"normalize_observations": False})
    state = begin(algorithm, jax.random.key(0))
    kept = [leaning(state.params, -50.0 if place == (iteration + 1) % 4 else 50.0) for place in range(4)]
    state = struct.replace(
        state,
        iteration=jnp.int32(iteration),
        params=leaning(state.params, 50.0),
        recent_params=jax.tree.map(lambda *leaves: jnp.stack(leaves), *kept),
    )
    metrics = last(iterate(algorithm, state, iteration + 1)).metrics
    assert metrics["episode_length"].value == 1.0
    np.testing.assert_allclose(metrics["episode_return"].value, 0.6, rtol=1e-6)


@pytest.mark.parametrize(
    ("correct", "values", "action"),
    [
        # Those of the best policy, which goes on; and those of acting at random, by which it is better not to.
        (True, [0.99, 1.0], 1),
        (False, [0.5 * 0.6 + 0.5 * 0.99 * 0.5, 0.5], 0),
    ],
)
def test_values_are_those_of_the_policy_that_learns_only_with_the_correction(correct, values, action):
    algorithm = IMPALA(
        env=Fork(), lag=2000, correct=correct, num_envs=32, rollout_length=4, learning_rate=5e-3, network=NETWORK
    )
    # So long a lag that the first policy, which is random, acts all the time.
    state = last(iterate(algorithm, begin(algorithm, jax.random.key(0)), 1500, every=1500)).state
    network = NETWORK.clone(action_space=algorithm.env.action_space)
    learned = [network.apply(state.params, jnp.float32([obs]), method="critic") for obs in (0.0, 1.0)]
    np.testing.assert_allclose(learned, values, atol=0.06)
    act = algorithm.policy(state, explore=False).act
    assert act(jax.random.key(0), network.initial_carry(), jnp.float32([0.0]))[0] == action


@pytest.mark.parametrize(("rollout_length", "traces"), [(1, False), (5, True)])
def test_one_bound_is_for_differences_and_one_for_traces(rollout_length, traces):
    """A window of one step has no trace. Without a lag ratios are 1, so a bound below 1 takes effect at every step."""

    def learned(**bounds):
        algorithm = IMPALA(env=endless(), lag=0, **SETTINGS | {"rollout_length": rollout_length} | bounds)
        state = last(iterate(algorithm, begin(algorithm, jax.random.key(0)), 1)).state
        return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(bits(state.params))])

    unbounded = learned()
    assert not np.array_equal(learned(rho_bar=0.1), unbounded)
    assert np.array_equal(learned(c_bar=0.1), unbounded) != traces


def test_unlimited_ratios_are_allowed():
    algorithm = IMPALA(env=action_times_obs(), rho_bar=np.inf, c_bar=np.inf, **SETTINGS)
    progress = last(iterate(algorithm, begin(algorithm, jax.random.key(0)), 3, every=3))
    assert float(progress.metrics["clip_fraction"].value) == 0.0
    assert np.isfinite(float(progress.metrics["grad_norm"].value))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lag": -1}, "lag"),
        ({"lag": 1.5}, "whole number"),
        ({"rho_bar": 0.0}, "rho_bar"),
        ({"c_bar": float("nan")}, "c_bar"),
        ({"vtrace_lambda": 1.1}, r"\[0, 1\]"),
        ({"correct": 1}, "true or false"),
        ({"network": ActorCritic(trunk=purerl.CNN())}, "CNN"),
    ],
)
def test_bad_hyper_parameters_are_one_clear_error(changes, words):
    with pytest.raises(InputError, match=words):
        IMPALA(env=purerl.make("CartPole-v1"), **changes)
