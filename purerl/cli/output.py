"""Standard output and error that cannot end a command: closed, full, without a reader, or of a small encoding."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import Any


class _Stream(io.FileIO):
    """A file descriptor to write to. A failure is kept instead of raised, and what could not be written is dropped."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write `data`, as much of it as the system takes at once."""
        try:
            while (count := super().write(data)) is None:  # a full pipe that somebody else made non-blocking
                select.select([], [self], [])
            return count
        except OSError as error:
            self.failure = self.failure or error
            return len(data)


@contextlib.contextmanager
def tolerant() -> Iterator[None]:
    """Replace this process's own standard output and error by streams that never raise; see `failure`.

    Streams that others have put in place (a notebook, a test) stay as they are.
    """
    _open_standard_files()
    before = sys.stdout, sys.stderr
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(sys.stdout, 1, "replace")
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(sys.stderr, 2, "backslashreplace")
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def failure() -> OSError | None:
    """The first failure to write to standard output."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if not isinstance(raw, _Stream):
        return None
    sys.stdout.flush()
    return raw.failure


def reader_is_gone() -> bool:
    """Whether standard output was a pipe whose other end is closed, as by ``head`` or by quitting a pager."""
    return isinstance(failure(), BrokenPipeError)


def replace_unknown_characters() -> None:
    """Show a question mark for what the encoding of standard output lacks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _open_standard_files() -> None:
    """Open those of the descriptors 0, 1 and 2 that are closed, lest a file of the run gets one of them."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def _text(before: Any, descriptor: int, errors: str) -> io.TextIOWrapper:
    """A stream like `before`, which is None where the descriptor was closed."""
    if before is not None:
        before.flush()
    encoding = "utf-8" if before is None else before.encoding
    lines = before is not None and (before.line_buffering or before.write_through)
    raw = _Stream(descriptor, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=lines)
