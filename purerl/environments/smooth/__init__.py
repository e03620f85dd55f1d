"""Small differentiable environments, smooth in state, action and parameters, for planning and learning by gradients.

All are deterministic after a reset. The state is one float32 vector, every physical quantity is a leaf, and nothing is
clipped, so `jax.grad` and `jax.jvp` through `step` are the true derivatives. One environment shows where these are not
useful: see `BouncingMass`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from purerl.environments.options import COMMON, as_plain, parameter
from purerl.environments.smooth.bouncing_mass import BouncingMass
from purerl.environments.smooth.cartpole import CartPoleSwingUp
from purerl.environments.smooth.linear_quadratic import LinearQuadratic
from purerl.environments.smooth.pendulum import Pendulum
from purerl.environments.smooth.quadrotor import Quadrotor
from purerl.errors import unknown
from purerl.types import Environment

PREFIX = "smooth/"

# Time limits set by `purerl.make`, in steps; the environments themselves never end an episode.
EPISODE_LENGTH = {
    "smooth/lqr": 50,
    "smooth/pendulum": 200,
    "smooth/cartpole-swingup": 200,
    "smooth/quadrotor": 100,
    "smooth/bouncing-mass": 40,
}

_CLASSES: dict[str, type] = {
    "smooth/lqr": LinearQuadratic,
    "smooth/pendulum": Pendulum,
    "smooth/cartpole-swingup": CartPoleSwingUp,
    "smooth/quadrotor": Quadrotor,
    "smooth/bouncing-mass": BouncingMass,
}


def names() -> list[str]:
    """Every environment of this kind, as ``"smooth/<name>"``."""
    return list(_CLASSES)


def is_known(name: str) -> bool:
    """Whether there is an environment called ``"smooth/<name>"``."""
    return name in _CLASSES


def make(name: str, **options: Any) -> Environment:
    """The environment ``"smooth/<name>"``, without time limit.

    Args:
        name: with the prefix.
        options: fields of its class, such as ``mass=2.0``.
    """
    defaults = _defaults(name)
    for option, value in options.items():
        if option not in defaults:
            raise unknown(f"option of {name}", option, {*defaults, *COMMON})
        parameter(f"{option} of {name}", value, np.asarray(defaults[option], np.float32))
    return _CLASSES[name](**options)


def environment_options(name: str) -> dict[str, Any]:
    """The parameters of ``"smooth/<name>"`` with their defaults, as plain values."""
    return {option: as_plain(default) for option, default in _defaults(name).items()}


def _defaults(name: str) -> dict[str, Any]:
    return {f.name: f.default for f in dataclasses.fields(_CLASSES[name])}
