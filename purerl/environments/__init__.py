"""Environments: `make` by name (gymnax, Brax, pixels, smooth, grid) or from your own object; wrappers and checks.

Simulators take seconds to import; each is imported when one of its environments is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from purerl import struct
from purerl.environments.actuator import Actuator
from purerl.environments.casting import StrictTypes
from purerl.environments.check import check_env, check_types
from purerl.environments.disturbances import ActionDelay, ObservationDelay, ObservationNoise
from purerl.environments.gradient_gate import GradientGate
from purerl.environments.learned_reward import LearnedReward
from purerl.environments.motion import Motion, record_motion
from purerl.environments.observations import FlattenObservation, FrameStack, MaskObservation
from purerl.environments.options import COMMON, Option
from purerl.environments.ranges import randomize
from purerl.environments.reference_motion import ImitateMotion, Term
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
from purerl.types import Array, Environment

Number = float | Array

__all__ = [
    "ActionDelay",
    "ActionRepeat",
    "Actuator",
    "FlattenObservation",
    "FrameStack",
    "GradientGate",
    "ImitateMotion",
    "LearnedReward",
    "MaskObservation",
    "Motion",
    "ObservationDelay",
    "ObservationNoise",
    "RandomizeParameters",
    "ScaleAction",
    "StickyActions",
    "StrictTypes",
    "Term",
    "TimeLimit",
    "WithReward",
    "check_env",
    "describe",
    "environment_names",
    "environment_options",
    "make",
    "options_of",
    "randomize",
    "record_motion",
]


def make(
    name_or_env: str | Environment,
    *,
    episode_length: int | None = None,
    action_repeat: int = 1,
    keep: Sequence[int] = (),
    frame_stack: int | None = None,
    differentiable: bool = False,
    observation_noise: Number = 0.0,
    observation_delay: int | Array = 0,
    action_noise: Number = 0.0,
    action_delay: int | Array = 0,
    actuator_gain: Number = 1.0,
    actuator_dead_zone: Number = 0.0,
    actuator_lag: Number = 0.0,
    **options: Any,
) -> Environment:
    """Environment by name or from an object, optionally with a time limit, repeated actions, other observations, or
    disturbances of sensors and actuators.

    Time limits, delays and lags count the simulator's own steps, as in Brax: with ``action_repeat=4`` and
    ``episode_length=1000`` an agent acts 250 times. The limit is exact even if it is not a multiple of `action_repeat`
    (see `ActionRepeat`).

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
        observation_noise: standard deviation of noise on observations, in their unit (`ObservationNoise`).
        observation_delay: delay of observations in steps (`ObservationDelay`).
        action_noise: standard deviation of noise on actions, in their unit (`Actuator`).
        action_delay: delay of actions in steps (`ActionDelay`).
        actuator_gain: output per action (`Actuator`).
        actuator_dead_zone: size of actions without effect, in their unit (`Actuator`).
        actuator_lag: part of the output that is left after a step (`Actuator`).
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
    if _differ((actuator_gain, 1.0), (actuator_dead_zone, 0.0), (actuator_lag, 0.0), (action_noise, 0.0)):
        env = Actuator(env, actuator_gain, actuator_dead_zone, actuator_lag, action_noise)
    env = ActionDelay(env, action_delay) if _differ((action_delay, 0)) else env
    env = ObservationNoise(env, observation_noise) if _differ((observation_noise, 0.0)) else env
    env = ObservationDelay(env, observation_delay) if _differ((observation_delay, 0)) else env
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
    decided = {"episode_length": suite.time_limit(name), "frame_stack": suite.frame_stack(name)}
    common = {option: known._replace(default=decided.get(option, known.default)) for option, known in COMMON.items()}
    return {**suite.options(name), **common}


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


def _differ(*pairs: tuple[Any, float]) -> bool:
    """Whether any value is not the plain number beside it. Other values are left to the checks of the wrapper."""
    return not all(type(value) in (int, float) and value == default for value, default in pairs)


def _suite(name: str) -> Suite:
    suite = suite_of(name)
    if suite is None:
        raise unknown("environment", name, environment_names())
    return suite
