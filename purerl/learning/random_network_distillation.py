"""Random network distillation: a bonus for observations that were rarely seen.

Source: Burda et al. 2018, "Exploration by random network distillation", arXiv:1810.12894.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from purerl import struct
from purerl.experience.preprocessing import zero_input
from purerl.layers.dense import Dense
from purerl.learning import optimizers
from purerl.learning.minibatches import minibatch_epochs
from purerl.learning.optimizers import Adam
from purerl.math import running_statistics
from purerl.math.returns import discounted_return
from purerl.math.running_statistics import RunningStatistics
from purerl.networks import MLP, encode
from purerl.types import Array, Environment, Mean, Metrics, PyTree, Scalar, Transition

_CLIP = 5.0
"""Bound of standardised observations (their section 2.4)."""


class Features(nn.Module):
    """A vector of features of one observation: dense layers with ReLU, and a linear one.

    Attributes:
        hidden_sizes: width of each dense layer.
        num_features: length of the vector.
    """

    hidden_sizes: tuple[int, ...]
    num_features: int

    @nn.compact
    def __call__(self, obs: Array) -> Array:
        """Features ``[num_features]`` of a network input of any shape."""
        return Dense(self.num_features, kernel_init=nn.initializers.orthogonal())(MLP(self.hidden_sizes, nn.relu)(obs))


@struct.dataclass
class RNDState:
    """State of random network distillation.

    Attributes:
        target_params: parameters of the random network; they never change.
        params: parameters of the predictor.
        opt_state: state of its optimiser.
        obs_stats: running statistics of observations, which standardise the inputs of both networks.
        return_stats: running statistics of the discounted returns of bonuses, which scale them.
        discounted_return: float32 ``[num_envs]``, running, for `return_stats`.
    """

    target_params: PyTree
    params: PyTree
    opt_state: PyTree
    obs_stats: RunningStatistics
    return_stats: RunningStatistics
    discounted_return: Array = struct.field(per_shard=True)


@struct.dataclass
class RandomNetworkDistillation:
    """Rewards with a bonus for novelty: the error of a network that predicts the features of a random one.

    ::

        r_t = r^env_t + coef * b_t / std(sum gamma^k b),    b_t = mean |f_predictor(s_{t+1}) - f_random(s_{t+1})|^2

    The predictor learns from every batch, so the bonus falls where observations were seen often. Deviations from the
    paper: one value for both kinds of reward, hence with the task's discount factor and with episodes that end for
    both; statistics begin with the first batch and not with steps of a random policy.
    """

    coef: Scalar = struct.field(default=1.0, help="weight of the bonus beside rewards", within="[0, inf)")
    learning_rate: Scalar = struct.field(default=1e-3, help="step size of Adam for the predictor", within="[0, inf)")
    gamma: Scalar = struct.field(
        default=0.99, help="discount factor of the returns that scale the bonus", within="[0, 1]"
    )
    num_epochs: int = struct.field(
        default=1, static=True, help="passes of the predictor over each batch", within="[1, inf)"
    )
    num_minibatches: int = struct.field(
        default=4, static=True, help="updates of the predictor per epoch", within="[1, inf)"
    )
    hidden_sizes: tuple[int, ...] = struct.field(
        default=(64, 64), static=True, help="width of each dense layer of both networks", within="[1, inf)"
    )
    num_features: int = struct.field(
        default=32, static=True, help="features that the predictor predicts", within="[1, inf)"
    )

    def __post_init__(self) -> None:
        struct.check_fields(self)
        MLP(self.hidden_sizes)  # says what is wrong with sizes
        object.__setattr__(self, "hidden_sizes", tuple(self.hidden_sizes))

    def init(self, env: Environment, num_envs: int, key: Array) -> RNDState:
        """Two networks with independent random parameters, and empty statistics."""
        target_key, predictor_key = jax.random.split(key)
        obs = zero_input(env.observation_space)
        params = self._network.init(predictor_key, obs)
        return RNDState(
            target_params=self._network.init(target_key, obs),
            params=params,
            opt_state=optimizers.init(Adam(), params),
            obs_stats=running_statistics.init(obs.shape),
            return_stats=running_statistics.init(()),
            discounted_return=jnp.zeros(num_envs, jnp.float32),
        )

    def learn(
        self, env: Environment, state: RNDState, transitions: Transition, key: Array
    ) -> tuple[RNDState, Array, Metrics]:
        """Rewards with the bonus of true successors; then an update of the predictor."""
        features = encode(env.observation_space, transitions.next_obs)
        obs_stats = running_statistics.update(state.obs_stats, features)
        obs = running_statistics.standardize(obs_stats, features, _CLIP)
        target = self._features(state.target_params, obs)
        bonus = jnp.mean(jnp.square(self._features(state.params, obs) - target), axis=-1)
        discounted, returns = jax.vmap(discounted_return, in_axes=(0, 0, None, 0))(
            bonus, transitions.done, self.gamma, state.discounted_return
        )
        return_stats = running_statistics.update(state.return_stats, returns)
        scaled = self.coef * running_statistics.scale(return_stats, bonus)

        num_rows = transitions.reward.size
        obs, target = (leaf.reshape(num_rows, *leaf.shape[2:]) for leaf in (obs, target))
        (params, opt_state), metrics = self._fit((state.params, state.opt_state), obs, target, key)
        state = RNDState(state.target_params, params, opt_state, obs_stats, return_stats, discounted)
        metrics |= {"bonus": Mean.of(scaled)}
        return state, transitions.reward + scaled, metrics

    @property
    def _network(self) -> Features:
        return Features(self.hidden_sizes, self.num_features)

    def _features(self, params: PyTree, obs: Array) -> Array:
        """Features ``[num_envs, time, num_features]`` of network inputs ``[num_envs, time, ...]``."""
        return jax.vmap(jax.vmap(lambda obs: self._network.apply(params, obs)))(obs)  # type: ignore[return-value]

    def _fit(
        self, learner: tuple[PyTree, PyTree], obs: Array, target: Array, key: Array
    ) -> tuple[tuple[PyTree, PyTree], Metrics]:
        """Epochs of minibatches of squared errors of the predictor (their section 2.2)."""

        def loss(params: PyTree, obs: Array, target: Array) -> Array:
            prediction = jax.vmap(lambda obs: self._network.apply(params, obs))(obs)
            return jnp.mean(jnp.square(prediction - target))  # type: ignore[operator]

        def minibatch(
            learner: tuple[PyTree, PyTree], indices: Array, key: Array
        ) -> tuple[tuple[PyTree, PyTree], Metrics]:
            params, opt_state = learner
            error, grads = jax.value_and_grad(loss)(params, obs[indices], target[indices])
            learner = optimizers.update(Adam(), self.learning_rate, grads, opt_state, params)
            return learner, {"prediction_error": Mean.of(error)}

        return minibatch_epochs(minibatch, learner, key, len(target), self.num_epochs, self.num_minibatches)
