"""Recording of whole episodes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from purerl import device_memory, struct
from purerl.demonstrations.data import ROWS, Demonstrations
from purerl.errors import InputError
from purerl.types import Array, Environment, Policy, PyTree, TimeStep, Transition


def record(
    env: Environment,
    policy: Policy,
    key: Array,
    num_episodes: int,
    max_steps: int = 1000,
    *,
    name: str = "",
    options: Mapping[str, Any] | None = None,
    source: str = "",
) -> Demonstrations:
    """Play `num_episodes` complete episodes and keep every step.

    Pure: equal arguments give equal data. With the same key these are the episodes of `purerl.evaluate`. The number of
    rows depends on what happens, so this function compiles its own program and is not for use inside `jax.jit`.

    Args:
        env: the environment; `control.ObserveBoth` of it for a planner, whose states are not kept.
        policy: the expert.
        key: randomness.
        num_episodes: how many; each is played to its end and counted once.
        max_steps: most steps of an episode.
        name: name of the environment.
        options: options of the environment, anything that JSON holds.
        source: where the demonstrations come from, for people.

    Raises:
        InputError: if an episode is not over after `max_steps`, a number is not positive, or memory is too small.
    """
    struct.check_value("num_episodes", num_episodes, int, "[1, inf)")
    struct.check_value("max_steps", max_steps, int, "[1, inf)")
    one = jax.eval_shape(lambda: play(env, policy, key, max_steps))
    device_memory.check_fits(
        num_episodes * device_memory.num_bytes(one),
        f"recording {num_episodes:,} episodes of up to {max_steps:,} steps",
        "the number of episodes or max_steps",
    )
    keys = jax.random.split(key, num_episodes)
    transitions, lengths = _play_all(env, policy, keys, max_steps)
    if isinstance(transitions.obs, tuple):  # of `control.ObserveBoth`, for a planner
        transitions = struct.replace(transitions, obs=transitions.obs[0], next_obs=transitions.next_obs[0])
    return gather(env, transitions, lengths, name=name, options=options, source=source)


def play(env: Environment, policy: Policy, key: Array, max_steps: int) -> tuple[Transition, Array]:
    """One episode of at most `max_steps`.

    Returns:
        Transitions ``[max_steps]``, arbitrary beyond the end of the episode, without extras; and its length, int32, 0
        where it did not end.
    """
    reset_key, step_key = jax.random.split(key)  # as in `rollout.evaluate`

    def step(state: tuple[TimeStep, PyTree], index: Array) -> tuple[tuple[TimeStep, PyTree], Transition]:
        timestep, carry = state
        action_key, env_key = jax.random.split(jax.random.fold_in(step_key, index))
        action, onward, _ = policy.act(action_key, carry, timestep.obs)
        successor = env.step(env_key, timestep.state, action)
        transition = Transition(
            timestep.obs, action, successor.reward, successor.terminated, successor.truncated, successor.obs, {}
        )
        over = timestep.done
        state = jax.tree.map(lambda old, new: jnp.where(over, old, new), state, (successor, onward))
        return state, transition

    first = env.reset(reset_key)
    (final, _), transitions = lax.scan(step, (first, policy.carry), jnp.arange(max_steps))
    length = jnp.argmax(transitions.done).astype(jnp.int32) + 1
    return transitions, jnp.where(final.done, length, 0)


_play_all = jax.jit(jax.vmap(play, in_axes=(None, None, 0, None)), static_argnums=3)


def gather(
    env: Environment,
    transitions: Transition,
    lengths: Array,
    *,
    name: str = "",
    options: Mapping[str, Any] | None = None,
    source: str = "",
) -> Demonstrations:
    """Demonstrations from the padded episodes of `play`.

    Args:
        env: the environment, for its spaces.
        transitions: ``[num_episodes, max_steps]``.
        lengths: ``[num_episodes]``.
        name: name of the environment.
        options: its options.
        source: where they come from.

    Raises:
        InputError: if an episode did not end, or has numbers that are not finite.
    """
    counts = np.asarray(lengths)
    max_steps = transitions.reward.shape[1]
    if np.any(counts == 0):
        raise InputError(
            f"{int(np.sum(counts == 0))} of {len(counts)} episodes did not end within max_steps = {max_steps}"
        )
    kept = np.arange(max_steps) < counts[:, None]
    demonstrations = Demonstrations(
        **{field: np.asarray(getattr(transitions, field))[kept] for field in ROWS},
        starts=np.append(0, np.cumsum(counts)[:-1]).astype(np.int32),
        observation_space=env.observation_space,
        action_space=env.action_space,
        env=name,
        env_options=json.dumps(dict(options or {}), sort_keys=True),
        source=source,
    )
    demonstrations.check()
    return demonstrations
