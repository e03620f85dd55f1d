"""Training in several processes that share their devices: who begins, who writes, who waits."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from purerl.cli import flags
from purerl.cli.parser import parse_some
from purerl.cli.run_directory import RunDirectory
from purerl.errors import InputError

FLAGS = ("distributed", "coordinator", "num_processes", "process_id")
"""Flags that say which processes train. They are no part of a run: its results do not depend on them."""


def connect(words: Sequence[str]) -> bool:
    """Join the other processes if the flags ask for it; whether they do.

    Raises:
        InputError: if the flags are incomplete, or the processes do not find each other.
    """
    given = parse_some([flag for flag in flags.RUN.flags if flag.name in (*FLAGS, "out", "resume")], words)
    asked = [name for name in FLAGS if given.get(name, False) or (name in given and name != "distributed")]
    if not asked:
        return False
    if not given.keys() & {"out", "resume"}:
        raise InputError("--distributed needs --out DIR, which all processes can see")
    from purerl.training import hosts

    hosts.connect(given.get("coordinator"), given.get("num_processes"), given.get("process_id"))
    return True


@contextlib.contextmanager
def shared(begin: Callable[[], AbstractContextManager[RunDirectory]], path: Path | None) -> Iterator[RunDirectory]:
    """The directory of a run: process 0 claims it with `begin`; the others wait for that, and print nothing.

    Raises:
        InputError: if it cannot be claimed; in all processes.
    """
    from purerl.training import hosts

    with contextlib.ExitStack() as stack:
        if hosts.number() == 1:
            yield stack.enter_context(begin())
            return
        assert path is not None, "see `connect`"
        run, refusal = None, None
        if hosts.is_first():
            try:
                run = stack.enter_context(begin())
            except InputError as error:
                refusal = error
        ready = hosts.all_ready(refusal is None)
        if refusal is not None:
            raise refusal
        if not ready:
            raise InputError("process 0 could not begin the run: see its message")
        if run is None:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            run = RunDirectory.open(path)
        yield run


@contextlib.contextmanager
def files_of(run: RunDirectory) -> Iterator[RunDirectory]:
    """Where this process writes: the run itself in process 0, a directory that is thrown away in the others."""
    from purerl.training import hosts

    if hosts.is_first():
        yield run
        return
    with tempfile.TemporaryDirectory(prefix="purerl-") as folder:
        yield RunDirectory(Path(folder))
