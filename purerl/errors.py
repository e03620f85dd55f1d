"""The one exception that means "your input, not our bug"."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the caller asked for cannot be done; the message says what, why and what would work.

    Raised before anything compiles. The command line prints it as one line and exits with code 2.
    """


def unknown(kind: str, name: str, options: Iterable[str]) -> InputError:
    """An `InputError` for a `name` that is not among `options`, naming the nearest ones.

    Args:
        kind: what the name was meant to be, such as ``"environment"``.
        name: what was given.
        options: every valid name.
    """
    options = sorted(options)
    folded = {option.lower(): option for option in options}
    close = difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.5)
    if close:
        hint = "did you mean " + " or ".join(repr(folded[match]) for match in close) + "?"
    else:
        hint = "choose from " + ", ".join(options) if options else "there is nothing to choose from"
    return InputError(f"unknown {kind} {name!r}: {hint}")
