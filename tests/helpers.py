"""Functions that tests of algorithms share: begin, learn, compare."""

from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np

from purerl import iterate

AS_FOR_USERS = {"xla_cpu_use_fusion_emitters": True} if version("jaxlib").startswith("0.10.") else {}
"""Options of a compilation whose rounding or speed counts; the other tests compile without, see conftest.py."""


def network_of(algorithm):
    return algorithm.network.clone(action_space=algorithm.env.action_space)


@jax.jit
def begin(algorithm, key):
    """Compiled once for all tests of an algorithm."""
    return algorithm.init(key)


def learn(algorithm, seed, iterations, every=None):
    """The state after `iterations` beyond the warm-up."""
    total = algorithm.warmup_iterations + iterations
    return last(iterate(algorithm, begin(algorithm, jax.random.key(seed)), total, every=every or total)).state


def bits(tree):
    return jax.tree.map(
        lambda x: np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x), tree
    )


def last(progresses):
    *_, final = progresses
    return final
