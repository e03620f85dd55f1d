"""Networks: shapes, initialisation, sharing, and that equal modules are one program."""

import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl.errors import InputError
from purerl.math.distributions import Categorical, Gaussian, TanhGaussian
from purerl.networks import CNN, MLP, ActorCritic, encode
from purerl.spaces import Box, Discrete

KEY = jax.random.key(0)
OBS = jnp.arange(6.0).reshape(2, 3)
BOX = Box((2,), -1.0, 1.0)
SMALL = MLP((8, 4))


def init(network, obs=OBS):
    return jax.jit(network.init)(KEY, obs)["params"]


def shapes(params):
    return jax.tree.map(jnp.shape, params)


def is_orthogonal(kernel, gain):
    """Rows or columns, whichever are fewer, are orthogonal with length `gain`."""
    matrix = np.asarray(kernel).reshape(-1, kernel.shape[-1])
    gram = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    return np.allclose(gram, gain**2 * np.eye(len(gram)), atol=1e-5 * gain)


def test_encode_makes_float32_and_one_hot():
    one_hot = encode(Discrete(4), jnp.int32(2))
    np.testing.assert_array_equal(one_hot, [0.0, 0.0, 1.0, 0.0])
    pixels = encode(Box((3,), 0, 255, np.uint8), jnp.uint8([0, 7, 255]))
    np.testing.assert_allclose(pixels, np.float32([0.0, 7.0, 255.0]) / 255.0)
    weak = encode(Box(()), jnp.asarray(1.0))
    for x in (one_hot, pixels, weak):
        assert x.dtype == jnp.float32
        assert not x.weak_type


def test_mlp_flattens_and_has_the_given_sizes():
    params = init(MLP((5, 7), nn.relu))
    dense = lambda n, m: {"kernel": (n, m), "bias": (m,)}  # noqa: E731
    assert shapes(params) == {"Dense_0": dense(6, 5), "Dense_1": dense(5, 7)}
    features = MLP((5, 7), nn.relu).apply({"params": params}, OBS)
    hidden = np.maximum(OBS.reshape(6) @ params["Dense_0"]["kernel"], 0.0)
    np.testing.assert_allclose(features, np.maximum(hidden @ params["Dense_1"]["kernel"], 0.0), rtol=1e-5, atol=1e-5)


def test_cnn_is_that_of_minatar():
    obs = jnp.ones((10, 10, 4))
    params = init(CNN(), obs)
    assert shapes(params) == {
        "Conv_0": {"kernel": (3 * 3 * 4, 16), "bias": (16,)},
        "Dense_0": {"kernel": (8 * 8 * 16, 128), "bias": (128,)},
    }
    assert CNN().apply({"params": params}, obs).shape == (128,)
    two = CNN(channels=(2, 3), kernel=(2, 4), hidden_sizes=(5,))
    assert shapes(init(two, obs))["Dense_0"]["kernel"] == (8 * 4 * 3, 5)


def test_cnn_sees_a_pattern_where_it_is():
    """A 3x3 cell sum over a grid that is 1 in one corner is 1 in the corner feature only."""
    network = CNN(channels=(1,), hidden_sizes=())
    params = {"Conv_0": {"kernel": jnp.ones((9, 1)), "bias": jnp.zeros(1)}}
    features = network.apply({"params": params}, jnp.zeros((5, 5, 1)).at[0, 4].set(1.0))
    np.testing.assert_array_equal(np.reshape(features, (3, 3)), [[0, 0, 1], [0, 0, 0], [0, 0, 0]])


def test_a_convolution_is_that_of_flax_with_its_gradients():
    obs = jax.random.normal(KEY, (7, 6, 3))
    ours, theirs = CNN((5,), (3, 2), ()), nn.Conv(5, (3, 2), padding="VALID")
    params = init(ours, obs)

    def expected(params, obs):
        kernel = params["Conv_0"]["kernel"].reshape(3, 2, 3, 5)
        return nn.relu(theirs.apply({"params": {**params["Conv_0"], "kernel": kernel}}, obs)).ravel()

    def actual(params, obs):
        return ours.apply({"params": params}, obs)

    np.testing.assert_allclose(actual(params, obs), expected(params, obs), rtol=1e-5, atol=1e-5)
    slopes = [
        jax.grad(lambda *a, f=f: jnp.sum(jnp.sin(f(*a))), argnums=(0, 1))(params, obs) for f in (actual, expected)
    ]
    chex.assert_trees_all_close(*slopes, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", [2, 3])
def test_a_stride_leaves_out_what_lies_between(stride):
    obs = jax.random.normal(KEY, (8, 9, 3))
    all_cells, some = CNN((5,), (3, 2), ()), CNN((5,), (3, 2), (), stride=stride)
    params = init(all_cells, obs)
    expected = all_cells.apply({"params": params}, obs).reshape(6, 8, 5)[::stride, ::stride]
    np.testing.assert_array_equal(some.apply({"params": params}, obs), expected.ravel())
    assert shapes(init(CNN((2, 3), (3, 3), (), stride=2), obs))["Conv_1"]["kernel"] == (3 * 3 * 2, 3)


def test_layer_norm_comes_before_every_activation():
    network = MLP((5, 7), nn.relu, layer_norm=True)
    params = init(network)
    assert set(params) == {"Dense_0", "LayerNorm_0", "Dense_1", "LayerNorm_1"}
    x = np.ravel(OBS)
    for i in range(2):
        x = x @ params[f"Dense_{i}"]["kernel"]
        x = np.maximum((x - x.mean()) / np.sqrt(x.var() + 1e-6), 0.0)
    np.testing.assert_allclose(network.apply({"params": params}, OBS), x, rtol=1e-4, atol=1e-5)
    # The size of an observation does not matter to what comes out.
    np.testing.assert_allclose(network.apply({"params": params}, 100.0 * OBS), x, rtol=1e-4, atol=1e-4)


def test_layer_norm_of_images_is_over_the_channels_of_each_cell():
    network = CNN((4,), (3, 3), (), layer_norm=True)
    obs = jax.random.normal(KEY, (4, 5, 2))
    params = init(network, obs)
    plain = CNN((4,), (3, 3), (), lambda x: x).apply({"params": {"Conv_0": params["Conv_0"]}}, obs).reshape(2, 3, 4)
    mean, var = plain.mean(-1, keepdims=True), plain.var(-1, keepdims=True)
    expected = np.maximum((plain - mean) / np.sqrt(var + 1e-6), 0.0)
    np.testing.assert_allclose(network.apply({"params": params}, obs), expected.ravel(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("space", [Discrete(3), BOX])
def test_initialisation_is_orthogonal_with_the_gains_of_ppo(shared, space):
    network = ActorCritic(CNN((2,), (2, 2), (8, 4)), shared=shared, action_space=space)
    params = init(network, jnp.ones((4, 3, 2)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path)
        if "kernel" in name:
            gain = 0.01 if "actor_head" in name else 1.0 if "critic_head" in name else math.sqrt(2.0)
            assert is_orthogonal(leaf, gain), name
        else:
            assert np.all(np.asarray(leaf) == 0.0), name
    assert ("log_std" in params) == (space == BOX)


def test_separate_trunks_differ_and_a_shared_one_exists_once():
    separate, shared = (init(ActorCritic(SMALL, shared=s, action_space=Discrete(3))) for s in (False, True))
    assert set(separate) == {"actor_trunk", "critic_trunk", "actor_head", "critic_head"}
    assert set(shared) == {"trunk", "actor_head", "critic_head"}
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
    assert count(separate) - count(shared) == count(shared["trunk"]) == 7 * 8 + 9 * 4
    assert not np.allclose(separate["actor_trunk"]["Dense_0"]["kernel"], separate["critic_trunk"]["Dense_0"]["kernel"])


@pytest.mark.parametrize("shared", [False, True])
def test_gradients_reach_the_other_head_through_a_shared_trunk_only(shared):
    network = ActorCritic(SMALL, shared=shared, action_space=Discrete(3))
    params = init(network)
    slope = jax.jit(jax.grad(lambda p: network.apply({"params": p}, OBS, method="critic")))(params)
    touched = {name for name, tree in slope.items() if any(np.any(x != 0) for x in jax.tree.leaves(tree))}
    assert touched == {"critic_head", "trunk" if shared else "critic_trunk"}


@pytest.mark.parametrize(
    ("space", "squash", "kind"),
    [(Discrete(3), False, Categorical), (BOX, False, Gaussian), (BOX, True, TanhGaussian)],
)
@pytest.mark.parametrize("shared", [False, True])
def test_actor_and_critic_for_one_and_by_vmap(space, squash, kind, shared):
    network = ActorCritic(SMALL, shared=shared, squash=squash).clone(action_space=space)
    params = {"params": init(network)}
    actor = jax.jit(lambda obs: network.apply(params, obs, method="actor"))
    critic = jax.jit(lambda obs: network.apply(params, obs, method="critic"))
    assert isinstance(actor(OBS), kind)
    assert all(x.shape == ((3,) if kind is Categorical else (2,)) for x in jax.tree.leaves(actor(OBS)))
    assert critic(OBS).shape == ()
    both = network.apply(params, OBS)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), both, (actor(OBS), critic(OBS)))

    batch = jnp.stack([OBS, -OBS, 0.1 * OBS])
    distributions, values = jax.vmap(actor)(batch), jax.vmap(critic)(batch)
    for i, obs in enumerate(batch):
        one = jax.tree.map(lambda x, i=i: x[i], distributions)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), one, actor(obs))
        np.testing.assert_allclose(values[i], critic(obs), rtol=1e-5, atol=1e-6)
    assert all(x.dtype == jnp.float32 and not x.weak_type for x in jax.tree.leaves((distributions, values)))


def test_tanh_needs_two_bounds():
    with pytest.raises(InputError, match=r"squash is for actions between two bounds, not for Box\(\[1\], \[0, inf\]\)"):
        ActorCritic(squash=True, action_space=Box((1,), 0.0))


def test_first_policy_is_nearly_uniform():
    network = ActorCritic(action_space=Discrete(5))
    distribution, _ = jax.jit(network.init_with_output)(KEY, OBS)[0]
    np.testing.assert_allclose(jax.nn.softmax(distribution.logits), 0.2, atol=0.03)


def test_equal_modules_are_one_program():
    traces = []

    def value(network, params, obs):
        traces.append(network)
        return network.apply(params, obs, method="critic")

    make = lambda: ActorCritic(MLP([8, np.int64(4)]), shared=True).clone(action_space=Box((2,), -1, 1))  # noqa: E731
    params = make().init(KEY, OBS)
    jitted = jax.jit(value, static_argnums=0)
    jitted(make(), params, OBS)
    jitted(make(), params, OBS)
    assert len(traces) == 1
    assert make() == make()
    assert hash(make()) == hash(make())


@pytest.mark.parametrize(
    "other",
    [
        ActorCritic(SMALL, shared=True),
        ActorCritic(SMALL, squash=True),
        ActorCritic(MLP((8, 5))),
        ActorCritic(MLP((8, 4), nn.relu)),
        ActorCritic(SMALL, action_space=Discrete(2)),
    ],
)
def test_different_modules_are_different(other):
    assert ActorCritic(SMALL) != other


@pytest.mark.parametrize("sizes", [64, (0,), (8, -1), (8.0,), (True,), "88", None, ("8",)])
def test_sizes_must_be_positive_whole_numbers(sizes):
    with pytest.raises(InputError, match="hidden_sizes must be a tuple of positive whole numbers"):
        MLP(sizes)
    with pytest.raises(InputError, match="channels must be"):
        CNN(channels=sizes)


def test_no_hidden_layers_is_a_linear_policy():
    network = ActorCritic(MLP(()), action_space=BOX)
    assert set(network.init(jax.random.key(0), jnp.zeros(3), method="critic")["params"]) == {"critic_head"}
    assert set(init(ActorCritic(MLP(()), action_space=BOX))) == {"actor_head", "critic_head", "log_std"}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CNN(kernel=(3,)), "kernel must be a height and a width"),
        (lambda: CNN().init(KEY, jnp.ones(4)), r"needs observations \[height, width, channels\], got shape \[4\]"),
        (lambda: CNN((2, 2)).init(KEY, jnp.ones((9, 4, 1))), r"at least \[5, 5\].*got \[9, 4\]"),
        (lambda: CNN((2, 2), stride=2).init(KEY, jnp.ones((7, 6, 1))), r"at least \[7, 7\].*got \[7, 6\]"),
        (lambda: CNN(stride=0), r"stride must lie in \[1, inf\), got 0"),
        (lambda: MLP(layer_norm=1), "layer_norm must be true or false, got 1"),
        (lambda: ActorCritic().init(KEY, OBS), "needs an action_space"),
        (lambda: ActorCritic(action_space=Box((2, 3))), "actions that are a vector"),
        (lambda: ActorCritic(squash=True).clone(action_space=Discrete(2)), "squash is for continuous actions"),
        (lambda: ActorCritic(trunk=(64, 64)), "trunk must be a flax module"),
    ],
)
def test_what_cannot_work_is_an_input_error(build, message):
    with pytest.raises(InputError, match=message):
        build()
