"""Rows of algorithms that learn from an expert, with their settings."""

from __future__ import annotations

from purerl.presets.row import Row
from purerl.presets.settings import Preset

_GAIL = Preset(reward_model={"reward_model": "gail"}, hyperparameters={"entropy_coef": 0.0})

_GAIL_ON_PENDULUM = _GAIL.extended(
    hyperparameters={"num_envs": 16, "rollout_length": 128, "num_epochs": 10, "num_minibatches": 16, "gamma": 0.95}
)

ROWS = (
    Row(
        "bc",
        "purerl.algorithms.bc:BC",
        "discrete, continuous",
        "behaviour cloning: maximum likelihood of an expert's actions",
        base=Preset(total_steps=500_000),
    ),
    Row(
        "dagger",
        "purerl.algorithms.dagger:DAgger",
        "discrete, continuous",
        "bc on the states of the learner, labelled by the expert (Ross et al. 2011)",
        base=Preset(hyperparameters={"beta": "linear:1:0:10%"}, total_steps=51_200),
    ),
    Row(
        "gail",
        "purerl.algorithms.ppo:PPO",
        "discrete, continuous",
        "ppo on the rewards of a discriminator between expert and agent (Ho & Ermon 2016)",
        base=_GAIL,
        generic=lambda env: _GAIL,
        tuned={"Pendulum-v1": _GAIL_ON_PENDULUM},
    ),
)
