"""What comes back is what was saved, or one clear error."""

import resource
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import bits

from purerl import InputError
from purerl.cli import main
from purerl.cli.run_directory import RunDirectory
from purerl.training import checkpoint


def state(**changes):
    tree = {
        "key": jax.random.key(1),
        "keys": jax.random.split(jax.random.key(2), 3),
        "other keys": jax.random.split(jax.random.key(2, impl="rbg"), 3),
        "half": jnp.ones(2, jnp.bfloat16),
        "params": [jnp.arange(3.0), jnp.ones((2, 2), jnp.int8)],
        "flag": jnp.bool_(True),
        "nothing": None,
        "empty": jnp.zeros((2, 0)),
        "carry": (),
    }
    return tree | changes


def test_round_trip(tmp_path):
    checkpoint.save(tmp_path, 5, state())
    restored = checkpoint.restore(tmp_path, 5, jax.eval_shape(state))
    chex.assert_trees_all_equal(bits(restored), bits(state()))
    chex.assert_trees_all_equal_shapes_and_dtypes(restored, state())
    # Restored keys are keys, of their own kind.
    for name in ("key", "other keys"):
        assert restored[name].dtype == state()[name].dtype


def test_latest_and_how_many_are_kept(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.latest(tmp_path / "absent") is None
    for iteration in (1, 2, 10):
        checkpoint.save(tmp_path, iteration, state())
    assert checkpoint.latest(tmp_path) == 10
    assert sorted(int(p.name) for p in tmp_path.iterdir()) == [2, 10]


def test_a_half_written_checkpoint_does_not_count(tmp_path):
    checkpoint.save(tmp_path, 1, state())
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    assert checkpoint.latest(tmp_path) == 1
    checkpoint.save(tmp_path, 2, state())
    assert checkpoint.latest(tmp_path) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"params": [jnp.arange(4.0), jnp.ones((2, 2), jnp.int8)]}, r"params.0 is float32\[3\] there and float32\[4\]"),
        ({"flag": jnp.float32(1.0)}, r"flag is bool\[\] there and float32\[\] here"),
        ({"more": jnp.ones(1)}, r"more is nothing there and float32\[1\] here"),
        ({"flag": None}, r"flag is bool\[\] there and nothing here"),
        (
            {"other keys": jax.random.split(jax.random.key(2, impl="unsafe_rbg"), 3)},
            r"other keys\.rbg is uint32\[3, 4\]",
        ),
    ],
)
def test_a_state_that_no_longer_fits_is_named(tmp_path, changes, words):
    checkpoint.save(tmp_path, 1, state())
    with pytest.raises(InputError, match=words):
        checkpoint.restore(tmp_path, 1, state(**changes))


def test_a_missing_checkpoint_is_named(tmp_path):
    checkpoint.save(tmp_path, 1, state())
    with pytest.raises(InputError, match="no checkpoint of iteration 2"):
        checkpoint.restore(tmp_path, 2, state())


@pytest.mark.parametrize(
    ("shape", "num_pieces"),
    [((), 1), (0, 0), ((3, 5), 1), ((64, 96, 1000), 10), ((4800, 1009), 4), ((2, 1_000_003, 2), 1)],
)
def test_large_arrays_are_stored_in_pieces_of_useful_size(tmp_path, shape, num_pieces):
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    checkpoint.save(tmp_path, 1, {"array": array, "other": state()})
    restored = checkpoint.restore(tmp_path, 1, {"array": array, "other": jax.eval_shape(state)})
    np.testing.assert_array_equal(restored["array"], array)
    if num_pieces:
        with checkpoint._manager(tmp_path) as manager:
            piece = manager.item_metadata(1)["array"].storage.chunk_shape
        assert array.size == num_pieces * np.prod(piece)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """No file is written before this event is set."""
    gate, write = threading.Event(), checkpoint._write

    def wait_and_write(*args: Any) -> None:
        assert gate.wait(60)
        write(*args)

    monkeypatch.setattr(checkpoint, "_write", wait_and_write)
    yield gate
    gate.set()


def test_training_goes_on_while_its_state_is_saved(tmp_path, gate):
    advance = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    on_device, on_host = {"a": jnp.arange(1000.0), "b": jnp.zeros((), jnp.int32)}, np.arange(10, dtype=np.int32)
    with checkpoint.Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(7, {"device": on_device, "host": on_host})
        buffer, donated = on_device["a"].unsafe_buffer_pointer(), on_device
        on_device = advance(on_device)
        # Were the array still in use, JAX would have to copy it instead.
        assert donated["a"].is_deleted()
        assert on_device["a"].unsafe_buffer_pointer() == buffer
        on_host += 1
        for _ in range(3):
            on_device = jax.block_until_ready(advance(on_device))
        assert checkpoint.latest(tmp_path) is None
        gate.set()
    want = {"device": {"a": jnp.arange(1000.0), "b": jnp.zeros((), jnp.int32)}, "host": jnp.arange(10)}
    chex.assert_trees_all_equal(checkpoint.restore(tmp_path, 7, jax.eval_shape(lambda: want)), want)


def test_saves_are_complete_one_after_the_other(tmp_path):
    complete = []
    with checkpoint.Checkpointer(tmp_path) as checkpointer:
        for iteration in (1, 2, 3):
            # What follows a save finds the files of that save.
            checkpointer.save(iteration, state(), then=lambda: complete.append(checkpoint.latest(tmp_path)))
            assert complete == list(range(1, iteration)) or complete == list(range(1, iteration + 1))
        checkpointer.wait()
        assert complete == [1, 2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


def test_a_failed_save_is_told_once_by_the_next_call(tmp_path):
    (tmp_path / "file").write_text("")
    followed = []
    words = "cannot write the checkpoint of iteration 1 to .*file/checkpoints: .*Not a directory"
    for call in (lambda c: c.save(2, state()), lambda c: c.wait(), lambda c: c.close()):
        checkpointer = checkpoint.Checkpointer(tmp_path / "file" / "checkpoints")
        checkpointer.save(1, state(), then=lambda: followed.append(1))
        with pytest.raises(InputError, match=words):
            call(checkpointer)
        checkpointer.close()
    assert not followed


def test_a_full_disk_is_one_clear_error(tmp_path, caplog):
    large = {"x": np.random.default_rng(0).random(2**18, np.float32)}
    checkpoint.save(tmp_path, 1, large)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))  # the nearest to a full disk that a test may make
    try:
        with (
            pytest.raises(InputError, match=r"iteration 2 to .*: Failed to write .*: File too large"),
            checkpoint.Checkpointer(tmp_path) as checkpointer,
        ):
            checkpointer.save(2, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not caplog.records
    assert checkpoint.latest(tmp_path) == 1
    checkpoint.save(tmp_path, 2, large)
    np.testing.assert_array_equal(checkpoint.restore(tmp_path, 2, large)["x"], large["x"])


def test_memory_holds_at_most_one_copy(tmp_path):
    replay = {"obs": jnp.zeros((1000, 1000, 20), bool)}
    checkpoint.save(tmp_path, 1, state())  # what is imported does not count

    def peak(act: Callable[[], None]) -> float:
        tracemalloc.start()
        try:
            act()
            return tracemalloc.get_traced_memory()[1] / replay["obs"].nbytes
        finally:
            tracemalloc.stop()

    def in_background() -> None:
        with checkpoint.Checkpointer(tmp_path) as checkpointer:
            for iteration in (3, 4, 5):
                checkpointer.save(iteration, replay)

    assert peak(lambda: checkpoint.save(tmp_path, 2, replay)) < 0.5
    assert 1 < peak(in_background) < 1.5


CHILD = """
import sys
import numpy as np
from purerl.training import checkpoint

state = {"x": np.random.default_rng(2).integers(0, 256, 10**8, np.uint8)}
with checkpoint.Checkpointer(sys.argv[1]) as checkpointer:
    checkpointer.save(2, state)
"""


def test_a_kill_during_a_save_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    folder = tmp_path
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        checkpoint.save(folder, 1, state())
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder)])
        while child.poll() is None and not any(path.is_file() for path in folder.glob("2.*/**/*")):
            time.sleep(0.005)
        child.kill()
        child.wait(60)
        if checkpoint.latest(folder) == 1:
            break  # else the child was faster than we
    assert any(folder.glob("2.*"))
    chex.assert_trees_all_equal(bits(checkpoint.restore(folder, 1, jax.eval_shape(state))), bits(state()))
    checkpoint.save(folder, 3, state())
    assert sorted(path.name for path in folder.iterdir()) == ["1", "3"]  # what was left is gone


def test_a_run_whose_save_failed_goes_on_from_the_checkpoint_before(tmp_path, monkeypatch, capsys):
    words = "train ppo CartPole-v1 --seeds 1 --total-steps 640 --num-envs 2 --rollout-length 16 --num-epochs 1"
    words += " --hidden-sizes 4 --log-every 1 --checkpoint-every 5 --eval-every 0 --eval-episodes 1 --out"
    run, timings, write = RunDirectory(tmp_path / "run"), [], checkpoint._write

    def fail_in_the_middle(directory: Path, iteration: int, *rest: Any) -> None:
        if iteration == 15:
            timings.append(run.timings())
            raise InputError("no space left")
        write(directory, iteration, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "_write", fail_in_the_middle)
        assert main([*words.split(), str(run.path)]) == 2
    assert capsys.readouterr().err == "purerl: error: no space left\n"
    assert checkpoint.latest(run.checkpoints) == 10
    assert run.rows()[-1]["iteration"] > 15
    assert run.timings() == timings[0]
    assert main(["train", "--resume", str(run.path)]) == 0
    assert [row["iteration"] for row in run.rows()] == list(range(1, 21))
    assert run.timings()["run_seconds"] > timings[0]["run_seconds"]
