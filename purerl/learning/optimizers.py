"""Optimisers: how parameters move along a gradient.

An optimiser is a small pytree; the learning rate stands beside it in the algorithm. Numbers that are leaves can be
swept and scheduled; decay rates of moving averages are static. Gradients are clipped by their global norm first
(Pascanu et al. 2013, arXiv:1211.5063), unless `max_grad_norm` is None.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import optax

from purerl import struct
from purerl.math.reductions import mean_over_shards
from purerl.types import Array, Mean, PyTree, Scalar


@runtime_checkable
class Optimizer(Protocol):
    """A rule for updates of parameters."""

    def transformation(self, learning_rate: float | Array) -> optax.GradientTransformation:
        """The rule with a learning rate, as optax has it. Its state must not depend on numbers."""
        ...


def _max_grad_norm() -> Any:
    return struct.field(default=None, help="gradient clipping: largest global norm", within="(0, inf)")


def _eps(default: float = 1e-8) -> Any:
    return struct.field(default=default, help="epsilon in the denominator of the update", within="(0, inf)")


def _beta(default: float, moment: str) -> Any:
    return struct.field(default=default, static=True, help=f"decay rate of the {moment} moment", within="[0, 1)")


@struct.dataclass
class Adam:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980)."""

    eps: Scalar = _eps()
    max_grad_norm: Scalar | None = _max_grad_norm()
    b1: float = _beta(0.9, "first")
    b2: float = _beta(0.999, "second")

    def __post_init__(self) -> None:
        struct.check_fields(self)

    def transformation(self, learning_rate: float | Array) -> optax.GradientTransformation:
        """See `Optimizer`."""
        return _clipped(self.max_grad_norm, optax.adam(learning_rate, self.b1, self.b2, self.eps))


@struct.dataclass
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    eps: Scalar = _eps()
    max_grad_norm: Scalar | None = _max_grad_norm()
    weight_decay: Scalar = struct.field(
        default=1e-4,
        help="fraction of the parameters subtracted per update, times the learning rate",
        within="[0, inf)",
    )
    b1: float = _beta(0.9, "first")
    b2: float = _beta(0.999, "second")

    def __post_init__(self) -> None:
        struct.check_fields(self)

    def transformation(self, learning_rate: float | Array) -> optax.GradientTransformation:
        """See `Optimizer`."""
        rule = optax.adamw(learning_rate, self.b1, self.b2, self.eps, weight_decay=self.weight_decay)
        return _clipped(self.max_grad_norm, rule)


@struct.dataclass
class RAdam:
    """Rectified Adam (Liu et al. 2020, arXiv:1908.03265)."""

    eps: Scalar = _eps()
    max_grad_norm: Scalar | None = _max_grad_norm()
    b1: float = _beta(0.9, "first")
    b2: float = _beta(0.999, "second")

    def __post_init__(self) -> None:
        struct.check_fields(self)

    def transformation(self, learning_rate: float | Array) -> optax.GradientTransformation:
        """See `Optimizer`."""
        return _clipped(self.max_grad_norm, optax.radam(learning_rate, self.b1, self.b2, self.eps))


@struct.dataclass
class RMSProp:
    """RMSProp (Tieleman & Hinton 2012), as TensorFlow has it or as PyTorch has it."""

    eps: Scalar = _eps(1e-5)
    max_grad_norm: Scalar | None = _max_grad_norm()
    decay: float = _beta(0.99, "second")
    eps_in_sqrt: bool = struct.field(
        default=True,
        static=True,
        help="eps under the square root, and squares that begin at 1, as in TensorFlow; off: eps added to the root, "
        "and squares that begin at 0, as in PyTorch",
    )

    def __post_init__(self) -> None:
        struct.check_fields(self)

    def transformation(self, learning_rate: float | Array) -> optax.GradientTransformation:
        """See `Optimizer`."""
        first_square = 1.0 if self.eps_in_sqrt else 0.0
        rule = optax.rmsprop(learning_rate, self.decay, self.eps, first_square, eps_in_sqrt=self.eps_in_sqrt)
        return _clipped(self.max_grad_norm, rule)


def _clipped(max_grad_norm: Any, rule: optax.GradientTransformation) -> optax.GradientTransformation:
    return rule if max_grad_norm is None else optax.chain(optax.clip_by_global_norm(max_grad_norm), rule)


def init(optimizer: Optimizer, params: PyTree) -> PyTree:
    """The optimiser's state before the first update."""
    return optimizer.transformation(jnp.float32(0.0)).init(params)


def update(
    optimizer: Optimizer, learning_rate: float | Array, grads: PyTree, opt_state: PyTree, params: PyTree
) -> tuple[PyTree, PyTree]:
    """One step along a gradient: of one batch, or the mean over the shards of an agent.

    Args:
        optimizer: the rule.
        learning_rate: step size.
        grads: of a loss that is to fall, those of this shard.
        opt_state: of the optimiser.
        params: what moves.

    Returns:
        Parameters and the optimiser's state afterwards.
    """
    grads = mean_over_shards(grads)
    updates, opt_state = optimizer.transformation(learning_rate).update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def gradient_norm(grads: PyTree) -> Mean:
    """Global norm of a gradient, as `update` takes it, before it is clipped."""
    return Mean.of(optax.tree.norm(mean_over_shards(grads)))
