"""Short-horizon actor-critic (Xu et al. 2022, "Accelerated policy learning with parallel differentiable simulation",
arXiv:2204.07137).

Analytic policy gradients through a short window, with a learned value at its end for all later rewards. The short
window keeps gradients small where dynamics are chaotic; the value accounts for what follows and smooths the objective.
The policy is stochastic and differentiated through its samples. Where one window ends the next begins; no gradient
passes from one to the other, nor past a reset. The critic learns TD(lambda) targets (equation 7), which bootstrap from
a target network; the same target network gives the value at the end of windows (equation 5).

With `entropy_coef` both maximise the entropy along with the rewards (Haarnoja et al. 2018, arXiv:1801.01290; with
analytic gradients: Xing et al. 2024, arXiv:2412.12089).

Two options are for dynamics that are partly too stiff for such gradients. With `max_step_growth` the rollout is cut
into windows so short that few hold a stiff step (after Georgiev et al. 2024, arXiv:2405.17784; see `adaptive_horizon`).
With `mix_likelihood_ratio` the same windows give a second estimate of the gradient, from returns and probabilities
alone, and the two are averaged by their variances (Suh et al. 2022, arXiv:2202.00817; see `gradient_mixing`).

A time limit is not the end of the task: there the value of the true successor is bootstrapped. The environment must be
differentiable: ``purerl.make(name, differentiable=True)``.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from purerl import struct
from purerl.environments.gradient_gate import GradientGate, check_differentiable, count_metrics, failure_value
from purerl.errors import InputError
from purerl.experience.collection import Experience, ExperienceState
from purerl.experience.policies import Actor
from purerl.experience.preprocessing import zero_input
from purerl.learning import checks, hyperparameters, optimizers, schedules
from purerl.learning.adaptive_horizon import GradientWindows, adapt_horizon, collect
from purerl.learning.optimizers import Adam, Optimizer
from purerl.learning.value_regression import fit_value
from purerl.math.estimates import batch_lambda_returns
from purerl.math.gradient_mixing import mixed_gradient
from purerl.math.reductions import min_over_shards, sum_over_shards
from purerl.math.returns import gae, window_discounts, window_return
from purerl.networks import MLP, ActorCritic
from purerl.rollout import RolloutState
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree, Scalar, Transition


@struct.dataclass
class SHACState:
    """Everything that changes while SHAC trains.

    Attributes:
        key: randomness of all later iterations.
        iteration: int32, iterations done.
        experience: environments in flight and running statistics, which are frozen within an iteration.
        actor_params: parameters of the policy.
        critic_params: parameters of the value.
        target_params: parameters of the value's target network.
        actor_opt_state: state of the policy's optimiser.
        critic_opt_state: state of the value's optimiser.
        horizon: float32, steps that a gradient passes through; None unless it adapts.
        lowest_reward: float32, of a step so far, scaled and with its entropy; 0 if all were above.
    """

    key: Array
    iteration: Array = struct.field(shared=True)
    experience: ExperienceState
    actor_params: PyTree
    critic_params: PyTree
    target_params: PyTree
    actor_opt_state: PyTree
    critic_opt_state: PyTree
    horizon: Array | None
    lowest_reward: Array


@struct.dataclass
class Window:
    """Windows of experience; leaves ``[num_envs, rollout_length, ...]``.

    Attributes:
        obs: as the networks see it.
        target: of the value, TD(lambda).
        raw_obs: as the environment gave it.
        raw_action: as the policy drew it.
        advantage: of that action, discounted from where its window began; None unless gradients are mixed.
        lowest_reward: ``[num_envs]``, of a step of that environment, or as it was in the state.
    """

    obs: Array
    target: Array
    raw_obs: Array
    raw_action: Array
    advantage: Array | None
    lowest_reward: Array


@struct.dataclass
class SHAC:
    """SHAC for bounded continuous actions. See the module for the method."""

    env: Environment
    network: ActorCritic = struct.field(
        default=ActorCritic(MLP((64, 64), nn.elu), squash=True, initial_std=0.4), static=True, help="trunk and heads"
    )
    num_envs: int = hyperparameters.num_envs(64)
    rollout_length: int = hyperparameters.rollout_length(
        32, "length of the window: steps that a gradient passes through"
    )
    num_epochs: int = hyperparameters.num_epochs(16, "passes of the critic over each window")
    num_minibatches: int = hyperparameters.num_minibatches(4, "updates of the critic per epoch")
    learning_rate: Scalar = hyperparameters.learning_rate(2e-3, " for the policy")
    critic_learning_rate: Scalar | None = hyperparameters.critic_learning_rate(2e-3)
    # Gradients through dynamics change quickly: the paper's momentum is short (its table 4).
    optimizer: Optimizer = hyperparameters.optimizer(Adam(max_grad_norm=1.0, b1=0.7, b2=0.95))
    gamma: Scalar = hyperparameters.gamma()
    td_lambda: Scalar = struct.field(default=0.95, help="lambda of the critic's TD(lambda) targets", within="[0, 1]")
    tau: Scalar = hyperparameters.tau(0.8, "target critic", "iteration")
    entropy_coef: Scalar = hyperparameters.entropy_coef(0.0)
    max_step_grad_norm: Scalar | None = hyperparameters.max_step_grad_norm()
    max_step_growth: Scalar | None = struct.field(
        default=None,
        help="adaptive horizon: growth of tangents above which a step is stiff; stiff steps shorten the horizon",
        within="(0, inf)",
    )
    mix_likelihood_ratio: bool = struct.field(
        default=False, static=True, help="average with likelihood-ratio gradients, weighted by inverse variances"
    )
    reward_scale: Scalar = hyperparameters.reward_scale()
    normalize_observations: bool = hyperparameters.normalize_observations()
    rematerialize: bool = hyperparameters.rematerialize()

    def __post_init__(self) -> None:
        struct.check_fields(self)
        checks.check_bounded("shac", self.env, "ppo, dqn or discrete_sac", continuous=True)
        if self.network.shared or not self.network.squash:
            raise InputError("shac needs a network with squash=True and shared=False: policy and value learn apart")
        checks.check_minibatches(self.num_envs, self.rollout_length, self.num_minibatches)
        if self.mix_likelihood_ratio and self.num_envs == 1:
            raise InputError("mix_likelihood_ratio needs num_envs of at least 2, whose gradients it compares, got 1")
        checks.check_network(self._network, self.env)

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps of one iteration."""
        return self.num_envs * self.rollout_length

    @property
    def minibatch_rows(self) -> int:
        """Rows that networks process together while learning."""
        return self.num_envs

    @property
    def warmup_iterations(self) -> int:
        """0: there is no replay to fill."""
        return 0

    def init(self, key: Array) -> SHACState:
        """Fresh environments and networks."""
        check_differentiable(self.env)
        key, actor_key, critic_key, reset_key = jax.random.split(key, 4)
        obs = zero_input(self.env.observation_space)
        actor_params = self._network.init(actor_key, obs, method="actor")
        critic_params = self._network.init(critic_key, obs, method="critic")
        return SHACState(
            key=key,
            iteration=jnp.int32(0),
            experience=self._experience.init(reset_key, self.network.initial_carry()),
            actor_params=actor_params,
            critic_params=critic_params,
            target_params=jax.tree.map(jnp.copy, critic_params),
            actor_opt_state=optimizers.init(self.optimizer, actor_params),
            critic_opt_state=optimizers.init(self.optimizer, critic_params),
            horizon=None if self.max_step_growth is None else jnp.float32(self.rollout_length),
            lowest_reward=jnp.float32(0.0),
        )

    def policy(self, state: SHACState, *, explore: bool) -> Policy:
        """Sample actions (``explore=True``) or take the mode of the distribution, in the environment's own units."""
        return self._policy(state, state.actor_params, explore=explore)

    def step(self, state: SHACState) -> tuple[SHACState, Metrics]:
        """Improve the policy along its gradient through a window, then fit the value to the window's targets."""
        now = schedules.at(self, state.iteration)
        key, window_key, critic_key = jax.random.split(state.key, 3)
        (grads, counts), (rollouts, window, metrics) = now._actor_gradient(state, window_key)
        actor_params, actor_opt_state = optimizers.update(
            now.optimizer, now.learning_rate, grads, state.actor_opt_state, state.actor_params
        )
        critic_params, critic_opt_state, value_loss = now._fit_critic(state, window, critic_key)

        metrics |= count_metrics(counts[:3], self.steps_per_iteration) | {
            "value_loss": value_loss,
            "value": Mean.of(window.target),
            "grad_norm": optimizers.gradient_norm(grads),
            "learning_rate": Mean.of(now.learning_rate),
        }
        horizon = state.horizon
        if horizon is not None:
            stiff = Mean(counts[3], jnp.float32(self.steps_per_iteration))
            metrics |= {"horizon": Mean.of(horizon), "stiff_steps": stiff}
            horizon = adapt_horizon(horizon, sum_over_shards(stiff).value, self.rollout_length)
        # Only now: within a window all observations are standardised by the same statistics.
        experience = self._experience.observe(struct.replace(state.experience, rollout=rollouts), window.raw_obs)
        state = SHACState(
            key=key,
            iteration=state.iteration + 1,
            experience=experience,
            actor_params=actor_params,
            critic_params=critic_params,
            target_params=optax.incremental_update(critic_params, state.target_params, now.tau),
            actor_opt_state=actor_opt_state,
            critic_opt_state=critic_opt_state,
            horizon=horizon,
            lowest_reward=min_over_shards(jnp.min(window.lowest_reward)),
        )
        return state, metrics

    # Pieces

    @property
    def _network(self) -> ActorCritic:
        return self.network.clone(action_space=self.env.action_space)

    def _critic(self, params: PyTree, obs: Array) -> Array:
        return jnp.asarray(self._network.apply(params, obs, method="critic"))

    def _policy(self, state: SHACState, params: PyTree, *, explore: bool) -> Policy:
        return Actor(self.env, self._network).policy(params, state.experience.obs_stats, explore=explore)

    @property
    def _experience(self) -> Experience:
        return Experience(self.env, self.num_envs, self.rollout_length, self.normalize_observations, self.reward_scale)

    # Learning

    def _actor_gradient(self, state: SHACState, key: Array) -> tuple[tuple[PyTree, Array], tuple]:
        """Gradient of `_actor_loss` with its further results, mixed with the likelihood ratio's if asked for."""
        tally = jnp.zeros(3 if self.max_step_growth is None else 4, jnp.float32)
        gradient = jax.grad(self._actor_loss, argnums=(0, 1), has_aux=True)
        if not self.mix_likelihood_ratio:
            return gradient(state.actor_params, tally, state, key)

        def of_one(flight: RolloutState, key: Array) -> tuple[tuple[PyTree, PyTree, Array], tuple]:
            alone = struct.replace(state.experience, rollout=jax.tree.map(lambda leaf: leaf[None], flight))
            alone = struct.replace(state, experience=alone)
            (first, counts), (flights, windows, metrics) = gradient(state.actor_params, tally, alone, key)
            zeroth = jax.grad(self._likelihood_ratio_loss)(state.actor_params, windows)
            flight, window = jax.tree.map(lambda leaf: leaf[0], (flights, windows))
            return (first, zeroth, counts), (flight, window, metrics)

        grads, (flights, window, metrics), weight = mixed_gradient(of_one, state.experience.rollout, key)
        metrics = {name: mean.sum() for name, mean in metrics.items()} | {"first_order_weight": Mean.of(weight)}
        return grads, (flights, window, metrics)

    def _actor_loss(
        self, params: PyTree, tally: Array, state: SHACState, key: Array
    ) -> tuple[Array, tuple[RolloutState, Window, Metrics]]:
        """Minus the return of the windows with the value at their ends, per step (equation 5); and the windows."""
        flights, transitions, ends, episodes = self._collect(params, tally, state, key)
        log_prob = transitions.extras["log_prob"]
        reward = transitions.reward - self.entropy_coef * log_prob
        failed = transitions.terminated & transitions.truncated
        lowest = jnp.min(jax.lax.stop_gradient(reward), axis=1, where=~failed, initial=0.0)
        lowest = jnp.minimum(state.lowest_reward, lowest)
        reward = jnp.where(failed, failure_value(lowest, self.gamma)[:, None], reward)
        transitions = struct.replace(transitions, reward=reward)

        obs, next_obs = self._experience.preprocess_steps(state.experience, transitions)
        value_of = jax.vmap(jax.vmap(lambda obs: self._critic(state.target_params, obs)))
        next_value = value_of(next_obs)
        returns = jax.vmap(window_return, in_axes=(0, 0, 0, 0, None))(
            reward, next_value, transitions.terminated, ends, self.gamma
        )
        loss = -jnp.mean(returns) / self.rollout_length
        advantage = None
        if self.mix_likelihood_ratio:
            # With lambda = 1 it is the same windows' return, less a baseline: both estimate one gradient.
            advantage = jax.vmap(gae, in_axes=(0, 0, 0, 0, 0, None, None))(
                reward, value_of(obs), next_value, transitions.terminated, ends, self.gamma, 1.0
            ) * jax.vmap(window_discounts, in_axes=(0, None))(ends, self.gamma)
        window = Window(
            obs=obs,
            target=batch_lambda_returns(transitions, next_value, self.gamma, self.td_lambda),  # equation 7
            raw_obs=transitions.obs,
            raw_action=transitions.extras["raw_action"],
            advantage=advantage,
            lowest_reward=lowest,
        )
        return loss, (flights, window, {**episodes, "actor_loss": Mean.of(loss), "entropy": Mean.of(-log_prob)})

    def _collect(
        self, params: PyTree, tally: Array, state: SHACState, key: Array
    ) -> tuple[RolloutState, Transition, Array, Metrics]:
        """Environments and transitions of one rollout, and whether the next step begins a window."""

        def gated(env: Environment) -> Experience:
            gate = GradientGate(env, tally[:3], self.max_step_grad_norm, self.rematerialize)
            return struct.replace(self._experience, env=gate)

        policy = self._policy(state, params, explore=True)
        if state.horizon is None or self.max_step_growth is None:
            experience, transitions, episodes = gated(self.env).collect(state.experience, policy, key)
            return experience.rollout, transitions, transitions.done, episodes
        windows = GradientWindows(self.env, tally[3], self.max_step_growth)
        return collect(gated(windows), state.experience, policy, key, state.horizon, windows)

    def _likelihood_ratio_loss(self, params: PyTree, window: Window) -> Array:
        """Loss with the same mean gradient as `_actor_loss`, without a derivative of the environment."""

        assert window.advantage is not None

        def log_prob(obs: Array, raw_action: Array) -> Array:
            distribution: Any = self._network.apply(params, obs, method="actor")
            return distribution.log_prob(raw_action)

        return -jnp.mean(jax.vmap(jax.vmap(log_prob))(window.obs, window.raw_action) * window.advantage)

    def _fit_critic(self, state: SHACState, window: Window, key: Array) -> tuple[PyTree, PyTree, Mean]:
        obs, target = (leaf.reshape(self.steps_per_iteration, *leaf.shape[2:]) for leaf in (window.obs, window.target))
        return fit_value(
            self._critic,
            self.optimizer,
            hyperparameters.rate(self.critic_learning_rate, self.learning_rate),
            (state.critic_params, state.critic_opt_state),
            obs,
            target,
            key,
            self.num_epochs,
            self.num_minibatches,
        )
