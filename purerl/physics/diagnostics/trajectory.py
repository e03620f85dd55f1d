"""Recorded trajectory, and the effects of small changes of its actions or states."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from purerl import struct
from purerl.math import float_leaves
from purerl.types import Array, Environment, Policy, PyTree

_NUM_COTANGENTS = 8


@struct.dataclass
class Trajectory:
    """Recorded episode, or the beginning of one.

    Attributes:
        states: ``[T]``, states before each step.
        actions: ``[T, ...]``.
        running: bool ``[T]``, whether the episode had not ended before that step; later steps do not count.
        key: randomness of the environment, so that the trajectory can be repeated.
    """

    states: PyTree
    actions: Array
    running: Array
    key: Array


def follow(env: Environment, policy: Policy, key: Array, length: int) -> Trajectory:
    """Trajectory of `length` steps from a start state, or until the episode ends."""
    reset_key, action_key, env_key = jax.random.split(key, 3)

    def step(loop: PyTree, index: Array) -> tuple[PyTree, tuple]:
        timestep, carry, running = loop
        action, carry, _ = policy.act(jax.random.fold_in(action_key, index), carry, timestep.obs)
        onward = env.step(jax.random.fold_in(env_key, index), timestep.state, action)
        # A step from a state that is done may give anything: keep the last time step.
        onward = _where(running, onward, timestep)
        return (onward, carry, running & ~onward.done), (timestep.state, action, running)

    start = (env.reset(reset_key), policy.carry, jnp.bool_(True))
    _, (states, actions, running) = lax.scan(step, start, jnp.arange(length))
    return Trajectory(states, actions, running, env_key)


def perturbed_return(env: Environment, trajectory: Trajectory, offset: Array, horizon: int | Array) -> Array:
    """Sum of rewards over the first steps, with `offset` added to every action.

    Differentiable in reverse mode, for which only states are stored. The horizon may be traced; steps beyond it are not
    computed, so they cannot affect a gradient.

    Args:
        env: the environment.
        trajectory: ``[T]``, trajectory whose first state and actions are used.
        offset: array with the shape of one action. The sum is not clipped.
        horizon: number of steps, at most T; fewer count if the episode ends.
    """
    start = jax.tree.map(lambda leaf: leaf[0], trajectory.states)

    def step(
        loop: tuple[PyTree, Array, Array], inputs: tuple[Array, Array]
    ) -> tuple[tuple[PyTree, Array, Array], None]:
        index, action = inputs

        def advance(loop: tuple[PyTree, Array, Array]) -> tuple[PyTree, Array, Array]:
            state, total, done = loop
            # After the end of the episode, step from the start again and drop the result: a step from a state that is
            # done may give NaN. Inputs are selected too, because the derivative of `where` for a dropped NaN is NaN.
            state, change = _where(done, (start, jnp.zeros_like(offset)), (state, offset))
            timestep = env.step(jax.random.fold_in(trajectory.key, index), state, action + change)
            onward = (timestep.state, total + timestep.reward, timestep.done)
            return _where(done, loop, onward)

        return lax.cond(index < horizon, advance, lambda loop: loop, loop), None

    inputs = (jnp.arange(trajectory.actions.shape[0]), trajectory.actions)
    loop = (start, jnp.float32(0.0), jnp.bool_(False))
    (_, total, _), _ = lax.scan(jax.checkpoint(step, prevent_cse=False), loop, inputs)
    return total


def jacobian_growth(env: Environment, trajectory: Trajectory, key: Array, horizons: Array) -> Array:
    """Growth rate of a small change of the state along `trajectory` with fixed actions.

    ``1/h log |do_h / ds_0|``, where ``|.|`` is the root mean square over a few random directions of the observation.
    For a long horizon it is the largest Lyapunov exponent, and for a linear system the logarithm of the spectral
    radius. If it is positive, gradients explode, by a factor of about ``exp(rate)`` per step (Metz et al. 2021,
    "Gradients are not all you need", arXiv:2111.05803). Numbers of the state that no later observation depends on do
    not count. For a short horizon the rate also depends on the units of state and observation.

    Cotangents are propagated backwards step by step and normalised each time (Benettin et al. 1980). The direction is
    backwards as in training, so that changes an environment makes to gradients count.

    Args:
        env: the environment.
        trajectory: ``[T]``.
        key: randomness of the directions.
        horizons: whole numbers ``[k]`` from 1 to T.

    Returns:
        Rates ``[k]``; steps after the end of the episode do not count. ``-inf`` if the observation does not depend on
        any float of the state.
    """
    inputs = (trajectory.states, trajectory.actions, trajectory.running, jnp.arange(trajectory.running.size))
    start = jax.tree.map(lambda leaf: leaf[0], trajectory.states)
    seen, _ = float_leaves.split(jax.eval_shape(env.step, trajectory.key, start, trajectory.actions[0]).obs)
    keys = jax.random.split(key, len(seen))
    drawn = [jax.random.normal(k, (_NUM_COTANGENTS, *f.shape), f.dtype) for k, f in zip(keys, seen, strict=True)]
    drawn = _normalized(drawn)[0]
    nothing = [jnp.zeros((_NUM_COTANGENTS, *leaf.shape), leaf.dtype) for leaf in float_leaves.split(start)[0]]

    def rate(horizon: Array) -> Array:
        num_steps = jnp.sum(trajectory.running & (inputs[-1] < horizon))

        def back(loop: tuple[list[Array], Array], inputs: tuple) -> tuple[tuple[list[Array], Array], None]:
            cotangents, log_size = loop
            state, action, running, index = inputs

            here, rebuild = float_leaves.split(state)

            def advance(here: list[Array]) -> tuple[list[Array], list[Array]]:
                onward = env.step(jax.random.fold_in(trajectory.key, index), rebuild(here), action)
                return float_leaves.split(onward.state)[0], float_leaves.split(onward.obs)[0]

            _, pull = jax.vjp(advance, here)
            last = index == num_steps - 1
            (pulled,) = jax.vmap(pull)((cotangents, [jnp.where(last, d, 0.0) for d in drawn]))
            pulled, size = _normalized(pulled)
            counts = running & (index < horizon)
            return (_where(counts, pulled, cotangents), log_size + jnp.where(counts, jnp.log(size), 0.0)), None

        (_, log_size), _ = lax.scan(back, (nothing, jnp.float32(0.0)), inputs, reverse=True)
        return log_size / num_steps

    return jax.vmap(rate)(horizons)


def _normalized(arrays: list[Array]) -> tuple[list[Array], Array]:
    """Arrays scaled to a total norm of 1 (unchanged if all are 0), and the norm before."""
    size = jnp.sqrt(sum((jnp.sum(jnp.square(array)) for array in arrays), jnp.float32(0.0)))
    return [array / jnp.where(size > 0, size, 1.0) for array in arrays], size


def _where(condition: Array, yes: PyTree, no: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
