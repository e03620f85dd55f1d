"""Finite Markov decision process as tables, which is also an environment."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from purerl import numeric, struct
from purerl.errors import InputError
from purerl.spaces import Discrete
from purerl.types import Array, TimeStep

_ROUNDING = 1e-5
"""Largest difference from 1 of the sum of a row of probabilities, which may be float32."""


@struct.dataclass
class TabularMDP:
    """Finite Markov decision process with known dynamics (Sutton & Barto 2018, section 3.1).

    An episode begins in a state drawn from `start` and terminates when it enters a terminal state. The value of a
    terminal state is 0; its rows of `transition` must be distributions, but are not used.

    It is an `Environment`: observations and states are the number of the state, so any algorithm for discrete actions
    runs on it. There is no time limit; ``purerl.make(mdp, episode_length=100)`` adds one.

    The tables are leaves. Made outside of a transformation they are NumPy arrays in double precision; JAX computes
    with 32 bits unless ``jax.enable_x64(True)`` says otherwise.

    Attributes:
        transition: ``[S, A, S]``, probability of the next state given state and action.
        reward: ``[S, A, S]``, reward of a transition; ``[S, A]`` is accepted and repeated over next states.
        start: ``[S]``, distribution of the first state; nothing on terminal states.
        terminal: bool ``[S]``, states where an episode ends.
        action_names: static, names of the actions; by default their numbers.
        drawing: static, lines of a grid of which state ``row * columns + column`` is one character, for pictures; empty
            where there is no such grid.

    Raises:
        InputError: for tables whose shapes do not fit each other, that are no distributions, or that are not finite.
    """

    transition: Any
    reward: Any
    start: Any
    terminal: Any
    action_names: tuple[str, ...] = struct.field(default=(), static=True)
    drawing: tuple[str, ...] = struct.field(default=(), static=True)

    def __post_init__(self) -> None:
        for name in ("transition", "reward", "start", "terminal"):
            _set_array(self, name)
        shape = np.shape(self.transition)
        if len(shape) < 3 or shape[-3] != shape[-1] or 0 in shape:
            raise InputError(f"transition must have shape [states, actions, states], got {list(shape)}")
        if np.shape(self.reward) == shape[-3:-1]:
            repeat = jnp.broadcast_to if isinstance(self.reward, jax.Array) else np.broadcast_to
            object.__setattr__(self, "reward", repeat(self.reward[..., None], shape[-3:]))
        _check_shape("reward", self.reward, shape[-3:])
        _check_shape("start", self.start, shape[-1:])
        _check_shape("terminal", self.terminal, shape[-1:])
        if not self.action_names:
            object.__setattr__(self, "action_names", tuple(map(str, range(shape[-2]))))
        if len(self.action_names) != shape[-2]:
            raise InputError(f"action_names must name {shape[-2]} actions, got {self.action_names!r}")
        if self.drawing and sum(map(len, self.drawing)) != shape[-1]:
            raise InputError(f"drawing must have one character for each of {shape[-1]} states, got {self.drawing!r}")
        if not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(self)):
            self._check_values()

    def _check_values(self) -> None:
        _check_distributions("transition", self.transition)
        _check_distributions("start", self.start)
        if not np.all(np.abs(np.asarray(self.reward)) <= np.finfo(np.float32).max):
            raise InputError("reward must be finite in every entry, and fit 32 bits")
        if np.any(np.asarray(self.start) * np.asarray(self.terminal) > 0):
            raise InputError("start must not lie on terminal states: no episode can begin there")

    @property
    def num_states(self) -> int:
        """Number of states, S."""
        return np.shape(self.transition)[-1]

    @property
    def num_actions(self) -> int:
        """Number of actions, A."""
        return np.shape(self.transition)[-2]

    @property
    def observation_space(self) -> Discrete:
        """Number of the state."""
        return Discrete(self.num_states)

    @property
    def action_space(self) -> Discrete:
        """Number of the action."""
        return Discrete(self.num_actions)

    @property
    def expected_reward(self) -> Array:
        """``r(s, a)``, expected reward of an action, ``[S, A]``; 0 in terminal states."""
        expected = jnp.sum(jnp.asarray(self.transition) * jnp.asarray(self.reward), axis=-1)
        return jnp.where(jnp.asarray(self.terminal)[:, None], 0.0, expected)

    @property
    def continuation(self) -> Array:
        """Probability of a next state that is not terminal, ``[S, A, S]``; 0 in terminal states."""
        ongoing = ~jnp.asarray(self.terminal)
        return jnp.where(ongoing[:, None, None] & ongoing[None, None], jnp.asarray(self.transition), 0.0)

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state."""
        state = draw(key, jnp.asarray(self.start, jnp.float32))
        return TimeStep(state, state, jnp.float32(0.0), terminated=jnp.bool_(False), truncated=jnp.bool_(False))

    def step(self, key: Array, state: Array, action: Array) -> TimeStep:
        """Draw the next state."""
        onward = draw(key, jnp.asarray(self.transition, jnp.float32)[state, action])
        reward = jnp.asarray(self.reward, jnp.float32)[state, action, onward]
        terminated = jnp.asarray(self.terminal)[onward]
        return TimeStep(onward, onward, reward, terminated, truncated=jnp.bool_(False))


def draw(key: Array, probabilities: Array) -> Array:
    """Number of an outcome, int32, drawn from float32 `probabilities` ``[n]``; never one with probability 0."""
    cumulative = jnp.cumsum(probabilities)
    # Scaled, because rounding may leave a total of slightly less than 1.
    threshold = jax.random.uniform(key, (), jnp.float32) * cumulative[-1]
    return jnp.argmax(cumulative > threshold).astype(jnp.int32)


def _set_array(mdp: TabularMDP, name: str) -> None:
    value, kind = getattr(mdp, name), bool if name == "terminal" else np.float64
    if isinstance(value, jax.Array):
        if kind is bool and value.dtype != np.bool_:
            raise InputError(f"terminal must be true or false for each state, got {value.dtype.name}")
        return
    array = numeric.as_array(value)
    if kind is not bool and numeric.is_real(array):
        array = array.astype(kind)
    object.__setattr__(mdp, name, numeric.fitting(name, array, np.dtype(kind)))


def _check_shape(name: str, table: Any, shape: tuple[int, ...]) -> None:
    if np.shape(table)[-len(shape) :] != shape:
        raise InputError(f"{name} must have shape {list(shape)}, as transition says, got {list(np.shape(table))}")


def _check_distributions(name: str, table: Any) -> None:
    table = np.asarray(table)
    if not np.all(table >= 0.0):
        raise InputError(f"{name} must hold probabilities, got {np.min(table):g} as the least entry")
    wrong = np.abs(table.sum(axis=-1) - 1.0) > _ROUNDING
    if np.any(wrong):
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        place = f" of state {where[-2]} and action {where[-1]}" if name == "transition" else ""
        raise InputError(f"{name} must sum to 1{' in every row' if place else ''}, got {table[where].sum():g}{place}")
