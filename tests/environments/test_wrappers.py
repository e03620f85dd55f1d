"""Wrappers around an environment small enough to know every answer."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from environment_contract import check_types
from jax.tree_util import Partial

import purerl
from purerl import InputError, rollout, struct
from purerl.environments import (
    ActionRepeat,
    FlattenObservation,
    FrameStack,
    MaskObservation,
    RandomizeParameters,
    ScaleAction,
    StickyActions,
    TimeLimit,
    WithReward,
)
from purerl.spaces import Box, Discrete
from purerl.types import TimeStep

KEY = jax.random.key(0)


@struct.dataclass
class Line:
    """Moves by ``speed * action`` and ends at 4; the reward is the root of the way left, NaN once beyond the end."""

    speed: float | np.float32 = np.float32(1.0)

    observation_space = Box((2, 1), -1.0, 1.0)
    action_space = Box((1,), -4.0, 2.0)

    def _timestep(self, position, reward=0.0):
        obs = jnp.stack([position, -position]).reshape(2, 1)
        ended = jnp.asarray(position >= 4.0)
        return TimeStep(position, obs, jnp.asarray(reward, jnp.float32), ended, jnp.bool_(False))

    def reset(self, key):
        return self._timestep(jnp.float32(0.0))

    def step(self, key, state, action):
        return self._timestep(state + jnp.float32(self.speed) * action[0], jnp.sqrt(4.0 - state))


@struct.dataclass
class Lights:
    """One more of nine lights burns at every step; a grid of one channel."""

    dtype: type = struct.field(default=bool, static=True)

    @property
    def observation_space(self):
        return Box((3, 3, 1), 0.0, 1.0, self.dtype)

    action_space = Discrete(2)

    def _timestep(self, count):
        obs = (jnp.arange(9) < count).reshape(3, 3, 1).astype(self.dtype)
        return TimeStep(count, obs, jnp.float32(0.0), jnp.bool_(False), jnp.bool_(False))

    def reset(self, key):
        return self._timestep(jnp.int32(1))

    def step(self, key, state, action):
        return self._timestep(state + 1)


@struct.dataclass
class Dial:
    """Observes the last action, one of three."""

    observation_space = Discrete(3)
    action_space = Discrete(3)

    def _timestep(self, obs):
        return TimeStep((), obs, jnp.float32(0.0), jnp.bool_(False), jnp.bool_(False))

    def reset(self, key):
        return self._timestep(jnp.int32(0))

    def step(self, key, state, action):
        return self._timestep(action)


def faster(key, env, low, high):
    return struct.replace(env, speed=jax.random.uniform(key, (), minval=low, maxval=high))


WRAPPED = {
    "TimeLimit": TimeLimit(Line(), 3),
    "ActionRepeat": ActionRepeat(Line(), 3),
    "ScaleAction": ScaleAction(Line()),
    "FlattenObservation": FlattenObservation(Line()),
    "FlattenDiscrete": FlattenObservation(Dial()),
    "FrameStack": FrameStack(FlattenObservation(Line()), 3),
    "FrameStackOfBooleans": FrameStack(Lights(), 3),
    "FrameStackOfIntegers": FrameStack(Lights(np.uint8), 2),
    "MaskObservation": MaskObservation(FlattenObservation(Line()), (1,)),
    "StickyActions": StickyActions(Line(), 0.5),
    "StickyDial": StickyActions(Dial()),
    "RandomizeParameters": RandomizeParameters(Line(), Partial(faster, low=np.float32(1), high=np.float32(2))),
    "all": TimeLimit(ActionRepeat(StickyActions(ScaleAction(FlattenObservation(Line())), 0.5), 2), 7),
}


def moves(env, actions):
    """The time steps after each action, from a reset."""
    timestep = env.reset(KEY)
    for i, action in enumerate(actions):
        timestep = env.step(jax.random.fold_in(KEY, i), timestep.state, action)
        yield timestep


@pytest.mark.parametrize("name", WRAPPED)
def test_types(name):
    check_types(WRAPPED[name])


@pytest.mark.parametrize("name", WRAPPED)
def test_keys_are_used_once(name):
    env = WRAPPED[name]

    def both(key):
        reset_key, action_key, step_key = jax.random.split(key, 3)
        return env.step(step_key, env.reset(reset_key).state, env.action_space.sample(action_key))

    with jax.debug_key_reuse(True):
        timestep = jax.jit(both)(jax.random.key(1))  # raises where a key is used twice
    assert np.isfinite(timestep.reward)


def test_time_limit_truncates():
    right = jnp.array([1.0])
    flags = [(bool(t.terminated), bool(t.truncated)) for t in moves(TimeLimit(Line(), 3), [right] * 3)]
    assert flags == [(False, False), (False, False), (False, True)]


def test_the_end_comes_before_the_limit():
    flags = [(bool(t.terminated), bool(t.truncated)) for t in moves(TimeLimit(Line(), 2), [jnp.array([2.0])] * 2)]
    assert flags == [(False, False), (True, False)]


def test_an_inner_limit_stays():
    flags = [bool(t.truncated) for t in moves(TimeLimit(TimeLimit(Line(), 1), 5), [jnp.array([0.0])])]
    assert flags == [True]


def test_time_limit_is_a_leaf():
    traced = []

    @jax.jit
    def cut(env):
        traced.append(env)
        return env.step(KEY, env.reset(KEY).state, jnp.zeros(1)).truncated

    assert [bool(cut(TimeLimit(Line(), length))) for length in (1, 2, np.int64(3), jnp.int32(1))] == [1, 0, 0, 1]
    assert len(traced) == 1


def test_action_repeat_adds_rewards_and_stops_at_the_end():
    (timestep,) = moves(ActionRepeat(Line(), 5), [jnp.array([2.0])])
    np.testing.assert_allclose(timestep.reward, 2.0 + math.sqrt(2.0), rtol=1e-6)
    assert timestep.state == 4.0
    assert bool(timestep.terminated)
    np.testing.assert_array_equal(timestep.obs, [[4.0], [-4.0]])


def test_action_repeat_keeps_the_limit_exactly():
    """Limit 5, actions of 3 steps: the second is cut after two."""
    first, second = moves(ActionRepeat(TimeLimit(Line(), 5), 3), [jnp.array([0.5])] * 2)
    assert not first.done
    assert bool(second.truncated)
    assert (float(first.state.env), float(second.state.env)) == (1.5, 2.5)


def test_action_repeat_passes_gradients_past_the_end():
    """d/dspeed [sqrt(4) + sqrt(4 - 2 speed)] = -1/sqrt(2); the steps after the end have NaN gradients."""

    def total(speed):
        env = ActionRepeat(Line(speed), 4)
        return env.step(KEY, env.reset(KEY).state, jnp.array([2.0])).reward

    np.testing.assert_allclose(jax.grad(total)(1.0), -1.0 / math.sqrt(2.0), rtol=1e-5)


def test_another_reward_for_the_same_dynamics():
    def reward(weight, state, action, timestep):
        return weight * (100.0 * state + 10.0 * action[0] + timestep.state)

    env = WithReward(Line(), Partial(reward, jnp.float32(2.0)))
    timestep = env.step(KEY, jnp.float32(1.0), jnp.float32([0.5]))
    assert float(timestep.reward) == 2.0 * (100.0 + 5.0 + 1.5)
    np.testing.assert_array_equal(timestep.obs, Line().step(KEY, jnp.float32(1.0), jnp.float32([0.5])).obs)
    assert [float(leaf) for leaf in jax.tree.leaves(env)] == [1.0, 2.0]
    check_types(WithReward(Line(), lambda state, action, timestep: state))


def test_scale_action_maps_onto_the_bounds():
    env = ScaleAction(Line())
    assert env.action_space == Box((1,), -1.0, 1.0)
    for given, taken in ((-1.0, -4.0), (0.0, -1.0), (1.0, 2.0), (9.0, 2.0)):
        (timestep,) = moves(env, [jnp.array([given])])
        assert timestep.state == taken


def test_scale_action_leaves_unbounded_entries():
    @struct.dataclass
    class HalfBounded(Line):
        action_space = Box((2,), (-4.0, -np.inf), (2.0, np.inf))

    env = ScaleAction(HalfBounded())
    assert env.action_space == Box((2,), (-1.0, -np.inf), (1.0, np.inf))
    with pytest.raises(InputError, match=r"only actions in a Box can be scaled, not Discrete\(3\)"):
        ScaleAction(Dial())


def test_flatten_observation():
    env = FlattenObservation(Line())
    assert env.observation_space == Box((2,), -1.0, 1.0)
    np.testing.assert_array_equal(next(moves(env, [jnp.array([1.0])])).obs, [1.0, -1.0])
    env = FlattenObservation(Dial())
    assert env.observation_space == Box((3,), 0.0, 1.0)
    np.testing.assert_array_equal(next(moves(env, [jnp.int32(2)])).obs, [0.0, 0.0, 1.0])


def test_flattened_pictures_lie_between_0_and_1():
    @struct.dataclass
    class Screen(Lights):
        @property
        def observation_space(self):
            return Box((2, 2), 0, 255, np.uint8)

        def reset(self, key):
            return struct.replace(Lights.reset(self, key), obs=jnp.uint8([[0, 51], [255, 255]]))

    env = FlattenObservation(Screen(np.uint8))
    assert env.observation_space == Box((4,), 0.0, 1.0)
    np.testing.assert_allclose(env.reset(KEY).obs, [0.0, 0.2, 1.0, 1.0])


def test_stacked_vectors_begin_with_copies_of_the_first():
    env = FrameStack(FlattenObservation(Line()), 3)
    assert env.observation_space == Box((6,), -1.0, 1.0)
    np.testing.assert_array_equal(env.reset(KEY).obs, np.zeros(6))
    seen = [timestep.obs for timestep in moves(env, [jnp.array([1.0])] * 4)]
    expected = [[0, 0, 0, 0, 1, -1], [0, 0, 1, -1, 2, -2], [1, -1, 2, -2, 3, -3], [2, -2, 3, -3, 4, -4]]
    np.testing.assert_array_equal(seen, expected)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
def test_stacked_images_gain_channels_and_keep_their_type(dtype):
    env = FrameStack(Lights(dtype), 2)
    assert env.observation_space == Box((3, 3, 2), 0.0, 1.0, dtype)
    np.testing.assert_array_equal(env.reset(KEY).obs.sum((0, 1)), [1, 1])
    seen = [timestep.obs for timestep in moves(env, [0] * 3)]
    assert all(obs.dtype == dtype for obs in seen)
    np.testing.assert_array_equal([obs.sum((0, 1)) for obs in seen], [[1, 2], [2, 3], [3, 4]])


def test_a_stack_is_filled_anew_in_every_episode():
    env = FrameStack(TimeLimit(FlattenObservation(Line()), 2), 2)
    policy = purerl.Policy(Partial(lambda key, carry, obs: (jnp.ones(1), carry, {})))
    state = rollout.begin(env.reset(KEY), ())
    _, transitions, _ = rollout.unroll(env, policy, state, KEY, 4)
    np.testing.assert_array_equal(transitions.obs[:, [0, 2]], [[0, 0], [0, 1], [0, 0], [0, 1]])
    np.testing.assert_array_equal(transitions.next_obs[:, [0, 2]], [[0, 1], [1, 2], [0, 1], [1, 2]])


def test_bounds_of_a_stack_are_those_of_each_frame():
    @struct.dataclass
    class Uneven(Dial):
        observation_space = Box((2,), (-1.0, -np.inf), (1.0, 5.0))

    assert FrameStack(Uneven(), 2).observation_space == Box((4,), (-1, -np.inf, -1, -np.inf), (1, 5, 1, 5))
    assert MaskObservation(Uneven(), (1,)).observation_space == Box((1,), -np.inf, 5.0)


def test_masked_entries_are_not_seen():
    env = MaskObservation(FlattenObservation(Line()), [1])
    assert env.observation_space == Box((1,), -1.0, 1.0)
    np.testing.assert_array_equal(env.reset(KEY).obs, [0.0])
    np.testing.assert_array_equal(next(moves(env, [jnp.array([1.5])])).obs, [-1.5])
    swapped = MaskObservation(FlattenObservation(Line()), (1, 0))
    np.testing.assert_array_equal(next(moves(swapped, [jnp.array([1.5])])).obs, [-1.5, 1.5])


def test_sticky_actions_repeat_with_their_probability():
    actions = jnp.arange(400, dtype=jnp.int32) % 3

    def observed(probability):
        env = StickyActions(Dial(), probability)

        def step(state, inputs):
            timestep = env.step(*inputs[:1], state, inputs[1])
            return timestep.state, timestep.obs

        return jax.lax.scan(step, env.reset(KEY).state, (jax.random.split(KEY, 400), actions))[1]

    never, half, always = jax.vmap(observed)(jnp.array([0.0, 0.5, 1.0]))
    np.testing.assert_array_equal(never, actions)
    # The first action is the agent's, and then it sticks.
    np.testing.assert_array_equal(always, np.zeros(400))
    repeated = np.mean(half[1:] == half[:-1])
    # Three standard deviations of 399 coin tosses.
    assert abs(repeated - 0.5) < 0.08


def test_random_parameters_differ_between_episodes_and_stay_within_one():
    env = RandomizeParameters(Line(), Partial(faster, low=0.1, high=0.4))

    def play(key):
        first = env.reset(key)
        second = env.step(key, first.state, jnp.ones(1))
        third = env.step(key, second.state, jnp.ones(1))
        return first.state.drawn, second.obs[0, 0], third.obs[0, 0]

    drawn, second, third = jax.vmap(play)(jax.random.split(KEY, 5))
    assert set(drawn) == {"speed"}
    speed = drawn["speed"]
    assert len(set(speed.tolist())) == 5
    assert np.all((speed >= 0.1) & (speed <= 0.4))
    np.testing.assert_allclose(second, speed, rtol=1e-6)
    np.testing.assert_allclose(third, 2 * speed, rtol=1e-6)


def test_ranges_of_random_parameters_are_leaves():
    reset = jax.jit(lambda env: env.reset(KEY).state.drawn["speed"])
    for low in (1.0, 5.0):
        speed = reset(RandomizeParameters(Line(), Partial(faster, low=low, high=low + 1.0)))
        assert low <= speed <= low + 1.0
    assert reset._cache_size() == 1


def test_random_parameters_must_fit():
    def wrong_shape(key, env):
        return struct.replace(env, speed=jnp.ones(3))

    with pytest.raises(InputError, match=r"random speed must have shape \(\), got \(3,\)"):
        RandomizeParameters(Line(), wrong_shape).reset(KEY)
    with pytest.raises(InputError, match="not its structure"):
        RandomizeParameters(Line(), lambda key, env: TimeLimit(env, 3)).reset(KEY)
    with pytest.raises(InputError, match="sample must be a function"):
        RandomizeParameters(Line(), {"speed": (0.5, 2.0)})


def test_random_parameters_act():
    @struct.dataclass
    class Idle(Line):
        mass: float = 1.0

    def heavier(key, env):
        return struct.replace(env, mass=jax.random.uniform(key))

    with pytest.raises(InputError, match=r"mass of .*Idle.* changes nothing: no reset and no step reads it"):
        RandomizeParameters(Idle(), heavier).reset(KEY)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (partial(TimeLimit, Line(), 0), r"length of a time limit must lie in \[1, inf\), got 0"),
        (partial(TimeLimit, Line(), 1.5), "length of a time limit must be a whole number, got 1.5"),
        (partial(ActionRepeat, Line(), 0), r"action_repeat must lie in \[1, inf\), got 0"),
        (partial(ActionRepeat, Line(), True), "action_repeat must be a whole number, got True"),
        (partial(FrameStack, Line(), 0), r"frame_stack must lie in \[1, inf\), got 0"),
        (partial(FrameStack, Line(), 1.5), "frame_stack must be a whole number, got 1.5"),
        (partial(FrameStack, Dial(), 2), r"only observations that are arrays can be stacked, not Discrete\(3\)"),
        (partial(MaskObservation, Line(), (0,)), r"keep is for observations that are a vector, not Box\(\[2, 1\]"),
        (partial(MaskObservation, Dial(), (0,)), "keep is for observations that are a vector, not Discrete"),
        *(
            (
                partial(MaskObservation, FlattenObservation(Line()), keep),
                "keep must be different indices from 0 to 1, got",
            )
            for keep in ((), (2,), (-1,), (0, 0), (0.0,), (True,), 1, "01")
        ),
        (partial(StickyActions, Line(), 1.5), r"probability of sticky actions must lie in \[0, 1\], got 1.5"),
    ],
)
def test_bad_values(build, message):
    with pytest.raises(InputError, match=message):
        build()
