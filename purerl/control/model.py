"""What planners have in common: plans, what a plan would bring, and what a plan may contain."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from purerl import floats, struct
from purerl.errors import InputError
from purerl.spaces import Box
from purerl.types import Array, Environment, PyTree

# Plans keep so much of the width of the bounds away from them. Environments clip actions themselves, and at the bound
# the derivative of that is halved (`jnp.clip`) or 0 (`lax.clamp`): a plan that lies there might never leave it again.
_MARGIN = 1e-5


@struct.dataclass
class Plan:
    """A sequence of actions.

    Attributes:
        actions: ``[horizon, *action_shape]`` in the environment's own units.
        total_reward: float32, what the planner's model says they bring: the undiscounted sum of rewards until the plan
            or the episode ends; -inf if the simulation breaks down.
    """

    actions: Array
    total_reward: Array


class Planner(Protocol):
    """A way to find a good plan, as a frozen pytree: numbers are leaves, the horizon and counts are static."""

    @property
    def horizon(self) -> int:
        """Steps that it looks ahead."""
        ...

    def plan(self, env: Environment, state: PyTree, key: Array, initial: Array | None = None) -> Plan:
        """Plan from `state`, starting from the actions `initial` or from `neutral_actions`."""
        ...


@struct.dataclass
class Trajectory:
    """Where a plan leads, step by step; every leaf is ``[horizon, ...]``.

    Attributes:
        state: before the action.
        action: taken there.
        reward: float32, 0 from the end of the episode on, -inf where the simulation breaks down.
        ongoing: bool, whether the episode had not ended before this step, nor the simulation broken down.
    """

    state: PyTree
    action: Array
    reward: Array
    ongoing: Array

    @property
    def total_reward(self) -> Array:
        """The undiscounted sum; -inf if the simulation breaks down."""
        total = jnp.sum(self.reward)
        return jnp.where(jnp.isfinite(total), total, -jnp.inf)


def simulate(
    env: Environment, state: PyTree, key: Array, inputs: PyTree, act: Callable[[Any, PyTree], Array]
) -> Trajectory:
    """Act for as many steps as `inputs` has, without beginning a new episode.

    The simulation breaks down where the reward is not finite, or a number of the state that was finite no longer is.

    Args:
        env: the model.
        state: where to start; not done.
        key: randomness of the dynamics. The same key gives plans the same luck, so that they can be compared.
        inputs: ``[horizon, ...]`` in every leaf.
        act: ``act(input, state) -> action`` for one step.
    """

    def step(current: tuple[PyTree, Array], scanned: tuple[Array, Any]) -> tuple[tuple[PyTree, Array], Trajectory]:
        here, over = current
        index, given = scanned
        action = act(given, here)
        timestep = env.step(jax.random.fold_in(key, index), here, action)
        intact = jnp.isfinite(timestep.reward) & floats.stay_finite(here, timestep.state)
        reward = jnp.where(intact, timestep.reward, -jnp.inf)
        visited = Trajectory(here, action, jnp.where(over, 0.0, reward), ~over)
        over = over | timestep.done | ~intact
        # After the end, step from the start again and do not count it: stepping a state that is done may give NaN,
        # whose gradient passes through a selection that drops it.
        onward = jax.tree.map(lambda a, b: jnp.where(over, a, b), state, timestep.state)
        return (onward, over), visited

    horizon = jax.tree.leaves(inputs)[0].shape[0]
    return lax.scan(step, (state, jnp.bool_(False)), (jnp.arange(horizon), inputs))[1]


def total_reward(env: Environment, state: PyTree, key: Array, actions: Array) -> Array:
    """What the plan `actions` brings: float32, differentiable in everything (see `simulate` for the arguments)."""
    return simulate(env, state, key, actions, lambda action, _: action).total_reward


def continuous_actions(env: Environment) -> Box:
    """The action space of `env`.

    Raises:
        InputError: if it is not a `Box` of floating-point numbers.
    """
    space = env.action_space
    if not isinstance(space, Box) or not np.issubdtype(space.dtype, np.floating):
        raise InputError(f"planning needs continuous actions, got {space}")
    return space


def neutral_actions(env: Environment, horizon: int) -> Array:
    """``[horizon, *action_shape]`` of the middle between the bounds; where there are not two, the allowed value
    nearest to 0."""
    space = continuous_actions(env)
    low, high = space.bounds
    bounded = np.isfinite(low) & np.isfinite(high)
    middle = np.where(bounded, 0.5 * (np.where(bounded, low, 0.0) + np.where(bounded, high, 0.0)), 0.0)
    return jnp.broadcast_to(jnp.asarray(np.clip(middle, low, high), space.dtype), (horizon, *space.shape))


def starting_actions(env: Environment, horizon: int, initial: Array | None) -> Array:
    """The plan ``[horizon, *action_shape]`` to start from: `initial` within the bounds, or `neutral_actions`, which
    also stand in for actions that are not finite.

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
    """One action clipped to a hair inside its bounds (see `inner_bounds`)."""
    return jnp.clip(action, *inner_bounds(space))


def inner_bounds(space: Box) -> tuple[np.ndarray, np.ndarray]:
    """``(low, high)`` of plans: the bounds of `space` narrowed by a hundred-thousandth of their width."""
    low, high = space.bounds
    margin = _MARGIN * 2.0 * half_width(space)
    return (low + margin).astype(space.dtype), (high - margin).astype(space.dtype)


def half_width(space: Box) -> np.ndarray:
    """The unit in which planners change actions: half the way between the bounds, 1 where there are not two."""
    low, high = space.bounds
    bounded = np.isfinite(low) & np.isfinite(high)
    width = np.where(bounded, high, 1.0) - np.where(bounded, low, -1.0)
    return (0.5 * width).astype(space.dtype)
