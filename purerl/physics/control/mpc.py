"""Model predictive control: plan at every step, take the first action, and plan again from the next state."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from purerl import struct
from purerl.description import describe
from purerl.errors import InputError
from purerl.physics.control.model import Planner, neutral_actions
from purerl.spaces import Box, Space
from purerl.types import Array, Environment, Policy, PyTree, TimeStep


@struct.dataclass
class ObserveState:
    """Environment whose observation is its whole state: a float32 vector from which the state is rebuilt exactly.

    Floating-point numbers and booleans are one entry each. A 32-bit integer is two entries, its upper and its lower
    half, because float32 represents only integers up to 24 bits exactly; random keys are such integers.

    Attributes:
        env: the environment, with at most 32 bits per number in its state.
    """

    env: Environment

    def __post_init__(self) -> None:
        self._leaves()

    @property
    def observation_space(self) -> Box:
        """Space of unbounded vectors."""
        return Box((sum(_num_entries(leaf) for leaf in self._leaves()[0]),))

    @property
    def action_space(self) -> Space:
        """Action space of `env`."""
        return self.env.action_space

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state."""
        return self.observed(self.env.reset(key))

    def step(self, key: Array, state: PyTree, action: Array) -> TimeStep:
        """Advance `state` by one action."""
        return self.observed(self.env.step(key, state, action))

    def state_of(self, obs: Array) -> PyTree:
        """State for an observation.

        Raises:
            InputError: if `obs` has another length than the states of `env`.
        """
        leaves, structure = self._leaves()
        sizes = [_num_entries(leaf) for leaf in leaves]
        if jnp.shape(obs) != (sum(sizes),):
            raise InputError(
                f"a state of {describe(self.env, 10**6)} has {sum(sizes)} numbers, "
                f"the observation has shape {jnp.shape(obs)}: "
                "act in ObserveState(env) of an environment with the same kind of state"
            )
        parts = jnp.split(obs, np.cumsum(sizes)[:-1])
        return jax.tree.unflatten(structure, [_decoded(p, leaf) for p, leaf in zip(parts, leaves, strict=True)])

    def observed(self, timestep: TimeStep) -> TimeStep:
        """`timestep` with its state as the observation."""
        parts = [_encoded(leaf) for leaf in jax.tree.leaves(timestep.state)]
        return struct.replace(timestep, obs=jnp.concatenate([jnp.zeros(0, jnp.float32), *parts]))

    def _leaves(self) -> tuple[list[jax.ShapeDtypeStruct], Any]:
        """Shapes and dtypes of the leaves of a state, and its tree structure; does not run the simulator."""
        leaves, structure = jax.tree.flatten(jax.eval_shape(self.env.reset, jax.random.key(0)).state)
        for leaf in leaves:
            if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) and leaf.dtype.itemsize > 4:
                raise InputError(
                    f"a float32 observation cannot hold the {leaf.dtype} in the state of {describe(self.env, 10**6)}"
                )
        return leaves, structure


@struct.dataclass
class ObserveBoth:
    """Environment whose observation is a pair: that of `env`, and its whole state as `ObserveState` has it.

    For planners whose actions somebody learns from. Spaces are those of `env`.

    Attributes:
        env: the environment.
    """

    env: Environment

    @property
    def observation_space(self) -> Space:
        """Space of the first of the pair."""
        return self.env.observation_space

    @property
    def action_space(self) -> Space:
        """Action space of `env`."""
        return self.env.action_space

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state."""
        return self._both(self.env.reset(key))

    def step(self, key: Array, state: PyTree, action: Array) -> TimeStep:
        """Advance `state` by one action."""
        return self._both(self.env.step(key, state, action))

    def _both(self, timestep: TimeStep) -> TimeStep:
        observed = ObserveState(self.env).observed(timestep)
        return struct.replace(timestep, obs=(timestep.obs, observed.obs))


def on_state(policy: Policy) -> Policy:
    """A policy for `ObserveState` as one for `ObserveBoth`."""
    return Policy(Partial(_act_on_state, policy.act), policy.carry)


def _act_on_state(act: Partial, key: Array, carry: PyTree, obs: tuple[Array, Array]) -> tuple:
    return act(key, carry, obs[1])


def mpc_policy(planner: Planner, env: Environment) -> Policy:
    """Model predictive control policy: it plans again at every step, starting from the last plan shifted by one step.

    It must observe the state: use it in ``ObserveState(env)``, or in `ObserveState` of another environment whose states
    have the same structure but whose parameters differ from those of the model `env`.

    Args:
        planner: planning algorithm.
        env: model to plan with.
    """
    # Partials of functions without closures: other parameters of planner or model do not compile again.
    return Policy(Partial(_act, planner, ObserveState(env)), neutral_actions(env, planner.horizon))


def _act(
    planner: Planner, model: ObserveState, key: Array, previous: Array, obs: Array
) -> tuple[Array, Array, dict[str, Array]]:
    plan = planner.plan(model.env, model.state_of(obs), key, previous)
    # The new last step starts with a copy of the last action.
    moved_on = jnp.concatenate([plan.actions[1:], plan.actions[-1:]])
    return plan.actions[0], moved_on, {"planned_reward": plan.total_reward}


def _num_entries(leaf: jax.ShapeDtypeStruct) -> int:
    words = jax.eval_shape(_words, leaf)
    return math.prod(words.shape) * (2 if words.dtype == jnp.uint32 else 1)


def _words(leaf: Array) -> Array:
    """Leaf as uint32 if it has integers or is a random key, else as float32."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    if jnp.issubdtype(leaf.dtype, jnp.integer):
        return leaf.astype(jnp.uint32)
    return leaf.astype(jnp.float32)


def _encoded(leaf: Array) -> Array:
    words = jnp.ravel(_words(leaf))
    if words.dtype != jnp.uint32:
        return words
    return jnp.concatenate([words >> 16, words & 0xFFFF]).astype(jnp.float32)


def _decoded(entries: Array, leaf: jax.ShapeDtypeStruct) -> Array:
    words = jax.eval_shape(_words, leaf)
    if words.dtype != jnp.uint32:
        return entries.reshape(words.shape).astype(leaf.dtype)
    upper, lower = jnp.split(entries.astype(jnp.uint32), 2)
    whole = ((upper << 16) | lower).reshape(words.shape)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(whole, impl=jax.random.key_impl(jnp.zeros((), leaf.dtype)))
    return whole.astype(leaf.dtype)
