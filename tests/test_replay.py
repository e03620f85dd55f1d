"""The ring against a plain Python list of everything that was ever added."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probes import delay
from rows import ALGORITHMS

from purerl import InputError
from purerl.math import sum_tree
from purerl.replay import PrioritizedReplay, Replay
from purerl.training import loop
from purerl.types import Transition

GAMMA = 0.9
add = jax.jit(lambda replay, state, transitions: replay.add(state, transitions))
draw = jax.jit(lambda replay, state, key: replay.sample(state, key, 32, GAMMA))
update = jax.jit(lambda replay, state, index, priority: replay.update(state, index, priority))


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
    history = [[] for _ in range(replay.num_envs)]
    for i in range(num_rollouts):
        transitions = random_rollout(rng, replay, i * replay.rollout_length, endings)
        state = add(replay, state, transitions)
        columns = [np.asarray(leaf) for leaf in (transitions.obs[..., 0], transitions.reward, transitions.terminated)]
        columns += [np.asarray(leaf) for leaf in (transitions.truncated, transitions.next_obs[..., 0])]
        for env, steps in enumerate(history):
            steps += [tuple(column[env, t] for column in columns) for t in range(replay.rollout_length)]
    return state, history


def keeper(replay, steps, t):
    """The step whose successor is kept where that of the truncated step `t` would be: the first one of its place."""
    row = t % replay._num_rows
    first = t - row % replay._steps_per_place
    return next(i for i in range(first, t + 1) if steps[i][3])


def window(replay, steps, start):
    """``(obs, reward, discount, next_obs or None, observations on the way)`` by the definition."""
    total, factor, last, terminated, next_obs = 0.0, 1.0, start, False, None
    for last in range(start, start + replay.n_step):
        obs, reward, terminated, truncated, next_obs = steps[last]
        if truncated and keeper(replay, steps, last) < last:
            # It has no successor, so the window ends before it.
            next_obs, last = obs, last - 1
            break
        total += factor * reward
        factor *= GAMMA
        if terminated or truncated:
            break
    way = [step[0] for step in steps[start + 1 : last + 1]]
    return steps[start][0], total, 0.0 if terminated else factor, None if terminated else next_obs, way


def expected_windows(replay, history, stand_in=True):
    """The newest `capacity` windows that are complete, by observation, and how often each is among them.

    One whose only step has no successor is represented by the one that keeps its place, or (stand_in=False) missing.
    """
    found = {}
    rows = len(history[0])
    newest = rows - 1 - replay.n_step
    for env, steps in enumerate(history):
        for start in range(max(0, newest + 1 - replay.capacity // replay.num_envs), newest + 1):
            begin = keeper(replay, steps, start) if steps[start][3] else start
            if begin < start and not stand_in:
                continue
            obs, *rest = window(replay, steps, begin)
            index = (begin % replay._num_rows) * replay.num_envs + env
            *_, often = found.get(float(obs), (0,))
            found[float(obs)] = (index, *rest, often + 1)
    return found


def check_windows(replay, state, expected):
    index = jnp.asarray([index for index, *_ in expected.values()], jnp.int32)
    batch = jax.jit(replay.windows)(state, index, GAMMA)
    _, reward, discount, next_obs, way, _ = zip(*expected.values(), strict=True)
    np.testing.assert_array_equal(batch.obs[:, 0], list(expected))
    np.testing.assert_array_equal(batch.action, np.asarray(list(expected), np.int32))
    np.testing.assert_allclose(batch.reward, reward, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(batch.discount, discount, rtol=1e-6)
    np.testing.assert_array_equal(batch.weight, 1.0)
    goes_on = [i for i, value in enumerate(next_obs) if value is not None]
    np.testing.assert_array_equal(batch.next_obs[:, 0][np.asarray(goes_on, int)], [next_obs[i] for i in goes_on])
    for i, obs in enumerate(way):
        np.testing.assert_array_equal(batch.later_obs[i, : len(obs), 0], obs)
        powers = [GAMMA**k for k in range(1, len(obs) + 1)] + [0.0] * (replay.n_step - 1 - len(obs))
        np.testing.assert_allclose(batch.later_discount[i], powers, rtol=1e-6)


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
    often = np.asarray([expected[value][-1] for value in seen.tolist()])
    np.testing.assert_allclose(counts, 40_000 * often / often.sum(), rtol=0.2)
    check_windows(replay, state, expected)


def test_a_full_replay_holds_exactly_its_capacity():
    replay = Replay(capacity=24, num_envs=2, rollout_length=3, n_step=2)
    _, history = fill(replay, 40)
    assert sum(often for *_, often in expected_windows(replay, history).values()) == 24


def limited_rollout(replay, first, limit):
    """Steps that tell environment and time, cut off every `limit` of them, in each environment at another time."""
    time = first + np.arange(replay.rollout_length) + (16_000 + 7) * np.arange(replay.num_envs)[:, None]
    cut = time % limit == limit - 1
    obs, no = time[..., None].astype(np.float32), np.zeros(time.shape, bool)
    next_obs = (obs + np.where(cut, 0.5, 1.0)[..., None]).astype(np.float32)
    return Transition(obs, time.astype(np.int32), np.ones(time.shape, np.float32), no, cut, next_obs, {})


@pytest.mark.parametrize("limit", [16, 4])
@pytest.mark.parametrize("rollout_length", [1, 6, 16, 17, 127])
def test_whatever_is_drawn_has_its_successor_and_time_limits_have_their_share(rollout_length, limit):
    in_use = 1016 // rollout_length * rollout_length
    replay = Replay(2 * in_use, num_envs=2, rollout_length=rollout_length)
    state = replay.init(jnp.zeros(1), jnp.int32(0))
    for first in range(0, 2 * replay._num_rows, rollout_length):
        state = add(replay, state, limited_rollout(replay, first, limit))
    batch = jax.jit(replay.sample, static_argnums=2)(state, jax.random.key(0), 20_000, GAMMA)
    cut = batch.action % limit == limit - 1
    np.testing.assert_array_equal(batch.next_obs[:, 0] - batch.obs[:, 0], jnp.where(cut, 0.5, 1.0))
    np.testing.assert_allclose(cut.mean(), 1.0 / limit, atol=0.012)
    drawn = np.unique(np.asarray(batch.obs[np.asarray(cut)]))
    assert drawn.size == pytest.approx(2 * in_use / 16, rel=0.1), "one for each place"


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
        state = add(prioritized, state, random_rollout(rng, replay, 3 * i, (0.8, 0.1, 0.1)))
    expected = expected_windows(replay, history, stand_in=False)
    index = jnp.asarray([i for i, *_ in expected.values()])
    priority = jnp.asarray(rng.uniform(0.01, 4.0, len(index)), jnp.float32)
    state = prioritized.update(state, index, priority)
    # What has no successor is never drawn, whatever somebody says about it.
    row, env = jnp.nonzero(ring.outcome[..., 1] > 2.0)
    assert len(row)
    state = prioritized.update(state, row * replay.num_envs + env, jnp.full(len(row), 1000.0))
    batch = jax.jit(prioritized.sample, static_argnums=2)(state, jax.random.key(0), 60_000, GAMMA)
    share = np.asarray([(np.asarray(batch.index) == i).mean() for i in np.asarray(index)])
    exact = np.sqrt(priority) / np.sqrt(priority).sum()
    np.testing.assert_allclose(share, exact, rtol=0.15)
    assert share.sum() == pytest.approx(1.0)
    by_index = dict(zip(np.asarray(index).tolist(), exact, strict=True))
    probability = np.asarray([by_index[i] for i in np.asarray(batch.index).tolist()])
    weight = (probability.min() / probability) ** 0.7
    np.testing.assert_allclose(batch.weight, weight, rtol=1e-3)


@pytest.mark.parametrize("num_rollouts", [2, 5, 30])
def test_new_windows_get_the_largest_priority_and_incomplete_ones_none(num_rollouts):
    replay = Replay(capacity=24, num_envs=2, rollout_length=3, n_step=4)
    prioritized = PrioritizedReplay(replay, exponent=1.0)
    state = prioritized.init(jnp.zeros(1), jnp.int32(0))
    rng = np.random.default_rng(0)
    for i in range(num_rollouts):
        state = add(prioritized, state, random_rollout(rng, replay, 3 * i, (0.8, 0.1, 0.1)))
    _, history = fill(replay, num_rollouts)
    expected = expected_windows(replay, history, stand_in=False)
    batch = prioritized.sample(state, jax.random.key(0), 5_000, GAMMA)
    assert set(np.asarray(batch.obs[:, 0]).tolist()) == set(expected)
    newest = batch.index[jnp.argmax(batch.action)][None]
    state = prioritized.update(state, newest, jnp.float32([50.0]))
    state = add(prioritized, state, random_rollout(rng, replay, 3 * num_rollouts, (1.0, 0.0, 0.0)))
    assert float(state.max_priority) == pytest.approx(50.0)
    batch = prioritized.sample(state, jax.random.key(1), 5_000, GAMMA)
    fresh = np.asarray(batch.action) % 1000 >= 3 * num_rollouts - replay.n_step
    assert fresh.mean() > 0.6


def prioritized_rollouts(exponent, num_rollouts=9):
    """A replay of 64 steps with rollouts of 8, and 32 windows from it."""
    replay = PrioritizedReplay(Replay(capacity=64, num_envs=1, rollout_length=8), exponent=exponent)
    state = replay.init(jnp.zeros(1), jnp.int32(0))
    for first in range(0, 8 * num_rollouts, 8):
        state = add(replay, state, limited_rollout(replay.ring, first, 1000))
    return replay, state, draw(replay, state, jax.random.key(0)).index


@pytest.mark.parametrize("error", [np.nan, np.inf, 1e30])
def test_an_error_that_is_no_number_counts_as_the_largest_so_far(error):
    replay, state, index = prioritized_rollouts(2.0)
    state = update(replay, state, index, jnp.where(index == index[0], 3.0, 0.1))
    state = update(replay, state, index, jnp.where(index == index[0], error, 0.5))
    state = add(replay, state, limited_rollout(replay.ring, 72, 1000))
    assert float(state.max_priority) == pytest.approx(9.0)
    assert float(sum_tree.get(state.priorities, replay._shift(index[:1], 1))[0]) == pytest.approx(9.0)
    batch = draw(replay, state, jax.random.key(1))
    assert np.isfinite(batch.weight).all()
    assert np.unique(batch.index).size > 5


def test_what_was_learned_perfectly_is_drawn_again_whatever_the_exponent():
    replay, state, index = prioritized_rollouts(10.0, num_rollouts=2)
    for seed in range(4):
        state = update(replay, state, index, jnp.zeros(32))
        index = draw(replay, state, jax.random.key(seed)).index
    batch = draw(replay, state, jax.random.key(4))
    assert np.unique(batch.index).size > 5
    np.testing.assert_array_equal(batch.weight, 1.0)


def test_uniform_replay_takes_priorities_and_ignores_them():
    replay = Replay(capacity=4, num_envs=1, rollout_length=1)
    state = replay.init(jnp.zeros(1), jnp.int32(0))
    assert replay.update(state, jnp.int32([0]), jnp.float32([5.0])) is state


@pytest.mark.parametrize("exponent", [None, 0.5])
def test_training_copies_neither_replay_nor_priorities(exponent):
    algorithm = ALGORITHMS["dqn"].make(delay(), buffer_size=2**18, priority_exponent=exponent)
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    program = loop.advance.lower(algorithm, state, jnp.int32(1)).compile()
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
