"""Conversion of simulators' outputs to arrays of stable dtypes, which loops and compiled programs need."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from purerl import struct
from purerl.errors import InputError
from purerl.spaces import Space
from purerl.types import Array, Environment, PyTree, TimeStep


@struct.dataclass
class StrictTypes:
    """Environment whose outputs are converted to the dtypes of the contract: no Python numbers or weak types.

    `make` adds it to environments that need it. Conversions that could lose values are refused by `check_env` instead.

    Attributes:
        env: the environment.
    """

    env: Environment

    @property
    def observation_space(self) -> Space:
        """Observation space of `env`."""
        return self.env.observation_space

    @property
    def action_space(self) -> Space:
        """Action space of `env`."""
        return self.env.action_space

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state."""
        return self._strict(self.env.reset(key))

    def step(self, key: Array, state: PyTree, action: Array) -> TimeStep:
        """Advance `state` by one action."""
        return self._strict(self.env.step(key, state, action))

    def _strict(self, timestep: TimeStep) -> TimeStep:
        return TimeStep(
            state=strong(timestep.state),
            obs=strong(jnp.asarray(timestep.obs, self.env.observation_space.dtype)),
            reward=strong(jnp.asarray(timestep.reward, jnp.float32)),
            terminated=jnp.asarray(timestep.terminated),
            truncated=jnp.asarray(timestep.truncated),
        )


@contextlib.contextmanager
def conventions() -> Iterator[None]:
    """Context with the JAX settings that simulators are written for: implicit broadcasting and 32 bits.

    With 64 bits enabled, some parts of their states would have 64 bits, and others after a step than after a reset.
    """
    with jax.numpy_rank_promotion("allow"), jax.enable_x64(False):
        yield


def strong(tree: PyTree) -> PyTree:
    """Copy of `tree` with arrays of strong dtype as leaves."""
    return jax.tree.map(_strong, tree)


def like(tree: PyTree, reference: PyTree, what: str) -> PyTree:
    """Copy of `tree` with strong dtypes, which must equal those of `reference`.

    Args:
        tree: pytree returned by a step.
        reference: pytree of arrays or array descriptions that it must match.
        what: name for the message, such as ``"CartPole-v1: the state"``.

    Raises:
        InputError: while tracing, if the two differ in more than weak typing: a conversion could lose values.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(reference)
    if jax.tree.structure(tree) != structure:
        raise InputError(f"{what} has another structure after a step than after a reset")
    leaves = [_strong(leaf) for leaf in jax.tree.leaves(tree)]
    for (path, expected), leaf in zip(paths, leaves, strict=True):
        if (leaf.shape, leaf.dtype) != (expected.shape, expected.dtype):
            raise InputError(
                f"{what}{jax.tree_util.keystr(path)} is {leaf.dtype}{list(leaf.shape)} after a step "
                f"and {expected.dtype}{list(expected.shape)} after a reset"
            )
    return jax.tree.unflatten(structure, leaves)


def scalar(value: Any, dtype: Any, what: str) -> Array:
    """Scalar array of `dtype` from `value`; an `InputError` if it has axes."""
    if jnp.shape(value) != ():
        raise InputError(f"{what} must be a single value, got shape {jnp.shape(value)}")
    return _strong(jnp.asarray(value, dtype))


def _strong(leaf: Any) -> Array:
    leaf = jnp.asarray(leaf)
    # Typed keys have no weak form.
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    return jax.lax.convert_element_type(leaf, leaf.dtype)
