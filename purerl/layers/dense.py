"""Dense layer with a fast gradient on CPU for layers with few outputs."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
from jax import lax

from purerl.types import Array

# With more outputs the order of the product hardly matters, and transposing the kernel begins to cost.
_FEW_OUTPUTS = 16


def matmul_few_outputs(inputs: Array, kernel: Array, dimension_numbers: Any, precision: Any = None) -> Array:
    """Matrix product ``inputs @ kernel`` with a fast gradient on CPU where there are few outputs.

    The gradient of a kernel ``[n, m]`` is ``inputs^T @ errors``, or ``errors^T @ inputs`` transposed. XLA rewrites the
    second as the first. But a product copies the transposed operand number by number, and that of the first is larger:
    for 1,024 rows of 64 features and two outputs the first takes 69 microseconds, the second 5. The difference is a
    seventh of the whole policy's gradient. The optimization barrier keeps XLA from the rewrite. A single output is a
    vector, which is fast without this.

    Args:
        inputs: ``[..., n]``.
        kernel: ``[n, m]``.
        dimension_numbers: as given by `flax.linen.Dense`: the last axis of `inputs` with the first of `kernel`.
        precision: as in `jax.lax.dot_general`.

    Returns:
        ``[..., m]``.
    """
    num_inputs, num_outputs = kernel.shape
    few = 1 < num_outputs < num_inputs and num_outputs <= _FEW_OUTPUTS
    if not few or jax.default_backend() != "cpu":
        return lax.dot_general(inputs, kernel, dimension_numbers, precision=precision)
    transposed = lax.optimization_barrier(kernel.T)
    return lax.dot_general(inputs, transposed, (((inputs.ndim - 1,), (1,)), ((), ())), precision=precision)


class Dense(nn.Dense):
    """Dense layer with `matmul_few_outputs`: the same parameters, names and values as `flax.linen.Dense`."""

    dot_general: Any = matmul_few_outputs
