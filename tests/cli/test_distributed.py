"""Several processes as one machine: the same results, one writer, and an end when one of them is gone."""

import os
import signal
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from purerl.cli import main
from purerl.training import checkpoint
from purerl.training.hosts import LOST

# 50 iterations of 32 steps, log points and checkpoints every 10.
TINY = (
    "ppo CartPole-v1 --num-envs 4 --rollout-length 8 --num-minibatches 2 --hidden-sizes 8 --total-steps 1600 "
    "--log-every 10 --checkpoint-every 10 --eval-episodes 2 --eval-every 0 --no-anneal"
)


def start(words: str, **environment: str) -> subprocess.Popen:
    """A command in a process of its own, with one device."""
    kept = {name: value for name, value in os.environ.items() if name != "NPROC"}
    return subprocess.Popen(
        [sys.executable, "-m", "purerl", *words.split()],
        env={**kept, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(words: str) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [start(f"{words} --coordinator 127.0.0.1:{port} --num-processes 2 --process-id {i}") for i in range(2)]


def end(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each."""
    return [(process.wait(240), *process.communicate()) for process in processes]


def arrays(run: Path, iteration: int) -> dict[str, np.ndarray]:
    with checkpoint._manager(run / "checkpoints") as manager:
        return manager.restore(iteration)


def wait_for_rows(run: Path, processes: list[subprocess.Popen]) -> None:
    until = time.monotonic() + 200
    while not (run / "metrics.jsonl").exists() or not (run / "checkpoints").exists():
        assert all(process.poll() is None for process in processes), end(processes)
        assert time.monotonic() < until
        time.sleep(0.1)


def test_two_processes_learn_what_two_devices_of_one_learn(tmp_path: Path) -> None:
    words = f"train {TINY} --shards 2 --out {tmp_path}/two"
    first, second = end(start_two(words))
    assert first[0] == second[0] == 0, (first, second)
    assert "evaluation over 2 episodes" in first[1]
    assert "steps" not in second[1]
    one = start(
        f"train {TINY} --shards 2 --devices 2 --out {tmp_path}/one",
        XLA_FLAGS=f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2",
    )
    assert one.wait(240) == 0, one.communicate()
    both = [arrays(tmp_path / name, 50) for name in ("one", "two")]
    assert both[0].keys() == both[1].keys()
    for name, array in both[0].items():
        np.testing.assert_array_equal(both[1][name], array, err_msg=name)
    assert (tmp_path / "two" / "metrics.jsonl").read_text() == (tmp_path / "one" / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("number", "says"), [(signal.SIGKILL, "has ended or is stopped"), (signal.SIGSTOP, "no answer")]
)
def test_a_process_that_is_gone_ends_the_other_and_the_run_goes_on(number: int, says: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    long = TINY.replace("--total-steps 1600", "--total-steps 32000000")
    processes = start_two(f"train {long} --seeds 2 --deadline 8 --out {run}")
    try:
        wait_for_rows(run, processes)
        processes[1].send_signal(number)
        begun = time.monotonic()
        code, _, error = processes[0].wait(60), *processes[0].communicate()
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert code == LOST
    assert "process 1 of 2 has ended or is stopped" in error
    assert says in error
    assert time.monotonic() - begun < (10 if number == signal.SIGKILL else 20)
    done = checkpoint.latest(run / "checkpoints")
    assert done
    steps = 32 * (done // 10 * 10 + 20)
    # With one process, and with two again.
    assert main(["train", "--resume", str(run), "--devices", "1", "--total-steps", str(steps)]) == 0
    if number == signal.SIGKILL:
        first, second = end(start_two(f"train --resume {run} --total-steps {steps + 320}"))
        assert first[0] == second[0] == 0, (first, second)
        assert checkpoint.latest(run / "checkpoints") == (steps + 320) // 32


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--distributed", "--distributed needs --out DIR, which all processes can see"),
        ("--coordinator 127.0.0.1:1 --out run", "give all of --coordinator, --num-processes and --process-id"),
        (
            "--coordinator 127.0.0.1:1 --num-processes 2 --process-id 2 --out run",
            "--process-id must lie in [0, 1], got 2",
        ),
    ],
)
def test_mistakes(words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"train ppo CartPole-v1 {words}".split()) == 2
    assert message in capsys.readouterr().err


def test_all_devices_of_all_processes_must_have_something_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(platform="gpu")] * 4)
    assert main(f"train {TINY} --seeds 6 --out {tmp_path / 'run'}".split()) == 2
    assert "all 4 devices of the 2 processes must share 6 members of 1 shards each" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--devices 3", "--devices 3 cannot share 4 members of 1 shards each equally: possible are 1, 2"),
        ("--devices 8", "--devices 8 is more than JAX finds here, 4 (cpu): use --processes 8 for several cores"),
        ("--devices none", "--devices must be a whole number in [1, inf) or all, got 'none'"),
        ("--devices 2 --processes 2", "give either --devices or --processes, not both"),
        ("--shards 3", "num_envs = 4 cannot be divided among 3 shards: the nearest is 3"),
        ("--engine ray", "--engine ray needs --processes N"),
        ("--address auto", "--address is for --engine ray"),
    ],
)
def test_mistakes_in_devices(
    words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(platform="cpu")] * 4)
    assert main(f"train {TINY} --seeds 4 {words} --out {tmp_path / 'run'}".split()) == 2
    assert message in capsys.readouterr().err
