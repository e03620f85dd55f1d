"""Natural gradient: Fisher-vector products, the conjugate gradient method, and the step of the policy.

The Fisher information matrix ``F`` of a policy measures how its distributions change with its parameters: for a small
change ``d`` the mean KL divergence from the old policy to the new one is ``1/2 d^T F d``. F has as many entries as the
number of parameters squared, so it is never formed.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from purerl.math.distributions import Distribution
from purerl.math.reductions import mean_over_shards
from purerl.types import Array, Mean, Metrics


def surrogate_and_divergence(
    policy: Callable[[Array], Distribution], params: Array, raw_action: Array, log_prob: Array, advantage: Array
) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """Surrogate objective and mean KL divergence of a new policy (Schulman et al. 2015, equation 14).

    Args:
        policy: function from parameters ``[n]`` to the distributions over a batch of ``[b]`` steps.
        params: ``[n]``, parameters of the old policy, which acted.
        raw_action: ``[b, ...]``, raw samples of the old policy.
        log_prob: ``[b]``, their log-probabilities under the old policy.
        advantage: ``[b]``.

    Returns:
        Two functions of parameters ``[n]``: the mean of probability ratio times advantage, whose gradient at `params`
        is the policy gradient; and the mean KL divergence from the old policy.
    """
    old = policy(params)

    def surrogate(params: Array) -> Array:
        return jnp.mean(jnp.exp(policy(params).log_prob(raw_action) - log_prob) * advantage)

    def divergence(params: Array) -> Array:
        return jnp.mean(old.kl(policy(params)))  # type: ignore[arg-type]

    return surrogate, divergence


def natural_step(
    surrogate: Callable[[Array], Array],
    divergence: Callable[[Array], Array],
    params: Array,
    size: float | Array,
    damping: float | Array,
    num_iterations: int,
) -> tuple[Array, Metrics]:
    """Natural gradient step ``sqrt(2 size / x^T H x) x``, ``H x = g``, ``H = F + damping I`` (Schulman et al. 2015).

    It is the direction of the largest increase of `surrogate` for a given `divergence`. The divergence of the step is
    `size`, to second order and with damping.

    Args:
        surrogate: function from parameters ``[n]`` to the objective, a scalar; its gradient at `params` is g.
        divergence: function from parameters ``[n]`` to the mean KL divergence from the policy at `params`, a scalar.
        params: ``[n]``.
        size: target divergence of the step.
        damping: number added to the diagonal of the Fisher matrix F.
        num_iterations: number of conjugate gradient iterations.

    Returns:
        The step ``[n]``; and the metrics ``grad_norm``, the norm of g, and ``cg_residual``, the norm of ``g - H x``
        divided by the norm of g.
    """
    fisher = fisher_vector_product(divergence, params)

    def product(v: Array) -> Array:
        return fisher(v) + damping * v

    gradient = mean_over_shards(jax.grad(surrogate)(params))
    x, residual = conjugate_gradient(product, gradient, num_iterations)
    grad_norm = jnp.linalg.norm(gradient)
    metrics = {
        "grad_norm": Mean.of(grad_norm),
        "cg_residual": Mean.of(jnp.linalg.norm(residual) / jnp.maximum(grad_norm, 1e-12)),
    }
    # If all advantages are 0, so is the gradient: the step is 0, not 0 / 0.
    return jnp.sqrt(2.0 * size / jnp.maximum(x @ product(x), 1e-12)) * x, metrics


def fisher_vector_product(divergence: Callable[[Array], Array], params: Array) -> Callable[[Array], Array]:
    """Fisher-vector product ``v -> F v``: ``F`` is the Hessian of `divergence` (Schulman et al. 2015, appendix C).

    Args:
        divergence: function from parameters ``[n]`` to the mean KL divergence from the policy at `params`, a scalar.
        params: ``[n]``.

    Returns:
        A linear function from ``[n]`` to ``[n]``, the mean over all shards; a call costs about as much as two gradients
        of `divergence`.
    """
    product = jax.linearize(jax.grad(divergence), params)[1]
    return lambda v: mean_over_shards(product(v))


def conjugate_gradient(product: Callable[[Array], Array], target: Array, num_iterations: int) -> tuple[Array, Array]:
    """Conjugate gradient method for ``A x = target`` (Hestenes & Stiefel 1952, "Methods of conjugate gradients ...").

    All iterations are always computed, so that all members of a population do the same work and derivatives pass
    through. If the solution is exact after fewer, it does not change any more.

    Args:
        product: ``v -> A v`` for a symmetric positive definite ``A [n, n]``.
        target: ``[n]``.
        num_iterations: number of iterations; in exact arithmetic ``n`` suffice.

    Returns:
        ``(x, residual)``, both ``[n]``; the residual is ``target - A x``.
    """

    def iteration(carry: tuple[Array, Array, Array, Array], _: None) -> tuple[tuple[Array, Array, Array, Array], None]:
        x, residual, direction, squared = carry
        image = product(direction)
        length = _ratio(squared, direction @ image)
        residual = residual - length * image
        smaller = residual @ residual
        carry = (x + length * direction, residual, residual + _ratio(smaller, squared) * direction, smaller)
        return carry, None

    initial = (jnp.zeros_like(target), target, target, target @ target)
    (x, residual, _, _), _ = lax.scan(iteration, initial, length=num_iterations)
    return x, residual


def _ratio(a: Array, b: Array) -> Array:
    """Ratio ``a / b``, and 0 where `b` is not positive."""
    return jnp.where(b > 0.0, a / jnp.where(b > 0.0, b, 1.0), 0.0)
