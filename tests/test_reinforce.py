"""REINFORCE's own promises: the gradient, the rewards-to-go, what each baseline does."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import begin, learn, network_of
from probes import Probe, _timestep, action_times_obs, endless
from rows import NETWORK

import purerl
from purerl import MLP, REINFORCE, ActorCritic, Baseline, InputError, rollout, struct
from purerl.types import Transition

every_baseline = pytest.mark.parametrize("baseline", Baseline)


@struct.dataclass
class Bandit(Probe):
    """One step; the reward is 4, plus `tells` times the observation (+-1), and 1 more or less for the arm."""

    tells: float = 0.0

    def reset(self, key):
        obs = 2.0 * jax.random.bernoulli(key).astype(jnp.float32) - 1.0
        return _timestep(obs, obs)

    def step(self, key, state, action):
        return _timestep(state, state, reward=4.0 + self.tells * state + self.signed(action), terminated=True)


def reinforce(env, **changes):
    tiny = {"num_envs": 4, "rollout_length": 8, "num_epochs": 2, "num_minibatches": 2, "network": NETWORK}
    return REINFORCE(env=env, **(tiny | changes))


def transitions_of(obs, action, reward, terminated, truncated, next_obs):
    """All ``[num_envs, time]``."""
    return Transition(
        obs=jnp.float32(obs)[..., None],
        action=jnp.int32(action),
        reward=jnp.float32(reward),
        terminated=jnp.bool_(terminated),
        truncated=jnp.bool_(truncated),
        next_obs=jnp.float32(next_obs)[..., None],
        extras={"raw_action": jnp.int32(action), "log_prob": jnp.zeros(np.shape(action))},
    )


def gradient(algorithm, state, transitions):
    """Of the expected return, as estimated, with respect to the biases of the policy's head ``[2]``."""
    batch = algorithm._estimate(state, transitions)
    grads = jax.grad(algorithm._loss, has_aux=True)(state.actor_params, batch, jax.random.key(0))[0]
    return -grads["params"]["actor_head"]["bias"]


def probability(algorithm, state, obs):
    """Of the second action."""
    logits = network_of(algorithm).apply(state.actor_params, jnp.full((1,), obs), method="actor").logits
    return np.exp(logits[1]) / np.exp(logits).sum()


def with_preference(state, logit):
    """The same state with `logit` added to the second action's."""
    params = jax.tree.map(jnp.copy, state.actor_params)
    params["params"]["actor_head"]["bias"] = jnp.float32([0.0, logit])
    return struct.replace(state, actor_params=params)


@every_baseline
def test_expected_gradient_on_a_two_armed_bandit_is_the_closed_form(baseline):
    size = 4
    algorithm = reinforce(Bandit(), num_envs=size, rollout_length=1, baseline=baseline)
    state = with_preference(begin(algorithm, jax.random.key(0)), 0.7)
    p = probability(algorithm, state, 0.0)
    arms = np.array(list(itertools.product([0, 1], repeat=size)))  # all batches there are
    blank = np.zeros((len(arms), size, 1))
    transitions = transitions_of(blank, arms[..., None], 3.0 + 2.0 * arms[..., None], blank == 0, blank != 0, blank)
    grads = jax.jit(jax.vmap(lambda transitions: gradient(algorithm, state, transitions)))(transitions)
    chance = np.prod(np.where(arms == 1, p, 1 - p), axis=1)
    # d/d logit of the expected reward (1 - p) 3 + p 5.
    slope = 2.0 * p * (1 - p)
    # A mean over the batch has each sample's own reward in it, which takes away one part in `size`.
    shrunk = slope * (1 - 1 / size) if baseline is Baseline.MEAN else slope
    np.testing.assert_allclose(chance @ np.asarray(grads), [-shrunk, shrunk], rtol=1e-5)


def gradients(baseline, num_keys, env, state=None):
    """Of so many batches that the policy collects itself ``[num_keys, 2]``, and the state."""
    algorithm = reinforce(env, num_envs=8, rollout_length=4, baseline=baseline)
    start = begin(algorithm, jax.random.key(0))
    if state is not None:
        start = struct.replace(start, actor_params=state.actor_params, critic_params=state.critic_params)

    def one(key):
        policy = algorithm.policy(start, explore=True)
        _, transitions, _ = rollout.collect(env, policy, start.experience.rollout, key, 4)
        return gradient(algorithm, start, transitions)

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), num_keys))), start


def test_sampled_gradient_on_a_bandit_is_near_the_closed_form():
    grads, state = gradients(Baseline.NONE, 20_000, Bandit())
    algorithm = reinforce(Bandit())
    p = np.mean([probability(algorithm, state, obs) for obs in (-1.0, 1.0)])
    error = grads.std(axis=0) / np.sqrt(len(grads))
    assert error[0] < 0.02
    np.testing.assert_allclose(grads.mean(axis=0), [-2 * p * (1 - p), 2 * p * (1 - p)], atol=4 * error[0])


def test_baselines_take_variance_out_as_theory_says():
    env = Bandit(tells=3.0)
    # A policy that stays as it is while its value is learned.
    critic = reinforce(env, num_envs=32, num_epochs=8, learning_rate=0.0, critic_learning_rate=1e-2)
    state = learn(critic, 0, 150)
    none, mean, value = (gradients(baseline, 4000, env, state)[0] for baseline in Baseline)
    for other in (mean, value):
        np.testing.assert_allclose(other.mean(axis=0), none.mean(axis=0), atol=0.1)
    # With both arms equally likely a sample's variance is (E[(G - b)^2] - 1) / 4, of the return 4 + 3 obs +- 1 less 0,
    # less 4 or less 4 + 3 obs. What is left of the last is the arm's own doing, which is the gradient.
    variances = np.array([grads[:, 1].var() for grads in (none, mean, value)])
    np.testing.assert_allclose(32 * variances[:2], [25 / 4, 9 / 4], rtol=0.15)
    assert 32 * variances[2] < 0.1


def reference_returns(reward, next_value, terminated, truncated, gamma):
    """Step by step and forwards, as one would on paper."""
    returns = np.zeros_like(reward)
    for env, start in np.ndindex(reward.shape):
        discount = 1.0
        for t in range(start, reward.shape[1]):
            returns[env, start] += discount * reward[env, t]
            discount *= gamma
            if terminated[env, t]:
                break
            if truncated[env, t] or t == reward.shape[1] - 1:
                returns[env, start] += discount * next_value[env, t]
                break
    return returns


@every_baseline
def test_rewards_to_go_against_a_slow_reference(baseline):
    algorithm = reinforce(action_times_obs(), num_envs=6, rollout_length=40, baseline=baseline, gamma=0.9)
    state = begin(algorithm, jax.random.key(0))
    rng = np.random.default_rng(0)
    shape = (6, 40)
    obs, next_obs, reward = rng.normal(size=(3, *shape))
    ends = rng.integers(0, 16, size=shape)
    terminated, truncated = ends == 0, ends == 1
    transitions = transitions_of(obs, np.zeros(shape), reward, terminated, truncated, next_obs)
    batch = jax.jit(algorithm._estimate)(state, transitions)

    def value(obs):
        if baseline is not Baseline.VALUE:
            return np.zeros(shape)
        return np.vectorize(lambda x: algorithm._critic(state.critic_params, jnp.float32([x])))(obs)

    returns = reference_returns(reward, value(next_obs), terminated, truncated, 0.9)
    subtracted = returns.mean() if baseline is Baseline.MEAN else value(obs)
    np.testing.assert_allclose(batch.target.reshape(shape), returns, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(batch.advantage.reshape(shape), returns - subtracted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("baseline", [Baseline.NONE, Baseline.MEAN])
def test_without_a_value_there_is_no_critic_and_it_learns_all_the_same(baseline):
    algorithm = reinforce(action_times_obs(), num_envs=16, learning_rate=1e-2, baseline=baseline)
    state = learn(algorithm, 0, 100)
    assert jax.tree.leaves((state.critic_params, state.critic_opt_state)) == []
    episodes = purerl.evaluate(action_times_obs(), algorithm.policy(state, explore=True), jax.random.key(7), 64)
    assert np.mean(episodes.episode_return) >= 0.8


def test_what_follows_a_cut_counts_nothing_without_a_value():
    algorithm = reinforce(endless(limit=3), rollout_length=4, baseline=Baseline.NONE, gamma=0.5)
    state = begin(algorithm, jax.random.key(0))
    _, transitions, _ = rollout.collect(
        algorithm.env, algorithm.policy(state, explore=True), state.experience.rollout, jax.random.key(0), 4
    )
    batch = algorithm._estimate(state, transitions)
    # Three steps to the time limit; then one, to the end of the batch.
    np.testing.assert_allclose(batch.target.reshape(4, 4), np.tile([1.75, 1.5, 1.0, 1.0], (4, 1)))


def test_the_value_does_not_move_the_policy_at_once():
    """They share nothing: the first update of the policy is the same whatever the critic's step size."""
    slow, fast = (learn(reinforce(action_times_obs(), critic_learning_rate=rate), 0, 1) for rate in (0.0, 0.1))
    chex.assert_trees_all_equal(slow.actor_params, fast.actor_params)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(slow.critic_params, fast.critic_params)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"baseline": "mean"}, r"one of Baseline\.NONE, Baseline\.MEAN, Baseline\.VALUE, got 'mean'"),
        ({"network": ActorCritic(shared=True)}, "shared=False"),
        ({"network": ActorCritic(MLP((16,)), squash=True)}, "squash"),
        ({"num_envs": 3, "rollout_length": 5}, "minibatches"),
        ({"gamma": 1.01}, r"\[0, 1\]"),
        ({"learning_rate": -1.0}, "learning_rate"),
    ],
)
def test_bad_hyper_parameters_are_one_clear_error(changes, words):
    with pytest.raises(InputError, match=words):
        reinforce(purerl.make("CartPole-v1"), **changes)
