"""Integration of ordinary differential equations over one control interval."""

from collections.abc import Callable

from purerl.types import Array


def rk4(derivative: Callable[[Array], Array], state: Array, dt: float | Array, num_substeps: int) -> Array:
    """State after `dt` by the classic Runge-Kutta method of fourth order (Kutta 1901).

    The error at a fixed time is of fourth order in the length of a substep.

    Args:
        derivative: ``x' = derivative(x)``, ``[n]`` to ``[n]``; external forces are constant during the interval.
        state: ``[n]``.
        dt: length of the interval (s).
        num_substeps: number of equal substeps. It should be small: the loop is unrolled, so that a step of an
            environment is one kernel.
    """
    h = dt / num_substeps
    for _ in range(num_substeps):
        k1 = derivative(state)
        k2 = derivative(state + 0.5 * h * k1)
        k3 = derivative(state + 0.5 * h * k2)
        k4 = derivative(state + h * k3)
        state = state + h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
    return state
