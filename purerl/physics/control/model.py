"""Plans, the planner interface, simulation of a plan, and bounds of actions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from purerl import struct
from purerl.errors import InputError
from purerl.math import float_leaves
from purerl.spaces import Box
from purerl.types import Array, Environment, PyTree

# Distance of plans from the bounds, as a fraction of the width. Environments clip actions, and at a bound the
# derivative of clipping is halved (`jnp.clip`) or 0 (`lax.clamp`): a plan at the bound might never leave it.
_MARGIN = 1e-5


@struct.dataclass
class Plan:
    """Sequence of actions and its predicted return.

    Attributes:
        actions: ``[horizon, *action_shape]`` in the environment's own units.
        total_reward: float32, predicted by the planner's model: the undiscounted sum of rewards until the plan or the
            episode ends; -inf if the simulation fails.
    """

    actions: Array
    total_reward: Array


@runtime_checkable
class Planner(Protocol):
    """Planning algorithm as a frozen pytree: numbers are leaves, the horizon and counts are static."""

    @property
    def horizon(self) -> int:
        """Planning horizon in steps."""
        ...

    def plan(self, env: Environment, state: PyTree, key: Array, initial: Array | None = None) -> Plan:
        """Plan from `state` by improving the actions `initial`, or `neutral_actions`."""
        ...


@struct.dataclass
class Trajectory:
    """Simulated trajectory of a plan; every leaf is ``[horizon, ...]``.

    Attributes:
        state: state before the action.
        action: action taken.
        reward: float32, 0 after the end of the episode, -inf where the simulation fails.
        ongoing: bool, whether neither the episode had ended nor the simulation had failed before this step.
    """

    state: PyTree
    action: Array
    reward: Array
    ongoing: Array

    @property
    def total_reward(self) -> Array:
        """Undiscounted sum of rewards; -inf if the simulation fails."""
        total = jnp.sum(self.reward)
        return jnp.where(jnp.isfinite(total), total, -jnp.inf)


def simulate(
    env: Environment, state: PyTree, key: Array, inputs: PyTree, act: Callable[[Any, PyTree], Array]
) -> Trajectory:
    """Trajectory with one step per entry of `inputs`, without a reset.

    The simulation fails if the reward is not finite, or if a finite number of the state becomes infinite or NaN.

    Args:
        env: the model.
        state: start state; not done.
        key: randomness of the dynamics. With the same key plans can be compared.
        inputs: ``[horizon, ...]`` in every leaf.
        act: ``act(input, state) -> action`` for one step.
    """

    def step(current: tuple[PyTree, Array], scanned: tuple[Array, Any]) -> tuple[tuple[PyTree, Array], Trajectory]:
        here, over = current
        index, given = scanned
        action = act(given, here)
        timestep = env.step(jax.random.fold_in(key, index), here, action)
        intact = jnp.isfinite(timestep.reward) & float_leaves.stay_finite(here, timestep.state)
        reward = jnp.where(intact, timestep.reward, -jnp.inf)
        visited = Trajectory(here, action, jnp.where(over, 0.0, reward), ~over)
        over = over | timestep.done | ~intact
        # After the end of the episode, step from `state` again and do not count the reward: a step from a state that is
        # done may give NaN, and its gradient is NaN even if `where` drops the value.
        onward = jax.tree.map(lambda a, b: jnp.where(over, a, b), state, timestep.state)
        return (onward, over), visited

    horizon = jax.tree.leaves(inputs)[0].shape[0]
    return lax.scan(step, (state, jnp.bool_(False)), (jnp.arange(horizon), inputs))[1]


def total_reward(env: Environment, state: PyTree, key: Array, actions: Array) -> Array:
    """Total reward of the plan `actions`: float32, differentiable in all arguments (which are those of `simulate`)."""
    return simulate(env, state, key, actions, lambda action, _: action).total_reward


def continuous_actions(env: Environment) -> Box:
    """Action space of `env`, which must be continuous.

    Raises:
        InputError: if it is not a `Box` of floating-point numbers.
    """
    space = env.action_space
    if not isinstance(space, Box) or not np.issubdtype(space.dtype, np.floating):
        raise InputError(f"planning needs continuous actions, got {space}")
    return space


def neutral_actions(env: Environment, horizon: int) -> Array:
    """Plan ``[horizon, *action_shape]`` in the middle of the bounds; without two bounds, the value nearest to 0."""
    space = continuous_actions(env)
    low, high = space.bounds
    bounded = np.isfinite(low) & np.isfinite(high)
    middle = np.where(bounded, 0.5 * (np.where(bounded, low, 0.0) + np.where(bounded, high, 0.0)), 0.0)
    return jnp.broadcast_to(jnp.asarray(np.clip(middle, low, high), space.dtype), (horizon, *space.shape))


def starting_actions(env: Environment, horizon: int, initial: Array | None) -> Array:
    """Initial plan ``[horizon, *action_shape]``: `initial` within the bounds, or `neutral_actions`.

    Entries of `initial` that are not finite are replaced by neutral ones.

    Raises:
        InputError: if `initial` has another shape.
    """
    neutral = neutral_actions(env, horizon)
    if initial is None:
        return neutral
    space = continuous_actions(env)
    if jnp.shape(initial) != (horizon, *space.shape):
        raise InputError(f"an initial plan must have shape {(horizon, *space.shape)}, got {jnp.shape(initial)}")
    initial = jnp.asarray(initial, space.dtype)
    return jax.vmap(partial(within_bounds, space))(jnp.where(jnp.isfinite(initial), initial, neutral))


def within_bounds(space: Box, action: Array) -> Array:
    """Action clipped to slightly inside its bounds (see `inner_bounds`)."""
    return jnp.clip(action, *inner_bounds(space))


def inner_bounds(space: Box) -> tuple[np.ndarray, np.ndarray]:
    """Bounds ``(low, high)`` of plans: those of `space`, narrowed by 1e-5 of their width."""
    low, high = space.bounds
    margin = _MARGIN * 2.0 * half_width(space)
    return (low + margin).astype(space.dtype), (high - margin).astype(space.dtype)


def half_width(space: Box) -> np.ndarray:
    """Unit in which planners change actions: half the distance of the bounds; 1 without two bounds."""
    low, high = space.bounds
    bounded = np.isfinite(low) & np.isfinite(high)
    width = np.where(bounded, high, 1.0) - np.where(bounded, low, -1.0)
    return (0.5 * width).astype(space.dtype)
