"""Search without gradients: policies as flat vectors of parameters, and the returns of whole episodes that they get.

A candidate is a vector ``[d]`` of all parameters of a policy network. Its fitness is the mean undiscounted return of
complete episodes that begin anew, so nothing is bootstrapped and no episode is cut but at its own time limit.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

from purerl import rollout, struct
from purerl.environments.limits import episode_limit
from purerl.errors import InputError
from purerl.experience.policies import Act, Actor, Statistics
from purerl.experience.preprocessing import zero_input
from purerl.learning import checks
from purerl.math import running_statistics
from purerl.math.running_statistics import RunningStatistics
from purerl.networks import DeterministicPolicy, encode
from purerl.spaces import Box, Discrete
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree


@struct.dataclass
class Evaluations:
    """Outcome of the evaluation of ``[n]`` candidates.

    Attributes:
        fitness: float32 ``[n]``, mean return of each; that of a failed simulation is the worst of the others.
        obs_stats: running statistics with all observations of these episodes; None where none are kept.
        metrics: returns and lengths of the episodes.
    """

    fitness: Array
    obs_stats: Statistics
    metrics: Metrics


@struct.dataclass
class PolicySearch:
    """Fitness of policies as a function of their parameters.

    Attributes:
        env: the environment.
        network: the policy.
        num_episodes: episodes per candidate.
        max_steps: most steps of an episode.
        normalize_observations: whether running statistics are kept.
    """

    env: Environment
    network: DeterministicPolicy = struct.field(static=True)
    num_episodes: int = struct.field(static=True)
    max_steps: int = struct.field(static=True)
    normalize_observations: bool = struct.field(static=True)

    def init(self, key: Array) -> tuple[PyTree, Statistics]:
        """Parameters of the network as it is initialised, and statistics of nothing (None where none are kept)."""
        obs = zero_input(self.env.observation_space)
        stats = running_statistics.init(obs.shape) if self.normalize_observations else None
        return self._network.init(key, obs), stats

    def policy(self, params: PyTree, obs_stats: Statistics) -> Policy:
        """The policy of these parameters. It is deterministic: what explores is the search."""
        return Actor(self.env, self._network).policy(params, obs_stats, explore=False)

    def unravel(self, vector: Array) -> PyTree:
        """Parameters of the network from a vector ``[d]``."""
        shapes = jax.eval_shape(self._network.init, jax.random.key(0), zero_input(self.env.observation_space))
        return ravel_pytree(jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes))[1](vector)

    def evaluate(self, vectors: Array, obs_stats: Statistics, key: Array) -> Evaluations:
        """Play episodes with each of the candidates ``[n, d]``, all side by side.

        Nothing is differentiated through episodes, which last as long as they last.
        """
        # Whatever depends on hyper-parameters: a derivative of training passes by the episodes.
        vectors, obs_stats = lax.stop_gradient((vectors, obs_stats))

        def play(vector: Array, key: Array) -> tuple[Array, Array, RunningStatistics | None]:
            policy = self.policy(self.unravel(vector), obs_stats)
            seen = None if obs_stats is None else running_statistics.init(obs_stats.mean.shape)
            policy = Policy(Partial(_observed, self.env, policy.act), (policy.carry, seen))
            end = rollout.play_episode(self.env, policy, key, self.max_steps)
            return end.episode_return, end.episode_length, end.carry[1]

        keys = jax.random.split(key, (len(vectors), self.num_episodes))
        returns, lengths, seen = jax.vmap(jax.vmap(play, in_axes=(None, 0)))(vectors, keys)
        if obs_stats is not None:
            flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), seen)
            obs_stats = running_statistics.merge(obs_stats, running_statistics.pooled(flat))
        fitness = _finite(jnp.mean(returns, axis=1))
        metrics = {
            "episode_return": Mean.of(returns, jnp.isfinite(returns)),
            "episode_length": Mean.of(lengths),
            "best_return": Mean.of(jnp.max(fitness)),
            "steps_played": Mean.of(jnp.sum(lengths.astype(jnp.float32))),
        }
        return Evaluations(fitness, obs_stats, metrics)

    @property
    def _network(self) -> DeterministicPolicy:
        return self.network.clone(action_space=self.env.action_space)


def _observed(env: Environment, act: Partial, key: Array, carry: PyTree, obs: Array) -> Act:
    """The action of `act`, with statistics of the observations in the memory, but for those that are not finite."""
    carry, seen = carry
    action, carry, extras = act(key, carry, obs)
    if seen is not None:
        features = encode(env.observation_space, obs)
        finite = jnp.all(jnp.isfinite(features))
        features = jnp.where(finite, features, 0.0)
        one = RunningStatistics(finite.astype(jnp.float32), features, jnp.zeros_like(features))
        seen = running_statistics.merge(seen, one)
    return action, (carry, seen), extras


def _finite(fitness: Array) -> Array:
    """`fitness`, with the least finite one where it is not finite; 0 where none is."""
    finite = jnp.isfinite(fitness)
    worst = jnp.min(jnp.where(finite, fitness, jnp.inf))
    return jnp.where(finite, fitness, jnp.where(jnp.isfinite(worst), worst, 0.0))


def centred_ranks(fitness: Array) -> Array:
    """Ranks of ``fitness [n]`` from -0.5, the worst, to 0.5, the best (Salimans et al. 2017, section 2).

    Equal candidates share the mean of their ranks. Without that, a population in which all do equally well would move
    in the direction of the order of its members.
    """
    ordered = jnp.sort(fitness)
    below, not_above = (jnp.searchsorted(ordered, fitness, side=side) for side in ("left", "right"))
    ranks = 0.5 * (below + not_above - 1).astype(jnp.float32)
    return ranks / (len(fitness) - 1) - 0.5


def check_searchable(algorithm: str, env: Environment, network: DeterministicPolicy) -> None:
    """Raise `InputError` unless the environment has discrete or bounded actions, and a network that fits it."""
    checks.check_environment(env)
    space = env.action_space
    vector = isinstance(space, Box) and space.is_bounded and len(space.shape) == 1
    if not vector and not isinstance(space, Discrete):
        raise InputError(f"{algorithm} needs discrete actions or a vector of bounded ones, got {space}: use ppo")
    checks.check_network(network.clone(action_space=space), env)


def episode_steps(env: Environment, given: int | None) -> int:
    """Steps counted for each episode: as many as `given`, else the time limit of `env`.

    Raises:
        InputError: if `env` has no time limit and none is given.
    """
    limit = episode_limit(env) if given is None else given
    if limit is None:
        raise InputError(
            "max_episode_steps is needed: the environment has no time limit, and a candidate is judged by whole "
            "episodes"
        )
    return limit


def num_parameters(env: Environment, network: DeterministicPolicy) -> int:
    """Number of parameters d of the policy."""
    network = network.clone(action_space=env.action_space)
    shapes = jax.eval_shape(network.init, jax.random.key(0), zero_input(env.observation_space))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))
