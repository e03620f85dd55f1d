"""Linear system with quadratic costs, and its exact optimal control by the Riccati equation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from purerl import struct
from purerl.environments.smooth import common
from purerl.errors import InputError
from purerl.spaces import Box
from purerl.types import Array, TimeStep


@struct.dataclass
class LinearQuadratic:
    """Linear-quadratic regulator in discrete time; by default a double integrator with a time step of 0.1 s::

        x_{t+1} = A x_t + B u_t
        reward  = -(x_t' Q x_t + u_t' R u_t)

    The reward is a function of the state *before* the step, so the least cost of an episode is ``x_0' P x_0`` (see
    `value_matrix`). The start state ``x_0`` is normally distributed.

    State and observation: ``x [n]``. Action: ``u [m]``, not clipped; its bounds are for agents that need bounds.

    Attributes:
        A: ``[n, n]``.
        B: ``[n, m]``.
        Q: ``[n, n]``, positive semi-definite.
        R: ``[m, m]``, positive definite.
        max_action: bound of each entry of the action.
    """

    A: Array | np.ndarray = struct.field(default=((1.0, 0.1), (0.0, 1.0)), help="state matrix")
    B: Array | np.ndarray = struct.field(default=((0.005,), (0.1,)), help="input matrix")
    Q: Array | np.ndarray = struct.field(default=((1.0, 0.0), (0.0, 0.1)), help="cost matrix of the state")
    R: Array | np.ndarray = struct.field(default=((0.1,),), help="cost matrix of the action")
    max_action: float = struct.field(default=10.0, static=True, within="(0, inf)", help="bound of the action")

    def __post_init__(self) -> None:
        for name in "ABQR":
            struct.check_value(name, getattr(self, name), float, "(-inf, inf)")
        common.set_parameters(self)
        _check(self)

    @property
    def observation_space(self) -> Box:
        """State vectors, unbounded."""
        return Box((self.B.shape[-2],))

    @property
    def action_space(self) -> Box:
        """Vectors with one entry per column of B."""
        return Box((self.B.shape[-1],), -self.max_action, self.max_action)

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state."""
        state = jax.random.normal(key, self.observation_space.shape)
        return common.start(state, state)

    def step(self, key: Array, state: Array, action: Array) -> TimeStep:
        """Advance `state` by one action; deterministic."""
        del key
        action = jnp.asarray(action)
        reward = -(state @ self.Q @ state + action @ self.R @ action)
        state = jnp.asarray(self.A) @ state + jnp.asarray(self.B) @ action
        return common.onward(state, state, reward)


def value_matrix(env: LinearQuadratic, gamma: float | Array, horizon: int) -> Array:
    """Matrix P ``[n, n]`` of the least discounted cost ``x' P x`` over `horizon` steps from x.

    It solves the discrete-time Riccati difference equation with discount (Bertsekas 2017, "Dynamic Programming and
    Optimal Control" vol. 1, section 3.1)::

        P_0     = 0
        P_{k+1} = Q + gamma A' P_k (A - B K_k)        K_k: see `gain`

    A long horizon approximates the infinite-horizon task. Differentiable in `env` and `gamma`.
    """

    def longer(value: Array, _: None) -> tuple[Array, None]:
        return cost + gamma * env.A.T @ value @ (env.A - env.B @ gain(env, value, gamma)), None

    cost = jnp.asarray(env.Q)
    return lax.scan(longer, jnp.zeros_like(cost), None, horizon)[0]


def gain(env: LinearQuadratic, value: Array, gamma: float | Array) -> Array:
    """Matrix K ``[m, n]`` of the optimal action ``u = -K x`` if the cost of the next state x is ``gamma x' P x``::

        K = (R + gamma B' P B)^-1 gamma B' P A

    Args:
        env: the system.
        value: P ``[n, n]``. With `horizon` steps to go, ``value_matrix(env, gamma, horizon - 1)``.
        gamma: discount.
    """
    cost = env.R + gamma * env.B.T @ value @ env.B
    return jnp.linalg.solve(cost, gamma * env.B.T @ value @ env.A)


def _check(env: LinearQuadratic) -> None:
    """Raise `InputError` unless the matrices fit together and the costs have a minimum."""
    num_states, num_actions = env.B.shape[-2:] if env.B.ndim >= 2 else (0, 0)
    sizes = {"A": (num_states,) * 2, "B": (num_states, num_actions), "Q": (num_states,) * 2, "R": (num_actions,) * 2}
    for name, size in sizes.items():
        shape = getattr(env, name).shape
        if shape[-2:] != size or 0 in size:
            raise InputError(
                f"A, B, Q, R must have the shapes [n, n], [n, m], [n, n], [m, m]; {name} has {list(shape)}"
            )
    for name, matrix, kind in (("Q", env.Q, "semi-definite"), ("R", env.R, "definite")):
        if not isinstance(matrix, Tracer):
            matrix = np.asarray(matrix, np.float64)
            least = np.linalg.eigvalsh(matrix).min()
            # Zero up to the rounding of float32.
            zero = 1e-6 * np.abs(matrix).max()
            if not np.allclose(matrix, np.swapaxes(matrix, -1, -2)) or (
                least < -zero if name == "Q" else least <= zero
            ):
                raise InputError(f"{name} must be symmetric and positive {kind}, got {matrix.tolist()}")
