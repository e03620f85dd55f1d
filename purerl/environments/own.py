"""Suite of the user's own environments, named by their class: ``"mypackage.envs:MyEnv"``."""

from __future__ import annotations

import dataclasses
from typing import Any

from purerl import references, struct
from purerl.environments.casting import StrictTypes
from purerl.environments.check import check_types
from purerl.environments.options import COMMON, Option, as_plain
from purerl.environments.wrappers import TimeLimit
from purerl.errors import InputError, unknown
from purerl.types import Environment

PREFIX = ""


def names() -> list[str]:
    """Empty list: the user's environments are not registered."""
    return []


def is_known(name: str) -> bool:
    """Whether `name` has the form ``"module:Class"``; `make` checks whether the class exists."""
    return references.is_reference(name)


def make(name: str, *, episode_length: int | None = None, differentiable: bool = False, **options: Any) -> Environment:
    """Environment of a user's class, in `StrictTypes` if it returns other dtypes.

    Args:
        name: ``"module:Class"``.
        episode_length: time limit in steps; by default none.
        differentiable: ignored; the environment is used unchanged.
        options: numeric fields of the class.

    Raises:
        InputError: if there is no such class, it breaks the contract of environments, or an option does not fit.
    """
    cls, known = _environment_class(name), _fields(name)
    for option, value in options.items():
        if option not in known:
            raise unknown(f"option of {name}", option, {*known, *COMMON})
        struct.check_value(option, value, _kind(known[option]), known[option].metadata.get("within", ""))
    absent = [
        f.name for f in _all_fields(cls) if f.init and _default(f) is dataclasses.MISSING and f.name not in options
    ]
    if absent:
        raise InputError(f"{name} needs a value of {', '.join(absent)}: give one, or give the fields defaults")
    try:
        env = cls(**options)
    except TypeError as error:
        raise InputError(f"cannot make {name}: {error}") from error
    env = env if check_types(env) else StrictTypes(env)
    return env if episode_length is None else TimeLimit(env, episode_length)


def options(name: str) -> dict[str, Option]:
    """Fields of the class that are numbers or booleans, with meaning and range from `struct.field`."""
    return {
        field.name: Option(
            None if _default(field) is dataclasses.MISSING else as_plain(_default(field)),
            field.metadata.get("help", ""),
            field.metadata.get("within", ""),
            _kind(field),
        )
        for field in _fields(name).values()
    }


def time_limit(name: str) -> int | None:
    """Default time limit: None."""
    return None


def frame_stack(name: str) -> int:
    """Default number of stacked observations: 1."""
    return 1


def _environment_class(name: str) -> Any:
    cls = references.load(name)
    absent = references.missing(cls, Environment)
    if absent:
        raise InputError(f"{name} is not an environment (see purerl.Environment): it lacks {', '.join(absent)}")
    return cls


def _fields(name: str) -> dict[str, dataclasses.Field]:
    fields = _all_fields(_environment_class(name))
    return {field.name: field for field in fields if field.init and _kind(field) and field.name not in COMMON}


def _all_fields(cls: Any) -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _kind(field: dataclasses.Field) -> str:
    """Kind of a field by its annotation or default: ``bool``, ``int`` or ``float``; empty for another kind."""
    annotation = field.type.__name__ if isinstance(field.type, type) else str(field.type)
    parts = [part.strip() for part in annotation.split("|")]
    for kind in ("float", "int", "bool"):
        if kind in parts:
            return kind
    default = _default(field)
    return type(default).__name__ if type(default) in (bool, int, float) else ""
