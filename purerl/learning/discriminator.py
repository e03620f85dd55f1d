"""A discriminator between expert and agent as a reward model: generative adversarial imitation learning.

Source: Ho & Ermon 2016, "Generative adversarial imitation learning", arXiv:1606.03476, algorithm 1.
"""

from __future__ import annotations

import enum
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from purerl import struct
from purerl.demonstrations import Demonstrations
from purerl.errors import InputError
from purerl.experience.preprocessing import preprocess, update_statistics, zero_input
from purerl.layers.dense import Dense
from purerl.learning import optimizers
from purerl.learning.cloning import label_of
from purerl.learning.minibatches import minibatch_epochs
from purerl.learning.optimizers import Adam
from purerl.math import running_statistics
from purerl.math.running_statistics import RunningStatistics
from purerl.networks import MLP
from purerl.spaces import Discrete
from purerl.types import Array, Environment, Mean, Metrics, PyTree, Scalar, Transition


class Sign(enum.Enum):
    """Reward as a function of the logit x: ``-log(1 - D)`` > 0, ``log D`` < 0, or their sum ``x``."""

    POSITIVE = enum.auto()
    NEGATIVE = enum.auto()
    BOTH = enum.auto()


class Logit(nn.Module):
    """A number for one vector: dense layers with tanh, and a linear one.

    Attributes:
        hidden_sizes: width of each dense layer.
    """

    hidden_sizes: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """The logit, a scalar; near 0 at first."""
        return Dense(1, kernel_init=nn.initializers.orthogonal(0.01))(MLP(self.hidden_sizes)(x))[0]


@struct.dataclass
class DiscriminatorState:
    """State of the discriminator.

    Attributes:
        params: parameters of its network.
        opt_state: state of its optimiser.
        obs_stats: statistics of the demonstrated observations, which standardise inputs.
    """

    params: PyTree
    opt_state: PyTree
    obs_stats: RunningStatistics


@struct.dataclass
class Discriminator:
    """Rewards that tell how much a step looks like one of the expert; those of the environment are not used.

    ::

        D(s, a) = sigmoid(x(s, a))                              probability that the step is the expert's
        L = -E_expert[log D] - E_agent[log(1 - D)] + penalty    at its optimum x = log p_expert(s, a) / p_agent(s, a)
        r = -log(1 - D)                                         sign=positive; log D: negative; x: both

    The penalty pulls the norm of the gradient of x by its inputs towards 1, between expert and agent (Gulrajani et al.
    2017, arXiv:1704.00028, equation 3). Rewards of one sign have a bias: a positive one at every step makes long
    episodes good whatever happens in them, a negative one short episodes (Kostrikov et al. 2019, arXiv:1809.02925).
    With ``learning_rate = 0`` the discriminator stays as it was drawn: the baseline that shows that bias alone.
    """

    demonstrations: Demonstrations = struct.field(help="episodes of the expert, as purerl record writes them")
    sign: Sign = struct.field(default=Sign.POSITIVE, static=True, help="sign of rewards: -log(1 - D), log D, their sum")
    learning_rate: Scalar = struct.field(
        default=3e-4, help="step size of Adam for the discriminator; 0: it never learns", within="[0, inf)"
    )
    gradient_penalty: Scalar = struct.field(default=1.0, help="weight of the gradient penalty", within="[0, inf)")
    entropy_coef: Scalar = struct.field(
        default=1e-3, help="weight of the entropy of D, which keeps it from being certain", within="[0, inf)"
    )
    num_epochs: int = struct.field(default=1, static=True, help="passes over each batch", within="[1, inf)")
    num_minibatches: int = struct.field(default=4, static=True, help="updates per epoch", within="[1, inf)")
    hidden_sizes: tuple[int, ...] = struct.field(
        default=(64, 64), static=True, help="width of each dense layer", within="[1, inf)"
    )

    def __post_init__(self) -> None:
        struct.check_fields(self)
        if not isinstance(self.demonstrations, Demonstrations):
            raise InputError(f"demonstrations must be purerl.Demonstrations, got {self.demonstrations!r}")
        if not isinstance(self.sign, Sign):
            raise InputError(f"sign must be one of {', '.join(map(str, Sign))}, got {self.sign!r}")
        MLP(self.hidden_sizes)  # says what is wrong with sizes
        object.__setattr__(self, "hidden_sizes", tuple(self.hidden_sizes))

    def init(self, env: Environment, num_envs: int, key: Array) -> DiscriminatorState:
        """Random parameters, and the statistics of the demonstrations.

        Raises:
            InputError: if the demonstrations are of other spaces.
        """
        self.demonstrations.check_spaces(env)
        space = env.observation_space
        stats = running_statistics.init(zero_input(space).shape)
        stats = update_statistics(space, stats, jnp.asarray(self.demonstrations.obs))
        assert stats is not None
        action = jnp.zeros(env.action_space.shape, env.action_space.dtype)
        params = self._network.init(key, self._input(env, stats, jnp.zeros(space.shape, space.dtype), action))
        return DiscriminatorState(params, optimizers.init(Adam(), params), stats)

    def learn(
        self, env: Environment, state: DiscriminatorState, transitions: Transition, key: Array
    ) -> tuple[DiscriminatorState, Array, Metrics]:
        """Updates of the discriminator, then rewards from it (lines 4 and 5 of algorithm 1)."""
        fit_key, expert_key = jax.random.split(key)
        inputs = jax.vmap(lambda obs, action: self._input(env, state.obs_stats, obs, action))
        num_rows = transitions.reward.size
        agent = jax.vmap(inputs)(transitions.obs, transitions.action).reshape(num_rows, -1)
        rows = jax.random.randint(expert_key, (num_rows,), 0, self.demonstrations.num_rows)
        demonstrations = self.demonstrations
        expert = inputs(jnp.asarray(demonstrations.obs)[rows], jnp.asarray(demonstrations.action)[rows])

        def minibatch(learner: tuple[PyTree, PyTree], indices: Array, key: Array) -> tuple[tuple, Metrics]:
            params, opt_state = learner
            grads, metrics = jax.grad(self._loss, has_aux=True)(params, expert[indices], agent[indices], key)
            return optimizers.update(Adam(), self.learning_rate, grads, opt_state, params), metrics

        (params, opt_state), metrics = minibatch_epochs(
            minibatch, (state.params, state.opt_state), fit_key, num_rows, self.num_epochs, self.num_minibatches
        )
        reward = self._reward(jax.vmap(lambda x: self._logit(params, x))(agent)).reshape(transitions.reward.shape)
        metrics = {f"discriminator_{name}": mean for name, mean in metrics.items()}
        return DiscriminatorState(params, opt_state, state.obs_stats), reward, metrics | {"reward": Mean.of(reward)}

    def logit(self, env: Environment, state: DiscriminatorState, obs: Array, action: Array) -> Array:
        """The logit x of one step: its log density ratio between expert and agent, where it has been learned."""
        return self._logit(state.params, self._input(env, state.obs_stats, obs, action))

    # Pieces

    @property
    def _network(self) -> Logit:
        return Logit(self.hidden_sizes)

    def _logit(self, params: PyTree, x: Array) -> Array:
        return jnp.asarray(self._network.apply(params, x))

    def _input(self, env: Environment, stats: RunningStatistics, obs: Array, action: Array) -> Array:
        """Network input of one step: standardised observation and action in units of networks, flat."""
        space: Any = env.action_space
        label = label_of(space, action)
        label = jax.nn.one_hot(label, space.n, dtype=jnp.float32) if isinstance(space, Discrete) else label
        return jnp.concatenate([jnp.ravel(preprocess(env.observation_space, stats, obs)), jnp.ravel(label)])

    def _reward(self, x: Array) -> Array:
        if self.sign is Sign.POSITIVE:
            return jax.nn.softplus(x)
        return -jax.nn.softplus(-x) if self.sign is Sign.NEGATIVE else x

    def _loss(self, params: PyTree, expert: Array, agent: Array, key: Array) -> tuple[Array, Metrics]:
        """Cross-entropy - entropy + gradient penalty over equally many steps of both, ``[n, size]``."""
        logit = jax.vmap(lambda x: self._logit(params, x))
        expert_logit, agent_logit = logit(expert), logit(agent)
        cross_entropy = jnp.mean(jax.nn.softplus(-expert_logit)) + jnp.mean(jax.nn.softplus(agent_logit))
        both = jnp.concatenate([expert_logit, agent_logit])
        # Entropy of a coin with logit x: log(1 + e^x) - x sigmoid(x).
        entropy = jnp.mean(jax.nn.softplus(both) - both * jax.nn.sigmoid(both))
        share = jax.random.uniform(key, (len(expert), 1), jnp.float32)
        between = agent + jnp.broadcast_to(share, expert.shape) * (expert - agent)
        slopes = jax.vmap(jax.grad(lambda x: self._logit(params, x)))(between)
        # Plus a tiny number: the root has no derivative at 0.
        norm = jnp.sqrt(jnp.sum(jnp.square(slopes), axis=-1) + 1e-12)
        penalty = jnp.mean(jnp.square(norm - 1.0))
        loss = cross_entropy - self.entropy_coef * entropy + self.gradient_penalty * penalty
        metrics = {
            "loss": Mean.of(cross_entropy),
            "expert_accuracy": Mean.of(expert_logit > 0),
            "agent_accuracy": Mean.of(agent_logit < 0),
        }
        return loss, metrics
