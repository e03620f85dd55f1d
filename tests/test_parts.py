"""A population spread over processes is the population."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

import purerl
from purerl import InputError, Population, cpu
from purerl.training.in_process import InProcess
from purerl.training.local_worker import parts
from purerl.training.parts import Parts, _parts

BATCH = 3


def build() -> Population:
    """Three members, which two processes cannot share evenly; the last two learn faster."""
    env = purerl.make("CartPole-v1")
    network = purerl.ActorCritic(trunk=purerl.MLP((8,)))
    agent = purerl.PPO(env=env, network=network, num_envs=2, rollout_length=16, num_epochs=1)
    return Population(agent, 3, {"learning_rate": np.float32([1e-3, 3e-3, 3e-3])})


@pytest.fixture(scope="module")
def processes() -> Iterator[Parts]:
    with parts(build, 2, deadline=60.0) as processes:
        processes.compile_init()
        processes.init(jax.random.key(0))
        processes.compile_evaluation(BATCH, explore=False)
        yield processes


@pytest.fixture(scope="module")
def members() -> InProcess:
    members = InProcess(build())
    members.compile_init()
    members.init(jax.random.key(0))
    members.compile_evaluation(BATCH, explore=False)
    return members


def test_they_learn_what_one_process_learns(processes: Parts, members: InProcess) -> None:
    chex.assert_trees_all_equal(processes.state(), members.state())
    for _ in range(2):
        spread, together = processes.advance(2), members.advance(2)
        chex.assert_trees_all_close(spread, together, rtol=1e-3, atol=1e-5)
    chex.assert_trees_all_close(processes.state().params, members.state().params, rtol=1e-3, atol=1e-5)
    assert int(processes.state().iteration) == 4


def test_they_play_the_same_episodes(processes: Parts, members: InProcess) -> None:
    state = members.state()
    processes.load(state)
    chex.assert_trees_all_equal(processes.state(), state)
    spread, together = processes.evaluate(jax.random.key(5)), members.evaluate(jax.random.key(5))
    assert spread.episode_return.shape == (3, BATCH)
    chex.assert_trees_all_close(spread, together, rtol=1e-5)
    # Each member its own: those of different members began in different places.
    assert len({tuple(row) for row in spread.episode_return}) > 1


def test_what_goes_wrong_there_is_raised_here(processes: Parts) -> None:
    with pytest.raises(AttributeError):
        processes._call("no_such_call")
    assert int(processes.state().iteration) >= 0  # and they go on


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_requests_to_stop_are_for_the_process_that_calls(processes: Parts, number: signal.Signals) -> None:
    for worker in processes._workers:
        os.kill(worker._pid.result(), number)
    assert int(processes.state().iteration) >= 0


def test_metrics_go_on_in_all_processes(processes: Parts) -> None:
    first = processes.advance(1)
    both = processes.advance(1, first)
    np.testing.assert_array_equal(both["entropy"].count, 2 * first["entropy"].count)
    with pytest.raises(InputError, match="metrics must be"):
        processes.advance(1, {"episode_return": first["episode_return"]})


@pytest.mark.parametrize(
    ("number", "says"), [(signal.SIGSTOP, "gave no answer for 0.5 s"), (signal.SIGKILL, "was killed")]
)
def test_a_process_that_is_gone_or_stopped_is_named(processes: Parts, number: signal.Signals, says: str) -> None:
    """The last test with these processes."""
    processes._deadline = 0.5
    os.kill(processes._workers[1]._pid.result(), number)
    with pytest.raises(InputError, match=rf"training process 1 of 2 \(members 1 to 2\) {says}"):
        processes.state()


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    """Also when that one is killed and can do nothing about it."""
    program = tmp_path / "program.py"
    program.write_text(
        "import time\n"
        "from test_parts import build\n"
        "from purerl.training.local_worker import LocalWorker\n"
        "if __name__ == '__main__':\n"
        "    worker = LocalWorker(build, 0, 1)\n"
        "    print(worker._pid.result(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    words = [sys.executable, str(program)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        worker = int(process.stdout.readline())
        assert Path(f"/proc/{worker}").exists()
        process.kill()
    until = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert not Path(f"/proc/{worker}").exists()


def test_parts_are_all_members_in_shares_as_even_as_can_be() -> None:
    assert _parts(5, 2) == [(0, 2), (2, 3)]
    for num_members, num_processes in ((7, 3), (64, 6), (4, 4)):
        parts = _parts(num_members, num_processes)
        assert [member for first, count in parts for member in range(first, first + count)] == list(range(num_members))
        counts = [count for _, count in parts]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(("cores", "processes", "expected"), [(2, 2, 1), (8, 8, 1), (8, 4, 1), (16, 4, 4), (16, 2, 8)])
def test_a_process_has_its_share_of_the_cores(
    cores: int, processes: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "usable_cores", lambda: cores)
    assert cpu.threads(processes) == expected
