"""Time per call of purerl's replay, printed as one JSON line."""

from functools import partial

import jax
import jax.numpy as jnp
from replay_timing import BATCH_SIZE, SEVERAL, cartpole, fill, flags, report

from purerl import struct
from purerl.replay import PrioritizedReplay, Replay
from purerl.types import Transition

args = flags()


def make(num_envs):
    replay = Replay(args.capacity, num_envs=num_envs, rollout_length=1)
    return PrioritizedReplay(replay, exponent=0.6, correction=0.4) if args.prioritized else replay


def transitions(number, num_envs):
    """One step of each environment, ``[num_envs, 1]``."""
    numbers = number * num_envs + jnp.arange(num_envs)[:, None]
    obs, action, reward, done, next_obs = jax.vmap(jax.vmap(cartpole))(numbers)
    truncated = numbers % 500 == 250  # never one of those that are done
    return Transition(obs, action, reward, done, truncated, next_obs, {})


def full(replay, num_envs):
    obs, action, *_ = cartpole(jnp.int32(0))
    return fill(
        replay.init(obs, action),
        lambda number, state: replay.add(state, transitions(number, num_envs)),
        args.capacity // num_envs,
    )


def add(replay, num_envs, number, key, state):
    return replay.add(state, transitions(number, num_envs)), ()


def sample(replay, number, key, state):
    batch = replay.sample(state, key, BATCH_SIZE, 0.99)
    priority = jnp.abs(batch.obs[:, 0]) + number * 1e-6
    return replay.update(state, batch.index, priority), batch


def add_one_and_sample(replay, number, key, state):
    return sample(replay, number, key, replay.add(state, transitions(number, 1)))


one, several = make(1), make(SEVERAL)
state, state_of_several = full(one, 1), full(several, SEVERAL)
axes = struct.member_axes(state)
cases = {
    "add_one": (partial(add, one, 1), state, axes),
    "add_several": (partial(add, several, SEVERAL), state_of_several, struct.member_axes(state_of_several)),
    "sample": (partial(sample, one), state, axes),
    "add_one_and_sample": (partial(add_one_and_sample, one), state, axes),
}
report(cases, args.members)
