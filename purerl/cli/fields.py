"""The fields of algorithms and networks as flags see them."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

from purerl.cli import schedules, sources
from purerl.errors import unknown


def annotation_of(field: dataclasses.Field) -> str:
    """The type of a field as written."""
    from purerl.struct import as_written

    return as_written(field.type)


def kind_of(field: dataclasses.Field) -> str | None:
    """``int``, ``float``, ``bool`` or ``scalar``, a number or a schedule, possibly with ``" | None"``.

    ``str`` for a choice, and for what is loaded from a source; None for anything else.
    """
    if choices_of(field) or sources.source_of(field):
        return "str"
    annotation = annotation_of(field).replace("Scalar", "scalar")
    return annotation if annotation.removesuffix(" | None") in ("int", "float", "bool", "scalar") else None


def choices_of(field: dataclasses.Field) -> tuple[str, ...]:
    """The words for the members of the `enum.Enum` that a field holds; empty for other fields."""
    return tuple(word_of(member) for member in type(field.default)) if isinstance(field.default, enum.Enum) else ()


def word_of(value: Any) -> Any:
    """A member of an enumeration by its name, a schedule by its text, as flags and JSON have it; else as it is."""
    return value.name.lower() if isinstance(value, enum.Enum) else schedules.text_of(value) or value


def value_of(field: dataclasses.Field, word: Any) -> Any:
    """Value of a field from its word, the inverse of `word_of`.

    Raises:
        InputError: if the field has no such choice, there is no such schedule, or its source cannot be loaded.
    """
    if "scalar" in (kind_of(field) or "") and schedules.is_schedule(word):
        return schedules.build(word)
    if sources.source_of(field):
        return sources.load(field, word)
    if not isinstance(field.default, enum.Enum):
        return word
    members = {word_of(member): member for member in type(field.default)}
    if word not in members:
        raise unknown(f"{field.name} value", str(word), members)
    return members[word]


def help_of(field: dataclasses.Field) -> str:
    """The meaning of a field in one sentence; empty where its class does not say (see `purerl.struct.field`)."""
    return field.metadata.get("help", "")


def within_of(field: dataclasses.Field) -> str:
    """The interval of allowed numbers; empty where its class does not say."""
    return field.metadata.get("within", "")


def default_of(field: dataclasses.Field) -> Any:
    """The default of a field; None where it must be given."""
    if field.default is not dataclasses.MISSING:
        return field.default
    return None if field.default_factory is dataclasses.MISSING else field.default_factory()


def is_required(field: dataclasses.Field) -> bool:
    """Whether a field has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def plain_defaults(algorithm: Any) -> dict[str, Any]:
    """Names and defaults of hyper-parameters, as words; without those that have none, or one that no word describes."""
    fields = [field for field in hyperparameters(algorithm) if not is_required(field)]
    words = {field.name: word_of(default_of(field)) for field in fields}
    return {name: word for name, word in words.items() if not callable(word)}


def hyperparameters(algorithm: Any) -> list[dataclasses.Field]:
    """The fields of an algorithm's class that are numbers, switches or choices, and so can be flags."""
    return [field for field in dataclasses.fields(algorithm) if field.init and kind_of(field) is not None]
