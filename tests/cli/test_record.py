"""Record a run's episodes, learn from them, evaluate and resume; and all that can be wrong with the file."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import purerl
from purerl.cli import main

TINY = "--hidden-sizes 8 --eval-episodes 4 --eval-every 0"


def run(words: str, code: int = 0) -> None:
    assert main(shlex.split(words)) == code


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two members on CartPole, and its recorded episodes."""
    folder = tmp_path_factory.mktemp("expert")
    run(f"train ppo CartPole-v1 --seeds 2 --total-steps 1024 {TINY} --out {folder}/ppo")
    run(f"record {folder}/ppo --episodes 5 --seed 3 --out {folder}/demos")
    return folder


def test_the_file_holds_whole_episodes_of_the_better_member(expert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demonstrations = purerl.load_demonstrations(expert / "demos.npz")
    assert demonstrations.num_episodes == 5
    assert demonstrations.env == "CartPole-v1"
    rows = [json.loads(line) for line in (expert / "ppo" / "metrics.jsonl").read_text().splitlines()]
    returns = [row["eval_return"] for row in rows if row["eval_return"] is not None][-2:]
    assert f"member {int(np.argmax(returns))} of" in demonstrations.source
    run(f"record {expert}/ppo --episodes 3 --member 1 --stochastic --out {expert}/other.npz")
    other = purerl.load_demonstrations(expert / "other.npz")
    out = capsys.readouterr().out
    assert f"3 episodes, {other.num_rows} steps" in out
    assert f"return: mean {other.returns.mean():.2f}" in out
    assert "member 1" in other.source
    assert "exploring" in other.source


def test_train_evaluate_and_resume(expert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = f"train bc CartPole-v1 --demonstrations {expert}/demos --batch-size 16 --no-anneal {TINY}"
    run(f"{short} --total-steps 2000 --out {tmp_path}/bc")
    assert "evaluation over" in capsys.readouterr().out
    config = json.loads((tmp_path / "bc" / "config.json").read_text())["hyperparameters"]["demonstrations"]
    assert config["source"] == str(expert / "demos")
    assert len(config["sha256"]) == 64
    run(f"train --resume {tmp_path}/bc --total-steps 4000")
    run(f"evaluate {tmp_path}/bc --episodes 4")
    assert "4 episodes per member" in capsys.readouterr().out
    whole = f"{short} --total-steps 4000 --out {tmp_path}/whole"
    run(whole)
    metrics = [(tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1] for name in ("bc", "whole")]
    assert json.loads(metrics[0])["loss"] == json.loads(metrics[1])["loss"]


def test_a_run_goes_on_with_its_own_data_or_not_at_all(
    expert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "demos.npz"
    demonstrations = purerl.load_demonstrations(expert / "demos.npz")
    demonstrations.save(file)
    run(f"train bc CartPole-v1 --demonstrations {file}:4 --no-anneal --total-steps 2000 {TINY} --out {tmp_path}/bc")
    demonstrations.first(4).save(file)  # what was learned from is still there
    run(f"train --resume {tmp_path}/bc --total-steps 3000")
    demonstrations.first(3).save(file)
    capsys.readouterr()
    run(f"train --resume {tmp_path}/bc --total-steps 4000", 2)
    assert "there are 3 demonstrated episodes, 4 were asked for" in capsys.readouterr().err
    changed = demonstrations.obs + np.float32(0.1)
    purerl.struct.replace(demonstrations, obs=changed).save(file)
    run(f"train --resume {tmp_path}/bc --total-steps 4000", 2)
    assert "has changed since it was given as --demonstrations" in capsys.readouterr().err
    file.unlink()
    run(f"evaluate {tmp_path}/bc", 2)
    assert "there is no such file" in capsys.readouterr().err


def test_a_planners_episodes_have_the_environments_observations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(
        f"record Pendulum-v1 --controller shooting --horizon 2 --num-iterations 1 --env.episode-length 6 --episodes 2 "
        f"--out {tmp_path}/planned"
    )
    demonstrations = purerl.load_demonstrations(tmp_path / "planned.npz")
    np.testing.assert_array_equal(demonstrations.lengths, 6)
    demonstrations.check_spaces(purerl.make("Pendulum-v1"))
    np.testing.assert_allclose(np.square(demonstrations.obs[:, :2]).sum(axis=1), 1.0, rtol=1e-5)
    assert json.loads(demonstrations.env_options) == {"episode_length": 6}
    assert "2 episodes, 12 steps" in capsys.readouterr().out


def right(obs: Any) -> int:
    """An expert that the command line can name."""
    return 1


@pytest.mark.parametrize("named", ["{expert}/ppo", "test_record:right"])
def test_dagger_asks_the_expert_that_was_named(
    named: str, expert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    name = named.format(expert=expert)
    run(
        f"train dagger CartPole-v1 --expert {name} --total-steps 512 --updates-per-iteration 4 {TINY} "
        f"--no-anneal --out {tmp_path}/dagger"
    )
    assert "evaluation over" in capsys.readouterr().out
    run(f"train --resume {tmp_path}/dagger --total-steps 1024")
    stored = json.loads((tmp_path / "dagger" / "config.json").read_text())["hyperparameters"]["expert"]
    assert stored["source"] == (str(expert / "ppo") if "/" in named else named)


def test_gail_and_its_baseline(expert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(
        f"train gail CartPole-v1 --reward-model.demonstrations {expert}/demos:3 --total-steps 1024 {TINY} --no-anneal "
        f"--reward-model.learning-rate 0 --reward-model.sign both --out {tmp_path}/gail"
    )
    assert "evaluation over" in capsys.readouterr().out
    stored = json.loads((tmp_path / "gail" / "config.json").read_text())["reward_model"]
    assert (stored["reward_model"], stored["sign"], stored["learning_rate"]) == ("gail", "both", 0.0)
    assert stored["demonstrations"]["source"] == f"{expert}/demos:3"
    run(f"train --resume {tmp_path}/gail --total-steps 2048")
    assert (tmp_path / "gail" / "summary.json").exists()


def test_an_expert_may_lie_in_a_package_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "__init__.py").write_text("def expert(obs):\n    return (obs[2] > 0).astype(int)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    dagger = f"train dagger CartPole-v1 --expert lab:expert --total-steps 512 {TINY} --out run"
    run(dagger)
    config = json.loads((tmp_path / "run" / "config.json").read_text())["hyperparameters"]["expert"]
    assert config["source"] == "lab:expert"


CASES = [
    ("record", ["name one run directory"]),
    ("record {expert}/ppo", ["name the file to write"]),
    ("record {expert}/nothing --out x", ["no run in", "no such directory"]),
    ("record CartPole-v1 --out x", ["no run in CartPole-v1", "say how to act there with --controller"]),
    ("record {expert}/ppo --out {tmp}/no/x", ["there is no directory"]),
    ("record {expert}/ppo --out {expert}", ["--out must name a file", "is a directory: try", "demos.npz"]),
    ("record {expert}/ppo --out {expert}/demos", ["demos.npz exists already", "--overwrite"]),
    ("record {expert}/ppo --episodes 1000000000 --out {tmp}/x", ["recording 1,000,000,000 episodes", "GB"]),
    ("record {expert}/ppo --member 2 --out {tmp}/x", ["--member must lie in [0, 1]", "got 2"]),
    ("record {expert}/ppo --max-steps 2 --out {tmp}/x", ["did not end within max_steps = 2"]),
    ("record CartPole-v1 --controller mpi --out x", ["unknown --controller value 'mpi'", "'mppi'"]),
    ("train bc CartPole-v1", ["bc has no default for demonstrations: give --demonstrations"]),
    ("train bc CartPole-v1 --demonstrations {tmp}/none.npz", ["none.npz", "there is no such file"]),
    ("train bc CartPole-v1 --demonstrations {tmp}/damaged.npz", ["damaged.npz", "or damaged"]),
    ("train bc CartPole-v1 --demonstrations {expert}/demos:6", ["there are 5 demonstrated episodes, 6"]),
    ("train bc Acrobot-v1 --demonstrations {expert}/demos", ["demonstrations of CartPole-v1 have observations"]),
    ("train gail CartPole-v1", ["gail needs demonstrations: give --reward-model.demonstrations"]),
    ("train gail CartPole-v1 --reward-model.demonstrations {tmp}/damaged.npz", ["damaged.npz", "or damaged"]),
    ("train gail Acrobot-v1 --reward-model.demonstrations {expert}/demos", ["of CartPole-v1 have observations"]),
    ("train dagger CartPole-v1", ["dagger has no default for expert: give --expert"]),
    ("train dagger CartPole-v1 --expert mpi", ["no expert 'mpi'", "mppi", "mypackage.mymodule:name"]),
    ("train dagger CartPole-v1 --expert json:nothing", ["unknown object in json"]),
    ("train dagger CartPole-v1 --expert json:JSONDecoder", ["no purerl.Policy, no planner and no function"]),
    ("train dagger CartPole-v1 --expert {expert}", ["no run in", "no config.json"]),
    ("train dagger Acrobot-v1 --expert {expert}/ppo", ["the expert cannot act on observations"]),
    ("train bc CartPole-v1 --demonstrations {expert}/demos --vary demonstrations=1,2", ["--vary demonstrations"]),
]


@pytest.mark.parametrize(("words", "expected"), CASES)
def test_mistakes(
    words: str, expected: list[str], expert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "damaged.npz").write_bytes((expert / "demos.npz").read_bytes()[:200])
    run(words.format(expert=expert, tmp=tmp_path), 2)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for part in expected:
        assert part in error
