"""Networks for action values: streams, noise, ensembles, and what is rejected."""

import math
from functools import cache, partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl import (
    C51,
    CNN,
    MLP,
    DeterministicActorCritic,
    DiscreteSoftActorCritic,
    ExpectedValue,
    InputError,
    QNetwork,
    SoftActorCritic,
)
from purerl.q_networks import NoisyDense, target_gap
from purerl.spaces import Box, Discrete

TRUNK = MLP((6,))
OBS = jnp.float32([0.3, -1.0, 0.7, 2.0])
ACTION = jnp.float32([0.5, -0.2])
ACTOR_CRITICS = [DeterministicActorCritic, SoftActorCritic, DiscreteSoftActorCritic]


def drawn(module, *args, method=None):
    """Parameters of the right shapes that are all different and not small."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(partial(module.init, method=method), jax.random.key(0), *args)
    return jax.tree.map(lambda leaf: jnp.asarray(0.7 * rng.normal(size=leaf.shape), leaf.dtype), shapes)


def dense(params, x):
    return np.asarray(x) @ np.asarray(params["kernel"]) + np.asarray(params["bias"])


def relu(x):
    return np.maximum(x, 0.0)


# The values of all actions


def q_network(**pieces):
    return QNetwork(TRUNK, action_space=Discrete(3), **pieces)


@pytest.mark.parametrize("head", [ExpectedValue(), C51(num_atoms=5)])
def test_one_stream_is_a_layer_on_the_trunk(head):
    network = q_network(head=head)
    params = drawn(network, OBS)
    features = np.tanh(dense(params["params"]["trunk"]["Dense_0"], OBS))
    expected = dense(params["params"]["advantage"], features).reshape(3, head.num_outputs)
    np.testing.assert_allclose(jax.jit(network.apply)(params, OBS), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("head", [ExpectedValue(), C51(num_atoms=5)])
def test_two_streams_add_the_value_to_advantages_without_their_mean(head):
    network = q_network(head=head, dueling=True)
    params = drawn(network, OBS)
    layers = params["params"]
    features = np.tanh(dense(layers["trunk"]["Dense_0"], OBS))
    value = dense(layers["value"], relu(dense(layers["value_hidden"], features)))
    advantage = dense(layers["advantage"], relu(dense(layers["advantage_hidden"], features)))
    advantage = advantage.reshape(3, head.num_outputs)
    output = np.asarray(jax.jit(network.apply)(params, OBS))
    np.testing.assert_allclose(output.mean(axis=0), value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(output - value, advantage - advantage.mean(axis=0), rtol=1e-4, atol=1e-5)


def test_two_streams_send_a_smaller_gradient_into_the_trunk():
    network = q_network(dueling=True)
    params = drawn(network, OBS)
    weight = jnp.float32([0.2, -1.0, 0.6])

    def plain(params):
        """The same streams, without the scaling."""

        def layer(name, x):
            return x @ params["params"][name]["kernel"] + params["params"][name]["bias"]

        features = TRUNK.apply({"params": params["params"]["trunk"]}, OBS)
        value = layer("value", nn.relu(layer("value_hidden", features)))
        advantage = layer("advantage", nn.relu(layer("advantage_hidden", features)))
        return weight @ (value + advantage - advantage.mean())

    full = jax.jit(jax.grad(plain))(params)["params"]
    scaled = jax.jit(jax.grad(lambda params: weight @ network.apply(params, OBS)[:, 0]))(params)["params"]
    assert np.abs(full["trunk"]["Dense_0"]["kernel"]).max() > 0.1
    full["trunk"] = jax.tree.map(lambda leaf: math.sqrt(0.5) * leaf, full["trunk"])
    chex.assert_trees_all_close(scaled, full, rtol=1e-4, atol=1e-5)


# Noise


def test_noisy_layers_begin_as_in_the_paper():
    params = jax.jit(NoisyDense(500).init)(jax.random.key(0), jnp.zeros(16))["params"]
    for name in ("kernel", "bias"):
        mean = np.asarray(params[name])
        assert -0.25 <= mean.min() < -0.24
        assert 0.24 < mean.max() <= 0.25
        np.testing.assert_array_equal(params[f"{name}_std"], np.full_like(mean, 0.125))


def test_without_noise_the_means_act():
    params = drawn(NoisyDense(3), OBS)
    output = jax.jit(NoisyDense(3).apply)(params, OBS)
    np.testing.assert_allclose(output, dense(params["params"], OBS), rtol=1e-5, atol=1e-6)


def test_noise_is_factorised_gaussian():
    layer, num_draws = NoisyDense(3), 40_000
    params = drawn(layer, OBS)
    kernel_std, bias_std = (np.asarray(params["params"][name]) for name in ("kernel_std", "bias_std"))

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0))
    def draw(obs, key):
        return layer.apply(params, obs, rngs={"noise": key})

    def noise(obs):
        return np.asarray(draw(obs, jax.random.split(jax.random.key(1), num_draws))) - dense(params["params"], obs)

    # f(e) = sgn(e) sqrt|e| has mean 0 and E f^2 = E|e| = sqrt(2 / pi), on the way in as on the way out.
    size = math.sqrt(2.0 / math.pi)
    variance = size * (size * np.square(OBS) @ np.square(kernel_std) + np.square(bias_std))
    np.testing.assert_allclose(noise(OBS).mean(axis=0), 0.0, atol=4 * np.sqrt(variance.max() / num_draws))
    np.testing.assert_allclose(noise(OBS).var(axis=0), variance, rtol=0.06)
    # Without inputs there is only sigma_b f(e): E f^4 = E e^2 = 1 tells which f it is.
    root = np.square(noise(jnp.zeros_like(OBS)) / bias_std)
    np.testing.assert_allclose(root.mean(axis=0), size, rtol=0.03)
    np.testing.assert_allclose(np.square(root).mean(axis=0), 1.0, rtol=0.05)
    assert np.abs(np.corrcoef(root, rowvar=False) - np.eye(3)).max() < 0.03


def test_each_noisy_layer_draws_noise_of_its_own():
    network = q_network(dueling=True, noisy=True)
    params = drawn(network, OBS)
    layers = params["params"]
    noisy = jax.jit(lambda params, key: network.apply(params, OBS, rngs={"noise": key}))

    def output(key, *names):
        """With the noise of these layers only."""
        quiet = {
            name: layer
            if name == "trunk" or name in names
            else layer | {f"{weight}_std": jnp.zeros_like(layer[f"{weight}_std"]) for weight in ("kernel", "bias")}
            for name, layer in layers.items()
        }
        return np.asarray(noisy({"params": quiet}, jax.random.key(key)))[:, 0]

    np.testing.assert_array_equal(output(1), output(2))
    np.testing.assert_allclose(output(1), jax.jit(network.apply)(params, OBS)[:, 0], rtol=1e-5, atol=1e-6)
    for name in ("value_hidden", "value", "advantage_hidden", "advantage"):
        assert (output(1, name) != output(2, name)).any(), name
    # The value stream moves all actions alike, the advantages leave their mean where it is.
    moved = output(1, "value") - output(1)
    np.testing.assert_allclose(moved, moved.mean(), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(output(1, "advantage").mean(), output(1).mean(), rtol=1e-4, atol=1e-6)


# Actors and critics


def inputs(network, method):
    return (OBS,) if network is DiscreteSoftActorCritic or method == "actor" else (OBS, ACTION)


@cache
def parts(network, method):
    """Its initialisation, parameters that are not small, and what it makes of parameters."""
    space = Discrete(3) if network is DiscreteSoftActorCritic else Box((2,), -1.0, 1.0)
    module, args = network(TRUNK, 3, action_space=space), inputs(network, method)
    initial = jax.jit(lambda key: module.init(key, *args, method=method))
    return (
        initial,
        drawn(module, *args, method=method),
        jax.jit(lambda params: module.apply(params, *args, method=method)),
    )


@pytest.mark.parametrize("network", ACTOR_CRITICS)
def test_critics_of_an_ensemble_differ_and_each_is_a_network_of_its_own(network):
    initial, params, critics = parts(network, "critic")
    for path, leaf in jax.tree.leaves_with_path(initial(jax.random.key(0))):
        assert leaf.shape[0] == 3
        if path[-1].key == "kernel":
            assert len({np.asarray(member).tobytes() for member in leaf}) == 3
    values = critics(params)
    assert values.shape == ((3, 3) if network is DiscreteSoftActorCritic else (3,))
    for i, value in enumerate(values):
        layers = jax.tree.map(lambda leaf, i=i: leaf[i], params["params"]["critics"])
        features = np.tanh(dense(layers["trunk"]["Dense_0"], np.concatenate(inputs(network, "critic"))))
        np.testing.assert_allclose(np.ravel(value), dense(layers["Dense_0"], features), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("network", ACTOR_CRITICS)
@pytest.mark.parametrize("method", ["actor", "critic"])
def test_outputs_begin_near_zero(network, method):
    initial, _, outputs = parts(network, method)
    for leaf in jax.tree.leaves(outputs(initial(jax.random.key(0)))):
        assert 0.0 < np.abs(leaf).max() < 0.05


def test_a_deterministic_action_is_squashed():
    _, params, actor = parts(DeterministicActorCritic, "actor")
    layers = params["params"]
    expected = np.tanh(dense(layers["actor_head"], np.tanh(dense(layers["actor_trunk"]["Dense_0"], OBS))))
    np.testing.assert_allclose(actor(params), expected, rtol=1e-5)


def test_a_soft_policy_has_a_deviation_that_depends_on_the_observation_and_is_bounded():
    _, params, actor = parts(SoftActorCritic, "actor")
    layers = params["params"]
    features = np.tanh(dense(layers["actor_trunk"]["Dense_0"], OBS))
    np.testing.assert_allclose(actor(params).mean, dense(layers["mean"], features), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(actor(params).log_std, dense(layers["log_std"], features), rtol=1e-5, atol=1e-6)
    far = {"params": layers | {"log_std": layers["log_std"] | {"bias": jnp.float32([1e3, -1e3])}}}
    np.testing.assert_array_equal(actor(far).log_std, np.float32([2.0, -20.0]))


def test_a_discrete_policy_has_a_logit_per_action():
    _, params, actor = parts(DiscreteSoftActorCritic, "actor")
    layers = params["params"]
    expected = dense(layers["actor_head"], np.tanh(dense(layers["actor_trunk"]["Dense_0"], OBS)))
    np.testing.assert_allclose(actor(params).logits, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("network", [QNetwork, *ACTOR_CRITICS])
def test_trunks_may_be_convolutions(network):
    space = Discrete(3) if network in (QNetwork, DiscreteSoftActorCritic) else Box((2,), -1.0, 1.0)
    module = network(CNN((2,), (3, 3), (6,)), action_space=space)
    shapes = jax.eval_shape(
        partial(module.init, method=None if network is QNetwork else "actor"), jax.random.key(0), jnp.zeros((5, 5, 2))
    )
    assert any(leaf.shape == (3 * 3 * 2, 2) for leaf in jax.tree.leaves(shapes))


def test_the_target_gap_is_a_relative_distance():
    params = {"a": jnp.float32([3.0, 0.0]), "b": jnp.float32([[4.0]])}
    assert float(target_gap(params, params)) == 0.0
    behind = {"a": jnp.float32([3.0, 1.0]), "b": jnp.float32([[4.0]])}
    assert float(target_gap(params, behind)) == pytest.approx(0.2)


# Bad input


@pytest.mark.parametrize("network", [QNetwork, *ACTOR_CRITICS])
@pytest.mark.parametrize("trunk", [MLP, (64, 64), None, "MLP"])
def test_a_trunk_that_is_no_module_is_an_error(network, trunk):
    with pytest.raises(InputError, match=r"trunk must be a flax module such as MLP\(\) or CNN\(\), got"):
        network(trunk=trunk)


@pytest.mark.parametrize("network", ACTOR_CRITICS)
@pytest.mark.parametrize("num_critics", [0, -1, 1.5])
def test_there_is_at_least_one_critic(network, num_critics):
    with pytest.raises(InputError, match=f"num_critics must .*, got {num_critics}"):
        network(num_critics=num_critics)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head": "c51"}, "head must be a value head such as .*, got 'c51'"),
        ({"head": None}, "head must be a value head"),
        ({"dueling": 1}, "dueling must be true or false, got 1"),
        ({"noisy": "yes"}, "noisy must be true or false, got 'yes'"),
    ],
)
def test_bad_streams_and_heads_are_one_clear_error(changes, words):
    with pytest.raises(InputError, match=words):
        QNetwork(**changes)


@pytest.mark.parametrize("network", [DeterministicActorCritic, SoftActorCritic])
def test_actions_that_are_no_vector_are_refused(network):
    module = network(TRUNK, action_space=Box((2, 2), -1.0, 1.0))
    with pytest.raises(InputError, match=r"actions must be a vector, got Box\(\[2, 2\]"):
        module.init(jax.random.key(0), OBS, method="actor")
