"""Estimators of the gradient ``d/dtheta E[f(x)]``, ``x ~ p_theta``, from samples, and their measurement.

All have one signature, ``estimator(key, distribution_of, f, params, num_samples) -> gradient``, with settings of their
own as keywords, which `functools.partial` fixes. An overview of the field: Mohamed et al. 2020, "Monte Carlo gradient
estimation in machine learning", arXiv:1906.10652.

Args of every estimator:
    key: randomness of the samples.
    distribution_of: ``distribution_of(params)``, one of `purerl.distributions` with a density; leading axes of its
        arrays are independent components.
    f: ``f(x) -> ()``, function of one sample: of the action (``tanh`` applied for `TanhGaussian`), and of the one-hot
        vector ``[..., n]`` for `Categorical`, so that relaxed samples between the corners are arguments too.
    params: pytree of floats.
    num_samples: number of evaluations of `f`.

The result has the structure of `params`. Every estimator is a pure function for `jax.jit` and `jax.vmap`, with
`distribution_of`, `f` and `num_samples` static.
"""

from purerl.estimators.gradients import (
    enumerate_gradient,
    gumbel_softmax,
    leave_one_out,
    optimal_baseline,
    pathwise,
    score_function,
    straight_through,
)
from purerl.estimators.measurement import Estimator, Measurement, compare, measure

__all__ = [
    "Estimator",
    "Measurement",
    "compare",
    "enumerate_gradient",
    "gumbel_softmax",
    "leave_one_out",
    "measure",
    "optimal_baseline",
    "pathwise",
    "score_function",
    "straight_through",
]
