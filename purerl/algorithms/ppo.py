"""Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347).

Collect a fixed number of steps with the current policy, estimate advantages with GAE (Schulman et al. 2016,
arXiv:1506.02438), then improve the policy for several epochs of minibatches while keeping it close to the one that
acted: by clipping the probability ratio (equation 7), by penalising the KL divergence (equation 8), or both.
Implementation details follow Huang et al. 2022 ("The 37 implementation details of PPO"), except that a time limit is
not treated as the end of the task: there the value of the true successor is bootstrapped (Pardo et al. 2018,
arXiv:1712.00378).

A network with memory learns from whole rollouts: minibatches consist of environments, and the network is applied to
each rollout again, from its memory at the beginning of it. Gradients reach back to the beginning of the rollout.
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
from purerl.learning.kl_penalty import LEAST_KL_COEF, MOST_KL_COEF, adapt_kl_coef
from purerl.learning.minibatches import accumulate_gradient, minibatch_epochs
from purerl.learning.optimizers import Adam, Optimizer
from purerl.learning.sequences import SequenceBatch, apply_over_time, apply_to_transitions
from purerl.learning.value_regression import explained_variance
from purerl.math.estimates import approximate_kl, batch_gae, standardize
from purerl.math.reductions import mean_over_shards
from purerl.networks import ActorCritic
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree, Scalar, Transition


@struct.dataclass
class PPOState:
    """Everything that changes while PPO trains.

    Attributes:
        key: randomness of all later iterations.
        iteration: int32, iterations done.
        experience: environments in flight and running statistics.
        params: network parameters.
        opt_state: state of the optimiser.
        kl_coef: float32, beta of the adaptive KL penalty.
    """

    key: Array
    iteration: Array = struct.field(shared=True)
    experience: ExperienceState
    params: PyTree
    opt_state: PyTree
    kl_coef: Array


@struct.dataclass
class PPO:
    """PPO for discrete and continuous actions. See the module for the method."""

    env: Environment
    network: ActorCritic = struct.field(default=ActorCritic(), static=True, help="trunk, heads and sharing")
    num_envs: int = hyperparameters.num_envs(4)
    rollout_length: int = hyperparameters.rollout_length(128)
    num_epochs: int = hyperparameters.num_epochs(4)
    num_minibatches: int = hyperparameters.num_minibatches(4)
    learning_rate: Scalar = hyperparameters.learning_rate(2.5e-4)
    optimizer: Optimizer = hyperparameters.optimizer(Adam(eps=1e-5, max_grad_norm=0.5))
    gamma: Scalar = hyperparameters.gamma()
    gae_lambda: Scalar = hyperparameters.gae_lambda()
    clip_eps: Scalar | None = struct.field(
        default=0.2, help="clip range of the probability ratio, on either side of 1", within="(0, inf)"
    )
    value_clip_eps: Scalar | None = struct.field(
        default=0.2, help="clip range of the value, on either side of the old one", within="(0, inf)"
    )
    kl_target: Scalar | None = struct.field(
        default=None, help="target of the adaptive KL penalty, per iteration", within="(0, inf)"
    )
    initial_kl_coef: Scalar = struct.field(
        default=1.0, help="initial weight of the adaptive KL penalty", within=f"[{LEAST_KL_COEF:g}, {MOST_KL_COEF:g}]"
    )
    max_kl: Scalar | None = struct.field(
        default=None, help="early stopping: skip the remaining epochs above this approximate KL", within="(0, inf)"
    )
    entropy_coef: Scalar = hyperparameters.entropy_coef(0.01)
    value_coef: Scalar = hyperparameters.value_coef()
    normalize_advantage: bool = hyperparameters.normalize_advantage(True, "minibatch")
    normalize_observations: bool = hyperparameters.normalize_observations()
    normalize_rewards: bool = hyperparameters.normalize_rewards()
    reward_scale: Scalar = hyperparameters.reward_scale()
    reward_model: RewardModel = hyperparameters.reward_model()

    def __post_init__(self) -> None:
        struct.check_fields(self)
        checks.check_environment(self.env)
        checks.check_minibatches(self.num_envs, self.rollout_length, self.num_minibatches)
        if self._num_sequences % self.num_minibatches:
            raise InputError(
                f"num_envs = {self.num_envs} environments cannot be divided into num_minibatches = "
                f"{self.num_minibatches} equal minibatches: a network with memory learns from whole rollouts"
            )
        if self.normalize_advantage and self.steps_per_iteration == self.num_minibatches:
            raise InputError("normalize_advantage needs minibatches of at least 2 steps, got 1")
        if self.clip_eps is None and self.kl_target is None:
            raise InputError("set clip_eps, kl_target or both: without either nothing keeps the update small")
        jax.eval_shape(self._init_params, jax.random.key(0))  # a network that does not fit says so here

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps of one iteration."""
        return self.num_envs * self.rollout_length

    @property
    def minibatch_rows(self) -> int:
        """Rows that networks process together while learning."""
        return self.steps_per_iteration // self.num_minibatches

    @property
    def warmup_iterations(self) -> int:
        """0: there is no replay to fill."""
        return 0

    def init(self, key: Array) -> PPOState:
        """Fresh environments, network and statistics."""
        key, params_key, reset_key = jax.random.split(key, 3)
        params = self._init_params(params_key)
        now = schedules.at(self, jnp.int32(0))
        return PPOState(
            key=key,
            iteration=jnp.int32(0),
            experience=self._experience.init(reset_key, self.network.initial_carry()),
            params=params,
            opt_state=optimizers.init(self.optimizer, params),
            kl_coef=jnp.asarray(now.initial_kl_coef, jnp.float32),
        )

    def policy(self, state: PPOState, *, explore: bool) -> Policy:
        """Sample actions (``explore=True``) or take the most likely ones, in the environment's own units."""
        return Actor(self.env, self._network).policy(state.params, state.experience.obs_stats, explore=explore)

    def step(self, state: PPOState) -> tuple[PPOState, Metrics]:
        """Collect, estimate, update."""
        now = schedules.at(self, state.iteration)
        key, collect_key, update_key = jax.random.split(state.key, 3)
        policy = now.policy(state, explore=True)
        experience, transitions, episodes = now._experience.collect(state.experience, policy, collect_key)
        batch = now._estimate(state, transitions)
        params, opt_state, metrics = now._update(state, batch, update_key)
        kl_coef, penalty = now._adapt_penalty(state.kl_coef, params, batch)
        metrics |= {**episodes, **penalty, "learning_rate": Mean.of(now.learning_rate)}
        return PPOState(key, state.iteration + 1, experience, params, opt_state, kl_coef), metrics

    # Pieces

    @property
    def _network(self) -> ActorCritic:
        return self.network.clone(action_space=self.env.action_space)

    @property
    def _num_sequences(self) -> int:
        remembers = bool(jax.tree.leaves(self.network.initial_carry()))
        return self.num_envs if remembers else self.steps_per_iteration

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

    def _estimate(self, state: PPOState, transitions: Transition) -> SequenceBatch:
        """Advantages and value targets, laid out for the update."""
        obs, next_obs = self._experience.preprocess_steps(state.experience, transitions)
        carry = state.experience.rollout.carry
        old, value, next_value = apply_to_transitions(
            self._network, state.params, carry, obs, next_obs, transitions.done
        )
        advantage = batch_gae(transitions, value, next_value, self.gamma, self.gae_lambda)
        old = None if self.kl_target is None else old
        return SequenceBatch.of(carry, transitions, obs, value, advantage, advantage + value, old)

    def _update(self, state: PPOState, batch: SequenceBatch, key: Array) -> tuple[PyTree, PyTree, Metrics]:
        """Epochs of shuffled minibatches, each sample once per epoch."""

        def minibatch(learner: tuple[PyTree, PyTree], indices: Array, key: Array) -> tuple[tuple, Metrics]:
            params, opt_state = learner
            advantage = batch.advantage[indices]
            advantage = standardize(advantage) if self.normalize_advantage else advantage

            def gradient(key: Array, part: tuple[Array, Array]) -> tuple[PyTree, Metrics]:
                indices, advantage = part
                sample = struct.replace(jax.tree.map(lambda leaf: leaf[indices], batch), advantage=advantage)
                return jax.grad(self._loss, has_aux=True)(params, sample, state.kl_coef, key)

            grads, metrics = accumulate_gradient(gradient, key, (indices, advantage))
            metrics["grad_norm"] = optimizers.gradient_norm(grads)
            return optimizers.update(self.optimizer, self.learning_rate, grads, opt_state, params), metrics

        max_kl = self.max_kl
        learner, metrics = minibatch_epochs(
            minibatch,
            (state.params, state.opt_state),
            key,
            self._num_sequences,
            self.num_epochs,
            self.num_minibatches,
            None if max_kl is None else lambda metrics: metrics["approx_kl"].value > max_kl,
        )
        explained = Mean.of(explained_variance(batch.value, batch.target))
        return *learner, {**metrics, "explained_variance": explained}

    def _loss(self, params: PyTree, batch: SequenceBatch, kl_coef: Array, key: Array) -> tuple[Array, Metrics]:
        """Policy loss - entropy bonus + value loss, over a minibatch or a part of one."""
        _, (distribution, value) = apply_over_time(self._network, params, batch.carry, batch.obs, batch.done)
        entropy = jnp.mean(distribution.entropy(key))
        log_ratio = distribution.log_prob(batch.raw_action) - batch.log_prob
        ratio = jnp.exp(log_ratio)

        surrogate = ratio * batch.advantage
        if self.clip_eps is not None:
            clipped = jnp.clip(ratio, 1.0 - self.clip_eps, 1.0 + self.clip_eps)
            surrogate = jnp.minimum(surrogate, clipped * batch.advantage)
        policy_loss = -jnp.mean(surrogate)
        if self.kl_target is not None:
            policy_loss += kl_coef * jnp.mean(batch.distribution.kl(distribution))

        error = jnp.square(value - batch.target)
        if self.value_clip_eps is not None:
            near = batch.value + jnp.clip(value - batch.value, -self.value_clip_eps, self.value_clip_eps)
            error = jnp.maximum(error, jnp.square(near - batch.target))
        value_loss = 0.5 * jnp.mean(error)

        metrics = {
            "policy_loss": Mean.of(policy_loss),
            "value_loss": Mean.of(value_loss),
            "entropy": Mean.of(entropy),
            "approx_kl": Mean.of(approximate_kl(log_ratio)),
        }
        if self.clip_eps is not None:
            metrics["clip_fraction"] = Mean.of(jnp.mean(jnp.abs(ratio - 1.0) > self.clip_eps))
        return policy_loss - self.entropy_coef * entropy + self.value_coef * value_loss, metrics

    def _adapt_penalty(self, kl_coef: Array, params: PyTree, batch: SequenceBatch) -> tuple[Array, Metrics]:
        """Weight of the KL penalty (beta) in the next iteration, from the KL divergence of this one."""
        if self.kl_target is None:
            return kl_coef, {}
        _, (new, _) = apply_over_time(self._network, params, batch.carry, batch.obs, batch.done)
        kl = mean_over_shards(jnp.mean(batch.distribution.kl(new)))
        return adapt_kl_coef(kl_coef, kl, self.kl_target), {"kl": Mean.of(kl), "kl_coef": Mean.of(kl_coef)}
