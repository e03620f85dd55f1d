"""Classes of the user's own stand wherever a name does."""

import json
import sys
from pathlib import Path

import pytest

import purerl
from purerl import InputError
from purerl.cli import main

MODULE = '''
"""What a user may write."""

import jax
import jax.numpy as jnp

import purerl
from purerl import Mean, Policy, TimeStep, struct
from purerl.spaces import Box, Discrete
from purerl.types import Scalar


@struct.dataclass
class Walk:
    """Walk from 0 to `goal`; each step costs 1."""

    goal: float = struct.field(default=2.0, within="(0, 9]", help="where the walk ends (m)")
    drift: float = 0.0
    discrete: bool = struct.field(default=True, static=True, help="whether actions are")

    @property
    def observation_space(self):
        return Box((1,))

    @property
    def action_space(self):
        return Discrete(2) if self.discrete else Box((1,), -1.0, 1.0)

    def reset(self, key):
        return self._timestep(jnp.float32(0.0), 0.0)

    def step(self, key, state, action):
        move = 2.0 * action - 1.0 if self.discrete else action[0]
        return self._timestep(state + move + self.drift, -1.0)

    def _timestep(self, x, reward):
        return TimeStep(x, x[None], jnp.float32(reward), terminated=x >= self.goal, truncated=jnp.bool_(False))


@struct.dataclass
class State:
    key: jax.Array
    iteration: jax.Array
    params: jax.Array


def act(params, key, carry, obs):
    return jnp.argmax(params * obs.sum() + params[::-1]), carry, {}


@struct.dataclass
class HillClimbing:
    """Keep a change of the parameters if it does better.

    More about it.
    """

    env: purerl.Environment
    noise: float = struct.field(default=0.1, within="(0, inf)", help="deviation of a change")
    num_episodes: int = struct.field(default=2, static=True)
    decay: Scalar = struct.field(default=1.0, within="(0, 1]", help="factor of a change")

    warmup_iterations = 0
    rows_at_once = minibatch_rows = 1

    @property
    def steps_per_iteration(self):
        return 10 * self.num_episodes

    def init(self, key):
        return State(key, jnp.int32(0), jnp.zeros(2))

    def step(self, state):
        key, change_key, play_key = jax.random.split(state.key, 3)
        noise = self.noise * purerl.schedules.at(self, state.iteration).decay
        changed = state.params + noise * jax.random.normal(change_key, (2,))
        played = purerl.evaluate(self.env, self._policy(changed), play_key, self.num_episodes)
        metrics = {"episode_return": Mean.of(played.episode_return), "episode_length": Mean.of(played.episode_length)}
        return State(key, state.iteration + 1, changed), metrics

    def policy(self, state, *, explore):
        return self._policy(state.params)

    def _policy(self, params):
        return Policy(jax.tree_util.Partial(act, params))


class NoStep:
    env = None


class Plain:
    env = warmup_iterations = rows_at_once = minibatch_rows = steps_per_iteration = init = step = policy = None


@struct.dataclass
class Seeded(HillClimbing):
    seed: int = 3


@struct.dataclass
class Adaptive(HillClimbing):
    eps: float = 0.1
    optimizer: purerl.Adam = struct.field(default=purerl.Adam())


@struct.dataclass
class Silent(HillClimbing):
    def step(self, state):
        return state, {"loss": Mean.of(state.params)}


@struct.dataclass
class Demanding:
    height: float = struct.field(help="no default")
    observation_space = Walk.observation_space
    action_space = Box((1,), -1.0, 1.0)

    def reset(self, key):
        return Walk().reset(key)

    def step(self, key, state, action):
        return Walk(discrete=False).step(key, state, action)


def function():
    pass
'''


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "users").mkdir()
    (tmp_path / "users" / "own.py").write_text(MODULE)
    (tmp_path / "users" / "broken.py").write_text("import jax\nundefined\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    for name in ("users", "users.own", "users.broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


TRAIN = "train users.own:HillClimbing users.own:Walk --env.episode-length 6 --total-steps 80 --eval-episodes 2"


def test_train_resume_evaluate_and_plot(module: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"{TRAIN} --seeds 2 --vary noise=0.1,0.2 --decay linear:1:0.5 --env.goal 3 --num-episodes 1"
    assert main(words.split()) == 0, capsys.readouterr().err
    (run,) = (module / "runs").iterdir()
    assert run.name == "users.own-Walk-users.own-HillClimbing-seed0"
    config = json.loads((run / "config.json").read_text())
    assert config["hyperparameters"] == {"noise": 0.1, "num_episodes": 1, "decay": "linear:1:0.5:80"}
    assert config["env_options"] == {"episode_length": 6, "goal": 3.0}
    assert (config["network"], config["anneal"]) == ({}, False)
    assert main(["train", "--resume", str(run), "--total-steps", "120"]) == 0
    assert main(["evaluate", str(run), "--episodes", "2"]) == 0
    assert main(["plot", str(run)]) == 0
    assert "users.own:HillClimbing on users.own:Walk" in capsys.readouterr().out


def test_algorithms_of_purerl_take_own_environments_and_the_other_way_round(
    module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(module)
    from purerl.cli.configure import configure

    assert configure("ppo", "users.own:Walk", [])[0].population().env.goal == 2.0
    assert configure("users.own:HillClimbing", "CartPole-v1", [])[0].population().num_members == 1
    env = purerl.make("users.own:Walk", goal=4.0, episode_length=7)
    assert (env.env.goal, env.length) == (4.0, 7)  # type: ignore[attr-defined]
    assert purerl.make("users.own:Demanding", height=1).height == 1.0  # type: ignore[attr-defined]


def test_help_shows_their_fields(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "users.own:HillClimbing", "users.own:Walk", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "--noise FLOAT deviation of a change (default 0.1; range (0, inf))" in out
    assert "--env.goal FLOAT where the walk ends (m) (default 2; range (0, 9])" in out
    assert "--env.discrete, --no-env.discrete whether actions are (default on)" in out
    assert main(["algorithms", "users.own:HillClimbing"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("users.own:HillClimbing: Keep a change of the parameters if it does better.\n")
    assert "--noise" in out


def test_planners_and_diagnosis_take_own_environments(capsys: pytest.CaptureFixture[str]) -> None:
    own = "users.own:Walk --no-env.discrete --env.episode-length 4"
    plan = f"evaluate {own} --controller mppi --horizon 2 --num-samples 4 --episodes 2"
    assert main(plan.split()) == 0, capsys.readouterr().err
    diagnose = f"diagnose {own} --horizons 1 2 --samples 8 --starts 1"
    assert main(diagnose.split()) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train nowhere.at_all:X CartPole-v1", "cannot import nowhere.at_all: ModuleNotFoundError: No module named"),
        ("train nowhere.at_all:X CartPole-v1", "; modules are looked for in "),
        ("train users.broken:X CartPole-v1", "cannot import users.broken: NameError: name 'undefined' is not defined"),
        ("train users.broken:X CartPole-v1", "broken.py, line 2)"),
        ("train users.own:HilClimbing CartPole-v1", "unknown class in users.own 'HilClimbing': did you mean"),
        ("train users.own:function CartPole-v1", "users.own:function is a function, not a class"),
        ("train users.own: CartPole-v1", "'users.own:' must look like mypackage.mymodule:MyClass"),
        ("train users.own:Walk CartPole-v1", "users.own:Walk is not an algorithm (see purerl.Algorithm): it lacks env"),
        ("train users.own:NoStep CartPole-v1", "it lacks steps_per_iteration"),
        ("train users.own:Plain CartPole-v1", "not an algorithm: decorate it with @purerl.struct.dataclass"),
        ("train --csv users.own:HillClimbing CartPole-v1 --noise 0", "--noise must lie in (0, inf)"),
        ("train --no-anneal users.own:HillClimbing CartPole-v1 --noise 0", "--noise must lie in (0, inf)"),
        ("train --resume users.own:HillClimbing", "no run in users.own:HillClimbing: there is no such directory"),
        ("train users.own:Seeded CartPole-v1", "--seed would be of both run and hyper-parameters of users.own:Seeded"),
        (
            "train users.own:Adaptive CartPole-v1",
            "--eps would be of both hyper-parameters of users.own:Adaptive and opt",
        ),
        ("train users.own:Adaptive --help", "--eps would be of both hyper-parameters of users.own:Adaptive and opt"),
        ("train users.own:Silent users.own:Walk", "users.own:Silent must include episode_length and episode_return"),
        ("train users.own:HillClimbing CartPole-v1 --anneal", "--anneal is not for users.own:HillClimbing"),
        ("train users.own:HillClimbing CartPole-v1 --noise 0", "--noise must lie in (0, inf)"),
        ("train users.own:HillClimbing CartPole-v1 --trunk mlp", "unknown flag '--trunk'"),
        ("train users.own:HillClimbing CartPole-v1 --vary noize=1", "unknown hyper-parameter in --vary 'noize'"),
        ("train ppo users.own:NoStep", "is not an environment (see purerl.Environment): it lacks observation_space"),
        ("train ppo users.own:Walk --env.goal 10", "--env.goal must lie in (0, 9]"),
        ("train ppo users.own:Walk --env.goul 1", "unknown flag '--env.goul'"),
        ("train ppo users.own:Demanding", "users.own:Demanding needs a value of height"),
        ("evaluate users.own:Walk", "it is an environment, say how to act there with --controller"),
        ("diagnose users.own:Wolk", "unknown class in users.own 'Wolk': did you mean 'Walk'"),
    ],
)
def test_mistakes_are_one_line(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


def test_options_from_python_are_checked(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(module)
    with pytest.raises(InputError, match=r"goal must lie in \(0, 9\], got 10"):
        purerl.make("users.own:Walk", goal=10)
    with pytest.raises(InputError, match=r"unknown option of users.own:Walk 'gaol': did you mean 'goal'"):
        purerl.make("users.own:Walk", gaol=1)
