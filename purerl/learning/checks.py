"""Checks that several algorithms make when they are constructed, before anything compiles."""

from __future__ import annotations

from typing import Any

import jax

from purerl.description import describe
from purerl.errors import InputError
from purerl.experience.preprocessing import zero_input
from purerl.spaces import Box, Discrete
from purerl.types import Environment


def check_discrete(algorithm: str, env: Any, instead: str) -> None:
    """Raise `InputError` unless `env` is an environment with discrete actions.

    Args:
        algorithm: name, for the message.
        env: what was given as the environment.
        instead: names of algorithms for other actions.
    """
    check_environment(env)
    if not isinstance(env.action_space, Discrete):
        raise InputError(f"{algorithm} needs discrete actions, got {env.action_space}: use {instead}")


def check_discrete_observations(algorithm: str, env: Environment, instead: str) -> None:
    """Raise `InputError` unless the observations of `env` are numbers of states.

    Args:
        algorithm: name, for the message.
        env: an environment.
        instead: names of algorithms for other observations.
    """
    if not isinstance(env.observation_space, Discrete):
        raise InputError(f"{algorithm} needs discrete observations, got {env.observation_space}: use {instead}")


def check_bounded(algorithm: str, env: Any, instead: str, *, continuous: bool = False) -> None:
    """Raise `InputError` unless `env` is an environment with bounded actions that are arrays.

    Args:
        algorithm: name, for the message.
        env: what was given as the environment.
        instead: names of algorithms for other actions.
        continuous: whether actions must be floating-point numbers, so that gradients can pass.
    """
    check_environment(env)
    space = env.action_space
    if not isinstance(space, Box) or not space.is_bounded or (continuous and not space.is_continuous):
        raise InputError(f"{algorithm} needs bounded continuous actions, got {space}: use {instead}")


def check_environment(env: Any) -> None:
    """Raise `InputError` unless `env` is an environment."""
    if not isinstance(env, Environment):
        raise InputError(f"env must be an Environment such as purerl.make('CartPole-v1'), got {describe(env, 10**6)}")


def check_minibatches(num_envs: int, rollout_length: int, num_minibatches: int) -> None:
    """Raise `InputError` unless a batch can be divided into equal minibatches."""
    if num_envs * rollout_length % num_minibatches:
        raise InputError(
            f"num_envs * rollout_length = {num_envs * rollout_length} steps cannot be divided into "
            f"num_minibatches = {num_minibatches} equal minibatches"
        )


def check_separate(algorithm: str, network: Any) -> None:
    """Raise `InputError` unless policy and value of a network have no parameters in common."""
    if network.shared:
        raise InputError(f"{algorithm} needs a network with shared=False: policy and value learn apart")


def check_network(network: Any, env: Environment) -> None:
    """Raise an error if the network does not fit the observations. Computes shapes only; nothing compiles.

    Args:
        network: with the environment's action space filled in.
        env: the environment.
    """
    jax.eval_shape(network.init, jax.random.key(0), zero_input(env.observation_space))
