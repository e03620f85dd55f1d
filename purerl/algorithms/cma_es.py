"""CMA-ES (Hansen 2016, "The CMA evolution strategy: a tutorial", arXiv:1604.00772) over the parameters of a policy.

Draw parameters from a normal distribution, play whole episodes with each, and move mean and covariance of the
distribution to the better half (`purerl.math.cma`, which minimises any function; here minus the mean return)::

    m <- sum_i w_i x_i of the best,    C <- (1 - c_1 - c_mu) C + c_1 p_c p_c' + c_mu sum_i w_i y_i y_i'

The covariance matrix is full: memory is O(d^2) and its decomposition O(d^3), so networks are small, linear by default.
Different from the tutorial: statistics of observations may standardise them, as in ARS, and the function changes with
them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from purerl import struct
from purerl.errors import InputError
from purerl.experience.policies import Statistics
from purerl.learning import hyperparameters, search
from purerl.learning.search import PolicySearch
from purerl.math import cma
from purerl.networks import MLP, DeterministicPolicy
from purerl.types import Array, Environment, Mean, Metrics, Policy, Scalar

MAX_PARAMETERS = 2048
"""Most parameters of a policy: the matrices have 16 MiB each, and a decomposition takes seconds on a CPU."""


@struct.dataclass
class CMAESState:
    """Everything that changes while CMA-ES trains.

    Attributes:
        key: randomness of all later iterations.
        iteration: int32, iterations done.
        search: distribution of parameters.
        obs_stats: running statistics of observations; None unless they are normalised.
    """

    key: Array
    iteration: Array = struct.field(shared=True)
    search: cma.CMAState
    obs_stats: Statistics


@struct.dataclass
class CMAES:
    """CMA-ES for discrete and bounded continuous actions. See the module for the method."""

    env: Environment
    network: DeterministicPolicy = struct.field(default=DeterministicPolicy(MLP(())), static=True, help="policy")
    population_size: int = hyperparameters.population_size(16, "[4, inf)")
    num_episodes: int = hyperparameters.num_episodes()
    max_episode_steps: int | None = hyperparameters.max_episode_steps()
    initial_std: Scalar = struct.field(
        default=0.1, help="standard deviation of parameters in the first iteration, sigma", within="(0, inf)"
    )
    normalize_observations: bool = hyperparameters.normalize_observations(True)

    def __post_init__(self) -> None:
        struct.check_fields(self)
        search.check_searchable("cma_es", self.env, self.network)
        size = search.num_parameters(self.env, self.network)
        if size > MAX_PARAMETERS:
            raise InputError(
                f"cma_es needs a policy of at most {MAX_PARAMETERS} parameters, got {size}: use smaller "
                "layers, es or ars"
            )
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

    def init(self, key: Array) -> CMAESState:
        """A round distribution about a fresh policy."""
        key, params_key = jax.random.split(key)
        params, obs_stats = self._search.init(params_key)
        return CMAESState(key, jnp.int32(0), cma.init(ravel_pytree(params)[0], self.initial_std), obs_stats)

    def policy(self, state: CMAESState, *, explore: bool) -> Policy:
        """The policy at the mean of the distribution, exploring or not."""
        del explore
        return self._search.policy(self._search.unravel(state.search.mean), state.obs_stats)

    def step(self, state: CMAESState) -> tuple[CMAESState, Metrics]:
        """Draw, play, adapt."""
        key, ask_key, play_key = jax.random.split(state.key, 3)
        candidates = cma.ask(state.search, ask_key, self.population_size)
        evaluations = self._search.evaluate(candidates, state.obs_stats, play_key)
        adapted = cma.tell(state.search, candidates, -evaluations.fitness)
        metrics = evaluations.metrics | {
            "std": Mean.of(adapted.std),
            "condition": Mean.of((jnp.max(adapted.scales) / jnp.min(adapted.scales)) ** 2),
        }
        return CMAESState(key, state.iteration + 1, adapted, evaluations.obs_stats), metrics

    @property
    def _search(self) -> PolicySearch:
        assert self.max_episode_steps is not None
        return PolicySearch(
            self.env, self.network, self.num_episodes, self.max_episode_steps, self.normalize_observations
        )
