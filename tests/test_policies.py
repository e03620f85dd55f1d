"""How policies act: what is drawn, what the environment gets, what is remembered."""

import dataclasses
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Target
from rows import NETWORK

import purerl
from purerl import GRU, MLP, ActorCritic, DeterministicPolicy
from purerl.environments import ScaleAction
from purerl.experience.policies import Actor, EpsilonGreedy, Noise, scale_action, uniform
from purerl.math import running_statistics
from purerl.physics.diagnostics.diagnosis import _random_policy
from purerl.spaces import Box, Discrete

OBS = jnp.float32([0.5])
INF = float("inf")
STATS = running_statistics.update(running_statistics.init((1,)), jnp.float32([[1.0], [3.0]]))


def actor(env, network=NETWORK):
    """It, and the parameters of its policy alone or, with memory, all of them."""
    network = network.clone(action_space=env.action_space)
    if jax.tree.leaves(network.initial_carry()):
        params = network.init(jax.random.key(0), network.initial_carry(), OBS, method="advance")
    elif isinstance(network, DeterministicPolicy):
        params = network.init(jax.random.key(0), OBS)
    else:
        params = network.init(jax.random.key(0), OBS, method="actor")
    return Actor(env, network), jax.tree.map(lambda leaf: leaf + 0.3, params)


@pytest.mark.parametrize("squash", [False, True])
def test_samples_are_scaled_for_the_environment_and_told_as_they_were_drawn(squash):
    acting, params = actor(Target(), ActorCritic(MLP((16,)), squash=squash))
    policy = acting.policy(params, None, explore=True)
    keys = jax.random.split(jax.random.key(1), 500)
    action, _, extras = jax.vmap(lambda key: policy.act(key, policy.carry, OBS))(keys)
    raw = np.asarray(extras["raw_action"])
    distribution = acting.network.apply(params, OBS, method="actor")
    np.testing.assert_allclose(extras["log_prob"], jax.vmap(distribution.log_prob)(raw), rtol=1e-5)
    assert np.abs(raw).max() > 1.0
    np.testing.assert_allclose(action, 2.0 * (np.tanh(raw) if squash else np.clip(raw, -1.0, 1.0)), rtol=1e-5)
    greedy = acting.policy(params, None, explore=False)
    mode, _, _ = greedy.act(jax.random.key(0), greedy.carry, OBS)
    middle = np.asarray(distribution.mean)
    np.testing.assert_allclose(mode, 2.0 * (np.tanh(middle) if squash else np.clip(middle, -1.0, 1.0)), rtol=1e-5)


def test_choices_are_drawn_with_their_probabilities():
    env, obs = purerl.make("CartPole-v1"), jnp.float32([0.1, -0.2, 0.3, 0.4])
    acting = Actor(env, NETWORK.clone(action_space=env.action_space))
    params = acting.network.init(jax.random.key(0), obs, method="actor")
    params["params"]["actor_head"]["bias"] = jnp.log(jnp.float32([1.0, 3.0]))
    probs = jax.nn.softmax(acting.network.apply(params, obs, method="actor").logits)
    policy = acting.policy(params, None, explore=True)
    keys = jax.random.split(jax.random.key(1), 4000)
    action, _, extras = jax.vmap(lambda key: policy.act(key, policy.carry, obs))(keys)
    assert abs(np.mean(action) - probs[1]) < 3 * np.sqrt(probs[0] * probs[1] / 4000)
    np.testing.assert_allclose(np.exp(extras["log_prob"]), probs[action], rtol=1e-5)
    np.testing.assert_array_equal(extras["raw_action"], action)
    greedy = acting.policy(params, None, explore=False)
    assert greedy.act(jax.random.key(0), greedy.carry, obs)[0] == 1


def test_observations_are_seen_through_the_statistics():
    acting, params = actor(Target())
    raw, seen = (
        acting.policy(params, stats, explore=False).act(jax.random.key(0), acting.network.initial_carry(), obs)[0]
        for stats, obs in ((STATS, OBS), (None, running_statistics.standardize(STATS, OBS)))
    )
    np.testing.assert_array_equal(raw, seen)


def test_memory_moves_on_as_in_the_network():
    acting, params = actor(Target(), ActorCritic(MLP((16,)), GRU(8)))
    policy = acting.policy(params, None, explore=True)
    carry = expected = policy.carry
    chex.assert_trees_all_equal(carry, acting.network.initial_carry())
    for t in range(3):
        _, carry, extras = policy.act(jax.random.key(t), carry, OBS + t)
        expected, (distribution, _) = acting.network.apply(params, expected, OBS + t, method="advance")
        np.testing.assert_allclose(extras["log_prob"], distribution.log_prob(extras["raw_action"]), rtol=1e-5)
    chex.assert_trees_all_close(carry, expected)


def test_uniform_actions_reach_the_bounds_and_keep_the_memory():
    env = Target()
    policy = uniform(env, jnp.float32(7.0))
    keys = jax.random.split(jax.random.key(1), 2000)
    action, carry, extras = jax.vmap(lambda key: policy.act(key, policy.carry, OBS))(keys)
    np.testing.assert_allclose(action, 2.0 * extras["unit_action"], rtol=1e-6)
    np.testing.assert_allclose([action.min(), action.max()], [-2.0, 2.0], atol=0.01)
    np.testing.assert_array_equal(carry, 7.0)
    policy = uniform(purerl.make("CartPole-v1"))
    action, _, extras = jax.vmap(lambda key: policy.act(key, (), OBS))(keys)
    assert abs(np.mean(action) - 0.5) < 0.04
    assert extras == {}


@dataclasses.dataclass
class Acts:
    """What policies need to know of an environment."""

    action_space: Box
    observation_space = Box((1,))


@pytest.mark.parametrize("how", ["gaussian", "greedy", "uniform", "diagnosis", "scaled"])
def test_what_is_sent_lies_in_the_space_and_nothing_in_it_is_out_of_reach(how):
    low, high = np.float32([-3.0, 5.0, -INF, -INF, 2.0]), np.float32([1.0, INF, -5.0, INF, 2.0])
    env = Acts(Box((5,), low, high))
    inner, env = env, ScaleAction(env) if how == "scaled" else env
    # Wide enough to leave any bound.
    acting, params = actor(env, ActorCritic(MLP((16,)), initial_std=5.0))
    policy = {"uniform": uniform, "diagnosis": _random_policy}.get(
        how, lambda env: acting.policy(params, None, explore=how != "greedy")
    )(env)
    keys = jax.random.split(jax.random.key(1), 2000)
    seen = 30.0 * jax.random.normal(jax.random.key(2), (2000, 1))
    action = jax.vmap(lambda key, obs: policy.act(key, policy.carry, obs)[0])(keys, seen)
    if how == "scaled":
        action = jax.vmap(inner.action_space.from_unit)(action)
    action = np.asarray(action)
    assert np.all((action >= low) & (action <= high))
    assert np.all(np.ptp(action, axis=0)[:4] > 0)
    if how in ("gaussian", "scaled"):
        np.testing.assert_array_equal(action.min(axis=0)[:2], low[:2])
        np.testing.assert_array_equal(action.max(axis=0)[[0, 2]], high[[0, 2]])
        assert np.ptp(action, axis=0)[1:4].min() > 10.0


def test_scale_action_scales_to_the_bounds_and_keeps_the_action_before():
    raw = jnp.float32([-1.0, 0.5])
    action, extras = scale_action(Box((2,), (-3.0, 0.0), (1.0, 4.0)), raw)
    np.testing.assert_allclose(action, [-3.0, 3.0])
    np.testing.assert_array_equal(extras["unit_action"], raw)
    assert scale_action(Discrete(3), jnp.int32(2)) == (2, {})


def test_noise_is_added_between_the_bounds_of_1_and_begins_at_0_in_every_episode():
    acting, params = actor(Target(), DeterministicPolicy(MLP((16,))))
    quiet = acting.policy(params, None, explore=False)
    unit = quiet.act(jax.random.key(0), quiet.carry, OBS)[2]["unit_action"]
    noisy = Noise(std=0.1, decay=0.15, dt=0.5).add_to(quiet, acting.env)
    carry, expected = noisy.carry, 0.0
    np.testing.assert_array_equal(carry[1], 0.0)
    for t in range(3):
        action, carry, extras = noisy.act(jax.random.key(t), carry, OBS)
        drawn = jax.random.normal(jax.random.key(t), (1,))
        expected = (1.0 - 0.15 * 0.5) * expected + 0.1 * np.sqrt(0.5) * drawn
        np.testing.assert_allclose(carry[1], expected, rtol=1e-5)
        np.testing.assert_allclose(extras["unit_action"], np.clip(unit + expected, -1.0, 1.0), rtol=1e-5)
        np.testing.assert_allclose(action, 2.0 * extras["unit_action"], rtol=1e-6)
    loud = Noise(std=100.0).add_to(quiet, acting.env)
    keys = jax.random.split(jax.random.key(1), 100)
    actions = jax.vmap(lambda key: loud.act(key, loud.carry, OBS)[0])(keys)
    np.testing.assert_allclose(np.abs(actions).max(), 2.0)


def test_epsilon_is_the_share_of_random_actions():
    env, obs = purerl.make("CartPole-v1"), jnp.zeros(4)
    network = purerl.QNetwork(MLP((8,))).clone(action_space=env.action_space)
    params = network.init(jax.random.key(0), obs)
    policy = partial(EpsilonGreedy(env, network).policy, params, None)
    keys = jax.random.split(jax.random.key(1), 4000)
    greedy = int(jnp.argmax(network.head.value(network.apply(params, obs))))
    for explore, epsilon, share in ((True, 0.4, 0.2), (True, 0.0, 0.0), (True, 1.0, 0.5), (False, 1.0, 0.0)):
        chosen = policy(jnp.float32(epsilon), explore=explore)
        actions = jax.vmap(lambda key, chosen=chosen: chosen.act(key, chosen.carry, obs)[0])(keys)
        assert abs(np.mean(actions != greedy) - share) < 0.04
