"""Standard output and error whose failures do not end a command: closed, full, no reader, or a limited encoding."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import Any


class _Stream(io.FileIO):
    """Output to a file descriptor. Failures are stored, not raised, and data that cannot be written is dropped."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write as much of `data` as the system accepts at once; returns the number of bytes."""
        try:
            while (count := super().write(data)) is None:  # a full pipe that another process made non-blocking
                select.select([], [self], [])
            return count
        except OSError as error:
            self.failure = self.failure or error
            return len(data)


@contextlib.contextmanager
def tolerant() -> Iterator[None]:
    """Context with standard output and error that never raise; see `failure`.

    Streams that were replaced before (by a notebook or a test) stay as they are.
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
    """First failure to write to standard output, or None."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if not isinstance(raw, _Stream):
        return None
    sys.stdout.flush()
    return raw.failure


def reader_is_gone() -> bool:
    """Whether standard output was a pipe whose other end is closed, as by ``head`` or by quitting a pager."""
    return isinstance(failure(), BrokenPipeError)


def replace_unknown_characters() -> None:
    """Write question marks for characters that the encoding of standard output does not have."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _open_standard_files() -> None:
    """Open closed descriptors among 0, 1 and 2, so that no file of the run gets one of these numbers."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number


def _text(before: Any, descriptor: int, errors: str) -> io.TextIOWrapper:
    """Text stream with the settings of `before`, which is None if the descriptor was closed."""
    if before is not None:
        before.flush()
    encoding = "utf-8" if before is None else before.encoding
    lines = before is not None and (before.line_buffering or before.write_through)
    raw = _Stream(descriptor, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=lines)
