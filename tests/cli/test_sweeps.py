"""Values of ``--vary``, and the ranking of members."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from purerl.cli import main, static_sweep, sweeps
from purerl.cli.configure import configure
from purerl.cli.parser import Flag
from purerl.cli.run_directory import RunDirectory
from purerl.errors import InputError
from purerl.training import checkpoint

RATE = Flag("vary learning-rate", "float", "", within="[0, inf)", many=True)
COUNT = Flag("vary target-period", "int", "", within="[1, inf)", many=True)


def values(flag: Flag, text: str, seed: int = 0) -> list[float]:
    return sweeps.parse(flag, text, seed).values


def test_ranges() -> None:
    assert values(RATE, "1e-3,2") == [1e-3, 2.0]
    assert values(RATE, "lin:0:1:5") == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert values(RATE, "log:1e-4:1e-2:3") == [1e-4, 1e-3, 1e-2]
    assert values(COUNT, "log:1:64:7") == [1, 2, 4, 8, 16, 32, 64]
    assert all(isinstance(value, int) for value in values(COUNT, "lin:1:10:4"))


def test_draws_follow_from_seed_and_name_and_have_their_distribution() -> None:
    uniform, geometric = values(RATE, "random:2:4:2000"), values(RATE, "random-log:1e-4:1e-2:2000")
    assert uniform == values(RATE, "random:2:4:2000")
    assert uniform != values(RATE, "random:2:4:2000", seed=1)
    assert 2.0 <= min(uniform) < 2.01
    assert 3.99 < max(uniform) <= 4.0
    assert np.mean(uniform) == pytest.approx(3.0, abs=4 * (2 / math.sqrt(12)) / math.sqrt(2000))
    assert np.mean(np.log10(geometric)) == pytest.approx(-3.0, abs=4 * (2 / math.sqrt(12)) / math.sqrt(2000))
    numbers, counts = np.unique(values(COUNT, "random:1:4:2000"), return_counts=True)
    assert numbers.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(counts, 500, atol=4 * math.sqrt(2000 * 0.25 * 0.75))


@pytest.mark.parametrize(
    ("flag", "text", "message"),
    [
        (RATE, "1,1", "names a value twice"),
        (RATE, "lin:1:2", "must look like 1e-3,3e-4, lin:LOW:HIGH:N"),
        (RATE, "lin:2:1:3", "from a number to a greater one"),
        (RATE, "log:0:1:3", "needs numbers above 0"),
        (RATE, "lin:-1:1:3", r"must lie in \[0, inf\)"),
        (RATE, "even:1:2:3", "must be a finite number, got 'even:1:2:3'"),
        (COUNT, "lin:1:4:3", "needs whole numbers, and lin:1:4:3 gives 1, 2.5, 4"),
    ],
)
def test_mistakes(flag: Flag, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        values(flag, text)


def test_draws_go_together_and_lists_are_combined() -> None:
    draws = "--vary gamma=random:0.9:1:3 --vary learning-rate=random-log:1e-4:1e-2:3"
    words = f"{draws} --vary entropy-coef=0,0.01".split()
    config, _, _ = configure("ppo", "CartPole-v1", words)
    assert config.joint == ["gamma", "learning_rate"]
    assert len(config.combinations) == config.num_members == 6
    assert [values["entropy_coef"] for values in config.combinations] == [0.0, 0.0, 0.0, 0.01, 0.01, 0.01]
    for name in config.joint:
        assert [values[name] for values in config.combinations] == 2 * config.vary[name]
    varied = config.population().varied
    np.testing.assert_array_equal(varied["gamma"], np.float32(2 * config.vary["gamma"]))
    with pytest.raises(InputError, match="gamma has 3, learning-rate has 2; give all as many"):
        configure("ppo", "CartPole-v1", [*words[:2], "--vary", "learning-rate=random:0:1:2"])


def test_the_best_member_becomes_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SARSA on a corridor: only with a learning rate does it learn the way."""
    sweep, best = tmp_path / "sweep", tmp_path / "best"
    (tmp_path / "grid").write_text("T...S...G\n")
    train = (
        f"train sarsa grid/trap --env.drawing {tmp_path / 'grid'} --env.slip 0 --epsilon 0.3 --eval-episodes 2 "
        f"--seeds 2 --vary learning-rate=0,0.5 --total-steps 4000 --out {sweep}"
    )
    assert main(train.split()) == 0
    capsys.readouterr()
    assert main(["best", str(sweep), "--episodes", "4", "--out", str(best)]) == 0
    title, _, first, second, alone, _ = capsys.readouterr().out.splitlines()
    assert title == "sarsa on grid/trap after 4,000 steps, interval over seeds"
    assert first.split()[:3] == ["1", "learning-rate=0.5", "88.00"]  # three steps of -4, then 100
    assert second.split()[1] == "learning-rate=0"
    assert "not told apart" not in second
    assert alone.startswith((f"member 2 of {sweep} alone", f"member 3 of {sweep} alone"))
    config = RunDirectory.open(best).config()
    assert (config.vary, config.num_members) == ({"learning_rate": [0.5]}, 1)
    assert checkpoint.latest(best / "checkpoints") == checkpoint.latest(sweep / "checkpoints")
    assert main(["evaluate", str(best), "--episodes", "2"]) == 0
    assert "mean 88.00" in capsys.readouterr().out
    assert main(["best", str(sweep), "--out", str(best)]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert json.loads((best / "config.json").read_text())["joint"] == []


def test_static_values_are_several_programs_behind_one_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is an ordinary run; a stopped sweep goes on, and all are drawn, evaluated and ranked together."""
    out = tmp_path / "sweep"
    tiny = "--rollout-length 8 --num-minibatches 1 --num-epochs 1 --eval-episodes 2 --eval-every 0 --no-anneal"
    words = f"train ppo CartPole-v1 {tiny} --vary num-envs=2 --vary hidden-sizes=8,4x4 --vary gamma=0.9,1"
    stops = iter([0, 130])
    original = static_sweep.begin

    def stopping(sweep, train):
        return original(sweep, lambda argv: next(stops, 130) or train(argv))

    with monkeypatch.context() as patch:
        patch.setattr(static_sweep, "begin", stopping)
        assert main([*words.split(), "--total-steps", "64", "--out", str(out)]) == 130
    assert "program 2 of 2: num-envs=2,hidden-sizes=4x4" in capsys.readouterr().out
    assert [path.name for path in static_sweep.runs_in(out)] == ["num-envs=2,hidden-sizes=8"]
    assert main(["train", "--resume", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "is finished" in printed
    assert f"next: purerl best {out}" in printed
    runs = static_sweep.runs_in(out)
    assert [path.name for path in runs] == [f"num-envs=2,hidden-sizes={sizes}" for sizes in ("8", "4x4")]
    config = RunDirectory.open(runs[1]).config()
    assert (config.hyperparameters["num_envs"], config.network["hidden_sizes"]) == (2, [4, 4])
    assert config.vary == {"gamma": [0.9, 1.0]}
    assert main(["plot", str(out), "--out", str(tmp_path / "all.png")]) == 0
    assert main(["best", str(out), "--episodes", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2 + 4
    assert main(["evaluate", str(out), "--episodes", "2"]) == 0
    assert capsys.readouterr().out.count("ppo on CartPole-v1 after 64 steps") == 2
    assert main([*words.split(), "--total-steps", "64", "--out", str(out)]) == 2
    assert "already holds a sweep" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--vary num-envs=2,2", "--vary num-envs names a value twice"),
        ("--vary num-envs=0,2", "must lie in [1, inf)"),
        ("--vary num-envs=2,3 --num-minibatches 4 --rollout-length 3", "minibatches"),
        ("--vary normalize-observations=yes", "takes true and false, got 'yes'"),
    ],
)
def test_mistakes_in_static_values(
    words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "ppo", "CartPole-v1", *words.split(), "--out", str(tmp_path / "sweep")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()
