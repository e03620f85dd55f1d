"""Rows of algorithms that search without gradients, with their settings."""

from __future__ import annotations

from purerl.presets.row import Row
from purerl.presets.settings import Preset

_SEARCH = Preset(total_steps=2_000_000, anneal=False)

# As PPO's: the pole of this backend is that of the published results.
_SPRING = {"backend": "spring"}

ROWS = (
    Row(
        "es",
        "purerl.algorithms.es:ES",
        "discrete, continuous",
        "evolution strategies: ranked returns of perturbed parameters (Salimans et al. 2017)",
        base=_SEARCH,
        tuned={
            "CartPole-v1": _SEARCH.extended(hyperparameters={"population_size": 32}, total_steps=1_600_000),
            "brax/fast": _SEARCH.extended(
                hyperparameters={"population_size": 16}, env={"episode_length": 128}, total_steps=65_536
            ),
            "brax/inverted_pendulum": _SEARCH.extended(env=_SPRING),
        },
    ),
    Row(
        "ars",
        "purerl.algorithms.ars:ARS",
        "discrete, continuous",
        "augmented random search with a linear policy (Mania et al. 2018)",
        base=_SEARCH,
        tuned={
            "CartPole-v1": _SEARCH.extended(total_steps=1_600_000),
            "brax/inverted_pendulum": _SEARCH.extended(env=_SPRING),
        },
    ),
    Row(
        "cma_es",
        "purerl.algorithms.cma_es:CMAES",
        "discrete, continuous",
        "adapted covariance matrix of all parameters, for small policies (Hansen 2016)",
        base=_SEARCH,
        tuned={
            "CartPole-v1": _SEARCH.extended(total_steps=800_000),
            "Pendulum-v1": _SEARCH.extended(
                hyperparameters={"population_size": 32, "num_episodes": 4, "initial_std": 1.0},
                network={"hidden_sizes": (8,)},
                total_steps=10_000_000,
            ),
        },
    ),
    Row(
        "evosax",
        "purerl.algorithms.evosax_search:Evosax",
        "discrete, continuous",
        "strategies of the library evosax: snes, xnes, sep_cma_es, pgpe and others (Lange 2022)",
        base=_SEARCH,
        tuned={"CartPole-v1": _SEARCH.extended(total_steps=800_000)},
    ),
)
