"""Frozen dataclasses that are pytrees.

Like `flax.struct.dataclass`, with two differences that purerl rests on:

* Rebuilding an object from its leaves does not run the constructor. JAX rebuilds pytrees with tracers, axis numbers
  and sentinels in the leaves, so a class may check its values in `__post_init__` without tripping over those.
* A field states what it means and which values are allowed, once. The check, the error message, the command-line flag
  and its help text are all made from that statement.
"""

import dataclasses
import math
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from purerl.errors import InputError

T = TypeVar("T")


def field(
    *, default: Any = dataclasses.MISSING, static: bool = False, shared: bool = False, help: str = "", within: str = ""
) -> Any:
    """Declare a field of a `dataclass`.

    Args:
        default: value when the caller gives none; required if left out.
        static: part of the pytree's structure (hashed, fixed when compiled) and not a leaf.
        shared: of a state, the same for all members of a population, which stores it once (see `member_axes`).
        help: one sentence for people.
        within: the interval of allowed numbers in the usual notation, such as ``"[0, 1]"`` or ``"(0, inf)"``.
    """
    metadata = {"static": static, "shared": shared, "help": help, "within": within}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass_transform(frozen_default=True, field_specifiers=(field, dataclasses.field))
def dataclass(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass and register it as a pytree; fields are leaves unless declared static."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    static = tuple(f.name for f in fields if f.metadata.get("static", False))
    dynamic = tuple(f.name for f in fields if f.name not in static)

    def flatten(node: Any) -> tuple[tuple, tuple]:
        return tuple(getattr(node, n) for n in dynamic), tuple(getattr(node, n) for n in static)

    def flatten_with_keys(node: Any) -> tuple[tuple, tuple]:
        children, aux = flatten(node)
        return tuple((jax.tree_util.GetAttrKey(n), c) for n, c in zip(dynamic, children, strict=True)), aux

    def unflatten(aux: tuple, children: Any) -> Any:
        node = object.__new__(cls)
        node.__dict__.update(zip(dynamic, children, strict=True))
        node.__dict__.update(zip(static, aux, strict=True))
        return node

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def replace(node: T, **changes: Any) -> T:
    """A copy of the dataclass `node` with some fields changed, checked like a new one."""
    return dataclasses.replace(node, **changes)  # type: ignore[type-var]


def wrap_functions(node: Any, *names: str) -> None:
    """In a dataclass that is just being constructed, make plain functions pytrees, which `jax.jit` accepts.

    None, and callables that are pytrees already (a `Partial`, a schedule with leaves of its own), stay as they are.

    Args:
        node: the dataclass.
        names: of its fields that hold functions.
    """
    for name in names:
        function = getattr(node, name)
        if any(leaf is function for leaf in jax.tree.leaves(function)):
            object.__setattr__(node, name, jax.tree_util.Partial(function))


def member_axes(tree: Any, axis: int | None = 0, shared: int | None = None) -> Any:
    """Where each leaf of a population's `tree` keeps its members, as `jax.vmap` takes it.

    Args:
        tree: a state, or anything with states in it.
        axis: for leaves with one value per member.
        shared: for leaves within fields that are declared shared.
    """

    def is_struct(node: Any) -> bool:
        return dataclasses.is_dataclass(node) and not isinstance(node, type)

    def axes(node: Any) -> Any:
        if not is_struct(node):
            return axis
        copy = object.__new__(type(node))
        for f in dataclasses.fields(node):
            value = getattr(node, f.name)
            if not f.metadata.get("static", False):
                value = member_axes(value, shared if f.metadata.get("shared", False) else axis, shared)
            copy.__dict__[f.name] = value
        return copy

    return jax.tree.map(axes, tree, is_leaf=is_struct)


def check_fields(node: Any) -> None:
    """Raise `InputError` unless each number in `node` has its declared type and lies in its declared interval.

    Looks at fields annotated ``int``, ``float`` or ``bool`` (possibly ``| None``). Tracers have no value yet and pass;
    a concrete array must satisfy the interval in every element.
    """
    for f in dataclasses.fields(node):
        check_value(f.name, getattr(node, f.name), f.type, f.metadata.get("within", ""))


def check_value(name: str, value: Any, annotation: Any, within: str) -> None:
    """Raise `InputError` unless `value` fits the annotation and lies in the interval `within` (see `check_fields`)."""
    kinds = set((annotation.__name__ if isinstance(annotation, type) else str(annotation)).split(" | "))
    if not kinds & {"int", "float", "bool"} or (value is None and "None" in kinds) or isinstance(value, Tracer):
        return
    try:
        array = np.asarray(value)
    except Exception:
        array = np.asarray(None)
    if "bool" in kinds:
        if array.dtype != np.bool_:
            raise InputError(f"{name} must be true or false, got {value!r}")
        return
    if "float" not in kinds and not jnp.issubdtype(array.dtype, jnp.integer):
        raise InputError(f"{name} must be a whole number, got {value!r}")
    if not (jnp.issubdtype(array.dtype, jnp.integer) or jnp.issubdtype(array.dtype, jnp.floating)):
        raise InputError(f"{name} must be a number, got {value!r}")
    if within and not np.all(_inside(array, within)):
        raise InputError(f"{name} must lie in {within}, got {value!r}")


def _inside(array: np.ndarray, within: str) -> np.ndarray:
    """Which elements of `array` lie in the interval written as `within`; NaN lies in none."""
    low, high = (float(bound) for bound in within[1:-1].split(","))
    above = array >= low if within[0] == "[" else array > low
    below = array <= high if within[-1] == "]" else array < high
    return above & below & (np.isfinite(array) | (math.isinf(high) & (within[-1] == "]")))
