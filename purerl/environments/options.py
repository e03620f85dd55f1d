"""Options of environments: checks against the defaults, and conversion to hashable values."""

import enum
import numbers
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from purerl import numeric
from purerl.errors import InputError

Options = tuple[tuple[str, Any], ...]


class Option(NamedTuple):
    """One option of an environment.

    Attributes:
        default: a plain value. None means that the environment decides, or that it must be given.
        help: its meaning in one sentence, where it is known.
        within: interval of allowed numbers, as in `purerl.struct.field`.
        kind: ``int``, ``float``, ``bool``, or ``file`` for a text that the command line reads from a file; empty where
            the default tells.
    """

    default: Any
    help: str = ""
    within: str = ""
    kind: str = ""


COMMON = {
    "episode_length": Option(None, "time limit of an episode, in steps of the simulator"),
    "action_repeat": Option(1, "simulator steps per action; their rewards are added"),
    "keep": Option((), "indices of the entries of a vector that the agent sees; none shows all"),
    "frame_stack": Option(None, "observations that the agent sees at once"),
    "differentiable": Option(False, "require gradients through the dynamics"),
    "observation_noise": Option(0.0, "standard deviation of noise on observations, in their unit", "[0, inf)"),
    "observation_delay": Option(0, "delay of observations, in steps of the simulator", "[0, inf)"),
    "action_noise": Option(0.0, "standard deviation of noise on actions, in their unit", "[0, inf)"),
    "action_delay": Option(0, "delay of actions, in steps of the simulator", "[0, inf)"),
    "actuator_gain": Option(1.0, "output of actuators per action; below 1 for weak motors", "[0, inf)"),
    "actuator_dead_zone": Option(0.0, "actions up to this size have no effect, in their unit", "[0, inf)"),
    "actuator_lag": Option(0.0, "part of the actuators' output left after a step: exp(-dt / time constant)", "[0, 1)"),
}
"""Options that `purerl.make` takes for every environment. A suite decides a default that is None here."""


def constructor_options(environment: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> Options:
    """Sorted ``(name, value)`` pairs of the options, hashable and compared by value.

    Args:
        environment: name of the environment, for messages.
        given: options of the caller.
        defaults: default of every option; a value must be of its default's kind, ``None`` accepts any.

    Raises:
        InputError: for a value of the wrong kind, or one that is not a number, text or a list of these.
    """
    return tuple((name, _plain(f"{name} of {environment}", given[name], defaults.get(name))) for name in sorted(given))


def _plain(what: str, value: Any, default: Any) -> Any:
    if isinstance(default, enum.Enum):
        kind = type(default)
        if value not in [member.value for member in kind] and not isinstance(value, kind):
            raise InputError(f"{what} must be one of {', '.join(str(m.value) for m in kind)}, got {value!r}")
        return kind(value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple):
        if isinstance(default, tuple) and len(value) != len(default):
            raise InputError(f"{what} must have {len(default)} entries, got {value!r}")
        inner = default if isinstance(default, tuple) else (None,) * len(value)
        value = tuple(_plain(what, v, d) for v, d in zip(value, inner, strict=True))
    expected = _kind(default)
    if expected is not None and not _is(expected, value):
        raise InputError(f"{what} must be {expected}, got {value!r}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        kind = float if isinstance(default, float) else type(value)
        numeric.narrow(what, np.asarray(value), np.float32 if kind is float else np.int32)
        value = kind(value)
    if not isinstance(value, bool | numbers.Real | str | tuple | enum.Enum | None):
        raise InputError(f"{what} must be a plain value (number, text or a list of those), got {type(value).__name__}")
    return value


def _kind(default: Any) -> str | None:
    if isinstance(default, bool):
        return "true or false"
    if isinstance(default, int):
        return "a whole number"
    if isinstance(default, float):
        return "a number"
    if isinstance(default, str):
        return "text"
    if isinstance(default, tuple):
        return "a list"
    return None


def _is(kind: str, value: Any) -> bool:
    if kind == "true or false":
        return isinstance(value, bool)
    if kind == "a whole number":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "a number":
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and value == value
    return isinstance(value, str if kind == "text" else tuple)


def parameter(what: str, value: Any, default: Any) -> Any:
    """Numeric parameter as an array with the strong dtype of `default`.

    Python numbers count as float32, int32 or bool. Tracers are accepted: ``make`` works inside a transformation.

    Raises:
        InputError: if `value` is not a number of that kind, is NaN, does not fit, or has another number of axes than
            `default`.
    """
    dtype = numeric.dtype_of(default)
    if isinstance(value, Tracer):
        return jnp.asarray(value, dtype)
    array = numeric.fitting(what, value, dtype)
    if array.ndim != np.ndim(default):
        expected = "a single value" if np.ndim(default) == 0 else f"an array with {np.ndim(default)} axes"
        raise InputError(f"{what} must be {expected}, got shape {array.shape}")
    return array


def as_plain(value: Any) -> Any:
    """Plain Python value for display: numbers and tuples instead of arrays, and values of enumerations."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        value = np.asarray(value).tolist()
    return tuple(as_plain(v) for v in value) if isinstance(value, list | tuple) else value
