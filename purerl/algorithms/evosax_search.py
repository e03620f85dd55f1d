"""Strategies of the library evosax over the parameters of a policy (Lange 2022, arXiv:2212.04180).

Draw parameters from the strategy's distribution, play whole episodes with each, and tell the strategy minus the mean
returns, which it minimises. The policy is the mean of the distribution. evosax is an optional dependency: ``pip install
purerl[evosax]``.
"""

from __future__ import annotations

import enum
import functools
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from purerl import struct
from purerl.errors import InputError
from purerl.experience.policies import Statistics
from purerl.learning import hyperparameters, search
from purerl.learning.search import PolicySearch
from purerl.networks import MLP, DeterministicPolicy
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree


class Strategy(enum.Enum):
    """Strategies of evosax with a mean and an initial standard deviation, by the names of their classes."""

    CR_FM_NES = "CR_FM_NES"
    DES = "DiscoveredES"
    MA_ES = "MA_ES"
    PGPE = "PGPE"
    RM_ES = "Rm_ES"
    SEP_CMA_ES = "Sep_CMA_ES"
    SIMPLE_ES = "SimpleES"
    SNES = "SNES"
    XNES = "xNES"


@struct.dataclass
class EvosaxState:
    """Everything that changes while a strategy of evosax trains.

    Attributes:
        key: randomness of all later iterations.
        iteration: int32, iterations done.
        search: the strategy's own state, with the ``mean`` of its distribution.
        obs_stats: running statistics of observations; None unless they are normalised.
    """

    key: Array
    iteration: Array = struct.field(shared=True)
    search: PyTree
    obs_stats: Statistics


@struct.dataclass
class Evosax:
    """A strategy of evosax for discrete and bounded continuous actions. See the module for the method."""

    env: Environment
    network: DeterministicPolicy = struct.field(default=DeterministicPolicy(MLP((16,))), static=True, help="policy")
    strategy: Strategy = struct.field(default=Strategy.SNES, static=True, help="strategy of evosax")
    population_size: int = hyperparameters.population_size(32, "[4, inf)")
    num_episodes: int = hyperparameters.num_episodes()
    max_episode_steps: int | None = hyperparameters.max_episode_steps()
    initial_std: float = struct.field(
        default=0.1, help="standard deviation of parameters in the first iteration, sigma", within="(0, inf)"
    )
    normalize_observations: bool = hyperparameters.normalize_observations(True)

    def __post_init__(self) -> None:
        struct.check_fields(self)
        if not isinstance(self.strategy, Strategy):
            raise InputError(f"strategy must be one of {', '.join(map(str, Strategy))}, got {self.strategy!r}")
        if importlib.util.find_spec("evosax") is None:
            raise InputError("evosax is not installed: pip install 'purerl[evosax]'")
        search.check_searchable("evosax", self.env, self.network)
        if self.population_size % 2:
            raise InputError(f"population_size must be even: some strategies draw pairs, got {self.population_size}")
        object.__setattr__(self, "max_episode_steps", search.episode_steps(self.env, self.max_episode_steps))

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps of one iteration: the most that its episodes can take."""
        assert self.max_episode_steps is not None
        return self.population_size * self.num_episodes * self.max_episode_steps

    @property
    def minibatch_rows(self) -> int:
        """Rows that networks process together."""
        return self.population_size * self.num_episodes

    @property
    def warmup_iterations(self) -> int:
        """0: there is no replay to fill."""
        return 0

    def init(self, key: Array) -> EvosaxState:
        """The strategy's distribution about a fresh policy."""
        key, params_key, init_key = jax.random.split(key, 3)
        params, obs_stats = self._search.init(params_key)
        strategy, settings = self._strategy
        with jax.numpy_rank_promotion("allow"):  # evosax relies on it
            begun = _strong(strategy.init(init_key, ravel_pytree(params)[0], settings))
        return EvosaxState(key, jnp.int32(0), begun, obs_stats)

    def policy(self, state: EvosaxState, *, explore: bool) -> Policy:
        """The policy at the mean of the distribution, exploring or not."""
        del explore
        return self._search.policy(self._search.unravel(state.search.mean), state.obs_stats)

    def step(self, state: EvosaxState) -> tuple[EvosaxState, Metrics]:
        """Draw, play, adapt."""
        key, ask_key, play_key, tell_key = jax.random.split(state.key, 4)
        strategy, settings = self._strategy
        with jax.numpy_rank_promotion("allow"):
            candidates, asked = strategy.ask(ask_key, state.search, settings)
        evaluations = self._search.evaluate(candidates, state.obs_stats, play_key)
        with jax.numpy_rank_promotion("allow"):
            told, _ = strategy.tell(tell_key, candidates, -evaluations.fitness, asked, settings)
        metrics = evaluations.metrics | {"mean_norm": Mean.of(jnp.linalg.norm(told.mean))}
        return EvosaxState(key, state.iteration + 1, _strong(told), evaluations.obs_stats), metrics

    @property
    def _strategy(self) -> tuple[Any, Any]:
        """The strategy and its settings."""
        size = search.num_parameters(self.env, self.network)
        strategy = _strategy(self.strategy, self.population_size, size)
        return strategy, strategy.default_params.replace(std_init=jnp.asarray(self.initial_std, jnp.float32))

    @property
    def _search(self) -> PolicySearch:
        assert self.max_episode_steps is not None
        return PolicySearch(
            self.env, self.network, self.num_episodes, self.max_episode_steps, self.normalize_observations
        )


@functools.lru_cache(maxsize=64)
def _strategy(strategy: Strategy, population_size: int, size: int) -> Any:
    """The object of evosax for vectors ``[size]``. It hashes by identity, so there is one for each kind."""
    from evosax import algorithms

    with jax.ensure_compile_time_eval():
        return getattr(algorithms, strategy.value)(population_size=population_size, solution=jnp.zeros(size))


def _strong(tree: PyTree) -> PyTree:
    """`tree` without weak types, so that a state has the same types before and after a step."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), tree)
