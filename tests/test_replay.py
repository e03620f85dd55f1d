"""The ring against a plain Python list of everything that was ever added."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probes import delay
from test_contract import ALGORITHMS

from purerl import InputError, runner, sum_tree
from purerl.replay import PrioritizedReplay, Replay
from purerl.types import Transition

GAMMA = 0.9


def random_rollout(rng, replay, first, endings):
    """Steps ``[num_envs, rollout_length]``; observation and action tell environment and time, successors 0.5 more."""
    shape = (replay.num_envs, replay.rollout_length)
    env, time = np.meshgrid(np.arange(shape[0]), first + np.arange(shape[1]), indexing="ij")
    obs = (1000 * env + time).astype(np.float32)
    ending = rng.choice(3, shape, p=endings)
    return Transition(
        obs=jnp.asarray(obs[..., None]),
        action=jnp.asarray(1000 * env + time, jnp.int32),
        reward=jnp.asarray(rng.normal(size=shape), jnp.float32),
        terminated=jnp.asarray(ending == 1),
        truncated=jnp.asarray(ending == 2),
        next_obs=jnp.asarray(np.where(ending == 0, obs + 1.0, obs + 0.5)[..., None], jnp.float32),
        extras={},
    )


def fill(replay, num_rollouts, endings=(0.8, 0.1, 0.1), seed=0):
    """The state after so many rollouts, and all steps of all environments ``[num_envs][time]``."""
    rng = np.random.default_rng(seed)
    state = replay.init(jnp.zeros(1), jnp.int32(0))
    add = jax.jit(replay.add)
    history = [[] for _ in range(replay.num_envs)]
    for i in range(num_rollouts):
        transitions = random_rollout(rng, replay, i * replay.rollout_length, endings)
        state = add(state, transitions)
        columns = [np.asarray(leaf) for leaf in (transitions.obs[..., 0], transitions.reward, transitions.terminated)]
        columns += [np.asarray(leaf) for leaf in (transitions.truncated, transitions.next_obs[..., 0])]
        for env, steps in enumerate(history):
            steps += [tuple(column[env, t] for column in columns) for t in range(replay.rollout_length)]
    return state, history


def window(replay, steps, start):
    """``(obs, reward, discount, next_obs or None, index of the last step)`` by the definition."""
    total, factor = 0.0, 1.0
    for last in range(start, start + replay.n_step):
        _, reward, terminated, truncated, next_obs = steps[last]
        total += factor * reward
        factor *= GAMMA
        if terminated or truncated:
            break
    return steps[start][0], total, 0.0 if terminated else factor, None if terminated else next_obs, last


def expected_windows(replay, history):
    """Every window that may be sampled, by observation: the newest `capacity` that are complete."""
    found = {}
    rows = len(history[0])
    newest = rows - 1 - replay.n_step
    for env, steps in enumerate(history):
        for start in range(max(0, newest + 1 - replay.capacity // replay.num_envs), newest + 1):
            obs, reward, discount, next_obs, last = window(replay, steps, start)
            group = replay._steps_per_final
            later = range(last + 1, min(rows, (last // group + 1) * group))
            lost = steps[last][3] and any(steps[t][3] for t in later)
            index = (start % replay._num_rows) * replay.num_envs + env
            found[float(obs)] = (index, reward, discount, next_obs, 0.0 if lost else 1.0)
    return found


def check_windows(replay, state, expected):
    index = jnp.asarray([index for index, *_ in expected.values()], jnp.int32)
    batch = jax.jit(replay.windows)(state, index, GAMMA)
    _, reward, discount, next_obs, weight = zip(*expected.values(), strict=True)
    np.testing.assert_array_equal(batch.obs[:, 0], list(expected))
    np.testing.assert_array_equal(batch.action, np.asarray(list(expected), np.int32))
    np.testing.assert_allclose(batch.reward, reward, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(batch.discount, discount, rtol=1e-6)
    np.testing.assert_array_equal(batch.weight, weight)
    matters = [i for i, (value, w) in enumerate(zip(next_obs, weight, strict=True)) if value is not None and w]
    np.testing.assert_array_equal(batch.next_obs[:, 0][np.asarray(matters, int)], [next_obs[i] for i in matters])


@st.composite
def replays(draw):
    num_envs = draw(st.integers(1, 3))
    rollout_length = draw(st.sampled_from([1, 2, 3, 5, 16, 17, 36]))
    rollouts = draw(st.integers(1, 8))
    return Replay(num_envs * rollout_length * rollouts, num_envs, rollout_length, draw(st.integers(1, 5)))


@settings(max_examples=10, deadline=None)
@given(replays(), st.integers(0, 2), st.sampled_from([(0.8, 0.1, 0.1), (0.4, 0.0, 0.6), (0.97, 0.0, 0.03)]), st.data())
def test_windows_are_those_of_a_plain_list(replay, laps, endings, data):
    shortest = replay.num_rollouts(
        -(-(replay.n_step + 1) // replay.rollout_length) * replay.num_envs * replay.rollout_length
    )
    per_lap = replay._num_rows // replay.rollout_length
    num_rollouts = shortest + laps * per_lap + data.draw(st.integers(0, per_lap))
    state, history = fill(replay, min(num_rollouts, 60), endings)
    check_windows(replay, state, expected_windows(replay, history))


@pytest.mark.parametrize("num_rollouts", [3, 9, 40])
def test_sampling_reaches_each_window_equally_often(num_rollouts):
    replay = Replay(capacity=24, num_envs=2, rollout_length=3, n_step=2)
    state, history = fill(replay, num_rollouts)
    expected = expected_windows(replay, history)
    batch = jax.jit(replay.sample, static_argnums=2)(state, jax.random.key(0), 40_000, GAMMA)
    seen, counts = np.unique(np.asarray(batch.obs[:, 0]), return_counts=True)
    assert set(seen.tolist()) == set(expected)
    np.testing.assert_allclose(counts, 40_000 / len(expected), rtol=0.2)
    check_windows(replay, state, expected)


def test_a_full_replay_holds_exactly_its_capacity():
    replay = Replay(capacity=24, num_envs=2, rollout_length=3, n_step=2)
    _, history = fill(replay, 40)
    assert len(expected_windows(replay, history)) == 24


@pytest.mark.parametrize("rollout_length", [1, 4, 20])
def test_time_limits_of_16_steps_lose_nothing(rollout_length):
    replay = Replay(capacity=80, num_envs=1, rollout_length=rollout_length)
    state = replay.init(jnp.zeros(1), jnp.int32(0))
    time = 0
    while time < 240:
        steps = jnp.arange(time, time + rollout_length)
        cut = steps % 20 == 19
        obs = steps.astype(jnp.float32)[None, :, None]
        nothing = jnp.zeros((1, rollout_length))
        state = replay.add(
            state,
            Transition(
                obs, steps[None], nothing, nothing > 0, cut[None], obs + jnp.where(cut, 0.5, 1.0)[None, :, None], {}
            ),
        )
        time += rollout_length
    batch = replay.sample(state, jax.random.key(0), 2000, GAMMA)
    assert (batch.weight == 1.0).all()
    cut = batch.action % 20 == 19
    assert cut.any()
    np.testing.assert_array_equal(batch.next_obs[:, 0] - batch.obs[:, 0], jnp.where(cut, 0.5, 1.0))
    np.testing.assert_allclose(batch.discount, GAMMA, rtol=1e-6)


def test_observations_keep_their_type_and_are_stored_once():
    replay = Replay(capacity=10_000, num_envs=1, rollout_length=10)
    state = jax.eval_shape(replay.init, jax.ShapeDtypeStruct((10, 10, 4), bool), jax.ShapeDtypeStruct((), jnp.int8))
    assert state.obs.dtype == bool
    assert state.action.dtype == jnp.int8
    num_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert num_bytes < 10_000 * 400 * 1.1


def test_observations_may_be_any_pytree():
    replay = Replay(capacity=4, num_envs=1, rollout_length=1)
    state = replay.init({"a": jnp.zeros(2), "b": jnp.int8(0)}, (jnp.int32(0),))
    for i in range(4):
        obs = {"a": jnp.full((1, 1, 2), i, jnp.float32), "b": jnp.full((1, 1), i, jnp.int8)}
        no = jnp.zeros((1, 1), bool)
        state = replay.add(state, Transition(obs, (jnp.full((1, 1), i),), jnp.ones((1, 1)), no, no, obs, {}))
    batch = replay.sample(state, jax.random.key(0), 50, GAMMA)
    np.testing.assert_array_equal(batch.obs["b"], batch.action[0])
    np.testing.assert_array_equal(batch.next_obs["a"][:, 0], batch.action[0] + 1)


@pytest.mark.parametrize("make", [lambda replay: replay, PrioritizedReplay])
def test_members_share_one_position_so_that_writing_stays_a_slice(make):
    replay = Replay(capacity=12, num_envs=2, rollout_length=3, n_step=2)
    rng = np.random.default_rng(0)
    wrapped = make(replay)

    def run(rollouts):
        state = wrapped.init(jnp.zeros(1), jnp.int32(0))
        return jax.lax.scan(lambda state, rollout: (wrapped.add(state, rollout), None), state, rollouts)[0]

    rollouts = [random_rollout(rng, replay, 3 * i, (0.8, 0.1, 0.1)) for i in range(4)]
    members = jax.tree.map(lambda *leaves: jnp.stack([jnp.stack(leaves)] * 5), *rollouts)
    program = jax.jit(jax.vmap(run)).lower(members).compile().as_text()
    assert "dynamic-update-slice(" in program
    assert "scatter(" not in program


# Prioritised


def test_priorities_decide_how_often_a_window_is_drawn():
    replay = Replay(capacity=24, num_envs=2, rollout_length=3, n_step=2)
    prioritized = PrioritizedReplay(replay, exponent=0.5, correction=0.7)
    rng = np.random.default_rng(1)
    state = prioritized.init(jnp.zeros(1), jnp.int32(0))
    ring, history = fill(replay, 40)
    rng = np.random.default_rng(0)
    for i in range(40):
        state = jax.jit(prioritized.add)(state, random_rollout(rng, replay, 3 * i, (0.8, 0.1, 0.1)))
    expected = expected_windows(replay, history)
    index = jnp.asarray([i for i, *_ in expected.values()])
    priority = jnp.asarray(rng.uniform(0.01, 4.0, len(index)), jnp.float32)
    state = prioritized.update(state, index, priority)
    batch = jax.jit(prioritized.sample, static_argnums=2)(state, jax.random.key(0), 60_000, GAMMA)
    share = np.asarray([(np.asarray(batch.index) == i).mean() for i in np.asarray(index)])
    exact = np.sqrt(priority) / np.sqrt(priority).sum()
    np.testing.assert_allclose(share, exact, rtol=0.15)
    assert share.sum() == pytest.approx(1.0)
    by_index = dict(zip(np.asarray(index).tolist(), exact, strict=True))
    probability = np.asarray([by_index[i] for i in np.asarray(batch.index).tolist()])
    weight = (probability.min() / probability) ** 0.7
    alive = np.asarray(batch.weight) > 0
    np.testing.assert_allclose(np.asarray(batch.weight)[alive], weight[alive], rtol=1e-3)
    del ring


@pytest.mark.parametrize("num_rollouts", [2, 5, 30])
def test_new_windows_get_the_largest_priority_and_incomplete_ones_none(num_rollouts):
    replay = Replay(capacity=24, num_envs=2, rollout_length=3, n_step=4)
    prioritized = PrioritizedReplay(replay, exponent=1.0)
    state = prioritized.init(jnp.zeros(1), jnp.int32(0))
    rng = np.random.default_rng(0)
    for i in range(num_rollouts):
        state = jax.jit(prioritized.add)(state, random_rollout(rng, replay, 3 * i, (0.8, 0.1, 0.1)))
    _, history = fill(replay, num_rollouts)
    expected = expected_windows(replay, history)
    batch = prioritized.sample(state, jax.random.key(0), 5_000, GAMMA)
    assert set(np.asarray(batch.obs[:, 0]).tolist()) == set(expected)
    newest = batch.index[jnp.argmax(batch.action)][None]
    state = prioritized.update(state, newest, jnp.float32([50.0]))
    state = prioritized.add(state, random_rollout(rng, replay, 3 * num_rollouts, (1.0, 0.0, 0.0)))
    assert float(state.max_priority) == pytest.approx(50.0)
    batch = prioritized.sample(state, jax.random.key(1), 5_000, GAMMA)
    fresh = np.asarray(batch.action) % 1000 >= 3 * num_rollouts - replay.n_step
    assert fresh.mean() > 0.6


def test_uniform_replay_takes_priorities_and_ignores_them():
    replay = Replay(capacity=4, num_envs=1, rollout_length=1)
    state = replay.init(jnp.zeros(1), jnp.int32(0))
    assert replay.update(state, jnp.int32([0]), jnp.float32([5.0])) is state


@pytest.mark.parametrize("exponent", [None, 0.5])
def test_training_copies_neither_replay_nor_priorities(exponent):
    algorithm = ALGORITHMS["dqn"].make(delay(), buffer_size=2**18, priority_exponent=exponent)
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    program = runner.advance.lower(algorithm, state, jnp.int32(1)).compile()
    assert program.memory_analysis().temp_size_in_bytes < 2**18  # a byte per step; a copy of anything takes four


def test_a_sample_tells_the_priorities_of_what_it_draws():
    tree = sum_tree.set_slice(sum_tree.init(100), 0, jnp.arange(100, dtype=jnp.float32))
    index, value = sum_tree.sample(tree, jax.random.key(0), 500)
    np.testing.assert_array_equal(value, index)


# Bad input


def test_a_size_that_is_not_whole_rollouts_names_the_nearest():
    with pytest.raises(InputError, match="= 6 steps, got a size of 100: the nearest is 96 or 102"):
        Replay(capacity=100, num_envs=2, rollout_length=3)


def test_too_large_a_replay_is_refused_with_the_arithmetic():
    replay = Replay(capacity=2_000_000_000, num_envs=1, rollout_length=1)
    with pytest.raises(InputError, match=r"2,000,000,000 steps x 437.* bytes needs 8.* GB, .* buffer_size"):
        jax.eval_shape(replay.init, jnp.zeros((10, 10, 4), bool), jnp.int32(0))


@pytest.mark.parametrize(("steps", "nearest"), [(0, 12), (6, 12), (13, 12), (17, 18)])
def test_a_warm_up_must_fill_at_least_one_window(steps, nearest):
    replay = Replay(capacity=24, num_envs=2, rollout_length=3, n_step=4)
    with pytest.raises(InputError, match=f"got {steps}: the nearest is {nearest}"):
        replay.num_rollouts(steps)
    assert replay.num_rollouts(18) == 3
