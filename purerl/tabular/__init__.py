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
from purerl.tabular.prediction import Trace, Trajectories, monte_carlo, sample_trajectories, td_lambda

__all__ = [
    "CELLS",
    "MOVES",
    "Rewards",
    "Solution",
    "Sweeps",
    "TabularMDP",
    "Trace",
    "Trajectories",
    "action_values",
    "as_policy",
    "deterministic_policy",
    "epsilon_greedy",
    "frozen_lake",
    "grid",
    "mdp_of",
    "monte_carlo",
    "policy_evaluation",
    "policy_iteration",
    "policy_sweeps",
    "sample_trajectories",
    "td_lambda",
    "uniform_policy",
    "value_iteration",
]
