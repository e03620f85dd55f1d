"""Reverse-mode derivatives of MuJoCo MJX: implicit differentiation of its constraint solver, with unchanged values."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import types
from typing import Any

import jax
import jax.numpy as jnp

from purerl.errors import InputError
from purerl.types import Array, PyTree


@functools.cache
def pipeline() -> Any:
    """Brax's module ``brax.mjx.pipeline`` with `solve` in place of MJX's own solver.

    The result uses private copies of two modules, so other users of Brax or MJX in this process, also in other threads,
    are not affected.

    Raises:
        InputError: if the installed version of MJX is not compatible.
    """
    from brax.mjx import pipeline as brax_pipeline
    from mujoco import mjx
    from mujoco.mjx._src import forward, solver

    names = {solver: ("solve", "Context", "_update_gradient"), forward: ("solver", "forward", "step")}
    missing = [
        f"{module.__name__}.{name}" for module, need in names.items() for name in need if name not in vars(module)
    ]
    if missing:
        version = importlib.metadata.version("mujoco-mjx")
        raise InputError(
            f"cannot differentiate MJX {version}: it has no {', '.join(missing)}; "
            "use another backend, such as backend='spring', or a tested version of MJX (3.17.0)"
        )
    own = _copied(forward, solver=types.SimpleNamespace(solve=solve))
    return _copied(brax_pipeline, mjx=types.SimpleNamespace(**{**vars(mjx), "forward": own.forward, "step": own.step}))


def solve(model: Any, data: Any) -> Any:
    """MJX's ``solve`` with a derivative in reverse mode.

    The solver minimises a convex cost over accelerations ``a``. At the minimum ``F(a, x) = 0``, where ``F`` is the
    gradient of that cost and ``x`` is everything it depends on. So ``da = -H^-1 dF(a, x)`` with the Hessian ``H``
    (implicit function theorem; Blondel et al. 2022, arXiv:2105.15183). One linear solve replaces the derivative of each
    iteration and of each step of its line search. The initial guess has no influence on the minimum, and none on this
    derivative.

    With a single iteration the solver does not converge and does not loop: then MJX's own derivative is used.

    Args:
        model: MJX's ``Model``.
        data: MJX's ``Data`` with all forces except those of constraints.

    Returns:
        `data` with accelerations and constraint forces; their values are those of MJX.
    """
    from mujoco.mjx._src import solver
    from mujoco.mjx._src.types import SolverType

    if model.opt.iterations == 1:
        return solver.solve(model, data)
    fixed_model, fixed_data = jax.lax.stop_gradient((model, data))
    solved: Any = solver.solve(fixed_model, fixed_data)

    # The Hessian is computed as in Newton's method, for any solver.
    newton = {"opt.solver": SolverType.NEWTON}
    model, fixed_model = model.tree_replace(newton), fixed_model.tree_replace(newton)
    here = solver.Context.create(model, data.replace(qacc=solved.qacc), grad=False)
    gradient = here.Ma - data.qfrc_smooth - here.qfrc_constraint
    # MJX computes H^-1 (Ma - qfrc_smooth - qfrc_constraint): set the sum to `gradient`.
    nothing = jnp.zeros_like(gradient)
    fixed = jax.lax.stop_gradient(here).replace(Ma=gradient, qfrc_constraint=nothing)
    change = solver._update_gradient(fixed_model, fixed_data.replace(qfrc_smooth=nothing), fixed).Mgrad

    data = data.replace(qacc=_with_derivative_of(solved.qacc, solved.qacc - change))
    here = solver.Context.create(model, data, grad=False)
    return data.tree_replace(
        {
            "qfrc_constraint": _with_derivative_of(solved.qfrc_constraint, here.qfrc_constraint),
            "_impl.efc_force": _with_derivative_of(solved._impl.efc_force, here.efc_force),
        }
    )


@jax.custom_jvp
def _with_derivative_of(value: Array, other: Array) -> Array:
    return value


@_with_derivative_of.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return primals[0], tangents[1]


def _copied(module: types.ModuleType, **names: PyTree) -> types.ModuleType:
    """Second instance of a module with some global names replaced."""
    spec = importlib.util.find_spec(module.__name__)
    assert spec is not None
    assert spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    vars(copy).update(names)
    return copy
