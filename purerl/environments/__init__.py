"""Environments: `make` by name (gymnax, Brax, pixels, smooth, grid) or from your own object; wrappers and checks.

Simulators take seconds to import; each is imported when one of its environments is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from purerl import struct
from purerl.environments.casting import StrictTypes
from purerl.environments.check import check_env, check_types
from purerl.environments.gradient_gate import GradientGate
from purerl.environments.learned_reward import LearnedReward
from purerl.environments.observations import FlattenObservation, FrameStack, MaskObservation
from purerl.environments.options import COMMON, Option
from purerl.environments.suites import Suite, load_suites, suite_of
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
    "LearnedReward",
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
    "options_of",
]


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
    """Environment by name or from an object, optionally with a time limit, repeated actions or other observations.

    Time limits count the simulator's own steps, as in Brax: with ``action_repeat=4`` and ``episode_length=1000`` an
    agent acts 250 times. The limit is exact even if it is not a multiple of `action_repeat` (see `ActionRepeat`).

    Args:
        name_or_env: gymnax's id such as ``"CartPole-v1"``, ``"brax/<name>"``, ``"smooth/<name>"``, ``"grid/<name>"``,
            ``"pixels/<name>"``, your own class as ``"mypackage.envs:MyEnv"``, or an `Environment` object. Your own
            environment is wrapped in `StrictTypes` if it returns Python numbers or other dtypes that can be converted
            without loss.
        episode_length: time limit in steps; the default is gymnax's own, 1000 for Brax, the value in
            `environment_options` for smooth ones and grids, and none for an object.
        action_repeat: simulator steps per action; their rewards are summed.
        keep: indices of the visible entries of a vector (`MaskObservation`); by default all.
        frame_stack: number of stacked observations (`FrameStack`); by default 2 for pixels, else 1.
        differentiable: whether `jax.grad` must work through `step`. The simulator is prepared for it if necessary;
            environments without gradients are refused. An object is used unchanged.
        options: options of the environment, see `environment_options`.

    Raises:
        InputError: for an unknown name or option, an invalid value, or an object that breaks the contract of
            environments (see `check_env`), before anything compiles.
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
    if frame_stack is None:
        frame_stack = _suite(name_or_env).frame_stack(name_or_env) if isinstance(name_or_env, str) else 1
    return env if frame_stack == 1 else FrameStack(env, frame_stack)


def environment_names() -> list[str]:
    """Names of all environments that `make` knows and that need no download."""
    return [name for suite in load_suites() for name in suite.names()]


def environment_options(name: str) -> dict[str, Any]:
    """Options of an environment with their defaults, as plain values.

    The default ``None`` means that the environment decides.
    """
    return {name: option.default for name, option in options_of(name).items()}


def options_of(name: str) -> dict[str, Option]:
    """Options of an environment with defaults, meaning and allowed range."""
    suite = _suite(name)
    defaults = {
        "episode_length": suite.time_limit(name),
        "action_repeat": 1,
        "keep": (),
        "frame_stack": suite.frame_stack(name),
        "differentiable": False,
    }
    return {**suite.options(name), **{option: Option(defaults[option], help) for option, help in COMMON.items()}}


def describe(name: str) -> tuple[Space, Space, int | None]:
    """Observations, actions and time limit of an environment with default options, without running the simulator."""
    env = make(name)
    return env.observation_space, env.action_space, _suite(name).time_limit(name)


def _make(
    name_or_env: str | Environment, episode_length: int | None, differentiable: bool, options: dict[str, Any]
) -> Environment:
    if isinstance(name_or_env, str):
        make_known = _suite(name_or_env).make
        return make_known(name_or_env, episode_length=episode_length, differentiable=differentiable, **options)
    env = name_or_env if check_types(name_or_env) else StrictTypes(name_or_env)
    if options:
        raise unknown("option of an environment object", next(iter(options)), COMMON)
    return env if episode_length is None else TimeLimit(env, episode_length)


def _suite(name: str) -> Suite:
    suite = suite_of(name)
    if suite is None:
        raise unknown("environment", name, environment_names())
    return suite
