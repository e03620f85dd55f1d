"""Rows of algorithms that learn from a replay, with their settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from purerl.presets.row import Row
from purerl.presets.settings import Preset, is_image

if TYPE_CHECKING:
    from purerl.types import Environment

_DQN = Preset(hyperparameters={"epsilon": "linear:1:0.05:50%", "priority_correction": "linear:0.4:1"}, anneal=False)

# Hessel et al. 2018, table 1: noisy layers explore in place of epsilon.
_RAINBOW = Preset(
    hyperparameters={
        "double": True,
        "n_step": 3,
        "priority_exponent": 0.5,
        "epsilon": 0.0,
        "priority_correction": "linear:0.4:1",
    },
    network={"dueling": True, "noisy": True, "head": "c51"},
    anneal=False,
)

_OFF_POLICY = Preset(anneal=False)


def _generic_rainbow(env: Environment) -> Preset:
    if is_image(env):
        return _RAINBOW_ON_IMAGES
    # Wide enough for 100 steps of a reward of 1 in either direction.
    return _RAINBOW.extended(
        optimizer={"max_grad_norm": 10.0}, network={"num_atoms": 101, "v_min": -100.0, "v_max": 100.0}
    )


# After Young & Tian 2019 ("MinAtar"), with one update for every four steps.
_IMAGES = {
    "num_envs": 16,
    "rollout_length": 4,
    "updates_per_iteration": 16,
    "batch_size": 64,
    "buffer_size": 102_400,
    "warmup_steps": 5_120,
    "learning_rate": 2.5e-4,
}

_DQN_ON_IMAGES = _DQN.extended(
    hyperparameters={**_IMAGES, "target_period": 250, "epsilon": "linear:1:0.05:10%"},
    network={"trunk": "cnn"},
    total_steps=1_000_000,
)

_RAINBOW_ON_IMAGES = _RAINBOW.extended(
    hyperparameters={**_IMAGES, "target_period": 250},
    optimizer={"max_grad_norm": 10.0},
    network={"trunk": "cnn", "num_atoms": 51, "v_min": -10.0, "v_max": 10.0},
    total_steps=1_000_000,
)

_CONTINUOUS = _OFF_POLICY.extended(
    hyperparameters={"learning_rate": 3e-4, "buffer_size": 200_000, "warmup_steps": 5_000}, total_steps=200_000
)

_DISCRETE_SAC = _OFF_POLICY.extended(
    hyperparameters={
        "num_envs": 4,
        "rollout_length": 4,
        "updates_per_iteration": 4,
        "batch_size": 128,
        "buffer_size": 50_000,
        "warmup_steps": 1_600,
        "learning_rate": 1e-3,
        "target_entropy": 0.3,
    },
)

_DISCRETE_SAC_ON_IMAGES = _OFF_POLICY.extended(hyperparameters=_IMAGES, network={"trunk": "cnn"}, total_steps=1_000_000)

_DETERMINISTIC_PENDULUM = _OFF_POLICY.extended(
    hyperparameters={"gamma": 0.98, "buffer_size": 200_000, "warmup_steps": 10_000},
    network={"hidden_sizes": (400, 300)},
    total_steps=20_000,
)

ROWS = (
    Row(
        "dqn",
        "purerl.algorithms.dqn:DQN",
        "discrete",
        "Q-learning from replay against a slow target network (Mnih et al. 2015)",
        base=_DQN,
        generic=lambda env: _DQN_ON_IMAGES if is_image(env) else _DQN.extended(optimizer={"max_grad_norm": 10.0}),
        tuned={
            # CleanRL's dqn_jax.py, which is also this algorithm's default but for the loss.
            "CartPole-v1": _DQN.extended(network={"huber_delta": None}),
            "Breakout-MinAtar": _DQN_ON_IMAGES,
        },
    ),
    Row(
        "rainbow",
        "purerl.algorithms.dqn:DQN",
        "discrete",
        "dqn with the six improvements of Hessel et al. 2018",
        base=_RAINBOW,
        generic=_generic_rainbow,
        tuned={
            # A reward of 1 per step is worth at most 1 / (1 - gamma) = 100.
            "CartPole-v1": _RAINBOW.extended(network={"num_atoms": 101, "v_min": 0.0, "v_max": 100.0}),
            "Breakout-MinAtar": _RAINBOW_ON_IMAGES,
        },
    ),
    Row(
        "ddpg",
        "purerl.algorithms.ddpg:DDPG",
        "continuous",
        "deterministic policy gradient from replay (Lillicrap et al. 2016)",
        base=_OFF_POLICY,
        generic=lambda env: _CONTINUOUS,
        tuned={"Pendulum-v1": _DETERMINISTIC_PENDULUM},
    ),
    Row(
        "td3",
        "purerl.algorithms.td3:TD3",
        "continuous",
        "ddpg with twin critics, smoothed targets and a delayed policy (Fujimoto et al. 2018)",
        base=_OFF_POLICY,
        generic=lambda env: _CONTINUOUS,
        tuned={"Pendulum-v1": _DETERMINISTIC_PENDULUM},
    ),
    Row(
        "sac",
        "purerl.algorithms.sac:SAC",
        "continuous",
        "entropy-regularised actor and twin critics from replay (Haarnoja et al. 2018)",
        base=_OFF_POLICY,
        generic=lambda env: _CONTINUOUS,
        tuned={
            # RL Baselines3 Zoo.
            "Pendulum-v1": _OFF_POLICY.extended(
                hyperparameters={"buffer_size": 50_000, "warmup_steps": 100}, total_steps=20_000
            ),
            # Brax's own test; it has no warm-up, the replay needs two rows.
            "brax/fast": _OFF_POLICY.extended(
                hyperparameters={
                    "num_envs": 64,
                    "updates_per_iteration": 64,
                    "batch_size": 64,
                    "buffer_size": 32_768,
                    "warmup_steps": 128,
                    "learning_rate": 3e-4,
                    "reward_scale": 10.0,
                    "normalize_observations": True,
                },
                env={"episode_length": 128},
                total_steps=32_768,
            ),
        },
    ),
    Row(
        "discrete_sac",
        "purerl.algorithms.discrete_sac:DiscreteSAC",
        "discrete",
        "sac with exact expectations over actions (Christodoulou 2019); use ppo where every step has a cost",
        base=_OFF_POLICY,
        generic=lambda env: _DISCRETE_SAC_ON_IMAGES if is_image(env) else _DISCRETE_SAC,
        tuned={"CartPole-v1": _DISCRETE_SAC},
    ),
)
