"""Frozen dataclasses that are pytrees.

Like `flax.struct.dataclass`, with two differences that purerl rests on:

* Rebuilding an object from its leaves does not run the constructor. JAX rebuilds pytrees with tracers, axis numbers
  and sentinels in the leaves, so a class may check its values in `__post_init__` without tripping over those.
* A field states what it means and which values are allowed, once. The check, the error message, the command-line flag,
  its help text and the docstring of the class are all made from that statement.

The `repr` of an object shows arrays by type and shape (see `purerl.description`), so an agent or a state fits a screen.
"""

import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, dataclass_transform, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from purerl import numeric
from purerl.description import describe, document
from purerl.errors import InputError

T = TypeVar("T")


def field(
    *,
    default: Any = dataclasses.MISSING,
    static: bool = False,
    shared: bool = False,
    per_shard: bool = False,
    help: str = "",
    within: str = "",
    protocol: Any = None,
) -> Any:
    """Declare a field of a `dataclass`.

    Args:
        default: value when the caller gives none; required if left out.
        static: part of the pytree's structure (hashed, fixed when compiled) and not a leaf.
        shared: of a state, the same for all members of a population, which stores it once (see `member_axes`).
        per_shard: of a state, different for each shard of an agent that is divided into shards (see `shard_axes`).
        help: one sentence for people.
        within: the interval of allowed numbers in the usual notation, such as ``"[0, 1]"`` or ``"(0, inf)"``.
        protocol: a `typing.Protocol`, checked at run time, that the value must be an instance of.
    """
    metadata = {
        "static": static,
        "shared": shared,
        "per_shard": per_shard,
        "help": help,
        "within": within,
        "protocol": protocol,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclass_transform(frozen_default=True, field_specifiers=(field, dataclasses.field))
def dataclass(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass and register it as a pytree; fields are leaves unless declared static.

    The docstring gets a list of the fields if they state their meanings and it has no such list.
    """
    if "__repr__" not in vars(cls):
        cls.__repr__ = describe  # type: ignore[assignment]
    cls = dataclasses.dataclass(frozen=True, repr=False)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    text = inspect.cleandoc(cls.__doc__ or "")
    if "Attributes:" not in text and any(f.metadata.get("help") for f in fields):
        cls.__doc__ = "\n".join([f"{text}\n\nAttributes:", *map(document, fields)])
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


def with_values(node: T, values: Mapping[str, Any]) -> T:
    """A copy of the dataclass `node` with other leaves in some fields, unchecked: values of a traced program."""
    copy = object.__new__(type(node))
    copy.__dict__.update(node.__dict__, **values)
    return copy


def wrap_functions(node: Any, *names: str) -> None:
    """Make plain functions in a dataclass that is just being constructed pytrees, which `jax.jit` accepts.

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
    """Axis of the members in each leaf of a population's `tree`, as `jax.vmap` takes it.

    Args:
        tree: a state, or anything with states in it.
        axis: for leaves with one value per member.
        shared: for leaves within fields that are declared shared.
    """
    return _by_field(tree, axis, lambda field, axis: shared if field.metadata.get("shared", False) else axis)


def shard_axes(tree: Any, own: int | None = 0, equal: int | None = None) -> Any:
    """Axis of the shards in each leaf of the `tree` of an agent that is divided into shards, as `jax.vmap` takes it.

    Environments in flight, replay memory and random keys are a shard's own. All that is learned or counted is equal.

    Args:
        tree: a state, or anything with states in it.
        own: for random keys in dataclasses, and for leaves within fields that are declared per shard, unless declared
            shared.
        equal: for all others.
    """

    def axis_of(field: dataclasses.Field, axis: int | None) -> int | None:
        if field.metadata.get("shared", False):
            return equal
        return own if field.metadata.get("per_shard", False) else axis

    def axes(node: Any) -> Any:
        if not _is_struct(node):
            return equal
        declared = _by_field(node, equal, axis_of)
        return jax.tree.map(lambda leaf, axis: own if _is_key(leaf) else axis, node, declared)

    return jax.tree.map(axes, tree, is_leaf=_is_struct)


def _by_field(tree: Any, value: Any, rule: Callable[[dataclasses.Field, Any], Any]) -> Any:
    """A tree like `tree`, whose leaves are `value` as ``rule(field, value)`` changes it in the fields above them."""

    def values(node: Any) -> Any:
        if not _is_struct(node):
            return value
        copy = object.__new__(type(node))
        for f in dataclasses.fields(node):
            child = getattr(node, f.name)
            if not f.metadata.get("static", False):
                child = _by_field(child, rule(f, value), rule)
            copy.__dict__[f.name] = child
        return copy

    return jax.tree.map(values, tree, is_leaf=_is_struct)


def _is_struct(node: Any) -> bool:
    return dataclasses.is_dataclass(node) and not isinstance(node, type)


def _is_key(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


@runtime_checkable
class BoundedSchedule(Protocol):
    """A schedule of a hyper-parameter that knows its extreme values, which are checked like numbers."""

    def extremes(self) -> tuple[Any, Any]:
        """Two values between which all others lie."""
        ...


def is_scalar(field: dataclasses.Field) -> bool:
    """Whether a field is annotated `Scalar` (possibly ``| None``): a number or a schedule."""
    return "Scalar" in _kinds(field.type)


def check_fields(node: Any) -> None:
    """Raise `InputError` unless each number in `node` has its declared type, lies in its interval and fits 32 bits.

    Looks at fields annotated ``int``, ``float``, ``bool`` or `Scalar` (possibly ``| None``), and at those that declare
    a protocol. Tracers have no value yet and pass; a concrete array must satisfy the interval in every element. `node`
    is just being constructed: numbers in fields of type ``float`` or `Scalar` become floats, which compile to one
    program however they were written (``1``, ``1.0``, ``np.float64(1)``), also where JAX computes with 64 bits; and
    plain functions in fields of type `Scalar` become pytrees.
    """
    for f in dataclasses.fields(node):
        value, within = getattr(node, f.name), f.metadata.get("within", "")
        protocol = f.metadata.get("protocol")
        if protocol is not None and (isinstance(value, type) or not isinstance(value, protocol)):
            members = ", ".join(name for name in vars(protocol) if not name.startswith("_"))
            example, got = describe(f.default, 10**6), describe(value, 10**6)
            raise InputError(f"{f.name} must be an object with {members}, like {example}, got {got}")
        if is_scalar(f) and callable(value) and not isinstance(value, type):
            wrap_functions(node, f.name)
            for extreme in value.extremes() if isinstance(value, BoundedSchedule) else ():
                check_value(f"{f.name}, scheduled,", extreme, f.type, within)
            continue
        check_value(f.name, value, f.type, within)
        if "float" in _kinds(f.type) and value is not None and not isinstance(value, Tracer):
            object.__setattr__(node, f.name, _float32(value))


def check_value(name: str, value: Any, annotation: Any, within: str) -> None:
    """Raise `InputError` unless `value` fits annotation, interval and 32 bits (see `check_fields`)."""
    kinds = _kinds(annotation)
    if not kinds & {"int", "float", "bool"} or (value is None and "None" in kinds) or isinstance(value, Tracer):
        return
    array = numeric.as_array(value)
    if "bool" in kinds:
        if array.dtype != np.bool_:
            raise InputError(f"{name} must be true or false, got {value!r}")
        return
    if "float" not in kinds and not numeric.is_whole(array):
        raise InputError(f"{name} must be a whole number, got {value!r}")
    if not numeric.is_real(array):
        alternative = " or a schedule" if "Scalar" in kinds else ""
        raise InputError(f"{name} must be a number{alternative}, got {value!r}")
    array = numeric.narrow(name, array, np.float32 if "float" in kinds else np.int32)
    if within and not inside(array, within):
        raise InputError(f"{name} must lie in {within}, got {value!r}")


def as_written(annotation: Any) -> str:
    """The text of an annotation, the same whether it is evaluated or postponed, and however `Scalar` was imported."""
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    text = re.sub(r"typing\.Annotated\[typing\.Any, 'Scalar'\]|(\w+\.)+Scalar\b", "Scalar", text)
    return re.sub(r"typing\.Optional\[Scalar\]", "Scalar | None", text)


def _kinds(annotation: Any) -> set[str]:
    """The alternatives of an annotation as written; a `Scalar` is a ``float`` too."""
    kinds = set(as_written(annotation).split(" | "))
    return kinds | {"float"} if "Scalar" in kinds else kinds


def _float32(value: Any) -> Any:
    """A Python float for one number, which takes on the width of what it meets; else an array of float32."""
    if isinstance(value, jax.Array):
        return value.astype(jnp.float32)
    array = np.asarray(value)
    return float(array) if array.ndim == 0 else array.astype(np.float32)


def inside(numbers: Any, within: str) -> bool:
    """Whether all `numbers` lie in the interval written as `within`; NaN lies in none."""
    array = np.asarray(numbers)
    if array.dtype == np.float32:  # as devices see it, to whom less than the least normal number is 0
        array = np.where(np.abs(array) < np.finfo(np.float32).tiny, np.float32(0.0), array)
    low, high = (float(bound) for bound in within[1:-1].split(","))
    above = array >= low if within[0] == "[" else array > low
    below = array <= high if within[-1] == "]" else array < high
    endless = math.isinf(high) and within[-1] == "]"
    return bool(np.all(above & below & (endless or numeric.is_whole(array) or np.isfinite(array))))
