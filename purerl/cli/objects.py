"""Objects that an algorithm is made of, as plain data: kind and numbers of its optimiser and of its reward model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from purerl.cli.fields import default_of, is_required, value_of
from purerl.cli.network import KINDS, complete_part, kind_name, misplaced, parameters, part_class
from purerl.errors import InputError

PREFIXES = {"optimizer": "", "reward_model": "reward_model."}
"""Field of an algorithm to the prefix of its numbers among flags."""


def default_object(algorithm: Any, part: str) -> Any:
    """The object that the class `algorithm` uses in the field `part` when it is given none; None if not of `KINDS`."""
    default = next((default_of(field) for field in dataclasses.fields(algorithm) if field.name == part), None)
    return None if kind_name(part, default) is None else default


def complete_object(algorithm: Any, part: str, preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Kind and numbers of an object: the algorithm's defaults, a preset's instead, and then those `given`.

    Another kind keeps those numbers of the default that it has too, such as the clipping of gradients.

    Raises:
        InputError: if something was given that this kind does not have.
    """
    default = default_object(algorithm, part)
    if default is None:
        return {}
    kind = given.get(part, preset.get(part, kind_name(part, default)))
    own = {field.name: getattr(default, field.name) for field in parameters(default)}
    known = complete_part(part, default, {**own, **preset, part: kind}, given)
    for name in given:
        if name not in known:
            raise misplaced(name, known, PREFIXES[part])
    return {**known, **given}


def build_object(algorithm: Any, part: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """``{part: object}`` for the constructor of `algorithm`; empty if it has none of `KINDS` there.

    Raises:
        InputError: if a number without a default is missing.
    """
    if default_object(algorithm, part) is None:
        return {}
    completed = complete_object(algorithm, part, {}, values)
    cls = part_class(part, completed[part])
    for field in parameters(cls):
        if is_required(field) and completed[field.name] is None:
            flag = f"--{PREFIXES[part]}{field.name}".replace("_", "-")
            raise InputError(f"--{part.replace('_', '-')} {completed[part]} needs {field.name}: give {flag}")
    return {part: cls(**{field.name: value_of(field, completed[field.name]) for field in parameters(cls)})}


def parameters_of(part: str, kind: str) -> dict[str, dataclasses.Field]:
    """The fields of a kind of object by the names that they have in ``--vary``."""
    return {PREFIXES[part] + field.name: field for field in parameters(part_class(part, kind))}


def kinds_with(name: str) -> tuple[str, list[str]] | None:
    """Field and kinds of the objects that have a number called `name` in ``--vary``; None if there is none."""
    for part in PREFIXES:
        kinds = [kind for kind in KINDS[part] if name in parameters_of(part, kind)]
        if kinds:
            return part, kinds
    return None
