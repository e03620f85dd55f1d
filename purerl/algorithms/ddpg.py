"""Deep deterministic policy gradient (Lillicrap et al. 2016, arXiv:1509.02971).

A critic learns action values from a replay, and a deterministic policy follows their gradient. Exploration adds noise
to the actions: white (Gaussian) as is usual today, or correlated in time (Ornstein-Uhlenbeck) as in the paper (section
7)::

    x' = (1 - theta dt) x + sigma sqrt(dt) N(0, 1),    x = 0 at the start of each episode

where theta is `noise_decay`, sigma `noise_std` and dt `noise_dt`. Increments have the deviation ``sigma sqrt(dt)``. The
noise itself tends to ``sigma / sqrt(2 theta - theta^2 dt)``: 0.380 for the paper's theta = 0.15 and sigma = 0.2. With
``theta dt = 1`` it is white.

A time limit is not the end of the task: there the value of the true successor is bootstrapped.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax import lax

from purerl import struct
from purerl.experience.collection import Experience, ExperienceState
from purerl.experience.policies import Actor, Noise
from purerl.experience.preprocessing import zero_input
from purerl.learning import checks, hyperparameters, optimizers, schedules
from purerl.learning.optimizers import Adam, Optimizer
from purerl.q_networks import DeterministicActorCritic, critic_metrics, init_actor_critic, target_gap
from purerl.replay import Replay, ReplaySample
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree, Scalar, merge


@struct.dataclass
class DDPGState:
    """Everything that changes while DDPG trains.

    Attributes:
        key: randomness of all later iterations.
        iteration: int32, iterations done, those of the warm-up included.
        experience: environments in flight and running statistics.
        replay: past steps.
        actor_params: parameters of the policy.
        critic_params: parameters of the critics.
        target_actor_params: parameters of the policy's target network.
        target_critic_params: parameters of the critics' target networks.
        actor_opt_state: state of the policy's optimiser.
        critic_opt_state: state of the critics' optimiser.
    """

    key: Array
    iteration: Array = struct.field(shared=True)
    experience: ExperienceState
    replay: PyTree = struct.field(per_shard=True)
    actor_params: PyTree
    critic_params: PyTree
    target_actor_params: PyTree
    target_critic_params: PyTree
    actor_opt_state: PyTree
    critic_opt_state: PyTree


@struct.dataclass
class DDPG:
    """DDPG for bounded continuous actions. See the module for the method."""

    env: Environment
    network: DeterministicActorCritic = struct.field(
        default=DeterministicActorCritic(), static=True, help="policy and critics"
    )
    num_envs: int = hyperparameters.num_envs(1)
    rollout_length: int = hyperparameters.rollout_length(1)
    updates_per_iteration: int = hyperparameters.updates_per_iteration()
    batch_size: int = hyperparameters.batch_size(256)
    buffer_size: int = hyperparameters.buffer_size(100_000)
    warmup_steps: int = hyperparameters.warmup_steps(1_000)
    learning_rate: Scalar = hyperparameters.learning_rate(1e-3)
    critic_learning_rate: Scalar | None = hyperparameters.critic_learning_rate()
    optimizer: Optimizer = hyperparameters.optimizer(Adam())
    gamma: Scalar = hyperparameters.gamma()
    n_step: int = hyperparameters.n_step()
    tau: Scalar = hyperparameters.tau(0.005)
    noise_std: Scalar = struct.field(
        default=0.1,
        help="sigma: deviation of the exploration noise added per unit of time, on actions between -1 and 1",
        within="[0, inf)",
    )
    noise_decay: Scalar = struct.field(
        default=1.0,
        help="theta: share of the noise that is forgotten per unit of time; 1: white noise, 0.15: Ornstein-Uhlenbeck",
        within="(0, inf)",
    )
    noise_dt: Scalar = struct.field(
        default=1.0, help="time per step of the noise; noise_decay * noise_dt must be at most 1", within="(0, inf)"
    )
    reward_scale: Scalar = hyperparameters.reward_scale()
    normalize_observations: bool = hyperparameters.normalize_observations()

    def __post_init__(self) -> None:
        struct.check_fields(self)
        if not callable(self.noise_decay) and not callable(self.noise_dt):
            struct.check_value("noise_decay * noise_dt", self.noise_decay * self.noise_dt, "float", "(0, 1]")
        checks.check_bounded("ddpg", self.env, "dqn, discrete_sac or ppo")
        self._replay.num_rollouts(self.warmup_steps)
        jax.eval_shape(self._init_params, jax.random.key(0))  # a network that does not fit says so here

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
        return self._replay.num_rollouts(self.warmup_steps)

    def init(self, key: Array) -> DDPGState:
        """Fresh environments and networks, and a replay that holds `warmup_steps` random steps."""
        key, params_key, warmup_key = jax.random.split(key, 3)
        actor_params, critic_params = self._init_params(params_key)
        now = schedules.at(self, jnp.int32(0))
        random = now._noise.uniform(self.env)
        experience, replay = now._experience.warm_up(self._replay, random, self.warmup_iterations, warmup_key)
        return DDPGState(
            key=key,
            iteration=jnp.int32(self.warmup_iterations),
            experience=experience,
            replay=replay,
            actor_params=actor_params,
            critic_params=critic_params,
            target_actor_params=jax.tree.map(jnp.copy, actor_params),
            target_critic_params=jax.tree.map(jnp.copy, critic_params),
            actor_opt_state=optimizers.init(self.optimizer, actor_params),
            critic_opt_state=optimizers.init(self.optimizer, critic_params),
        )

    def policy(self, state: DDPGState, *, explore: bool) -> Policy:
        """The policy with noise as in training (``explore=True``), or without; in the environment's own units."""
        actor = Actor(self.env, self._network)
        policy = actor.policy(state.actor_params, state.experience.obs_stats, explore=False)
        return schedules.at(self, state.iteration)._noise.add_to(policy, self.env) if explore else policy

    def step(self, state: DDPGState) -> tuple[DDPGState, Metrics]:
        """Collect, store, update."""
        now = schedules.at(self, state.iteration)
        key, collect_key, update_key = jax.random.split(state.key, 3)
        policy = now.policy(state, explore=True)
        experience, replay, episodes = now._experience.collect_into(
            self._replay, state.experience, state.replay, policy, collect_key
        )
        state = struct.replace(state, key=key, experience=experience, replay=replay)
        state, metrics = lax.scan(now._update, state, jax.random.split(update_key, self.updates_per_iteration))
        metrics = (
            episodes
            | merge(metrics)
            | {
                "target_gap": Mean.of(target_gap(state.critic_params, state.target_critic_params)),
                "learning_rate": Mean.of(now.learning_rate),
            }
        )
        return struct.replace(state, iteration=state.iteration + 1), metrics

    # Pieces

    @property
    def _network(self) -> DeterministicActorCritic:
        return self.network.clone(action_space=self.env.action_space)

    def _init_params(self, key: Array) -> tuple[PyTree, PyTree]:
        action = jnp.zeros(self.env.action_space.shape, jnp.float32)
        return init_actor_critic(self._network, key, zero_input(self.env.observation_space), action)

    def _actor(self, params: PyTree, obs: Array) -> Array:
        return jnp.asarray(self._network.apply(params, obs, method="actor"))

    def _critic(self, params: PyTree, obs: Array, action: Array) -> Array:
        """``[num_critics]``."""
        return jnp.asarray(self._network.apply(params, obs, action, method="critic"))

    @property
    def _noise(self) -> Noise:
        return Noise(self.noise_std, self.noise_decay, self.noise_dt)

    @property
    def _experience(self) -> Experience:
        return Experience(self.env, self.num_envs, self.rollout_length, self.normalize_observations, self.reward_scale)

    @property
    def _replay(self) -> Replay:
        return Replay(self.buffer_size, self.num_envs, self.rollout_length, self.n_step)

    # Learning

    def _update(self, state: DDPGState, key: Array) -> tuple[DDPGState, Metrics]:
        """One gradient step of the critic, then of the policy, on one batch."""
        batch = self._replay.sample(state.replay, key, self.batch_size, self.gamma)
        batch = self._experience.preprocess_sample(state.experience, batch)

        grads, metrics = jax.grad(self._critic_loss, has_aux=True)(state.critic_params, state, batch)
        critic_rate = hyperparameters.rate(self.critic_learning_rate, self.learning_rate)
        critic_params, critic_opt_state = optimizers.update(
            self.optimizer, critic_rate, grads, state.critic_opt_state, state.critic_params
        )
        actor_loss, grads = jax.value_and_grad(self._actor_loss)(state.actor_params, critic_params, batch)
        actor_params, actor_opt_state = optimizers.update(
            self.optimizer, self.learning_rate, grads, state.actor_opt_state, state.actor_params
        )
        state = struct.replace(
            state,
            actor_params=actor_params,
            critic_params=critic_params,
            target_actor_params=optax.incremental_update(actor_params, state.target_actor_params, self.tau),
            target_critic_params=optax.incremental_update(critic_params, state.target_critic_params, self.tau),
            actor_opt_state=actor_opt_state,
            critic_opt_state=critic_opt_state,
        )
        return state, {**metrics, "actor_loss": Mean.of(actor_loss)}

    def _critic_loss(self, params: PyTree, state: DDPGState, batch: ReplaySample) -> tuple[Array, Metrics]:
        """Mean squared TD error (equations 4 and 5); with several critics the target is their mean."""

        def error(sample: ReplaySample) -> tuple[Array, Array]:
            next_action = self._actor(state.target_actor_params, sample.next_obs)
            next_value = jnp.mean(self._critic(state.target_critic_params, sample.next_obs, next_action))
            target = sample.reward + sample.discount * next_value
            value = self._critic(params, sample.obs, sample.action)
            return value, target - value

        value, td_error = jax.vmap(error)(batch)
        loss = 0.5 * jnp.mean(jnp.square(td_error))
        return loss, critic_metrics(loss, value, td_error)

    def _actor_loss(self, params: PyTree, critic_params: PyTree, batch: ReplaySample) -> Array:
        """Minus the value of the policy's own actions (equation 6)."""
        value = jax.vmap(lambda obs: self._critic(critic_params, obs, self._actor(params, obs)))(batch.obs)
        return -jnp.mean(value)
