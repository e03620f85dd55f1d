"""Bouncing point mass on soft or hard ground: an example of misleading gradients through contacts."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from purerl import struct
from purerl.environments.smooth import common
from purerl.spaces import Box
from purerl.types import Array, TimeStep

# After a fall from more than a metre, at 5 m/s, the mass moves 2.5 cm per substep, and may sink as deep.
_NUM_SUBSTEPS = 10


@struct.dataclass
class BouncingMass:
    """Point mass above ground, pushed up or down by a vertical force weaker than gravity.

    Between contacts it falls freely. After every substep the fraction ``s`` of a downward velocity is reflected::

        s = sigmoid(-stiffness height)
        v <- v - (1 + restitution) min(v, 0) s

    Hard ground, the default, reflects the mass within one substep: either this one or the next. So the motion is a step
    function of the start and of the actions, and the derivative does not contain the steps. `jax.grad` is exact until
    the mass touches the ground. Afterwards it is the slope between two steps almost everywhere, and huge in the rare
    case that a substep ends within ``1 / stiffness`` of the ground. A ball dropped from higher up is lower shortly
    after the bounce, because it bounces later; its derivative has the opposite sign. This is the argument of Suh et al.
    2022, "Do differentiable simulators give better policy gradients?".

    Soft ground (up to 100 per metre) acts over centimetres, in many substeps, and has no such steps: gradients through
    it are right. It absorbs a fall like a cushion, without a bounce. On either ground a mass at rest sinks: by 3 mm/s
    with the default restitution and 24 mm/s with none.

    State and observation: ``[height, velocity]`` (m, m/s). Action: ``[force]`` upwards (N), not clipped: clipping
    would hide its gradient, so the agent must keep the bounds. Reward, a function of the state after the step::

        -(height - target)^2 - 0.01 force^2

    Attributes:
        mass: mass of the point.
        gravity: acceleration of free fall.
        restitution: speed after a bounce divided by the speed before.
        stiffness: stiffness of the ground; it acts within a few times ``1 / stiffness``.
        target: height to keep.
        dt: time between two actions.
        max_force: bound of the action.
    """

    mass: float | Array = struct.field(default=1.0, within="(0, inf)", help="mass (kg)")
    gravity: float | Array = struct.field(default=9.81, within="[0, inf)", help="acceleration of free fall (m/s^2)")
    restitution: float | Array = struct.field(default=0.8, within="[0, 1]", help="speed after a bounce / speed before")
    stiffness: float | Array = struct.field(default=10_000.0, within="(0, inf)", help="hardness of the ground (1/m)")
    target: float | Array = struct.field(default=1.0, within="(-inf, inf)", help="height to keep (m)")
    dt: float | Array = struct.field(default=0.05, within="(0, inf)", help="time between two actions (s)")
    max_force: float = struct.field(default=5.0, static=True, within="(0, inf)", help="bound of the action (N)")

    def __post_init__(self) -> None:
        common.set_parameters(self)

    @property
    def observation_space(self) -> Box:
        """Height and velocity, unbounded: the ground gives way a little."""
        return Box((2,), -math.inf, math.inf)

    @property
    def action_space(self) -> Box:
        """Upward force (N)."""
        return Box((1,), -self.max_force, self.max_force)

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state: 0.5 to 1.5 m up, with up to 1 m/s."""
        state = jnp.array([1.0, 0.0]) + jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0) * jnp.array([0.5, 1.0])
        return common.start(state, state)

    def step(self, key: Array, state: Array, action: Array) -> TimeStep:
        """Advance `state` by one action; deterministic."""
        del key
        force = jnp.asarray(action)[0]
        acceleration = force / self.mass - self.gravity
        h = self.dt / _NUM_SUBSTEPS
        height, velocity = state
        for _ in range(_NUM_SUBSTEPS):
            # Exact without contact.
            height = height + h * velocity + 0.5 * h**2 * acceleration
            velocity = velocity + h * acceleration
            share = jax.nn.sigmoid(-self.stiffness * height)
            velocity = velocity - (1.0 + self.restitution) * jnp.minimum(velocity, 0.0) * share
        state = jnp.stack([height, velocity])
        return common.onward(state, state, -((height - self.target) ** 2) - 0.01 * force**2)
