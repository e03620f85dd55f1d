"""purerl's agents as they are measured; the floors use their environments and networks too."""

from typing import Any

import flax.linen as nn
from common import (
    APG,
    BUFFER_SIZE,
    CHANNELS,
    HIDDEN_SIZES,
    IMAGE_HIDDEN_SIZES,
    KERNEL,
    OFF_POLICY,
    WARMUP_STEPS,
    is_image,
    ppo_settings,
)

import purerl
from purerl.networks import CNN, MLP, DeterministicPolicy


def make_env(name, algorithm):
    options: dict[str, Any] = {"backend": "spring"} if name.startswith("brax/") else {}
    return purerl.make(name, differentiable=algorithm == "apg", **options)


def make_agent(algorithm, env_name, num_envs, iterations):
    """One agent; `iterations` are all that it will learn for, which the exploration of DQN depends on."""
    env = make_env(env_name, algorithm)
    if algorithm == "ppo":
        image = is_image(env_name)
        trunk = CNN((CHANNELS,), KERNEL, IMAGE_HIDDEN_SIZES) if image else MLP(HIDDEN_SIZES, nn.tanh)
        settings = dict(ppo_settings(env_name))
        optimizer = purerl.Adam(eps=1e-5, max_grad_norm=settings.pop("max_grad_norm"))
        network = purerl.ActorCritic(trunk=trunk)
        return purerl.PPO(env=env, network=network, num_envs=num_envs, optimizer=optimizer, **settings)
    if algorithm == "apg":
        return purerl.APG(env=env, network=DeterministicPolicy(MLP(HIDDEN_SIZES, nn.tanh)), num_envs=num_envs, **APG)
    trunk = MLP(HIDDEN_SIZES, nn.relu)
    settings = {
        **OFF_POLICY[algorithm],
        "env": env,
        "num_envs": num_envs,
        "rollout_length": 1,
        "updates_per_iteration": num_envs,
        "buffer_size": BUFFER_SIZE,
        "warmup_steps": WARMUP_STEPS,
    }
    if algorithm == "dqn":
        return purerl.DQN(
            network=purerl.QNetwork(trunk=trunk),
            double=True,
            tau=1.0,
            epsilon=purerl.LinearSchedule(1.0, 0.05, 0.1 * (WARMUP_STEPS + iterations)),
            **settings,
        )
    if algorithm == "sac":
        return purerl.SAC(network=purerl.SoftActorCritic(trunk), **settings)
    return purerl.TD3(network=purerl.DeterministicActorCritic(trunk, num_critics=2), **settings)
