"""The fields of algorithms and networks as flags see them."""

from __future__ import annotations

import dataclasses
from typing import Any


def annotation_of(field: dataclasses.Field) -> str:
    """The type of a field as written."""
    return field.type.__name__ if isinstance(field.type, type) else str(field.type)


def kind_of(field: dataclasses.Field) -> str | None:
    """``int``, ``float`` or ``bool``, possibly with ``" | None"``; None for fields that hold anything else."""
    annotation = annotation_of(field)
    return annotation if annotation.removesuffix(" | None") in ("int", "float", "bool") else None


def hyperparameters(algorithm: Any) -> list[dataclasses.Field]:
    """The fields of an algorithm's class that are numbers or switches, and so can be flags."""
    return [field for field in dataclasses.fields(algorithm) if kind_of(field) is not None]
