"""MuJoCo MJX for reverse mode: the same steps, with the derivative of what its constraint solver converges to."""

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
    """Brax's module ``brax.mjx.pipeline``, stepping MJX with `solve` in place of MJX's own solver.

    These are private copies of two modules: whoever else uses Brax or MJX in this process keeps theirs, whatever is
    traced in other threads meanwhile.

    Raises:
        InputError: the installed MJX is built otherwise.
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
            "take another backend, such as backend='spring', or an MJX that has been tried (3.17.0)"
        )
    own = _copied(forward, solver=types.SimpleNamespace(solve=solve))
    return _copied(brax_pipeline, mjx=types.SimpleNamespace(**{**vars(mjx), "forward": own.forward, "step": own.step}))


def solve(model: Any, data: Any) -> Any:
    """MJX's ``solve``, with a derivative in reverse mode too.

    The solver minimises a convex cost over accelerations; where it ends, ``F(a, x) = 0`` with the gradient ``F`` of
    that cost and everything it depends on in ``x``. So ``da = -H^-1 dF(a, x)`` with the Hessian ``H`` (the implicit
    function theorem; Blondel et al. 2022, arXiv:2105.15183). One linear solve replaces the derivative of each
    iteration and of each step of its line search. A start for the iterations has no influence on what they converge
    to, and none on this.

    A single iteration is not enough to converge, and is no loop: there MJX's own derivative is the right one.

    Args:
        model: MJX's ``Model``.
        data: MJX's ``Data``, all forces but those of constraints known.

    Returns:
        `data` with accelerations and forces of constraints, with the values that MJX gives them.
    """
    from mujoco.mjx._src import solver
    from mujoco.mjx._src.types import SolverType

    if model.opt.iterations == 1:
        return solver.solve(model, data)
    fixed_model, fixed_data = jax.lax.stop_gradient((model, data))
    solved: Any = solver.solve(fixed_model, fixed_data)

    # The Hessian is that of Newton's method, whichever method has been used.
    newton = {"opt.solver": SolverType.NEWTON}
    model, fixed_model = model.tree_replace(newton), fixed_model.tree_replace(newton)
    here = solver.Context.create(model, data.replace(qacc=solved.qacc), grad=False)
    gradient = here.Ma - data.qfrc_smooth - here.qfrc_constraint
    # MJX divides by its Hessian what it puts together from these three.
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
    """A second instance of a module in which some global names mean something else."""
    spec = importlib.util.find_spec(module.__name__)
    assert spec is not None
    assert spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    vars(copy).update(names)
    return copy
