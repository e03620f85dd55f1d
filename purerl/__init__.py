"""purerl: reinforcement learning where agent and environment live on the accelerator.

Names load on first use, so that ``import purerl`` and ``purerl --help`` are immediate.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from purerl.algorithms.ppo import PPO
    from purerl.environments import make
    from purerl.errors import InputError
    from purerl.networks import CNN, MLP, ActorCritic
    from purerl.population import Population
    from purerl.rollout import evaluate
    from purerl.runner import Progress, iterate, train
    from purerl.schedules import LinearDecay
    from purerl.types import Algorithm, Environment, Policy, TimeStep, Transition

_HOME = {
    "CNN": "networks",
    "MLP": "networks",
    "PPO": "algorithms.ppo",
    "ActorCritic": "networks",
    "Algorithm": "types",
    "Environment": "types",
    "InputError": "errors",
    "LinearDecay": "schedules",
    "Policy": "types",
    "Population": "population",
    "Progress": "runner",
    "TimeStep": "types",
    "Transition": "types",
    "evaluate": "rollout",
    "iterate": "runner",
    "make": "environments",
    "train": "runner",
}

__all__ = [
    "CNN",
    "MLP",
    "PPO",
    "ActorCritic",
    "Algorithm",
    "Environment",
    "InputError",
    "LinearDecay",
    "Policy",
    "Population",
    "Progress",
    "TimeStep",
    "Transition",
    "__version__",
    "evaluate",
    "iterate",
    "make",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'purerl' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"purerl.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
