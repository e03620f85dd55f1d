"""Atomic writing of files, with readable errors."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from purerl.errors import InputError


def replace(path: Path, content: bytes) -> None:
    """Replace a file atomically: readers, other writers and a killed process see the old or the new content, no part.

    Raises:
        InputError: if it cannot be written.
    """
    with writing(path):
        target = path.resolve()  # a symbolic link stays a link
        temporary = target.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Context that raises an `InputError` for errors of writing `path`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


def pasteable(path: Path) -> str:
    """Path quoted as one word of a shell command."""
    return shlex.quote(str(path))
