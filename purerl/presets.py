"""Settings that are known to learn, per algorithm and environment.

A preset says what differs from an algorithm's own defaults. ``preset("ppo", "CartPole-v1")`` is what
``purerl train ppo CartPole-v1`` uses; every value can be changed by a flag.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from purerl.errors import unknown

if TYPE_CHECKING:
    from purerl.types import Environment


@dataclasses.dataclass(frozen=True)
class Preset:
    """Settings of one algorithm on one environment.

    Attributes:
        hyperparameters: fields of the algorithm that differ from its defaults.
        shares: such fields that are a number of environment steps, as a share of the run's total steps.
        network: what differs from the algorithm's default network: kinds of its parts (``trunk`` is ``"mlp"`` or
            ``"cnn"``, ``head`` is ``"mean"``, ``"c51"`` or ``"quantile"``), and fields of parts and network.
        env: options of the environment that differ from its defaults.
        total_steps: environment steps of one run, per member.
        anneal: whether the learning rate falls linearly to 0 over the run.
    """

    hyperparameters: dict[str, Any] = dataclasses.field(default_factory=dict)
    shares: dict[str, float] = dataclasses.field(default_factory=dict)
    network: dict[str, Any] = dataclasses.field(default_factory=dict)
    env: dict[str, Any] = dataclasses.field(default_factory=dict)
    total_steps: int = 500_000
    anneal: bool = True

    def extended(self, **changes: Any) -> Preset:
        """A copy with some attributes changed; what is a mapping gets new or other entries."""
        merged = {
            name: {**getattr(self, name), **value} if isinstance(value, dict) else value
            for name, value in changes.items()
        }
        return dataclasses.replace(self, **merged)


def base(algorithm: str) -> Preset:
    """What every preset of `algorithm` starts from.

    Raises:
        InputError: if there is no such algorithm.
    """
    if algorithm not in _BASE:
        raise unknown("algorithm", algorithm, _BASE)
    return _BASE[algorithm]


def preset(algorithm: str, env: str) -> Preset:
    """The settings for `algorithm` on `env`: tuned ones where there are any, else those for its kind of spaces.

    Args:
        algorithm: such as ``"ppo"``.
        env: any name that `purerl.make` knows.

    Raises:
        InputError: if either is unknown.
    """
    base(algorithm)
    if env in _TUNED[algorithm]:
        return _TUNED[algorithm][env]
    import purerl

    return _GENERIC[algorithm](purerl.make(env))


_PPO = Preset()

_ACTOR_CRITIC = Preset()

_POLICY_GRADIENT = Preset()

_DQN = Preset(shares={"epsilon_steps": 0.5, "priority_correction_steps": 1.0}, anneal=False)

# Hessel et al. 2018, table 1: noisy layers explore in place of epsilon.
_RAINBOW = Preset(
    hyperparameters={
        "double": True,
        "n_step": 3,
        "priority_exponent": 0.5,
        "initial_epsilon": 0.0,
        "final_epsilon": 0.0,
    },
    shares={"priority_correction_steps": 1.0},
    network={"dueling": True, "noisy": True, "head": "c51"},
    anneal=False,
)

_PQN = Preset(shares={"epsilon_steps": 0.2})

_OFF_POLICY = Preset(anneal=False)

_FIRST_ORDER = Preset(env={"differentiable": True}, total_steps=2_000_000)

_BASE = {
    "ppo": _PPO,
    "a2c": _ACTOR_CRITIC,
    "impala": _ACTOR_CRITIC,
    "reinforce": _POLICY_GRADIENT,
    "npg": _POLICY_GRADIENT,
    "trpo": _POLICY_GRADIENT,
    "dqn": _DQN,
    "rainbow": _RAINBOW,
    "pqn": _PQN,
    "ddpg": _OFF_POLICY,
    "td3": _OFF_POLICY,
    "sac": _OFF_POLICY,
    "discrete_sac": _OFF_POLICY,
    "apg": _FIRST_ORDER,
    "shac": _FIRST_ORDER,
}
"""What belongs to the name of an algorithm; its other presets differ from that."""


def _is_image(env: Environment) -> bool:
    return len(env.observation_space.shape) == 3


def _generic_ppo(env: Environment) -> Preset:
    """Following Huang et al. 2022 ("The 37 implementation details of PPO")."""
    from purerl.spaces import Box

    if isinstance(env.action_space, Box):
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
    image = _is_image(env)
    return Preset(
        hyperparameters={"num_envs": 64 if image else 8, "num_minibatches": 8 if image else 4, "learning_rate": 5e-4},
        network={"trunk": "cnn"} if image else {},
        total_steps=1_000_000 if image else 500_000,
    )


def _generic_actor_critic(env: Environment) -> Preset:
    """For one step on both policy and value per batch, which should be small."""
    from purerl.spaces import Box

    if isinstance(env.action_space, Box):
        return _ACTOR_CRITIC.extended(
            hyperparameters={
                "rollout_length": 8,
                "learning_rate": 1e-3,
                "adam": True,
                "normalize_observations": True,
                "normalize_rewards": True,
            },
            total_steps=1_000_000,
        )
    if _is_image(env):
        return _ACTOR_CRITIC.extended(
            hyperparameters={"num_envs": 64, "entropy_coef": 0.01}, network={"trunk": "cnn"}, total_steps=1_000_000
        )
    return _ACTOR_CRITIC


def _generic_policy_gradient(env: Environment) -> Preset:
    """For one step of the policy per batch, which must be large."""
    from purerl.spaces import Box

    if isinstance(env.action_space, Box):
        return _POLICY_GRADIENT.extended(
            hyperparameters={
                "num_envs": 16,
                "rollout_length": 256,
                "num_minibatches": 32,
                "normalize_observations": True,
                "normalize_rewards": True,
            },
            total_steps=1_000_000,
        )
    if _is_image(env):
        return _POLICY_GRADIENT.extended(
            hyperparameters={"num_envs": 64, "num_minibatches": 32}, network={"trunk": "cnn"}, total_steps=1_000_000
        )
    return _POLICY_GRADIENT


def _generic_rainbow(env: Environment) -> Preset:
    if _is_image(env):
        return _RAINBOW_ON_IMAGES
    # Wide enough for 100 steps of a reward of 1 in either direction.
    return _RAINBOW.extended(
        hyperparameters={"max_grad_norm": 10.0}, network={"num_atoms": 101, "v_min": -100.0, "v_max": 100.0}
    )


# After Young & Tian 2019 ("MinAtar"), with one update for every four steps.
_IMAGES = {
    "num_envs": 16,
    "rollout_length": 4,
    "num_updates": 16,
    "batch_size": 64,
    "buffer_size": 102_400,
    "warmup_steps": 5_120,
    "learning_rate": 2.5e-4,
}

_DQN_ON_IMAGES = _DQN.extended(
    hyperparameters={**_IMAGES, "target_period": 250},
    shares={"epsilon_steps": 0.1},
    network={"trunk": "cnn"},
    total_steps=1_000_000,
)

_RAINBOW_ON_IMAGES = _RAINBOW.extended(
    hyperparameters={**_IMAGES, "target_period": 250, "max_grad_norm": 10.0},
    network={"trunk": "cnn", "num_atoms": 51, "v_min": -10.0, "v_max": 10.0},
    total_steps=1_000_000,
)

# PureJaxQL's pqn_minatar.yaml, the settings of the paper's MinAtar runs.
_PQN_ON_IMAGES = _PQN.extended(
    hyperparameters={
        "num_envs": 128,
        "rollout_length": 32,
        "num_epochs": 2,
        "num_minibatches": 32,
    },
    shares={"epsilon_steps": 0.1},
    network={"trunk": "cnn", "layer_norm": True},
    total_steps=1_000_000,
)


_CONTINUOUS = _OFF_POLICY.extended(
    hyperparameters={"learning_rate": 3e-4, "buffer_size": 200_000, "warmup_steps": 5_000}, total_steps=200_000
)

_DISCRETE_SAC = _OFF_POLICY.extended(
    hyperparameters={
        "num_envs": 4,
        "rollout_length": 4,
        "num_updates": 4,
        "batch_size": 128,
        "buffer_size": 50_000,
        "warmup_steps": 1_600,
        "learning_rate": 1e-3,
        "target_entropy": 0.3,
    },
)

_DISCRETE_SAC_ON_IMAGES = _OFF_POLICY.extended(hyperparameters=_IMAGES, network={"trunk": "cnn"}, total_steps=1_000_000)

_APG = _FIRST_ORDER.extended(hyperparameters={"normalize_observations": True})

_SHAC = _FIRST_ORDER.extended(hyperparameters={"normalize_observations": True})

_GENERIC = {
    "ppo": _generic_ppo,
    "a2c": _generic_actor_critic,
    "impala": _generic_actor_critic,
    "reinforce": _generic_policy_gradient,
    "npg": _generic_policy_gradient,
    "trpo": _generic_policy_gradient,
    "dqn": lambda env: _DQN_ON_IMAGES if _is_image(env) else _DQN.extended(hyperparameters={"max_grad_norm": 10.0}),
    "rainbow": _generic_rainbow,
    "pqn": lambda env: _PQN_ON_IMAGES if _is_image(env) else _PQN,
    "ddpg": lambda env: _CONTINUOUS,
    "td3": lambda env: _CONTINUOUS,
    "sac": lambda env: _CONTINUOUS,
    "discrete_sac": lambda env: _DISCRETE_SAC_ON_IMAGES if _is_image(env) else _DISCRETE_SAC,
    "apg": lambda env: _APG,
    "shac": lambda env: _SHAC,
}
"""Settings by kind of spaces. An algorithm that is not for these spaces says so itself."""

_POLICY_GRADIENT_ON_PENDULUM = _POLICY_GRADIENT.extended(
    hyperparameters={"num_envs": 8, "rollout_length": 256, "gamma": 0.98, "normalize_rewards": True},
    total_steps=300_000,
)

_DETERMINISTIC_PENDULUM = _OFF_POLICY.extended(
    hyperparameters={"gamma": 0.98, "buffer_size": 200_000, "warmup_steps": 10_000},
    network={"hidden_sizes": (400, 300)},
    total_steps=20_000,
)

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
        "smooth/cartpole-swingup": Preset(
            hyperparameters={
                "num_envs": 16,
                "rollout_length": 256,
                "num_epochs": 10,
                "num_minibatches": 32,
                "learning_rate": 3e-4,
                "gamma": 0.98,
                "entropy_coef": 0.0,
                "normalize_observations": True,
                "normalize_rewards": True,
            },
            total_steps=400_000,
        ),
        # What is asked at the end is shown at the beginning only.
        "MemoryChain-bsuite": Preset(
            hyperparameters={"num_envs": 16, "rollout_length": 64, "learning_rate": 1e-3},
            network={"memory": "gru", "memory_size": 32},
            total_steps=100_000,
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
        # Velocities are faint differences of two pictures: without standardising, only the angle is learned.
        "pixels/CartPole-v1": Preset(
            hyperparameters={
                "num_envs": 16,
                "num_minibatches": 8,
                "learning_rate": 1e-3,
                "entropy_coef": 0.0,
                "normalize_observations": True,
            },
            network={"trunk": "cnn", "channels": (16, 32), "stride": 2, "shared": True},
            total_steps=1_000_000,
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
    },
    "a2c": {
        # RL Baselines3 Zoo, which is also this algorithm's default.
        "CartPole-v1": _ACTOR_CRITIC,
        "Pendulum-v1": _ACTOR_CRITIC.extended(
            hyperparameters={
                "rollout_length": 8,
                "learning_rate": 2e-3,
                "gamma": 0.9,
                "gae_lambda": 0.9,
                "adam": True,
                "normalize_observations": True,
                "normalize_rewards": True,
            },
            total_steps=1_000_000,
        ),
    },
    "impala": {"CartPole-v1": _ACTOR_CRITIC.extended(hyperparameters={"lag": 8})},
    "reinforce": {
        "CartPole-v1": _POLICY_GRADIENT,
        "Pendulum-v1": _POLICY_GRADIENT_ON_PENDULUM.extended(
            hyperparameters={"learning_rate": 1e-2}, total_steps=600_000
        ),
    },
    "npg": {"CartPole-v1": _POLICY_GRADIENT, "Pendulum-v1": _POLICY_GRADIENT_ON_PENDULUM},
    "trpo": {"CartPole-v1": _POLICY_GRADIENT, "Pendulum-v1": _POLICY_GRADIENT_ON_PENDULUM},
    "dqn": {
        # CleanRL's dqn_jax.py, which is also this algorithm's default but for the loss.
        "CartPole-v1": _DQN.extended(network={"huber_delta": None}),
        "Breakout-MinAtar": _DQN_ON_IMAGES,
    },
    "rainbow": {
        # A reward of 1 per step is worth at most 1 / (1 - gamma) = 100.
        "CartPole-v1": _RAINBOW.extended(network={"num_atoms": 101, "v_min": 0.0, "v_max": 100.0}),
        "Breakout-MinAtar": _RAINBOW_ON_IMAGES,
    },
    "pqn": {
        "CartPole-v1": _PQN.extended(hyperparameters={"learning_rate": 1e-3}),
        "pixels/CartPole-v1": _PQN.extended(
            hyperparameters={"normalize_observations": True},
            network={"trunk": "cnn", "channels": (16, 32), "stride": 2, "layer_norm": True},
        ),
        "Breakout-MinAtar": _PQN_ON_IMAGES,
    },
    # RL Baselines3 Zoo.
    "ddpg": {"Pendulum-v1": _DETERMINISTIC_PENDULUM},
    "td3": {"Pendulum-v1": _DETERMINISTIC_PENDULUM},
    "sac": {
        # RL Baselines3 Zoo.
        "Pendulum-v1": _OFF_POLICY.extended(
            hyperparameters={"buffer_size": 50_000, "warmup_steps": 100}, total_steps=20_000
        ),
        # Brax's own test; it has no warm-up, the replay needs two rows.
        "brax/fast": _OFF_POLICY.extended(
            hyperparameters={
                "num_envs": 64,
                "num_updates": 64,
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
    "discrete_sac": {"CartPole-v1": _DISCRETE_SAC},
    "apg": {
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
    "shac": {
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
}
"""Tuned settings by algorithm and environment."""
