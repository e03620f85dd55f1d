"""Soft actor-critic for continuous actions (Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications").

Learn from a replay what actions are worth when acting at random has a value too, and a policy that is as random as it
can afford: the temperature, what entropy is worth, is learned so that the policy keeps a target entropy
(arXiv:1812.05905). Two critics, of which the more pessimistic one counts.

A time limit is not the end of the task: there the value of the true successor is bootstrapped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
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
from purerl.q_networks import LEAST_TEMPERATURE, MOST_TEMPERATURE, SoftActorCritic, target_gap
from purerl.replay import Experience, Replay
from purerl.schedules import schedule_factor
from purerl.spaces import Box
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree
from purerl.views import blank_view, view


@struct.dataclass
class SACState:
    """Everything that changes while SAC trains.

    Attributes:
        key: randomness of all that is still to come.
        iteration: int32, iterations done, those of the warm-up included.
        collector: environments, replay and statistics of observations.
        actor_params: of the policy.
        critic_params: of the critics.
        target_critic_params: of the critics' slowly moving copy.
        log_temperature: float32, log alpha.
        actor_opt_state: of the policy's optimiser.
        critic_opt_state: of the critics' optimiser.
        temperature_opt_state: of the temperature's optimiser.
    """

    key: Array
    iteration: Array = struct.field(shared=True)
    collector: CollectorState
    actor_params: PyTree
    critic_params: PyTree
    target_critic_params: PyTree
    log_temperature: Array
    actor_opt_state: PyTree
    critic_opt_state: PyTree
    temperature_opt_state: PyTree


@struct.dataclass
class SAC:
    """SAC for bounded continuous actions. See the module for the method, the fields for the hyper-parameters."""

    env: Environment
    network: SoftActorCritic = struct.field(default=SoftActorCritic(), static=True, help="policy and critics")
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
        default=None, help="environment steps to a factor of all learning rates; None is constant"
    )
    gamma: float = struct.field(default=0.99, help="discount factor per step", within="[0, 1]")
    n_step: int = struct.field(
        default=1, static=True, help="rewards per target before it bootstraps", within="[1, inf)"
    )
    tau: float = struct.field(
        default=0.005, help="how far the target critics move per update; 1 copies", within="(0, 1]"
    )
    initial_temperature: float = struct.field(
        default=1.0,
        help="what a nat of entropy is worth",
        within=f"[{LEAST_TEMPERATURE:g}, {MOST_TEMPERATURE:g}]",
    )
    temperature_learning_rate: float | None = struct.field(
        default=None, help="step size for the temperature; none is that of the networks, 0 keeps it", within="[0, inf)"
    )
    target_entropy: float = struct.field(
        default=-1.0, help="nats per action dimension, where actions reach from -1 to 1", within="(-inf, inf)"
    )
    reward_scale: float = struct.field(default=1.0, help="multiply rewards by this", within="(0, inf)")
    normalize_observations: bool = struct.field(
        default=False, static=True, help="standardise observations by running mean and deviation, clipped to +-10"
    )

    def __post_init__(self) -> None:
        struct.check_fields(self)
        if not isinstance(self.env, Environment):
            raise InputError(f"env must be an Environment such as purerl.make('Pendulum-v1'), got {self.env!r}")
        space = self.env.action_space
        if not isinstance(space, Box) or not space.is_bounded:
            raise InputError(f"sac needs bounded continuous actions, got {space}: use dqn, discrete_sac or ppo")
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

    def init(self, key: Array) -> SACState:
        """Fresh environments and networks, and a replay that holds `warmup_steps` random steps."""
        key, params_key, warmup_key = jax.random.split(key, 3)
        actor_params, critic_params = self._init_params(params_key)
        random = uniform(self.env)
        log_temperature = jnp.log(jnp.asarray(self.initial_temperature, jnp.float32))
        optimizer = optax.adam(0.0)
        return SACState(
            key=key,
            iteration=jnp.int32(self.warmup_iterations),
            collector=self._collector.init(warmup_key, random, self._blank_action(), self.warmup_iterations),
            actor_params=actor_params,
            critic_params=critic_params,
            target_critic_params=jax.tree.map(jnp.copy, critic_params),
            log_temperature=log_temperature,
            actor_opt_state=optimizer.init(actor_params),
            critic_opt_state=optimizer.init(critic_params),
            temperature_opt_state=optimizer.init(log_temperature),
        )

    def policy(self, state: SACState, *, explore: bool) -> Policy:
        """Sample actions (``explore=True``) or take the policy's median, in the environment's own units."""
        act = SAC._sample if explore else SAC._median
        return Policy(Partial(act, self, state.actor_params, state.collector.obs_stats))

    def step(self, state: SACState) -> tuple[SACState, Metrics]:
        """Collect, remember, learn."""
        key, collect_key, update_key = jax.random.split(state.key, 3)
        collector, episodes = self._collector.collect(state.collector, self.policy(state, explore=True), collect_key)
        state = struct.replace(state, key=key, collector=collector)
        state, metrics = lax.scan(self._update, state, jax.random.split(update_key, self.num_updates))
        metrics = {
            **episodes,
            **jax.tree.map(lambda leaf: leaf.sum(0), metrics),
            "temperature": Mean.of(jnp.exp(state.log_temperature)),
            "target_gap": Mean.of(target_gap(state.critic_params, state.target_critic_params)),
            "learning_rate": Mean.of(self._learning_rate(state.iteration)),
        }
        return struct.replace(state, iteration=state.iteration + 1), metrics

    # Network

    @property
    def _network(self) -> SoftActorCritic:
        return self.network.clone(action_space=self.env.action_space)

    def _init_params(self, key: Array) -> tuple[PyTree, PyTree]:
        actor_key, critic_key = jax.random.split(key)
        obs = blank_view(self.env.observation_space)
        actor_params = self._network.init(actor_key, obs, method="actor")
        return actor_params, self._network.init(critic_key, obs, self._blank_action(), method="critic")

    def _actor(self, params: PyTree, obs: Array) -> Any:
        return self._network.apply(params, obs, method="actor")

    def _critic(self, params: PyTree, obs: Array, action: Array) -> Any:
        return self._network.apply(params, obs, action, method="critic")

    # Acting

    def _blank_action(self) -> Array:
        return jnp.zeros(self.env.action_space.shape, jnp.float32)

    def _sample(
        self, params: PyTree, obs_stats: normalize.RunningStatistics | None, key: Array, carry: PyTree, obs: Array
    ) -> tuple[Array, PyTree, dict[str, Array]]:
        distribution = self._actor(params, view(self.env.observation_space, obs_stats, obs))
        return in_units(self.env.action_space, distribution.action(distribution.sample(key)), carry)

    def _median(
        self, params: PyTree, obs_stats: normalize.RunningStatistics | None, key: Array, carry: PyTree, obs: Array
    ) -> tuple[Array, PyTree, dict[str, Array]]:
        distribution = self._actor(params, view(self.env.observation_space, obs_stats, obs))
        return in_units(self.env.action_space, distribution.action(distribution.mode()), carry)

    # Remembering

    @property
    def _replay(self) -> Replay:
        return Replay(self.buffer_size, self.num_envs, self.rollout_length, self.n_step)

    @property
    def _collector(self) -> Collector:
        return Collector(self.env, self._replay, self.normalize_observations)

    # Learning

    def _learning_rate(self, iteration: Array, initial: float | None = None) -> Array:
        """A step size that begins at `initial`, or at that of the networks."""
        initial = self.learning_rate if initial is None else initial
        return initial * schedule_factor(self.schedule, iteration, self.steps_per_iteration)

    def _update(self, state: SACState, key: Array) -> tuple[SACState, Metrics]:
        """One gradient step of the critics, then of policy and temperature, on one batch."""
        sample_key, next_key, actor_key = jax.random.split(key, 3)
        batch = self._replay.sample(state.collector.replay, sample_key, self.batch_size, self.gamma)
        space, stats = self.env.observation_space, state.collector.obs_stats
        seen = {name: view(space, stats, getattr(batch, name)) for name in ("obs", "next_obs", "later_obs")}
        batch = struct.replace(batch, **seen)
        temperature = jnp.exp(state.log_temperature)
        optimizer = optax.adam(self._learning_rate(state.iteration))

        grads, metrics = jax.grad(self._critic_loss, has_aux=True)(
            state.critic_params, state, batch, temperature, next_key
        )
        updates, critic_opt_state = optimizer.update(grads, state.critic_opt_state)
        critic_params = optax.apply_updates(state.critic_params, updates)

        (actor_loss, entropy), grads = jax.value_and_grad(self._actor_loss, has_aux=True)(
            state.actor_params, critic_params, batch, temperature, actor_key
        )
        updates, actor_opt_state = optimizer.update(grads, state.actor_opt_state)
        actor_params = optax.apply_updates(state.actor_params, updates)

        # The gradient of log(alpha) * (entropy - target): up if and only if the policy is not random enough.
        target_entropy = self.target_entropy * self._blank_action().size
        rate = self._learning_rate(state.iteration, self.temperature_learning_rate)
        update, temperature_opt_state = optax.adam(rate).update(entropy - target_entropy, state.temperature_opt_state)
        log_temperature: Any = optax.apply_updates(state.log_temperature, update)
        log_temperature = jnp.clip(log_temperature, math.log(LEAST_TEMPERATURE), math.log(MOST_TEMPERATURE))
        state = struct.replace(
            state,
            actor_params=actor_params,
            critic_params=critic_params,
            target_critic_params=optax.incremental_update(critic_params, state.target_critic_params, self.tau),
            log_temperature=log_temperature,
            actor_opt_state=actor_opt_state,
            critic_opt_state=critic_opt_state,
            temperature_opt_state=temperature_opt_state,
        )
        return state, {**metrics, "actor_loss": Mean.of(actor_loss), "entropy": Mean.of(entropy)}

    def _critic_loss(
        self, params: PyTree, state: SACState, batch: Experience, temperature: Array, key: Array
    ) -> tuple[Array, Metrics]:
        """Mean squared soft Bellman error of each critic, added up (equations 5 and 6 of arXiv:1812.05905).

        In a window of several steps the entropy of the present policy counts at each observation after the first.
        """

        def error(sample: Experience, keys: Array) -> tuple[Array, Array]:
            next_action, log_prob = self._action_and_log_prob(state.actor_params, sample.next_obs, keys[0])
            later = partial(self._action_and_log_prob, state.actor_params)
            _, later_log_prob = jax.vmap(later)(sample.later_obs, keys[1:])
            next_value = jnp.min(self._critic(state.target_critic_params, sample.next_obs, next_action))
            entropy = -sample.discount * log_prob - jnp.sum(sample.later_discount * later_log_prob)
            target = self.reward_scale * sample.reward + sample.discount * next_value + temperature * entropy
            value = self._critic(params, sample.obs, sample.action)
            return value, target - value

        value, td_error = jax.vmap(error)(batch, jax.random.split(key, (self.batch_size, self.n_step)))
        loss = 0.5 * jnp.mean(jnp.sum(jnp.square(td_error), axis=1))
        return loss, {
            "critic_loss": Mean.of(loss),
            "q_value": Mean.of(value),
            "td_error": Mean.of(jnp.abs(td_error)),
        }

    def _actor_loss(
        self, params: PyTree, critic_params: PyTree, batch: Experience, temperature: Array, key: Array
    ) -> tuple[Array, Array]:
        """``E[alpha log pi - min Q]`` over reparameterised actions (equation 9), and the entropy estimate."""

        def value_and_log_prob(obs: Array, key: Array) -> tuple[Array, Array]:
            action, log_prob = self._action_and_log_prob(params, obs, key)
            return jnp.min(self._critic(critic_params, obs, action)), log_prob

        value, log_prob = jax.vmap(value_and_log_prob)(batch.obs, jax.random.split(key, self.batch_size))
        return jnp.mean(temperature * log_prob - value), -jnp.mean(log_prob)

    def _action_and_log_prob(self, params: PyTree, obs: Array, key: Array) -> tuple[Array, Array]:
        distribution = self._actor(params, obs)
        raw, log_prob = distribution.sample_and_log_prob(key)
        return distribution.action(raw), log_prob
