"""Where environments come from: `make` by name, from gymnax, Brax and here, or around an object of the user's own.

Simulators take seconds to import; each is imported when one of its environments is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from purerl import struct
from purerl.environments import brax, gymnax, pixels, smooth
from purerl.environments.casting import StrictTypes
from purerl.environments.check import check_env, check_types
from purerl.environments.gradient_gate import GradientGate
from purerl.environments.observations import FlattenObservation, FrameStack, MaskObservation
from purerl.environments.options import COMMON
from purerl.environments.wrappers import (
    ActionRepeat,
    RandomizeParameters,
    ScaleAction,
    StickyActions,
    TimeLimit,
    WithReward,
)
from purerl.errors import unknown
from purerl.spaces import Space
from purerl.types import Environment

__all__ = [
    "ActionRepeat",
    "FlattenObservation",
    "FrameStack",
    "GradientGate",
    "MaskObservation",
    "RandomizeParameters",
    "ScaleAction",
    "StickyActions",
    "StrictTypes",
    "TimeLimit",
    "WithReward",
    "check_env",
    "describe",
    "environment_names",
    "environment_options",
    "make",
]

# Brax's environments have no time limit of their own; this is the one that its benchmarks use.
_BRAX_EPISODE_LENGTH = 1000


def make(
    name_or_env: str | Environment,
    *,
    episode_length: int | None = None,
    action_repeat: int = 1,
    keep: Sequence[int] = (),
    frame_stack: int | None = None,
    differentiable: bool = False,
    **options: Any,
) -> Environment:
    """An environment by name, or the given one; if asked for, with a time limit, repeated actions, other observations.

    Time limits count the simulator's own steps, as Brax does: with ``action_repeat=4`` and ``episode_length=1000`` an
    agent acts 250 times. The limit is kept exactly where it is no multiple (see `ActionRepeat`).

    Args:
        name_or_env: gymnax's id such as ``"CartPole-v1"``, ``"brax/<name>"``, ``"smooth/<name>"``, ``"pixels/<name>"``,
            or an `Environment`. One that returns Python numbers or other dtypes that fit comes in `StrictTypes`.
        episode_length: time limit; by default gymnax's own, 1000 for Brax, `environment_options` tells those of the
            smooth ones, and none for an object.
        action_repeat: simulator steps per action; their rewards are added.
        keep: indices of the entries of a vector that the agent sees (`MaskObservation`); by default all.
        frame_stack: observations that the agent sees at once (`FrameStack`); by default 2 for pixels, else 1.
        differentiable: whether `jax.grad` must work through `step`. Sets the simulator up for that where it needs it
            and refuses those whose reward or dynamics pass no gradient. An object is taken as it is.
        options: of that environment, see `environment_options`.

    Raises:
        InputError: for an unknown name or option, a value that makes no sense, or an object that breaks the contract
            of environments (see `check_env`); nothing is compiled before.
    """
    struct.check_value("action_repeat", action_repeat, int, "[1, inf)")
    if episode_length is not None:
        struct.check_value("episode_length", episode_length, int, "[1, inf)")
    if frame_stack is not None:
        struct.check_value("frame_stack", frame_stack, int, "[1, inf)")
    struct.check_value("differentiable", differentiable, bool, "")
    env = _make(name_or_env, episode_length, differentiable, options)
    env = env if action_repeat == 1 else ActionRepeat(env, action_repeat)
    env = env if keep == () else MaskObservation(env, keep)
    num_frames = _num_frames(name_or_env) if frame_stack is None else frame_stack
    return env if num_frames == 1 else FrameStack(env, num_frames)


def environment_names() -> list[str]:
    """Every name that `make` knows and that needs no download. Imports gymnax and Brax, which takes seconds."""
    return [*smooth.names(), *pixels.names(), *gymnax.names(), *brax.names()]


def environment_options(name: str) -> dict[str, Any]:
    """The options of an environment with their defaults, as plain values.

    ``None`` as a default means that the environment decides.
    """
    library = _library(name)
    common = {
        "episode_length": _time_limit(name),
        "action_repeat": 1,
        "keep": (),
        "frame_stack": _num_frames(name),
        "differentiable": False,
    }
    return {**library.environment_options(name), **common}


def describe(name: str) -> tuple[Space, Space, int | None]:
    """Observations, actions and time limit of an environment with default options; runs no physics."""
    env = make(name)
    return env.observation_space, env.action_space, _time_limit(name)


def _time_limit(name: str) -> int | None:
    """The default one."""
    library = _library(name)
    if library is pixels:
        return _time_limit(name.removeprefix(pixels.PREFIX))
    if library is gymnax:
        return gymnax.time_limit(gymnax.make(name))
    return _BRAX_EPISODE_LENGTH if library is brax else smooth.EPISODE_LENGTH[name]


def _num_frames(name_or_env: str | Environment) -> int:
    """Observations that the agent sees at once unless asked otherwise."""
    return pixels.FRAME_STACK if isinstance(name_or_env, str) and name_or_env.startswith(pixels.PREFIX) else 1


def _make(
    name_or_env: str | Environment, episode_length: int | None, differentiable: bool, options: dict[str, Any]
) -> Environment:
    if not isinstance(name_or_env, str):
        env = name_or_env if check_types(name_or_env) else StrictTypes(name_or_env)
        if options:
            raise unknown("option of an environment object", next(iter(options)), COMMON)
        return env if episode_length is None else TimeLimit(env, episode_length)
    library = _library(name_or_env)
    if library in (gymnax, pixels):
        return library.make(name_or_env, episode_length=episode_length, differentiable=differentiable, **options)
    if library is brax:
        env = brax.make(name_or_env, differentiable=differentiable, **options)
    else:
        env = smooth.make(name_or_env, **options)
    limit = _time_limit(name_or_env) if episode_length is None else episode_length
    return env if limit is None else TimeLimit(env, limit)


def _library(name: str) -> Any:
    """The module that knows the environment `name`; imports only that one's simulator if it does."""
    library = next((library for library in (brax, smooth, pixels) if name.startswith(library.PREFIX)), gymnax)
    if not library.is_known(name):
        raise unknown("environment", name, environment_names())
    return library
