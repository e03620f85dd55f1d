"""Estimates of returns and advantages for batches of trajectories, and statistics that losses need."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from purerl.math.reductions import mean_over_shards
from purerl.math.returns import gae, lambda_returns
from purerl.types import Array, Transition


def batch_gae(
    transitions: Transition, value: Array, next_value: Array, gamma: float | Array, gae_lambda: float | Array
) -> Array:
    """Generalised advantage estimates ``[num_envs, T]`` (see `returns.gae`).

    Args:
        transitions: ``[num_envs, T]``.
        value: ``[num_envs, T]``, of the observations.
        next_value: ``[num_envs, T]``, of the true successors.
        gamma: discount factor per step.
        gae_lambda: decay of traces.
    """
    return jax.vmap(gae, in_axes=(0, 0, 0, 0, 0, None, None))(
        transitions.reward, value, next_value, transitions.terminated, transitions.done, gamma, gae_lambda
    )


def batch_lambda_returns(
    transitions: Transition, next_value: Array, gamma: float | Array, lambda_: float | Array
) -> Array:
    """TD(lambda) targets ``[num_envs, T]`` (see `returns.lambda_returns`).

    Args:
        transitions: ``[num_envs, T]``.
        next_value: ``[num_envs, T]``, of the true successors.
        gamma: discount factor per step.
        lambda_: decay of traces.
    """
    return jax.vmap(lambda_returns, in_axes=(0, 0, 0, 0, None, None))(
        transitions.reward, next_value, transitions.terminated, transitions.done, gamma, lambda_
    )


def standardize(advantage: Array) -> Array:
    """Advantages with mean 0 and deviation 1 over the whole array, and over all shards of an agent."""
    mean, var = mean_and_variance(advantage)
    return (advantage - mean) / (jnp.sqrt(var) + 1e-8)


def mean_and_variance(values: Array) -> tuple[Array, Array]:
    """Mean and variance over all elements of ``values [...]`` of all shards, two scalars."""
    mean = mean_over_shards(jnp.mean(values))
    return mean, mean_over_shards(jnp.mean(jnp.square(values - mean)))


def approximate_kl(log_ratio: Array) -> Array:
    """KL divergence of the behaviour policy from the new one, estimated from samples of the former; a scalar.

    Low in variance and never negative: Schulman, "Approximating KL divergence" (2020), estimator k3.

    Args:
        log_ratio: log-probability of each action under the new policy minus that under the behaviour policy.
    """
    return jnp.mean(jnp.expm1(log_ratio) - log_ratio)
