"""Random network distillation and learned rewards, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import purerl
from purerl import struct
from purerl.environments import LearnedReward, check_env
from purerl.errors import InputError
from purerl.learning.random_network_distillation import RandomNetworkDistillation
from purerl.types import Transition

MODEL = RandomNetworkDistillation(
    coef=2.0, learning_rate=1e-2, gamma=0.9, num_minibatches=2, hidden_sizes=(16,), num_features=4
)
ENV = purerl.make("MountainCar-v0")
learn = jax.jit(RandomNetworkDistillation.learn)


def batch(next_obs, done=False):
    """Transitions ``[2, T]`` with these successors; what came before has no influence."""
    flags = jnp.full(next_obs.shape[:2], done)
    reward = jnp.arange(flags.size, dtype=jnp.float32).reshape(flags.shape)
    return Transition(jnp.full_like(next_obs, jnp.nan), None, reward, flags, ~flags & False, next_obs, {})


def features(params, obs):
    layers = jax.tree.map(np.asarray, params["params"])
    hidden = np.maximum(obs @ layers["MLP_0"]["Dense_0"]["kernel"] + layers["MLP_0"]["Dense_0"]["bias"], 0.0)
    return hidden @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"]


def test_rewards_and_bonus_equal_numpy():
    state, seen, running = MODEL.init(ENV, 2, jax.random.key(0)), [], np.zeros(2)
    returns = []
    for i in range(2):
        obs = jax.random.normal(jax.random.key(10 + i), (2, 6, 2)) * 3.0 + 1.0
        after, reward, metrics = learn(MODEL, ENV, state, batch(obs, done=i == 0), jax.random.key(i))
        seen.append(np.asarray(obs, np.float64).reshape(-1, 2))
        everything = np.concatenate(seen)
        standard = np.clip((np.asarray(obs) - everything.mean(0)) / everything.std(0), -5.0, 5.0)
        bonus = np.square(features(state.params, standard) - features(state.target_params, standard)).mean(-1)
        for t in range(6):
            running = bonus[:, t] + (0.0 if i == 0 else 0.9 * running)
            returns.append(running)
        scaled = 2.0 * np.clip(bonus / np.std(returns), -10.0, 10.0)
        np.testing.assert_allclose(reward - batch(obs).reward, scaled, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(metrics["bonus"].value, scaled.mean(), rtol=1e-3)
        assert jax.tree.all(jax.tree.map(jnp.array_equal, after.target_params, state.target_params))
        state, running = after, running * (i > 0)


def test_the_bonus_falls_where_observations_are_seen_often():
    state = MODEL.init(ENV, 2, jax.random.key(0))
    familiar, novel = jnp.full((2, 6, 2), 0.5), jnp.full((2, 6, 2), -2.0)
    obs = jax.random.normal(jax.random.key(1), (2, 6, 2))
    state, *_ = learn(MODEL, ENV, state, batch(obs), jax.random.key(2))

    def error(obs):
        return float(learn(MODEL, ENV, state, batch(obs), jax.random.key(0))[2]["bonus"].value)

    before = error(familiar) / error(novel)
    for i in range(100):
        state, *_ = learn(MODEL, ENV, state, batch(familiar), jax.random.key(i))
    assert error(familiar) / error(novel) < 0.1 * before


def test_episode_returns_stay_those_of_the_environment():
    env = purerl.make("CartPole-v1", episode_length=8)
    agent = purerl.PPO(
        env=env, num_envs=4, rollout_length=16, network=purerl.ActorCritic(purerl.MLP((16,))), reward_model=MODEL
    )
    _, metrics = jax.jit(lambda key: agent.step(agent.init(key)))(jax.random.key(0))
    assert metrics["episode_return"].value == metrics["episode_length"].value == 8.0
    assert metrics["bonus"].count == metrics["prediction_error"].count * 32 == 64


def test_mistakes():
    model = struct.replace(MODEL, num_minibatches=13)
    state = model.init(ENV, 2, jax.random.key(0))
    with pytest.raises(InputError, match="a batch of 12 rows cannot be divided into num_minibatches = 13"):
        model.learn(ENV, state, batch(jnp.zeros((2, 6, 2))), jax.random.key(0))
    with pytest.raises(InputError, match="reward_model must be an object with init, learn, like EnvironmentReward"):
        purerl.PPO(env=ENV, reward_model=purerl.Adam())
    with pytest.raises(InputError, match="hidden_sizes must be a tuple of positive whole numbers"):
        RandomNetworkDistillation(hidden_sizes=(0,))


def test_a_learned_reward_is_a_function_of_observations_and_actions():
    def reward(weight, obs, action, next_obs):
        return weight * (next_obs[0] - obs[0]) + action

    env = LearnedReward(ENV, Partial(reward, jnp.float32(100.0)))
    check_env(env)
    timestep = env.reset(jax.random.key(0))
    onward = env.step(jax.random.key(1), timestep.state, jnp.int32(2))
    assert onward.reward == pytest.approx(100.0 * float(onward.obs[0] - timestep.obs[0]) + 2.0, rel=1e-4)
    slope = jax.grad(lambda env: env.step(jax.random.key(1), timestep.state, jnp.int32(2)).reward, allow_int=True)(env)
    assert slope.reward.args[0] == pytest.approx(float(onward.obs[0] - timestep.obs[0]), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("coef", "solved"), [(0.0, False), (1.0, True)])
def test_deep_sea_needs_the_bonus(coef, solved):
    env = purerl.make("DeepSea-bsuite", size=20)
    agent = purerl.PPO(
        env=env,
        num_envs=16,
        rollout_length=100,
        entropy_coef=purerl.LinearSchedule(0.05, 0.0, 600_000.0),
        learning_rate=purerl.LinearSchedule(1e-3, 0.0, 600_000.0),
        reward_model=RandomNetworkDistillation(coef=coef),
    )
    population = purerl.Population(agent, 5)
    *_, last = purerl.iterate(population, jax.jit(population.init)(jax.random.key(11)), 375, every=375)
    policies = population.policy(last.state, explore=False)
    episodes = jax.vmap(lambda policy: purerl.evaluate(env, policy, jax.random.key(1), 1))(policies)
    scores = episodes.episode_return[:, 0]
    assert np.median(scores) > 0.9 if solved else np.max(scores) <= 0.0
