"""What a Q-network says about the return of an action: its expectation, or its distribution in one of two forms.

A head turns the outputs for one action into a value, and a transition into a loss. It chooses code and shapes, so it is
no pytree but plain static data: heads of equal fields are equal, have equal hashes and share a compiled program.
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
    """One way to describe the return of an action by `num_outputs` numbers, written K."""

    @property
    def num_outputs(self) -> int:
        """K, outputs of the network per action."""
        ...

    def value(self, output: Array) -> Array:
        """The expected return ``[...]`` of ``output [..., K]``."""
        ...

    def loss(self, output: Array, reward: Array, discount: Array, next_output: Array) -> tuple[Array, Array]:
        """How far `output` is from the target that one transition gives; no gradient flows into the target.

        Args:
            output: ``[K]``, of the action taken.
            reward: scalar, the sum of discounted rewards up to the successor.
            discount: scalar, what the return from the successor counts: ``gamma^n``, or 0 if the task ended before it.
                With 0, `next_output` does not matter, even if it is infinite or NaN.
            next_output: ``[K]``, of the action chosen at the true successor.

        Returns:
            ``(loss, priority)``: the scalar to minimise, and a scalar >= 0, how surprising the transition is.
        """
        ...


@dataclasses.dataclass(frozen=True)
class ExpectedValue:
    """The expected return itself, by temporal-difference learning (Mnih et al. 2015, "Human-level control ...").

    Their clipping of errors to +-1 is the Huber loss with a threshold of 1. The priority is the absolute error (Schaul
    et al. 2016, arXiv:1511.05952, section 3.3).

    Attributes:
        huber_delta: the loss is ``e^2 / 2`` up to this error, in units of the return, and goes on along a straight line
            of slope `huber_delta`; None squares every error.
    """

    huber_delta: float | None = struct.field(
        default=1.0, static=True, help="errors beyond this count linearly; none squares all of them", within="(0, inf)"
    )

    def __post_init__(self) -> None:
        _check(self)

    @property
    def num_outputs(self) -> int:
        """1."""
        return 1

    def value(self, output: Array) -> Array:
        """``output [..., 1]`` without its last axis."""
        return output[..., 0]

    def loss(self, output: Array, reward: Array, discount: Array, next_output: Array) -> tuple[Array, Array]:
        """Huber or half the squared error, and the absolute error: see `ValueHead.loss`."""
        target = reward + discount * self.value(_unless_terminal(discount, next_output))
        error = lax.stop_gradient(target) - self.value(output)
        delta = self.huber_delta
        loss = optax.losses.l2_loss(error) if delta is None else optax.losses.huber_loss(error, delta=delta)
        return loss, jnp.abs(error)


@dataclasses.dataclass(frozen=True)
class C51:
    """Probabilities of returns on a fixed, even grid of atoms (Bellemare et al. 2017, arXiv:1707.06887).

    Outputs are logits. The target distribution, moved and shrunk by the Bellman equation, is projected back onto the
    grid; returns beyond the grid count as its ends. The priority is the KL divergence of the prediction from the target
    (Hessel et al. 2018, "Rainbow", arXiv:1710.02298): unlike the loss, it is 0 where they agree.

    Attributes:
        num_atoms: of the grid.
        v_min: lowest return.
        v_max: highest return.
    """

    num_atoms: int = struct.field(default=51, static=True, help="returns that get a probability", within="[2, inf)")
    v_min: float = struct.field(default=-10.0, static=True, help="lowest of these returns", within="(-inf, inf)")
    v_max: float = struct.field(default=10.0, static=True, help="highest of these returns", within="(-inf, inf)")

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
        """One logit per atom."""
        return self.num_atoms

    @property
    def support(self) -> Array:
        """The atoms, ``[num_atoms]``, from `v_min` to `v_max`."""
        return jnp.asarray(self._atoms)

    @property
    def _atoms(self) -> np.ndarray:
        return np.linspace(self.v_min, self.v_max, self.num_atoms).astype(np.float32)

    def value(self, output: Array) -> Array:
        """The mean of the atoms under ``softmax(output [..., num_atoms])``."""
        # No matrix product: accelerators round its factors, and which action is best hangs on small differences.
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

    Learned by the quantile Huber loss (equation 10)::

        sum_i mean_j |tau_i - 1{u_ij < 0}| Huber_kappa(u_ij) / kappa,    u_ij = target_j - output_i

    where the division makes it tend to the loss of quantile regression, ``|tau_i - 1{u < 0}| |u|``, as kappa goes to 0.

    The priority is the absolute error of the mean, that which `ExpectedValue` would report. The loss would not do: it
    is above 0, and the higher the wider the distribution, even where prediction and target agree.

    Attributes:
        num_quantiles: N.
        huber_kappa: errors up to this, in units of the return, count quadratically.
    """

    num_quantiles: int = struct.field(default=200, static=True, help="quantiles of the return", within="[1, inf)")
    huber_kappa: float = struct.field(
        default=1.0, static=True, help="errors beyond this count linearly", within="(0, inf)"
    )

    def __post_init__(self) -> None:
        _check(self)

    @property
    def num_outputs(self) -> int:
        """One return per quantile."""
        return self.num_quantiles

    def value(self, output: Array) -> Array:
        """The mean of the quantiles ``output [..., num_quantiles]``."""
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
    """Move probability mass onto the atoms of an even grid (Bellemare et al. 2017, algorithm 1).

    Each mass is divided between the two grid points around it, so that total and mean stay what they were; what lies
    beyond the grid goes to its ends. Here in the equal form of a triangular kernel (equation 7), which needs no special
    case for mass that falls on a grid point: ``sum_j clip(1 - |T z_j - z_i| / dz, 0, 1) p_j``.

    Args:
        atoms_from: ``[K]``, where the mass is.
        probabilities: ``[K]``, how much.
        support: ``[K]``, the grid, ascending, K >= 2.

    Returns:
        Probabilities ``[K]`` of the grid's atoms.
    """
    last = support.shape[0] - 1
    # In steps of the grid: there neighbours are exactly 1 apart, and a mass's two shares add up to it without rounding.
    position = jnp.clip((atoms_from - support[0]) * (last / (support[-1] - support[0])), 0.0, last)
    distance = jnp.abs(position[:, None] - jnp.arange(last + 1, dtype=position.dtype)[None, :])
    # On CPU this matrix product takes a third of the time of a sum of products. Adding each mass to its two grid points
    # would be no faster there, and on accelerators in an order that differs from run to run.
    return jnp.matmul(probabilities, jnp.maximum(1.0 - distance, 0.0), precision=lax.Precision.HIGHEST)


def _unless_terminal(discount: Array, next_output: Array) -> Array:
    """`next_output`, or zeros where nothing comes after: there it may be anything, and 0 * NaN is not 0."""
    return jnp.where(discount == 0.0, 0.0, next_output)


def _check(head: Any) -> None:
    """Raise `InputError` unless every field is a plain, hashable number in its interval, or an allowed None."""
    for f in dataclasses.fields(head):
        value = getattr(head, f.name)
        if not isinstance(value, int | float | np.integer | np.floating | None):
            raise InputError(f"{f.name} must be a plain number in {f.metadata['within']}, got {value!r}")
    struct.check_fields(head)
