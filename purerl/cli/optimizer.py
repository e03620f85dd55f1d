"""The optimiser of a run as plain data: its kind and its numbers, and the object that they describe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from purerl.cli.fields import value_of
from purerl.cli.network import complete_part, kind_name, misplaced, parameters, part_class, plain_values

PART = "optimizer"


def default_optimizer(algorithm: Any) -> Any:
    """The optimiser that the class `algorithm` uses when it is given none; None if it has none of `KINDS`."""
    default = next((field.default for field in dataclasses.fields(algorithm) if field.name == PART), None)
    return None if kind_name(PART, default) is None else default


def complete_optimizer(algorithm: Any, preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Kind and numbers of an optimiser: the algorithm's defaults, a preset's instead, and then what was `given`.

    Another kind keeps those numbers of the default that it has too, such as the clipping of gradients.

    Raises:
        InputError: if something was given that this kind does not have.
    """
    default = default_optimizer(algorithm)
    if default is None:
        return {}
    kind = given.get(PART, preset.get(PART, kind_name(PART, default)))
    known = complete_part(PART, default, {**plain_values(default), **preset, PART: kind}, given)
    for name in given:
        if name not in known:
            raise misplaced(name, known)
    return {**known, **given}


def build_optimizer(algorithm: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """``{"optimizer": ...}`` for the constructor of `algorithm`; empty if it has none of `KINDS`."""
    if default_optimizer(algorithm) is None:
        return {}
    completed = complete_optimizer(algorithm, {}, values)
    cls = part_class(PART, completed[PART])
    return {PART: cls(**{field.name: value_of(field, completed[field.name]) for field in parameters(cls)})}
