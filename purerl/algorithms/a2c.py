"""Advantage actor-critic, synchronous (Mnih et al. 2016, arXiv:1602.01783).

Collect a few steps in many environments, estimate advantages, take one gradient step on the whole batch, and drop it.
In the paper, actors are asynchronous and update shared parameters independently; here all environments are stepped
together and share one gradient, the variant known as A2C. With ``gae_lambda = 1`` the advantage is the paper's n-step
return minus the value (its algorithm S3), below 1 it is GAE (Schulman et al. 2016, arXiv:1506.02438). This is PPO with
one epoch of one minibatch and nothing to clip (Huang et al. 2022, arXiv:2205.09123): there the probability ratio is 1,
and its gradient that of the log-probability. A time limit is not treated as the end of the task: there the value of the
true successor is bootstrapped (Pardo et al. 2018, arXiv:1712.00378).

A network with memory is applied to each rollout again, from its memory at the beginning of it. Gradients reach back to
the beginning of the rollout.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from purerl import struct
from purerl.errors import InputError
from purerl.experience.collection import Experience, ExperienceState
from purerl.experience.policies import Actor
from purerl.experience.preprocessing import zero_input
from purerl.experience.reward_models import RewardModel
from purerl.learning import checks, hyperparameters, optimizers, schedules
from purerl.learning.optimizers import Optimizer, RMSProp
from purerl.learning.sequences import SequenceBatch, apply_over_time, apply_to_transitions
from purerl.learning.value_regression import explained_variance
from purerl.math.estimates import batch_gae, standardize
from purerl.networks import ActorCritic
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree, Scalar, Transition


@struct.dataclass
class A2CState:
    """Everything that changes while A2C trains.

    Attributes:
        key: randomness of all later iterations.
        iteration: int32, iterations done.
        experience: environments in flight and running statistics.
        params: network parameters.
        opt_state: state of the optimiser.
    """

    key: Array
    iteration: Array = struct.field(shared=True)
    experience: ExperienceState
    params: PyTree
    opt_state: PyTree


@struct.dataclass
class A2C:
    """A2C for discrete and continuous actions. See the module for the method."""

    env: Environment
    network: ActorCritic = struct.field(default=ActorCritic(), static=True, help="trunk, heads and sharing")
    num_envs: int = hyperparameters.num_envs(8)
    rollout_length: int = hyperparameters.rollout_length(5)
    learning_rate: Scalar = hyperparameters.learning_rate(7e-4)
    optimizer: Optimizer = hyperparameters.optimizer(RMSProp(max_grad_norm=0.5))
    gamma: Scalar = hyperparameters.gamma()
    gae_lambda: Scalar = hyperparameters.gae_lambda(1.0)
    entropy_coef: Scalar = hyperparameters.entropy_coef(0.0)
    value_coef: Scalar = hyperparameters.value_coef()
    normalize_advantage: bool = hyperparameters.normalize_advantage(False, "batch")
    normalize_observations: bool = hyperparameters.normalize_observations()
    normalize_rewards: bool = hyperparameters.normalize_rewards()
    reward_scale: Scalar = hyperparameters.reward_scale()
    reward_model: RewardModel = hyperparameters.reward_model()

    def __post_init__(self) -> None:
        struct.check_fields(self)
        checks.check_environment(self.env)
        if self.normalize_advantage and self.steps_per_iteration == 1:
            raise InputError("normalize_advantage needs num_envs * rollout_length of at least 2 steps, got 1")
        jax.eval_shape(self._init_params, jax.random.key(0))  # a network that does not fit says so here

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

    def init(self, key: Array) -> A2CState:
        """Fresh environments, network and statistics."""
        key, params_key, reset_key = jax.random.split(key, 3)
        params = self._init_params(params_key)
        return A2CState(
            key=key,
            iteration=jnp.int32(0),
            experience=self._experience.init(reset_key, self.network.initial_carry()),
            params=params,
            opt_state=optimizers.init(self.optimizer, params),
        )

    def policy(self, state: A2CState, *, explore: bool) -> Policy:
        """Sample actions (``explore=True``) or take the most likely ones, in the environment's own units."""
        return Actor(self.env, self._network).policy(state.params, state.experience.obs_stats, explore=explore)

    def step(self, state: A2CState) -> tuple[A2CState, Metrics]:
        """Collect, estimate, update."""
        now = schedules.at(self, state.iteration)
        key, collect_key, entropy_key = jax.random.split(state.key, 3)
        policy = now.policy(state, explore=True)
        experience, transitions, episodes = now._experience.collect(state.experience, policy, collect_key)
        batch = now._estimate(state, transitions)
        grads, metrics = jax.grad(now._loss, has_aux=True)(state.params, batch, entropy_key)
        params, opt_state = optimizers.update(now.optimizer, now.learning_rate, grads, state.opt_state, state.params)
        metrics |= {"grad_norm": optimizers.gradient_norm(grads), "learning_rate": Mean.of(now.learning_rate)}
        return A2CState(key, state.iteration + 1, experience, params, opt_state), episodes | metrics

    # Pieces

    @property
    def _network(self) -> ActorCritic:
        return self.network.clone(action_space=self.env.action_space)

    def _init_params(self, key: Array) -> PyTree:
        carry, obs = self.network.initial_carry(), zero_input(self.env.observation_space)
        return self._network.init(key, carry, obs, method="advance")

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

    def _estimate(self, state: A2CState, transitions: Transition) -> SequenceBatch:
        """Advantages and value targets, laid out for the update."""
        obs, next_obs = self._experience.preprocess_steps(state.experience, transitions)
        carry = state.experience.rollout.carry
        _, value, next_value = apply_to_transitions(self._network, state.params, carry, obs, next_obs, transitions.done)
        advantage = batch_gae(transitions, value, next_value, self.gamma, self.gae_lambda)
        return SequenceBatch.of(carry, transitions, obs, value, advantage, advantage + value)

    def _loss(self, params: PyTree, batch: SequenceBatch, key: Array) -> tuple[Array, Metrics]:
        """Policy loss - entropy bonus + value loss, over the batch."""
        _, (distribution, value) = apply_over_time(self._network, params, batch.carry, batch.obs, batch.done)
        entropy = jnp.mean(distribution.entropy(key))

        advantage = standardize(batch.advantage) if self.normalize_advantage else batch.advantage
        policy_loss = -jnp.mean(distribution.log_prob(batch.raw_action) * advantage)
        value_loss = 0.5 * jnp.mean(jnp.square(value - batch.target))

        metrics = {
            "policy_loss": Mean.of(policy_loss),
            "value_loss": Mean.of(value_loss),
            "entropy": Mean.of(entropy),
            "explained_variance": Mean.of(explained_variance(value, batch.target)),
        }
        return policy_loss - self.entropy_coef * entropy + self.value_coef * value_loss, metrics
