"""Values of ``--vary``: lists, even and geometric ranges, random draws."""

from __future__ import annotations

import dataclasses
import math
import zlib

from purerl.cli.parser import Flag
from purerl.errors import InputError

HELP = "1e-3,3e-4, lin:LOW:HIGH:N, log:LOW:HIGH:N, random:LOW:HIGH:N or random-log:LOW:HIGH:N"
"""What stands for the values in messages."""

_RANGES = ("lin", "log", "random", "random-log")


@dataclasses.dataclass(frozen=True)
class Values:
    """Values of one name.

    Attributes:
        values: in the order of the members.
        random: whether they are draws, which go together with the draws of other names, not in all combinations.
    """

    values: list[float]
    random: bool


def parse(flag: Flag, text: str, seed: int) -> Values:
    """Values that the text of a flag stands for.

    Args:
        flag: with the kind and the interval of a single value.
        text: a list ``A,B,...``, or ``KIND:LOW:HIGH:N`` (see `HELP`).
        seed: of the run; draws follow from it and the name of the flag.

    Raises:
        InputError: for anything else, values out of the interval, and fractions where whole numbers are needed.
    """
    kind, colon, rest = text.partition(":")
    if not colon or kind not in _RANGES:
        values = flag.parse(text.split(","))
        if len(set(values)) < len(values):
            raise InputError(f"--{flag.name} names a value twice: {text}")
        return Values(values, random=False)
    words = rest.split(":")
    try:
        low, high, number = float(words[0]), float(words[1]), int(words[2])
    except (ValueError, IndexError):
        raise InputError(f"--{flag.name} must look like {HELP}, got {text!r}") from None
    if len(words) != 3 or not 2 <= number <= 100_000 or not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"--{flag.name}: {kind} goes from a number to a greater one in 2 to 100000 values: {text!r}")
    if kind.endswith("log") and low <= 0.0:
        raise InputError(f"--{flag.name}: {kind} needs numbers above 0, got {text!r}")
    drawn = _draws if kind.startswith("random") else _evenly
    raw = drawn(low, high, number, flag, seed, logarithmic=kind.endswith("log"))
    if "int" in flag.kind:
        whole = [round(value) for value in raw]
        if not all(math.isclose(value, number, rel_tol=1e-9) for value, number in zip(raw, whole, strict=True)):
            shown = ", ".join(f"{value:g}" for value in raw)
            raise InputError(f"--{flag.name} needs whole numbers, and {text} gives {shown}: write them as a list")
        raw = whole
    values = flag.parse([repr(value) for value in raw])
    return Values(values, random=kind.startswith("random"))


def _evenly(low: float, high: float, number: int, flag: Flag, seed: int, *, logarithmic: bool) -> list[float]:
    """Evenly or geometrically spaced, with six digits between the bounds."""
    del flag, seed
    import numpy as np

    spaced = np.geomspace(low, high, number) if logarithmic else np.linspace(low, high, number)
    return [low, *(float(f"{value:.6g}") for value in spaced[1:-1]), high]


def _draws(low: float, high: float, number: int, flag: Flag, seed: int, *, logarithmic: bool) -> list[float]:
    """Independent draws, uniform or log-uniform; of whole numbers where the flag needs these."""
    import numpy as np

    generator = np.random.default_rng([seed, zlib.crc32(flag.name.encode())])
    edge = 0.5 if "int" in flag.kind else 0.0
    bounds = (max(low - edge, low / 2), high + edge) if logarithmic else (low - edge, high + edge)
    shares = generator.uniform(size=number)
    if logarithmic:
        values = np.exp(np.log(bounds[0]) + shares * (np.log(bounds[1]) - np.log(bounds[0])))
    else:
        values = bounds[0] + shares * (bounds[1] - bounds[0])
    if edge:
        return [float(value) for value in np.clip(np.rint(values), math.ceil(low), math.floor(high))]
    return [float(f"{value:.6g}") for value in values]
