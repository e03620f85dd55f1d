"""Conversion of numbers to the 32-bit types of devices, with an `InputError` instead of wrapping or overflow."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from purerl.errors import InputError


def dtype_of(value: Any) -> np.dtype:
    """Data type in which a number or array like `value` is stored: 32 bits wide even with JAX's 64 bits enabled."""
    if isinstance(value, bool):
        return np.dtype(np.bool_)
    if isinstance(value, int):
        return np.dtype(np.int32)
    if isinstance(value, float):
        return np.dtype(np.float32)
    dtype = np.dtype(value.dtype)
    return np.dtype(f"{dtype.kind}4") if dtype.kind in "fiu" and dtype.itemsize == 8 else dtype


def fitting(what: str, value: Any, dtype: np.dtype) -> np.ndarray:
    """Array of `dtype` from a number or an array of numbers, with a check that they fit.

    Args:
        what: name of the value for messages, such as ``"gravity of CartPole-v1"``.
        value: numbers or booleans, matching `dtype`; whole numbers are accepted as floating-point numbers.
        dtype: data type to convert to.

    Raises:
        InputError: if the value is of another kind, or too large.
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
    """NumPy array of `value`; an array of None, which is not a number, if there is no such array."""
    try:
        return np.asarray(value)
    except Exception:  # ragged lists, and objects that fail when NumPy reads their entries
        return np.asarray(None)


def is_whole(array: np.ndarray) -> bool:
    """Whether all entries are integers, including Python integers too large for NumPy."""
    if array.dtype == object:
        return all(isinstance(entry, int) and not isinstance(entry, bool) for entry in array.flat)
    return jnp.issubdtype(array.dtype, jnp.integer)


def is_real(array: np.ndarray) -> bool:
    """Whether all entries are integers or floating-point numbers."""
    return is_whole(array) or jnp.issubdtype(array.dtype, jnp.floating)


def narrow(what: str, array: np.ndarray, dtype: Any) -> np.ndarray:
    """Numbers converted to `dtype`, see `fitting`; infinity and NaN stay as they are."""
    floating = jnp.issubdtype(dtype, jnp.floating)
    kind, limits = (float, jnp.finfo(dtype)) if floating else (int, jnp.iinfo(dtype))
    low, high = kind(limits.min), kind(limits.max)
    finite = is_whole(array) or np.isfinite(array)
    for bound, word, beyond in ((low, "least", array < low), (high, "most", array > high)):
        if np.any(beyond & finite):
            got = array.item() if array.ndim == 0 else array.tolist()
            raise InputError(f"{what} must be at {word} {bound:{'.8g' if floating else 'd'}}, got {got}")
    return array.astype(dtype)
