"""Classes named by text, such as ``"mypackage.mymodule:MyAlgorithm"``. Imports nothing heavy itself."""

from __future__ import annotations

import importlib
import os
import re
import sys
import traceback
from types import ModuleType
from typing import Any

from purerl.errors import InputError, unknown


def is_reference(name: str) -> bool:
    """Whether `name` is of the form ``"module:Class"``, and so not a name that purerl gave."""
    return re.fullmatch(r"[\w.]+:\w*", name) is not None


def load(reference: str) -> Any:
    """The class that `reference` names.

    Args:
        reference: ``"package.module:Class"``.

    Raises:
        InputError: if the module cannot be imported, has no such name, or holds something else than a class there.
    """
    found = find(reference, "class", type)
    if not isinstance(found, type):
        raise InputError(f"{reference} is a {type(found).__name__}, not a class")
    return found


def find(reference: str, what: str = "object", like: type = object) -> Any:
    """Anything that `reference` names.

    Args:
        reference: ``"package.module:name"``.
        what: it should be, for messages.
        like: type of the names that a message proposes.

    Raises:
        InputError: if the module cannot be imported or has no such name.
    """
    path, _, name = reference.partition(":")
    if not path or not name.isidentifier():
        raise InputError(f"{reference!r} must look like mypackage.mymodule:{'MyClass' if like is type else 'name'}")
    module = _module(path)
    if not hasattr(module, name):
        raise unknown(
            f"{what} in {path}", name, [key for key, value in vars(module).items() if isinstance(value, like)]
        )
    return getattr(module, name)


def missing(cls: Any, protocol: Any) -> list[str]:
    """Public members of `protocol` that `cls` has neither as an attribute nor as an annotated field."""
    declared = {name for base in cls.__mro__ for name in vars(base).get("__annotations__", ())}
    return [
        name for name in vars(protocol) if not name.startswith("_") and name not in declared and not hasattr(cls, name)
    ]


def _module(path: str) -> ModuleType:
    try:
        return importlib.import_module(path)
    except InputError:
        raise
    except Exception as error:
        # The deepest line outside of libraries is where its owner should look. A module that is not there has none.
        lines = [frame for frame in traceback.extract_tb(error.__traceback__)[1:] if not _is_library(frame.filename)]
        place = f" ({lines[-1].filename}, line {lines[-1].lineno})" if lines else ""
        if isinstance(error, ModuleNotFoundError) and not lines:
            place = f"; modules are looked for in {os.getcwd()} and where Python has its packages"
        raise InputError(f"cannot import {path}: {type(error).__name__}: {error}{place}") from error


def _is_library(file: str) -> bool:
    return file.startswith(("<", *map(os.path.realpath, (sys.prefix, sys.base_prefix))))
