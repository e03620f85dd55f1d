"""purerl: reinforcement learning where agent and environment live on the accelerator.

Names load on first use, so that ``import purerl`` and ``purerl --help`` are immediate. `purerl.exports` lists them.
"""

import importlib
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name.startswith("__") and name != "__all__":  # what Python asks of any module
        raise AttributeError(f"module 'purerl' has no attribute {name!r}")
    exports = importlib.import_module("purerl.exports")
    if name == "__all__":
        return sorted([*exports.HOME, *exports.MODULES])
    if name in exports.MODULES:
        return importlib.import_module(f"purerl.{exports.MODULES[name]}")
    if name not in exports.HOME:
        raise AttributeError(f"module 'purerl' has no attribute {name!r}")
    value = getattr(importlib.import_module(exports.HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __getattr__("__all__")
