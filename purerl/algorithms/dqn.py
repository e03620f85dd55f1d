"""Deep Q-learning (Mnih et al. 2015, "Human-level control through deep reinforcement learning"), up to Rainbow.

Act epsilon-greedily, store steps in a replay, and regress action values on targets computed by a slowly moving copy of
the network. The parts of Rainbow (Hessel et al. 2018, arXiv:1710.02298) are separate options: double Q-learning (van
Hasselt et al. 2016, arXiv:1509.06461), prioritised replay (Schaul et al. 2016, arXiv:1511.05952), n-step targets; and,
as parts of the network, dueling streams, noisy layers and a distribution of returns (`QNetwork`, `value_heads`).

A time limit is not the end of the task: there the value of the true successor is bootstrapped.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax import lax

from purerl import struct
from purerl.experience.collection import Experience, ExperienceState
from purerl.experience.policies import EpsilonGreedy, uniform
from purerl.experience.preprocessing import zero_input
from purerl.learning import checks, hyperparameters, optimizers, schedules
from purerl.learning.optimizers import Adam, Optimizer
from purerl.learning.schedules import LinearSchedule
from purerl.q_networks import QNetwork, target_gap
from purerl.replay import PrioritizedReplay, Replay, ReplaySample
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree, Scalar, merge


@struct.dataclass
class DQNState:
    """Everything that changes while DQN trains.

    Attributes:
        key: randomness of all later iterations.
        iteration: int32, iterations done, those of the warm-up included.
        num_updates: int32, gradient updates done.
        experience: environments in flight and running statistics.
        replay: past steps and, with prioritised replay, their priorities.
        params: network parameters.
        target_params: parameters of the target network.
        opt_state: state of the optimiser.
    """

    key: Array
    iteration: Array = struct.field(shared=True)
    num_updates: Array = struct.field(shared=True)
    experience: ExperienceState
    replay: PyTree = struct.field(per_shard=True)
    params: PyTree
    target_params: PyTree
    opt_state: PyTree


@struct.dataclass
class DQN:
    """DQN for discrete actions. See the module for the method."""

    env: Environment
    network: QNetwork = struct.field(default=QNetwork(), static=True, help="trunk, head and streams")
    num_envs: int = hyperparameters.num_envs(1)
    rollout_length: int = hyperparameters.rollout_length(10)
    updates_per_iteration: int = hyperparameters.updates_per_iteration()
    batch_size: int = hyperparameters.batch_size(128)
    buffer_size: int = hyperparameters.buffer_size(10_000)
    warmup_steps: int = hyperparameters.warmup_steps(10_000)
    learning_rate: Scalar = hyperparameters.learning_rate(2.5e-4)
    optimizer: Optimizer = hyperparameters.optimizer(Adam())
    gamma: Scalar = hyperparameters.gamma()
    n_step: int = hyperparameters.n_step()
    double: bool = struct.field(
        default=False,
        static=True,
        help="double Q-learning: the network chooses the action, the target network rates it",
    )
    target_period: int = struct.field(
        default=50, help="updates between two steps of the target network", within="[1, inf)"
    )
    tau: Scalar = hyperparameters.tau(1.0, "target network", "period")
    epsilon: Scalar = hyperparameters.epsilon(LinearSchedule(1.0, 0.05, 250_000.0))
    priority_exponent: Scalar | None = struct.field(
        default=None, help="exponent of priorities in prioritised replay; none: uniform sampling", within="[0, inf)"
    )
    priority_correction: Scalar = struct.field(
        default=LinearSchedule(0.4, 1.0, 500_000.0),
        help="exponent of the importance weights in prioritised replay",
        within="[0, 1]",
    )
    reward_scale: Scalar = hyperparameters.reward_scale()
    normalize_observations: bool = hyperparameters.normalize_observations()

    def __post_init__(self) -> None:
        struct.check_fields(self)
        checks.check_discrete("dqn", self.env, "sac, td3, ddpg or ppo")
        self._ring.num_rollouts(self.warmup_steps)
        checks.check_network(self._network, self.env)

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps of one iteration."""
        return self.num_envs * self.rollout_length

    @property
    def minibatch_rows(self) -> int:
        """Rows that networks process together while learning."""
        return self.batch_size

    @property
    def warmup_iterations(self) -> int:
        """Iterations of random steps that `init` takes."""
        return self._ring.num_rollouts(self.warmup_steps)

    def init(self, key: Array) -> DQNState:
        """Fresh environments and networks, and a replay that holds `warmup_steps` random steps."""
        key, params_key, warmup_key = jax.random.split(key, 3)
        params = self._network.init(params_key, zero_input(self.env.observation_space))
        now = schedules.at(self, jnp.int32(0))
        experience, replay = now._experience.warm_up(now._replay, uniform(self.env), self.warmup_iterations, warmup_key)
        return DQNState(
            key=key,
            iteration=jnp.int32(self.warmup_iterations),
            num_updates=jnp.int32(0),
            experience=experience,
            replay=replay,
            params=params,
            target_params=jax.tree.map(jnp.copy, params),
            opt_state=optimizers.init(self.optimizer, params),
        )

    def policy(self, state: DQNState, *, explore: bool) -> Policy:
        """Epsilon-greedy, with noise on noisy layers, as in training (``explore=True``); or greedy."""
        epsilon = schedules.at(self, state.iteration).epsilon
        actor = EpsilonGreedy(self.env, self._network)
        return actor.policy(state.params, state.experience.obs_stats, epsilon, explore=explore)

    def step(self, state: DQNState) -> tuple[DQNState, Metrics]:
        """Collect, store, update."""
        now = schedules.at(self, state.iteration)
        key, collect_key, update_key = jax.random.split(state.key, 3)
        policy = now.policy(state, explore=True)
        experience, replay, episodes = now._experience.collect_into(
            now._replay, state.experience, state.replay, policy, collect_key
        )
        state = struct.replace(state, key=key, experience=experience, replay=replay)
        state, metrics = lax.scan(now._update, state, jax.random.split(update_key, self.updates_per_iteration))
        metrics = (
            episodes
            | merge(metrics)
            | {
                "target_gap": Mean.of(target_gap(state.params, state.target_params)),
                "epsilon": Mean.of(now.epsilon),
                "learning_rate": Mean.of(now.learning_rate),
            }
        )
        return struct.replace(state, iteration=state.iteration + 1), metrics

    # Pieces

    @property
    def _network(self) -> QNetwork:
        return self.network.clone(action_space=self.env.action_space)

    def _output(self, params: PyTree, obs: Array, noise_key: Array | None = None) -> Array:
        """``[num_actions, head.num_outputs]`` for one observation; with a key, noisy layers are noisy."""
        return jnp.asarray(self._network.apply(params, obs, rngs=None if noise_key is None else {"noise": noise_key}))

    @property
    def _experience(self) -> Experience:
        return Experience(self.env, self.num_envs, self.rollout_length, self.normalize_observations, self.reward_scale)

    @property
    def _ring(self) -> Replay:
        return Replay(self.buffer_size, self.num_envs, self.rollout_length, self.n_step)

    @property
    def _replay(self) -> Replay | PrioritizedReplay:
        if self.priority_exponent is None:
            return self._ring
        return PrioritizedReplay(self._ring, self.priority_exponent, self.priority_correction)

    # Learning

    def _update(self, state: DQNState, key: Array) -> tuple[DQNState, Metrics]:
        """One gradient step on one batch."""
        sample_key, noise_key = jax.random.split(key)
        batch = self._replay.sample(state.replay, sample_key, self.batch_size, self.gamma)
        batch = self._experience.preprocess_sample(state.experience, batch)
        grads, (priority, metrics) = jax.grad(self._loss, has_aux=True)(state.params, state, batch, noise_key)
        params, opt_state = optimizers.update(self.optimizer, self.learning_rate, grads, state.opt_state, state.params)
        num_updates = state.num_updates + 1
        step_size = jnp.where(num_updates % self.target_period == 0, self.tau, 0.0)
        state = struct.replace(
            state,
            num_updates=num_updates,
            replay=self._replay.update(state.replay, batch.index, priority),
            params=params,
            target_params=optax.incremental_update(params, state.target_params, step_size),
            opt_state=opt_state,
        )
        return state, {**metrics, "grad_norm": optimizers.gradient_norm(grads)}

    def _loss(
        self, params: PyTree, state: DQNState, batch: ReplaySample, key: Array
    ) -> tuple[Array, tuple[Array, Metrics]]:
        """Weighted mean over the batch, and the priority of each sample ``[batch_size]``."""
        head = self.network.head
        # Noise of their own for network, choice of the next action and target (Fortunato et al. 2018, section 3.1).
        noise_key, choice_key, target_key = jax.random.split(key, 3)

        def error(sample: ReplaySample) -> tuple[Array, Array, Array, Array]:
            output = self._output(params, sample.obs, noise_key)[sample.action]
            target_output = self._output(state.target_params, sample.next_obs, target_key)
            judge = self._output(params, sample.next_obs, choice_key) if self.double else target_output
            target_output = target_output[jnp.argmax(head.value(judge))]
            loss, priority = head.loss(output, sample.reward, sample.discount, target_output)
            value = head.value(output)
            return loss, priority, value, sample.reward + sample.discount * head.value(target_output) - value

        loss, priority, value, td_error = jax.vmap(error)(batch)
        loss = jnp.mean(batch.weight * loss)
        metrics = {"loss": Mean.of(loss), "q_value": Mean.of(value), "td_error": Mean.of(jnp.abs(td_error))}
        return loss, (priority, metrics)
