"""Environments around environments: time limits, action repeat, scaling, rewards, sticky actions, random physics.

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
    """State of `TimeLimit`: that of its environment and the steps taken, int32."""

    env: PyTree
    num_steps: Array


@struct.dataclass
class TimeLimit:
    """Truncates an episode that has not ended after `length` steps.

    Attributes:
        env: the environment.
        length: steps after which to stop looking; a leaf, so that changing it compiles nothing.
    """

    env: Environment
    length: int | Array = struct.field(help="steps after which an episode is cut", within="[1, inf)")

    def __post_init__(self) -> None:
        struct.check_value("length of a time limit", self.length, int, "[1, inf)")
        _set_leaf(self, "length", self.length, np.int32)

    @property
    def observation_space(self) -> Space:
        """That of `env`."""
        return self.env.observation_space

    @property
    def action_space(self) -> Space:
        """That of `env`."""
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
    """Takes every action `repeats` times, or fewer if the episode ends, and adds up the rewards.

    Around a `TimeLimit` (or a simulator with one of its own) the limit counts the inner steps and is kept exactly,
    also where it is no multiple of `repeats`: the last action is then repeated less often.

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
        """That of `env`."""
        return self.env.observation_space

    @property
    def action_space(self) -> Space:
        """That of `env`."""
        return self.env.action_space

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state."""
        return self.env.reset(key)

    def step(self, key: Array, state: PyTree, action: Array) -> TimeStep:
        """Advance `state` by up to `repeats` inner steps; the result is the first done one if there is any."""

        def inner(timestep: TimeStep, key: Array) -> tuple[TimeStep, None]:
            # After the end, step from the start again and drop the result: stepping a state that is done may give
            # NaN, whose gradient passes through a selection that drops it.
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
    """Lets the agent act in ``[-1, 1]`` and maps that onto the bounds of the environment's actions (`Box.from_unit`).

    An entry without an upper bound has none here either, so with one without a lower bound; both keep their unit.

    Attributes:
        env: an environment with a `Box` of actions.
    """

    env: Environment

    def __post_init__(self) -> None:
        _box_of_actions(self.env)

    @property
    def observation_space(self) -> Space:
        """That of `env`."""
        return self.env.observation_space

    @property
    def action_space(self) -> Box:
        """``[-1, 1]``, with -1 or 1 missing where the environment's actions have no such bound."""
        inner = _box_of_actions(self.env)
        low, high = inner.bounds
        unit = np.where(np.isfinite(low), -1.0, low), np.where(np.isfinite(high), 1.0, high)
        return Box(inner.shape, *unit)  # type: ignore[arg-type]

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state."""
        return self.env.reset(key)

    def step(self, key: Array, state: PyTree, action: Array) -> TimeStep:
        """Advance `state` by one action in ``[-1, 1]``; values beyond are clipped."""
        return self.env.step(key, state, _box_of_actions(self.env).from_unit(action))


@struct.dataclass
class WithReward:
    """Another reward for the same dynamics, such as one that is smooth where the environment's own is not.

    Attributes:
        env: the environment.
        reward: ``reward(state, action, timestep) -> scalar`` of the state that was left, the action taken there and the
            time step it led to. A function, or a `Partial` of one whose arguments (weights, say) then are leaves too.
    """

    env: Environment
    reward: Callable[[PyTree, Array, TimeStep], Array]

    def __post_init__(self) -> None:
        struct.wrap_functions(self, "reward")

    @property
    def observation_space(self) -> Space:
        """That of `env`."""
        return self.env.observation_space

    @property
    def action_space(self) -> Space:
        """That of `env`."""
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
    """State of `StickyActions`: that of its environment, the action last taken, and whether there is one yet."""

    env: PyTree
    previous: Array
    has_previous: Array


@struct.dataclass
class StickyActions:
    """Takes the previous action again with some probability, whatever the agent chose (Machado et al. 2018, sec. 5).

    The first action of an episode is always the agent's.

    Attributes:
        env: the environment.
        probability: of repeating; a leaf.
    """

    env: Environment
    probability: float | Array = struct.field(default=0.25, help="of repeating the previous action", within="[0, 1]")

    def __post_init__(self) -> None:
        struct.check_value("probability of sticky actions", self.probability, float, "[0, 1]")
        _set_leaf(self, "probability", self.probability, np.float32)

    @property
    def observation_space(self) -> Space:
        """That of `env`."""
        return self.env.observation_space

    @property
    def action_space(self) -> Space:
        """That of `env`."""
        return self.env.action_space

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state."""
        timestep = self.env.reset(key)
        space = self.env.action_space
        state = StickyActionsState(timestep.state, jnp.zeros(space.shape, space.dtype), jnp.bool_(False))
        return struct.replace(timestep, state=state)

    def step(self, key: Array, state: StickyActionsState, action: Array) -> TimeStep:
        """Advance `state` by `action` or by the one before."""
        stick_key, env_key = jax.random.split(key)
        sticks = state.has_previous & (jax.random.uniform(stick_key) < self.probability)
        taken = jnp.where(sticks, state.previous, jnp.asarray(action, state.previous.dtype))
        timestep = self.env.step(env_key, state.env, taken)
        return struct.replace(timestep, state=StickyActionsState(timestep.state, taken, jnp.bool_(True)))


@struct.dataclass
class RandomizedState:
    """State of `RandomizeParameters`.

    Attributes:
        env: the environment's own state.
        drawn: the parameters drawn for this episode, by their path in the environment.
    """

    env: PyTree
    drawn: dict[str, Array]


@struct.dataclass
class RandomizeParameters:
    """Draws physics parameters anew for every episode (domain randomisation, Tobin et al. 2017).

    The drawn values live in the state, so that environments side by side differ and an episode keeps its own; what
    `sample` leaves alone is stored once.

    Attributes:
        env: the environment as it is on average; any whose parameters are leaves.
        sample: ``sample(key, env) -> env`` with other values in some leaves. A function, or a `Partial` of one whose
            arguments (ranges, say) then are leaves too.
    """

    env: Environment
    sample: Callable[[Array, Environment], Environment]

    def __post_init__(self) -> None:
        if not callable(self.sample):
            raise InputError(f"sample must be a function (key, env) -> env with other parameters, got {self.sample!r}")
        struct.wrap_functions(self, "sample")

    @property
    def observation_space(self) -> Space:
        """That of `env`."""
        return self.env.observation_space

    @property
    def action_space(self) -> Space:
        """That of `env`."""
        return self.env.action_space

    def reset(self, key: Array) -> TimeStep:
        """Draw parameters and a start state."""
        sample_key, reset_key = jax.random.split(key)
        drawn = _changed_leaves(self.env, self.sample(sample_key, self.env))
        check_acts(self.env, drawn)
        timestep = _with_leaves(self.env, drawn).reset(reset_key)
        return struct.replace(timestep, state=RandomizedState(timestep.state, drawn))

    def step(self, key: Array, state: RandomizedState, action: Array) -> TimeStep:
        """Advance `state` by one action under its own parameters."""
        timestep = _with_leaves(self.env, state.drawn).step(key, state.env, action)
        return struct.replace(timestep, state=RandomizedState(timestep.state, state.drawn))


def _changed_leaves(env: Environment, other: Environment) -> dict[str, Array]:
    """The leaves in which `other` is not the very same as `env`, by path."""
    before, structure = jax.tree_util.tree_flatten_with_path(env)
    after, other_structure = jax.tree.flatten(other)
    if structure != other_structure:
        raise InputError("random parameters may change the leaves of an environment, not its structure")
    changed = {}
    for (path, old), new in zip(before, after, strict=True):
        if new is not old:
            name = dotted(path)
            if jnp.shape(new) != jnp.shape(old):
                raise InputError(f"random {name} must have shape {jnp.shape(old)}, got {jnp.shape(new)}")
            changed[name] = jnp.asarray(new, jnp.result_type(old))
    return changed


def _with_leaves(env: Environment, leaves: dict[str, Array]) -> Environment:
    """`env` with the leaves at some paths replaced."""
    paths, structure = jax.tree_util.tree_flatten_with_path(env)
    return jax.tree.unflatten(structure, [leaves.get(dotted(path), leaf) for path, leaf in paths])


def _box_of_actions(env: Environment) -> Box:
    if not isinstance(env.action_space, Box):
        raise InputError(f"only actions in a Box can be scaled, not {env.action_space}")
    return env.action_space


def _set_leaf(node: Any, name: str, value: Any, dtype: Any) -> None:
    """Keep `value` with a strong type, so that a number and an array of it compile to the same program."""
    traced = isinstance(value, jax.Array)
    object.__setattr__(node, name, jnp.asarray(value, dtype) if traced else np.asarray(value, dtype))


def _where(condition: Array, yes: PyTree, no: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
