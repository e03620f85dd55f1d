"""Diagnosis of the gradients of an environment's return with respect to its actions, at growing horizons."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from purerl import struct
from purerl.errors import InputError
from purerl.physics.diagnostics.gradients import GradientComparison, compare_gradients
from purerl.physics.diagnostics.trajectory import follow, jacobian_growth, perturbed_return
from purerl.spaces import Box
from purerl.types import Array, Environment, Policy, PyTree

HORIZONS = (1, 2, 4, 8, 16, 32, 64, 128)

MAX_ROUGHNESS = 5.0
"""Largest roughness (see `GradientComparison`) at which gradients are not called noise."""


@struct.dataclass
class Diagnosis:
    """Result of `diagnose` for S start states and H horizons.

    The fields are NumPy arrays; the properties aggregate over starts and have the shape ``[H]``. Starts without any
    finite gradient are left out of means.

    Attributes:
        horizons: ``[H]``, ascending.
        steps: ``[S, H]``, number of steps within each horizon before the episode ended.
        comparison: comparison of gradients with respect to an offset of all actions (see `diagnose`), leading axes
            ``[S, H]``.
        growth: ``[S, H]``, see `jacobian_growth`.
    """

    horizons: Array
    steps: Array
    comparison: GradientComparison
    growth: Array

    @property
    def gradient_norm(self) -> np.ndarray:
        """Norm of the first-order mean, root mean square over starts."""
        return _norm_over_starts(self.comparison.first_order)

    @property
    def zeroth_order_norm(self) -> np.ndarray:
        """Norm of the zeroth-order mean, root mean square over starts."""
        return _norm_over_starts(self.comparison.zeroth_order)

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviation of a single gradient, root mean square over starts."""
        return np.sqrt(_mean_over_starts(self.comparison.first_order_variance))

    @property
    def zeroth_order_deviation(self) -> np.ndarray:
        """Standard deviation of the zeroth-order estimate from a single pair, root mean square over starts."""
        return np.sqrt(_mean_over_starts(self.comparison.zeroth_order_variance))

    @property
    def relative_deviation(self) -> np.ndarray:
        """Ratio of `deviation` and `gradient_norm`; NaN where both are 0."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.deviation / self.gradient_norm

    @property
    def roughness(self) -> np.ndarray:
        """Largest roughness over starts; NaN where the return is constant at all of them."""
        return np.fmax.reduce(self.comparison.roughness, axis=0)

    @property
    def cosine(self) -> np.ndarray:
        """Cosine between the first- and the zeroth-order means of all starts together; NaN where one is 0."""
        both = np.asarray([self.comparison.first_order, self.comparison.zeroth_order], np.float64)
        first, zeroth = np.where(np.isnan(both).any(axis=(0, 3), keepdims=True), 0.0, both)
        norms = np.linalg.norm(first, axis=(0, 2)) * np.linalg.norm(zeroth, axis=(0, 2))
        with np.errstate(invalid="ignore"):
            return np.sum(first * zeroth, axis=(0, 2)) / norms

    @property
    def num_biased(self) -> np.ndarray:
        """Number of starts at which the gradient is biased."""
        return np.sum(self.comparison.biased, axis=0)

    @property
    def bias(self) -> tuple[np.ndarray, np.ndarray]:
        """Bias ``[H]`` and its interval ``[H, 2]`` at the start with the largest ratio of bias to interval."""
        bias, interval = np.asarray(self.comparison.bias), np.asarray(self.comparison.bias_interval)
        with np.errstate(invalid="ignore", divide="ignore"):
            certainty = np.abs(bias) / (interval[..., 1] - interval[..., 0])
        # NaN: exact agreement, or no finite gradient. Neither is evidence of a bias.
        start, horizon = np.argmax(np.where(np.isnan(certainty), -1.0, certainty), axis=0), np.arange(bias.shape[1])
        return bias[start, horizon], interval[start, horizon]

    @property
    def nonfinite(self) -> np.ndarray:
        """Fraction of gradients that are not finite."""
        return np.mean(self.comparison.nonfinite, axis=0)

    @property
    def mean_growth(self) -> np.ndarray:
        """Mean of `growth` over starts."""
        return _mean_over_starts(self.growth)

    @property
    def is_detached(self) -> bool:
        """Whether every gradient is exactly 0: no reward depends on an action through a differentiable path."""
        return bool(np.all(self.comparison.norms == 0.0))

    @property
    def obstacles(self) -> list[str]:
        """Problem of the gradients at each horizon, as text; empty if there is none."""
        return [self._obstacle(i) for i in range(len(self.horizons))]

    @property
    def recommended_horizon(self) -> int | None:
        """Largest horizon up to which the gradients have no problem; None if they have one at the first horizon."""
        good = [not obstacle for obstacle in self.obstacles]
        count = good.index(False) if False in good else len(good)
        return int(self.horizons[count - 1]) if count else None

    def _obstacle(self, i: int) -> str:
        if self.is_detached:
            return "the reward does not depend on the actions by a differentiable path: every gradient is exactly 0"
        if self.nonfinite[i] > 0:
            return f"{100 * self.nonfinite[i]:.2g} % of the gradients are not finite"
        if self.num_biased[i] > 0:
            return f"gradients are biased at {self.num_biased[i]} of {len(self.growth)} starts: the dynamics jump"
        if self.roughness[i] > MAX_ROUGHNESS:
            return f"gradients are {self.roughness[i]:.2g} times as large as the values suggest: mostly noise"
        return ""


def diagnose(
    env: Environment,
    key: Array,
    *,
    horizons: Sequence[int] = HORIZONS,
    num_samples: int = 512,
    sigma: float = 0.1,
    num_starts: int = 4,
    policy: Policy | None = None,
    confidence: float = 0.95,
) -> Diagnosis:
    """Compare first- and zeroth-order gradients of the return over the first steps, for several horizons.

    At each start state a nominal sequence of actions is recorded. The sum of rewards over the first h steps is
    differentiated with respect to an offset that is added to all actions, like the bias in the last layer of a policy.
    So the gradient is the sum over all paths from any action to any later reward, as in training. Independent noise for
    each action would have h times as many dimensions, too many for a zeroth-order estimate; and a damped system soon
    forgets a change of its first action only. The offset is not clipped: where a simulator clips actions, the gradient
    is 0, and this is right.

    The confidence is that of the whole report: an environment without jumps is called biased at any start or horizon
    with probability ``1 - confidence`` or less.

    Args:
        env: the environment, with continuous actions.
        key: randomness.
        horizons: numbers of steps; one compiled program computes all.
        num_samples: number of antithetic pairs of perturbations per start; each pair is two rollouts.
        sigma: standard deviation of the perturbation, in units of half the range of an action (1 without bounds).
        num_starts: number of start states, computed one after the other.
        policy: policy of the nominal actions; by default they are uniformly random in the middle half of their range.
            (Zero is often the action of least cost, where the gradient of that cost is 0 and the rest is noise.)
        confidence: see above.

    Raises:
        InputError: for actions that are not continuous, or numbers out of range.
    """
    check_actions(env)
    for horizon in horizons:
        struct.check_value("horizon", horizon, int, "[1, inf)")
    if not horizons:
        raise InputError("diagnosing needs at least one horizon")
    struct.check_value("sigma", sigma, float, "(0, inf)")
    struct.check_value("num_starts", num_starts, int, "[1, inf)")
    struct.check_value("confidence", confidence, float, "(0, 1)")
    ascending = sorted(set(horizons))
    # Bonferroni: as many tests as there are starts and horizons.
    each = 1.0 - (1.0 - confidence) / (num_starts * len(ascending))
    diagnosis = _diagnose(
        env,
        _random_policy(env) if policy is None else policy,
        key,
        jnp.array(ascending),
        jnp.float32(sigma),
        length=ascending[-1],
        num_starts=num_starts,
        num_samples=num_samples,
        confidence=each,
    )
    return jax.device_get(diagnosis)


def check_actions(env: Environment) -> Box:
    """Action space of `env`, which must be continuous.

    Raises:
        InputError: if derivatives with respect to its actions do not exist.
    """
    space = env.action_space
    if not isinstance(space, Box) or not jnp.issubdtype(space.dtype, jnp.floating):
        raise InputError(f"gradients need continuous actions, got {space}")
    return space


@partial(jax.jit, static_argnames=("length", "num_starts", "num_samples", "confidence"))
def _diagnose(
    env: Environment,
    policy: Policy,
    key: Array,
    horizons: Array,
    sigma: Array,
    *,
    length: int,
    num_starts: int,
    num_samples: int,
    confidence: float,
) -> Diagnosis:
    space = check_actions(env)
    half = jnp.asarray(_half(space))

    def at_start(key: Array) -> tuple[Array, GradientComparison, Array]:
        start_key, sample_key, growth_key = jax.random.split(key, 3)
        trajectory = follow(env, policy, start_key, length)

        def over(horizon: Array) -> GradientComparison:
            return compare_gradients(
                lambda x: perturbed_return(env, trajectory, half * x.reshape(space.shape), horizon),
                jnp.zeros(half.size),
                sample_key,
                sigma=sigma,
                num_samples=num_samples,
                confidence=confidence,
            )

        comparison = lax.map(over, horizons)
        steps = jnp.cumsum(trajectory.running)[horizons - 1]
        return steps, comparison, jacobian_growth(env, trajectory, growth_key, horizons)

    # Starts and horizons one after the other: one set of samples uses all cores, and more would need too much memory.
    steps, comparison, growth = lax.map(at_start, jax.random.split(key, num_starts))
    return Diagnosis(horizons, steps, comparison, growth)


def _random_policy(env: Environment) -> Policy:
    """Policy with uniformly random actions from the middle half of their range."""
    return Policy(jax.tree_util.Partial(_act_at_random, env))


def _act_at_random(env: Environment, key: Array, carry: PyTree, obs: Array) -> tuple[Array, PyTree, dict[str, Array]]:
    del obs
    space = check_actions(env)
    return space.from_unit(jax.random.uniform(key, space.shape, minval=-0.5, maxval=0.5)), carry, {}


def _half(space: Box) -> np.ndarray:
    """Half the range of each entry; 1 without two bounds."""
    low, high = space.bounds
    bounded = np.isfinite(low) & np.isfinite(high)
    return 0.5 * (np.where(bounded, high, np.float32(1.0)) - np.where(bounded, low, np.float32(-1.0)))


def _norm_over_starts(gradients: Array) -> np.ndarray:
    """Norm of gradients ``[S, H, n]``, root mean square over starts."""
    return np.sqrt(_mean_over_starts(np.sum(np.square(gradients, dtype=np.float64), axis=2)))


def _mean_over_starts(numbers: Array) -> np.ndarray:
    """Mean of ``[S, H]`` over the starts that are not NaN; NaN if all are."""
    present = ~np.isnan(numbers)
    with np.errstate(invalid="ignore"):
        return np.sum(np.where(present, numbers, 0.0), axis=0) / np.sum(present, axis=0)
