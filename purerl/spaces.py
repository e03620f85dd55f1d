"""Spaces of observations and actions: `Discrete` and `Box`.

Spaces are hashable and compare by value, so that two environments of the same kind share compiled programs.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from purerl.errors import InputError


@dataclasses.dataclass(frozen=True)
class Discrete:
    """Space of the integers ``0 .. n - 1``, as int32 scalars.

    Attributes:
        n: number of elements, at least 1.
    """

    n: int

    def __post_init__(self) -> None:
        whole = isinstance(self.n, int | np.integer) and not isinstance(self.n, bool)
        if not whole or not 1 <= self.n < 2**31:
            raise InputError(f"n of Discrete must be a whole number in [1, {2**31 - 1}], got {self.n!r}")
        object.__setattr__(self, "n", int(self.n))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an element: always ``()``."""
        return ()

    @property
    def dtype(self) -> np.dtype:
        """Data type of an element: always int32."""
        return np.dtype(np.int32)

    def sample(self, key: jax.Array) -> jax.Array:
        """Uniformly random element."""
        return jax.random.randint(key, (), 0, self.n, jnp.int32)

    def __str__(self) -> str:
        return f"Discrete({self.n})"


@dataclasses.dataclass(frozen=True)
class Box:
    """Space of arrays of one shape and dtype between inclusive bounds.

    Integers of up to 16 bits have the bounds of their dtype by default. Bounds of integers are rounded inwards, which
    does not change the set of integers between them.

    Attributes:
        shape: shape of an element.
        low: lower bound, one number for all entries or a flat tuple with one per entry; ``-inf`` for no bound.
        high: upper bound, likewise; ``inf`` for no bound.
        dtype: data type of an element.

    Raises:
        InputError: for a shape with negative axes, a bound of another shape or NaN, or an entry with no value between
            its bounds.
    """

    shape: tuple[int, ...]
    low: float | tuple[float, ...] = -math.inf
    high: float | tuple[float, ...] = math.inf
    dtype: Any = np.float32

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", _shape(self.shape))
        object.__setattr__(self, "dtype", _dtype(self.dtype))
        low, high = (_bound(name, getattr(self, name), self.shape) for name in ("low", "high"))
        if not self.is_continuous:
            least, greatest = _range(self.dtype)
            low, high = np.maximum(np.ceil(low), least), np.minimum(np.floor(high), greatest)
        # Compared in float32, in which they are used: a bound beyond float32 is infinite, and leaves no value.
        empty = (low.astype(np.float32) > high.astype(np.float32)) | (low == np.inf) | (high == -np.inf)
        if np.any(empty):
            raise InputError(f"low of a Box must not exceed high, got {self.low!r} and {self.high!r}")
        object.__setattr__(self, "low", _compact(low))
        object.__setattr__(self, "high", _compact(high))

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds ``(low, high)`` as float32 arrays of the space's shape."""
        low, high = (
            np.broadcast_to(np.reshape(b, self.shape) if isinstance(b, tuple) else b, self.shape).astype(np.float32)
            for b in (self.low, self.high)
        )
        return low, high

    @property
    def is_bounded(self) -> bool:
        """Whether every entry has a finite lower and upper bound."""
        return bool(np.all(np.isfinite(self.bounds)))

    @property
    def is_continuous(self) -> bool:
        """Whether the elements are floating-point numbers, not integers or booleans."""
        return bool(jnp.issubdtype(self.dtype, jnp.floating))

    @property
    def greatest(self) -> float:
        """Divisor of observations: the upper bound for pictures (integers from 0 to 255 or more); otherwise 1."""
        if self.is_continuous or self.low != 0.0 or isinstance(self.high, tuple):
            return 1.0
        return self.high if 255.0 <= self.high < math.inf else 1.0

    def from_unit(self, value: jax.Array) -> jax.Array:
        """Element for numbers in ``[-1, 1]``, mapped linearly onto ``[low, high]``; values outside are clipped.

        An entry with only a lower bound maps -1 to it and increases with slope 1 from there; one with only an upper
        bound maps 1 to it. An entry without bounds is unchanged. Each integer has an equal part of ``[-1, 1]``.
        """
        low, high = self.bounds
        has_low, has_high = np.isfinite(low), np.isfinite(high)
        least, greatest = np.where(has_low, np.float32(-1.0), low), np.where(has_high, np.float32(1.0), high)
        value = jnp.clip(value, least, greatest)
        # Integers are rounded down below: the greatest one needs the interval [high, high + 1).
        end = high if self.is_continuous else high + 1.0
        # A missing bound is replaced by the point that makes the slope 1; nothing was clipped on that side.
        from_value = np.where(has_low, low, np.where(has_high, end - 2.0, -1.0))
        to_value = np.where(has_high, end, np.where(has_low, low + 2.0, 1.0))
        share = 0.5 * (value + 1.0)
        scaled = jnp.where(has_low | has_high, (1.0 - share) * from_value + share * to_value, value)
        scaled = scaled if self.is_continuous else jnp.floor(scaled)
        # Exact at both ends; in between, rounding may exceed a bound when the two are close.
        return jnp.clip(scaled, low, high).astype(self.dtype)

    def to_unit(self, element: jax.Array) -> jax.Array:
        """Numbers in ``[-1, 1]`` that `from_unit` maps to `element`, float32.

        Entries with a single bound, or with none, are not limited to ``[-1, 1]`` on their open side. An integer is
        mapped to the middle of its part of ``[-1, 1]``.
        """
        low, high = self.bounds
        has_low, has_high = np.isfinite(low), np.isfinite(high)
        end, value = high, jnp.asarray(element, jnp.float32)
        if not self.is_continuous:
            end, value = high + 1.0, value + 0.5
        from_value = np.where(has_low, low, np.where(has_high, end - 2.0, -1.0))
        to_value = np.where(has_high, end, np.where(has_low, low + 2.0, 1.0))
        width = np.maximum(to_value - from_value, np.finfo(np.float32).tiny)
        scaled = 2.0 * ((value - from_value) / width) - 1.0
        scaled = jnp.clip(scaled, np.where(has_low, np.float32(-1.0), -np.inf), np.where(has_high, 1.0, np.inf))
        return jnp.where(has_low | has_high, scaled, value).astype(jnp.float32)

    def sample(self, key: jax.Array) -> jax.Array:
        """Random element: uniform between two bounds, half-normal from a single bound, normal without bounds."""
        uniform_key, normal_key = jax.random.split(key)
        low, high = self.bounds
        has_low, has_high = np.isfinite(low), np.isfinite(high)
        inside = self.from_unit(jax.random.uniform(uniform_key, self.shape, jnp.float32, -1.0, 1.0))
        normal = jax.random.normal(normal_key, self.shape, jnp.float32)
        normal = jnp.where(has_low, np.where(has_low, low, 0.0) + jnp.abs(normal), normal)
        normal = jnp.where(has_high, np.where(has_high, high, 0.0) - jnp.abs(normal), normal)
        normal = normal if self.is_continuous else jnp.round(normal)
        return jnp.where(has_low & has_high, inside, jnp.clip(normal, low, high).astype(self.dtype))

    def __str__(self) -> str:
        low, high = (f"{min(b):g}..{max(b):g}" if isinstance(b, tuple) else f"{b:g}" for b in (self.low, self.high))
        kind = "" if self.dtype == np.float32 else f", {self.dtype.name}"
        return f"Box({list(self.shape)}, [{low}, {high}]{kind})"


Space = Discrete | Box


def _shape(shape: Any) -> tuple[int, ...]:
    try:
        sizes = tuple(int(n) for n in shape)
    except (TypeError, ValueError):
        sizes = (-1,)
    if any(n < 0 for n in sizes):
        raise InputError(f"shape of a Box must be a tuple of whole numbers such as (3,), got {shape!r}")
    return sizes


def _dtype(dtype: Any) -> np.dtype:
    try:
        checked = np.dtype(dtype)
    except TypeError:
        checked = np.dtype(object)
    if not any(jnp.issubdtype(checked, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_)):
        raise InputError(f"dtype of a Box must be of floating-point numbers, integers or booleans, got {dtype!r}")
    return checked


def _bound(name: str, bound: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Flat array with one bound per entry; numbers of size 1e30 or more count as infinite."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(bound)):
        raise InputError(f"{name} of a Box must be known before JAX traces: make it with numpy instead of jax.numpy")
    try:
        array = np.asarray(bound, np.float64)
        array = array.reshape(shape) if array.size == math.prod(shape) else array
        flat = np.broadcast_to(array, shape).reshape(-1)
    except (TypeError, ValueError):
        raise InputError(f"{name} of a Box of shape {shape} must be a number or one per entry, got {bound!r}") from None
    if np.any(np.isnan(flat)):
        raise InputError(f"{name} of a Box must not be NaN, got {bound!r}")
    return np.where(np.abs(flat) >= 1e30, np.copysign(np.inf, flat), flat)


def _range(dtype: np.dtype) -> tuple[float, float]:
    """Bounds of an integer dtype; infinite if they are not exact in float32, in which actions are computed."""
    if dtype == np.bool_:
        return 0.0, 1.0
    info = jnp.iinfo(dtype)
    if info.bits <= 16:
        return float(info.min), float(info.max)
    return 0.0 if info.min == 0 else -math.inf, math.inf


def _compact(flat: np.ndarray) -> float | tuple[float, ...]:
    """One number if all entries are equal, else a tuple."""
    if flat.size == 0 or np.all(flat == flat[0]):
        return float(flat[0]) if flat.size else 0.0
    return tuple(float(x) for x in flat)
