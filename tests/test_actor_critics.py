"""What DDPG, TD3, SAC and discrete SAC each promise: losses, targets, noise, temperature, what is rejected."""

import dataclasses
import math
import re
from functools import partial

import chex
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import bits, network_of
from probes import Fork
from rows import ALGORITHMS
from test_dqn import BATCH_SIZE, draw, shake, until_a_thousand_steps, view
from test_experience import written

from purerl import CNN, MLP, InputError, struct
from purerl.learning import schedules
from purerl.learning.temperature import LEAST_TEMPERATURE, MOST_TEMPERATURE
from purerl.replay import ReplaySample
from purerl.spaces import Box

DETERMINISTIC, SOFT = ("ddpg", "td3"), ("sac", "discrete_sac")
every = pytest.mark.parametrize("name", [*DETERMINISTIC, *SOFT])
deterministic = pytest.mark.parametrize("name", DETERMINISTIC)
soft = pytest.mark.parametrize("name", SOFT)
continuous = pytest.mark.parametrize("name", ["ddpg", "td3", "sac"])

init = jax.jit(lambda algorithm, key: algorithm.init(key))
step = jax.jit(lambda algorithm, state: algorithm.step(state))
update = jax.jit(lambda algorithm, state, key: schedules.at(algorithm, state.iteration)._update(state, key))


def make(name, **changes):
    """4 environments x 8 steps and 2 updates per iteration, 64 random steps; leaves share a program."""
    shape = {"batch_size": BATCH_SIZE, "gamma": 0.9}
    algorithm = ALGORITHMS[name].make(Fork(not ALGORITHMS[name].discrete), **(shape | changes))
    return struct.replace(algorithm, network=algorithm.network.clone(num_critics=2))


def updater(name, **changes):
    """As `make`; a soft one with a step size of its own for the temperature, which is another program."""
    return make(name, **(({"temperature_learning_rate": 0.01} if name in SOFT else {}) | changes))


def begin(name):
    """A state with a filled replay, whose networks all differ."""
    state = init(make(name), jax.random.key(0))
    params = [field.name for field in dataclasses.fields(state) if field.name.endswith("_params")]
    state = struct.replace(state, **{field: shake(getattr(state, field), i) for i, field in enumerate(params)})
    return struct.replace(state, log_temperature=jnp.log(jnp.float32(0.3))) if name in SOFT else state


@partial(jax.jit, static_argnums=(0, 1))
def apply(network, method, params, *inputs):
    return jax.vmap(lambda *one: network.apply(params, *one, method=method))(*inputs)


@jax.jit
def act(policy, keys, obs):
    """Actions and `extras` ``[num_keys]`` at one observation."""
    return jax.vmap(lambda key: policy.act(key, policy.carry, obs)[::2])(keys)


def lived(algorithm, state, key):
    """The samples that `key` draws, by the rules of the environment, as a `ReplaySample` in NumPy.

    Of what was stored only observations and actions count; `discount` is without gamma, and observations are as
    networks see them.
    """
    env, batch = algorithm.env, jax.tree.map(np.asarray, draw(algorithm._replay, state.replay, key))
    taken = env.scale(batch.action) if env.continuous else batch.action
    reward, goes_on, next_obs = (np.stack(x) for x in zip(*map(env.follow, batch.obs, taken), strict=True))
    obs, next_obs = view(state, batch.obs), view(state, next_obs)
    assert 0 < (goes_on == 0).sum() < BATCH_SIZE
    return struct.replace(batch, obs=obs, reward=reward, discount=1.0 * goes_on, next_obs=next_obs)


# Losses


def ddpg_losses(algorithm, before, after, key):
    network, batch = network_of(algorithm), lived(algorithm, before, key)
    next_action = apply(network, "actor", before.target_actor_params, batch.next_obs)
    next_values = np.asarray(apply(network, "critic", before.target_critic_params, batch.next_obs, next_action))
    values = np.asarray(apply(network, "critic", before.critic_params, batch.obs, batch.action))
    losses = []
    for i in range(BATCH_SIZE):
        target = batch.reward[i] + algorithm.gamma * batch.discount[i] * next_values[i].mean()
        losses.append(np.mean([0.5 * (target - value) ** 2 for value in values[i]]))
    action = apply(network, "actor", before.actor_params, batch.obs)
    rated = np.asarray(apply(network, "critic", after.critic_params, batch.obs, action))
    return {"critic_loss": np.mean(losses), "q_value": values.mean(), "actor_loss": -rated.mean()}


def td3_losses(algorithm, before, after, key):
    sample_key, noise_key = jax.random.split(key)
    network, batch = network_of(algorithm), lived(algorithm, before, sample_key)
    noise = algorithm.target_noise_std * np.asarray(jax.random.normal(noise_key, batch.action.shape))
    assert (np.abs(noise) > algorithm.target_noise_clip).any()
    assert (np.abs(noise) < algorithm.target_noise_clip).any()
    noise = np.clip(noise, -algorithm.target_noise_clip, algorithm.target_noise_clip)
    next_action = np.asarray(apply(network, "actor", before.target_actor_params, batch.next_obs)) + noise
    assert (np.abs(next_action) > 1.0).any()
    next_action = np.clip(next_action, -1.0, 1.0)
    next_values = np.asarray(apply(network, "critic", before.target_critic_params, batch.next_obs, next_action))
    values = np.asarray(apply(network, "critic", before.critic_params, batch.obs, batch.action))
    losses = []
    for i in range(BATCH_SIZE):
        target = batch.reward[i] + algorithm.gamma * batch.discount[i] * next_values[i].min()
        losses.append(sum(0.5 * (target - value) ** 2 for value in values[i]))
    action = apply(network, "actor", before.actor_params, batch.obs)
    rated = np.asarray(apply(network, "critic", after.critic_params, batch.obs, action))
    return {"critic_loss": np.mean(losses), "q_value": values.mean(), "actor_loss": -rated[:, 0].mean()}


def squashed_samples(distribution, keys):
    """Actions ``[batch, n]`` and their log-densities ``[batch]``, in float64, of ``keys [batch]``."""
    mean, log_std = np.float64(distribution.mean), np.float64(distribution.log_std)
    normal = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(keys)
    u = mean + np.exp(log_std) * np.float64(normal)
    log_normal = -0.5 * np.float64(normal) ** 2 - log_std - 0.5 * math.log(2.0 * math.pi)
    return np.float32(np.tanh(u)), (log_normal + 2.0 * np.log(np.cosh(u))).sum(axis=1)


def sac_losses(algorithm, before, after, key):
    sample_key, next_key, actor_key = jax.random.split(key, 3)
    network, batch = network_of(algorithm), lived(algorithm, before, sample_key)
    temperature = math.exp(before.log_temperature)
    next_action, next_log_prob = squashed_samples(
        apply(network, "actor", before.actor_params, batch.next_obs), jax.random.split(next_key, BATCH_SIZE)
    )
    next_values = np.asarray(apply(network, "critic", before.target_critic_params, batch.next_obs, next_action))
    values = np.asarray(apply(network, "critic", before.critic_params, batch.obs, batch.action))
    losses = []
    for i in range(BATCH_SIZE):
        soft_value = next_values[i].min() - temperature * next_log_prob[i]
        target = batch.reward[i] + algorithm.gamma * batch.discount[i] * soft_value
        losses.append(sum(0.5 * (target - value) ** 2 for value in values[i]))
    action, log_prob = squashed_samples(
        apply(network, "actor", before.actor_params, batch.obs), jax.random.split(actor_key, BATCH_SIZE)
    )
    rated = np.asarray(apply(network, "critic", after.critic_params, batch.obs, action))
    actor_loss = np.mean([temperature * log_prob[i] - rated[i].min() for i in range(BATCH_SIZE)])
    return {
        "critic_loss": np.mean(losses),
        "q_value": values.mean(),
        "actor_loss": actor_loss,
        "entropy": -log_prob.mean(),
    }


def probabilities(logits):
    weight = np.exp(np.float64(logits))
    return weight / weight.sum(axis=1, keepdims=True)


def discrete_sac_losses(algorithm, before, after, key):
    network, batch = network_of(algorithm), lived(algorithm, before, key)
    temperature = math.exp(before.log_temperature)
    p_next = probabilities(apply(network, "actor", before.actor_params, batch.next_obs).logits)
    next_values = np.asarray(apply(network, "critic", before.target_critic_params, batch.next_obs))
    values = np.asarray(apply(network, "critic", before.critic_params, batch.obs))
    p = probabilities(apply(network, "actor", before.actor_params, batch.obs).logits)
    rated = np.asarray(apply(network, "critic", after.critic_params, batch.obs))
    losses, q_values, actor_losses, entropies = [], [], [], []
    for i in range(BATCH_SIZE):
        soft_value = sum(q * (next_values[i, :, a].min() - temperature * math.log(q)) for a, q in enumerate(p_next[i]))
        target = batch.reward[i] + algorithm.gamma * batch.discount[i] * soft_value
        chosen = values[i, :, batch.action[i]]
        q_values.append(chosen.mean())
        losses.append(sum(0.5 * (target - value) ** 2 for value in chosen))
        actor_losses.append(sum(q * (temperature * math.log(q) - rated[i, :, a].min()) for a, q in enumerate(p[i])))
        entropies.append(-sum(q * math.log(q) for q in p[i]))
    return {
        "critic_loss": np.mean(losses),
        "q_value": np.mean(q_values),
        "actor_loss": np.mean(actor_losses),
        "entropy": np.mean(entropies),
    }


@pytest.mark.parametrize(
    ("name", "losses", "changes"),
    [
        ("ddpg", ddpg_losses, {}),
        ("td3", td3_losses, {"policy_period": 1, "target_noise_std": 0.8, "target_noise_clip": 0.6}),
        ("sac", sac_losses, {}),
        ("discrete_sac", discrete_sac_losses, {}),
    ],
)
def test_losses_against_slow_references(name, losses, changes):
    algorithm, before, key = updater(name, **changes), begin(name), jax.random.key(5)
    after, metrics = update(algorithm, before, key)
    for metric, expected in losses(algorithm, before, after, key).items():
        np.testing.assert_allclose(metrics[metric].value, expected, rtol=2e-4, err_msg=metric)


@every
def test_rewards_are_scaled_where_they_are_stored(name):
    one, two = (init(make(name, reward_scale=scale), jax.random.key(0)).replay.outcome for scale in (1.0, 2.0))
    assert np.abs(one[..., 0]).max() > 1.0
    np.testing.assert_array_equal(two[..., 0], 2.0 * one[..., 0])


@soft
def test_entropy_counts_at_every_step_of_a_window_but_the_first(name):
    algorithm, state, key = make(name, n_step=3), begin(name), jax.random.key(0)
    network, rng, shape = network_of(algorithm), np.random.default_rng(0), algorithm.env.observation_space.shape
    discrete = ALGORITHMS[name].discrete
    batch = ReplaySample(
        obs=np.float32(rng.normal(size=(BATCH_SIZE, *shape))),
        action=rng.integers(0, 3, BATCH_SIZE) if discrete else np.float32(rng.uniform(-1.0, 1.0, (BATCH_SIZE, 2))),
        reward=np.float32(rng.normal(size=BATCH_SIZE)),
        discount=np.float32(rng.choice([0.0, 0.729], BATCH_SIZE)),
        next_obs=np.float32(rng.normal(size=(BATCH_SIZE, *shape))),
        later_obs=np.float32(rng.normal(size=(BATCH_SIZE, 2, *shape))),
        later_discount=np.float32(rng.choice([[0.9, 0.81], [0.9, 0.0], [0.0, 0.0]], BATCH_SIZE)),
        weight=np.ones(BATCH_SIZE, np.float32),
        index=np.zeros(BATCH_SIZE, np.int32),
    )
    coming = np.concatenate([batch.next_obs[:, None], batch.later_obs], axis=1).reshape(-1, *shape)
    distribution = apply(network, "actor", state.actor_params, coming)
    if discrete:
        p = probabilities(distribution.logits)
        entropy = -np.sum(p * np.log(p), axis=1).reshape(BATCH_SIZE, 3)
        q = np.asarray(apply(network, "critic", state.target_critic_params, batch.next_obs)).min(axis=1)
        next_value = np.sum(p.reshape(BATCH_SIZE, 3, -1)[:, 0] * q, axis=1)
        value = apply(network, "critic", state.critic_params, batch.obs)
        value = np.asarray(value)[np.arange(BATCH_SIZE), :, batch.action]
    else:
        action, log_prob = squashed_samples(distribution, jax.random.split(key, BATCH_SIZE * 3))
        entropy, action = -log_prob.reshape(BATCH_SIZE, 3), action.reshape(BATCH_SIZE, 3, 2)[:, 0]
        next_value = np.asarray(apply(network, "critic", state.target_critic_params, batch.next_obs, action)).min(
            axis=1
        )
        value = np.asarray(apply(network, "critic", state.critic_params, batch.obs, batch.action))
    worth = batch.discount * entropy[:, 0] + np.sum(batch.later_discount * entropy[:, 1:], axis=1)
    target = batch.reward + batch.discount * next_value + 0.3 * worth
    arguments = (state.critic_params, state, jax.tree.map(jnp.asarray, batch), jnp.float32(0.3))
    loss, _ = jax.jit(algorithm._critic_loss)(*arguments, *(() if discrete else (key,)))
    np.testing.assert_allclose(loss, 0.5 * np.mean(np.sum((target[:, None] - value) ** 2, axis=1)), rtol=1e-4)


@deterministic
def test_the_policys_gradient_is_the_chain_rule(name):
    algorithm = make(name)
    algorithm = struct.replace(algorithm, network=algorithm.network.clone(trunk=MLP(())))
    shapes = jax.eval_shape(algorithm._init_params, jax.random.key(0))
    actor, critics = shake(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes), 0)
    obs = np.random.default_rng(1).normal(size=(BATCH_SIZE, 3)).astype(np.float32)
    grads = jax.jit(jax.grad(algorithm._actor_loss))(actor, critics, ReplaySample(jnp.asarray(obs), *[None] * 8))
    layer = actor["params"]["actor_head"]
    action = np.tanh(obs @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"]))
    slopes = np.asarray(critics["params"]["critics"]["Dense_0"]["kernel"])[:, 3:, 0]
    # Both critics count for DDPG, the first one for TD3.
    slope = slopes.mean(axis=0) if name == "ddpg" else slopes[0]
    uphill = (1.0 - action**2) * slope
    np.testing.assert_allclose(grads["params"]["actor_head"]["bias"], -uphill.mean(axis=0), rtol=1e-4)
    expected = -np.mean(obs[:, :, None] * uphill[:, None, :], axis=0)
    np.testing.assert_allclose(grads["params"]["actor_head"]["kernel"], expected, rtol=1e-3, atol=1e-5)


def test_td3s_policy_costs_one_critic_however_many_there_are():
    def flops(num_critics):
        algorithm = make("td3")
        algorithm = struct.replace(algorithm, network=algorithm.network.clone(num_critics=num_critics))
        params = jax.eval_shape(algorithm._init_params, jax.random.key(0))
        obs = jax.ShapeDtypeStruct((BATCH_SIZE, 3), jnp.float32)
        gradient = jax.jit(jax.grad(algorithm._actor_loss))
        cost = gradient.lower(*params, ReplaySample(obs, *[None] * 8)).cost_analysis()
        assert cost is not None
        return cost["flops"]

    assert flops(8) < 1.1 * flops(1)


@soft
def test_the_policys_gradient_is_that_of_finite_differences(name):
    algorithm, state = make(name), begin(name)
    batch = ReplaySample(jnp.asarray(lived(algorithm, state, jax.random.key(0)).obs), *[None] * 8)
    noise = (jax.random.key(1),) if name == "sac" else ()

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        # So low a temperature that the critics matter more than the entropy.
        return algorithm._actor_loss(params, state.critic_params, batch, jnp.float32(0.01), *noise)[0]

    params, unravel = jax.flatten_util.ravel_pytree(state.actor_params)
    gradient = np.asarray(jax.flatten_util.ravel_pytree(loss(state.actor_params)[1])[0])
    norm = np.linalg.norm(gradient)
    for direction in (gradient, *np.random.default_rng(0).normal(size=(5, len(gradient)))):
        direction = np.float32(direction / np.linalg.norm(direction))
        there, back = (loss(unravel(params + h * direction))[0] for h in (0.003, -0.003))
        np.testing.assert_allclose((there - back) / 0.006, direction @ gradient, atol=0.01 * norm)


# Target networks and the beginning


@every
def test_all_begins_as_it_should(name):
    algorithm = make(name)
    state = init(algorithm, jax.random.key(0))
    assert int(state.iteration) == algorithm.warmup_iterations == 2
    assert float(state.experience.obs_stats.count) == 64
    chex.assert_trees_all_equal(bits(state.target_critic_params), bits(state.critic_params))
    if name in DETERMINISTIC:
        chex.assert_trees_all_equal(bits(state.target_actor_params), bits(state.actor_params))
    else:
        hot = init(make(name, initial_temperature=7.0), jax.random.key(0))
        np.testing.assert_allclose(np.exp([state.log_temperature, hot.log_temperature]), [1.0, 7.0], rtol=1e-5)


@every
def test_target_networks_move_by_tau(name):
    algorithm, before = updater(name, tau=0.3, **({"policy_period": 1} if name == "td3" else {})), begin(name)
    after, _ = update(algorithm, before, jax.random.key(0))
    pairs = [("critic_params", "target_critic_params")]
    pairs += [] if name in SOFT else [("actor_params", "target_actor_params")]
    for params, target_params in pairs:
        expected = jax.tree.map(
            lambda new, old: 0.3 * new + 0.7 * old, getattr(after, params), getattr(before, target_params)
        )
        chex.assert_trees_all_close(getattr(after, target_params), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("period", [2, 3])
def test_td3_moves_policy_and_targets_only_every_so_many_updates(period):
    algorithm, state = updater("td3", policy_period=period), begin("td3")
    waits = ("actor_params", "actor_opt_state", "target_actor_params", "target_critic_params")
    for i in range(1, 7):
        before = state
        state, metrics = update(algorithm, before, jax.random.key(i))
        assert int(state.num_updates) == i
        assert float(metrics["actor_loss"].count) == (i % period == 0)
        moved = (*waits, "critic_params") if i % period == 0 else ("critic_params",)
        for field in (*waits, "critic_params"):
            old, new = (jax.tree.leaves(bits(getattr(x, field))) for x in (before, state))
            changed = [not np.array_equal(a, b) for a, b in zip(old, new, strict=True)]
            assert all(changed) if field in moved else not any(changed), (i, field)


# Acting


@every
def test_training_remembers_what_its_policy_did(name):
    noise = {"noise_std": 1.0} if name in DETERMINISTIC else {}
    algorithm, state = make(name, **noise), begin(name)
    after, metrics = step(algorithm, state)
    assert float(metrics["critic_loss"].count) == 2
    assert int(after.iteration) == 3
    obs, action = written(after.replay)
    assert action.shape[:2] == (4, 24)
    followed = np.abs(obs[:, :-1, 0]) < 5  # by a step of the same episode, whose observation tells the action
    if ALGORITHMS[name].discrete:
        taken = action[..., None]
    else:
        assert np.abs(action).max() <= 1.0
        assert np.abs(action[:, :16]).max() > 0.9
        taken = Fork().scale(action)
        if noise:
            assert (np.abs(action[:, 16:]) == 1.0).any(), "where the noise goes beyond the bounds"
    np.testing.assert_allclose(obs[:, 1:, 1:][followed], taken[:, :-1][followed], atol=1e-5)
    np.testing.assert_array_equal(after.replay.obs[:16], state.replay.obs[:16])


@deterministic
def test_without_noise_exploring_is_exploiting(name):
    state, obs = begin(name), jnp.float32([2.0, 0.5, 1.0])
    keys = jax.random.split(jax.random.key(0), 10)
    quiet, raw = act(make(name, noise_std=0.0).policy(state, explore=True), keys, obs)
    best, _ = act(make(name, noise_std=0.5).policy(state, explore=False), keys, obs)
    loud, _ = act(make(name, noise_std=0.5).policy(state, explore=True), keys, obs)
    expected = np.asarray(apply(network_of(make(name)), "actor", state.actor_params, view(state, obs[None])))
    np.testing.assert_allclose(raw["unit_action"], np.repeat(expected, 10, axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(quiet, best)
    np.testing.assert_allclose(best, Fork().scale(np.asarray(raw["unit_action"])), rtol=1e-5, atol=1e-5)
    assert (np.asarray(loud) != np.asarray(best)).all()


@jax.jit
def roll(policy, keys, obs):
    """Noise and action between -1 and 1 of ``keys [num, time]``, at one observation for ever."""

    def one(noise, key):
        _, noise, extras = policy.act(key, noise, obs)
        return noise, (noise[1], extras["unit_action"])

    return jax.vmap(lambda keys: jax.lax.scan(one, policy.carry, keys)[1])(keys)


@pytest.mark.parametrize(
    ("std", "decay", "dt", "increment", "stationary"),
    [
        (0.2, 0.15, 1.0, 0.2, 0.380),
        (0.3, 0.5, 1.0, 0.3, 0.346),
        (0.2, 1.0, 1.0, 0.2, 0.2),
        (0.2, 2.0, 0.1, 0.063, 0.105),
    ],
)
def test_ddpgs_noise_is_that_of_an_ornstein_uhlenbeck_process(std, decay, dt, increment, stationary):
    state, obs = begin("ddpg"), jnp.float32([2.0, 0.5, 1.0])
    policy = make("ddpg", noise_std=std, noise_decay=decay, noise_dt=dt).policy(state, explore=True)
    noise, raw = map(np.asarray, roll(policy, jax.random.split(jax.random.key(0), (256, 400)), obs))
    later, decay = noise[:, 60:], decay * dt
    np.testing.assert_allclose((later[:, 1:] - (1.0 - decay) * later[:, :-1]).std(), increment, rtol=0.02)
    np.testing.assert_allclose(later.std(), stationary, rtol=0.02)
    np.testing.assert_allclose(later.mean(), 0.0, atol=0.02)
    before, after = later[:, :-1].ravel(), later[:, 1:].ravel()
    np.testing.assert_allclose(np.corrcoef(before, after)[0, 1], 1.0 - decay, atol=0.01)
    best = np.asarray(apply(network_of(make("ddpg")), "actor", state.actor_params, view(state, obs[None])))
    np.testing.assert_allclose(raw, np.clip(best + noise, -1.0, 1.0), atol=1e-5)


def test_ddpgs_noise_begins_anew_with_each_episode():
    algorithm, state = make("ddpg"), begin("ddpg")
    lengths = set()
    for _ in range(3):
        state, _ = step(algorithm, state)
        rollouts = state.experience.rollout
        length, noise = np.asarray(rollouts.episode_length), np.asarray(rollouts.carry[1])
        np.testing.assert_array_equal((noise == 0.0).all(axis=1), length == 0)
        lengths |= set(length.tolist())
    assert lengths == {4, 2, 0}


def test_td3s_noise_is_white_and_ends_at_the_bounds():
    state, obs = begin("td3"), jnp.float32([2.0, 0.5, 1.0])
    policy = make("td3", noise_std=0.4).policy(state, explore=True)
    _, raw = act(policy, jax.random.split(jax.random.key(0), 20_000), obs)
    best = np.asarray(apply(network_of(make("td3")), "actor", state.actor_params, view(state, obs[None])))
    below = (np.asarray(raw["unit_action"]) <= np.linspace(-1.0, 0.95, 14)[:, None, None]).mean(axis=1)
    z = (np.linspace(-1.0, 0.95, 14)[:, None] - best) / 0.4
    np.testing.assert_allclose(below, 0.5 * (1.0 + np.vectorize(math.erf)(z / math.sqrt(2.0))), atol=0.015)
    assert np.abs(raw["unit_action"]).max() == 1.0


def test_sac_samples_its_distribution_and_otherwise_takes_the_median():
    algorithm, state, obs = make("sac"), begin("sac"), jnp.float32([2.0, 0.5, 1.0])
    distribution = apply(network_of(algorithm), "actor", state.actor_params, view(state, obs[None]))
    mean, std = np.asarray(distribution.mean)[0], np.exp(distribution.log_std)[0]
    keys = jax.random.split(jax.random.key(0), 20_000)
    action, raw = act(algorithm.policy(state, explore=True), keys, obs)
    np.testing.assert_allclose(action, Fork().scale(np.asarray(raw["unit_action"])), rtol=1e-5, atol=1e-5)
    for share in (0.1, 0.5, 0.8):
        quantile = np.tanh(mean + std * {0.1: -1.2816, 0.5: 0.0, 0.8: 0.8416}[share])
        np.testing.assert_allclose((np.asarray(raw["unit_action"]) <= quantile).mean(axis=0), share, atol=0.015)
    action, _ = act(algorithm.policy(state, explore=False), keys[:2], obs)
    np.testing.assert_allclose(action, np.stack([Fork().scale(np.tanh(mean))] * 2), rtol=1e-4)


def test_discrete_sac_samples_its_distribution_and_otherwise_takes_the_most_likely():
    algorithm, state, obs = make("discrete_sac"), begin("discrete_sac"), jnp.float32([2.0, 1.0])
    p = probabilities(apply(network_of(algorithm), "actor", state.actor_params, view(state, obs[None])).logits)[0]
    keys = jax.random.split(jax.random.key(0), 20_000)
    action, _ = act(algorithm.policy(state, explore=True), keys, obs)
    np.testing.assert_allclose(np.bincount(action, minlength=3) / 20_000, p, atol=0.015)
    action, _ = act(algorithm.policy(state, explore=False), keys, obs)
    assert set(np.asarray(action).tolist()) == {int(p.argmax())}


# Temperature


@soft
def test_the_temperature_rises_if_and_only_if_there_is_too_little_entropy(name):
    state, key = begin(name), jax.random.key(0)
    _, metrics = update(updater(name), state, key)
    # In nats per action dimension, and as a share of the most there can be.
    unit = 2.0 if name == "sac" else math.log(3.0)
    reached = float(metrics["entropy"].value) / unit
    assert abs(reached) > 0.1
    for more, rise in ((0.02, 0.01), (-0.02, -0.01)):
        after, _ = update(updater(name, target_entropy=reached + more), state, key)
        # Adam's first step is the step size.
        np.testing.assert_allclose(after.log_temperature - state.log_temperature, rise, rtol=1e-3)


@soft
def test_a_step_size_of_the_temperatures_own_may_be_a_schedule(name):
    before = struct.replace(begin(name), iteration=jnp.int32(32))
    scheduled = updater(name, temperature_learning_rate=until_a_thousand_steps(0.01))
    after, _ = update(scheduled, before, jax.random.key(0))
    assert float(after.log_temperature) == float(before.log_temperature)
    after, _ = update(scheduled, struct.replace(before, iteration=jnp.int32(31)), jax.random.key(0))
    assert float(after.log_temperature) != float(before.log_temperature)


@soft
def test_the_temperature_stays_where_it_can_come_back_from(name):
    """However long a target entropy is out of reach: neither 0 nor infinity."""
    too_low, too_high = (-1e3, 1e3) if name == "sac" else (0.0, 1.0)
    for bound, away, back in ((LEAST_TEMPERATURE, too_low, too_high), (MOST_TEMPERATURE, too_high, too_low)):
        state = struct.replace(begin(name), log_temperature=jnp.log(jnp.float32(bound)))
        after, _ = update(updater(name, target_entropy=away), state, jax.random.key(0))
        np.testing.assert_allclose(after.log_temperature, state.log_temperature, rtol=1e-6)
        after, _ = update(updater(name, target_entropy=back), state, jax.random.key(0))
        assert abs(float(after.log_temperature)) < abs(float(state.log_temperature))


@soft
def test_a_temperature_may_be_kept(name):
    state = begin(name)
    for i in range(3):
        state, _ = update(updater(name, temperature_learning_rate=0.0), state, jax.random.key(i))
    assert float(state.log_temperature) == float(jnp.log(jnp.float32(0.3)))


def test_a_high_temperature_makes_discrete_sac_uniform_and_a_low_one_does_not():
    start = begin("discrete_sac")
    start = struct.replace(start, actor_params=jax.tree.map(lambda leaf: 2.0 * leaf, start.actor_params))
    entropy = {}
    for temperature in (100.0, 0.01):
        algorithm = updater("discrete_sac", temperature_learning_rate=0.0, learning_rate=0.01)
        state, found = struct.replace(start, log_temperature=jnp.log(jnp.float32(temperature))), []
        for i in range(150):
            state, metrics = update(algorithm, state, jax.random.key(i))
            found.append(float(metrics["entropy"].value) / math.log(3.0))
        entropy[temperature] = (found[0], found[-1])
    assert entropy[100.0][0] < 0.9
    assert entropy[100.0][1] > 0.99
    assert entropy[0.01][1] < 0.5


# The step size


@every
def test_a_schedule_may_be_a_plain_function_and_reaches_all_that_is_learned(name):
    # The temperature has no step size of its own here: it follows that of the networks.
    algorithm, state = make(name, learning_rate=until_a_thousand_steps(0.01)), begin(name)
    learned = ["actor_params", "critic_params"] + (["log_temperature"] if name in SOFT else [])
    for iteration, rate in ((31, 0.01), (32, 0.0)):
        before = struct.replace(state, iteration=jnp.int32(iteration))
        after, metrics = step(algorithm, before)
        assert float(metrics["learning_rate"].value) == pytest.approx(rate)
        for field in learned:
            old, new = (jax.tree.leaves(getattr(x, field)) for x in (before, after))
            moved = [not np.array_equal(a, b) for a, b in zip(old, new, strict=True)]
            assert all(moved) if rate else not any(moved), field


# Bad input


def named_in(message):
    return set(re.findall(r"\w+", message.rsplit(": use ", 1)[1])) - {"or"}


@every
def test_the_wrong_kind_of_actions_names_algorithms_that_take_them(name):
    env = Fork(continuous=ALGORITHMS[name].discrete)
    with pytest.raises(InputError, match=f"^{name} needs .* actions, got .*: use ") as error:
        ALGORITHMS[name].make(env)
    assert "ppo" in named_in(str(error.value))
    for other in named_in(str(error.value)):
        ALGORITHMS[other].make(env)


@struct.dataclass
class Unbounded(Fork):
    """Actions may be any numbers."""

    @property
    def action_space(self):
        return Box((2,))


@struct.dataclass
class Grid(Fork):
    """Actions are a square of numbers."""

    @property
    def action_space(self):
        return Box((2, 2), -1.0, 1.0)


@continuous
def test_actions_must_be_a_bounded_vector(name):
    with pytest.raises(InputError, match=rf"^{name} needs bounded continuous actions, got Box\(\[2\], \[-inf, inf\]\)"):
        ALGORITHMS[name].make(Unbounded(True))
    with pytest.raises(InputError, match=r"actions must be a vector, got Box\(\[2, 2\]"):
        ALGORITHMS[name].make(Grid(True))


@every
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"env": None}, r"env must be an Environment such as purerl.make\('.*'\), got None"),
        ({"buffer_size": 330}, r"num_envs \* rollout_length = 32 steps, got a size of 330: the nearest is 320 or 352"),
        ({"warmup_steps": 70}, "warmup_steps must be a multiple of .* = 32 .*, got 70: the nearest is 64"),
        ({"warmup_steps": 32, "n_step": 40}, r"at least 192 \(n_step = 40\), got 32: the nearest is 192"),
        ({"updates_per_iteration": 0}, r"updates_per_iteration must lie in \[1, inf\), got 0"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"gamma": 1.1}, "gamma"),
        ({"tau": 0.0}, r"tau must lie in \(0, 1\], got 0.0"),
    ],
)
def test_bad_hyper_parameters_are_one_clear_error(name, changes, words):
    with pytest.raises(InputError, match=words):
        struct.replace(make(name), **changes)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("ddpg", "noise_std", -0.1),
        ("ddpg", "noise_decay", 0.0),
        ("ddpg", "noise_dt", 0.0),
        ("td3", "noise_std", -0.1),
        ("td3", "target_noise_std", -0.1),
        ("td3", "target_noise_clip", -0.5),
        ("td3", "policy_period", 0),
        ("sac", "initial_temperature", 0.0),
        ("sac", "temperature_learning_rate", -1.0),
        ("sac", "target_entropy", float("nan")),
        ("sac", "reward_scale", 0.0),
        ("discrete_sac", "initial_temperature", 0.0),
        ("discrete_sac", "temperature_learning_rate", -1.0),
        ("discrete_sac", "target_entropy", 1.5),
        ("discrete_sac", "reward_scale", 0.0),
    ],
)
def test_bad_hyper_parameters_of_their_own_are_one_clear_error(name, field, value):
    with pytest.raises(InputError, match=f"^{field} must lie in .*, got {value}"):
        make(name, **{field: value})


def test_noise_cannot_forget_more_than_there_is():
    with pytest.raises(InputError, match=r"^noise_decay \* noise_dt must lie in \(0, 1\], got 1.5"):
        make("ddpg", noise_decay=3.0, noise_dt=0.5)


@every
def test_a_network_that_does_not_fit_the_observations_is_an_error(name):
    algorithm = make(name)
    with pytest.raises(InputError, match=r"CNN needs observations .*: use MLP"):
        struct.replace(algorithm, network=algorithm.network.clone(trunk=CNN()))
