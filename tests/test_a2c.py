"""A2C's own promises: it is PPO with one update, and the update is what the equations say, step by step."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import AS_FOR_USERS, begin, bits, last
from probes import action_times_obs, obs_reward
from rows import NETWORK

import purerl
from purerl import A2C, GRU, IMPALA, PPO, ActorCritic, Adam, InputError, LinearSchedule, RMSProp, iterate
from purerl.learning.sequences import SequenceBatch
from purerl.training import loop

ONE_UPDATE = {"num_epochs": 1, "num_minibatches": 1, "clip_eps": 1e6, "value_clip_eps": None}


def a2c(env, **changes):
    tiny = {"num_envs": 4, "rollout_length": 8, "learning_rate": 1e-2, "network": NETWORK}
    return A2C(env=env, **(tiny | changes))


def run(algorithm, iterations, seed=0):
    return last(iterate(algorithm, begin(algorithm, jax.random.key(seed)), iterations, every=iterations)).state


def both(env, iterations, **changes):
    """Learned parameters, optimiser state and observation statistics of A2C and of PPO, with the same settings."""
    options = {
        "num_envs": 8,
        "rollout_length": 5,
        "learning_rate": 1e-2,
        "gae_lambda": 0.9,
        "entropy_coef": 0.01,
        "normalize_advantage": False,
        "normalize_observations": True,
        "normalize_rewards": True,
        "network": NETWORK,
        **changes,
    }
    algorithms = (
        A2C(env=purerl.make(env), optimizer=Adam(eps=1e-5, max_grad_norm=0.5), **options),
        PPO(env=purerl.make(env), **ONE_UPDATE, **options),
    )
    states = []
    for algorithm in algorithms:
        arguments = algorithm, begin(algorithm, jax.random.key(0)), jnp.int32(iterations)
        states.append(loop.advance.lower(*arguments).compile(AS_FOR_USERS)(*arguments)[0])
    return [bits((state.params, state.opt_state, state.experience.obs_stats)) for state in states]


@pytest.mark.parametrize("network", [NETWORK, ActorCritic(NETWORK.trunk, GRU(8))], ids=["no memory", "gru"])
def test_it_is_ppo_with_one_update_bit_for_bit(network):
    chex.assert_trees_all_equal(*both("CartPole-v1", 20, network=network))


def test_it_is_ppo_with_one_update_also_where_actions_are_continuous_and_advantages_normalised():
    # Not to the last bit: PPO's ratio compares densities from two programs, which may round differently.
    chex.assert_trees_all_close(*both("Pendulum-v1", 5, normalize_advantage=True), rtol=1e-4, atol=1e-6)


def reference_step(algorithm, state):
    """Parameters after one step, from loops over environments and times, with RMSProp written out."""
    _, collect_key, _ = jax.random.split(state.key, 3)
    policy = algorithm.policy(state, explore=True)
    _, steps, _ = purerl.rollout.collect(
        algorithm.env, policy, state.experience.rollout, collect_key, algorithm.rollout_length
    )
    network = algorithm.network.clone(action_space=algorithm.env.action_space)

    def value(obs):
        return float(network.apply(state.params, obs, method="critic"))

    targets = np.zeros((algorithm.num_envs, algorithm.rollout_length))
    for i, j in np.ndindex(targets.shape):
        discount = 1.0
        for k in range(j, algorithm.rollout_length):
            targets[i, j] += discount * float(steps.reward[i, k])
            discount *= algorithm.gamma
            if steps.done[i, k] or k == algorithm.rollout_length - 1:
                targets[i, j] += 0.0 if steps.terminated[i, k] else discount * value(steps.next_obs[i, k])
                break

    def loss(params):
        total = 0.0
        for i, j in np.ndindex(targets.shape):
            policy, learned = network.apply(params, steps.obs[i, j])
            log_p = jax.nn.log_softmax(policy.logits)
            advantage = targets[i, j] - value(steps.obs[i, j])
            entropy = -jnp.sum(jnp.exp(log_p) * log_p)
            total += -log_p[steps.action[i, j]] * advantage - algorithm.entropy_coef * entropy
            total += algorithm.value_coef * 0.5 * (learned - targets[i, j]) ** 2
        return total / targets.size

    grads = jax.grad(loss)(state.params)
    norm = float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(grads))))
    shrink = min(1.0, algorithm.optimizer.max_grad_norm / norm)

    def rmsprop(param, grad):
        grad = np.asarray(grad, np.float64) * shrink
        return np.asarray(param) - algorithm.learning_rate * grad / np.sqrt(0.99 + 0.01 * grad**2 + 1e-5)

    return jax.tree.map(rmsprop, state.params, grads), norm, bool(steps.done.any())


@pytest.mark.parametrize("max_grad_norm", [0.05, 100.0])
def test_one_step_against_a_slow_reference(max_grad_norm):
    algorithm = a2c(
        purerl.make("CartPole-v1"),
        num_envs=3,
        entropy_coef=0.1,
        value_coef=0.7,
        optimizer=RMSProp(max_grad_norm=max_grad_norm),
    )
    state = begin(algorithm, jax.random.key(0))
    # Poles that have begun to fall end episodes within the rollout.
    falling = np.float32([[0, 0, 0.1, 1.5], [0, 0, 0, 0], [0, 0, -0.1, -1.5]])
    flight = state.experience.rollout
    env_state = flight.timestep.state
    env_state = purerl.struct.replace(
        env_state, **dict(zip(("x", "x_dot", "theta", "theta_dot"), falling.T, strict=True))
    )
    timestep = purerl.struct.replace(flight.timestep, state=env_state, obs=jnp.asarray(falling))
    flight = purerl.struct.replace(flight, timestep=timestep)
    state = purerl.struct.replace(state, experience=purerl.struct.replace(state.experience, rollout=flight))
    expected, norm, ended = reference_step(algorithm, state)
    assert ended
    progress = last(iterate(algorithm, state, 1))
    np.testing.assert_allclose(progress.metrics["grad_norm"].value, norm, rtol=1e-4)
    chex.assert_trees_all_close(progress.state.params, jax.tree.map(jnp.float32, expected), rtol=1e-4, atol=1e-6)


def test_the_gradient_is_that_of_the_expected_reward():
    algorithm = a2c(action_times_obs(), value_coef=0.0)
    network = algorithm.network.clone(action_space=algorithm.env.action_space)
    params = network.init(jax.random.key(0), jnp.zeros(1))
    # Probabilities of 1/4 and 3/4, so that eight actions can be taken exactly as often as they are expected.
    head = {"kernel": jnp.zeros((16, 2)), "bias": jnp.log(jnp.float32([1.0, 3.0]))}
    params = {"params": {**params["params"], "actor_head": head}}
    obs = np.repeat(np.float32([-1.0, 1.0]), 4)[:, None]
    action = np.tile([0, 1, 1, 1], 2)
    reward = obs[:, 0] * (2 * action - 1)
    baseline = np.where(obs[:, 0] > 0, 5.0, -2.0)  # any function of the observation leaves the expectation as it is
    one = np.zeros((8, 1), bool)
    batch = SequenceBatch(
        carry=network.initial_carry(),
        obs=obs[:, None],
        done=one,
        raw_action=action[:, None],
        log_prob=np.float32(one),
        value=np.float32(one),
        advantage=np.float32(reward - baseline)[:, None],
        target=np.float32(one),
    )

    def expected_reward(params):
        policy, _ = jax.vmap(lambda obs: network.apply(params, obs))(jnp.float32([[-1.0], [1.0]]))
        return jnp.mean(jnp.sum(jax.nn.softmax(policy.logits) * jnp.float32([[1.0, -1.0], [-1.0, 1.0]]), axis=1))

    grads, _ = jax.grad(algorithm._loss, has_aux=True)(params, batch, jax.random.key(0))
    uphill = jax.grad(expected_reward)(params)
    assert optax.tree.norm(uphill) > 0.1
    chex.assert_trees_all_close(jax.tree.map(jnp.negative, grads), uphill, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("algorithm", [A2C, IMPALA])
def test_rmsprop_is_that_of_tensorflow(algorithm):
    """``ms <- 0.99 ms + 0.01 g^2`` from ``ms = 1``, and a step of ``rate g / sqrt(ms + eps)``."""
    rule = purerl.struct.replace(algorithm(env=obs_reward()).optimizer, max_grad_norm=100.0)
    optimizer = rule.transformation(jnp.float32(0.1))
    params, squares = np.float32([1.0, -2.0]), np.ones(2)
    opt_state = optimizer.init(params)
    for grad in np.array([[0.5, -30.0], [0.0, 2.0], [-4.0, 1e-3]], np.float32):
        squares = 0.99 * squares + 0.01 * grad**2
        updates, opt_state = optimizer.update(grad, opt_state, params)
        np.testing.assert_allclose(updates, -0.1 * grad / np.sqrt(squares + 1e-5), rtol=1e-5)


def test_rmsprop_and_adam_keep_different_statistics():
    rmsprop, adam = (
        jax.eval_shape(a2c(obs_reward(), optimizer=rule).init, jax.random.key(0)) for rule in (RMSProp(), Adam())
    )
    count = len(jax.tree.leaves(rmsprop.params))
    assert len(jax.tree.leaves(rmsprop.opt_state)) == count  # squares
    assert len(jax.tree.leaves(adam.opt_state)) == 2 * count + 1  # means, squares, and how many


def test_learning_rate_is_annealed():
    algorithm = a2c(purerl.make("CartPole-v1"), learning_rate=LinearSchedule(1.0, 0.0, 4 * 32.0))
    progresses = iterate(algorithm, begin(algorithm, jax.random.key(0)), 4)
    rates = [float(progress.metrics["learning_rate"].value) for progress in progresses]
    np.testing.assert_allclose(rates, [1.0, 0.75, 0.5, 0.25])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_envs": 0}, "num_envs"),
        ({"gae_lambda": 1.1}, r"\[0, 1\]"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"normalize_rewards": 1}, "true or false"),
        ({"network": ActorCritic(trunk=purerl.CNN())}, "CNN"),
        ({"num_envs": 1, "rollout_length": 1, "normalize_advantage": True}, "at least 2"),
    ],
)
def test_bad_hyper_parameters_are_one_clear_error(changes, words):
    with pytest.raises(InputError, match=words):
        A2C(env=purerl.make("CartPole-v1"), **changes)
