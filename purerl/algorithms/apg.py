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

import jax
import jax.numpy as jnp

from purerl import struct
from purerl.environments.gradient_gate import GradientGate, check_differentiable, count_metrics
from purerl.experience.collection import Experience, ExperienceState
from purerl.experience.policies import Actor
from purerl.experience.preprocessing import zero_input
from purerl.learning import checks, hyperparameters, optimizers, schedules
from purerl.learning.optimizers import Adam, Optimizer
from purerl.math.returns import window_return
from purerl.networks import DeterministicPolicy
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree, Scalar


@struct.dataclass
class APGState:
    """Everything that changes while APG trains.

    Attributes:
        key: randomness of all later iterations.
        iteration: int32, iterations done.
        experience: environments in flight and running statistics, which are frozen within an iteration.
        params: parameters of the policy.
        opt_state: state of the optimiser.
    """

    key: Array
    iteration: Array = struct.field(shared=True)
    experience: ExperienceState
    params: PyTree
    opt_state: PyTree


@struct.dataclass
class APG:
    """APG for bounded continuous actions. See the module for the method."""

    env: Environment
    network: DeterministicPolicy = struct.field(default=DeterministicPolicy(), static=True, help="the policy")
    num_envs: int = hyperparameters.num_envs(64)
    rollout_length: int = hyperparameters.rollout_length(
        32, "length of the window: steps that a gradient passes through"
    )
    learning_rate: Scalar = hyperparameters.learning_rate(2e-3)
    optimizer: Optimizer = hyperparameters.optimizer(Adam(max_grad_norm=1.0))
    gamma: Scalar = hyperparameters.gamma()
    terminal_value: Callable[[Array], Array] | None = struct.field(
        default=None, help="value of an observation where a window or time limit cuts an episode; None: 0"
    )
    max_step_grad_norm: Scalar | None = hyperparameters.max_step_grad_norm()
    reward_scale: Scalar = hyperparameters.reward_scale()
    normalize_observations: bool = hyperparameters.normalize_observations()
    rematerialize: bool = hyperparameters.rematerialize()

    def __post_init__(self) -> None:
        struct.check_fields(self)
        checks.check_bounded("apg", self.env, "ppo, dqn or discrete_sac", continuous=True)
        checks.check_network(self._network, self.env)
        struct.wrap_functions(self, "terminal_value")

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

    def init(self, key: Array) -> APGState:
        """Fresh environments and policy."""
        check_differentiable(self.env)
        key, params_key, reset_key = jax.random.split(key, 3)
        params = self._network.init(params_key, zero_input(self.env.observation_space))
        return APGState(
            key=key,
            iteration=jnp.int32(0),
            experience=self._experience.init(reset_key),
            params=params,
            opt_state=optimizers.init(self.optimizer, params),
        )

    def policy(self, state: APGState, *, explore: bool) -> Policy:
        """The deterministic policy, exploring or not, in the environment's own units."""
        del explore
        return self._policy(state, state.params)

    def step(self, state: APGState) -> tuple[APGState, Metrics]:
        """Follow the policy, differentiate, improve."""
        now = schedules.at(self, state.iteration)
        key, window_key = jax.random.split(state.key)
        gradient = jax.grad(now._loss, argnums=(0, 1), has_aux=True)
        (grads, counts), (experience, metrics) = gradient(state.params, jnp.zeros(3, jnp.float32), state, window_key)
        params, opt_state = optimizers.update(now.optimizer, now.learning_rate, grads, state.opt_state, state.params)

        metrics |= count_metrics(counts, self.steps_per_iteration)
        metrics |= {"grad_norm": optimizers.gradient_norm(grads), "learning_rate": Mean.of(now.learning_rate)}
        return APGState(key, state.iteration + 1, experience, params, opt_state), metrics

    # Pieces

    @property
    def _network(self) -> DeterministicPolicy:
        return self.network.clone(action_space=self.env.action_space)

    def _policy(self, state: APGState, params: PyTree) -> Policy:
        return Actor(self.env, self._network).policy(params, state.experience.obs_stats, explore=False)

    @property
    def _experience(self) -> Experience:
        return Experience(self.env, self.num_envs, self.rollout_length, self.normalize_observations, self.reward_scale)

    # Learning

    def _loss(
        self, params: PyTree, tally: Array, state: APGState, key: Array
    ) -> tuple[Array, tuple[ExperienceState, Metrics]]:
        """Minus the return of the windows, per step; and the experience gathered there."""
        gate = GradientGate(self.env, tally, self.max_step_grad_norm, self.rematerialize)
        experience, transitions, episodes = struct.replace(self._experience, env=gate).collect(
            state.experience, self._policy(state, params), key
        )
        next_value = jnp.zeros_like(transitions.reward)
        if self.terminal_value is not None:
            next_value = jax.vmap(jax.vmap(self.terminal_value))(transitions.next_obs)
        returns = jax.vmap(window_return, in_axes=(0, 0, 0, 0, None))(
            transitions.reward, next_value, transitions.terminated, transitions.done, self.gamma
        )
        loss = -jnp.mean(returns) / self.rollout_length
        return loss, (experience, {**episodes, "actor_loss": Mean.of(loss)})
