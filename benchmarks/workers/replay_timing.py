"""How the replay of each library is timed: the same loop, the same transitions, the same flags, in its own process."""

import argparse
import json
import time

import jax
import jax.numpy as jnp
from peak_memory import peak_megabytes

BATCH_SIZE = 128
SEVERAL = 64  # transitions in the larger `add`
SECONDS = 0.2  # that one timed loop shall take
FEWEST, MOST = 3, 100_000  # repetitions
ROUNDS = 3


def flags():
    """Capacity, members and kind of the replay to time."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--capacity", type=int, help="a multiple of 64")
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--prioritized", action="store_true")
    return parser.parse_args()


def cartpole(number):
    """The leaves of the `number`-th transition: obs, action, reward, whether the episode ended, next_obs."""
    obs = jnp.full((4,), jnp.float32(number % 1_000) * 1e-3)
    return obs, jnp.int32(number % 2), jnp.float32(1.0), number % 100 == 99, obs + 1e-3


def fill(state, add, count):
    """`state` of one member after `count` times ``add(number, state)``."""
    return jax.jit(lambda state: jax.lax.fori_loop(0, count, add, state))(state)


def report(cases, members):
    """Print one JSON line: microseconds per call of each case, for so many members side by side; 1 is without vmap.

    Args:
        cases: name to function, state and axes: ``function(number, key, state) -> (state, anything sampled)`` of one
            member, its full state, and for `jax.vmap` 0 where each member has its own and None where all have the same.
        members: how many.
    """
    result = {}
    for name, (function, state, axes) in cases.items():
        result[name] = microseconds(function, state, axes, members)
    result["peak_megabytes"] = peak_megabytes()
    print(json.dumps(result))


def microseconds(function, state, axes, members):
    """Per call within one compiled loop that keeps its state, so that neither dispatch nor a first copy counts."""

    def repeat(state, seed, count):
        key = jax.random.key(seed)

        def once(number, carry):
            state, total = carry
            state, sampled = function(number, jax.random.fold_in(key, number), state)
            # All that is sampled must be looked at, or it would not be computed.
            return state, total + sum(jnp.sum(leaf.astype(jnp.float32)) for leaf in jax.tree.leaves(sampled))

        return jax.lax.fori_loop(0, count, once, (state, jnp.float32(0.0)))

    seed = jnp.int32(0)
    if members > 1:
        repeat = jax.vmap(repeat, in_axes=(axes, 0, None), out_axes=(axes, 0))
        seed = jnp.arange(members)
    repeat = jax.jit(repeat, donate_argnums=0)

    def seconds(count):
        nonlocal state
        begun = time.perf_counter()
        state, _ = jax.block_until_ready(repeat(state, seed, jnp.int32(count)))
        return time.perf_counter() - begun

    state = copies(state, axes, members)
    seconds(1)  # compiles
    count, taken = FEWEST, seconds(FEWEST)
    while taken < SECONDS / 4 and count < MOST:
        count = min(4 * count, MOST)
        taken = seconds(count)
    count = min(max(round(count * SECONDS / taken), FEWEST), MOST)
    return sorted(seconds(count) for _ in range(ROUNDS))[ROUNDS // 2] / count * 1e6


def copies(state, axes, members):
    """`state` once for each member, but for what they share; memory of its own in any case."""
    leaves, structure = jax.tree.flatten(state)
    ways = jax.tree.leaves(axes, is_leaf=lambda axis: axis is None)
    return jax.tree.unflatten(
        structure,
        [
            jnp.copy(leaf) if members == 1 or way is None else jnp.repeat(leaf[None], members, axis=0)
            for leaf, way in zip(leaves, ways, strict=True)
        ],
    )
