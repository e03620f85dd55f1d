"""Rows of algorithms that learn from an expert, with their settings."""

from __future__ import annotations

from purerl.presets.row import Row
from purerl.presets.settings import Preset

_GAIL = Preset(reward_model={"reward_model": "gail"}, hyperparameters={"entropy_coef": 0.0}, total_steps=300_000)

# As for ppo there.
_GAIL_ON_PENDULUM = _GAIL.extended(
    hyperparameters={
        "num_envs": 8,
        "rollout_length": 256,
        "num_epochs": 10,
        "num_minibatches": 16,
        "learning_rate": 5e-4,
        "gamma": 0.98,
        "normalize_rewards": True,
    },
    total_steps=400_000,
)

ROWS = (
    Row(
        "bc",
        "purerl.algorithms.bc:BC",
        "discrete, continuous",
        "behaviour cloning: maximum likelihood of an expert's actions",
        base=Preset(total_steps=500_000),
        tuned={
            # The policy is steep where the pendulum is swung up, and takes long to fit.
            "Pendulum-v1": Preset(
                hyperparameters={"loss": "squared_error", "learning_rate": 3e-3, "normalize_observations": True},
                total_steps=2_000_000,
            )
        },
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
        tuned={"Pendulum-v1": _GAIL_ON_PENDULUM},
    ),
)
