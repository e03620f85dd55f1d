"""Memory of a network from one observation to the next, within an episode.

A memory is a flax module between trunk and heads: ``memory(carry, features) -> (carry, output)`` for one step, and
``initial_carry()``, the memory at the start of an episode. `purerl.learning.sequences` applies networks with memory to
trajectories.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from purerl import struct
from purerl.types import Array


class NoMemory(nn.Module):
    """Remembers nothing and passes features on as they are."""

    def initial_carry(self) -> tuple[()]:
        """No memory."""
        return ()

    def __call__(self, carry: tuple[()], features: Array) -> tuple[tuple[()], Array]:
        """Features as they are."""
        return carry, features


class GRU(nn.Module):
    """Gated recurrent unit (Cho et al. 2014, arXiv:1406.1078).

    Attributes:
        memory_size: length of its state and of its output.
    """

    memory_size: int = struct.field(default=64, help="size of the recurrent state", within="[1, inf)")

    def __post_init__(self) -> None:
        struct.check_fields(self)
        super().__post_init__()

    def initial_carry(self) -> Array:
        """Zeros ``[memory_size]``."""
        return jnp.zeros(self.memory_size, jnp.float32)

    @nn.compact
    def __call__(self, carry: Array, features: Array) -> tuple[Array, Array]:
        """One step; the output ``[memory_size]`` is the new memory."""
        return nn.GRUCell(self.memory_size, kernel_init=nn.initializers.orthogonal())(carry, features)


class LSTM(nn.Module):
    """Long short-term memory (Hochreiter & Schmidhuber 1997).

    Initialised as in Huang et al. (2022, "The 37 implementation details of PPO"): orthogonal, zero biases.

    Attributes:
        memory_size: length of its cell, and of what it puts out.
    """

    memory_size: int = struct.field(default=64, help="size of the recurrent state", within="[1, inf)")

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
