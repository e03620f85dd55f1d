"""The types that everything else speaks: time steps, transitions, policies, metrics and the two protocols.

Everything here describes one environment and one agent. Batches of them are the same types with leading axes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from purerl import struct
from purerl.spaces import Space

Array = jax.Array
PyTree = Any

Scalar = Annotated[Any, "Scalar"]
"""Annotation of a hyper-parameter that is a number, or a schedule of environment steps (see `purerl.schedules`)."""


@struct.dataclass
class TimeStep:
    """Time step: the return value of an environment.

    Attributes:
        state: the environment's own state, any pytree.
        obs: observation of that state.
        reward: float32 scalar for the transition that led here; 0 after a reset.
        terminated: bool scalar; the task itself ended here, so there is no future reward to estimate.
        truncated: bool scalar; we stopped looking (a time limit), so the value of `obs` still counts.
            Never set together with `terminated`, but by `GradientGate` where a simulation failed.
    """

    state: PyTree
    obs: Array
    reward: Array
    terminated: Array
    truncated: Array

    @property
    def done(self) -> Array:
        """Whether the episode is over for either reason."""
        return self.terminated | self.truncated


@runtime_checkable
class Environment(Protocol):
    """One pure environment. It never resets itself; its numeric parameters are leaves of the pytree that it is."""

    @property
    def observation_space(self) -> Space:
        """Shape, dtype and bounds of observations."""
        ...

    @property
    def action_space(self) -> Space:
        """Shape, dtype and bounds of actions."""
        ...

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state."""
        ...

    def step(self, key: Array, state: PyTree, action: Array) -> TimeStep:
        """Advance `state`, which must not be done, by one action."""
        ...


@struct.dataclass
class Transition:
    """One step of experience.

    Attributes:
        obs: what the agent saw.
        action: what it sent to the environment.
        reward: what it got.
        terminated: see `TimeStep`.
        truncated: see `TimeStep`.
        next_obs: the true successor observation, never that of a new episode.
        extras: what the acting policy knew and learning needs (log-probabilities, raw actions).
    """

    obs: Array
    action: Array
    reward: Array
    terminated: Array
    truncated: Array
    next_obs: Array
    extras: dict[str, Array]

    @property
    def done(self) -> Array:
        """Whether the episode ended with this step."""
        return self.terminated | self.truncated


@struct.dataclass
class Policy:
    """A policy as a pytree: it passes through `jax.jit` without recompiling when only parameters change.

    Attributes:
        act: ``act(key, carry, obs) -> (action, carry, extras)`` for one environment. A `jax.tree_util.Partial`.
        carry: memory at the start of an episode; ``()`` for a policy without memory.
    """

    act: Callable[[Array, PyTree, Array], tuple[Array, PyTree, dict[str, Array]]]
    carry: PyTree = ()


@struct.dataclass
class Mean:
    """A mean that knows what it is made of, so that means of means are exact.

    Merging two means adds their totals and counts. All metrics are of this type: averaging over minibatches that were
    skipped, chunks of different length, devices or members needs no special case.

    A float32 does not count beyond 2^24. A mean that millions are added to begins with `nothing`: it carries along what
    rounding leaves out, and counts to 2^48.

    Attributes:
        total: float32 sum of the values.
        count: float32 number of the values.
        total_rest: float32, the exact sum minus `total`; None where that is not kept.
        count_rest: float32, the exact number minus `count`; None where that is not kept.
    """

    total: Array
    count: Array
    total_rest: Array | None = None
    count_rest: Array | None = None

    @classmethod
    def of(cls, values: Array, where: Array | None = None) -> Mean:
        """The mean over all elements of `values`, or only those `where` a boolean array of the same shape holds."""
        values = jnp.asarray(values, jnp.float32)
        weight = jnp.ones_like(values) if where is None else where.astype(jnp.float32)
        # A skipped value may be infinite or NaN, and 0 * NaN is NaN: select, do not multiply.
        return cls(jnp.sum(jnp.where(weight > 0, values, 0.0)), jnp.sum(weight))

    @classmethod
    def nothing(cls, shape: tuple[int, ...] = ()) -> Mean:
        """The mean of no values, to which any number of means can be added one by one."""
        return cls(*(jnp.zeros(shape, jnp.float32) for _ in range(4)))

    def __add__(self, other: Mean) -> Mean:
        if self.total_rest is None or self.count_rest is None:
            return Mean(self.total + other.total, self.count + other.count)
        total, total_rest = _add(self.total, self.total_rest, other.total)
        count, count_rest = _add(self.count, self.count_rest, other.count)
        return Mean(total, count, total_rest, count_rest)

    def sum(self, axis: int | None = None) -> Mean:
        """Merge along an axis, or all of them."""
        return Mean(jnp.sum(self.total, axis), jnp.sum(self.count, axis))

    @property
    def value(self) -> Array:
        """The mean itself; NaN where nothing was counted."""
        return self.total / self.count


def _add(total: Array, rest: Array, term: Array) -> tuple[Array, Array]:
    """``total + rest + term`` as a rounded sum and what that leaves out (TwoSum: Knuth 1997, section 4.2.2, theorem B).

    The compiler must not simplify these lines, which would be 0 without rounding; XLA keeps to IEEE's rules.
    """
    rounded = total + term
    taken = rounded - total
    rest = rest + ((total - (rounded - taken)) + (term - taken))
    # There is nothing left to infinity and NaN; their difference would turn the one into the other.
    rest = jnp.where(jnp.isfinite(rounded), rest, 0.0)
    total = rounded + rest
    return total, jnp.where(jnp.isfinite(rounded), rest - (total - rounded), 0.0)


Metrics = dict[str, Mean]


def merge(metrics: Metrics) -> Metrics:
    """Metrics ``[n]`` of successive updates as those of all of them."""
    return jax.tree.map(lambda leaf: leaf.sum(0), metrics)


class Algorithm(Protocol):
    """A learner: a frozen pytree whose leaves are hyper-parameters. Everything that changes is in its state."""

    @property
    def env(self) -> Environment:
        """Environment that it learns on."""
        ...

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps that one `step` takes."""
        ...

    @property
    def minibatch_rows(self) -> int:
        """Rows of observations that its networks process together: decides how many members fit into caches."""
        ...

    @property
    def warmup_iterations(self) -> int:
        """Iterations that `init` does without learning, to fill a replay; the state it returns counts them."""
        ...

    def init(self, key: Array) -> PyTree:
        """The state before learning begins; it is also the checkpoint."""
        ...

    def step(self, state: PyTree) -> tuple[PyTree, Metrics]:
        """One iteration: collect, learn, report."""
        ...

    def policy(self, state: PyTree, *, explore: bool) -> Policy:
        """Policy learned so far: as in training, or the best guess (``explore=False``)."""
        ...
