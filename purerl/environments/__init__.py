"""Where environments come from: `make` by name, from gymnax and Brax, or around an object of the user's own.

Simulators take seconds to import; each is imported when one of its environments is asked for.
"""

from __future__ import annotations

from typing import Any

from purerl import struct
from purerl.environments import brax, gymnax
from purerl.environments.wrappers import (
    ActionRepeat,
    FlattenObservation,
    RandomizeParameters,
    ScaleAction,
    StickyActions,
    TimeLimit,
)
from purerl.errors import InputError, unknown
from purerl.spaces import Box, Discrete, Space
from purerl.types import Environment

__all__ = [
    "ActionRepeat",
    "FlattenObservation",
    "RandomizeParameters",
    "ScaleAction",
    "StickyActions",
    "TimeLimit",
    "describe",
    "environment_names",
    "environment_options",
    "make",
]

# Brax's environments have no time limit of their own; this is the one that its benchmarks use.
_BRAX_EPISODE_LENGTH = 1000


def make(
    name_or_env: str | Environment, *, episode_length: int | None = None, action_repeat: int = 1, **options: Any
) -> Environment:
    """An environment by name, or the given one, with a time limit and repeated actions if asked for.

    Time limits count the simulator's own steps, as Brax does: with ``action_repeat=4`` and ``episode_length=1000`` an
    agent acts 250 times. The limit is kept exactly where it is no multiple (see `ActionRepeat`).

    Args:
        name_or_env: gymnax's id such as ``"CartPole-v1"``, ``"brax/<name>"``, or an `Environment`.
        episode_length: time limit; by default gymnax's own, 1000 for Brax and none for an object.
        action_repeat: simulator steps per action; their rewards are added.
        options: of that environment, see `environment_options`.

    Raises:
        InputError: for an unknown name or option, or a value that makes no sense; nothing is compiled before.
    """
    struct.check_value("action_repeat", action_repeat, int, "[1, inf)")
    if episode_length is not None:
        struct.check_value("episode_length", episode_length, int, "[1, inf)")
    env = _make(name_or_env, episode_length, options)
    return env if action_repeat == 1 else ActionRepeat(env, action_repeat)


def environment_names() -> list[str]:
    """Every name that `make` knows and that needs no download. Imports gymnax and Brax, which takes seconds."""
    return [*gymnax.names(), *brax.names()]


def environment_options(name: str) -> dict[str, Any]:
    """The options of an environment with their defaults, as plain values.

    ``None`` as a default means that the environment decides.
    """
    library = _library(name)
    if library is brax:
        return {**brax.environment_options(name), "episode_length": _BRAX_EPISODE_LENGTH, "action_repeat": 1}
    limit = gymnax.time_limit(gymnax.make(name))
    return {**gymnax.environment_options(name), "episode_length": limit, "action_repeat": 1}


def describe(name: str) -> tuple[Space, Space, int | None]:
    """Observations, actions and time limit of an environment with default options; runs no physics."""
    if _library(name) is brax:
        env = brax.make(name)
        return env.observation_space, env.action_space, _BRAX_EPISODE_LENGTH
    env = gymnax.make(name)
    return env.observation_space, env.action_space, gymnax.time_limit(env)


def _make(name_or_env: str | Environment, episode_length: int | None, options: dict[str, Any]) -> Environment:
    if not isinstance(name_or_env, str):
        env = _checked(name_or_env)
        if options:
            raise unknown("option of an environment object", next(iter(options)), ["episode_length", "action_repeat"])
        return env if episode_length is None else TimeLimit(env, episode_length)
    if _library(name_or_env) is brax:
        env = brax.make(name_or_env, **options)
        return TimeLimit(env, _BRAX_EPISODE_LENGTH if episode_length is None else episode_length)
    return gymnax.make(name_or_env, episode_length=episode_length, **options)


def _library(name: str) -> Any:
    """The module that knows the environment `name`; imports only that one's simulator if it does."""
    library = brax if name.startswith(brax.PREFIX) else gymnax
    if not library.is_known(name):
        raise unknown("environment", name, environment_names())
    return library


def _checked(env: Any) -> Environment:
    """`env` if it looks like an `Environment`."""
    missing = {"reset", "step", "observation_space", "action_space"} - set(dir(env))
    if missing or not all(isinstance(space, Box | Discrete) for space in (env.observation_space, env.action_space)):
        raise InputError(
            f"expected an environment's name or a purerl Environment, got {type(env).__name__} "
            "(environments of gymnax and Brax pass by name: register them there)"
        )
    return env
