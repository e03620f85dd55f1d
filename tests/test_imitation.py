"""Known answers of learning from an expert."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rows
from helpers import learn
from jax.tree_util import Partial
from probes import Fork, Target

import purerl
from purerl import BC, MLP, ActorCritic, Box, DeterministicPolicy, Discrete, InputError, Policy, struct
from purerl.algorithms.bc import Loss
from purerl.learning.cloning import label_of
from purerl.learning.discriminator import Discriminator, Sign

WEIGHTS = np.float32([[0.3, -0.2], [0.1, 0.25], [-0.15, 0.05]])
"""Of the linear expert, from three observations to two actions in ``[-1, 1]``."""


@struct.dataclass
class Spaces:
    """An environment of which only the spaces are used."""

    observation_space: purerl.spaces.Space = struct.field(static=True)
    action_space: purerl.spaces.Space = struct.field(static=True)

    def reset(self, key):
        raise NotImplementedError

    def step(self, key, state, action):
        raise NotImplementedError


def given(env, obs, action):
    """Demonstrations of single steps."""
    rows = len(obs)
    ends, starts = np.ones(rows, bool), np.arange(rows, dtype=np.int32)
    spaces = env.observation_space, env.action_space
    return purerl.Demonstrations(obs, action, np.zeros(rows, np.float32), ends, ~ends, obs, starts, *spaces)


def test_cloning_a_linear_gaussian_expert_recovers_weights_and_deviation():
    """Maximum likelihood is least squares, and the deviation that of the residuals."""
    env = Spaces(Box((3,)), Box((2,), -10.0, 10.0))
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(1024, 3)).astype(np.float32)
    unit = obs @ WEIGHTS + 0.1 * rng.normal(size=(1024, 2)).astype(np.float32)
    demonstrations = given(env, obs, np.float32(10.0 * np.clip(unit, -1, 1)))
    # One linear layer: the trunk passes the observation on.
    network = ActorCritic(trunk=Identity())
    agent = BC(env=env, demonstrations=demonstrations, network=network, batch_size=1024, held_out=0.0)
    state = learn(struct.replace(agent, learning_rate=2e-2), 0, 600)
    head = state.params["params"]["actor_head"]
    solved, *_ = np.linalg.lstsq(np.c_[obs, np.ones(1024)], np.clip(unit, -1, 1), rcond=None)
    np.testing.assert_allclose(head["kernel"], solved[:3], atol=2e-3)
    np.testing.assert_allclose(head["kernel"], WEIGHTS, atol=2e-2)
    residual = np.clip(unit, -1, 1) - np.c_[obs, np.ones(1024)] @ solved
    np.testing.assert_allclose(np.exp(state.params["params"]["log_std"]["value"]), residual.std(axis=0), rtol=0.02)


class Identity(MLP):
    """A trunk without layers."""

    def __call__(self, obs):
        return obs


def test_cloning_on_a_table_gives_the_empirical_frequencies():
    env = Spaces(Discrete(3), Discrete(2))
    obs = np.int32([0] * 10 + [1] * 10 + [2] * 10)
    action = np.int32([0] * 2 + [1] * 8 + [0] * 5 + [1] * 5 + [0] * 9 + [1] * 1)
    network = ActorCritic(trunk=Identity())
    agent = BC(env=env, demonstrations=given(env, obs, action), network=network, held_out=0.0, learning_rate=5e-2)
    state = learn(agent, 0, 600)
    logits = agent._network.apply(state.params, jnp.eye(3)[0], method="actor").logits
    probabilities = [
        jax.nn.softmax(agent._network.apply(state.params, jnp.eye(3)[i], method="actor").logits)[1] for i in range(3)
    ]
    assert logits.shape == (2,)
    np.testing.assert_allclose(probabilities, [0.8, 0.5, 0.1], atol=5e-3)


@pytest.mark.parametrize(
    ("network", "loss"),
    [
        (ActorCritic(MLP((16,)), squash=True), Loss.LIKELIHOOD),
        (ActorCritic(MLP((16,))), Loss.SQUARED_ERROR),
        (DeterministicPolicy(MLP((16,))), Loss.SQUARED_ERROR),
    ],
)
def test_other_policies_find_the_experts_actions(network, loss):
    agent = rows.bc(Target(), network=network, loss=loss, learning_rate=1e-2, num_epochs=8)
    policy = agent.policy(learn(agent, 1, 100), explore=False)
    actions = [policy.act(jax.random.key(0), policy.carry, jnp.full((1,), obs))[0][0] for obs in (-1.0, 1.0)]
    np.testing.assert_allclose(actions, [-1.0, 1.0], atol=0.1)


def test_held_out_rows_are_not_learned_from():
    """Labels of the last quarter contradict the others: what is learned contradicts them."""
    env = Spaces(Discrete(2), Discrete(2))
    obs = np.tile(np.int32([0, 1]), 32)
    action = np.where(np.arange(64) < 48, obs, 1 - obs).astype(np.int32)
    agent = BC(env=env, demonstrations=given(env, obs, action), held_out=0.25, batch_size=16, learning_rate=1e-2)
    assert agent.steps_per_iteration == 48
    state = learn(agent, 0, 30)
    _, metrics = agent.step(state)
    assert metrics["accuracy"].value == 1.0
    assert metrics["held_out_accuracy"].value == 0.0
    assert metrics["held_out_loss"].value > 1.0 > metrics["loss"].value


def test_a_rest_of_rows_that_fills_no_minibatch_is_left_to_other_epochs():
    env = Spaces(Discrete(7), Discrete(7))
    numbers = np.arange(7, dtype=np.int32)
    agent = BC(env=env, demonstrations=given(env, numbers, numbers), held_out=0.0, batch_size=3, learning_rate=1e-2)
    assert (agent.steps_per_iteration, agent.minibatch_rows) == (6, 3)
    _, metrics = agent.step(learn(agent, 0, 200))
    assert metrics["accuracy"].value == 1.0


@pytest.mark.parametrize(
    "space",
    [
        Box((2,), (-3.0, 0.0), (1.0, 4.0)),
        Box((2,), -np.inf, np.inf),
        Box((2,), 0.0, np.inf),
        Box((2,), -np.inf, 5.0),
        Box((2,), -2, 3, np.int8),
        Box((2,), dtype=np.int32),
    ],
)
def test_a_label_becomes_the_action_again(space):
    for seed in range(20):
        action = space.sample(jax.random.key(seed))
        np.testing.assert_allclose(space.from_unit(label_of(space, action)), action, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "mse"}, "loss must be one of"),
        ({"loss": Loss.SQUARED_ERROR}, "the squared error is for continuous actions"),
        ({"network": ActorCritic(memory=purerl.GRU(4))}, "needs a network without memory"),
        ({"demonstrations": 3}, r"demonstrations must be purerl.Demonstrations, got 3"),
        ({"demonstrations": rows.demonstrations(Target())}, "the demonstrations have observations"),
        ({"held_out": 0.999}, "leaves none of 64 rows"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(changes, message):
    env = purerl.make("CartPole-v1")
    tiny = {"demonstrations": rows.demonstrations(env)}
    with pytest.raises(InputError, match=message):
        BC(env=env, **(tiny | changes))


# DAgger


def test_with_beta_1_the_expert_acts_and_the_data_are_its_own():
    """As for behaviour cloning: the observations are those of the expert's episodes, the labels what it did there."""
    env, expert = Fork(continuous=True), Policy(Partial(_alternating))
    agent = rows.dagger(env, expert=expert, beta=1.0, normalize_observations=False)
    state, _ = agent.step(agent.init(jax.random.key(0)))
    obs = np.asarray(state.replay.obs[:8]).reshape(-1, 3)
    label = np.asarray(state.replay.action[:8]).reshape(-1, 2)
    expected = env.action_space.to_unit(np.float32([0.0, 3.0]))
    np.testing.assert_allclose(label, np.sign(obs[:, :1]) * np.asarray(expected), atol=1e-6)
    # The observation tells the last action, which was the expert's too.
    later = np.abs(obs[:, 0]) > 1
    taken = env.scale(np.sign(obs[later, :1]) * np.asarray(expected))
    np.testing.assert_allclose(obs[later, 1:], taken, atol=1e-5)


def _alternating(key, carry, obs):
    """Depends on the observation's sign; not clipped by the bounds [-3, 1] and [0, 4]."""
    low, high = np.float32([-3.0, 0.0]), np.float32([1.0, 4.0])
    unit = 0.5 * jnp.sign(obs[0])
    return low + 0.5 * (unit + 1.0) * (high - low), carry, {}


def test_with_beta_0_the_learner_acts_and_the_expert_labels():
    env = Fork(continuous=True)
    agent = rows.dagger(env, expert=Policy(Partial(_alternating)), beta=0.0, normalize_observations=False)
    state, metrics = agent.step(agent.init(jax.random.key(0)))
    obs, label = (np.asarray(leaf[:8]).reshape(-1, leaf.shape[-1]) for leaf in (state.replay.obs, state.replay.action))
    np.testing.assert_allclose(label, 0.5 * np.sign(obs[:, :1]) * np.ones((1, 2)), atol=1e-6)
    later = np.abs(obs[:, 0]) > 1
    assert np.std(obs[later, 1]) > 0.3, "actions of a fresh policy, sampled"
    assert metrics["beta"].value == 0.0


def test_labels_of_short_episodes_are_kept():
    """Episodes of a few steps end several times in the rows that share a place for final observations."""
    env = purerl.make("CartPole-v1", episode_length=2)
    agent = rows.dagger(env, expert=Policy(Partial(_leaning)), num_envs=1, rollout_length=32, buffer_size=32)
    state, _ = agent.step(agent.init(jax.random.key(0)))
    ring = agent._replay
    batch = ring.sample(state.replay, jax.random.key(1), 2048, 1.0)
    assert len(np.unique(batch.obs, axis=0)) >= 31, "every row but the newest"


def _leaning(key, carry, obs):
    return (obs[2] > 0).astype(jnp.int32), carry, {}


def test_the_share_of_the_experts_actions_is_beta():
    env = Fork(continuous=True)
    agent = rows.dagger(env, expert=Policy(Partial(_alternating)), beta=0.3, num_envs=64, buffer_size=64 * 8)
    state, _ = agent.step(agent.init(jax.random.key(0)))
    obs = np.asarray(state.replay.obs[:8]).reshape(-1, 3)
    later = np.abs(obs[:, 0]) > 1
    taken = env.scale(0.5 * np.sign(obs[later, :1]) * np.ones((1, 2), np.float32))
    share = np.mean(np.all(np.abs(obs[later, 1:] - taken) < 1e-5, axis=1))
    np.testing.assert_allclose(share, 0.3, atol=4 * np.sqrt(0.3 * 0.7 / later.sum()))


def test_a_planner_labels_what_the_learner_sees():
    """The planner needs the state; the learner has the environment's own observations."""
    env = purerl.make("Pendulum-v1", episode_length=20)
    planner = purerl.control.Shooting(horizon=2, num_iterations=2)
    agent = rows.dagger(env, expert=planner, beta=1.0, num_envs=2, rollout_length=4, buffer_size=8)
    state, _ = jax.jit(agent.step)(agent.init(jax.random.key(0)))
    assert state.replay.obs.shape[-1] == 3
    # The first labels are what the planner does in the states that `init` drew.
    start = jax.tree.map(lambda leaf: leaf[0], agent.init(jax.random.key(0)).rollout)
    plan = planner.plan(env, start.timestep.state, jax.random.key(1), start.carry[1])
    np.testing.assert_allclose(state.replay.obs[0, 0], start.timestep.obs[0], rtol=1e-6)
    np.testing.assert_allclose(state.replay.action[0, 0], plan.actions[0] / 2.0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expert": 3}, r"expert must be a purerl.Policy or a planner of purerl.control, got 3"),
        ({"rollout_length": 1, "buffer_size": 4}, "rollout_length must be at least 2"),
        ({"buffer_size": 100}, "the nearest is 96 or 128"),
        ({"network": ActorCritic(memory=purerl.GRU(4))}, "needs a network without memory"),
        ({"expert": Policy(Partial(_alternating))}, r"the expert's actions have shape \[2\], the environment has Disc"),
        ({"expert": Policy(Partial(lambda key: key))}, "the expert cannot act on observations"),
        (
            {"expert": Policy(Partial(lambda key, carry, obs: (obs[0], carry, {})))},
            "the expert's actions are float32, the environment has Discrete",
        ),
    ],
)
def test_an_expert_that_does_not_fit_is_one_clear_error(changes, message):
    with pytest.raises(InputError, match=message):
        rows.dagger(purerl.make("CartPole-v1"), **changes)


# GAIL


def _discriminator(**changes):
    none = {"gradient_penalty": 0.0, "entropy_coef": 0.0, "num_minibatches": 1, "hidden_sizes": (16,)}
    return lambda demonstrations: Discriminator(demonstrations, **(none | {"learning_rate": 1e-2} | changes))


def _table(counts):
    """Observations and actions, of two each, as often as `counts` ``[2, 2]`` says."""
    pairs = [(s, a) for s in range(2) for a in range(2) for _ in range(counts[s][a])]
    return (np.int32(column) for column in zip(*pairs, strict=True))


TABLE = Spaces(Discrete(2), Discrete(2))


def _learned(model, agent_counts, iterations):
    obs, action = _table(agent_counts)
    zeros, ends = np.zeros(len(obs), np.float32), np.zeros(len(obs), bool)
    steps = purerl.Transition(obs, action, zeros, ends, ends, obs, {})
    steps = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], steps)

    def learn(state, key):
        state, reward, metrics = model.learn(TABLE, state, steps, key)
        return state, (reward, metrics)

    state = model.init(TABLE, 1, jax.random.key(0))
    return jax.lax.scan(learn, state, jax.random.split(jax.random.key(1), iterations))


def test_the_optimal_discriminator_is_the_log_ratio_of_densities():
    expert, agent = np.array([[40, 20], [10, 30]]), np.array([[10, 30], [40, 20]])
    model = _discriminator(learning_rate=3e-3)(given(TABLE, *_table(expert)))
    state, _ = _learned(model, agent, 3000)
    logits = [[float(model.logit(TABLE, state, jnp.int32(s), jnp.int32(a))) for a in range(2)] for s in range(2)]
    np.testing.assert_allclose(logits, np.log(expert / agent), atol=0.25)


@pytest.mark.parametrize(
    ("sign", "expected"),
    [(Sign.POSITIVE, np.log1p(np.exp(0.7))), (Sign.NEGATIVE, -np.log1p(np.exp(-0.7))), (Sign.BOTH, 0.7)],
)
def test_rewards_of_a_logit(sign, expected):
    model = _discriminator(sign=sign)(rows.demonstrations(Target()))
    np.testing.assert_allclose(model._reward(jnp.float32(0.7)), expected, rtol=1e-6)


def test_a_discriminator_that_never_learns_pays_the_same_for_every_step():
    expert = np.array([[40, 20], [10, 30]])
    model = _discriminator(learning_rate=0.0)(given(TABLE, *_table(expert)))
    _, (rewards, metrics) = _learned(model, expert, 3)
    np.testing.assert_allclose(rewards, np.log(2.0), atol=0.02)
    np.testing.assert_array_equal(rewards[0], rewards[2])
    assert {"discriminator_loss", "reward"} <= metrics.keys()


def test_gradient_penalty_and_entropy_keep_the_discriminator_from_certainty():
    expert, agent = np.array([[50, 0], [0, 50]]), np.array([[0, 50], [50, 0]])

    def largest(**changes):
        model = _discriminator(**changes)(given(TABLE, *_table(expert)))
        _, (_, metrics) = _learned(model, agent, 300)
        return float(metrics["discriminator_loss"].value[-1])

    free = largest()
    assert free < 0.1
    assert largest(gradient_penalty=1.0) > 2.0 * free
    assert largest(entropy_coef=0.5) > 2.0 * free


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"demonstrations": 3}, r"demonstrations must be purerl.Demonstrations, got 3"),
        ({"sign": 1}, "sign must be one of"),
        ({"hidden_sizes": (0,)}, "hidden_sizes must be"),
    ],
)
def test_a_discriminator_that_does_not_fit_is_one_clear_error(changes, message):
    with pytest.raises(InputError, match=message):
        Discriminator(**({"demonstrations": rows.demonstrations(Target())} | changes))


def test_demonstrations_of_another_environment_are_refused_before_anything_compiles():
    env = purerl.make("CartPole-v1")
    agent = rows.gail(env, reward_model=Discriminator(rows.demonstrations(Target())))
    with pytest.raises(InputError, match="the demonstrations have observations"):
        jax.eval_shape(agent.init, jax.random.key(0))
