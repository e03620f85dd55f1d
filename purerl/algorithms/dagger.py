"""Data set aggregation (Ross, Gordon & Bagnell 2011, arXiv:1011.0686, algorithm 3.1).

Act with a mixture of expert and learner, ask the expert what it would have done in every state that was visited, add
these labels to the data set, and fit the learner to all of it. So the learner is trained on the states that it brings
about itself, and its error grows with the length of an episode only linearly (theorem 3.2), where behaviour cloning's
grows with the square. At every step the expert acts with probability `beta`.

The fit continues from the parameters before, with a fixed number of updates per iteration, instead of starting anew.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from purerl import rollout, struct
from purerl.errors import InputError
from purerl.experience.policies import Actor
from purerl.experience.preprocessing import preprocess, update_statistics, zero_input
from purerl.learning import checks, hyperparameters, optimizers, schedules
from purerl.learning.cloning import Loss, check_loss, cloning_loss, label_of
from purerl.learning.optimizers import Adam, Optimizer
from purerl.learning.schedules import LinearSchedule
from purerl.math import running_statistics
from purerl.networks import ActorCritic
from purerl.physics.control import ObserveBoth, Planner, mpc_policy, on_state
from purerl.replay import Replay
from purerl.rollout import RolloutState
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree, Scalar, merge

Expert = Policy | Planner
"""A policy that sees what the learner sees, or a planner, which sees the state of the environment."""


@struct.dataclass
class DAggerState:
    """Everything that changes while DAgger trains.

    Attributes:
        key: randomness of all later iterations.
        iteration: int32, iterations done.
        rollout: environments in flight, ``[num_envs]``, with the memories of learner and expert.
        obs_stats: running statistics of observations; None unless they are normalised.
        replay: the data set: observations and the expert's labels.
        params: network parameters.
        opt_state: state of the optimiser.
    """

    key: Array
    iteration: Array = struct.field(shared=True)
    rollout: RolloutState = struct.field(per_shard=True)
    obs_stats: running_statistics.RunningStatistics | None
    replay: PyTree = struct.field(per_shard=True)
    params: PyTree
    opt_state: PyTree


@struct.dataclass
class DAgger:
    """DAgger for discrete and continuous actions. See the module for the method."""

    env: Environment
    expert: Expert = struct.field(
        help="who labels: the best agent of a run, a planner, or a function from an observation to an action"
    )
    network: ActorCritic = struct.field(default=ActorCritic(), static=True, help="trunk and heads; no value is used")
    loss: Loss = struct.field(
        default=Loss.LIKELIHOOD,
        static=True,
        help="negative log-likelihood of the expert's actions, or squared error of the policy's mode",
    )
    num_envs: int = hyperparameters.num_envs(4)
    rollout_length: int = hyperparameters.rollout_length(64)
    updates_per_iteration: int = struct.field(
        default=64, static=True, help="gradient updates per iteration", within="[1, inf)"
    )
    batch_size: int = hyperparameters.batch_size(64)
    buffer_size: int = struct.field(
        default=102_400, static=True, help="capacity of the data set: newest labels", within="[1, 2147483647]"
    )
    beta: Scalar = struct.field(
        default=LinearSchedule(1.0, 0.0, 5_000.0), help="probability that the expert acts", within="[0, 1]"
    )
    learning_rate: Scalar = hyperparameters.learning_rate(1e-3)
    optimizer: Optimizer = hyperparameters.optimizer(Adam())
    normalize_observations: bool = hyperparameters.normalize_observations()

    def __post_init__(self) -> None:
        struct.check_fields(self)
        checks.check_environment(self.env)
        if not isinstance(self.expert, Policy | Planner):
            raise InputError(f"expert must be a purerl.Policy or a planner of purerl.control, got {self.expert!r}")
        check_loss(self.loss, self.network, self.env.action_space)
        if self.rollout_length < 2:
            raise InputError("dagger learns from the first rollout on: rollout_length must be at least 2, got 1")
        self._replay  # noqa: B018, checks its size
        jax.eval_shape(self._init_params, jax.random.key(0))  # a network that does not fit says so here
        self._check_expert()

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps, and labels, of one iteration."""
        return self.num_envs * self.rollout_length

    @property
    def minibatch_rows(self) -> int:
        """Rows that networks process together while learning."""
        return self.batch_size

    @property
    def warmup_iterations(self) -> int:
        """0: the first rollout is enough to learn from."""
        return 0

    def init(self, key: Array) -> DAggerState:
        """Fresh environments and network, and an empty data set."""
        key, params_key, reset_key = jax.random.split(key, 3)
        params = self._init_params(params_key)
        space = self.env.observation_space
        timestep = jax.vmap(self._seen.reset)(jax.random.split(reset_key, self.num_envs))
        carry = self.network.initial_carry(), self._expert.carry
        obs, label = jnp.zeros(space.shape, space.dtype), jax.eval_shape(self._label, self._zero_action)
        return DAggerState(
            key=key,
            iteration=jnp.int32(0),
            rollout=jax.vmap(lambda timestep: rollout.begin(timestep, carry))(timestep),
            obs_stats=running_statistics.init(zero_input(space).shape) if self.normalize_observations else None,
            replay=self._replay.init(obs, jnp.zeros(label.shape, label.dtype)),
            params=params,
            opt_state=optimizers.init(self.optimizer, params),
        )

    def policy(self, state: DAggerState, *, explore: bool) -> Policy:
        """The learner: sampled actions (``explore=True``) or the most likely ones, in the environment's own units."""
        return Actor(self.env, self._network).policy(state.params, state.obs_stats, explore=explore)

    def step(self, state: DAggerState) -> tuple[DAggerState, Metrics]:
        """Collect with the mixture, label, aggregate, update."""
        now = schedules.at(self, state.iteration)
        key, collect_key, update_key = jax.random.split(state.key, 3)
        learner = now.policy(state, explore=True)
        mixture = Policy(Partial(_mixed, now, learner.act), (learner.carry, self._expert.carry))
        rollouts, transitions, episodes = rollout.collect(
            self._seen, mixture, state.rollout, collect_key, self.rollout_length
        )
        obs, next_obs = self._own(transitions.obs), self._own(transitions.next_obs)
        # A label stands for itself: as far as the data set is concerned no episode ends, so that it keeps every row.
        never = jnp.zeros_like(transitions.done)
        labelled = struct.replace(
            transitions,
            obs=obs,
            next_obs=next_obs,
            action=transitions.extras["label"],
            terminated=never,
            truncated=never,
            extras={},
        )
        state = struct.replace(
            state,
            key=key,
            rollout=rollouts,
            obs_stats=update_statistics(self.env.observation_space, state.obs_stats, obs),
            replay=self._replay.add(state.replay, labelled),
        )
        state, metrics = lax.scan(now._update, state, jax.random.split(update_key, self.updates_per_iteration))
        metrics = merge(metrics) | episodes
        metrics |= {"beta": Mean.of(now.beta), "learning_rate": Mean.of(now.learning_rate)}
        return struct.replace(state, iteration=state.iteration + 1), metrics

    # Pieces

    @property
    def _network(self) -> Any:
        return self.network.clone(action_space=self.env.action_space)

    @property
    def _seen(self) -> Environment:
        """The environment as learner and expert together see it."""
        return self.env if isinstance(self.expert, Policy) else ObserveBoth(self.env)

    def _own(self, obs: Any) -> Array:
        """The learner's part of an observation of `_seen`."""
        return obs if isinstance(self.expert, Policy) else obs[0]

    @property
    def _expert(self) -> Policy:
        """The expert as a policy in `_seen`."""
        return self.expert if isinstance(self.expert, Policy) else on_state(mpc_policy(self.expert, self.env))

    @property
    def _replay(self) -> Replay:
        return Replay(self.buffer_size, self.num_envs, self.rollout_length)

    @property
    def _zero_action(self) -> Array:
        return jnp.zeros(self.env.action_space.shape, self.env.action_space.dtype)

    def _label(self, action: Array) -> Array:
        return label_of(self.env.action_space, action)

    def _init_params(self, key: Array) -> PyTree:
        if jax.tree.leaves(self.network.initial_carry()):
            raise InputError("dagger learns from single steps: it needs a network without memory")
        return self._network.init(
            key, self.network.initial_carry(), zero_input(self.env.observation_space), method="act"
        )

    def _check_expert(self) -> None:
        """Raise `InputError` unless the expert's actions are some of the environment. Computes shapes only."""
        expert, space = self._expert, self.env.action_space
        key = jax.random.key(0)
        obs = jax.eval_shape(self._seen.reset, key).obs
        try:
            action = jax.eval_shape(expert.act, key, expert.carry, obs)[0]
        except InputError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"the expert cannot act on observations {self.env.observation_space}: {reason}") from error
        if action.shape != space.shape:
            raise InputError(f"the expert's actions have shape {list(action.shape)}, the environment has {space}")
        kind = jnp.floating if jnp.issubdtype(space.dtype, jnp.floating) else jnp.integer
        if not jnp.issubdtype(action.dtype, kind):
            raise InputError(f"the expert's actions are {action.dtype.name}, the environment has {space}")

    # Learning

    def _update(self, state: DAggerState, key: Array) -> tuple[DAggerState, Metrics]:
        """One gradient step on one batch of the data set."""
        batch = self._replay.sample(state.replay, key, self.batch_size, 1.0)
        obs = preprocess(self.env.observation_space, state.obs_stats, batch.obs)

        def loss(params: PyTree) -> tuple[Array, Metrics]:
            return cloning_loss(self._network, params, self.loss, obs, batch.action)

        grads, metrics = jax.grad(loss, has_aux=True)(state.params)
        metrics["grad_norm"] = optimizers.gradient_norm(grads)
        params, opt_state = optimizers.update(self.optimizer, self.learning_rate, grads, state.opt_state, state.params)
        return struct.replace(state, params=params, opt_state=opt_state), metrics


def _mixed(agent: DAgger, learner: Partial, key: Array, carry: PyTree, obs: Any) -> tuple[Array, PyTree, dict]:
    """The expert's action with probability beta, else the learner's; and the expert's as a label."""
    which_key, learner_key, expert_key = jax.random.split(key, 3)
    learner_action, learner_carry, _ = learner(learner_key, carry[0], agent._own(obs))
    expert_action, expert_carry, _ = agent._expert.act(expert_key, carry[1], obs)
    expert_action = jnp.asarray(expert_action, agent.env.action_space.dtype)
    asks = jax.random.uniform(which_key) < agent.beta
    action = jnp.where(asks, expert_action, learner_action)
    return action, (learner_carry, expert_carry), {"label": agent._label(expert_action)}
