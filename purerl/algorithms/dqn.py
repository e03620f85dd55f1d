"""Deep Q-learning (Mnih et al. 2015, "Human-level control through deep reinforcement learning"), up to Rainbow.

Act epsilon-greedily, remember, and regress the value of past actions on a target made from a slowly moving copy of
the network. The pieces of Rainbow (Hessel et al. 2018, arXiv:1710.02298) can be had one by one: double Q-learning (van
Hasselt et al. 2016, arXiv:1509.06461), prioritised replay (Schaul et al. 2016, arXiv:1511.05952), n-step targets; and,
as parts of the network, dueling streams, noisy layers and a distribution of returns (`QNetwork`, `value_heads`).

A time limit is not the end of the task: there the value of the true successor is bootstrapped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.tree_util import Partial

from purerl import normalize, struct
from purerl.acting import uniform
from purerl.collector import Collector, CollectorState
from purerl.errors import InputError
from purerl.q_networks import QNetwork, target_gap
from purerl.replay import Experience, PrioritizedReplay, Replay
from purerl.schedules import env_steps, schedule_factor
from purerl.spaces import Discrete
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree
from purerl.views import blank_view, view


@struct.dataclass
class DQNState:
    """Everything that changes while DQN trains.

    Attributes:
        key: randomness of all that is still to come.
        iteration: int32, iterations done, those of the warm-up included.
        num_updates: int32, gradient updates done.
        collector: environments, replay and statistics of observations.
        params: of the network.
        target_params: of its slowly moving copy.
        opt_state: of the optimiser.
    """

    key: Array
    iteration: Array = struct.field(shared=True)
    num_updates: Array = struct.field(shared=True)
    collector: CollectorState
    params: PyTree
    target_params: PyTree
    opt_state: PyTree


@struct.dataclass
class DQN:
    """DQN for discrete actions. See the module for the method, the fields for the hyper-parameters."""

    env: Environment
    network: QNetwork = struct.field(default=QNetwork(), static=True, help="trunk, head and streams")
    num_envs: int = struct.field(default=1, static=True, help="environments stepped side by side", within="[1, inf)")
    rollout_length: int = struct.field(
        default=10, static=True, help="steps in each environment per iteration", within="[1, inf)"
    )
    num_updates: int = struct.field(default=1, static=True, help="gradient updates per iteration", within="[1, inf)")
    batch_size: int = struct.field(default=128, static=True, help="samples per update", within="[1, inf)")
    buffer_size: int = struct.field(
        default=10_000, static=True, help="newest steps to learn from", within="[1, 2147483647]"
    )
    warmup_steps: int = struct.field(
        default=10_000, static=True, help="random steps before learning begins, part of the total", within="[1, inf)"
    )
    learning_rate: float = struct.field(default=2.5e-4, help="step size of Adam", within="[0, inf)")
    schedule: Callable[[Array], Array] | None = struct.field(
        default=None, help="environment steps to a factor of the learning rate; None is constant"
    )
    adam_eps: float = struct.field(default=1e-8, help="added to Adam's denominator", within="(0, inf)")
    max_grad_norm: float | None = struct.field(
        default=None, help="clip the gradient's global norm to this", within="(0, inf)"
    )
    gamma: float = struct.field(default=0.99, help="discount factor per step", within="[0, 1]")
    n_step: int = struct.field(
        default=1, static=True, help="rewards per target before it bootstraps", within="[1, inf)"
    )
    double: bool = struct.field(
        default=False, static=True, help="the network itself chooses the action whose value the target network tells"
    )
    target_period: int = struct.field(default=50, help="updates between moves of the target network", within="[1, inf)")
    tau: float = struct.field(
        default=1.0, help="how far the target network moves towards the network; 1 copies it", within="(0, 1]"
    )
    initial_epsilon: float = struct.field(default=1.0, help="share of random actions at first", within="[0, 1]")
    final_epsilon: float = struct.field(default=0.05, help="share of random actions in the end", within="[0, 1]")
    epsilon_steps: float = struct.field(
        default=250_000.0, help="environment steps until that, falling linearly", within="[1, inf)"
    )
    priority_exponent: float | None = struct.field(
        default=None, help="sample in proportion to errors to this power; none samples uniformly", within="[0, inf)"
    )
    priority_correction: float = struct.field(
        default=0.4, help="exponent of the weights that correct prioritised sampling, at first", within="[0, 1]"
    )
    priority_correction_steps: float = struct.field(
        default=500_000.0, help="environment steps until that exponent is 1, rising linearly", within="[1, inf)"
    )
    normalize_observations: bool = struct.field(
        default=False, static=True, help="standardise observations by running mean and deviation, clipped to +-10"
    )

    def __post_init__(self) -> None:
        struct.check_fields(self)
        if not isinstance(self.env, Environment):
            raise InputError(f"env must be an Environment such as purerl.make('CartPole-v1'), got {self.env!r}")
        if not isinstance(self.env.action_space, Discrete):
            raise InputError(f"dqn needs discrete actions, got {self.env.action_space}: use sac, td3, ddpg or ppo")
        self._ring.num_rollouts(self.warmup_steps)
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
        return self.batch_size

    @property
    def warmup_iterations(self) -> int:
        """Iterations of random steps that `init` takes."""
        return self._ring.num_rollouts(self.warmup_steps)

    def init(self, key: Array) -> DQNState:
        """Fresh environments and networks, and a replay that holds `warmup_steps` random steps."""
        key, params_key, warmup_key = jax.random.split(key, 3)
        params = self._network.init(params_key, blank_view(self.env.observation_space))
        random = uniform(self.env)
        return DQNState(
            key=key,
            iteration=jnp.int32(self.warmup_iterations),
            num_updates=jnp.int32(0),
            collector=self._collector.init(warmup_key, random, jnp.int32(0), self.warmup_iterations),
            params=params,
            target_params=jax.tree.map(jnp.copy, params),
            opt_state=self._optimizer(jnp.float32(0.0)).init(params),
        )

    def policy(self, state: DQNState, *, explore: bool) -> Policy:
        """Epsilon-greedy, with noise on noisy layers, as in training (``explore=True``); or greedy."""
        stats = state.collector.obs_stats
        if explore:
            return Policy(Partial(DQN._explore, self, state.params, stats, self._epsilon(state.iteration)))
        return Policy(Partial(DQN._greedy, self, state.params, stats))

    def step(self, state: DQNState) -> tuple[DQNState, Metrics]:
        """Collect, remember, learn."""
        key, collect_key, update_key = jax.random.split(state.key, 3)
        collector, episodes = self._collector.collect(state.collector, self.policy(state, explore=True), collect_key)
        state = struct.replace(state, key=key, collector=collector)
        state, metrics = lax.scan(self._update, state, jax.random.split(update_key, self.num_updates))
        metrics = {
            **episodes,
            **jax.tree.map(lambda leaf: leaf.sum(0), metrics),
            "target_gap": Mean.of(target_gap(state.params, state.target_params)),
            "epsilon": Mean.of(self._epsilon(state.iteration)),
            "learning_rate": Mean.of(self._learning_rate(state.iteration)),
        }
        return struct.replace(state, iteration=state.iteration + 1), metrics

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

    # Remembering

    @property
    def _ring(self) -> Replay:
        return Replay(self.buffer_size, self.num_envs, self.rollout_length, self.n_step)

    def _replay(self, iteration: Array) -> Replay | PrioritizedReplay:
        if self.priority_exponent is None:
            return self._ring
        share = jnp.minimum(env_steps(iteration, self.steps_per_iteration) / self.priority_correction_steps, 1.0)
        correction = self.priority_correction + share * (1.0 - self.priority_correction)
        return PrioritizedReplay(self._ring, self.priority_exponent, correction)

    @property
    def _collector(self) -> Collector:
        replay = self._replay(jnp.int32(0))
        return Collector(self.env, replay, self.normalize_observations)

    # Learning

    def _learning_rate(self, iteration: Array) -> Array:
        return self.learning_rate * schedule_factor(self.schedule, iteration, self.steps_per_iteration)

    def _optimizer(self, learning_rate: Array) -> optax.GradientTransformation:
        adam = optax.adam(learning_rate, eps=self.adam_eps)
        return adam if self.max_grad_norm is None else optax.chain(optax.clip_by_global_norm(self.max_grad_norm), adam)

    def _update(self, state: DQNState, key: Array) -> tuple[DQNState, Metrics]:
        """One gradient step on one batch."""
        sample_key, noise_key = jax.random.split(key)
        replay = self._replay(state.iteration)
        batch = replay.sample(state.collector.replay, sample_key, self.batch_size, self.gamma)
        grads, (priority, metrics) = jax.grad(self._loss, has_aux=True)(state.params, state, batch, noise_key)
        optimizer = self._optimizer(self._learning_rate(state.iteration))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        num_updates = state.num_updates + 1
        step_size = jnp.where(num_updates % self.target_period == 0, self.tau, 0.0)
        state = struct.replace(
            state,
            num_updates=num_updates,
            collector=struct.replace(
                state.collector, replay=replay.update(state.collector.replay, batch.index, priority)
            ),
            params=params,
            target_params=optax.incremental_update(params, state.target_params, step_size),
            opt_state=opt_state,
        )
        return state, {**metrics, "grad_norm": Mean.of(optax.tree.norm(grads))}

    def _loss(
        self, params: PyTree, state: DQNState, batch: Experience, key: Array
    ) -> tuple[Array, tuple[Array, Metrics]]:
        """Weighted mean over the batch, and the priority of each sample ``[batch_size]``."""
        head = self.network.head
        space, stats = self.env.observation_space, state.collector.obs_stats
        # Noise of their own for network, choice of the next action and target (Fortunato et al. 2018, section 3.1).
        noise_key, choice_key, target_key = jax.random.split(key, 3)

        def error(sample: Experience) -> tuple[Array, Array, Array, Array]:
            next_obs = view(space, stats, sample.next_obs)
            output = self._output(params, view(space, stats, sample.obs), noise_key)[sample.action]
            target_output = self._output(state.target_params, next_obs, target_key)
            judge = self._output(params, next_obs, choice_key) if self.double else target_output
            target_output = target_output[jnp.argmax(head.value(judge))]
            loss, priority = head.loss(output, sample.reward, sample.discount, target_output)
            value = head.value(output)
            return loss, priority, value, sample.reward + sample.discount * head.value(target_output) - value

        loss, priority, value, td_error = jax.vmap(error)(batch)
        loss = jnp.mean(batch.weight * loss)
        metrics = {"loss": Mean.of(loss), "q_value": Mean.of(value), "td_error": Mean.of(jnp.abs(td_error))}
        return loss, (priority, metrics)
