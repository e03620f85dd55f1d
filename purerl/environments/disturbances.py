"""Disturbances for transfer between simulations: sensor noise, and delays of observations and actions.

Each is a small frozen pytree with a field `env`, like those of `purerl.environments.wrappers`, and nests with them. The
numbers are leaves: they can vary in a population, and `RandomizeParameters` draws them for every episode. Imperfect
actuators are in `purerl.environments.actuator`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from purerl import struct
from purerl.environments.wrappers import set_leaf
from purerl.errors import InputError
from purerl.spaces import Box, Space
from purerl.types import Array, Environment, PyTree, TimeStep


@struct.dataclass
class ObservationNoise:
    """Environment with sensor noise: independent Gaussian noise on every entry of every observation.

    Attributes:
        env: an environment whose observations are a `Box` of floating-point numbers.
        std: standard deviation in the unit of the observation, one number or one per entry.
    """

    env: Environment
    std: float | Array = struct.field(help="standard deviation of the noise", within="[0, inf)")

    def __post_init__(self) -> None:
        check_continuous("observation noise", "observations", self.env.observation_space)
        set_number(self, "std", "observation_noise", "[0, inf)")

    @property
    def observation_space(self) -> Box:
        """Unbounded: noise exceeds the bounds of `env`."""
        space = self.env.observation_space
        return Box(space.shape, dtype=space.dtype)

    @property
    def action_space(self) -> Space:
        """Action space of `env`."""
        return self.env.action_space

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state."""
        noise_key, env_key = jax.random.split(key)
        return self._observed(noise_key, self.env.reset(env_key))

    def step(self, key: Array, state: PyTree, action: Array) -> TimeStep:
        """Advance `state` by one action; the noise is not a part of the state."""
        noise_key, env_key = jax.random.split(key)
        return self._observed(noise_key, self.env.step(env_key, state, action))

    def _observed(self, key: Array, timestep: TimeStep) -> TimeStep:
        obs = timestep.obs
        noise = entries(self.std, "observation_noise", obs.shape) * jax.random.normal(key, obs.shape, obs.dtype)
        return struct.replace(timestep, obs=obs + noise.astype(obs.dtype))


@struct.dataclass
class DelayState:
    """State of a delay: the state of `env`, and the last values ``[longest + 1, ...]``, the newest last."""

    env: PyTree
    values: Array


@struct.dataclass
class ObservationDelay:
    """Environment with sensor latency: the agent sees the observation of `steps` steps ago.

    During the first `steps` steps it sees the first observation. Rewards and the end of the episode are not delayed.

    Attributes:
        env: the environment.
        steps: delay in steps.
        longest: greatest delay that there is memory for; None for `steps`. Give it where `steps` varies.
    """

    env: Environment
    steps: int | Array = struct.field(help="delay in steps", within="[0, inf)")
    longest: int | None = struct.field(default=None, static=True, help="greatest delay in steps", within="[0, inf)")

    def __post_init__(self) -> None:
        _set_delay(self, "observation_delay")

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
        values = jnp.stack([timestep.obs] * (self.longest + 1))  # type: ignore[operator]
        return struct.replace(timestep, state=DelayState(timestep.state, values))

    def step(self, key: Array, state: DelayState, action: Array) -> TimeStep:
        """Advance `state` by one action."""
        timestep = self.env.step(key, state.env, action)
        values = _pushed(state.values, timestep.obs)
        return struct.replace(timestep, state=DelayState(timestep.state, values), obs=_delayed(values, self.steps))


@struct.dataclass
class ActionDelay:
    """Environment with actuator latency: an action acts `steps` steps after the agent has chosen it.

    During the first `steps` steps of an episode the action is 0, or the value nearest to 0 within the bounds.

    Attributes:
        env: the environment.
        steps: delay in steps.
        longest: greatest delay that there is memory for; None for `steps`. Give it where `steps` varies.
    """

    env: Environment
    steps: int | Array = struct.field(help="delay in steps", within="[0, inf)")
    longest: int | None = struct.field(default=None, static=True, help="greatest delay in steps", within="[0, inf)")

    def __post_init__(self) -> None:
        _set_delay(self, "action_delay")

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
        values = jnp.stack([_at_rest(self.env.action_space)] * (self.longest + 1))  # type: ignore[operator]
        return struct.replace(timestep, state=DelayState(timestep.state, values))

    def step(self, key: Array, state: DelayState, action: Array) -> TimeStep:
        """Advance `state` by the action of `steps` steps ago, and remember `action`."""
        values = _pushed(state.values, action)
        timestep = self.env.step(key, state.env, _delayed(values, self.steps))
        return struct.replace(timestep, state=DelayState(timestep.state, values))


def _at_rest(space: Space) -> Array:
    """Action 0, or the value nearest to 0 within the bounds."""
    zero = jnp.zeros(space.shape, space.dtype)
    return jnp.clip(zero, *space.bounds).astype(space.dtype) if isinstance(space, Box) else zero


def _pushed(values: Array, newest: Array) -> Array:
    return jnp.concatenate([values[1:], jnp.asarray(newest, values.dtype)[None]])


def _delayed(values: Array, steps: int | Array) -> Array:
    """Entry of `steps` steps ago; a longer delay than there is memory for counts as the longest."""
    # JAX would count a negative index from the end, where the newest is.
    index = jnp.maximum(values.shape[0] - 1 - steps, 0)
    return jax.lax.dynamic_index_in_dim(values, index, keepdims=False)


def _set_delay(node: Any, option: str) -> None:
    struct.check_value(option, node.steps, int, "[0, inf)")
    struct.check_value(f"longest of {option}", node.longest, int | None, "[0, inf)")
    given = not isinstance(node.steps, Tracer)
    most = int(np.max(node.steps)) if given else None
    if node.longest is None:
        if most is None:
            raise InputError(f"{option} varies in a compiled program: give its greatest value as `longest`")
        object.__setattr__(node, "longest", most)
    elif most is not None and most > node.longest:
        raise InputError(f"{option} must be at most longest = {node.longest}, got {node.steps!r}")
    set_leaf(node, "steps", node.steps, np.int32)


def set_number(node: Any, field: str, option: str, within: str) -> None:
    """Check a field of a wrapper, called `option` in messages, and store it as float32."""
    struct.check_value(option, getattr(node, field), float, within)
    set_leaf(node, field, getattr(node, field), np.float32)


def entries(value: Any, option: str, shape: tuple[int, ...]) -> Array:
    """One number or one per entry. Checked where it is used: the constructor sees all members of a population."""
    if jnp.shape(value) not in ((), shape):
        raise InputError(f"{option} must be one number or have shape {shape}, got shape {jnp.shape(value)}")
    return jnp.asarray(value)


def check_continuous(what: str, which: str, space: Space) -> None:
    """Raise `InputError` unless `space` is a `Box` of floating-point numbers."""
    if not isinstance(space, Box) or not space.is_continuous:
        raise InputError(f"{what} is for {which} that are a Box of floating-point numbers, not {space}")
