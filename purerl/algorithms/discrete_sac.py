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
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from purerl import struct
from purerl.experience.collection import Experience, ExperienceState
from purerl.experience.policies import Actor, uniform
from purerl.experience.preprocessing import zero_input
from purerl.learning import checks, hyperparameters, optimizers, schedules
from purerl.learning.optimizers import Adam, Optimizer
from purerl.learning.temperature import LEAST_TEMPERATURE, MOST_TEMPERATURE, init_temperature, update_temperature
from purerl.q_networks import DiscreteSoftActorCritic, critic_metrics, init_actor_critic, target_gap
from purerl.replay import Replay, ReplaySample
from purerl.spaces import Discrete
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree, Scalar, merge


@struct.dataclass
class DiscreteSACState:
    """Everything that changes while discrete SAC trains.

    Attributes:
        key: randomness of all later iterations.
        iteration: int32, iterations done, those of the warm-up included.
        experience: environments in flight and running statistics.
        replay: past steps.
        actor_params: parameters of the policy.
        critic_params: parameters of the critics.
        target_critic_params: parameters of the critics' target networks.
        log_temperature: float32, log alpha.
        actor_opt_state: state of the policy's optimiser.
        critic_opt_state: state of the critics' optimiser.
        temperature_opt_state: state of the temperature's optimiser.
    """

    key: Array
    iteration: Array = struct.field(shared=True)
    experience: ExperienceState
    replay: PyTree = struct.field(per_shard=True)
    actor_params: PyTree
    critic_params: PyTree
    target_critic_params: PyTree
    log_temperature: Array
    actor_opt_state: PyTree
    critic_opt_state: PyTree
    temperature_opt_state: PyTree


@struct.dataclass
class DiscreteSAC:
    """SAC for discrete actions. See the module for the method."""

    env: Environment
    network: DiscreteSoftActorCritic = struct.field(
        default=DiscreteSoftActorCritic(), static=True, help="policy and critics"
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
    tau: Scalar = hyperparameters.tau(0.005, "target critics")
    initial_temperature: Scalar = hyperparameters.initial_temperature(LEAST_TEMPERATURE, MOST_TEMPERATURE)
    temperature_learning_rate: Scalar | None = hyperparameters.temperature_learning_rate()
    target_entropy: Scalar = struct.field(
        default=0.5, help="target entropy as a share of the entropy of a uniformly random policy", within="[0, 1]"
    )
    reward_scale: Scalar = hyperparameters.reward_scale()
    normalize_observations: bool = hyperparameters.normalize_observations()

    def __post_init__(self) -> None:
        struct.check_fields(self)
        checks.check_discrete("discrete_sac", self.env, "sac, td3 or ppo")
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

    def init(self, key: Array) -> DiscreteSACState:
        """Fresh environments and networks, and a replay that holds `warmup_steps` random steps."""
        key, params_key, warmup_key = jax.random.split(key, 3)
        actor_params, critic_params = self._init_params(params_key)
        now = schedules.at(self, jnp.int32(0))
        experience, replay = now._experience.warm_up(
            self._replay, uniform(self.env), self.warmup_iterations, warmup_key
        )
        log_temperature, temperature_opt_state = init_temperature(now.initial_temperature)
        return DiscreteSACState(
            key=key,
            iteration=jnp.int32(self.warmup_iterations),
            experience=experience,
            replay=replay,
            actor_params=actor_params,
            critic_params=critic_params,
            target_critic_params=jax.tree.map(jnp.copy, critic_params),
            log_temperature=log_temperature,
            actor_opt_state=optimizers.init(self.optimizer, actor_params),
            critic_opt_state=optimizers.init(self.optimizer, critic_params),
            temperature_opt_state=temperature_opt_state,
        )

    def policy(self, state: DiscreteSACState, *, explore: bool) -> Policy:
        """Sample actions (``explore=True``) or take the most likely ones."""
        return Actor(self.env, self._network).policy(state.actor_params, state.experience.obs_stats, explore=explore)

    def step(self, state: DiscreteSACState) -> tuple[DiscreteSACState, Metrics]:
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
                "temperature": Mean.of(jnp.exp(state.log_temperature)),
                "target_gap": Mean.of(target_gap(state.critic_params, state.target_critic_params)),
                "learning_rate": Mean.of(now.learning_rate),
            }
        )
        return struct.replace(state, iteration=state.iteration + 1), metrics

    # Pieces

    @property
    def _network(self) -> DiscreteSoftActorCritic:
        return self.network.clone(action_space=self.env.action_space)

    def _init_params(self, key: Array) -> tuple[PyTree, PyTree]:
        return init_actor_critic(self._network, key, zero_input(self.env.observation_space))

    def _critic(self, params: PyTree, obs: Array) -> Array:
        """``[num_critics, num_actions]``."""
        return jnp.asarray(self._network.apply(params, obs, method="critic"))

    @property
    def _experience(self) -> Experience:
        return Experience(self.env, self.num_envs, self.rollout_length, self.normalize_observations, self.reward_scale)

    @property
    def _replay(self) -> Replay:
        return Replay(self.buffer_size, self.num_envs, self.rollout_length, self.n_step)

    # Learning

    def _update(self, state: DiscreteSACState, key: Array) -> tuple[DiscreteSACState, Metrics]:
        """One gradient step of the critics, then of policy and temperature, on one batch."""
        batch = self._replay.sample(state.replay, key, self.batch_size, self.gamma)
        batch = self._experience.preprocess_sample(state.experience, batch)
        temperature = jnp.exp(state.log_temperature)

        grads, metrics = jax.grad(self._critic_loss, has_aux=True)(state.critic_params, state, batch, temperature)
        critic_rate = hyperparameters.rate(self.critic_learning_rate, self.learning_rate)
        critic_params, critic_opt_state = optimizers.update(
            self.optimizer, critic_rate, grads, state.critic_opt_state, state.critic_params
        )
        (actor_loss, entropy), grads = jax.value_and_grad(self._actor_loss, has_aux=True)(
            state.actor_params, critic_params, batch, temperature
        )
        actor_params, actor_opt_state = optimizers.update(
            self.optimizer, self.learning_rate, grads, state.actor_opt_state, state.actor_params
        )
        assert isinstance(self.env.action_space, Discrete)
        target_entropy = self.target_entropy * math.log(self.env.action_space.n)
        rate = hyperparameters.rate(self.temperature_learning_rate, self.learning_rate)
        log_temperature, temperature_opt_state = update_temperature(
            state.log_temperature, state.temperature_opt_state, rate, entropy - target_entropy
        )
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
        self, params: PyTree, state: DiscreteSACState, batch: ReplaySample, temperature: Array
    ) -> tuple[Array, Metrics]:
        """Mean squared soft Bellman error of each critic, added up (equations 3 and 10 of arXiv:1910.07207).

        In a window of several steps the entropy of the present policy counts at each observation after the first.
        """

        def error(sample: ReplaySample) -> tuple[Array, Array]:
            probs, log_probs = self._probs(state.actor_params, sample.next_obs)
            later_probs, later_log_probs = jax.vmap(partial(self._probs, state.actor_params))(sample.later_obs)
            next_values = jnp.min(self._critic(state.target_critic_params, sample.next_obs), axis=0)
            next_value = jnp.sum(probs * (next_values - temperature * log_probs))
            later_entropy = -jnp.sum(sample.later_discount * jnp.sum(later_probs * later_log_probs, axis=-1))
            target = sample.reward + temperature * later_entropy + sample.discount * next_value
            value = self._critic(params, sample.obs)[:, sample.action]
            return value, target - value

        value, td_error = jax.vmap(error)(batch)
        loss = 0.5 * jnp.mean(jnp.sum(jnp.square(td_error), axis=1))
        return loss, critic_metrics(loss, value, td_error)

    def _actor_loss(
        self, params: PyTree, critic_params: PyTree, batch: ReplaySample, temperature: Array
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
        distribution: Any = self._network.apply(params, obs, method="actor")
        log_probs = jax.nn.log_softmax(distribution.logits)
        return jnp.exp(log_probs), log_probs
