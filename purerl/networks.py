"""Flax modules for policies and values, each written for one observation; `jax.vmap` serves batches.

Modules hash and compare by value, so that they can be static fields of an algorithm: two equal ones share a compiled
program. Activations are functions with a name (``nn.tanh``); two lambdas are never equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from purerl import struct
from purerl.errors import InputError
from purerl.layers.dense import Dense
from purerl.layers.memory import NoMemory
from purerl.math.distributions import Categorical, Deterministic, Distribution, Gaussian, TanhGaussian
from purerl.spaces import Box, Discrete, Space
from purerl.types import PyTree

Array = jax.Array


def encode(space: Space, obs: Array) -> Array:
    """An observation as networks take it, float32: ``Discrete(n)`` as one-hot ``[n]``, pictures between 0 and 1.

    Pictures are integers from 0 to 255 or more, and are divided by the greatest (Mnih et al. 2015); other numbers stay
    as they are.
    """
    if isinstance(space, Discrete):
        return jax.nn.one_hot(obs, space.n, dtype=jnp.float32)
    return jnp.asarray(obs, jnp.float32) / space.greatest


def _sizes(name: str, sizes: Any) -> tuple[int, ...]:
    """`sizes` as a tuple of Python integers; `InputError` unless they are whole and positive."""
    ok = isinstance(sizes, tuple | list) and all(
        isinstance(size, int | np.integer) and not isinstance(size, bool) and size > 0 for size in sizes
    )
    if not ok:
        raise InputError(f"{name} must be a tuple of positive whole numbers, got {sizes!r}")
    return tuple(int(size) for size in sizes)


class MLP(nn.Module):
    """Dense layers over the flattened observation.

    Attributes:
        hidden_sizes: width of each layer; none: the observation itself.
        activation: follows every layer.
        layer_norm: whether what goes into every activation is standardised first (Ba et al. 2016, arXiv:1607.06450).
    """

    hidden_sizes: tuple[int, ...] = struct.field(default=(64, 64), help="width of each dense layer", within="[1, inf)")
    activation: Callable[[Array], Array] = struct.field(default=nn.tanh, help="activation function after each layer")
    layer_norm: bool = struct.field(default=False, help="layer normalisation before each activation")

    def __post_init__(self) -> None:
        struct.check_fields(self)
        object.__setattr__(self, "hidden_sizes", _sizes("hidden_sizes", self.hidden_sizes))
        super().__post_init__()

    @nn.compact
    def __call__(self, obs: Array) -> Array:
        """``obs`` of any shape to features ``[hidden_sizes[-1]]``, or the flattened observation."""
        return _dense_layers(jnp.ravel(obs), self.hidden_sizes, self.activation, self.layer_norm)


class CNN(nn.Module):
    """Convolutions without padding, then dense layers; by default those of MinAtar (Young & Tian 2019, section 3).

    Attributes:
        channels: of each convolution.
        kernel: height and width of every convolution.
        hidden_sizes: width of each dense layer.
        activation: follows every layer.
        stride: of every convolution, in both directions.
        layer_norm: whether what goes into every activation is standardised first, over the channels of each cell and
            over each dense layer.
    """

    channels: tuple[int, ...] = struct.field(default=(16,), help="channels of each convolution", within="[1, inf)")
    kernel: tuple[int, int] = struct.field(
        default=(3, 3), help="height and width of every convolution", within="[1, inf)"
    )
    hidden_sizes: tuple[int, ...] = struct.field(default=(128,), help="width of each dense layer", within="[1, inf)")
    activation: Callable[[Array], Array] = struct.field(default=nn.relu, help="activation function after each layer")
    stride: int = struct.field(default=1, help="stride of every convolution", within="[1, inf)")
    layer_norm: bool = struct.field(default=False, help="layer normalisation before each activation")

    def __post_init__(self) -> None:
        struct.check_fields(self)
        for name in ("channels", "kernel", "hidden_sizes"):
            object.__setattr__(self, name, _sizes(name, getattr(self, name)))
        if len(self.kernel) != 2:
            raise InputError(f"kernel must be a height and a width, got {self.kernel!r}")
        super().__post_init__()

    @nn.compact
    def __call__(self, obs: Array) -> Array:
        """``obs [height, width, channels]`` to features ``[hidden_sizes[-1]]``.

        Raises:
            InputError: `obs` is no such grid, or smaller than the convolutions take away.
        """
        if obs.ndim != 3:
            raise InputError(f"CNN needs observations [height, width, channels], got shape {list(obs.shape)}: use MLP")
        smallest = [_smallest(len(self.channels), size, self.stride) for size in self.kernel]
        if obs.shape[0] < smallest[0] or obs.shape[1] < smallest[1]:
            raise InputError(f"CNN needs a grid of at least {smallest} for its kernels, got {list(obs.shape[:2])}")
        x = obs
        for i, num_channels in enumerate(self.channels):
            layer = Dense(num_channels, kernel_init=_orthogonal(math.sqrt(2.0)), name=f"Conv_{i}")
            x = layer(_patches(x, self.kernel, self.stride))
            x = self.activation(nn.LayerNorm()(x) if self.layer_norm else x)
        return _dense_layers(jnp.ravel(x), self.hidden_sizes, self.activation, self.layer_norm)


class ActorCritic(nn.Module):
    """A policy and a value, each a linear head on its own copy of trunk and memory or on one that both share.

    The policy is `Categorical` for a `Discrete` action space; for a `Box` it is `Gaussian`, or `TanhGaussian` with
    `squash`, with a log-deviation that is a parameter of its own and does not depend on the observation.
    Initialised as in Huang et al. (2022, "The 37 implementation details of PPO"): orthogonal, gain sqrt(2) in trunks,
    0.01 in the policy head, 1 in the value head, zero biases.

    Attributes:
        trunk: module from one observation to features ``[n]``.
        memory: module between trunk and heads, see `purerl.layers.memory`.
        shared: whether policy and value use the same trunk and memory.
        squash: whether continuous actions go through ``tanh``; leave it off for discrete ones.
        initial_std: deviation of continuous actions, before ``tanh``, until it is learned.
        action_space: what the policy is over. Algorithms fill it in: ``network.clone(action_space=...)``.
    """

    trunk: nn.Module = MLP()
    memory: nn.Module = NoMemory()
    shared: bool = struct.field(default=False, help="policy and value share one trunk")
    squash: bool = struct.field(default=False, help="squash continuous actions by tanh")
    initial_std: float = struct.field(
        default=1.0, help="initial standard deviation of continuous actions", within="(0, inf)"
    )
    action_space: Space | None = None

    def __post_init__(self) -> None:
        struct.check_fields(self)
        if not isinstance(self.trunk, nn.Module):
            raise InputError(f"trunk must be a flax module such as MLP() or CNN(), got {self.trunk!r}")
        if not isinstance(self.memory, nn.Module):
            raise InputError(f"memory must be a flax module such as GRU() or LSTM(), got {self.memory!r}")
        if isinstance(self.action_space, Box) and len(self.action_space.shape) != 1:
            raise InputError(f"ActorCritic needs actions that are a vector, got {self.action_space}")
        if isinstance(self.action_space, Discrete) and self.squash:
            raise InputError(f"squash is for continuous actions, not for {self.action_space}")
        if isinstance(self.action_space, Box) and self.squash and not self.action_space.is_bounded:
            raise InputError(
                f"squash is for actions between two bounds, not for {self.action_space}, most of which tanh never "
                "reaches: leave it off"
            )
        super().__post_init__()

    def setup(self) -> None:
        """Declare trunks, memories and heads; flax calls it."""
        if self.action_space is None:
            raise InputError("ActorCritic needs an action_space before use: network.clone(action_space=...)")
        space = self.action_space
        num_outputs = space.n if isinstance(space, Discrete) else space.shape[0]
        if not self.shared:
            self.actor_trunk = self.trunk.clone(name=None)
            self.critic_trunk = self.trunk.clone(name=None)
            self.actor_memory = self.memory.clone(name=None)
            self.critic_memory = self.memory.clone(name=None)
        self.actor_head = Dense(num_outputs, kernel_init=_orthogonal(0.01))
        self.critic_head = Dense(1, kernel_init=_orthogonal(1.0))
        if isinstance(space, Box):
            initial = nn.initializers.constant(math.log(self.initial_std))
            self.log_std = _Parameter((num_outputs,), initial)

    def initial_carry(self) -> PyTree:
        """Memory at the start of an episode: the shared one, or those of the policy and of the value."""
        carry = self.memory.initial_carry()  # type: ignore[attr-defined]
        return carry if self.shared else (carry, carry)

    def advance(self, carry: PyTree, obs: Array) -> tuple[PyTree, tuple[Distribution, Array]]:
        """One step of an episode: memory afterwards; the policy's distribution, and the value, a scalar.

        It is `features`, `remember` and `heads` in turn; only the second must wait for the step before.
        """
        carry, outputs = self.remember(carry, self.features(obs))
        return carry, self.heads(outputs)

    def act(self, carry: PyTree, obs: Array) -> tuple[PyTree, Distribution]:
        """`advance` without the value. Without a memory, only the policy's parameters are needed."""
        if isinstance(self.memory, NoMemory):
            return carry, self.actor(obs)
        carry, (distribution, _) = self.advance(carry, obs)
        return carry, distribution

    def features(self, obs: Array) -> PyTree:
        """Features of one observation: the outputs of the trunks."""
        return self.trunk(obs) if self.shared else (self.actor_trunk(obs), self.critic_trunk(obs))

    def remember(self, carry: PyTree, features: PyTree) -> tuple[PyTree, PyTree]:
        """Memory after this step, and its output."""
        if self.shared:
            return self.memory(carry, features)  # type: ignore[operator]
        actor_carry, actor_output = self.actor_memory(carry[0], features[0])  # type: ignore[operator]
        critic_carry, critic_output = self.critic_memory(carry[1], features[1])  # type: ignore[operator]
        return (actor_carry, critic_carry), (actor_output, critic_output)

    def heads(self, outputs: PyTree) -> tuple[Distribution, Array]:
        """The policy's distribution and the value, from the output of the memory."""
        actor_output, critic_output = (outputs, outputs) if self.shared else outputs
        return self._distribution(actor_output), self._value(critic_output)

    def __call__(self, obs: Array) -> tuple[Distribution, Array]:
        """Both the policy's distribution and the value, so that ``init(key, obs)`` makes all parameters."""
        return self.actor(obs), self.critic(obs)

    def actor(self, obs: Array) -> Distribution:
        """The distribution over actions given one observation, for networks without a memory."""
        self._check_memoryless()
        return self._distribution((self.trunk if self.shared else self.actor_trunk)(obs))

    def critic(self, obs: Array) -> Array:
        """The value of one observation, a scalar, for networks without a memory."""
        self._check_memoryless()
        return self._value((self.trunk if self.shared else self.critic_trunk)(obs))

    def _distribution(self, features: Array) -> Distribution:
        output = self.actor_head(features)
        if isinstance(self.action_space, Discrete):
            return Categorical(output)
        return (TanhGaussian if self.squash else Gaussian)(output, self.log_std())

    def _value(self, features: Array) -> Array:
        return self.critic_head(features)[0]

    def _check_memoryless(self) -> None:
        if not isinstance(self.memory, NoMemory):
            kind = type(self.memory).__name__
            raise InputError(f"only ppo, a2c and impala take a network with memory, got {kind}")


class DeterministicPolicy(nn.Module):
    """One action per observation: a linear head on a trunk.

    An action of a `Box` is in ``(-1, 1)``, through ``tanh``; one of a `Discrete` space is that with the largest output.
    ``MLP(())`` as the trunk makes the policy linear.

    Attributes:
        trunk: module from one observation to features ``[n]``.
        action_space: algorithms fill it in.
    """

    trunk: nn.Module = MLP()
    action_space: Space | None = None

    @nn.compact
    def __call__(self, obs: Array) -> Array:
        """For one observation, the action ``[n]`` of a `Box`, or one output per discrete action."""
        space = self.action_space
        assert space is not None
        num_outputs = space.n if isinstance(space, Discrete) else space.shape[0]
        output = Dense(num_outputs, kernel_init=_orthogonal(0.01))(self.trunk(obs))
        return output if isinstance(space, Discrete) else jnp.tanh(output)

    def initial_carry(self) -> tuple[()]:
        """No memory."""
        return ()

    def act(self, carry: tuple[()], obs: Array) -> tuple[tuple[()], Categorical | Deterministic]:
        """The action as the mode of a distribution."""
        output = self(obs)
        return carry, Categorical(output) if isinstance(self.action_space, Discrete) else Deterministic(output)


def _smallest(num_layers: int, kernel: int, stride: int) -> int:
    """Least length of an axis of which so many convolutions leave one cell."""
    size = 1
    for _ in range(num_layers):
        size = (size - 1) * stride + kernel
    return size


class _Parameter(nn.Module):
    """A parameter of its own: unlike one declared in `setup` of what owns it, made only where it is used."""

    shape: tuple[int, ...]
    initial: Callable[..., Array]

    @nn.compact
    def __call__(self) -> Array:
        return self.param("value", self.initial, self.shape, jnp.float32)


def _patches(x: Array, kernel: tuple[int, int], stride: int) -> Array:
    """Patches of a grid ``[height, width, n]``, `stride` apart, each flattened as the kernel of a convolution is.

    A convolution is one matrix product over them. On CPU the gradient of ``nn.Conv``, and any ``nn.Conv`` whose kernel
    differs between members of a population, runs as plain loops: a whole update of DQN on grids of ten by ten cells is
    4.4 times faster this way.
    """
    height, width = x.shape[0] - kernel[0] + 1, x.shape[1] - kernel[1] + 1
    shifted = [x[i : i + height : stride, j : j + width : stride] for i in range(kernel[0]) for j in range(kernel[1])]
    return jnp.concatenate(shifted, axis=-1)


def _orthogonal(gain: float) -> Callable[..., Array]:
    return nn.initializers.orthogonal(gain)


def _dense_layers(x: Array, sizes: tuple[int, ...], activation: Callable[[Array], Array], layer_norm: bool) -> Array:
    """Dense layers, to be called in a compact method, which owns them."""
    for size in sizes:
        x = Dense(size, kernel_init=_orthogonal(math.sqrt(2.0)))(x)
        x = activation(nn.LayerNorm()(x) if layer_norm else x)
    return x
