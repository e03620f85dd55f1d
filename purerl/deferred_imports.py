"""Deferred import of modules that another package imports but most programs do not need."""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType


@contextlib.contextmanager
def deferred(*names: str) -> Iterator[None]:
    """Context in which an import of one of these modules gives a placeholder, which loads the module at first use.

    The standard library's `importlib.util.LazyLoader` would load it at the next ``import`` of the same module.

    Args:
        names: full names of the modules. Modules that are already loaded stay as they are.
    """
    placeholders = {name: _placeholder(name) for name in names if name not in sys.modules}
    sys.modules.update(placeholders)
    try:
        yield
    finally:
        for name, placeholder in placeholders.items():
            if sys.modules.get(name) is placeholder:
                del sys.modules[name]


def _placeholder(name: str) -> ModuleType:
    module = ModuleType(name)
    module.__getattr__ = lambda attribute: getattr(importlib.import_module(name), attribute)  # type: ignore[method-assign]
    return module
