"""Replay of past steps: write in place, sample at a cost that depends on the batch alone.

A ring of rows, one per time step of all environments. Rows are written as one slice whose place is the same for every
member of a population, so that it stays a slice under `jax.vmap` (a scatter would copy or loop).

**Observations are stored once.** The successor of a step is the observation of the next row, but for two cases. After a
terminated step there is nothing to bootstrap from, so none is needed. After a truncated one (a time limit) the true
successor is kept apart, in a place that `FINAL_EVERY` steps of an environment share. Time limits no closer together
lose nothing, however long a rollout is. Where several steps that share a place are truncated, the first one's successor
is kept. Uniform sampling draws that step in place of the others too, so that time limits have their share of what is
drawn; prioritised sampling leaves the others out. A longer window that would run into one of them ends before it.

**Windows of n steps** (Sutton & Barto 2018, section 7.1) are put together when they are sampled::

    R = sum_{k < m} gamma^k r_{t+k},    discount = gamma^m (1 - terminated),    target = R + discount V(s_{t+m})

with ``m = n``, or less where the episode ends within the window, for whichever reason; `terminated` alone stops
bootstrapping. A window is drawn once its last successor has been seen: the newest `n` steps wait for the next `add`.

Every window that is drawn can be learned from.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from purerl import device_memory, struct
from purerl.errors import InputError
from purerl.math import sum_tree
from purerl.math.sum_tree import SumTree
from purerl.types import Array, PyTree, Transition

FINAL_EVERY = 16
"""Successive steps of one environment that share a place for the observation at a time limit."""

_GOES_ON, _TERMINATED, _TRUNCATED = map(float, range(3))


@struct.dataclass
class ReplaySample:
    """Windows drawn from a replay; leaves ``[batch_size, ...]``.

    Attributes:
        obs: where the window begins.
        action: taken there, as it was given to `add`.
        reward: float32, discounted sum over the window.
        discount: float32, factor of the value of `next_obs` in the target; 0 where the task terminated.
        next_obs: the true successor of the window's last step; arbitrary where `discount` is 0.
        later_obs: ``[batch_size, n_step - 1, ...]``, those of the window's further steps; arbitrary beyond its end.
        later_discount: float32 ``[batch_size, n_step - 1]``, ``gamma^k`` of the step k; 0 beyond the window's end.
        weight: float32, importance weight of this sample in the loss, above 0.
        index: int32, for `update`.
    """

    obs: PyTree
    action: PyTree
    reward: Array
    discount: Array
    next_obs: PyTree
    later_obs: PyTree
    later_discount: Array
    weight: Array
    index: Array


@struct.dataclass
class ReplayState:
    """The ring. `position` and `size` are the same for all members of a population.

    Numbers that are read together are stored together: sampling takes as long as fetching them from main memory.

    Attributes:
        obs: ``[rows + places, num_envs, ...]``, in the observation's own dtype; behind the ring, the true successors of
            truncated steps.
        action: ``[rows, num_envs, ...]``.
        outcome: float32 ``[rows, num_envs, 2]``: the reward; and 0 if the episode goes on, 1 if it was terminated, 2 if
            truncated, ``2 + d`` if truncated so that the step d rows before keeps the place.
        taken: int32 ``[num_envs]``, which step keeps the place that is shared with the row to write next, counted from
            the first that shares it; at least as many as share it where none does.
        position: int32, the row to write next.
        size: int32, rows written so far, counted up to as many as are ever looked at.
    """

    obs: PyTree
    action: PyTree
    outcome: Array
    taken: Array
    position: Array = struct.field(shared=True)
    size: Array = struct.field(shared=True)


@struct.dataclass
class Replay:
    """Uniform sampling from the newest `capacity` windows.

    Raises:
        InputError: if `capacity` is not made of whole rollouts.
    """

    capacity: int = struct.field(static=True, help="capacity in steps, over all environments", within="[1, 2147483647]")
    num_envs: int = struct.field(static=True, help="environments side by side", within="[1, inf)")
    rollout_length: int = struct.field(static=True, help="steps of each environment per `add`", within="[1, inf)")
    n_step: int = struct.field(default=1, static=True, help="steps per window", within="[1, inf)")

    def __post_init__(self) -> None:
        struct.check_fields(self)
        steps = self.num_envs * self.rollout_length
        if self.capacity % steps:
            below = self.capacity - self.capacity % steps
            nearest = f"{below:,} or {below + steps:,}" if below else f"{steps:,}"
            raise InputError(
                f"a replay must hold whole rollouts of num_envs * rollout_length = {steps:,} steps, "
                f"got a size of {self.capacity:,}: the nearest is {nearest}"
            )

    def init(self, obs: PyTree, action: PyTree) -> ReplayState:
        """An empty ring for observations and actions like these, of one step; shapes and dtypes are enough.

        Raises:
            InputError: if it cannot fit into the memory of the device.
        """
        state = jax.eval_shape(self._empty, obs, action)
        num_bytes = device_memory.num_bytes(state)
        device_memory.check_fits(
            num_bytes, f"a replay of {self.capacity:,} steps x {num_bytes / self.capacity:.1f} bytes", "buffer_size"
        )
        return self._empty(obs, action)

    def num_rollouts(self, warmup_steps: int) -> int:
        """Number of calls of `add` for `warmup_steps` steps before the first `sample`.

        Raises:
            InputError: if these are no whole rollouts, or too few for one window.
        """
        steps = self.num_envs * self.rollout_length
        fewest = -(-(self.n_step + 1) // self.rollout_length) * steps
        nearest = max(round(warmup_steps / steps) * steps, fewest)
        if warmup_steps != nearest:
            raise InputError(
                f"warmup_steps must be a multiple of num_envs * rollout_length = {steps:,} and at least {fewest:,} "
                f"(n_step = {self.n_step}), got {warmup_steps:,}: the nearest is {nearest:,}"
            )
        return warmup_steps // steps

    def add(self, state: ReplayState, transitions: Transition) -> ReplayState:
        """Write ``transitions [num_envs, rollout_length]`` over the oldest."""
        rows = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), transitions)
        shared, num_places = self._steps_per_place, self._places_per_add
        place, offset = jnp.divmod(state.position, shared)

        # The first truncated step of each place keeps it. Steps are counted from the first that shares the first place.
        step = jnp.arange(num_places * shared, dtype=jnp.int32).reshape(num_places, shared, 1)
        truncated = jnp.zeros((step.size, self.num_envs), bool)
        truncated = _write(truncated, rows.truncated, offset).reshape(num_places, shared, -1)
        keeper = jnp.min(jnp.where(truncated, step, step.size), axis=1)
        continues = (step[:, 0] == 0) & (offset > 0)
        keeper = jnp.where(continues, jnp.minimum(keeper, state.taken[None]), keeper)
        keeps = (keeper >= offset) & (keeper < step.size)
        before = jnp.where(truncated, step - keeper[:, None], 0).reshape(-1, self.num_envs)
        ending = jnp.where(rows.terminated, _TERMINATED, jnp.where(rows.truncated, _TRUNCATED, _GOES_ON))
        ending += _read(before, offset, self.rollout_length)
        end = (offset + self.rollout_length) // shared

        def write_obs(ring: Array, new: Array, successors: Array) -> Array:
            trailing = (1,) * (successors.ndim - 2)
            row = jnp.clip(keeper - offset, 0, self.rollout_length - 1)
            final = jnp.take_along_axis(successors, row.reshape(*row.shape, *trailing), axis=0)
            ring = _write(ring, new, state.position)
            old = _read(ring, self._num_rows + place, num_places)
            return _write(ring, jnp.where(keeps.reshape(*keeps.shape, *trailing), final, old), self._num_rows + place)

        return ReplayState(
            obs=jax.tree.map(write_obs, state.obs, rows.obs, rows.next_obs),
            action=jax.tree.map(lambda ring, new: _write(ring, new, state.position), state.action, rows.action),
            outcome=_write(state.outcome, jnp.stack([rows.reward, ending], axis=-1), state.position),
            taken=_read(keeper, end, 1)[0] - end * shared,
            position=(state.position + self.rollout_length) % self._num_rows,
            size=jnp.minimum(state.size + self.rollout_length, self._rows_in_use + self.n_step),
        )

    def sample(self, state: ReplayState, key: Array, batch_size: int, gamma: float | Array) -> ReplaySample:
        """Draw windows with replacement, each with the same probability. At least `n_step` + 1 rows must be there."""
        count = (state.size - self.n_step) * self.num_envs
        age, env = jnp.divmod(jax.random.randint(key, (batch_size,), 0, count), self.num_envs)
        row = self._wrapped(state.position - self.n_step - 1 - age)
        row = self._wrapped(row - self._rows_to_keeper(state, row, env))
        return self._windows(state, row, env, gamma)

    def update(self, state: ReplayState, index: Array, priority: Array) -> ReplayState:
        """No change: all windows stay equally likely, whatever their priorities."""
        del index, priority
        return state

    def windows(self, state: ReplayState, index: Array, gamma: float | Array) -> ReplaySample:
        """The windows that begin at ``index [batch_size]``, ``row * num_envs + environment``."""
        return self._windows(state, *jnp.divmod(index, self.num_envs), gamma)

    @property
    def ring(self) -> Replay:
        """The replay itself; in a `PrioritizedReplay` the uniform one inside."""
        return self

    @property
    def _rows_in_use(self) -> int:
        return self.capacity // self.num_envs

    @property
    def _steps_per_place(self) -> int:
        """Rows that share a place: no more than are in use, so that one of these can always be learned from."""
        return min(FINAL_EVERY, self._rows_in_use)

    @property
    def _places_per_add(self) -> int:
        """Largest number of places that the rows of one rollout can have."""
        last = self._steps_per_place - math.gcd(self._steps_per_place, self.rollout_length)
        return -(-(last + self.rollout_length) // self._steps_per_place)

    @property
    def _num_rows(self) -> int:
        """Enough that nothing is overwritten of a window in use, nor of the rows that share a place with it."""
        rows = self._rows_in_use + self.n_step + self._steps_per_place - 1
        return -(-rows // self.rollout_length) * self.rollout_length

    def _empty(self, obs: PyTree, action: PyTree) -> ReplayState:
        def rows(leaf: Any, num_rows: int) -> Array:
            return jnp.zeros((num_rows, self.num_envs, *leaf.shape), leaf.dtype)

        num_places = (self._num_rows - self.rollout_length) // self._steps_per_place + self._places_per_add
        return ReplayState(
            obs=jax.tree.map(lambda leaf: rows(leaf, self._num_rows + num_places), obs),
            action=jax.tree.map(lambda leaf: rows(leaf, self._num_rows), action),
            outcome=rows(jax.ShapeDtypeStruct((2,), jnp.float32), self._num_rows),
            taken=jnp.zeros(self.num_envs, jnp.int32),
            position=jnp.int32(0),
            size=jnp.int32(0),
        )

    def _rows_to_keeper(self, state: ReplayState, row: Array, env: Array) -> Array:
        """Rows back to the step that keeps its place; 0 but where it was truncated and is not kept."""
        return jnp.maximum(state.outcome[row, env, 1] - _TRUNCATED, 0.0).astype(jnp.int32)

    def _wrapped(self, row: Array) -> Array:
        """`row`, at most a lap outside of the ring, as it is counted inside. A remainder would cost a division."""
        row = jnp.where(row < 0, row + self._num_rows, row)
        return jnp.where(row < self._num_rows, row, row - self._num_rows)

    def _windows(self, state: ReplayState, start: Array, env: Array, gamma: float | Array) -> ReplaySample:
        """The windows that begin in the rows ``start [batch_size]`` of the environments ``env [batch_size]``."""
        return jax.vmap(self._window, in_axes=(None, 0, 0, None))(state, start, env, gamma)

    def _window(self, state: ReplayState, start: Array, env: Array, gamma: float | Array) -> ReplaySample:
        step = jnp.arange(self.n_step + 1, dtype=jnp.int32)
        rows = self._wrapped(start + step)
        rewards, endings = state.outcome[rows[:-1], env].T
        ended = endings != _GOES_ON
        last = jnp.where(ended.any(), jnp.argmax(ended), self.n_step - 1)
        ending = endings[last]
        length = jnp.where(ending > _TRUNCATED, last, last + 1)
        powers = jnp.cumprod(jnp.full((self.n_step,), gamma, jnp.float32))
        powers = jnp.concatenate([jnp.ones(1, jnp.float32), powers])
        within = step[:-1] < length
        final = self._num_rows + rows[last] // self._steps_per_place
        successor = jnp.where(ending == _TRUNCATED, final, rows[length])
        return ReplaySample(
            obs=jax.tree.map(lambda ring: ring[start, env], state.obs),
            action=jax.tree.map(lambda ring: ring[start, env], state.action),
            reward=jnp.sum(jnp.where(within, powers[:-1] * rewards, 0.0)),
            discount=jnp.where(ending == _TERMINATED, 0.0, powers[length]),
            next_obs=jax.tree.map(lambda ring: ring[successor, env], state.obs),
            later_obs=jax.tree.map(lambda ring: ring[rows[1:-1], env], state.obs),
            later_discount=jnp.where(within, powers[:-1], 0.0)[1:],
            weight=jnp.float32(1.0),
            index=start * self.num_envs + env,
        )


def _read(ring: Array, row: Array, num_rows: int) -> Array:
    return lax.dynamic_slice_in_dim(ring, row, num_rows, axis=0)


def _write(ring: Array, new: Array, row: Array) -> Array:
    return lax.dynamic_update_slice_in_dim(ring, new.astype(ring.dtype), row, axis=0)


@struct.dataclass
class PrioritizedState:
    """A ring and the priorities of its windows.

    Attributes:
        ring: see `ReplayState`.
        priorities: to the power of the exponent; 0 where no window begins.
        max_priority: float32, the largest so far, to the power of the exponent.
    """

    ring: ReplayState
    priorities: SumTree
    max_priority: Array


@struct.dataclass
class PrioritizedReplay:
    """Sampling in proportion to priorities (Schaul et al. 2016, "Prioritized Experience Replay", arXiv:1511.05952).

    ``P(i) = p_i^alpha / sum_k p_k^alpha`` with weights ``w_i = P(i)^-beta / max_j P(j)^-beta`` over the batch (equation
    1 and section 3.4; the number of windows cancels). New windows get the largest priority so far, as do those whose
    error is not a finite number.
    """

    ring: Replay
    exponent: float = struct.field(default=0.6, help="alpha; 0 is uniform", within="[0, inf)")
    correction: float | Array = struct.field(
        default=0.4, help="beta; 1 corrects the bias of sampling fully", within="[0, 1]"
    )

    def __post_init__(self) -> None:
        struct.check_fields(self)

    def init(self, obs: PyTree, action: PyTree) -> PrioritizedState:
        """See `Replay.init`."""
        ring = self.ring.init(obs, action)
        return PrioritizedState(ring, sum_tree.init(self.ring._num_rows * self.ring.num_envs), jnp.float32(1.0))

    def add(self, state: PrioritizedState, transitions: Transition) -> PrioritizedState:
        """See `Replay.add`; windows that this completes get the largest priority so far."""
        replay, ring = self.ring, state.ring
        # The leaf of a window lies `n_step` rows after its first: there, windows become complete as rows are written,
        # in one slice. (None is complete while the first rows of all are written.)
        step = jnp.arange(replay.rollout_length, dtype=jnp.int32)[:, None]
        complete = ring.size + step >= replay.n_step
        expired = replay._wrapped(ring.position - replay._rows_in_use)
        start = replay._wrapped(ring.position - replay.n_step + step)
        ring = replay.add(ring, transitions)
        kept = replay._rows_to_keeper(ring, start, jnp.arange(replay.num_envs)[None]) == 0
        fresh = jnp.where(complete & kept, state.max_priority, 0.0).ravel()
        tree = sum_tree.set_slice(state.priorities, expired * replay.num_envs, jnp.zeros_like(fresh))
        tree = sum_tree.set_slice(tree, state.ring.position * replay.num_envs, fresh)
        return PrioritizedState(ring, tree, state.max_priority)

    def sample(self, state: PrioritizedState, key: Array, batch_size: int, gamma: float | Array) -> ReplaySample:
        """Draw windows with replacement in proportion to their priorities. At least `n_step` + 1 rows must be there."""
        leaf, priority = sum_tree.sample(state.priorities, key, batch_size)
        batch = self.ring.windows(state.ring, self._shift(leaf, -self.ring.n_step), gamma)
        correction = (jnp.min(priority) / priority) ** self.correction
        return struct.replace(batch, weight=correction)

    def update(self, state: PrioritizedState, index: Array, priority: Array) -> PrioritizedState:
        """Set the priorities ``[batch_size]`` of windows just sampled: ``|TD error|``, not negative.

        One that is NaN or infinite says as little about a window as if it were new: it gets the largest so far.
        """
        # Never exactly 0: what was learned perfectly once may matter again. And no gradient: priorities are data.
        powered = jnp.maximum((lax.stop_gradient(priority) + 1e-6) ** self.exponent, jnp.finfo(jnp.float32).tiny)
        powered = jnp.where(jnp.isfinite(powered), powered, state.max_priority)
        row, env = jnp.divmod(index, self.ring.num_envs)
        kept = self.ring._rows_to_keeper(state.ring, row, env) == 0
        leaf = self._shift(index, self.ring.n_step)
        tree = sum_tree.set_at(state.priorities, leaf, jnp.where(kept, powered, 0.0))
        return PrioritizedState(state.ring, tree, jnp.maximum(state.max_priority, jnp.max(powered)))

    def _shift(self, index: Array, rows: int) -> Array:
        size = self.ring._num_rows * self.ring.num_envs
        return (index + rows * self.ring.num_envs) % size
