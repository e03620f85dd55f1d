"""Schedules of hyper-parameters as text: ``linear:START:END[:STEPS]`` or ``cosine:START:END[:STEPS]``.

STEPS are environment steps until END is reached, ``50%`` is half of the run, and left out they are the whole run. The
configuration of a run holds environment steps.
"""

from __future__ import annotations

import math
from typing import Any

from purerl.errors import InputError, unknown

KINDS = {"linear": "LinearSchedule", "cosine": "CosineSchedule"}
"""Name in a text to public class in `purerl`."""

NUMBERS = ("start", "end", "steps")
"""Numbers of a schedule, as fields of its class and in the order of the text."""

HELP = (
    "A NUMBER may be a schedule of environment steps: linear:START:END or cosine:START:END, with :STEPS or :PERCENT%."
)


def is_schedule(value: Any) -> bool:
    """Whether a value of a hyper-parameter is the text of a schedule."""
    return isinstance(value, str) and ":" in value


def parse(flag: str, text: str, within: str) -> str:
    """The text as it was given, once it is known to make sense.

    Args:
        flag: for messages.
        text: of a schedule.
        within: interval of allowed values.

    Raises:
        InputError: if it cannot be read, or a value is not allowed.
    """
    kind, *numbers = text.split(":")
    if kind not in KINDS:
        raise unknown(f"schedule in {flag}", kind, KINDS)
    if len(numbers) not in (2, 3):
        raise InputError(f"{flag} must look like {kind}:START:END or {kind}:START:END:STEPS, got {text!r}")
    for number in numbers[:2]:
        _check(flag, number, within)
    if len(numbers) == 3:
        _check(f"steps of {flag}", numbers[2].removesuffix("%"), "(0, inf)")
    return text


def with_steps(text: str, total_steps: int) -> str:
    """The text with its number of environment steps, in a run of `total_steps`."""
    kind, start, end, *steps = text.split(":")
    last = steps[0] if steps else "100%"
    number = float(last[:-1]) / 100.0 * total_steps if last.endswith("%") else float(last)
    return f"{kind}:{start}:{end}:{number:.9g}"


def build(text: str) -> Any:
    """The schedule that a text with steps describes.

    Raises:
        InputError: if there is no such kind.
    """
    import purerl

    kind, *numbers = text.split(":")
    if kind not in KINDS or len(numbers) != 3:
        raise InputError(f"{text!r} is not a schedule such as linear:0.01:0:500000")
    return getattr(purerl, KINDS[kind])(*map(float, numbers))


def text_of(schedule: Any) -> str | None:
    """The text of a schedule that has one, else None."""
    kind = next((kind for kind, name in KINDS.items() if type(schedule).__name__ == name), None)
    return None if kind is None else ":".join([kind, *(_exactly(getattr(schedule, name)) for name in NUMBERS)])


def _check(what: str, word: str, within: str) -> None:
    from purerl.struct import inside

    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{what} must be made of finite numbers, got {word!r}")
    if within and not inside(number, within):
        raise InputError(f"{what} must lie in {within}, got {word}")


def _exactly(number: float) -> str:
    """As few digits as read back to the same number."""
    return repr(float(number)).removesuffix(".0")
