"""Recordings of trajectories, and simulation of the same trajectories."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from purerl import struct
from purerl.errors import InputError
from purerl.spaces import Box
from purerl.types import Array, Environment, Policy, PyTree


@struct.dataclass
class Recording:
    """Recorded trajectories of equal length, without the end of an episode.

    Attributes:
        actions: ``[num_trajectories, T, ...]``.
        observations: ``[num_trajectories, T + 1, ...]``, measured before the first and after each action.
        states: states of the simulator, ``[num_trajectories, T + 1, ...]`` in every leaf, or None if unknown.
    """

    actions: Array
    observations: Array
    states: PyTree = None


def record(env: Environment, policy: Policy, key: Array, *, num_trajectories: int, length: int) -> Recording:
    """Record trajectories of `policy` in `env`, without measurement noise.

    Args:
        env: the environment, in place of the real system.
        policy: policy that acts. Only motions that it excites can be identified; see `random_actions`.
        key: randomness of starts and actions.
        num_trajectories: number of trajectories, each from its own reset.
        length: number of steps of each trajectory.

    Raises:
        InputError: if an episode ends earlier than that.
    """
    struct.check_value("num_trajectories", num_trajectories, int, "[1, inf)")
    struct.check_value("length", length, int, "[1, inf)")
    data, done = _record(env, policy, jax.random.split(key, num_trajectories), length)
    early = np.argwhere(np.asarray(done)[:, :-1])
    if early.size:
        trajectory, step = early[0]
        raise InputError(
            f"the episode of trajectory {trajectory} ended after {step + 1} of {length} steps: "
            "record shorter trajectories, or act more gently"
        )
    return data


def random_actions(env: Environment, hold: int = 1) -> Policy:
    """Policy with random actions, each kept for `hold` steps.

    A mechanical system averages out actions that change at every step; actions that are held excite slow motions too.
    """
    struct.check_value("hold", hold, int, "[1, inf)")
    space = env.action_space
    return Policy(Partial(_hold, env, jnp.int32(hold)), carry=(jnp.zeros(space.shape, space.dtype), jnp.int32(0)))


@jax.jit
def simulate(env: Environment, states: PyTree, actions: Array) -> Array:
    """Observations ``[num_trajectories, T, ...]`` after each action.

    Args:
        env: the environment, deterministic.
        states: ``[num_trajectories, ...]`` start states.
        actions: ``[num_trajectories, T, ...]``.
    """
    return jax.vmap(lambda state, actions: shoot(env, state, actions)[1])(states, actions)


def shoot(env: Environment, state: PyTree, actions: Array) -> tuple[PyTree, Array]:
    """Final state after `actions`, and the observation after each action."""

    def step(state: PyTree, action: Array) -> tuple[PyTree, Array]:
        # The dynamics are deterministic, but `step` takes a key.
        timestep = env.step(jax.random.key(0), state, action)
        return timestep.state, timestep.obs

    return lax.scan(step, state, actions)


def check_recording(env: Environment, data: Recording, free_states: bool) -> None:
    """Raise `InputError` unless the arrays fit the environment and each other."""
    actions, observations = np.shape(data.actions), np.shape(data.observations)
    space = env.observation_space
    if not isinstance(space, Box):
        raise InputError(f"parameters can be fitted to observations in a Box, not {space}")
    if actions[2:] != env.action_space.shape or len(actions) < 2 or 0 in actions[:2]:
        wanted = ", ".join(["num_trajectories", "T", *map(str, env.action_space.shape)])
        raise InputError(f"actions must have shape [{wanted}], got {actions}")
    if observations != (actions[0], actions[1] + 1, *space.shape):
        raise InputError(
            f"observations must have shape {(actions[0], actions[1] + 1, *space.shape)}, got {observations}"
        )
    for name, array in (("actions", data.actions), ("observations", data.observations)):
        if not np.all(np.isfinite(np.asarray(array, np.float64))):
            raise InputError(f"{name} must be finite")
    if data.states is None:
        if not free_states:
            raise InputError("free_states=False needs a recording with states")
        return
    state = jax.eval_shape(lambda: env.reset(jax.random.key(0)).state)
    if jax.tree.structure(state) != jax.tree.structure(data.states) or any(
        np.shape(leaf) != (*observations[:2], *like.shape)
        for leaf, like in zip(jax.tree.leaves(data.states), jax.tree.leaves(state), strict=True)
    ):
        raise InputError("the states of the recording are not those of the environment: record with the same wrappers")


def _hold(env: Environment, hold: Array, key: Array, carry: PyTree, obs: Array) -> tuple[Array, PyTree, dict]:
    action, age = carry
    action = jnp.where(age % hold == 0, env.action_space.sample(key), action)
    return action, (action, age + 1), {}


@partial(jax.jit, static_argnames="length")
def _record(env: Environment, policy: Policy, keys: Array, length: int) -> tuple[Recording, Array]:
    """Recorded trajectories, and whether the episode had ended ``[num_trajectories, length]``."""

    def one(key: Array) -> tuple[Recording, Array]:
        reset_key, step_key = jax.random.split(key)
        first = env.reset(reset_key)

        def step(loop: tuple, index: Array) -> tuple[tuple, tuple]:
            timestep, carry = loop
            action_key, env_key = jax.random.split(jax.random.fold_in(step_key, index))
            action, carry, _ = policy.act(action_key, carry, timestep.obs)
            timestep = env.step(env_key, timestep.state, action)
            return (timestep, carry), (action, timestep.obs, timestep.state, timestep.done)

        _, (actions, observations, states, done) = lax.scan(step, (first, policy.carry), jnp.arange(length))
        observations, states = jax.tree.map(
            lambda start, rest: jnp.concatenate([start[None], rest]), (first.obs, first.state), (observations, states)
        )
        return Recording(actions, observations, states), done

    return jax.vmap(one)(keys)
