"""Swing-up of a pendulum with a motor that is too weak to lift it directly."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from purerl import struct
from purerl.environments.smooth import common
from purerl.environments.smooth.integrate import rk4
from purerl.spaces import Box
from purerl.types import Array, TimeStep

_NUM_SUBSTEPS = 2


@struct.dataclass
class Pendulum:
    """Point mass on a massless rod::

        m l^2 angle'' = m g l sin(angle) - d angle' + torque

    The angle (rad) is 0 upright and is not wrapped. The start angle is uniform on the circle, with up to 1 rad/s. The
    motor can hold the default pendulum up to 24 degrees off the vertical; from further off it has to swing it up.

    State: ``[angle, velocity]``. Observation: ``[cos(angle), sin(angle), velocity]``. Action: ``[torque]`` (N m), not
    clipped: clipping would hide its gradient, so the agent must keep the bounds. Reward, a function of the state after
    the step::

        -(1 - cos(angle)) - 0.01 velocity^2 - 0.01 torque^2

    Attributes:
        mass: m, mass at the end of the rod.
        length: l, length of the rod.
        damping: d, viscous friction.
        gravity: g, acceleration of free fall.
        dt: time between two actions.
        max_torque: bound of the action.
    """

    mass: float | Array = struct.field(default=1.0, within="(0, inf)", help="mass at the end of the rod (kg)")
    length: float | Array = struct.field(default=0.5, within="(0, inf)", help="length of the rod (m)")
    damping: float | Array = struct.field(default=0.05, within="[0, inf)", help="viscous friction (N m s)")
    gravity: float | Array = struct.field(default=9.81, within="[0, inf)", help="acceleration of free fall (m/s^2)")
    dt: float | Array = struct.field(default=0.05, within="(0, inf)", help="time between two actions (s)")
    max_torque: float = struct.field(default=2.0, static=True, within="(0, inf)", help="bound of the action (N m)")

    def __post_init__(self) -> None:
        common.set_parameters(self)

    @property
    def observation_space(self) -> Box:
        """Vectors ``[cos, sin, velocity]``, the velocity unbounded."""
        return Box((3,), (-1.0, -1.0, -math.inf), (1.0, 1.0, math.inf))

    @property
    def action_space(self) -> Box:
        """Torque (N m)."""
        return Box((1,), -self.max_torque, self.max_torque)

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state."""
        state = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0) * jnp.array([math.pi, 1.0])
        return common.start(state, _observe(state))

    def step(self, key: Array, state: Array, action: Array) -> TimeStep:
        """Advance `state` by one action; deterministic."""
        del key
        torque = jnp.asarray(action)[0]
        state = rk4(lambda x: self._derivative(x, torque), state, self.dt, _NUM_SUBSTEPS)
        angle, velocity = state
        reward = -(1.0 - jnp.cos(angle)) - 0.01 * velocity**2 - 0.01 * torque**2
        return common.onward(state, _observe(state), reward)

    def _derivative(self, state: Array, torque: Array) -> Array:
        angle, velocity = state
        weight = self.mass * self.gravity * self.length * jnp.sin(angle)
        acceleration = (weight - self.damping * velocity + torque) / (self.mass * self.length**2)
        return jnp.stack([velocity, acceleration])


def _observe(state: Array) -> Array:
    angle, velocity = state
    return jnp.stack([jnp.cos(angle), jnp.sin(angle), velocity])
