"""``purerl evaluate ENVIRONMENT --controller``: a planner plays, and mistakes are one line."""

from pathlib import Path

import pytest

from purerl.cli import configure, main
from purerl.cli.control import CONTROLLERS, named
from purerl.cli.run_directory import RunDirectory

# Seven steps from anywhere on the circle.
PENDULUM = "evaluate smooth/pendulum --env.episode-length 7"


@pytest.mark.parametrize(
    "planner",
    [
        "ilqr --num-iterations 1 --num-step-sizes 2",
        "mppi --num-samples 4 --temperature 0.5",
        "shooting --learning-rate 1e-2",
    ],
)
def test_a_planner_plays_episodes(planner: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = f"{PENDULUM} --controller {planner} --horizon 2 --episodes 3 --seed 5"
    assert main(command.split()) == 0
    name = planner.split()[0]
    title, note, headings, numbers, statistics, done = capsys.readouterr().out.splitlines()
    assert title == f"{name} on smooth/pendulum, 3 episodes: compiling"
    assert note.startswith("playing, after 0:")
    assert headings.split() == ["return", "deviation", "lowest", "highest", "length"]
    mean, _, lowest, highest, length = map(float, numbers.split())
    assert length == 7.0
    # The state reached costs at most 2 for the angle, and little for velocity and torque, at each of seven steps.
    assert -25.0 < lowest < mean < highest < 0.0
    assert statistics.startswith(f"return: mean {mean:.3f}"[:15])
    assert "95 % interval" in statistics
    assert ": 21 steps, " in done


def test_help_of_a_planner_has_its_flags_and_those_of_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ("smooth/pendulum --controller mppi --help", "--controller=mppi --help"):
        with pytest.raises(SystemExit) as done:
            main(["evaluate", *words.split()])
        assert not done.value.code
        out = " ".join(capsys.readouterr().out.split())
        assert "--horizon INT planning horizon in steps (default 30; range [1, inf))" in out
        assert "--num-samples INT" in out
        assert "--num-step-sizes" not in out
        assert ("--env.mass FLOAT" in out) == words.startswith("smooth")


def test_help_of_evaluate_names_the_controllers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    assert f"--controller {{{','.join(CONTROLLERS)}}}" in capsys.readouterr().out


def test_every_parameter_of_a_planner_is_explained() -> None:
    import dataclasses

    from purerl.physics import control

    for name in CONTROLLERS.values():
        for field in dataclasses.fields(getattr(control, name)):
            assert field.metadata["help"]
            assert field.metadata["within"]


def test_which_controller_is_named() -> None:
    assert named(["x", "--controller", "mppi"]) == "mppi"
    assert named(["x", "--controller=ilqr", "--seed", "1"]) == "ilqr"
    assert named(["x", "--controller"]) == ""
    assert named(["x", "--controllers", "mppi"]) is None
    assert named([]) is None


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("evaluate smooth/pendulm", ["no such directory", "nor is it an environment", "'smooth/pendulum'"]),
        ("evaluate smooth/pendulum", ["it is an environment", "--controller shooting or ilqr or mppi"]),
        ("evaluate smooth/pendulm --controller mppi", ["unknown environment", "'smooth/pendulum'"]),
        ("evaluate {run} --controller mppi", ["is a run", "leave out --controller"]),
        ("evaluate --controller mppi", ["name the environment first"]),
        (f"{PENDULUM} --controller mpi", ["unknown --controller value 'mpi'", "'mppi'"]),
        (f"{PENDULUM} --controller", ["unknown --controller value ''", "ilqr, mppi, shooting"]),
        (f"{PENDULUM} --controller mppi --horizon 0", ["--horizon must lie in [1, inf)"]),
        (f"{PENDULUM} --controller mppi --temperature 0", ["--temperature must lie in (0, inf)"]),
        (f"{PENDULUM} --controller mppi --num-step-sizes 3", ["unknown flag '--num-step-sizes'"]),
        (f"{PENDULUM} --controller mppi --stochastic", ["unknown flag '--stochastic'"]),
        (f"{PENDULUM} --controller ilqr --env.mas 2", ["unknown flag '--env.mas'", "'--env.mass'"]),
        (f"{PENDULUM} --controller ilqr --env.mass 0", ["mass must lie in (0, inf)"]),
        ("evaluate CartPole-v1 --controller mppi", ["planning needs continuous actions", "Discrete(2)"]),
    ],
)
def test_mistakes(typed: str, expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, _, _ = configure.configure("ppo", "CartPole-v1", ["--total-steps", "2048"])
    with RunDirectory.begin(config, tmp_path / "run") as run:
        pass
    assert main(typed.format(run=run.path).split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("purerl: error: ")
    assert err.count("\n") == 1
    for words in expected:
        assert words in err
