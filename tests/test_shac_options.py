"""The horizon that adapts and the mixing of gradients, alone and in SHAC."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import begin

import purerl
from purerl import MLP, SHAC, ActorCritic, Policy, rollout, struct
from purerl.environments.gradient_gate import GradientGate
from purerl.learning.adaptive_horizon import GradientWindows, adapt_horizon, begin_windows
from purerl.math.gradient_mixing import mix_gradients
from purerl.spaces import Box
from purerl.types import TimeStep

SMALL = ActorCritic(MLP((8,)), squash=True)


@struct.dataclass
class Push:
    """``x' = growth x + a`` from `start`, reward ``x'``; observes x. A time limit ends it after `length` steps."""

    growth: float = 1.5
    length: int = struct.field(static=True, default=100)
    start: float = 1.0
    observation_space = Box((1,))
    action_space = Box((1,), -1.0, 1.0)

    def reset(self, key):
        return self._timestep((jnp.float32(self.start), jnp.int32(0)), jnp.float32(0.0))

    def step(self, key, state, action):
        x, time = self.growth * state[0] + action[0], state[1] + 1
        return self._timestep((x, time), x)

    def _timestep(self, state, reward):
        return TimeStep(state, state[0][None], reward, jnp.bool_(False), state[1] >= self.length)


def windows(env, gain, horizon, length, max_growth=1.0, tally=jnp.float32(0.0)):
    """A rollout of the policy ``gain x`` from rest: the transitions."""
    env = GradientGate(GradientWindows(env, tally, max_growth), jnp.zeros(3))
    policy = Policy(jax.tree_util.Partial(lambda gain, key, carry, obs: (gain * obs, carry, {}), gain))
    start = env.reset(jax.random.key(0))
    _, transitions, _ = rollout.unroll(
        env,
        begin_windows(policy, horizon),
        rollout.begin(start, jnp.int32(0)),
        jax.random.key(0),
        length,
    )
    return transitions


# The horizon


def test_gradients_end_where_windows_do():
    """Of the rewards with respect to the gain, one window after the other, in closed form."""
    growth, gain, length = 1.5, 0.2, 7

    by_gain = jax.jit(jax.jacrev(lambda gain, horizon: windows(Push(growth), gain, horizon, length).reward))
    for horizon, begins in [(1.0, range(7)), (3.4, (0, 3, 6)), (7.0, (0,)), (20.0, (0,))]:
        found = by_gain(jnp.float32(gain), jnp.float32(horizon))
        x, dx, expected = 1.0, 0.0, []
        for t in range(length):
            dx = 0.0 if t in begins else dx
            x, dx = (growth + gain) * x, (growth + gain) * dx + x
            expected.append(dx)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_windows_begin_anew_with_an_episode():
    begins = windows(Push(length=4), 0.0, jnp.float32(3.0), 10).extras["begins"]
    np.testing.assert_array_equal(np.flatnonzero(begins), [0, 3, 4, 7, 8])


@struct.dataclass
class Stored(Push):
    """`Push`, whose state also holds `idle` numbers that nothing moves and 2 `derived` ones, each ten times x."""

    idle: int = struct.field(static=True, default=0)
    derived: int = struct.field(static=True, default=0)

    def step(self, key, state, action):
        return super().step(key, (state[0]["x"], state[1]), action)

    def _timestep(self, state, reward):
        x, time = state
        stored = {"x": x, "idle": jnp.ones(self.idle), "derived": 10.0 * jnp.full(self.derived, x)}
        return struct.replace(super()._timestep(state, reward), state=(stored, time))


@pytest.mark.parametrize("stored", [{}, {"idle": 200}, {"derived": 20}], ids=["alone", "idle", "derived"])
def test_stiff_steps_are_those_in_which_changes_grow_however_the_state_is_stored(stored):
    """All changes grow by one factor; none has come from before where a window begins, at every fourth step."""

    def rewards(tally, growth, max_growth, horizon):
        env = Stored(growth, length=1000, start=0.0, **stored)
        return windows(env, 0.0, horizon, 200, max_growth, tally).reward.sum()

    stiff = jax.jit(jax.grad(rewards))
    assert stiff(0.0, 3.0, 2.999, 4.0) == 150
    assert stiff(0.0, -3.0, 3.001, 4.0) == 0
    assert stiff(0.0, jnp.nan, 3.0, 4.0) == 200
    # The changes themselves leave the range of float32.
    assert stiff(0.0, 3.0, 2.999, 200.0) == 199


@struct.dataclass
class Spring(Push):
    """A swinging mass of which only the position is seen, pushed by the action."""

    def reset(self, key):
        return self._timestep((jnp.zeros(2), jnp.int32(0)), jnp.float32(0.0))

    def step(self, key, state, action):
        (x, v), time = state
        x, v = x + 0.2 * v, v - 0.2 * x + action[0]
        return self._timestep((jnp.stack([x, v]), time + 1), x)

    def _timestep(self, state, reward):
        return TimeStep(state, state[0][:1], reward, jnp.bool_(False), jnp.bool_(False))


def test_a_change_that_swings_through_zero_is_not_stiff():
    """One change alone doubles from one step to the next whenever it has just passed zero."""

    def rewards(tally, max_growth):
        return windows(Spring(length=1000), 0.0, jnp.float32(400.0), 400, max_growth, tally).reward.sum()

    stiff = jax.jit(jax.grad(rewards))
    # While the first change builds up it does grow.
    assert stiff(0.0, 2.0) <= 3


def test_the_horizon_settles_where_windows_hold_a_tenth_of_a_stiff_step():
    def after(horizon, share, iterations=300, longest=32):
        for _ in range(iterations):
            horizon = adapt_horizon(horizon, jnp.float32(share), longest)
        return float(horizon)

    assert after(jnp.float32(32.0), 0.01) == pytest.approx(10.0, rel=1e-4)
    assert after(jnp.float32(8.0), 0.01) == pytest.approx(10.0, rel=1e-4)
    assert after(jnp.float32(9.0), 0.0) == 32.0
    assert after(jnp.float32(9.0), 0.0, 1) == pytest.approx(10.0)  # at once by no more than a ninth
    # Never below eight, or a rollout that is shorter.
    assert after(jnp.float32(9.0), 1.0) == 8.0
    assert after(jnp.float32(5.0), 1.0, longest=5) == 5.0


def test_the_loss_is_that_of_the_windows_one_by_one():
    """Against a slow reference, with ends of episodes in between; the critic's targets know of no windows."""
    kinds = {"env": purerl.make("smooth/pendulum", episode_length=7), "network": SMALL, "num_envs": 4, "gamma": 0.9}
    algorithm = SHAC(**kinds, rollout_length=12, max_step_growth=10.0)
    state = struct.replace(begin(algorithm, jax.random.key(0)), horizon=jnp.float32(3.0))
    key = jax.random.key(5)
    loss, (flights, window, _) = jax.jit(algorithm._actor_loss)(state.actor_params, jnp.zeros(4), state, key)
    plain = SHAC(**kinds, rollout_length=12)
    _, (plain_flights, plain_window, _) = jax.jit(plain._actor_loss)(state.actor_params, jnp.zeros(3), state, key)
    jax.tree.map(np.testing.assert_array_equal, flights, plain_flights)
    np.testing.assert_allclose(window.target, plain_window.target, rtol=1e-5)

    _, seen, _ = rollout.collect(plain.env, plain.policy(state, explore=True), state.experience.rollout, key, 12)
    value = np.asarray(jax.vmap(jax.vmap(lambda obs: algorithm._critic(state.target_params, obs)))(seen.next_obs))
    total = 0.0
    for env in range(4):
        for first, end in [(0, 3), (3, 6), (6, 7), (7, 10), (10, 12)]:  # an episode ends after 7 steps
            for k, t in enumerate(range(first, end)):
                total += 0.9**k * seen.reward[env, t]
            total += 0.9 ** (end - first) * value[env, end - 1]
    np.testing.assert_allclose(loss, -total / (4 * 12), rtol=1e-5)


def bouncing(stiffness):
    return purerl.make("smooth/bouncing-mass", stiffness=stiffness)


# One compiled program for all of these.
OPTIONS = {
    "network": SMALL,
    "num_envs": 64,
    "num_epochs": 1,
    "learning_rate": 0.0,
    "max_step_growth": 1.5,
    "mix_likelihood_ratio": True,
}


@jax.jit
def advance(algorithm, state):
    """What 30 iterations make of a state, and the metrics of the last."""
    state, metrics = jax.lax.scan(lambda state, _: algorithm.step(state), state, None, length=30)
    return state, jax.tree.map(lambda leaf: leaf[-1], metrics)


def test_the_horizon_shrinks_at_hard_contacts_and_grows_where_there_are_none():
    hard, soft = SHAC(env=bouncing(10_000.0), **OPTIONS), SHAC(env=bouncing(1.0), **OPTIONS)
    state = begin(hard, jax.random.key(0))
    assert state.horizon == 32
    state, metrics = advance(hard, state)
    assert metrics["stiff_steps"].value > 0
    assert state.horizon < 24
    state, metrics = advance(soft, state)
    assert metrics["stiff_steps"].value == 0
    assert state.horizon == 32


# Mixing


def test_samples_known_exactly_are_mixed_by_their_variances():
    """Means 3 and 5; with n = 2 the variance of a mean is a quarter of the squared distance, here 4 and 12."""
    first = {"a": jnp.float32([[1.0], [5.0]]), "b": jnp.float32([3.0, 3.0])}
    zeroth = {"a": jnp.float32([[5.0 + 12**0.5], [5.0 - 12**0.5]]), "b": jnp.float32([1.0, 1.0])}
    mixed, weight = mix_gradients(first, zeroth)
    np.testing.assert_allclose(weight, 0.75, rtol=1e-6)
    np.testing.assert_allclose(mixed["a"], [0.75 * 3.0 + 0.25 * 5.0], rtol=1e-6)
    np.testing.assert_allclose(mixed["b"], 0.75 * 3.0 + 0.25 * 1.0, rtol=1e-6)


def test_a_mixture_is_better_than_either():
    """Of independent estimates with variances 1 and 2 per sample of 32: 1 / (1 + 1/2) = 2/3, and a little more as the
    variances are estimated from the same samples."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=5)
    first, zeroth = (truth + scale * rng.normal(size=(4000, 32, 5)) for scale in (1.0, 2.0**0.5))
    mixed, weight = jax.jit(jax.vmap(mix_gradients))(jnp.float32(first), jnp.float32(zeroth))

    def error(estimates):
        return 32.0 * np.mean(np.square(estimates - truth))

    assert error(first.mean(1)) == pytest.approx(1.0, rel=0.03)
    assert error(zeroth.mean(1)) == pytest.approx(2.0, rel=0.03)
    assert error(np.asarray(mixed)) == pytest.approx(2.0 / 3.0, rel=0.05)
    assert weight.mean() == pytest.approx(2.0 / 3.0, abs=0.02)


def test_a_sample_whose_square_is_not_finite_is_left_out():
    zeroth = jnp.float32([[1.0], [3.0], [5.0]])
    expected, expected_weight = mix_gradients(jnp.float32([[2.0], [4.0], [3.0]]), zeroth)
    for bad in (jnp.nan, jnp.inf, 1e19):
        wrong = jnp.float32([[2.0], [4.0], [bad]])
        mixed, weight = mix_gradients(wrong, zeroth)
        np.testing.assert_allclose(mixed, expected, rtol=1e-6)
        assert 0 < weight < expected_weight  # of two samples, not of three
        mixed, reverse = mix_gradients(zeroth, wrong)
        np.testing.assert_allclose(mixed, expected, rtol=1e-6)
        np.testing.assert_allclose(reverse, 1.0 - weight, rtol=1e-6)
    mixed, weight = mix_gradients(jnp.float32([[2.0], [jnp.nan], [jnp.nan]]), zeroth)
    assert weight == 0
    np.testing.assert_allclose(mixed, [3.0])
    same = jnp.ones((3, 1))
    mixed, weight = mix_gradients(same, same)
    assert weight == 1
    assert mixed == 1


def test_both_estimates_have_one_mean_on_a_linear_quadratic_problem():
    """Window by window, across ends of episodes and of windows, entropy included: z-scores of the differences."""
    algorithm = SHAC(
        env=purerl.make("smooth/lqr", episode_length=5),
        network=ActorCritic(MLP(()), squash=True),
        num_envs=512,
        rollout_length=8,
        gamma=0.9,
        entropy_coef=0.1,
        max_step_growth=100.0,
        mix_likelihood_ratio=True,
    )
    state = begin(algorithm, jax.random.key(0))
    state = struct.replace(state, horizon=jnp.float32(4.0))

    def both(key):
        (first, _), (_, window, _) = jax.grad(algorithm._actor_loss, argnums=(0, 1), has_aux=True)(
            state.actor_params, jnp.zeros(4), state, key
        )
        zeroth = jax.grad(algorithm._likelihood_ratio_loss)(state.actor_params, window)
        return jax.flatten_util.ravel_pytree(first)[0], jax.flatten_util.ravel_pytree(zeroth)[0]

    first, zeroth = jax.jit(lambda keys: jax.lax.map(both, keys))(jax.random.split(jax.random.key(1), 64))
    means = first.mean(0), zeroth.mean(0)
    assert jnp.vdot(*means) / jnp.linalg.norm(means[0]) / jnp.linalg.norm(means[1]) > 0.99
    difference = np.asarray(first - zeroth)
    z = difference.mean(0) / (difference.std(0, ddof=1) / 8.0)
    assert np.abs(z).max() < 4.0
    _, metrics = jax.jit(algorithm.step)(state)
    assert metrics["first_order_weight"].value > 0.9


def test_hard_contacts_turn_the_weight_to_the_likelihood_ratio():
    windows = OPTIONS | {"max_step_growth": 1e9}  # as long as they can be
    hard, soft = SHAC(env=bouncing(10_000.0), **windows), SHAC(env=bouncing(1.0), **windows)
    state = begin(hard, jax.random.key(0))
    state, metrics = advance(hard, state)
    assert metrics["first_order_weight"].value < 0.1
    _, metrics = advance(soft, state)
    assert metrics["first_order_weight"].value > 0.9


def test_mixing_needs_environments_to_compare():
    with pytest.raises(purerl.InputError, match="num_envs of at least 2"):
        SHAC(env=purerl.make("smooth/pendulum"), num_envs=1, mix_likelihood_ratio=True)


def test_a_value_has_no_deviation_of_actions():
    state = SHAC(env=purerl.make("smooth/pendulum"), network=SMALL).init(jax.random.key(0))
    assert set(state.critic_params["params"]) == {"critic_trunk", "critic_head"}
