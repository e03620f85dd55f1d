"""Soft actor-critic for discrete actions (Christodoulou 2019, "Soft Actor-Critic for Discrete Action Settings").

The method of Haarnoja et al. 2018 (arXiv:1812.05905), where the expectation over the policy's actions is a finite sum
and not an estimate from one sample (arXiv:1910.07207, section 3): critics rate all actions at once, and neither the
policy's loss nor its entropy needs randomness.

A time limit is not the end of the task: there the value of the true successor is bootstrapped.

Where every step costs the same until a rare success, few seeds learn, whatever the target entropy: until the first
successes the temperature falls until the policy follows what are only errors of the critics (docs/algorithms.md).
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
from purerl.acting import uniform
from purerl.collector import Collector, CollectorState
from purerl.errors import InputError
from purerl.q_networks import LEAST_TEMPERATURE, MOST_TEMPERATURE, DiscreteSoftActorCritic, target_gap
from purerl.replay import Experience, Replay
from purerl.schedules import schedule_factor
from purerl.spaces import Discrete
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree
from purerl.views import blank_view, view


@struct.dataclass
class DiscreteSACState:
    """Everything that changes while discrete SAC trains.

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
class DiscreteSAC:
    """SAC for discrete actions. See the module for the method, the fields for the hyper-parameters."""

    env: Environment
    network: DiscreteSoftActorCritic = struct.field(
        default=DiscreteSoftActorCritic(), static=True, help="policy and critics"
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
        default=0.5,
        help="as a share of the entropy of a uniformly random policy; the temperature falls until it is reached",
        within="[0, 1]",
    )
    reward_scale: float = struct.field(default=1.0, help="multiply rewards by this", within="(0, inf)")
    normalize_observations: bool = struct.field(
        default=False, static=True, help="standardise observations by running mean and deviation, clipped to +-10"
    )

    def __post_init__(self) -> None:
        struct.check_fields(self)
        if not isinstance(self.env, Environment):
            raise InputError(f"env must be an Environment such as purerl.make('CartPole-v1'), got {self.env!r}")
        if not isinstance(self.env.action_space, Discrete):
            raise InputError(f"discrete_sac needs discrete actions, got {self.env.action_space}: use sac, td3 or ppo")
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

    def init(self, key: Array) -> DiscreteSACState:
        """Fresh environments and networks, and a replay that holds `warmup_steps` random steps."""
        key, params_key, warmup_key = jax.random.split(key, 3)
        actor_params, critic_params = self._init_params(params_key)
        random = uniform(self.env)
        log_temperature = jnp.log(jnp.asarray(self.initial_temperature, jnp.float32))
        optimizer = optax.adam(0.0)
        return DiscreteSACState(
            key=key,
            iteration=jnp.int32(self.warmup_iterations),
            collector=self._collector.init(warmup_key, random, jnp.int32(0), self.warmup_iterations),
            actor_params=actor_params,
            critic_params=critic_params,
            target_critic_params=jax.tree.map(jnp.copy, critic_params),
            log_temperature=log_temperature,
            actor_opt_state=optimizer.init(actor_params),
            critic_opt_state=optimizer.init(critic_params),
            temperature_opt_state=optimizer.init(log_temperature),
        )

    def policy(self, state: DiscreteSACState, *, explore: bool) -> Policy:
        """Sample actions (``explore=True``) or take the most likely ones."""
        act = DiscreteSAC._sample if explore else DiscreteSAC._most_likely
        return Policy(Partial(act, self, state.actor_params, state.collector.obs_stats))

    def step(self, state: DiscreteSACState) -> tuple[DiscreteSACState, Metrics]:
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
    def _network(self) -> DiscreteSoftActorCritic:
        return self.network.clone(action_space=self.env.action_space)

    def _init_params(self, key: Array) -> tuple[PyTree, PyTree]:
        actor_key, critic_key = jax.random.split(key)
        obs = blank_view(self.env.observation_space)
        actor_params = self._network.init(actor_key, obs, method="actor")
        return actor_params, self._network.init(critic_key, obs, method="critic")

    def _actor(self, params: PyTree, obs: Array) -> Any:
        return self._network.apply(params, obs, method="actor")

    def _critic(self, params: PyTree, obs: Array) -> Any:
        """``[num_critics, num_actions]``."""
        return self._network.apply(params, obs, method="critic")

    # Acting

    def _sample(
        self, params: PyTree, obs_stats: normalize.RunningStatistics | None, key: Array, carry: PyTree, obs: Array
    ) -> tuple[Array, PyTree, dict[str, Array]]:
        return self._actor(params, view(self.env.observation_space, obs_stats, obs)).sample(key), carry, {}

    def _most_likely(
        self, params: PyTree, obs_stats: normalize.RunningStatistics | None, key: Array, carry: PyTree, obs: Array
    ) -> tuple[Array, PyTree, dict[str, Array]]:
        return self._actor(params, view(self.env.observation_space, obs_stats, obs)).mode(), carry, {}

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

    def _update(self, state: DiscreteSACState, key: Array) -> tuple[DiscreteSACState, Metrics]:
        """One gradient step of the critics, then of policy and temperature, on one batch."""
        batch = self._replay.sample(state.collector.replay, key, self.batch_size, self.gamma)
        space, stats = self.env.observation_space, state.collector.obs_stats
        seen = {name: view(space, stats, getattr(batch, name)) for name in ("obs", "next_obs", "later_obs")}
        batch = struct.replace(batch, **seen)
        temperature = jnp.exp(state.log_temperature)
        optimizer = optax.adam(self._learning_rate(state.iteration))

        grads, metrics = jax.grad(self._critic_loss, has_aux=True)(state.critic_params, state, batch, temperature)
        updates, critic_opt_state = optimizer.update(grads, state.critic_opt_state)
        critic_params = optax.apply_updates(state.critic_params, updates)

        (actor_loss, entropy), grads = jax.value_and_grad(self._actor_loss, has_aux=True)(
            state.actor_params, critic_params, batch, temperature
        )
        updates, actor_opt_state = optimizer.update(grads, state.actor_opt_state)
        actor_params = optax.apply_updates(state.actor_params, updates)

        # The gradient of log(alpha) * (entropy - target): up if and only if the policy is not random enough.
        space = self.env.action_space
        assert isinstance(space, Discrete)
        target_entropy = self.target_entropy * math.log(space.n)
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
        self, params: PyTree, state: DiscreteSACState, batch: Experience, temperature: Array
    ) -> tuple[Array, Metrics]:
        """Mean squared soft Bellman error of each critic, added up (equations 3 and 10 of arXiv:1910.07207).

        In a window of several steps the entropy of the present policy counts at each observation after the first.
        """

        def error(sample: Experience) -> tuple[Array, Array]:
            probs, log_probs = self._probs(state.actor_params, sample.next_obs)
            later_probs, later_log_probs = jax.vmap(partial(self._probs, state.actor_params))(sample.later_obs)
            next_values = jnp.min(self._critic(state.target_critic_params, sample.next_obs), axis=0)
            next_value = jnp.sum(probs * (next_values - temperature * log_probs))
            later_entropy = -jnp.sum(sample.later_discount * jnp.sum(later_probs * later_log_probs, axis=-1))
            reward = self.reward_scale * sample.reward + temperature * later_entropy
            target = reward + sample.discount * next_value
            value = self._critic(params, sample.obs)[:, sample.action]
            return value, target - value

        value, td_error = jax.vmap(error)(batch)
        loss = 0.5 * jnp.mean(jnp.sum(jnp.square(td_error), axis=1))
        return loss, {
            "critic_loss": Mean.of(loss),
            "q_value": Mean.of(value),
            "td_error": Mean.of(jnp.abs(td_error)),
        }

    def _actor_loss(
        self, params: PyTree, critic_params: PyTree, batch: Experience, temperature: Array
    ) -> tuple[Array, Array]:
        """``E_s sum_a pi(a | s) (alpha log pi(a | s) - min Q(s, a))`` (equation 12), and the entropy."""

        def loss_and_entropy(obs: Array) -> tuple[Array, Array]:
            probs, log_probs = self._probs(params, obs)
            values = jnp.min(self._critic(critic_params, obs), axis=0)
            return jnp.sum(probs * (temperature * log_probs - values)), -jnp.sum(probs * log_probs)

        loss, entropy = jax.vmap(loss_and_entropy)(batch.obs)
        return jnp.mean(loss), jnp.mean(entropy)

    def _probs(self, params: PyTree, obs: Array) -> tuple[Array, Array]:
        """Probability and log-probability of each action, ``[num_actions]``."""
        log_probs = jax.nn.log_softmax(self._actor(params, obs).logits)
        return jnp.exp(log_probs), log_probs
