"""Trust region policy optimisation (Schulman et al. 2015, arXiv:1502.05477).

Collect a fixed number of steps with the current policy, estimate advantages with GAE (Schulman et al. 2016,
arXiv:1506.02438), and improve the policy as far as its mean KL divergence from the one that acted allows (equation 14).
The direction is the natural gradient ``F^-1 g``, by conjugate gradient on products with the Fisher matrix ``F``; the
step is as long as the divergence allows to second order, and is then shortened until the divergence itself does and
the surrogate has improved (appendix C). If no length will do, the policy stays as it is. Damping counts in the length
too, as is usual: where the policy is all but deterministic hardly any change of it shows to second order.

Without the line search this is the natural policy gradient (Kakade 2001, "A natural policy gradient"), with steps that
have a given divergence to second order and are not checked.

The value is fitted separately, by epochs of minibatches with Adam. A time limit is not treated as the end of the task:
there the value of the true successor is bootstrapped (Pardo et al. 2018, arXiv:1712.00378).

Statistics of the observations move after the update, and the policy with them; that part is not in the divergence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from purerl import floats, struct
from purerl.acting import Actor
from purerl.errors import InputError
from purerl.natural_gradient import natural_step, surrogate_and_divergence
from purerl.networks import ActorCritic
from purerl.returns import gae
from purerl.sampler import SamplerState, collect, init_sampler
from purerl.schedules import schedule_factor
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree, Transition
from purerl.value_fitting import explained_variance, fit_value
from purerl.views import blank_view, view


@struct.dataclass
class TRPOState:
    """Everything that changes while TRPO trains.

    Attributes:
        key: randomness of all that is still to come.
        iteration: int32, iterations done.
        sampler: environments in flight and statistics of what was seen there.
        actor_params: of the policy.
        critic_params: of the value.
        critic_opt_state: of the value's optimiser.
    """

    key: Array
    iteration: Array = struct.field(shared=True)
    sampler: SamplerState
    actor_params: PyTree
    critic_params: PyTree
    critic_opt_state: PyTree


@struct.dataclass
class Batch:
    """What the update learns from; leaves ``[num_envs * rollout_length, ...]``."""

    obs: Array
    raw_action: Array
    log_prob: Array
    value: Array
    advantage: Array  # standardised
    target: Array


@struct.dataclass
class TRPO:
    """TRPO for discrete and continuous actions. See the module for the method, the fields for the hyper-parameters."""

    env: Environment
    network: ActorCritic = struct.field(default=ActorCritic(), static=True, help="trunk and heads")
    num_envs: int = struct.field(default=8, static=True, help="environments stepped side by side", within="[1, inf)")
    rollout_length: int = struct.field(
        default=128, static=True, help="steps in each environment per iteration", within="[1, inf)"
    )
    num_epochs: int = struct.field(
        default=10, static=True, help="passes of the critic over each batch", within="[1, inf)"
    )
    num_minibatches: int = struct.field(
        default=8, static=True, help="updates of the critic per epoch", within="[1, inf)"
    )
    learning_rate: float = struct.field(default=1e-3, help="step size of Adam for the value", within="[0, inf)")
    schedule: Callable[[Array], Array] | None = struct.field(
        default=None, help="environment steps to a factor of the learning rate; None is constant"
    )
    gamma: float = struct.field(default=0.99, help="discount factor per step", within="[0, 1]")
    gae_lambda: float = struct.field(default=0.95, help="decay of advantage traces", within="[0, 1]")
    max_kl: float = struct.field(
        default=0.01, help="how far the policy may move per iteration, in KL divergence", within="(0, inf)"
    )
    damping: float = struct.field(default=0.1, help="added to the Fisher matrix's diagonal", within="[0, inf)")
    num_cg_iterations: int = struct.field(
        default=10, static=True, help="iterations of conjugate gradient", within="[1, inf)"
    )
    line_search: bool = struct.field(
        default=True, static=True, help="shorten steps that go too far or are for the worse; without it this is NPG"
    )
    num_backtracks: int = struct.field(
        default=10, static=True, help="lengths that the line search tries, the full one first", within="[1, inf)"
    )
    backtrack_ratio: float = struct.field(default=0.8, help="of each length to the one before", within="(0, 1)")
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
        if self.network.shared:
            raise InputError("trpo needs a network with shared=False: policy and value learn apart")
        if self.steps_per_iteration % self.num_minibatches:
            raise InputError(
                f"num_envs * rollout_length = {self.steps_per_iteration} steps cannot be divided into "
                f"num_minibatches = {self.num_minibatches} equal minibatches"
            )
        if self.steps_per_iteration == 1:
            raise InputError("trpo needs num_envs * rollout_length of at least 2 steps, got 1")
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

    def init(self, key: Array) -> TRPOState:
        """Fresh environments, networks and statistics."""
        key, actor_key, critic_key, reset_key = jax.random.split(key, 4)
        blank = blank_view(self.env.observation_space)
        critic_params = self._network.init(critic_key, blank, method="critic")
        return TRPOState(
            key=key,
            iteration=jnp.int32(0),
            sampler=init_sampler(
                self, reset_key, self.network.initial_carry(), normalize_rewards=self.normalize_rewards
            ),
            actor_params=self._network.init(actor_key, blank, method="actor"),
            critic_params=critic_params,
            critic_opt_state=self._optimizer(jnp.float32(0.0)).init(critic_params),
        )

    def policy(self, state: TRPOState, *, explore: bool) -> Policy:
        """Sample actions (``explore=True``) or take the most likely ones, in the environment's own units."""
        return Actor(self.env, self._network).policy(state.actor_params, state.sampler.obs_stats, explore=explore)

    def step(self, state: TRPOState) -> tuple[TRPOState, Metrics]:
        """Collect, estimate, improve the policy, fit the value."""
        key, collect_key, entropy_key, critic_key = jax.random.split(state.key, 4)
        policy = self.policy(state, explore=True)
        sampler, transitions, episodes = collect(self, state.sampler, policy, collect_key)
        batch = self._estimate(state, transitions)
        learning_rate = self.learning_rate * schedule_factor(self.schedule, state.iteration, self.steps_per_iteration)
        actor_params, actor_metrics = self._improve_policy(state.actor_params, batch, entropy_key)
        critic_params, critic_opt_state, critic_metrics = self._fit_critic(state, batch, learning_rate, critic_key)
        state = TRPOState(
            key=key,
            iteration=state.iteration + 1,
            sampler=sampler,
            actor_params=actor_params,
            critic_params=critic_params,
            critic_opt_state=critic_opt_state,
        )
        return state, {**episodes, **actor_metrics, **critic_metrics, "learning_rate": Mean.of(learning_rate)}

    # Networks

    @property
    def _network(self) -> ActorCritic:
        return self.network.clone(action_space=self.env.action_space)

    def _actor(self, params: PyTree, obs: Array) -> Any:
        return self._network.apply(params, obs, method="actor")

    def _critic(self, params: PyTree, obs: Array) -> Any:
        return self._network.apply(params, obs, method="critic")

    # Estimating

    def _estimate(self, state: TRPOState, transitions: Transition) -> Batch:
        """Advantages and value targets, flattened for the update."""
        space, stats = self.env.observation_space, state.sampler.obs_stats
        value_of = jax.vmap(jax.vmap(lambda obs: self._critic(state.critic_params, obs)))
        obs = view(space, stats, transitions.obs)
        value = value_of(obs)
        advantage = jax.vmap(gae, in_axes=(0, 0, 0, 0, 0, None, None))(
            transitions.reward,
            value,
            value_of(view(space, stats, transitions.next_obs)),
            transitions.terminated,
            transitions.done,
            self.gamma,
            self.gae_lambda,
        )
        batch = Batch(
            obs=obs,
            raw_action=transitions.extras["raw_action"],
            log_prob=transitions.extras["log_prob"],
            value=value,
            advantage=(advantage - jnp.mean(advantage)) / (jnp.std(advantage) + 1e-8),
            target=advantage + value,
        )
        return jax.tree.map(lambda leaf: leaf.reshape(self.steps_per_iteration, *leaf.shape[2:]), batch)

    # Learning

    def _improve_policy(self, params: PyTree, batch: Batch, key: Array) -> tuple[PyTree, Metrics]:
        """A step along the natural gradient, which the line search keeps near and for the better."""
        flat, unravel = floats.ravel(params)

        def policy(flat: Array) -> Any:
            return jax.vmap(lambda obs: self._actor(unravel(flat), obs))(batch.obs)

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
        """The longest part of `step` that stays near and is for the better (appendix C), or no step at all."""
        before = surrogate(flat)

        def shorten(chosen: Array, length: Array) -> tuple[Array, None]:
            good = (surrogate(flat + length * step) > before) & (divergence(flat + length * step) <= self.max_kl)
            return jnp.where((chosen == 0.0) & good, length, chosen), None

        # All lengths are tried: a loop that ends early would run to the slowest member of a population.
        lengths = self.backtrack_ratio ** jnp.arange(self.num_backtracks, dtype=jnp.float32)
        length, _ = lax.scan(shorten, jnp.float32(0.0), lengths)
        # A selection: where nothing was good the step may not even be finite.
        new = jnp.where(length > 0.0, flat + length * step, flat)
        return new, {"step_length": Mean.of(length), "accepted": Mean.of(length > 0.0)}

    def _optimizer(self, learning_rate: Array) -> optax.GradientTransformation:
        return optax.adam(learning_rate, eps=1e-5)

    def _fit_critic(
        self, state: TRPOState, batch: Batch, learning_rate: Array, key: Array
    ) -> tuple[PyTree, PyTree, Metrics]:
        params, opt_state, loss = fit_value(
            self._critic,
            self._optimizer(learning_rate),
            (state.critic_params, state.critic_opt_state),
            batch.obs,
            batch.target,
            key,
            self.num_epochs,
            self.num_minibatches,
        )
        explained = explained_variance(batch.value, batch.target)
        return params, opt_state, {"value_loss": loss, "explained_variance": Mean.of(explained)}
