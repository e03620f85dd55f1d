"""Dotted paths into agents and environments, such as ``env.params.gravity``: fields of objects, entries of mappings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from purerl import struct
from purerl.errors import InputError, unknown


def number_at(node: Any, name: str) -> Any:
    """Number or array at the path `name` in `node`; 0.0 for one that is None, which may be any number.

    Raises:
        InputError: if there is nothing of that name, or something else.
    """
    value = node
    for head in name.split("."):
        value = _entries(value, head, name)[head]
    if value is None:
        return 0.0
    if not isinstance(value, bool | int | float | np.ndarray | np.generic | jax.Array):
        raise InputError(f"{name!r} is no number but a {type(value).__name__} and cannot vary")
    return value


def replaced(node: Any, name: str, value: Any) -> Any:
    """A copy of `node` with what is at the path `name` replaced; every object on the way checks itself anew.

    Raises:
        InputError: if there is nothing of that name, or an object does not accept the value.
    """
    return _replaced(node, name.split("."), value, name)


def _replaced(node: Any, path: list[str], value: Any, name: str) -> Any:
    head, *rest = path
    entries = _entries(node, head, name)
    if rest:
        value = _replaced(entries[head], rest, value, name)
    return {**entries, head: value} if isinstance(node, Mapping) else struct.replace(node, **{head: value})


def _entries(node: Any, wanted: str, name: str) -> dict[str, Any]:
    """Fields or dictionary entries of `node`; `InputError` unless `wanted` is one that may vary."""
    fields = {f.name: f for f in dataclasses.fields(node)} if dataclasses.is_dataclass(node) else {}
    entries = dict(node) if isinstance(node, Mapping) else {field: getattr(node, field) for field in fields}
    if isinstance(node, int | float):
        raise InputError(f"{name!r}: there is no {wanted!r} of {node!r}, which is a number and no schedule")
    if wanted not in entries:
        # A parameter of a simulator is one level further down.
        below = [f"{entry}.{field}" for entry, value in entries.items() for field in getattr(value, "__dict__", ())]
        raise unknown(f"entry of {type(node).__name__} in {name!r}:", wanted, [*entries, *below])
    if wanted in fields and fields[wanted].metadata.get("static", False):
        raise InputError(f"{name!r} shapes the compiled program and cannot vary within one population")
    return entries
