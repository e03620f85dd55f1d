"""Parallelised Q-network (Gallici et al. 2024, "Simplifying Deep Temporal Difference Learning", arXiv:2407.04811).

Q-learning without a replay and without a target network. Many environments side by side make batches varied enough, and
layer normalisation in the network keeps temporal differences from diverging (their section 3). Act epsilon-greedily for
a fixed number of steps, compute Q(lambda) targets once with the network that acted, then regress on them for several
epochs of minibatches, with rectified Adam (Liu et al. 2020, arXiv:1908.03265).

Targets are those of Peng's Q(lambda): they follow the actions that were taken, also those that were not greedy, and cut
no trace there. A time limit is not the end of the task: there the value of the true successor is bootstrapped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.tree_util import Partial

from purerl import normalize, struct
from purerl.errors import InputError
from purerl.minibatches import shuffled_indices
from purerl.networks import MLP
from purerl.q_networks import QNetwork
from purerl.returns import lambda_returns
from purerl.sampler import SamplerState, collect, init_sampler
from purerl.schedules import env_steps, schedule_factor
from purerl.spaces import Discrete
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree, Transition
from purerl.value_heads import ExpectedValue
from purerl.views import blank_view, view


@struct.dataclass
class PQNState:
    """Everything that changes while PQN trains.

    Attributes:
        key: randomness of all that is still to come.
        iteration: int32, iterations done.
        sampler: environments in flight and statistics of what was seen there.
        params: network parameters.
        opt_state: of the optimiser.
    """

    key: Array
    iteration: Array = struct.field(shared=True)
    sampler: SamplerState
    params: PyTree
    opt_state: PyTree


@struct.dataclass
class Batch:
    """What the update learns from; leaves ``[num_envs * rollout_length, ...]``."""

    obs: Array
    action: Array
    target: Array


@struct.dataclass
class PQN:
    """PQN for discrete actions. See the module for the method, the fields for the hyper-parameters."""

    env: Environment
    network: QNetwork = struct.field(
        default=QNetwork(MLP((128, 128), nn.relu, layer_norm=True), ExpectedValue(huber_delta=None)),
        static=True,
        help="trunk, head and streams",
    )
    num_envs: int = struct.field(default=32, static=True, help="environments stepped side by side", within="[1, inf)")
    rollout_length: int = struct.field(
        default=64, static=True, help="steps in each environment per iteration", within="[1, inf)"
    )
    num_epochs: int = struct.field(default=4, static=True, help="passes over each batch", within="[1, inf)")
    num_minibatches: int = struct.field(default=16, static=True, help="updates per epoch", within="[1, inf)")
    learning_rate: float = struct.field(default=5e-4, help="step size of rectified Adam", within="[0, inf)")
    schedule: Callable[[Array], Array] | None = struct.field(
        default=None, help="environment steps to a factor of the learning rate; None is constant"
    )
    gamma: float = struct.field(default=0.99, help="discount factor per step", within="[0, 1]")
    td_lambda: float = struct.field(default=0.65, help="decay of the traces in the targets", within="[0, 1]")
    initial_epsilon: float = struct.field(default=1.0, help="share of random actions at first", within="[0, 1]")
    final_epsilon: float = struct.field(default=0.05, help="share of random actions in the end", within="[0, 1]")
    epsilon_steps: float = struct.field(
        default=100_000.0, help="environment steps until that, falling linearly", within="[1, inf)"
    )
    max_grad_norm: float = struct.field(default=10.0, help="clip the gradient's global norm to this", within="(0, inf)")
    normalize_observations: bool = struct.field(
        default=False, static=True, help="standardise observations by running mean and deviation, clipped to +-10"
    )
    reward_scale: float = struct.field(default=1.0, help="multiply rewards by this", within="(0, inf)")

    def __post_init__(self) -> None:
        struct.check_fields(self)
        if not isinstance(self.env, Environment):
            raise InputError(f"env must be an Environment such as purerl.make('CartPole-v1'), got {self.env!r}")
        if not isinstance(self.env.action_space, Discrete):
            raise InputError(f"pqn needs discrete actions, got {self.env.action_space}: use sac, td3, ddpg or ppo")
        if self.steps_per_iteration % self.num_minibatches:
            raise InputError(
                f"num_envs * rollout_length = {self.steps_per_iteration} steps cannot be divided into "
                f"num_minibatches = {self.num_minibatches} equal minibatches"
            )
        # Shapes only: a network that does not fit the observations says so here, not while compiling.
        jax.eval_shape(self._network.init, jax.random.key(0), blank_view(self.env.observation_space))
        struct.wrap_functions(self, "schedule")

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps of one iteration."""
        return self.num_envs * self.rollout_length

    @property
    def rows_at_once(self) -> int:
        """Rows that networks see at once while learning."""
        return self.steps_per_iteration // self.num_minibatches

    @property
    def warmup_iterations(self) -> int:
        """None: there is no replay to fill."""
        return 0

    def init(self, key: Array) -> PQNState:
        """Fresh environments, network and statistics."""
        key, params_key, reset_key = jax.random.split(key, 3)
        params = self._network.init(params_key, blank_view(self.env.observation_space))
        return PQNState(
            key=key,
            iteration=jnp.int32(0),
            sampler=init_sampler(self, reset_key, (), normalize_rewards=False),
            params=params,
            opt_state=self._optimizer(jnp.float32(0.0)).init(params),
        )

    def policy(self, state: PQNState, *, explore: bool) -> Policy:
        """Epsilon-greedy, with noise on noisy layers, as in training (``explore=True``); or greedy."""
        if explore:
            epsilon = self._epsilon(state.iteration)
            return Policy(Partial(PQN._explore, self, state.params, state.sampler.obs_stats, epsilon))
        return Policy(Partial(PQN._greedy, self, state.params, state.sampler.obs_stats))

    def step(self, state: PQNState) -> tuple[PQNState, Metrics]:
        """Collect, estimate, update."""
        key, collect_key, update_key = jax.random.split(state.key, 3)
        policy = self.policy(state, explore=True)
        sampler, transitions, episodes = collect(self, state.sampler, policy, collect_key)
        batch = self._estimate(state, transitions)
        learning_rate = self.learning_rate * schedule_factor(self.schedule, state.iteration, self.steps_per_iteration)
        params, opt_state, metrics = self._update(state, batch, learning_rate, update_key)
        metrics = {
            **episodes,
            **metrics,
            "epsilon": Mean.of(self._epsilon(state.iteration)),
            "learning_rate": Mean.of(learning_rate),
        }
        state = PQNState(
            key=key,
            iteration=state.iteration + 1,
            sampler=sampler,
            params=params,
            opt_state=opt_state,
        )
        return state, metrics

    # Network

    @property
    def _network(self) -> QNetwork:
        return self.network.clone(action_space=self.env.action_space)

    def _output(self, params: PyTree, obs: Array, noise_key: Array | None = None) -> Any:
        """``[num_actions, head.num_outputs]`` for one observation; with a key, noisy layers are noisy."""
        return self._network.apply(params, obs, rngs=None if noise_key is None else {"noise": noise_key})

    # Acting

    def _greedy(
        self, params: PyTree, obs_stats: normalize.RunningStatistics | None, key: Array, carry: tuple, obs: Array
    ) -> tuple[Array, tuple, dict[str, Array]]:
        return self._best(self._output(params, view(self.env.observation_space, obs_stats, obs))), carry, {}

    def _explore(
        self,
        params: PyTree,
        obs_stats: normalize.RunningStatistics | None,
        epsilon: Array,
        key: Array,
        carry: tuple,
        obs: Array,
    ) -> tuple[Array, tuple, dict[str, Array]]:
        noise_key, whether_key, action_key = jax.random.split(key, 3)
        best = self._best(self._output(params, view(self.env.observation_space, obs_stats, obs), noise_key))
        random = self.env.action_space.sample(action_key)
        return jnp.where(jax.random.uniform(whether_key) < epsilon, random, best), carry, {}

    def _best(self, output: Array) -> Array:
        return jnp.argmax(self.network.head.value(output)).astype(jnp.int32)

    def _epsilon(self, iteration: Array) -> Array:
        share = jnp.minimum(env_steps(iteration, self.steps_per_iteration) / self.epsilon_steps, 1.0)
        return jnp.asarray(self.initial_epsilon + share * (self.final_epsilon - self.initial_epsilon), jnp.float32)

    # Estimating

    def _estimate(self, state: PQNState, transitions: Transition) -> Batch:
        """Q(lambda) targets (their section 4), flattened for the update."""
        space, stats = self.env.observation_space, state.sampler.obs_stats
        value_of = jax.vmap(jax.vmap(lambda obs: self.network.head.value(self._output(state.params, obs)).max()))
        target = jax.vmap(lambda_returns, in_axes=(0, 0, 0, 0, None, None))(
            transitions.reward,
            value_of(view(space, stats, transitions.next_obs)),
            transitions.terminated,
            transitions.done,
            self.gamma,
            self.td_lambda,
        )
        batch = Batch(obs=view(space, stats, transitions.obs), action=transitions.action, target=target)
        return jax.tree.map(lambda leaf: leaf.reshape(self.steps_per_iteration, *leaf.shape[2:]), batch)

    # Learning

    def _optimizer(self, learning_rate: Array) -> optax.GradientTransformation:
        return optax.chain(optax.clip_by_global_norm(self.max_grad_norm), optax.radam(learning_rate))

    def _update(
        self, state: PQNState, batch: Batch, learning_rate: Array, key: Array
    ) -> tuple[PyTree, PyTree, Metrics]:
        """Epochs of shuffled minibatches, each sample once per epoch."""
        optimizer = self._optimizer(learning_rate)

        def minibatch(learner: tuple[PyTree, PyTree], inputs: tuple[Array, Array]) -> tuple[tuple, Metrics]:
            params, opt_state = learner
            indices, noise_key = inputs
            sample = jax.tree.map(lambda leaf: leaf[indices], batch)
            grads, metrics = jax.grad(self._loss, has_aux=True)(params, sample, noise_key)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            metrics["grad_norm"] = Mean.of(optax.tree.norm(grads))
            return (optax.apply_updates(params, updates), opt_state), metrics

        def epoch(learner: tuple[PyTree, PyTree], key: Array) -> tuple[tuple, Metrics]:
            order_key, noise_key = jax.random.split(key)
            order = shuffled_indices(order_key, self.steps_per_iteration).reshape(self.num_minibatches, -1)
            learner, metrics = lax.scan(minibatch, learner, (order, jax.random.split(noise_key, self.num_minibatches)))
            return learner, jax.tree.map(lambda leaf: leaf.sum(0), metrics)

        learner, metrics = lax.scan(epoch, (state.params, state.opt_state), jax.random.split(key, self.num_epochs))
        return *learner, jax.tree.map(lambda leaf: leaf.sum(0), metrics)

    def _loss(self, params: PyTree, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """How far the values of the actions taken are from their targets, over one minibatch."""
        head = self.network.head

        def error(sample: Batch) -> tuple[Array, Array]:
            output = self._output(params, sample.obs, key)[sample.action]
            # The target is the whole return, with nothing left to bootstrap.
            loss, _ = head.loss(output, sample.target, jnp.float32(0.0), output)
            return loss, head.value(output)

        loss, value = jax.vmap(error)(batch)
        loss = jnp.mean(loss)
        td_error = jnp.abs(batch.target - value)
        return loss, {"loss": Mean.of(loss), "q_value": Mean.of(value), "td_error": Mean.of(td_error)}
