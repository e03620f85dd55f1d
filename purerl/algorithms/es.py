"""Evolution strategies (Salimans et al. 2017, arXiv:1703.03864, algorithm 1).

Perturb the parameters of a policy, play whole episodes with each perturbation, and follow the estimate of the gradient
of the expected return of a perturbed policy::

    g = 1 / (n sigma) sum_i F_i eps_i,    eps_i ~ N(0, I),    F_i = centred rank of the return of theta + sigma eps_i

Perturbations come in pairs, eps and -eps (section 2: antithetic or mirrored sampling), so that every part of the return
that is even in eps cancels. The paper decays weights: ``optimizer=AdamW()`` does. Different here: equal returns share
their rank, and observations are standardised instead of the activations of a batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from purerl import struct
from purerl.errors import InputError
from purerl.experience.policies import Statistics
from purerl.learning import hyperparameters, optimizers, schedules, search
from purerl.learning.optimizers import Adam, Optimizer
from purerl.learning.search import PolicySearch, centred_ranks
from purerl.networks import MLP, DeterministicPolicy
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree, Scalar


@struct.dataclass
class ESState:
    """Everything that changes while ES trains.

    Attributes:
        key: randomness of all later iterations.
        iteration: int32, iterations done.
        params: parameters of the policy, the centre of the search.
        opt_state: state of the optimiser.
        obs_stats: running statistics of observations; None unless they are normalised.
    """

    key: Array
    iteration: Array = struct.field(shared=True)
    params: PyTree
    opt_state: PyTree
    obs_stats: Statistics


@struct.dataclass
class ES:
    """ES for discrete and bounded continuous actions. See the module for the method."""

    env: Environment
    network: DeterministicPolicy = struct.field(default=DeterministicPolicy(MLP((32, 32))), static=True, help="policy")
    population_size: int = hyperparameters.population_size(64)
    num_episodes: int = hyperparameters.num_episodes()
    max_episode_steps: int | None = hyperparameters.max_episode_steps()
    noise_std: Scalar = hyperparameters.noise_std(0.05)
    learning_rate: Scalar = hyperparameters.learning_rate(2e-2)
    optimizer: Optimizer = hyperparameters.optimizer(Adam())
    normalize_observations: bool = hyperparameters.normalize_observations(True)

    def __post_init__(self) -> None:
        struct.check_fields(self)
        search.check_searchable("es", self.env, self.network)
        if self.population_size % 2:
            raise InputError(f"population_size must be even: candidates come in pairs, got {self.population_size}")
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

    def init(self, key: Array) -> ESState:
        """A fresh policy."""
        key, params_key = jax.random.split(key)
        params, obs_stats = self._search.init(params_key)
        return ESState(key, jnp.int32(0), params, optimizers.init(self.optimizer, params), obs_stats)

    def policy(self, state: ESState, *, explore: bool) -> Policy:
        """The policy at the centre of the search, exploring or not."""
        del explore
        return self._search.policy(state.params, state.obs_stats)

    def step(self, state: ESState) -> tuple[ESState, Metrics]:
        """Perturb, play, follow the gradient."""
        now = schedules.at(self, state.iteration)
        key, noise_key, play_key = jax.random.split(state.key, 3)
        centre, unravel = ravel_pytree(state.params)
        half = jax.random.normal(noise_key, (self.population_size // 2, len(centre)), jnp.float32)
        noise_std = jnp.asarray(now.noise_std, jnp.float32)
        noise = jnp.concatenate([half, -half])
        evaluations = self._search.evaluate(centre[None] + noise_std * noise, state.obs_stats, play_key)
        gradient = gradient_estimate(centred_ranks(evaluations.fitness), noise, noise_std)
        params, opt_state = optimizers.update(
            now.optimizer, now.learning_rate, unravel(-gradient), state.opt_state, state.params
        )
        metrics = evaluations.metrics | {
            "grad_norm": Mean.of(jnp.linalg.norm(gradient)),
            "noise_std": Mean.of(noise_std),
            "learning_rate": Mean.of(now.learning_rate),
        }
        return ESState(key, state.iteration + 1, params, opt_state, evaluations.obs_stats), metrics

    @property
    def _search(self) -> PolicySearch:
        assert self.max_episode_steps is not None
        return PolicySearch(
            self.env, self.network, self.num_episodes, self.max_episode_steps, self.normalize_observations
        )


def gradient_estimate(fitness: Array, noise: Array, noise_std: float | Array) -> Array:
    """Gradient ``[d]`` of the expected fitness of a perturbed vector: ``1 / (n sigma) sum_i F_i eps_i``.

    Args:
        fitness: ``[n]``, F.
        noise: ``[n, d]``, eps, standard normal.
        noise_std: sigma.
    """
    return fitness @ noise / (len(fitness) * noise_std)
