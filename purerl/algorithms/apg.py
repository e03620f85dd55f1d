"""Analytic policy gradients: backpropagation of the return through the dynamics themselves.

Every iteration follows a deterministic policy for a window of steps in many environments, takes the derivative of the
discounted rewards with respect to the policy's parameters through actions, dynamics and observations, and steps along
it. Where one window ends the next begins, but no gradient passes from one to the other (truncated backpropagation
through time, Williams & Peng 1990). Within a window no gradient passes a reset. The method is as old as optimal
control; Freeman et al. 2021 ("Brax", arXiv:2106.13281) named it APG.

The environment must be differentiable: ``purerl.make(name, differentiable=True)``. The gradient is as good as its
physics are smooth; `purerl.diagnose` tells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial

from purerl import normalize, rollout, struct
from purerl.environments.gradient_gate import GradientGate, check_differentiable
from purerl.errors import InputError
from purerl.networks import DeterministicPolicy
from purerl.returns import window_return
from purerl.schedules import schedule_factor
from purerl.spaces import Box
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree, Transition
from purerl.views import blank_view, observe, view


@struct.dataclass
class APGState:
    """Everything that changes while APG trains.

    Attributes:
        key: randomness of all that is still to come.
        iteration: int32, iterations done.
        rollout: the environments in flight, ``[num_envs]``.
        params: of the policy.
        opt_state: of the optimiser.
        obs_stats: of the observations, frozen within an iteration; None unless they are normalised.
    """

    key: Array
    iteration: Array = struct.field(shared=True)
    rollout: rollout.RolloutState
    params: PyTree
    opt_state: PyTree
    obs_stats: normalize.RunningStatistics | None


@struct.dataclass
class APG:
    """APG for bounded continuous actions. See the module for the method, the fields for the hyper-parameters."""

    env: Environment
    network: DeterministicPolicy = struct.field(default=DeterministicPolicy(), static=True, help="the policy")
    num_envs: int = struct.field(default=64, static=True, help="environments stepped side by side", within="[1, inf)")
    rollout_length: int = struct.field(
        default=32, static=True, help="steps that a gradient passes through", within="[1, inf)"
    )
    learning_rate: float = struct.field(default=2e-3, help="step size of Adam", within="[0, inf)")
    schedule: Callable[[Array], Array] | None = struct.field(
        default=None, help="environment steps to a factor of the learning rate; None is constant"
    )
    gamma: float = struct.field(default=0.99, help="discount factor per step", within="[0, 1]")
    terminal_value: Callable[[Array], Array] | None = struct.field(
        default=None, help="what an observation is worth where a window or time limit cuts an episode; None is nothing"
    )
    max_grad_norm: float = struct.field(default=1.0, help="clip the gradient's global norm to this", within="(0, inf)")
    max_step_grad_norm: float | None = struct.field(
        default=None, help="clip what passes back through each step of each environment to this", within="(0, inf)"
    )
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
            raise InputError(f"apg needs bounded continuous actions, got {space}: use ppo, dqn or discrete_sac")
        # Shapes only: a network that does not fit the observations says so here, not while compiling.
        jax.eval_shape(self._network.init, jax.random.key(0), blank_view(self.env.observation_space))
        struct.wrap_functions(self, "schedule", "terminal_value")

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

    def init(self, key: Array) -> APGState:
        """Fresh environments and policy."""
        check_differentiable(self.env)
        key, params_key, reset_key = jax.random.split(key, 3)
        timestep = jax.vmap(self.env.reset)(jax.random.split(reset_key, self.num_envs))
        blank = blank_view(self.env.observation_space)
        params = self._network.init(params_key, blank)
        return APGState(
            key=key,
            iteration=jnp.int32(0),
            rollout=jax.vmap(lambda timestep: rollout.begin(timestep, ()))(timestep),
            params=params,
            opt_state=self._optimizer(jnp.float32(0.0)).init(params),
            obs_stats=normalize.init(blank.shape) if self.normalize_observations else None,
        )

    def policy(self, state: APGState, *, explore: bool) -> Policy:
        """The deterministic policy, exploring or not, in the environment's own units."""
        del explore
        return self._policy(state.params, state.obs_stats)

    def step(self, state: APGState) -> tuple[APGState, Metrics]:
        """Follow the policy, differentiate, improve."""
        key, window_key = jax.random.split(state.key)
        gradient = jax.grad(self._loss, argnums=(0, 1), has_aux=True)
        (grads, counts), (rollouts, transitions, metrics) = gradient(
            state.params, jnp.zeros(3, jnp.float32), state, window_key
        )
        learning_rate = self.learning_rate * schedule_factor(self.schedule, state.iteration, self.steps_per_iteration)
        updates, opt_state = self._optimizer(learning_rate).update(grads, state.opt_state, state.params)

        nonfinite, clipped, failed = counts
        steps = jnp.float32(self.steps_per_iteration)
        metrics |= {
            "grad_norm": Mean.of(optax.tree.norm(grads)),
            "nonfinite_gradients": Mean(nonfinite, steps),
            "clipped_gradients": Mean(clipped, steps),
            "failed_steps": Mean(failed, steps),
            "learning_rate": Mean.of(learning_rate),
        }
        obs_stats = observe(self.env.observation_space, state.obs_stats, transitions.obs)
        state = APGState(
            key=key,
            iteration=state.iteration + 1,
            rollout=rollouts,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            obs_stats=obs_stats,
        )
        return state, metrics

    # Network

    @property
    def _network(self) -> DeterministicPolicy:
        return self.network.clone(action_space=self.env.action_space)

    def _actor(self, params: PyTree, obs: Array) -> Any:
        return self._network.apply(params, obs)

    # Acting

    def _policy(self, params: PyTree, obs_stats: normalize.RunningStatistics | None) -> Policy:
        # Not a bound method: that would hide the leaves of `self` where JAX does not see them.
        return Policy(Partial(APG._act, self, params, obs_stats))

    def _act(
        self, params: PyTree, obs_stats: normalize.RunningStatistics | None, key: Array, carry: tuple, obs: Array
    ) -> tuple[Array, tuple, dict[str, Array]]:
        space = self.env.action_space
        assert isinstance(space, Box)
        return space.from_unit(self._actor(params, view(self.env.observation_space, obs_stats, obs))), carry, {}

    # Learning

    def _optimizer(self, learning_rate: Array) -> optax.GradientTransformation:
        return optax.chain(optax.clip_by_global_norm(self.max_grad_norm), optax.adam(learning_rate))

    def _loss(
        self, params: PyTree, tally: Array, state: APGState, key: Array
    ) -> tuple[Array, tuple[rollout.RolloutState, Transition, Metrics]]:
        """Minus the return of the windows, per step; and where they led."""
        rollouts, transitions, episodes = rollout.collect(
            GradientGate(self.env, tally, self.max_step_grad_norm, self.rematerialize),
            self._policy(params, state.obs_stats),
            state.rollout,
            key,
            self.rollout_length,
        )
        next_value = jnp.zeros_like(transitions.reward)
        if self.terminal_value is not None:
            next_value = jax.vmap(jax.vmap(self.terminal_value))(transitions.next_obs)
        returns = jax.vmap(window_return, in_axes=(0, 0, 0, 0, None))(
            transitions.reward, next_value, transitions.terminated, transitions.done, self.gamma
        )
        loss = -jnp.mean(returns) / self.rollout_length
        return loss, (rollouts, transitions, {**episodes, "actor_loss": Mean.of(loss)})
