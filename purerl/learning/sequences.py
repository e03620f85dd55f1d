"""Sequences of steps: networks with memory applied over time, and batches for actor-critics.

Without a memory a sequence is a single step. With one it is a whole rollout, which the network goes through again from
its memory at the rollout's beginning; gradients reach back so far.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from purerl import struct
from purerl.types import Array, PyTree, Transition


@struct.dataclass
class SequenceBatch:
    """Batch for the update of an actor-critic; leaves ``[num_sequences, sequence_length, ...]``.

    Attributes:
        carry: memory at the beginning of each sequence, leaves ``[num_sequences, ...]``.
        obs: network input.
        done: whether an episode ended with this step.
        raw_action: as the behaviour policy drew it.
        log_prob: its log-probability under the behaviour policy.
        value: value estimate of `obs` before the update.
        advantage: advantage estimate.
        target: regression target of the value.
        distribution: of the behaviour policy; None unless a KL divergence is computed.
    """

    carry: PyTree
    obs: Array
    done: Array
    raw_action: Array
    log_prob: Array
    value: Array
    advantage: Array
    target: Array
    distribution: Any = None

    @classmethod
    def of(
        cls,
        carry: PyTree,
        transitions: Transition,
        obs: Array,
        value: Array,
        advantage: Array,
        target: Array,
        distribution: Any = None,
    ) -> SequenceBatch:
        """Sequences from transitions ``[num_envs, T]``: whole rollouts if `carry` has leaves, else single steps."""
        steps = cls(
            carry=(),
            obs=obs,
            done=transitions.done,
            raw_action=transitions.extras["raw_action"],
            log_prob=transitions.extras["log_prob"],
            value=value,
            advantage=advantage,
            target=target,
            distribution=distribution,
        )
        if not jax.tree.leaves(carry):
            steps = jax.tree.map(lambda leaf: leaf.reshape(-1, 1, *leaf.shape[2:]), steps)
        return struct.replace(steps, carry=carry)


@struct.dataclass
class PolicyBatch:
    """Batch for the update of a policy whose value learns apart; leaves ``[num_envs * T, ...]``.

    Attributes:
        obs: network input.
        raw_action: as the behaviour policy drew it.
        log_prob: its log-probability under the behaviour policy.
        value: value estimate of `obs`; 0 where none is learned.
        advantage: advantage estimate.
        target: regression target of the value.
    """

    obs: Array
    raw_action: Array
    log_prob: Array
    value: Array
    advantage: Array
    target: Array

    @classmethod
    def of(cls, transitions: Transition, obs: Array, value: Array, advantage: Array, target: Array) -> PolicyBatch:
        """Single steps from transitions ``[num_envs, T]``."""
        raw_action, log_prob = transitions.extras["raw_action"], transitions.extras["log_prob"]
        steps = cls(obs, raw_action, log_prob, value, advantage, target)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), steps)


def apply_over_time(network: Any, params: PyTree, carry: PyTree, obs: Array, done: Array) -> tuple[PyTree, Any]:
    """Apply a network to trajectories as ``network.advance`` was applied while acting.

    Only memories go step by step. The rest is computed for all steps at once, as one batch with a single axis: matrix
    products over ``[num_sequences, 1]`` take twice as long on CPU.

    Args:
        network: such as `purerl.networks.ActorCritic`.
        params: of it.
        carry: memory at the start of each trajectory, leaves ``[num_sequences, ...]``.
        obs: ``[num_sequences, T, ...]``.
        done: bool ``[num_sequences, T]``, whether an episode ended with this step, so that the next observation begins
            another.

    Returns:
        Memory after each observation, and the outputs, leaves ``[num_sequences, T, ...]``.
    """

    def at_once(method: str, inputs: PyTree) -> PyTree:
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), inputs)
        outputs = jax.vmap(lambda one: network.apply(params, one, method=method))(flat)
        return jax.tree.map(lambda leaf: leaf.reshape(*done.shape, *leaf.shape[1:]), outputs)

    features = at_once("features", obs)
    if jax.tree.leaves(carry):
        carry, features = jax.vmap(lambda *sequence: _recur(network, params, *sequence))(carry, features, done)
    return carry, at_once("heads", features)


def apply_to_transitions(
    network: Any, params: PyTree, carry: PyTree, obs: Array, next_obs: Array, done: Array
) -> tuple[Any, Array, Array]:
    """Apply an actor-critic to trajectories, and its value to the true successor of each step.

    Args:
        network: such as `purerl.networks.ActorCritic`.
        params: of it.
        carry: memory at the start of each trajectory, leaves ``[num_envs, ...]``.
        obs: ``[num_envs, T, ...]``.
        next_obs: true successors, of the same shape.
        done: bool ``[num_envs, T]``, see `apply_over_time`.

    Returns:
        The policy's distributions and the values of `obs` and of `next_obs`, leaves ``[num_envs, T, ...]``.
    """
    carries, (distribution, value) = apply_over_time(network, params, carry, obs, done)

    def value_of(carry: PyTree, obs: Array) -> Array:
        return network.apply(params, carry, obs, method="advance")[1][1]

    return distribution, value, jax.vmap(jax.vmap(value_of))(carries, next_obs)


def _recur(network: Any, params: PyTree, carry: PyTree, features: PyTree, done: Array) -> tuple[PyTree, PyTree]:
    """Memories and their outputs after each step of one trajectory."""
    initial = network.initial_carry()

    def step(carry: PyTree, inputs: tuple[PyTree, Array]) -> tuple[PyTree, tuple[PyTree, PyTree]]:
        features, done = inputs
        remembered, output = network.apply(params, carry, features, method="remember")
        carry = jax.tree.map(lambda fresh, old: jnp.where(done, fresh, old), initial, remembered)
        return carry, (remembered, output)

    return lax.scan(step, carry, (features, done))[1]
