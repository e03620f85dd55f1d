"""One directory belongs to one run, whoever begins at the same moment."""

import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from purerl.cli import run_directory
from purerl.cli.config import RunConfig
from purerl.cli.configure import configure
from purerl.cli.run_directory import RunDirectory
from purerl.errors import InputError

TOGETHER = 6


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return dataclasses.replace(configure("ppo", "CartPole-v1", ["--seed", "4"])[0], env="brax/ant")


def at_once(begin: Callable[[], Any]) -> list[Path | InputError]:
    """What became of some threads that `begin` a run at the same moment, and hold it until all have tried."""
    ready, tried = threading.Barrier(TOGETHER), threading.Barrier(TOGETHER)

    def attempt(number: int) -> Path | InputError:
        ready.wait()
        try:
            with begin() as run:
                (run.path / "metrics.jsonl").write_text(str(number))
                tried.wait()
                assert (run.path / "metrics.jsonl").read_text() == str(number)
                return run.path
        except InputError as error:
            tried.wait()
            return error

    with ThreadPoolExecutor(TOGETHER) as threads:
        return list(threads.map(attempt, range(TOGETHER)))


def test_new_runs_get_names_of_their_own(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stem = "runs/brax-ant-ppo-seed4"
    expected = {stem, *(f"{stem}-{number}" for number in range(2, TOGETHER + 1))}
    assert {str(path) for path in at_once(lambda: RunDirectory.begin(config))} == expected
    (tmp_path / f"{stem}-{TOGETHER + 1}").write_text("a file")
    with RunDirectory.begin(config) as run:
        assert str(run.path) == f"{stem}-{TOGETHER + 2}"


@pytest.mark.parametrize("there", ["nothing", "an empty directory", "a run"])
def test_one_of_several_gets_a_directory(there: str, config: RunConfig, tmp_path: Path) -> None:
    path = tmp_path / "run"
    if there == "an empty directory":
        path.mkdir()
    if there == "a run":
        with RunDirectory.begin(config, path) as run:
            (path / "metrics.jsonl").write_text("of the run before")
            run.checkpoints.mkdir()
    outcomes = at_once(lambda: RunDirectory.begin(config, path, overwrite=there == "a run"))
    assert sum(outcome == path for outcome in outcomes) == 1
    losers = [str(outcome) for outcome in outcomes if isinstance(outcome, InputError)]
    assert len(losers) == TOGETHER - 1
    assert all("another process" in loser or "already holds a run" in loser for loser in losers)
    assert not run_directory.RunDirectory(path).checkpoints.exists()


def test_what_was_free_is_looked_at_again_under_the_lock(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, locked = tmp_path / "run", RunDirectory.locked

    def late(run: RunDirectory) -> Any:
        """Another process begins and finishes its run between the look and the lock."""
        monkeypatch.setattr(RunDirectory, "locked", locked)
        with RunDirectory.begin(config, path):
            (path / "metrics.jsonl").write_text("the other's")
        return locked(run)

    monkeypatch.setattr(RunDirectory, "locked", late)
    with pytest.raises(InputError, match="already holds a run"), RunDirectory.begin(config, path):
        pass
    assert (path / "metrics.jsonl").read_text() == "the other's"


def test_replacing_half_a_run_leaves_a_run(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"
    with RunDirectory.begin(config, path) as run:
        run.checkpoints.mkdir()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_directory.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt), RunDirectory.begin(config, path, overwrite=True):
            pass
    with pytest.raises(InputError, match="already holds a run"), RunDirectory.begin(config, path):
        pass
    with RunDirectory.begin(config, path, overwrite=True):
        assert not run.checkpoints.exists()


def test_a_directory_that_was_only_claimed_is_free(config: RunConfig, tmp_path: Path) -> None:
    for trace in (".lock", ".config.json.17.part"):
        (tmp_path / trace).write_text("")
    with RunDirectory.begin(config, tmp_path) as run:
        assert run.config().env == config.env


def test_a_directory_that_cannot_be_locked(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(InputError, match="cannot write"), RunDirectory(tmp_path).locked():
        pass
