"""REINFORCE (Williams 1992, "Simple statistical gradient-following algorithms ...").

Collect a fixed number of steps with the current policy, then take one step along the Monte-Carlo policy gradient::

    mean over steps of  grad log pi(a_t | s_t) (G_t - b)

where the reward-to-go ``G_t = r_t + gamma r_{t+1} + ...`` runs to the end of the episode. (In the paper every action
answers for the whole return; rewards that came before it only add noise.) The baseline ``b`` takes variance out:
nothing, the mean of ``G`` over the batch, or a learned value of ``s_t``. The factor ``gamma^t`` is left out, as usual.

Episodes go on from one batch to the next, so a reward-to-go may be cut off, by the end of the batch or by a time limit.
A learned value stands for the rest: a time limit is not the end of the task (Pardo et al. 2018, arXiv:1712.00378).
Without one the rest counts nothing, and the gradient is, without bias, that of the rewards up to the cut: rollouts must
be long, compared with episodes or with ``1 / (1 - gamma)`` steps. To drop the steps of unfinished episodes instead
would choose by outcome: where the task is to last, only failures would count; where it never ends, nothing would.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from purerl import struct
from purerl.acting import Actor
from purerl.errors import InputError
from purerl.networks import ActorCritic
from purerl.returns import lambda_returns
from purerl.sampler import SamplerState, collect, init_sampler
from purerl.schedules import schedule_factor
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree, Transition
from purerl.value_fitting import explained_variance, fit_value
from purerl.views import blank_view, view


class Baseline(enum.Enum):
    """What rewards-to-go are compared with."""

    NONE = enum.auto()
    MEAN = enum.auto()
    VALUE = enum.auto()


@struct.dataclass
class REINFORCEState:
    """Everything that changes while REINFORCE trains.

    Attributes:
        key: randomness of all that is still to come.
        iteration: int32, iterations done.
        sampler: environments in flight and statistics of what was seen there.
        actor_params: of the policy.
        critic_params: of the value; None unless it is learned.
        actor_opt_state: of the policy's optimiser.
        critic_opt_state: of the value's optimiser; None unless it is learned.
    """

    key: Array
    iteration: Array = struct.field(shared=True)
    sampler: SamplerState
    actor_params: PyTree
    critic_params: PyTree
    actor_opt_state: PyTree
    critic_opt_state: PyTree


@struct.dataclass
class Batch:
    """What the update learns from; leaves ``[num_envs * rollout_length, ...]``."""

    obs: Array
    raw_action: Array
    value: Array  # 0 unless it is learned
    advantage: Array
    target: Array


@struct.dataclass
class REINFORCE:
    """REINFORCE for discrete and continuous actions. See the module for the method, the fields for hyper-parameters."""

    env: Environment
    network: ActorCritic = struct.field(default=ActorCritic(), static=True, help="trunk and heads")
    num_envs: int = struct.field(default=8, static=True, help="environments stepped side by side", within="[1, inf)")
    rollout_length: int = struct.field(
        default=128, static=True, help="steps in each environment per iteration", within="[1, inf)"
    )
    baseline: Baseline = struct.field(
        default=Baseline.VALUE, static=True, help="what rewards-to-go are compared with: nothing, their mean, a value"
    )
    num_epochs: int = struct.field(
        default=10, static=True, help="passes of the critic over each batch", within="[1, inf)"
    )
    num_minibatches: int = struct.field(
        default=8, static=True, help="updates of the critic per epoch", within="[1, inf)"
    )
    learning_rate: float = struct.field(default=3e-3, help="step size of Adam for the policy", within="[0, inf)")
    critic_learning_rate: float = struct.field(default=1e-3, help="step size of Adam for the value", within="[0, inf)")
    schedule: Callable[[Array], Array] | None = struct.field(
        default=None, help="environment steps to a factor of both learning rates; None is constant"
    )
    gamma: float = struct.field(default=0.99, help="discount factor per step", within="[0, 1]")
    entropy_coef: float = struct.field(default=0.0, help="weight of the entropy bonus", within="[0, inf)")
    max_grad_norm: float = struct.field(default=0.5, help="clip the gradients' global norms to this", within="(0, inf)")
    normalize_observations: bool = struct.field(
        default=False, static=True, help="standardise observations by running mean and deviation, clipped to +-10"
    )
    normalize_rewards: bool = struct.field(
        default=False, static=True, help="divide rewards by the running deviation of the discounted return"
    )
    reward_scale: float = struct.field(default=1.0, help="multiply rewards by this", within="(0, inf)")

    def __post_init__(self) -> None:
        struct.check_fields(self)
        if not isinstance(self.env, Environment):
            raise InputError(f"env must be an Environment such as purerl.make('CartPole-v1'), got {self.env!r}")
        if not isinstance(self.baseline, Baseline):
            raise InputError(f"baseline must be one of {', '.join(map(str, Baseline))}, got {self.baseline!r}")
        if self.network.shared:
            raise InputError("reinforce needs a network with shared=False: policy and value learn apart")
        if self.steps_per_iteration % self.num_minibatches:
            raise InputError(
                f"num_envs * rollout_length = {self.steps_per_iteration} steps cannot be divided into "
                f"num_minibatches = {self.num_minibatches} equal minibatches"
            )
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
        return self.steps_per_iteration

    @property
    def warmup_iterations(self) -> int:
        """None: there is no replay to fill."""
        return 0

    def init(self, key: Array) -> REINFORCEState:
        """Fresh environments, networks and statistics."""
        key, actor_key, critic_key, reset_key = jax.random.split(key, 4)
        blank = blank_view(self.env.observation_space)
        actor_params = self._network.init(actor_key, blank, method="actor")
        critic_params = self._network.init(critic_key, blank, method="critic") if self._learns_value else None
        optimizer = self._optimizer(jnp.float32(0.0))
        return REINFORCEState(
            key=key,
            iteration=jnp.int32(0),
            sampler=init_sampler(
                self, reset_key, self.network.initial_carry(), normalize_rewards=self.normalize_rewards
            ),
            actor_params=actor_params,
            critic_params=critic_params,
            actor_opt_state=optimizer.init(actor_params),
            critic_opt_state=None if critic_params is None else optimizer.init(critic_params),
        )

    def policy(self, state: REINFORCEState, *, explore: bool) -> Policy:
        """Sample actions (``explore=True``) or take the most likely ones, in the environment's own units."""
        return Actor(self.env, self._network).policy(state.actor_params, state.sampler.obs_stats, explore=explore)

    def step(self, state: REINFORCEState) -> tuple[REINFORCEState, Metrics]:
        """Collect, estimate, improve the policy, fit the value."""
        key, collect_key, entropy_key, critic_key = jax.random.split(state.key, 4)
        policy = self.policy(state, explore=True)
        sampler, transitions, episodes = collect(self, state.sampler, policy, collect_key)
        batch = self._estimate(state, transitions)
        factor = schedule_factor(self.schedule, state.iteration, self.steps_per_iteration)
        actor_params, actor_opt_state, metrics = self._improve_policy(state, batch, factor, entropy_key)
        critic_params, critic_opt_state = state.critic_params, state.critic_opt_state
        if self._learns_value:
            critic_params, critic_opt_state, critic_metrics = self._fit_critic(state, batch, factor, critic_key)
            metrics |= critic_metrics
        state = REINFORCEState(
            key=key,
            iteration=state.iteration + 1,
            sampler=sampler,
            actor_params=actor_params,
            critic_params=critic_params,
            actor_opt_state=actor_opt_state,
            critic_opt_state=critic_opt_state,
        )
        return state, {**episodes, **metrics, "learning_rate": Mean.of(self.learning_rate * factor)}

    # Networks

    @property
    def _learns_value(self) -> bool:
        return self.baseline is Baseline.VALUE

    @property
    def _network(self) -> ActorCritic:
        return self.network.clone(action_space=self.env.action_space)

    def _actor(self, params: PyTree, obs: Array) -> Any:
        return self._network.apply(params, obs, method="actor")

    def _critic(self, params: PyTree, obs: Array) -> Any:
        return self._network.apply(params, obs, method="critic")

    # Estimating

    def _estimate(self, state: REINFORCEState, transitions: Transition) -> Batch:
        """Rewards-to-go and what they are better than the baseline, flattened for the update."""
        space, stats = self.env.observation_space, state.sampler.obs_stats
        obs = view(space, stats, transitions.obs)
        value = next_value = jnp.zeros_like(transitions.reward)
        if self._learns_value:
            value_of = jax.vmap(jax.vmap(lambda obs: self._critic(state.critic_params, obs)))
            value, next_value = value_of(obs), value_of(view(space, stats, transitions.next_obs))
        # With lambda = 1 they are sums of rewards, and the value counts only where these are cut off.
        returns = jax.vmap(lambda_returns, in_axes=(0, 0, 0, 0, None, None))(
            transitions.reward, next_value, transitions.terminated, transitions.done, self.gamma, 1.0
        )
        baseline = jnp.mean(returns) if self.baseline is Baseline.MEAN else value
        batch = Batch(
            obs=obs,
            raw_action=transitions.extras["raw_action"],
            value=value,
            advantage=returns - baseline,
            target=returns,
        )
        return jax.tree.map(lambda leaf: leaf.reshape(self.steps_per_iteration, *leaf.shape[2:]), batch)

    # Learning

    def _optimizer(self, learning_rate: Array) -> optax.GradientTransformation:
        return optax.chain(optax.clip_by_global_norm(self.max_grad_norm), optax.adam(learning_rate, eps=1e-5))

    def _loss(self, params: PyTree, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """Minus the policy gradient's objective - entropy bonus, over the batch."""
        distribution = jax.vmap(lambda obs: self._actor(params, obs))(batch.obs)
        entropy = jnp.mean(distribution.entropy(key))
        policy_loss = -jnp.mean(distribution.log_prob(batch.raw_action) * batch.advantage)
        metrics = {"policy_loss": Mean.of(policy_loss), "entropy": Mean.of(entropy)}
        return policy_loss - self.entropy_coef * entropy, metrics

    def _improve_policy(
        self, state: REINFORCEState, batch: Batch, factor: Array, key: Array
    ) -> tuple[PyTree, PyTree, Metrics]:
        """One step: the batch says nothing about any other policy."""
        grads, metrics = jax.grad(self._loss, has_aux=True)(state.actor_params, batch, key)
        optimizer = self._optimizer(self.learning_rate * factor)
        updates, opt_state = optimizer.update(grads, state.actor_opt_state, state.actor_params)
        metrics["grad_norm"] = Mean.of(optax.tree.norm(grads))
        return optax.apply_updates(state.actor_params, updates), opt_state, metrics

    def _fit_critic(
        self, state: REINFORCEState, batch: Batch, factor: Array, key: Array
    ) -> tuple[PyTree, PyTree, Metrics]:
        params, opt_state, loss = fit_value(
            self._critic,
            self._optimizer(self.critic_learning_rate * factor),
            (state.critic_params, state.critic_opt_state),
            batch.obs,
            batch.target,
            key,
            self.num_epochs,
            self.num_minibatches,
        )
        explained = explained_variance(batch.value, batch.target)
        return params, opt_state, {"value_loss": loss, "explained_variance": Mean.of(explained)}
