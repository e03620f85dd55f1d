"""The command line where its surroundings are not those of a terminal on a developer's machine."""

import contextlib
import errno
import io
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from purerl import cli
from purerl.cli import main, output, plot, report
from purerl.cli.configure import configure
from purerl.cli.progress import PlainDisplay, Point, display
from purerl.cli.run_directory import RunDirectory
from purerl.cli.stopping import SIGNALS, StopRequests


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        ("| true; exit ${PIPESTATUS[0]}", 141, ""),
        (">&-", 0, ""),
        ("2>&-", 0, "purerl"),
        ("<&- >&- 2>&-", 0, ""),
        ("> /dev/full", 2, "cannot write the output: No space left on device"),
        ("> /dev/full 2> /dev/full", 2, ""),
    ],
)
def test_output_that_goes_nowhere(redirection: str, code: int, said: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = f"{shlex.quote(sys.executable)} -m purerl --version {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, env=environment)
    shown = done.stdout + done.stderr
    assert done.returncode == code
    assert said in shown
    assert shown.count("\n") == (1 if said else 0)


def test_no_file_of_a_run_gets_the_number_of_a_closed_stream() -> None:
    code = (
        "import os; from purerl.cli import output\nwith output.tolerant(): os._exit(os.open(os.devnull, os.O_RDONLY))"
    )
    done = subprocess.run(["bash", "-c", f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} <&- >&-"], timeout=60)
    assert done.returncode > 2


def test_a_pipe_that_must_not_block_is_waited_for() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    stream = output._Stream(writing, "w")
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    reader = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.buffer.read()"], stdin=reading)
    os.close(reading)
    assert stream.write(b"abc") == 3
    stream.close()
    assert reader.wait(timeout=60) == 0
    assert stream.failure is None


def test_a_reader_that_is_gone_is_a_request_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", output._text(pipe, writing, "replace"))
        with StopRequests() as stop:
            assert not stop.requested
            os.close(reading)
            print("one more line")
            assert stop.requested
            assert stop.exit_code == 141
        monkeypatch.undo()


@pytest.mark.parametrize("encoding", ["ascii", "koi8-u", "utf-8"])
def test_characters_that_cannot_be_shown(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding))
    with display(100, 0) as screen:
        screen.training()
        screen.update(Point(50, 1000.0, np.array([1.0, 2.0]), None))
    mark = "±" if encoding == "utf-8" else "?"
    assert f"return 1.5 {mark} 0.5" in content.getvalue().decode(encoding)


def test_plain_output_is_not_silent_between_log_points(monkeypatch: pytest.MonkeyPatch) -> None:
    now, lines = 0.0, []
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    screen = PlainDisplay(lines.append, 1000, 0)
    screen.training()
    for step in range(1, 30):
        now = 5.0 * step
        screen.progress(step, 0.2)
    assert [line.split()[0] for line in lines] == ["training", "12/1,000", "24/1,000"]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HOME": "{tmp}"}, "{tmp}/.cache/purerl/xla"),
        ({"HOME": "{tmp}", "XDG_CACHE_HOME": "{tmp}/own"}, "{tmp}/own/purerl/xla"),
        ({"HOME": "{tmp}", "XDG_CACHE_HOME": "relative"}, "{tmp}/.cache/purerl/xla"),
        ({"HOME": ""}, None),
        ({"HOME": "relative"}, None),
        ({"HOME": "/dev/null"}, None),
        ({}, None),
    ],
)
def test_compiled_programs_are_kept_where_there_is_a_place(
    variables: dict[str, str], expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp=tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)  # a user whom the system does not know
    folder = cli._cache_folder()
    assert folder == (None if expected is None else Path(expected.format(tmp=tmp_path)))
    assert not (tmp_path / "relative").exists()


@pytest.mark.parametrize(("columns", "kept"), [("0", None), ("", None), ("72", "72")])
def test_a_terminal_without_columns(columns: str, kept: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("MPLBACKEND", "")
    cli._settle_libraries()
    assert os.environ.get("COLUMNS") == kept


def test_printed_commands_can_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config, _, _ = configure("ppo", "CartPole-v1", [])
    for name in ("with  two spaces", "ünï %20#?:'q'", "$HOME;`ls`", "-dash"):
        with RunDirectory.begin(config, Path(name)) as run:
            pass
        command = report.stopped(run, 5).partition("continue with: ")[2]
        assert shlex.split(command) == ["purerl", "train", "--resume", name]
        # Nothing is trained yet, and so far everybody gets.
        for words in (["evaluate", name], ["evaluate", "--episodes", "3", name]):
            assert main(words) == 2
            assert f"{name} has no checkpoint yet" in capsys.readouterr().err
        assert main(["plot", name]) == 2
        assert f"{name} has no metrics yet" in capsys.readouterr().err
        assert main(["train", "--resume", name, "--total-steps", "5"]) == 2
        assert "--total-steps" in capsys.readouterr().err
        assert main(["train", "ppo", "CartPole-v1", f"--out={name}"]) == 2
        command = capsys.readouterr().err.partition("continue it with ")[2].partition(", replace")[0]
        assert shlex.split(command) == ["--resume", name]


def test_pictures_do_not_depend_on_the_users_style(tmp_path: Path) -> None:
    """LaTeX would choke on percent signs, where there is LaTeX at all; dollars and underscores mean something too."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    config, _, _ = configure("ppo", "CartPole-v1", [])
    runs = []
    for name in ("_first", "cost $5_$6_$"):
        with RunDirectory.begin(config, tmp_path / name) as run:
            run.append([{"iteration": i, "env_steps": i, "member": 0, "episode_return": 1.0} for i in (1, 2)])
        runs.append(str(run.path))
    environment = {**os.environ, "MPLBACKEND": "no such", "MATPLOTLIBRC": str(tmp_path), "MPLCONFIGDIR": "/dev/null"}
    command = [sys.executable, "-m", "purerl", "plot", *runs, "--out", "both.png"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "both.png\n", "")
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["both.png", "matplotlibrc"]


def test_a_picture_that_cannot_be_drawn_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    (tmp_path / "a.png").write_text("before")
    with pytest.raises(ValueError, match=r"a\.png: No space left"), plot.picture(tmp_path / "a.png", 1, 1):
        pass
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


def test_the_working_directory_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for words in ("train ppo CartPole-v1", "train ppo CartPole-v1 --out run"):
        assert main(words.split()) == 2
        assert "cannot write a run to r" in capsys.readouterr().err
    assert main(["evaluate", "run"]) == 2
    assert "no run in run" in capsys.readouterr().err
    monkeypatch.undo()


@pytest.fixture
def disposed() -> Iterator[None]:
    """Signals as in a process that was told nothing about them; pytest may be."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_requests_to_stop(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequests() as stop, pytest.raises(KeyboardInterrupt):  # nothing to save yet
        signal.raise_signal(number)
    with StopRequests() as stop:
        stop.deferred = True
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
        assert stop.exit_code == 128 + number
        signal.raise_signal(signal.SIGTERM)  # what is being saved is saved
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(number) == before


def test_signals_that_are_ignored_stay_ignored(disposed: None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as by nohup
    with StopRequests() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert not stop.requested
