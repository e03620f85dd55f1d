"""Recorded motions of an environment, as references for `purerl.environments.reference_motion`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from purerl import struct
from purerl.errors import InputError
from purerl.types import Array, Environment, PyTree, TimeStep


@struct.dataclass
class Motion:
    """Recorded motion: states and observations of an environment, one per step.

    Attributes:
        states: environment states with a leading axis ``[M, ...]`` in every leaf, at least two.
        obs: observations ``[M, ...]`` of these states, which an episode that starts there shows first.
    """

    states: PyTree
    obs: Array

    def __post_init__(self) -> None:
        lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves((self.states, self.obs))}
        if len(lengths) != 1 or lengths == {()} or min(lengths)[0] < 2:
            found = ", ".join(str(length[0]) if length else "none" for length in sorted(lengths))
            raise InputError(f"states and obs of a motion need one leading axis of length 2 or more, got {found}")

    @property
    def num_states(self) -> int:
        """Number of states, M."""
        return self.obs.shape[0]


def record_motion(env: Environment, start: TimeStep, actions: Array, key: Array) -> Motion:
    """Motion of an environment from a start under a sequence of actions.

    Actions may come from a planner (`purerl.control.Plan`), a policy (`purerl.rollout.unroll`) or a formula.

    Args:
        env: the environment.
        start: its time step at the beginning, as from ``env.reset``.
        actions: ``[M - 1, *action_shape]``.
        key: randomness of the dynamics.

    Raises:
        InputError: if the episode ends before the last action, or the simulation fails.
    """

    def step(timestep: TimeStep, inputs: tuple[Array, Array]) -> tuple[TimeStep, TimeStep]:
        index, action = inputs
        onward = env.step(jax.random.fold_in(key, index), timestep.state, action)
        return onward, onward

    _, after = lax.scan(step, start, (jnp.arange(len(actions)), jnp.asarray(actions)))
    seen = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, after)
    if not isinstance(seen.obs, Tracer):
        ends = np.flatnonzero(np.asarray(seen.done)[:-1])
        if ends.size:
            raise InputError(f"the episode ends after {ends[0]} of {len(actions)} actions: record a shorter motion")
        if not np.all(np.isfinite(np.asarray(seen.obs, np.float64))):
            raise InputError("the observations of the motion are not finite: the simulation fails")
    return Motion(seen.state, seen.obs)


def check_motion(env: Environment, motion: Motion) -> None:
    """Raise `InputError` unless the motion consists of states and observations of `env`."""
    start = jax.eval_shape(env.reset, jax.random.key(0))
    expected, given = (start.state, start.obs), (motion.states, motion.obs)
    if jax.tree.structure(expected) != jax.tree.structure(given):
        raise InputError(
            f"the states of the motion are {jax.tree.structure(motion.states)}, those of the environment "
            f"{jax.tree.structure(start.state)}: record it in the same environment with the same wrappers"
        )
    for (path, mine), theirs in zip(
        jax.tree_util.tree_flatten_with_path(expected)[0], jax.tree.leaves(given), strict=True
    ):
        got = (tuple(jnp.shape(theirs)[1:]), jnp.result_type(theirs))
        if got != (mine.shape, mine.dtype):
            what = f"{'obs' if path[0].idx else 'states'}{jax.tree_util.keystr(path[1:])}"
            raise InputError(
                f"{what} of the motion: each entry is {got[1]}{list(got[0])}, in the environment "
                f"{mine.dtype}{list(mine.shape)}"
            )
