"""Short-horizon actor-critic (Xu et al. 2022, "Accelerated policy learning with parallel differentiable simulation",
arXiv:2204.07137).

Analytic policy gradients through a short window, at whose end a learned value stands for all that follows: the window
keeps gradients small where dynamics are chaotic, the value keeps the view long, and it smooths the objective. The
policy is stochastic and differentiated through its samples. Where one window ends the next begins; no gradient passes
from one to the other, nor past a reset. The critic learns TD(lambda) targets (equation 7) that a slowly moving copy of
it bootstraps; the same copy stands at the end of windows (equation 5).

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

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from purerl import normalize, rollout, struct
from purerl.acting import Actor
from purerl.adaptive_horizon import GradientWindows, adapt_horizon, begin_windows
from purerl.environments.gradient_gate import GradientGate, check_differentiable, failure_value
from purerl.errors import InputError
from purerl.gradient_mixing import mix_gradients
from purerl.networks import MLP, ActorCritic
from purerl.returns import gae, lambda_returns, window_discounts, window_return
from purerl.schedules import schedule_factor
from purerl.spaces import Box
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree, Transition
from purerl.value_fitting import fit_value
from purerl.views import blank_view, observe, view


@struct.dataclass
class SHACState:
    """Everything that changes while SHAC trains.

    Attributes:
        key: randomness of all that is still to come.
        iteration: int32, iterations done.
        rollout: the environments in flight, ``[num_envs]``.
        actor_params: of the policy.
        critic_params: of the value.
        target_params: of the value's slowly moving copy.
        actor_opt_state: of the policy's optimiser.
        critic_opt_state: of the value's optimiser.
        obs_stats: of the observations, frozen within an iteration; None unless they are normalised.
        horizon: float32, steps that a gradient passes through; None unless it adapts.
        lowest_reward: float32, of a step so far, scaled and with its entropy; 0 if all were above.
    """

    key: Array
    iteration: Array = struct.field(shared=True)
    rollout: rollout.RolloutState
    actor_params: PyTree
    critic_params: PyTree
    target_params: PyTree
    actor_opt_state: PyTree
    critic_opt_state: PyTree
    obs_stats: normalize.RunningStatistics | None
    horizon: Array | None
    lowest_reward: Array


@struct.dataclass
class Window:
    """What was seen on the way through a window; leaves ``[num_envs, rollout_length, ...]``.

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
    """SHAC for bounded continuous actions. See the module for the method, the fields for the hyper-parameters."""

    env: Environment
    network: ActorCritic = struct.field(
        default=ActorCritic(MLP((64, 64), nn.elu), squash=True, initial_std=0.4), static=True, help="trunk and heads"
    )
    num_envs: int = struct.field(default=64, static=True, help="environments stepped side by side", within="[1, inf)")
    rollout_length: int = struct.field(
        default=32, static=True, help="steps that a gradient passes through", within="[1, inf)"
    )
    num_epochs: int = struct.field(
        default=16, static=True, help="passes of the critic over each window", within="[1, inf)"
    )
    num_minibatches: int = struct.field(
        default=4, static=True, help="updates of the critic per epoch", within="[1, inf)"
    )
    learning_rate: float = struct.field(default=2e-3, help="step size of Adam for the policy", within="[0, inf)")
    critic_learning_rate: float = struct.field(default=2e-3, help="step size of Adam for the value", within="[0, inf)")
    schedule: Callable[[Array], Array] | None = struct.field(
        default=None, help="environment steps to a factor of both learning rates; None is constant"
    )
    gamma: float = struct.field(default=0.99, help="discount factor per step", within="[0, 1]")
    td_lambda: float = struct.field(default=0.95, help="decay of the traces in the critic's targets", within="[0, 1]")
    tau: float = struct.field(
        default=0.8, help="how far the target critic moves per iteration; 1 copies", within="(0, 1]"
    )
    entropy_coef: float = struct.field(default=0.0, help="worth of one nat of entropy per step", within="[0, inf)")
    max_grad_norm: float = struct.field(default=1.0, help="clip the gradients' global norms to this", within="(0, inf)")
    max_step_grad_norm: float | None = struct.field(
        default=None, help="clip what passes back through each step of each environment to this", within="(0, inf)"
    )
    max_step_growth: float | None = struct.field(
        default=None,
        help="a step is stiff where what actions have changed in the observation grows by more than this factor; make "
        "windows short enough to hold few",
        within="(0, inf)",
    )
    mix_likelihood_ratio: bool = struct.field(
        default=False, static=True, help="average with likelihood-ratio gradients, by the variances over environments"
    )
    reward_scale: float = struct.field(default=1.0, help="multiply rewards by this", within="(0, inf)")
    normalize_observations: bool = struct.field(
        default=False, static=True, help="standardise observations by running mean and deviation, clipped to +-10"
    )
    rematerialize: bool = struct.field(
        default=False, static=True, help="compute steps again on the way back, to save memory"
    )

    def __post_init__(self) -> None:
        struct.check_fields(self)
        if not isinstance(self.env, Environment):
            raise InputError(f"env must be an Environment such as purerl.make('Pendulum-v1'), got {self.env!r}")
        space = self.env.action_space
        if not isinstance(space, Box) or not (space.is_bounded and space.is_continuous):
            raise InputError(f"shac needs bounded continuous actions, got {space}: use ppo, dqn or discrete_sac")
        if self.network.shared or not self.network.squash:
            raise InputError("shac needs a network with squash=True and shared=False: policy and value learn apart")
        if self.steps_per_iteration % self.num_minibatches:
            raise InputError(
                f"num_envs * rollout_length = {self.steps_per_iteration} steps cannot be divided into "
                f"num_minibatches = {self.num_minibatches} equal minibatches"
            )
        if self.mix_likelihood_ratio and self.num_envs == 1:
            raise InputError("mix_likelihood_ratio needs num_envs of at least 2, whose gradients it compares, got 1")
        # Shapes only: a network that does not fit the observations says so here, not while compiling.
        jax.eval_shape(self._network.init, jax.random.key(0), blank_view(self.env.observation_space))
        struct.wrap_functions(self, "schedule")

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps of one iteration."""
        return self.num_envs * self.rollout_length

    @property
    def rows_at_once(self) -> int:
        """Rows that networks see at once while learning."""
        return self.num_envs

    @property
    def warmup_iterations(self) -> int:
        """None: there is no replay to fill."""
        return 0

    def init(self, key: Array) -> SHACState:
        """Fresh environments and networks."""
        check_differentiable(self.env)
        key, actor_key, critic_key, reset_key = jax.random.split(key, 4)
        timestep = jax.vmap(self.env.reset)(jax.random.split(reset_key, self.num_envs))
        carry = self.network.initial_carry()
        blank = blank_view(self.env.observation_space)
        actor_params = self._network.init(actor_key, blank, method="actor")
        critic_params = self._network.init(critic_key, blank, method="critic")
        optimizer = self._optimizer(jnp.float32(0.0))
        return SHACState(
            key=key,
            iteration=jnp.int32(0),
            rollout=jax.vmap(lambda timestep: rollout.begin(timestep, carry))(timestep),
            actor_params=actor_params,
            critic_params=critic_params,
            target_params=jax.tree.map(jnp.copy, critic_params),
            actor_opt_state=optimizer.init(actor_params),
            critic_opt_state=optimizer.init(critic_params),
            obs_stats=normalize.init(blank.shape) if self.normalize_observations else None,
            horizon=None if self.max_step_growth is None else jnp.float32(self.rollout_length),
            lowest_reward=jnp.float32(0.0),
        )

    def policy(self, state: SHACState, *, explore: bool) -> Policy:
        """Sample actions (``explore=True``) or take the mode of the distribution, in the environment's own units."""
        return Actor(self.env, self._network).policy(state.actor_params, state.obs_stats, explore=explore)

    def step(self, state: SHACState) -> tuple[SHACState, Metrics]:
        """Improve the policy along its gradient through a window, then fit the value to what was seen there."""
        key, window_key, critic_key = jax.random.split(state.key, 3)
        (grads, counts), (rollouts, window, metrics) = self._actor_gradient(state, window_key)
        factor = schedule_factor(self.schedule, state.iteration, self.steps_per_iteration)
        optimizer = self._optimizer(self.learning_rate * factor)
        updates, actor_opt_state = optimizer.update(grads, state.actor_opt_state, state.actor_params)
        critic_params, critic_opt_state, critic_metrics = self._fit_critic(state, window, factor, critic_key)

        nonfinite, clipped, failed, *stiff = counts
        steps = jnp.float32(self.steps_per_iteration)
        metrics |= critic_metrics | {
            "grad_norm": Mean.of(optax.tree.norm(grads)),
            "nonfinite_gradients": Mean(nonfinite, steps),
            "clipped_gradients": Mean(clipped, steps),
            "failed_steps": Mean(failed, steps),
            "learning_rate": Mean.of(self.learning_rate * factor),
        }
        horizon = state.horizon
        if horizon is not None:
            metrics |= {"horizon": Mean.of(horizon), "stiff_steps": Mean(stiff[0], steps)}
            horizon = adapt_horizon(horizon, stiff[0] / steps, self.rollout_length)
        # Only now: within a window everything is seen through the same statistics.
        obs_stats = observe(self.env.observation_space, state.obs_stats, window.raw_obs)
        state = SHACState(
            key=key,
            iteration=state.iteration + 1,
            rollout=rollouts,
            actor_params=optax.apply_updates(state.actor_params, updates),
            critic_params=critic_params,
            target_params=optax.incremental_update(critic_params, state.target_params, self.tau),
            actor_opt_state=actor_opt_state,
            critic_opt_state=critic_opt_state,
            obs_stats=obs_stats,
            horizon=horizon,
            lowest_reward=jnp.min(window.lowest_reward),
        )
        return state, metrics

    # Networks

    @property
    def _network(self) -> ActorCritic:
        return self.network.clone(action_space=self.env.action_space)

    def _actor(self, params: PyTree, obs: Array) -> Any:
        return self._network.apply(params, obs, method="actor")

    def _critic(self, params: PyTree, obs: Array) -> Any:
        return self._network.apply(params, obs, method="critic")

    # Learning

    def _optimizer(self, learning_rate: Array) -> optax.GradientTransformation:
        # Gradients through dynamics change quickly: the paper's momentum is short (its table 4).
        adam = optax.adam(learning_rate, b1=0.7, b2=0.95)
        return optax.chain(optax.clip_by_global_norm(self.max_grad_norm), adam)

    def _actor_gradient(self, state: SHACState, key: Array) -> tuple[tuple[PyTree, Array], tuple]:
        """Of `_actor_loss`, with what it returns besides; or that mixed with the likelihood ratio's."""
        tally = jnp.zeros(3 if self.max_step_growth is None else 4, jnp.float32)
        gradient = jax.grad(self._actor_loss, argnums=(0, 1), has_aux=True)
        if not self.mix_likelihood_ratio:
            return gradient(state.actor_params, tally, state, key)

        def of_one(flight: rollout.RolloutState, key: Array) -> tuple[tuple[PyTree, PyTree, Array], tuple]:
            alone = struct.replace(state, rollout=jax.tree.map(lambda leaf: leaf[None], flight))
            (first, counts), (flights, windows, metrics) = gradient(state.actor_params, tally, alone, key)
            zeroth = jax.grad(self._likelihood_ratio_loss)(state.actor_params, windows)
            flight, window = jax.tree.map(lambda leaf: leaf[0], (flights, windows))
            return (first, zeroth, counts), (flight, window, metrics)

        estimates, (flights, window, metrics) = jax.vmap(of_one)(state.rollout, jax.random.split(key, self.num_envs))
        first, zeroth, counts = estimates
        grads, weight = mix_gradients(first, zeroth)
        metrics = {name: mean.sum() for name, mean in metrics.items()} | {"first_order_weight": Mean.of(weight)}
        return (grads, counts.sum(0)), (flights, window, metrics)

    def _actor_loss(
        self, params: PyTree, tally: Array, state: SHACState, key: Array
    ) -> tuple[Array, tuple[rollout.RolloutState, Window, Metrics]]:
        """Minus the return of the windows with the value at their ends, per step (equation 5); and what was seen."""
        env, flights = self.env, state.rollout
        policy = Actor(env, self._network).policy(params, state.obs_stats, explore=True)
        if self.max_step_growth is not None:
            assert state.horizon is not None
            env = GradientWindows(env, tally[3], self.max_step_growth)
            policy = begin_windows(policy, state.horizon)
            flights = struct.replace(
                flights,
                carry=jnp.zeros_like(flights.episode_length),
                timestep=jax.vmap(env.watch)(flights.timestep),
            )
        flights, transitions, episodes = rollout.collect(
            GradientGate(env, tally[:3], self.max_step_grad_norm, self.rematerialize),
            policy,
            flights,
            key,
            self.rollout_length,
        )
        if self.max_step_growth is not None:
            flights = struct.replace(
                flights,
                carry=state.rollout.carry,
                timestep=struct.replace(flights.timestep, state=flights.timestep.state.state),
            )
        # Where the next step begins a window, or would.
        ends = transitions.done
        if self.max_step_growth is not None:
            ends = jnp.roll(transitions.extras["begins"], -1, axis=1)
        log_prob = transitions.extras["log_prob"]
        reward = self.reward_scale * transitions.reward - self.entropy_coef * log_prob
        failed = transitions.terminated & transitions.truncated
        lowest = jnp.min(jax.lax.stop_gradient(reward), axis=1, where=~failed, initial=0.0)
        lowest = jnp.minimum(state.lowest_reward, lowest)
        reward = jnp.where(failed, failure_value(lowest, self.gamma)[:, None], reward)
        space, stats = self.env.observation_space, state.obs_stats
        value_of = jax.vmap(jax.vmap(lambda obs: self._critic(state.target_params, obs)))
        obs, next_value = view(space, stats, transitions.obs), value_of(view(space, stats, transitions.next_obs))
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
            target=self._target(transitions, reward, next_value),
            raw_obs=transitions.obs,
            raw_action=transitions.extras["raw_action"],
            advantage=advantage,
            lowest_reward=lowest,
        )
        return loss, (flights, window, {**episodes, "actor_loss": Mean.of(loss), "entropy": Mean.of(-log_prob)})

    def _likelihood_ratio_loss(self, params: PyTree, window: Window) -> Array:
        """Its gradient is that of `_actor_loss` in the mean, without a derivative of the environment."""
        log_prob = jax.vmap(jax.vmap(lambda obs, raw: self._actor(params, obs).log_prob(raw)))
        return -jnp.mean(log_prob(window.obs, window.raw_action) * window.advantage)

    def _target(self, transitions: Transition, reward: Array, next_value: Array) -> Array:
        """TD(lambda) targets of the value (equation 7)."""
        return jax.vmap(lambda_returns, in_axes=(0, 0, 0, 0, None, None))(
            reward, next_value, transitions.terminated, transitions.done, self.gamma, self.td_lambda
        )

    def _fit_critic(
        self, state: SHACState, window: Window, factor: Array, key: Array
    ) -> tuple[PyTree, PyTree, Metrics]:
        obs, target = (leaf.reshape(self.steps_per_iteration, *leaf.shape[2:]) for leaf in (window.obs, window.target))
        params, opt_state, loss = fit_value(
            self._critic,
            self._optimizer(self.critic_learning_rate * factor),
            (state.critic_params, state.critic_opt_state),
            obs,
            target,
            key,
            self.num_epochs,
            self.num_minibatches,
        )
        return params, opt_state, {"value_loss": loss, "value": Mean.of(target)}
