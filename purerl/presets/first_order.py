"""Rows of algorithms that differentiate through the dynamics, with their settings."""

from __future__ import annotations

from purerl.presets.row import Row
from purerl.presets.settings import Preset

_FIRST_ORDER = Preset(env={"differentiable": True}, total_steps=2_000_000)

_APG = _FIRST_ORDER.extended(hyperparameters={"normalize_observations": True})

_SHAC = _FIRST_ORDER.extended(hyperparameters={"normalize_observations": True})

ROWS = (
    Row(
        "apg",
        "purerl.algorithms.apg:APG",
        "continuous",
        "backpropagation of the return through differentiable dynamics",
        base=_FIRST_ORDER,
        generic=lambda env: _APG,
        tuned={
            "Pendulum-v1": _APG.extended(
                hyperparameters={"num_envs": 16, "learning_rate": 5e-3, "gamma": 0.98}, total_steps=1_000_000
            ),
            "smooth/pendulum": _APG.extended(
                hyperparameters={"num_envs": 8, "learning_rate": 5e-3, "gamma": 0.95}, total_steps=300_000
            ),
            "smooth/cartpole-swingup": _APG.extended(
                hyperparameters={"num_envs": 4, "rollout_length": 64, "learning_rate": 5e-3, "gamma": 0.95},
                total_steps=300_000,
            ),
        },
    ),
    Row(
        "shac",
        "purerl.algorithms.shac:SHAC",
        "continuous",
        "apg through a short window with a learned value at its end (Xu et al. 2022)",
        base=_FIRST_ORDER,
        # Many short windows: less goes wrong within them, at contacts most of all, and policy and value learn more
        # often.
        generic=lambda env: _SHAC.extended(hyperparameters={"rollout_length": 8, "gamma": 0.95}),
        tuned={
            # Rewards down to -16 a step: scaled, so that values are no larger than the critic can follow.
            "Pendulum-v1": _FIRST_ORDER.extended(
                hyperparameters={"num_envs": 32, "rollout_length": 16, "reward_scale": 0.1}, total_steps=600_000
            ),
            "smooth/pendulum": _SHAC.extended(
                hyperparameters={"num_envs": 8, "learning_rate": 5e-3, "gamma": 0.95, "tau": 0.2}, total_steps=300_000
            ),
            # With gamma = 0.99 the value runs ahead of a vehicle that has lost its balance, and learning diverges.
            "smooth/quadrotor": _SHAC.extended(
                hyperparameters={"num_envs": 4, "gamma": 0.95, "tau": 0.2}, total_steps=100_000
            ),
            "brax/hopper": _SHAC.extended(
                hyperparameters={"num_envs": 16}, env={"backend": "spring"}, total_steps=200_000
            ),
            "brax/reacher": _SHAC.extended(
                hyperparameters={"num_envs": 16, "rollout_length": 16, "gamma": 0.95, "tau": 0.2},
                env={"backend": "generalized"},
                total_steps=200_000,
            ),
            # Two environments make many updates of few steps; the rate must fall for them to settle.
            "smooth/cartpole-swingup": _SHAC.extended(
                hyperparameters={
                    "num_envs": 2,
                    "rollout_length": 16,
                    "num_minibatches": 2,
                    "learning_rate": 1e-2,
                    "critic_learning_rate": 4e-3,
                    "gamma": 0.95,
                    "tau": 0.1,
                },
                total_steps=32_000,
            ),
        },
    ),
)
