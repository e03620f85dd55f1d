"""Numbers as devices hold them, 32 bits wide: the right value or an `InputError`, none that wrapped or overflowed."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from purerl.errors import InputError


def dtype_of(value: Any) -> np.dtype:
    """The dtype that a number or an array like `value` is kept in, 32 bits wide also where JAX knows 64."""
    if isinstance(value, bool):
        return np.dtype(np.bool_)
    if isinstance(value, int):
        return np.dtype(np.int32)
    if isinstance(value, float):
        return np.dtype(np.float32)
    dtype = np.dtype(value.dtype)
    return np.dtype(f"{dtype.kind}4") if dtype.kind in "fiu" and dtype.itemsize == 8 else dtype


def fitting(what: str, value: Any, dtype: np.dtype) -> np.ndarray:
    """`value`, a number or an array of numbers, in `dtype`.

    Args:
        what: for messages, such as ``"gravity of CartPole-v1"``.
        value: numbers or booleans as `dtype` asks for; whole numbers are floating-point numbers too.
        dtype: what to convert to.

    Raises:
        InputError: if it is of another kind, or too large.
    """
    array = as_array(value)
    if dtype.kind in "iu" and not is_whole(array):
        raise InputError(f"{what} must be a whole number, got {value!r}")
    if dtype.kind == "f" and (not is_real(array) or np.any(array != array)):  # NaN alone differs from itself
        raise InputError(f"{what} must be a number, got {value!r}")
    if dtype.kind in "fiu":
        return narrow(what, array, dtype)
    if array.dtype.kind != dtype.kind:
        raise InputError(f"{what} must be {'true or false' if dtype.kind == 'b' else dtype.name}, got {value!r}")
    return array.astype(dtype)


def as_array(value: Any) -> np.ndarray:
    """`value` as NumPy sees it; what is no array becomes one of None, which is no number."""
    try:
        return np.asarray(value)
    except Exception:  # ragged lists, and whatever an unknown object does when it is asked for its entries
        return np.asarray(None)


def is_whole(array: np.ndarray) -> bool:
    """Whether these are integers, be they larger than any that NumPy knows."""
    if array.dtype == object:
        return all(isinstance(entry, int) and not isinstance(entry, bool) for entry in array.flat)
    return jnp.issubdtype(array.dtype, jnp.integer)


def is_real(array: np.ndarray) -> bool:
    """Whether these are integers or floating-point numbers."""
    return is_whole(array) or jnp.issubdtype(array.dtype, jnp.floating)


def narrow(what: str, array: np.ndarray, dtype: Any) -> np.ndarray:
    """`array` of numbers in `dtype`, see `fitting`; infinity and NaN stay what they are."""
    floating = jnp.issubdtype(dtype, jnp.floating)
    kind, limits = (float, jnp.finfo(dtype)) if floating else (int, jnp.iinfo(dtype))
    low, high = kind(limits.min), kind(limits.max)
    finite = is_whole(array) or np.isfinite(array)
    for bound, word, beyond in ((low, "least", array < low), (high, "most", array > high)):
        if np.any(beyond & finite):
            got = array.item() if array.ndim == 0 else array.tolist()
            raise InputError(f"{what} must be at {word} {bound:{'.8g' if floating else 'd'}}, got {got}")
    return array.astype(dtype)
