"""Adaptive penalty on the KL divergence between two policies (Schulman et al. 2017, arXiv:1707.06347, section 4)."""

from __future__ import annotations

import jax.numpy as jnp

from purerl.types import Array, Scalar

LEAST_KL_COEF, MOST_KL_COEF = 1e-4, 1e4
"""Bounds of beta, the weight of the penalty.

Beta is halved or doubled. Without bounds it would underflow to 0 where a policy hardly moves (a learning rate that
falls to 0), from where no doubling brings it back, and overflow where no penalty keeps a policy near (Adam's steps do
not shrink as a loss grows). Beyond these bounds there is nothing to gain. With an advantage of deviation s, surrogate
minus penalty is best at a divergence of at most ``s^2 / (2 beta^2)``, to second order. To aim at d takes ``beta = s /
sqrt(2 d)`` or less: 7 for a standardised advantage and d = 0.01. The upper bound leaves room for an s of 1000; at the
lower one the penalty is nothing beside the advantage. It is 14 iterations from either to 1.
"""


def adapt_kl_coef(kl_coef: Array, kl: Array, target: Scalar) -> Array:
    """Half or twice beta where the divergence is much less or more than its target, within the bounds.

    Args:
        kl_coef: float32 scalar, beta.
        kl: mean divergence of the last update.
        target: what it should be.
    """
    factor = jnp.where(kl < target / 1.5, 0.5, jnp.where(kl > target * 1.5, 2.0, 1.0))
    return jnp.clip(kl_coef * factor, LEAST_KL_COEF, MOST_KL_COEF)
