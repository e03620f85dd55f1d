"""``purerl solve``: exact solutions and learned tables, as text and as a picture."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from purerl import tabular
from purerl.cli import grid_picture, main


def lines(capsys: pytest.CaptureFixture[str], command: str) -> list[str]:
    assert main(command.split()) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("method", ["value-iteration", "policy-iteration"])
def test_a_solution_and_its_picture(method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "trap.png"
    title, how, *grids, start, file = lines(
        capsys, f"solve grid/trap --method {method} --gamma 0.9 --env.slip 0 --env.step-reward 0 --out {out}"
    )
    assert title == "grid/trap: 12 states, 4 actions, time limits ignored"
    assert how.startswith(f"{method} with gamma 0.9: ")
    assert ", error at most " in how
    assert grids == [
        "values",
        "    81    90   100     G",
        "  72.9     #    90     T",
        "  65.6  72.9    81  72.9",
        "best actions",
        "   >   >   >   G",
        "   ^   #   ^   T",
        "  >^   >   ^   <",
    ]
    assert start == "value of the start: 65.61"
    assert file == str(out)
    colors = imread(out)[..., :3]
    assert len(np.unique(colors.reshape(-1, 3), axis=0)) > 50


def test_a_run_beside_the_solution(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "mine.txt"
    own.write_text("S..G\n")
    train = f"train q_learning grid/trap --env.drawing {own} --env.slip 0 --vary gamma=0.5,1 --total-steps 4000"
    lines(capsys, f"{train} --reward-scale 0.1 --learning-rate 0.5 --epsilon 0.5 --eval-episodes 1 --out run")
    title, headings, *members, shown, heading, values, _, actions, file = lines(
        capsys, "solve run --member 1 --out run.png"
    )
    assert title == "q_learning on grid/trap after 4,000 steps, gamma 0.5 to 1"
    assert headings.split("  ") == ["member", "learned value of the start", "its greedy policy", "optimal"]
    # Two steps of -4, then 100, with the discount factor of the member and rewards as they are.
    assert [member.split() for member in members] == [["0", *["19.0000"] * 3], ["1", *["92.0000"] * 3]]
    assert (shown, heading) == ("member 1", "values")
    assert values.split() == ["92", "96", "100", "G"]
    assert actions.split() == [">", ">", ">", "G"]
    assert file == "run.png"
    own.unlink()  # the run keeps the drawing itself
    assert lines(capsys, "solve run --member 0")[:4] == [title, headings, *members]
    assert Path("run.png").stat().st_size > 1_000
    assert main(["solve", "run", "--member", "2"]) == 2
    assert "--member must be less than the number of members, 2, got 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "name an environment or a run first, as in: purerl solve FrozenLake-misc"),
        ("--gamma 0.9", "name an environment or a run first"),
        ("CartPole-v1", "CartPole-v1 has no tables: use FrozenLake-misc, an environment of grid/ or a TabularMDP"),
        ("grid/trop", "unknown environment 'grid/trop': did you mean 'grid/trap'"),
        ("grid/trap --gamma 1.5", "--gamma must lie in [0, 1], got 1.5"),
        ("grid/trap --method newton", "unknown --method value 'newton'"),
        ("grid/trap --out trap.jpg", "--out must name a .png file"),
        ("grid/trap --env.slop 1", "did you mean '--env.slip'"),
        (
            "grid/trap --env.step-reward 1 --gamma 1",
            "grid/trap has no finite solution with --gamma 1: some policy never",
        ),
        ("grid/trap --env.drawing absent", "--env.drawing: cannot read 'absent': No such file or directory"),
    ],
)
def test_mistakes(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["solve", *words.split()]) == 2
    assert message in capsys.readouterr().err


def test_a_run_without_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = "--num-envs 2 --rollout-length 4 --num-minibatches 1 --total-steps 16 --hidden-sizes 4 --eval-episodes 1"
    assert main(f"train ppo grid/random-walk {tiny} --out run".split()) == 0
    assert main(["solve", "run"]) == 2
    assert "ppo learns no table: purerl solve is for q_learning, sarsa" in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["grid/trap", "--help"]):
        with pytest.raises(SystemExit) as done:
            main(["solve", *words])
        assert not done.value.code
        out = " ".join(capsys.readouterr().out.split())
        assert "--method {value-iteration,policy-iteration} exact method (default value-iteration)" in out
        assert ("--env.slip FLOAT" in out) == (len(words) == 2)


def test_equally_good_actions_are_all_shown() -> None:
    mdp = tabular.grid("SG", moves=("left", "right", "up"))
    shown = grid_picture.text(mdp, np.array([[1.0, 1.0 + 1e-9, 0.5], [0.0, 0.0, 0.0]]))
    assert shown.splitlines()[-1].split() == ["<>", "G"]
