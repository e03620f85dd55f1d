"""Memory of a network from one observation to the next, within an episode.

A memory is a flax module between trunk and heads: ``memory(carry, features) -> (carry, output)`` for one step, and
``initial_carry()``, what it remembers when an episode begins. `along` applies a network with memory to trajectories,
`along_transitions` to what was collected; `sequences` lays that out for learning.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from purerl import struct
from purerl.types import Array, PyTree


class NoMemory(nn.Module):
    """Remembers nothing and passes features on as they are."""

    def initial_carry(self) -> tuple[()]:
        """Nothing."""
        return ()

    def __call__(self, carry: tuple[()], features: Array) -> tuple[tuple[()], Array]:
        """The same features."""
        return carry, features


class GRU(nn.Module):
    """Gated recurrent unit (Cho et al. 2014, arXiv:1406.1078).

    Attributes:
        memory_size: length of what it remembers and puts out.
    """

    memory_size: int = struct.field(default=64, help="numbers that are remembered", within="[1, inf)")

    def __post_init__(self) -> None:
        struct.check_fields(self)
        super().__post_init__()

    def initial_carry(self) -> Array:
        """Zeros ``[memory_size]``."""
        return jnp.zeros(self.memory_size, jnp.float32)

    @nn.compact
    def __call__(self, carry: Array, features: Array) -> tuple[Array, Array]:
        """One step; the output ``[memory_size]`` is what is remembered."""
        return nn.GRUCell(self.memory_size, kernel_init=nn.initializers.orthogonal())(carry, features)


class LSTM(nn.Module):
    """Long short-term memory (Hochreiter & Schmidhuber 1997).

    Initialised as in Huang et al. (2022, "The 37 implementation details of PPO"): orthogonal, zero biases.

    Attributes:
        memory_size: length of its cell, and of what it puts out.
    """

    memory_size: int = struct.field(default=64, help="numbers that are remembered", within="[1, inf)")

    def __post_init__(self) -> None:
        struct.check_fields(self)
        super().__post_init__()

    def initial_carry(self) -> tuple[Array, Array]:
        """Cell and output, zeros ``[memory_size]`` each."""
        return jnp.zeros(self.memory_size, jnp.float32), jnp.zeros(self.memory_size, jnp.float32)

    @nn.compact
    def __call__(self, carry: tuple[Array, Array], features: Array) -> tuple[tuple[Array, Array], Array]:
        """One step; the output has shape ``[memory_size]``."""
        return nn.OptimizedLSTMCell(self.memory_size, kernel_init=nn.initializers.orthogonal())(carry, features)


def along(network: Any, params: PyTree, carry: PyTree, obs: Array, done: Array) -> tuple[PyTree, Any]:
    """Apply a network to trajectories as ``network.advance`` was applied while acting.

    Only memories go step by step. The rest is computed for all steps at once, as one batch with a single axis: matrix
    products over ``[num_sequences, 1]`` take twice as long on CPU.

    Args:
        network: such as `purerl.networks.ActorCritic`.
        params: of it.
        carry: what was remembered when the trajectories began, leaves ``[num_sequences, ...]``.
        obs: ``[num_sequences, T, ...]``.
        done: bool ``[num_sequences, T]``, whether an episode ended with this step, so that the next observation begins
            another.

    Returns:
        What is remembered after each observation and the outputs, leaves ``[num_sequences, T, ...]``.
    """

    def at_once(method: str, inputs: PyTree) -> PyTree:
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), inputs)
        outputs = jax.vmap(lambda one: network.apply(params, one, method=method))(flat)
        return jax.tree.map(lambda leaf: leaf.reshape(*done.shape, *leaf.shape[1:]), outputs)

    features = at_once("features", obs)
    if jax.tree.leaves(carry):
        carry, features = jax.vmap(lambda *sequence: _remember(network, params, *sequence))(carry, features, done)
    return carry, at_once("heads", features)


def along_transitions(
    network: Any, params: PyTree, carry: PyTree, obs: Array, next_obs: Array, done: Array
) -> tuple[Any, Array, Array]:
    """Apply an actor-critic to trajectories, and its value to the true successor of each step.

    Args:
        network: such as `purerl.networks.ActorCritic`.
        params: of it.
        carry: what was remembered when the trajectories began, leaves ``[num_envs, ...]``.
        obs: ``[num_envs, T, ...]``.
        next_obs: true successors, of the same shape.
        done: bool ``[num_envs, T]``, see `along`.

    Returns:
        The policy's distributions and the values of `obs` and of `next_obs`, leaves ``[num_envs, T, ...]``.
    """
    carries, (distribution, value) = along(network, params, carry, obs, done)

    def value_of(carry: PyTree, obs: Array) -> Array:
        return network.apply(params, carry, obs, method="advance")[1][1]

    return distribution, value, jax.vmap(jax.vmap(value_of))(carries, next_obs)


def sequences(carry: PyTree, steps: PyTree) -> PyTree:
    """Lay steps out as learning takes them: whole rollouts where something is remembered, else single steps.

    Args:
        carry: what was remembered when the rollouts began; no leaves if nothing was.
        steps: leaves ``[num_envs, T, ...]``.

    Returns:
        The same, leaves ``[num_sequences, sequence_length, ...]``: as they are, or ``[num_envs * T, 1, ...]``.
    """
    if jax.tree.leaves(carry):
        return steps
    return jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0] * leaf.shape[1], 1, *leaf.shape[2:]), steps)


def _remember(network: Any, params: PyTree, carry: PyTree, features: PyTree, done: Array) -> tuple[PyTree, PyTree]:
    """What is remembered after each step of one trajectory, and what memories put out then."""
    initial = network.initial_carry()

    def step(carry: PyTree, inputs: tuple[PyTree, Array]) -> tuple[PyTree, tuple[PyTree, PyTree]]:
        features, done = inputs
        remembered, output = network.apply(params, carry, features, method="remember")
        carry = jax.tree.map(lambda fresh, old: jnp.where(done, fresh, old), initial, remembered)
        return carry, (remembered, output)

    return lax.scan(step, carry, (features, done))[1]
