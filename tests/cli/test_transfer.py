"""``--randomize`` and ``purerl transfer``: what is trained on, and returns in shifted environments."""

import csv
import json
import shlex
from pathlib import Path

import jax
import numpy as np
import pytest

import purerl
from purerl.cli import configure, main, shifts
from purerl.cli.config import RunConfig
from purerl.environments import RandomizeParameters

TINY = "--num-envs 2 --rollout-length 8 --num-minibatches 1 --num-epochs 1 --hidden-sizes 4 --eval-episodes 2"
RANDOM = "--randomize params.length=0.25:1"


def made(typed: str, algorithm: str = "ppo") -> RunConfig:
    return configure.configure(algorithm, "CartPole-v1", shlex.split(typed))[0]


def test_the_configuration_holds_the_ranges() -> None:
    config = made(f"{RANDOM} --randomize params.masscart=0.5:2 --vary env.params.gravity=5,10 --vary gamma=0.9,0.99")
    again = RunConfig.from_json(json.loads(json.dumps(config.to_json())))
    assert again.randomize == config.randomize
    assert config.randomize == {"params.length": [0.25, 1.0], "params.masscart": [0.5, 2.0]}
    population = again.population()
    env = population.env
    assert isinstance(env, RandomizeParameters)
    assert set(population.varied) == {"env.env.params.gravity", "gamma"}
    assert env.reset(jax.random.key(0)).state.drawn.keys() == config.randomize.keys()


def test_a_configuration_without_ranges_can_still_be_read() -> None:
    data = made("").to_json()
    del data["randomize"]
    assert RunConfig.from_json(data).randomize == {}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on random parameters with two learning rates, and one with memory."""
    tmp = tmp_path_factory.mktemp("runs")
    words = f"train ppo CartPole-v1 {TINY} --total-steps 32 --seeds 2"
    assert main(f"{words} {RANDOM} --no-anneal --vary learning-rate=1e-3,0.1 --out {tmp}/random".split()) == 0
    assert main(f"{words} --memory gru --memory-size 4 --out {tmp}/memory".split()) == 0
    return tmp


def test_a_table_a_picture_and_a_file_of_known_returns(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    # No pole falls within 8 steps.
    words = f"transfer {runs}/random {runs}/memory --shift params.max_steps_in_episode=4:8:3 --episodes 3"
    assert main(f"{words} --out {runs}/limit.png".split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "params.max_steps_in_episode"
    for words in ("random, learning-rate=0.001 (2 seeds)", "random, learning-rate=0.1 (2 seeds)", "memory (2 seeds)"):
        assert words in lines[0]
    for line, limit in zip(lines[1:4], (4, 6, 8), strict=True):
        assert line.split() == [str(limit), *[f"{limit}.000", f"[{limit}.000,", f"{limit}.000]"] * 3]
    assert lines[4:] == [f"{runs}/limit.png", f"{runs}/limit.csv"]
    assert (runs / "limit.png").read_bytes().startswith(b"\x89PNG")
    with (runs / "limit.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 3 * 2 * 3
    assert all(float(row["episode_return"]) == float(row["params.max_steps_in_episode"]) for row in table)
    assert [row["varied"] for row in table[::6]] == ["learning-rate=0.001", "learning-rate=0.1", ""]


@pytest.mark.parametrize("memory", ["", "--memory gru --memory-size 4"])
def test_returns_are_those_of_each_agent_in_each_environment(memory: str) -> None:
    config = made(f"{TINY} {memory} --seeds 2")
    population, key = config.population(), jax.random.key(1)
    state = jax.jit(population.init)(key)
    values = [0.2, 0.5, 3.0]
    shifted = shifts.environments(config, "params.length", values)
    played = shifts.play(population, state, shifted, key, num_episodes=5, batch=4)
    assert played.shape == (3, 2, 5)
    named = shifts.environments(config, "length", values)
    np.testing.assert_array_equal(shifts.play(population, state, named, key, num_episodes=5, batch=4), played)
    for member in range(2):
        policy = population.algorithm.policy(population.member_state(state, member), explore=False)
        for place, length in enumerate(values):
            env = purerl.make("CartPole-v1", length=length)
            own_key = jax.random.fold_in(jax.random.fold_in(key, 0), member)
            episodes = jax.jit(purerl.evaluate, static_argnums=3)(env, policy, own_key, 4)
            np.testing.assert_array_equal(played[place, member, :4], episodes.episode_return)
    assert np.any(played[0] != played[2])


def test_environments_of_other_structure_are_played_too() -> None:
    config = made(f"{TINY} --env.episode-length 8")
    population, key = config.population(), jax.random.key(1)
    state = jax.jit(population.init)(key)
    shifted = shifts.environments(config, "action_repeat", [1, 2, 4])
    assert len({jax.tree.structure(env) for env in shifted}) == 3
    returns = shifts.play(population, state, shifted, key, num_episodes=3, batch=3)
    np.testing.assert_array_equal(returns, 8.0)  # rewards of repeated steps are added


def test_disturbances_are_options_to_shift() -> None:
    config = made(TINY)
    noisy = shifts.environments(config, "observation_noise", [0, 0.1, 0.2])
    assert [getattr(env, "std", 0.0) for env in noisy] == pytest.approx([0.0, 0.1, 0.2])
    # Without noise there is no wrapper; the others are one program.
    assert [sorted(group.columns) for group in shifts.groups(noisy)] == [[], ["std"]]
    late = shifts.environments(config, "action_delay", [0, 1, 2])
    assert [getattr(env, "steps", 0) for env in late] == [0, 1, 2]


def test_random_parameters_are_nominal_where_they_are_not_shifted() -> None:
    shifted = shifts.environments(made(f"{TINY} {RANDOM}"), "params.gravity", [5.0, 10.0])
    assert [float(env.params.gravity) for env in shifted] == [5.0, 10.0]
    assert all(float(env.params.length) == 0.5 for env in shifted)
