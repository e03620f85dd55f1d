"""CartPole with pixel observations: the dynamics of gymnax, observed as small grey pictures.

Positions and angles must be inferred from the pixels, and velocities from the difference of two pictures, which
`purerl.make` stacks by default. Pictures are computed from signed distances, in the same compiled program as everything
else. Edges are anti-aliased: an edge within a pixel lights it in part, so movements far smaller than a pixel are
visible.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from purerl import struct
from purerl.environments import gymnax
from purerl.environments.gymnax import GymnaxEnvironment
from purerl.environments.options import Option
from purerl.spaces import Box, Space
from purerl.types import Array, PyTree, TimeStep

PREFIX = "pixels/"

_HEIGHT, _WIDTH = 10, 36
_PIXEL = 0.15
"""Side of a pixel (m): the picture is 5.4 m wide, a little more than the track, and 1.5 m high."""

_CART = (0.25, 0.1)
"""Half the length and half the height of the cart (m)."""
_POLE = 0.5 * _PIXEL
"""Half the width of the pole (m): it is as wide as a pixel, and its light is divided between two neighbours."""


@struct.dataclass
class PixelCartPole:
    """CartPole with grey pictures as observations: 1 for cart and pole, 0 for background, in between at edges.

    Attributes:
        env: gymnax's CartPole, with its parameters as leaves; the drawn pole has the length of its parameters.
    """

    env: GymnaxEnvironment

    @property
    def observation_space(self) -> Box:
        """Brightness ``[height, width, 1]``, the top row first."""
        return Box((_HEIGHT, _WIDTH, 1), 0.0, 1.0)

    @property
    def action_space(self) -> Space:
        """Action space of `env`."""
        return self.env.action_space

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state."""
        return self._show(self.env.reset(key))

    def step(self, key: Array, state: PyTree, action: Array) -> TimeStep:
        """Advance `state` by one action."""
        return self._show(self.env.step(key, state, action))

    def _show(self, timestep: TimeStep) -> TimeStep:
        state = timestep.state
        return struct.replace(timestep, obs=draw(state.x, state.theta, 2.0 * self.env.params.length))


def draw(x: Array, angle: Array, length: Array) -> Array:
    """Picture ``[height, width, 1]`` of a cart at `x` (m) with a pole of `length` (m) at `angle` (rad)."""
    # Coordinates of the pixels' centres relative to the hinge, which is at the centre of the cart.
    right = _PIXEL * (jnp.arange(_WIDTH) - 0.5 * (_WIDTH - 1))[None, :] - x
    up = _PIXEL * (_HEIGHT - 1 - jnp.arange(_HEIGHT))[:, None]
    # Signed distances, negative inside, of the cart as a box and the pole as a thick line with round ends.
    beyond_x, beyond_y = jnp.abs(right) - _CART[0], jnp.abs(up) - _CART[1]
    outside = jnp.hypot(jnp.maximum(beyond_x, 0.0), jnp.maximum(beyond_y, 0.0))
    cart = outside + jnp.minimum(jnp.maximum(beyond_x, beyond_y), 0.0)
    along = jnp.clip(right * jnp.sin(angle) + up * jnp.cos(angle), 0.0, length)
    pole = jnp.hypot(right - along * jnp.sin(angle), up - along * jnp.cos(angle)) - _POLE
    return jnp.clip(0.5 - jnp.minimum(cart, pole) / _PIXEL, 0.0, 1.0)[..., None]


def names() -> list[str]:
    """Names ``"pixels/<name>"`` of all environments of this suite."""
    return [PREFIX + "CartPole-v1"]


def is_known(name: str) -> bool:
    """Whether there is an environment called ``"pixels/<name>"``."""
    return name in names()


def make(name: str, **options: Any) -> PixelCartPole:
    """Environment ``"pixels/<name>"`` with one picture per observation.

    Args:
        name: name with the prefix.
        options: options of `purerl.environments.gymnax.make`.
    """
    return PixelCartPole(gymnax.make(name.removeprefix(PREFIX), **options))


def options(name: str) -> dict[str, Option]:
    """Parameters of the environment of gymnax behind ``"pixels/<name>"``."""
    return gymnax.options(name.removeprefix(PREFIX))


def time_limit(name: str) -> int | None:
    """Time limit of the environment behind ``"pixels/<name>"``, in steps."""
    return gymnax.time_limit(name.removeprefix(PREFIX))


def frame_stack(name: str) -> int:
    """Default number of stacked pictures: 2, so that velocities are visible."""
    return 2
