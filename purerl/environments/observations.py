"""Wrappers of observations: flattening, frame stacking, masking.

Each is a small frozen pytree with a field `env`, like those of `purerl.environments.wrappers`, and nests with them.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from purerl import struct
from purerl.errors import InputError
from purerl.spaces import Box, Discrete, Space
from purerl.types import Array, Environment, PyTree, TimeStep


@struct.dataclass
class FlattenObservation:
    """Environment with flat float32 observations; discrete ones become one-hot vectors, pictures lie in [0, 1].

    Attributes:
        env: the environment.
    """

    env: Environment

    @property
    def observation_space(self) -> Box:
        """Vector space with the bounds of the original entries."""
        space = self.env.observation_space
        if isinstance(space, Discrete):
            return Box((space.n,), 0.0, 1.0)
        bounds = (space.low, space.high) if space.greatest == 1.0 else (0.0, 1.0)
        return Box((int(np.prod(space.shape)),), *bounds)

    @property
    def action_space(self) -> Space:
        """Action space of `env`."""
        return self.env.action_space

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state."""
        return self._flatten(self.env.reset(key))

    def step(self, key: Array, state: PyTree, action: Array) -> TimeStep:
        """Advance `state` by one action."""
        return self._flatten(self.env.step(key, state, action))

    def _flatten(self, timestep: TimeStep) -> TimeStep:
        space, obs = self.env.observation_space, timestep.obs
        if isinstance(space, Discrete):
            return struct.replace(timestep, obs=jax.nn.one_hot(obs, space.n, dtype=jnp.float32))
        return struct.replace(timestep, obs=jnp.ravel(obs).astype(jnp.float32) / space.greatest)


@struct.dataclass
class FrameStackState:
    """State of `FrameStack`: the state of `env` and the stacked observation."""

    env: PyTree
    frames: Array


@struct.dataclass
class FrameStack:
    """Environment that stacks the last few observations along the last axis, the newest last.

    Several observations show what a single one hides, such as velocities. A vector ``[n]`` becomes
    ``[n * num_frames]``, an image ``[height, width, channels]`` becomes ``[height, width, channels * num_frames]``. At
    the beginning of an episode all frames are copies of the first observation.

    Attributes:
        env: an environment with a `Box` of observations that have at least one axis.
        num_frames: number of stacked observations.
    """

    env: Environment
    num_frames: int = struct.field(static=True, help="number of stacked observations", within="[1, inf)")

    def __post_init__(self) -> None:
        struct.check_value("frame_stack", self.num_frames, int, "[1, inf)")
        if not self.env.observation_space.shape:
            raise InputError(f"only observations that are arrays can be stacked, not {self.env.observation_space}")

    @property
    def observation_space(self) -> Box:
        """Observation space of `env` with a last axis `num_frames` times as long."""
        space = _box_of_observations(self.env)
        low, high = (np.concatenate([bound] * self.num_frames, axis=-1) for bound in space.bounds)
        return Box(low.shape, tuple(low.ravel()), tuple(high.ravel()), space.dtype)

    @property
    def action_space(self) -> Space:
        """Action space of `env`."""
        return self.env.action_space

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state."""
        timestep = self.env.reset(key)
        return self._show(timestep, jnp.concatenate([timestep.obs] * self.num_frames, axis=-1))

    def step(self, key: Array, state: FrameStackState, action: Array) -> TimeStep:
        """Advance `state` by one action."""
        timestep = self.env.step(key, state.env, action)
        return self._show(timestep, jnp.concatenate([state.frames[..., timestep.obs.shape[-1] :], timestep.obs], -1))

    def _show(self, timestep: TimeStep, frames: Array) -> TimeStep:
        return struct.replace(timestep, state=FrameStackState(timestep.state, frames), obs=frames)


@struct.dataclass
class MaskObservation:
    """Environment that shows only some entries of the observation: the agent must remember or infer the others.

    Attributes:
        env: an environment whose observations are vectors.
        keep: indices of the visible entries, in this order.
    """

    env: Environment
    keep: Sequence[int] = struct.field(static=True, help="indices of the visible entries of the observation")

    def __post_init__(self) -> None:
        space = self.env.observation_space
        if len(space.shape) != 1:
            raise InputError(f"keep is for observations that are a vector, not {space}")
        keep = tuple(self.keep) if isinstance(self.keep, list | tuple) else ()
        whole = all(isinstance(i, int | np.integer) and not isinstance(i, bool) for i in keep)
        if not keep or not whole or len(set(keep)) < len(keep) or not set(keep) <= set(range(space.shape[0])):
            raise InputError(f"keep must be different indices from 0 to {space.shape[0] - 1}, got {self.keep!r}")
        object.__setattr__(self, "keep", tuple(int(i) for i in keep))

    @property
    def observation_space(self) -> Box:
        """Vector space of the kept entries with their bounds."""
        space = _box_of_observations(self.env)
        low, high = (bound[np.asarray(self.keep)] for bound in space.bounds)
        return Box(low.shape, tuple(low), tuple(high), space.dtype)

    @property
    def action_space(self) -> Space:
        """Action space of `env`."""
        return self.env.action_space

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state."""
        return self._mask(self.env.reset(key))

    def step(self, key: Array, state: PyTree, action: Array) -> TimeStep:
        """Advance `state` by one action."""
        return self._mask(self.env.step(key, state, action))

    def _mask(self, timestep: TimeStep) -> TimeStep:
        return struct.replace(timestep, obs=timestep.obs[np.asarray(self.keep)])


def _box_of_observations(env: Environment) -> Box:
    assert isinstance(env.observation_space, Box)
    return env.observation_space
