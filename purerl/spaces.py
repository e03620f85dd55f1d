"""Static descriptions of observations and actions.

Spaces are hashable and compare by value, so that two environments of the same kind share compiled programs.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Discrete:
    """The integers ``0 .. n - 1``, as int32 scalars."""

    n: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Always ``()``."""
        return ()

    @property
    def dtype(self) -> np.dtype:
        """Always int32."""
        return np.dtype(np.int32)

    def sample(self, key: jax.Array) -> jax.Array:
        """A uniformly random member."""
        return jax.random.randint(key, (), 0, self.n, jnp.int32)

    def __str__(self) -> str:
        return f"Discrete({self.n})"


@dataclasses.dataclass(frozen=True)
class Box:
    """Arrays of one shape and dtype between bounds.

    Attributes:
        shape: of one element.
        low: lower bound, one number for all or a flat tuple with one per entry; ``-inf`` where there is none.
        high: upper bound, likewise.
        dtype: of the elements.
    """

    shape: tuple[int, ...]
    low: float | tuple[float, ...] = -math.inf
    high: float | tuple[float, ...] = math.inf
    dtype: Any = np.float32

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "dtype", np.dtype(self.dtype))
        for name in ("low", "high"):
            object.__setattr__(self, name, _bound(getattr(self, name), self.shape))

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """``(low, high)`` as float32 arrays of the space's shape."""
        low, high = (
            np.broadcast_to(np.reshape(b, self.shape) if isinstance(b, tuple) else b, self.shape).astype(np.float32)
            for b in (self.low, self.high)
        )
        return low, high

    @property
    def is_bounded(self) -> bool:
        """Whether every entry has a finite lower and upper bound."""
        return bool(np.all(np.isfinite(self.bounds)))

    def from_unit(self, value: jax.Array) -> jax.Array:
        """Clip to ``[-1, 1]`` and map that onto ``[low, high]``; entries without finite bounds pass unchanged."""
        low, high = self.bounds
        finite = np.isfinite(low) & np.isfinite(high)
        safe_low, safe_high = np.where(finite, low, -1.0), np.where(finite, high, 1.0)
        share = 0.5 * (jnp.clip(value, -1.0, 1.0) + 1.0)
        # Exact at both ends; in between, rounding may step over a bound when the two are close.
        scaled = jnp.clip((1.0 - share) * safe_low + share * safe_high, safe_low, safe_high)
        return jnp.where(finite, scaled, value).astype(self.dtype)

    def sample(self, key: jax.Array) -> jax.Array:
        """Uniform between two bounds; normal around 0 where an entry has none, and to one side of a single bound."""
        uniform_key, normal_key = jax.random.split(key)
        low, high = self.bounds
        finite = np.isfinite(low) & np.isfinite(high)
        inside = self.from_unit(jax.random.uniform(uniform_key, self.shape, jnp.float32, -1.0, 1.0))
        normal = jax.random.normal(normal_key, self.shape, jnp.float32)
        above, below = np.where(np.isfinite(low), low, 0.0), np.where(np.isfinite(high), high, 0.0)
        normal = jnp.where(np.isfinite(low), above + jnp.abs(normal), normal)
        normal = jnp.where(np.isfinite(high), below - jnp.abs(normal), normal)
        return jnp.where(finite, inside, normal).astype(self.dtype)

    def __str__(self) -> str:
        low, high = (f"{min(b):g}..{max(b):g}" if isinstance(b, tuple) else f"{b:g}" for b in (self.low, self.high))
        kind = "" if self.dtype == np.float32 else f", {self.dtype.name}"
        return f"Box({list(self.shape)}, [{low}, {high}]{kind})"


Space = Discrete | Box


def _bound(bound: Any, shape: tuple[int, ...]) -> float | tuple[float, ...]:
    """One number if all entries agree, else a flat tuple; numbers too large to mean anything count as infinite."""
    array = np.asarray(bound, np.float64)
    flat = np.broadcast_to(array.reshape(shape) if array.size == math.prod(shape) else array, shape).reshape(-1)
    flat = np.where(np.abs(flat) >= 1e30, np.copysign(np.inf, flat), flat)
    if flat.size == 0 or np.all(flat == flat[0]):
        return float(flat[0]) if flat.size else 0.0
    return tuple(float(x) for x in flat)
