"""Deferred import of modules that another package imports but most programs do not need."""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any


@contextlib.contextmanager
def deferred(*names: str) -> Iterator[None]:
    """Context in which an import of one of these modules gives a placeholder, which loads the module at first use.

    The standard library's `importlib.util.LazyLoader` would load it at the next ``import`` of the same module.

    Args:
        names: full names of the modules. Modules that are already loaded stay as they are.
    """
    placeholders = {name: _placeholder(name) for name in names if name not in sys.modules}
    for name, placeholder in placeholders.items():  # a package has its modules as attributes
        package, _, module = name.rpartition(".")
        if package in placeholders:
            setattr(placeholders[package], module, placeholder)
    sys.modules.update(placeholders)
    try:
        yield
    finally:
        for name, placeholder in placeholders.items():
            if sys.modules.get(name) is placeholder:
                del sys.modules[name]


def _placeholder(name: str) -> ModuleType:
    module = ModuleType(name)

    def load(attribute: str) -> Any:
        if attribute.startswith("__"):  # the import system asks whether it is a package: not yet
            raise AttributeError(attribute)
        if sys.modules.get(name) is module:
            del sys.modules[name]
        return getattr(importlib.import_module(name), attribute)

    module.__getattr__ = load  # type: ignore[method-assign]
    return module
