"""Public names of `purerl` and where they come from: the one list of them, beside the table of algorithms.

``python -m purerl.exports`` writes it as ``purerl/__init__.pyi``, which type checkers and editors read.
"""

from __future__ import annotations

from pathlib import Path

from purerl import presets

MODULES = (
    "algorithms",
    "checkpoint",
    "control",
    "cpu",
    "diagnostics",
    "distributions",
    "environments",
    "errors",
    "identification",
    "networks",
    "optimizers",
    "presets",
    "q_networks",
    "replay",
    "returns",
    "rollout",
    "runner",
    "schedules",
    "spaces",
    "statistics",
    "struct",
    "types",
    "value_heads",
)
"""Modules that are public by name, as ``purerl.spaces``."""

_NAMES = {
    "algorithms.reinforce": ("Baseline",),
    "diagnostics": ("compare_gradients", "diagnose"),
    "environments": ("check_env", "make"),
    "errors": ("InputError",),
    "identification": ("fit_params",),
    "networks": ("CNN", "MLP", "ActorCritic", "DeterministicPolicy"),
    "population": ("Population",),
    "q_networks": ("DeterministicActorCritic", "DiscreteSoftActorCritic", "QNetwork", "SoftActorCritic"),
    "recurrent": ("GRU", "LSTM"),
    "replay": ("PrioritizedReplay", "Replay"),
    "rollout": ("evaluate",),
    "runner": ("Progress", "iterate", "train"),
    "optimizers": ("Adam", "AdamW", "RAdam", "RMSProp"),
    "schedules": ("CosineSchedule", "LinearSchedule"),
    "spaces": ("Box", "Discrete"),
    "types": ("Algorithm", "Environment", "Mean", "Metrics", "Policy", "TimeStep", "Transition"),
    "value_heads": ("C51", "ExpectedValue", "QuantileRegression"),
}

HOME: dict[str, str] = {
    **{name: f"purerl.{module}" for module, names in _NAMES.items() for name in names},
    **{name: module for module, _, name in (row.reference.partition(":") for row in presets.ALGORITHMS.values())},
}
"""Public name to the module that defines it: those above, and the class of every algorithm."""


def stub() -> str:
    """What ``purerl/__init__.pyi`` has to say, in the order that linters want."""

    def place(name: str) -> tuple[str, int, str]:
        return HOME[name], 0 if name.isupper() else 1 if name[0].isupper() else 2, name

    imports = [f"from {HOME[name]} import {name} as {name}" for name in sorted(HOME, key=place)]
    modules = [f"from . import {name} as {name}" for name in MODULES]
    return "\n".join(["# Written by `python -m purerl.exports`.\n", *imports, "", *modules, "", "__version__: str", ""])


if __name__ == "__main__":
    Path(__file__).with_name("__init__.pyi").write_text(stub())
