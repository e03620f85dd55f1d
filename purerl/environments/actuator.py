"""Imperfect actuators, for transfer between simulations."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from purerl import struct
from purerl.environments.disturbances import check_continuous, entries, set_number
from purerl.spaces import Space
from purerl.types import Array, Environment, PyTree, TimeStep


@struct.dataclass
class ActuatorState:
    """State of `Actuator`: the state of `env`, and the output of the actuator before noise, float32."""

    env: PyTree
    output: Array


@struct.dataclass
class Actuator:
    """Environment with imperfect actuators: dead zone, gain, first-order lag and noise, in this order::

        u = sign(action) max(|action| - dead_zone, 0)
        y_t = lag y_{t-1} + (1 - lag) gain u,    y_{-1} = 0
        acts: y_t + noise_std e,    e ~ N(0, 1), clipped to the bounds of actions

    The lag is the exact response of ``tau y' = gain u - y`` to an action that is constant during a step of length dt:
    ``lag = exp(-dt / tau)``. The defaults are a perfect actuator. A number is for all entries, or one per entry.

    Attributes:
        env: an environment with a `Box` of floating-point actions.
        gain: output per action; below 1 for a weak motor.
        dead_zone: actions up to this size have no effect, in the unit of the action.
        lag: part of the previous output that is left after a step.
        noise_std: standard deviation of the noise, in the unit of the action.
    """

    env: Environment
    gain: float | Array = struct.field(default=1.0, help="output per action", within="[0, inf)")
    dead_zone: float | Array = struct.field(default=0.0, help="size of actions without effect", within="[0, inf)")
    lag: float | Array = struct.field(default=0.0, help="part of the output left after a step", within="[0, 1)")
    noise_std: float | Array = struct.field(default=0.0, help="standard deviation of the noise", within="[0, inf)")

    def __post_init__(self) -> None:
        check_continuous("an actuator", "actions", self.env.action_space)
        set_number(self, "gain", "actuator_gain", "[0, inf)")
        set_number(self, "dead_zone", "actuator_dead_zone", "[0, inf)")
        set_number(self, "lag", "actuator_lag", "[0, 1)")
        set_number(self, "noise_std", "action_noise", "[0, inf)")

    @property
    def observation_space(self) -> Space:
        """Observation space of `env`."""
        return self.env.observation_space

    @property
    def action_space(self) -> Space:
        """Action space of `env`."""
        return self.env.action_space

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state; the actuators are at rest."""
        timestep = self.env.reset(key)
        output = jnp.zeros(self.env.action_space.shape, jnp.float32)
        return struct.replace(timestep, state=ActuatorState(timestep.state, output))

    def step(self, key: Array, state: ActuatorState, action: Array) -> TimeStep:
        """Advance `state` by the output of the actuators."""
        noise_key, env_key = jax.random.split(key)
        space = self.env.action_space
        gain = entries(self.gain, "actuator_gain", space.shape)
        dead_zone = entries(self.dead_zone, "actuator_dead_zone", space.shape)
        lag = entries(self.lag, "actuator_lag", space.shape)
        noise = entries(self.noise_std, "action_noise", space.shape) * jax.random.normal(noise_key, space.shape)
        action = jnp.asarray(action, jnp.float32)
        # The derivative is 1 also at 0, without a dead zone.
        u = jnp.where(jnp.abs(action) >= dead_zone, action - dead_zone * jnp.sign(action), 0.0)
        output = lag * state.output + (1.0 - lag) * gain * u
        low, high = space.bounds  # type: ignore[union-attr]
        timestep = self.env.step(env_key, state.env, jnp.clip(output + noise, low, high).astype(space.dtype))
        return struct.replace(timestep, state=ActuatorState(timestep.state, output))
