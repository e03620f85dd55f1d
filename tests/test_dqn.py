"""DQN's own promises: the loss, the target network, exploration, priorities, how often it learns, what is rejected."""

import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import bits, network_of
from probes import Fork
from rows import ALGORITHMS

import purerl
from purerl import CNN, DQN, Adam, ExpectedValue, InputError, LinearSchedule, QNetwork, struct
from purerl.learning import optimizers, schedules

BATCH_SIZE = 128
init = jax.jit(DQN.init)
step = jax.jit(DQN.step)


@jax.jit
def update(algorithm, state, key):
    return schedules.at(algorithm, state.iteration)._update(state, key)


@jax.jit
def loss_of(algorithm, params, state, batch, key):
    """Of a batch as it comes from the replay."""
    return algorithm._loss(params, state, algorithm._experience.preprocess_sample(state.experience, batch), key)


def until_a_thousand_steps(rate):
    """A schedule that is a plain function."""
    return lambda env_steps: jnp.where(env_steps < 1000.0, rate, 0.0)


def dqn(name="dqn", **changes):
    """4 environments x 8 steps and 64 updates per iteration, 64 random steps. All leaves, so all share a program."""
    shape = {"updates_per_iteration": 64, "batch_size": BATCH_SIZE, "gamma": 0.9}
    return ALGORITHMS[name].make(Fork(), **(shape | changes))


def shake(params, seed):
    """Parameters that are all different and not small."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf + 0.3 * rng.normal(size=leaf.shape), leaf.dtype), params)


def begin(algorithm):
    """A state with a filled replay, whose network and target network differ."""
    state = init(algorithm, jax.random.key(0))
    return struct.replace(state, params=shake(state.params, 1), target_params=shake(state.params, 2))


@jax.jit
def draw(replay, state, key):
    return replay.sample(state, key, BATCH_SIZE, 0.9)


def sample(algorithm, state, key):
    """The batch that `key` draws."""
    return draw(schedules.at(algorithm, state.iteration)._replay, state.replay, key)


@jax.jit
def act(policy, keys, obs):
    """Actions ``[num_keys]`` at one observation."""
    return jax.vmap(lambda key: policy.act(key, policy.carry, obs)[0])(keys)


@partial(jax.jit, static_argnums=0)
@partial(jax.vmap, in_axes=(None, None, 0))
def values(network, params, obs):
    return network.apply(params, obs)[:, 0]


def view(state, obs):
    """What networks see of observations ``[num, ...]``, in NumPy."""
    mean, var = np.asarray(state.experience.obs_stats.mean), np.asarray(state.experience.obs_stats.var)
    return np.float32(np.clip((np.asarray(obs) - mean) / np.sqrt(var + 1e-8), -10.0, 10.0))


def q_values(algorithm, params, state, obs):
    """``[num, num_actions]`` of observations ``[num, 2]``."""
    return np.asarray(values(network_of(algorithm), params, view(state, obs)))


def td_errors(algorithm, state, batch):
    """Sample by sample, by the rules of the environment: of the batch only observations and actions count."""
    env, obs, action = Fork(), np.asarray(batch.obs), np.asarray(batch.action)
    reward, goes_on, next_obs = (np.stack(x) for x in zip(*map(env.follow, obs, action), strict=True))
    value = q_values(algorithm, state.params, state, obs)
    judge = q_values(algorithm, state.params, state, next_obs)
    target = q_values(algorithm, state.target_params, state, next_obs)
    errors = []
    for i in range(len(obs)):
        best = target[i][judge[i].argmax()] if algorithm.double else target[i].max()
        errors.append(reward[i] + (algorithm.gamma * best if goes_on[i] else 0.0) - value[i][action[i]])
    return np.asarray(errors)


def half_square(error):
    return 0.5 * error**2


def huber(error):
    return 0.5 * error**2 if abs(error) <= 1.0 else abs(error) - 0.5


# The loss


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(("head", "cost"), [(ExpectedValue(None), half_square), (ExpectedValue(), huber)])
def test_loss_against_a_slow_reference(double, head, cost):
    state = begin(dqn())
    algorithm = dqn(double=double)
    algorithm = struct.replace(algorithm, network=algorithm.network.clone(head=head))
    batch = sample(dqn(), state, jax.random.key(3))
    last, positive = np.abs(batch.obs[:, 0]) == 5, np.asarray(batch.obs[:, 0]) > 0
    assert (last & positive).any(), "a step after which the task ends"
    assert (last & ~positive).any(), "a time limit, whose successor counts"
    errors = td_errors(algorithm, state, batch)
    assert (np.abs(errors) > 1.0).any()
    assert (np.abs(errors) < 1.0).any()
    weight = np.random.default_rng(0).uniform(0.2, 1.0, BATCH_SIZE).astype(np.float32)
    expected = np.mean([w * cost(error) for w, error in zip(weight, errors, strict=True)])
    batch = struct.replace(batch, weight=jnp.asarray(weight))
    loss, (priority, metrics) = loss_of(algorithm, state.params, state, batch, jax.random.key(0))
    np.testing.assert_allclose([loss, metrics["loss"].value], [expected, expected], rtol=1e-5)
    np.testing.assert_allclose(priority, np.abs(errors), rtol=1e-3, atol=1e-5)


def test_double_matters_only_if_the_networks_differ():
    algorithm, state = dqn(), begin(dqn())
    batch = sample(algorithm, state, jax.random.key(3))

    def losses(state):
        both = (struct.replace(algorithm, double=double) for double in (False, True))
        return [float(loss_of(one, state.params, state, batch, jax.random.key(0))[0]) for one in both]

    vanilla, double = losses(state)
    assert abs(vanilla - double) > 1e-3
    vanilla, double = losses(struct.replace(state, target_params=state.params))
    assert vanilla == double


def test_samples_of_weight_0_contribute_nothing():
    algorithm, state = dqn(), begin(dqn())
    batch = sample(algorithm, state, jax.random.key(3))
    weight = jnp.asarray(np.random.default_rng(0).integers(0, 2, BATCH_SIZE), jnp.float32)
    slope = jax.jit(jax.grad(lambda params, batch: algorithm._loss(params, state, batch, jax.random.key(0))[0]))
    expected = slope(state.params, struct.replace(batch, weight=weight))
    wrong = struct.replace(batch, weight=weight, reward=jnp.where(weight > 0, batch.reward, 1e6))
    chex.assert_trees_all_equal(slope(state.params, wrong), expected)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected)) > 0.01


# The target network


def test_the_target_network_is_copied_every_so_many_updates():
    algorithm, state = dqn(target_period=3, tau=1.0), begin(dqn())
    for i in range(1, 8):
        before = state
        state, _ = update(algorithm, state, jax.random.key(i))
        assert int(state.num_updates) == i
        expected = state.params if i % 3 == 0 else before.target_params
        chex.assert_trees_all_equal(bits(state.target_params), bits(expected))
        with pytest.raises(AssertionError):
            chex.assert_trees_all_equal(bits(state.params), bits(before.params))


def test_the_target_network_moves_a_little_at_every_update():
    algorithm, state = dqn(target_period=1, tau=0.3), begin(dqn())
    for i in range(3):
        before = state
        state, _ = update(algorithm, state, jax.random.key(i))
        expected = jax.tree.map(lambda new, old: 0.3 * new + 0.7 * old, state.params, before.target_params)
        chex.assert_trees_all_close(state.target_params, expected, rtol=1e-5, atol=1e-7)


# Exploration


def test_epsilon_falls_linearly_and_the_warm_up_counts():
    algorithm = dqn(epsilon=LinearSchedule(0.9, 0.1, 224.0))
    state = init(algorithm, jax.random.key(0))
    shares = []
    for _ in range(7):
        state, metrics = step(algorithm, state)
        shares.append(float(metrics["epsilon"].value))
    expected = [0.9 - 0.8 * min(steps / 224.0, 1.0) for steps in range(64, 64 + 7 * 32, 32)]
    np.testing.assert_allclose(shares, expected, rtol=1e-5)
    assert shares[-1] == shares[-2] < shares[-3]


@pytest.mark.parametrize(("env_steps", "epsilon"), [(64, 0.8), (160, 0.5), (3200, 0.2)])
def test_so_many_actions_are_random(env_steps, epsilon):
    algorithm = dqn(epsilon=LinearSchedule(1.0, 0.2, 256.0))
    state = struct.replace(begin(algorithm), iteration=jnp.int32(env_steps // 32))
    obs, keys = jnp.float32([2.0, 1.0]), jax.random.split(jax.random.key(1), 8000)
    best = int(q_values(algorithm, state.params, state, obs[None])[0].argmax())
    actions = np.asarray(act(algorithm.policy(state, explore=True), keys, obs))
    # A random action is the best one a third of the time.
    expected = [(1.0 - epsilon) * (action == best) + epsilon / 3 for action in range(3)]
    np.testing.assert_allclose(np.bincount(actions, minlength=3) / 8000, expected, atol=0.02)
    assert (act(algorithm.policy(state, explore=False), keys, obs) == best).all()


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_training_acts_by_its_policy(epsilon):
    algorithm = dqn(epsilon=LinearSchedule(epsilon, epsilon, 1.0))
    before = begin(algorithm)
    after, _ = step(algorithm, before)
    rows = slice(int(before.replay.position), int(after.replay.position))
    obs, actions = after.replay.obs[rows], np.asarray(after.replay.action[rows]).ravel()
    best = q_values(algorithm, before.params, before, np.asarray(obs).reshape(-1, 2)).argmax(axis=1)
    assert len(actions) == 32
    if epsilon == 0.0:
        np.testing.assert_array_equal(actions, best)
    else:
        assert 0.1 < np.mean(actions == best) < 0.6


def noisy():
    """Rainbow without epsilon, and a state whose parameters are not small."""
    algorithm = dqn("rainbow", epsilon=LinearSchedule(0.0, 0.0, 1.0))
    shapes = jax.eval_shape(algorithm.init, jax.random.key(0)).params
    params = shake(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes), 0)
    return algorithm, struct.replace(begin(dqn()), params=params, target_params=params)


def test_noise_explores_and_is_silent_otherwise():
    algorithm, state = noisy()
    keys = jax.random.split(jax.random.key(1), 500)
    counts = {explore: [] for explore in (True, False)}
    for explore, found in counts.items():
        for obs in ([1.0, 0.0], [-3.0, 2.0], [4.0, 1.0]):
            found.append(len(set(np.asarray(act(algorithm.policy(state, explore=explore), keys, jnp.float32(obs))))))
    assert counts == {True: [3, 3, 3], False: [1, 1, 1]}


def test_the_size_of_the_noise_is_learned():
    algorithm, state = noisy()
    batch = sample(dqn(), state, jax.random.key(3))
    slope = jax.jit(jax.grad(lambda params, key: algorithm._loss(params, state, batch, key)[0]))
    one, other = (slope(state.params, jax.random.key(seed))["params"] for seed in (0, 1))
    for name in ("value_hidden", "value", "advantage_hidden", "advantage"):
        assert np.abs(one[name]["kernel_std"]).max() > 1e-6, name
        assert (one[name]["kernel_std"] != other[name]["kernel_std"]).any(), name


def test_choice_and_target_have_noise_of_their_own():
    """Else the action would be chosen by the noise that its value then has, and the target be too high."""
    algorithm, state = noisy()
    batch = sample(dqn(), state, jax.random.key(3))
    one = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), batch)
    one = struct.replace(one, reward=jnp.full(BATCH_SIZE, 1000.0), discount=jnp.ones(BATCH_SIZE))
    keys = jax.random.split(jax.random.key(0), 2000)
    error = jax.jit(jax.vmap(lambda key: algorithm._loss(state.params, state, one, key)[1][1]["td_error"].value))(keys)

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0))
    def drawn(obs, key):
        output = network_of(algorithm).apply(state.params, obs, rngs={"noise": key})
        return algorithm.network.head.value(output)

    value, next_value = (np.asarray(drawn(obs[0], keys)) for obs in (one.obs, one.next_obs))
    share = np.bincount(next_value.argmax(axis=1), minlength=3) / len(keys)
    expected = 1000.0 + share @ next_value.mean(axis=0) - value[:, one.action[0]].mean()
    assert next_value.max(axis=1).mean() - share @ next_value.mean(axis=0) > 0.3
    np.testing.assert_allclose(error.mean(), expected, atol=0.15)


# Priorities


PRIORITIZED = {"priority_exponent": 0.7, "priority_correction": LinearSchedule(0.25, 1.0, 320.0)}


def leaves_of(state):
    return np.asarray(state.replay.priorities.levels[0])


def test_priorities_follow_the_errors_and_weights_correct_for_them():
    algorithm = dqn(**PRIORITIZED, learning_rate=0.0)
    state, _ = update(algorithm, begin(algorithm), jax.random.key(0))
    num_rows = state.replay.ring.outcome.shape[0]
    for iteration, correction in ((2, 0.4), (6, 0.7), (10, 1.0), (20, 1.0)):
        state = struct.replace(state, iteration=jnp.int32(iteration))
        before, key = leaves_of(state), jax.random.key(iteration)
        batch = sample(algorithm, state, jax.random.split(key)[0])
        # A window waits for its successor: its priority lies one row later.
        place = (np.asarray(batch.index) + 4) % (4 * num_rows)
        errors, alive = td_errors(algorithm, state, batch), np.asarray(batch.weight) > 0
        assert before[place].max() > 3 * before[place].min()
        weight = (before[place].min() / before[place]) ** correction * alive
        after, metrics = update(algorithm, state, key)
        expected = np.mean([w * huber(error) for w, error in zip(weight, errors, strict=True)])
        np.testing.assert_allclose(metrics["loss"].value, expected, rtol=1e-4)
        np.testing.assert_allclose(leaves_of(after)[place][alive], (np.abs(errors)[alive] + 1e-6) ** 0.7, rtol=1e-3)
        others = np.setdiff1d(np.arange(len(before)), place)
        np.testing.assert_array_equal(leaves_of(after)[others], before[others])


def test_what_is_new_has_the_largest_priority():
    algorithm = dqn(**PRIORITIZED)
    state, _ = update(algorithm, begin(algorithm), jax.random.key(0))
    largest = float(state.replay.max_priority)
    assert largest == leaves_of(state).max() > 1.5
    now = schedules.at(algorithm, state.iteration)
    policy = algorithm.policy(state, explore=True)
    collect = jax.jit(lambda state: now._experience.collect_into(now._replay, *state, policy, jax.random.key(0)))
    experience, replay, _ = collect((state.experience, state.replay))
    after = struct.replace(state, experience=experience, replay=replay)
    new = slice(4 * int(state.replay.ring.position), 4 * int(after.replay.ring.position))
    np.testing.assert_array_equal(leaves_of(after)[new], np.full(32, largest, np.float32))
    assert (leaves_of(after) == largest).sum() == 32 + (leaves_of(state) == largest).sum()


# How often it learns


def test_more_updates_than_steps():
    algorithm = dqn()
    state = init(algorithm, jax.random.key(0))
    assert int(state.num_updates) == 0
    for i in (1, 2):
        state, metrics = step(algorithm, state)
        assert int(state.num_updates) == 64 * i
        assert float(metrics["loss"].count) == 64
        assert [int(leaf) for leaf in jax.tree.leaves(state.opt_state) if leaf.dtype == jnp.int32] == [64 * i]
        assert int(state.replay.size) == 16 + 8 * i


def test_a_thousand_environments_and_two_updates():
    wide = {
        "num_envs": 1024,
        "rollout_length": 1,
        "updates_per_iteration": 2,
        "buffer_size": 4096,
        "warmup_steps": 2048,
    }
    algorithm = dqn(**wide)
    state, metrics = jax.jit(lambda key: purerl.train(algorithm, key, 3))(jax.random.key(0))
    assert int(state.num_updates) == 6
    assert int(state.iteration) == 5
    np.testing.assert_array_equal(metrics["loss"].count, [2.0, 2.0, 2.0])
    assert np.isfinite(metrics["loss"].total).all()
    assert float(state.experience.obs_stats.count) == 5 * 1024


# The step size


def test_a_schedule_may_be_a_plain_function():
    algorithm = dqn(learning_rate=until_a_thousand_steps(0.01))
    state = begin(dqn())
    for iteration, rate in ((31, 0.01), (32, 0.0)):
        before = struct.replace(state, iteration=jnp.int32(iteration))
        after, metrics = step(algorithm, before)
        assert float(metrics["learning_rate"].value) == pytest.approx(rate)
        moved = [(a != b).any() for a, b in zip(*map(jax.tree.leaves, (before.params, after.params)), strict=True)]
        assert all(moved) if rate else not any(moved)


def test_the_gradient_is_clipped_and_the_learning_rate_decays():
    # With so large an epsilon, Adam's first step is the gradient times learning_rate / eps.
    rate = LinearSchedule(1e4, 0.0, 640.0)
    state = struct.replace(begin(dqn()), iteration=jnp.int32(5))
    norm = {}
    for bound in (1e6, 0.1):
        algorithm = dqn(learning_rate=rate, optimizer=Adam(eps=1e4, max_grad_norm=bound))
        state = struct.replace(state, opt_state=optimizers.init(algorithm.optimizer, state.params))
        after, metrics = update(algorithm, state, jax.random.key(0))
        moved = jax.tree.map(jnp.subtract, after.params, state.params)
        norm[bound] = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(moved)))
        unclipped = float(metrics["grad_norm"].value)
    assert unclipped > 0.2
    np.testing.assert_allclose([norm[1e6], norm[0.1]], [0.75 * unclipped, 0.075], rtol=1e-3)


# Bad input


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"env": "CartPole-v1"}, r"env must be an Environment such as purerl.make\('CartPole-v1'\), got 'CartPole-v1'"),
        ({"buffer_size": 330}, "num_envs \\* rollout_length = 32 steps, got a size of 330: the nearest is 320 or 352"),
        ({"buffer_size": 31}, "the nearest is 32"),
        ({"warmup_steps": 70}, "warmup_steps must be a multiple of .* = 32 .*, got 70: the nearest is 64"),
        ({"warmup_steps": 32, "n_step": 40}, r"at least 192 \(n_step = 40\), got 32: the nearest is 192"),
        ({"updates_per_iteration": 0}, r"updates_per_iteration must lie in \[1, inf\), got 0"),
        ({"batch_size": 2.5}, "batch_size must be a whole number, got 2.5"),
        ({"gamma": 1.5}, r"gamma must lie in \[0, 1\]"),
        ({"target_period": 0}, "target_period"),
        ({"tau": 0.0}, r"tau must lie in \(0, 1\]"),
        ({"epsilon": -0.1}, r"epsilon must lie in \[0, 1\]"),
        ({"epsilon": LinearSchedule(1.0, 1.1, 10.0)}, "epsilon, scheduled, must lie"),
        ({"priority_exponent": -1.0}, "priority_exponent"),
        ({"priority_correction": 2.0}, "priority_correction"),
        ({"double": 1}, "double must be true or false"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"network": QNetwork(CNN())}, "CNN needs observations .*: use MLP"),
    ],
)
def test_bad_hyper_parameters_are_one_clear_error(changes, words):
    with pytest.raises(InputError, match=words):
        struct.replace(dqn(), **changes)


def test_continuous_actions_are_for_others_and_they_take_them():
    env = Fork(continuous=True)
    with pytest.raises(InputError, match=r"dqn needs discrete actions, got Box\(.*\): use ") as error:
        DQN(env=env)
    names = re.findall(r"\w+", str(error.value).rsplit(": use ", 1)[1])
    for name in set(names) - {"or"}:
        ALGORITHMS[name].make(env)
    assert {"sac", "td3", "ddpg", "ppo"} <= set(names)


def test_an_unknown_field_is_an_error():
    with pytest.raises(TypeError, match="target_perod"):
        DQN(env=Fork(), target_perod=5)
