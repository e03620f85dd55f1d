"""Time limits of environments that exist already, through their wrappers."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax.core import Tracer

from purerl.environments.wrappers import TimeLimit


def episode_limit(env: Any) -> int | None:
    """Most steps of an episode, as `TimeLimit` or gymnax's parameters say; None where nothing says so.

    Wrappers that repeat actions make episodes shorter than this. Where members of a population have limits of their
    own, the greatest is meant. Limits that are traced are not known.
    """
    limits = []
    while env is not None:
        limit = env.length if isinstance(env, TimeLimit) else _gymnax_limit(env)
        if limit is not None and not isinstance(limit, Tracer):
            limits.append(int(np.max(np.asarray(limit))))
        env = getattr(env, "env", None)
    return min(limits, default=None)


def _gymnax_limit(env: Any) -> Any:
    return getattr(getattr(env, "params", None), "max_steps_in_episode", None)
