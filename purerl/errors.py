"""Exception for invalid input of the user."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Invalid input; the message names the value, the reason and the remedy.

    Raised before anything compiles. The command line prints it as one line and exits with code 2.
    """


def unknown(kind: str, name: str, options: Iterable[str]) -> InputError:
    """Exception for a `name` that is not among `options`; its message suggests the most similar names.

    Args:
        kind: kind of thing that the name stands for, such as ``"environment"``.
        name: the name that was given.
        options: all valid names.
    """
    options = sorted(options)
    folded = {option.lower(): option for option in options}
    close = difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.5)
    if close:
        hint = "did you mean " + " or ".join(repr(folded[match]) for match in close) + "?"
    else:
        hint = "choose from " + ", ".join(options) if options else "there is nothing to choose from"
    return InputError(f"unknown {kind} {name!r}: {hint}")
