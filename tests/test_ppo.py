"""PPO's own promises: the first ratio, the loss, the two ways of staying close, annealing, what is rejected."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import begin, bits, last
from probes import Target, obs_reward
from rows import NETWORK, ppo

import purerl
from purerl import PPO, ActorCritic, InputError, LinearSchedule, iterate
from purerl.learning.kl_penalty import LEAST_KL_COEF, MOST_KL_COEF
from purerl.learning.sequences import SequenceBatch


def run(algorithm, iterations, seed=0):
    return last(iterate(algorithm, begin(algorithm, jax.random.key(seed)), iterations, every=iterations))


@pytest.mark.parametrize("squash", [False, True])
def test_first_ratio_is_one_with_normalisation_and_bounded_actions(squash):
    algorithm = ppo(
        purerl.make("Pendulum-v1"),
        network=dataclasses.replace(NETWORK, squash=squash),
        rollout_length=64,
        num_epochs=1,
        num_minibatches=1,
        learning_rate=0.1,
    )
    # One update per iteration: every update is a first one, and a large step size makes each policy very different.
    for progress in iterate(algorithm, begin(algorithm, jax.random.key(0)), 10):
        assert abs(float(progress.metrics["approx_kl"].value)) < 1e-9
        assert float(progress.metrics["clip_fraction"].value) == 0.0


def test_first_ratio_is_one_for_discrete_actions():
    algorithm = ppo(purerl.make("CartPole-v1"), num_epochs=1, num_minibatches=1, learning_rate=0.1)
    for progress in iterate(algorithm, begin(algorithm, jax.random.key(0)), 10):
        assert abs(float(progress.metrics["approx_kl"].value)) < 1e-9


def test_the_first_ratio_check_can_fail():
    algorithm = ppo(purerl.make("CartPole-v1"), num_epochs=2, num_minibatches=1, learning_rate=0.1)
    assert run(algorithm, 3).metrics["approx_kl"].value > 1e-4


def test_zero_learning_rate_leaves_parameters_unchanged():
    algorithm = ppo(purerl.make("CartPole-v1"), learning_rate=0.0)
    before = bits(algorithm.init(jax.random.key(0)).params)
    chex.assert_trees_all_equal(before, bits(run(algorithm, 3).state.params))


def reference_loss(algorithm, batch, logits, value):
    """Equations 7 and 9 of the paper, sample by sample, for categorical actions."""
    losses, advantage = [], batch.advantage
    for i in range(len(value)):
        p = np.exp(logits[i]) / np.exp(logits[i]).sum()
        ratio = p[batch.raw_action[i]] / np.exp(batch.log_prob[i])
        low, high = 1 - algorithm.clip_eps, 1 + algorithm.clip_eps
        surrogate = min(ratio * advantage[i], min(max(ratio, low), high) * advantage[i])
        moved = np.clip(value[i] - batch.value[i], -algorithm.value_clip_eps, algorithm.value_clip_eps)
        near = batch.value[i] + moved
        value_loss = 0.5 * max((value[i] - batch.target[i]) ** 2, (near - batch.target[i]) ** 2)
        entropy = -(p * np.log(p)).sum()
        losses.append(-surrogate + algorithm.value_coef * value_loss - algorithm.entropy_coef * entropy)
    return np.mean(losses)


def random_batch():
    rng = np.random.default_rng(0)
    return SequenceBatch(
        carry=(),
        obs=rng.normal(size=(32, 1)),
        done=rng.random(32) < 0.2,
        raw_action=rng.integers(0, 2, size=32, dtype=np.int32),
        log_prob=np.log(rng.uniform(0.2, 0.9, size=32)),
        value=rng.normal(size=32),
        advantage=rng.normal(size=32),
        target=rng.normal(size=32),
    )


def as_steps(algorithm, batch):
    """As learning has it: sequences of a single step."""
    batch = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32 if x.dtype == float else x.dtype)[:, None], batch)
    return dataclasses.replace(batch, carry=algorithm.network.initial_carry())


def test_loss_against_a_slow_reference():
    algorithm = ppo(obs_reward(), entropy_coef=0.3, value_coef=0.7)
    batch = random_batch()
    network = algorithm.network.clone(action_space=algorithm.env.action_space)
    params = jax.tree.map(lambda x: x + 0.3, network.init(jax.random.key(0), jnp.zeros(1)))
    distribution, value = jax.vmap(lambda obs: network.apply(params, obs))(jnp.float32(batch.obs))
    expected = reference_loss(algorithm, batch, np.asarray(distribution.logits), np.asarray(value))
    loss, _ = algorithm._loss(params, as_steps(algorithm, batch), jnp.float32(0.0), jax.random.key(0))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("normalize_advantage", [True, False])
def test_advantages_are_standardised_within_minibatches(normalize_advantage):
    # Of two advantages, standardised, only their order remains. Over the whole batch the cube would change them.
    pairs = {"num_envs": 8, "rollout_length": 4, "num_minibatches": 16, "learning_rate": 1e-2}
    algorithm = ppo(obs_reward(), normalize_advantage=normalize_advantage, **pairs)
    state, batch = begin(algorithm, jax.random.key(0)), as_steps(algorithm, random_batch())
    other = dataclasses.replace(batch, advantage=7.0 * batch.advantage**3 + 3.0)
    update = jax.jit(lambda batch: algorithm._update(state, batch, jax.random.key(1))[0])
    before, one, two = (
        np.concatenate([x.ravel() for x in jax.tree.leaves(bits(params))])
        for params in (state.params, update(batch), update(other))
    )
    assert np.abs(one - before).max() > 1e-3
    assert np.allclose(one, two, atol=1e-4) == normalize_advantage


def test_epochs_stop_once_the_policy_has_moved_too_far():
    far = ppo(purerl.make("CartPole-v1"), learning_rate=0.05, num_epochs=5, max_kl=1e-4)
    metrics = run(far, 4).metrics
    # The first epoch of each iteration always runs, and with this step size it is always too far.
    assert float(metrics["policy_loss"].count) == 4 * far.num_minibatches
    near = dataclasses.replace(far, max_kl=1e4)
    assert float(run(near, 4).metrics["policy_loss"].count) == 4 * far.num_minibatches * far.num_epochs


def test_stopping_early_equals_fewer_epochs():
    env = purerl.make("CartPole-v1")
    stopped = run(ppo(env, learning_rate=0.05, num_epochs=3, max_kl=1e-6, normalize_advantage=False), 1)
    # Shuffling draws one key per epoch from the same split, so the first epoch of three is not that of one: compare
    # the number of Adam steps instead of the parameters.
    steps = [leaf for leaf in jax.tree.leaves(stopped.state.opt_state) if leaf.dtype == jnp.int32]
    assert [int(s) for s in steps] == [2]


def test_kl_penalty_adapts_towards_its_target_and_comes_back_from_both_ends():
    """For longer than it takes a float32 to underflow (149 halvings) or to overflow (128 doublings)."""
    loose = ppo(obs_reward(), clip_eps=None, kl_target=1e6, learning_rate=1e-2, initial_kl_coef=0.5)
    # Steps so large that the policy moves on under any penalty.
    tight = dataclasses.replace(loose, kl_target=1e-9, learning_rate=0.1)
    state = begin(loose, jax.random.key(0))
    assert float(state.kl_coef) == 0.5
    for algorithm, iterations, kl_coef in (
        (loose, 5, 0.5**6),
        (loose, 200, LEAST_KL_COEF),
        (tight, 210, 1024 * LEAST_KL_COEF),
        (tight, 400, MOST_KL_COEF),
        (loose, 410, MOST_KL_COEF / 1024),
    ):
        state = last(iterate(algorithm, state, iterations, every=1000)).state
        np.testing.assert_allclose(state.kl_coef, kl_coef, rtol=1e-6)


def test_kl_penalty_keeps_the_divergence_near_its_target():
    algorithm = ppo(
        purerl.make("CartPole-v1"), clip_eps=None, kl_target=0.01, learning_rate=3e-3, rollout_length=64, num_epochs=8
    )
    kl = [float(p.metrics["kl"].value) for p in iterate(algorithm, begin(algorithm, jax.random.key(0)), 60)]
    assert 0.004 < np.mean(kl[20:]) < 0.025


def test_learning_rate_is_annealed_and_any_optax_schedule_works():
    env = purerl.make("CartPole-v1")
    linear = ppo(env, learning_rate=LinearSchedule(1.0, 0.0, 8 * 32.0))
    rates = [float(p.metrics["learning_rate"].value) for p in iterate(linear, begin(linear, jax.random.key(0)), 8)]
    np.testing.assert_allclose(rates, 1.0 - np.arange(8) / 8, rtol=1e-6)
    cosine = optax.cosine_decay_schedule(0.5, 8 * 32)
    curved = ppo(env, learning_rate=cosine)
    rates = [float(p.metrics["learning_rate"].value) for p in iterate(curved, begin(curved, jax.random.key(0)), 8)]
    np.testing.assert_allclose(rates, [cosine(32 * i) for i in range(8)], rtol=1e-5)


def test_observation_statistics_are_those_of_everything_seen():
    algorithm = ppo(Target(), num_envs=32)
    stats = run(algorithm, 10).state.experience.obs_stats
    assert float(stats.count) == 10 * algorithm.steps_per_iteration
    np.testing.assert_allclose(stats.mean, [0.0], atol=0.1)
    np.testing.assert_allclose(stats.var, [1.0], atol=0.05)


def test_explained_variance_of_a_perfect_and_an_ignorant_critic():
    ignorant = ppo(obs_reward(), normalize_rewards=False, learning_rate=0.0, value_coef=0.0)
    assert abs(float(run(ignorant, 3).metrics["explained_variance"].value)) < 1.5
    trained = ppo(obs_reward(), normalize_rewards=False, num_envs=16, learning_rate=5e-3, value_clip_eps=None)
    assert float(run(trained, 150).metrics["explained_variance"].value) > 0.5
    state = run(trained, 150).state
    assert float(last(iterate(trained, state, 151)).metrics["explained_variance"].value) > 0.99


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_envs": 3, "rollout_length": 5}, "minibatches"),
        ({"num_envs": 0}, "num_envs"),
        ({"rollout_length": -1}, "rollout_length"),
        ({"num_epochs": 1.5}, "whole number"),
        ({"gamma": 1.01}, r"\[0, 1\]"),
        ({"gae_lambda": -0.1}, "gae_lambda"),
        ({"learning_rate": -1e-3}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"clip_eps": 0.0}, "clip_eps"),
        ({"clip_eps": None}, "kl_target"),
        ({"initial_kl_coef": 0.0}, "initial_kl_coef"),
        ({"normalize_rewards": 1}, "true or false"),
        ({"network": ActorCritic(squash=True)}, "squash"),
        ({"network": ActorCritic(trunk=purerl.CNN())}, "CNN"),
        ({"num_envs": 2, "rollout_length": 1, "num_minibatches": 2}, "at least 2"),
    ],
)
def test_bad_hyper_parameters_are_one_clear_error(changes, words):
    with pytest.raises(InputError, match=words):
        PPO(env=purerl.make("CartPole-v1"), **changes)


def test_an_unknown_field_is_an_error():
    with pytest.raises(TypeError, match="learning_rat"):
        PPO(env=purerl.make("CartPole-v1"), learning_rat=1e-3)
