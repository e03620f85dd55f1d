"""Supervised losses of imitation: the likelihood of an expert's actions, or the squared distance to them."""

from __future__ import annotations

import enum
from typing import Any

import jax
import jax.numpy as jnp

from purerl.errors import InputError
from purerl.math.distributions import TanhGaussian
from purerl.networks import DeterministicPolicy
from purerl.spaces import Box, Discrete, Space
from purerl.types import Array, Mean, Metrics, PyTree

_LARGEST_UNIT = 1.0 - 1e-4
"""An action at a bound, which tanh never reaches, counts as this: ``atanh`` of it is 4.95."""


class Loss(enum.Enum):
    """Loss of a policy on an expert's actions: negative log-likelihood, or squared error of its mode."""

    LIKELIHOOD = enum.auto()
    SQUARED_ERROR = enum.auto()


def check_loss(loss: Any, network: Any, space: Space) -> None:
    """Raise `InputError` unless `loss` suits the network and the actions."""
    if not isinstance(loss, Loss):
        raise InputError(f"loss must be one of {', '.join(map(str, Loss))}, got {loss!r}")
    if isinstance(space, Discrete) and loss is Loss.SQUARED_ERROR:
        raise InputError(f"the squared error is for continuous actions, not for {space}: use the likelihood")
    if isinstance(network, DeterministicPolicy) and loss is Loss.LIKELIHOOD:
        raise InputError("a deterministic policy has no likelihood: use the squared error")


def label_of(space: Space, action: Array) -> Array:
    """An action of the environment as a label for networks: continuous ones between -1 and 1 where bounded."""
    return space.to_unit(action) if isinstance(space, Box) else action


def cloning_loss(network: Any, params: PyTree, loss: Loss, obs: Array, label: Array) -> tuple[Array, Metrics]:
    """Mean loss over observations and labels ``[n, ...]``, and how near the mode of the policy is.

    Args:
        network: with ``act(carry, obs)`` and the action space filled in; without a memory.
        params: of the network.
        loss: which one.
        obs: network inputs.
        label: see `label_of`.
    """

    def one(obs: Array, label: Array) -> tuple[Array, Array]:
        _, distribution = network.apply(params, network.initial_carry(), obs, method="act")
        mode = distribution.action(distribution.mode())
        squared_error = jnp.sum(jnp.square(mode - label))
        if loss is Loss.SQUARED_ERROR:
            return squared_error, squared_error
        raw = label
        if isinstance(distribution, TanhGaussian):
            raw = jnp.arctanh(jnp.clip(label, -_LARGEST_UNIT, _LARGEST_UNIT))
        near = squared_error if jnp.issubdtype(label.dtype, jnp.floating) else (mode == label).astype(jnp.float32)
        return -distribution.log_prob(raw), near

    value, near = jax.vmap(one)(obs, label)
    name = "squared_error" if jnp.issubdtype(label.dtype, jnp.floating) else "accuracy"
    return jnp.mean(value), {"loss": Mean.of(value), name: Mean.of(near)}
