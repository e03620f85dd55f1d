"""Settings that are known to learn, per algorithm and environment.

A preset says what differs from an algorithm's own defaults. ``preset("ppo", "CartPole-v1")`` is what
``purerl train ppo CartPole-v1`` uses; every value can be changed by a flag.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from purerl.errors import unknown


@dataclasses.dataclass(frozen=True)
class Preset:
    """Settings of one algorithm on one environment.

    Attributes:
        hyperparameters: fields of the algorithm that differ from its defaults.
        network: ``trunk`` (``"mlp"`` or ``"cnn"``), ``hidden_sizes``, ``channels``, ``kernel``, ``activation``,
            ``shared`` and ``squash``, as far as they differ from the network's defaults.
        env: options of the environment that differ from its defaults.
        total_steps: environment steps of one run, per member.
        anneal: whether the learning rate falls linearly to 0 over the run.
    """

    hyperparameters: dict[str, Any] = dataclasses.field(default_factory=dict)
    network: dict[str, Any] = dataclasses.field(default_factory=dict)
    env: dict[str, Any] = dataclasses.field(default_factory=dict)
    total_steps: int = 500_000
    anneal: bool = True


def preset(algorithm: str, env: str) -> Preset:
    """The settings for `algorithm` on `env`: tuned ones where there are any, else those for its kind of spaces.

    Args:
        algorithm: such as ``"ppo"``.
        env: any name that `purerl.make` knows.

    Raises:
        InputError: if either is unknown.
    """
    if algorithm not in _TUNED:
        raise unknown("algorithm", algorithm, _TUNED)
    if env in _TUNED[algorithm]:
        return _TUNED[algorithm][env]
    return _GENERIC[algorithm](env)


def _generic_ppo(env: str) -> Preset:
    """By kind of spaces, following Huang et al. 2022 ("The 37 implementation details of PPO")."""
    import purerl
    from purerl.spaces import Box

    made = purerl.make(env)
    if isinstance(made.action_space, Box):
        return Preset(
            hyperparameters={
                "num_envs": 16,
                "rollout_length": 256,
                "num_epochs": 10,
                "num_minibatches": 32,
                "learning_rate": 3e-4,
                "entropy_coef": 0.0,
                "normalize_observations": True,
                "normalize_rewards": True,
            },
            total_steps=1_000_000,
        )
    image = len(made.observation_space.shape) == 3
    return Preset(
        hyperparameters={"num_envs": 64 if image else 8, "num_minibatches": 8 if image else 4, "learning_rate": 5e-4},
        network={"trunk": "cnn"} if image else {},
        total_steps=1_000_000 if image else 500_000,
    )


_GENERIC = {"ppo": _generic_ppo}

_TUNED: dict[str, dict[str, Preset]] = {
    "ppo": {
        # CleanRL's ppo.py, which is also this algorithm's default.
        "CartPole-v1": Preset(),
        "Acrobot-v1": Preset(),
        "Pendulum-v1": Preset(
            hyperparameters={
                "num_envs": 8,
                "rollout_length": 256,
                "num_epochs": 10,
                "num_minibatches": 16,
                "learning_rate": 5e-4,
                "gamma": 0.98,
                "entropy_coef": 0.0,
                "normalize_rewards": True,
            },
            total_steps=300_000,
        ),
        # gymnax-blines.
        "Catch-bsuite": Preset(
            hyperparameters={"num_envs": 16, "rollout_length": 32, "learning_rate": 5e-4, "max_grad_norm": 1.0},
            network={"activation": "relu"},
            total_steps=100_000,
            anneal=False,
        ),
        "Breakout-MinAtar": Preset(
            hyperparameters={
                "num_envs": 64,
                "rollout_length": 128,
                "num_minibatches": 8,
                "learning_rate": 1e-3,
                "gamma": 0.999,
            },
            network={"hidden_sizes": (256, 256), "activation": "relu"},
            total_steps=1_280_000,
            anneal=False,
        ),
        # Brax scales rewards by 10 and clips no gradients; with clipping the value loss would drown the policy's.
        "brax/fast": Preset(
            hyperparameters={
                "num_envs": 64,
                "rollout_length": 8,
                "learning_rate": 2e-3,
                "gamma": 0.95,
                "entropy_coef": 0.0,
                "normalize_observations": True,
                "normalize_rewards": True,
            },
            env={"episode_length": 128},
            total_steps=32_768,
            anneal=False,
        ),
        # Once nearly every step is a success, standardising advantages would blow up what is left of them: noise.
        "brax/inverted_pendulum": Preset(
            hyperparameters={
                "num_envs": 256,
                "rollout_length": 64,
                "num_epochs": 8,
                "num_minibatches": 16,
                "learning_rate": 1e-3,
                "gae_lambda": 0.98,
                "value_clip_eps": None,
                "entropy_coef": 0.0,
                "normalize_advantage": False,
                "normalize_observations": True,
                "normalize_rewards": True,
            },
            env={"backend": "spring"},
            total_steps=2_000_000,
        ),
        "brax/ant": Preset(
            hyperparameters={
                "num_envs": 2048,
                "rollout_length": 20,
                "num_minibatches": 32,
                "learning_rate": 3e-4,
                "gamma": 0.97,
                "clip_eps": 0.3,
                "value_clip_eps": None,
                "normalize_observations": True,
                "normalize_rewards": True,
            },
            network={"hidden_sizes": (256, 256), "activation": "silu"},
            env={"backend": "spring"},
            total_steps=25_000_000,
            anneal=False,
        ),
    }
}
"""Tuned settings by algorithm and environment."""
