"""Iterative LQR (Li & Todorov 2004, "Iterative linear quadratic regulator design for nonlinear biological movement
systems"): solve a linear-quadratic model of the problem around a plan, replace the plan by the solution, repeat.

Line search and regularisation are those of Tassa et al. 2012 ("Synthesis and stabilization of complex behaviors through
online trajectory optimization"), whose equations are cited as T. The cost is ``l = -reward``. The notation is that of
the paper: state ``x [n]``, all floating-point numbers in the environment's state; action ``u [m]``; derivatives as
subscripts.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from purerl import struct
from purerl.environments.gradient_gate import check_differentiable
from purerl.errors import InputError
from purerl.math import float_leaves
from purerl.physics.control.model import (
    Plan,
    Trajectory,
    continuous_actions,
    inner_bounds,
    simulate,
    starting_actions,
    within_bounds,
)
from purerl.spaces import Box
from purerl.types import Array, Environment, PyTree

# Regularisation is 0, the least value, 10 times that and so on while a plan cannot be improved, and decreases likewise.
# The most is that of the code of Tassa et al.; an infinite value could not decrease again.
_LEAST_REGULARIZATION, _MOST_REGULARIZATION, _REGULARIZATION_FACTOR = 1e-4, 1e10, 10.0


@struct.dataclass
class Feedback:
    """Linear feedback around a plan: ``u_t + gain_t (x - x_t)``.

    Attributes:
        state: ``[horizon, n]``, floating-point numbers of the planned states.
        gain: ``[horizon, m, n]``; 0 in entries of actions at a bound.
    """

    state: Array
    gain: Array


@struct.dataclass
class ILQR:
    """Iterative LQR planner, for smooth dynamics and rewards with second derivatives; a few iterations are enough.

    It is exact for linear dynamics with a quadratic reward, in one iteration from any plan. Other problems need three
    changes. The second derivative of the reward is made negative semi-definite, so that every model has a best plan.
    Actions are clipped to their bounds in the forward pass; in the backward pass, entries at a bound whose cost would
    decrease beyond it are held there (the active set of Tassa et al. 2014, "Control-limited differential dynamic
    programming", found in one step). A plan is only replaced by one with more reward.

    Integers and booleans in the state (counters, flags) keep the values of the planned trajectory. Derivatives are
    taken with respect to all floating-point numbers, including those that are derived from others or never change.
    These do not change the plan of a linear-quadratic problem, but the work grows with the cube of their number: use
    `MPPI` for a simulator whose state has hundreds of numbers, such as Brax.
    """

    horizon: int = struct.field(default=30, static=True, help="planning horizon in steps", within="[1, inf)")
    num_iterations: int = struct.field(default=5, static=True, help="iLQR iterations per plan", within="[1, inf)")
    num_step_sizes: int = struct.field(
        default=8, static=True, help="step sizes of the line search: 1, 1/2, 1/4, ...", within="[1, inf)"
    )

    def __post_init__(self) -> None:
        struct.check_fields(self)

    def plan(self, env: Environment, state: PyTree, key: Array, initial: Array | None = None) -> Plan:
        """Plan from `state` by improving an initial plan.

        Args:
            env: the model.
            state: start state of the plan.
            key: randomness of the model; the same for all iterations.
            initial: initial plan ``[horizon, *action_shape]``; neutral actions by default, and if its simulation fails.
        """
        check_differentiable(env)
        step_sizes = 0.5 ** jnp.arange(self.num_step_sizes, dtype=jnp.float32)

        def improve(carry: tuple[Trajectory, Array], _: None) -> tuple[tuple[Trajectory, Array], None]:
            nominal, regularization = carry
            feedforward, gain = _backward_pass(env, key, nominal, regularization)
            follow = partial(_forward_pass, env, key, nominal, feedforward, gain)
            tried = jax.vmap(follow)(step_sizes)
            rewards = jax.vmap(lambda trajectory: trajectory.total_reward)(tried)
            best = jnp.argmax(rewards)
            improved = rewards[best] > nominal.total_reward
            nominal = jax.tree.map(lambda a, b: jnp.where(improved, a[best], b), tried, nominal)
            return (nominal, jnp.where(improved, _lower(regularization), _higher(regularization))), None

        starts = jnp.stack([starting_actions(env, self.horizon, actions) for actions in (initial, None)])
        both = jax.vmap(partial(self._follow, env, state, key))(starts)
        intact = jax.vmap(lambda trajectory: jnp.isfinite(trajectory.total_reward))(both)
        nominal = jax.tree.map(lambda leaf: jnp.where(~intact[0] & intact[1], leaf[1], leaf[0]), both)
        (nominal, _), _ = lax.scan(improve, (nominal, jnp.float32(0.0)), length=self.num_iterations)
        return Plan(nominal.action, nominal.total_reward)

    def feedback(self, env: Environment, state: PyTree, key: Array, actions: Array) -> Feedback:
        """Feedback gains around a plan, optimal if the plan is optimal.

        Args:
            env: the model.
            state: start state of the plan.
            key: as in `plan`.
            actions: the plan ``[horizon, *action_shape]``.
        """
        check_differentiable(env)
        nominal = self._follow(env, state, key, actions)
        _, gain = _backward_pass(env, key, nominal, jnp.float32(0.0))
        return Feedback(jax.vmap(lambda state: float_leaves.ravel(state)[0])(nominal.state), gain)

    def _follow(self, env: Environment, state: PyTree, key: Array, actions: Array) -> Trajectory:
        return simulate(env, state, key, starting_actions(env, self.horizon, actions), lambda action, _: action)


@struct.dataclass
class _Model:
    """Linear-quadratic model of one step; zero after the end of the episode.

    Attributes:
        f: ``[n, n + m]``, derivative of the next state with respect to state and action.
        l: ``[n + m]``, gradient of the cost.
        ll: ``[n + m, n + m]``, second derivative of the cost, made positive semi-definite.
    """

    f: Array
    l: Array  # noqa: E741
    ll: Array


def _expand(env: Environment, key: Array, state: PyTree, action: Array) -> _Model:
    """Linear-quadratic model at one step, by one forward-mode derivative of the gradient."""
    x, rebuild = float_leaves.ravel(state)
    if not x.size:
        raise InputError("iLQR needs floating-point numbers in the state of the environment, and this one has none")

    def cost(xu: Array) -> tuple[Array, Array]:
        timestep = env.step(key, rebuild(xu[: x.size]), xu[x.size :].reshape(action.shape))
        return -timestep.reward, float_leaves.ravel(timestep.state)[0]

    def slopes(xu: Array) -> tuple[tuple[Array, Array], Array]:
        gradient, next_x = jax.grad(cost, has_aux=True)(xu)
        return (gradient, next_x), gradient

    xu = jnp.concatenate([x, action.reshape(-1)])
    (hessian, f), gradient = jax.jacfwd(slopes, has_aux=True)(xu)
    hessian = 0.5 * (hessian + hessian.T)
    eigenvalues, vectors = jnp.linalg.eigh(hessian)
    # Raise negative eigenvalues to zero, as a correction: a matrix that is semi-definite already keeps every digit.
    return _Model(f, gradient, hessian + (vectors * jnp.maximum(-eigenvalues, 0.0)[None, :]) @ vectors.T)


def _backward_pass(env: Environment, key: Array, nominal: Trajectory, regularization: Array) -> tuple[Array, Array]:
    """Riccati recursion through the models of all steps.

    Args:
        env: the model.
        key: as in `simulate`.
        nominal: ``[horizon]``, trajectory around which the models are expanded.
        regularization: ``mu``, the multiple of the identity that is added to ``Q_uu``.

    Returns:
        Feedforward term ``k [horizon, m]`` and gain ``K [horizon, m, n]``: ``du = alpha k + K dx``. NaN if ``Q_uu`` is
        not positive definite.
    """
    space = continuous_actions(env)

    def backward(value: tuple[Array, Array], step: tuple) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        v, vv = value
        model, action, ongoing = step
        # (T 4): model of the cost-to-go, without second derivatives of the dynamics.
        q = model.l + model.f.T @ v
        qq = model.ll + model.f.T @ vv @ model.f
        n = v.size
        q_x, q_u = q[:n], q[n:]
        q_xx, q_ux, q_uu = qq[:n, :n], qq[n:, :n], qq[n:, n:]
        free = ~_held(space, action.reshape(-1), q_u)
        identity = jnp.eye(q_u.size, dtype=q_u.dtype)
        # The row and column of a held entry are those of the identity: du = 0.
        factor = jax.scipy.linalg.cho_factor(
            jnp.where(free[:, None] & free[None, :], q_uu + regularization * identity, identity)
        )
        k = -jax.scipy.linalg.cho_solve(factor, jnp.where(free, q_u, 0.0))
        gain = -jax.scipy.linalg.cho_solve(factor, jnp.where(free[:, None], q_ux, 0.0))
        # (T 11): value of these k and K, even if regularisation or bounds keep them from the minimum of Q.
        v = q_x + gain.T @ (q_uu @ k + q_u) + q_ux.T @ k
        vv = q_xx + gain.T @ q_uu @ gain + gain.T @ q_ux + q_ux.T @ gain
        computed = (v, 0.5 * (vv + vv.T)), (k, gain)
        # After the end of the episode the value is 0 and no action changes.
        return jax.tree.map(lambda leaf: jnp.where(ongoing, leaf, 0.0), computed)

    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.arange(nominal.reward.shape[0]))
    # Full precision also on accelerators, which use less by default: errors add up backwards in time.
    with jax.default_matmul_precision("highest"):
        models = jax.vmap(partial(_expand, env))(keys, nominal.state, nominal.action)
        n = models.f.shape[1]
        zero = jnp.zeros(n, models.l.dtype), jnp.zeros((n, n), models.l.dtype)
        _, gains = lax.scan(backward, zero, (models, nominal.action, nominal.ongoing), reverse=True)
    return gains


def _forward_pass(
    env: Environment, key: Array, nominal: Trajectory, feedforward: Array, gain: Array, step_size: Array
) -> Trajectory:
    """Trajectory of the plan changed by the result of the backward pass (T 12), within the bounds."""
    space = continuous_actions(env)

    def act(planned: tuple[PyTree, Array, Array, Array], state: PyTree) -> Array:
        planned_state, action, k, gain = planned
        deviation = float_leaves.ravel(state)[0] - float_leaves.ravel(planned_state)[0]
        # Infinities that a simulator stores on purpose have no deviation.
        deviation = jnp.where(jnp.isfinite(deviation), deviation, 0.0)
        change = step_size * k + jnp.dot(gain, deviation, precision=lax.Precision.HIGHEST)
        return within_bounds(space, action + change.reshape(action.shape))

    start = jax.tree.map(lambda leaf: leaf[0], nominal.state)
    return simulate(env, start, key, (nominal.state, nominal.action, feedforward, gain), act)


def _held(space: Box, action: Array, q_u: Array) -> Array:
    """Active bounds ``[m]``, bool: entries of an action at a bound beyond which the cost would decrease."""
    low, high = (bound.reshape(-1) for bound in inner_bounds(space))
    return ((action <= low) & (q_u > 0.0)) | ((action >= high) & (q_u < 0.0))


def _lower(regularization: Array) -> Array:
    smaller = regularization / _REGULARIZATION_FACTOR
    return jnp.where(smaller < _LEAST_REGULARIZATION, 0.0, smaller)


def _higher(regularization: Array) -> Array:
    return jnp.clip(regularization * _REGULARIZATION_FACTOR, _LEAST_REGULARIZATION, _MOST_REGULARIZATION)
