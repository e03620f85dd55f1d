"""Augmented random search (Mania et al. 2018, arXiv:1803.07055, algorithm 1, V2-t).

Try a policy with its parameters moved along random directions, forwards and backwards, and move it along those
directions in proportion to the differences of the returns::

    theta <- theta + alpha / (b sigma_R) sum_{k of the b best directions} (r_k+ - r_k-) delta_k,    delta_k ~ N(0, I)

A direction is as good as the better of its two returns, and ``sigma_R`` is the deviation of the 2 b returns used. The
policy is linear and sees observations standardised by the statistics of all that were seen. Different here: the policy
has a bias and actions go through ``tanh``; rewards are not shifted by a bonus for survival.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from purerl import struct
from purerl.errors import InputError
from purerl.experience.policies import Statistics
from purerl.learning import hyperparameters, schedules, search
from purerl.learning.search import PolicySearch
from purerl.networks import MLP, DeterministicPolicy
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree, Scalar


@struct.dataclass
class ARSState:
    """Everything that changes while ARS trains.

    Attributes:
        key: randomness of all later iterations.
        iteration: int32, iterations done.
        params: parameters of the policy.
        obs_stats: running statistics of observations; None unless they are normalised.
    """

    key: Array
    iteration: Array = struct.field(shared=True)
    params: PyTree
    obs_stats: Statistics


@struct.dataclass
class ARS:
    """ARS for discrete and bounded continuous actions. See the module for the method."""

    env: Environment
    network: DeterministicPolicy = struct.field(default=DeterministicPolicy(MLP(())), static=True, help="policy")
    num_directions: int = struct.field(
        default=16,
        static=True,
        help="random directions per iteration, each tried forwards and backwards, N",
        within="[1, inf)",
    )
    num_top_directions: int = struct.field(
        default=8, static=True, help="best directions, which the step is made of, b", within="[1, inf)"
    )
    num_episodes: int = hyperparameters.num_episodes()
    max_episode_steps: int | None = hyperparameters.max_episode_steps()
    noise_std: Scalar = hyperparameters.noise_std(0.05)
    learning_rate: Scalar = struct.field(default=2e-2, help="step size, alpha", within="[0, inf)")
    normalize_observations: bool = hyperparameters.normalize_observations(True)

    def __post_init__(self) -> None:
        struct.check_fields(self)
        search.check_searchable("ars", self.env, self.network)
        if self.num_top_directions > self.num_directions:
            raise InputError(
                f"num_top_directions must not exceed num_directions, got {self.num_top_directions} "
                f"of {self.num_directions}"
            )
        object.__setattr__(self, "max_episode_steps", search.episode_steps(self.env, self.max_episode_steps))

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps of one iteration: the most that its episodes can take."""
        assert self.max_episode_steps is not None
        return self.minibatch_rows * self.max_episode_steps

    @property
    def minibatch_rows(self) -> int:
        """Rows that networks process together."""
        return 2 * self.num_directions * self.num_episodes

    @property
    def warmup_iterations(self) -> int:
        """0: there is no replay to fill."""
        return 0

    def init(self, key: Array) -> ARSState:
        """A fresh policy."""
        key, params_key = jax.random.split(key)
        return ARSState(key, jnp.int32(0), *self._search.init(params_key))

    def policy(self, state: ARSState, *, explore: bool) -> Policy:
        """The policy at the centre of the search, exploring or not."""
        del explore
        return self._search.policy(state.params, state.obs_stats)

    def step(self, state: ARSState) -> tuple[ARSState, Metrics]:
        """Try directions, play, move along the best."""
        now = schedules.at(self, state.iteration)
        key, noise_key, play_key = jax.random.split(state.key, 3)
        centre, unravel = ravel_pytree(state.params)
        directions = jax.random.normal(noise_key, (self.num_directions, len(centre)), jnp.float32)
        noise_std, learning_rate = (jnp.asarray(size, jnp.float32) for size in (now.noise_std, now.learning_rate))
        noise = noise_std * jnp.concatenate([directions, -directions])
        evaluations = self._search.evaluate(centre[None] + noise, state.obs_stats, play_key)
        forwards, backwards = jnp.split(evaluations.fitness, 2)
        direction, return_std = step_direction(forwards, backwards, directions, self.num_top_directions)
        params = unravel(centre + learning_rate * direction)
        metrics = evaluations.metrics | {
            "return_std": Mean.of(return_std),
            "noise_std": Mean.of(noise_std),
            "learning_rate": Mean.of(learning_rate),
        }
        return ARSState(key, state.iteration + 1, params, evaluations.obs_stats), metrics

    @property
    def _search(self) -> PolicySearch:
        assert self.max_episode_steps is not None
        return PolicySearch(
            self.env, self.network, self.num_episodes, self.max_episode_steps, self.normalize_observations
        )


def step_direction(forwards: Array, backwards: Array, directions: Array, num_top: int) -> tuple[Array, Array]:
    """Step ``[d]`` per unit of the step size, and the deviation of the returns it is made of.

    The step is 0 where all these returns are equal.

    Args:
        forwards: returns ``[N]`` of ``theta + nu delta``.
        backwards: returns ``[N]`` of ``theta - nu delta``.
        directions: delta, ``[N, d]``.
        num_top: b.
    """
    _, top = lax.top_k(jnp.maximum(forwards, backwards), num_top)
    forwards, backwards = forwards[top], backwards[top]
    std = jnp.std(jnp.concatenate([forwards, backwards]))
    weights = (forwards - backwards) / jnp.where(std > 0.0, std, 1.0)
    return weights @ directions[top] / num_top, std
