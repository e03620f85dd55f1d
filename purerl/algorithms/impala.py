"""Importance weighted actor-learner architecture (Espeholt et al. 2018, arXiv:1802.01561), on one machine.

Where many actors feed one learner, the policy that acted is some updates behind the one that learns. V-trace corrects
for it: errors of the value are weighed by probability ratios clipped at `rho_bar`, traces by ratios clipped at `c_bar`,
and the policy gradient by the former. On one machine there is no such delay; here `lag` says how many iterations
the acting policy is behind, always exactly, so that every run can be repeated. Without a lag all ratios are 1 and this
is A2C. A time limit is not treated as the end of the task: there the value of the true successor is bootstrapped (Pardo
et al. 2018, arXiv:1712.00378).

A network with memory is applied to each rollout again, from the acting policy's memory at its beginning. Gradients
reach back to the beginning of the rollout.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from purerl import struct
from purerl.experience.collection import Experience, ExperienceState
from purerl.experience.policies import Actor
from purerl.experience.preprocessing import zero_input
from purerl.experience.reward_models import RewardModel
from purerl.learning import checks, hyperparameters, optimizers, schedules
from purerl.learning.optimizers import Optimizer, RMSProp
from purerl.learning.sequences import SequenceBatch, apply_over_time, apply_to_transitions
from purerl.learning.value_regression import explained_variance
from purerl.math.estimates import approximate_kl
from purerl.math.returns import vtrace
from purerl.networks import ActorCritic
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree, Scalar, Transition


@struct.dataclass
class IMPALAState:
    """Everything that changes while IMPALA trains.

    Attributes:
        key: randomness of all later iterations.
        iteration: int32, iterations done.
        experience: environments in flight and running statistics.
        params: network parameters.
        recent_params: those of the last ``lag + 1`` iterations, a ring ``[lag + 1, ...]``.
        opt_state: state of the optimiser.
    """

    key: Array
    iteration: Array = struct.field(shared=True)
    experience: ExperienceState
    params: PyTree
    recent_params: PyTree
    opt_state: PyTree


@struct.dataclass
class IMPALA:
    """IMPALA for discrete and continuous actions. See the module for the method."""

    env: Environment
    network: ActorCritic = struct.field(default=ActorCritic(), static=True, help="trunk, heads and sharing")
    lag: int = struct.field(
        default=1, static=True, help="iterations by which the behaviour policy is behind the learner", within="[0, inf)"
    )
    num_envs: int = hyperparameters.num_envs(8)
    rollout_length: int = hyperparameters.rollout_length(5)
    learning_rate: Scalar = hyperparameters.learning_rate(7e-4)
    optimizer: Optimizer = hyperparameters.optimizer(RMSProp(max_grad_norm=0.5))
    gamma: Scalar = hyperparameters.gamma()
    vtrace_lambda: Scalar = struct.field(default=1.0, help="decay of V-trace's traces", within="[0, 1]")
    rho_bar: Scalar = struct.field(
        default=1.0, help="clip of the importance ratios that weigh temporal differences", within="(0, inf]"
    )
    c_bar: Scalar = struct.field(default=1.0, help="clip of the importance ratios in the traces", within="[0, inf]")
    correct: bool = struct.field(
        default=True, static=True, help="V-trace correction by importance ratios; off, for comparison: all ratios are 1"
    )
    entropy_coef: Scalar = hyperparameters.entropy_coef(0.0)
    value_coef: Scalar = hyperparameters.value_coef()
    normalize_observations: bool = hyperparameters.normalize_observations()
    normalize_rewards: bool = hyperparameters.normalize_rewards()
    reward_scale: Scalar = hyperparameters.reward_scale()
    reward_model: RewardModel = hyperparameters.reward_model()

    def __post_init__(self) -> None:
        struct.check_fields(self)
        checks.check_environment(self.env)
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

    def init(self, key: Array) -> IMPALAState:
        """Fresh environments, network and statistics."""
        key, params_key, reset_key = jax.random.split(key, 3)
        params = self._init_params(params_key)
        return IMPALAState(
            key=key,
            iteration=jnp.int32(0),
            experience=self._experience.init(reset_key, self.network.initial_carry()),
            params=params,
            recent_params=jax.tree.map(lambda leaf: jnp.stack([leaf] * (self.lag + 1)), params),
            opt_state=optimizers.init(self.optimizer, params),
        )

    def policy(self, state: IMPALAState, *, explore: bool) -> Policy:
        """Sample actions (``explore=True``) or take the most likely ones, in the environment's own units.

        With the newest parameters in either case; those that `step` acts with are older.
        """
        return self._policy(state, state.params, explore=explore)

    def step(self, state: IMPALAState) -> tuple[IMPALAState, Metrics]:
        """Collect, estimate, update."""
        now = schedules.at(self, state.iteration)
        key, collect_key, entropy_key = jax.random.split(state.key, 3)
        recent_params, behaviour_params = self._remember(state)
        policy = now._policy(state, behaviour_params, explore=True)
        experience, transitions, episodes = now._experience.collect(state.experience, policy, collect_key)
        batch = now._estimate(state, transitions)
        grads, metrics = jax.grad(now._loss, has_aux=True)(state.params, batch, entropy_key)
        params, opt_state = optimizers.update(now.optimizer, now.learning_rate, grads, state.opt_state, state.params)
        metrics |= {"grad_norm": optimizers.gradient_norm(grads), "learning_rate": Mean.of(now.learning_rate)}
        state = IMPALAState(key, state.iteration + 1, experience, params, recent_params, opt_state)
        return state, episodes | metrics

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

    # Acting

    def _policy(self, state: IMPALAState, params: PyTree, *, explore: bool) -> Policy:
        return Actor(self.env, self._network).policy(params, state.experience.obs_stats, explore=explore)

    def _remember(self, state: IMPALAState) -> tuple[PyTree, PyTree]:
        """The ring with the newest parameters in it, and those of `lag` iterations ago, or the first ones."""
        newest, oldest = state.iteration % (self.lag + 1), (state.iteration + 1) % (self.lag + 1)
        # Written before it is read, the ring stays in place; the other way round XLA copies it in every iteration.
        ring = jax.tree.map(lambda ring, leaf: ring.at[newest].set(leaf), state.recent_params, state.params)
        return ring, jax.tree.map(lambda ring: ring[oldest], ring)

    # Learning

    def _estimate(self, state: IMPALAState, transitions: Transition) -> SequenceBatch:
        """V-trace targets and advantages, laid out for the update."""
        obs, next_obs = self._experience.preprocess_steps(state.experience, transitions)
        carry = state.experience.rollout.carry
        distribution, value, next_value = apply_to_transitions(
            self._network, state.params, carry, obs, next_obs, transitions.done
        )
        log_ratio = distribution.log_prob(transitions.extras["raw_action"]) - transitions.extras["log_prob"]
        ratio = jnp.exp(log_ratio) if self.correct else jnp.ones_like(log_ratio)
        target, advantage = jax.vmap(vtrace, in_axes=(0,) * 6 + (None,) * 4)(
            transitions.reward,
            value,
            next_value,
            transitions.terminated,
            transitions.done,
            ratio,
            self.gamma,
            self.vtrace_lambda,
            self.rho_bar,
            self.c_bar,
        )
        return SequenceBatch.of(carry, transitions, obs, value, advantage, target)

    def _loss(self, params: PyTree, batch: SequenceBatch, key: Array) -> tuple[Array, Metrics]:
        """Policy loss - entropy bonus + value loss, over the batch (section 4.2 of the paper)."""
        _, (distribution, value) = apply_over_time(self._network, params, batch.carry, batch.obs, batch.done)
        entropy = jnp.mean(distribution.entropy(key))

        log_prob = distribution.log_prob(batch.raw_action)
        policy_loss = -jnp.mean(log_prob * batch.advantage)
        value_loss = 0.5 * jnp.mean(jnp.square(value - batch.target))

        log_ratio = log_prob - batch.log_prob
        metrics = {
            "policy_loss": Mean.of(policy_loss),
            "value_loss": Mean.of(value_loss),
            "entropy": Mean.of(entropy),
            "approx_kl": Mean.of(approximate_kl(log_ratio)),
            "clip_fraction": Mean.of(jnp.mean(jnp.exp(log_ratio) > self.rho_bar)),
            "explained_variance": Mean.of(explained_variance(value, batch.target)),
        }
        return policy_loss - self.entropy_coef * entropy + self.value_coef * value_loss, metrics
