"""purerl: reinforcement learning where agent and environment live on the accelerator.

Names load on first use, so that ``import purerl`` and ``purerl --help`` are immediate.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from purerl.algorithms.a2c import A2C
    from purerl.algorithms.apg import APG
    from purerl.algorithms.ddpg import DDPG
    from purerl.algorithms.discrete_sac import DiscreteSAC
    from purerl.algorithms.dqn import DQN
    from purerl.algorithms.impala import IMPALA
    from purerl.algorithms.ppo import PPO
    from purerl.algorithms.pqn import PQN
    from purerl.algorithms.reinforce import REINFORCE, Baseline
    from purerl.algorithms.sac import SAC
    from purerl.algorithms.shac import SHAC
    from purerl.algorithms.td3 import TD3
    from purerl.algorithms.trpo import TRPO
    from purerl.diagnostics import compare_gradients, diagnose
    from purerl.environments import check_env, make
    from purerl.errors import InputError
    from purerl.identification import fit_params
    from purerl.networks import CNN, MLP, ActorCritic, DeterministicPolicy
    from purerl.optimizers import Adam, AdamW, RAdam, RMSProp
    from purerl.population import Population
    from purerl.q_networks import DeterministicActorCritic, DiscreteSoftActorCritic, QNetwork, SoftActorCritic
    from purerl.recurrent import GRU, LSTM
    from purerl.rollout import evaluate
    from purerl.runner import Progress, iterate, train
    from purerl.schedules import CosineSchedule, LinearSchedule
    from purerl.types import Algorithm, Environment, Policy, TimeStep, Transition
    from purerl.value_heads import C51, ExpectedValue, QuantileRegression

_HOME = {
    "A2C": "algorithms.a2c",
    "APG": "algorithms.apg",
    "C51": "value_heads",
    "CNN": "networks",
    "DDPG": "algorithms.ddpg",
    "DQN": "algorithms.dqn",
    "IMPALA": "algorithms.impala",
    "MLP": "networks",
    "PPO": "algorithms.ppo",
    "PQN": "algorithms.pqn",
    "REINFORCE": "algorithms.reinforce",
    "SAC": "algorithms.sac",
    "SHAC": "algorithms.shac",
    "TD3": "algorithms.td3",
    "TRPO": "algorithms.trpo",
    "ActorCritic": "networks",
    "Algorithm": "types",
    "Baseline": "algorithms.reinforce",
    "DeterministicActorCritic": "q_networks",
    "DeterministicPolicy": "networks",
    "DiscreteSAC": "algorithms.discrete_sac",
    "DiscreteSoftActorCritic": "q_networks",
    "Environment": "types",
    "ExpectedValue": "value_heads",
    "GRU": "recurrent",
    "InputError": "errors",
    "LSTM": "recurrent",
    "LinearSchedule": "schedules",
    "CosineSchedule": "schedules",
    "Adam": "optimizers",
    "AdamW": "optimizers",
    "RAdam": "optimizers",
    "RMSProp": "optimizers",
    "Policy": "types",
    "Population": "population",
    "Progress": "runner",
    "QNetwork": "q_networks",
    "QuantileRegression": "value_heads",
    "SoftActorCritic": "q_networks",
    "TimeStep": "types",
    "Transition": "types",
    "check_env": "environments",
    "compare_gradients": "diagnostics",
    "diagnose": "diagnostics",
    "evaluate": "rollout",
    "fit_params": "identification",
    "iterate": "runner",
    "make": "environments",
    "train": "runner",
}

__all__ = [
    "A2C",
    "APG",
    "C51",
    "CNN",
    "DDPG",
    "DQN",
    "GRU",
    "IMPALA",
    "LSTM",
    "MLP",
    "PPO",
    "PQN",
    "REINFORCE",
    "SAC",
    "SHAC",
    "TD3",
    "TRPO",
    "ActorCritic",
    "Adam",
    "AdamW",
    "Algorithm",
    "Baseline",
    "CosineSchedule",
    "DeterministicActorCritic",
    "DeterministicPolicy",
    "DiscreteSAC",
    "DiscreteSoftActorCritic",
    "Environment",
    "ExpectedValue",
    "InputError",
    "LinearSchedule",
    "Policy",
    "Population",
    "Progress",
    "QNetwork",
    "QuantileRegression",
    "RAdam",
    "RMSProp",
    "SoftActorCritic",
    "TimeStep",
    "Transition",
    "__version__",
    "check_env",
    "compare_gradients",
    "diagnose",
    "evaluate",
    "fit_params",
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
