"""Hyper-parameters that several algorithms share: meaning and range of each, specified once.

A field of an algorithm is one line: ``gamma: Scalar = hyperparameters.gamma()``. The default is the algorithm's own
choice. Numbers annotated `Scalar` may be schedules.
"""

from __future__ import annotations

from typing import Any

from purerl import struct
from purerl.experience.reward_models import EnvironmentReward, RewardModel
from purerl.learning.optimizers import Optimizer
from purerl.types import Scalar


def _size(default: int, help: str, within: str = "[1, inf)") -> Any:
    return struct.field(default=default, static=True, help=help, within=within)


def _switch(default: bool, help: str) -> Any:
    return struct.field(default=default, static=True, help=help)


# Collection


def num_envs(default: int) -> Any:
    """Environments side by side, N."""
    return _size(default, "environments stepped side by side")


def rollout_length(default: int, help: str = "steps in each environment per iteration") -> Any:
    """Steps in each environment per iteration, T."""
    return _size(default, help)


def gamma(default: float = 0.99) -> Any:
    """Discount factor."""
    return struct.field(default=default, help="discount factor per step", within="[0, 1]")


def reward_scale() -> Any:
    """Factor of rewards."""
    return struct.field(default=1.0, help="factor that multiplies rewards", within="(0, inf)")


def normalize_observations(default: bool = False) -> Any:
    """Standardised observations."""
    return _switch(default, "standardise observations by running mean and deviation, clipped to +-10")


def normalize_rewards() -> Any:
    """Scaled rewards."""
    return _switch(False, "divide rewards by the running deviation of the discounted return")


def reward_model() -> Any:
    """Rewards to learn from."""
    return struct.field(default=EnvironmentReward(), help="rewards to learn from", protocol=RewardModel)


# Optimisation


def learning_rate(default: float, of: str = "") -> Any:
    """Step size of the optimiser."""
    return struct.field(default=default, help=f"step size of the optimiser{of}", within="[0, inf)")


def critic_learning_rate(default: float | None = None) -> Any:
    """Step size for a value that learns apart from its policy."""
    return struct.field(
        default=default, help="step size of the optimiser for the critic; none: learning_rate", within="[0, inf)"
    )


def rate(own: Scalar | None, shared: Scalar) -> Scalar:
    """A learning rate of its own if there is one, else the shared one."""
    return shared if own is None else own


def optimizer(default: Optimizer) -> Any:
    """Rule for updates of parameters."""
    return struct.field(default=default, help="rule for updates of parameters", protocol=Optimizer)


def num_epochs(default: int, help: str = "passes over each batch") -> Any:
    """Passes over each batch."""
    return _size(default, help)


def num_minibatches(default: int, help: str = "updates per epoch") -> Any:
    """Updates per epoch."""
    return _size(default, help)


# Policy gradients


def gae_lambda(default: float = 0.95) -> Any:
    """Decay of advantage traces (Schulman et al. 2016)."""
    return struct.field(default=default, help="lambda of generalised advantage estimation", within="[0, 1]")


def entropy_coef(default: float) -> Any:
    """Entropy coefficient."""
    return struct.field(default=default, help="entropy coefficient: weight of the entropy bonus", within="[0, inf)")


def value_coef(default: float = 0.5) -> Any:
    """Weight of the value loss."""
    return struct.field(default=default, help="weight of the value loss", within="[0, inf)")


def normalize_advantage(default: bool, within: str) -> Any:
    """Standardised advantages."""
    return _switch(default, f"standardise advantages within each {within}")


# Values of discrete actions


def epsilon(default: Any) -> Any:
    """Share of random actions."""
    return struct.field(default=default, help="epsilon: probability of a random action", within="[0, 1]")


# Replay


def updates_per_iteration() -> Any:
    """Gradient updates per iteration."""
    return _size(1, "gradient updates per iteration")


def batch_size(default: int) -> Any:
    """Samples per update."""
    return _size(default, "samples per update")


def buffer_size(default: int) -> Any:
    """Capacity of the replay."""
    return _size(default, "capacity of the replay: newest steps to learn from", "[1, 2147483647]")


def warmup_steps(default: int) -> Any:
    """Random steps before learning begins."""
    return _size(default, "random steps before learning begins, part of the total")


def n_step() -> Any:
    """Rewards per target."""
    return _size(1, "rewards per target before it bootstraps")


def tau(default: float, of: str = "target networks", per: str = "update") -> Any:
    """Step of target networks."""
    return struct.field(
        default=default, help=f"soft update of the {of}: step size per {per}; 1 copies", within="(0, 1]"
    )


def initial_temperature(least: float, most: float) -> Any:
    """First temperature of soft actor-critics."""
    return struct.field(default=1.0, help="initial entropy coefficient (alpha)", within=f"[{least:g}, {most:g}]")


def temperature_learning_rate() -> Any:
    """Step size for the temperature of soft actor-critics."""
    return struct.field(
        default=None,
        help="step size of Adam for the entropy coefficient; none: learning_rate, 0: constant",
        within="[0, inf)",
    )


# Gradients through the dynamics


def max_step_grad_norm() -> Any:
    """Clipping of gradients between steps."""
    return struct.field(
        default=None, help="largest norm of the gradient that passes back through a step", within="(0, inf)"
    )


def rematerialize() -> Any:
    """Less memory for more computation."""
    return _switch(False, "compute steps again in the backward pass, to save memory")


# Search without gradients


def population_size(default: int, within: str = "[2, inf)") -> Any:
    """Candidates per iteration."""
    return _size(default, "candidates, vectors of parameters, per iteration", within)


def num_episodes() -> Any:
    """Episodes per evaluation of a candidate."""
    return _size(1, "episodes whose mean return is the fitness of a candidate")


def max_episode_steps() -> Any:
    """Steps that count for each episode."""
    return struct.field(
        default=None,
        static=True,
        help="environment steps counted for each episode, which ends there; none: the time limit of the environment",
        within="[1, inf)",
    )


def noise_std(default: float) -> Any:
    """Deviation of perturbed parameters."""
    return struct.field(default=default, help="standard deviation of perturbations of parameters", within="(0, inf)")
