"""Time per call of flashbax 0.1.3's item buffers, printed as one JSON line. Runs in flashbax's own environment."""

import flashbax  # pyright: ignore[reportMissingImports]
import jax
import jax.numpy as jnp
from replay_timing import BATCH_SIZE, SEVERAL, cartpole, fill, flags, report

args = flags()


def make(**options):
    options |= {"max_length": args.capacity, "min_length": BATCH_SIZE, "sample_batch_size": BATCH_SIZE}
    if args.prioritized:
        return flashbax.make_prioritised_item_buffer(priority_exponent=0.6, device="cpu", **options)
    return flashbax.make_item_buffer(**options)


def transition(number):
    return dict(zip(("obs", "action", "reward", "done", "next_obs"), cartpole(number), strict=True))


def several(number):
    return jax.vmap(transition)(number * SEVERAL + jnp.arange(SEVERAL))


def sample(number, key, state):
    batch = buffer.sample(state, key)
    if args.prioritized:
        state = buffer.set_priorities(state, batch.indices, jnp.abs(batch.experience["obs"][:, 0]) + number * 1e-6)
    return state, batch


buffer = make()
buffer_of_batches = make(add_batches=True)
state = fill(
    buffer.init(transition(jnp.int32(0))),
    lambda number, state: buffer_of_batches.add(state, several(number)),
    args.capacity // SEVERAL,
)
# Trained under `jax.vmap`, its counters begin as constants and so are the same for all members.
shared = {"current_index": None, "is_full": None} | ({"running_index": None} if args.prioritized else {})
axes = jax.tree.map(lambda _: 0, state).replace(**shared)
functions = {
    "add_one": lambda number, key, state: (buffer.add(state, transition(number)), ()),
    "add_several": lambda number, key, state: (buffer_of_batches.add(state, several(number)), ()),
    "sample": sample,
    "add_one_and_sample": lambda number, key, state: sample(number, key, buffer.add(state, transition(number))),
}
report({name: (function, state, axes) for name, function in functions.items()}, args.members)
