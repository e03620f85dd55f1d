"""Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347).

Collect a fixed number of steps with the current policy, estimate advantages with GAE (Schulman et al. 2016,
arXiv:1506.02438), then improve the policy for several epochs of minibatches while keeping it close to the one that
acted: by clipping the probability ratio (equation 7), by penalising the KL divergence (equation 8), or both.
Implementation details follow Huang et al. 2022 ("The 37 implementation details of PPO"), except that a time limit is
not treated as the end of the task: there the value of the true successor is bootstrapped (Pardo et al. 2018,
arXiv:1712.00378).

A network with memory learns from whole rollouts: minibatches are of environments, and each goes through its rollout
again from what it remembered at the beginning, which is how far back gradients reach.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from purerl import struct
from purerl.acting import Actor
from purerl.errors import InputError
from purerl.minibatches import accumulate_gradient, shuffled_indices
from purerl.networks import ActorCritic
from purerl.recurrent import along, along_transitions, sequences
from purerl.returns import gae
from purerl.sampler import SamplerState, collect, init_sampler
from purerl.schedules import schedule_factor
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree, Transition
from purerl.value_fitting import explained_variance
from purerl.views import blank_view, view

LEAST_KL_COEF, MOST_KL_COEF = 1e-4, 1e4
"""Bounds of beta, the weight of the adaptive KL penalty.

Beta is halved or doubled. Without bounds it would underflow to 0 where a policy hardly moves (a learning rate that
falls to 0), from where no doubling brings it back, and overflow where no penalty keeps a policy near (Adam's steps do
not shrink as a loss grows). Beyond these bounds there is nothing to gain. With an advantage of deviation s, surrogate
minus penalty is best at a divergence of at most ``s^2 / (2 beta^2)``, to second order. To aim at d takes ``beta = s /
sqrt(2 d)`` or less: 7 for a standardised advantage and d = 0.01. The upper bound leaves room for an s of 1000; at the
lower one the penalty is nothing beside the advantage. It is 14 iterations from either to 1.
"""


@struct.dataclass
class PPOState:
    """Everything that changes while PPO trains.

    Attributes:
        key: randomness of all that is still to come.
        iteration: int32, iterations done.
        sampler: environments in flight and statistics of what was seen there.
        params: network parameters.
        opt_state: of the optimiser.
        kl_coef: float32, beta of the adaptive KL penalty.
    """

    key: Array
    iteration: Array = struct.field(shared=True)
    sampler: SamplerState
    params: PyTree
    opt_state: PyTree
    kl_coef: Array


@struct.dataclass
class Batch:
    """What the update learns from: sequences of steps, leaves ``[num_sequences, sequence_length, ...]``.

    Whole rollouts for a network with memory, else single steps; what differs is what a minibatch is made of.
    """

    carry: PyTree  # [num_sequences, ...], what was remembered when the sequence began
    obs: Array
    done: Array
    raw_action: Array
    log_prob: Array
    value: Array
    advantage: Array
    target: Array
    old: Any = None  # the acting policy's distributions, where a KL penalty needs them


@struct.dataclass
class PPO:
    """PPO for discrete and continuous actions. See the module for the method, the fields for the hyper-parameters."""

    env: Environment
    network: ActorCritic = struct.field(default=ActorCritic(), static=True, help="trunk, heads and sharing")
    num_envs: int = struct.field(default=4, static=True, help="environments stepped side by side", within="[1, inf)")
    rollout_length: int = struct.field(
        default=128, static=True, help="steps in each environment per iteration", within="[1, inf)"
    )
    num_epochs: int = struct.field(default=4, static=True, help="passes over each batch", within="[1, inf)")
    num_minibatches: int = struct.field(default=4, static=True, help="updates per epoch", within="[1, inf)")
    learning_rate: float = struct.field(default=2.5e-4, help="step size of Adam", within="[0, inf)")
    schedule: Callable[[Array], Array] | None = struct.field(
        default=None, help="environment steps to a factor of the learning rate; None is constant"
    )
    gamma: float = struct.field(default=0.99, help="discount factor per step", within="[0, 1]")
    gae_lambda: float = struct.field(default=0.95, help="decay of advantage traces", within="[0, 1]")
    clip_eps: float | None = struct.field(default=0.2, help="how far the probability ratio may move", within="(0, inf)")
    value_clip_eps: float | None = struct.field(default=0.2, help="how far the value may move", within="(0, inf)")
    kl_target: float | None = struct.field(
        default=None, help="KL divergence per iteration that an adaptive penalty aims at", within="(0, inf)"
    )
    initial_kl_coef: float = struct.field(
        default=1.0, help="weight of the adaptive KL penalty at first", within=f"[{LEAST_KL_COEF:g}, {MOST_KL_COEF:g}]"
    )
    max_kl: float | None = struct.field(
        default=None, help="skip the remaining epochs once the approximate KL exceeds this", within="(0, inf)"
    )
    entropy_coef: float = struct.field(default=0.01, help="weight of the entropy bonus", within="[0, inf)")
    value_coef: float = struct.field(default=0.5, help="weight of the value loss", within="[0, inf)")
    max_grad_norm: float = struct.field(default=0.5, help="clip the gradient's global norm to this", within="(0, inf)")
    normalize_advantage: bool = struct.field(
        default=True, static=True, help="standardise advantages within each minibatch"
    )
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
        if self.steps_per_iteration % self.num_minibatches:
            raise InputError(
                f"num_envs * rollout_length = {self.steps_per_iteration} steps cannot be divided into "
                f"num_minibatches = {self.num_minibatches} equal minibatches"
            )
        if self._num_sequences % self.num_minibatches:
            raise InputError(
                f"num_envs = {self.num_envs} environments cannot be divided into num_minibatches = "
                f"{self.num_minibatches} equal minibatches: a network with memory learns from whole rollouts"
            )
        if self.normalize_advantage and self.steps_per_iteration == self.num_minibatches:
            raise InputError("normalize_advantage needs minibatches of at least 2 steps, got 1")
        if self.clip_eps is None and self.kl_target is None:
            raise InputError("set clip_eps, kl_target or both: without either nothing keeps the update small")
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
        return self.steps_per_iteration // self.num_minibatches

    @property
    def warmup_iterations(self) -> int:
        """None: there is no replay to fill."""
        return 0

    def init(self, key: Array) -> PPOState:
        """Fresh environments, networks and statistics."""
        key, params_key, reset_key = jax.random.split(key, 3)
        params = self._init_params(params_key)
        return PPOState(
            key=key,
            iteration=jnp.int32(0),
            sampler=init_sampler(
                self, reset_key, self.network.initial_carry(), normalize_rewards=self.normalize_rewards
            ),
            params=params,
            opt_state=self._optimizer(jnp.float32(0.0)).init(params),
            kl_coef=jnp.asarray(self.initial_kl_coef, jnp.float32),
        )

    def policy(self, state: PPOState, *, explore: bool) -> Policy:
        """Sample actions (``explore=True``) or take the most likely ones, in the environment's own units."""
        return Actor(self.env, self._network).policy(state.params, state.sampler.obs_stats, explore=explore)

    def step(self, state: PPOState) -> tuple[PPOState, Metrics]:
        """Collect, estimate, update."""
        key, collect_key, update_key = jax.random.split(state.key, 3)
        policy = self.policy(state, explore=True)
        sampler, transitions, episodes = collect(self, state.sampler, policy, collect_key)
        batch = self._estimate(state, transitions)
        learning_rate = self.learning_rate * schedule_factor(self.schedule, state.iteration, self.steps_per_iteration)
        params, opt_state, metrics = self._update(state, batch, learning_rate, update_key)
        kl_coef, penalty = self._adapt_penalty(state.kl_coef, params, batch)
        state = PPOState(
            key=key,
            iteration=state.iteration + 1,
            sampler=sampler,
            params=params,
            opt_state=opt_state,
            kl_coef=kl_coef,
        )
        return state, {**episodes, **metrics, **penalty, "learning_rate": Mean.of(learning_rate)}

    # Networks

    @property
    def _network(self) -> ActorCritic:
        return self.network.clone(action_space=self.env.action_space)

    @property
    def _num_sequences(self) -> int:
        remembers = bool(jax.tree.leaves(self.network.initial_carry()))
        return self.num_envs if remembers else self.steps_per_iteration

    def _init_params(self, key: Array) -> PyTree:
        carry, obs = self.network.initial_carry(), blank_view(self.env.observation_space)
        return self._network.init(key, carry, obs, method="advance")

    # Estimating

    def _estimate(self, state: PPOState, transitions: Transition) -> Batch:
        """Advantages and value targets, flattened for the update."""
        space, stats, carry = self.env.observation_space, state.sampler.obs_stats, state.sampler.rollout.carry
        obs, next_obs = view(space, stats, transitions.obs), view(space, stats, transitions.next_obs)
        distribution, value, next_value = along_transitions(
            self._network, state.params, carry, obs, next_obs, transitions.done
        )
        advantage = jax.vmap(gae, in_axes=(0, 0, 0, 0, 0, None, None))(
            transitions.reward,
            value,
            next_value,
            transitions.terminated,
            transitions.done,
            self.gamma,
            self.gae_lambda,
        )
        batch = Batch(
            carry=(),
            obs=obs,
            done=transitions.done,
            raw_action=transitions.extras["raw_action"],
            log_prob=transitions.extras["log_prob"],
            value=value,
            advantage=advantage,
            target=advantage + value,
            old=None if self.kl_target is None else distribution,
        )
        return struct.replace(sequences(carry, batch), carry=carry)

    # Learning

    def _optimizer(self, learning_rate: Array) -> optax.GradientTransformation:
        return optax.chain(optax.clip_by_global_norm(self.max_grad_norm), optax.adam(learning_rate, eps=1e-5))

    def _update(
        self, state: PPOState, batch: Batch, learning_rate: Array, key: Array
    ) -> tuple[PyTree, PyTree, Metrics]:
        """Epochs of shuffled minibatches, each sample once per epoch."""
        optimizer = self._optimizer(learning_rate)

        def minibatch(learner: tuple[PyTree, PyTree], inputs: tuple[Array, Array]) -> tuple[tuple, Metrics]:
            params, opt_state = learner
            indices, entropy_key = inputs
            advantage = batch.advantage[indices]
            if self.normalize_advantage:
                advantage = (advantage - jnp.mean(advantage)) / (jnp.std(advantage) + 1e-8)

            def gradient(key: Array, part: tuple[Array, Array]) -> tuple[PyTree, Metrics]:
                indices, advantage = part
                sample = jax.tree.map(lambda leaf: leaf[indices], batch)
                sample = struct.replace(sample, advantage=advantage)
                return jax.grad(self._loss, has_aux=True)(params, sample, state.kl_coef, key)

            grads, metrics = accumulate_gradient(gradient, entropy_key, (indices, advantage))
            updates, opt_state = optimizer.update(grads, opt_state, params)
            metrics["grad_norm"] = Mean.of(optax.tree.norm(grads))
            return (optax.apply_updates(params, updates), opt_state), metrics

        def epoch(learner: tuple[PyTree, PyTree], key: Array) -> tuple[tuple, Metrics]:
            order_key, entropy_key = jax.random.split(key)
            size = self._num_sequences
            # The only minibatch is the batch, in the order it has.
            order = jnp.arange(size) if self.num_minibatches == 1 else shuffled_indices(order_key, size)
            order = order.reshape(self.num_minibatches, -1)
            learner, metrics = lax.scan(
                minibatch, learner, (order, jax.random.split(entropy_key, self.num_minibatches))
            )
            return learner, jax.tree.map(lambda leaf: leaf.sum(0), metrics)

        def epoch_unless_far(carry: tuple, key: Array) -> tuple[tuple, Metrics]:
            learner, far = carry
            skipped = jax.tree.map(jnp.zeros_like, jax.eval_shape(epoch, learner, key)[1])
            learner, metrics = lax.cond(far, lambda: (learner, skipped), lambda: epoch(learner, key))
            return (learner, far | (metrics["approx_kl"].value > self.max_kl)), metrics

        learner, keys = (state.params, state.opt_state), jax.random.split(key, self.num_epochs)
        if self.max_kl is None:
            learner, metrics = lax.scan(epoch, learner, keys)
        else:
            (learner, _), metrics = lax.scan(epoch_unless_far, (learner, jnp.bool_(False)), keys)
        metrics = jax.tree.map(lambda leaf: leaf.sum(0), metrics)
        return *learner, {**metrics, "explained_variance": Mean.of(explained_variance(batch.value, batch.target))}

    def _loss(self, params: PyTree, batch: Batch, kl_coef: Array, key: Array) -> tuple[Array, Metrics]:
        """Policy loss - entropy bonus + value loss, over a minibatch or a part of one."""
        _, (distribution, value) = along(self._network, params, batch.carry, batch.obs, batch.done)
        entropy = jnp.mean(distribution.entropy(key))
        log_ratio = distribution.log_prob(batch.raw_action) - batch.log_prob
        ratio = jnp.exp(log_ratio)

        surrogate = ratio * batch.advantage
        if self.clip_eps is not None:
            clipped = jnp.clip(ratio, 1.0 - self.clip_eps, 1.0 + self.clip_eps)
            surrogate = jnp.minimum(surrogate, clipped * batch.advantage)
        policy_loss = -jnp.mean(surrogate)
        if self.kl_target is not None:
            policy_loss += kl_coef * jnp.mean(batch.old.kl(distribution))

        error = jnp.square(value - batch.target)
        if self.value_clip_eps is not None:
            near = batch.value + jnp.clip(value - batch.value, -self.value_clip_eps, self.value_clip_eps)
            error = jnp.maximum(error, jnp.square(near - batch.target))
        value_loss = 0.5 * jnp.mean(error)

        metrics = {
            "policy_loss": Mean.of(policy_loss),
            "value_loss": Mean.of(value_loss),
            "entropy": Mean.of(entropy),
            # Low in variance and never negative: Schulman, "Approximating KL divergence" (2020), estimator k3.
            "approx_kl": Mean.of(jnp.mean(jnp.expm1(log_ratio) - log_ratio)),
        }
        if self.clip_eps is not None:
            metrics["clip_fraction"] = Mean.of(jnp.mean(jnp.abs(ratio - 1.0) > self.clip_eps))
        return policy_loss - self.entropy_coef * entropy + self.value_coef * value_loss, metrics

    def _adapt_penalty(self, kl_coef: Array, params: PyTree, batch: Batch) -> tuple[Array, Metrics]:
        """Halve or double beta when the policy moved much less or more than `kl_target` (section 4 of the paper).

        Within `LEAST_KL_COEF` and `MOST_KL_COEF`, from which it can come back.
        """
        if self.kl_target is None:
            return kl_coef, {}
        _, (new, _) = along(self._network, params, batch.carry, batch.obs, batch.done)
        kl = jnp.mean(batch.old.kl(new))
        factor = jnp.where(kl < self.kl_target / 1.5, 0.5, jnp.where(kl > self.kl_target * 1.5, 2.0, 1.0))
        adapted = jnp.clip(kl_coef * factor, LEAST_KL_COEF, MOST_KL_COEF)
        return adapted, {"kl": Mean.of(kl), "kl_coef": Mean.of(kl_coef)}
