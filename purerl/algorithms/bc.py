"""Behaviour cloning (Pomerleau 1991, "Efficient training of artificial neural networks for autonomous navigation").

Supervised learning of an expert's actions from its observations: maximum likelihood of any policy, or the squared error
of its mode. Nothing is collected and no reward is used. One iteration is `num_epochs` passes over the demonstrations in
shuffled minibatches; what the training loop counts as steps are rows of demonstrations learned from.

The loss is small where the expert has been. Errors lead the policy away from there, and add up with the square of the
length of an episode (Ross & Bagnell 2010, theorem 2.1); `dagger` is the remedy.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from purerl import struct
from purerl.demonstrations import Demonstrations
from purerl.errors import InputError
from purerl.experience.policies import Actor
from purerl.experience.preprocessing import preprocess, update_statistics, zero_input
from purerl.learning import checks, hyperparameters, optimizers, schedules
from purerl.learning.cloning import Loss, check_loss, cloning_loss, label_of
from purerl.learning.minibatches import minibatch_epochs
from purerl.learning.optimizers import Adam, Optimizer
from purerl.math import running_statistics
from purerl.networks import ActorCritic
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree, Scalar


@struct.dataclass
class BCState:
    """Everything that changes while behaviour cloning trains.

    Attributes:
        key: randomness of all later iterations.
        iteration: int32, iterations done.
        obs_stats: statistics of the demonstrated observations; None unless they are normalised.
        params: network parameters.
        opt_state: state of the optimiser.
    """

    key: Array
    iteration: Array = struct.field(shared=True)
    obs_stats: running_statistics.RunningStatistics | None
    params: PyTree
    opt_state: PyTree


@struct.dataclass
class BC:
    """Behaviour cloning for discrete and continuous actions. See the module for the method."""

    env: Environment
    demonstrations: Demonstrations = struct.field(help="episodes of the expert, as purerl record writes them")
    network: ActorCritic = struct.field(default=ActorCritic(), static=True, help="trunk and heads; no value is used")
    loss: Loss = struct.field(
        default=Loss.LIKELIHOOD,
        static=True,
        help="negative log-likelihood of the expert's actions, or squared error of the policy's mode",
    )
    num_epochs: int = hyperparameters.num_epochs(1, "passes over the demonstrations per iteration")
    batch_size: int = struct.field(
        default=64, static=True, help="rows per update, all where there are fewer", within="[1, inf)"
    )
    held_out: float = struct.field(
        default=0.1,
        static=True,
        help="share of the demonstrations, the last ones, that is only used to report a loss",
        within="[0, 1)",
    )
    learning_rate: Scalar = hyperparameters.learning_rate(1e-3)
    optimizer: Optimizer = hyperparameters.optimizer(Adam())
    normalize_observations: bool = struct.field(
        default=False,
        static=True,
        help="standardise observations by mean and deviation of the demonstrations, clipped to +-10",
    )

    def __post_init__(self) -> None:
        struct.check_fields(self)
        checks.check_environment(self.env)
        if not isinstance(self.demonstrations, Demonstrations):
            raise InputError(f"demonstrations must be purerl.Demonstrations, got {self.demonstrations!r}")
        self.demonstrations.check_spaces(self.env)
        check_loss(self.loss, self.network, self.env.action_space)
        if not self._num_rows:
            raise InputError(f"held_out = {self.held_out} leaves none of {self.demonstrations.num_rows} rows")
        jax.eval_shape(self._init_params, jax.random.key(0))  # a network that does not fit says so here

    @property
    def steps_per_iteration(self) -> int:
        """Rows of demonstrations learned from in one iteration; no step is taken in the environment."""
        return self.num_epochs * self._num_minibatches * self.minibatch_rows

    @property
    def minibatch_rows(self) -> int:
        """Rows that networks process together while learning."""
        return self._num_rows // self._num_minibatches

    @property
    def warmup_iterations(self) -> int:
        """0: there is no replay to fill."""
        return 0

    def init(self, key: Array) -> BCState:
        """A fresh network, and the statistics of the demonstrations."""
        key, params_key = jax.random.split(key)
        params = self._init_params(params_key)
        space = self.env.observation_space
        empty = running_statistics.init(zero_input(space).shape) if self.normalize_observations else None
        return BCState(
            key=key,
            iteration=jnp.int32(0),
            obs_stats=update_statistics(space, empty, jnp.asarray(self.demonstrations.obs)[: self._num_rows]),
            params=params,
            opt_state=optimizers.init(self.optimizer, params),
        )

    def policy(self, state: BCState, *, explore: bool) -> Policy:
        """Sample actions (``explore=True``) or take the most likely ones, in the environment's own units."""
        return Actor(self.env, self._network).policy(state.params, state.obs_stats, explore=explore)

    def step(self, state: BCState) -> tuple[BCState, Metrics]:
        """Epochs of shuffled minibatches, each row once per epoch."""
        now = schedules.at(self, state.iteration)
        key, update_key = jax.random.split(state.key)
        (params, opt_state), metrics = minibatch_epochs(
            lambda learner, indices, _: now._update(state, learner, indices),
            (state.params, state.opt_state),
            update_key,
            self._num_rows,
            self.num_epochs,
            self._num_minibatches,
        )
        if self._num_rows < self.demonstrations.num_rows:
            rows = jnp.arange(self._num_rows, self.demonstrations.num_rows)
            _, held_out = self._loss(params, state, rows)
            metrics |= {f"held_out_{name}": mean for name, mean in held_out.items()}
        # No episode is played, so that there is none to report.
        none = Mean(jnp.float32(0.0), jnp.float32(0.0))
        metrics |= {"episode_return": none, "episode_length": none, "learning_rate": Mean.of(now.learning_rate)}
        return BCState(key, state.iteration + 1, state.obs_stats, params, opt_state), metrics

    # Pieces

    @property
    def _network(self) -> Any:
        return self.network.clone(action_space=self.env.action_space)

    @property
    def _num_rows(self) -> int:
        """Rows to learn from."""
        rows = self.demonstrations.num_rows
        return rows - round(self.held_out * rows)

    @property
    def _num_minibatches(self) -> int:
        return max(1, self._num_rows // self.batch_size)

    def _init_params(self, key: Array) -> PyTree:
        if jax.tree.leaves(self.network.initial_carry()):
            raise InputError("bc learns from single steps: it needs a network without memory")
        return self._network.init(
            key, self.network.initial_carry(), zero_input(self.env.observation_space), method="act"
        )

    # Learning

    def _update(
        self, state: BCState, learner: tuple[PyTree, PyTree], indices: Array
    ) -> tuple[tuple[PyTree, PyTree], Metrics]:
        """One gradient step on one minibatch."""
        params, opt_state = learner
        grads, metrics = jax.grad(self._loss, has_aux=True)(params, state, indices)
        metrics["grad_norm"] = optimizers.gradient_norm(grads)
        return optimizers.update(self.optimizer, self.learning_rate, grads, opt_state, params), metrics

    def _loss(self, params: PyTree, state: BCState, indices: Array) -> tuple[Array, Metrics]:
        """Mean loss over these rows."""
        obs = jnp.asarray(self.demonstrations.obs)[indices]
        action = jnp.asarray(self.demonstrations.action)[indices]
        label = jax.vmap(lambda action: label_of(self.env.action_space, action))(action)
        obs = preprocess(self.env.observation_space, state.obs_stats, obs)
        return cloning_loss(self._network, params, self.loss, obs, label)
