"""A dense layer is flax's in names, values and gradients, and computes a gradient by its few outputs first."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl.layers.dense import Dense

KEY = jax.random.key(0)


def loss(layer, params, x):
    return jnp.mean(jnp.sin(layer.apply({"params": params}, x)))


@pytest.mark.parametrize("num_outputs", [1, 2, 16, 17])
@pytest.mark.parametrize("shape", [(20,), (3, 2, 20)])
def test_it_is_that_of_flax_with_its_derivatives(num_outputs, shape):
    x, direction = jax.random.normal(KEY, (2, *shape))
    ours, theirs = Dense(num_outputs), nn.Dense(num_outputs)
    params = ours.init(KEY, x)["params"]
    chex.assert_trees_all_equal(params, theirs.init(KEY, x)["params"])
    results = []
    for layer in (ours, theirs):
        output, tangent = jax.jvp(lambda x, layer=layer: layer.apply({"params": params}, x), (x,), (direction,))
        results.append((output, tangent, jax.grad(loss, argnums=(1, 2))(layer, params, x)))
    chex.assert_trees_all_close(*results, rtol=1e-5, atol=1e-6)


def test_each_member_of_a_population_has_its_own():
    x = jax.random.normal(KEY, (5, 7, 20))
    params = jax.vmap(lambda key: Dense(3).init(key, jnp.zeros(20))["params"])(jax.random.split(KEY, 5))
    together = jax.vmap(jax.grad(loss, argnums=1), in_axes=(None, 0, 0))(Dense(3), params, x)
    for i in range(5):
        alone = jax.grad(loss, argnums=1)(Dense(3), jax.tree.map(lambda leaf, i=i: leaf[i], params), x[i])
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, i=i: leaf[i], together), alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("layer", "product"), [(Dense(2), "f32[2,64]"), (nn.Dense(2), "f32[64,2]")])
def test_descent_computes_the_gradient_of_few_outputs_by_outputs(layer, product, optimized):
    x = jnp.zeros((128, 64))
    params = layer.init(KEY, x)["params"]

    def descend(params, _):
        return jax.tree.map(jnp.subtract, params, jax.grad(loss, argnums=1)(layer, params, x)), None

    program = jax.jit(lambda params: jax.lax.scan(descend, params, length=3)).lower(params).compile().as_text()
    products = [line for line in program.splitlines() if " dot(" in line]
    assert any(product in line.split(" dot(")[0] for line in products), products


def test_layers_of_equal_fields_are_one_program():
    assert Dense(3) == Dense(3)
    assert hash(Dense(3)) == hash(Dense(3))
    np.testing.assert_array_equal(Dense(3).init(KEY, jnp.zeros(4))["params"]["bias"], jnp.zeros(3))
