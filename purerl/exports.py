"""Public names of `purerl` and where they come from: the one list of them, beside the table of algorithms.

``python -m purerl.exports`` writes it as ``purerl/__init__.pyi``, which type checkers and editors read.
"""

from __future__ import annotations

from pathlib import Path

from purerl import presets

MODULES = {
    "algorithms": "algorithms",
    "cma": "math.cma",
    "checkpoint": "training.checkpoint",
    "control": "physics.control",
    "cpu": "cpu",
    "demonstrations": "demonstrations",
    "diagnostics": "physics.diagnostics",
    "distributions": "math.distributions",
    "environments": "environments",
    "errors": "errors",
    "estimators": "estimators",
    "experience": "experience",
    "identification": "physics.identification",
    "networks": "networks",
    "optimizers": "learning.optimizers",
    "presets": "presets",
    "q_networks": "q_networks",
    "replay": "replay",
    "returns": "math.returns",
    "rollout": "rollout",
    "schedules": "learning.schedules",
    "spaces": "spaces",
    "statistics": "math.statistics",
    "struct": "struct",
    "tabular": "tabular",
    "training": "training",
    "types": "types",
    "value_heads": "layers.value_heads",
}
"""Public name of a module, as in ``purerl.spaces``, to where it is."""

_NAMES = {
    "algorithms.reinforce": ("Baseline",),
    "algorithms.td_control": ("TDRule",),
    "physics.diagnostics": ("compare_gradients", "diagnose"),
    "demonstrations.data": ("Demonstrations",),
    "demonstrations.files": ("load_demonstrations",),
    "demonstrations.recording": ("record",),
    "environments": ("check_env", "make"),
    "errors": ("InputError",),
    "physics.identification": ("fit_params",),
    "networks": ("CNN", "MLP", "ActorCritic", "DeterministicPolicy"),
    "training.population": ("Population",),
    "training.halving": ("halve",),
    "training.pbt": ("PBT",),
    "training.shards": ("Shards",),
    "q_networks": ("DeterministicActorCritic", "DiscreteSoftActorCritic", "QNetwork", "SoftActorCritic"),
    "layers.memory": ("GRU", "LSTM"),
    "replay": ("PrioritizedReplay", "Replay"),
    "rollout": ("evaluate",),
    "training.loop": ("Progress", "iterate", "train"),
    "experience.reward_models": ("RewardModel",),
    "learning.random_network_distillation": ("RandomNetworkDistillation",),
    "learning.optimizers": ("Adam", "AdamW", "RAdam", "RMSProp"),
    "learning.schedules": ("CosineSchedule", "LinearSchedule"),
    "spaces": ("Box", "Discrete"),
    "types": ("Algorithm", "Environment", "Mean", "Metrics", "Policy", "TimeStep", "Transition"),
    "layers.value_heads": ("C51", "ExpectedValue", "QuantileRegression"),
}

HOME: dict[str, str] = {
    **{name: f"purerl.{module}" for module, names in _NAMES.items() for name in names},
    **{name: module for module, _, name in (row.reference.partition(":") for row in presets.ALGORITHMS.values())},
}
"""Public name to the module that defines it: those above, and the class of every algorithm."""


def stub() -> str:
    """Text of ``purerl/__init__.pyi``, in the order that linters want."""

    modules = {name: ".".join(["purerl", *path.split(".")[:-1]]) for name, path in MODULES.items()}
    homes = {**HOME, **modules}

    def place(name: str) -> tuple[str, int, str]:
        return homes[name], 0 if name.isupper() else 1 if name[0].isupper() else 2, name

    imports = [f"from {homes[name]} import {name} as {name}" for name in sorted(homes, key=place)]
    return "\n".join(["# Written by `python -m purerl.exports`.\n", *imports, "", "__version__: str", ""])


if __name__ == "__main__":
    Path(__file__).with_name("__init__.pyi").write_text(stub())
