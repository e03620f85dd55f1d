"""Trust region policy optimisation (Schulman et al. 2015, arXiv:1502.05477).

Collect a fixed number of steps with the current policy, estimate advantages with GAE (Schulman et al. 2016,
arXiv:1506.02438), and improve the policy as far as its mean KL divergence from the one that acted allows (equation 14).
The direction is the natural gradient ``F^-1 g``, by conjugate gradient on products with the Fisher matrix ``F``; the
step is as long as the divergence allows to second order, and is then shortened until the divergence itself does and
the surrogate has improved (appendix C). If no length meets both, the policy stays as it is. Damping counts in the
length too, as is usual: where the policy is almost deterministic hardly any change of it shows to second order.

Without the line search this is the natural policy gradient (Kakade 2001, "A natural policy gradient"), with steps that
have a given divergence to second order and are not checked.

The value is fitted separately, by epochs of minibatches with Adam. A time limit is not treated as the end of the task:
there the value of the true successor is bootstrapped (Pardo et al. 2018, arXiv:1712.00378).

Statistics of normalised observations are updated after the policy; the divergence does not include that change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from purerl import struct
from purerl.errors import InputError
from purerl.experience.collection import Experience, ExperienceState
from purerl.experience.policies import Actor
from purerl.experience.preprocessing import zero_input
from purerl.experience.reward_models import RewardModel
from purerl.learning import checks, hyperparameters, optimizers, schedules
from purerl.learning.optimizers import Adam, Optimizer
from purerl.learning.sequences import PolicyBatch
from purerl.learning.value_regression import explained_variance, fit_value
from purerl.math import float_leaves
from purerl.math.estimates import batch_gae, standardize
from purerl.math.natural_gradient import natural_step, surrogate_and_divergence
from purerl.math.reductions import mean_over_shards
from purerl.networks import ActorCritic
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree, Scalar, Transition


@struct.dataclass
class TRPOState:
    """Everything that changes while TRPO trains.

    Attributes:
        key: randomness of all later iterations.
        iteration: int32, iterations done.
        experience: environments in flight and running statistics.
        actor_params: parameters of the policy.
        critic_params: parameters of the value.
        critic_opt_state: state of the value's optimiser.
    """

    key: Array
    iteration: Array = struct.field(shared=True)
    experience: ExperienceState
    actor_params: PyTree
    critic_params: PyTree
    critic_opt_state: PyTree


@struct.dataclass
class TRPO:
    """TRPO for discrete and continuous actions. See the module for the method."""

    env: Environment
    network: ActorCritic = struct.field(default=ActorCritic(), static=True, help="trunk and heads")
    num_envs: int = hyperparameters.num_envs(8)
    rollout_length: int = hyperparameters.rollout_length(128)
    num_epochs: int = hyperparameters.num_epochs(10, "passes of the critic over each batch")
    num_minibatches: int = hyperparameters.num_minibatches(8, "updates of the critic per epoch")
    learning_rate: Scalar = hyperparameters.learning_rate(1e-3, " for the value")
    optimizer: Optimizer = hyperparameters.optimizer(Adam(eps=1e-5))
    gamma: Scalar = hyperparameters.gamma()
    gae_lambda: Scalar = hyperparameters.gae_lambda()
    max_kl: Scalar = struct.field(
        default=0.01, help="largest mean KL divergence between policies of two iterations", within="(0, inf)"
    )
    damping: Scalar = struct.field(
        default=0.1, help="damping: number added to the Fisher matrix's diagonal", within="[0, inf)"
    )
    num_cg_iterations: int = struct.field(
        default=10, static=True, help="iterations of conjugate gradient", within="[1, inf)"
    )
    line_search: bool = struct.field(
        default=True,
        static=True,
        help="backtracking line search on KL divergence and surrogate; off: natural policy gradient",
    )
    num_backtracks: int = struct.field(
        default=10, static=True, help="step lengths that the line search tries, the full one first", within="[1, inf)"
    )
    backtrack_ratio: Scalar = struct.field(
        default=0.8, help="ratio of each step length to the one before", within="(0, 1)"
    )
    normalize_observations: bool = hyperparameters.normalize_observations()
    normalize_rewards: bool = hyperparameters.normalize_rewards()
    reward_scale: Scalar = hyperparameters.reward_scale()
    reward_model: RewardModel = hyperparameters.reward_model()

    def __post_init__(self) -> None:
        struct.check_fields(self)
        checks.check_environment(self.env)
        checks.check_separate("trpo", self.network)
        checks.check_minibatches(self.num_envs, self.rollout_length, self.num_minibatches)
        if self.steps_per_iteration == 1:
            raise InputError("trpo needs num_envs * rollout_length of at least 2 steps, got 1")
        checks.check_network(self._network, self.env)

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps of one iteration."""
        return self.num_envs * self.rollout_length

    @property
    def minibatch_rows(self) -> int:
        """Rows that networks process together while learning."""
        return self.steps_per_iteration

    @property
    def warmup_iterations(self) -> int:
        """0: there is no replay to fill."""
        return 0

    def init(self, key: Array) -> TRPOState:
        """Fresh environments, networks and statistics."""
        key, actor_key, critic_key, reset_key = jax.random.split(key, 4)
        obs = zero_input(self.env.observation_space)
        critic_params = self._network.init(critic_key, obs, method="critic")
        return TRPOState(
            key=key,
            iteration=jnp.int32(0),
            experience=self._experience.init(reset_key, self.network.initial_carry()),
            actor_params=self._network.init(actor_key, obs, method="actor"),
            critic_params=critic_params,
            critic_opt_state=optimizers.init(self.optimizer, critic_params),
        )

    def policy(self, state: TRPOState, *, explore: bool) -> Policy:
        """Sample actions (``explore=True``) or take the most likely ones, in the environment's own units."""
        return Actor(self.env, self._network).policy(state.actor_params, state.experience.obs_stats, explore=explore)

    def step(self, state: TRPOState) -> tuple[TRPOState, Metrics]:
        """Collect, estimate, improve the policy, fit the value."""
        now = schedules.at(self, state.iteration)
        key, collect_key, entropy_key, critic_key = jax.random.split(state.key, 4)
        policy = now.policy(state, explore=True)
        experience, transitions, episodes = now._experience.collect(state.experience, policy, collect_key)
        batch = now._estimate(state, transitions)
        actor_params, metrics = now._improve_policy(state.actor_params, batch, entropy_key)
        critic_params, critic_opt_state, value_loss = now._fit_critic(state, batch, critic_key)
        metrics |= {
            "value_loss": value_loss,
            "explained_variance": Mean.of(explained_variance(batch.value, batch.target)),
            "learning_rate": Mean.of(now.learning_rate),
        }
        state = TRPOState(key, state.iteration + 1, experience, actor_params, critic_params, critic_opt_state)
        return state, episodes | metrics

    # Pieces

    @property
    def _network(self) -> ActorCritic:
        return self.network.clone(action_space=self.env.action_space)

    def _critic(self, params: PyTree, obs: Array) -> Array:
        return jnp.asarray(self._network.apply(params, obs, method="critic"))

    @property
    def _experience(self) -> Experience:
        return Experience(
            self.env,
            self.num_envs,
            self.rollout_length,
            self.normalize_observations,
            self.reward_scale,
            self.normalize_rewards,
            self.gamma,
            self.reward_model,
        )

    # Learning

    def _estimate(self, state: TRPOState, transitions: Transition) -> PolicyBatch:
        """Standardised advantages and value targets, flattened for the update."""
        obs, next_obs = self._experience.preprocess_steps(state.experience, transitions)
        value_of = jax.vmap(jax.vmap(lambda obs: self._critic(state.critic_params, obs)))
        value = value_of(obs)
        advantage = batch_gae(transitions, value, value_of(next_obs), self.gamma, self.gae_lambda)
        return PolicyBatch.of(transitions, obs, value, standardize(advantage), advantage + value)

    def _improve_policy(self, params: PyTree, batch: PolicyBatch, key: Array) -> tuple[PyTree, Metrics]:
        """One natural gradient step, shortened by the line search if there is one."""
        flat, unravel = float_leaves.ravel(params)

        def policy(flat: Array) -> Any:
            return jax.vmap(lambda obs: self._network.apply(unravel(flat), obs, method="actor"))(batch.obs)

        surrogate, divergence = surrogate_and_divergence(
            policy, flat, batch.raw_action, batch.log_prob, batch.advantage
        )
        step, metrics = natural_step(surrogate, divergence, flat, self.max_kl, self.damping, self.num_cg_iterations)
        new, search_metrics = flat + step, {}
        if self.line_search:
            new, search_metrics = self._search(surrogate, divergence, flat, step)
        metrics |= search_metrics | {
            "policy_loss": Mean.of(-surrogate(new)),
            "entropy": Mean.of(policy(flat).entropy(key)),
            "kl": Mean.of(divergence(new)),
        }
        return unravel(new), metrics

    def _search(
        self, surrogate: Callable[[Array], Array], divergence: Callable[[Array], Array], flat: Array, step: Array
    ) -> tuple[Array, Metrics]:
        """The longest tried part of `step` with KL <= `max_kl` and a better surrogate (appendix C), or no step."""
        before = mean_over_shards(surrogate(flat))

        def shorten(chosen: Array, length: Array) -> tuple[Array, None]:
            new = flat + length * step
            after, kl = mean_over_shards((surrogate(new), divergence(new)))
            good = (after > before) & (kl <= self.max_kl)
            return jnp.where((chosen == 0.0) & good, length, chosen), None

        # All lengths are tried: a loop that ends early would run to the slowest member of a population.
        lengths = self.backtrack_ratio ** jnp.arange(self.num_backtracks, dtype=jnp.float32)
        length, _ = lax.scan(shorten, jnp.float32(0.0), lengths)
        # A selection: where nothing was good the step may not even be finite.
        new = jnp.where(length > 0.0, flat + length * step, flat)
        return new, {"step_length": Mean.of(length), "accepted": Mean.of(length > 0.0)}

    def _fit_critic(self, state: TRPOState, batch: PolicyBatch, key: Array) -> tuple[PyTree, PyTree, Mean]:
        return fit_value(
            self._critic,
            self.optimizer,
            self.learning_rate,
            (state.critic_params, state.critic_opt_state),
            batch.obs,
            batch.target,
            key,
            self.num_epochs,
            self.num_minibatches,
        )
