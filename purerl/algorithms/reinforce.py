"""REINFORCE (Williams 1992, "Simple statistical gradient-following algorithms ...").

Collect a fixed number of steps with the current policy, then take one step along the Monte-Carlo policy gradient::

    mean over steps of  grad log pi(a_t | s_t) (G_t - b)

where the reward-to-go ``G_t = r_t + gamma r_{t+1} + ...`` runs to the end of the episode. (The paper uses the
whole return; rewards before an action only add variance.) The baseline ``b`` reduces the variance: nothing, the mean of
``G`` over the batch, or a learned value of ``s_t``. The factor ``gamma^t`` is left out, as usual.

Episodes go on from one batch to the next, so a reward-to-go may be cut off, by the end of the batch or by a time limit.
A learned value stands for the rest: a time limit is not the end of the task (Pardo et al. 2018, arXiv:1712.00378).
Without one the rest counts as 0, and the gradient is an unbiased one of the rewards up to the cut: rollouts must be
long, compared with episodes or with ``1 / (1 - gamma)`` steps. To drop the steps of unfinished episodes instead would
select by outcome: in a task of lasting long only failures would count, and in one that never ends nothing would.
"""

from __future__ import annotations

import enum
from typing import Any

import jax
import jax.numpy as jnp

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
from purerl.math.estimates import batch_lambda_returns
from purerl.math.reductions import mean_over_shards
from purerl.networks import ActorCritic
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree, Scalar, Transition


class Baseline(enum.Enum):
    """Baseline of the rewards-to-go."""

    NONE = enum.auto()
    MEAN = enum.auto()
    VALUE = enum.auto()


@struct.dataclass
class REINFORCEState:
    """Everything that changes while REINFORCE trains.

    Attributes:
        key: randomness of all later iterations.
        iteration: int32, iterations done.
        experience: environments in flight and running statistics.
        actor_params: parameters of the policy.
        critic_params: parameters of the value; None unless it is learned.
        actor_opt_state: state of the policy's optimiser.
        critic_opt_state: state of the value's optimiser; None unless it is learned.
    """

    key: Array
    iteration: Array = struct.field(shared=True)
    experience: ExperienceState
    actor_params: PyTree
    critic_params: PyTree
    actor_opt_state: PyTree
    critic_opt_state: PyTree


@struct.dataclass
class REINFORCE:
    """REINFORCE for discrete and continuous actions. See the module for the method."""

    env: Environment
    network: ActorCritic = struct.field(default=ActorCritic(), static=True, help="trunk and heads")
    num_envs: int = hyperparameters.num_envs(8)
    rollout_length: int = hyperparameters.rollout_length(128)
    baseline: Baseline = struct.field(
        default=Baseline.VALUE, static=True, help="baseline of the rewards-to-go: nothing, their mean, a learned value"
    )
    num_epochs: int = hyperparameters.num_epochs(10, "passes of the critic over each batch")
    num_minibatches: int = hyperparameters.num_minibatches(8, "updates of the critic per epoch")
    learning_rate: Scalar = hyperparameters.learning_rate(3e-3, " for the policy")
    critic_learning_rate: Scalar | None = hyperparameters.critic_learning_rate(1e-3)
    optimizer: Optimizer = hyperparameters.optimizer(Adam(eps=1e-5, max_grad_norm=0.5))
    gamma: Scalar = hyperparameters.gamma()
    entropy_coef: Scalar = hyperparameters.entropy_coef(0.0)
    normalize_observations: bool = hyperparameters.normalize_observations()
    normalize_rewards: bool = hyperparameters.normalize_rewards()
    reward_scale: Scalar = hyperparameters.reward_scale()
    reward_model: RewardModel = hyperparameters.reward_model()

    def __post_init__(self) -> None:
        struct.check_fields(self)
        checks.check_environment(self.env)
        if not isinstance(self.baseline, Baseline):
            raise InputError(f"baseline must be one of {', '.join(map(str, Baseline))}, got {self.baseline!r}")
        checks.check_separate("reinforce", self.network)
        checks.check_minibatches(self.num_envs, self.rollout_length, self.num_minibatches)
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

    def init(self, key: Array) -> REINFORCEState:
        """Fresh environments, networks and statistics."""
        key, actor_key, critic_key, reset_key = jax.random.split(key, 4)
        obs = zero_input(self.env.observation_space)
        actor_params = self._network.init(actor_key, obs, method="actor")
        critic_params = self._network.init(critic_key, obs, method="critic") if self._learns_value else None
        return REINFORCEState(
            key=key,
            iteration=jnp.int32(0),
            experience=self._experience.init(reset_key, self.network.initial_carry()),
            actor_params=actor_params,
            critic_params=critic_params,
            actor_opt_state=optimizers.init(self.optimizer, actor_params),
            critic_opt_state=None if critic_params is None else optimizers.init(self.optimizer, critic_params),
        )

    def policy(self, state: REINFORCEState, *, explore: bool) -> Policy:
        """Sample actions (``explore=True``) or take the most likely ones, in the environment's own units."""
        return Actor(self.env, self._network).policy(state.actor_params, state.experience.obs_stats, explore=explore)

    def step(self, state: REINFORCEState) -> tuple[REINFORCEState, Metrics]:
        """Collect, estimate, improve the policy, fit the value."""
        now = schedules.at(self, state.iteration)
        key, collect_key, entropy_key, critic_key = jax.random.split(state.key, 4)
        policy = now.policy(state, explore=True)
        experience, transitions, episodes = now._experience.collect(state.experience, policy, collect_key)
        batch = now._estimate(state, transitions)

        # One step: the batch says nothing about any other policy.
        grads, metrics = jax.grad(now._loss, has_aux=True)(state.actor_params, batch, entropy_key)
        actor_params, actor_opt_state = optimizers.update(
            now.optimizer, now.learning_rate, grads, state.actor_opt_state, state.actor_params
        )
        critic_params, critic_opt_state = state.critic_params, state.critic_opt_state
        if self._learns_value:
            critic_params, critic_opt_state, metrics["value_loss"] = now._fit_critic(state, batch, critic_key)
            metrics["explained_variance"] = Mean.of(explained_variance(batch.value, batch.target))

        metrics |= {"grad_norm": optimizers.gradient_norm(grads), "learning_rate": Mean.of(now.learning_rate)}
        state = REINFORCEState(
            key,
            state.iteration + 1,
            experience,
            actor_params,
            critic_params,
            actor_opt_state,
            critic_opt_state,
        )
        return state, episodes | metrics

    # Pieces

    @property
    def _learns_value(self) -> bool:
        return self.baseline is Baseline.VALUE

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

    def _estimate(self, state: REINFORCEState, transitions: Transition) -> PolicyBatch:
        """Rewards-to-go and their excess over the baseline, flattened for the update."""
        obs, next_obs = self._experience.preprocess_steps(state.experience, transitions)
        value = next_value = jnp.zeros_like(transitions.reward)
        if self._learns_value:
            value_of = jax.vmap(jax.vmap(lambda obs: self._critic(state.critic_params, obs)))
            value, next_value = value_of(obs), value_of(next_obs)
        # With lambda = 1 they are sums of rewards, and the value counts only where these are cut off.
        returns = batch_lambda_returns(transitions, next_value, self.gamma, 1.0)
        baseline = mean_over_shards(jnp.mean(returns)) if self.baseline is Baseline.MEAN else value
        return PolicyBatch.of(transitions, obs, value, returns - baseline, returns)

    def _loss(self, params: PyTree, batch: PolicyBatch, key: Array) -> tuple[Array, Metrics]:
        """Policy loss - entropy bonus, over the batch."""
        distribution: Any = jax.vmap(lambda obs: self._network.apply(params, obs, method="actor"))(batch.obs)
        entropy = jnp.mean(distribution.entropy(key))
        policy_loss = -jnp.mean(distribution.log_prob(batch.raw_action) * batch.advantage)
        metrics = {"policy_loss": Mean.of(policy_loss), "entropy": Mean.of(entropy)}
        return policy_loss - self.entropy_coef * entropy, metrics

    def _fit_critic(self, state: REINFORCEState, batch: PolicyBatch, key: Array) -> tuple[PyTree, PyTree, Mean]:
        return fit_value(
            self._critic,
            self.optimizer,
            hyperparameters.rate(self.critic_learning_rate, self.learning_rate),
            (state.critic_params, state.critic_opt_state),
            batch.obs,
            batch.target,
            key,
            self.num_epochs,
            self.num_minibatches,
        )
