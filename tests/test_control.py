"""Planners against exact answers, and planning at every step as a policy."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from environments.environment_contract import check_types
from jax.tree_util import Partial
from probes import Counter, delay
from scipy.optimize import lsq_linear

from purerl import InputError, rollout, struct
from purerl.environments import TimeLimit
from purerl.environments.smooth.linear_quadratic import LinearQuadratic
from purerl.environments.smooth.pendulum import Pendulum
from purerl.physics.control import ILQR, MPPI, ObserveState, Shooting, mpc_policy, neutral_actions
from purerl.physics.control.model import total_reward
from purerl.spaces import Box
from purerl.types import Policy, TimeStep

KEY = jax.random.key(0)
HORIZON = 12
START = jnp.array([1.0, -0.5, 0.8])
HANGING = jnp.array([math.pi, 0.0])


def regulator(max_action=20.0, push=1.0):
    """Three coupled states and two actions."""
    return LinearQuadratic(
        A=np.array([[1.0, 0.2, 0.0], [-0.1, 1.0, 0.2], [0.3, 0.0, 0.9]]),
        B=push * np.array([[0.1, 0.0], [0.3, -0.1], [0.0, 0.4]]),
        Q=np.array([[1.0, 0.2, 0.0], [0.2, 0.5, 0.0], [0.0, 0.0, 0.3]]),
        R=np.array([[0.2, 0.05], [0.05, 0.1]]),
        max_action=max_action,
    )


def riccati(env, horizon):
    """Gains ``u_t = -K_t x_t`` ``[horizon, m, n]`` in double precision; the reward counts the state left."""
    a, b, q, r = (np.asarray(matrix, np.float64) for matrix in (env.A, env.B, env.Q, env.R))
    value, gains = np.zeros_like(q), []
    for _ in range(horizon):
        gains.append(np.linalg.solve(r + b.T @ value @ b, b.T @ value @ a))
        value = q + a.T @ value @ (a - b @ gains[-1])
    return np.stack(gains[::-1])


def controlled(env, start, gains):
    """States, actions and the sum of rewards under ``u_t = -K_t x_t``."""
    state, states, actions, reward = np.asarray(start, np.float64), [], [], 0.0
    for gain in gains:
        action = -gain @ state
        states.append(state)
        actions.append(action)
        reward -= state @ env.Q @ state + action @ env.R @ action
        state = env.A @ state + env.B @ action
    return np.stack(states), np.stack(actions), reward


def planned(planner, env, state, initial=None, key=KEY):
    return jax.jit(planner.plan)(env, state, key, initial)


def test_ilqr_is_exact_on_a_linear_quadratic_problem_in_one_iteration():
    env = regulator()
    initial = jax.random.uniform(KEY, (HORIZON, 2), minval=-3.0, maxval=3.0)
    gains = riccati(env, HORIZON)
    states, actions, reward = controlled(env, START, gains)
    planner = ILQR(HORIZON, num_iterations=1)
    plan = planned(planner, env, START, initial)
    np.testing.assert_allclose(plan.total_reward, reward, rtol=1e-5)
    np.testing.assert_allclose(plan.actions, actions, atol=1e-4)
    feedback = jax.jit(planner.feedback)(env, START, KEY, plan.actions)
    np.testing.assert_allclose(feedback.state, states, atol=1e-4)
    np.testing.assert_allclose(feedback.gain, -gains, atol=1e-4)


@struct.dataclass
class Stored:
    """`env`, whose step takes the state from the second of three numbers derived from each; two more are idle."""

    env: LinearQuadratic

    @property
    def action_space(self):
        return self.env.action_space

    def reset(self, key):
        return self._stored(self.env.reset(key))

    def step(self, key, state, action):
        return self._stored(self.env.step(key, state["derived"][1] / 10.0, action))

    def _stored(self, timestep):
        derived = 10.0 * jnp.stack(3 * [timestep.state])
        return struct.replace(timestep, state={"derived": derived, "idle": jnp.float32([1.0, math.inf])})


def test_ilqr_finds_the_same_plan_however_a_state_is_stored():
    env = Stored(regulator())
    start = env._stored(struct.replace(regulator().reset(KEY), state=START)).state
    _, actions, reward = controlled(regulator(), START, riccati(regulator(), HORIZON))
    plan = planned(ILQR(HORIZON, num_iterations=1), env, start)
    np.testing.assert_allclose(plan.total_reward, reward, rtol=1e-5)
    np.testing.assert_allclose(plan.actions, actions, atol=1e-3)


@pytest.mark.parametrize(
    ("planner", "tolerance"),
    [
        (Shooting(HORIZON, num_iterations=100), 0.01),
        (MPPI(HORIZON, num_samples=512, num_iterations=30, noise_std=0.03), 0.03),
    ],
    ids=["shooting", "mppi"],
)
def test_the_others_come_near_the_optimum(planner, tolerance):
    env = regulator()
    _, _, best = controlled(env, START, riccati(env, HORIZON))
    neutral = total_reward(env, START, KEY, neutral_actions(env, HORIZON))
    plan = planned(planner, env, START)
    assert neutral < 1.3 * best  # so the plan has to be better than nothing
    assert (1.0 + tolerance) * best < plan.total_reward <= best + 1e-4
    np.testing.assert_allclose(plan.total_reward, total_reward(env, START, KEY, plan.actions), rtol=1e-5)


def test_ilqr_finds_the_optimum_between_bounds():
    horizon, bound = 10, 0.2
    env = struct.replace(regulator(bound, push=3.0), R=np.array([[0.05, 0.04], [0.04, 0.05]]))
    a, b, q, r = (np.asarray(matrix, np.float64) for matrix in (env.A, env.B, env.Q, env.R))
    # All states are linear in all actions, so the cost is a sum of squares, least under bounds.
    rows, targets = [], []
    free, forced = np.asarray(START, np.float64), np.zeros((3, 2 * horizon))
    for t in range(horizon):
        own = np.eye(2 * horizon)[2 * t : 2 * t + 2]
        rows += [np.linalg.cholesky(q).T @ forced, np.linalg.cholesky(r).T @ own]
        targets += [-np.linalg.cholesky(q).T @ free, np.zeros(2)]
        free, forced = a @ free, a @ forced + b @ own
    best = lsq_linear(np.concatenate(rows), np.concatenate(targets), (-bound, bound), tol=1e-12)
    plan = planned(ILQR(horizon, num_iterations=20), env, START)
    assert 5 <= np.sum(np.abs(best.x) > 0.999 * bound) < 20
    np.testing.assert_allclose(plan.total_reward, -2.0 * best.cost, rtol=1e-4)
    np.testing.assert_allclose(plan.actions.reshape(-1), best.x, atol=0.02)


@pytest.mark.parametrize(
    "planner",
    [ILQR(60, num_iterations=60), MPPI(60, num_iterations=100, temperature=0.1, noise_std=0.15)],
    ids=["ilqr", "mppi"],
)
def test_a_pendulum_is_swung_up(planner):
    env = Pendulum()
    # From hanging at rest without torque the gradient is zero by symmetry.
    initial = jax.random.uniform(KEY, (60, 1), minval=-1.0, maxval=1.0)
    plan = planned(planner, env, HANGING, initial)
    state = HANGING
    step = jax.jit(env.step)
    for action in plan.actions:
        state = step(KEY, state, action).state
    assert np.cos(state[0]) > 0.95
    assert np.abs(state[1]) < 1.5
    assert np.max(np.abs(plan.actions)) <= env.max_torque


@struct.dataclass
class Clamped:
    """Takes actions beyond the bounds for those at the bounds, where the derivative of `lax.clamp` is zero."""

    env: LinearQuadratic

    @property
    def action_space(self):
        return self.env.action_space

    def reset(self, key):
        return self.env.reset(key)

    def step(self, key, state, action):
        return self.env.step(key, state, jax.lax.clamp(*self.action_space.bounds, action))


@pytest.mark.parametrize("planner", [ILQR(8, 3), MPPI(8, 16), Shooting(8, 5)], ids=["ilqr", "mppi", "shooting"])
def test_plans_stay_within_bounds_and_can_leave_them(planner):
    env = Clamped(regulator(max_action=8.0))
    beyond = jnp.full((8, 2), 9.0)
    plan = planned(planner, env, START, beyond)
    assert np.all(np.abs(plan.actions) <= 8.0)
    assert plan.total_reward > 0.9 * total_reward(env, START, KEY, beyond)
    assert np.any(np.abs(plan.actions) < 7.5, axis=0).all()


def test_a_plan_per_mass():
    masses = jnp.array([0.8, 1.2])
    planner = Shooting(10, num_iterations=5)

    def plan(mass):
        return planner.plan(struct.replace(Pendulum(), mass=mass), jnp.array([0.5, 0.0]), KEY)

    together = jax.jit(jax.vmap(plan))(masses)
    for i, mass in enumerate(masses):
        alone = jax.jit(plan)(mass)
        np.testing.assert_allclose(together.actions[i], alone.actions, atol=1e-4)
        np.testing.assert_allclose(together.total_reward[i], alone.total_reward, rtol=1e-5)
    assert np.abs(together.total_reward[0] - together.total_reward[1]) > 0.01


@struct.dataclass
class Cliff:
    """x' = x + action. Ends beyond 1, where the reward, the root of the way left, and its gradient are NaN."""

    observation_space = Box((1,))
    action_space = Box((1,), 0.0, 1.0)

    def _timestep(self, x, reward):
        return TimeStep(x, x[None], jnp.asarray(reward, jnp.float32), x > 1.0, jnp.bool_(False))

    def reset(self, key):
        return self._timestep(jnp.float32(0.0), 0.0)

    def step(self, key, state, action):
        return self._timestep(state + action[0], jnp.sqrt(1.0 - state))


def test_nothing_counts_after_the_end():
    env, start = Cliff(), jnp.float32(0.0)
    actions = jnp.full((6, 1), 0.4)
    reward, gradient = jax.value_and_grad(partial(total_reward, env, start, KEY))(actions)
    # At 0, 0.4 and 0.8; the third action leads over the edge.
    roots = np.sqrt([1.0, 0.6, 0.2])
    np.testing.assert_allclose(reward, np.sum(roots), rtol=1e-6)
    first, second = -0.5 * (1 / roots[1] + 1 / roots[2]), -0.5 / roots[2]
    np.testing.assert_allclose(gradient[:, 0], [first, second, 0.0, 0.0, 0.0, 0.0], rtol=1e-5)
    # What comes after is as if it were not there.
    gains = [ILQR(n).feedback(env, start, KEY, actions[:n]).gain for n in (3, 6)]
    np.testing.assert_allclose(gains[1], [*gains[0], *np.zeros((3, 1, 1))], rtol=1e-5)
    assert np.all(gains[0][1:2] != 0.0)
    for planner in (ILQR(6, 3), MPPI(6, 16), Shooting(6, 30)):
        plan = planned(planner, env, start, actions)
        assert np.all(np.isfinite(plan.actions))
        # Staying is best: six steps at 0. The derivatives do not say so across the edge, but improve what is before.
        assert reward < plan.total_reward <= 6.0 + 1e-5


@struct.dataclass
class Free:
    """x' = x + action at no cost, reward -x^2 of the state left: the last action changes nothing."""

    observation_space = Box((1,))
    action_space = Box((1,))

    def reset(self, key):
        return TimeStep(jnp.float32(1.0), jnp.ones(1), jnp.float32(0.0), jnp.bool_(False), jnp.bool_(False))

    def step(self, key, state, action):
        x = state + action[0]
        return TimeStep(x, x[None], -jnp.square(state), jnp.bool_(False), jnp.bool_(False))


def test_regularisation_where_an_action_has_no_effect():
    plan = planned(ILQR(4, num_iterations=4), Free(), jnp.float32(1.0))
    np.testing.assert_allclose(plan.total_reward, -1.0, atol=1e-4)  # for the start, which nothing can help


def test_a_reward_that_curves_the_wrong_way():
    # From here to the top of the cosine its second derivative is of either sign.
    env, start = Pendulum(damping=0.0, gravity=0.0, max_torque=100.0), jnp.array([2.5, 0.0])
    neutral = total_reward(env, start, KEY, neutral_actions(env, 10))
    plan = planned(ILQR(10, num_iterations=1), env, start)
    assert plan.total_reward > 0.9 * neutral


def test_mppi_keeps_a_plan_that_no_sample_improves():
    best = jnp.array([[-1.0], [0.0], [0.0]])
    plan = planned(MPPI(3, num_samples=8, temperature=1e-3, noise_std=100.0), Free(), jnp.float32(1.0), best)
    np.testing.assert_allclose(plan.actions, best, atol=1e-6)


@struct.dataclass
class Fragile:
    """x' = x + action from 0, reward ``-(x' - 0.3)^2``; an action beyond `limit` breaks the simulation, and pays."""

    limit: float = 0.5
    observation_space = Box((1,))
    action_space = Box((1,), -1.0, 1.0)

    def reset(self, key):
        return self._timestep(jnp.float32(0.0))

    def step(self, key, state, action):
        return self._timestep(jnp.where(jnp.abs(action[0]) > self.limit, jnp.nan, state + action[0]))

    def _timestep(self, x):
        reward = jnp.where(jnp.isnan(x), 1.0, -jnp.square(x - 0.3))
        return TimeStep(x, x[None], reward, jnp.bool_(False), jnp.bool_(False))


@pytest.mark.parametrize(
    "planner",
    [ILQR(4, 3), MPPI(4, 32, num_iterations=3, noise_std=0.05), Shooting(4, 8)],
    ids=["ilqr", "mppi", "shooting"],
)
def test_simulations_that_break_down_spoil_no_plan(planner):
    plan = jax.jit(planner.plan)
    start, gentle, wild = jnp.float32(0.0), jnp.full((4, 1), 0.1), jnp.full((4, 1), 0.9)
    # Something breaks and neutral actions do not: as good as from there.
    for initial in (wild, gentle.at[3].set(0.9), gentle.at[2].set(jnp.nan)):
        found = plan(Fragile(), start, KEY, initial)
        assert -0.1 < found.total_reward <= 0.0
        np.testing.assert_allclose(found.total_reward, total_reward(Fragile(), start, KEY, found.actions), rtol=1e-5)
    # Everything does: the plan stays as it was, as far as it is one.
    hopeless = Fragile(limit=-1.0)
    for initial, kept in ((gentle, gentle), (jnp.full((4, 1), jnp.nan), jnp.zeros((4, 1)))):
        found = plan(hopeless, start, KEY, initial)
        np.testing.assert_array_equal(found.actions, kept)
        assert found.total_reward == -np.inf
    # So does a state that is broken already; when it is well again, so is the plan.
    policy = mpc_policy(planner, Fragile())
    act = jax.jit(policy.act)
    carry = policy.carry
    for obs in (jnp.nan, jnp.nan, 0.0):
        action, carry, extras = act(KEY, carry, jnp.float32([obs]))
        assert np.all(np.isfinite(action))
    assert -0.1 < extras["planned_reward"] <= 0.0


def test_mppi_weighs_rewards_of_any_size():
    """Squares of large ones leave float32."""
    rewards = jnp.float32([-1.0, -2.0, -3.0, -jnp.inf])
    small, large = (MPPI()._weights(scale * rewards) for scale in (1.0, 1e37))
    np.testing.assert_allclose(large, small, rtol=1e-5)
    assert small[3] == 0.0


def evaluate(planner, model, env, num_episodes):
    return jax.jit(
        lambda planner, model, env: rollout.evaluate(ObserveState(env), mpc_policy(planner, model), KEY, num_episodes)
    )(planner, model, env)


def test_mpc_is_the_first_gain_at_every_step():
    env = regulator()
    # Where the model ends later than the planner looks, every plan has the same horizon.
    acted, model = TimeLimit(env, 5), TimeLimit(env, 1000)
    episodes = evaluate(ILQR(HORIZON, num_iterations=1), model, acted, 3)
    first = riccati(env, HORIZON)[0]
    for key, outcome in zip(jax.random.split(KEY, 3), episodes.episode_return, strict=True):
        start = acted.reset(jax.random.split(key)[0]).obs
        np.testing.assert_allclose(outcome, controlled(env, start, [first] * 5)[2], rtol=1e-4)
    wrong = evaluate(ILQR(HORIZON, num_iterations=1), TimeLimit(regulator(push=0.2), 1000), acted, 3)
    assert np.mean(wrong.episode_return) < np.mean(episodes.episode_return) - 0.1


def test_mpc_swings_up_and_other_numbers_compile_nothing():
    traces = []

    @jax.jit
    def play(policy, env):
        traces.append(1)
        return rollout.evaluate(ObserveState(env), policy, KEY, num_episodes=4)

    env = TimeLimit(Pendulum(), 100)
    outcome = play(mpc_policy(MPPI(25, num_samples=64), env), env)
    assert np.all(outcome.finished)
    at_random = Policy(Partial(lambda key, carry, obs: (env.action_space.sample(key), carry, {})))
    random = rollout.evaluate(env, at_random, KEY, num_episodes=4).episode_return
    assert np.mean(random) < -120.0
    assert np.mean(outcome.episode_return) > -70.0
    heavier = TimeLimit(Pendulum(mass=1.2), 100)
    play(mpc_policy(MPPI(25, num_samples=64, temperature=0.5, noise_std=0.4), heavier), heavier)
    assert len(traces) == 1


def test_the_rest_of_a_plan_is_where_the_next_begins():
    env = regulator()
    policy = mpc_policy(Shooting(3, num_iterations=1, learning_rate=0.0), env)
    before = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    action, after, extras = policy.act(KEY, before, START)
    np.testing.assert_array_equal(action, [1.0, 2.0])
    np.testing.assert_array_equal(after, [[3.0, 4.0], [5.0, 6.0], [5.0, 6.0]])
    np.testing.assert_allclose(extras["planned_reward"], total_reward(env, START, KEY, before), rtol=1e-6)
    np.testing.assert_array_equal(policy.carry, np.zeros((3, 2)))


@struct.dataclass
class Medley:
    """A state with something of every type."""

    observation_space = Box((1,))
    action_space = Box((2,), (-1.0, 0.0), (3.0, math.inf))

    def reset(self, key):
        state = {
            "float": jnp.array([[1.1, -math.inf], [math.nan, 1e-30]]),
            "half": jnp.float16(0.1),
            "flag": jnp.array([True, False, True]),
            "count": jnp.array([2**31 - 1, -(2**31), -1, 16_777_217]),
            "byte": jnp.array([0, 255], jnp.uint8),
            "word": jnp.uint32(2**32 - 1),
            "key": jax.random.split(key),
            "other key": jax.random.key(0, impl="rbg"),
            "old key": jax.random.key_data(key),
            "nothing": jnp.zeros((0, 2)),
        }
        return TimeStep(state, jnp.zeros(1), jnp.float32(0.0), jnp.bool_(False), jnp.bool_(False))

    def step(self, key, state, action):
        return self.reset(key)


def test_a_state_is_observed_without_loss():
    env = ObserveState(TimeLimit(Medley(), 7))
    check_types(env)
    timestep = jax.jit(env.step)(KEY, env.reset(KEY).state, jnp.zeros(2))
    rebuilt = jax.jit(env.state_of)(timestep.obs)
    assert jax.tree.structure(rebuilt) == jax.tree.structure(timestep.state)
    for a, b in zip(jax.tree.leaves(rebuilt), jax.tree.leaves(timestep.state), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)
    assert int(rebuilt.num_steps) == 1


def test_neutral_actions():
    np.testing.assert_array_equal(neutral_actions(Medley(), 2), [[1.0, 0.0], [1.0, 0.0]])


@pytest.mark.parametrize("planner", [ILQR(2), MPPI(2), Shooting(2)], ids=["ilqr", "mppi", "shooting"])
def test_what_cannot_be_planned_is_refused(planner):
    with pytest.raises(InputError, match=r"continuous actions, got Discrete\(2\)"):
        planner.plan(delay(), jnp.int32(0), KEY)
    with pytest.raises(InputError, match=r"shape \(2, 1\), got \(3, 1\)"):
        planner.plan(Pendulum(), HANGING, KEY, jnp.zeros((3, 1)))


def test_errors_name_what_is_wrong():
    for wrong in (lambda: ILQR(0), lambda: Shooting(horizon=2.5), lambda: MPPI(temperature=0.0)):
        with pytest.raises(InputError, match=r"(horizon|temperature) must"):
            wrong()
    with pytest.raises(InputError, match="continuous actions"):
        mpc_policy(MPPI(), delay())
    with pytest.raises(InputError, match="has none"):
        ILQR(2).plan(Counter(continuous=True), (jnp.int32(0), jnp.int32(0)), KEY)
    policy = mpc_policy(MPPI(2), TimeLimit(Pendulum(), 5))
    with pytest.raises(InputError, match=r"has 4 numbers, the observation has shape \(2,\)"):
        policy.act(KEY, policy.carry, HANGING)
    with jax.enable_x64(True), pytest.raises(InputError, match="cannot hold the int64"):
        ObserveState(Wide())


@struct.dataclass
class Wide(Free):
    def reset(self, key):
        return struct.replace(super().reset(key), state=jnp.int64(2**40))
