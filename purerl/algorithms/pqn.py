"""Parallelised Q-network (Gallici et al. 2024, "Simplifying Deep Temporal Difference Learning", arXiv:2407.04811).

Q-learning without a replay and without a target network. Many environments side by side make batches varied enough, and
layer normalisation in the network keeps temporal differences from diverging (their section 3). Act epsilon-greedily for
a fixed number of steps, compute Q(lambda) targets once with the network that acted, then regress on them for several
epochs of minibatches, with rectified Adam (Liu et al. 2020, arXiv:1908.03265).

Targets are those of Peng's Q(lambda): they follow the actions that were taken, also those that were not greedy, and cut
no trace there. A time limit is not the end of the task: there the value of the true successor is bootstrapped.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from purerl import struct
from purerl.experience.collection import Experience, ExperienceState
from purerl.experience.policies import EpsilonGreedy
from purerl.experience.preprocessing import zero_input
from purerl.experience.reward_models import RewardModel
from purerl.layers.value_heads import ExpectedValue
from purerl.learning import checks, hyperparameters, optimizers, schedules
from purerl.learning.minibatches import minibatch_epochs
from purerl.learning.optimizers import Optimizer, RAdam
from purerl.learning.schedules import LinearSchedule
from purerl.math.estimates import batch_lambda_returns
from purerl.networks import MLP
from purerl.q_networks import QNetwork
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree, Scalar, Transition


@struct.dataclass
class PQNState:
    """Everything that changes while PQN trains.

    Attributes:
        key: randomness of all later iterations.
        iteration: int32, iterations done.
        experience: environments in flight and running statistics.
        params: network parameters.
        opt_state: state of the optimiser.
    """

    key: Array
    iteration: Array = struct.field(shared=True)
    experience: ExperienceState
    params: PyTree
    opt_state: PyTree


@struct.dataclass
class TargetBatch:
    """Batch for the regression of action values; leaves ``[num_envs * rollout_length, ...]``.

    Attributes:
        obs: network input.
        action: action taken.
        target: regression target of its value.
    """

    obs: Array
    action: Array
    target: Array


@struct.dataclass
class PQN:
    """PQN for discrete actions. See the module for the method."""

    env: Environment
    network: QNetwork = struct.field(
        default=QNetwork(MLP((128, 128), nn.relu, layer_norm=True), ExpectedValue(huber_delta=None)),
        static=True,
        help="trunk, head and streams",
    )
    num_envs: int = hyperparameters.num_envs(32)
    rollout_length: int = hyperparameters.rollout_length(64)
    num_epochs: int = hyperparameters.num_epochs(4)
    num_minibatches: int = hyperparameters.num_minibatches(16)
    learning_rate: Scalar = hyperparameters.learning_rate(5e-4)
    optimizer: Optimizer = hyperparameters.optimizer(RAdam(max_grad_norm=10.0))
    gamma: Scalar = hyperparameters.gamma()
    td_lambda: Scalar = struct.field(default=0.65, help="lambda of the Q(lambda) targets", within="[0, 1]")
    epsilon: Scalar = hyperparameters.epsilon(LinearSchedule(1.0, 0.05, 100_000.0))
    normalize_observations: bool = hyperparameters.normalize_observations()
    reward_scale: Scalar = hyperparameters.reward_scale()
    reward_model: RewardModel = hyperparameters.reward_model()

    def __post_init__(self) -> None:
        struct.check_fields(self)
        checks.check_discrete("pqn", self.env, "sac, td3, ddpg or ppo")
        checks.check_minibatches(self.num_envs, self.rollout_length, self.num_minibatches)
        checks.check_network(self._network, self.env)

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps of one iteration."""
        return self.num_envs * self.rollout_length

    @property
    def minibatch_rows(self) -> int:
        """Rows that networks process together while learning."""
        return self.steps_per_iteration // self.num_minibatches

    @property
    def warmup_iterations(self) -> int:
        """0: there is no replay to fill."""
        return 0

    def init(self, key: Array) -> PQNState:
        """Fresh environments, network and statistics."""
        key, params_key, reset_key = jax.random.split(key, 3)
        params = self._network.init(params_key, zero_input(self.env.observation_space))
        return PQNState(
            key=key,
            iteration=jnp.int32(0),
            experience=self._experience.init(reset_key),
            params=params,
            opt_state=optimizers.init(self.optimizer, params),
        )

    def policy(self, state: PQNState, *, explore: bool) -> Policy:
        """Epsilon-greedy, with noise on noisy layers, as in training (``explore=True``); or greedy."""
        epsilon = schedules.at(self, state.iteration).epsilon
        actor = EpsilonGreedy(self.env, self._network)
        return actor.policy(state.params, state.experience.obs_stats, epsilon, explore=explore)

    def step(self, state: PQNState) -> tuple[PQNState, Metrics]:
        """Collect, estimate, update."""
        now = schedules.at(self, state.iteration)
        key, collect_key, update_key = jax.random.split(state.key, 3)
        policy = now.policy(state, explore=True)
        experience, transitions, episodes = now._experience.collect(state.experience, policy, collect_key)
        batch = now._estimate(state, transitions)
        params, opt_state, metrics = now._update(state, batch, update_key)
        metrics |= {**episodes, "epsilon": Mean.of(now.epsilon), "learning_rate": Mean.of(now.learning_rate)}
        return PQNState(key, state.iteration + 1, experience, params, opt_state), metrics

    # Pieces

    @property
    def _network(self) -> QNetwork:
        return self.network.clone(action_space=self.env.action_space)

    def _output(self, params: PyTree, obs: Array, noise_key: Array | None = None) -> Array:
        """``[num_actions, head.num_outputs]`` for one observation; with a key, noisy layers are noisy."""
        return jnp.asarray(self._network.apply(params, obs, rngs=None if noise_key is None else {"noise": noise_key}))

    @property
    def _experience(self) -> Experience:
        return Experience(
            self.env,
            self.num_envs,
            self.rollout_length,
            self.normalize_observations,
            self.reward_scale,
            reward_model=self.reward_model,
        )

    # Learning

    def _estimate(self, state: PQNState, transitions: Transition) -> TargetBatch:
        """Q(lambda) targets (their section 4), flattened for the update."""
        obs, next_obs = self._experience.preprocess_steps(state.experience, transitions)
        value_of = jax.vmap(jax.vmap(lambda obs: self.network.head.value(self._output(state.params, obs)).max()))
        target = batch_lambda_returns(transitions, value_of(next_obs), self.gamma, self.td_lambda)
        batch = TargetBatch(obs, transitions.action, target)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)

    def _update(self, state: PQNState, batch: TargetBatch, key: Array) -> tuple[PyTree, PyTree, Metrics]:
        """Epochs of shuffled minibatches, each sample once per epoch."""

        def minibatch(learner: tuple[PyTree, PyTree], indices: Array, key: Array) -> tuple[tuple, Metrics]:
            params, opt_state = learner
            sample = jax.tree.map(lambda leaf: leaf[indices], batch)
            grads, metrics = jax.grad(self._loss, has_aux=True)(params, sample, key)
            metrics["grad_norm"] = optimizers.gradient_norm(grads)
            return optimizers.update(self.optimizer, self.learning_rate, grads, opt_state, params), metrics

        learner, metrics = minibatch_epochs(
            minibatch,
            (state.params, state.opt_state),
            key,
            self.steps_per_iteration,
            self.num_epochs,
            self.num_minibatches,
        )
        return *learner, metrics

    def _loss(self, params: PyTree, batch: TargetBatch, key: Array) -> tuple[Array, Metrics]:
        """Regression loss of the values of the actions taken, over one minibatch."""
        head = self.network.head

        def error(sample: TargetBatch) -> tuple[Array, Array]:
            output = self._output(params, sample.obs, key)[sample.action]
            # The target is the whole return, with nothing left to bootstrap.
            loss, _ = head.loss(output, sample.target, jnp.float32(0.0), output)
            return loss, head.value(output)

        loss, value = jax.vmap(error)(batch)
        loss = jnp.mean(loss)
        td_error = jnp.abs(batch.target - value)
        return loss, {"loss": Mean.of(loss), "q_value": Mean.of(value), "td_error": Mean.of(td_error)}
