"""Swing-up of a cart-pole: the pole is swung up and balanced by a force on the cart."""

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
class CartPoleSwingUp:
    """Cart on a rail with viscous friction, and a uniform pole with a frictionless hinge (Florian 2007, "Correct
    equations for the dynamics of the cart-pole system").

    The angle (rad) is 0 upright, positive towards positive x, and is not wrapped. At first the pole hangs down almost
    at rest. Springs stop the cart at both ends of the rail.

    State: ``[x, v, angle, omega]``. Observation: ``[x, v, cos(angle), sin(angle), omega]``. Action: ``[force]`` on the
    cart (N), not clipped: clipping would hide its gradient, so the agent must keep the bounds. Reward, a function of
    the state after the step::

        cos(angle) - 0.1 x^2 - 0.01 omega^2 - 0.001 force^2

    Attributes:
        cart_mass: mass of the cart alone.
        pole_mass: mass of the pole.
        pole_length: distance from the hinge to the middle of the pole, half of its whole length.
        gravity: acceleration of free fall.
        friction: viscous friction of the rail, force per velocity.
        rail_length: distance from the middle of the rail to either spring.
        spring_stiffness: stiffness of the springs, force per compression.
        dt: time between two actions.
        max_force: bound of the action.
    """

    cart_mass: float | Array = struct.field(default=1.0, within="(0, inf)", help="mass of the cart (kg)")
    pole_mass: float | Array = struct.field(default=0.1, within="(0, inf)", help="mass of the pole (kg)")
    pole_length: float | Array = struct.field(default=0.5, within="(0, inf)", help="half the length of the pole (m)")
    gravity: float | Array = struct.field(default=9.81, within="[0, inf)", help="acceleration of free fall (m/s^2)")
    friction: float | Array = struct.field(default=0.1, within="[0, inf)", help="viscous friction of the rail (N s/m)")
    rail_length: float | Array = struct.field(default=2.4, within="(0, inf)", help="half the length of the rail (m)")
    spring_stiffness: float | Array = struct.field(default=100.0, within="[0, inf)", help="spring stiffness (N/m)")
    dt: float | Array = struct.field(default=0.05, within="(0, inf)", help="time between two actions (s)")
    max_force: float = struct.field(default=10.0, static=True, within="(0, inf)", help="bound of the action (N)")

    def __post_init__(self) -> None:
        common.set_parameters(self)

    @property
    def observation_space(self) -> Box:
        """Vectors ``[x, v, cos, sin, omega]``, unbounded except for cosine and sine."""
        high = (math.inf, math.inf, 1.0, 1.0, math.inf)
        return Box((5,), tuple(-bound for bound in high), high)

    @property
    def action_space(self) -> Box:
        """Force on the cart (N)."""
        return Box((1,), -self.max_force, self.max_force)

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state."""
        state = jnp.array([0.0, 0.0, math.pi, 0.0]) + 0.05 * jax.random.normal(key, (4,))
        return common.start(state, _observe(state))

    def step(self, key: Array, state: Array, action: Array) -> TimeStep:
        """Advance `state` by one action; deterministic."""
        del key
        force = jnp.asarray(action)[0]
        state = rk4(lambda x: self._derivative(x, force), state, self.dt, _NUM_SUBSTEPS)
        x, _, angle, omega = state
        reward = jnp.cos(angle) - 0.1 * x**2 - 0.01 * omega**2 - 0.001 * force**2
        return common.onward(state, _observe(state), reward)

    def _derivative(self, state: Array, force: Array) -> Array:
        x, v, angle, omega = state
        sin, cos = jnp.sin(angle), jnp.cos(angle)
        mass = self.cart_mass + self.pole_mass
        force += self.spring_stiffness * (jnp.clip(x, -self.rail_length, self.rail_length) - x) - self.friction * v
        # Acceleration of the cart if the pole turned at a constant rate.
        push = (force + self.pole_mass * self.pole_length * omega**2 * sin) / mass
        inertia = self.pole_length * (4.0 / 3.0 - self.pole_mass * cos**2 / mass)
        turn = (self.gravity * sin - push * cos) / inertia
        return jnp.stack([v, push - self.pole_mass * self.pole_length * turn * cos / mass, omega, turn])


def _observe(state: Array) -> Array:
    x, v, angle, omega = state
    return jnp.stack([x, v, jnp.cos(angle), jnp.sin(angle), omega])
