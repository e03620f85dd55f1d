"""Finite Markov decision processes in tables: exact solutions, prediction, learning from demonstrations."""

from purerl.tabular.apprenticeship import Apprentice, apprenticeship, expected_features
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
from purerl.tabular.inverse import (
    RewardFit,
    demonstrated_features,
    expected_visits,
    max_entropy_irl,
    max_entropy_loss,
    reward_function,
    soft_value_iteration,
    with_state_reward,
)
from purerl.tabular.mdp import TabularMDP
from purerl.tabular.policies import as_policy, deterministic_policy, epsilon_greedy, uniform_policy
from purerl.tabular.prediction import Trace, Trajectories, monte_carlo, sample_trajectories, td_lambda

__all__ = [
    "CELLS",
    "MOVES",
    "Apprentice",
    "RewardFit",
    "Rewards",
    "Solution",
    "Sweeps",
    "TabularMDP",
    "Trace",
    "Trajectories",
    "action_values",
    "apprenticeship",
    "as_policy",
    "demonstrated_features",
    "deterministic_policy",
    "epsilon_greedy",
    "expected_features",
    "expected_visits",
    "frozen_lake",
    "grid",
    "max_entropy_irl",
    "max_entropy_loss",
    "mdp_of",
    "monte_carlo",
    "policy_evaluation",
    "policy_iteration",
    "policy_sweeps",
    "reward_function",
    "sample_trajectories",
    "soft_value_iteration",
    "td_lambda",
    "uniform_policy",
    "value_iteration",
    "with_state_reward",
]
