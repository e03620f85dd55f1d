"""Natural gradients: products with the Fisher matrix, systems solved by nothing but such products, and the step.

The Fisher information ``F`` of a policy says how far its distributions move when its parameters do: for a small change
``d`` the mean KL divergence from the old policy to the new one is ``1/2 d^T F d``. It is as large as the number of
parameters squared, so it is never formed.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from purerl.distributions import Distribution
from purerl.types import Array, Mean, Metrics


def surrogate_and_divergence(
    policy: Callable[[Array], Distribution], params: Array, raw_action: Array, log_prob: Array, advantage: Array
) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """What a new policy seems to gain over the old one, and how far from it it is (Schulman et al. 2015, equation 14).

    Args:
        policy: parameters ``[n]`` to the distributions over a batch of ``[b]`` steps.
        params: ``[n]``, of the old policy, which acted.
        raw_action: ``[b, ...]``, as it drew them.
        log_prob: ``[b]``, of these.
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
    """The step ``sqrt(2 size / x^T H x) x`` where ``H x = g`` and ``H = F + damping I`` (Schulman et al. 2015).

    Along it `surrogate` rises most for a given `divergence`, which to second order, and with damping, is `size`.

    Args:
        surrogate: parameters ``[n]`` to what is to rise, a scalar; its gradient at `params` is g.
        divergence: parameters ``[n]`` to the mean KL divergence from the policy at `params`, a scalar.
        params: ``[n]``.
        size: the divergence that the step is to have.
        damping: added to the diagonal of the Fisher matrix F.
        num_iterations: of conjugate gradient.

    Returns:
        The step ``[n]``; and ``grad_norm``, the length of g, and ``cg_residual``, that of ``g - H x`` as a share of it.
    """
    fisher = fisher_vector_product(divergence, params)

    def product(v: Array) -> Array:
        return fisher(v) + damping * v

    gradient = jax.grad(surrogate)(params)
    x, residual = conjugate_gradient(product, gradient, num_iterations)
    grad_norm = jnp.linalg.norm(gradient)
    metrics = {
        "grad_norm": Mean.of(grad_norm),
        "cg_residual": Mean.of(jnp.linalg.norm(residual) / jnp.maximum(grad_norm, 1e-12)),
    }
    # Without any advantage there is no direction: the step is 0, not 0 / 0.
    return jnp.sqrt(2.0 * size / jnp.maximum(x @ product(x), 1e-12)) * x, metrics


def fisher_vector_product(divergence: Callable[[Array], Array], params: Array) -> Callable[[Array], Array]:
    """The map ``v -> F v`` where ``F`` is the Hessian of `divergence` at `params` (Schulman et al. 2015, appendix C).

    Args:
        divergence: parameters ``[n]`` to the mean KL divergence from the policy at `params`, a scalar.
        params: ``[n]``.

    Returns:
        A linear function from ``[n]`` to ``[n]``; a call costs about as much as two gradients of `divergence`.
    """
    return jax.linearize(jax.grad(divergence), params)[1]


def conjugate_gradient(product: Callable[[Array], Array], target: Array, num_iterations: int) -> tuple[Array, Array]:
    """Solve ``A x = target`` approximately (Hestenes & Stiefel 1952, "Methods of conjugate gradients ...").

    Always takes all iterations, so that members of a population stay in step and derivatives pass through. What is
    solved exactly before that stays as it is.

    Args:
        product: ``v -> A v`` for a symmetric positive definite ``A [n, n]``.
        target: ``[n]``.
        num_iterations: in exact arithmetic ``n`` of them suffice.

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
    """``a / b``, and 0 where `b` is not positive."""
    return jnp.where(b > 0.0, a / jnp.where(b > 0.0, b, 1.0), 0.0)
