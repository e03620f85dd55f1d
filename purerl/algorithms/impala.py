"""Importance weighted actor-learner architecture (Espeholt et al. 2018, arXiv:1802.01561), on one machine.

Where many actors feed one learner, the policy that acted is some updates behind the one that learns. V-trace corrects
for it: errors of the value are weighed by probability ratios clipped at `rho_bar`, traces by ratios clipped at `c_bar`,
and the policy gradient by the former. On one machine there is nobody to wait for; here `lag` says how many iterations
the acting policy is behind, always exactly, so that every run can be repeated. Without a lag all ratios are 1 and this
is A2C. A time limit is not treated as the end of the task: there the value of the true successor is bootstrapped (Pardo
et al. 2018, arXiv:1712.00378).

A network with memory goes through each rollout again from what the acting policy remembered when it began, back to
which gradients reach.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from purerl import struct
from purerl.acting import Actor
from purerl.errors import InputError
from purerl.networks import ActorCritic
from purerl.recurrent import along, along_transitions, sequences
from purerl.returns import vtrace
from purerl.sampler import SamplerState, collect, init_sampler
from purerl.schedules import schedule_factor
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree, Transition
from purerl.value_fitting import explained_variance
from purerl.views import blank_view, view


@struct.dataclass
class IMPALAState:
    """Everything that changes while IMPALA trains.

    Attributes:
        key: randomness of all that is still to come.
        iteration: int32, iterations done.
        sampler: environments in flight and statistics of what was seen there.
        params: network parameters.
        recent_params: those of the last ``lag + 1`` iterations, a ring ``[lag + 1, ...]``.
        opt_state: of the optimiser.
    """

    key: Array
    iteration: Array = struct.field(shared=True)
    sampler: SamplerState
    params: PyTree
    recent_params: PyTree
    opt_state: PyTree


@struct.dataclass
class Batch:
    """What the update learns from: sequences of steps, leaves ``[num_sequences, sequence_length, ...]``.

    Whole rollouts for a network with memory, else single steps.
    """

    carry: PyTree  # [num_sequences, ...], what was remembered when the sequence began
    obs: Array
    done: Array
    raw_action: Array
    log_prob: Array
    advantage: Array
    target: Array


@struct.dataclass
class IMPALA:
    """IMPALA for discrete and continuous actions. See the module for the method, the fields for hyper-parameters."""

    env: Environment
    network: ActorCritic = struct.field(default=ActorCritic(), static=True, help="trunk, heads and sharing")
    lag: int = struct.field(
        default=1, static=True, help="iterations that the acting policy is behind the learning one", within="[0, inf)"
    )
    num_envs: int = struct.field(default=8, static=True, help="environments stepped side by side", within="[1, inf)")
    rollout_length: int = struct.field(
        default=5, static=True, help="steps in each environment per iteration", within="[1, inf)"
    )
    learning_rate: float = struct.field(default=7e-4, help="step size of the optimiser", within="[0, inf)")
    schedule: Callable[[Array], Array] | None = struct.field(
        default=None, help="environment steps to a factor of the learning rate; None is constant"
    )
    gamma: float = struct.field(default=0.99, help="discount factor per step", within="[0, 1]")
    vtrace_lambda: float = struct.field(default=1.0, help="decay of V-trace's traces", within="[0, 1]")
    rho_bar: float = struct.field(default=1.0, help="clip the ratios that weigh errors to this", within="(0, inf]")
    c_bar: float = struct.field(default=1.0, help="clip the ratios that decay traces to this", within="[0, inf]")
    correct: bool = struct.field(
        default=True, static=True, help="weigh by probability ratios; without, for comparison, they count as 1"
    )
    entropy_coef: float = struct.field(default=0.0, help="weight of the entropy bonus", within="[0, inf)")
    value_coef: float = struct.field(default=0.5, help="weight of the value loss", within="[0, inf)")
    max_grad_norm: float = struct.field(default=0.5, help="clip the gradient's global norm to this", within="(0, inf)")
    adam: bool = struct.field(default=False, static=True, help="use Adam in place of RMSProp")
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
        # Shapes only: a network that does not fit the observations says so here, not while compiling.
        jax.eval_shape(self._init_params, jax.random.key(0))
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

    def init(self, key: Array) -> IMPALAState:
        """Fresh environments, networks and statistics."""
        key, params_key, reset_key = jax.random.split(key, 3)
        params = self._init_params(params_key)
        return IMPALAState(
            key=key,
            iteration=jnp.int32(0),
            sampler=init_sampler(
                self, reset_key, self.network.initial_carry(), normalize_rewards=self.normalize_rewards
            ),
            params=params,
            recent_params=jax.tree.map(lambda leaf: jnp.stack([leaf] * (self.lag + 1)), params),
            opt_state=self._optimizer(jnp.float32(0.0)).init(params),
        )

    def policy(self, state: IMPALAState, *, explore: bool) -> Policy:
        """Sample actions (``explore=True``) or take the most likely ones, in the environment's own units.

        With the newest parameters in either case; those that `step` acts with are older.
        """
        return Actor(self.env, self._network).policy(state.params, state.sampler.obs_stats, explore=explore)

    def step(self, state: IMPALAState) -> tuple[IMPALAState, Metrics]:
        """Collect, estimate, update."""
        key, collect_key, entropy_key = jax.random.split(state.key, 3)
        recent_params, acting_params = self._remember(state)
        policy = self.policy(struct.replace(state, params=acting_params), explore=True)
        sampler, transitions, episodes = collect(self, state.sampler, policy, collect_key)
        batch = self._estimate(state, transitions)
        learning_rate = self.learning_rate * schedule_factor(self.schedule, state.iteration, self.steps_per_iteration)
        params, opt_state, metrics = self._update(state, batch, learning_rate, entropy_key)
        state = IMPALAState(
            key=key,
            iteration=state.iteration + 1,
            sampler=sampler,
            params=params,
            recent_params=recent_params,
            opt_state=opt_state,
        )
        return state, {**episodes, **metrics, "learning_rate": Mean.of(learning_rate)}

    # Networks

    @property
    def _network(self) -> ActorCritic:
        return self.network.clone(action_space=self.env.action_space)

    def _init_params(self, key: Array) -> PyTree:
        carry, obs = self.network.initial_carry(), blank_view(self.env.observation_space)
        return self._network.init(key, carry, obs, method="advance")

    # Acting

    def _remember(self, state: IMPALAState) -> tuple[PyTree, PyTree]:
        """The ring with the newest parameters in it, and those of `lag` iterations ago, or the first ones."""
        newest, oldest = state.iteration % (self.lag + 1), (state.iteration + 1) % (self.lag + 1)
        # Written before it is read, the ring stays in place; the other way round XLA copies it in every iteration.
        ring = jax.tree.map(lambda ring, leaf: ring.at[newest].set(leaf), state.recent_params, state.params)
        return ring, jax.tree.map(lambda ring: ring[oldest], ring)

    # Estimating

    def _estimate(self, state: IMPALAState, transitions: Transition) -> Batch:
        """Advantages and value targets, laid out for the update."""
        space, stats, carry = self.env.observation_space, state.sampler.obs_stats, state.sampler.rollout.carry
        obs, next_obs = view(space, stats, transitions.obs), view(space, stats, transitions.next_obs)
        distribution, value, next_value = along_transitions(
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
        batch = Batch(
            carry=(),
            obs=obs,
            done=transitions.done,
            raw_action=transitions.extras["raw_action"],
            log_prob=transitions.extras["log_prob"],
            advantage=advantage,
            target=target,
        )
        return struct.replace(sequences(carry, batch), carry=carry)

    # Learning

    def _optimizer(self, learning_rate: Array) -> optax.GradientTransformation:
        """RMSProp as TensorFlow has it: squares begin at 1, eps is under the root (PyTorch: at 0, and added to it)."""
        if self.adam:
            kind = optax.adam(learning_rate, eps=1e-5)
        else:
            kind = optax.rmsprop(learning_rate, decay=0.99, eps=1e-5, initial_scale=1.0)
        return optax.chain(optax.clip_by_global_norm(self.max_grad_norm), kind)

    def _update(
        self, state: IMPALAState, batch: Batch, learning_rate: Array, key: Array
    ) -> tuple[PyTree, PyTree, Metrics]:
        """One gradient step on the whole batch."""
        grads, metrics = jax.grad(self._loss, has_aux=True)(state.params, batch, key)
        updates, opt_state = self._optimizer(learning_rate).update(grads, state.opt_state, state.params)
        metrics["grad_norm"] = Mean.of(optax.tree.norm(grads))
        return optax.apply_updates(state.params, updates), opt_state, metrics

    def _loss(self, params: PyTree, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        """Policy loss - entropy bonus + value loss, over the batch (section 4.2 of the paper)."""
        _, (distribution, value) = along(self._network, params, batch.carry, batch.obs, batch.done)
        entropy = jnp.mean(distribution.entropy(key))

        log_prob = distribution.log_prob(batch.raw_action)
        policy_loss = -jnp.mean(log_prob * batch.advantage)
        value_loss = 0.5 * jnp.mean(jnp.square(value - batch.target))

        log_ratio = log_prob - batch.log_prob
        metrics = {
            "policy_loss": Mean.of(policy_loss),
            "value_loss": Mean.of(value_loss),
            "entropy": Mean.of(entropy),
            # Low in variance and never negative: Schulman, "Approximating KL divergence" (2020), estimator k3.
            "approx_kl": Mean.of(jnp.mean(jnp.expm1(log_ratio) - log_ratio)),
            "clip_fraction": Mean.of(jnp.mean(jnp.exp(log_ratio) > self.rho_bar)),
            "explained_variance": Mean.of(explained_variance(value, batch.target)),
        }
        return policy_loss - self.entropy_coef * entropy + self.value_coef * value_loss, metrics
