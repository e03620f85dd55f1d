"""Small differentiable environments, smooth in state, action and parameters, for planning and learning by gradients.

All are deterministic after a reset. The state is one float32 vector, every physical quantity is a leaf, and nothing is
clipped, so `jax.grad` and `jax.jvp` through `step` are the true derivatives. One environment shows where these are not
useful: see `BouncingMass`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from purerl.environments.options import COMMON, Option, as_plain, parameter
from purerl.environments.smooth.bouncing_mass import BouncingMass
from purerl.environments.smooth.cartpole import CartPoleSwingUp
from purerl.environments.smooth.linear_quadratic import LinearQuadratic
from purerl.environments.smooth.pendulum import Pendulum
from purerl.environments.smooth.quadrotor import Quadrotor
from purerl.environments.wrappers import TimeLimit
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
    """Names ``"smooth/<name>"`` of all environments of this suite."""
    return list(_CLASSES)


def is_known(name: str) -> bool:
    """Whether there is an environment called ``"smooth/<name>"``."""
    return name in _CLASSES


def make(name: str, *, episode_length: int | None = None, differentiable: bool = False, **options: Any) -> Environment:
    """Environment ``"smooth/<name>"`` with a time limit; see `unlimited`.

    Args:
        name: name with the prefix.
        episode_length: time limit in steps; by default that of `EPISODE_LENGTH`.
        differentiable: no effect; these environments always have gradients.
        options: fields of its class, such as ``mass=2.0``.
    """
    return TimeLimit(unlimited(name, **options), EPISODE_LENGTH[name] if episode_length is None else episode_length)


def unlimited(name: str, **options: Any) -> Environment:
    """Environment ``"smooth/<name>"`` without time limit, with `options` as for `make`."""
    defaults = _defaults(name)
    for option, value in options.items():
        if option not in defaults:
            raise unknown(f"option of {name}", option, {*defaults, *COMMON})
        parameter(f"{option} of {name}", value, np.asarray(defaults[option], np.float32))
    return _CLASSES[name](**options)


def options(name: str) -> dict[str, Option]:
    """Fields of the class of ``"smooth/<name>"``."""
    fields = dataclasses.fields(_CLASSES[name])
    return {f.name: Option(as_plain(f.default), f.metadata["help"], f.metadata["within"]) for f in fields}


def time_limit(name: str) -> int:
    """Default time limit in steps."""
    return EPISODE_LENGTH[name]


def frame_stack(name: str) -> int:
    """Default number of stacked observations: 1."""
    return 1


def _defaults(name: str) -> dict[str, Any]:
    return {f.name: f.default for f in dataclasses.fields(_CLASSES[name])}
