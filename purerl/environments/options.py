"""Options of environments as people give them: checked against their defaults and made hashable."""

import enum
import numbers
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from purerl.errors import InputError

Options = tuple[tuple[str, Any], ...]

COMMON = ("episode_length", "action_repeat", "keep", "frame_stack", "differentiable")
"""What `purerl.make` takes for every environment."""


def constructor_options(environment: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> Options:
    """`given` as sorted ``(name, value)`` pairs that hash and compare by value.

    Args:
        environment: its name, for messages.
        given: what the caller asked for.
        defaults: the default of every option; a value must be of its default's kind, ``None`` accepts any.

    Raises:
        InputError: for a value of the wrong kind, or one that is no plain value.
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
    if isinstance(default, float):
        value = float(value)
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
    """A numeric parameter as a leaf: `value` with the strong dtype of `default`.

    Python numbers count as float32, int32 or bool. Tracers pass, so that ``make`` works inside a transformation.

    Raises:
        InputError: if `value` is no number of that kind, is NaN, or has another number of axes than `default`.
    """
    dtype = strong_dtype(default)
    if isinstance(value, Tracer):
        return jnp.asarray(value, dtype)
    try:
        array = np.asarray(value)
    except Exception:
        array = np.asarray(None)
    allowed = {"f": "fiu", "i": "iu", "b": "b"}.get(dtype.kind, dtype.kind)
    if array.dtype.kind not in allowed:
        kind = {"f": "a number", "i": "a whole number", "b": "true or false"}.get(dtype.kind, dtype.name)
        raise InputError(f"{what} must be {kind}, got {value!r}")
    if array.ndim != np.ndim(default):
        expected = "a single value" if np.ndim(default) == 0 else f"an array with {np.ndim(default)} axes"
        raise InputError(f"{what} must be {expected}, got shape {array.shape}")
    if dtype.kind == "f" and np.any(np.isnan(array)):
        raise InputError(f"{what} must be a number, got {value!r}")
    return array.astype(dtype)


def strong_dtype(value: Any) -> np.dtype:
    """The dtype that a parameter with the default `value` is kept in; Python numbers are 32 bits wide."""
    if isinstance(value, bool):
        return np.dtype(np.bool_)
    if isinstance(value, int):
        return np.dtype(np.int32)
    if isinstance(value, float):
        return np.dtype(np.float32)
    return np.dtype(value.dtype)


def as_plain(value: Any) -> Any:
    """`value` for people: Python numbers and tuples instead of arrays, and what an enumeration stands for."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        value = np.asarray(value).tolist()
    return tuple(as_plain(v) for v in value) if isinstance(value, list | tuple) else value
