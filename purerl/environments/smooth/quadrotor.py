"""Planar quadrotor with two rotors and three degrees of freedom, to be flown to the origin and held there."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from purerl import struct
from purerl.environments.smooth import common
from purerl.environments.smooth.integrate import rk4
from purerl.spaces import Box
from purerl.types import Array, TimeStep

_NUM_SUBSTEPS = 1


@struct.dataclass
class Quadrotor:
    """Rigid bar with a rotor at each end whose thrust is perpendicular to the bar::

        m x''         = -(left + right) sin(angle)
        m z''         =  (left + right) cos(angle) - m g
        inertia angle'' = arm_length (right - left)

    The angle (rad) is 0 when level, positive with the right arm up, and is not wrapped. Start states are up to 1 m away
    in x and z, tilted up to 0.5 rad, with up to 0.5 m/s and rad/s; there is no ground.

    State: ``[x, z, angle, x', z', angle']``. Observation: the same with cosine and sine of the angle. Action: ``[left,
    right]``; the thrust of a rotor is ``hover_thrust (1 + action)``: 0 carries the default mass, -1 is off. It is not
    clipped: clipping would hide its gradient, so the agent must keep the bounds. Reward, a function of the state after
    the step::

        -(sqrt(1 + d) - 1) - (1 - cos(angle)) - 0.01 (left^2 + right^2)
        d = x^2 + z^2 + 0.1 (x'^2 + z'^2) + 0.01 angle'^2

    which is quadratic close to the origin and linear far away, which an uncontrolled flight soon reaches.

    Attributes:
        mass: m, total mass.
        inertia: moment of inertia about the middle.
        arm_length: distance from the middle to a rotor.
        gravity: g, acceleration of free fall.
        hover_thrust: thrust of each rotor at action 0. It is not computed from mass and gravity, so a heavier quadrotor
            sinks, and its mass can be observed.
        dt: time between two actions.
    """

    mass: float | Array = struct.field(default=1.0, within="(0, inf)", help="mass (kg)")
    inertia: float | Array = struct.field(default=0.04, within="(0, inf)", help="moment of inertia (kg m^2)")
    arm_length: float | Array = struct.field(default=0.2, within="(0, inf)", help="distance of rotor and middle (m)")
    gravity: float | Array = struct.field(default=9.81, within="[0, inf)", help="acceleration of free fall (m/s^2)")
    hover_thrust: float | Array = struct.field(default=4.905, within="(0, inf)", help="rotor thrust at action 0 (N)")
    dt: float | Array = struct.field(default=0.05, within="(0, inf)", help="time between two actions (s)")

    def __post_init__(self) -> None:
        common.set_parameters(self)

    @property
    def observation_space(self) -> Box:
        """Vectors ``[x, z, cos, sin, x', z', angle']``, unbounded except for cosine and sine."""
        high = (math.inf, math.inf, 1.0, 1.0, math.inf, math.inf, math.inf)
        return Box((7,), tuple(-bound for bound in high), high)

    @property
    def action_space(self) -> Box:
        """Left and right thrust minus `hover_thrust`, divided by `hover_thrust`."""
        return Box((2,), -1.0, 1.0)

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state."""
        state = jax.random.uniform(key, (6,), minval=-1.0, maxval=1.0) * jnp.array([1.0, 1.0, 0.5, 0.5, 0.5, 0.5])
        return common.start(state, _observe(state))

    def step(self, key: Array, state: Array, action: Array) -> TimeStep:
        """Advance `state` by one action; deterministic."""
        del key
        action = jnp.asarray(action)
        thrusts = self.hover_thrust * (1.0 + action)
        state = rk4(lambda s: self._derivative(s, thrusts), state, self.dt, _NUM_SUBSTEPS)
        position, angle, velocity, omega = state[:2], state[2], state[3:5], state[5]
        off = jnp.sum(position**2) + 0.1 * jnp.sum(velocity**2) + 0.01 * omega**2
        cost = (jnp.sqrt(1.0 + off) - 1.0) + (1.0 - jnp.cos(angle)) + 0.01 * jnp.sum(action**2)
        return common.onward(state, _observe(state), -cost)

    def _derivative(self, state: Array, thrusts: Array) -> Array:
        _, _, angle, vx, vz, omega = state
        left, right = thrusts
        lift = (left + right) / self.mass
        turn = self.arm_length * (right - left) / self.inertia
        return jnp.stack([vx, vz, omega, -lift * jnp.sin(angle), lift * jnp.cos(angle) - self.gravity, turn])


def _observe(state: Array) -> Array:
    x, z, angle, vx, vz, omega = state
    return jnp.stack([x, z, jnp.cos(angle), jnp.sin(angle), vx, vz, omega])
