"""Recording of whole episodes, and files of demonstrations."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from probes import Fork

import purerl
from purerl import Box, Demonstrations, Discrete, InputError, Policy, TimeStep, struct
from purerl.demonstrations import from_minari, to_minari


def _constant(action, key, carry, obs):
    return action, carry, {}


CONSTANT = Policy(Partial(_constant, jnp.float32([0.5, 2.0])))
FORK = Fork(continuous=True)


@pytest.fixture(scope="module")
def forked():
    """Twelve episodes of five steps, some terminated and some truncated."""
    return purerl.record(FORK, CONSTANT, jax.random.key(0), 12, 9, name="fork", options={"length": 5}, source="test")


@struct.dataclass
class Countdown:
    """An episode of 1 to 4 steps; the observation tells how many are left, and the reward is 1."""

    @property
    def observation_space(self):
        return Discrete(5)

    @property
    def action_space(self):
        return Box((1,), 0, 3, np.int8)

    def reset(self, key):
        return self._at(jax.random.randint(key, (), 1, 5), 0.0)

    def step(self, key, state, action):
        return self._at(state - 1, 1.0)

    def _at(self, left, reward):
        return TimeStep(left, left, jnp.float32(reward), left <= 0, jnp.bool_(False))


def test_every_episode_is_whole_with_its_true_successors(forked):
    np.testing.assert_array_equal(forked.lengths, 5)
    assert 0 < np.sum(forked.terminated) < 12
    assert np.sum(forked.terminated | forked.truncated) == 12
    for obs, action, reward, terminated, next_obs in zip(
        forked.obs, forked.action, forked.reward, forked.terminated, forked.next_obs, strict=True
    ):
        expected_reward, goes_on, successor = FORK.follow(obs, action)
        np.testing.assert_allclose(reward, expected_reward, rtol=1e-5)
        np.testing.assert_allclose(next_obs, successor, rtol=1e-6)
        assert terminated == (not goes_on and obs[0] > 0)


def test_recorded_episodes_are_those_of_an_evaluation_with_the_same_key():
    policy = Policy(Partial(_constant, jnp.int8([1])))
    recorded = purerl.record(Countdown(), policy, jax.random.key(3), 20)
    episodes = purerl.evaluate(Countdown(), policy, jax.random.key(3), 20)
    np.testing.assert_array_equal(recorded.lengths, episodes.episode_length)
    np.testing.assert_array_equal(recorded.returns, episodes.episode_return)
    assert set(recorded.lengths.tolist()) == {1, 2, 3, 4}
    np.testing.assert_array_equal(recorded.obs[recorded.starts], recorded.lengths)


def test_an_episode_that_does_not_end_is_an_error():
    with pytest.raises(InputError, match=r"12 of 12 episodes did not end within max_steps = 4"):
        purerl.record(FORK, CONSTANT, jax.random.key(0), 12, 4)


def test_the_first_episodes(forked):
    first = forked.first(3)
    assert (first.num_episodes, first.num_rows) == (3, 15)
    np.testing.assert_array_equal(first.returns, forked.returns[:3])
    with pytest.raises(InputError, match="there are 12 demonstrated episodes, 13 were asked for"):
        forked.first(13)


@pytest.mark.parametrize("which", ["fork", "countdown"])
def test_a_file_gives_back_what_was_saved(which, forked, tmp_path):
    integers = Policy(Partial(_constant, jnp.int8([3])))
    saved = forked if which == "fork" else purerl.record(Countdown(), integers, jax.random.key(0), 3)
    saved.save(tmp_path / "demos.npz")
    loaded = purerl.load_demonstrations(tmp_path / "demos.npz")
    for field in dataclasses.fields(Demonstrations):
        old, new = getattr(saved, field.name), getattr(loaded, field.name)
        if isinstance(old, np.ndarray):
            assert old.dtype == new.dtype
        np.testing.assert_array_equal(old, new, err_msg=field.name)
    assert [path.name for path in tmp_path.iterdir()] == ["demos.npz"]


def _without(name, content):
    return {key: value for key, value in content.items() if key != name}


def _header(content, **changes):
    return content | {"header": np.array(json.dumps(json.loads(str(content["header"])) | changes))}


CHANGES = {
    "no_header": (lambda c: _without("header", c), "has no header"),
    "other_header": (lambda c: c | {"header": np.array("[1]")}, "its header is of something else"),
    "version": (lambda c: _header(c, purerl_demonstrations=2), "has format 2 of another version"),
    "no_actions": (lambda c: _without("action", c), "or damaged: .*action"),
    "short": (lambda c: c | {"obs": c["obs"][:-1]}, r"obs must be float32 \[60, 3\], got float32 \[59, 3\]"),
    "dtype": (lambda c: c | {"action": c["action"].astype(np.float64)}, "action must be float32"),
    "nan": (lambda c: c | {"reward": c["reward"] * np.float32(np.nan)}, "reward has numbers that are not finite"),
    "boundaries": (lambda c: c | {"starts": c["starts"] + np.int32(c["starts"] > 0)}, "each episode must be"),
    "descending": (lambda c: c | {"starts": np.int32([0, 5, 3])}, "starts must ascend"),
    "bounds": (lambda c: c | {"action": c["action"] + np.float32(7)}, "action has values outside of Box"),
    "returns": (lambda c: _header(c, returns=[0.0] * 12), "not those that its header describes"),
    "pickle": (lambda c: c | {"obs": np.array([{}], object)}, "not a file of demonstrations"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_that_does_not_fit_together_is_refused(name, forked, tmp_path):
    change, message = CHANGES[name]
    forked.save(tmp_path / "demos.npz")
    with np.load(tmp_path / "demos.npz") as archive:
        content = dict(archive)
    np.savez(tmp_path / "changed.npz", **change(content))
    with pytest.raises(InputError, match=message):
        purerl.load_demonstrations(tmp_path / "changed.npz")


def test_a_truncated_or_foreign_file_is_refused(forked, tmp_path):
    forked.save(tmp_path / "demos.npz")
    whole = (tmp_path / "demos.npz").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"hello", whole[:300] + b"?" + whole[301:]):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"demonstrations|damaged"):
            purerl.load_demonstrations(tmp_path / "bad.npz")
    with pytest.raises(InputError, match=r"no demonstrations in .*: there is no such file"):
        purerl.load_demonstrations(tmp_path / "nothing.npz")
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(InputError, match="is not a file of demonstrations"):
        purerl.load_demonstrations(tmp_path / "array.npy")


def test_another_environments_spaces_are_refused(forked):
    forked.check_spaces(FORK)
    with pytest.raises(InputError, match=r"demonstrations of fork have observations Box.*, the environment has Box"):
        forked.check_spaces(purerl.make("CartPole-v1"))
    with pytest.raises(InputError, match="actions"):
        struct.replace(forked, action_space=Discrete(2)).check_spaces(FORK)


def test_minari_and_back(forked, tmp_path, monkeypatch):
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    dataset = to_minari(forked, "purerl/fork-v0")
    back = from_minari("purerl/fork-v0")
    assert back.source == f"minari {dataset.id}"
    for name in ("obs", "action", "reward", "terminated", "truncated", "next_obs", "starts"):
        np.testing.assert_array_equal(getattr(back, name), getattr(forked, name), err_msg=name)
    assert back.observation_space == forked.observation_space
    assert from_minari(dataset, 2).num_episodes == 2


def test_without_minari_there_is_one_clear_message(forked, monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(InputError, match=r"Minari is not installed: pip install 'purerl\[minari\]'"):
        to_minari(forked, "purerl/fork-v0")
