"""Checks of an environment against the contract, with a remedy for each mistake, before anything compiles."""

from __future__ import annotations

import dataclasses
import inspect
import traceback
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl import struct
from purerl.environments.casting import StrictTypes, strong
from purerl.errors import InputError
from purerl.spaces import Box, Discrete
from purerl.types import Array, Environment, PyTree, TimeStep

_METHODS = {"reset": ("key",), "step": ("key", "state", "action")}
_SPACES = ("observation_space", "action_space")


def check_env(env: Any, num_steps: int = 100) -> None:
    """Check an environment against the contract (see `purerl.Environment`); errors name the field and the remedy.

    Types are checked by tracing one reset and one step, which compiles nothing; `purerl.make` does the same for every
    object that it is given. Values are checked with random actions.

    Args:
        env: the environment, with any wrappers.
        num_steps: number of steps with random actions; 0 checks types only.

    Raises:
        InputError: for the first mistake found.
    """
    struct.check_value("num_steps", num_steps, int, "[0, inf)")
    check_types(env)
    if num_steps:
        _check_values(env, num_steps)


def check_types(env: Any) -> bool:
    """Type checks of `check_env`, without compiling; returns whether all dtypes are exact (no `StrictTypes` needed)."""
    _check_members(env)
    _check_pytree(env)
    name, exact = type(env).__name__, []

    def both(env: Environment, key: Array) -> None:
        reset_key, step_key, action_key = jax.random.split(key, 3)
        first = env.reset(reset_key)
        exact.append(_check_timestep(env, first, f"{name}.reset"))
        # The state as a loop would carry it.
        state = strong(first.state)
        onward = env.step(step_key, state, env.action_space.sample(action_key))
        exact.append(_check_timestep(env, onward, f"{name}.step"))
        _check_state(name, state, onward.state)

    try:
        jax.eval_shape(both, env, jax.random.key(0))
    except jax.errors.TracerArrayConversionError as error:
        raise InputError(f"{name} uses NumPy on values that JAX traces: use jax.numpy{_where(error)}") from error
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerIntegerConversionError) as error:
        raise InputError(
            f"{name} needs a concrete value where JAX traces, in `if`, `while`, `int()` or an index: use "
            f"jnp.where or jax.lax.cond, or declare the field static with struct.field(static=True){_where(error)}"
        ) from error
    return all(exact)


def _where(error: Exception) -> str:
    """File and line of the caller's code in the traceback, or an empty string."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not any(part in frame.filename for part in ("/jax/", "/purerl/"))]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""


def _check_members(env: Any) -> None:
    kind = type(env).__name__
    if isinstance(env, type):
        raise InputError(f"expected an environment, got the class {env.__name__}: make one, {env.__name__}()")
    simulator = any(cls.__module__.split(".")[0] in ("gymnax", "brax", "gymnasium", "gym") for cls in type(env).__mro__)
    missing = [member for member in (*_METHODS, *_SPACES) if not hasattr(env, member)]
    if simulator or {"reset", "step"} <= set(missing):
        raise InputError(
            f"expected an environment's name or a purerl Environment, got {kind} "
            "(environments of gymnax and Brax are made by name: register them there)"
        )
    if missing:
        raise InputError(f"{kind} has no {missing[0]}: an environment has {', '.join((*_METHODS, *_SPACES))}")
    for method, arguments in _METHODS.items():
        signature = inspect.signature(getattr(env, method))
        others = {*signature.parameters} != {*arguments}
        try:
            signature.bind(*arguments)
            fits = others or [*signature.parameters] == [*arguments]
        except TypeError:
            fits = False
        if not fits:
            raise InputError(f"{kind}.{method} must take ({', '.join(arguments)}), not {signature}")
    for member in _SPACES:
        space = getattr(env, member)
        if not isinstance(space, Box | Discrete):
            remedy = "write @property above it" if callable(space) else "use those of purerl.spaces"
            raise InputError(f"{kind}.{member} must be a Box or Discrete, got {type(space).__name__}: {remedy}")


def _check_pytree(env: Any) -> None:
    kind = type(env).__name__
    paths, _ = jax.tree_util.tree_flatten_with_path(env)
    if any(leaf is env for _, leaf in paths):
        raise InputError(f"{kind} is not a pytree, which JAX can trace: write @purerl.struct.dataclass above the class")
    for path, leaf in paths:
        if not _is_array(leaf):
            raise InputError(
                f"{kind}{jax.tree_util.keystr(path)} is a {type(leaf).__name__}, which JAX cannot trace: declare it "
                "with purerl.struct.field(static=True)"
            )
    _check_static(env)


def _check_static(node: Any) -> None:
    """Refuse static fields that are not hashable, in `node` and the environments inside it."""
    for field in dataclasses.fields(node) if dataclasses.is_dataclass(node) else ():
        value = getattr(node, field.name)
        if not field.metadata.get("static", False):
            _check_static(value)
            continue
        try:
            hash(value)
        except TypeError:
            raise InputError(
                f"{type(node).__name__}.{field.name} is static and must be hashable, got {type(value).__name__}: "
                "use a tuple"
            ) from None


def _check_timestep(env: Environment, timestep: Any, what: str) -> bool:
    """Check the fields of a time step; returns whether all dtypes are exact."""
    if not isinstance(timestep, TimeStep):
        raise InputError(f"{what} must return a purerl.TimeStep, got {type(timestep).__name__}")
    for path, leaf in jax.tree_util.tree_flatten_with_path(timestep.state)[0]:
        if not _is_array(leaf):
            raise InputError(f"{what}: state{jax.tree_util.keystr(path)} must be an array, got {type(leaf).__name__}")
    space = env.observation_space
    _check_leaf(f"{what}: obs", timestep.obs, space.shape, space.dtype, "observation_space says")
    _check_leaf(f"{what}: reward", timestep.reward, (), np.dtype(np.float32), "must be")
    for flag in ("terminated", "truncated"):
        _check_leaf(f"{what}: {flag}", getattr(timestep, flag), (), np.dtype(bool), "must be")
    leaves = jax.tree.leaves(timestep)
    return all(isinstance(leaf, jax.Array) and not jax.typeof(leaf).weak_type for leaf in leaves) and (
        (timestep.obs.dtype, timestep.reward.dtype) == (jax.dtypes.canonicalize_dtype(space.dtype), jnp.float32)
    )


def _check_leaf(what: str, value: Any, shape: tuple[int, ...], dtype: np.dtype, wanted: str) -> None:
    """Refuse a wrong shape, or a dtype whose conversion could change a value."""
    if not _is_array(value):
        remedy = {
            dict: ": join its entries into one array, say with jnp.concatenate",
            list: ": make it one with jnp.stack",
            tuple: ": make it one with jnp.stack",
        }.get(type(value), "")
        raise InputError(f"{what} must be an array, got {type(value).__name__}{remedy}")
    if np.shape(value) != shape:
        same_size = np.prod(np.shape(value)) == np.prod(shape)
        remedy = f": use .reshape({shape})" if same_size else ""
        raise InputError(f"{what} has shape {list(np.shape(value))}, {wanted} {list(shape)}{remedy}")
    given = jax.dtypes.canonicalize_dtype(jnp.result_type(value))
    dtype = np.dtype(jax.dtypes.canonicalize_dtype(dtype))
    weak = not isinstance(value, np.ndarray | np.generic) and jax.typeof(value).weak_type
    if given != dtype and not _fits(given, dtype, weak):
        remedy = "a comparison such as `done != 0`" if dtype == np.bool_ else f".astype(jnp.{dtype.name})"
        raise InputError(f"{what} is {given.name}, {wanted} {dtype.name}: use {remedy}")


def _fits(given: np.dtype, dtype: np.dtype, weak: bool) -> bool:
    """Whether values of dtype `given` can be converted to `dtype` without loss, except for floating-point rounding."""
    if jnp.issubdtype(dtype, jnp.floating):
        return given == np.bool_ or jnp.issubdtype(given, jnp.integer) or jnp.issubdtype(given, jnp.floating)
    if dtype == np.bool_:
        return False
    return given == np.bool_ or (jnp.issubdtype(given, jnp.integer) and (weak or np.can_cast(given, dtype)))


def _check_state(name: str, before: PyTree, after: PyTree) -> None:
    paths, structure = jax.tree_util.tree_flatten_with_path(before)
    if jax.tree.structure(after) != structure:
        raise InputError(
            f"{name}: state is {structure} after a reset and {jax.tree.structure(after)} after a step: return the same"
        )
    for (path, old), new in zip(paths, jax.tree.leaves(after), strict=True):
        old, new = jax.typeof(old), jax.typeof(jnp.asarray(new))
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise InputError(
                f"{name}: state{jax.tree_util.keystr(path)} is {old.str_short()} after a reset and {new.str_short()} "
                "after a step: return the same shape and dtype"
            )


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray | np.generic | bool | int | float)


def _check_values(env: Environment, num_steps: int) -> None:
    name = type(env).__name__

    def act(timestep: TimeStep, key: Array) -> tuple[TimeStep, TimeStep]:
        action_key, step_key, reset_key = jax.random.split(key, 3)
        onward = strict.step(step_key, timestep.state, env.action_space.sample(action_key))
        anew = strict.reset(reset_key)
        return jax.tree.map(lambda a, b: jnp.where(onward.done, a, b), anew, onward), onward

    strict = StrictTypes(env)
    keys = jax.random.split(jax.random.key(0), num_steps + 1)
    steps = jax.device_get(jax.jit(lambda: jax.lax.scan(act, strict.reset(keys[0]), keys[1:])[1])())
    if np.any(steps.terminated & steps.truncated):
        raise InputError(f"{name}.step: terminated and truncated at once: write truncated & ~terminated")
    for field in ("obs", "reward"):
        if not np.all(np.isfinite(np.asarray(getattr(steps, field), np.float64))):
            raise InputError(f"{name}.step: {field} is not finite after some random actions")
    space = env.observation_space
    low, high = (0.0, space.n - 1.0) if isinstance(space, Discrete) else space.bounds
    # A value at a bound, such as a cosine, may be rounded beyond it.
    slack = 1e-5 * np.maximum(1.0, np.maximum(np.abs(low), np.abs(high)))
    if np.any((steps.obs < low - slack) | (steps.obs > high + slack)):
        least, greatest = np.min(steps.obs), np.max(steps.obs)
        raise InputError(
            f"{name}.step: obs from {least:g} to {greatest:g} are outside of {space}, which observation_space "
            "declares: clip them or widen it"
        )
