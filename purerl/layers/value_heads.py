"""Value heads of Q-networks: expected return, C51 and quantile regression.

A head maps the network's outputs for one action to a value, and a transition to a loss. It determines code and shapes,
so it is static data and not a pytree: heads with equal fields are equal, have equal hashes and share compiled programs.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.scipy.special import entr

from purerl import struct
from purerl.errors import InputError

Array = jax.Array


@runtime_checkable
class ValueHead(Protocol):
    """Description of the return of an action by `num_outputs` numbers, written K."""

    @property
    def num_outputs(self) -> int:
        """Number K of network outputs per action."""
        ...

    def value(self, output: Array) -> Array:
        """Expected return ``[...]`` of ``output [..., K]``."""
        ...

    def loss(self, output: Array, reward: Array, discount: Array, next_output: Array) -> tuple[Array, Array]:
        """Loss and priority of `output` for the target of one transition; no gradient flows into the target.

        Args:
            output: ``[K]``, network outputs for the action taken.
            reward: scalar, sum of discounted rewards up to the successor.
            discount: scalar, factor of the return from the successor: ``gamma^n``, or 0 if the task ended before it.
                With 0, `next_output` has no influence, even if it is infinite or NaN.
            next_output: ``[K]``, network outputs for the action chosen at the true successor.

        Returns:
            ``(loss, priority)``: the scalar to minimise, and the priority of the transition in a replay, >= 0.
        """
        ...


@dataclasses.dataclass(frozen=True)
class ExpectedValue:
    """Expected return, by temporal-difference learning (Mnih et al. 2015, "Human-level control ...").

    The clipping of errors to +-1 in the paper is the Huber loss with threshold 1. The priority is the absolute error
    (Schaul et al. 2016, arXiv:1511.05952, section 3.3).

    Attributes:
        huber_delta: threshold of the Huber loss in units of the return: the loss is ``e^2 / 2`` up to this error, and
            linear with slope `huber_delta` beyond it; None squares every error.
    """

    huber_delta: float | None = struct.field(
        default=1.0, static=True, help="threshold of the Huber loss; none for squared errors", within="(0, inf)"
    )

    def __post_init__(self) -> None:
        _check(self)

    @property
    def num_outputs(self) -> int:
        """Number of network outputs per action: 1."""
        return 1

    def value(self, output: Array) -> Array:
        """Value ``[...]``: ``output [..., 1]`` without its last axis."""
        return output[..., 0]

    def loss(self, output: Array, reward: Array, discount: Array, next_output: Array) -> tuple[Array, Array]:
        """Huber loss or half the squared error, and the absolute error: see `ValueHead.loss`."""
        target = reward + discount * self.value(_unless_terminal(discount, next_output))
        error = lax.stop_gradient(target) - self.value(output)
        delta = self.huber_delta
        loss = optax.losses.l2_loss(error) if delta is None else optax.losses.huber_loss(error, delta=delta)
        return loss, jnp.abs(error)


@dataclasses.dataclass(frozen=True)
class C51:
    """Categorical distribution of the return on a fixed, even grid of atoms (Bellemare et al. 2017, arXiv:1707.06887).

    Outputs are logits. The target distribution, shifted and scaled by the Bellman equation, is projected back onto the
    grid; returns beyond the grid count as its ends. The priority is the KL divergence of the prediction from the target
    (Hessel et al. 2018, "Rainbow", arXiv:1710.02298): unlike the loss, it is 0 where they are equal.

    Attributes:
        num_atoms: number of atoms of the grid.
        v_min: lowest return of the grid.
        v_max: highest return of the grid.
    """

    num_atoms: int = struct.field(
        default=51, static=True, help="atoms of the distribution of returns", within="[2, inf)"
    )
    v_min: float = struct.field(default=-10.0, static=True, help="return of the lowest atom", within="(-inf, inf)")
    v_max: float = struct.field(default=10.0, static=True, help="return of the highest atom", within="(-inf, inf)")

    def __post_init__(self) -> None:
        _check(self)
        if not self.v_min < self.v_max:
            raise InputError(f"v_min must be less than v_max, got v_min {self.v_min!r} and v_max {self.v_max!r}")
        if not np.all(np.diff(self._atoms) > 0.0):
            raise InputError(
                f"v_min and v_max must be far enough apart for {self.num_atoms} different float32 numbers, "
                f"got {self.v_min!r} and {self.v_max!r}"
            )

    @property
    def num_outputs(self) -> int:
        """Number of network outputs per action: one logit per atom."""
        return self.num_atoms

    @property
    def support(self) -> Array:
        """Atoms ``[num_atoms]`` from `v_min` to `v_max`."""
        return jnp.asarray(self._atoms)

    @property
    def _atoms(self) -> np.ndarray:
        return np.linspace(self.v_min, self.v_max, self.num_atoms).astype(np.float32)

    def value(self, output: Array) -> Array:
        """Mean ``[...]`` of the atoms under ``softmax(output [..., num_atoms])``."""
        # No matrix product: accelerators round its factors, and the best action depends on small differences.
        return jnp.sum(jax.nn.softmax(output) * jnp.broadcast_to(self.support, output.shape), axis=-1)

    def loss(self, output: Array, reward: Array, discount: Array, next_output: Array) -> tuple[Array, Array]:
        """Cross-entropy and KL divergence from the projected target: see `ValueHead.loss`."""
        next_probabilities = jax.nn.softmax(_unless_terminal(discount, next_output))
        target = lax.stop_gradient(project(reward + discount * self.support, next_probabilities, self.support))
        cross_entropy = -jnp.sum(target * jax.nn.log_softmax(output))
        # Rounding can take a KL divergence below 0.
        return cross_entropy, jnp.maximum(cross_entropy - jnp.sum(entr(target)), 0.0)


@dataclasses.dataclass(frozen=True)
class QuantileRegression:
    """Quantiles of the return at the midpoints ``(2 i + 1) / 2 N`` (Dabney et al. 2018, arXiv:1710.10044).

    The loss is the quantile Huber loss (equation 10)::

        sum_i mean_j |tau_i - 1{u_ij < 0}| Huber_kappa(u_ij) / kappa,    u_ij = target_j - output_i

    With the division by kappa it tends to the loss of quantile regression, ``|tau_i - 1{u < 0}| |u|``, as kappa goes
    to 0.

    The priority is the absolute error of the mean, as in `ExpectedValue`. The loss is not suitable: even where
    prediction and target are equal it is above 0, and larger for a wider distribution.

    Attributes:
        num_quantiles: number N of quantiles.
        huber_kappa: threshold of the Huber loss in units of the return: larger errors count linearly.
    """

    num_quantiles: int = struct.field(default=200, static=True, help="quantiles of the return", within="[1, inf)")
    huber_kappa: float = struct.field(
        default=1.0, static=True, help="threshold of the quantile Huber loss", within="(0, inf)"
    )

    def __post_init__(self) -> None:
        _check(self)

    @property
    def num_outputs(self) -> int:
        """Number of network outputs per action: one return per quantile."""
        return self.num_quantiles

    def value(self, output: Array) -> Array:
        """Mean ``[...]`` of the quantiles ``output [..., num_quantiles]``."""
        return jnp.mean(output, axis=-1)

    def loss(self, output: Array, reward: Array, discount: Array, next_output: Array) -> tuple[Array, Array]:
        """Quantile Huber loss, and the absolute error of the mean: see `ValueHead.loss`."""
        target = lax.stop_gradient(reward + discount * _unless_terminal(discount, next_output))
        tau = (jnp.arange(self.num_quantiles, dtype=jnp.float32) + 0.5) / self.num_quantiles
        error = target[None, :] - output[:, None]
        weight = jnp.abs(tau[:, None] - (error < 0.0))
        huber = optax.losses.huber_loss(error, delta=self.huber_kappa) / self.huber_kappa
        loss = jnp.sum(jnp.mean(weight * huber, axis=1))
        return loss, jnp.abs(self.value(target) - self.value(output))


def project(atoms_from: Array, probabilities: Array, support: Array) -> Array:
    """Projection of a distribution onto the atoms of an even grid (Bellemare et al. 2017, algorithm 1).

    Each probability is divided between the two grid points around it, which keeps total and mean; mass beyond the grid
    goes to its ends. The equivalent form with a triangular kernel (equation 7) needs no special case for mass on a grid
    point: ``sum_j clip(1 - |T z_j - z_i| / dz, 0, 1) p_j``.

    Args:
        atoms_from: ``[K]``, returns of the distribution.
        probabilities: ``[K]``, their probabilities.
        support: ``[K]``, the grid, ascending, K >= 2.

    Returns:
        Probabilities ``[K]`` of the grid's atoms.
    """
    last = support.shape[0] - 1
    # In units of the grid's step neighbours are exactly 1 apart, and the two shares of a mass have an exact sum.
    position = jnp.clip((atoms_from - support[0]) * (last / (support[-1] - support[0])), 0.0, last)
    distance = jnp.abs(position[:, None] - jnp.arange(last + 1, dtype=position.dtype)[None, :])
    # On CPU this matrix product takes a third of the time of a sum of products. A scatter of each mass to its two grid
    # points would not be faster, and on accelerators its order of additions differs from run to run.
    return jnp.matmul(probabilities, jnp.maximum(1.0 - distance, 0.0), precision=lax.Precision.HIGHEST)


def _unless_terminal(discount: Array, next_output: Array) -> Array:
    """Network outputs at the successor, or zeros where the discount is 0: they may be NaN there, and 0 * NaN is NaN."""
    return jnp.where(discount == 0.0, 0.0, next_output)


def _check(head: Any) -> None:
    """Raise `InputError` unless every field is a plain, hashable number in its interval, or an allowed None."""
    for f in dataclasses.fields(head):
        value = getattr(head, f.name)
        if not isinstance(value, int | float | np.integer | np.floating | None):
            raise InputError(f"{f.name} must be a plain number in {f.metadata['within']}, got {value!r}")
    struct.check_fields(head)
