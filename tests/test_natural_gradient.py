"""Natural gradients: the maths on its own, then what TRPO promises with its line search and without."""

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import begin, network_of
from probes import Target, action_times_obs, obs_reward
from rows import NETWORK

import purerl
from purerl import MLP, TRPO, ActorCritic, InputError, rollout
from purerl.learning.sequences import PolicyBatch
from purerl.math import float_leaves, running_statistics
from purerl.math.natural_gradient import (
    conjugate_gradient,
    fisher_vector_product,
    natural_step,
    surrogate_and_divergence,
)
from purerl.spaces import Box, Discrete


class Identity(nn.Module):
    """No layers: with it as trunk a policy is linear."""

    @nn.compact
    def __call__(self, obs):
        return obs


def policies(space, network=NETWORK):
    """Parameters ``[n]`` to distributions over a batch of observations, and some such parameters."""
    network = network.clone(action_space=space)
    params = network.init(jax.random.key(0), jnp.zeros(3), method="actor")
    flat, unravel = float_leaves.ravel(params)
    obs = jax.random.normal(jax.random.key(1), (20, 3))
    flat = flat + 0.3 * jax.random.normal(jax.random.key(2), flat.shape)
    return lambda flat: jax.vmap(lambda obs: network.apply(unravel(flat), obs, method="actor"))(obs), flat


SPACES = {
    "categorical": (Discrete(4), NETWORK),
    "gaussian": (Box((2,), -1.0, 1.0), NETWORK),
    "squashed": (Box((2,), -1.0, 1.0), dataclasses.replace(NETWORK, squash=True)),
}
every_space = pytest.mark.parametrize(("space", "network"), SPACES.values(), ids=SPACES)


@every_space
def test_fisher_products_are_finite_differences_of_the_divergences_gradient(space, network):
    at, flat = policies(space, network)
    old = at(flat)
    slope = jax.jit(jax.grad(lambda flat: jnp.mean(old.kl(at(flat)))))
    product = jax.jit(fisher_vector_product(lambda flat: jnp.mean(old.kl(at(flat))), flat))
    for seed in range(5):
        v = jax.random.normal(jax.random.key(seed), flat.shape)
        v = v / jnp.linalg.norm(v)
        difference = (slope(flat + 0.01 * v) - slope(flat - 0.01 * v)) / 0.02
        error = jnp.linalg.norm(product(v) - difference) / jnp.linalg.norm(difference)
        assert error < 2e-3


def test_fisher_products_are_those_of_the_scores_second_moment():
    """``F = E[grad log pi grad log pi^T]``, the expectation over actions taken exactly."""
    at, flat = policies(Discrete(4))
    old = at(flat)
    actions = jnp.broadcast_to(jnp.arange(4), (20, 4))

    def log_probs(flat):
        return jax.vmap(at(flat).log_prob, in_axes=1, out_axes=1)(actions)

    scores = np.asarray(jax.jacrev(log_probs)(flat))
    fisher = np.einsum("sa,sai,saj->ij", np.exp(log_probs(flat)), scores, scores) / 20
    product = jax.jit(fisher_vector_product(lambda flat: jnp.mean(old.kl(at(flat))), flat))
    v = jax.random.normal(jax.random.key(3), flat.shape)
    np.testing.assert_allclose(product(v), fisher @ np.asarray(v), atol=1e-4)


def symmetric(size, seed):
    root = np.random.default_rng(seed).normal(size=(size, size))
    return np.float32(root @ root.T / size + 0.3 * np.eye(size))


@pytest.mark.parametrize("seed", range(3))
def test_conjugate_gradient_solves_a_random_system(seed):
    matrix, target = symmetric(12, seed), np.random.default_rng(seed + 10).normal(size=12).astype(np.float32)
    x, residual = conjugate_gradient(lambda v: matrix @ v, target, 20)
    np.testing.assert_allclose(x, np.linalg.solve(matrix, target), rtol=1e-3, atol=1e-4)
    assert np.linalg.norm(residual) < 1e-4
    early, residual = conjugate_gradient(lambda v: matrix @ v, target, 4)
    np.testing.assert_allclose(residual, target - matrix @ early, atol=1e-5)
    assert np.linalg.norm(residual) > 1e-3


def test_conjugate_gradient_stays_at_a_solution():
    target = jnp.float32([1.0, -2.0, 3.0])
    x, residual = conjugate_gradient(lambda v: 2.0 * v, target, 50)
    np.testing.assert_array_equal(x, target / 2.0)
    np.testing.assert_array_equal(residual, 0.0)
    nothing, _ = conjugate_gradient(lambda v: 2.0 * v, jnp.zeros(3), 5)
    np.testing.assert_array_equal(nothing, 0.0)


@every_space
def test_surrogate_and_divergence_where_nothing_moved_and_elsewhere(space, network):
    at, flat = policies(space, network)
    old = at(flat)
    raw, log_prob = old.sample_and_log_prob(jax.random.key(3))
    advantage = jax.random.normal(jax.random.key(4), (20,))
    surrogate, divergence = map(jax.jit, surrogate_and_divergence(at, flat, raw, log_prob, advantage))
    np.testing.assert_allclose([surrogate(flat), divergence(flat)], [advantage.mean(), 0.0], atol=1e-6)
    gain = jax.grad(lambda flat: jnp.mean(at(flat).log_prob(raw) * advantage))(flat)
    np.testing.assert_allclose(jax.grad(surrogate)(flat), gain, rtol=1e-3, atol=1e-5)
    new = at(flat + 0.1)
    ratio = np.exp(np.asarray(new.log_prob(raw)) - np.asarray(log_prob))
    np.testing.assert_allclose(surrogate(flat + 0.1), np.mean(ratio * np.asarray(advantage)), rtol=1e-4)
    np.testing.assert_allclose(divergence(flat + 0.1), np.mean(old.kl(new)), rtol=1e-4)


@pytest.mark.parametrize("damping", [0.0, 0.2])
def test_the_natural_step_is_the_steepest_of_its_length(damping):
    """With a quadratic divergence ``d^T F d / 2`` and a surrogate of slope g, in closed form."""
    fisher, slope = symmetric(6, 0), np.random.default_rng(1).normal(size=6).astype(np.float32)
    at, size = jnp.arange(6.0), 0.03
    step, metrics = natural_step(
        lambda x: slope @ jnp.sin(x - at),
        lambda x: 0.5 * (x - at) @ (fisher @ (x - at)),
        at,
        size,
        damping,
        num_iterations=12,
    )
    metric = np.float64(fisher) + damping * np.eye(6)
    natural = np.linalg.solve(metric, slope)
    np.testing.assert_allclose(step, np.sqrt(2 * size / (slope @ natural)) * natural, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(0.5 * step @ (metric @ step), size, rtol=1e-3)
    np.testing.assert_allclose(metrics["grad_norm"].value, np.linalg.norm(slope), rtol=1e-5)
    assert metrics["cg_residual"].value < 1e-4


# The algorithm


def tiny(env, **changes):
    shape = {"num_envs": 4, "rollout_length": 64, "num_epochs": 2, "num_minibatches": 4, "network": NETWORK}
    return TRPO(env=env, **(shape | changes))


def batch_of(algorithm, params, obs, advantage):
    """A batch with actions drawn from the policy."""
    obs = jnp.float32(obs)
    distribution = jax.vmap(lambda obs: network_of(algorithm).apply(params, obs, method="actor"))(obs)
    raw, log_prob = distribution.sample_and_log_prob(jax.random.key(5))
    nothing = jnp.zeros(len(obs))
    return PolicyBatch(obs, raw, log_prob, value=nothing, advantage=jnp.float32(advantage), target=nothing)


def test_the_step_of_a_linear_gaussian_policy_is_the_closed_form():
    """Mean ``w obs + b`` and a deviation ``s``: F has blocks ``E[f f^T] / s^2`` with ``f = (1, obs)``, and 2."""
    delta, std = 0.003, 0.5
    linear = ActorCritic(Identity(), initial_std=std)
    algorithm = tiny(Target(), line_search=False, network=linear, max_kl=delta, damping=0.0, num_cg_iterations=6)
    params = algorithm.init(jax.random.key(0)).actor_params
    rng = np.random.default_rng(0)
    obs, advantage = rng.normal(size=(500, 1)), rng.normal(size=500)
    batch = batch_of(algorithm, params, obs, advantage)
    new, metrics = jax.jit(algorithm._improve_policy)(params, batch, jax.random.key(0))

    inner = {name: np.asarray(leaf, np.float64) for name, leaf in params["params"]["actor_head"].items()}
    error = np.asarray(batch.raw_action, np.float64)[:, 0] - obs[:, 0] * inner["kernel"][0, 0] - inner["bias"][0]
    features = np.stack([np.ones(500), obs[:, 0]], axis=1)
    gradient = np.append(
        (features * (advantage * error / std**2)[:, None]).mean(axis=0), (advantage * (error**2 / std**2 - 1)).mean()
    )
    fisher = np.zeros((3, 3))
    fisher[:2, :2] = features.T @ features / 500 / std**2
    fisher[2, 2] = 2.0
    natural = np.linalg.solve(fisher, gradient)
    expected = np.sqrt(2 * delta / (gradient @ natural)) * natural

    moved = jax.tree.map(lambda a, b: np.asarray(a - b).ravel(), new, params)["params"]
    actual = np.concatenate([moved["actor_head"]["bias"], moved["actor_head"]["kernel"], moved["log_std"]["value"]])
    np.testing.assert_allclose(actual, expected, rtol=2e-3)
    np.testing.assert_allclose(metrics["kl"].value, delta, rtol=0.1)
    np.testing.assert_allclose(metrics["grad_norm"].value, np.linalg.norm(gradient), rtol=1e-3)
    assert metrics["cg_residual"].value < 1e-4


def divergence(algorithm, obs_stats, obs, old_params, new_params):
    """Mean KL from old to new over raw observations ``[..., n]``, in NumPy and from its definition."""
    obs = obs.reshape(-1, obs.shape[-1])
    seen = obs if obs_stats is None else running_statistics.standardize(obs_stats, obs)
    old, new = (
        jax.tree.map(
            np.float64,
            jax.vmap(lambda obs, params=params: network_of(algorithm).apply(params, obs, method="actor"))(seen),
        )
        for params in (old_params, new_params)
    )
    if isinstance(algorithm.env.action_space, Discrete):
        log_p, log_q = (x.logits - np.log(np.exp(x.logits).sum(axis=-1, keepdims=True)) for x in (old, new))
        return (np.exp(log_p) * (log_p - log_q)).sum(axis=-1).mean()
    variance = np.exp(2 * (old.log_std - new.log_std))
    moved = ((old.mean - new.mean) * np.exp(-new.log_std)) ** 2
    return (0.5 * (variance + moved - 1.0) - (old.log_std - new.log_std)).sum(axis=-1).mean()


RUNS = {
    "CartPole-v1": {"max_kl": 0.01},
    "Pendulum-v1": {"max_kl": 0.02, "normalize_observations": True, "normalize_rewards": True, "gamma": 0.98},
}


@pytest.mark.parametrize("env", RUNS)
def test_it_keeps_to_the_trust_region_in_every_update(env):
    algorithm = tiny(purerl.make(env), learning_rate=1e-3, **RUNS[env])
    num_iterations = 40
    step = jax.jit(algorithm.step)
    observe = jax.jit(
        lambda state, key: (
            rollout.collect(
                algorithm.env,
                algorithm.policy(state, explore=True),
                state.experience.rollout,
                key,
                algorithm.rollout_length,
            )[1].obs
        )
    )
    state, realised = begin(algorithm, jax.random.key(0)), []
    for _ in range(num_iterations):
        obs = observe(state, jax.random.split(state.key, 4)[1])  # what the step is going to see
        new, metrics = step(state)
        kl = divergence(algorithm, state.experience.obs_stats, obs, state.actor_params, new.actor_params)
        np.testing.assert_allclose(metrics["kl"].value, kl, rtol=1e-3, atol=1e-6)
        realised.append(kl)
        state = new
    assert max(realised) <= algorithm.max_kl * (1 + 1e-3)
    assert np.mean(realised) > 0.5 * algorithm.max_kl  # and makes use of it
    _, metrics = jax.jit(lambda key: purerl.train(algorithm, key, 3 * num_iterations))(jax.random.key(1))
    assert np.max(metrics["kl"].value) <= algorithm.max_kl * (1 + 1e-6)
    assert np.mean(metrics["accepted"].value) > 0.9


def test_unchecked_steps_have_about_their_divergence_and_less_with_damping():
    algorithm = tiny(purerl.make("CartPole-v1"), line_search=False, learning_rate=1e-3, max_kl=0.005)

    def train(damping):
        return purerl.train(dataclasses.replace(algorithm, damping=damping), jax.random.key(0), 60)[1]

    metrics = jax.jit(jax.vmap(train))(jnp.float32([1e-3, 0.1]))
    near, damped = np.median(metrics["kl"].value, axis=1)
    np.testing.assert_allclose(near, 0.005, rtol=0.2)
    assert 0.001 < damped < 0.9 * near


def test_unchecked_steps_do_not_go_far_where_the_policy_is_all_but_certain():
    """There the divergence hardly shows to second order; with a length that leaves damping out it reaches 0.6."""
    algorithm = tiny(action_times_obs(), line_search=False, num_envs=16, rollout_length=8, learning_rate=5e-3)
    keys = jax.random.split(jax.random.key(1), 4)
    _, metrics = jax.jit(jax.vmap(lambda key: purerl.train(algorithm, key, 150)))(keys)
    assert np.max(metrics["kl"].value) < 3 * algorithm.max_kl
    assert np.mean(metrics["entropy"].value[:, -50:]) < 0.02


def test_the_line_search_takes_the_first_length_that_will_do():
    algorithm = tiny(obs_reward(), max_kl=0.5, damping=1e-3, num_backtracks=8)
    improve = jax.jit(algorithm._improve_policy)

    @jax.jit
    def surrogate(params, batch):
        distribution = jax.vmap(lambda obs: network_of(algorithm).apply(params, obs, method="actor"))(batch.obs)
        return jnp.mean(jnp.exp(distribution.log_prob(batch.raw_action) - batch.log_prob) * batch.advantage)

    lengths = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        params = jax.tree.map(lambda x: 3.0 * x, algorithm.init(jax.random.key(seed)).actor_params)
        batch = batch_of(algorithm, params, rng.normal(size=(16, 1)), rng.normal(size=16))
        new, metrics = improve(params, batch, jax.random.key(0))
        length = float(metrics["step_length"].value)
        lengths.append(length)
        if length == 0.0:
            chex.assert_trees_all_equal(new, params)
            continue
        full = jax.tree.map(lambda a, b, length=length: b + (a - b) / length, new, params)
        candidate = 1.0
        for candidate in 0.8 ** np.arange(8):
            there = jax.tree.map(lambda a, b, c=candidate: b + c * (a - b), full, params)
            kl = divergence(algorithm, None, batch.obs, params, there)
            gain = surrogate(there, batch) - surrogate(params, batch)
            if gain > 0 and kl <= 0.5:
                break
        np.testing.assert_allclose(length, candidate, rtol=1e-5)
    assert len(set(lengths)) > 2


@pytest.mark.parametrize("line_search", [False, True])
def test_without_advantages_the_policy_stays_as_it_is(line_search):
    algorithm = tiny(obs_reward(), line_search=line_search)
    params = algorithm.init(jax.random.key(0)).actor_params
    batch = batch_of(algorithm, params, np.ones((16, 1)), np.zeros(16))
    new, metrics = jax.jit(algorithm._improve_policy)(params, batch, jax.random.key(0))
    chex.assert_trees_all_equal(new, params)
    assert metrics["kl"].value == 0.0


def test_it_keeps_the_old_policy_where_the_step_is_not_finite():
    algorithm = tiny(obs_reward())
    params = algorithm.init(jax.random.key(0)).actor_params
    batch = batch_of(algorithm, params, np.ones((16, 1)), np.full(16, np.nan))
    new, metrics = jax.jit(algorithm._improve_policy)(params, batch, jax.random.key(0))
    chex.assert_trees_all_equal(new, params)
    assert metrics["accepted"].value == 0.0


def test_only_the_policys_own_parameters_are_in_its_step():
    state = tiny(Target()).init(jax.random.key(0))
    assert set(state.actor_params["params"]) == {"actor_trunk", "actor_head", "log_std"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": ActorCritic(shared=True)}, "needs a network with shared=False"),
        ({"network": ActorCritic(MLP((16,)), squash=True)}, "squash"),
        ({"num_envs": 3, "rollout_length": 5}, "minibatches"),
        ({"num_envs": 1, "rollout_length": 1, "num_minibatches": 1}, "at least 2"),
        ({"num_cg_iterations": 0}, "num_cg_iterations"),
        ({"damping": -0.1}, "damping"),
    ],
)
def test_bad_hyper_parameters_are_one_clear_error(changes, words):
    with pytest.raises(InputError, match=words):
        tiny(purerl.make("CartPole-v1"), **changes)
