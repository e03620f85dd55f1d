"""Rows of algorithms that learn from fresh rollouts of the current policy, with their settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from purerl.presets.row import Row
from purerl.presets.settings import Preset, is_image

if TYPE_CHECKING:
    from purerl.types import Environment

# A velocity of at most 0.07 (MountainCar) is nothing to a network, and a return of -100 too much for its first layers.
_STANDARDIZED = {"normalize_observations": True, "normalize_rewards": True}

_ACTOR_CRITIC = Preset()

_POLICY_GRADIENT = Preset()

_NPG = _POLICY_GRADIENT.extended(hyperparameters={"line_search": False})

_RND = Preset(reward_model={"reward_model": "rnd"})

_PQN = Preset(hyperparameters={"epsilon": "linear:1:0.05:20%"})


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
    if is_image(env):
        return Preset(
            hyperparameters={"num_envs": 64, "num_minibatches": 8, "learning_rate": 5e-4},
            network={"trunk": "cnn"},
            total_steps=1_000_000,
        )
    return Preset(hyperparameters={"num_envs": 8, "learning_rate": 5e-4, **_STANDARDIZED})


def _generic_actor_critic(env: Environment) -> Preset:
    """Settings for one step of policy and value per batch, which should be small."""
    from purerl.spaces import Box

    if isinstance(env.action_space, Box):
        return _ACTOR_CRITIC.extended(
            hyperparameters={
                "rollout_length": 8,
                "learning_rate": 1e-3,
                "normalize_observations": True,
                "normalize_rewards": True,
            },
            optimizer={"optimizer": "adam"},
            total_steps=1_000_000,
        )
    if is_image(env):
        return _ACTOR_CRITIC.extended(
            hyperparameters={"num_envs": 64, "entropy_coef": 0.01}, network={"trunk": "cnn"}, total_steps=1_000_000
        )
    return _ACTOR_CRITIC


def _generic_policy_gradient(env: Environment) -> Preset:
    """Settings for one step of the policy per batch, which must be large."""
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
    if is_image(env):
        return _POLICY_GRADIENT.extended(
            hyperparameters={"num_envs": 64, "num_minibatches": 32}, network={"trunk": "cnn"}, total_steps=1_000_000
        )
    return _POLICY_GRADIENT.extended(hyperparameters=_STANDARDIZED)


# PureJaxQL's pqn_minatar.yaml, the settings of the paper's MinAtar runs.
_PQN_ON_IMAGES = _PQN.extended(
    hyperparameters={
        "num_envs": 128,
        "rollout_length": 32,
        "num_epochs": 2,
        "num_minibatches": 32,
        "epsilon": "linear:1:0.05:10%",
    },
    network={"trunk": "cnn", "layer_norm": True},
    total_steps=1_000_000,
)

_POLICY_GRADIENT_ON_PENDULUM = _POLICY_GRADIENT.extended(
    hyperparameters={"num_envs": 8, "rollout_length": 256, "gamma": 0.98, "normalize_rewards": True},
    total_steps=300_000,
)

ROWS = (
    Row(
        "ppo",
        "purerl.algorithms.ppo:PPO",
        "discrete, continuous",
        "small clipped policy updates from fresh rollouts (Schulman et al. 2017)",
        generic=_generic_ppo,
        tuned={
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
                hyperparameters={"num_envs": 16, "rollout_length": 32, "learning_rate": 5e-4},
                optimizer={"max_grad_norm": 1.0},
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
    ),
    Row(
        "rnd",
        "purerl.algorithms.ppo:PPO",
        "discrete, continuous",
        "ppo with random network distillation, a bonus for rarely seen observations (Burda et al. 2018)",
        base=_RND,
        generic=lambda env: _generic_ppo(env).extended(reward_model=_RND.reward_model),
        tuned={
            "DeepSea-bsuite": _RND.extended(
                hyperparameters={
                    "num_envs": 16,
                    "rollout_length": 100,
                    "learning_rate": 1e-3,
                    # It ends at 0: with equal returns, standardised advantages are noise, which moves a solved policy.
                    "entropy_coef": "linear:0.05:0",
                },
                total_steps=600_000,
            ),
            "MountainCarContinuous-v0": _RND.extended(
                hyperparameters={
                    "num_envs": 8,
                    "rollout_length": 256,
                    "num_epochs": 10,
                    "num_minibatches": 32,
                    "learning_rate": 3e-4,
                    "entropy_coef": 0.0,
                    "normalize_observations": True,
                },
                total_steps=200_000,
            ),
        },
    ),
    Row(
        "a2c",
        "purerl.algorithms.a2c:A2C",
        "discrete, continuous",
        "one gradient step from each short rollout (Mnih et al. 2016)",
        generic=_generic_actor_critic,
        tuned={
            # RL Baselines3 Zoo, which is also this algorithm's default.
            "CartPole-v1": _ACTOR_CRITIC,
            "Pendulum-v1": _ACTOR_CRITIC.extended(
                hyperparameters={
                    "rollout_length": 8,
                    "learning_rate": 2e-3,
                    "gamma": 0.9,
                    "gae_lambda": 0.9,
                    "normalize_observations": True,
                    "normalize_rewards": True,
                },
                optimizer={"optimizer": "adam"},
                total_steps=1_000_000,
            ),
        },
    ),
    Row(
        "impala",
        "purerl.algorithms.impala:IMPALA",
        "discrete, continuous",
        "a2c from actions of older policies, with V-trace (Espeholt et al. 2018)",
        generic=_generic_actor_critic,
        tuned={"CartPole-v1": _ACTOR_CRITIC.extended(hyperparameters={"lag": 8})},
    ),
    Row(
        "reinforce",
        "purerl.algorithms.reinforce:REINFORCE",
        "discrete, continuous",
        "Monte-Carlo policy gradient with a choice of baselines (Williams 1992)",
        generic=_generic_policy_gradient,
        tuned={
            "CartPole-v1": _POLICY_GRADIENT,
            "Pendulum-v1": _POLICY_GRADIENT_ON_PENDULUM.extended(
                hyperparameters={"learning_rate": 1e-2}, total_steps=600_000
            ),
        },
    ),
    Row(
        "npg",
        "purerl.algorithms.trpo:TRPO",
        "discrete, continuous",
        "trpo without its line search: steps of a given KL divergence (Kakade 2001)",
        base=_NPG,
        generic=lambda env: _generic_policy_gradient(env).extended(hyperparameters=_NPG.hyperparameters),
        tuned={
            "CartPole-v1": _NPG,
            "Pendulum-v1": _POLICY_GRADIENT_ON_PENDULUM.extended(hyperparameters=_NPG.hyperparameters),
        },
    ),
    Row(
        "trpo",
        "purerl.algorithms.trpo:TRPO",
        "discrete, continuous",
        "natural gradient steps whose length a KL divergence limits (Schulman et al. 2015)",
        generic=_generic_policy_gradient,
        tuned={"CartPole-v1": _POLICY_GRADIENT, "Pendulum-v1": _POLICY_GRADIENT_ON_PENDULUM},
    ),
    Row(
        "pqn",
        "purerl.algorithms.pqn:PQN",
        "discrete",
        "Q-learning without replay or target network, from many environments (Gallici et al. 2024)",
        base=_PQN,
        generic=lambda env: _PQN_ON_IMAGES if is_image(env) else _PQN,
        tuned={
            "CartPole-v1": _PQN.extended(hyperparameters={"learning_rate": 1e-3}),
            "pixels/CartPole-v1": _PQN.extended(
                hyperparameters={"normalize_observations": True},
                network={"trunk": "cnn", "channels": (16, 32), "stride": 2, "layer_norm": True},
            ),
            "Breakout-MinAtar": _PQN_ON_IMAGES,
        },
    ),
)
