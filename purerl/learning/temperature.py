"""Temperature (alpha) of soft actor-critics, learned so that the policy keeps a target entropy.

Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications", section 5 (arXiv:1812.05905).
"""

from __future__ import annotations

import math

import jax.numpy as jnp

from purerl.learning import optimizers
from purerl.types import Array, PyTree

LEAST_TEMPERATURE, MOST_TEMPERATURE = 1e-8, 1e8
"""Bounds of the temperature, from which it comes back.

Where a target entropy is out of reach, it falls or rises for ever: to 0 or infinity after 300,000 updates at a rate of
3e-4, and it would take as long to return. Beyond these bounds either entropy or reward has long ceased to count.
"""

_OPTIMIZER = optimizers.Adam()


def init_temperature(temperature: float | Array) -> tuple[Array, PyTree]:
    """Log-temperature, a float32, and the state of its optimiser."""
    log_temperature = jnp.log(jnp.asarray(temperature, jnp.float32))
    return log_temperature, optimizers.init(_OPTIMIZER, log_temperature)


def update_temperature(
    log_temperature: Array, opt_state: PyTree, learning_rate: float | Array, excess_entropy: Array
) -> tuple[Array, PyTree]:
    """One step of Adam along the gradient of ``log(alpha) * (entropy - target)``.

    Args:
        log_temperature: log alpha.
        opt_state: state of its optimiser.
        learning_rate: step size; 0 leaves the temperature as it is.
        excess_entropy: entropy of the policy minus the target.
    """
    new, opt_state = optimizers.update(_OPTIMIZER, learning_rate, excess_entropy, opt_state, log_temperature)
    return jnp.clip(new, math.log(LEAST_TEMPERATURE), math.log(MOST_TEMPERATURE)), opt_state
