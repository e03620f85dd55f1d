"""Q-learning, SARSA and their relatives: each update against NumPy, known action values, the textbook's comparisons."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import begin, last, learn
from probes import Line, Numbered

import purerl
from purerl import InputError, Population, TDControl, TDRule, tabular

every_rule = pytest.mark.parametrize("rule", TDRule)


def episodes_of(agent, seeds, steps, seed=0):
    """Final states of some members, and the mean return of the episodes of the second half of the training."""
    population = Population(agent, seeds)
    iterations = steps // agent.steps_per_iteration
    progresses = list(
        purerl.iterate(population, begin(population, jax.random.key(seed)), iterations, every=iterations // 2)
    )
    return progresses[-1].state, np.asarray(progresses[-1].metrics["episode_return"].value)


@every_rule
def test_each_step_and_its_update(rule):
    """On a grid without slip, where state and action say what happened."""
    env = purerl.make("grid/trap", slip=0.0, episode_length=1_000)
    mdp, gamma, alpha, epsilon = tabular.mdp_of(env), 0.9, 0.5, 0.4
    rates = {"learning_rate": alpha, "visit_power": 0.5, "epsilon": epsilon, "reward_scale": 0.1}
    agent = TDControl(env, rule, rollout_length=1, gamma=gamma, **rates)
    step, state = jax.jit(agent.step), begin(agent, jax.random.key(1))
    q, ended = np.zeros(state.tables.q.shape), 0
    for _ in range(120):
        decided = int(state.experience.rollout.carry[0])
        obs = int(state.experience.rollout.timestep.obs[0])
        visits = np.asarray(state.tables.visits)
        state, metrics = step(state)
        ((table, visited, action),) = np.argwhere(np.asarray(state.tables.visits) != visits)
        assert visited == obs
        assert decided in (-1, action)
        onward = int(mdp.transition[obs, action].argmax())
        next_action = int(state.experience.rollout.carry[0])
        assert (next_action >= 0) == (rule is TDRule.SARSA and not mdp.terminal[onward])
        values = q[table, onward]
        if mdp.terminal[onward]:
            next_value, ended = 0.0, ended + 1
        elif rule is TDRule.Q_LEARNING:
            next_value = values.max()
        elif rule is TDRule.SARSA:
            next_value = values[next_action]
        elif rule is TDRule.EXPECTED_SARSA:
            best = values == values.max()
            next_value = ((1 - epsilon) * best / best.sum() + epsilon / 4) @ values
        else:
            next_value = q[1 - table, onward, values.argmax()]
        td_error = 0.1 * mdp.reward[obs, action, onward] + gamma * next_value - q[table, obs, action]
        q[table, obs, action] += alpha / np.sqrt(visits[table, obs, action] + 1) * td_error
        np.testing.assert_allclose(metrics["td_error"].total, abs(td_error), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(state.tables.q, q, rtol=1e-4, atol=1e-5)
        q = np.asarray(state.tables.q, float)  # ties are those of float32
    assert ended >= 3


@every_rule
def test_known_action_values_of_random_actions(rule):
    """Q-learning learns the best policy from any other; SARSA learns the one it follows."""
    env = purerl.make("grid/random-walk", step_reward=-0.1)
    mdp, gamma = tabular.mdp_of(env), 0.9
    agent = TDControl(
        env, rule, num_envs=4, rollout_length=25, learning_rate=1.0, visit_power=0.7, gamma=gamma, epsilon=1.0
    )
    learned = learn(agent, 0, 400).tables.values
    if rule in (TDRule.SARSA, TDRule.EXPECTED_SARSA):
        values = tabular.policy_evaluation(mdp, tabular.uniform_policy(mdp), gamma)
        expected = tabular.action_values(mdp, values, gamma)
    else:
        expected = tabular.value_iteration(mdp, gamma).action_values
    np.testing.assert_allclose(learned, expected, atol=0.05)


def test_a_time_limit_is_bootstrapped_with_an_action_of_its_own():
    """Reward 1 for ever, seen for one step at a time: SARSA never takes the action of its target."""
    env = Numbered(Line(start=1.0, length=2**30, limit=1))
    agent = TDControl(env, TDRule.SARSA, rollout_length=50, learning_rate=0.5, gamma=0.5)
    np.testing.assert_allclose(learn(agent, 0, 10).tables.values[2], 2.0, rtol=1e-3)


def test_equally_good_actions_are_equally_likely():
    agent = TDControl(purerl.make("FrozenLake-misc"), epsilon=0.0)
    policy = agent.policy(begin(agent, jax.random.key(0)), explore=True)
    keys = jax.random.split(jax.random.key(1), 4_000)
    actions = jax.vmap(lambda key: policy.act(key, policy.carry, jnp.int32(0))[0])(keys)
    np.testing.assert_allclose(np.bincount(actions) / 4_000, 0.25, atol=0.03)


def test_optimistic_values_try_everything():
    agent = TDControl(purerl.make("grid/maze"), initial_value=1.0, epsilon=0.0, learning_rate=0.5, gamma=0.95)
    state = learn(agent, 0, 1_000)
    mdp = tabular.mdp_of(agent.env)
    assert (state.tables.visits[0][~mdp.terminal] > 0).all()
    greedy = tabular.deterministic_policy(state.tables.values.argmax(axis=-1), 4)
    assert abs(tabular.policy_evaluation(mdp, greedy, 0.95)[18] - 0.95**13) < 1e-3  # the shortest way, 14 steps


def test_double_q_learning_does_not_overestimate():
    """Sutton & Barto 2018, example 6.7: many actions of mean reward -0.1, of which the best seems good by chance."""
    first, second, over, won, lost = range(5)
    transition = np.zeros((5, 8, 5))
    transition[first, 0, second] = transition[first, 1:, over] = 1.0
    transition[second, :, [won, lost]] = 0.5
    transition[[over, won, lost], :, [over, won, lost]] = 1.0
    reward = np.zeros((5, 8, 5))
    reward[second, :, won], reward[second, :, lost] = 0.9, -1.1
    mdp = tabular.TabularMDP(transition, reward, np.eye(5)[first], [False, False, True, True, True])
    estimates = {}
    for rule in (TDRule.Q_LEARNING, TDRule.DOUBLE_Q_LEARNING):
        agent = TDControl(mdp, rule, learning_rate=0.1, gamma=1.0, epsilon=1.0)
        state, _ = episodes_of(agent, 64, 3_000)
        estimates[rule] = float(state.tables.values[:, first, 0].mean())
    assert estimates[TDRule.Q_LEARNING] > 0.1
    assert abs(estimates[TDRule.DOUBLE_Q_LEARNING] - -0.1) < 0.1


def test_the_cliff(optimized):
    """Sutton & Barto 2018, example 6.6: SARSA learns the safer path, and earns more while it explores."""
    env = purerl.make("grid/cliff-walk")
    mdp = tabular.mdp_of(env)
    online, greedy = {}, {}
    for rule in (TDRule.Q_LEARNING, TDRule.SARSA):
        agent = TDControl(env, rule, learning_rate=0.5, epsilon=0.1, gamma=1.0)
        state, online[rule] = episodes_of(agent, 32, 20_000)
        policies = jax.vmap(lambda q: tabular.deterministic_policy(q[0].argmax(axis=-1), 4))(state.tables.q)
        values = jax.vmap(lambda policy: tabular.policy_sweeps(mdp, policy, 1.0, 100).values[-1, 36])(policies)
        greedy[rule] = np.asarray(values)
    assert np.mean(online[TDRule.SARSA]) > np.mean(online[TDRule.Q_LEARNING]) + 10.0
    assert np.median(greedy[TDRule.Q_LEARNING]) == -13.0  # along the edge
    # With this step size, some of SARSA's greedy policies walk in a circle; the others keep a row or two away.
    ended = greedy[TDRule.SARSA][greedy[TDRule.SARSA] > -100.0]
    assert len(ended) >= 8
    assert np.median(ended) in (-15.0, -17.0)


@pytest.mark.slow
@every_rule
def test_frozen_lake_to_the_optimum(rule, optimized):
    """Presets, five seeds: values of the start, and the policies, against value iteration."""
    from purerl.cli.configure import configure

    config, _, _ = configure(rule.name.lower(), "FrozenLake-misc", ["--seeds", "5", "--seed", "7"])
    population = config.population()
    iterations = config.num_iterations
    state = last(purerl.iterate(population, begin(population, jax.random.key(7)), iterations, every=iterations)).state
    mdp = tabular.frozen_lake()
    optimal = float(tabular.value_iteration(mdp, 0.99).values[0])
    np.testing.assert_allclose(state.tables.values[:, 0].max(axis=-1), optimal, atol=0.03)
    for q in state.tables.values:
        greedy = tabular.deterministic_policy(q.argmax(axis=-1), 4)
        assert tabular.policy_evaluation(mdp, greedy, 0.99)[0] > optimal - 0.015


def test_mistakes():
    with pytest.raises(InputError, match=r"expected_sarsa needs discrete observations, got Box.*: use dqn or ppo"):
        TDControl(purerl.make("CartPole-v1"), TDRule.EXPECTED_SARSA)
    with pytest.raises(InputError, match="q_learning needs discrete actions"):
        TDControl(purerl.make("Pendulum-v1"))
    with pytest.raises(InputError, match=r"rule must be one of TDRule.Q_LEARNING, .*got 'sarsa'"):
        TDControl(purerl.make("FrozenLake-misc"), "sarsa")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"learning_rate must lie in \[0, 1\], got 1.5"):
        TDControl(purerl.make("FrozenLake-misc"), learning_rate=1.5)


@pytest.mark.parametrize("name", ["ppo", "dqn"])
def test_deep_algorithms_learn_from_tables(name):
    env = purerl.make(tabular.grid("S.G"), episode_length=10)
    if name == "ppo":
        network = purerl.ActorCritic(purerl.MLP((16,)))
        agent = purerl.PPO(env, network, num_envs=16, rollout_length=16, num_minibatches=4, learning_rate=2e-2)
    else:
        network = purerl.QNetwork(purerl.MLP((16,)))
        agent = purerl.DQN(
            env,
            network,
            num_envs=4,
            batch_size=32,
            buffer_size=2_000,
            warmup_steps=200,
            learning_rate=1e-2,
            epsilon=0.2,
        )
    state = learn(agent, 0, 40)
    played = purerl.evaluate(env, agent.policy(state, explore=False), jax.random.key(1), num_episodes=8)
    assert played.episode_length.tolist() == [2] * 8
