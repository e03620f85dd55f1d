"""Deep deterministic policy gradient (Lillicrap et al. 2016, arXiv:1509.02971).

Learn what actions are worth from a replay and move a deterministic policy uphill on that. Exploration adds noise to the
actions: white (Gaussian) as is usual today, or correlated in time (Ornstein-Uhlenbeck) as in the paper (section 7)::

    x' = (1 - theta dt) x + sigma sqrt(dt) N(0, 1),    x = 0 at the start of each episode

where theta is `noise_decay`, sigma `noise_std` and dt `noise_dt`. Increments have the deviation ``sigma sqrt(dt)``. The
noise itself tends to ``sigma / sqrt(2 theta - theta^2 dt)``: 0.380 for the paper's theta = 0.15 and sigma = 0.2. With
``theta dt = 1`` it forgets all it was and is white.

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
from purerl.acting import in_units, uniform
from purerl.collector import Collector, CollectorState
from purerl.errors import InputError
from purerl.q_networks import DeterministicActorCritic, target_gap
from purerl.replay import Experience, Replay
from purerl.schedules import schedule_factor
from purerl.spaces import Box
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree
from purerl.views import blank_view, view


@struct.dataclass
class DDPGState:
    """Everything that changes while DDPG trains.

    Attributes:
        key: randomness of all that is still to come.
        iteration: int32, iterations done, those of the warm-up included.
        collector: environments, replay and statistics of observations.
        actor_params: of the policy.
        critic_params: of the critics.
        target_actor_params: of the policy's slowly moving copy.
        target_critic_params: of the critics' slowly moving copy.
        actor_opt_state: of the policy's optimiser.
        critic_opt_state: of the critics' optimiser.
    """

    key: Array
    iteration: Array = struct.field(shared=True)
    collector: CollectorState
    actor_params: PyTree
    critic_params: PyTree
    target_actor_params: PyTree
    target_critic_params: PyTree
    actor_opt_state: PyTree
    critic_opt_state: PyTree


@struct.dataclass
class DDPG:
    """DDPG for bounded continuous actions. See the module for the method, the fields for the hyper-parameters."""

    env: Environment
    network: DeterministicActorCritic = struct.field(
        default=DeterministicActorCritic(), static=True, help="policy and critic"
    )
    num_envs: int = struct.field(default=1, static=True, help="environments stepped side by side", within="[1, inf)")
    rollout_length: int = struct.field(
        default=1, static=True, help="steps in each environment per iteration", within="[1, inf)"
    )
    num_updates: int = struct.field(default=1, static=True, help="gradient updates per iteration", within="[1, inf)")
    batch_size: int = struct.field(default=256, static=True, help="samples per update", within="[1, inf)")
    buffer_size: int = struct.field(
        default=100_000, static=True, help="newest steps to learn from", within="[1, 2147483647]"
    )
    warmup_steps: int = struct.field(
        default=1_000, static=True, help="random steps before learning begins, part of the total", within="[1, inf)"
    )
    learning_rate: float = struct.field(default=1e-3, help="step size of Adam", within="[0, inf)")
    schedule: Callable[[Array], Array] | None = struct.field(
        default=None, help="environment steps to a factor of the learning rate; None is constant"
    )
    gamma: float = struct.field(default=0.99, help="discount factor per step", within="[0, 1]")
    n_step: int = struct.field(
        default=1, static=True, help="rewards per target before it bootstraps", within="[1, inf)"
    )
    tau: float = struct.field(
        default=0.005, help="how far the target networks move per update; 1 copies", within="(0, 1]"
    )
    noise_std: float = struct.field(
        default=0.1,
        help="sigma: deviation of the noise added over one unit of time, where actions reach from -1 to 1; white "
        "noise is nothing but that",
        within="[0, inf)",
    )
    noise_decay: float = struct.field(
        default=1.0,
        help="theta: how much of the noise is forgotten per unit of time; 1 is white Gaussian noise, 0.15 "
        "Ornstein-Uhlenbeck, whose own deviation tends to noise_std / sqrt(2 noise_decay - noise_decay^2 noise_dt)",
        within="(0, inf)",
    )
    noise_dt: float = struct.field(
        default=1.0,
        help="time that passes for the noise in one step: it forgets noise_decay * noise_dt, at most 1, and an "
        "increment of deviation noise_std * sqrt(noise_dt) is added",
        within="(0, inf)",
    )
    normalize_observations: bool = struct.field(
        default=False, static=True, help="standardise observations by running mean and deviation, clipped to +-10"
    )

    def __post_init__(self) -> None:
        struct.check_fields(self)
        struct.check_value("noise_decay * noise_dt", self.noise_decay * self.noise_dt, "float", "(0, 1]")
        if not isinstance(self.env, Environment):
            raise InputError(f"env must be an Environment such as purerl.make('Pendulum-v1'), got {self.env!r}")
        space = self.env.action_space
        if not isinstance(space, Box) or not space.is_bounded:
            raise InputError(f"ddpg needs bounded continuous actions, got {space}: use dqn, discrete_sac or ppo")
        self._replay.num_rollouts(self.warmup_steps)
        # Shapes only: a network that does not fit the observations says so here, not while compiling.
        jax.eval_shape(self._init_params, jax.random.key(0))
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
        return self._replay.num_rollouts(self.warmup_steps)

    def init(self, key: Array) -> DDPGState:
        """Fresh environments and networks, and a replay that holds `warmup_steps` random steps."""
        key, params_key, warmup_key = jax.random.split(key, 3)
        actor_params, critic_params = self._init_params(params_key)
        random = uniform(self.env, self._no_noise())
        optimizer = optax.adam(0.0)
        return DDPGState(
            key=key,
            iteration=jnp.int32(self.warmup_iterations),
            collector=self._collector.init(warmup_key, random, self._no_noise(), self.warmup_iterations),
            actor_params=actor_params,
            critic_params=critic_params,
            target_actor_params=jax.tree.map(jnp.copy, actor_params),
            target_critic_params=jax.tree.map(jnp.copy, critic_params),
            actor_opt_state=optimizer.init(actor_params),
            critic_opt_state=optimizer.init(critic_params),
        )

    def policy(self, state: DDPGState, *, explore: bool) -> Policy:
        """The policy with noise as in training (``explore=True``), or without; in the environment's own units."""
        act = DDPG._explore if explore else DDPG._exploit
        carry = self._no_noise() if explore else ()
        return Policy(Partial(act, self, state.actor_params, state.collector.obs_stats), carry)

    def step(self, state: DDPGState) -> tuple[DDPGState, Metrics]:
        """Collect, remember, learn."""
        key, collect_key, update_key = jax.random.split(state.key, 3)
        collector, episodes = self._collector.collect(state.collector, self.policy(state, explore=True), collect_key)
        state = struct.replace(state, key=key, collector=collector)
        state, metrics = lax.scan(self._update, state, jax.random.split(update_key, self.num_updates))
        metrics = {
            **episodes,
            **jax.tree.map(lambda leaf: leaf.sum(0), metrics),
            "target_gap": Mean.of(target_gap(state.critic_params, state.target_critic_params)),
            "learning_rate": Mean.of(self._learning_rate(state.iteration)),
        }
        return struct.replace(state, iteration=state.iteration + 1), metrics

    # Network

    @property
    def _network(self) -> DeterministicActorCritic:
        return self.network.clone(action_space=self.env.action_space)

    def _init_params(self, key: Array) -> tuple[PyTree, PyTree]:
        actor_key, critic_key = jax.random.split(key)
        obs = blank_view(self.env.observation_space)
        actor_params = self._network.init(actor_key, obs, method="actor")
        return actor_params, self._network.init(critic_key, obs, self._no_noise(), method="critic")

    def _actor(self, params: PyTree, obs: Array) -> Any:
        return self._network.apply(params, obs, method="actor")

    def _critic(self, params: PyTree, obs: Array, action: Array) -> Any:
        return self._network.apply(params, obs, action, method="critic")

    # Acting

    def _no_noise(self) -> Array:
        return jnp.zeros(self.env.action_space.shape, jnp.float32)

    def _exploit(
        self, params: PyTree, obs_stats: normalize.RunningStatistics | None, key: Array, carry: PyTree, obs: Array
    ) -> tuple[Array, PyTree, dict[str, Array]]:
        action = self._actor(params, view(self.env.observation_space, obs_stats, obs))
        return in_units(self.env.action_space, action, carry)

    def _explore(
        self, params: PyTree, obs_stats: normalize.RunningStatistics | None, key: Array, noise: Array, obs: Array
    ) -> tuple[Array, Array, dict[str, Array]]:
        increment = self.noise_std * jnp.sqrt(self.noise_dt) * jax.random.normal(key, noise.shape, jnp.float32)
        noise = (1.0 - self.noise_decay * self.noise_dt) * noise + increment
        action = self._actor(params, view(self.env.observation_space, obs_stats, obs))
        return in_units(self.env.action_space, jnp.clip(action + noise, -1.0, 1.0), noise)

    # Remembering

    @property
    def _replay(self) -> Replay:
        return Replay(self.buffer_size, self.num_envs, self.rollout_length, self.n_step)

    @property
    def _collector(self) -> Collector:
        return Collector(self.env, self._replay, self.normalize_observations)

    # Learning

    def _learning_rate(self, iteration: Array) -> Array:
        return self.learning_rate * schedule_factor(self.schedule, iteration, self.steps_per_iteration)

    def _update(self, state: DDPGState, key: Array) -> tuple[DDPGState, Metrics]:
        """One gradient step of the critic, then of the policy, on one batch."""
        batch = self._replay.sample(state.collector.replay, key, self.batch_size, self.gamma)
        space, stats = self.env.observation_space, state.collector.obs_stats
        batch = struct.replace(batch, obs=view(space, stats, batch.obs), next_obs=view(space, stats, batch.next_obs))
        optimizer = optax.adam(self._learning_rate(state.iteration))

        grads, critic_metrics = jax.grad(self._critic_loss, has_aux=True)(state.critic_params, state, batch)
        updates, critic_opt_state = optimizer.update(grads, state.critic_opt_state)
        critic_params = optax.apply_updates(state.critic_params, updates)

        actor_loss, grads = jax.value_and_grad(self._actor_loss)(state.actor_params, critic_params, batch)
        updates, actor_opt_state = optimizer.update(grads, state.actor_opt_state)
        actor_params = optax.apply_updates(state.actor_params, updates)

        state = struct.replace(
            state,
            actor_params=actor_params,
            critic_params=critic_params,
            target_actor_params=optax.incremental_update(actor_params, state.target_actor_params, self.tau),
            target_critic_params=optax.incremental_update(critic_params, state.target_critic_params, self.tau),
            actor_opt_state=actor_opt_state,
            critic_opt_state=critic_opt_state,
        )
        return state, {**critic_metrics, "actor_loss": Mean.of(actor_loss)}

    def _critic_loss(self, params: PyTree, state: DDPGState, batch: Experience) -> tuple[Array, Metrics]:
        """Mean squared TD error (equations 4 and 5); with several critics the target is their mean."""

        def error(sample: Experience) -> tuple[Array, Array]:
            next_action = self._actor(state.target_actor_params, sample.next_obs)
            next_value = jnp.mean(self._critic(state.target_critic_params, sample.next_obs, next_action))
            target = sample.reward + sample.discount * next_value
            value = self._critic(params, sample.obs, sample.action)
            return value, target - value

        value, td_error = jax.vmap(error)(batch)
        loss = 0.5 * jnp.mean(jnp.square(td_error))
        return loss, {
            "critic_loss": Mean.of(loss),
            "q_value": Mean.of(value),
            "td_error": Mean.of(jnp.abs(td_error)),
        }

    def _actor_loss(self, params: PyTree, critic_params: PyTree, batch: Experience) -> Array:
        """Minus the value of the policy's own actions (equation 6)."""
        value = jax.vmap(lambda obs: self._critic(critic_params, obs, self._actor(params, obs)))(batch.obs)
        return -jnp.mean(value)
