"""Running an algorithm: a Python loop over jitted chunks of iterations, or one pure function.

Nothing here knows what is learned. Logging, evaluation, checkpoints and early stopping belong between the chunks, in
plain Python; there are no callbacks inside compiled code.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from functools import partial
from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from purerl import struct
from purerl.training.isolation import Diverged, isolate, unusual, watched
from purerl.training.population import Population, in_groups
from purerl.types import Algorithm, Array, Mean, Metrics, PyTree

COUNTABLE = "[1, 2147483647]"
"""Iterations that a state can count."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """Progress of a training after one chunk of iterations.

    Attributes:
        state: the algorithm's state. The next chunk reuses its memory: copy what must outlive it.
        iteration: iterations done since `init`.
        env_steps: environment steps taken since `init`, per member.
        metrics: over the chunk, merged; a leading ``[P]`` for a population.
        compile_seconds: spent compiling in this call of `iterate`.
        run_seconds: spent running chunks in this call of `iterate`, without the time of whoever consumes it.
        diverged: members that are frozen because their update was not finite (see `isolation`).
    """

    state: PyTree
    iteration: int
    env_steps: int
    metrics: Metrics
    compile_seconds: float
    run_seconds: float
    diverged: Diverged


@partial(jax.jit, donate_argnums=1)
def advance(
    algorithm: Algorithm,
    state: PyTree,
    num_iterations: Array,
    metrics: Metrics | None = None,
    diverged: Diverged | None = None,
) -> tuple[PyTree, Metrics, Diverged]:
    """Do `num_iterations` (a traced integer: one program serves all) and merge their metrics. Consumes `state`.

    Members whose learned state is no longer finite are frozen (see `isolation`).

    Args:
        algorithm: what to train.
        state: from `algorithm.init`.
        num_iterations: how many.
        metrics: of the iterations before, to go on from: the bits of a sum do not depend on how its iterations are
            divided among calls. `no_metrics` to begin with; None is another program, for who never goes on.
        diverged: members frozen before; None for nobody.

    Returns:
        State, metrics and frozen members afterwards.
    """

    def group(group: Algorithm, carry: _Carry) -> tuple[_Carry, Metrics]:
        state, before, diverged = carry
        return _repeat(group, state, num_iterations, before, diverged), {}

    before = no_metrics(algorithm, state) if metrics is None else metrics
    frozen = nobody(algorithm) if diverged is None else diverged
    return in_groups(algorithm, group, (state, before, frozen))[0]


_Carry = tuple[PyTree, Metrics, Diverged]


def nobody(algorithm: Algorithm) -> Diverged:
    """No member of a population, or no agent, has diverged."""
    return Diverged.nobody((algorithm.num_members,) if isinstance(algorithm, Population) else ())


def _repeat(algorithm: Algorithm, state: PyTree, num_iterations: Array, before: Metrics, diverged: Diverged) -> _Carry:
    def stacked(metrics: Metrics) -> Mean:
        """All of them in one, ``[num_metrics]``: adding up one array takes less time than many."""
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(metrics[name] for name in before))

    def iteration(_: Array, carry: tuple[PyTree, Mean, Diverged]) -> tuple[PyTree, Mean, Diverged]:
        state, total, diverged = carry
        after, metrics = _step(algorithm, state)
        state, metrics, diverged = isolate(state, after, metrics, diverged, which, exempt)
        return state, total + stacked(metrics), diverged

    which = watched(algorithm, state)
    exempt = unusual(state, which, diverged.iteration.shape)
    state, total, diverged = lax.fori_loop(0, num_iterations, iteration, (state, stacked(before), diverged))
    return state, {name: jax.tree.map(itemgetter(i), total) for i, name in enumerate(before)}, diverged


def no_metrics(algorithm: Algorithm, state: PyTree) -> Metrics:
    """The metrics of no iterations. Traces one, which `advance` then need not."""

    shapes = jax.eval_shape(lambda algorithm, state: in_groups(algorithm, _step, state), algorithm, state)[1]
    return {name: Mean.nothing(mean.count.shape) for name, mean in shapes.items()}


@jax.jit
def _step(algorithm: Algorithm, state: PyTree) -> tuple[PyTree, Metrics]:
    """One iteration, traced once for its shapes and for the loop."""
    return algorithm.step(state)


def iterate(algorithm: Algorithm, state: PyTree, num_iterations: int, every: int = 1) -> Iterator[Progress]:
    """Train until `state` has seen `num_iterations` in total, yielding at each multiple of `every` and at the end.

    The result does not depend on `every`, nor on stopping and continuing from a saved state: the same program runs
    in every case. Hyper-parameters that are leaves may differ from call to call without compiling again.

    Args:
        algorithm: what to train.
        state: from `algorithm.init` or a checkpoint. Consumed: its memory is reused.
        num_iterations: total iterations, those already in `state` included.
        every: iterations per chunk.

    Yields:
        `Progress` after each chunk.

    Raises:
        InputError: if `every` or `num_iterations` is no whole number, not positive, or more than an int32 can count.
    """
    struct.check_value("every", every, int, "[1, inf)")
    struct.check_value("num_iterations", num_iterations, int, COUNTABLE)
    iteration = int(np.max(jax.device_get(state.iteration)))
    if iteration >= num_iterations:
        return
    begun = time.perf_counter()
    # Zero iterations compile the program and leave the state as it is.
    diverged = nobody(algorithm)
    state, _, diverged = jax.block_until_ready(
        advance(algorithm, _without_aliases(state), jnp.int32(0), None, diverged)
    )
    compile_seconds = time.perf_counter() - begun
    run_seconds = 0.0
    for chunk in chunks(iteration, num_iterations, every):
        begun = time.perf_counter()
        state, metrics, diverged = jax.block_until_ready(advance(algorithm, state, jnp.int32(chunk), None, diverged))
        run_seconds += time.perf_counter() - begun
        iteration += chunk
        env_steps = iteration * algorithm.steps_per_iteration
        yield Progress(state, iteration, env_steps, metrics, compile_seconds, run_seconds, diverged)


def chunks(iteration: int, num_iterations: int, every: int) -> Iterator[int]:
    """Lengths of chunks from `iteration` to `num_iterations`, which end at each multiple of `every`."""
    while iteration < num_iterations:
        chunk = min(every - iteration % every, num_iterations - iteration)
        yield chunk
        iteration += chunk


def _without_aliases(state: PyTree) -> PyTree:
    """A state that can be consumed although one array is in it twice, as where an observation is the state itself."""
    seen = set()

    def own(leaf: Array) -> Array:
        first = id(leaf) not in seen
        seen.add(id(leaf))
        return leaf if first else jnp.copy(leaf)

    return jax.tree.map(own, state)


def train(algorithm: Algorithm, key: Array, num_iterations: int) -> tuple[PyTree, Metrics]:
    """A whole training as one pure function, for use inside your own `jax.jit`, `jax.vmap` or `jax.grad`.

    Args:
        algorithm: what to train.
        key: randomness of the whole run.
        num_iterations: how many, static.

    Returns:
        The final state and the metrics of every iteration, ``[num_iterations]``.

    Raises:
        InputError: if `num_iterations` is no whole number, not positive, or more than an int32 can count.
    """
    struct.check_value("num_iterations", num_iterations, int, COUNTABLE)
    return lax.scan(lambda state, _: algorithm.step(state), algorithm.init(key), length=num_iterations)
