"""Memory and layout of a training before it compiles."""

import json

import jax
import pytest

from purerl import device_memory
from purerl.cli import main
from purerl.cli.configure import configure


def test_bytes_are_those_of_the_state(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_memory, "device_bytes", lambda: 10**9)
    words = "dqn CartPole-v1 --seeds 6 --buffer-size 20000"
    assert main(["plan", *words.split(), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    population = configure("dqn", "CartPole-v1", words.split()[2:])[0].population()
    state = jax.eval_shape(population.init, jax.random.key(0))
    assert plan["needed_bytes"] == device_memory.num_bytes(state)
    assert plan["members"] == plan["members_per_device"] == 6
    assert next(iter(plan["parts"])) == "replay"
    assert plan["group"] == population.group_size
    fitting = plan["fitting_members"]
    assert fitting * plan["member_bytes"] + plan["shared_bytes"] <= 10**9
    assert (fitting + 1) * plan["member_bytes"] + plan["shared_bytes"] > 10**9


def test_text_and_refusal_name_what_would_fit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setattr(device_memory, "device_bytes", lambda: 2_000_000)
    words = ["dqn", "CartPole-v1", "--seeds", "64", "--buffer-size", "20000"]
    assert main(["plan", *words]) == 0
    out = capsys.readouterr().out
    assert "members: 64 x 756 kB = 48.4 MB" in out
    assert "THIS DOES NOT FIT" in out
    assert "at most 2 members of this size fit" in out
    assert main(["train", *words, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "the state of 64 members x 0.000" in error
    assert "at most 2 members fit: make the number of seeds" in error


def test_compiling_tells_temporary_memory(capsys: pytest.CaptureFixture[str]) -> None:
    tiny = "ppo CartPole-v1 --num-envs 2 --rollout-length 8 --num-minibatches 1 --hidden-sizes 8 --compile"
    assert main(["plan", *tiny.split()]) == 0
    out = capsys.readouterr().out
    assert "compiled in " in out
    assert "temporary memory unknown" not in out


@pytest.mark.parametrize(
    ("words", "message"),
    [("ppo", "name an algorithm and an environment"), ("ppo CartPole-v1 --seedz 3", "'--seeds'?")],
)
def test_mistakes(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *words.split()]) == 2
    assert message in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--help"]) == 0
    assert "--compile" in capsys.readouterr().out
