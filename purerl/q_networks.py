"""Flax modules for action values and the policies that go with them, each written for one observation.

`QNetwork` rates every discrete action at once; the actor-critics rate one continuous action, by an ensemble of critics
that a vmapped initialisation makes different. Actions are in units of the space: -1 and 1 are the bounds.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from purerl import struct
from purerl.errors import InputError
from purerl.layers.dense import Dense
from purerl.layers.value_heads import ExpectedValue, ValueHead
from purerl.math.distributions import Categorical, Deterministic, TanhGaussian
from purerl.networks import MLP
from purerl.spaces import Box, Discrete, Space
from purerl.types import Array, Mean, Metrics, PyTree

_SMALL = nn.initializers.variance_scaling(1e-4, "fan_in", "uniform")
"""Of output layers whose values should begin near 0 (Lillicrap et al. 2016, section 7, use +-0.003)."""

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0
"""Bounds of a state-dependent log-deviation, as in the code of Haarnoja et al. 2018."""


class NoisyDense(nn.Module):
    """A dense layer that explores by noise on its weights (Fortunato et al. 2018, "Noisy Networks", arXiv:1706.10295).

    Factorised Gaussian noise (section 3, b) with learned deviations that start at ``0.5 / sqrt(inputs)``. The noise is
    drawn from the random stream ``"noise"``; without that stream there is none, and the mean weights act.

    Attributes:
        features: number of outputs.
    """

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``x [n]`` to ``[features]``."""
        num_inputs = x.shape[-1]
        bound = 1.0 / math.sqrt(num_inputs)
        means = nn.initializers.uniform(2.0 * bound)
        kernel = self.param("kernel", lambda *args: means(*args) - bound, (num_inputs, self.features), jnp.float32)
        bias = self.param("bias", lambda *args: means(*args) - bound, (self.features,), jnp.float32)
        deviations = nn.initializers.constant(0.5 * bound)
        kernel_std = self.param("kernel_std", deviations, (num_inputs, self.features), jnp.float32)
        bias_std = self.param("bias_std", deviations, (self.features,), jnp.float32)
        if not self.has_rng("noise"):
            return x @ kernel + bias
        into, out = jax.random.split(self.make_rng("noise"))
        noise_in, noise_out = (
            _root(jax.random.normal(into, (num_inputs,), jnp.float32)),
            _root(jax.random.normal(out, (self.features,), jnp.float32)),
        )
        # (x * f(e_in)) @ sigma * f(e_out) is x @ (sigma * outer(f(e_in), f(e_out))) without building the outer product.
        return x @ kernel + bias + ((x * noise_in) @ kernel_std + bias_std) * noise_out


class QNetwork(nn.Module):
    """Network for the value of each discrete action, or the distribution of its return, as `head` represents it.

    Attributes:
        trunk: module from one observation to features ``[n]``.
        head: expected value, or a distribution of returns.
        dueling: whether value and advantage come from streams of their own, each with a hidden layer as wide as the
            features (Wang et al. 2016, "Dueling Network Architectures", arXiv:1511.06581, equation 9).
        noisy: whether the layers after the trunk are `NoisyDense`.
        action_space: algorithms fill it in: ``network.clone(action_space=...)``.
    """

    trunk: nn.Module = MLP((120, 84), nn.relu)
    head: ValueHead = ExpectedValue()
    dueling: bool = struct.field(
        default=False, help="separate streams for the value of a state and the advantages of actions"
    )
    noisy: bool = struct.field(default=False, help="explore by learned noise on the weights after the trunk")
    action_space: Space | None = None

    def __post_init__(self) -> None:
        _check(self)
        if not isinstance(self.head, ValueHead):
            raise InputError(f"head must be a value head such as ExpectedValue() or C51(), got {self.head!r}")
        super().__post_init__()

    @nn.compact
    def __call__(self, obs: Array) -> Array:
        """``[num_actions, head.num_outputs]`` for one observation."""
        assert isinstance(self.action_space, Discrete)
        num_outputs, num_actions = self.head.num_outputs, self.action_space.n
        features = self.trunk(obs)
        if not self.dueling:
            return self._dense(num_actions * num_outputs, "advantage")(features).reshape(num_actions, num_outputs)
        # Two streams push on one trunk: section 4.2 of the paper scales their gradients down.
        share = 1.0 / math.sqrt(2.0)
        features = share * features + (1.0 - share) * jax.lax.stop_gradient(features)
        width = features.shape[-1]
        value = self._dense(num_outputs, "value")(nn.relu(self._dense(width, "value_hidden")(features)))
        advantage = self._dense(num_actions * num_outputs, "advantage")(
            nn.relu(self._dense(width, "advantage_hidden")(features))
        ).reshape(num_actions, num_outputs)
        return value[None] + advantage - jnp.mean(advantage, axis=0, keepdims=True)

    def _dense(self, features: int, name: str) -> nn.Module:
        return NoisyDense(features, name=name) if self.noisy else Dense(features, name=name)


class DeterministicActorCritic(nn.Module):
    """A deterministic policy and an ensemble of critics of single actions (DDPG, TD3).

    Attributes:
        trunk: of the actor, and of each critic on observation and action together.
        num_critics: size of the ensemble.
        action_space: algorithms fill it in.
    """

    trunk: nn.Module = MLP((256, 256), nn.relu)
    num_critics: int = struct.field(default=1, help="critics in the ensemble", within="[1, inf)")
    action_space: Space | None = None

    def __post_init__(self) -> None:
        _check(self)
        super().__post_init__()

    def setup(self) -> None:
        """Declare the layers; flax calls it."""
        self.actor_trunk = self.trunk.clone(name=None)
        self.actor_head = Dense(_num_actions(self.action_space), kernel_init=_SMALL)
        self.critics = _ensemble(_Critic, self.num_critics)(self.trunk.clone(parent=None))

    def actor(self, obs: Array) -> Array:
        """The action ``[n]`` in ``(-1, 1)``."""
        return jnp.tanh(self.actor_head(self.actor_trunk(obs)))

    def initial_carry(self) -> tuple[()]:
        """No memory."""
        return ()

    def act(self, carry: tuple[()], obs: Array) -> tuple[tuple[()], Deterministic]:
        """The distribution over actions, as policies ask for it."""
        return carry, Deterministic(self.actor(obs))

    def critic(self, obs: Array, action: Array) -> Array:
        """Value of `action` by each critic, ``[num_critics]``."""
        return self.critics(obs, action)


class SoftActorCritic(nn.Module):
    """A stochastic policy, `TanhGaussian` with a deviation that depends on the observation, and an ensemble of critics.

    Attributes:
        trunk: of the actor, and of each critic on observation and action together.
        num_critics: size of the ensemble.
        action_space: algorithms fill it in.
    """

    trunk: nn.Module = MLP((256, 256), nn.relu)
    num_critics: int = struct.field(default=2, help="critics in the ensemble", within="[1, inf)")
    action_space: Space | None = None

    def __post_init__(self) -> None:
        _check(self)
        super().__post_init__()

    def setup(self) -> None:
        """Declare the layers; flax calls it."""
        self.actor_trunk = self.trunk.clone(name=None)
        self.mean = Dense(_num_actions(self.action_space), kernel_init=_SMALL)
        self.log_std = Dense(_num_actions(self.action_space), kernel_init=_SMALL)
        self.critics = _ensemble(_Critic, self.num_critics)(self.trunk.clone(parent=None))

    def actor(self, obs: Array) -> TanhGaussian:
        """The distribution over actions."""
        features = self.actor_trunk(obs)
        return TanhGaussian(self.mean(features), jnp.clip(self.log_std(features), LOG_STD_MIN, LOG_STD_MAX))

    def initial_carry(self) -> tuple[()]:
        """No memory."""
        return ()

    def act(self, carry: tuple[()], obs: Array) -> tuple[tuple[()], TanhGaussian]:
        """The distribution over actions, as policies ask for it."""
        return carry, self.actor(obs)

    def critic(self, obs: Array, action: Array) -> Array:
        """Value of `action` by each critic, ``[num_critics]``."""
        return self.critics(obs, action)


class DiscreteSoftActorCritic(nn.Module):
    """A stochastic policy over discrete actions and an ensemble of critics that rate all of them at once.

    Attributes:
        trunk: of the actor and of each critic.
        num_critics: size of the ensemble.
        action_space: algorithms fill it in.
    """

    trunk: nn.Module = MLP((64, 64), nn.relu)
    num_critics: int = struct.field(default=2, help="critics in the ensemble", within="[1, inf)")
    action_space: Space | None = None

    def __post_init__(self) -> None:
        _check(self)
        super().__post_init__()

    def setup(self) -> None:
        """Declare the layers; flax calls it."""
        assert isinstance(self.action_space, Discrete)
        self.actor_trunk = self.trunk.clone(name=None)
        self.actor_head = Dense(self.action_space.n, kernel_init=_SMALL)
        self.critics = _ensemble(_DiscreteCritic, self.num_critics)(self.trunk.clone(parent=None), self.action_space.n)

    def actor(self, obs: Array) -> Categorical:
        """The distribution over actions."""
        return Categorical(self.actor_head(self.actor_trunk(obs)))

    def initial_carry(self) -> tuple[()]:
        """No memory."""
        return ()

    def act(self, carry: tuple[()], obs: Array) -> tuple[tuple[()], Categorical]:
        """The distribution over actions, as policies ask for it."""
        return carry, self.actor(obs)

    def critic(self, obs: Array) -> Array:
        """Value of each action by each critic, ``[num_critics, num_actions]``."""
        return self.critics(obs)


def init_actor_critic(network: Any, key: Array, obs: Array, *action: Array) -> tuple[PyTree, PyTree]:
    """Initial parameters of the policy and of the critics.

    Args:
        network: an actor-critic of this module, with its action space filled in.
        key: randomness.
        obs: network input for one observation.
        action: one action, where critics rate single actions.
    """
    actor_key, critic_key = jax.random.split(key)
    return network.init(actor_key, obs, method="actor"), network.init(critic_key, obs, *action, method="critic")


def critic_metrics(loss: Array, value: Array, td_error: Array) -> Metrics:
    """Loss, action values and absolute TD errors of critics."""
    return {
        "critic_loss": Mean.of(loss),
        "q_value": Mean.of(value),
        "td_error": Mean.of(jnp.abs(td_error)),
    }


def target_gap(params: PyTree, target_params: PyTree) -> Array:
    """Relative distance between the parameters of a network and those of its target network."""
    return optax.tree.norm(optax.tree.sub(params, target_params)) / optax.tree.norm(params)


class _Critic(nn.Module):
    trunk: nn.Module

    @nn.compact
    def __call__(self, obs: Array, action: Array) -> Array:
        features = self.trunk(jnp.concatenate([jnp.ravel(obs), action]))
        return Dense(1, kernel_init=_SMALL)(features)[0]


class _DiscreteCritic(nn.Module):
    trunk: nn.Module
    num_actions: int

    @nn.compact
    def __call__(self, obs: Array) -> Array:
        return Dense(self.num_actions, kernel_init=_SMALL)(self.trunk(obs))


def _ensemble(critic: type[nn.Module], num_critics: int) -> type[nn.Module]:
    """`num_critics` of them side by side, each with parameters of its own."""
    return nn.vmap(
        critic,
        in_axes=None,  # pyright: ignore[reportArgumentType]
        out_axes=0,
        axis_size=num_critics,
        variable_axes={"params": 0},
        split_rngs={"params": True},
    )


def _check(network: Any) -> None:
    """Raise `InputError` unless the fields of a network have the types they need."""
    if not isinstance(network.trunk, nn.Module):
        raise InputError(f"trunk must be a flax module such as MLP() or CNN(), got {network.trunk!r}")
    struct.check_fields(network)


def _num_actions(space: Space | None) -> int:
    assert isinstance(space, Box)
    if len(space.shape) != 1:
        raise InputError(f"actions must be a vector, got {space}")
    return space.shape[0]


def _root(x: Array) -> Array:
    return jnp.sign(x) * jnp.sqrt(jnp.abs(x))
