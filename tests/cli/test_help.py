"""Help and lists: complete, and immediate where they can be."""

import dataclasses
import os
import subprocess
import sys
import time

import pytest
import rows

from purerl.cli import COMMANDS, main
from purerl.cli.fields import is_required
from purerl.cli.network import KINDS, complete_network, default_network, parameters, part_class
from purerl.cli.objects import PREFIXES
from purerl.errors import InputError
from purerl.presets import ALGORITHMS, FAMILIES, preset, row

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


@pytest.mark.parametrize(
    "typed",
    ["--help", "", "--version", "train --help", "plot --help", "evaluate --help", "diagnose --help", "algorithms"],
)
def test_help_is_immediate_and_imports_nothing_heavy(typed: str) -> None:
    # Drawing imports numpy at the top, and tables are made by rich.
    code = FAST.replace({"plot --help": ', "numpy"', "algorithms": ', "rich"'}.get(typed, "none"), "")
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *typed.split()], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout) > 10
    assert time.perf_counter() - begun < 2.0


LAZY = """
import sys
from purerl.cli import main
try:
    main(sys.argv[1:])
except SystemExit as done:
    assert not done.code
unneeded = {"matplotlib", "seaborn", "pandas", "scipy", "rich", "yaml", "orbax", "brax", "mujoco"}
print(sorted(unneeded & set(sys.modules)))
print("gymnax" in sys.modules)
"""


@pytest.mark.parametrize(("typed", "simulator"), [("train ppo CartPole-v1 --help", True), ("envs", False)])
def test_what_needs_jax_imports_little_else(typed: str, simulator: bool) -> None:
    # Jax, flax, optax and gymnax take 0.9 s of processor time, which is what the help of a training may take.
    # Tables are made by rich.
    code = LAZY.replace('"rich", ', "") if typed == "envs" else LAZY
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *typed.split()], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-2:] == ["[]", str(simulator)], done.stderr
    assert time.perf_counter() - begun < 10.0


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
    ppo_network = complete_network(row("ppo").load(), tuned.network, {})
    epochs, width = tuned.hyperparameters["num_epochs"], ppo_network["hidden_sizes"][0]
    assert "--gae-lambda NUMBER lambda of generalised advantage estimation (default 0.95; range [0, 1])" in out
    assert f"--num-epochs INT passes over each batch (default {epochs}; range [1, inf))" in out
    assert "--kl-target NUMBER" in out
    assert "(default none; range (0, inf) or none)" in out
    assert "--normalize-advantage, --no-normalize-advantage" in out
    assert f"--hidden-sizes INT [INT ...] width of each dense layer (default {width} " in out
    assert "--env.g FLOAT" in out
    assert f"rounded up to whole iterations (default {tuned.total_steps}; range [1, inf))" in out


def test_help_shows_schedules(capsys: pytest.CaptureFixture[str]) -> None:
    out = helped(capsys, "train", "dqn", "CartPole-v1")
    assert "--epsilon NUMBER epsilon: probability of a random action (default linear:1:0.05:50%; range [0, 1])" in out
    assert "A NUMBER may be a schedule of environment steps: linear:START:END" in out


def test_help_says_which_kind_a_parameter_belongs_to(capsys: pytest.CaptureFixture[str]) -> None:
    out = helped(capsys, "train", "dqn", "CartPole-v1")
    assert "--head {mean,c51,quantile} kind of head (default mean)" in out
    assert "with --head c51: atoms of the distribution of returns (default 51; range" in out
    assert "--hidden-sizes INT [INT ...] width of each dense layer (default 120 84;" in out
    assert "--kernel INT [INT ...] with --trunk cnn: height and width of every convolution (default 3 3;" in out


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_parameter_is_a_flag_and_explained(algorithm: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = row(algorithm).load()
    network = default_network(made)
    owned = dataclasses.fields(network) if network is not None else ()
    parts = [f.name for f in (*owned, *dataclasses.fields(made)) if f.name in KINDS]
    names = [f.name for f in dataclasses.fields(made) if f.name not in ("env", "network", "terminal_value")]
    names += [f.name for f in owned if f.name not in (*parts, "action_space", "parent", "name")]
    names += {
        PREFIXES.get(part, "") + f.name
        for part in parts
        for kind in KINDS[part]
        for f in dataclasses.fields(part_class(part, kind))
        if f.name not in ("parent", "name")
    }
    out = helped(capsys, "train", algorithm)
    assert main(["algorithms", algorithm]) == 0
    table = capsys.readouterr().out
    for name in [*names, *parts]:
        assert f"--{name.replace('_', '-')}" in out
        (line,) = [line for line in table.splitlines() if line.split()[0] == f"--{name.replace('_', '-')}"]
        assert len(line.split()) >= 5
    # Whatever is a parameter says what it means.
    assert network is None or all(f.metadata["help"] for f in parameters(network))


def test_the_overview_has_a_line_for_each_algorithm(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["algorithms"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == list(ALGORITHMS)
    assert len(lines) == len(ALGORITHMS) + 2


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_overview_names_the_right_action_spaces(algorithm: str) -> None:
    import purerl

    discrete = "FrozenLake-misc" if algorithm in {row.name for row in FAMILIES["tabular"]} else "CartPole-v1"
    made = row(algorithm).load()
    if any(is_required(field) and field.name != "env" for field in dataclasses.fields(made)):
        made = rows.ALGORITHMS[algorithm].make  # with data or an expert
    for space, env in (("discrete", discrete), ("continuous", "Pendulum-v1")):
        if space in row(algorithm).actions:
            made(env=purerl.make(env))
        else:
            with pytest.raises(InputError, match="actions"):
                made(env=purerl.make(env))


def test_envs_lists_spaces_and_limits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["envs", "CartPole", "inverted_pendulum"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "environment"
    assert any(line.startswith("CartPole-v1") and "Discrete(2)" in line and line.endswith("500") for line in lines)
    assert any(line.startswith("brax/inverted_pendulum") and "Box([1], [-1, 1])" in line for line in lines)
    names = [line.split()[0] for line in lines[1:]]
    assert names == ["smooth/cartpole-swingup", "pixels/CartPole-v1", "CartPole-v1", "brax/inverted_pendulum"]


def test_a_reader_that_stops_early_is_no_error() -> None:
    command = f"{sys.executable} -m purerl algorithms ppo | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, env=dict(os.environ))
    assert done.stderr == ""
    assert done.stdout.startswith("ppo")
