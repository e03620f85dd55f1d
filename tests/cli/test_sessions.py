"""Whole runs through real processes: train, be killed, be stopped, resume, evaluate, plot."""

import contextlib
import csv
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl.cli import main, report, stopping, training
from purerl.cli.run_directory import RunDirectory
from purerl.cli.training import Training, load
from purerl.training.in_process import InProcess

# Small, but with more log points than a process can run through before it is killed: 300, of two iterations each.
COMMON = (
    "--seeds 2 --seed 7 --num-envs 2 --hidden-sizes 8 --log-every 2 --eval-every 100 --checkpoint-every 50 "
    "--eval-episodes 4"
)
TINY = shlex.split(f"train ppo CartPole-v1 --total-steps 19200 --rollout-length 16 --num-epochs 1 {COMMON}")
# The first 100 iterations are its warm-up, and the replay is overwritten several times.
TINY_DQN = shlex.split(
    "train dqn CartPole-v1 --total-steps 5600 --rollout-length 4 --warmup-steps 800 --buffer-size 800 --batch-size 4 "
    f"--priority-exponent 0.5 --n-step 3 --noisy --target-period 7 --tau 0.5 {COMMON}"
)
TINY_SPREAD = [*TINY, "--processes", "2"]
PYTHON = [sys.executable, "-u", "-m", "purerl"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    assert main([*TINY, "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def finished_dqn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a warm-up and a replay."""
    path = tmp_path_factory.mktemp("runs") / "dqn"
    with (path.parent / "dqn.txt").open("w") as output, contextlib.redirect_stdout(output):
        assert main([*TINY_DQN, "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def finished_spread(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first one with its members in two processes."""
    path = tmp_path_factory.mktemp("runs") / "spread"
    assert main([*TINY_SPREAD, "--out", str(path)]) == 0
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def snapshot(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def final_state(path: Path) -> Any:
    """Every number of a run's last checkpoint."""
    run = RunDirectory.open(path)
    return jax.tree.map(
        lambda leaf: np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf),
        load(run, run.config().num_iterations, Training(run.config()).shapes),
    )


def interrupt(words: list[str], path: Path, num_rows: int, number: signal.Signals) -> tuple[int, str]:
    """Start a process, send it a signal once it has logged `num_rows`, and return exit code and output.

    All processes of the job get the signal, as from a terminal or a batch system.
    """
    before = {each: signal.signal(each, signal.SIG_DFL) for each in stopping.SIGNALS}  # not those of pytest
    command = [*PYTHON, *words]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    for each, handler in before.items():
        signal.signal(each, handler)
    metrics = path / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= num_rows:
            os.killpg(process.pid, number)
            break
        time.sleep(0.005)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


@pytest.mark.parametrize(
    ("words", "whole", "number"),
    [
        (TINY, "finished", signal.SIGINT),
        pytest.param(TINY_DQN, "finished_dqn", signal.SIGHUP, marks=pytest.mark.slow),
        (TINY_SPREAD, "finished_spread", signal.SIGTERM),
    ],
    ids=["ppo", "dqn", "two processes"],
)
def test_killed_then_stopped_then_finished_is_equal_to_undisturbed(
    words: list[str], whole: str, number: signal.Signals, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path, finished = tmp_path / "run", request.getfixturevalue(whole)
    code, output = interrupt([*words, "--out", str(path)], path, 130, signal.SIGKILL)
    assert code == -signal.SIGKILL, output
    assert not (path / "summary.json").exists()
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 5')  # as if the kill had come in the middle of a write

    resume = ["train", "--resume", str(path)]
    code, output = interrupt(resume, path, 330, number)
    assert code == 128 + number, output
    assert "rounded" not in output
    assert "of them done" in output
    assert f"purerl train --resume {path}" in output.splitlines()[-1]
    assert "Traceback" not in output

    last = subprocess.run([*PYTHON, *resume], capture_output=True, text=True, timeout=120)
    assert last.returncode == 0, last.stdout + last.stderr
    assert last.stderr == ""
    assert (path / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()
    one, other = (json.loads((p / "summary.json").read_text()) for p in (path, finished))
    assert one["eval_return"] == other["eval_return"]
    chex.assert_trees_all_equal(final_state(path), final_state(finished))
    assert (path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")

    again = subprocess.run([*PYTHON, *resume], capture_output=True, text=True, timeout=120)
    assert again.returncode == 0
    assert "is finished" in again.stdout


def test_stopped_between_log_points_then_finished_is_equal_to_undisturbed(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    monkeypatch.setattr(training, "PIECE_SECONDS", 0.0)  # pieces of one iteration

    def stopped(call: int) -> Callable[..., Any]:
        original, calls = InProcess.advance, itertools.count(1)

        def advance(*args: Any) -> Any:
            if next(calls) == call:
                signal.raise_signal(signal.SIGTERM)
            return original(*args)

        return advance

    resume = ["train", "--resume", str(path)]
    # In the middle of an interval (the first call compiles), before an evaluation that is due, and before the last one.
    before = 0
    for words, iteration in (([*TINY, "--out", str(path)], 51), (resume, 200), (resume, 600)):
        with monkeypatch.context() as patch:
            patch.setattr(InProcess, "advance", stopped(1 + iteration - before))
            assert main(words) == 128 + signal.SIGTERM
        assert f"stopped and saved at {32 * iteration:,} steps" in capsys.readouterr().out
        assert rows(path)[-1]["iteration"] == (iteration - 1) // 2 * 2
        assert [file.stem for file in (path / "unlogged").iterdir()] == [str(iteration)]
        before = iteration
    # As if killed when the row was written and its metrics not yet forgotten.
    (path / "metrics.jsonl").write_bytes((finished / "metrics.jsonl").read_bytes())
    assert main(resume) == 0
    assert list((path / "unlogged").iterdir()) == []
    assert (path / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
    chex.assert_trees_all_equal(final_state(path), final_state(finished))


def test_equal_commands_write_equal_metrics_under_any_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split("train ppo CartPole-v1 --total-steps 3200 --rollout-length 16 --num-epochs 1 --num-envs 2")
    words += ["--hidden-sizes", "8"]
    clock, now = time.perf_counter, 0.0

    def slow(method: Callable[..., Any], seconds: float) -> Callable[..., Any]:
        def slowed(*args: Any) -> Any:
            nonlocal now
            now += seconds
            return method(*args)

        return slowed

    assert main([*words, "--out", str(tmp_path / "idle")]) == 0
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + now)
    for name, seconds in (("advance", 1000.0), ("evaluate", 1.0)):
        monkeypatch.setattr(InProcess, name, slow(getattr(InProcess, name), seconds))
    assert main([*words, "--out", str(tmp_path / "loaded")]) == 0
    one, other = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("idle", "loaded"))
    assert one == other
    logged = rows(tmp_path / "idle")
    assert sum(row["eval_return"] is not None for row in logged) == 5
    summary = json.loads((tmp_path / "loaded" / "summary.json").read_text())
    assert summary["eval_seconds"] > 5 * 1.0
    seconds = summary["run_seconds"] + summary["eval_seconds"]
    assert summary["eval_share"] == pytest.approx(summary["eval_seconds"] / seconds, abs=1e-3)


def test_processes_train_what_one_process_trains(finished: Path, finished_spread: Path) -> None:
    assert RunDirectory.open(finished_spread).config().processes == 2
    together, spread = rows(finished), rows(finished_spread)
    assert [row["member"] for row in spread] == [row["member"] for row in together]
    # Sums of other shapes round differently, and in time that decides over actions: only the beginning is the same.
    assert [row["episode_return"] for row in spread[:8]] == [row["episode_return"] for row in together[:8]]


def test_many_seeds_do_not_hang_at_the_default_thread_pool(tmp_path: Path) -> None:
    """XLA's default pool can hang on two cores once seeds are vmapped; the command line must choose its own."""
    words = shlex.split("train ppo CartPole-v1 --seeds 4 --total-steps 10240 --num-envs 64 --rollout-length 32")
    environment = {name: value for name, value in os.environ.items() if name != "NPROC"}
    for attempt in range(2):
        command = [*PYTHON, *words, "--out", str(tmp_path / str(attempt))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment)
        assert done.returncode == 0, done.stderr


def test_files_of_a_run(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert {
        "algorithm": "ppo",
        "env": "CartPole-v1",
        "total_steps": 19200,
        "seeds": 2,
        "seed": 7,
        "eval_episodes": 4,
    }.items() <= summary.items()
    for name in ("compile_seconds", "run_seconds", "eval_seconds", "env_steps_per_second"):
        assert summary[name] > 0
    assert len(summary["eval_return"]["per_member"]) == 2
    low, high = summary["eval_return"]["ci95"]
    assert low <= summary["eval_return"]["mean"] <= high
    assert {"python", "jax", "purerl", "gymnax"} <= summary["versions"].keys()

    logged = rows(finished)
    assert len(logged) == 2 * 300
    assert [row["member"] for row in logged[:4]] == [0, 1, 0, 1]
    assert all(row["env_steps"] == 32 * row["iteration"] for row in logged)
    assert len({tuple(row) for row in logged}) == 1  # the same keys in every row
    assert {"episode_return", "episode_length", "policy_loss", "value_loss", "entropy"} <= logged[0].keys()
    evaluated = sorted({row["iteration"] for row in logged if row["eval_return"] is not None})
    assert evaluated == [100, 200, 300, 400, 500, 600]
    finals = [row["eval_return"] for row in logged[-2:]]
    assert finals == summary["eval_return"]["per_member"]
    assert len(list((finished / "checkpoints").iterdir())) >= 1


def test_a_warm_up_counts_as_steps_but_not_as_training(finished_dqn: Path) -> None:
    output = finished_dqn.with_suffix(".txt").read_text()
    lines = output.splitlines()
    assert "5,600 steps each, 800 of them at random" in lines[0]
    assert lines[1:5] == ["compiling", "warming up", "compiling", "training"]
    assert lines[5].startswith("816/5,600 steps")

    summary = json.loads((finished_dqn / "summary.json").read_text())
    assert (summary["total_steps"], summary["iterations"]) == (5600, 700)
    rate = (5600 - 800) * 2 / summary["run_seconds"]
    assert summary["env_steps_per_second"] == pytest.approx(rate, rel=0.05)
    assert summary["init_seconds"] > 0
    shown = next(line for line in reversed(lines) if line.startswith("5,600/5,600")).split()[2]
    factor = {"k": 1e3, "M": 1e6}.get(shown[-1], 1)
    assert float(shown.rstrip("kM")) * factor == pytest.approx(rate, rel=0.05)

    logged = rows(finished_dqn)
    assert [row["env_steps"] for row in logged[::2]] == list(range(816, 5601, 16))
    assert all(row["env_steps"] == 8 * row["iteration"] for row in logged)
    assert {"loss", "q_value", "epsilon", "episode_return"} <= logged[0].keys()


def test_extending_keeps_what_was_a_share_of_the_run(finished_dqn: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(finished_dqn, path)
    before = json.loads((path / "config.json").read_text())
    assert before["hyperparameters"]["epsilon"] == "linear:1:0.05:2800"
    assert main(["train", "--resume", str(path), "--total-steps", "5616"]) == 0
    after = json.loads((path / "config.json").read_text())
    assert after["total_steps"] == 5616
    assert after["hyperparameters"] == before["hyperparameters"]
    assert rows(path)[-1]["iteration"] == 702


def test_evaluate_repeats_the_final_evaluation(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    assert main(["evaluate", str(finished), "--episodes", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    summary = json.loads((finished / "summary.json").read_text())
    members = [line.split() for line in lines if line[:1].isdigit()]
    assert [float(member[1]) for member in members] == pytest.approx(summary["eval_return"]["per_member"], abs=0.006)
    assert f"mean {report.number(summary['eval_return']['mean'])}" in lines[-1]
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()} == before

    assert main(["evaluate", str(finished), "--episodes", "3", "--stochastic", "--seed", "1"]) == 0
    assert "exploring as in training" in capsys.readouterr().out


def test_plot_one_and_several(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (finished / "learning_curve.png").unlink()
    assert main(["plot", str(finished)]) == 0
    assert (finished / "learning_curve.png").exists()
    out = tmp_path / "both.png"
    assert main(["plot", str(finished), str(finished), "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().err == ""


def test_existing_runs_are_safe(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "metrics.jsonl").read_text()
    assert main([*TINY, "--out", str(finished)]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert (finished / "metrics.jsonl").read_text() == before


def test_overwrite_leaves_what_is_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "run"
    short = [word if word != "19200" else "64" for word in TINY]
    assert main([*short, "--out", str(path)]) == 0
    (path / "notes.txt").write_text("mine")
    (path / "checkpoints" / "stale").mkdir()
    assert main([*short, "--out", str(path), "--overwrite"]) == 0
    assert (path / "notes.txt").read_text() == "mine"
    assert not (path / "checkpoints" / "stale").exists()
    assert [row["iteration"] for row in rows(path)] == [2, 2]


def test_vary_extend_and_loggers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run"
    words = (
        "train ppo Pendulum-v1 --no-anneal --seeds 2 --vary learning-rate=1e-3,1e-4 --vary env.params.max_speed=6,8 "
        "--num-envs 2 --rollout-length 8 --num-minibatches 1 --num-epochs 1 --hidden-sizes 4 --total-steps 30 "
        "--eval-episodes 2 --env.episode-length 5 --normalize-observations --tensorboard --csv"
    )
    assert main([*words.split(), "--out", str(path)]) == 0
    out, err = capsys.readouterr()
    assert "30 steps were rounded up to whole iterations of 16" in out
    assert err == ""
    summary = json.loads((path / "summary.json").read_text())
    assert summary["members"] == 8
    assert summary["total_steps"] == 32
    assert summary["requested_steps"] == 30
    values = [entry["varied"] for entry in summary["by_value"]]
    assert values[0] == {"learning_rate": 1e-3, "env.params.max_speed": 6.0}
    assert values[-1] == {"learning_rate": 1e-4, "env.params.max_speed": 8.0}
    logged = rows(path)
    assert [row["varied"]["learning_rate"] for row in logged[:8]] == [1e-3] * 4 + [1e-4] * 4
    assert [row["learning_rate"] for row in logged[:8]] == pytest.approx([1e-3] * 4 + [1e-4] * 4)
    assert len(list((path / "tensorboard").rglob("events*"))) == 8
    with (path / "csv" / "metrics.csv").open("a") as file:
        file.write("of a process that was killed")

    assert main(["train", "--resume", str(path), "--total-steps", "64"]) == 0
    assert [row["iteration"] for row in rows(path)[::8]] == [1, 2, 3, 4]
    with (path / "csv" / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    for cells, row in zip(table, rows(path), strict=True):
        assert float(cells.pop("varied.learning_rate")) == row["varied"]["learning_rate"]
        assert float(cells.pop("varied.env.params.max_speed")) == row["varied"]["env.params.max_speed"]
        del row["varied"]
        assert {name: float(cell) if cell else None for name, cell in cells.items()} == row
    assert json.loads((path / "summary.json").read_text())["total_steps"] == 64
    assert main(["train", "--resume", str(path), "--total-steps", "32"]) == 2
    assert "already trained" in capsys.readouterr().err


def test_resume_that_no_longer_fits(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run"
    path.mkdir()
    config = json.loads((finished / "config.json").read_text())
    config["network"]["hidden_sizes"] = [16]
    config["versions"]["jax"] = "0.0.1"
    (path / "config.json").write_text(json.dumps(config))
    os.symlink(finished / "checkpoints", path / "checkpoints")
    assert main(["train", "--resume", str(path)]) == 2
    out, err = capsys.readouterr()
    assert "does not fit" in err
    assert err.count("\n") == 1
    assert out.count("\n") == 1
    assert "jax 0.0.1 -> " in out


def test_a_run_without_checkpoint_begins_anew(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir()
    config = json.loads((finished / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config))
    (path / "metrics.jsonl").write_text((finished / "metrics.jsonl").read_text()[:5000])
    assert main(["train", "--resume", str(path)]) == 0
    assert (path / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()


def test_evaluations_do_not_change_training(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    words = [word if word != "100" else "0" for word in TINY]
    assert main([*words, "--out", str(path)]) == 0
    for one, other in zip(rows(path), rows(finished), strict=True):
        assert {k: v for k, v in one.items() if k[:5] != "eval_"} == {
            k: v for k, v in other.items() if k[:5] != "eval_"
        }


def test_losses_that_are_not_finite_are_reported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run"
    words = "train ppo Pendulum-v1 --no-anneal --seeds 1 --vary reward-scale=1,1e30 --num-envs 2 --rollout-length 8"
    words += " --num-minibatches 1 --num-epochs 1 --hidden-sizes 4 --total-steps 48 --eval-every 0 --eval-episodes 1"
    assert main([*words.split(), "--env.episode-length", "5", "--no-normalize-rewards", "--out", str(path)]) == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1
    assert "member 1" in warnings[0]
    assert "value_loss" in warnings[0]
    assert any(row["value_loss"] is None for row in rows(path) if row["member"] == 1)
    assert all(row["value_loss"] is not None for row in rows(path) if row["member"] == 0)


def test_two_processes_cannot_train_in_one_directory(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from purerl.cli.run_directory import RunDirectory

    before = snapshot(finished)
    with RunDirectory.open(finished).locked():
        assert main(["train", "--resume", str(finished)]) == 2
        assert "another process" in capsys.readouterr().err
        assert main([*TINY, "--out", str(finished), "--overwrite"]) == 2
        assert "another process" in capsys.readouterr().err
    assert snapshot(finished) == before
    assert main(["train", "--resume", str(finished)]) == 0


def test_a_member_that_diverges_is_frozen_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Reported, excluded from statistics, still frozen after resuming; or the run stops."""
    tiny = "--num-envs 2 --rollout-length 8 --num-minibatches 1 --hidden-sizes 8 --eval-episodes 2 --eval-every 0"
    vary = "--max-grad-norm none --vary learning-rate=1e36,1e-3 --no-anneal --total-steps"
    words = f"train ppo CartPole-v1 {tiny} {vary}".split()
    assert main([*words, "64", "--out", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "warning: member 0 diverged at 16 steps (iteration 1): params.params." in out
    assert "excluded, because they diverged: members 0" in out
    assert main(["train", "--resume", str(tmp_path / "run"), "--total-steps", "128"]) == 0
    assert "warning: member" not in capsys.readouterr().out
    run = RunDirectory.open(tmp_path / "run")
    summary = run.summary()
    assert summary
    assert summary["diverged"]["0"]["iteration"] == 1
    assert summary["eval_return"]["mean"] == summary["eval_return"]["per_member"][1]
    assert run.rows()[-2]["entropy"] is None
    assert run.rows()[-1]["entropy"] is not None
    assert main([*words, "64", "--out", str(tmp_path / "stopped"), "--on-divergence", "stop"]) == 3
    assert "stopped by --on-divergence stop and saved" in capsys.readouterr().out
    assert RunDirectory.open(tmp_path / "stopped").summary() is None
