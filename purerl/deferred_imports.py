"""Modules that another package imports, but that few who use it need."""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any


@contextlib.contextmanager
def deferred(*names: str) -> Iterator[None]:
    """Within, importing one of these modules gives a promise of it, kept when one of its names is first looked up.

    The standard library's `importlib.util.LazyLoader` would load it at the next ``import`` of the same module.

    Args:
        names: in full. Modules that are already loaded are left as they are.
    """
    promises = {name: _promise(name) for name in names if name not in sys.modules}
    for name, promise in promises.items():  # a promised package has its promised modules
        package, _, module = name.rpartition(".")
        if package in promises:
            setattr(promises[package], module, promise)
    sys.modules.update(promises)
    try:
        yield
    finally:
        for name, promise in promises.items():
            if sys.modules.get(name) is promise:
                del sys.modules[name]


def _promise(name: str) -> ModuleType:
    module = ModuleType(name)

    def load(attribute: str) -> Any:
        if attribute.startswith("__"):  # the import system asks whether it is a package: not yet
            raise AttributeError(attribute)
        if sys.modules.get(name) is module:
            del sys.modules[name]
        return getattr(importlib.import_module(name), attribute)

    module.__getattr__ = load  # type: ignore[method-assign]
    return module
