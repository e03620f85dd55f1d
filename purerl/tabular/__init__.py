"""Finite Markov decision processes in tables: exact solutions, prediction, learning from demonstrations."""

from purerl.tabular.exact import (
    Solution,
    Sweeps,
    action_values,
    policy_evaluation,
    policy_iteration,
    policy_sweeps,
    value_iteration,
)
from purerl.tabular.frozen_lake import frozen_lake, mdp_of
from purerl.tabular.grids import CELLS, MOVES, Rewards, grid
from purerl.tabular.mdp import TabularMDP
from purerl.tabular.policies import as_policy, deterministic_policy, epsilon_greedy, uniform_policy

__all__ = [
    "CELLS",
    "MOVES",
    "Rewards",
    "Solution",
    "Sweeps",
    "TabularMDP",
    "action_values",
    "as_policy",
    "deterministic_policy",
    "epsilon_greedy",
    "frozen_lake",
    "grid",
    "mdp_of",
    "policy_evaluation",
    "policy_iteration",
    "policy_sweeps",
    "uniform_policy",
    "value_iteration",
]
