"""Replay of past steps: write in place, sample at a cost that depends on the batch alone.

A ring of rows, one per time step of all environments. Rows are written as one slice whose place is the same for every
member of a population, so that it stays a slice under `jax.vmap` (a scatter would copy or loop).

**Observations are stored once.** The successor of a step is the observation of the next row, but for two cases. After a
terminated step there is nothing to bootstrap from, so none is needed. After a truncated one (a time limit) the true
successor is kept apart: one for every `FINAL_EVERY` or so steps of an environment. Should two episodes of an
environment be cut off within so few steps, the earlier one's last step is drawn with weight 0; any other time limit
loses nothing.

**Windows of n steps** (Sutton & Barto 2018, section 7.1) are put together when they are sampled::

    R = sum_{k < m} gamma^k r_{t+k},    discount = gamma^m (1 - terminated),    target = R + discount V(s_{t+m})

with ``m = n``, or less where the episode ends within the window, for whichever reason; `terminated` alone stops
bootstrapping. A window is drawn once its last successor has been seen: the newest `n` steps wait for the next `add`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from purerl import memory, struct, sum_tree
from purerl.errors import InputError
from purerl.sum_tree import SumTree
from purerl.types import Array, PyTree, Transition

FINAL_EVERY = 16
"""Steps of one environment that share a place for the observation at a time limit, at least."""

_GOES_ON, _TERMINATED, _TRUNCATED, _LOST = map(float, range(4))


@struct.dataclass
class Experience:
    """What to learn from; leaves ``[batch_size, ...]``.

    Attributes:
        obs: where the window begins.
        action: taken there, as it was given to `add`.
        reward: float32, discounted sum over the window.
        discount: float32, factor of the value of `next_obs` in the target; 0 where the task terminated.
        next_obs: the true successor of the window's last step; arbitrary where `discount` is 0.
        weight: float32, of this sample in the loss: importance weight, and 0 where `next_obs` was lost.
        index: int32, for `update`.
    """

    obs: PyTree
    action: PyTree
    reward: Array
    discount: Array
    next_obs: PyTree
    weight: Array
    index: Array


@struct.dataclass
class ReplayState:
    """The ring. `position` and `size` are the same for all members of a population.

    What is read together lies together: a sample costs what it costs to fetch it from main memory.

    Attributes:
        obs: ``[rows + rows / steps per final, num_envs, ...]``, in the observation's own dtype; behind the ring, the
            true successors of truncated steps.
        action: ``[rows, num_envs, ...]``.
        outcome: float32 ``[rows, num_envs, 2]``: the reward; and 0 if the episode goes on, 1 if it was terminated, 2 if
            truncated, 3 if truncated and its successor lost.
        position: int32, the row to write next.
        size: int32, rows written so far, counted up to as many as are ever looked at.
    """

    obs: PyTree
    action: PyTree
    outcome: Array
    position: Array = struct.field(shared=True)
    size: Array = struct.field(shared=True)


@struct.dataclass
class Replay:
    """Uniform sampling from the newest `capacity` windows.

    Raises:
        InputError: if `capacity` is not made of whole rollouts.
    """

    capacity: int = struct.field(static=True, help="steps of all environments to choose from", within="[1, 2147483647]")
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
        num_bytes = memory.num_bytes(state)
        memory.check_fits(
            num_bytes, f"a replay of {self.capacity:,} steps x {num_bytes / self.capacity:.1f} bytes", "buffer_size"
        )
        return self._empty(obs, action)

    def num_rollouts(self, warmup_steps: int) -> int:
        """How many times `add` must be called for `warmup_steps` steps before the first `sample`.

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
        per_group = self._steps_per_final
        num_groups = max(self.rollout_length // per_group, 1)
        group, offset = jnp.divmod(state.position, per_group)

        # Within each group of steps that shares a place, the last one truncated keeps its true successor there.
        truncated = rows.truncated.reshape(num_groups, -1, self.num_envs)
        last = truncated.shape[1] - 1 - jnp.argmax(truncated[:, ::-1], axis=1, keepdims=True)
        any_truncated = truncated.any(axis=1, keepdims=True)

        def write_obs(ring: Array, new: Array, successors: Array) -> Array:
            successors = successors.reshape(num_groups, -1, *successors.shape[1:])
            trailing = (1,) * (successors.ndim - 3)
            final = jnp.take_along_axis(successors, last.reshape(*last.shape, *trailing), axis=1)
            ring = _write(ring, new, state.position)
            before = _read(ring, self._num_rows + group, num_groups)[:, None]
            kept = jnp.where(any_truncated.reshape(*last.shape, *trailing), final, before)
            return _write(ring, kept[:, 0], self._num_rows + group)

        ending = jnp.where(rows.terminated, _TERMINATED, jnp.where(rows.truncated, _TRUNCATED, _GOES_ON))
        outcome = _read(state.outcome, group * per_group, num_groups * per_group)
        outcome = _write(outcome, jnp.stack([rows.reward, ending], axis=-1), offset)
        reward, ending = jnp.moveaxis(outcome.reshape(num_groups, per_group, self.num_envs, 2), -1, 0)
        is_last = jnp.arange(per_group)[None, :, None] == offset + last
        ending = jnp.where((ending == _TRUNCATED) & any_truncated & ~is_last, _LOST, ending)
        outcome = jnp.stack([reward, ending], axis=-1).reshape(-1, self.num_envs, 2)
        return ReplayState(
            obs=jax.tree.map(write_obs, state.obs, rows.obs, rows.next_obs),
            action=jax.tree.map(lambda ring, new: _write(ring, new, state.position), state.action, rows.action),
            outcome=_write(state.outcome, outcome, group * per_group),
            position=(state.position + self.rollout_length) % self._num_rows,
            size=jnp.minimum(state.size + self.rollout_length, self._rows_in_use + self.n_step),
        )

    def sample(self, state: ReplayState, key: Array, batch_size: int, gamma: float | Array) -> Experience:
        """Draw windows with replacement, each with the same probability. At least `n_step` + 1 rows must be there."""
        count = (state.size - self.n_step) * self.num_envs
        age, env = jnp.divmod(jax.random.randint(key, (batch_size,), 0, count), self.num_envs)
        row = (state.position - self.n_step - 1 - age) % self._num_rows
        return self.windows(state, row * self.num_envs + env, gamma)

    def update(self, state: ReplayState, index: Array, priority: Array) -> ReplayState:
        """Nothing: all windows stay equally likely, whatever was learned from them."""
        del index, priority
        return state

    def windows(self, state: ReplayState, index: Array, gamma: float | Array) -> Experience:
        """The windows that begin at ``index [batch_size]``, ``row * num_envs + environment``."""
        return jax.vmap(self._window, in_axes=(None, 0, None))(state, index, gamma)

    @property
    def ring(self) -> Replay:
        """What a `PrioritizedReplay` is built around; here there is nothing else."""
        return self

    @property
    def _rows_in_use(self) -> int:
        return self.capacity // self.num_envs

    @property
    def _steps_per_final(self) -> int:
        """A multiple or a divisor of `rollout_length`, so that no slice ever wraps around."""
        length = self.rollout_length
        if length < FINAL_EVERY:
            return length * -(-FINAL_EVERY // length)
        return next(steps for steps in range(FINAL_EVERY, length + 1) if length % steps == 0)

    @property
    def _num_rows(self) -> int:
        """Enough that neither a window in use nor a successor it needs is half overwritten."""
        slack = self.n_step + self._steps_per_final
        unit = max(self.rollout_length, self._steps_per_final)
        return -(-(self._rows_in_use + slack) // unit) * unit

    def _empty(self, obs: PyTree, action: PyTree) -> ReplayState:
        def rows(leaf: Any, num_rows: int) -> Array:
            return jnp.zeros((num_rows, self.num_envs, *leaf.shape), leaf.dtype)

        num_groups = self._num_rows // self._steps_per_final
        return ReplayState(
            obs=jax.tree.map(lambda leaf: rows(leaf, self._num_rows + num_groups), obs),
            action=jax.tree.map(lambda leaf: rows(leaf, self._num_rows), action),
            outcome=rows(jnp.zeros(2), self._num_rows),
            position=jnp.int32(0),
            size=jnp.int32(0),
        )

    def _window(self, state: ReplayState, index: Array, gamma: float | Array) -> Experience:
        start, env = jnp.divmod(index, self.num_envs)
        rows = (start + jnp.arange(self.n_step)) % self._num_rows
        rewards, endings = state.outcome[rows, env].T
        ended = endings != _GOES_ON
        last = jnp.where(ended.any(), jnp.argmax(ended), self.n_step - 1)
        powers = jnp.cumprod(jnp.full((self.n_step,), gamma, jnp.float32))
        before = jnp.concatenate([jnp.ones(1), powers[:-1]])
        ending = endings[last]
        final = self._num_rows + rows[last] // self._steps_per_final
        successor = jnp.where(ending == _TRUNCATED, final, (rows[last] + 1) % self._num_rows)
        return Experience(
            obs=jax.tree.map(lambda ring: ring[start, env], state.obs),
            action=jax.tree.map(lambda ring: ring[start, env], state.action),
            reward=jnp.sum(jnp.where(jnp.arange(self.n_step) <= last, before * rewards, 0.0)),
            discount=jnp.where(ending == _TERMINATED, 0.0, powers[last]),
            next_obs=jax.tree.map(lambda ring: ring[successor, env], state.obs),
            weight=jnp.where(ending == _LOST, 0.0, 1.0),
            index=index,
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
    1 and section 3.4; the number of windows cancels). New windows get the largest priority so far.
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
        complete = ring.size + jnp.arange(replay.rollout_length) >= replay.n_step
        fresh = jnp.repeat(jnp.where(complete, state.max_priority, 0.0), replay.num_envs)
        expired = (ring.position - replay._rows_in_use) % replay._num_rows
        tree = sum_tree.set_slice(state.priorities, expired * replay.num_envs, jnp.zeros_like(fresh))
        tree = sum_tree.set_slice(tree, ring.position * replay.num_envs, fresh)
        return PrioritizedState(replay.add(ring, transitions), tree, state.max_priority)

    def sample(self, state: PrioritizedState, key: Array, batch_size: int, gamma: float | Array) -> Experience:
        """Draw windows with replacement in proportion to their priorities. At least `n_step` + 1 rows must be there."""
        leaf, priority = sum_tree.sample(state.priorities, key, batch_size)
        batch = self.ring.windows(state.ring, self._shift(leaf, -self.ring.n_step), gamma)
        correction = (jnp.min(priority) / priority) ** self.correction
        return struct.replace(batch, weight=batch.weight * correction)

    def update(self, state: PrioritizedState, index: Array, priority: Array) -> PrioritizedState:
        """Set the priorities ``[batch_size]`` of windows just sampled: ``|TD error|``, not negative."""
        # Never exactly 0: what was learned perfectly once may matter again. And no gradient: priorities are data.
        powered = (lax.stop_gradient(priority) + 1e-6) ** self.exponent
        tree = sum_tree.set_at(state.priorities, self._shift(index, self.ring.n_step), powered)
        return PrioritizedState(state.ring, tree, jnp.maximum(state.max_priority, jnp.max(powered)))

    def _shift(self, index: Array, rows: int) -> Array:
        size = self.ring._num_rows * self.ring.num_envs
        return (index + rows * self.ring.num_envs) % size
