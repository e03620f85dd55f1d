"""Texts about objects and fields: the `repr` of agents and states, and the docstrings of their classes."""

import dataclasses
import enum
import functools
import textwrap
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

_GLUE = "\0"  # a space at which no line is broken


def describe(value: Any, width: int = 100) -> str:
    """Text of an object for people, on one line if it fits, else indented.

    Arrays are abbreviated to type and shape, such as ``float32[4, 2]``, or ``float32(0.5)`` for a single number;
    functions to their names. Nothing else is left out.

    Args:
        value: anything; dataclasses, tuples, lists, mappings and partial functions show their parts.
        width: characters per line.
    """
    return _text(value, width, 0)


def _text(value: Any, width: int, used: int) -> str:
    """See `describe`. `used` characters are already on the first line."""
    kind = type(value)
    if isinstance(value, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
        return _array_text(value)
    if isinstance(value, functools.partial):
        parts = [("", part) for part in (value.func, *value.args)] + [(f"{k}=", v) for k, v in value.keywords.items()]
        return _enclosed(f"{kind.__name__}(", parts, ")", width, used)
    names = getattr(kind, "_fields", None)  # of a named tuple
    if names is not None:
        parts = [(f"{name}=", getattr(value, name)) for name in names]
        return _enclosed(f"{kind.__name__}(", parts, ")", width, used)
    if kind in (tuple, list):
        opening, closing = "()" if kind is tuple else "[]"
        comma = "," if kind is tuple and len(value) == 1 else ""
        return _enclosed(opening, [("", part) for part in value], comma + closing, width, used)
    if isinstance(value, Mapping):
        return _enclosed("{", [(f"{key!r}: ", part) for key, part in value.items()], "}", width, used)
    if _shows_fields(value):
        parts = [(f"{f.name}=", getattr(value, f.name)) for f in dataclasses.fields(kind) if f.repr]
        return _enclosed(f"{kind.__name__}(", parts, ")", width, used)
    if isinstance(value, enum.Enum):
        return str(value)
    return value.__name__ if callable(value) and hasattr(value, "__name__") else repr(value)


def _shows_fields(value: Any) -> bool:
    """Whether an object is a dataclass without a representation of its own."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return False
    own = vars(type(value)).get("__repr__")  # flax modules inherit theirs; that of other dataclasses has `__wrapped__`
    return own in (None, describe) or hasattr(own, "__wrapped__")


def _enclosed(opening: str, parts: list[tuple[str, Any]], closing: str, width: int, used: int) -> str:
    """Labelled parts between brackets, as many on each line as fit."""
    texts = [label + _text(part, width - 4, len(label)) for label, part in parts]
    line = opening + ", ".join(texts) + closing
    if not texts or (used + len(line) < width and "\n" not in line):
        return line
    rows = texts[:1]
    for text in texts[1:]:
        joined = f"{rows[-1]}, {text}"
        if len(joined) < width - 4 and "\n" not in joined:
            rows[-1] = joined
        else:
            rows.append(text)
    return opening + "\n" + textwrap.indent(",\n".join(rows), "    ") + "\n" + closing


def _array_text(array: Any) -> str:
    """Type and shape, or type and value of a single number that has a value here."""
    hidden = isinstance(array, Tracer | jax.ShapeDtypeStruct) or jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    if array.ndim or hidden or (isinstance(array, jax.Array) and array.is_deleted()):
        return f"{array.dtype}[{', '.join(map(str, array.shape))}]"
    return f"{array.dtype}({np.asarray(array)[()]!s})"


def document(f: dataclasses.Field) -> str:
    """Name, type, meaning, default and range of a field, as a docstring has them."""
    kind = getattr(f.type, "__name__", str(f.type))
    kind = kind.replace("Scalar | None", "number, schedule or None").replace("Scalar", "number or schedule")
    facts = ["required" if f.default is dataclasses.MISSING else f"default {describe(f.default, width=10**6)}"]
    if f.metadata.get("within"):
        facts.append(f"range {f.metadata['within']}")
    facts = [fact.replace(" ", _GLUE) if len(fact) < 60 else fact for fact in facts]
    text = f"{f.name} ({kind}): {f.metadata.get('help') or 'see its class'} ({'; '.join(facts)})"
    lines = textwrap.wrap(text, 100, initial_indent="    ", subsequent_indent=" " * 8, break_on_hyphens=False)
    return "\n".join(lines).replace(_GLUE, " ")
