"""Values of ``--vary``, and the ranking of members."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from purerl.cli import main, sweeps
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
    assert alone.startswith("member 2 alone")
    config = RunDirectory.open(best).config()
    assert (config.vary, config.num_members) == ({"learning_rate": [0.5]}, 1)
    assert checkpoint.latest(best / "checkpoints") == checkpoint.latest(sweep / "checkpoints")
    assert main(["evaluate", str(best), "--episodes", "2"]) == 0
    assert "mean 88.00" in capsys.readouterr().out
    assert main(["best", str(sweep), "--out", str(best)]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert json.loads((best / "config.json").read_text())["joint"] == []
