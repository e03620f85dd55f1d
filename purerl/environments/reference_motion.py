"""Imitation of a reference motion (DeepMimic: Peng et al. 2018, arXiv:1804.02717).

The task is to follow recorded states ``x_0 .. x_{M-1}`` of the same environment. The reward compares features
``f_i(s)`` of the state after a step, such as pose, velocities and end effectors, with those of the reference at the
same phase p (section 5.3 of the paper)::

    r   = (1 - task_weight) r_I + task_weight r_env
    r_I = sum_i w_i exp(-k_i |f_i(s) - f_i(x_p)|^2) / sum_i w_i

Reference-state initialisation (section 6.1): an episode starts in a state of the motion drawn at random. Early
termination (section 6.2): it ends, without further reward, when a feature is too far from the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from purerl import struct
from purerl.environments.motion import Motion, check_motion
from purerl.environments.wrappers import set_leaf
from purerl.errors import InputError
from purerl.spaces import Box, Space
from purerl.types import Array, Environment, PyTree, TimeStep


@struct.dataclass
class Term:
    """One term of the imitation reward: ``w exp(-k |f(s) - f(x)|^2)``.

    Attributes:
        feature: ``f(state) -> vector``. An angle is best given as its cosine and sine. A function, or a `Partial` of
            one, whose arguments then are leaves.
        weight: w; weights are divided by their sum.
        scale: k, in the inverse square of the feature's unit.
        tolerance: early termination at a distance ``|f(s) - f(x)|`` above this; infinite for none.
    """

    feature: Callable[[PyTree], Array]
    weight: float | Array = struct.field(default=1.0, help="weight", within="(0, inf)")
    scale: float | Array = struct.field(default=1.0, help="decay per squared distance", within="(0, inf)")
    tolerance: float | Array = struct.field(default=math.inf, help="distance that ends the episode", within="(0, inf]")

    def __post_init__(self) -> None:
        struct.check_fields(self)
        if not callable(self.feature):
            raise InputError(f"feature must be a function of the state, got {self.feature!r}")
        struct.wrap_functions(self, "feature")
        for name in ("weight", "scale", "tolerance"):
            set_leaf(self, name, getattr(self, name), np.float32)

    def of(self, state: PyTree) -> Array:
        """The feature as a flat float32 vector."""
        return jnp.ravel(jnp.asarray(self.feature(state), jnp.float32))


@struct.dataclass
class ImitationState:
    """State of `ImitateMotion`: the state of `env`, and the phase as the index of the reference state, int32."""

    env: PyTree
    phase: Array


@struct.dataclass
class ImitateMotion:
    """Environment in which a recorded motion is to be imitated. See the module for the equations.

    The observation is that of `env`, then the phase (from 0 to 1; of a cyclic motion its cosine and sine), then the
    features of the next `num_goals` reference states. The end of a motion is a time limit (`truncated`); early
    termination is an end without future reward (`terminated`). A cyclic motion has no end: add a `TimeLimit` outside.

    Attributes:
        env: the environment of the motion, best without a time limit of its own, which would count in its states.
        motion: the reference.
        terms: terms of the reward by name.
        random_start: probability that an episode starts at a random phase, otherwise at the first. 1 is
            reference-state initialisation; evaluate with 0.
        task_weight: share of the reward of `env`.
        num_goals: number of next reference states to show.
        cyclic: whether the first state follows the last.
    """

    env: Environment
    motion: Motion
    terms: Mapping[str, Term]
    random_start: float | Array = struct.field(default=1.0, help="probability of a random phase", within="[0, 1]")
    task_weight: float | Array = struct.field(default=0.0, help="share of the task reward", within="[0, 1]")
    num_goals: int = struct.field(default=0, static=True, help="next reference states to show", within="[0, inf)")
    cyclic: bool = struct.field(default=False, static=True, help="whether the first state follows the last")

    def __post_init__(self) -> None:
        struct.check_fields(self)
        for name in ("random_start", "task_weight"):
            set_leaf(self, name, getattr(self, name), np.float32)
        terms = dict(self.terms) if isinstance(self.terms, Mapping) else {}
        if not terms or not all(isinstance(term, Term) for term in terms.values()):
            raise InputError(f"terms must map names to at least one Term, got {self.terms!r}")
        object.__setattr__(self, "terms", terms)
        space = self.env.observation_space
        if not isinstance(space, Box) or len(space.shape) != 1 or not space.is_continuous:
            raise InputError(f"a phase can be added to observations that are a float vector, not {space}")
        check_motion(self.env, self.motion)

    @property
    def observation_space(self) -> Box:
        """Observations of `env` with their bounds, the phase, and unbounded goals."""
        low, high = self.env.observation_space.bounds  # type: ignore[union-attr]
        num_goal_entries = jax.eval_shape(lambda: self._goals(jnp.int32(0))).size
        phase_low, phase_high = ((-1.0, -1.0), (1.0, 1.0)) if self.cyclic else ((0.0,), (1.0,))
        low = (*low.tolist(), *phase_low, *[-math.inf] * num_goal_entries)
        high = (*high.tolist(), *phase_high, *[math.inf] * num_goal_entries)
        return Box((len(low),), low, high)

    @property
    def action_space(self) -> Space:
        """Action space of `env`."""
        return self.env.action_space

    def reset(self, key: Array) -> TimeStep:
        """Start in the first state of the motion, or in a random one that has a successor."""
        which_key, phase_key = jax.random.split(key)
        num_starts = self.motion.num_states if self.cyclic else self.motion.num_states - 1
        drawn = jax.random.randint(phase_key, (), 0, num_starts, jnp.int32)
        phase = jnp.where(jax.random.uniform(which_key) < self.random_start, drawn, 0)
        state, obs = jax.tree.map(lambda leaf: jnp.asarray(leaf)[phase], (self.motion.states, self.motion.obs))
        ongoing = jnp.bool_(False)
        start = TimeStep(state, obs, jnp.float32(0.0), terminated=ongoing, truncated=ongoing)
        return self._show(start, phase)

    def step(self, key: Array, state: ImitationState, action: Array) -> TimeStep:
        """Advance `state` by one action and compare it with the reference one phase later."""
        timestep = self.env.step(key, state.env, action)
        phase = self._later(state.phase, 1)
        distances = self.squared_distances(timestep.state, phase)
        imitation, total, lost = jnp.float32(0.0), jnp.float32(0.0), jnp.bool_(False)
        for name, term in self.terms.items():
            imitation += term.weight * jnp.exp(-term.scale * distances[name])
            total += term.weight
            lost |= ~(distances[name] <= jnp.square(term.tolerance))  # so a distance of NaN ends it too
        terminated = timestep.terminated | lost
        over = jnp.bool_(False) if self.cyclic else phase == self.motion.num_states - 1
        shown = self._show(timestep, phase)
        return struct.replace(
            shown,
            reward=(1.0 - self.task_weight) * imitation / total + self.task_weight * timestep.reward,
            terminated=terminated,
            truncated=(timestep.truncated | over) & ~terminated,
        )

    def squared_distances(self, state: PyTree, phase: Array) -> dict[str, Array]:
        """``|f_i(state) - f_i(x_phase)|^2`` of a state of `env`, by the name of the term."""
        reference = self._reference(phase)
        return {name: jnp.sum(jnp.square(term.of(state) - term.of(reference))) for name, term in self.terms.items()}

    def _later(self, phase: Array, steps: int) -> Array:
        num_states = self.motion.num_states
        return (phase + steps) % num_states if self.cyclic else jnp.minimum(phase + steps, num_states - 1)

    def _reference(self, phase: Array) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[phase], self.motion.states)

    def _goals(self, phase: Array) -> Array:
        references = [self._reference(self._later(phase, i + 1)) for i in range(self.num_goals)]
        return jnp.concatenate(
            [jnp.zeros(0, jnp.float32), *(term.of(x) for x in references for term in self.terms.values())]
        )

    def _show(self, timestep: TimeStep, phase: Array) -> TimeStep:
        if self.cyclic:
            angle = 2.0 * math.pi * phase / self.motion.num_states
            shown = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        else:
            shown = (phase / (self.motion.num_states - 1))[None]
        obs = jnp.concatenate([timestep.obs.astype(jnp.float32), shown.astype(jnp.float32), self._goals(phase)])
        return struct.replace(timestep, state=ImitationState(timestep.state, phase), obs=obs)
