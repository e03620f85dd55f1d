"""Imitation of reference motions on a line, where every reward and every end is known."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from environment_contract import check_types

import purerl
from purerl import InputError, rollout, struct
from purerl.environments import ImitateMotion, Motion, Term, TimeLimit, check_env, record_motion, smooth
from purerl.spaces import Box, Discrete
from purerl.types import TimeStep

KEY = jax.random.key(0)


@struct.dataclass
class Line:
    """The position moves by the action and ends at 8; the reward is 10."""

    drift: float | np.float32 = np.float32(0.0)

    observation_space = Box((1,), -9.0, 9.0)
    action_space = Box((1,), -1.0, 1.0)

    def _timestep(self, x, reward):
        return TimeStep({"x": x}, x[None], jnp.float32(reward), jnp.asarray(x >= 8.0), jnp.bool_(False))

    def reset(self, key):
        return self._timestep(jnp.float32(-5.0), 0.0)

    def step(self, key, state, action):
        return self._timestep(state["x"] + jnp.float32(self.drift) + action[0], 10.0)


def position(state):
    return state["x"]


def twice(state):
    return jnp.stack([state["x"], 2.0 * state["x"]])


X = np.float32([0.0, 1.0, 1.5, 2.5, 2.0])
"""Positions of the reference motion: 4 steps."""
MOTION = Motion({"x": X}, X[:, None])
MOVES = np.diff(X)[:, None]
TERMS = {"position": Term(position, 3.0, 0.5), "twice": Term(twice, 1.0, 0.1)}


def play(env, actions, phase=0):
    """Time steps after each action from a phase of the motion."""
    start = struct.replace(env, random_start=0.0).reset(KEY)
    state = struct.replace(start.state, env={"x": jnp.float32(X[phase])}, phase=jnp.int32(phase))
    for action in actions:
        timestep = env.step(KEY, state, jnp.float32(action))
        state = timestep.state
        yield timestep


WRAPPED = {
    "plain": ImitateMotion(Line(), MOTION, TERMS),
    "goals": ImitateMotion(Line(), MOTION, TERMS, 0.5, 0.3, num_goals=2),
    "cyclic": TimeLimit(ImitateMotion(Line(), MOTION, TERMS, num_goals=1, cyclic=True), 7),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_the_contract_of_environments(name):
    check_types(WRAPPED[name])
    assert check_env(WRAPPED[name], num_steps=20) is None


def test_keys_are_used_once():
    env = WRAPPED["goals"]
    with jax.debug_key_reuse(True):
        timestep = jax.jit(lambda key: env.reset(key))(jax.random.key(1))
    assert np.all(np.isfinite(timestep.obs))


def test_perfect_tracking_has_reward_1_at_every_step_and_ends_by_a_time_limit():
    steps = list(play(ImitateMotion(Line(), MOTION, TERMS), MOVES))
    np.testing.assert_array_equal([step.reward for step in steps], np.ones(4))
    assert [bool(step.truncated) for step in steps] == [False, False, False, True]
    assert not any(step.terminated for step in steps)
    np.testing.assert_allclose([step.obs for step in steps], np.stack([X[1:], [0.25, 0.5, 0.75, 1.0]], 1))


def test_the_reward_is_that_of_the_equations():
    """One step off by 0.5 in position: squared distances 0.25, and 0.25 (1 + 4) of both entries."""
    imitation = (3.0 * math.exp(-0.5 * 0.25) + math.exp(-0.1 * 1.25)) / 4.0
    for weight in (0.0, 0.3, 1.0):
        (step,) = play(ImitateMotion(Line(), MOTION, TERMS, task_weight=weight), [[0.5]])
        np.testing.assert_allclose(step.reward, (1.0 - weight) * imitation + weight * 10.0, rtol=1e-6)


def test_the_weights_are_divided_by_their_sum():
    doubled = {name: struct.replace(term, weight=2.0 * term.weight) for name, term in TERMS.items()}
    (once,), (again,) = (play(ImitateMotion(Line(), MOTION, terms), [[0.5]]) for terms in (TERMS, doubled))
    np.testing.assert_allclose(once.reward, again.reward, rtol=1e-6)


@pytest.mark.parametrize(("action", "ends"), [(1.5, False), (1.5625, True), (0.5, False), (0.4375, True)])
def test_early_termination_begins_above_the_tolerance(action, ends):
    """The reference is 1 after one step; the tolerance is 0.5. All numbers are exact in float32."""
    terms = {"position": Term(position, tolerance=0.5), "twice": Term(twice)}
    (step,) = play(ImitateMotion(Line(), MOTION, terms), [[action]])
    assert (bool(step.terminated), bool(step.truncated)) == (ends, False)


def test_early_termination_ends_a_simulation_that_fails():
    terms = {"position": Term(position, tolerance=0.5)}
    (step,) = play(ImitateMotion(Line(), MOTION, terms), [[math.nan]])
    assert bool(step.terminated)


def test_early_termination_comes_before_the_end_of_the_motion():
    terms = {"position": Term(position, tolerance=0.5)}
    (step,) = play(ImitateMotion(Line(), MOTION, terms), [[1.0]], phase=3)
    assert (bool(step.terminated), bool(step.truncated)) == (True, False)


def test_the_ends_of_the_environment_stay():
    motion = Motion({"x": np.float32([7.0, 7.5, 7.5])}, np.float32([[7.0], [7.5], [7.5]]))
    env = ImitateMotion(Line(), motion, TERMS)
    timestep = env.step(KEY, env.reset(KEY).state, jnp.ones(1))
    assert (bool(timestep.terminated), bool(timestep.truncated)) == (True, False)


def test_a_random_start_is_every_state_with_a_successor_equally_often():
    env = ImitateMotion(Line(), MOTION, TERMS)
    number = 4000
    starts = jax.vmap(env.reset)(jax.random.split(KEY, number))
    counts = np.bincount(starts.state.phase, minlength=5)
    assert counts[4] == 0
    # Five standard deviations of a binomial count.
    np.testing.assert_allclose(counts[:4], number / 4, atol=5 * math.sqrt(number * 0.25 * 0.75))
    np.testing.assert_array_equal(starts.state.env["x"], X[starts.state.phase])
    np.testing.assert_allclose(starts.obs, np.stack([starts.state.env["x"], starts.state.phase / 4], 1))
    half = jax.vmap(struct.replace(env, random_start=0.5).reset)(jax.random.split(KEY, number)).state.phase
    np.testing.assert_allclose(np.mean(half == 0), 0.5 + 0.5 / 4, atol=5 / math.sqrt(4 * number))
    first = jax.vmap(struct.replace(env, random_start=0.0).reset)(jax.random.split(KEY, 50)).state.phase
    np.testing.assert_array_equal(first, 0)
    cyclic = jax.vmap(struct.replace(env, cyclic=True).reset)(jax.random.split(KEY, 200)).state.phase
    assert set(np.asarray(cyclic)) == {0, 1, 2, 3, 4}


def test_a_cyclic_motion_begins_again():
    env = ImitateMotion(Line(), MOTION, TERMS, cyclic=True)
    moves = np.diff(np.concatenate([X, X, X[:1]]))[:, None]
    steps = list(play(env, moves))
    assert [int(step.state.phase) for step in steps] == [1, 2, 3, 4, 0, 1, 2, 3, 4, 0]
    np.testing.assert_allclose([step.reward for step in steps], np.ones(10), rtol=1e-6)
    assert not any(step.done for step in steps)
    angle = 2 * np.pi * np.arange(1, 6) / 5
    np.testing.assert_allclose(
        [step.obs[1:] for step in steps[:5]], np.stack([np.cos(angle), np.sin(angle)], 1), atol=1e-6
    )


def test_goals_are_the_features_of_the_next_states():
    env = ImitateMotion(Line(), MOTION, {"position": Term(position), "twice": Term(twice)}, 0.0, num_goals=2)
    assert env.observation_space.shape == (1 + 1 + 2 * 3,)
    np.testing.assert_allclose(env.reset(KEY).obs, [0.0, 0.0, 1.0, 1.0, 2.0, 1.5, 1.5, 3.0])
    *_, last = play(env, MOVES)
    np.testing.assert_allclose(last.obs[2:], np.tile([X[4], X[4], 2 * X[4]], 2))  # the last state stays
    low, high = env.observation_space.bounds
    np.testing.assert_array_equal(low, [-9.0, 0.0, *[-np.inf] * 6])
    np.testing.assert_array_equal(high, [9.0, 1.0, *[np.inf] * 6])


def test_gradients_flow_through_the_reward():
    """d/da exp(-k (a - 1)^2) at a = 0.5 is k exp(-k / 4); at the reference it is 0."""
    env = ImitateMotion(Line(), MOTION, {"position": Term(position, scale=2.0)})
    state = struct.replace(env, random_start=0.0).reset(KEY).state
    gradient = jax.grad(lambda action: env.step(KEY, state, action[None]).reward)
    np.testing.assert_allclose(gradient(0.5), 2.0 * math.exp(-0.5), rtol=1e-6)
    assert gradient(1.0) == 0.0


def test_a_recorded_motion_is_tracked_by_the_same_actions():
    env = smooth.CartPoleSwingUp()
    actions = 5.0 * jax.random.normal(KEY, (12, 1))
    motion = record_motion(env, env.reset(KEY), actions, KEY)
    assert motion.num_states == 13
    np.testing.assert_array_equal(motion.states[0], env.reset(KEY).state)
    np.testing.assert_allclose(motion.obs[:, 0], motion.states[:, 0])
    task = ImitateMotion(env, motion, {"all": Term(lambda state: state, tolerance=1e-3)}, random_start=0.0)
    policy = purerl.Policy(jax.tree_util.Partial(lambda key, n, obs: (actions[n], n + 1, {})), jnp.int32(0))
    episodes = purerl.evaluate(task, policy, KEY, num_episodes=1)
    assert episodes.episode_length[0] == 12
    np.testing.assert_allclose(episodes.episode_return[0], 12.0, rtol=1e-5)


def test_variants_train_as_one_population():
    task = ImitateMotion(Line(), MOTION, {"position": Term(position, tolerance=0.5)})
    network = purerl.ActorCritic(trunk=purerl.MLP((16,)))
    agent = purerl.PPO(env=task, network=network, num_envs=2, rollout_length=8, num_minibatches=1, num_epochs=1)
    varied = {"env.random_start": [0.0, 0.0], "env.terms.position.tolerance": [1e-3, np.inf]}
    population = purerl.Population(agent, 2, varied)
    state = jax.jit(population.init)(KEY)
    _, metrics = jax.jit(population.step)(state)
    # The first ends after one step nearly always, the second after four.
    assert metrics["episode_length"].value[0] < 2.0
    assert metrics["episode_length"].value[1] == 4.0


def test_a_motion_may_come_from_a_policy():
    env = Line()
    policy = purerl.Policy(jax.tree_util.Partial(lambda key, carry, obs: (-0.1 * obs, carry, {})))
    start = env.reset(KEY)
    _, transitions, _ = rollout.unroll(env, policy, rollout.begin(start, ()), KEY, 3)
    motion = record_motion(env, start, transitions.action, KEY)
    np.testing.assert_allclose(motion.states["x"], -5.0 * 0.9 ** np.arange(4), rtol=1e-6)


class Coin(Line):
    observation_space = Discrete(2)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (partial(Motion, {"x": X[:1]}, X[:1, None]), "need one leading axis of length 2 or more, got 1"),
        (partial(Motion, {"x": X}, X[:3, None]), "need one leading axis of length 2 or more, got 3, 5"),
        (partial(Motion, {"x": X}, np.float32(0)), "need one leading axis of length 2 or more, got none, 5"),
        (partial(Term, position, weight=0.0), r"weight must lie in \(0, inf\), got 0"),
        (partial(Term, position, scale=-1.0), "scale must lie in"),
        (partial(Term, position, tolerance=0.0), r"tolerance must lie in \(0, inf\], got 0"),
        (partial(Term, 3.0), "feature must be a function of the state, got 3.0"),
        (partial(ImitateMotion, Line(), MOTION, {}), "terms must map names to at least one Term, got {}"),
        (partial(ImitateMotion, Line(), MOTION, [Term(position)]), "terms must map names to at least one Term"),
        (partial(ImitateMotion, Line(), MOTION, TERMS, 1.5), r"random_start must lie in \[0, 1\], got 1.5"),
        (partial(ImitateMotion, Line(), MOTION, TERMS, task_weight=-1), r"task_weight must lie in \[0, 1\], got -1"),
        (partial(ImitateMotion, Line(), MOTION, TERMS, num_goals=-1), r"num_goals must lie in \[0, inf\), got -1"),
        (partial(ImitateMotion, Coin(), MOTION, TERMS), r"observations that are a float vector, not Discrete\(2\)"),
        (
            partial(ImitateMotion, TimeLimit(Line(), 5), MOTION, TERMS),
            "record it in the same environment with the same",
        ),
        (partial(ImitateMotion, Line(), Motion({"x": X[:, None]}, X[:, None]), TERMS), r"states\['x'\] of the motion"),
        (partial(ImitateMotion, Line(), Motion({"x": X}, X), TERMS), r"obs of the motion: each entry is float32\[\]"),
        (lambda: record_motion(Line(), Line().reset(KEY), jnp.full((4, 1), 9.0), KEY), "ends after 2 of 4 actions"),
        (lambda: record_motion(Line(), Line().reset(KEY), jnp.full((4, 1), np.nan), KEY), "are not finite"),
    ],
)
def test_bad_values(build, message):
    with pytest.raises(InputError, match=message) as error:
        build()
    assert "\n" not in str(error.value)


def test_an_episode_of_brax_goes_on_from_any_state_of_the_motion():
    """The recorded actions repeat the rest of the motion exactly, from a state in the middle of it."""
    env = purerl.make("brax/inverted_pendulum", backend="positional").env
    actions = jnp.float32([[0.5], [-0.5], [0.2], [0.1]])
    motion = jax.jit(lambda: record_motion(env, env.reset(KEY), actions, KEY))()
    joints = {"q": Term(lambda state: state.pipeline_state.q), "qd": Term(lambda state: state.pipeline_state.qd)}
    task = ImitateMotion(env, motion, joints)

    def play(task, key):
        first = task.reset(key)
        onward = task.step(key, first.state, actions[first.state.phase])
        return first.state.phase, onward.reward, onward.obs[:-1], motion.obs[first.state.phase + 1]

    phases, rewards, seen, recorded = jax.jit(jax.vmap(play, (None, 0)))(task, jax.random.split(KEY, 16))
    assert set(np.asarray(phases)) == {0, 1, 2, 3}
    np.testing.assert_allclose(rewards, 1.0, rtol=1e-5)
    np.testing.assert_allclose(seen, recorded, atol=1e-5)
