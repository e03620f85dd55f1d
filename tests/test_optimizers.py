"""Optimisers against optax's own, written out, and the clipping of gradients."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import purerl
from purerl import Adam, AdamW, InputError, RAdam, RMSProp
from purerl.learning import optimizers

PARAMS = {"w": jnp.float32([1.0, -2.0, 3.0]), "b": jnp.float32(0.5)}
GRADS = {"w": jnp.float32([3.0, 0.0, -4.0]), "b": jnp.float32(12.0)}  # of global norm 13
RULES = {
    "adam": (Adam(eps=1e-3, b1=0.7), optax.adam(0.1, 0.7, 0.999, 1e-3)),
    "adamw": (AdamW(weight_decay=0.3), optax.adamw(0.1, 0.9, 0.999, 1e-8, weight_decay=0.3)),
    "radam": (RAdam(), optax.radam(0.1)),
    "tensorflow": (RMSProp(eps=1e-2), optax.rmsprop(0.1, 0.99, 1e-2, initial_scale=1.0, eps_in_sqrt=True)),
    "pytorch": (RMSProp(eps=1e-2, eps_in_sqrt=False), optax.rmsprop(0.1, 0.99, 1e-2, eps_in_sqrt=False)),
    "clipped": (Adam(max_grad_norm=6.5), optax.chain(optax.clip_by_global_norm(6.5), optax.adam(0.1))),
}


@pytest.mark.parametrize(("optimizer", "rule"), RULES.values(), ids=RULES)
def test_updates_are_those_of_optax(optimizer, rule):
    params, state, expected = PARAMS, optimizers.init(optimizer, PARAMS), PARAMS
    rule_state = rule.init(PARAMS)
    for scale in (1.0, -0.3, 0.1):
        grads = jax.tree.map(lambda g, scale=scale: scale * g, GRADS)
        params, state = optimizers.update(optimizer, 0.1, grads, state, params)
        updates, rule_state = rule.update(grads, rule_state, expected)
        expected = optax.apply_updates(expected, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), params, expected)


def test_the_place_of_eps_is_that_of_tensorflow_or_pytorch():
    """The first update by hand: squares begin at 1 and eps is under the root, or at 0 and it is added to the root."""
    grad, params = {"w": jnp.float32(2.0)}, {"w": jnp.float32(0.0)}
    for optimizer, denominator in (
        (RMSProp(eps=0.5), np.sqrt(0.99 * 1.0 + 0.01 * 4.0 + 0.5)),
        (RMSProp(eps=0.5, eps_in_sqrt=False), np.sqrt(0.01 * 4.0) + 0.5),
    ):
        new, _ = optimizers.update(optimizer, 0.1, grad, optimizers.init(optimizer, params), params)
        np.testing.assert_allclose(new["w"], -0.1 * 2.0 / denominator, rtol=1e-5)


@pytest.mark.parametrize("name", ["DDPG", "TD3", "SAC"])
def test_actors_and_critics_may_have_rates_of_their_own_and_clipped_gradients(name):
    """With a rate of 0 the one stays as it is; a gradient clipped to almost nothing moves RMSProp by almost nothing."""
    env = purerl.make("Pendulum-v1")
    network = type(getattr(purerl, name)(env=env).network)(purerl.MLP((4,)))

    def moved(**changes):
        agent = getattr(purerl, name)(
            env=env, network=network, batch_size=4, buffer_size=8, warmup_steps=4, updates_per_iteration=2, **changes
        )
        before = jax.jit(agent.init)(jax.random.key(0))
        after, _ = jax.jit(agent.step)(before)
        parts = ("actor_params", "critic_params")
        return [float(optax.tree.norm(optax.tree.sub(getattr(after, part), getattr(before, part)))) for part in parts]

    actor, critic = moved(learning_rate=1e-3, critic_learning_rate=0.0)
    assert actor > 1e-4
    assert critic == 0.0
    actor, critic = moved(learning_rate=0.0, critic_learning_rate=1e-3)
    assert actor == 0.0
    assert critic > 1e-4
    actor, critic = moved(learning_rate=1e-3, optimizer=RMSProp(max_grad_norm=1e-6))
    assert 0.0 < critic < 1e-6
    assert 0.0 < actor < 1e-6


def test_bad_numbers_name_the_field():
    with pytest.raises(InputError, match=r"max_grad_norm must lie in \(0, inf\), got 0"):
        Adam(max_grad_norm=0.0)
    with pytest.raises(InputError, match=r"b1 must lie in \[0, 1\), got 1"):
        Adam(b1=1.0)


@jax.tree_util.register_static
class SGD:
    def transformation(self, learning_rate):
        return optax.sgd(learning_rate)


class Momentum(NamedTuple):
    decay: float

    def transformation(self, learning_rate):
        return optax.sgd(learning_rate, self.decay)


@pytest.mark.parametrize("optimizer", [SGD(), Momentum(0.9)], ids=["static", "tuple"])
def test_an_optimiser_of_ones_own_need_not_be_a_dataclass(optimizer):
    agent = purerl.A2C(env=purerl.make("CartPole-v1"), optimizer=optimizer)
    before = jax.eval_shape(agent.init, jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(before, jax.eval_shape(agent.step, before)[0])
    params, _ = optimizers.update(optimizer, 0.1, GRADS, optimizers.init(optimizer, PARAMS), PARAMS)
    np.testing.assert_allclose(params["w"], PARAMS["w"] - 0.1 * GRADS["w"], rtol=1e-6)


@pytest.mark.parametrize("wrong", ["adam", None, Adam, optax.adam(1e-3)], ids=["name", "none", "class", "optax"])
def test_what_is_no_optimiser_is_refused_when_the_agent_is_made(wrong):
    with pytest.raises(InputError, match=r"optimizer must be an object with transformation, like RMSProp\("):
        purerl.A2C(env=purerl.make("CartPole-v1"), optimizer=wrong)
