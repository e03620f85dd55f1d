"""``purerl diagnose``: table, sentence and picture; mistakes in one line before anything is computed."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from purerl.cli import diagnose, main
from purerl.physics import diagnostics
from purerl.physics.diagnostics import Diagnosis, GradientComparison


def test_a_table_a_sentence_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "lqr.png"
    words = f"diagnose smooth/lqr --horizons 4 1 --samples 64 --starts 2 --env.max-action 2 --out {out}"
    assert main(words.split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("smooth/lqr: 2 starts, 128 rollouts of 4 steps from each")
    assert lines[1].split()[:3] == ["horizon", "steps", "gradient"]
    assert [line.split()[:2] for line in lines[2:4]] == [["1", "1"], ["4", "4"]]
    assert all("0 of 2" in line and line.endswith("0 %") for line in lines[2:4])
    assert lines[-2].startswith("Recommended horizon: 4 steps, the longest one tested")
    assert lines[-1] == str(out)
    assert out.read_bytes().startswith(b"\x89PNG")


def found(*, biased: tuple[bool, ...] = (False, False), scale: float = 1.0) -> Diagnosis:
    """As from two horizons and one start."""
    row = np.full((1, 2), scale, np.float32)
    scalars = ("first_order_variance", "zeroth_order_variance", "roughness", "cosine", "bias")
    vectors = ("first_order", "zeroth_order", "first_order_error", "zeroth_order_error", "norms")
    fields: dict[str, Any] = {**dict.fromkeys(scalars, row), **dict.fromkeys(vectors, row[..., None])}
    fields |= {"bias_interval": np.stack([row, row], axis=-1), "biased": np.array([biased]), "nonfinite": 0.0 * row}
    found: dict[str, Any] = {"horizons": np.array([1, 8]), "steps": np.array([[1, 8]]), "growth": row}
    return Diagnosis(comparison=GradientComparison(**fields), **found)


@pytest.mark.parametrize(
    ("diagnosis", "sentence"),
    [
        (found(), "Recommended horizon: 8 steps, the longest one tested; no problem was found."),
        (
            found(biased=(False, True)),
            "Recommended horizon: 1 step, because at 8 steps gradients are biased at 1 of 1 starts: the dynamics jump.",
        ),
        (found(biased=(True, False)), "No horizon is recommended: at 1 step gradients are biased"),
        (found(scale=9.0), "No horizon is recommended: at 1 step gradients are 9 times as large"),
        (found(scale=0.0), "No horizon is recommended: at 1 step the reward does not depend on the actions"),
    ],
)
def test_what_to_do_is_said_in_one_sentence_and_drawn(diagnosis: Diagnosis, sentence: str, tmp_path: Path) -> None:
    assert diagnose._conclusion(diagnosis).startswith(sentence)
    diagnose.draw(diagnosis, "title", tmp_path / "out.png")
    assert (tmp_path / "out.png").exists()


def test_horizons_end_with_the_episode(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def record(env: object, key: jax.Array, **options: object) -> Diagnosis:
        asked.append(options["horizons"])
        return found()

    monkeypatch.setattr(diagnostics, "diagnose", record)
    monkeypatch.chdir(tmp_path)
    for words in ("", "--env.episode-length 5", "--env.action-repeat 4", "--horizons 7 300"):
        assert main(["diagnose", "smooth/lqr", *words.split()]) == 0
    assert asked == [[1, 2, 4, 8, 16, 32], [1, 2, 4], [1, 2, 4, 8], [7, 300]]
    assert (tmp_path / "gradients.png").exists()


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("", ["name an environment first"]),
        ("--samples 8", ["name an environment first"]),
        ("smooth/pendulun", ["unknown environment 'smooth/pendulun'", "'smooth/pendulum'"]),
        ("CartPole-v1", ["CartPole-v1", "Pendulum-v1"]),
        ("CartPole-v1 --no-env.differentiable", ["gradients need continuous actions, got Discrete(2)"]),
        ("smooth/lqr smooth/pendulum", ["unexpected argument 'smooth/pendulum'"]),
        ("smooth/lqr --horizon 3", ["unknown flag '--horizon'", "'--horizons'"]),
        ("smooth/lqr --horizons 1 0", ["--horizons must lie in [1, inf)", "got 0"]),
        ("smooth/lqr --horizons 1.5", ["--horizons must be a whole number"]),
        ("smooth/lqr --samples 7", ["--samples must lie in [8, inf)"]),
        ("smooth/lqr --starts 0", ["--starts must lie in [1, inf)"]),
        ("smooth/lqr --sigma 0", ["--sigma must lie in (0, inf)"]),
        ("smooth/lqr --seed -1", ["--seed must lie in"]),
        ("smooth/pendulum --env.mas 2", ["unknown flag '--env.mas'", "'--env.mass'"]),
        ("smooth/pendulum --env.mass -2", ["mass must lie in (0, inf)"]),
        ("smooth/lqr --out here.pdf", ["--out must name a .png file"]),
        ("smooth/lqr --out nowhere/here.png", ["cannot write nowhere/here.png"]),
    ],
)
def test_mistakes_are_one_line(
    typed: str,
    expected: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def computed(*args: object, **options: object) -> None:
        raise AssertionError("got as far as computing")

    monkeypatch.setattr(diagnostics, "diagnose", computed)
    monkeypatch.chdir(tmp_path)
    assert main(["diagnose", *typed.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    for words in expected:
        assert words in err
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_flag_and_the_options_of_an_environment(capsys: pytest.CaptureFixture[str]) -> None:
    for words, more in ((["--help"], []), (["smooth/pendulum", "--help"], ["--env.mass", "--no-env.differentiable"])):
        with pytest.raises(SystemExit) as done:
            main(["diagnose", *words])
        assert not done.value.code
        out = capsys.readouterr().out
        for flag in [*(flag.flag for flag in diagnose.FLAGS.flags), *more]:
            assert flag in out
