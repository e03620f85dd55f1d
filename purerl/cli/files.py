"""Files that appear whole or not at all, and the errors of writing them."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from purerl.errors import InputError


def replace(path: Path, content: bytes) -> None:
    """Write a file so that a reader, another writer or a kill finds old or new content and never a part.

    Raises:
        InputError: if it cannot be written.
    """
    with writing(path):
        target = path.resolve()  # where it is a link, the link stays
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
    """Turn the errors of writing `path` into an `InputError`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


def pasteable(path: Path) -> str:
    """`path` as one word of a shell command."""
    return shlex.quote(str(path))
