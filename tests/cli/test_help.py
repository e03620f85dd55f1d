"""Help and lists: complete, and immediate where they can be."""

import os
import subprocess
import sys
import time

import pytest

from purerl.cli import COMMANDS, main
from purerl.cli.config import complete_network
from purerl.presets import preset

FAST = """
import sys
from purerl.cli import main
try:
    main(sys.argv[1:])
except SystemExit as done:
    assert not done.code
heavy = {"jax", "flax", "gymnax", "brax", "orbax", "matplotlib", "rich", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize("typed", ["--help", "", "--version", "train --help", "plot --help", "evaluate --help"])
def test_help_is_immediate_and_imports_nothing_heavy(typed: str) -> None:
    code = FAST.replace(', "numpy"', "") if typed == "plot --help" else FAST  # drawing imports it at the top
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *typed.split()], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout) > 10
    assert time.perf_counter() - begun < 2.0


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for command in COMMANDS:
        assert f"  {command} " in out


def helped(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as done:
        main([*words, "--help"])
    assert not done.value.code
    return " ".join(capsys.readouterr().out.split())


def test_help_shows_meaning_default_and_range(capsys: pytest.CaptureFixture[str]) -> None:
    out = helped(capsys, "train", "ppo", "Pendulum-v1")
    tuned = preset("ppo", "Pendulum-v1")  # its values, not those of the class, are the defaults
    epochs, width = tuned.hyperparameters["num_epochs"], complete_network(tuned.network, {})["hidden_sizes"][0]
    assert "--gae-lambda FLOAT decay of advantage traces (default 0.95; range [0, 1])" in out
    assert f"--num-epochs INT passes over each batch (default {epochs}; range [1, inf))" in out
    assert "--kl-target FLOAT" in out
    assert "(default none; range (0, inf) or none)" in out
    assert "--normalize-advantage, --no-normalize-advantage" in out
    assert f"--hidden-sizes INT [INT ...] width of each dense layer (default {width} " in out
    assert "--env.g FLOAT" in out
    assert f"rounded up to whole iterations (default {tuned.total_steps}; range [1, inf))" in out


def test_every_hyperparameter_is_a_flag_and_explained(capsys: pytest.CaptureFixture[str]) -> None:
    import dataclasses

    import purerl

    names = [f.name for f in dataclasses.fields(purerl.PPO) if f.name not in ("env", "network", "schedule")]
    out = helped(capsys, "train", "ppo")
    main(["algorithms"])
    table = capsys.readouterr().out
    for name in names:
        assert f"--{name.replace('_', '-')}" in out
        (line,) = [line for line in table.splitlines() if line.split()[0] == f"--{name.replace('_', '-')}"]
        assert len(line.split()) > 5


def test_envs_lists_spaces_and_limits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["envs", "CartPole", "inverted_pendulum"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "environment"
    assert any(line.startswith("CartPole-v1") and "Discrete(2)" in line and line.endswith("500") for line in lines)
    assert any(line.startswith("brax/inverted_pendulum") and "Box([1], [-1, 1])" in line for line in lines)
    assert len(lines) == 3


def test_a_reader_that_stops_early_is_no_error() -> None:
    command = f"{sys.executable} -m purerl algorithms | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, env=dict(os.environ))
    assert done.stderr == ""
    assert done.stdout.startswith("ppo")
