"""Gradients through dynamics against closed forms, other modes of differentiation and finite differences."""

import dataclasses

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import begin
from probes import Target

import purerl
from purerl import APG, MLP, SHAC, ActorCritic, DeterministicPolicy, Policy, iterate, rollout, struct
from purerl.environments.smooth.linear_quadratic import value_matrix
from purerl.spaces import Box
from purerl.types import TimeStep

LINEAR = DeterministicPolicy(MLP(()))


def last(progresses):
    *_, final = progresses
    return final


# Exactness


def test_the_gradient_of_a_linear_quadratic_return_is_that_of_the_adjoint():
    env, length = purerl.make("smooth/lqr").env, 20
    gain = np.asarray([[0.7, 1.1]])

    def cost(gain, state):
        policy = Policy(jax.tree_util.Partial(lambda gain, key, carry, obs: (-gain @ obs, carry, {}), gain))
        timestep = struct.replace(env.reset(jax.random.key(0)), state=state, obs=state)
        flight = rollout.begin(timestep, ())
        _, transitions, _ = rollout.unroll(env, policy, flight, jax.random.key(0), length)
        return -transitions.reward.sum()

    start = np.asarray([1.0, -0.5])
    dk, dx = jax.jit(jax.grad(cost, argnums=(0, 1)))(jnp.float32(gain), jnp.float32(start))

    a, b, q, r = (np.asarray(leaf, np.float64) for leaf in (env.A, env.B, env.Q, env.R))
    states = [start]
    for _ in range(length):
        states.append((a - b @ gain) @ states[-1])
    adjoint, expected = np.zeros(2), np.zeros((1, 2))
    for x in reversed(states[:-1]):
        expected += np.outer(2.0 * r @ gain @ x - b.T @ adjoint, x)
        adjoint = 2.0 * (q + gain.T @ r @ gain) @ x + (a - b @ gain).T @ adjoint
    np.testing.assert_allclose(dk, expected, rtol=1e-5)
    np.testing.assert_allclose(dx, adjoint, rtol=1e-5)


def check_three_ways(env, state, actions, h):
    """Reverse mode, forward mode and central differences of a return agree along random directions."""

    def total(actions):
        def step(state, action):
            timestep = env.step(jax.random.key(0), state, action)
            return timestep.state, timestep.reward

        return jax.lax.scan(step, state, actions)[1].sum()

    directions = np.random.default_rng(1).normal(size=(3, *actions.shape)).astype(np.float32)
    total, reverse = jax.jit(total), np.asarray(jax.jit(jax.grad(total))(actions))
    forward = jax.jit(lambda actions, v: jax.jvp(total, (actions,), (v,))[1])
    assert np.abs(reverse).max() > 0
    for v in directions:
        np.testing.assert_allclose(forward(actions, v), np.sum(reverse * v), rtol=2e-3)
        difference = (float(total(actions + h * v)) - float(total(actions - h * v))) / (2.0 * h)
        np.testing.assert_allclose(difference, np.sum(reverse * v), rtol=1e-2)


def test_pendulum_of_gymnax():
    env = purerl.make("Pendulum-v1", differentiable=True)
    state = env.reset(jax.random.key(3)).state
    check_three_ways(env, state, jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (20, 1)), jnp.float32), 1e-2)


@pytest.mark.slow
def test_reacher_of_brax():
    env = purerl.make("brax/reacher", backend="generalized", differentiable=True)
    state = jax.jit(env.reset)(jax.random.key(3)).state
    check_three_ways(env, state, jnp.asarray(np.random.default_rng(0).uniform(-0.5, 0.5, (32, 2)), jnp.float32), 1e-2)


# APG


def test_apg_reaches_the_optimal_cost():
    algorithm = APG(
        env=purerl.make("smooth/lqr"), network=LINEAR, rollout_length=50, num_envs=32, gamma=1.0, learning_rate=2e-2
    )
    state = last(iterate(algorithm, begin(algorithm, jax.random.key(0)), 300, every=300)).state
    env, keys = algorithm.env, jax.random.split(jax.random.key(1), 256)
    starts = jax.vmap(lambda key: env.reset(jax.random.split(key)[0]).obs)(keys)  # as `evaluate` draws them
    optimum = jnp.einsum("ni,ij,nj->n", starts, value_matrix(env.env, 1.0, 50), starts).mean()
    episodes = purerl.evaluate(env, algorithm.policy(state, explore=False), jax.random.key(1), 256)
    assert 1.0 <= -episodes.episode_return.mean() / optimum < 1.01


@struct.dataclass
class Integrator:
    """``x' = x + a + 0.1`` from 1, reward ``-x'^2``; episodes of `length` steps, ended by a time limit or not."""

    length: int = struct.field(static=True)
    limit: bool = struct.field(static=True, default=True)
    observation_space = Box((1,))
    action_space = Box((1,), -1.0, 1.0)

    def reset(self, key):
        return self._timestep((jnp.float32(1.0), jnp.int32(0)), jnp.float32(0.0))

    def step(self, key, state, action):
        x, time = state
        x, time = x + action[0] + 0.1, time + 1
        return self._timestep((x, time), -(x**2))

    def _timestep(self, state, reward):
        over = state[1] >= self.length
        return TimeStep(state, state[0][None], reward, over & (not self.limit), over & self.limit)


def gradient_at_the_start(algorithm, state):
    """Its gradient with respect to where the environments are."""

    def loss(flight):
        moved = struct.replace(state, experience=struct.replace(state.experience, rollout=flight))
        return algorithm._loss(state.params, jnp.zeros(3), moved, jax.random.key(0))[0]

    return jax.jit(jax.grad(loss, allow_int=True))(state.experience.rollout)


def test_no_gradient_passes_a_reset():
    """Only rewards up to the end of the running episode depend on where the window began."""
    algorithm = APG(env=Integrator(length=3), network=LINEAR, num_envs=2, rollout_length=7, gamma=1.0)
    state = begin(algorithm, jax.random.key(0))
    params = jax.tree.map(jnp.zeros_like, state.params)  # the policy does nothing: a = 0
    flight = gradient_at_the_start(algorithm, struct.replace(state, params=params))
    # Rewards -(1.1^2 + 1.2^2 + 1.3^2) of the first episode; mean over 2 environments, per step of 7.
    expected = 2.0 * (1.1 + 1.2 + 1.3) / (2 * 7)
    np.testing.assert_allclose(flight.timestep.state[0], expected, rtol=1e-5)


def test_a_gradient_stays_within_its_window():
    """What the policy did in the window before, and so where this one begins, is a constant."""
    algorithm = APG(env=Integrator(length=100), network=LINEAR, num_envs=2, rollout_length=1, learning_rate=0.0)
    state = begin(algorithm, jax.random.key(0))
    state, metrics = struct.replace(state, params=jax.tree.map(jnp.zeros_like, state.params)), {}
    for _ in range(3):
        state, metrics = jax.jit(algorithm.step)(state)
    x = float(state.experience.rollout.timestep.state[0][0])
    np.testing.assert_allclose(x, 1.3, rtol=1e-6)
    # Of (1.2 + a + 0.1)^2 with a = tanh(w 1.2 + b): 2 * 1.3 * (1.2, 1).
    np.testing.assert_allclose(metrics["grad_norm"].value, 2.0 * 1.3 * np.hypot(1.2, 1.0), rtol=1e-5)


def test_a_terminal_value_counts_where_a_window_or_a_time_limit_cuts():
    for limit in (True, False):
        env = Integrator(length=2, limit=limit)
        kinds = {"env": env, "network": LINEAR, "num_envs": 2, "rollout_length": 3, "gamma": 0.9}
        algorithm = APG(**kinds, terminal_value=lambda obs: 3.0 * obs[0])
        state = begin(algorithm, jax.random.key(0))

        def loss(algorithm, state=state):
            return algorithm._loss(state.params, jnp.zeros(3), state, jax.random.key(0))

        total, _ = jax.jit(loss)(algorithm)
        flights = state.experience.rollout
        _, transitions, _ = rollout.collect(env, algorithm.policy(state, explore=True), flights, jax.random.key(0), 3)
        without, _ = jax.jit(loss)(dataclasses.replace(algorithm, terminal_value=None))
        first_cut, second_cut = np.asarray(transitions.next_obs[0, [1, 2], 0])
        worth = 0.9 * 3.0 * second_cut + (0.9**2 * 3.0 * first_cut if limit else 0.0)
        np.testing.assert_allclose(float(without - total), worth / 3, rtol=1e-5)


# SHAC


@struct.dataclass
class Nudged:
    """The observation counts steps, plus a nudge that is part of the state and shows at step `at` alone; reward 0."""

    at: int = struct.field(static=True)
    observation_space = Box((2,))
    action_space = Box((1,), -1.0, 1.0)

    def reset(self, key):
        return self._timestep(jnp.zeros(2), jnp.int32(0))

    def step(self, key, state, action):
        nudge, time = state
        return self._timestep(nudge, time + 1)

    def _timestep(self, nudge, time):
        obs = jnp.where(time == self.at, nudge, 0.0) + time.astype(jnp.float32)
        return TimeStep((nudge, time), obs, jnp.float32(0.0), jnp.bool_(False), jnp.bool_(False))


def test_the_value_at_the_end_of_a_window_pulls_at_its_last_state():
    """With a linear value and no reward, dL/ds_h = -gamma^h w / (N h)."""
    length, num_envs, gamma = 5, 4, 0.9
    network = ActorCritic(MLP(()), squash=True)
    algorithm = SHAC(
        env=Nudged(at=length), network=network, num_envs=num_envs, rollout_length=length, gamma=gamma, num_minibatches=1
    )
    state = begin(algorithm, jax.random.key(0))
    weights = np.float32([0.7, -1.3])
    head = {"kernel": weights[:, None], "bias": np.float32([0.2])}
    target = {"params": state.target_params["params"] | {"critic_head": head}}

    def loss(flight):
        experience = struct.replace(state.experience, rollout=flight)
        moved = struct.replace(state, experience=experience, target_params=target)
        return algorithm._actor_loss(state.actor_params, jnp.zeros(3), moved, jax.random.key(0))[0]

    nudges = jax.jit(jax.grad(loss, allow_int=True))(state.experience.rollout).timestep.state[0]
    expected = -(gamma**length) * weights / (num_envs * length)
    np.testing.assert_allclose(nudges, np.tile(expected, (num_envs, 1)), rtol=1e-5)


@struct.dataclass
class Dice:
    """Ends at random for either reason; the reward is random too, and so is the observation."""

    observation_space = Box((2,))
    action_space = Box((1,), -1.0, 1.0)

    def reset(self, key):
        return TimeStep(
            jnp.int32(0), jax.random.normal(key, (2,)), jnp.float32(0.0), jnp.bool_(False), jnp.bool_(False)
        )

    def step(self, key, state, action):
        obs_key, reward_key, end_key = jax.random.split(key, 3)
        ending = jax.random.choice(end_key, 3, p=jnp.float32([0.6, 0.2, 0.2]))
        reward = jax.random.normal(reward_key) + action[0]
        return TimeStep(state + 1, jax.random.normal(obs_key, (2,)), reward, ending == 1, ending == 2)


def test_losses_and_targets_against_a_slow_reference():
    algorithm = SHAC(
        env=Dice(), num_envs=8, rollout_length=9, gamma=0.8, td_lambda=0.7, entropy_coef=0.1, reward_scale=2.0
    )
    state = jax.jit(algorithm.init)(jax.random.key(0))
    key = jax.random.key(5)
    loss, (_, window, _) = jax.jit(algorithm._actor_loss)(state.actor_params, jnp.zeros(3), state, key)
    _, seen, _ = jax.jit(
        lambda state: rollout.collect(
            algorithm.env, algorithm.policy(state, explore=True), state.experience.rollout, key, 9
        )
    )(state)
    value = np.asarray(jax.vmap(jax.vmap(lambda obs: algorithm._critic(state.target_params, obs)))(seen.next_obs))
    reward = 2.0 * np.asarray(seen.reward) - 0.1 * np.asarray(seen.extras["log_prob"])
    terminated, done = np.asarray(seen.terminated), np.asarray(seen.done)
    assert terminated.any()
    assert np.asarray(seen.truncated).any()

    total, target = 0.0, np.zeros(reward.shape)
    for env in range(8):
        discount = 1.0
        for t in range(9):
            total += discount * reward[env, t]
            if (done[env, t] or t == 8) and not terminated[env, t]:
                total += discount * 0.8 * value[env, t]
            discount = 1.0 if done[env, t] else 0.8 * discount
        for t in reversed(range(9)):
            beyond = value[env, t] if done[env, t] or t == 8 else 0.3 * value[env, t] + 0.7 * target[env, t + 1]
            target[env, t] = reward[env, t] + (0.0 if terminated[env, t] else 0.8 * beyond)
    np.testing.assert_allclose(loss, -total / (8 * 9), rtol=1e-4)
    np.testing.assert_allclose(window.target, target, rtol=1e-4, atol=1e-5)


@struct.dataclass
class Shelter:
    """``x' = x + a / 4`` from 0, reward -1 for ever; beyond 1 the simulation breaks down."""

    observation_space = Box((1,))
    action_space = Box((1,), -1.0, 1.0)

    def reset(self, key):
        return self._timestep(jnp.float32(0.0), jnp.float32(0.0))

    def step(self, key, state, action):
        x = state + 0.25 * action[0]
        return self._timestep(jnp.where(x > 1.0, jnp.nan, x), jnp.float32(-1.0))

    def _timestep(self, x, reward):
        return TimeStep(x, x[None], reward, jnp.bool_(False), jnp.bool_(False))


def test_breaking_the_simulation_never_pays():
    """Every way to go on is worth -1 / (1 - gamma) = -10. If failures ended all cost, the value would lead to them."""
    algorithm = SHAC(
        env=Shelter(),
        network=ActorCritic(MLP((16,)), squash=True),
        num_envs=16,
        rollout_length=8,
        num_epochs=4,
        gamma=0.9,
    )
    state = begin(algorithm, jax.random.key(0))
    assert state.lowest_reward == 0.0
    train = jax.jit(lambda state: jax.lax.scan(lambda state, _: algorithm.step(state), state, length=150))
    state, metrics = train(state)
    assert metrics["failed_steps"].total[:30].sum() > 0
    assert metrics["failed_steps"].total[-50:].sum() / (50 * 128) < 0.02
    assert state.lowest_reward == -1.0
    np.testing.assert_allclose(metrics["value"].value[-1], -10.0, rtol=0.02)


def test_shac_refuses_what_cannot_work():
    env = purerl.make("smooth/pendulum")
    with pytest.raises(purerl.InputError, match="squash=True and shared=False"):
        SHAC(env=env, network=ActorCritic(MLP((8,))))
    with pytest.raises(purerl.InputError, match="cannot be divided into num_minibatches = 7"):
        SHAC(env=env, num_minibatches=7)
    with pytest.raises(purerl.InputError, match="shac needs bounded continuous actions"):
        SHAC(env=purerl.make("CartPole-v1"))


@pytest.mark.parametrize("algorithm", [APG, SHAC])
def test_whole_numbers_pass_no_gradient(algorithm):
    @struct.dataclass
    class Steps(Target):
        @property
        def action_space(self):
            return Box((1,), -2, 2, np.int32)

    with pytest.raises(purerl.InputError, match=r"needs bounded continuous actions, got .*int32"):
        algorithm(env=Steps())
