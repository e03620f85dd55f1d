"""Environment wrappers: time limit, action repeat, action scaling, reward, sticky actions, domain randomisation.

Each is a small frozen pytree with a field `env` and satisfies the same contract, so they nest in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from purerl import struct
from purerl.environments import casting
from purerl.environments.influence import check_acts, dotted
from purerl.errors import InputError
from purerl.spaces import Box, Space
from purerl.types import Array, Environment, PyTree, TimeStep


@struct.dataclass
class TimeLimitState:
    """State of `TimeLimit`: the state of `env` and the number of steps taken, int32."""

    env: PyTree
    num_steps: Array


@struct.dataclass
class TimeLimit:
    """Environment with a limit on the number of steps of an episode: it is truncated after `length` steps.

    Attributes:
        env: the environment.
        length: number of steps; a leaf, so that changing it does not compile again.
    """

    env: Environment
    length: int | Array = struct.field(help="steps after which an episode is truncated", within="[1, inf)")

    def __post_init__(self) -> None:
        struct.check_value("length of a time limit", self.length, int, "[1, inf)")
        set_leaf(self, "length", self.length, np.int32)

    @property
    def observation_space(self) -> Space:
        """Observation space of `env`."""
        return self.env.observation_space

    @property
    def action_space(self) -> Space:
        """Action space of `env`."""
        return self.env.action_space

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state."""
        timestep = self.env.reset(key)
        return struct.replace(timestep, state=TimeLimitState(timestep.state, jnp.int32(0)))

    def step(self, key: Array, state: TimeLimitState, action: Array) -> TimeStep:
        """Advance `state` by one action."""
        timestep = self.env.step(key, state.env, action)
        num_steps = state.num_steps + 1
        over = timestep.truncated | (num_steps >= self.length)
        return struct.replace(
            timestep, state=TimeLimitState(timestep.state, num_steps), truncated=over & ~timestep.terminated
        )


@struct.dataclass
class ActionRepeat:
    """Environment with action repeat: every action is applied `repeats` times, and the rewards are summed.

    An action is repeated fewer times if the episode ends. A `TimeLimit` inside (or a simulator's own limit) counts the
    inner steps and is kept exactly, even if it is not a multiple of `repeats`.

    Attributes:
        env: the environment.
        repeats: inner steps per action.
    """

    env: Environment
    repeats: int = struct.field(static=True, help="inner steps per action", within="[1, inf)")

    def __post_init__(self) -> None:
        struct.check_value("action_repeat", self.repeats, int, "[1, inf)")

    @property
    def observation_space(self) -> Space:
        """Observation space of `env`."""
        return self.env.observation_space

    @property
    def action_space(self) -> Space:
        """Action space of `env`."""
        return self.env.action_space

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state."""
        return self.env.reset(key)

    def step(self, key: Array, state: PyTree, action: Array) -> TimeStep:
        """Advance `state` by up to `repeats` inner steps, until the episode ends."""

        def inner(timestep: TimeStep, key: Array) -> tuple[TimeStep, None]:
            # After the end of the episode, step from `state` again and drop the result: a step from a state that is
            # done may give NaN, and its gradient is NaN even if `where` drops the value.
            done = timestep.done
            ongoing = _where(done, state, timestep.state)
            onward = self.env.step(key, ongoing, action)
            onward = struct.replace(onward, reward=timestep.reward + onward.reward)
            return _where(done, timestep, onward), None

        space = self.env.observation_space
        before = TimeStep(
            state=state,
            obs=jnp.zeros(space.shape, space.dtype),
            reward=jnp.float32(0.0),
            terminated=jnp.bool_(False),
            truncated=jnp.bool_(False),
        )
        return lax.scan(inner, before, jax.random.split(key, self.repeats))[0]


@struct.dataclass
class ScaleAction:
    """Environment with actions in ``[-1, 1]``, mapped onto the bounds of the inner environment (`Box.from_unit`).

    An entry without an upper or lower bound has no such bound here either and keeps its unit.

    Attributes:
        env: an environment with a `Box` of actions.
    """

    env: Environment

    def __post_init__(self) -> None:
        _box_of_actions(self.env)

    @property
    def observation_space(self) -> Space:
        """Observation space of `env`."""
        return self.env.observation_space

    @property
    def action_space(self) -> Box:
        """Box ``[-1, 1]``, unbounded on a side where the environment's actions are unbounded."""
        inner = _box_of_actions(self.env)
        low, high = inner.bounds
        unit = np.where(np.isfinite(low), -1.0, low), np.where(np.isfinite(high), 1.0, high)
        return Box(inner.shape, *unit)  # type: ignore[arg-type]

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state."""
        return self.env.reset(key)

    def step(self, key: Array, state: PyTree, action: Array) -> TimeStep:
        """Advance `state` by one action in ``[-1, 1]``; values outside are clipped."""
        return self.env.step(key, state, _box_of_actions(self.env).from_unit(action))


@struct.dataclass
class WithReward:
    """Environment with another reward function, for example a smooth one.

    Attributes:
        env: the environment.
        reward: ``reward(state, action, timestep) -> scalar`` of the state before the step, the action, and the time
            step after it. A function, or a `Partial` of one, whose arguments (such as weights) then are leaves.
    """

    env: Environment
    reward: Callable[[PyTree, Array, TimeStep], Array]

    def __post_init__(self) -> None:
        struct.wrap_functions(self, "reward")

    @property
    def observation_space(self) -> Space:
        """Observation space of `env`."""
        return self.env.observation_space

    @property
    def action_space(self) -> Space:
        """Action space of `env`."""
        return self.env.action_space

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state."""
        return self.env.reset(key)

    def step(self, key: Array, state: PyTree, action: Array) -> TimeStep:
        """Advance `state` by one action."""
        timestep = self.env.step(key, state, action)
        reward = self.reward(state, action, timestep)
        return struct.replace(timestep, reward=casting.scalar(reward, jnp.float32, "the reward of WithReward"))


@struct.dataclass
class StickyActionsState:
    """State of `StickyActions`: the state of `env`, the previous action, and whether there is one."""

    env: PyTree
    previous: Array
    has_previous: Array


@struct.dataclass
class StickyActions:
    """Environment with sticky actions: the previous action is repeated at random (Machado et al. 2018, section 5).

    The first action of an episode is always the agent's.

    Attributes:
        env: the environment.
        probability: probability of repeating the previous action; a leaf.
    """

    env: Environment
    probability: float | Array = struct.field(
        default=0.25, help="probability of repeating the previous action", within="[0, 1]"
    )

    def __post_init__(self) -> None:
        struct.check_value("probability of sticky actions", self.probability, float, "[0, 1]")
        set_leaf(self, "probability", self.probability, np.float32)

    @property
    def observation_space(self) -> Space:
        """Observation space of `env`."""
        return self.env.observation_space

    @property
    def action_space(self) -> Space:
        """Action space of `env`."""
        return self.env.action_space

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state."""
        timestep = self.env.reset(key)
        space = self.env.action_space
        state = StickyActionsState(timestep.state, jnp.zeros(space.shape, space.dtype), jnp.bool_(False))
        return struct.replace(timestep, state=state)

    def step(self, key: Array, state: StickyActionsState, action: Array) -> TimeStep:
        """Advance `state` by `action` or by the previous action."""
        stick_key, env_key = jax.random.split(key)
        sticks = state.has_previous & (jax.random.uniform(stick_key) < self.probability)
        taken = jnp.where(sticks, state.previous, jnp.asarray(action, state.previous.dtype))
        timestep = self.env.step(env_key, state.env, taken)
        return struct.replace(timestep, state=StickyActionsState(timestep.state, taken, jnp.bool_(True)))


@struct.dataclass
class RandomizedState:
    """State of `RandomizeParameters`.

    Attributes:
        env: state of the environment.
        drawn: parameters drawn for this episode, by their path in the environment.
    """

    env: PyTree
    drawn: dict[str, Array]


@struct.dataclass
class RandomizeParameters:
    """Environment with domain randomisation: physics parameters are drawn for every episode (Tobin et al. 2017).

    The drawn values are part of the state, so parallel environments differ and each episode keeps its own values.
    Leaves that `sample` does not change are stored once.

    Attributes:
        env: the nominal environment; its parameters must be leaves.
        sample: ``sample(key, env) -> env`` with other values in some leaves. A function, or a `Partial` of one, whose
            arguments (such as ranges) then are leaves.
    """

    env: Environment
    sample: Callable[[Array, Environment], Environment]

    def __post_init__(self) -> None:
        if not callable(self.sample):
            raise InputError(f"sample must be a function (key, env) -> env with other parameters, got {self.sample!r}")
        struct.wrap_functions(self, "sample")

    @property
    def observation_space(self) -> Space:
        """Observation space of `env`."""
        return self.env.observation_space

    @property
    def action_space(self) -> Space:
        """Action space of `env`."""
        return self.env.action_space

    def reset(self, key: Array) -> TimeStep:
        """Draw parameters and a start state."""
        sample_key, reset_key = jax.random.split(key)
        drawn = _changed_leaves(self.env, self.sample(sample_key, self.env))
        check_acts(self.env, drawn)
        timestep = with_leaves(self.env, drawn).reset(reset_key)
        return struct.replace(timestep, state=RandomizedState(timestep.state, drawn))

    def step(self, key: Array, state: RandomizedState, action: Array) -> TimeStep:
        """Advance `state` by one action with the parameters of its episode."""
        timestep = with_leaves(self.env, state.drawn).step(key, state.env, action)
        return struct.replace(timestep, state=RandomizedState(timestep.state, state.drawn))


def _changed_leaves(env: Environment, other: Environment) -> dict[str, Array]:
    """Leaves of `other` that are not the same as in `env`, by path."""
    before, structure = jax.tree_util.tree_flatten_with_path(env)
    after, other_structure = jax.tree.flatten(other)
    if structure != other_structure:
        raise InputError("random parameters may change the leaves of an environment, not its structure")
    changed = {}
    for (path, old), new in zip(before, after, strict=True):
        if not _is_same(old, new):
            name = dotted(path)
            if jnp.shape(new) != jnp.shape(old):
                raise InputError(f"random {name} must have shape {jnp.shape(old)}, got {jnp.shape(new)}")
            changed[name] = jnp.asarray(new, jnp.result_type(old))
    return changed


def _is_same(old: Any, new: Any) -> bool:
    """Whether a leaf is the same object, or an equal number that a constructor has copied."""
    if new is old or isinstance(new, jax.Array) or isinstance(old, jax.Array):
        return new is old
    return np.shape(new) == np.shape(old) and bool(np.all(np.equal(new, old)))


def with_leaves(env: Environment, leaves: dict[str, Array]) -> Environment:
    """Copy of `env` with the leaves at some paths replaced."""
    paths, structure = jax.tree_util.tree_flatten_with_path(env)
    return jax.tree.unflatten(structure, [leaves.get(dotted(path), leaf) for path, leaf in paths])


def _box_of_actions(env: Environment) -> Box:
    if not isinstance(env.action_space, Box):
        raise InputError(f"only actions in a Box can be scaled, not {env.action_space}")
    return env.action_space


def set_leaf(node: Any, name: str, value: Any, dtype: Any) -> None:
    """Store `value` with a strong dtype, so that a number and an array use the same compiled program."""
    traced = isinstance(value, jax.Array)
    object.__setattr__(node, name, jnp.asarray(value, dtype) if traced else np.asarray(value, dtype))


def _where(condition: Array, yes: PyTree, no: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
