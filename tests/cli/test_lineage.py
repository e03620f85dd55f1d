"""Population-based training from the command line: lineage, picture, and resuming to the same bits."""

import json
from pathlib import Path

import numpy as np
import pytest

from purerl.cli import lineage, main
from purerl.cli.run_directory import RunDirectory
from purerl.training import checkpoint

TINY = (
    "train ppo CartPole-v1 --num-envs 2 --rollout-length 16 --num-minibatches 1 --num-epochs 1 --hidden-sizes 8 "
    "--no-anneal --vary learning-rate=random-log:1e-4:1e-1:4 --eval-episodes 2 --eval-every 0 "
    "--log-every 2 --pbt-every 4"
)


def arrays(run: Path) -> dict[str, np.ndarray]:
    newest = checkpoint.latest(run / "checkpoints")
    assert newest is not None
    with checkpoint._manager(run / "checkpoints") as manager:
        return manager.restore(newest)


def test_a_resumed_run_has_the_same_lineage_and_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main([*TINY.split(), "--total-steps", "640", "--out", str(whole)]) == 0
    assert main([*TINY.split(), "--total-steps", "320", "--out", str(parts)]) == 0
    # As if it had been killed after an exchange and before the next checkpoint.
    run = RunDirectory.open(parts)
    rows = lineage.read(run)
    later = lineage.Row(99, [0, 0, 0, 0], [None] * 4, {"learning_rate": [1.0] * 4})
    lineage.write(run, [*rows, later])
    assert main(["train", "--resume", str(parts), "--total-steps", "640"]) == 0
    assert lineage.read(RunDirectory.open(whole)) == lineage.read(run)
    assert [row.iteration for row in lineage.read(run)] == [4, 8, 12, 16, 20]
    one, other = arrays(whole), arrays(parts)
    for name, array in one.items():
        np.testing.assert_array_equal(other[name], array, err_msg=name)
    rows = RunDirectory.open(whole).rows()
    last = lineage.read(RunDirectory.open(whole))[-2]
    assert [row["varied"]["learning_rate"] for row in rows[-4:]] == last.varied["learning_rate"]
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["pbt"]["exchanges"] == 5
    assert "by_value" not in summary
    assert (whole / "lineage.png").stat().st_size > 5_000
    capsys.readouterr()
    assert main(["plot", str(whole)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(whole / "learning_curve.png"), str(whole / "lineage.png")]
    assert main(["evaluate", str(whole), "--episodes", "2"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--pbt-every 3", "--pbt-every must be a multiple of --log-every, here 2, got 3"),
        ("--processes 2", "--pbt-every is for members in one process"),
        ("--vary env.params.gravity=9,10", "env.params.gravity is a number of the environment"),
    ],
)
def test_mistakes(words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = TINY.replace("--pbt-every 4", words) if "pbt" in words else f"{TINY} {words}"
    assert main([*text.split(), "--total-steps", "640", "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
